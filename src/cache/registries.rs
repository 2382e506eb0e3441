//! The registries that clients install from: read-only, from the cache, filled on a miss for those who may.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{FromRequestParts as _, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Redirect, Response},
    routing::get,
};
use moka::future::Cache as Memory;
use platform::{
    Actor, Class, Problem, Scope,
    config::AnonymousFill,
    http::{Answer, Peer, access, answer::is_known},
};
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use crate::{
    artifacts::{Held, Key},
    documents::{Ask, Said},
    error::CacheError,
    names::{FileName, NpmName, Package, PypiName, RegistryType},
    npm::{ABBREVIATED, Asked, Packument},
    pypi,
    service::Cache,
    sources::basic,
};

/// How long a client is let wait for a file; requests end a little later.
const PATIENCE: Duration = Duration::from_secs(50);

/// What is rendered is kept by what it was rendered from.
type Rendered = Memory<String, Arc<Answer>>;

#[derive(Clone)]
struct Registries {
    cache: Cache,
    rendered: Rendered,
}

/// `/npm` and `/pypi`.
pub fn registries(cache: Cache) -> Router {
    let weigh = |key: &String, answer: &Arc<Answer>| u32::try_from(answer.weight() + key.len()).unwrap_or(u32::MAX);
    let rendered = Memory::builder().max_capacity(cache.config().memory_bytes).weigher(weigh).build();
    Router::new()
        .route("/npm/{*path}", get(npm))
        .route("/pypi/simple/", get(pypi_index))
        .route("/pypi/simple/{name}/", get(pypi_project))
        .route("/pypi/simple/{name}", get(pypi_without_slash))
        .route("/pypi/files/{name}/{version}/{file}", get(pypi_file))
        .with_state(Registries { cache, rendered })
}

/// In the extensions of requests that may have misses fetched, whatever the settings are.
#[derive(Clone)]
pub(crate) struct Trusted {
    /// The address at which these requests reach us.
    pub(crate) base: String,
}

/// Whether a miss may be fetched for this caller, and where it reached us.
struct Caller {
    may_fetch: bool,
    is_resolver: bool,
    base: String,
    headers: HeaderMap,
    is_head: bool,
}

impl Caller {
    fn ask(&self) -> Ask {
        if self.may_fetch { Ask::IfOld } else { Ask::Never }
    }
}

impl Registries {
    async fn caller(&self, mut parts: Parts) -> Result<Caller, Problem> {
        if let Some(trusted) = parts.extensions.remove::<Trusted>() {
            let is_head = parts.method == Method::HEAD;
            return Ok(Caller { may_fetch: true, is_resolver: true, base: trusted.base, headers: parts.headers, is_head });
        }
        accept_basic(&mut parts.headers);
        let actor = Actor::from_request_parts(&mut parts, &()).await;
        let is_authorised = match actor {
            Ok(actor) => actor.require(Scope::CacheManage).is_ok(),
            // A token that is sent has to be right: a client with a wrong one would wonder why misses fail.
            Err(problem) if parts.headers.contains_key(header::AUTHORIZATION) => return Err(problem),
            Err(_) => false,
        };
        // A web page that a browser on this machine shows is no program of this machine.
        let is_local = access::is_plain_local_call(&parts.headers, parts.extensions.get::<Peer>().copied());
        let config = self.cache.config();
        let may_fetch = is_authorised
            || match config.anonymous_fill {
                AnonymousFill::Always => true,
                AnonymousFill::Loopback => is_local,
                AnonymousFill::Never => false,
            };
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).filter(|host| is_host(host));
        let base = match (&config.public_url, host) {
            (Some(url), _) => url.as_str().trim_end_matches('/').to_owned(),
            (None, Some(host)) => format!("{}://{host}", if config.is_tls { "https" } else { "http" }),
            (None, None) => return Err(Problem::new(Class::BadRequest, "host_missing", "the request has no usable Host header")),
        };
        Ok(Caller { may_fetch, is_resolver: false, base, is_head: parts.method == Method::HEAD, headers: parts.headers })
    }

    /// A file, for as long as clients wait: what takes longer goes on, and is there when they ask again.
    async fn file(&self, key: Key, caller: &Caller) -> Result<Held, Problem> {
        let Ok(held) = tokio::time::timeout(PATIENCE, self.cache.file(&key, caller.may_fetch)).await else {
            let mut problem = Problem::new(Class::Unavailable, "still_coming", "the file is still coming in; ask again");
            problem.retry_after = Some(Duration::from_secs(5));
            return Err(problem);
        };
        Ok(held?)
    }

    async fn answer<F>(&self, caller: &Caller, key: String, said: &Said, content_type: &'static str, render: F) -> Result<Response, Problem>
    where
        F: FnOnce() -> Result<String, CacheError> + Send,
    {
        let rendered = self.rendered.try_get_with(key, async { Ok::<_, CacheError>(Arc::new(Answer::new(content_type, render()?))) });
        let answer = rendered.await.map_err(|error| Problem::of(&*error))?;
        let mut response = answer.respond(&caller.headers);
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept, accept-encoding, host"));
        if said.is_stale {
            response.headers_mut().insert(header::WARNING, HeaderValue::from_static("110 - \"Response is Stale\""));
        }
        Ok(response)
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

/// A name or address with a port: what stands in addresses that we hand out.
fn is_host(text: &str) -> bool {
    text.len() <= 255
        && !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'))
}

fn not_found(registry: RegistryType) -> Problem {
    Problem::new(Class::NotFound, "route_not_found", format!("there is nothing at this path of the {registry} registry"))
}

/// A path below a prefix, decoded once, and only where that gives text.
fn decoded(path: &str) -> Option<String> {
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

async fn npm(State(registries): State<Registries>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let path = decoded(parts.uri.path().strip_prefix("/npm/").unwrap_or_default());
    let asked = path.as_deref().and_then(Asked::parse).ok_or_else(|| not_found(RegistryType::Npm))?;
    let caller = registries.caller(parts).await?;
    let base = format!("{}/npm", caller.base);
    match asked {
        Asked::Tarball(name, version) => {
            let file = FileName::tarball(&name, &version);
            let held = registries.file((Package::Npm(name, version), file), &caller).await?;
            give(&registries.cache, &held, "application/octet-stream", &caller).await
        }
        Asked::Package(name) => {
            let said = registries.cache.packument(&name, caller.ask()).await?;
            let accept = caller.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
            let is_abbreviated = accept.contains(ABBREVIATED);
            let content_type = if is_abbreviated { ABBREVIATED } else { "application/json" };
            let key = format!("npm\n{}\n{is_abbreviated}\n{}\n{base}", said.row.blob.hex(), caller.is_resolver);
            registries
                .answer(&caller, key, &said, content_type, || {
                    Ok(Packument::parse(&name, &said.text)?.render(&base, is_abbreviated, caller.is_resolver)?)
                })
                .await
        }
        Asked::Version(name, wanted) => {
            let said = registries.cache.packument(&name, caller.ask()).await?;
            let key = format!("npm version\n{}\n{wanted}\n{base}", said.row.blob.hex());
            let render = || render_version(&name, &wanted, &said, &base);
            registries.answer(&caller, key, &said, "application/json", render).await
        }
    }
}

fn render_version(name: &NpmName, wanted: &str, said: &Said, base: &str) -> Result<String, CacheError> {
    let packument = Packument::parse(name, &said.text)?;
    Ok(packument.render_version(&packument.resolve(wanted)?, base)?)
}

/// Whether HTML or JSON is wanted: what is named first counts, weights do not (PEP 691 clients name JSON first).
fn wants_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let place = |kind: &str| accept.find(kind).unwrap_or(usize::MAX);
    place(pypi::JSON) > place("text/html").min(place(pypi::HTML)) || !accept.contains(pypi::JSON)
}

async fn pypi_index(State(registries): State<Registries>, headers: HeaderMap) -> Result<Response, Problem> {
    let names = registries.cache.projects().await?;
    let (content_type, page) = if wants_html(&headers) {
        let links: Vec<String> = names.iter().map(|name| format!("<a href=\"{0}/\">{0}</a><br>", pypi::escape(name))).collect();
        let links = links.join("\n");
        let page = format!("<!DOCTYPE html>\n<html><head><title>Projects</title></head>\n<body>\n{links}\n</body></html>\n");
        ("text/html; charset=utf-8", page)
    } else {
        let projects: Vec<_> = names.iter().map(|name| serde_json::json!({ "name": name })).collect();
        (pypi::JSON, serde_json::json!({ "meta": { "api-version": "1.0" }, "projects": projects }).to_string())
    };
    Ok(([(header::CONTENT_TYPE, content_type), (header::VARY, "accept")], page).into_response())
}

async fn pypi_without_slash(request: Request) -> Redirect {
    Redirect::permanent(&format!("{}/", request.uri().path()))
}

async fn pypi_project(State(registries): State<Registries>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let asked = decoded(parts.uri.path().strip_prefix("/pypi/simple/").unwrap_or_default().trim_end_matches('/')).unwrap_or_default();
    let name = PypiName::parse(&asked).map_err(|_| not_found(RegistryType::Pypi))?;
    if name.as_str() != asked {
        return Ok(Redirect::permanent(&format!("/pypi/simple/{}/", name.as_str())).into_response());
    }
    let caller = registries.caller(parts).await?;
    let (said, project) = registries.cache.project(&name, caller.ask()).await?;
    let is_html = wants_html(&caller.headers);
    let key = format!("pypi\n{}\n{is_html}", said.row.blob.hex());
    let (content_type, page): (_, fn(&pypi::Project, &PypiName) -> String) =
        if is_html { ("text/html; charset=utf-8", pypi::Project::render_html) } else { (pypi::JSON, pypi::Project::render_json) };
    registries.answer(&caller, key, &said, content_type, || Ok(page(&project, &name))).await
}

async fn pypi_file(State(registries): State<Registries>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let path = decoded(parts.uri.path().strip_prefix("/pypi/files/").unwrap_or_default()).unwrap_or_default();
    let [name, version, file] = path.split('/').collect::<Vec<_>>()[..] else { return Err(not_found(RegistryType::Pypi)) };
    let package = Package::parse(RegistryType::Pypi, name, version).map_err(|_| not_found(RegistryType::Pypi))?;
    let file = FileName::parse(&package, file).map_err(|_| not_found(RegistryType::Pypi))?;
    // One address for each file: the version as its own name spells it.
    if file.version().is_some_and(|own| own.as_str() != package.version()) {
        return Err(not_found(RegistryType::Pypi));
    }
    let caller = registries.caller(parts).await?;
    let held = registries.file((package, file.clone()), &caller).await?;
    // A resolver would fetch by itself what a project wants from elsewhere.
    if caller.is_resolver && file.wheel().is_some() && held.bytes.as_ref().is_some_and(|bytes| needs_elsewhere(bytes)) {
        return Err(Problem::new(Class::Forbidden, "exotic_dependency", "this version needs something that does not come from a registry"));
    }
    give(&registries.cache, &held, "application/octet-stream", &caller).await
}

/// Gives a verified file, or the part of it that is asked for (RFC 9110, section 14).
async fn give(cache: &Cache, held: &Held, content_type: &'static str, caller: &Caller) -> Result<Response, Problem> {
    let etag = format!("\"sha256:{}\"", held.blob.hex());
    let mut response = Response::default();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    if is_known(&caller.headers, &etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    let whole = 0..held.size;
    let range = caller.headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let is_same = caller.headers.get(header::IF_RANGE).is_none_or(|tag| tag.as_bytes() == etag.as_bytes());
    let part = match range.filter(|_| is_same).map(|range| parse_range(range, held.size)) {
        None | Some(Asks::Everything) => whole.clone(),
        Some(Asks::Part(part)) => part,
        Some(Asks::Nothing) => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            insert_number(response.headers_mut(), header::CONTENT_RANGE, &format!("bytes */{}", held.size));
            return Ok(response);
        }
    };
    if part != whole {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        insert_number(response.headers_mut(), header::CONTENT_RANGE, &format!("bytes {}-{}/{}", part.start, part.end - 1, held.size));
    }
    insert_number(response.headers_mut(), header::CONTENT_LENGTH, &(part.end - part.start).to_string());
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

fn insert_number(headers: &mut HeaderMap, name: header::HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

/// Whether a wheel's metadata names a requirement by its address (PEP 508).
fn needs_elsewhere(metadata: &[u8]) -> bool {
    String::from_utf8_lossy(metadata).lines().any(|line| line.starts_with("Requires-Dist:") && line.contains('@'))
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
    fn clients_get_the_form_that_they_name_first() {
        let accept = |text: &'static str| HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(text))]);
        assert!(!wants_html(&accept("application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01")));
        assert!(wants_html(&accept("text/html")));
        assert!(wants_html(&accept("*/*")));
        assert!(wants_html(&HeaderMap::new()));
    }

    #[test]
    fn only_whole_escapes_are_decoded() {
        assert_eq!(decoded("@a%2Fb"), Some("@a/b".into()));
        for bad in ["%", "%2", "%zz", "%ff"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
    }
}
