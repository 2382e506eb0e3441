//! URLs: their form, the `{variables}` in them, and the hosts that they may name.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};

use url::{Host, ParseError, Url};

/// Why a text is no absolute URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressFault {
    /// It cannot be read as a URL.
    Invalid,
    /// It has no scheme.
    NotAbsolute,
}

/// Reads an absolute URL.
///
/// Browsers repair much that is wrong in a URL and so does the parser; the official registry does not.
/// What would be repaired is refused here.
pub(super) fn parse(text: &str) -> Result<Url, AddressFault> {
    let is_odd = |c: char| c.is_whitespace() || c.is_control() || c == '\\';
    if text.contains(is_odd) || has_bad_escape(text) {
        return Err(AddressFault::Invalid);
    }
    match Url::parse(text) {
        Ok(url) if url.has_host() && !states_host(text) => Err(AddressFault::Invalid),
        Ok(url) => Ok(url),
        Err(ParseError::RelativeUrlWithoutBase) => Err(AddressFault::NotAbsolute),
        Err(_) => Err(AddressFault::Invalid),
    }
}

/// Whether a percent sign is not followed by two hexadecimal digits.
fn has_bad_escape(text: &str) -> bool {
    let mut parts = text.as_bytes().split(|byte| *byte == b'%');
    parts.next();
    parts.any(|part| !matches!(part, [first, second, ..] if first.is_ascii_hexdigit() && second.is_ascii_hexdigit()))
}

/// Whether a host stands right behind `scheme://`, without the parser having looked for it elsewhere.
fn states_host(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, rest)| !scheme.contains(':') && !rest.is_empty() && !rest.starts_with(['/', '?', '#']))
}

/// Whether a URL with `{variables}` is one of http or https once they are replaced.
pub(super) fn is_http(template: &str) -> bool {
    parse(&fill(template)).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// Whether a URL with `{variables}` is one of https whose host can be reached from anywhere.
pub(super) fn is_public_https(template: &str) -> bool {
    parse(&fill(template)).is_ok_and(|url| url.scheme() == "https" && url.host().is_some_and(|host| !is_internal(&host)))
}

/// Whether all `{variables}` of a URL are among the known ones.
pub(super) fn has_only_variables(template: &str, known: &BTreeSet<&str>) -> bool {
    pieces(template).iter().all(|piece| match piece {
        Piece::Literal(_) => true,
        Piece::Variable(name) => known.contains(name),
    })
}

/// A part of a URL with `{variables}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece<'a> {
    Literal(&'a str),
    Variable(&'a str),
}

/// Braces without a partner, or with nothing in between, are taken literally.
fn pieces(template: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once('{') {
        let Some((name, after)) = behind.split_once('}') else { break };
        pieces.push(Piece::Literal(before));
        pieces.push(if name.is_empty() { Piece::Literal("{}") } else { Piece::Variable(name) });
        rest = after;
    }
    pieces.push(Piece::Literal(rest));
    pieces
}

/// Replaces each `{variable}` by something that may stand in its place.
fn fill(template: &str) -> String {
    let mut filled = String::with_capacity(template.len());
    for piece in pieces(template) {
        let text = match piece {
            Piece::Literal(text) => text,
            Piece::Variable("host") => "example.com",
            Piece::Variable("path") => "api",
            Piece::Variable("protocol" | "scheme") => "http",
            Piece::Variable("port") => "8080",
            Piece::Variable(_) if filled.ends_with(':') => "8080",
            Piece::Variable(_) => "placeholder",
        };
        filled.push_str(text);
    }
    filled
}

fn is_internal(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => {
            let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
            name == "localhost" || name.ends_with(".localhost")
        }
        Host::Ipv4(address) => is_internal_v4(*address),
        Host::Ipv6(address) => is_internal_v6(*address),
    }
}

fn is_internal_v4(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    // Addresses that providers share among their customers (RFC 6598).
    let is_shared = first == 100 && (64..128).contains(&second);
    address.is_loopback()
        || address.is_unspecified()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || is_shared
}

fn is_internal_v6(address: Ipv6Addr) -> bool {
    address.to_ipv4_mapped().is_some_and(is_internal_v4)
        || address.is_loopback()
        || address.is_unspecified()
        || address.is_unique_local()
        || address.is_unicast_link_local()
        || address.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_only_what_needs_no_repair() {
        for text in ["https://example.com", "https://example.com/a?b#c", "HTTPS://EXAMPLE.com:8443/", "urn:a:b", "https://[2001:db8::1]/"] {
            assert!(parse(text).is_ok(), "{text}");
        }
        for text in [
            "https://",
            "https:///example.com",
            "https:example.com",
            "https://a b",
            " https://a",
            "https://a\\b",
            "https://a/%zz",
            "https://a/%4",
        ] {
            assert_eq!(parse(text), Err(AddressFault::Invalid), "{text}");
        }
        for text in ["", "example.com", "/path", "//example.com/x", "é"] {
            assert_eq!(parse(text), Err(AddressFault::NotAbsolute), "{text}");
        }
    }

    #[test]
    fn knows_public_hosts() {
        for text in [
            "https://example.com/mcp",
            "https://8.8.8.8/",
            "https://[2606:4700::1111]/",
            "https://{tenant}.example.com:{number}/x",
            "https://100.128.0.1/",
        ] {
            assert!(is_public_https(text), "{text}");
        }
        let internal = [
            "http://example.com",
            "https://localhost",
            "https://LOCALHOST.:1/",
            "https://a.localhost/",
            "https://127.0.0.1",
            "https://127.1/",
            "https://0x7f000001/",
            "https://0.0.0.0",
            "https://10.1.2.3",
            "https://172.16.0.1",
            "https://192.168.0.1",
            "https://169.254.169.254",
            "https://224.0.0.1",
            "https://255.255.255.255",
            "https://100.64.0.1",
            "https://[::1]",
            "https://[::]",
            "https://[::ffff:10.0.0.1]",
            "https://[fd00::1]",
            "https://[fe80::1]",
            "https://[ff02::1]",
            "https://127.0.0.1:{port}/",
            "{scheme}://example.com",
            "ftp://example.com",
        ];
        for text in internal {
            assert!(!is_public_https(text), "{text}");
        }
    }

    #[test]
    fn finds_variables() {
        assert_eq!(pieces("a{b}"), [Piece::Literal("a"), Piece::Variable("b"), Piece::Literal("")]);
        assert_eq!(fill("{protocol}://{host}:{port}/{path}/{x}"), "http://example.com:8080/api/placeholder");
        assert_eq!(fill("https://é:{ü}/{}{"), "https://é:8080/{}{");
        assert!(has_only_variables("https://{a}/{b}", &BTreeSet::from(["a", "b"])));
        assert!(!has_only_variables("https://{a}/{b}", &BTreeSet::from(["a"])));
    }
}
