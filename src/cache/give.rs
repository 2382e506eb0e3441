//! Who asks one of the registries, and giving files to them.

use axum::{
    body::Body,
    extract::FromRequestParts as _,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::Response,
};
use platform::{
    Action, Actor, Class, Problem,
    config::AnonymousFill,
    http::{Peer, access, answer::is_known},
};
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use crate::{artifacts::Held, documents::Ask, error::CacheError, service::Cache, sources::basic};

/// In the extensions of requests that may have misses fetched, whatever the settings are.
#[derive(Clone)]
pub(crate) struct Trusted {
    /// The address at which these requests reach us.
    pub(crate) base: String,
}

/// Whether a miss may be fetched for this caller, and where it reached us.
pub(crate) struct Caller {
    pub(crate) may_fetch: bool,
    pub(crate) is_resolver: bool,
    pub(crate) base: String,
    pub(crate) headers: HeaderMap,
    pub(crate) is_head: bool,
}

impl Caller {
    pub(crate) fn ask(&self) -> Ask {
        if self.may_fetch { Ask::IfOld } else { Ask::Never }
    }

    /// A token that is sent has to be right.
    pub(crate) async fn of(cache: &Cache, mut parts: Parts) -> Result<Self, Problem> {
        if let Some(trusted) = parts.extensions.remove::<Trusted>() {
            // What does not leave the machine is not worth compressing.
            parts.headers.remove(header::ACCEPT_ENCODING);
            let is_head = parts.method == Method::HEAD;
            return Ok(Caller { may_fetch: true, is_resolver: true, base: trusted.base, headers: parts.headers, is_head });
        }
        accept_basic(&mut parts.headers);
        let actor = Actor::from_request_parts(&mut parts, &()).await;
        let is_authorised = match actor {
            Ok(actor) => actor.require(Action::CacheFill).is_ok(),
            // A token that is sent has to be right: a client with a wrong one would wonder why misses fail.
            Err(problem) if parts.headers.contains_key(header::AUTHORIZATION) => return Err(problem),
            Err(_) => false,
        };
        // A web page that a browser on this machine shows is no program of this machine.
        let is_local = access::is_plain_local_call(&parts.headers, parts.extensions.get::<Peer>().copied());
        let config = cache.config();
        let may_fetch = is_authorised
            || match config.anonymous_fill {
                AnonymousFill::Always => true,
                AnonymousFill::Loopback => is_local,
                AnonymousFill::Never => false,
            };
        let missing = || Problem::new(Class::BadRequest, "host_missing", "the request has no usable Host header");
        let base = config.address.of(&parts.headers).ok_or_else(missing)?;
        Ok(Caller { may_fetch, is_resolver: false, base, is_head: parts.method == Method::HEAD, headers: parts.headers })
    }
}

/// pip and uv know no tokens, only a user and a password: the password is the token.
fn accept_basic(headers: &mut HeaderMap) {
    let sent = headers.get(header::AUTHORIZATION).and_then(|sent| sent.to_str().ok()?.strip_prefix("Basic "));
    let token = sent.and_then(basic).map(|(_, password)| format!("Bearer {}", password.expose_secret()));
    if let Some(token) = token.and_then(|token| HeaderValue::from_str(&token).ok()) {
        headers.insert(header::AUTHORIZATION, token);
    }
}

/// A path below a prefix, decoded once, and only where that gives text.
pub(crate) fn decoded(path: &str) -> Option<String> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |b: Option<u8>| char::from(b?).to_digit(16);
            let value = digit(rest.next())? * 16 + digit(rest.next())?;
            out.push(u8::try_from(value).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

/// Gives a verified file, or the part of it that is asked for (RFC 9110, section 14).
pub(crate) async fn give(cache: &Cache, held: &Held, content_type: &'static str, caller: &Caller) -> Result<Response, Problem> {
    let etag = held.etag.to_str().unwrap_or_default();
    let mut response = Response::default();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::ETAG, held.etag.clone());
    if is_known(&caller.headers, etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    let whole = 0..held.size;
    // A range only means something in a GET (RFC 9110, section 14.2).
    let range = caller.headers.get(header::RANGE).and_then(|range| range.to_str().ok()).filter(|_| !caller.is_head);
    let is_same = caller.headers.get(header::IF_RANGE).is_none_or(|tag| tag.as_bytes() == etag.as_bytes());
    let part = match range.filter(|_| is_same).map(|range| parse_range(range, held.size)) {
        None | Some(Asks::Everything) => whole.clone(),
        Some(Asks::Part(part)) => part,
        Some(Asks::Nothing) => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            insert_text(response.headers_mut(), header::CONTENT_RANGE, &format!("bytes */{}", held.size));
            return Ok(response);
        }
    };
    if part != whole {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        insert_text(response.headers_mut(), header::CONTENT_RANGE, &format!("bytes {}-{}/{}", part.start, part.end - 1, held.size));
    }
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(part.end - part.start));
    if caller.is_head {
        return Ok(response);
    }
    *response.body_mut() = if let Some(bytes) = &held.bytes {
        let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(bytes.len());
        Body::from(bytes.slice(at(part.start)..at(part.end)))
    } else {
        let mut file = tokio::fs::File::open(cache.path(held)).await.map_err(CacheError::from)?;
        file.seek(std::io::SeekFrom::Start(part.start)).await.map_err(CacheError::from)?;
        Body::from_stream(ReaderStream::with_capacity(file.take(part.end - part.start), 64 << 10))
    };
    Ok(response)
}

/// For texts that can stand in a header.
pub(crate) fn insert_text(headers: &mut HeaderMap, name: header::HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Asks {
    Everything,
    Part(std::ops::Range<u64>),
    Nothing,
}

/// One range of bytes; several, or one of another unit, ask for everything.
fn parse_range(text: &str, size: u64) -> Asks {
    let Some((first, last)) = text.strip_prefix("bytes=").filter(|text| !text.contains(',')).and_then(|text| text.split_once('-')) else {
        return Asks::Everything;
    };
    let range = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..size.min(last.saturating_add(1)),
        (Ok(first), Err(_)) if last.trim().is_empty() => first..size,
        (Err(_), Ok(count)) if first.trim().is_empty() => size.saturating_sub(count)..size,
        _ => return Asks::Everything,
    };
    if range.start < range.end { Asks::Part(range) } else { Asks::Nothing }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_standard_has_it() {
        for (text, asks) in [
            ("bytes=0-0", Asks::Part(0..1)),
            ("bytes=5-", Asks::Part(5..10)),
            ("bytes=-3", Asks::Part(7..10)),
            ("bytes=-30", Asks::Part(0..10)),
            ("bytes=2-99", Asks::Part(2..10)),
            ("bytes=10-", Asks::Nothing),
            ("bytes=-0", Asks::Nothing),
            ("bytes=3-2", Asks::Everything),
            ("bytes=0-1,3-4", Asks::Everything),
            ("lines=0-1", Asks::Everything),
            ("bytes=a-b", Asks::Everything),
            ("bytes=--1", Asks::Everything),
        ] {
            assert_eq!(parse_range(text, 10), asks, "{text}");
        }
    }

    #[test]
    fn only_whole_escapes_are_decoded() {
        assert_eq!(decoded("@a%2Fb"), Some("@a/b".into()));
        for bad in ["%", "%2", "%zz", "%ff"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
    }
}
