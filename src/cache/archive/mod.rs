//! Archives that carry packages to a fabric without internet: a tar file of a manifest, its Ed25519 signature
//! and every blob that it names, in this order, so that nothing is read that the signature does not cover.

mod export;
mod import;

use std::{collections::BTreeMap, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use platform::files;
use ring::{
    rand::SystemRandom,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::CacheError,
    model::{Claimed, Locked},
};

pub(crate) use import::Imported;

/// The number of this form of the manifest.
const FORMAT: u32 = 1;
const MANIFEST: &str = "fabric-cache.json";
const SIGNATURE: &str = "fabric-cache.sig";
const BLOBS: &str = "blobs/";
/// What a header of a tar file measures, and what everything in it is filled up to.
const BLOCK: usize = 512;
const KEY_FILE: &str = "cache-signing.key";

/// What an archive can be wrong in.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Not such a file.
    #[error("this is no archive of a fabric's cache: {0}")]
    Malformed(&'static str),
    /// Of a later version of the program.
    #[error("the archive has form {0}, and this program knows form {FORMAT}")]
    OtherFormat(u32),
    /// By nobody that is trusted.
    #[error("the archive is signed by {0}, which is not trusted; FABRIC_CACHE_TRUSTED_KEYS or --key names keys that are")]
    Untrusted(String),
    /// Changed after it was signed.
    #[error("the archive's signature is wrong: it was changed after it was made")]
    Forged,
    /// A blob is not what the manifest says.
    #[error("the archive's bytes of {0} are not those that were signed")]
    Mismatch(String),
    /// It ends early.
    #[error("the archive lacks {0} of its files")]
    Incomplete(usize),
    /// Not everything that was asked for is here.
    #[error("{0} is not cached completely; cache it first")]
    NotCached(String),
}

/// What an archive carries.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    created_at: DateTime<Utc>,
    packages: Vec<Carried>,
    documents: Vec<CarriedDocument>,
    names: Vec<CarriedName>,
}

/// A package with its files.
#[derive(Debug, Serialize, Deserialize)]
struct Carried {
    registry_type: String,
    name: String,
    version: String,
    files: Vec<CarriedFile>,
    lock: Option<CarriedLock>,
}

#[derive(Debug, Serialize, Deserialize)]
struct CarriedFile {
    name: String,
    sha256: String,
    size: u64,
    upstream_digest: String,
    source: String,
    published_at: Option<DateTime<Utc>>,
    signature: Claimed,
    provenance: Claimed,
    is_planned: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct CarriedLock {
    packages: Vec<Locked>,
    resolver: String,
    created_at: DateTime<Utc>,
}

/// What a registry said of a package.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CarriedDocument {
    pub(crate) registry_type: String,
    pub(crate) name: String,
    pub(crate) sha256: String,
    pub(crate) size: u64,
    pub(crate) source: String,
    pub(crate) etag: Option<String>,
    pub(crate) checked_at: DateTime<Utc>,
}

/// What a package is called.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CarriedName {
    pub(crate) registry_type: String,
    pub(crate) identifier: String,
    pub(crate) wanted: String,
    pub(crate) target: String,
    pub(crate) package_type: String,
    pub(crate) name: String,
    pub(crate) version: String,
}

impl Manifest {
    /// The blobs that it names, with their sizes.
    fn blobs(&self) -> BTreeMap<&str, u64> {
        let files = self.packages.iter().flat_map(|package| &package.files).map(|file| (file.sha256.as_str(), file.size));
        files.chain(self.documents.iter().map(|document| (document.sha256.as_str(), document.size))).collect()
    }
}

/// The second entry of an archive.
#[derive(Debug, Serialize, Deserialize)]
struct Signature {
    /// Base64 of the raw Ed25519 key.
    key: String,
    signature: String,
}

impl Signature {
    fn is_of(&self, text: &[u8]) -> bool {
        let (Ok(key), Ok(signature)) = (STANDARD.decode(&self.key), STANDARD.decode(&self.signature)) else { return false };
        UnparsedPublicKey::new(&ED25519, key).verify(text, &signature).is_ok()
    }
}

/// The key of this fabric, made when it is first needed.
pub(crate) struct SigningKey {
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// From the data folder.
    pub(crate) fn load(data: &Path) -> Result<Self, CacheError> {
        let place = data.join(KEY_FILE);
        let unusable = || CacheError::Folder(std::io::Error::other(format!("{KEY_FILE} in the data folder is no Ed25519 key")));
        let text = if let Some(text) = files::read_if_present(&place)? {
            text
        } else {
            let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| unusable())?;
            let text = STANDARD.encode(document.as_ref());
            files::write_private(&place, text.as_bytes())?;
            text
        };
        let document = STANDARD.decode(text.trim()).map_err(|_| unusable())?;
        Ok(Self { pair: Ed25519KeyPair::from_pkcs8(&document).map_err(|_| unusable())? })
    }

    /// Base64, for others to trust.
    pub(crate) fn public(&self) -> String {
        STANDARD.encode(self.pair.public_key())
    }

    fn sign(&self, text: &[u8]) -> Signature {
        Signature { key: self.public(), signature: STANDARD.encode(self.pair.sign(text)) }
    }
}

/// Which packages an archive is to carry.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExportOrder {
    /// Those of these servers, with what an install of them needs.
    #[serde(default)]
    pub(crate) servers: Vec<String>,
    /// Everything.
    #[serde(default)]
    pub(crate) all: bool,
}
