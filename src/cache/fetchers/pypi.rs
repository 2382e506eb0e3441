use std::sync::Arc;

use futures_util::{FutureExt as _, future::BoxFuture};
use platform::config::Target;

use super::{Fetcher, Offer, Planned, other};
use crate::{
    digest::{Algorithm, Digest},
    documents::{Ask, Documents, Name},
    error::CacheError,
    file_names::{FileName, METADATA},
    model::{Claimed, Facts, Wanted},
    names::{Package, PypiName, PypiVersion, RegistryType},
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
        Ok(Offer { url, auth, accept: None, digest, size, facts: Facts { published_at, signature: Claimed::None, provenance } })
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

/// The files that an install on such machines may take: a wheel for every platform, else for each wanted version
/// of Python the wheels that installers prefer (those for older systems, too), else the source distribution
/// (whose bytes are kept; nothing is ever built).
fn installable<'a>(files: Vec<&'a File>, minors: &[u32], machines: &[&str]) -> Vec<&'a File> {
    let tags = |file: &File| file.distribution().and_then(|found| found.tags);
    let (wheels, sources): (Vec<&File>, Vec<&File>) = files.into_iter().partition(|file| tags(file).is_some());
    let universal = |[_, abi, platform]: [String; 3]| abi == "none" && platform == "any";
    let universal: Vec<&File> = wheels.iter().copied().filter(|file| tags(file).is_some_and(universal)).collect();
    if !universal.is_empty() {
        return universal;
    }
    let distance = |file: &File, minor| tags(file).and_then(|tags| distance(&tags, minor, machines));
    let nearest: Vec<Option<u32>> = minors.iter().map(|minor| wheels.iter().filter_map(|file| distance(file, *minor)).min()).collect();
    let is_preferred =
        |file: &&File| minors.iter().zip(&nearest).any(|(minor, nearest)| nearest.is_some() && distance(file, *minor) == *nearest);
    let preferred: Vec<&File> = wheels.iter().copied().filter(is_preferred).collect();
    if preferred.is_empty() { sources.into_iter().take(1).collect() } else { preferred }
}

/// How far a wheel (PEP 425) is from being made for this version of `CPython` 3, for Linux with the GNU C library
/// and for one of these processors; installers take the nearest. `None` where it does not run there.
fn distance([python, abi, platform]: &[String; 3], minor: u32, machines: &[&str]) -> Option<u32> {
    /// Farther than any version of Python.
    const ANY_PYTHON: u32 = 1000;
    let is_linux = |tag: &str| tag.starts_with("manylinux") || tag.starts_with("linux");
    let is_for_machine = |tag: &str| is_linux(tag) && machines.iter().any(|machine| tag.ends_with(machine));
    if platform != "any" && !platform.split('.').any(is_for_machine) {
        return None;
    }
    let version = |tag: &str| tag.strip_prefix("cp3").and_then(|minor| minor.parse::<u32>().ok());
    let of_tag = |tag: &str| match (version(tag), abi.as_str()) {
        (Some(own), abi) if own == minor && abi == tag => Some(0),
        // The stable ABI: this version and all later ones.
        (Some(oldest), "abi3") if oldest <= minor => Some(1 + minor - oldest),
        (Some(own), "none") if own <= minor => Some(ANY_PYTHON / 2 + minor - own),
        (None, "none") if tag.starts_with("py3") => Some(ANY_PYTHON),
        _ => None,
    };
    python.split('.').filter_map(of_tag).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> File {
        serde_json::from_value(serde_json::json!({ "name": name, "version": "1", "url": "https://x.example/", "sha256": "" })).unwrap()
    }

    #[test]
    fn the_wheels_are_taken_that_installers_prefer() {
        let chosen = |names: &[&str]| -> Vec<String> {
            let files: Vec<File> = names.iter().map(|name| file(name)).collect();
            installable(files.iter().collect(), &[11, 12], &["x86_64"]).into_iter().map(|file| file.name.clone()).collect()
        };
        let near = ["a-1-cp311-abi3-manylinux_2_28_x86_64.whl", "a-1-cp311-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"];
        let far = ["a-1-cp39-abi3-manylinux_2_28_x86_64.whl", "a-1-cp311-abi3-musllinux_1_2_x86_64.whl", "a-1-cp311-abi3-win_amd64.whl"];
        let other = ["a-1-pp311-pypy311_pp73-manylinux_2_17_x86_64.whl", "a-1-cp312-cp312t-manylinux_2_17_x86_64.whl", "a-1.tar.gz"];
        assert_eq!(chosen(&[&near[..], &far, &other].concat()), near);
        assert_eq!(chosen(&[&["a-1-py3-none-any.whl"][..], &near].concat()), ["a-1-py3-none-any.whl"]);
        let own = ["a-1-cp311-cp311-linux_x86_64.whl", "a-1-cp312-cp312-linux_x86_64.whl"];
        assert_eq!(chosen(&[&own[..], &near].concat()), own);
        assert_eq!(
            chosen(&["a-1-cp310-cp310-manylinux_2_17_x86_64.whl", "a-1-cp311-cp311-manylinux_2_17_aarch64.whl", "a-1.tar.gz"]),
            ["a-1.tar.gz"]
        );
        assert_eq!(chosen(&["a-1-py3-none-manylinux1_x86_64.whl", "a-1.tar.gz"]), ["a-1-py3-none-manylinux1_x86_64.whl"]);
    }
}
