//! SHA-256, as it is written everywhere here.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// Hexadecimal, lower case.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
