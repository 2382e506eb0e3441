//! Removing packages, and bytes that no row knows. Rows go first: a process that ends in between leaves bytes that
//! are swept later, never a row without its bytes.

use std::sync::Arc;

use platform::{Database, database::DbError};

use crate::{artifacts::Artifacts, blobs::Blobs, digest::BlobId, error::CacheError, names::Package, store, upkeep::ORPHAN_AGE};

/// How many blobs are looked at while others wait.
const AT_A_TIME: usize = 100;

impl Artifacts {
    /// Removes a package; gives how many files there were and how many bytes that freed.
    pub(crate) async fn remove(&self, package: &Package) -> Result<(u64, i64), CacheError> {
        self.remove_if(package, false).await
    }

    /// The same, unless somebody asked for it meanwhile.
    pub(crate) async fn remove_cold(&self, package: &Package) -> Result<(u64, i64), CacheError> {
        self.remove_if(package, true).await
    }

    async fn remove_if(&self, package: &Package, only_cold: bool) -> Result<(u64, i64), CacheError> {
        let mut transaction = self.database.begin_system().await?;
        store::take_turns(&mut transaction).await?;
        if only_cold && !store::is_cold(&mut transaction, package).await? {
            return Ok((0, 0));
        }
        if let Package::Oci(_, manifest) = package {
            store::forget_documents(&mut transaction, manifest.blob()).await?;
        }
        let (free, files, bytes) = store::remove(&mut transaction, package).await?;
        self.mark_in(&mut transaction, package).await?;
        self.blobs.unlink(&package.folder()).await?;
        transaction.commit().await.map_err(DbError::from)?;
        remove_unknown(&self.database, &self.blobs, &free).await?;
        if let Package::Oci(..) = package {
            self.documents.forget_all();
        }
        let package_of = package.clone();
        self.memory.invalidate_entries_if(move |(package, _), _| *package == package_of).ok();
        Ok((files, bytes))
    }

    /// Removes bytes that no row knows: a process ended between them and their row.
    pub(crate) async fn sweep_orphans(&self) -> Result<u64, CacheError> {
        remove_unknown(&self.database, &self.blobs, &self.blobs.settled(ORPHAN_AGE).await?).await
    }

    /// What a process that ended badly may have left.
    pub(crate) async fn repair(self: Arc<Self>) {
        match self.sweep_orphans().await {
            Ok(0) => {}
            Ok(swept) => tracing::info!(swept, "removed bytes from the cache that no package has"),
            Err(error) => tracing::warn!(%error, "could not look for bytes that no package has"),
        }
    }
}

/// Removes those of these blobs that no row knows, and gives how many they were. A few at a time: meanwhile nothing
/// that comes in is written down.
pub(crate) async fn remove_unknown(database: &Database, blobs: &Blobs, ids: &[BlobId]) -> Result<u64, CacheError> {
    let mut removed = 0;
    for few in ids.chunks(AT_A_TIME) {
        let mut transaction = database.begin_system().await?;
        store::take_turns(&mut transaction).await?;
        for blob in few {
            if !store::is_known(&mut transaction, blob).await? {
                blobs.remove(blob).await?;
                removed += 1;
            }
        }
        transaction.commit().await.map_err(DbError::from)?;
    }
    Ok(removed)
}
