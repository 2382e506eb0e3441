//! Answers that are made once and given many times.

use std::{io::Write as _, sync::OnceLock};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use sha2::{Digest as _, Sha256};

use crate::random::hex;

/// Marks an answer as one that no cache may keep.
pub fn unkept(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// From here on it counts more how long compressing takes than what it saves.
const HASTE_FROM: usize = 1 << 20;
/// Below this a compressed answer is not worth its header.
const COMPRESS_FROM: usize = 1024;

/// How many headers an answer has in the end, about.
const HEADERS: usize = 16;

/// An answer that is kept as it is sent, with its entity tag.
#[derive(Debug)]
pub struct Answer {
    content_type: HeaderValue,
    body: Bytes,
    etag: HeaderValue,
    /// Made when a client first takes it.
    compressed: OnceLock<Bytes>,
}

impl Answer {
    /// Of this type, which is a literal of ours.
    pub fn new(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let etag = format!("\"{}\"", hex(&Sha256::digest(&body)[..16]));
        let etag = HeaderValue::from_str(&etag).unwrap_or_else(|_| HeaderValue::from_static("\"\""));
        Self { content_type: HeaderValue::from_static(content_type), body, etag, compressed: OnceLock::new() }
    }

    /// Compresses it beforehand, if a request with these headers takes it so: for large answers, beside the
    /// threads that serve.
    #[must_use]
    pub fn prepared_for(self, headers: &HeaderMap) -> Self {
        if self.body.len() >= COMPRESS_FROM && accepts_gzip(headers) {
            self.compressed.get_or_init(|| compress(&self.body));
        }
        self
    }

    /// The answer to a request with these headers: whole, compressed, or 304 (RFC 9110, section 13).
    pub fn respond(&self, headers: &HeaderMap) -> Response {
        let mut response = Response::default();
        // With what the layers around add, it need not grow.
        *response.headers_mut() = HeaderMap::with_capacity(HEADERS);
        if is_known(headers, self.etag.to_str().unwrap_or_default()) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else if self.body.len() >= COMPRESS_FROM && accepts_gzip(headers) {
            *response.body_mut() = Body::from(self.compressed.get_or_init(|| compress(&self.body)).clone());
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        } else {
            *response.body_mut() = Body::from(self.body.clone());
        }
        let out = response.headers_mut();
        out.insert(header::CONTENT_TYPE, self.content_type.clone());
        out.insert(header::ETAG, self.etag.clone());
        out.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        out.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        response
    }

    /// The whole of it.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// What it costs to keep, in bytes: half of the room is for the compressed form.
    pub fn weight(&self) -> usize {
        2 * self.body.len() + 256
    }
}

/// Whether the client says that it has what this entity tag is of (RFC 9110, section 13.1.2).
pub fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == "*" || tag == etag)
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
    let level = if body.len() < HASTE_FROM { Compression::default() } else { Compression::fast() };
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 3), level);
    let compressed = encoder.write_all(body).and_then(|()| encoder.finish());
    // Writing into memory does not fail.
    compressed.unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_known_answer_is_not_sent_again() {
        let answer = Answer::new("application/json", "{}");
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
        let answer = Answer::new("application/json", "x".repeat(5000));
        let encoding = |value| answer.respond(&request(header::ACCEPT_ENCODING, value)).headers().get(header::CONTENT_ENCODING).cloned();
        assert!(encoding("br, gzip;q=0.5").is_some());
        assert!(encoding("*").is_some());
        assert!(encoding("gzip;q=0").is_none());
        assert!(encoding("gzip;q=0, *").is_none());
        assert!(encoding("*;q=0, GZIP").is_some());
        assert!(encoding("identity").is_none());
        assert!(answer.respond(&HeaderMap::new()).headers().get(header::CONTENT_ENCODING).is_none());
    }
}
