//! How much the cache may measure: what was not used for longest goes when it is full, and nothing comes in
//! that would fill the disk.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use platform::{Shutdown, config::CacheConfig, database::DbError};
use tokio::sync::Mutex;

use crate::{artifacts::Artifacts, error::CacheError, policy::Refusal, removal::remove_unknown, store};

/// How often the sum is taken anew: other replicas add to it, too.
const COUNT_EVERY: Duration = Duration::from_mins(1);
/// How many packages go at once.
const BATCH: i64 = 50;

/// The limits, and what is known of how far they are reached.
#[derive(Debug)]
pub(crate) struct Room {
    quota: Option<u64>,
    low_water: u64,
    reserve: u64,
    /// Bytes in the store, as last counted and added to.
    used: AtomicU64,
    evicting: Mutex<()>,
}

impl Room {
    pub(crate) fn new(config: &CacheConfig) -> Self {
        let quota = config.quota_bytes;
        let low_water = quota.unwrap_or(u64::MAX) / 100 * u64::from(config.low_water_percent);
        Self { quota, low_water, reserve: config.reserve_bytes, used: AtomicU64::new(0), evicting: Mutex::default() }
    }

    pub(crate) fn grew(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Artifacts {
    /// Sees to it that so many bytes may come in.
    pub(crate) async fn make_room(&self, bytes: u64) -> Result<(), CacheError> {
        let needed = bytes.saturating_add(self.room.reserve);
        let is_full = || Ok::<_, CacheError>(self.blobs.free_bytes()? < needed);
        let is_over = || self.room.quota.is_some_and(|quota| self.room.used.load(Ordering::Relaxed).saturating_add(bytes) > quota);
        if !is_full()? && !is_over() {
            return Ok(());
        }
        // One at a time: the others find room, or see what is left.
        let _turn = self.room.evicting.lock().await;
        self.recount().await?;
        if is_over() {
            self.evict(self.room.low_water.min(self.room.quota.unwrap_or(u64::MAX).saturating_sub(bytes))).await?;
        }
        if is_full()? {
            let missing = needed.saturating_sub(self.blobs.free_bytes()?);
            self.evict(self.room.used.load(Ordering::Relaxed).saturating_sub(missing)).await?;
        }
        match () {
            () if is_full()? => Err(Refusal::Reserve.into()),
            () if is_over() => Err(Refusal::Quota.into()),
            () => Ok(()),
        }
    }

    async fn recount(&self) -> Result<u64, CacheError> {
        let used = u64::try_from(store::bytes_stored(self.database.system()).await?).unwrap_or(0);
        self.room.used.store(used, Ordering::Relaxed);
        Ok(used)
    }

    /// Removes packages that nobody asked for on purpose, the least recently used first, and then what was said of
    /// packages that are not here, until the store, which was just counted, measures so many bytes.
    async fn evict(&self, target: u64) -> Result<(), CacheError> {
        let pool = self.database.system();
        let mut used = self.room.used.load(Ordering::Relaxed);
        while used > target {
            let coldest = store::coldest(pool, BATCH).await?;
            let before = used;
            for package in &coldest {
                if used <= target {
                    break;
                }
                let (files, freed) = self.remove_cold(package).await?;
                used = used.saturating_sub(freed.try_into().unwrap_or(0));
                self.evictions.with_label_values(&[package.registry().as_str()]).inc_by(files);
                tracing::info!(%package, freed, "removed from the cache to make room");
            }
            if coldest.is_empty() {
                let mut transaction = self.database.begin_system().await?;
                let blobs = store::forget_cold_documents(&mut transaction, BATCH).await?;
                transaction.commit().await.map_err(DbError::from)?;
                self.documents.forget_all();
                remove_unknown(&self.database, &self.blobs, &blobs).await?;
                if blobs.is_empty() {
                    break;
                }
            }
            used = self.recount().await?;
            if used == before && !coldest.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Takes the sum now and then, and keeps to the limit also when nothing comes in.
    pub(crate) async fn watch_room(self: Arc<Self>, shutdown: Shutdown) {
        loop {
            if let Err(error) = self.keep_to_quota().await {
                tracing::warn!(%error, "could not keep the cache to its limit");
            }
            tokio::select! {
                () = tokio::time::sleep(COUNT_EVERY) => {}
                () = shutdown.begun() => return,
            }
        }
    }

    async fn keep_to_quota(&self) -> Result<(), CacheError> {
        let Some(quota) = self.room.quota else { return Ok(()) };
        let _turn = self.room.evicting.lock().await;
        if self.recount().await? > quota {
            self.evict(self.room.low_water).await?;
        }
        Ok(())
    }
}
