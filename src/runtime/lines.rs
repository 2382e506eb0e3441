//! Lines of a stranger, none of which is kept beyond [`LONGEST_LINE`].

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

/// A line that is longer is passed over: nobody's answer is so long, and it would have to be kept whole.
const LONGEST_LINE: usize = 16 << 20;

/// What came.
pub(crate) enum Line<'a> {
    Whole(&'a [u8]),
    TooLong,
}

/// Reads them one after the other.
pub(crate) struct Lines<R> {
    reader: BufReader<R>,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(crate) fn new(output: R) -> Self {
        Self { reader: BufReader::with_capacity(32 << 10, output), buffer: Vec::new() }
    }

    pub(crate) async fn next(&mut self) -> Option<Line<'_>> {
        self.buffer.clear();
        if self.buffer.capacity() > 1 << 20 {
            self.buffer.shrink_to(1 << 20);
        }
        let mut is_too_long = false;
        loop {
            let chunk = self.reader.fill_buf().await.ok()?;
            if chunk.is_empty() {
                return (!self.buffer.is_empty() && !is_too_long).then_some(Line::Whole(&self.buffer));
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(chunk.len());
            if !is_too_long && self.buffer.len() + taken <= LONGEST_LINE {
                self.buffer.extend_from_slice(&chunk[..taken]);
            } else {
                is_too_long = true;
                self.buffer = Vec::new();
            }
            self.reader.consume(end.map_or(taken, |end| end + 1));
            if end.is_some() {
                return Some(if is_too_long { Line::TooLong } else { Line::Whole(&self.buffer) });
            }
        }
    }
}
