//! The one outgoing HTTP client. It refuses private, loopback and link-local addresses, when it
//! connects and on every redirect, unless the configuration names the host.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{
    Method,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use url::{Host, Url};

/// The program's name and version, sent as `User-Agent`.
const USER_AGENT: &str = concat!("mcp-fabric/", env!("CARGO_PKG_VERSION"));
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const REDIRECTS: usize = 5;
/// All but the unreserved characters (RFC 3986, section 2.3).
const RESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What stands in an address for a text: a path segment or a query value.
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, &RESERVED).to_string()
}

/// The client could not be made, or a request may not be sent.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The TLS roots of the system could not be read.
    #[error("could not set up outgoing HTTP: {0}")]
    Setup(#[source] reqwest::Error),
    /// The URL leads to an address inside.
    #[error("{0} is a private address; FABRIC_ALLOWED_HOSTS has to name it")]
    Private(String),
    /// The configuration forbids outgoing requests.
    #[error("FABRIC_OFFLINE is set, so no request leaves this machine")]
    Offline,
}

/// Makes requests to the outside.
#[derive(Clone, Debug)]
pub struct Client {
    inner: reqwest::Client,
    allowed: Arc<Allowed>,
    offline: bool,
}

/// The hosts that may have any address: `host` at any port, `host:port` at that one.
#[derive(Debug)]
struct Allowed(BTreeSet<String>);

impl Allowed {
    fn new(hosts: impl IntoIterator<Item = String>) -> Arc<Self> {
        Arc::new(Self(hosts.into_iter().map(|host| host.to_ascii_lowercase()).collect()))
    }

    fn holds(&self, host: &str, port: Option<u16>) -> bool {
        self.0.contains(host) || port.is_some_and(|port| self.0.contains(&format!("{host}:{port}")))
    }

    /// Whether it may have any address at some port.
    fn knows(&self, host: &str) -> bool {
        self.0.contains(host) || self.0.iter().any(|known| known.strip_prefix(host).is_some_and(|rest| rest.starts_with(':')))
    }

    /// The host of `url`, when no request may go there: an address inside, or another port of a host
    /// that may be inside. A redirect between HTTP and HTTPS is always possible.
    fn refuses(&self, url: &Url) -> Option<String> {
        let (host, port) = (url.host_str()?.to_ascii_lowercase(), url.port_or_known_default());
        let is_inside = match url.host()? {
            Host::Domain(_) => self.knows(&host) && !matches!(port, Some(80 | 443)),
            Host::Ipv4(address) => !is_public(address.into()),
            Host::Ipv6(address) => !is_public(address.into()),
        };
        (is_inside && !self.holds(&host, port)).then_some(host)
    }
}

/// The entry of a URL's own host and port for [`Client::new`].
pub fn own_host(url: &Url) -> Option<String> {
    Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))
}

impl Client {
    /// A client that may reach public addresses and the hosts in `allowed` (`host` or `host:port`),
    /// whatever their address.
    pub fn new(allowed: impl IntoIterator<Item = String>, offline: bool) -> Result<Self, ClientError> {
        Self::build(allowed, offline, builder(), REDIRECTS)
    }

    /// The same, for files: what a server compressed stays compressed, since its digest is of that.
    pub fn verbatim(allowed: impl IntoIterator<Item = String>, offline: bool) -> Result<Self, ClientError> {
        Self::build(allowed, offline, builder().gzip(false), REDIRECTS)
    }

    /// The same, for requests whose headers are for one host alone: redirects are answers like any other.
    pub fn direct(allowed: impl IntoIterator<Item = String>, offline: bool) -> Result<Self, ClientError> {
        Self::build(allowed, offline, builder(), 0)
    }

    fn build(
        allowed: impl IntoIterator<Item = String>,
        offline: bool,
        builder: reqwest::ClientBuilder,
        redirects: usize,
    ) -> Result<Self, ClientError> {
        let allowed = Allowed::new(allowed);
        let on_redirect = Arc::clone(&allowed);
        let inner = builder
            .dns_resolver(Arc::new(PublicOnly { allowed: Arc::clone(&allowed) }))
            .redirect(redirect::Policy::custom(move |attempt| {
                if redirects == 0 {
                    return attempt.stop();
                }
                if attempt.previous().len() > redirects {
                    return attempt.error("too many redirects");
                }
                match on_redirect.refuses(attempt.url()) {
                    Some(host) => attempt.error(ClientError::Private(host)),
                    None => attempt.follow(),
                }
            }))
            .build()
            .map_err(ClientError::Setup)?;
        Ok(Self { inner, allowed, offline })
    }

    /// A GET request to `url`, ready to be given headers and a time limit.
    pub fn get(&self, url: Url) -> Result<reqwest::RequestBuilder, ClientError> {
        self.request(Method::GET, url)
    }

    /// A HEAD request in the same way.
    pub fn head(&self, url: Url) -> Result<reqwest::RequestBuilder, ClientError> {
        self.request(Method::HEAD, url)
    }

    /// A POST request in the same way.
    pub fn post(&self, url: Url) -> Result<reqwest::RequestBuilder, ClientError> {
        self.request(Method::POST, url)
    }

    /// A DELETE request in the same way.
    pub fn delete(&self, url: Url) -> Result<reqwest::RequestBuilder, ClientError> {
        self.request(Method::DELETE, url)
    }

    fn request(&self, method: Method, url: Url) -> Result<reqwest::RequestBuilder, ClientError> {
        if self.offline {
            return Err(ClientError::Offline);
        }
        match self.allowed.refuses(&url) {
            Some(host) => Err(ClientError::Private(host)),
            None => Ok(self.inner.request(method, url)),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the door")]
fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder().user_agent(USER_AGENT).connect_timeout(CONNECT_LIMIT).no_proxy()
}

/// A client for the socket of a fabric on this machine.
pub fn socket_api(socket: &std::path::Path) -> Result<reqwest::Client, ClientError> {
    builder().redirect(redirect::Policy::none()).unix_socket(socket).build().map_err(ClientError::Setup)
}

/// A client for the API of a fabric that is named by its URL.
pub fn fabric_api() -> Result<reqwest::Client, ClientError> {
    builder().redirect(redirect::Policy::none()).build().map_err(ClientError::Setup)
}

/// A client for the fabric of this machine's data folder, which is found by a lock that it holds: its
/// certificate is for the name that others use.
pub fn local_api() -> Result<reqwest::Client, ClientError> {
    builder().redirect(redirect::Policy::none()).tls_danger_accept_invalid_certs(true).build().map_err(ClientError::Setup)
}

struct PublicOnly {
    allowed: Arc<Allowed>,
}

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_ascii_lowercase();
        let any_address = self.allowed.knows(&host);
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((host.as_str(), 0)).await?.filter(|address| any_address || is_public(address.ip())).collect();
            if found.is_empty() {
                return Err(ClientError::Private(host).into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Whether an address belongs to the public internet (IANA special-purpose registries).
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(a == 0
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || a >= 240
        || (a == 100 && b & 0xc0 == 64)
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && b & 0xfe == 18))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(inner) = address.to_ipv4_mapped() {
        return is_public_v4(inner);
    }
    let [first, second, ..] = address.segments();
    // 64:ff9b::/96 translates to IPv4, 2002::/16 tunnels it: both can lead inside.
    let translated = (first == 0x64 && second == 0xff9b) || first == 0x2002;
    // Global unicast is 2000::/3; 2001:db8::/32 is for documentation.
    first & 0xe000 == 0x2000 && !translated && !(first == 0x2001 && second == 0xdb8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for inside in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
        ] {
            assert!(!is_public(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["1.1.1.1", "93.184.216.34", "2606:4700::1111"] {
            assert!(is_public(outside.parse().unwrap()), "{outside}");
        }
    }

    #[test]
    fn other_spellings_of_private_addresses_are_refused() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = Client::new([], false).unwrap();
        for url in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0177.0.0.1/",
            "http://0x7f.1/",
            "http://[::1]/",
            "http://[::ffff:10.0.0.1]/",
        ] {
            assert!(matches!(client.get(url.parse().unwrap()), Err(ClientError::Private(_))), "{url}");
        }
        let client = Client::new(["127.0.0.1".to_owned(), "[::1]:8080".to_owned(), "inside:8080".to_owned()], false).unwrap();
        for url in ["http://127.0.0.1:9/", "http://[::1]:8080/", "http://inside:8080/", "https://inside/", "http://outside:22/"] {
            assert!(client.get(url.parse().unwrap()).is_ok(), "{url}");
        }
        for url in ["http://127.0.0.2:9/", "http://[::1]:8081/", "http://inside:22/"] {
            assert!(matches!(client.get(url.parse().unwrap()), Err(ClientError::Private(_))), "{url}");
        }
    }
}
