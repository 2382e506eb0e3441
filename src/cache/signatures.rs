//! Signatures of npm registries: ECDSA P-256 over `name@version:integrity`, by keys that the registry publishes.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde::Deserialize;

use crate::{
    error::CacheError,
    model::Claimed,
    names::{NpmName, NpmVersion},
    npm::Tarball,
};

/// What stands before the point in the DER form of a P-256 key (RFC 5480).
const SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01,
    0x07, 0x03, 0x42, 0x00,
];
/// When a version was published of which that is not stated: before any key ended (npm's own rule).
const LONG_AGO: DateTime<Utc> = DateTime::from_timestamp_secs(1_420_070_400).unwrap();

/// The keys of a registry.
#[derive(Debug, Deserialize)]
pub(crate) struct Keys {
    keys: Vec<Key>,
}

#[derive(Debug, Deserialize)]
struct Key {
    keyid: String,
    scheme: String,
    #[serde(rename = "key")]
    spki: String,
    expires: Option<DateTime<Utc>>,
}

/// A signature as a document states it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Signature {
    keyid: String,
    sig: String,
}

impl Keys {
    pub(crate) fn parse(text: &[u8]) -> Result<Self, CacheError> {
        serde_json::from_slice(text).map_err(|error| CacheError::Document(error.to_string()))
    }

    /// What the signatures of a version are worth. One by a key that the registry does not publish proves
    /// nothing; one wrong signature by a known key is a forgery, whatever the others are.
    pub(crate) fn judge(&self, name: &NpmName, version: &NpmVersion, tarball: &Tarball) -> Claimed {
        let Some(integrity) = tarball.integrity.as_deref().filter(|_| !tarball.signatures.is_empty()) else { return Claimed::None };
        let message = format!("{}@{}:{integrity}", name.as_str(), version.as_str());
        let published_at = tarball.published_at.unwrap_or(LONG_AGO);
        let mut judged = Claimed::Stated;
        for signature in &tarball.signatures {
            let Some(key) = self.keys.iter().find(|key| key.keyid == signature.keyid && key.scheme == "ecdsa-sha2-nistp256") else {
                continue;
            };
            if key.expires.is_some_and(|expires| published_at >= expires) {
                continue;
            }
            if !is_by(key, &message, &signature.sig) {
                return Claimed::Invalid;
            }
            judged = Claimed::Verified;
        }
        judged
    }
}

fn is_by(key: &Key, message: &str, signature: &str) -> bool {
    let (Ok(der), Ok(signature)) = (STANDARD.decode(&key.spki), STANDARD.decode(signature)) else { return false };
    let Some(point) = der.strip_prefix(&SPKI) else { return false };
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(message.as_bytes(), &signature).is_ok()
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
    };
    use serde_json::json;

    use super::*;

    #[test]
    fn a_signature_is_worth_what_its_key_is_worth() {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &random).unwrap();
        let der = STANDARD.encode([&SPKI[..], pair.public_key().as_ref()].concat());
        let keys = |expires: Option<&str>| {
            let key = json!({ "keyid": "SHA256:a", "keytype": "x", "scheme": "ecdsa-sha2-nistp256", "key": der, "expires": expires });
            Keys::parse(json!({ "keys": [key] }).to_string().as_bytes()).unwrap()
        };
        let (name, version) = (NpmName::parse("@a/b").unwrap(), NpmVersion::parse("1.0.0").unwrap());
        let sign = |message: &str| STANDARD.encode(pair.sign(&random, message.as_bytes()).unwrap());
        let of = |keyid: &str, sig: String| Signature { keyid: keyid.into(), sig };
        let tarball = |signatures: Vec<Signature>| Tarball {
            url: "https://a.example/".parse().unwrap(),
            digest: crate::digest::Digest::of_blob(&crate::digest::BlobId::of(b"")),
            integrity: Some("sha512-x".into()),
            signatures,
            provenance: Claimed::None,
            published_at: "2026-01-01T00:00:00Z".parse().ok(),
        };
        let right = || of("SHA256:a", sign("@a/b@1.0.0:sha512-x"));
        let judge = |keys: &Keys, signatures| keys.judge(&name, &version, &tarball(signatures));
        assert_eq!(judge(&keys(None), vec![right()]), Claimed::Verified);
        assert_eq!(judge(&keys(Some("2026-02-01T00:00:00Z")), vec![right()]), Claimed::Verified, "made while the key was in force");
        assert_eq!(judge(&keys(Some("2025-12-01T00:00:00Z")), vec![right()]), Claimed::Stated);
        assert_eq!(judge(&keys(None), vec![of("SHA256:a", sign("@a/b@1.0.1:sha512-x"))]), Claimed::Invalid, "of another version");
        assert_eq!(judge(&keys(None), vec![right(), of("SHA256:a", "AAAA".into())]), Claimed::Invalid);
        assert_eq!(judge(&keys(None), vec![of("SHA256:other", sign("x"))]), Claimed::Stated);
        assert_eq!(judge(&keys(None), vec![]), Claimed::None);
    }
}
