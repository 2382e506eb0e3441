//! Who a request comes from: a token that the [`Authenticator`] knows, or trust in this machine.

use std::{fmt, sync::Arc};

use axum::http::{HeaderMap, header};
use futures_util::future::BoxFuture;

use super::{Peer, peer};
use crate::{
    Identity, Origin,
    problem::{Class, Coded, Denial, Problem},
};

/// Knows the tokens; `users` is the one that does.
pub trait Authenticator: Send + Sync + 'static {
    /// Who holds this token; `None` for a token that is worth nothing (any more). Tokens of an external issuer count only
    /// where an audience is given.
    fn authenticate<'a>(
        &'a self,
        token: &'a str,
        origin: &'a Origin,
        audience: Option<&'a Audience>,
    ) -> BoxFuture<'a, Result<Option<Identity>, Problem>>;

    /// Hears of every request that was refused for want of a token or of rights.
    fn refused(&self, refusal: Refusal);
}

/// The names of an endpoint in tokens of an external issuer (RFC 8707): any of them will do. Whoever serves the endpoint
/// puts it among the extensions of a request.
#[derive(Clone, Debug)]
pub struct Audience(pub Arc<[String]>);

/// A request that was refused for want of a token or of rights.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Where it came from.
    pub origin: Arc<Origin>,
    /// Who it was, when that is known.
    pub denial: Option<Denial>,
    /// `POST /api/mcp/sync/trigger`: the route, not what was sent.
    pub call: String,
}

/// Decides who a request comes from.
#[derive(Clone)]
pub struct Access {
    authenticator: Arc<dyn Authenticator>,
    trust_loopback: bool,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("trust_loopback", &self.trust_loopback).finish_non_exhaustive()
    }
}

/// Nobody in particular is asking.
#[derive(Debug, thiserror::Error)]
#[error("this needs a token: send `Authorization: Bearer <token>`; `mcp-fabric doctor` shows where the operator's token lies")]
pub struct Unauthenticated;

impl Coded for Unauthenticated {
    fn code(&self) -> &'static str {
        "unauthenticated"
    }
    fn class(&self) -> Class {
        Class::Unauthenticated
    }
}

impl Access {
    /// With `trust_loopback`, plain calls from this machine act as the operator.
    pub fn new(authenticator: Arc<dyn Authenticator>, trust_loopback: bool) -> Self {
        Self { authenticator, trust_loopback }
    }

    pub(super) async fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: Option<Peer>,
        origin: &Origin,
        audience: Option<&Audience>,
    ) -> Result<Identity, Problem> {
        let identity = match bearer(headers) {
            Bearer::None if self.trust_loopback && is_plain_local_call(headers, peer) => Some(Identity::Operator),
            Bearer::None | Bearer::Malformed => None,
            Bearer::Token(token) => self.authenticator.authenticate(token, origin, audience).await?,
        };
        identity.ok_or_else(|| Unauthenticated.into())
    }

    pub(super) fn refused(&self, refusal: Refusal) {
        self.authenticator.refused(refusal);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Bearer<'a> {
    None,
    Malformed,
    Token(&'a str),
}

/// One well-formed header (RFC 6750, section 2.1), and nothing else.
fn bearer(headers: &HeaderMap) -> Bearer<'_> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let token = match (lines.next(), lines.next()) {
        (None, _) => return Bearer::None,
        (Some(line), None) => line.to_str().ok().and_then(|line| line.strip_prefix("Bearer ")),
        (Some(_), Some(_)) => None,
    };
    let is_whole = |token: &&str| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    token.filter(is_whole).map_or(Bearer::Malformed, Bearer::Token)
}

/// A call from this machine by a program that is not a web page: no proxy, a `Host` that no DNS answer of a stranger can
/// lead here, and nothing that browsers send. An `Origin` that is this very address is no stranger's, and browsers send
/// `Sec-Fetch-Site` with it.
pub fn is_plain_local_call(headers: &HeaderMap, peer: Option<Peer>) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(name, _)| name);
    let local_name = name.eq_ignore_ascii_case("localhost")
        || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    peer.is_some_and(|peer| peer.is_local)
        && local_name
        && headers
            .get_all(header::ORIGIN)
            .iter()
            .all(|origin| origin.to_str().is_ok_and(|origin| origin.strip_prefix("http://") == Some(host)))
        && !headers.contains_key("sec-fetch-site")
        && !peer::was_forwarded(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn only_one_well_formed_bearer_header_holds_a_token() {
        assert_eq!(bearer(&headers(&[("authorization", "Bearer abc")])), Bearer::Token("abc"));
        assert_eq!(bearer(&headers(&[])), Bearer::None);
        for bad in ["", "Bearer", "Bearer ", "abc", "bearer abc", "Bearer abc ", "Bearer  abc", "Bearer Bearer abc", "Basic abc"] {
            assert_eq!(bearer(&headers(&[("authorization", bad)])), Bearer::Malformed, "{bad}");
        }
        assert_eq!(bearer(&headers(&[("authorization", "Bearer abc"), ("authorization", "Bearer abc")])), Bearer::Malformed);
    }

    #[test]
    fn trust_in_this_machine_ends_at_browsers_proxies_and_foreign_names() {
        let local = Some(Peer { address: [127, 0, 0, 1].into(), is_local: true });
        let trusts = |pairs: &[(&'static str, &str)], peer| is_plain_local_call(&headers(pairs), peer);
        for host in ["localhost:8085", "127.0.0.1", "[::1]:8085", "LOCALHOST"] {
            assert!(trusts(&[("host", host)], local), "{host}");
        }
        for host in ["", "evil.example", "localhost.evil.example:8085", "127.0.0.1.evil.example", "10.0.0.1"] {
            assert!(!trusts(&[("host", host)], local), "{host}");
        }
        assert!(trusts(&[("host", "localhost:8085"), ("origin", "http://localhost:8085")], local));
        for origin in ["http://localhost:3000", "https://localhost:8085", "http://localhost", "null", "http://localhost:8085/"] {
            assert!(!trusts(&[("host", "localhost:8085"), ("origin", origin)], local), "{origin}");
        }
        let page = [("host", "localhost:8085"), ("origin", "http://localhost:8085"), ("sec-fetch-site", "same-origin")];
        assert!(!trusts(&page, local), "a browser");
        for header in ["origin", "sec-fetch-site", "forwarded", "x-forwarded-for", "x-forwarded-host", "via"] {
            assert!(!trusts(&[("host", "localhost"), (header, "x")], local), "{header}");
        }
        assert!(!trusts(&[("host", "localhost")], Some(Peer { address: [10, 0, 0, 1].into(), is_local: false })));
    }
}
