//! Which files a package consists of here, and bringing them in, with what they need.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jobs::{Context, Progress};
use platform::{clock, config::Target, database::DbError};

use crate::{
    closure,
    documents::Ask,
    error::{CacheError, registry_type},
    file_names::FileName,
    model::{Lock, Locked, LockedFile, Wanted},
    names::{Package, RegistryType},
    oci::Image,
    reference::{OciName, Pinned},
    service::Cache,
    store,
};

/// How many packages of a closure come in at once.
const AT_ONCE: usize = 16;
/// How many files of one package come in at once.
const FILES_AT_ONCE: usize = 4;

impl Cache {
    /// The exact packages that are meant: by version, by tag, or by neither; one for each target of an image.
    pub(crate) async fn exact(&self, wanted: &Wanted, targets: &[Target]) -> Result<Vec<Package>, CacheError> {
        let registry = registry_type(&wanted.registry_type)?;
        let mut all = Vec::new();
        for target in targets.chunks(if registry == RegistryType::Oci { 1 } else { targets.len().max(1) }) {
            let fetcher = self.fetchers().of(registry);
            let packages = match fetcher.exact(wanted, target, Ask::IfOld).await {
                Err(CacheError::NoVersion) => fetcher.exact(wanted, target, Ask::Again).await,
                exact => exact,
            }?;
            let target = target.first().filter(|_| registry == RegistryType::Oci).map(ToString::to_string).unwrap_or_default();
            for package in packages {
                self.name(wanted, &target, &package).await?;
                all.push(package);
            }
        }
        all.dedup();
        Ok(all)
    }

    /// Notes what a package is called, so that whoever calls it so finds out where it stands.
    async fn name(&self, wanted: &Wanted, target: &str, package: &Package) -> Result<(), CacheError> {
        // The digest of a bundle stands beside its name.
        if let Package::Mcpb(..) = package {
            return Ok(());
        }
        let mut transaction = self.database().begin_system().await?;
        store::keep_name(&mut transaction, wanted, target, package, clock::now()).await?;
        self.artifacts().mark_in(&mut transaction, package).await?;
        transaction.commit().await.map_err(DbError::from)?;
        Ok(())
    }

    /// The files that a package is to consist of here; noted before the first of them comes in. What was asked
    /// for on purpose makes room for nothing else.
    async fn plan(&self, package: &Package, targets: &[Target]) -> Result<Vec<FileName>, CacheError> {
        let files = self.fetchers().of(package.registry()).files(package, targets).await?;
        let rows: Vec<(String, Option<i64>)> =
            files.iter().map(|(file, size)| (file.as_str().to_owned(), size.and_then(|size| i64::try_from(size).ok()))).collect();
        store::plan(self.database().system(), package, &rows, true).await?;
        Ok(files.into_iter().map(|(file, _)| file).collect())
    }

    /// Notes the parts of an image whose manifest a client took: it asks for them by digest alone.
    pub(crate) async fn note_parts(&self, name: &OciName, manifest: &Pinned, image: &Image, length: usize) -> Result<(), CacheError> {
        let package = Package::Oci(name.clone(), manifest.clone());
        let size = |size: u64| i64::try_from(size).ok();
        let own = (manifest.as_str().to_owned(), size(length as u64));
        let parts = image.parts().into_iter().map(|part| (part.digest.as_str().to_owned(), size(part.size)));
        let rows: Vec<(String, Option<i64>)> = std::iter::once(own).chain(parts).collect();
        if store::files(self.database().system(), &package).await?.len() < rows.len() {
            store::plan(self.database().system(), &package, &rows, false).await?;
        }
        Ok(())
    }

    /// The image that a part is known to belong to.
    pub(crate) async fn image_of(&self, name: &OciName, part: &Pinned) -> Result<Option<Pinned>, CacheError> {
        let asked = (name.clone(), part.clone());
        if let Some(known) = self.images().get(&asked).await {
            return Ok(Some(known));
        }
        let version = store::image_of(self.database().system(), name.as_str(), part.as_str()).await?;
        let image = version.as_deref().map(Pinned::parse).transpose()?;
        if let Some(image) = &image {
            self.images().insert(asked, image.clone()).await;
        }
        Ok(image)
    }

    /// Brings a package in, verified.
    pub(crate) async fn bring(&self, package: &Package, targets: &[Target]) -> Result<Locked, CacheError> {
        let files = self.plan(package, targets).await?;
        let one = |name: FileName| async move {
            let held = self.file(&(package.clone(), name.clone()), true).await?;
            Ok::<_, CacheError>(LockedFile { name: name.as_str().to_owned(), sha256: held.blob.hex(), size: held.size })
        };
        let files = stream::iter(files.into_iter().map(one)).buffered(FILES_AT_ONCE).try_collect().await?;
        Ok(Locked { name: package.name().to_owned(), version: package.version().to_owned(), files, places: Vec::new() })
    }

    /// Brings in what an install of a package needs, under further constraints where there are any: by its lock, which is
    /// made the first time.
    pub(crate) async fn bring_closure(
        &self,
        package: &Package,
        constraints: &str,
        targets: &[Target],
        context: Option<&Context>,
    ) -> Result<Lock, CacheError> {
        let known = store::lock(self.database().system(), package, constraints).await?;
        let tell = |done: usize, total: usize| {
            let message = format!("what {} {} needs", package.registry(), package.name());
            let Some(context) = context else { return };
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
        let closure = closure::resolve(self, package, constraints, work.path()).await?;
        let (members, places): (Vec<_>, Vec<_>) =
            closure.packages.into_iter().map(|(member, places)| ((member.name, member.version), places)).unzip();
        let mut packages = self.bring_all(package.registry(), members, targets, &tell).await?;
        for (locked, places) in packages.iter_mut().zip(places) {
            locked.places = places;
        }
        let lock = Lock { packages, resolver: closure.resolver.to_owned(), created_at: clock::now() };
        store::keep_lock(self.database().system(), package, constraints, &lock).await?;
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
        targets: &[Target],
        tell: &(dyn Fn(usize, usize) + Send + Sync),
    ) -> Result<Vec<Locked>, CacheError> {
        let (total, mut bytes) = (members.len(), 0);
        let one = |(name, version): (String, String)| async move { self.bring(&Package::parse(registry, &name, &version)?, targets).await };
        let mut coming = stream::iter(members.into_iter().map(one)).buffered(AT_ONCE);
        let mut packages = Vec::with_capacity(total);
        while let Some(locked) = coming.try_next().await? {
            bytes += locked.files.iter().map(|file| file.size).sum::<u64>();
            self.rules().check_size(bytes)?;
            packages.push(locked);
            tell(packages.len(), total);
        }
        Ok(packages)
    }
}
