use std::collections::BTreeSet;

use async_stream::try_stream;
use audit::{EventType, NewEvent};
use bytes::Bytes;
use chrono::Utc;
use futures_util::Stream;
use platform::{Action, Actor, clock};
use servers::ServersError;
use tokio::io::AsyncReadExt as _;

use super::{
    ArchiveError, BLOBS, BLOCK, Carried, CarriedFile, CarriedLock, ExportOrder, FORMAT, MANIFEST, Manifest, SIGNATURE, SigningKey,
};
use crate::{
    blobs::Blobs,
    digest::BlobId,
    error::CacheError,
    model::{Listed, Status, Whole},
    names::Package,
    service::Cache,
    store,
};

const CHUNK: usize = 128 << 10;

impl Cache {
    /// An archive of packages, as it is sent.
    pub(crate) async fn export(
        &self,
        actor: &Actor,
        order: &ExportOrder,
    ) -> Result<impl Stream<Item = Result<Bytes, std::io::Error>> + use<>, CacheError> {
        actor.require(Action::CacheManage)?;
        // Of everything, what is here completely.
        let packages = if order.all { self.all_packages().await? } else { self.packages_of(actor, &order.servers).await? };
        let manifest = self.manifest_of(packages).await?;
        let event = NewEvent::new(EventType::BulkOperation, "cache.export").with("packages", manifest.packages.len());
        self.audit().record(actor, event).await?;
        let text = serde_json::to_vec(&manifest).map_err(|error| CacheError::Folder(error.into()))?;
        let signature = SigningKey::load(self.data_dir())?.sign(&text);
        let signature = serde_json::to_vec(&signature).map_err(|error| CacheError::Folder(error.into()))?;
        let blobs: Vec<(String, u64)> = manifest.blobs().into_iter().map(|(name, size)| (name.to_owned(), size)).collect();
        Ok(stream(self.blobs().clone(), text, signature, blobs))
    }

    /// The key that archives of this fabric are signed with.
    pub(crate) fn public_key(&self, actor: &Actor) -> Result<String, CacheError> {
        actor.require(Action::CacheRead)?;
        Ok(SigningKey::load(self.data_dir())?.public())
    }

    async fn all_packages(&self) -> Result<BTreeSet<[String; 3]>, CacheError> {
        let listed = store::by_use(self.database().system(), true).await?;
        let mut whole = BTreeSet::new();
        for package in listed.iter().filter_map(Listed::package) {
            let files = store::files(self.database().system(), &package).await?;
            if Whole::of(&package, &files).is_some() {
                whole.insert([package.registry().to_string(), package.name().to_owned(), package.version().to_owned()]);
            }
        }
        Ok(whole)
    }

    /// The packages of servers, and what an install of them needs.
    async fn packages_of(&self, actor: &Actor, servers: &[String]) -> Result<BTreeSet<[String; 3]>, CacheError> {
        let mut packages = BTreeSet::new();
        for server in servers {
            let server = server.parse().map_err(ServersError::from)?;
            let (id, standings) = self.status(actor, &server, None).await?;
            if standings.is_empty() {
                return Err(CacheError::NoPackages);
            }
            for standing in standings {
                let (Some(package), Status::Cached) = (standing.package, standing.status) else {
                    return Err(ArchiveError::NotCached(id).into());
                };
                let registry = package.registry().to_string();
                if let Some((lock, missing)) = standing.lock {
                    if missing > 0 {
                        return Err(ArchiveError::NotCached(format!("what {package} needs")).into());
                    }
                    packages.extend(lock.packages.into_iter().map(|locked| [registry.clone(), locked.name, locked.version]));
                }
                packages.insert([registry, package.name().to_owned(), package.version().to_owned()]);
            }
        }
        Ok(packages)
    }

    async fn manifest_of(&self, packages: BTreeSet<[String; 3]>) -> Result<Manifest, CacheError> {
        let pool = self.database().system();
        let (mut carried, mut documents) = (Vec::with_capacity(packages.len()), Vec::new());
        let mut documented = BTreeSet::new();
        for [registry, name, version] in &packages {
            let package = Package::parse(crate::error::registry_type(registry)?, name, version)?;
            carried.push(self.carried(&package).await?);
            if documented.insert((registry.clone(), name.clone())) {
                documents.extend(store::documents_of(pool, package.registry(), name).await?);
            }
        }
        // What was said is a blob like any other, and is carried only where it is still here.
        let mut here = Vec::with_capacity(documents.len());
        for mut document in documents {
            let blob = BlobId::from_hex(&document.sha256);
            if let Some(size) = blob.and_then(|blob| self.blobs().size(&blob).ok()) {
                document.size = size;
                here.push(document);
            }
        }
        let names = store::names_of_all(pool, &packages).await?;
        let created_at: chrono::DateTime<Utc> = clock::now();
        Ok(Manifest { format: FORMAT, created_at, packages: carried, documents: here, names })
    }

    async fn carried(&self, package: &Package) -> Result<Carried, CacheError> {
        let pool = self.database().system();
        let files = store::files(pool, package).await?;
        if Whole::of(package, &files).is_none() {
            return Err(ArchiveError::NotCached(package.to_string()).into());
        }
        let lock = store::lock(pool, package, "").await?;
        let here = files.into_iter().filter(|file| file.status == Status::Cached);
        let files = here.filter_map(|file| {
            Some(CarriedFile {
                sha256: file.blob?.hex(),
                size: file.size_bytes?.try_into().ok()?,
                upstream_digest: file.upstream_digest.unwrap_or_default(),
                source: file.source.unwrap_or_default(),
                published_at: file.published_at,
                signature: file.signature,
                provenance: file.provenance,
                is_planned: file.is_planned,
                name: file.file_name,
            })
        });
        Ok(Carried {
            registry_type: package.registry().to_string(),
            name: package.name().to_owned(),
            version: package.version().to_owned(),
            files: files.collect(),
            lock: lock.map(|lock| CarriedLock { packages: lock.packages, resolver: lock.resolver, created_at: lock.created_at }),
        })
    }
}

fn stream(
    blobs: Blobs,
    manifest: Vec<u8>,
    signature: Vec<u8>,
    names: Vec<(String, u64)>,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    try_stream! {
        for (name, text) in [(MANIFEST, manifest), (SIGNATURE, signature)] {
            let size = text.len() as u64;
            yield header(name, size)?;
            yield Bytes::from(text);
            yield padding(size);
        }
        for (name, size) in names {
            let Some(blob) = BlobId::from_hex(&name) else { continue };
            yield header(&format!("{BLOBS}{name}"), size)?;
            let mut file = open(&blobs, &blob, size).await?;
            let mut left = size;
            while left > 0 {
                let mut chunk = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
                file.read_exact(&mut chunk).await?;
                left -= chunk.len() as u64;
                yield Bytes::from(chunk);
            }
            yield padding(size);
        }
        yield Bytes::from_static(&[0; 2 * BLOCK]);
    }
}

async fn open(blobs: &Blobs, blob: &BlobId, size: u64) -> std::io::Result<tokio::fs::File> {
    let file = blobs.open_blob(blob).await?;
    if file.metadata().await?.len() == size { Ok(file) } else { Err(std::io::Error::other("a blob is not as large as it was")) }
}

fn header(name: &str, size: u64) -> std::io::Result<Bytes> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(Bytes::copy_from_slice(header.as_bytes()))
}

fn padding(size: u64) -> Bytes {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    Bytes::from_static(&[0; BLOCK]).slice(..(BLOCK - over) % BLOCK)
}
