//! Who is at the other end of the connection, behind the proxies that we believe.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

/// The other end of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The caller's address: the connection's, or what trusted proxies say.
    pub address: IpAddr,
    /// Whether the connection itself comes from this machine and no proxy forwarded it.
    pub is_local: bool,
}

impl Peer {
    /// Counts `X-Forwarded-For` from the right, past the proxies that are trusted.
    pub(super) fn find(connection: SocketAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(address));
        let socket = connection.ip().to_canonical();
        let mut address = socket;
        if is_trusted(&socket) {
            let lines: Vec<&str> = headers.get_all("x-forwarded-for").iter().filter_map(|line| line.to_str().ok()).collect();
            for hop in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
                let Ok(hop) = hop.trim().parse::<IpAddr>() else { break };
                address = hop.to_canonical();
                if !is_trusted(&address) {
                    break;
                }
            }
        }
        Self { address, is_local: socket.is_loopback() && !was_forwarded(headers) }
    }
}

pub(super) fn was_forwarded(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name == "forwarded" || name == "via" || name.as_str().starts_with("x-forwarded") || name == "x-real-ip")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(socket: &str, forwarded: Option<&'static str>, trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        if let Some(forwarded) = forwarded {
            headers.insert("x-forwarded-for", axum::http::HeaderValue::from_static(forwarded));
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|net| net.parse().unwrap()).collect();
        Peer::find(socket.parse().unwrap(), &headers, &trusted).address.to_string()
    }

    #[test]
    fn forwarded_addresses_count_from_the_right_and_only_from_trusted_proxies() {
        assert_eq!(found("9.9.9.9:1", Some("1.1.1.1"), &[]), "9.9.9.9");
        assert_eq!(found("10.0.0.1:1", Some("1.1.1.1, 2.2.2.2"), &["10.0.0.0/8"]), "2.2.2.2");
        assert_eq!(found("10.0.0.1:1", Some("1.1.1.1, 2.2.2.2, 10.0.0.9"), &["10.0.0.0/8"]), "2.2.2.2");
        assert_eq!(found("10.0.0.1:1", Some("1.1.1.1, rubbish"), &["10.0.0.0/8"]), "10.0.0.1");
        assert_eq!(found("[::ffff:10.0.0.1]:1", Some("1.1.1.1"), &["10.0.0.0/8"]), "1.1.1.1");
    }
}
