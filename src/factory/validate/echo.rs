//! An API on loopback that keeps what it is asked, and answers as it is told to.

use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use tokio::{net::TcpListener, sync::oneshot};

const LARGEST: usize = 16 << 20;

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// An object.
    Well,
    /// This status, with what it was told of who asks.
    Status(u16),
    /// More than anybody reads.
    Huge,
    /// A redirect to another host.
    Away,
    /// Not at all.
    Never,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// As it was written.
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

#[derive(Default)]
struct Kept {
    asked: Mutex<Vec<Asked>>,
    mode: Mutex<Option<Mode>>,
}

/// The API, for as long as this lives.
pub(crate) struct Echo {
    kept: Arc<Kept>,
    port: u16,
    _stop: oneshot::Sender<()>,
}

impl Echo {
    #[expect(clippy::disallowed_methods, reason = "ends with what it is dropped with")]
    pub(crate) async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let kept: Arc<Kept> = Arc::default();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&kept));
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(async move {
            let served = axum::serve(listener, router).with_graceful_shutdown(async { drop(stopped.await) });
            // Connections that are kept open are not waited for.
            tokio::time::timeout(std::time::Duration::from_mins(10), served).await
        });
        Ok(Self { kept, port, _stop: stop })
    }

    /// The address of one of several bases.
    pub(crate) fn base(&self, number: usize) -> String {
        format!("http://127.0.0.1:{}{}", self.port, Self::prefix(number))
    }

    /// The path of a base.
    pub(crate) fn prefix(number: usize) -> String {
        format!("/base-{number}")
    }

    pub(crate) fn set(&self, mode: Mode) {
        *self.kept.mode.lock().unwrap_or_else(PoisonError::into_inner) = Some(mode);
    }

    /// What was asked since this was called last.
    pub(crate) fn taken(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.kept.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn answer(State(kept): State<Arc<Kept>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, LARGEST).await.unwrap_or_default();
    let said = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let said = format!("{said} {}", parts.uri.query().unwrap_or_default());
    let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().unwrap_or_default().to_owned());
    let asked = Asked { method: parts.method.to_string(), path, query, headers: parts.headers, body };
    kept.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
    let mode = kept.mode.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(Mode::Well);
    let json = [(header::CONTENT_TYPE, "application/json")];
    match mode {
        Mode::Well => (json, r#"{"echo":true}"#).into_response(),
        Mode::Status(status) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let body = serde_json::json!({ "message": "the API says why", "you_sent": said }).to_string();
            (status, [(header::CONTENT_TYPE, "application/json"), (header::RETRY_AFTER, "0")], body).into_response()
        }
        Mode::Huge => {
            let chunk = Bytes::from(vec![b'x'; 1 << 20]);
            let chunks = futures_util::stream::iter((0..12).map(move |_| Ok::<_, std::convert::Infallible>(chunk.clone())));
            ([(header::CONTENT_TYPE, "text/plain")], Body::from_stream(chunks)).into_response()
        }
        Mode::Away => (StatusCode::FOUND, [(header::LOCATION, "http://192.0.2.1/elsewhere")]).into_response(),
        Mode::Never => std::future::pending().await,
    }
}
