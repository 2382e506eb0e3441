//! Where packages stand, as far as it is known without asking a registry.

use chrono::TimeDelta;
use platform::clock;

use crate::{
    error::{CacheError, registry_type},
    model::{Artifact, Lock, Status, Wanted, standing},
    names::{Package, RegistryType},
    reference::OciReference,
    service::Cache,
    store,
};

/// What is known of one package of a server.
pub(crate) struct Standing {
    pub(crate) wanted: Wanted,
    pub(crate) status: Status,
    /// The platform, for an image.
    pub(crate) target: Option<String>,
    /// The exact version, when it is known.
    pub(crate) package: Option<Package>,
    pub(crate) files: Vec<Artifact>,
    /// What an install of it needs, and how many files of that are not here.
    pub(crate) lock: Option<(Lock, i64)>,
}

impl Standing {
    pub(crate) fn is_whole(&self, closure: bool) -> bool {
        let needs_closure = closure && self.package.as_ref().is_some_and(|package| package.registry().has_closure());
        self.status == Status::Cached && (!needs_closure || self.lock.as_ref().is_some_and(|(_, missing)| *missing == 0))
    }
}

impl Cache {
    pub(crate) async fn standings(&self, wanted: Vec<Wanted>) -> Result<Vec<Standing>, CacheError> {
        let mut standings = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let meant = self.meant(&wanted).await?;
            if meant.is_empty() {
                let (status, files) = (Status::NotCached, Vec::new());
                standings.push(Standing { wanted, status, target: None, package: None, files, lock: None });
                continue;
            }
            for (target, package) in meant {
                standings.push(self.standing(wanted.clone(), target, package).await?);
            }
        }
        Ok(standings)
    }

    /// Whether it is known which package is meant: by an exact version, or because a registry was asked lately,
    /// or cannot be.
    pub(crate) async fn is_settled(&self, wanted: &Wanted) -> Result<bool, CacheError> {
        let is_fixed = registry_type(&wanted.registry_type)? == RegistryType::Oci && OciReference::parse(&wanted.identifier)?.is_fixed();
        if is_fixed || exactly(wanted).is_some() || self.is_offline() {
            return Ok(true);
        }
        let since = clock::now() - TimeDelta::from_std(self.config().metadata_ttl).unwrap_or(TimeDelta::MAX);
        Ok(store::named_at(self.database().system(), wanted).await?.is_some_and(|at| at >= since))
    }

    /// The exact packages that are meant, as far as it is known without asking, with their targets.
    pub(crate) async fn meant(&self, wanted: &Wanted) -> Result<Vec<(String, Package)>, CacheError> {
        let named = store::named(self.database().system(), wanted).await?;
        if !named.is_empty() {
            return Ok(named);
        }
        Ok(exactly(wanted).map(|package| (String::new(), package)).into_iter().collect())
    }

    async fn standing(&self, wanted: Wanted, target: String, package: Package) -> Result<Standing, CacheError> {
        let pool = self.database().system();
        let files = store::files(pool, &package).await?;
        let lock = match store::lock(pool, &package, "").await? {
            Some(lock) => Some((lock, store::missing_of_lock(pool, &package).await?)),
            None => None,
        };
        let target = Some(target).filter(|target| !target.is_empty());
        Ok(Standing { wanted, status: standing(&package, &files), target, package: Some(package), files, lock })
    }
}

/// The package that is meant, where its version is an exact one.
fn exactly(wanted: &Wanted) -> Option<Package> {
    if let (Ok(RegistryType::Mcpb), Some(sha256)) = (registry_type(&wanted.registry_type), &wanted.sha256) {
        return Package::parse(RegistryType::Mcpb, &wanted.identifier, &format!("sha256:{}", sha256.to_ascii_lowercase())).ok();
    }
    Package::parse(registry_type(&wanted.registry_type).ok()?, &wanted.identifier, wanted.version.as_deref()?).ok()
}
