use std::collections::BTreeMap;

use audit::{EventType, NewEvent};
use platform::{Action, Actor, clock, database::DbError};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use utoipa::ToSchema;

use super::{
    ArchiveError, BLOBS, BLOCK, Carried, CarriedDocument, CarriedFile, FORMAT, MANIFEST, Manifest, SIGNATURE, Signature, SigningKey,
};
use crate::{
    closure::is_place,
    digest::{Algorithm, BlobId, Hasher},
    error::{CacheError, registry_type},
    file_names::FileName,
    model::{Facts, Lock},
    names::{NpmName, Package, PypiName, RegistryType},
    policy::Rules,
    reference::{OciAt, OciReference, Pinned},
    service::Cache,
    store::{self, Cached},
};

/// The largest manifest, and the largest signature.
const MAX_MANIFEST: u64 = 64 << 20;
const MAX_SIGNATURE: u64 = 4 << 10;

/// What an archive brought.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Imported {
    packages: usize,
    files: usize,
    /// Of the files, each blob once.
    bytes: u64,
    /// Who signed it.
    key: String,
}

impl Cache {
    /// Takes an archive in: all of it is verified before any of it counts. `trusted` is a key that is trusted
    /// besides the configured ones and our own.
    pub(crate) async fn import(
        &self,
        actor: &Actor,
        archive: impl AsyncRead + Unpin + Send,
        trusted: Option<&str>,
    ) -> Result<Imported, CacheError> {
        actor.require(Action::CacheManage)?;
        let intent = self.intend(actor, NewEvent::new(EventType::BulkOperation, "cache.import")).await?;
        let imported = self.take_in(archive, trusted).await;
        self.tell(actor, intent, "cache.import", imported.as_ref().map(|_| ()));
        imported
    }

    async fn take_in(&self, archive: impl AsyncRead + Unpin + Send, trusted: Option<&str>) -> Result<Imported, CacheError> {
        // A manifest in memory is enough at a time.
        let _turn = self.importing().lock().await;
        let mut reader = Reader { inner: archive };
        let text = reader.small(MANIFEST, MAX_MANIFEST).await?;
        let signature = reader.small(SIGNATURE, MAX_SIGNATURE).await?;
        let signature: Signature =
            serde_json::from_slice(&signature).map_err(|_| ArchiveError::Malformed("its signature cannot be read"))?;
        self.check_key(&signature.key, trusted)?;
        if !signature.is_of(&text) {
            return Err(ArchiveError::Forged.into());
        }
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|_| ArchiveError::Malformed("its manifest cannot be read"))?;
        if manifest.format != FORMAT {
            return Err(ArchiveError::OtherFormat(manifest.format).into());
        }
        let packages = checked(&manifest, self.rules())?;
        let bytes = manifest.blobs().values().sum();
        self.artifacts().make_room(bytes).await?;
        self.take_blobs(&mut reader, manifest.blobs()).await?;
        self.take_rows(&manifest, &packages).await?;
        self.artifacts().documents.forget_all();
        for (package, _) in &packages {
            self.artifacts().lay_out(package).await?;
        }
        let files = manifest.packages.iter().map(|package| package.files.len()).sum();
        Ok(Imported { packages: packages.len(), files, bytes, key: signature.key })
    }

    fn check_key(&self, key: &str, trusted: Option<&str>) -> Result<(), CacheError> {
        let is_trusted = trusted == Some(key) || self.config().trusted_keys.iter().any(|known| known == key);
        if is_trusted || SigningKey::load(self.data_dir())?.public() == key {
            return Ok(());
        }
        Err(ArchiveError::Untrusted(key.chars().filter(|c| !c.is_control()).take(60).collect()).into())
    }

    /// Stores the bytes, each under what it is.
    async fn take_blobs(
        &self,
        reader: &mut Reader<impl AsyncRead + Unpin + Send>,
        mut wanted: BTreeMap<&str, u64>,
    ) -> Result<(), CacheError> {
        while let Some((name, size)) = reader.next().await? {
            let expected = name.strip_prefix(BLOBS).and_then(|hex| wanted.remove_entry(hex));
            let Some((hex, _)) = expected.filter(|(_, expected)| *expected == size) else {
                return Err(ArchiveError::Malformed("it has a file that its manifest does not name").into());
            };
            let mut draft = self.blobs().draft().await?;
            let mut hasher = Hasher::new(Algorithm::Sha256);
            let (mut left, mut buffer) = (size, vec![0; 128 << 10]);
            while left > 0 {
                let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let read = reader.inner.read(&mut buffer[..most]).await?;
                if read == 0 {
                    return Err(ArchiveError::Malformed("it ends in the middle of a file").into());
                }
                hasher.update(&buffer[..read]);
                draft.write(&buffer[..read]).await?;
                left -= read as u64;
            }
            let (blob, _) = hasher.finish();
            if blob.hex() != hex {
                return Err(ArchiveError::Mismatch(hex.to_owned()).into());
            }
            self.blobs().keep(draft, &blob).await?;
            reader.skip_padding(size).await?;
        }
        if wanted.is_empty() { Ok(()) } else { Err(ArchiveError::Incomplete(wanted.len()).into()) }
    }

    /// Writes everything that is known of the packages, at once.
    async fn take_rows(&self, manifest: &Manifest, packages: &[(Package, &Carried)]) -> Result<(), CacheError> {
        let mut transaction = self.database().begin_system().await?;
        store::take_turns(&mut transaction).await?;
        // An archive comes in slowly: bytes that no row knew yet may have been swept meanwhile.
        for name in manifest.blobs().keys() {
            if !self.blobs().has(&blob(name)?).await {
                return Err(ArchiveError::Incomplete(1).into());
            }
        }
        let now = clock::now();
        for (package, carried) in packages {
            for file in &carried.files {
                let cached = Cached {
                    blob: blob(&file.sha256)?,
                    size: i64::try_from(file.size).unwrap_or(i64::MAX),
                    upstream_digest: &file.upstream_digest,
                    source: &file.source,
                    facts: facts(file),
                };
                store::finish(&mut transaction, package, &file.name, &cached, now).await?;
            }
            let planned: Vec<String> = carried.files.iter().filter(|file| file.is_planned).map(|file| file.name.clone()).collect();
            store::pin(&mut transaction, package, &planned).await?;
            if let Some(lock) = &carried.lock {
                let lock = Lock { packages: lock.packages.clone(), resolver: lock.resolver.clone(), created_at: lock.created_at };
                store::keep_lock(&mut *transaction, package, "", &lock).await?;
            }
        }
        for document in &manifest.documents {
            store::take_document(&mut transaction, document, &blob(&document.sha256)?).await?;
        }
        store::take_names(&mut transaction, &manifest.names, now).await?;
        for (package, _) in packages {
            self.artifacts().mark_in(&mut transaction, package).await?;
        }
        transaction.commit().await.map_err(DbError::from)?;
        Ok(())
    }
}

/// Everything is looked at as if a registry had sent it: a signature vouches for who made the archive, not for
/// sense, and our own rules hold.
fn checked<'a>(manifest: &'a Manifest, rules: &Rules) -> Result<Vec<(Package, &'a Carried)>, CacheError> {
    let mut packages = Vec::with_capacity(manifest.packages.len());
    for carried in &manifest.packages {
        let package = Package::parse(registry_type(&carried.registry_type)?, &carried.name, &carried.version)?;
        rules.check_name(package.registry(), package.name())?;
        for file in &carried.files {
            FileName::parse(&package, &file.name)?;
            let named = match &package {
                Package::Oci(..) => Some(Pinned::parse(&file.name)?),
                Package::Mcpb(_, pinned) => Some(pinned.clone()),
                Package::Npm(..) | Package::Pypi(..) => None,
            };
            let is_what_it_is_called = named.is_none_or(|named| named.blob().hex() == file.sha256);
            blob(&file.sha256).ok().filter(|_| is_what_it_is_called).ok_or_else(|| ArchiveError::Mismatch(package.to_string()))?;
            rules.check(&package, &facts(file), manifest.created_at)?;
        }
        for locked in carried.lock.iter().flat_map(|lock| &lock.packages) {
            let member = Package::parse(package.registry(), &locked.name, &locked.version)?;
            if !locked.places.iter().all(|place| package.registry() == RegistryType::Npm && is_place(place)) {
                return Err(ArchiveError::Malformed("a lock in it names a folder outside").into());
            }
            locked.files.iter().try_for_each(|file| FileName::parse(&member, &file.name).map(drop))?;
        }
        packages.push((package, carried));
    }
    for name in &manifest.names {
        registry_type(&name.registry_type)?;
        Package::parse(registry_type(&name.package_type)?, &name.name, &name.version)?;
    }
    manifest.documents.iter().try_for_each(check_document)?;
    Ok(packages)
}

fn check_document(document: &CarriedDocument) -> Result<(), CacheError> {
    match registry_type(&document.registry_type)? {
        RegistryType::Npm => drop(NpmName::parse(&document.name)?),
        RegistryType::Pypi => drop(PypiName::parse(&document.name)?),
        RegistryType::Oci => {
            let reference = OciReference::parse(&document.name)?;
            if let OciAt::Digest(pinned) = &reference.at
                && pinned.blob().hex() != document.sha256
            {
                return Err(ArchiveError::Mismatch(document.name.clone()).into());
            }
        }
        RegistryType::Mcpb => return Err(ArchiveError::Malformed("a bundle has no document").into()),
    }
    Ok(())
}

fn facts(file: &CarriedFile) -> Facts {
    Facts { published_at: file.published_at, signature: file.signature, provenance: file.provenance }
}

fn blob(sha256: &str) -> Result<BlobId, CacheError> {
    Ok(BlobId::from_hex(sha256).ok_or(ArchiveError::Malformed("it names a file by something that is no SHA-256"))?)
}

/// Reads the plain entries that we write; links, devices and extended headers are no part of an archive.
struct Reader<R> {
    inner: R,
}

impl<R: AsyncRead + Unpin + Send> Reader<R> {
    /// Name and size of the next entry; `None` at the end.
    async fn next(&mut self) -> Result<Option<(String, u64)>, CacheError> {
        let mut block = [0; BLOCK];
        let cut = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => CacheError::from(ArchiveError::Malformed("it ends early")),
            _ => error.into(),
        };
        self.inner.read_exact(&mut block).await.map_err(cut)?;
        if block == [0; BLOCK] {
            return Ok(None);
        }
        let header = tar::Header::from_byte_slice(&block);
        let sum: u32 = block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
        let malformed = |_| ArchiveError::Malformed("a header of it cannot be read");
        let is_plain = header.cksum().is_ok_and(|stated| stated == sum) && header.entry_type() == tar::EntryType::Regular;
        let name = String::from_utf8(header.path_bytes().into_owned()).ok().filter(|_| is_plain);
        let name = name.ok_or(ArchiveError::Malformed("it has something else than plain files"))?;
        Ok(Some((name, header.entry_size().map_err(malformed)?)))
    }

    /// The next entry, which has to be this one.
    async fn small(&mut self, expected: &str, max: u64) -> Result<Vec<u8>, CacheError> {
        let found = self.next().await?.filter(|(name, size)| name == expected && *size <= max);
        let (_, size) = found.ok_or(ArchiveError::Malformed("its manifest or signature is not where it has to be"))?;
        let mut text = vec![];
        (&mut self.inner).take(size).read_to_end(&mut text).await?;
        if text.len() as u64 != size {
            return Err(ArchiveError::Malformed("it ends early").into());
        }
        self.skip_padding(size).await?;
        Ok(text)
    }

    async fn skip_padding(&mut self, size: u64) -> Result<(), CacheError> {
        let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        let mut rest = vec![0; (BLOCK - over) % BLOCK];
        self.inner.read_exact(&mut rest).await.map_err(|_| ArchiveError::Malformed("it ends early"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use platform::config::CachePolicy;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_lock_that_leads_outside_is_refused() {
        let manifest = |registry: &str, place: &str| {
            let lock = json!({ "resolver": "npm 10", "created_at": "2026-01-01T00:00:00Z", "packages": [{
                "name": "left-pad", "version": "1.0.0", "places": [place], "files": [],
            }] });
            let package = json!({ "registry_type": registry, "name": "left-pad", "version": "1.0.0", "files": [], "lock": lock });
            let manifest =
                json!({ "format": FORMAT, "created_at": "2026-01-01T00:00:00Z", "packages": [package], "documents": [], "names": [] });
            serde_json::from_value::<Manifest>(manifest).unwrap()
        };
        let is_fine = |registry: &str, place: &str| checked(&manifest(registry, place), &Rules::new(CachePolicy::default())).is_ok();
        assert!(is_fine("npm", "node_modules/left-pad") && is_fine("npm", "node_modules/a/node_modules/@b/c"));
        for place in ["../x", "/etc", "node_modules/../../x", "node_modules/a/../b", "", "."] {
            assert!(!is_fine("npm", place), "{place}");
        }
        assert!(!is_fine("pypi", "node_modules/left-pad"));
    }
}
