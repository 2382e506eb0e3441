//! Who a request comes from: the operator's token, or trust in this machine.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};

use super::{Peer, peer};
use crate::{
    Actor,
    files::{self, FileError},
    problem::{Class, Coded},
    random,
};

/// Decides who a request comes from.
#[derive(Clone, Debug)]
pub struct Access {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The token is compared by its hash, so that the time it takes tells nothing about it.
    operator: [u8; 32],
    token_file: PathBuf,
    trust_loopback: bool,
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
    /// Reads the operator's token, or makes it on the first start (mode 0600).
    pub fn open(data: &Path, trust_loopback: bool) -> Result<Self, FileError> {
        let token_file = files::operator_token_file(data);
        let token = if let Some(token) =
            files::read_if_present(&token_file)?.map(|text| text.trim().to_owned()).filter(|token| !token.is_empty())
        {
            token
        } else {
            let token = format!("fop_{}", random::token());
            files::private_folder(data)?;
            files::write_private(&token_file, format!("{token}\n").as_bytes())?;
            token
        };
        Ok(Self { inner: Arc::new(Inner { operator: hash(&token), token_file, trust_loopback }) })
    }

    /// Where the operator's token lies.
    pub fn token_file(&self) -> &Path {
        &self.inner.token_file
    }

    pub(super) fn authenticate(&self, headers: &HeaderMap, peer: Option<Peer>) -> Option<Actor> {
        let mut lines = headers.get_all(header::AUTHORIZATION).iter();
        match (lines.next(), lines.next()) {
            (None, _) => (self.inner.trust_loopback && is_plain_local_call(headers, peer)).then_some(Actor::Operator),
            (Some(line), None) => {
                let token = line.to_str().ok()?.strip_prefix("Bearer ")?;
                (hash(token) == self.inner.operator).then_some(Actor::Operator)
            }
            (Some(_), Some(_)) => None,
        }
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// A call from this machine by a program that is not a web page: no browser headers, no proxy, and a
/// `Host` that no DNS answer of a stranger can lead here.
pub fn is_plain_local_call(headers: &HeaderMap, peer: Option<Peer>) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(name, _)| name);
    let local_name = name.eq_ignore_ascii_case("localhost")
        || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    peer.is_some_and(|peer| peer.is_local)
        && local_name
        && !headers.contains_key(header::ORIGIN)
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
    fn only_one_well_formed_bearer_header_with_the_token_is_the_operator() {
        let folder = tempfile::tempdir().unwrap();
        let access = Access::open(folder.path(), false).unwrap();
        let token = std::fs::read_to_string(access.token_file()).unwrap().trim().to_owned();
        let good = format!("Bearer {token}");
        assert_eq!(access.authenticate(&headers(&[("authorization", &good)]), None), Some(Actor::Operator));
        for bad in
            ["", "Bearer", "Bearer ", &token, &good.to_lowercase(), &format!("{good} "), &format!("Bearer Bearer {token}"), "Basic abc"]
        {
            assert_eq!(access.authenticate(&headers(&[("authorization", bad)]), None), None, "{bad}");
        }
        assert_eq!(access.authenticate(&headers(&[("authorization", &good), ("authorization", &good)]), None), None);
        assert_eq!(
            Access::open(folder.path(), false).unwrap().authenticate(&headers(&[("authorization", &good)]), None),
            Some(Actor::Operator)
        );
    }

    #[test]
    fn trust_in_this_machine_ends_at_browsers_proxies_and_foreign_names() {
        let folder = tempfile::tempdir().unwrap();
        let access = Access::open(folder.path(), true).unwrap();
        let local = Some(Peer { address: [127, 0, 0, 1].into(), is_local: true });
        let asks = |pairs: &[(&'static str, &str)], peer| access.authenticate(&headers(pairs), peer);
        for host in ["localhost:8085", "127.0.0.1", "[::1]:8085", "LOCALHOST"] {
            assert_eq!(asks(&[("host", host)], local), Some(Actor::Operator), "{host}");
        }
        for host in ["", "evil.example", "localhost.evil.example:8085", "127.0.0.1.evil.example", "10.0.0.1"] {
            assert_eq!(asks(&[("host", host)], local), None, "{host}");
        }
        for header in ["origin", "sec-fetch-site", "forwarded", "x-forwarded-for", "x-forwarded-host", "via"] {
            assert_eq!(asks(&[("host", "localhost"), (header, "x")], local), None, "{header}");
        }
        assert_eq!(asks(&[("host", "localhost"), ("authorization", "Bearer wrong")], local), None);
        assert_eq!(asks(&[("host", "localhost")], Some(Peer { address: [10, 0, 0, 1].into(), is_local: false })), None);
    }
}
