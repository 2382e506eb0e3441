//! Which files a package consists of here, and bringing them in, with what they need.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jobs::{Context, Progress};
use platform::clock;

use crate::{
    closure,
    documents::Ask,
    error::{CacheError, registry_type},
    model::{Lock, Locked, LockedFile, Wanted},
    names::{FileName, METADATA, NpmName, Package, PypiName, RegistryType},
    npm::Packument,
    pypi::File,
    service::Cache,
    store,
};

/// How many packages of a closure come in at once.
const AT_ONCE: usize = 8;

impl Cache {
    /// The exact version of a package that is asked for by version, by tag, or not at all.
    pub(crate) async fn exact(&self, wanted: &Wanted) -> Result<Package, CacheError> {
        match self.exact_as_of(wanted, Ask::IfOld).await {
            Err(CacheError::NoVersion) => self.exact_as_of(wanted, Ask::Again).await,
            exact => exact,
        }
    }

    async fn exact_as_of(&self, wanted: &Wanted, ask: Ask) -> Result<Package, CacheError> {
        match registry_type(&wanted.registry_type)? {
            RegistryType::Npm => {
                let name = NpmName::parse(&wanted.identifier)?;
                let said = self.packument(&name, ask).await?;
                let version = Packument::parse(&name, &said.text)?.resolve(wanted.version.as_deref().unwrap_or("latest"))?;
                Ok(Package::Npm(name, version))
            }
            RegistryType::Pypi => {
                let name = PypiName::parse(&wanted.identifier)?;
                let (_, project) = self.project(&name, ask).await?;
                let version = project.resolve(wanted.version.as_deref()).ok_or(CacheError::NoVersion)?;
                Ok(Package::Pypi(name, version))
            }
        }
    }

    /// The files of a package that are to be here.
    async fn files_of(&self, package: &Package) -> Result<Vec<FileName>, CacheError> {
        match package {
            Package::Npm(name, version) => Ok(vec![FileName::tarball(name, version)]),
            Package::Pypi(name, version) => {
                let (_, project) = self.project(name, Ask::IfOld).await?;
                let mut files = Vec::new();
                for file in installable(project.of_version(version).collect(), &self.config().python_minors) {
                    files.push(FileName::parse(package, &file.name)?);
                    if file.metadata_sha256.is_some() {
                        files.push(FileName::parse(package, &format!("{}{METADATA}", file.name))?);
                    }
                }
                if files.is_empty() { Err(CacheError::NoVersion) } else { Ok(files) }
            }
        }
    }

    /// Brings a package in, verified.
    pub(crate) async fn bring(&self, package: &Package) -> Result<Locked, CacheError> {
        let mut files = Vec::new();
        for name in self.files_of(package).await? {
            let held = self.file(&(package.clone(), name.clone()), true).await?;
            files.push(LockedFile { name: name.as_str().to_owned(), sha256: held.blob.hex(), size: held.size });
        }
        Ok(Locked { name: package.name().to_owned(), version: package.version().to_owned(), files })
    }

    /// Brings in what an install of a package needs: by its lock, which is made the first time.
    pub(crate) async fn bring_closure(&self, package: &Package, context: &Context) -> Result<Lock, CacheError> {
        let known = store::lock(self.database().system(), package).await?;
        let tell = |done: usize, total: usize| {
            let message = format!("what {} {} needs", package.registry(), package.name());
            context.progress(Progress { done: done as u64, total: Some(total as u64), unit: "packages".into(), message });
        };
        if let Some(lock) = known {
            for (position, locked) in lock.packages.iter().enumerate() {
                self.bring_locked(package.registry(), locked).await?;
                tell(position + 1, lock.packages.len());
            }
            return Ok(lock);
        }
        let work = self.blobs().workplace().await?;
        let closure = closure::resolve(self, package, work.path()).await?;
        let members = closure.packages.into_iter().map(|member| (member.name, member.version)).collect();
        let packages = self.bring_all(package.registry(), members, &tell).await?;
        let lock = Lock { packages, resolver: closure.resolver.to_owned(), created_at: clock::now() };
        store::keep_lock(self.database().system(), package, &lock).await?;
        Ok(lock)
    }

    /// Brings in exactly the files of a lock.
    async fn bring_locked(&self, registry: RegistryType, locked: &Locked) -> Result<(), CacheError> {
        let package = Package::parse(registry, &locked.name, &locked.version)?;
        for file in &locked.files {
            let held = self.file(&(package.clone(), FileName::parse(&package, &file.name)?), true).await?;
            if held.blob.hex() != file.sha256 {
                return Err(CacheError::LockBroken(format!("{} of {package}", file.name)));
            }
        }
        Ok(())
    }

    /// Brings packages in, some at once, and gives them in the same order.
    async fn bring_all(
        &self,
        registry: RegistryType,
        members: Vec<(String, String)>,
        tell: &(dyn Fn(usize, usize) + Send + Sync),
    ) -> Result<Vec<Locked>, CacheError> {
        let total = members.len();
        let one = |(name, version): (String, String)| async move { self.bring(&Package::parse(registry, &name, &version)?).await };
        let mut coming = stream::iter(members.into_iter().map(one)).buffered(AT_ONCE);
        let mut packages = Vec::with_capacity(total);
        while let Some(locked) = coming.try_next().await? {
            packages.push(locked);
            tell(packages.len(), total);
        }
        Ok(packages)
    }
}

/// The files that an install on this kind of machine may take: a wheel for every platform, else the wheels
/// for the wanted versions of Python, else the source distribution (whose bytes are kept; nothing is ever
/// built).
fn installable<'a>(files: Vec<&'a File>, minors: &[u32]) -> Vec<&'a File> {
    let tags = |file: &File| file.distribution().and_then(|found| found.tags);
    let (wheels, sources): (Vec<&File>, Vec<&File>) = files.into_iter().partition(|file| tags(file).is_some());
    let universal = |[_, abi, platform]: [String; 3]| abi == "none" && platform == "any";
    let universal: Vec<&File> = wheels.iter().copied().filter(|file| tags(file).is_some_and(universal)).collect();
    if !universal.is_empty() {
        return universal;
    }
    let fitting: Vec<&File> = wheels.into_iter().filter(|file| tags(file).is_some_and(|tags| fits(&tags, minors))).collect();
    if fitting.is_empty() { sources.into_iter().take(1).collect() } else { fitting }
}

/// Whether a wheel (PEP 425) runs on Linux with the GNU C library, this processor, and one of these
/// versions of `CPython` 3.
fn fits([python, abi, platform]: &[String; 3], minors: &[u32]) -> bool {
    let is_for_here =
        platform.split('.').any(|tag| (tag.starts_with("manylinux") || tag.starts_with("linux")) && tag.ends_with(std::env::consts::ARCH))
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
        let fits = |python: &str, abi: &str, platform: &str| fits(&[python, abi, platform].map(str::to_owned), &[11, 12]);
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
