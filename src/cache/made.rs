//! Bundles that were made here. No registry has them: they are in the cache, or nowhere.

use platform::database::DbError;
use url::Url;

use crate::{
    artifacts::LEASE_SECONDS,
    digest::{BlobId, Digest},
    download::Arrived,
    error::CacheError,
    fetchers::Offer,
    file_names::FileName,
    model::Facts,
    names::Package,
    reference::{BundleName, Pinned},
    service::Cache,
    store,
};

/// The host of what was made here; nothing is fetched from it.
pub const MADE_HERE: &str = servers::LOCAL_NAMESPACE;

impl Cache {
    /// Keeps a bundle under its address below [`MADE_HERE`], pinned; gives its SHA-256 in hexadecimal.
    pub async fn keep_made(&self, address: &str, bytes: &[u8]) -> Result<String, CacheError> {
        let blob = BlobId::of(bytes);
        let (package, file) = made(address, &blob.hex())?;
        let artifacts = self.artifacts();
        artifacts.make_room(bytes.len() as u64).await?;
        self.blobs().put(bytes).await?;
        // Nothing to claim where the same bytes are kept already.
        if store::claim(self.database().system(), &package, file.as_str(), &artifacts.node, LEASE_SECONDS).await? {
            let url = Url::parse(&format!("https://{}", package.name())).map_err(|_| CacheError::NotFound)?;
            let offer = Offer { url, auth: None, accept: None, digest: Digest::of_blob(&blob), size: None, facts: Facts::NONE };
            artifacts.keep(&package, &file, &offer, &Arrived { blob, size: bytes.len() as u64 }).await?;
        }
        let mut transaction = self.database().begin_system().await?;
        store::pin(&mut transaction, &package, &[file.as_str().to_owned()]).await?;
        transaction.commit().await.map_err(DbError::from)?;
        Ok(blob.hex())
    }

    /// Brings what the catalogue says of a bundle in line with what is kept, once the catalogue names it.
    pub async fn mark_made(&self, address: &str, sha256: &str) -> Result<(), CacheError> {
        let (package, _) = made(address, sha256)?;
        let mut transaction = self.database().begin_system().await?;
        self.artifacts().mark_in(&mut transaction, &package).await?;
        transaction.commit().await.map_err(DbError::from)?;
        Ok(())
    }

    /// Where the bytes of such a bundle lie.
    pub async fn made(&self, address: &str, sha256: &str) -> Result<std::path::PathBuf, CacheError> {
        let artifact = self.artifacts().get(&made(address, sha256)?, false).await?;
        Ok(self.blobs().path(&artifact.blob))
    }

    /// Removes such a bundle.
    pub async fn forget_made(&self, address: &str, sha256: &str) -> Result<(), CacheError> {
        self.artifacts().remove(&made(address, sha256)?.0).await.map(drop)
    }
}

/// The package of a bundle, and its one file.
fn made(address: &str, sha256: &str) -> Result<(Package, FileName), CacheError> {
    let name = BundleName::parse(address)?;
    if name.host() != MADE_HERE {
        return Err(CacheError::BundleHost(name.host().to_owned()));
    }
    let file = name.file().to_owned();
    let package = Package::Mcpb(name, Pinned::parse(&format!("sha256:{sha256}"))?);
    let file = FileName::parse(&package, &file)?;
    Ok((package, file))
}
