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
            Ok((Watched { stream, unread: limits.unread, stalled: None, open: limits.open, _place: place }, service))
        })
    }
}

/// A connection that fails when what is written to it is not read for too long.
pub(crate) struct Watched<T> {
    stream: T,
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
        Pin::new(&mut self.stream).poll_read(context, buffer)
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
