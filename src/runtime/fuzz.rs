//! The parsers of what servers send, for the fuzzer: whatever they are given, they end, and what they give back
//! keeps their promises.

use platform::sse::Parts;

/// The events of a server elsewhere: the same ones, in whatever pieces they come.
///
/// # Panics
/// When a promise is not kept.
pub fn events(data: &[u8]) {
    let read = |piece: usize| {
        let (mut parts, mut found) = (Parts::default(), Vec::new());
        for piece in data.chunks(piece) {
            parts.buffer.extend_from_slice(piece);
            found.extend(std::iter::from_fn(|| parts.next()));
        }
        found
    };
    let whole = read(data.len().max(1));
    assert_eq!(whole, read(1));
    assert_eq!(whole, read(3));
}
