use std::sync::Arc;

use futures_util::{FutureExt as _, future::BoxFuture};
use platform::config::Target;

use super::{Fetcher, Offer, Planned, npm::other};
use crate::{
    digest::{Algorithm, Digest},
    documents::{Ask, Documents, Name},
    error::CacheError,
    model::{Claimed, Wanted},
    names::{FileName, METADATA, Package, PypiName, PypiVersion, RegistryType},
    policy::Rules,
    pypi::File,
};

/// Wheels and source distributions of Python package indexes.
pub(super) struct Pypi {
    pub(super) documents: Arc<Documents>,
    pub(super) rules: Arc<Rules>,
    pub(super) python_minors: Vec<u32>,
}

impl Pypi {
    async fn packages(&self, wanted: &Wanted, ask: Ask) -> Result<Vec<Package>, CacheError> {
        let name = PypiName::parse(&wanted.identifier)?;
        let cutoff = self.rules.cutoff(RegistryType::Pypi, name.as_str()).filter(|_| wanted.version.is_none());
        let project = self.documents.get(&Name::Pypi(name.clone()), ask).await?.project()?.published_before(cutoff);
        let version = project.resolve(wanted.version.as_deref()).ok_or(CacheError::NoVersion)?;
        Ok(vec![Package::Pypi(name, version)])
    }

    async fn plan(
        &self,
        package: &Package,
        name: &PypiName,
        version: &PypiVersion,
        targets: &[Target],
    ) -> Result<Vec<Planned>, CacheError> {
        let project = self.documents.get(&Name::Pypi(name.clone()), Ask::IfOld).await?.project()?;
        let machines: Vec<&str> = targets.iter().filter(|target| target.os == "linux").map(Target::machine).collect();
        let mut files = Vec::new();
        for file in installable(project.of_version(version).collect(), &self.python_minors, &machines) {
            files.push((FileName::parse(package, &file.name)?, file.size));
            if file.metadata_sha256.is_some() {
                files.push((FileName::parse(package, &format!("{}{METADATA}", file.name))?, None));
            }
        }
        if files.is_empty() { Err(CacheError::NoVersion) } else { Ok(files) }
    }

    async fn file(&self, name: &PypiName, file: &FileName, ask: Ask) -> Result<Offer, CacheError> {
        let registry = self.documents.sources.pypi().await?.clone();
        let project = self.documents.get(&Name::Pypi(name.clone()), ask).await?.project()?;
        let name = file.wheel().unwrap_or(file.as_str());
        let found = project.files.into_iter().find(|found| found.name == name).ok_or(CacheError::NoVersion)?;
        // Files of an index usually lie at another host; they are named by their SHA-256.
        let is_own = found.url.origin() == registry.url.origin();
        if !is_own && found.url.scheme() != "https" {
            return Err(CacheError::ForeignHost(found.url.host_str().unwrap_or_default().to_owned()));
        }
        let unverifiable = || CacheError::Unverifiable("the index states no SHA-256 for this file".into());
        let published_at = found.published_at();
        let provenance = if found.provenance.is_some() { Claimed::Stated } else { Claimed::None };
        let (url, digest, size) = if file.wheel().is_none() {
            let digest = found.digest().ok_or_else(unverifiable)?;
            (found.url, digest, found.size)
        } else {
            let stated = found.metadata_sha256.as_deref().ok_or(CacheError::NoVersion)?;
            let digest = Digest::from_hex(Algorithm::Sha256, stated).ok_or_else(unverifiable)?;
            let mut url = found.url;
            url.set_path(&format!("{}{METADATA}", url.path()));
            (url, digest, None)
        };
        let auth = registry.auth.filter(|_| is_own);
        Ok(Offer { url, auth, accept: None, digest, size, published_at, signature: Claimed::None, provenance })
    }
}

impl Fetcher for Pypi {
    fn exact<'a>(&'a self, wanted: &'a Wanted, _: &'a [Target], ask: Ask) -> BoxFuture<'a, Result<Vec<Package>, CacheError>> {
        self.packages(wanted, ask).boxed()
    }

    fn files<'a>(&'a self, package: &'a Package, targets: &'a [Target]) -> BoxFuture<'a, Result<Vec<Planned>, CacheError>> {
        let Package::Pypi(name, version) = package else { return other() };
        self.plan(package, name, version, targets).boxed()
    }

    fn offer<'a>(&'a self, package: &'a Package, file: &'a FileName, ask: Ask) -> BoxFuture<'a, Result<Offer, CacheError>> {
        let Package::Pypi(name, _) = package else { return other() };
        self.file(name, file, ask).boxed()
    }
}

/// The files that an install on such machines may take: a wheel for every platform, else the wheels
/// for the wanted versions of Python, else the source distribution (whose bytes are kept; nothing is ever
/// built).
fn installable<'a>(files: Vec<&'a File>, minors: &[u32], machines: &[&str]) -> Vec<&'a File> {
    let tags = |file: &File| file.distribution().and_then(|found| found.tags);
    let (wheels, sources): (Vec<&File>, Vec<&File>) = files.into_iter().partition(|file| tags(file).is_some());
    let universal = |[_, abi, platform]: [String; 3]| abi == "none" && platform == "any";
    let universal: Vec<&File> = wheels.iter().copied().filter(|file| tags(file).is_some_and(universal)).collect();
    if !universal.is_empty() {
        return universal;
    }
    let fitting: Vec<&File> = wheels.into_iter().filter(|file| tags(file).is_some_and(|tags| fits(&tags, minors, machines))).collect();
    if fitting.is_empty() { sources.into_iter().take(1).collect() } else { fitting }
}

/// Whether a wheel (PEP 425) runs on Linux with the GNU C library, one of these processors, and one
/// of these versions of `CPython` 3.
fn fits([python, abi, platform]: &[String; 3], minors: &[u32], machines: &[&str]) -> bool {
    let is_for_here = platform
        .split('.')
        .any(|tag| (tag.starts_with("manylinux") || tag.starts_with("linux")) && machines.iter().any(|machine| tag.ends_with(machine)))
        || platform == "any";
    let minor = |tag: &str| tag.strip_prefix("cp3").and_then(|minor| minor.parse::<u32>().ok());
    let is_for_python = python.split('.').any(|tag| match (minor(tag), abi.as_str()) {
        // The stable ABI: this version and all later ones.
        (Some(oldest), "abi3") => minors.iter().any(|minor| *minor >= oldest),
        (Some(own), abi) => minors.contains(&own) && (abi == tag || abi == "none"),
        (None, abi) => tag.starts_with("py3") && abi == "none",
    });
    is_for_here && is_for_python
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wheels_fit_by_python_abi_and_platform() {
        let arch = std::env::consts::ARCH;
        let fits = |python: &str, abi: &str, platform: &str| fits(&[python, abi, platform].map(str::to_owned), &[11, 12], &[arch]);
        for (python, abi, platform) in [
            ("cp311", "cp311", format!("manylinux_2_17_{arch}.manylinux2014_{arch}")),
            ("cp39", "abi3", format!("manylinux_2_28_{arch}")),
            ("py3", "none", format!("manylinux1_{arch}")),
            ("cp312", "none", "any".to_owned()),
        ] {
            assert!(fits(python, abi, &platform), "{python}-{abi}-{platform}");
        }
        for (python, abi, platform) in [
            ("cp310", "cp310", format!("manylinux_2_17_{arch}")),
            ("cp313", "abi3", format!("manylinux_2_17_{arch}")),
            ("cp312", "cp312t", format!("manylinux_2_17_{arch}")),
            ("pp311", "pypy311_pp73", format!("manylinux_2_17_{arch}")),
            ("cp311", "cp311", format!("musllinux_1_2_{arch}")),
            ("cp311", "cp311", "win_amd64".to_owned()),
            ("cp311", "cp311", "manylinux_2_17_s390x".to_owned()),
        ] {
            assert!(!fits(python, abi, &platform), "{python}-{abi}-{platform}");
        }
    }
}
