//! Which web pages may call what.

use axum::http::{HeaderName, HeaderValue, Method, header, request::Parts};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

const MAX_AGE_SECONDS: u64 = 86_400;

fn listed(origins: &[String]) -> AllowOrigin {
    let origins = origins.to_vec();
    AllowOrigin::predicate(move |origin: &HeaderValue, _: &Parts| origin.to_str().is_ok_and(|origin| is_among(&origins, origin)))
}

/// For endpoints of MCP clients: whatever headers the protocol has, since tools name some of them.
pub fn for_mcp(origins: &[String]) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(listed(origins))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([HeaderName::from_static("mcp-session-id"), HeaderName::from_static("x-request-id")])
        .max_age(std::time::Duration::from_secs(MAX_AGE_SECONDS))
}

/// For the API: the listed origins, `*` standing for any port.
pub fn for_api(origins: &[String]) -> CorsLayer {
    let request_id = HeaderName::from_static("x-request-id");
    CorsLayer::new()
        .allow_origin(listed(origins))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("idempotency-key"),
            header::IF_MATCH,
            HeaderName::from_static("last-event-id"),
        ])
        .expose_headers([header::ETAG, header::LOCATION, header::RETRY_AFTER, request_id])
        .max_age(std::time::Duration::from_secs(MAX_AGE_SECONDS))
}

/// Whether an origin is one of these, `*` standing for any port.
pub fn is_among(origins: &[String], origin: &str) -> bool {
    origins.iter().any(|pattern| matches(pattern, origin))
}

fn matches(pattern: &str, origin: &str) -> bool {
    match pattern.strip_suffix(":*") {
        None => pattern == origin,
        Some(host) => match origin.strip_prefix(host) {
            Some("") => true,
            Some(rest) => rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok()),
            None => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn look_alike_origins_do_not_match() {
        let pattern = "http://localhost:*";
        for good in ["http://localhost", "http://localhost:3000"] {
            assert!(matches(pattern, good), "{good}");
        }
        for bad in [
            "null",
            "http://localhost.evil.example",
            "http://localhost:3000.evil.example",
            "https://localhost:3000",
            "http://evil.example",
            "http://localhost:",
            "http://localhost:99999",
            "http://localhost:1@evil.example",
        ] {
            assert!(!matches(pattern, bad), "{bad}");
        }
        assert!(matches("https://a.example", "https://a.example"));
        assert!(!matches("https://a.example", "https://a.example:8443"));
    }
}
