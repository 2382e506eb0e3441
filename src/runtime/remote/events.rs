//! What a server elsewhere answers: a body, or events one after another.

use std::time::Duration;

use futures_util::StreamExt as _;
use platform::sse::Parts;
use reqwest::Response;

use super::lost::{Lost, unreachable};

/// What one event or body may measure.
const LONGEST: usize = 16 << 20;
const LONGEST_RETRY: Duration = Duration::from_secs(30);

pub(super) async fn body(response: Response) -> Result<Vec<u8>, Lost> {
    let (mut chunks, mut body) = (response.bytes_stream(), Vec::new());
    while let Some(chunk) = chunks.next().await {
        body.extend_from_slice(&chunk.map_err(|error| unreachable(&error))?);
        if body.len() > LONGEST {
            return Err(Lost::Refused("its answer is larger than 16 MiB".into()));
        }
    }
    Ok(body)
}

/// How far a stream was read, and how long it wants to be left alone before it is taken up again.
#[derive(Clone, Default)]
pub(super) struct Place {
    pub(super) last: Option<String>,
    pub(super) retry: Option<Duration>,
}

/// Events of a stream (the WHATWG's server-sent events), as far as MCP uses them.
pub(super) struct Events {
    chunks: futures_util::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    parts: Parts,
    pub(super) place: Place,
}

impl Events {
    pub(super) fn new(response: Response) -> Self {
        Self::at(Place::default(), response)
    }

    /// The rest of a stream that was read up to there.
    pub(super) fn at(place: Place, response: Response) -> Self {
        Self { chunks: response.bytes_stream().boxed(), parts: Parts::default(), place }
    }

    /// The kind and the data of the next event that has data.
    pub(super) async fn next(&mut self) -> Result<Option<(String, String)>, Lost> {
        loop {
            if let Some(event) = self.parts.next() {
                self.place.last = event.id.or(self.place.last.take());
                self.place.retry = event.retry.map(|retry| retry.min(LONGEST_RETRY)).or(self.place.retry);
                if event.data.is_empty() {
                    continue;
                }
                return Ok(Some((event.kind, event.data)));
            }
            if self.parts.buffer.len() > LONGEST {
                return Err(Lost::Refused("an event of it is larger than 16 MiB".into()));
            }
            match self.chunks.next().await {
                Some(Ok(chunk)) => self.parts.buffer.extend_from_slice(&chunk),
                // A stream that breaks off has told what it told.
                Some(Err(_)) | None => return Ok(None),
            }
        }
    }
}
