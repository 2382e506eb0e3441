//! The one door to randomness: the operating system's generator.

use std::time::Duration;

use rand::{Rng as _, RngExt as _, rngs::ThreadRng};

#[expect(clippy::disallowed_methods, reason = "this is the door")]
fn generator() -> ThreadRng {
    rand::rng()
}

/// `N` unpredictable bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    generator().fill_bytes(&mut out);
    out
}

/// A secret of 256 bits in lowercase hexadecimal.
pub fn token() -> String {
    hex(&bytes::<32>())
}

/// A wait somewhere between half of `limit` and all of it, so that retries do not march in step.
pub fn jitter(limit: Duration) -> Duration {
    limit.mul_f64(generator().random_range(0.5..=1.0))
}

/// Lowercase hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// The bytes of hexadecimal digits in either case, and nothing else.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    text.as_bytes().chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}
