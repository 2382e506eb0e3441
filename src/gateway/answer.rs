//! How a request is answered over HTTP: by JSON when the answer comes first and soon, else by a stream of events.

use std::{convert::Infallible, pin::Pin, time::Duration};

use async_stream::stream;
use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::Stream as AsyncStream;
use tokio::sync::mpsc;

use crate::{
    rpc::{Fault, HEADER_MISMATCH, Id, METHOD_NOT_FOUND, MISSING_CAPABILITY, UNSUPPORTED_REVISION, response},
    stream::{ALIVE, COMMENT, event},
    work::Said,
};

/// After so long, a client hears that its request is worked on.
pub(crate) const SOON: Duration = Duration::from_secs(5);
/// How much may be said before the answer and wait for its reader.
pub(crate) const UNSAID: usize = 16;

/// The whole answer to a body, and its status where it has not begun; `None` for a request that was cancelled.
pub(crate) type Final = Option<(StatusCode, String)>;
/// What comes to be the answer.
pub(crate) type Working = Pin<Box<dyn Future<Output = Final> + Send>>;

/// What of a request decides on the form of its answer.
#[derive(Clone, Copy)]
pub(crate) struct Accepts {
    pub(crate) json: bool,
    pub(crate) events: bool,
}

impl Accepts {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut all = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok()).peekable();
        if all.peek().is_none() {
            return Self { json: true, events: false };
        }
        let (mut json, mut events) = (false, false);
        for kind in all.flat_map(|line| line.split(',')) {
            let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            json |= matches!(kind.as_str(), "application/json" | "application/*" | "*/*");
            events |= matches!(kind.as_str(), "text/event-stream" | "text/*" | "*/*");
        }
        Self { json, events }
    }
}

/// An answer to one request, as its era wants it.
pub(crate) fn last(id: &Id, answer: &Result<String, Fault>, is_modern: bool) -> Final {
    if matches!(answer, Err(Fault::Cancelled)) {
        return None;
    }
    let status = match answer {
        Ok(_) => StatusCode::OK,
        Err(fault) => status_of(fault, is_modern),
    };
    Some((status, response(Some(id), answer)))
}

/// The HTTP status of an error: a modern client reads it, too.
fn status_of(fault: &Fault, is_modern: bool) -> StatusCode {
    match fault {
        Fault::Ours { status, .. } if *status != StatusCode::OK => *status,
        fault if is_modern => match fault.code() {
            METHOD_NOT_FOUND => StatusCode::NOT_FOUND,
            HEADER_MISMATCH | MISSING_CAPABILITY | UNSUPPORTED_REVISION => StatusCode::BAD_REQUEST,
            _ => StatusCode::OK,
        },
        _ => StatusCode::OK,
    }
}

/// A message that could not be worked on.
pub(crate) fn refused(id: Option<&Id>, fault: Fault) -> Response {
    let status = match &fault {
        Fault::Ours { status, .. } => *status,
        Fault::Theirs(_) | Fault::Cancelled => StatusCode::BAD_REQUEST,
    };
    json(status, response(id, &Err(fault)))
}

pub(crate) fn json(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], body).into_response()
}

pub(crate) fn events(body: impl AsyncStream<Item = Result<Bytes, Infallible>> + Send + 'static) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // Proxies are to pass each event on when it comes.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(body)).into_response()
}

/// What comes first of a request.
pub(crate) enum First {
    /// Its answer.
    Answer(Final),
    /// Something else, or nothing for a while.
    Else(Option<Said>),
}

/// Waits for the first sign of a request; where nothing but an answer can be told, for that.
pub(crate) async fn first(working: &mut Working, said: &mut mpsc::Receiver<Said>, accepts: Accepts) -> First {
    let soon = tokio::time::sleep(SOON);
    tokio::pin!(soon);
    loop {
        tokio::select! {
            biased;
            Some(said) = said.recv() => if accepts.events { return First::Else(Some(said)) },
            answer = &mut *working => {
                // It may have said something on the way.
                if accepts.events && let Ok(said) = said.try_recv() {
                    *working = Box::pin(std::future::ready(answer));
                    return First::Else(Some(said));
                }
                return First::Answer(answer);
            }
            () = &mut soon, if accepts.events => return First::Else(None),
        }
    }
}

/// A stream that ends with the answer. Whoever stops reading stops the work.
pub(crate) fn stream_of(
    first: Option<Said>,
    mut said: mpsc::Receiver<Said>,
    mut working: Working,
) -> impl AsyncStream<Item = Result<Bytes, Infallible>> + Send + 'static {
    stream! {
        if let Some(first) = first {
            yield Ok(Bytes::from(event(None, &first.message)));
        }
        loop {
            tokio::select! {
                biased;
                Some(said) = said.recv() => yield Ok(Bytes::from(event(None, &said.message))),
                answer = &mut working => {
                    while let Ok(said) = said.try_recv() {
                        yield Ok(Bytes::from(event(None, &said.message)));
                    }
                    if let Some((_, answer)) = answer {
                        yield Ok(Bytes::from(event(None, &answer)));
                    }
                    return;
                }
                () = tokio::time::sleep(ALIVE) => yield Ok(Bytes::from_static(COMMENT.as_bytes())),
            }
        }
    }
}
