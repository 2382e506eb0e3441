use std::sync::Arc;

use futures_util::{FutureExt as _, future::BoxFuture};
use platform::config::Target;
use url::Url;

use super::{Fetcher, Offer, Planned, other};
use crate::{
    documents::{Ask, Documents, Name},
    error::CacheError,
    file_names::FileName,
    model::{Claimed, Facts, Wanted},
    names::{NpmName, NpmVersion, Package, RegistryType},
    npm::{Packument, Tarball},
    policy::Rules,
    signatures::Keys,
};

/// Tarballs of npm registries.
pub(super) struct Npm {
    pub(super) documents: Arc<Documents>,
    pub(super) rules: Arc<Rules>,
    pub(super) allow_sha1: bool,
    pub(super) allowed_hosts: Vec<String>,
}

impl Npm {
    async fn packages(&self, wanted: &Wanted, ask: Ask) -> Result<Vec<Package>, CacheError> {
        let name = NpmName::parse(&wanted.identifier)?;
        let said = self.documents.get(&Name::Npm(name.clone()), ask).await?;
        // An exact version is refused by name later, with the rule; a tag stands for a version that may come in.
        let is_exact = wanted.version.as_deref().is_some_and(|version| NpmVersion::parse(version).is_ok());
        let cutoff = self.rules.cutoff(RegistryType::Npm, name.as_str()).filter(|_| !is_exact);
        let packument = Packument::parse(&name, &said.text)?.published_before(cutoff)?;
        let version = packument.resolve(wanted.version.as_deref().unwrap_or("latest"))?;
        Ok(vec![Package::Npm(name, version)])
    }

    async fn tarball(&self, name: &NpmName, version: &NpmVersion, ask: Ask) -> Result<Offer, CacheError> {
        let registry = self.documents.sources.npm(name).await?.clone();
        let said = self.documents.get(&Name::Npm(name.clone()), ask).await?;
        let tarball = Packument::parse(name, &said.text)?.tarball(version, self.allow_sha1)?;
        let is_own = tarball.url.origin() == registry.url.origin();
        let named = tarball.url.host_str().unwrap_or_default();
        if !is_own && !self.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(named)) {
            return Err(CacheError::ForeignHost(named.to_owned()));
        }
        let signature = self.signature(name, version, &tarball, &registry.url).await;
        Ok(Offer {
            url: tarball.url,
            auth: registry.auth.filter(|_| is_own),
            accept: None,
            digest: tarball.digest,
            size: None,
            facts: Facts { published_at: tarball.published_at, signature, provenance: tarball.provenance },
        })
    }
}

impl Npm {
    /// What the registry's signature of a version is worth. Where its keys cannot be had, it was not checked.
    async fn signature(&self, name: &NpmName, version: &NpmVersion, tarball: &Tarball, registry: &Url) -> Claimed {
        if tarball.signatures.is_empty() {
            return Claimed::None;
        }
        let said = self.documents.get(&Name::NpmKeys(registry.clone()), Ask::IfOld).await;
        said.and_then(|said| Keys::parse(&said.text)).map_or(Claimed::Stated, |keys| keys.judge(name, version, tarball))
    }
}

impl Fetcher for Npm {
    fn exact<'a>(&'a self, wanted: &'a Wanted, _: &'a [Target], ask: Ask) -> BoxFuture<'a, Result<Vec<Package>, CacheError>> {
        self.packages(wanted, ask).boxed()
    }

    fn files<'a>(&'a self, package: &'a Package, _: &'a [Target]) -> BoxFuture<'a, Result<Vec<Planned>, CacheError>> {
        let Package::Npm(name, version) = package else { return other() };
        async move { Ok(vec![(FileName::tarball(name, version), None)]) }.boxed()
    }

    fn offer<'a>(&'a self, package: &'a Package, _: &'a FileName, ask: Ask) -> BoxFuture<'a, Result<Offer, CacheError>> {
        let Package::Npm(name, version) = package else { return other() };
        self.tarball(name, version, ask).boxed()
    }
}
