//! Streams of server-sent events that can be read again from where they broke off (revisions 2025-03-26 to 2025-11-25).

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::Stream as AsyncStream;
use tokio::sync::Notify;

/// How much of a stream is kept for a reader that is slow or comes back.
const MOST_EVENTS: usize = 512;
const MOST_BYTES: usize = 1 << 20;
/// How often a stream on which nothing happens says that it is there.
pub(crate) const ALIVE: Duration = Duration::from_secs(15);
/// A comment, which clients pass over.
pub(crate) const COMMENT: &str = ": here\n\n";

/// One stream of a session.
#[derive(Debug)]
pub(crate) struct Stream {
    number: u64,
    inner: Mutex<Inner>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    events: VecDeque<(u64, Bytes)>,
    bytes: usize,
    last: u64,
    /// The last that a reader was given.
    read: u64,
    is_done: bool,
    /// Counts readers: the newest one reads.
    reader: u64,
}

/// Where a reader was: which stream, and the last event that it had of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) stream: u64,
    pub(crate) event: u64,
}

impl Position {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (stream, event) = text.split_once('-')?;
        Some(Self { stream: stream.parse().ok()?, event: event.parse().ok()? })
    }
}

/// A message as an event; JSON has line ends between its words only.
pub(crate) fn event(id: Option<Position>, message: &str) -> String {
    let id = id.map(|id| format!("id: {}-{}\n", id.stream, id.event)).unwrap_or_default();
    if message.contains(['\n', '\r']) {
        return format!("{id}data: {}\n\n", message.replace(['\n', '\r'], " "));
    }
    format!("{id}data: {message}\n\n")
}

impl Stream {
    pub(crate) fn new(number: u64) -> Self {
        Self { number, inner: Mutex::default(), news: Notify::new() }
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message. What was read makes room first; where too much is unread, what may be lost is lost, and what may
    /// not pushes older events out.
    pub(crate) fn push(&self, message: &str, may_be_lost: bool) {
        let mut inner = self.inner();
        let is_full = |inner: &Inner| inner.events.len() >= MOST_EVENTS || inner.bytes + message.len() > MOST_BYTES;
        let had = inner.read;
        while is_full(&inner)
            && let Some((_, read)) = inner.events.pop_front_if(|(number, _)| *number <= had)
        {
            inner.bytes -= read.len();
        }
        if may_be_lost && is_full(&inner) {
            return;
        }
        while is_full(&inner)
            && let Some((_, oldest)) = inner.events.pop_front()
        {
            inner.bytes -= oldest.len();
        }
        inner.last += 1;
        let id = Position { stream: self.number, event: inner.last };
        let event = Bytes::from(event(Some(id), message));
        inner.bytes += event.len();
        inner.events.push_back((id.event, event));
        drop(inner);
        self.news.notify_one();
    }

    /// How much is kept of it.
    pub(crate) fn bytes(&self) -> usize {
        self.inner().bytes
    }

    /// Nothing comes any more.
    pub(crate) fn finish(&self) {
        self.inner().is_done = true;
        self.news.notify_one();
    }

    /// What comes after an event, or after what others were given. With `primed`, a first event gives the reader something
    /// to come back with. Another reader ends this one.
    pub(crate) fn read(
        self: Arc<Self>,
        after: Option<u64>,
        primed: bool,
    ) -> impl AsyncStream<Item = Result<Bytes, Infallible>> + Send + 'static {
        let (reader, after) = {
            let mut inner = self.inner();
            inner.reader += 1;
            (inner.reader, after.unwrap_or(inner.read))
        };
        self.news.notify_one();
        async_stream::stream! {
            if primed {
                yield Ok(Bytes::from(format!("id: {}-{after}\nretry: 1000\ndata: \n\n", self.number)));
            }
            let mut had = after;
            loop {
                let (events, is_over) = {
                    let mut inner = self.inner();
                    if inner.reader != reader {
                        // It may have been meant for the newer one.
                        self.news.notify_one();
                        return;
                    }
                    let events: Vec<(u64, Bytes)> = inner.events.iter().filter(|(number, _)| *number > had).cloned().collect();
                    inner.read = inner.last;
                    (events, inner.is_done)
                };
                for (number, event) in events {
                    had = number;
                    yield Ok(event);
                }
                if is_over {
                    return;
                }
                if tokio::time::timeout(ALIVE, self.news.notified()).await.is_err() {
                    yield Ok(Bytes::from_static(COMMENT.as_bytes()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    async fn texts(stream: &Arc<Stream>, after: Option<u64>) -> Vec<String> {
        let read: Vec<_> = Arc::clone(stream).read(after, false).collect().await;
        read.into_iter().map(|event| String::from_utf8(event.unwrap().to_vec()).unwrap()).collect()
    }

    #[tokio::test]
    async fn a_stream_is_read_on_from_where_it_broke_off() {
        let stream = Arc::new(Stream::new(3));
        for message in ["one", "two\n2", "three"] {
            stream.push(message, false);
        }
        stream.finish();
        assert_eq!(texts(&stream, Some(0)).await, ["id: 3-1\ndata: one\n\n", "id: 3-2\ndata: two 2\n\n", "id: 3-3\ndata: three\n\n"]);
        assert_eq!(texts(&stream, Some(2)).await, ["id: 3-3\ndata: three\n\n"]);
        assert!(texts(&stream, None).await.is_empty(), "all of it was read");
        assert_eq!(Position::parse("3-2"), Some(Position { stream: 3, event: 2 }));
        for rubbish in ["", "3", "-", "3-", "x-1", "3-2-1", "99999999999999999999-1"] {
            assert_eq!(Position::parse(rubbish), None, "{rubbish}");
        }
    }

    #[test]
    fn a_reader_that_does_not_read_costs_no_more_than_this() {
        let stream = Stream::new(1);
        for _ in 0..10_000 {
            stream.push(&"x".repeat(10_000), true);
        }
        assert!(stream.inner().bytes <= MOST_BYTES + 20_000);
        let unread = stream.inner().last;
        let late = "x".repeat(10_000);
        stream.push(&late, true);
        assert_eq!(stream.inner().last, unread, "what may be lost is lost");
        stream.inner().read = unread;
        stream.push(&late, true);
        assert_eq!(stream.inner().last, unread + 1, "what was read makes room");
        stream.push("the answer", false);
        assert!(stream.inner().bytes <= MOST_BYTES + 20_000);
        assert!(stream.inner().events.back().unwrap().1.ends_with(b"the answer\n\n"));
    }
}
