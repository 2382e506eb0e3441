//! The one format of tokens: `<prefix>_<handle><secret><checksum>`.
//!
//! The handle (12 characters) finds the row, the secret (32, of 62 letters and digits: 190 bits) opens it, and the
//! checksum (6, CRC-32 of all before it) lets a scanner tell a token from a string that looks like one, and us
//! refuse a mistyped one without a look at the database.

use platform::random;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::model::TokenKind;

const HANDLE: usize = 12;
const SECRET: usize = 32;
const CHECKSUM: usize = 6;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A token that has the right form.
pub(crate) struct Token {
    pub(crate) kind: TokenKind,
    pub(crate) handle: String,
    hash: [u8; 32],
}

fn prefix(kind: TokenKind) -> &'static str {
    match kind {
        TokenKind::Personal => "fpt_",
        TokenKind::Service => "fst_",
        TokenKind::Operator => "fop_",
    }
}

impl Token {
    /// A fresh one, with the text that its holder gets.
    pub(crate) fn generate(kind: TokenKind) -> (Self, SecretString) {
        let mut text = String::from(prefix(kind));
        let handle = letters(HANDLE);
        text.push_str(&handle);
        text.push_str(&letters(SECRET));
        text.push_str(&checksum(&text));
        (Self { kind, handle, hash: hash(&text) }, text.into())
    }

    /// Reads what somebody sent; `None` for anything that we did not make.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let kind =
            [TokenKind::Personal, TokenKind::Service, TokenKind::Operator].into_iter().find(|kind| text.starts_with(prefix(*kind)))?;
        let body = &text[prefix(kind).len()..];
        if body.len() != HANDLE + SECRET + CHECKSUM || !body.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return None;
        }
        let (signed, sum) = text.split_at(text.len() - CHECKSUM);
        (checksum(signed) == sum).then(|| Self { kind, handle: body[..HANDLE].to_owned(), hash: hash(text) })
    }

    /// What the row keeps.
    pub(crate) fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// Whether the row keeps this token; takes the same time either way.
    pub(crate) fn matches(&self, stored: &[u8]) -> bool {
        self.hash.ct_eq(stored).into()
    }

    /// How tokens with this handle begin.
    pub(crate) fn beginning(kind: TokenKind, handle: &str) -> String {
        format!("{}{handle}", prefix(kind))
    }
}

/// A secret of 256 bits that is looked up by its hash alone: refresh tokens, invitations.
pub(crate) fn opaque() -> SecretString {
    base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, random::bytes::<32>()).into()
}

/// What a row keeps of an opaque secret.
pub(crate) fn opaque_hash(secret: &SecretString) -> [u8; 32] {
    hash(secret.expose_secret())
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// Uniform letters: bytes beyond the last whole multiple of 62 are drawn again.
fn letters(count: usize) -> String {
    let mut out = String::with_capacity(count);
    while out.len() < count {
        let fair = random::bytes::<64>().into_iter().filter(|byte| *byte < 248);
        out.extend(fair.take(count - out.len()).map(|byte| char::from(ALPHABET[usize::from(byte % 62)])));
    }
    out
}

fn checksum(text: &str) -> String {
    let mut sum = crc32fast::hash(text.as_bytes());
    let mut out = [b'0'; CHECKSUM];
    for place in out.iter_mut().rev() {
        *place = ALPHABET[(sum % 62) as usize];
        sum /= 62;
    }
    out.iter().map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_made() {
        for kind in [TokenKind::Personal, TokenKind::Service, TokenKind::Operator] {
            let (made, text) = Token::generate(kind);
            let read = Token::parse(text.expose_secret()).unwrap();
            assert_eq!((read.kind, &read.handle), (kind, &made.handle));
            assert!(made.matches(read.hash()));
            assert!(!made.matches(&[0; 32]) && !made.matches(&[]));
        }
    }

    proptest! {
        #[test]
        fn a_changed_token_is_none(at in 0usize..54, letter in 0usize..62) {
            let (_, text) = Token::generate(TokenKind::Service);
            let mut changed = text.expose_secret().as_bytes().to_vec();
            changed[at] = ALPHABET[letter];
            let changed = String::from_utf8(changed).unwrap();
            prop_assert!(changed == text.expose_secret() || Token::parse(&changed).is_none());
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "(fpt_|fst_|fop_)?\\PC{0,60}") {
            Token::parse(&text);
        }
    }
}
