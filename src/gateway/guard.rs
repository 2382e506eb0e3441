//! Who may knock: web pages of strangers may not, whatever name they give this machine (DNS rebinding).

use std::net::IpAddr;

use axum::http::{HeaderMap, header};
use platform::{Config, http::cors};
use url::Url;

use crate::error::GatewayError;

/// What `Host` and `Origin` may be.
pub(crate) struct Guard {
    origins: Vec<String>,
    names: Vec<String>,
    /// Domains of virtual servers: what `Host` says there, and how the pool writes it.
    pool: Vec<(String, String)>,
}

impl Guard {
    /// `kept` are domains that are not in the pool any more, and in use.
    pub(crate) fn new(config: &Config, kept: &[String]) -> Self {
        let mut origins = config.http.cors_origins.clone();
        origins.extend(config.public_url.as_ref().map(|url| url.origin().ascii_serialization()));
        let names = config.public_url.iter().filter_map(Url::host_str).map(str::to_ascii_lowercase).collect();
        let host = |domain: &String| Some((domain.split_once("://")?.1.to_ascii_lowercase(), domain.clone()));
        Self { origins, names, pool: config.gateway.pool.iter().chain(kept).filter_map(host).collect() }
    }

    /// The domain of the pool that a request came to.
    pub(crate) fn domain_of(&self, headers: &HeaderMap) -> Option<&str> {
        let host = headers.get(header::HOST)?.to_str().ok()?.to_ascii_lowercase();
        self.pool.iter().find(|(known, _)| *known == host).map(|(_, domain)| domain.as_str())
    }

    /// Fails for pages of strangers and for names that are not ours. An address is no name, and cannot be rebound.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), GatewayError> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
        if hosts.next().is_some() || !(self.is_ours(host) || self.domain_of(headers).is_some()) {
            return Err(GatewayError::Refused(
                "the `Host` of this request is no name of this fabric; FABRIC_PUBLIC_URL says what it is called",
            ));
        }
        for origin in headers.get_all(header::ORIGIN) {
            if !origin.to_str().is_ok_and(|origin| cors::is_among(&self.origins, origin)) {
                return Err(GatewayError::Refused("pages of this origin may not call; FABRIC_CORS_ORIGINS says which may"));
            }
        }
        Ok(())
    }

    fn is_ours(&self, host: &str) -> bool {
        let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(name, _)| name);
        let name = name.trim_matches(['[', ']']).to_ascii_lowercase();
        name == "localhost" || name.parse::<IpAddr>().is_ok() || self.names.contains(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn pages_and_names_of_strangers_are_refused() {
        let guard = Guard {
            origins: vec!["http://localhost:*".into(), "https://fabric.example".into()],
            names: vec!["fabric.example".into()],
            pool: vec![("mcp1.example".into(), "https://mcp1.example".into())],
        };
        let allows = |host: &str, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
            }
            guard.check(&headers).is_ok()
        };
        for host in ["localhost", "LOCALHOST:8085", "127.0.0.1:1", "[::1]:8085", "10.1.2.3", "fabric.example", "Fabric.Example:443"] {
            assert!(allows(host, None), "{host}");
        }
        for host in ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8085", "evil.example:localhost"] {
            assert!(!allows(host, None), "{host}");
        }
        assert!(allows("localhost", Some("http://localhost:3000")) && allows("localhost", Some("https://fabric.example")));
        for origin in ["http://evil.example", "null", "http://localhost.evil.example", "file://"] {
            assert!(!allows("localhost", Some(origin)), "{origin}");
        }
        assert!(allows("mcp1.example", None) && !allows("mcp2.example", None) && !allows("mcp1.example:444", None));
        assert!(guard.check(&HeaderMap::new()).is_err());
    }
}
