//! Secret keys of 256 bits as operators give them, and what is derived from them.
//!
//! The same rules hold for `CREDENTIAL_ENCRYPTION_KEY` and `JWT_SECRET_KEY`: 32 bytes as 64 hexadecimal
//! digits or as base64, or a passphrase that says that it is one. What does not parse is refused; it is
//! never taken for a passphrase, and no key is made up in its place.

use std::{collections::BTreeSet, fmt};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::random;

/// Fewer different bytes than this do not come from a generator: a random key has 30 of 32, and fewer
/// than 20 once in seven thousand million keys.
const DISTINCT: usize = 20;
/// Characters of a passphrase.
const PASSPHRASE_LEAST: usize = 20;
/// Words that examples and templates put where a key belongs.
const PLACEHOLDERS: &[&str] =
    &["changeme", "change-me", "change_me", "replace_me", "replace-me", "your-super-secure", "your-secret", "example"];

/// Why a key is refused; never quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Neither 64 hexadecimal digits nor base64 of 32 bytes.
    #[error("is not a key: 32 bytes as 64 hexadecimal digits or as base64 (or `passphrase:` and at least 20 characters)")]
    Shape,
    /// What documentation and templates have.
    #[error("is the placeholder of an example, which everybody knows")]
    Placeholder,
    /// Too regular to be random.
    #[error("is too regular to have come from a generator of random numbers")]
    Weak,
    /// Short, or easily guessed.
    #[error("holds a passphrase that is too easy to guess; at least 20 characters of several unrelated words")]
    WeakPassphrase,
}

/// A key as it was given.
#[derive(Clone)]
pub enum KeyInput {
    /// The bytes themselves.
    Raw(SecretKey),
    /// Stretched with Argon2id and a salt that the database keeps.
    Passphrase(SecretString),
}

/// 32 secret bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Debug for KeyInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl KeyInput {
    /// Parses what an operator gave.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if let Some(passphrase) = text.strip_prefix("passphrase:") {
            return Self::passphrase(passphrase.trim());
        }
        let lower = text.to_ascii_lowercase();
        if PLACEHOLDERS.iter().any(|word| lower.contains(word)) {
            return Err(KeyError::Placeholder);
        }
        let bytes = decode(text).ok_or(KeyError::Shape)?;
        if is_regular(&bytes) { Err(KeyError::Weak) } else { Ok(Self::Raw(SecretKey(bytes))) }
    }

    fn passphrase(text: &str) -> Result<Self, KeyError> {
        let lower = text.to_ascii_lowercase();
        if PLACEHOLDERS.iter().any(|word| lower.contains(word)) {
            return Err(KeyError::Placeholder);
        }
        let guessed = zxcvbn::zxcvbn(text, &[]).score();
        if text.chars().count() < PASSPHRASE_LEAST || guessed < zxcvbn::Score::Four {
            return Err(KeyError::WeakPassphrase);
        }
        Ok(Self::Passphrase(text.into()))
    }

    /// The key itself. Takes a third of a second and 64 MiB for a passphrase.
    pub fn resolve(&self, salt: &[u8; 16]) -> SecretKey {
        match self {
            Self::Raw(key) => key.clone(),
            Self::Passphrase(passphrase) => stretched(passphrase, salt),
        }
    }
}

/// Argon2id with 64 MiB, three passes and four lanes; the salt has 16 bytes.
#[expect(clippy::expect_used, reason = "the parameters and lengths are those that Argon2 takes, and a zero key would be worse")]
fn stretched(passphrase: &SecretString, salt: &[u8; 16]) -> SecretKey {
    let mut out = Zeroizing::new([0; 32]);
    let params = argon2::Params::new(64 * 1024, 3, 4, Some(32)).expect("parameters within the limits");
    let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    argon.hash_password_into(passphrase.expose_secret().as_bytes(), salt, &mut *out).expect("lengths within the limits");
    SecretKey(out)
}

/// Both alphabets of base64, with and without padding, and hexadecimal.
fn decode(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let bytes = match text.len() {
        64 => Zeroizing::new(random::unhex(text)?),
        43 | 44 => {
            let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
            let alphabet = if text.contains(['-', '_']) { &alphabet::URL_SAFE } else { &alphabet::STANDARD };
            Zeroizing::new(GeneralPurpose::new(alphabet, config).decode(text).ok()?)
        }
        _ => return None,
    };
    let mut out = Zeroizing::new([0; 32]);
    (bytes.len() == out.len()).then(|| {
        out.copy_from_slice(&bytes);
        out
    })
}

fn is_regular(bytes: &[u8; 32]) -> bool {
    let distinct = bytes.iter().collect::<BTreeSet<_>>().len();
    let step = bytes[1].wrapping_sub(bytes[0]);
    distinct < DISTINCT || bytes.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) == step)
}

impl SecretKey {
    /// A fresh one.
    pub fn generate() -> Self {
        loop {
            let key = Zeroizing::new(random::bytes::<32>());
            if !is_regular(&key) {
                return Self(key);
            }
        }
    }

    /// Exactly these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// As settings and key files have it.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(self.0.as_slice()))
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Names the key without telling anything about it: 16 hexadecimal digits, computed from the key, so
    /// that nobody can mislabel it.
    pub fn id(&self) -> String {
        let tag = self.mac(&[b"kid"]);
        random::hex(&tag[..8])
    }

    /// A key for one purpose (HKDF-SHA256, RFC 5869).
    #[must_use]
    #[expect(
        clippy::expect_used,
        clippy::missing_panics_doc,
        reason = "32 bytes are within what HKDF gives, and a zero key would be worse"
    )]
    pub fn derive(&self, salt: &[u8], purpose: &str) -> Self {
        let mut out = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(Some(salt), self.0.as_slice())
            .expand(purpose.as_bytes(), out.as_mut_slice())
            .expect("32 bytes are within the limit");
        Self(out)
    }

    /// HMAC-SHA256 (RFC 2104) over the parts, one after the other.
    pub fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.keyed(parts).finalize().into_bytes().into()
    }

    /// Whether `tag` is the HMAC-SHA256 of the parts; takes the same time either way.
    pub fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        self.keyed(parts).verify_slice(tag).is_ok()
    }

    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
    fn keyed(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_slice()).expect("HMAC takes keys of every length");
        for part in parts {
            mac.update(part);
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_hexadecimal_or_base64_of_32_bytes() {
        let key = SecretKey::generate();
        let text = key.to_base64();
        let hexadecimal = random::hex(key.expose());
        let url_safe = text.replace('+', "-").replace('/', "_");
        for given in
            [text.as_str(), text.trim_end_matches('='), &hexadecimal, &hexadecimal.to_uppercase(), &url_safe, &format!(" {hexadecimal}\n")]
        {
            let KeyInput::Raw(parsed) = KeyInput::parse(given).unwrap() else { panic!() };
            assert!(parsed == key);
        }
        for given in ["", "short", &hexadecimal[1..], &format!("{hexadecimal}0"), &text[1..], "hunter2hunter2hunter2hunter2hunter2hunter2!"]
        {
            assert_eq!(KeyInput::parse(given).unwrap_err(), KeyError::Shape, "{given}");
        }
    }

    #[test]
    fn keys_that_nobody_drew_are_refused() {
        let sequential: Vec<u8> = (0..32).collect();
        let few: Vec<u8> = (0..32).map(|n| n % 19 * 7).collect();
        for bytes in [vec![0; 32], vec![255; 32], sequential, few] {
            assert_eq!(KeyInput::parse(&random::hex(&bytes)).unwrap_err(), KeyError::Weak);
        }
        for text in
            ["your-super-secure-secret-key-change-in-production", "changeme", "__REPLACE_ME__", "passphrase:changeme changeme changeme"]
        {
            assert_eq!(KeyInput::parse(text).unwrap_err(), KeyError::Placeholder, "{text}");
        }
        for text in ["passphrase:", "passphrase:aaaaaaaaaaaaaaaaaaaaaaaaaaaa", "passphrase:password password password"] {
            assert_eq!(KeyInput::parse(text).unwrap_err(), KeyError::WeakPassphrase, "{text}");
        }
    }

    #[test]
    fn a_passphrase_gives_the_same_key_with_the_same_salt() {
        let input = KeyInput::parse("passphrase:violet anvil harbour 93 quince tundra").unwrap();
        assert!(input.resolve(b"sixteen bytes ok") == input.resolve(b"sixteen bytes ok"));
        assert!(input.resolve(b"sixteen bytes ok") != input.resolve(b"another salt, ok"));
    }

    #[test]
    fn what_is_printed_tells_nothing() {
        let key = SecretKey::generate();
        assert_eq!(format!("{key:?} {:?}", KeyInput::Raw(key.clone())), "[redacted] [redacted]");
        assert_eq!(key.id().len(), 16);
    }
}
