//! Files of packages: fetched once for any number of askers, verified before a byte of them is given,
//! kept, and verified again when they are read for the first time.

use std::{
    collections::HashSet,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use moka::future::Cache as Memory;
use platform::{Coded as _, Database, Shutdown, client::Client, clock, database::DbError};
use prometheus::IntCounterVec;
use serde_json::json;
use servers::Servers;
use tokio::{io::AsyncReadExt as _, sync::watch};
use url::Url;

use crate::{
    blobs::Blobs,
    digest::{Algorithm, BlobId, Digest, Hasher},
    documents::{Ask, Documents, Name},
    download::{Arrived, Auth, Order, download},
    error::CacheError,
    flights::Flights,
    model::{Artifact, Status, Whole},
    names::{FileName, METADATA, Package},
    npm::Packument,
    store::{self, Cached},
};

/// A file of up to this size is given from memory.
const SMALL: u64 = 256 << 10;
/// How long another node's download is believed in without a sign of life.
const LEASE_SECONDS: f64 = 30.0;
/// How often progress is written, and how often a look is taken at another node's download.
const TELL_EVERY: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How much of what went wrong is kept, in characters.
const SAID: usize = 500;
const NOTE_USE_EVERY: Duration = Duration::from_secs(10);

/// One file of one package.
pub(crate) type Key = (Package, FileName);

/// A verified file that can be given.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) blob: BlobId,
    pub(crate) size: u64,
    /// All of it, when it is small.
    pub(crate) bytes: Option<Bytes>,
    /// How the file looked when it was verified, when it is not small.
    stamp: Option<Stamp>,
}

/// What changes with a file: its inode, and when it was last modified.
type Stamp = (u64, std::time::SystemTime);

type Outcome = Result<Held, Arc<CacheError>>;

/// Where a file comes from and what it has to be.
struct Offer {
    url: Url,
    auth: Option<Auth>,
    digest: Digest,
    size: Option<u64>,
}

pub(crate) struct Artifacts {
    pub(crate) database: Database,
    pub(crate) blobs: Blobs,
    pub(crate) documents: Arc<Documents>,
    pub(crate) servers: Servers,
    pub(crate) node: String,
    pub(crate) allow_sha1: bool,
    /// The most that one file may measure, in bytes.
    pub(crate) max_file: u64,
    pub(crate) patience: Duration,
    pub(crate) allowed_hosts: Vec<String>,
    pub(crate) memory: Memory<Key, Held>,
    pub(crate) flights: Flights<Key, Outcome>,
    pub(crate) used: Mutex<HashSet<[String; 4]>>,
    /// By registry type and outcome: `hit`, `miss`, `coalesced`, `refused`.
    pub(crate) asked: IntCounterVec,
    /// By registry type: bytes that were not what was stated, or not any more.
    pub(crate) mismatches: IntCounterVec,
}

impl Artifacts {
    pub(crate) fn memory(bytes: u64) -> Memory<Key, Held> {
        let weigh = |_: &Key, held: &Held| u32::try_from(held.bytes.as_ref().map_or(0, Bytes::len) + 512).unwrap_or(u32::MAX);
        Memory::builder().max_capacity(bytes).weigher(weigh).support_invalidation_closures().build()
    }

    /// A file, fetched if it is not here and `may_fetch`.
    pub(crate) async fn get(self: &Arc<Self>, key: &Key, clients: &Clients, may_fetch: bool) -> Result<Held, CacheError> {
        let registry = key.0.registry().as_str();
        let count = |outcome: &str| self.asked.with_label_values(&[registry, outcome]).inc();
        if let Some(held) = self.memory.get(key).await {
            if held.stamp.is_none() || self.stamp(&held.blob).await == held.stamp {
                count("hit");
                self.note_use(key);
                return Ok(held);
            }
            self.memory.invalidate(key).await;
        }
        if let Some(held) = self.kept(key).await? {
            count("hit");
            self.note_use(key);
            return Ok(held);
        }
        if self.documents.offline || !may_fetch {
            count("refused");
            return Err(if self.documents.offline { CacheError::Offline } else { CacheError::NotCached });
        }
        let (this, wanted, clients) = (Arc::clone(self), key.clone(), clients.clone());
        let work = || async move { this.bring(&wanted, &clients).await.map_err(Arc::new) };
        let (outcome, joined) = self.flights.join_or_start(key.clone(), work).await;
        count(if joined { "coalesced" } else { "miss" });
        outcome.map_err(|_| CacheError::Stopping)?.map_err(CacheError::Shared)
    }

    /// A file that is here, and whose bytes are still those that were verified.
    async fn kept(&self, (package, file): &Key) -> Result<Option<Held>, CacheError> {
        let row = store::file(self.database.system(), package, file.as_str()).await?;
        let Some(Artifact { status: Status::Cached, blob: Some(blob), .. }) = row else { return Ok(None) };
        let lost = |message| store::lose(self.database.system(), package, file.as_str(), &blob, message);
        let Some((found, held)) = self.load(&blob).await? else {
            lost("its bytes are gone").await?;
            return Ok(None);
        };
        if found != blob {
            self.mismatches.with_label_values(&[package.registry().as_str()]).inc();
            tracing::error!(%package, file = file.as_str(), blob = blob.hex(), "a stored file was changed; it is removed and fetched again");
            self.blobs.remove(&blob).await?;
            lost("its bytes were changed").await?;
            return Ok(None);
        }
        self.memory.insert((package.clone(), file.clone()), held.clone()).await;
        Ok(Some(held))
    }

    /// Reads a blob whole: what it is now, and how it is given. Nothing when it is not there.
    async fn load(&self, blob: &BlobId) -> std::io::Result<Option<(BlobId, Held)>> {
        let mut source = match self.blobs.open_blob(blob).await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let found = source.metadata().await?;
        let size = found.len();
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let (mut small, mut buffer) = (Vec::new(), vec![0; 128 << 10]);
        loop {
            let read = source.read(&mut buffer).await?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            if size <= SMALL {
                small.extend_from_slice(&buffer[..read]);
            }
        }
        let bytes = (size <= SMALL).then(|| Bytes::from(small));
        let stamp = if bytes.is_none() { Some((found.ino(), found.modified()?)) } else { None };
        Ok(Some((hasher.finish().0, Held { blob: *blob, size, bytes, stamp })))
    }

    async fn stamp(&self, blob: &BlobId) -> Option<Stamp> {
        let found = tokio::fs::metadata(self.blobs.path(blob)).await.ok()?;
        Some((found.ino(), found.modified().ok()?))
    }

    /// Fetches a file, unless another node is at it, which is then waited for.
    async fn bring(&self, key: &Key, clients: &Clients) -> Result<Held, CacheError> {
        let (package, file) = key;
        let pool = self.database.system();
        // What no registry has leaves no row.
        let offer = self.offer(key, clients).await?;
        while !store::claim(pool, package, file.as_str(), &self.node, LEASE_SECONDS).await? {
            if let Some(held) = self.kept(key).await? {
                return Ok(held);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        match self.fetch(key, &offer, clients).await {
            Ok(held) => Ok(held),
            Err(error) => {
                if error.is_mismatch() {
                    self.mismatches.with_label_values(&[package.registry().as_str()]).inc();
                    tracing::error!(%package, file = file.as_str(), %error, "the registry sent other bytes than it states; nothing of them is kept");
                }
                let message: String = error.to_string().chars().take(SAID).collect();
                store::fail(pool, package, file.as_str(), &self.node, error.code(), &message).await?;
                Err(error)
            }
        }
    }

    async fn fetch(&self, key: &Key, offer: &Offer, clients: &Clients) -> Result<Held, CacheError> {
        let (package, file) = key;
        let (told, telling) = watch::channel((0, None));
        let order = Order {
            url: &offer.url,
            auth: offer.auth.as_ref(),
            digest: &offer.digest,
            size: offer.size,
            cap: self.max_file,
            patience: self.patience,
        };
        let tell = move |done, total| {
            told.send_replace((done, total));
        };
        let arrived = tokio::select! {
            arrived = download(&clients.files, &self.blobs, &order, &tell) => arrived?,
            never = self.keep_lease(key, telling) => match never {},
        };
        self.keep(package, file, offer, &arrived).await?;
        let read = self.load(&arrived.blob).await?.filter(|(found, _)| *found == arrived.blob);
        let Some((_, held)) = read else {
            return Err(CacheError::Folder(std::io::Error::other("what was written cannot be read again")));
        };
        self.memory.insert(key.clone(), held.clone()).await;
        Ok(held)
    }

    /// What the registry states of a file; asked again for what may have been published since.
    async fn offer(&self, key: &Key, clients: &Clients) -> Result<Offer, CacheError> {
        match self.offer_as_of(key, clients, Ask::IfOld).await {
            Err(CacheError::NoVersion) => self.offer_as_of(key, clients, Ask::Again).await,
            offer => offer,
        }
    }

    async fn offer_as_of(&self, (package, file): &Key, clients: &Clients, ask: Ask) -> Result<Offer, CacheError> {
        match package {
            Package::Npm(name, version) => {
                let registry = self.documents.sources.npm(name).await?.clone();
                let said = self.documents.get(&Name::Npm(name.clone()), &clients.documents, ask).await?;
                let tarball = Packument::parse(name, &said.text)?.tarball(version, self.allow_sha1)?;
                let is_own = tarball.url.origin() == registry.url.origin();
                let named = tarball.url.host_str().unwrap_or_default();
                if !is_own && !self.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(named)) {
                    return Err(CacheError::ForeignHost(named.to_owned()));
                }
                Ok(Offer { url: tarball.url, auth: registry.auth.filter(|_| is_own), digest: tarball.digest, size: None })
            }
            Package::Pypi(name, _) => {
                let registry = self.documents.sources.pypi().await?.clone();
                let said = self.documents.get(&Name::Pypi(name.clone()), &clients.documents, ask).await?;
                let project = said.project()?;
                let name = file.wheel().unwrap_or(file.as_str());
                let found = project.files.iter().find(|found| found.name == name).ok_or(CacheError::NoVersion)?;
                // Files of an index usually lie at another host; they are named by their SHA-256.
                let is_own = found.url.origin() == registry.url.origin();
                if !is_own && found.url.scheme() != "https" {
                    return Err(CacheError::ForeignHost(found.url.host_str().unwrap_or_default().to_owned()));
                }
                let auth = registry.auth.filter(|_| is_own);
                let unverifiable = || CacheError::Unverifiable("the index states no SHA-256 for this file".into());
                if file.wheel().is_none() {
                    return Ok(Offer { url: found.url.clone(), auth, digest: found.digest().ok_or_else(unverifiable)?, size: found.size });
                }
                let stated = found.metadata_sha256.as_deref().ok_or(CacheError::NoVersion)?;
                let digest = Digest::from_hex(Algorithm::Sha256, stated).ok_or_else(unverifiable)?;
                let mut url = found.url.clone();
                url.set_path(&format!("{}{METADATA}", found.url.path()));
                Ok(Offer { url, auth, digest, size: None })
            }
        }
    }

    /// Keeps the lease and writes progress until it is dropped.
    async fn keep_lease(&self, (package, file): &Key, mut telling: watch::Receiver<(u64, Option<u64>)>) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(TELL_EVERY).await;
            let (done, total) = *telling.borrow_and_update();
            let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
            let told =
                store::tell(self.database.system(), package, file.as_str(), &self.node, LEASE_SECONDS, number(done), total.map(number))
                    .await;
            if let Err(error) = told {
                tracing::warn!(%package, %error, "could not write how far a download is");
            }
        }
    }

    /// Writes that a file is here: its link first, then its row and what the catalogue says of its package.
    async fn keep(&self, package: &Package, file: &FileName, offer: &Offer, arrived: &Arrived) -> Result<(), CacheError> {
        let folder = package.folder();
        self.blobs.link(&arrived.blob, &folder, file.as_str()).await?;
        let mut source = offer.url.clone();
        // Neither can fail for an http URL.
        let _ = (source.set_username(""), source.set_password(None));
        source.set_query(None);
        source.set_fragment(None);
        let cached = Cached {
            blob: arrived.blob,
            size: i64::try_from(arrived.size).unwrap_or(i64::MAX),
            upstream_digest: &offer.digest.to_string(),
            source: source.as_str(),
        };
        let mut transaction = self.database.system().begin().await?;
        store::take_turns(&mut transaction).await?;
        // A package with the same bytes may have been removed since they were stored.
        if !self.blobs.has(&arrived.blob).await {
            return Err(CacheError::Folder(std::io::Error::other("the bytes were removed while they came in")));
        }
        store::finish(&mut transaction, package, file.as_str(), &cached, clock::now()).await?;
        self.mark_in(&mut transaction, package).await?;
        transaction.commit().await.map_err(DbError::from)?;
        self.write_manifest(package).await
    }

    /// Brings what the catalogue says of a package in line with its files.
    pub(crate) async fn mark_in(&self, transaction: &mut sqlx::PgConnection, package: &Package) -> Result<(), CacheError> {
        let files = store::files(&mut *transaction, package).await?;
        let cached = Whole::of(&files).map(|whole| servers::CachedPackage {
            at: whole.fetched_at,
            path: package.folder().display().to_string(),
            size_bytes: whole.size_bytes,
            checksum: format!("sha256:{}", whole.main.hex()),
        });
        Ok(self
            .servers
            .mark_cached_in(transaction, package.registry().as_str(), package.name(), package.version(), cached.as_ref())
            .await?)
    }

    /// `manifest.json` beside the links: the same facts for people and other programs.
    async fn write_manifest(&self, package: &Package) -> Result<(), CacheError> {
        let files = store::files(self.database.system(), package).await?;
        let files: Vec<_> = files
            .iter()
            .filter(|file| file.status == Status::Cached)
            .map(|file| {
                json!({
                    "name": file.file_name, "size": file.size_bytes, "sha256": file.blob.map(|blob| blob.hex()),
                    "upstream_digest": file.upstream_digest, "source": file.source, "fetched_at": file.fetched_at,
                })
            })
            .collect();
        let manifest = json!({
            "registry_type": package.registry(), "name": package.name(), "version": package.version(), "files": files,
        });
        let text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
        Ok(self.blobs.write_beside(&package.folder(), "manifest.json", &text).await?)
    }

    fn note_use(&self, (package, file): &Key) {
        let key = [package.registry().as_str(), package.name(), package.version(), file.as_str()].map(str::to_owned);
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
    }

    /// Writes now and then which files were used.
    pub(crate) async fn note_uses(self: Arc<Self>, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(NOTE_USE_EVERY) => {}
                () = shutdown.begun() => return,
            }
            let keys: Vec<_> = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner)).into_iter().collect();
            if keys.is_empty() {
                continue;
            }
            if let Err(error) = store::used(self.database.system(), &keys, clock::now()).await {
                tracing::warn!(%error, "could not write which files of the cache were used");
            }
        }
    }

    /// Where a blob lies, to be streamed.
    pub(crate) fn path(&self, held: &Held) -> PathBuf {
        self.blobs.path(&held.blob)
    }

    /// Removes a package; gives how many files there were and how many bytes that freed.
    pub(crate) async fn remove(&self, package: &Package) -> Result<(u64, i64), CacheError> {
        let mut transaction = self.database.system().begin().await?;
        store::take_turns(&mut transaction).await?;
        let (free, files, bytes) = store::remove(&mut transaction, package).await?;
        self.mark_in(&mut transaction, package).await?;
        self.blobs.unlink(&package.folder()).await?;
        for blob in free {
            self.blobs.remove(&blob).await?;
        }
        transaction.commit().await.map_err(DbError::from)?;
        let package_of = package.clone();
        self.memory.invalidate_entries_if(move |(package, _), _| *package == package_of).ok();
        Ok((files, bytes))
    }
}

/// The clients that fetch: documents are decompressed on the way, files stay what they are.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    pub(crate) documents: Client,
    pub(crate) files: Client,
}
