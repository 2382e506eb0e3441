//! `?rewrite=local` on the registry API: documents that name this fabric's own registries, so that clients
//! install from its cache.

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use platform::{
    Class, Problem,
    http::{Address, Answer},
};
use serde_json::Value;

use crate::model::LOCAL_NAMESPACE;

/// What an answer of the registry API may measure to be rewritten.
const MAX_ANSWER: usize = 64 << 20;

/// Where clients find the registries of the cache: by the type of a package, below the fabric's own address.
const OWN: &[(&str, &str)] = &[("npm", "/npm"), ("pypi", "/pypi")];

/// Rewrites `registryBaseUrl` where that is asked for. Images and bundles have no such member: their names say
/// where they are, and those of bundles that were made here are changed.
pub async fn rewritten(State(address): State<Address>, mut request: Request, next: Next) -> Response {
    let asked = request.uri().query().unwrap_or_default();
    let Some((_, wanted)) = url::form_urlencoded::parse(asked.as_bytes()).find(|(key, _)| key == "rewrite") else {
        return next.run(request).await;
    };
    if wanted != "local" {
        return Problem::field("invalid_rewrite", "query.rewrite", "can only be `local`").into_response();
    }
    let headers = request.headers().clone();
    let Some(base) = address.of(&headers) else {
        return Problem::new(Class::BadRequest, "host_missing", "the request has no usable Host header").into_response();
    };
    for name in [header::IF_NONE_MATCH, header::ACCEPT_ENCODING] {
        request.headers_mut().remove(name);
    }
    let response = next.run(request).await;
    if response.status() != StatusCode::OK {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(text) = axum::body::to_bytes(body, MAX_ANSWER).await else {
        return Problem::new(Class::Internal, "internal", "the answer is too large to be rewritten").into_response();
    };
    let Ok(mut document) = serde_json::from_slice::<Value>(&text) else {
        return Response::from_parts(parts, Body::from(text));
    };
    point_here(&mut document, &base);
    let answer = Answer::new("application/json", document.to_string()).respond(&headers);
    for (name, value) in answer.headers() {
        parts.headers.insert(name, value.clone());
    }
    parts.headers.insert(header::VARY, HeaderValue::from_static("accept-encoding, host"));
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.status = answer.status();
    Response::from_parts(parts, answer.into_body())
}

/// The path of what the factory has made, whose address nobody else can ask.
fn made_here(address: &str) -> Option<&str> {
    address.strip_prefix("https://")?.strip_prefix(LOCAL_NAMESPACE)?.strip_prefix('/')
}

fn point_here(document: &mut Value, base: &str) {
    let one = |entry: &mut Value| {
        let packages = entry.get_mut("server").and_then(|server| server.get_mut("packages")).and_then(Value::as_array_mut);
        for package in packages.into_iter().flatten() {
            let own = OWN.iter().find(|(kind, _)| package["registryType"] == *kind);
            let made = package["identifier"].as_str().and_then(made_here);
            if let Some(place) = made.map(|place| format!("{base}/api/mcp/{place}")) {
                package["identifier"] = place.into();
            }
            if let (Some((_, path)), Some(package)) = (own, package.as_object_mut()) {
                package.insert("registryBaseUrl".into(), format!("{base}{path}").into());
            }
        }
    };
    match document.get_mut("servers").and_then(Value::as_array_mut) {
        Some(entries) => entries.iter_mut().for_each(one),
        None => one(document),
    }
}
