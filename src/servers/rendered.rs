//! Registry answers kept in memory as they are sent.
//!
//! PostgreSQL is the truth; an answer is kept until the catalogue changes anywhere, which
//! [`Rendered::forget`] is told. Answers belong to the generation in which their rendering began, so
//! one that is overtaken by a change is never served after it.

use std::{
    future::Future,
    io::Write as _,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use moka::future::Cache;
use platform::random::hex;
use sha2::{Digest as _, Sha256};

/// Below this a compressed answer is not worth its header.
const COMPRESS_FROM: usize = 1024;

/// How many headers an answer has in the end, about.
const HEADERS: usize = 16;

/// One answer.
pub(crate) struct Answer {
    body: Bytes,
    etag: HeaderValue,
    /// Made when a client first takes it.
    compressed: OnceLock<Bytes>,
}

impl Answer {
    pub(crate) fn new(body: String) -> Self {
        let etag = format!("\"{}\"", hex(&Sha256::digest(body.as_bytes())[..16]));
        let etag = HeaderValue::from_str(&etag).unwrap_or_else(|_| HeaderValue::from_static("\"\""));
        Self { body: body.into(), etag, compressed: OnceLock::new() }
    }

    /// The answer to a request with these headers: whole, compressed, or 304 (RFC 9110, section 13).
    pub(crate) fn respond(&self, headers: &HeaderMap) -> Response {
        let mut response = Response::default();
        // With what the layers around add, it need not grow.
        *response.headers_mut() = HeaderMap::with_capacity(HEADERS);
        if self.is_known(headers) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else if self.body.len() >= COMPRESS_FROM && accepts_gzip(headers) {
            *response.body_mut() = Body::from(self.compressed.get_or_init(|| compress(&self.body)).clone());
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        } else {
            *response.body_mut() = Body::from(self.body.clone());
        }
        let out = response.headers_mut();
        out.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        out.insert(header::ETAG, self.etag.clone());
        out.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        out.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        response
    }

    fn is_known(&self, headers: &HeaderMap) -> bool {
        let own = self.etag.to_str().unwrap_or_default();
        headers
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(','))
            .map(|tag| tag.trim().trim_start_matches("W/"))
            .any(|tag| tag == "*" || tag == own)
    }
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let Some(accepted) = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()) else { return false };
    let mut any = false;
    for part in accepted.split(',') {
        let mut pieces = part.split(';').map(str::trim);
        let coding = pieces.next().unwrap_or_default();
        let wanted = !pieces.any(|weight| weight.strip_prefix("q=").and_then(|q| q.parse::<f32>().ok()) == Some(0.0));
        if coding.eq_ignore_ascii_case("gzip") {
            return wanted;
        }
        any |= coding == "*" && wanted;
    }
    any
}

fn compress(body: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 3), Compression::default());
    let compressed = encoder.write_all(body).and_then(|()| encoder.finish());
    // Writing into memory does not fail.
    compressed.unwrap_or_default().into()
}

/// The answers in memory.
pub(crate) struct Rendered {
    answers: Cache<(u64, String), Arc<Answer>>,
    generation: AtomicU64,
}

impl Rendered {
    /// Holds answers of up to `bytes` altogether.
    pub(crate) fn new(bytes: u64) -> Self {
        // Half of the room is for the compressed forms and for what each entry costs beside its body.
        let weigh =
            |key: &(u64, String), answer: &Arc<Answer>| u32::try_from(2 * answer.body.len() + key.1.len() + 256).unwrap_or(u32::MAX);
        Self { answers: Cache::builder().max_capacity(bytes).weigher(weigh).build(), generation: AtomicU64::default() }
    }

    /// The answer under `key`, rendered if it is not there; requests for the same one wait for each other.
    pub(crate) async fn get<E, F>(&self, key: String, render: F) -> Result<Arc<Answer>, Arc<E>>
    where
        E: Send + Sync + 'static,
        F: Future<Output = Result<String, E>>,
    {
        let key = (self.generation.load(Ordering::Acquire), key);
        if let Some(answer) = self.answers.get(&key).await {
            return Ok(answer);
        }
        self.answers.try_get_with(key, async { Ok(Arc::new(Answer::new(render.await?))) }).await
    }

    /// The catalogue changed.
    pub(crate) fn forget(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.answers.invalidate_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_known_answer_is_not_sent_again() {
        let answer = Answer::new("{}".into());
        let tag = answer.etag.to_str().unwrap().to_owned();
        for (sent, status) in
            [(tag.clone(), 304), (format!("W/{tag}"), 304), (format!("\"x\", {tag}"), 304), ("*".into(), 304), ("\"x\"".into(), 200)]
        {
            let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_str(&sent).unwrap())]);
            assert_eq!(answer.respond(&headers).status(), status, "{sent}");
        }
    }

    #[test]
    fn only_clients_that_take_gzip_get_it() {
        let answer = Answer::new("x".repeat(5000));
        let encoding = |value| answer.respond(&request(header::ACCEPT_ENCODING, value)).headers().get(header::CONTENT_ENCODING).cloned();
        assert!(encoding("br, gzip;q=0.5").is_some());
        assert!(encoding("*").is_some());
        assert!(encoding("gzip;q=0").is_none());
        assert!(encoding("gzip;q=0, *").is_none());
        assert!(encoding("*;q=0, GZIP").is_some());
        assert!(encoding("identity").is_none());
        assert!(answer.respond(&HeaderMap::new()).headers().get(header::CONTENT_ENCODING).is_none());
    }

    #[tokio::test]
    async fn an_answer_that_a_change_overtook_is_not_kept() {
        let rendered = Rendered::new(1 << 20);
        let old = rendered.get("k".into(), async {
            rendered.forget();
            Ok::<_, ()>("old".into())
        });
        assert_eq!(&old.await.unwrap().body[..], b"old");
        let new = rendered.get("k".into(), async { Ok::<_, ()>("new".into()) }).await.unwrap();
        assert_eq!(&new.body[..], b"new");
        let kept = rendered.get("k".into(), async { Ok::<_, ()>("never".into()) }).await.unwrap();
        assert_eq!(&kept.body[..], b"new");
    }
}
