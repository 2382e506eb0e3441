use axum::http::{HeaderMap, header};
use url::Url;

/// How clients reach us: at the configured address, else by the name that they use.
#[derive(Clone, Debug)]
pub struct Address {
    public_url: Option<Url>,
    is_tls: bool,
}

impl Address {
    /// `is_tls`: whether we serve HTTPS ourselves.
    pub fn new(public_url: Option<Url>, is_tls: bool) -> Self {
        Self { public_url, is_tls }
    }

    /// For a request with these headers, without a slash at its end; `None` where it has no usable `Host`.
    pub fn of(&self, headers: &HeaderMap) -> Option<String> {
        if let Some(url) = &self.public_url {
            return Some(url.as_str().trim_end_matches('/').to_owned());
        }
        let host = headers.get(header::HOST)?.to_str().ok().filter(|host| is_host(host))?;
        Some(format!("{}://{host}", if self.is_tls { "https" } else { "http" }))
    }
}

/// A name or address with a port: what stands in addresses that we hand out.
fn is_host(text: &str) -> bool {
    text.len() <= 255
        && !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'))
}
