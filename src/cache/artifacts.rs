//! Files of packages: fetched once for any number of askers, verified before a byte of them is given,
//! kept, and verified again when they are read for the first time.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::http::HeaderValue;
use bytes::Bytes;
use moka::future::Cache as Memory;
use platform::{Coded as _, Database, Shutdown, clock, config::Target, database::DbError};
use prometheus::IntCounterVec;
use reqwest::StatusCode;
use serde_json::json;
use servers::Servers;
use tokio::{io::AsyncReadExt as _, sync::watch};

use crate::{
    asked::{Asked, Outcome},
    blobs::Blobs,
    digest::{Algorithm, BlobId, Hasher},
    documents::{Ask, Documents},
    download::{Arrived, DownloadError, Order, download},
    error::CacheError,
    fetchers::{Fetchers, Offer},
    file_names::FileName,
    flights::Flights,
    model::{Artifact, Status, Whole},
    names::Package,
    policy::Rules,
    room::Room,
    store::{self, Cached},
};

/// A file of up to this size is given from memory.
const SMALL: u64 = 256 << 10;
/// How long another node's download is believed in without a sign of life.
pub(crate) const LEASE_SECONDS: f64 = 30.0;
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
    /// What answers call it by.
    pub(crate) etag: HeaderValue,
    pub(crate) size: u64,
    /// All of it, when it is small.
    pub(crate) bytes: Option<Bytes>,
    /// How the file looked when it was verified, when it is not small.
    stamp: Option<Stamp>,
    /// Whether its use is noted already, and not written yet.
    is_noted: Arc<AtomicBool>,
}

/// What changes with a file: its inode, and when it was last modified.
type Stamp = (u64, std::time::SystemTime);

type Brought = Result<Held, Arc<CacheError>>;

pub(crate) struct Artifacts {
    pub(crate) database: Database,
    pub(crate) blobs: Blobs,
    pub(crate) documents: Arc<Documents>,
    pub(crate) fetchers: Fetchers,
    pub(crate) rules: Arc<Rules>,
    pub(crate) room: Room,
    pub(crate) servers: Servers,
    pub(crate) node: String,
    /// The platform whose image a name stands for.
    pub(crate) target: Target,
    /// The most that one file may measure, in bytes.
    pub(crate) max_file: u64,
    pub(crate) patience: Duration,
    pub(crate) memory: Memory<Key, Held>,
    pub(crate) flights: Flights<Key, Brought>,
    /// Work of the first asker after a start: reading a file again.
    pub(crate) checks: Flights<Key, Result<Option<Held>, Arc<CacheError>>>,
    pub(crate) used: Mutex<Vec<(Key, Arc<AtomicBool>)>>,
    pub(crate) asked: Asked,
    /// By registry type: files that were removed to make room.
    pub(crate) evictions: IntCounterVec,
    /// By registry type: bytes that were not what was stated, or not any more.
    pub(crate) mismatches: IntCounterVec,
}

fn etag(blob: &BlobId) -> HeaderValue {
    let text = format!("\"sha256:{}\"", blob.hex());
    // Hexadecimal digits can stand in a header.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("\"\""))
}

impl Artifacts {
    pub(crate) fn memory(bytes: u64) -> Memory<Key, Held> {
        let weigh = |_: &Key, held: &Held| u32::try_from(held.bytes.as_ref().map_or(0, Bytes::len) + 512).unwrap_or(u32::MAX);
        Memory::builder().max_capacity(bytes).weigher(weigh).support_invalidation_closures().build()
    }

    /// A file, fetched if it is not here and `may_fetch`.
    pub(crate) async fn get(self: &Arc<Self>, key: &Key, may_fetch: bool) -> Result<Held, CacheError> {
        self.rules.check_name(key.0.registry(), key.0.name())?;
        let count = |outcome| self.asked.count(key.0.registry(), outcome);
        if let Some(held) = self.memory.get(key).await {
            if held.stamp.is_none() || self.stamp(&held.blob).await == held.stamp {
                count(Outcome::Hit);
                self.note_use(key, &held);
                return Ok(held);
            }
            self.memory.invalidate(key).await;
        }
        let (this, wanted) = (Arc::clone(self), key.clone());
        let check = || async move { this.kept(&wanted).await.map_err(Arc::new) };
        let (checked, _) = self.checks.join_or_start(key.clone(), check).await;
        if let Some(held) = checked.map_err(|_| CacheError::Stopping)?.map_err(CacheError::Shared)? {
            count(Outcome::Hit);
            self.note_use(key, &held);
            return Ok(held);
        }
        if self.documents.offline || !may_fetch {
            count(Outcome::Refused);
            return Err(if self.documents.offline { CacheError::Offline } else { CacheError::NotCached });
        }
        let (this, wanted) = (Arc::clone(self), key.clone());
        let work = || async move { this.bring(&wanted).await.map_err(Arc::new) };
        let (outcome, joined) = self.flights.join_or_start(key.clone(), work).await;
        count(if joined { Outcome::Coalesced } else { Outcome::Miss });
        outcome.map_err(|_| CacheError::Stopping)?.map_err(CacheError::Shared)
    }

    /// A file that is here, and whose bytes are still those that were verified.
    async fn kept(&self, (package, file): &Key) -> Result<Option<Held>, CacheError> {
        let row = store::file(self.database.system(), package, file.as_str()).await?;
        let Some(Artifact { status: Status::Cached, blob: Some(blob), .. }) = row else { return Ok(None) };
        let lost = |message| self.lose(package, file, &blob, message);
        let Some((found, held)) = self.load(&blob).await? else {
            lost("its bytes are gone").await?;
            return Ok(None);
        };
        if found != blob {
            self.mismatches.with_label_values(&[package.registry().as_str()]).inc();
            tracing::error!(%package, file = file.as_str(), blob = blob.hex(), "a stored file was changed; it is set aside and fetched again");
            self.blobs.quarantine(&blob).await?;
            lost("its bytes were changed").await?;
            return Ok(None);
        }
        self.memory.insert((package.clone(), file.clone()), held.clone()).await;
        Ok(Some(held))
    }

    async fn lose(&self, package: &Package, file: &FileName, blob: &BlobId, message: &str) -> Result<(), CacheError> {
        let mut transaction = self.database.begin_system().await?;
        store::lose(&mut transaction, package, file.as_str(), blob, message).await?;
        self.mark_in(&mut transaction, package).await?;
        transaction.commit().await.map_err(DbError::from)?;
        Ok(())
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
        Ok(Some((hasher.finish().0, Held { blob: *blob, etag: etag(blob), size, bytes, stamp, is_noted: Arc::default() })))
    }

    async fn stamp(&self, blob: &BlobId) -> Option<Stamp> {
        let found = tokio::fs::metadata(self.blobs.path(blob)).await.ok()?;
        Some((found.ino(), found.modified().ok()?))
    }

    /// Fetches a file, unless another node is at it, which is then waited for.
    async fn bring(&self, key: &Key) -> Result<Held, CacheError> {
        let (package, file) = key;
        let pool = self.database.system();
        // What no registry has leaves no row.
        let offer = self.offer(key).await?;
        let seen_at = store::seen_at(pool, package, file.as_str()).await?.unwrap_or_else(clock::now);
        if let Err(refusal) = self.rules.check(package, &offer.facts, seen_at) {
            store::note_refused(pool, package, file.as_str(), &refusal.to_string()).await?;
            return Err(refusal.into());
        }
        while !store::claim(pool, package, file.as_str(), &self.node, LEASE_SECONDS).await? {
            if let Some(held) = self.kept(key).await? {
                return Ok(held);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        match self.fetch(key, &offer).await {
            Ok(held) => Ok(held),
            Err(error) => {
                if let (Package::Oci(name, _), CacheError::Download(DownloadError::Status(StatusCode::UNAUTHORIZED))) = (package, &error) {
                    self.documents.realms.forget(name);
                }
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

    async fn fetch(&self, key: &Key, offer: &Offer) -> Result<Held, CacheError> {
        let (package, file) = key;
        if let Some(held) = self.shared(offer).await? {
            self.keep(package, file, offer, &Arrived { blob: held.blob, size: held.size }).await?;
            self.memory.insert(key.clone(), held.clone()).await;
            return Ok(held);
        }
        self.make_room(offer.size.unwrap_or(0)).await?;
        let (told, telling) = watch::channel((0, None));
        let order = Order {
            url: &offer.url,
            auth: offer.auth.as_ref(),
            accept: offer.accept,
            digest: &offer.digest,
            size: offer.size,
            cap: self.max_file,
            patience: self.patience,
        };
        let tell = move |done, total| {
            told.send_replace((done, total));
        };
        let files = &self.documents.clients().await?.files;
        let coming = async {
            let visit = self.documents.hosts.enter(&offer.url).await?;
            visit.ended(download(files, &self.blobs, &order, &tell).await.map_err(CacheError::from))
        };
        let arrived = tokio::select! {
            arrived = coming => arrived?,
            never = self.keep_lease(key, telling) => match never {},
        };
        self.keep(package, file, offer, &arrived).await?;
        let held = self.held(&arrived).await?;
        self.memory.insert(key.clone(), held.clone()).await;
        Ok(held)
    }

    /// What was verified a moment ago; a small file is read again, and compared again with it.
    async fn held(&self, arrived: &Arrived) -> Result<Held, CacheError> {
        if arrived.size > SMALL {
            let stamp = self.stamp(&arrived.blob).await;
            return Ok(Held {
                blob: arrived.blob,
                etag: etag(&arrived.blob),
                size: arrived.size,
                bytes: None,
                stamp,
                is_noted: Arc::default(),
            });
        }
        let read = self.load(&arrived.blob).await?.filter(|(found, _)| *found == arrived.blob);
        read.map(|(_, held)| held).ok_or_else(|| CacheError::Folder(std::io::Error::other("what was written cannot be read again")))
    }

    /// The same bytes as part of another package: layers of images are.
    async fn shared(&self, offer: &Offer) -> Result<Option<Held>, CacheError> {
        let Some(blob) = offer.digest.as_blob() else { return Ok(None) };
        Ok(self.load(&blob).await?.filter(|(found, _)| *found == blob).map(|(_, held)| held))
    }

    /// What the registry states of a file; asked again for what may have been published since.
    async fn offer(&self, (package, file): &Key) -> Result<Offer, CacheError> {
        let fetcher = self.fetchers.of(package.registry());
        match fetcher.offer(package, file, Ask::IfOld).await {
            Err(CacheError::NoVersion) => fetcher.offer(package, file, Ask::Again).await,
            offer => offer,
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
    pub(crate) async fn keep(&self, package: &Package, file: &FileName, offer: &Offer, arrived: &Arrived) -> Result<(), CacheError> {
        let folder = package.folder();
        self.blobs.link(&arrived.blob, &folder.join(file.place())).await?;
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
            facts: offer.facts,
        };
        let mut transaction = self.database.begin_system().await?;
        store::take_turns(&mut transaction).await?;
        // A package with the same bytes may have been removed since they were stored.
        if !self.blobs.has(&arrived.blob).await {
            return Err(CacheError::Folder(std::io::Error::other("the bytes were removed while they came in")));
        }
        if !store::holds(&mut transaction, package, file.as_str(), &self.node).await? {
            return Err(CacheError::Removed);
        }
        store::finish(&mut transaction, package, file.as_str(), &cached, clock::now()).await?;
        self.mark_in(&mut transaction, package).await?;
        transaction.commit().await.map_err(DbError::from)?;
        self.room.grew(arrived.size);
        self.write_manifest(package).await
    }

    /// Brings what the catalogue says of a package in line with its files.
    pub(crate) async fn mark_in(&self, transaction: &mut sqlx::PgConnection, package: &Package) -> Result<(), CacheError> {
        let files = store::files(&mut *transaction, package).await?;
        let names = store::names_of(&mut *transaction, package, &self.target.to_string()).await?;
        let cached = Whole::of(package, &files).map(|whole| servers::CachedPackage {
            at: whole.fetched_at,
            path: package.folder().display().to_string(),
            size_bytes: whole.size_bytes,
            checksum: format!("sha256:{}", whole.main.hex()),
        });
        let package = [package.registry().as_str(), package.name(), package.version()];
        Ok(self.servers.mark_cached_in(transaction, package, &names, cached.as_ref()).await?)
    }

    /// `manifest.json` beside the links: the same facts for people and other programs. Beside an image it is
    /// what `docker load` reads, and the facts are in `fabric.json`.
    async fn write_manifest(&self, package: &Package) -> Result<(), CacheError> {
        let files = store::files(self.database.system(), package).await?;
        let described: Vec<_> = files
            .iter()
            .filter(|file| file.status == Status::Cached)
            .map(|file| {
                json!({
                    "name": file.file_name, "size": file.size_bytes, "sha256": file.blob.map(|blob| blob.hex()),
                    "upstream_digest": file.upstream_digest, "source": file.source, "fetched_at": file.fetched_at,
                    "published_at": file.published_at, "signature": file.signature, "provenance": file.provenance,
                })
            })
            .collect();
        let manifest = json!({
            "registry_type": package.registry(), "name": package.name(), "version": package.version(), "files": described,
        });
        let folder = package.folder();
        let Package::Oci(..) = package else { return self.write_json(&folder.join("manifest.json"), &manifest).await };
        self.write_json(&folder.join("fabric.json"), &manifest).await?;
        if Whole::of(package, &files).is_some() { self.write_layout(package).await } else { Ok(()) }
    }

    /// Puts the links of a package and what lies beside them where people look for them.
    pub(crate) async fn lay_out(&self, package: &Package) -> Result<(), CacheError> {
        for file in store::files(self.database.system(), package).await? {
            if let (Status::Cached, Some(blob)) = (file.status, file.blob) {
                let name = FileName::parse(package, &file.file_name)?;
                self.blobs.link(&blob, &package.folder().join(name.place())).await?;
            }
        }
        self.write_manifest(package).await
    }

    pub(crate) async fn write_json(&self, place: &Path, value: &serde_json::Value) -> Result<(), CacheError> {
        let text = serde_json::to_vec_pretty(value).unwrap_or_default();
        Ok(self.blobs.write_beside(place, &text).await?)
    }

    fn note_use(&self, key: &Key, held: &Held) {
        if !held.is_noted.swap(true, Ordering::Relaxed) {
            self.used.lock().unwrap_or_else(PoisonError::into_inner).push((key.clone(), Arc::clone(&held.is_noted)));
        }
    }

    /// Writes now and then which files were used.
    pub(crate) async fn note_uses(self: Arc<Self>, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(NOTE_USE_EVERY) => {}
                () = shutdown.begun() => return,
            }
            let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
            if used.is_empty() {
                continue;
            }
            let mut keys = Vec::with_capacity(used.len());
            for ((package, file), is_noted) in &used {
                is_noted.store(false, Ordering::Relaxed);
                keys.push([package.registry().as_str(), package.name(), package.version(), file.as_str()].map(str::to_owned));
            }
            if let Err(error) = store::used(self.database.system(), &keys, clock::now()).await {
                tracing::warn!(%error, "could not write which files of the cache were used");
            }
        }
    }

    /// Whether a blob is still what it is called.
    pub(crate) async fn is_intact(&self, blob: &BlobId) -> Result<bool, CacheError> {
        Ok(self.load(blob).await?.is_some_and(|(found, _)| found == *blob))
    }

    /// The next asker looks at the file itself.
    pub(crate) async fn forget(&self, key: &Key) {
        self.memory.invalidate(key).await;
    }

    /// Where a blob lies, to be streamed.
    pub(crate) fn path(&self, held: &Held) -> PathBuf {
        self.blobs.path(&held.blob)
    }
}
