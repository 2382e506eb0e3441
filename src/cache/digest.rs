//! Digests that registries state, and hashing while bytes come in.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use platform::random::hex;
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// How a digest was made, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Algorithm {
    /// Only in packages from before 2017; no longer safe against a forger.
    Sha1,
    /// What Python indexes state.
    Sha256,
    /// Rare.
    Sha384,
    /// What npm registries state.
    Sha512,
}

impl Algorithm {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "sha1" => Self::Sha1,
            "sha256" => Self::Sha256,
            "sha384" => Self::Sha384,
            "sha512" => Self::Sha512,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    fn length(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

/// The digest of some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Digest {
    algorithm: Algorithm,
    bytes: Vec<u8>,
}

impl Digest {
    /// The strongest digest of a Subresource Integrity string (`sha512-<base64> sha1-<base64>`); options
    /// behind a `?` and algorithms that we do not know are passed over.
    pub(crate) fn from_integrity(text: &str) -> Option<Self> {
        let one = |part: &str| {
            let (name, value) = part.split_once('-')?;
            let algorithm = Algorithm::from_name(name)?;
            let bytes = STANDARD.decode(value.split('?').next()?).ok()?;
            (bytes.len() == algorithm.length()).then_some(Self { algorithm, bytes })
        };
        text.split_ascii_whitespace().filter_map(one).max_by_key(|digest| digest.algorithm)
    }

    /// A digest in hexadecimal.
    pub(crate) fn from_hex(algorithm: Algorithm, text: &str) -> Option<Self> {
        let digit = |b: u8| char::from(b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let bytes: Option<Vec<u8>> =
            text.as_bytes().chunks(2).map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect();
        bytes.filter(|bytes| bytes.len() == algorithm.length()).map(|bytes| Self { algorithm, bytes })
    }

    /// The digest of a blob.
    pub(crate) fn of_blob(blob: &BlobId) -> Self {
        Self { algorithm: Algorithm::Sha256, bytes: blob.as_bytes().to_vec() }
    }

    /// The blob that it names, when it is a SHA-256.
    pub(crate) fn as_blob(&self) -> Option<BlobId> {
        BlobId::from_bytes(&self.bytes).filter(|_| self.algorithm == Algorithm::Sha256)
    }

    /// How it was made.
    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

/// `sha512:<hex>`
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), hex(&self.bytes))
    }
}

/// The SHA-256 by which a blob is known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BlobId([u8; 32]);

impl BlobId {
    /// The id of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// From 64 hexadecimal digits.
    pub(crate) fn from_hex(text: &str) -> Option<Self> {
        Digest::from_hex(Algorithm::Sha256, text)?.as_blob()
    }

    /// From a row.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// For a row.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// 64 lowercase hexadecimal digits.
    pub(crate) fn hex(&self) -> String {
        hex(&self.0)
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

/// Hashes bytes as they come: always with SHA-256, and with the algorithm of the stated digest.
#[derive(Clone)]
pub(crate) struct Hasher {
    own: Sha256,
    stated: Stated,
}

#[derive(Clone)]
enum Stated {
    /// The same as our own.
    Sha256,
    Sha1(Sha1),
    Sha384(Sha384),
    Sha512(Box<Sha512>),
}

impl Hasher {
    /// For bytes whose digest of this kind is stated.
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        let stated = match algorithm {
            Algorithm::Sha1 => Stated::Sha1(Sha1::new()),
            Algorithm::Sha256 => Stated::Sha256,
            Algorithm::Sha384 => Stated::Sha384(Sha384::new()),
            Algorithm::Sha512 => Stated::Sha512(Box::new(Sha512::new())),
        };
        Self { own: Sha256::new(), stated }
    }

    /// Takes the next bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.own.update(bytes);
        match &mut self.stated {
            Stated::Sha256 => {}
            Stated::Sha1(hasher) => hasher.update(bytes),
            Stated::Sha384(hasher) => hasher.update(bytes),
            Stated::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The id of all bytes, and their digest by the stated algorithm.
    pub(crate) fn finish(self) -> (BlobId, Digest) {
        let own: [u8; 32] = self.own.finalize().into();
        let (algorithm, bytes) = match self.stated {
            Stated::Sha256 => (Algorithm::Sha256, own.to_vec()),
            Stated::Sha1(hasher) => (Algorithm::Sha1, hasher.finalize().to_vec()),
            Stated::Sha384(hasher) => (Algorithm::Sha384, hasher.finalize().to_vec()),
            Stated::Sha512(hasher) => (Algorithm::Sha512, hasher.finalize().to_vec()),
        };
        (BlobId(own), Digest { algorithm, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY_SHA512: &str = "z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==";

    #[test]
    fn the_strongest_digest_counts() {
        let text = format!("sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk= md5-1B2M2Y8AsgTpgAmY7PhCfg== sha512-{EMPTY_SHA512}?x");
        let digest = Digest::from_integrity(&text).unwrap();
        assert_eq!(digest, Digest { algorithm: Algorithm::Sha512, bytes: STANDARD.decode(EMPTY_SHA512).unwrap() });
        for bad in ["", "sha512-", "sha512-AAAA", "md5-1B2M2Y8AsgTpgAmY7PhCfg==", "sha512", "sha512-***"] {
            assert_eq!(Digest::from_integrity(bad), None, "{bad}");
        }
    }

    #[test]
    fn hashing_gives_the_blob_and_the_stated_digest() {
        for algorithm in [Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512] {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(b"a");
            hasher.update(b"b");
            let (blob, digest) = hasher.finish();
            assert_eq!(blob, BlobId::of(b"ab"));
            let hex = digest.to_string();
            assert_eq!(Digest::from_hex(algorithm, hex.split(':').nth(1).unwrap()), Some(digest));
        }
        assert_eq!(Digest::from_hex(Algorithm::Sha1, "da39"), None);
        assert_eq!(Digest::from_hex(Algorithm::Sha1, &"g".repeat(40)), None);
        assert_eq!(Digest::from_hex(Algorithm::Sha1, &"a".repeat(41)), None);
    }
}
