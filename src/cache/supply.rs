//! What an install takes from the cache: a package and everything that it needs, as verified files.

use std::path::PathBuf;

use jobs::{Context, LogLevel};
use platform::config::Target;

use crate::{
    digest::BlobId,
    error::{CacheError, registry_type},
    file_names::METADATA,
    model::{Lock, Locked, Wanted},
    names::{NpmName, Package, PypiName, RegistryType},
    reference::{BundleName, OciReference},
    service::Cache,
};

/// A package with everything that an install of it here takes.
#[derive(Clone, Debug)]
pub struct Supply {
    /// Its type.
    pub registry: RegistryType,
    /// Its name, as its registry writes it.
    pub name: String,
    /// The exact version; the digest of an image.
    pub version: String,
    /// All files, its own among them, ordered by package.
    pub parts: Vec<Part>,
}

/// One verified file.
#[derive(Clone, Debug)]
pub struct Part {
    /// Of which package.
    pub name: String,
    /// Of which version of it.
    pub version: String,
    /// What its registry calls it.
    pub file_name: String,
    /// Of its bytes, hexadecimal.
    pub sha256: String,
    /// Where the bytes lie; never to be changed.
    pub path: PathBuf,
    /// The folders into which an install of npm puts it.
    pub places: Vec<String>,
}

impl Cache {
    /// Brings in what an install of a package takes, where it is not here, and gives it. As a part of a job, it tells
    /// there how far it is.
    ///
    /// `constraints` are further ones on what it needs, as pip reads them (`mcp<2`); empty for none.
    pub async fn supply(&self, wanted: &Wanted, constraints: &str, context: Option<&Context>) -> Result<Supply, CacheError> {
        let targets = [Target::here()];
        let found = self.exact(wanted, &targets).await?;
        let package = found.into_iter().next().ok_or(CacheError::NoVersion)?;
        let own = self.bring(&package, &targets).await?;
        let say = async |text: String| {
            if let Some(context) = context {
                context.log(LogLevel::Info, text).await;
            }
        };
        say(format!("{package} is cached and verified")).await;
        let packages = if package.registry().has_closure() {
            let Lock { packages, resolver, .. } = self.bring_closure(&package, constraints, &targets, context).await?;
            let count = packages.len();
            say(format!("what it needs is cached and verified: {count} packages, chosen by {resolver}")).await;
            packages
        } else {
            vec![own]
        };
        self.supply_of(&package, packages)
    }

    /// Brings in a package by itself, without what it needs, and gives it.
    pub async fn package_alone(&self, wanted: &Wanted) -> Result<Supply, CacheError> {
        let targets = [Target::here()];
        let found = self.exact(wanted, &targets).await?;
        let package = found.into_iter().next().ok_or(CacheError::NoVersion)?;
        let own = self.bring(&package, &targets).await?;
        self.supply_of(&package, vec![own])
    }

    /// The exact version that is meant now; the registry is asked where what is known is old.
    pub async fn newest(&self, wanted: &Wanted) -> Result<String, CacheError> {
        let found = self.exact(wanted, &[Target::here()]).await?;
        found.first().map(|package| package.version().to_owned()).ok_or(CacheError::NoVersion)
    }

    fn supply_of(&self, package: &Package, packages: Vec<Locked>) -> Result<Supply, CacheError> {
        let mut parts = Vec::with_capacity(packages.len());
        for Locked { name, version, files, places } in packages {
            for file in files.into_iter().filter(|file| !file.name.ends_with(METADATA)) {
                let blob = BlobId::from_hex(&file.sha256).ok_or_else(|| CacheError::LockBroken(name.clone()))?;
                let (name, version, places) = (name.clone(), version.clone(), places.clone());
                parts.push(Part { name, version, file_name: file.name, path: self.blobs().path(&blob), sha256: file.sha256, places });
            }
        }
        let (name, version) = (package.name().to_owned(), package.version().to_owned());
        Ok(Supply { registry: package.registry(), name, version, parts })
    }

    /// A package that is named, in the spelling of its registry; fails where no package can have that name.
    pub fn spelling(wanted: &Wanted) -> Result<(RegistryType, String), CacheError> {
        let registry = registry_type(&wanted.registry_type)?;
        let name = match registry {
            RegistryType::Npm => NpmName::parse(&wanted.identifier)?.as_str().to_owned(),
            RegistryType::Pypi => PypiName::parse(&wanted.identifier)?.as_str().to_owned(),
            RegistryType::Oci => OciReference::parse(&wanted.identifier)?.name.as_str().to_owned(),
            RegistryType::Mcpb => BundleName::parse(&wanted.identifier)?.as_str().to_owned(),
        };
        Ok((registry, name))
    }
}
