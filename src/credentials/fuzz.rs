//! The readers of data from outside, for the fuzzer: whatever they are given, they end, and nothing opens that was not
//! sealed.

use platform::keys::SecretKey;

use crate::{
    dotenv,
    envelope::{self, Identity, Sealed},
    model::{EnvVar, UserRef},
};

/// A row of the vault as somebody with the database could have written it: nothing of it opens.
///
/// # Panics
/// When something opens.
pub fn row(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.split('\n');
    let mut next = || parts.next().unwrap_or_default().to_owned();
    let (value, iv) = (next(), next());
    let sealed =
        Sealed { value, iv, kek_version: 1, wrapped_dek: data.iter().rev().take(60).copied().collect(), key_commit: data.to_vec() };
    let key = SecretKey::from_bytes([7; 32]);
    let identity = Identity { domain: "mcp-cred/1", id: uuid::Uuid::nil(), parts: ["a", "b", "C"], rev: 1 };
    assert!(envelope::open(&key, &identity, &sealed).is_err());
    envelope::open_plain(&key, &sealed.value, &sealed.iv).ok();
}

/// Names and files that people send.
///
/// # Panics
/// When a name is taken that is not what it says.
pub fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    dotenv::parse(&text).ok();
    if let Ok(name) = EnvVar::parse(&text) {
        assert!(name.as_str() == text && !name.as_str().contains('='));
    }
    if let Ok(user) = UserRef::parse(&text) {
        assert!(!user.as_str().is_empty() && !user.as_str().contains('\0'));
    }
}
