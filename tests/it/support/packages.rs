//! A registry of packages on loopback: it serves what a test puts at a path, with ranges and with troubles.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_stream::stream;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha512};

/// What goes wrong with one request.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    Status(u16),
    /// Other bytes of the same length.
    Tampered,
    /// The connection ends after so many bytes.
    BrokenAt(usize),
    /// The whole answer is shorter, and says so.
    Short,
    /// Bytes without an end.
    Endless,
    /// One byte a second.
    Drip,
    Redirect(String),
    Wait(Duration),
    /// 401, with this challenge.
    Challenge(String),
}

#[derive(Default)]
struct Inner {
    files: HashMap<String, (String, Bytes)>,
    troubles: HashMap<String, VecDeque<Trouble>>,
    requests: Vec<(String, Option<String>)>,
    /// Paths that were asked for with an `Authorization` header.
    authorized: HashSet<String>,
}

/// The registry.
#[derive(Clone)]
pub(crate) struct Packages {
    inner: Arc<Mutex<Inner>>,
    pub(crate) url: String,
}

impl Packages {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let packages = Self { inner: Arc::default(), url: format!("http://{}", listener.local_addr().unwrap()) };
        let service = Router::new().fallback(serve).with_state(packages.clone());
        tokio::spawn(async move { axum::serve(listener, service).await });
        packages
    }

    /// The settings that make this the registry of everything.
    pub(crate) fn settings(&self) -> [(&'static str, String); 2] {
        [("FABRIC_NPM_REGISTRY", format!("{}/npm/", self.url)), ("FABRIC_PYPI_INDEX", format!("{}/simple/", self.url))]
    }

    pub(crate) fn put(&self, path: &str, content_type: &str, bytes: impl Into<Bytes>) {
        self.inner.lock().unwrap().files.insert(path.to_owned(), (content_type.to_owned(), bytes.into()));
    }

    /// What was put at a path.
    pub(crate) fn document(&self, path: &str) -> Value {
        serde_json::from_slice(&self.inner.lock().unwrap().files[path].1).unwrap()
    }

    /// Goes wrong at the next request for this path.
    pub(crate) fn trouble(&self, path: &str, trouble: Trouble) {
        self.inner.lock().unwrap().troubles.entry(path.to_owned()).or_default().push_back(trouble);
    }

    /// How often a path was asked for.
    pub(crate) fn asked(&self, path: &str) -> usize {
        self.inner.lock().unwrap().requests.iter().filter(|(asked, _)| asked == path).count()
    }

    /// How much was asked for altogether.
    pub(crate) fn requests(&self) -> usize {
        self.inner.lock().unwrap().requests.len()
    }

    /// Whether a path was asked for with an `Authorization` header.
    pub(crate) fn authorized(&self, path: &str) -> bool {
        self.inner.lock().unwrap().authorized.contains(path)
    }

    /// The ranges that were asked for at a path.
    pub(crate) fn ranges(&self, path: &str) -> Vec<Option<String>> {
        let inner = self.inner.lock().unwrap();
        inner.requests.iter().filter(|(asked, _)| asked == path).map(|(_, range)| range.clone()).collect()
    }

    /// An npm package with one version, whose tarball is these bytes; `change` edits what is stated of it.
    pub(crate) fn npm(&self, name: &str, version: &str, tarball: &[u8], change: impl FnOnce(&mut Value)) {
        let base = name.rsplit('/').next().unwrap();
        let path = format!("/files/{base}-{version}.tgz");
        self.put(&path, "application/octet-stream", tarball.to_vec());
        let integrity = format!("sha512-{}", STANDARD.encode(Sha512::digest(tarball)));
        let mut dist = json!({ "tarball": format!("{}{path}", self.url), "integrity": integrity });
        change(&mut dist);
        let document = json!({
            "name": name, "readme": "words", "dist-tags": { "latest": version }, "time": { "modified": "2026-01-01T00:00:00Z" },
            "versions": { version: { "name": name, "version": version, "scripts": { "x": "y" }, "dist": dist } },
        });
        self.put(&format!("/npm/{}", name.replace('/', "%2F")), "application/json", document.to_string());
    }

    /// A Python project with one wheel and its metadata.
    pub(crate) fn pypi(&self, name: &str, version: &str, wheel: &[u8]) {
        let file = format!("{}-{version}-py3-none-any.whl", name.replace('-', "_"));
        let sha256 = |bytes: &[u8]| platform::random::hex(&Sha256::digest(bytes));
        let metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n");
        self.put(&format!("/wheels/{file}"), "application/octet-stream", wheel.to_vec());
        self.put(&format!("/wheels/{file}.metadata"), "text/plain", metadata.clone());
        let page = json!({ "meta": { "api-version": "1.1" }, "name": name, "files": [{
            "filename": file, "url": format!("../../wheels/{file}"), "size": wheel.len(), "requires-python": ">=3.10",
            "hashes": { "sha256": sha256(wheel) }, "core-metadata": { "sha256": sha256(metadata.as_bytes()) },
        }] });
        self.put(&format!("/simple/{name}/"), "application/vnd.pypi.simple.v1+json", page.to_string());
    }
}

/// The name that bytes have in a registry of images.
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", platform::random::hex(&Sha256::digest(bytes)))
}

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

impl Packages {
    /// `host:port`.
    pub(crate) fn host(&self) -> String {
        self.url.strip_prefix("http://").unwrap().to_owned()
    }

    /// An image for one platform; gives its manifest's digest.
    pub(crate) fn image(&self, repository: &str, layers: &[&[u8]], change: impl FnOnce(&mut Value)) -> String {
        self.put("/v2/", "application/json", "{}");
        let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [] } }).to_string();
        let part = |bytes: &[u8]| {
            self.put(&format!("/v2/{repository}/blobs/{}", digest(bytes)), "application/octet-stream", bytes.to_vec());
            json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(bytes), "size": bytes.len() })
        };
        let layers: Vec<Value> = layers.iter().map(|layer| part(layer)).collect();
        let mut manifest = json!({ "schemaVersion": 2, "mediaType": IMAGE, "config": part(config.as_bytes()), "layers": layers });
        change(&mut manifest);
        let text = manifest.to_string();
        let name = digest(text.as_bytes());
        self.put(&format!("/v2/{repository}/manifests/{name}"), IMAGE, text);
        name
    }

    /// A tag for images by platform (`linux/amd64`).
    pub(crate) fn index(&self, repository: &str, tag: &str, images: &[(&str, &str)]) -> String {
        let entry = |(platform, name): &(&str, &str)| {
            let (os, architecture) = platform.split_once('/').unwrap();
            json!({ "mediaType": IMAGE, "digest": name, "size": 1, "platform": { "os": os, "architecture": architecture } })
        };
        let text = json!({ "schemaVersion": 2, "manifests": images.iter().map(entry).collect::<Vec<_>>() }).to_string();
        self.put(&format!("/v2/{repository}/manifests/{tag}"), "application/vnd.oci.image.index.v1+json", text.clone());
        digest(text.as_bytes())
    }
}

async fn serve(State(packages): State<Packages>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let (found, trouble) = {
        let mut inner = packages.inner.lock().unwrap();
        let range = request.headers().get(header::RANGE).map(|range| range.to_str().unwrap().to_owned());
        inner.requests.push((path.clone(), range));
        if request.headers().contains_key(header::AUTHORIZATION) {
            inner.authorized.insert(path.clone());
        }
        let trouble = inner.troubles.get_mut(&path).and_then(VecDeque::pop_front);
        (inner.files.get(&path).cloned(), trouble)
    };
    let Some((content_type, bytes)) = found else { return StatusCode::NOT_FOUND.into_response() };
    let plain = |bytes: Bytes| ([(header::CONTENT_TYPE, content_type.clone())], bytes).into_response();
    match trouble {
        None => whole_or_part(&bytes, request.headers(), &content_type),
        Some(Trouble::Status(status)) => StatusCode::from_u16(status).unwrap().into_response(),
        Some(Trouble::Tampered) => plain(bytes.iter().map(|byte| byte ^ 1).collect()),
        Some(Trouble::Short) => plain(bytes.slice(..bytes.len() / 2)),
        Some(Trouble::Redirect(to)) => (StatusCode::FOUND, [(header::LOCATION, to)]).into_response(),
        Some(Trouble::Challenge(text)) => (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, text)]).into_response(),
        Some(Trouble::Wait(time)) => {
            tokio::time::sleep(time).await;
            plain(bytes)
        }
        Some(Trouble::BrokenAt(at)) => {
            let (length, tag) = (bytes.len(), etag(&bytes));
            let broken = stream! {
                yield Ok(bytes.slice(..at));
                tokio::time::sleep(Duration::from_millis(50)).await;
                yield Err(std::io::Error::other("broken as planned"));
            };
            let headers = [(header::CONTENT_LENGTH, length.to_string()), (header::ETAG, tag)];
            (headers, Body::from_stream(broken)).into_response()
        }
        Some(Trouble::Endless) => {
            let zeros = Bytes::from(vec![0; 64 << 10]);
            let endless = stream! {
                loop {
                    yield Ok::<_, Infallible>(zeros.clone());
                }
            };
            Body::from_stream(endless).into_response()
        }
        Some(Trouble::Drip) => {
            let drip = stream! {
                for byte in bytes {
                    yield Ok::<_, Infallible>(Bytes::from(vec![byte]));
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            Body::from_stream(drip).into_response()
        }
    }
}

fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", &digest(bytes)[7..23])
}

fn whole_or_part(bytes: &Bytes, headers: &HeaderMap, content_type: &str) -> Response {
    let etag = (header::ETAG, etag(bytes));
    if headers.get(header::IF_NONE_MATCH).is_some_and(|tag| *tag == etag.1) {
        return StatusCode::NOT_MODIFIED.into_response();
    }
    let range: Option<usize> =
        headers.get(header::RANGE).and_then(|range| range.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let content_type = (header::CONTENT_TYPE, content_type.to_owned());
    // As Docker Hub says how many pulls are left.
    let left = ("ratelimit-remaining", "76;w=21600");
    match range {
        Some(from) => {
            let part = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            (StatusCode::PARTIAL_CONTENT, [content_type, etag, (header::CONTENT_RANGE, part)], bytes.slice(from..)).into_response()
        }
        None => ([content_type, etag], [left], bytes.clone()).into_response(),
    }
}
