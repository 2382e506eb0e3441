//! The readers of what callers send to be let in, for the fuzzer.

use platform::{clock, keys::SecretKey};

use crate::{email::Email, jwt::Jwt, token::Token};

/// Tokens and addresses: none that we did not make is taken, and an address that is taken is its own canonical form.
///
/// # Panics
/// When a promise is not kept.
pub fn callers(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    Token::parse(&text);
    let jwt = Jwt::new(SecretKey::from_bytes([7; 32]));
    assert!(jwt.read(&text, clock::now()).is_none());
    if let Ok(email) = Email::parse(&text) {
        assert_eq!(Email::parse(email.as_str()).as_ref(), Ok(&email));
    }
}
