//! SHA-256, as it is written everywhere here.

use platform::random;
use sha2::{Digest as _, Sha256};

/// Hexadecimal, lower case.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    random::hex(&Sha256::digest(bytes))
}
