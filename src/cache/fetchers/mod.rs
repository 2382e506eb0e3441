//! One fetcher for each type of registry: which exact package is meant, what it consists of, and where each
//! file of it comes from.

mod mcpb;
mod npm;
mod oci;
mod pypi;

use std::sync::Arc;

use futures_util::{FutureExt as _, future::BoxFuture};
use platform::{
    client::Client,
    config::{CacheConfig, Target},
};
use url::Url;

use crate::{
    digest::Digest,
    documents::{Ask, Documents},
    download::Auth,
    error::CacheError,
    file_names::FileName,
    model::{Facts, Wanted},
    names::{Package, RegistryType},
    policy::Rules,
};

/// The clients that fetch: documents are decompressed on the way, files stay what they are.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    pub(crate) documents: Client,
    pub(crate) files: Client,
}

/// Where a file comes from and what it has to be.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) url: Url,
    pub(crate) auth: Option<Auth>,
    pub(crate) accept: Option<&'static str>,
    pub(crate) digest: Digest,
    pub(crate) size: Option<u64>,
    pub(crate) facts: Facts,
}

/// A file of a package, and its size where that is known beforehand.
pub(crate) type Planned = (FileName, Option<u64>);

/// What the cache asks of a type of registry.
pub(crate) trait Fetcher: Send + Sync {
    /// The exact packages that are meant: one, or one for each target.
    fn exact<'a>(&'a self, wanted: &'a Wanted, targets: &'a [Target], ask: Ask) -> BoxFuture<'a, Result<Vec<Package>, CacheError>>;

    /// The files that a package is to consist of here.
    fn files<'a>(&'a self, package: &'a Package, targets: &'a [Target]) -> BoxFuture<'a, Result<Vec<Planned>, CacheError>>;

    /// Where a file comes from.
    fn offer<'a>(&'a self, package: &'a Package, file: &'a FileName, ask: Ask) -> BoxFuture<'a, Result<Offer, CacheError>>;
}

/// All of them.
pub(crate) struct Fetchers {
    npm: npm::Npm,
    pypi: pypi::Pypi,
    oci: oci::Oci,
    mcpb: mcpb::Mcpb,
}

impl Fetchers {
    pub(crate) fn new(documents: &Arc<Documents>, rules: &Arc<Rules>, config: &CacheConfig, allowed_hosts: &[String]) -> Self {
        let (documents, rules) = (|| Arc::clone(documents), || Arc::clone(rules));
        Self {
            npm: npm::Npm { documents: documents(), rules: rules(), allow_sha1: config.allow_sha1, allowed_hosts: allowed_hosts.to_vec() },
            pypi: pypi::Pypi { documents: documents(), rules: rules(), python_minors: config.python_minors.clone() },
            oci: oci::Oci { documents: documents() },
            mcpb: mcpb::Mcpb {
                documents: documents(),
                hosts: config.bundle_hosts.iter().chain(allowed_hosts).map(|host| host.to_ascii_lowercase()).collect(),
            },
        }
    }

    pub(crate) fn of(&self, registry: RegistryType) -> &dyn Fetcher {
        match registry {
            RegistryType::Npm => &self.npm,
            RegistryType::Pypi => &self.pypi,
            RegistryType::Oci => &self.oci,
            RegistryType::Mcpb => &self.mcpb,
        }
    }
}

/// Of a package of another registry there is nothing here.
fn other<'a, T: Send + 'a>() -> BoxFuture<'a, Result<T, CacheError>> {
    std::future::ready(Err(CacheError::NotFound)).boxed()
}
