use std::sync::Arc;

use futures_util::{FutureExt as _, future::BoxFuture};
use platform::config::Target;

use super::{Fetcher, Offer, Planned, other};
use crate::{
    digest::Digest,
    documents::{Ask, Documents},
    error::CacheError,
    file_names::FileName,
    made::MADE_HERE,
    model::{Facts, Wanted},
    names::Package,
    reference::{BundleName, Pinned},
};

/// Bundles, which are files of releases; what they have to be stands in the server's document.
pub(super) struct Mcpb {
    pub(super) documents: Arc<Documents>,
    /// Where they may come from.
    pub(super) hosts: Vec<String>,
}

impl Mcpb {
    fn package(&self, wanted: &Wanted) -> Result<Vec<Package>, CacheError> {
        let name = BundleName::parse(&wanted.identifier)?;
        self.check(&name)?;
        let missing = || CacheError::Unverifiable("a bundle is known by its SHA-256 (fileSha256), and none is stated for this one".into());
        let sha256 = wanted.sha256.as_deref().ok_or_else(missing)?.to_ascii_lowercase();
        let pinned = Pinned::parse(&format!("sha256:{sha256}")).map_err(|_| missing())?;
        Ok(vec![Package::Mcpb(name, pinned)])
    }

    fn check(&self, name: &BundleName) -> Result<(), CacheError> {
        let host = name.host();
        let bare = host.split(':').next().unwrap_or_default();
        if host == MADE_HERE || self.hosts.iter().any(|known| known == host || known == bare) {
            Ok(())
        } else {
            Err(CacheError::BundleHost(host.to_owned()))
        }
    }

    fn file(&self, name: &BundleName, pinned: &Pinned) -> Result<Offer, CacheError> {
        self.check(name)?;
        if name.host() == MADE_HERE {
            return Err(CacheError::NotCached);
        }
        let scheme = if self.documents.realms.speaks_plain_http(name.host()) { "http" } else { "https" };
        let url = format!("{scheme}://{}", name.as_str()).parse().map_err(|_| CacheError::NotFound)?;
        Ok(Offer { url, auth: None, accept: None, digest: Digest::of_blob(pinned.blob()), size: None, facts: Facts::NONE })
    }
}

impl Fetcher for Mcpb {
    fn exact<'a>(&'a self, wanted: &'a Wanted, _: &'a [Target], _: Ask) -> BoxFuture<'a, Result<Vec<Package>, CacheError>> {
        std::future::ready(self.package(wanted)).boxed()
    }

    fn files<'a>(&'a self, package: &'a Package, _: &'a [Target]) -> BoxFuture<'a, Result<Vec<Planned>, CacheError>> {
        let Package::Mcpb(name, _) = package else { return other() };
        async move { Ok(vec![(FileName::parse(package, name.file())?, None)]) }.boxed()
    }

    fn offer<'a>(&'a self, package: &'a Package, _: &'a FileName, _: Ask) -> BoxFuture<'a, Result<Offer, CacheError>> {
        let Package::Mcpb(name, pinned) = package else { return other() };
        std::future::ready(self.file(name, pinned)).boxed()
    }
}
