//! `/v2`: the OCI distribution API, for pulls (distribution spec 1.1). Images of Docker Hub are called as there;
//! those of other registries with their host in front, `host_5000` where it has a port, or with `?ns=<host>`
//! as containerd asks its mirrors.

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{any, get},
};
use platform::{Class, Problem};
use serde_json::json;

use crate::{
    documents::Said,
    error::CacheError,
    file_names::FileName,
    give::{Caller, decoded, give, insert_text},
    names::Package,
    oci::Manifest,
    reference::{OciAt, OciName, OciReference, Pinned},
    registries::{Registries, patiently},
};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

pub(crate) fn router() -> Router<Registries> {
    Router::new().route("/v2/", get(base)).route("/v2", get(base)).route("/v2/{*path}", any(entry))
}

/// Clients ask whether this is such a registry, and whether it knows them.
async fn base(State(registries): State<Registries>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    match Caller::of(&registries.cache, parts).await {
        Ok(_) => ([(API_VERSION, "registry/2.0")], axum::Json(json!({}))).into_response(),
        Err(problem) => told(&problem, "UNAUTHORIZED"),
    }
}

/// What a path below `/v2/` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Manifest(OciReference),
    Blob(OciName, Pinned),
    Tags(OciName),
}

impl Asked {
    /// Reads a decoded path: `<name>/manifests/<reference>`, `<name>/blobs/<digest>`, `<name>/tags/list`. `host`
    /// is the registry that a mirror stands for.
    fn parse(path: &str, host: Option<&str>) -> Result<Self, &'static str> {
        let (rest, last) = path.rsplit_once('/').ok_or("UNSUPPORTED")?;
        let (name, kind) = rest.rsplit_once('/').ok_or("UNSUPPORTED")?;
        let named = match host {
            Some(host) => OciName::parse(&format!("{host}/{name}")),
            None => OciName::parse_path(name),
        };
        let name = named.map_err(|_| "NAME_INVALID")?;
        match (kind, last) {
            ("manifests", at) => Ok(Self::Manifest(OciReference { name, at: OciAt::parse(at).map_err(|_| "MANIFEST_UNKNOWN")? })),
            ("blobs", digest) => Ok(Self::Blob(name, Pinned::parse(digest).map_err(|_| "DIGEST_INVALID")?)),
            ("tags", "list") => Ok(Self::Tags(name)),
            _ => Err("UNSUPPORTED"),
        }
    }
}

async fn entry(State(registries): State<Registries>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    if parts.method != Method::GET && parts.method != Method::HEAD {
        let told_of = Problem::new(Class::MethodNotAllowed, "method_not_allowed", "images can only be pulled from this registry");
        return told(&told_of, "UNSUPPORTED");
    }
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let host = parameter(&query, "ns");
    let path = decoded(parts.uri.path().strip_prefix("/v2/").unwrap_or_default()).unwrap_or_default();
    let asked = match Asked::parse(&path, host.as_deref()) {
        Ok(asked) => asked,
        Err(code) => return told(&Problem::new(Class::NotFound, "route_not_found", "this registry has nothing at such a path"), code),
    };
    let (unknown, answered) = match asked {
        Asked::Manifest(reference) => ("MANIFEST_UNKNOWN", manifest(&registries, reference, parts).await),
        Asked::Blob(name, part) => ("BLOB_UNKNOWN", blob(&registries, name, part, parts).await),
        Asked::Tags(name) => ("NAME_UNKNOWN", tags(&registries, &name, parts).await),
    };
    answered.unwrap_or_else(|problem| told(&problem, unknown))
}

async fn manifest(registries: &Registries, reference: OciReference, parts: axum::http::request::Parts) -> Result<Response, Problem> {
    let caller = Caller::of(&registries.cache, parts).await?;
    let said: Said = patiently(registries.cache.manifest(&reference, caller.ask())).await?;
    let parsed = Manifest::parse(&said.text).map_err(CacheError::from)?;
    let digest = Pinned::of(said.row.blob);
    if let Manifest::Image(image) = &parsed {
        registries.cache.note_parts(&reference.name, &digest, image, said.text.len()).await?;
        if caller.may_fetch {
            // The manifest is a part like any other; its bytes are here.
            registries.cache.expect((Package::Oci(reference.name.clone(), digest.clone()), FileName::part(&digest)));
        }
    }
    let mut response = Response::default();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(parsed.media_type()));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(said.text.len()));
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    insert_text(headers, CONTENT_DIGEST, digest.as_str());
    insert_text(headers, header::ETAG, &format!("\"{}\"", digest.as_str()));
    if said.is_stale && !reference.is_fixed() {
        headers.insert(header::WARNING, HeaderValue::from_static("110 - \"Response is Stale\""));
    }
    if !caller.is_head {
        *response.body_mut() = said.text.into();
    }
    Ok(response)
}

async fn blob(registries: &Registries, name: OciName, part: Pinned, parts: axum::http::request::Parts) -> Result<Response, Problem> {
    let caller = Caller::of(&registries.cache, parts).await?;
    let image = registries.cache.image_of(&name, &part).await?.ok_or(CacheError::NotFound)?;
    let held = registries.file((Package::Oci(name, image), FileName::part(&part)), &caller).await?;
    let mut response = give(&registries.cache, &held, "application/octet-stream", &caller).await?;
    insert_text(response.headers_mut(), CONTENT_DIGEST, part.as_str());
    Ok(response)
}

/// A page of the tags (distribution spec, "Listing Tags").
async fn tags(registries: &Registries, name: &OciName, parts: axum::http::request::Parts) -> Result<Response, Problem> {
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let most = parameter(&query, "n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    let last = parameter(&query, "last").unwrap_or_default();
    Caller::of(&registries.cache, parts).await?;
    let tags = registries.cache.tags(name).await?;
    if tags.is_empty() {
        return Err(CacheError::NotFound.into());
    }
    let tags: Vec<String> = tags.into_iter().filter(|tag| *tag > last).take(most).collect();
    Ok(axum::Json(json!({ "name": name.repository(), "tags": tags })).into_response())
}

/// A parameter of the query.
fn parameter(query: &str, wanted: &str) -> Option<String> {
    url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == wanted).map(|(_, value)| value.into_owned())
}

/// A problem in the words of the specification; `unknown` is what is not there.
fn told(problem: &Problem, unknown: &str) -> Response {
    let status = problem.class.status();
    let code = match status {
        StatusCode::UNAUTHORIZED => "UNAUTHORIZED",
        StatusCode::FORBIDDEN => "DENIED",
        StatusCode::TOO_MANY_REQUESTS => "TOOMANYREQUESTS",
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => unknown,
        _ => "UNKNOWN",
    };
    let error = json!({ "code": code, "message": problem.detail, "detail": { "code": problem.code } });
    let mut response = (status, axum::Json(json!({ "errors": [error] }))).into_response();
    if status == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Basic realm=\"mcp-fabric\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    if let Some(wait) = problem.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_by_the_specification() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let manifest = |text: &str| Ok(Asked::Manifest(OciReference::parse(text).unwrap()));
        assert_eq!(Asked::parse("alpine/manifests/3.20", None), manifest("docker.io/library/alpine:3.20"));
        assert_eq!(Asked::parse("127.0.0.1_5000/a/b/manifests/x", None), manifest("127.0.0.1:5000/a/b:x"));
        assert_eq!(Asked::parse("a/b/manifests/x", Some("ghcr.io")), manifest("ghcr.io/a/b:x"));
        assert!(matches!(Asked::parse(&format!("ghcr.io/a/blobs/{digest}"), None), Ok(Asked::Blob(..))));
        assert!(matches!(Asked::parse("ghcr.io/manifests/tags/list", None), Ok(Asked::Tags(_))));
        for (path, code) in [
            ("a", "UNSUPPORTED"),
            ("a/b/c/d", "UNSUPPORTED"),
            ("a/blobs/sha256:0", "DIGEST_INVALID"),
            ("A/manifests/x", "NAME_INVALID"),
            ("../etc/manifests/x", "NAME_INVALID"),
            ("a/manifests/-x", "MANIFEST_UNKNOWN"),
        ] {
            assert_eq!(Asked::parse(path, None), Err(code), "{path}");
        }
    }
}
