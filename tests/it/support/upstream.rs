//! A registry on loopback that speaks the official API, with faults to order.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

const OFFICIAL: &str = "io.modelcontextprotocol.registry/official";

/// What goes wrong with one request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    Status(u16, Option<&'static str>),
    Delay(Duration),
    /// The answer ends in the middle, and so does the connection.
    Reset,
    /// The answer is whole, but its JSON is not.
    Truncated,
    Html,
    /// The answer names this cursor as the next one.
    Cursor(String),
    /// Further raw bytes stand among the entries.
    Raw(Vec<u8>),
}

#[derive(Default)]
struct Inner {
    entries: BTreeMap<(String, String), Value>,
    faults: VecDeque<(Option<String>, Fault)>,
    requests: Vec<String>,
    page_delay: Duration,
}

/// The registry.
#[derive(Clone)]
pub(crate) struct Upstream {
    inner: Arc<Mutex<Inner>>,
    pub(crate) url: String,
}

impl Upstream {
    pub(crate) async fn start(entries: Vec<Value>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let upstream = Self { inner: Arc::default(), url: format!("http://{address}") };
        upstream.put(entries);
        let service = Router::new().route("/v0.1/servers", get(list)).with_state(upstream.clone());
        tokio::spawn(async move { axum::serve(listener, service).await });
        upstream
    }

    /// Adds entries or replaces them.
    pub(crate) fn put(&self, entries: Vec<Value>) {
        let mut inner = self.inner.lock().unwrap();
        for entry in entries {
            let key =
                (entry["server"]["name"].as_str().unwrap().to_owned(), entry["server"]["version"].as_str().unwrap_or_default().to_owned());
            inner.entries.insert(key, entry);
        }
    }

    /// Removes a version without a trace.
    pub(crate) fn erase(&self, name: &str, version: &str) {
        self.inner.lock().unwrap().entries.remove(&(name.to_owned(), version.to_owned())).unwrap();
    }

    /// The next request goes wrong.
    pub(crate) fn fault(&self, fault: Fault) {
        self.inner.lock().unwrap().faults.push_back((None, fault));
    }

    /// The next request whose query contains `part` goes wrong.
    pub(crate) fn fault_at(&self, part: &str, fault: Fault) {
        self.inner.lock().unwrap().faults.push_back((Some(part.to_owned()), fault));
    }

    /// Every page takes so long.
    pub(crate) fn slow_down(&self, delay: Duration) {
        self.inner.lock().unwrap().page_delay = delay;
    }

    /// The queries so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.inner.lock().unwrap().requests.clone()
    }

    /// Every entry by name and version, as it is served.
    pub(crate) fn entries(&self) -> Vec<Value> {
        self.inner.lock().unwrap().entries.values().cloned().collect()
    }
}

#[derive(Deserialize)]
struct ListQuery {
    cursor: Option<String>,
    #[serde(default = "default_limit")]
    limit: usize,
    updated_since: Option<DateTime<Utc>>,
    version: Option<String>,
    #[serde(default)]
    include_deleted: bool,
}

fn default_limit() -> usize {
    30
}

async fn list(State(upstream): State<Upstream>, uri: axum::http::Uri, Query(query): Query<ListQuery>) -> Response {
    let (page, fault, delay) = {
        let mut inner = upstream.inner.lock().unwrap();
        let asked = uri.query().unwrap_or_default().to_owned();
        let place = inner.faults.iter().position(|(part, _)| part.as_ref().is_none_or(|part| asked.contains(part)));
        let fault = place.and_then(|place| inner.faults.remove(place)).map(|(_, fault)| fault);
        inner.requests.push(asked);
        (page(&inner.entries, &query), fault, inner.page_delay)
    };
    tokio::time::sleep(delay).await;
    let body = page.to_string();
    match fault {
        None => json_response(body.into()),
        Some(Fault::Status(status, retry_after)) => {
            let mut response = StatusCode::from_u16(status).unwrap().into_response();
            if let Some(wait) = retry_after {
                response.headers_mut().insert(header::RETRY_AFTER, wait.parse().unwrap());
            }
            response
        }
        Some(Fault::Delay(delay)) => {
            tokio::time::sleep(delay).await;
            json_response(body.into())
        }
        Some(Fault::Reset) => {
            let half = Bytes::from(body[..body.len() / 2].to_owned());
            let broken = async_stream::stream! {
                yield Ok::<_, std::io::Error>(half);
                yield Err(std::io::Error::other("reset"));
            };
            json_response(Body::from_stream(broken))
        }
        Some(Fault::Truncated) => json_response(body[..body.len() / 2].to_owned().into()),
        Some(Fault::Html) => ([(header::CONTENT_TYPE, "text/html")], "<html><body>Down for maintenance</body></html>").into_response(),
        Some(Fault::Cursor(cursor)) => {
            let mut page = page;
            page["metadata"]["nextCursor"] = cursor.into();
            json_response(page.to_string().into())
        }
        Some(Fault::Raw(raw)) => json_response(with_raw(&page, &raw).into()),
    }
}

/// The page with `raw` in front of its own entries.
fn with_raw(page: &Value, raw: &[u8]) -> Vec<u8> {
    let entries = page["servers"].as_array().unwrap().iter().map(|entry| entry.to_string().into_bytes());
    let all: Vec<Vec<u8>> = std::iter::once(raw.to_vec()).chain(entries).collect();
    [br#"{"servers":["#.to_vec(), all.join(&b','), format!(r#"],"metadata":{}}}"#, page["metadata"]).into_bytes()].concat()
}

fn json_response(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn page(entries: &BTreeMap<(String, String), Value>, query: &ListQuery) -> Value {
    let include_deleted = query.include_deleted || query.updated_since.is_some();
    let after = query.cursor.as_ref().map(|cursor| {
        let (name, version) = cursor.split_once(':').unwrap_or((cursor, ""));
        (name.to_owned(), version.to_owned())
    });
    let fits = |entry: &&Value| {
        let official = &entry["_meta"][OFFICIAL];
        let changed = || official["updatedAt"].as_str().and_then(|text| text.parse::<DateTime<Utc>>().ok());
        (include_deleted || official["status"] != "deleted")
            && query.updated_since.is_none_or(|since| changed().is_some_and(|at| at > since))
            && match query.version.as_deref() {
                None => true,
                Some("latest") => official["isLatest"] == true,
                Some(version) => entry["server"]["version"] == version,
            }
    };
    let found = entries.iter().filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after)).filter(|(_, entry)| fits(entry));
    let found: Vec<_> = found.take(query.limit).collect();
    let next = found.last().filter(|_| found.len() == query.limit).map(|((name, version), _)| format!("{name}:{version}"));
    let servers: Vec<&Value> = found.iter().map(|(_, entry)| *entry).collect();
    json!({ "servers": servers, "metadata": { "nextCursor": next, "count": servers.len() } })
}
