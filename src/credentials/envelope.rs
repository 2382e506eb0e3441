//! How a value is sealed (format 1), so that it can be neither read nor moved by someone who has the database.
//!
//! Each write draws a data key of its own. The value is sealed with it, the data key with the master key, both with
//! AES-256-GCM (NIST SP 800-38D) and with the row's identity and revision as associated data: in another row, or with
//! another revision, nothing opens. GCM alone does not tie a ciphertext to one key, so the data key and the identity
//! are committed to as well, and the commitment is compared before anything is opened.
//!
//! ```text
//! identity        = LP(domain) LP(id) LP(part)… u64(rev)                 LP = u32 length before the bytes
//! encrypted_value = base64(GCM(dek, iv, padded value, aad = identity))
//! wrapped_dek     = nonce GCM(kek, nonce, dek, aad = LP("wrap/1") u32(kek version) identity)
//! key_commit      = HKDF-SHA256(dek, info = "commit" SHA-256(identity))
//! ```

use aes_gcm::{
    Aes256Gcm, KeyInit as _,
    aead::{Aead as _, Payload},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use platform::{keys::SecretKey, random};
use secrecy::SecretString;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;
use zeroize::Zeroizing;

/// Values are padded to a multiple of this, so that their length says little.
const BUCKET: usize = 32;
const NONCE: usize = 12;
const TAG: usize = 16;
/// Nonce, data key and tag.
pub(crate) const WRAPPED: usize = NONCE + 32 + TAG;

/// Which row a value belongs to, and which revision of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity<'a> {
    /// What kind of row.
    pub(crate) domain: &'static str,
    pub(crate) id: Uuid,
    /// Whose it is, where, and its name.
    pub(crate) parts: [&'a str; 3],
    pub(crate) rev: i64,
}

/// A value as a row keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) value: String,
    pub(crate) iv: String,
    pub(crate) kek_version: i32,
    pub(crate) wrapped_dek: Vec<u8>,
    pub(crate) key_commit: Vec<u8>,
}

impl Sealed {
    /// From the columns of a row, of which some are empty in the plain form.
    pub(crate) fn from_columns(
        (value, iv): (String, String),
        kek_version: Option<i32>,
        wrapped_dek: Option<Vec<u8>>,
        key_commit: Option<Vec<u8>>,
    ) -> Self {
        Self {
            value,
            iv,
            kek_version: kek_version.unwrap_or_default(),
            wrapped_dek: wrapped_dek.unwrap_or_default(),
            key_commit: key_commit.unwrap_or_default(),
        }
    }
}

/// The row is not what was sealed: moved, changed, or sealed with another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value does not open: its row was changed, or it was sealed for another one")]
pub(crate) struct Broken;

impl Identity<'_> {
    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(160);
        let mut put = |bytes: &[u8]| {
            out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend_from_slice(bytes);
        };
        put(self.domain.as_bytes());
        put(self.id.as_bytes());
        self.parts.iter().for_each(|part| put(part.as_bytes()));
        out.extend_from_slice(&self.rev.to_be_bytes());
        out
    }

    fn for_wrap(&self, kek_version: i32) -> Vec<u8> {
        const LABEL: &[u8] = b"\0\0\0\x06wrap/1";
        [LABEL, &kek_version.to_be_bytes(), &self.bytes()].concat()
    }
}

/// Seals a value for one revision of one row.
pub(crate) fn seal(kek: &SecretKey, kek_version: i32, identity: &Identity<'_>, value: &[u8]) -> Sealed {
    let dek = SecretKey::from_bytes(random::bytes());
    let iv = random::bytes::<NONCE>();
    let aad = identity.bytes();
    Sealed {
        value: STANDARD.encode(gcm_seal(&dek, &iv, &padded(value), &aad)),
        iv: STANDARD.encode(iv),
        kek_version,
        wrapped_dek: wrap(kek, kek_version, identity, &dek),
        key_commit: commitment(&dek, &aad).to_vec(),
    }
}

/// Opens a value with the key of its version.
pub(crate) fn open(kek: &SecretKey, identity: &Identity<'_>, sealed: &Sealed) -> Result<SecretString, Broken> {
    let dek = unwrap(kek, identity, sealed)?;
    let iv: [u8; NONCE] = STANDARD.decode(&sealed.iv).ok().and_then(|iv| iv.try_into().ok()).ok_or(Broken)?;
    let ciphertext = STANDARD.decode(&sealed.value).map_err(|_| Broken)?;
    let padded = gcm_open(&dek, &iv, &ciphertext, &identity.bytes())?;
    let value = unpadded(&padded).ok_or(Broken)?;
    Ok(std::str::from_utf8(value).map_err(|_| Broken)?.into())
}

/// Wraps the data key of a sealed value with another master key; the value itself is not touched.
pub(crate) fn rewrap(old: &SecretKey, new: &SecretKey, version: i32, identity: &Identity<'_>, sealed: &Sealed) -> Result<Vec<u8>, Broken> {
    Ok(wrap(new, version, identity, &unwrap(old, identity, sealed)?))
}

fn wrap(kek: &SecretKey, kek_version: i32, identity: &Identity<'_>, dek: &SecretKey) -> Vec<u8> {
    let nonce = random::bytes::<NONCE>();
    let mut out = nonce.to_vec();
    out.extend_from_slice(&gcm_seal(kek, &nonce, dek.expose(), &identity.for_wrap(kek_version)));
    out
}

/// The data key, if it is the one that was committed to.
fn unwrap(kek: &SecretKey, identity: &Identity<'_>, sealed: &Sealed) -> Result<SecretKey, Broken> {
    if sealed.wrapped_dek.len() != WRAPPED {
        return Err(Broken);
    }
    let (nonce, wrapped) = sealed.wrapped_dek.split_at(NONCE);
    let nonce = nonce.try_into().map_err(|_| Broken)?;
    let bytes = gcm_open(kek, nonce, wrapped, &identity.for_wrap(sealed.kek_version))?;
    let mut dek = Zeroizing::new([0; 32]);
    if bytes.len() != dek.len() {
        return Err(Broken);
    }
    dek.copy_from_slice(&bytes);
    let dek = SecretKey::from_bytes(*dek);
    let committed = commitment(&dek, &identity.bytes());
    if bool::from(committed.ct_eq(&sealed.key_commit)) { Ok(dek) } else { Err(Broken) }
}

fn commitment(dek: &SecretKey, identity: &[u8]) -> [u8; 32] {
    // The data key is uniform already, so that HKDF's first step (RFC 5869, section 3.3) is left out.
    dek.mac(&[b"commit", &Sha256::digest(identity), &[1]])
}

/// AES-256-GCM with a tag of 16 bytes after the ciphertext.
fn gcm_seal(key: &SecretKey, nonce: &[u8; NONCE], message: &[u8], aad: &[u8]) -> Vec<u8> {
    // The cipher fails for messages of 64 GiB only.
    Aes256Gcm::new(key.expose().into()).encrypt(nonce.into(), Payload { msg: message, aad }).unwrap_or_default()
}

fn gcm_open(key: &SecretKey, nonce: &[u8; NONCE], sealed: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, Broken> {
    let opened = Aes256Gcm::new(key.expose().into()).decrypt(nonce.into(), Payload { msg: sealed, aad });
    opened.map(Zeroizing::new).map_err(|_| Broken)
}

/// The length, the value, and zeros up to the next bucket.
fn padded(value: &[u8]) -> Zeroizing<Vec<u8>> {
    let length = (4 + value.len()).next_multiple_of(BUCKET);
    let mut out = Zeroizing::new(Vec::with_capacity(length));
    out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(value);
    out.resize(length, 0);
    out
}

fn unpadded(padded: &[u8]) -> Option<&[u8]> {
    let (length, rest) = padded.split_first_chunk::<4>()?;
    let (value, zeros) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    (zeros.len() < BUCKET && zeros.iter().all(|zero| *zero == 0)).then_some(value)
}

/// A value in the requirements' plain form: value and tag under the master key itself, without associated data.
pub(crate) fn open_plain(master: &SecretKey, value: &str, iv: &str) -> Result<SecretString, Broken> {
    let iv: [u8; NONCE] = either(iv).and_then(|iv| iv.try_into().ok()).ok_or(Broken)?;
    let opened = gcm_open(master, &iv, &either(value).ok_or(Broken)?, &[])?;
    Ok(std::str::from_utf8(&opened).map_err(|_| Broken)?.into())
}

/// Bytes in base64, or in the hexadecimal that programs on Node write.
fn either(text: &str) -> Option<Vec<u8>> {
    random::unhex(text).or_else(|| STANDARD.decode(text).ok())
}

#[cfg(test)]
mod tests;
