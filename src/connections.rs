//! What a connection may take: one of a limited number of places, for as long as its other end reads.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum_server::accept::Accept;
use prometheus::{IntCounter, IntGauge};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};

/// Accepts connections while there are places for them, and ends those whose other end stops reading.
#[derive(Clone, Debug)]
pub(crate) struct Limited<A> {
    accept: A,
    limits: Limits,
}

/// How many connections there may be, and how long an answer may be left unread.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) places: Arc<Semaphore>,
    pub(crate) unread: Duration,
    /// How long the first bytes of a request may take; what comes after them has limits of its own.
    pub(crate) silent: Duration,
    pub(crate) open: IntGauge,
    pub(crate) refused: IntCounter,
}

impl Limits {
    pub(crate) fn around<A>(self, accept: A) -> Limited<A> {
        Limited { accept, limits: self }
    }
}

type Accepting<T, S> = Pin<Box<dyn Future<Output = io::Result<(Watched<T>, S)>> + Send>>;

impl<A, S> Accept<TcpStream, S> for Limited<A>
where
    A: Accept<TcpStream, S> + Clone + Send + 'static,
    A::Future: Send,
    A::Stream: Send,
    A::Service: Send,
    S: Send + 'static,
{
    type Stream = Watched<A::Stream>;
    type Service = A::Service;
    type Future = Accepting<A::Stream, A::Service>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        // An event is a small write after another one, and would wait for the other end to confirm that.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection goes on with delays");
        }
        let Ok(place) = Arc::clone(&self.limits.places).try_acquire_owned() else {
            self.limits.refused.inc();
            return Box::pin(std::future::ready(Err(io::ErrorKind::ConnectionRefused.into())));
        };
        let (accepting, limits) = (self.accept.accept(stream, service), self.limits.clone());
        Box::pin(async move {
            let (stream, service) = accepting.await?;
            limits.open.inc();
            let opening = Some(Opening { heard: Vec::new(), limit: Box::pin(sleep(limits.silent)) });
            Ok((Watched { stream, opening, unread: limits.unread, stalled: None, open: limits.open, _place: place }, service))
        })
    }
}

/// The first bytes of a connection, by which the server tells one version of HTTP from another. HTTP/2 is not spoken here.
struct Opening {
    heard: Vec<u8>,
    limit: Pin<Box<Sleep>>,
}

/// How HTTP/2 begins (RFC 9113, section 3.4), and no request of HTTP/1.
const OTHER_VERSION: &[u8] = b"PRI";

/// A connection that fails when what is written to it is not read for too long.
pub(crate) struct Watched<T> {
    stream: T,
    opening: Option<Opening>,
    unread: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    open: IntGauge,
    _place: OwnedSemaphorePermit,
}

impl<T> Drop for Watched<T> {
    fn drop(&mut self) {
        self.open.dec();
    }
}

impl<T> Watched<T> {
    fn unless_stalled<R>(&mut self, written: Poll<io::Result<R>>, context: &mut Context<'_>) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(self.unread)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some(opening) = &mut self.opening else { return read };
        if read.is_pending() {
            ready!(opening.limit.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let wanted = OTHER_VERSION.len() - opening.heard.len();
        opening.heard.extend(buffer.filled()[before..].iter().take(wanted));
        if opening.heard == OTHER_VERSION {
            buffer.set_filled(before);
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        if opening.heard.len() == OTHER_VERSION.len() {
            self.opening = None;
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, buffer);
        self.unless_stalled(written, context)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffers: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.unless_stalled(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.unless_stalled(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.unless_stalled(shut, context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    fn watched<T>(stream: T, silent: Duration) -> Watched<T> {
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let opening = Some(Opening { heard: Vec::new(), limit: Box::pin(sleep(silent)) });
        let open = IntGauge::new("open", "open").unwrap();
        Watched { stream, opening, unread: Duration::from_secs(10), stalled: None, open, _place: place }
    }

    #[tokio::test]
    async fn who_says_nothing_at_first_is_not_waited_for() {
        for said in ["", "P", "PR"] {
            let (mut client, server) = duplex(64);
            client.write_all(said.as_bytes()).await.unwrap();
            let heard = watched(server, Duration::from_millis(20)).read_to_end(&mut Vec::new()).await;
            assert_eq!(heard.unwrap_err().kind(), io::ErrorKind::TimedOut, "{said:?}");
        }
    }

    #[tokio::test]
    async fn another_version_of_http_is_refused_and_requests_are_not() {
        for (said, kind) in [("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(io::ErrorKind::InvalidData)), ("POST / HTTP/1.1\r\n\r\n", None)] {
            let (mut client, server) = duplex(64);
            let mut server = watched(server, Duration::from_millis(20));
            // One byte at a time, as nobody sends it but those who try.
            let send = async {
                for byte in said.as_bytes() {
                    client.write_all(&[*byte]).await.ok();
                    tokio::task::yield_now().await;
                }
                // A pause after the first bytes is a matter of the server's own limits.
                tokio::time::sleep(Duration::from_millis(60)).await;
                drop(client);
            };
            let mut text = Vec::new();
            let (heard, ()) = tokio::join!(server.read_to_end(&mut text), send);
            assert_eq!(heard.map_err(|error| error.kind()).err(), kind, "{said:?}");
            assert_eq!(text == said.as_bytes(), kind.is_none(), "{said:?}");
        }
    }
}
