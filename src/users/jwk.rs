//! Keys of an external issuer (JSON Web Keys, RFC 7517) and signatures that they made (RFC 7515, RFC 7518, RFC 8037).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;

/// What an issuer publishes (RFC 7517, section 5).
#[derive(Debug, Default, Deserialize)]
pub(crate) struct KeySet {
    keys: Vec<Key>,
}

/// One key. Those that are not understood verify nothing.
#[derive(Debug, Deserialize)]
struct Key {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// The part of a header that says what was signed how.
#[derive(Debug, Deserialize)]
pub(crate) struct Header {
    pub(crate) alg: String,
    pub(crate) kid: Option<String>,
    pub(crate) typ: Option<String>,
    /// Extensions that must be understood: we know none.
    pub(crate) crit: Option<serde_json::Value>,
}

/// What came of looking for a signature's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// One of the keys made it.
    Good,
    /// None did.
    Bad,
    /// There is no key that could have; a newer set may have one.
    NoKey,
}

impl KeySet {
    /// Whether one of these keys signed `message`. Algorithms with a shared secret, and `none`, are none.
    pub(crate) fn verify(&self, header: &Header, message: &[u8], signature: &[u8]) -> Verdict {
        let mut fitting = self.keys.iter().filter(|key| key.fits(header)).peekable();
        if fitting.peek().is_none() {
            return Verdict::NoKey;
        }
        if fitting.any(|key| key.verify(&header.alg, message, signature).is_some()) { Verdict::Good } else { Verdict::Bad }
    }
}

impl Key {
    fn fits(&self, header: &Header) -> bool {
        let kind = match header.alg.as_str() {
            "RS256" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512" => ("RSA", None),
            "ES256" => ("EC", Some("P-256")),
            "ES384" => ("EC", Some("P-384")),
            "EdDSA" => ("OKP", Some("Ed25519")),
            _ => return false,
        };
        kind.0 == self.kty
            && (kind.1.is_none() || kind.1 == self.crv.as_deref())
            && header.kid.as_ref().is_none_or(|kid| self.kid.as_ref() == Some(kid))
            && self.alg.as_ref().is_none_or(|alg| *alg == header.alg)
            && self.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
    }

    fn verify(&self, alg: &str, message: &[u8], signature: &[u8]) -> Option<()> {
        let part = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
        let rsa = match alg {
            "RS256" => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
            "RS384" => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
            "RS512" => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
            "PS256" => Some(&signature::RSA_PSS_2048_8192_SHA256),
            "PS384" => Some(&signature::RSA_PSS_2048_8192_SHA384),
            "PS512" => Some(&signature::RSA_PSS_2048_8192_SHA512),
            _ => None,
        };
        if let Some(rsa) = rsa {
            return RsaPublicKeyComponents { n: part(&self.n)?, e: part(&self.e)? }.verify(rsa, message, signature).ok();
        }
        let point = || Some([vec![4], part(&self.x)?, part(&self.y)?].concat());
        let (how, public): (&'static dyn signature::VerificationAlgorithm, Vec<u8>) = match alg {
            "ES256" => (&signature::ECDSA_P256_SHA256_FIXED, point()?),
            "ES384" => (&signature::ECDSA_P384_SHA384_FIXED, point()?),
            "EdDSA" => (&signature::ED25519, part(&self.x)?),
            _ => return None,
        };
        UnparsedPublicKey::new(how, public).verify(message, signature).ok()
    }
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
    };
    use serde_json::{Value, json};

    use super::*;

    fn set(keys: &Value) -> KeySet {
        serde_json::from_value(json!({ "keys": keys })).unwrap()
    }

    fn header(alg: &str, kid: Option<&str>) -> Header {
        Header { alg: alg.into(), kid: kid.map(Into::into), typ: None, crit: None }
    }

    #[test]
    fn only_the_key_that_signed_says_so() {
        let random = SystemRandom::new();
        let pair = |random| {
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, random).unwrap();
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), random).unwrap()
        };
        let jwk = |pair: &EcdsaKeyPair, kid: &str| {
            let point = pair.public_key().as_ref();
            json!({ "kty": "EC", "crv": "P-256", "kid": kid, "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..]) })
        };
        let (own, other) = (pair(&random), pair(&random));
        let keys = set(&json!([jwk(&other, "b"), jwk(&own, "a")]));
        let signed = own.sign(&random, b"message").unwrap();
        let verify = |alg: &str, kid: Option<&str>, message: &[u8]| keys.verify(&header(alg, kid), message, signed.as_ref());
        assert_eq!(verify("ES256", Some("a"), b"message"), Verdict::Good);
        assert_eq!(verify("ES256", None, b"message"), Verdict::Good, "by any of them");
        assert_eq!(verify("ES256", Some("a"), b"massage"), Verdict::Bad);
        assert_eq!(verify("ES256", Some("b"), b"message"), Verdict::Bad);
        assert_eq!(verify("ES256", Some("c"), b"message"), Verdict::NoKey);
        for alg in ["none", "HS256", "RS256", "ES384", "EdDSA", "es256", ""] {
            assert_eq!(verify(alg, Some("a"), b"message"), Verdict::NoKey, "{alg}");
        }
    }

    #[test]
    fn a_key_for_something_else_signs_nothing() {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let signed = pair.sign(b"message");
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let verify = |more: &Value| {
            let mut key = json!({ "kty": "OKP", "crv": "Ed25519", "x": x });
            key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            set(&json!([key])).verify(&header("EdDSA", None), b"message", signed.as_ref())
        };
        assert_eq!(verify(&json!({ "use": "sig", "alg": "EdDSA" })), Verdict::Good);
        assert_eq!(verify(&json!({ "use": "enc" })), Verdict::NoKey);
        assert_eq!(verify(&json!({ "alg": "ES256" })), Verdict::NoKey);
        assert_eq!(verify(&json!({ "crv": "Ed448" })), Verdict::NoKey);
        for broken in ["", "!", "AAAA"] {
            assert_eq!(verify(&json!({ "x": broken })), Verdict::Bad, "{broken}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_key_and_no_signature_makes_it_panic(n in "\\PC*", alg in "(RS256|PS512|ES256|ES384|EdDSA)", signature: Vec<u8>) {
            let key = json!({ "kty": "RSA", "n": n, "e": "AQAB" });
            let point = json!({ "kty": "EC", "crv": "P-256", "x": n, "y": n });
            let verdict = set(&json!([key, point])).verify(&header(&alg, None), b"m", &signature);
            proptest::prop_assert_ne!(verdict, Verdict::Good);
        }
    }
}
