//! What a server and its authorization server publish: RFC 9728, RFC 8414 and the
//! discovery of `OpenID` Connect.

use std::time::Duration;

use futures_util::StreamExt as _;
use platform::client::Client;
use reqwest::{
    RequestBuilder, Response, StatusCode,
    header::{ACCEPT, WWW_AUTHENTICATE},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use url::{Host, Url};

use crate::error::OauthError;

const PATIENCE: Duration = Duration::from_secs(10);
/// The longest document, and the longest answer of an authorization server.
const LONGEST: usize = 1 << 20;

/// The authorization server of a server, and how to speak to it.
#[derive(Debug)]
pub(crate) struct Found {
    /// The server as its tokens name it.
    pub(crate) resource: String,
    pub(crate) metadata: Metadata,
    /// What to ask for, where the server says it.
    pub(crate) scope: Option<String>,
}

/// What an authorization server says of itself (RFC 8414, section 2).
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) issuer: String,
    pub(crate) authorization_endpoint: String,
    pub(crate) token_endpoint: String,
    pub(crate) registration_endpoint: Option<String>,
    pub(crate) revocation_endpoint: Option<String>,
    #[serde(default)]
    code_challenge_methods_supported: Vec<String>,
    #[serde(default)]
    scopes_supported: Vec<String>,
    #[serde(default, rename = "authorization_response_iss_parameter_supported")]
    pub(crate) names_issuer: bool,
}

/// What a protected resource says of itself (RFC 9728, section 2).
#[derive(Deserialize)]
struct Resource {
    #[serde(rename = "resource")]
    id: String,
    #[serde(default)]
    authorization_servers: Vec<String>,
    #[serde(default)]
    scopes_supported: Vec<String>,
}

/// Asks a server without a token, and follows what it answers to its authorization server.
pub(crate) async fn discover(client: &Client, server: &Url) -> Result<Found, OauthError> {
    let challenge = challenge(client, server).await?;
    let places = match &challenge.metadata {
        Some(place) => vec![place.clone()],
        None => well_known(server, "oauth-protected-resource"),
    };
    let described: Option<Resource> = first(client, &places).await?;
    let Some(described) = described else {
        // Servers of revision 2025-03-26 are their own authorization servers.
        let issuer = server.origin().ascii_serialization();
        let metadata = metadata(client, &issuer).await?;
        return Ok(Found { resource: canonical(server), scope: challenge.scope, metadata });
    };
    if !is_of(&described.id, server) {
        return Err(OauthError::Unfit("what it says of itself is of another server"));
    }
    let issuer = described.authorization_servers.first().ok_or(OauthError::Unfit("it names no authorization server"))?;
    let metadata = metadata(client, issuer).await?;
    let stated = Some(described.scopes_supported.join(" ")).filter(|scopes| !scopes.is_empty());
    let mut scope = challenge.scope.or(stated);
    if let Some(scope) = &mut scope
        && metadata.scopes_supported.iter().any(|known| known == "offline_access")
        && !scope.split(' ').any(|asked| asked == "offline_access")
    {
        scope.push_str(" offline_access");
    }
    Ok(Found { resource: described.id, metadata, scope })
}

/// What a refusal says of how to get in (RFC 6750, section 3, and RFC 9728, section 5.1).
#[derive(Debug, Default, PartialEq, Eq)]
struct Challenge {
    metadata: Option<Url>,
    scope: Option<String>,
}

async fn challenge(client: &Client, server: &Url) -> Result<Challenge, OauthError> {
    let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "mcp-fabric", "version": "1" } });
    let hello = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params });
    let request = client.post(server.clone())?.header(ACCEPT, "application/json, text/event-stream").json(&hello);
    let answer = send(request, server).await?;
    if answer.status().is_success() {
        return Err(OauthError::NotNeeded);
    }
    if answer.status() != StatusCode::UNAUTHORIZED {
        return Err(OauthError::Unfit("it neither answers nor asks for a login"));
    }
    let headers = answer.headers().get_all(WWW_AUTHENTICATE).iter();
    let headers: Vec<&str> = headers.filter_map(|value| value.to_str().ok()).collect();
    Ok(read_challenge(&headers.join(", ")))
}

fn read_challenge(header: &str) -> Challenge {
    let all = parameters(header);
    let named = |name: &str| all.iter().find(|(own, value)| own.eq_ignore_ascii_case(name) && !value.is_empty()).map(|(_, value)| value);
    Challenge { metadata: named("resource_metadata").and_then(|place| place.parse().ok()), scope: named("scope").cloned() }
}

/// The parameters of challenges (RFC 9110, section 11.2): names, and values that are quoted or tokens.
fn parameters(header: &str) -> Vec<(String, String)> {
    let mut chars = header.chars().peekable();
    let mut found = Vec::new();
    while chars.peek().is_some() {
        let name: String = std::iter::from_fn(|| chars.next_if(|c| !matches!(c, '=' | ',' | ' ' | '\t'))).collect();
        if chars.next() != Some('=') {
            // A scheme, or what parts two of them.
            continue;
        }
        let value = if chars.next_if_eq(&'"').is_some() {
            let mut value = String::new();
            loop {
                match chars.next() {
                    Some('\\') => value.extend(chars.next()),
                    Some('"') => break,
                    Some(c) => value.push(c),
                    // It does not end: nothing after it can be trusted.
                    None => return found,
                }
            }
            value
        } else {
            std::iter::from_fn(|| chars.next_if(|c| !matches!(c, ',' | ' ' | '\t'))).collect()
        };
        found.push((name, value));
    }
    found
}

/// Where a document of `kind` may lie for an address: with its path first (RFC 9728, section 3.1), then without.
fn well_known(address: &Url, kind: &str) -> Vec<Url> {
    let path = address.path().trim_end_matches('/');
    let place = |path: &str| {
        let mut place = address.clone();
        place.set_path(&format!("/.well-known/{kind}{path}"));
        place.set_query(None);
        place.set_fragment(None);
        place
    };
    if path.is_empty() { vec![place("")] } else { vec![place(path), place("")] }
}

async fn metadata(client: &Client, issuer: &str) -> Result<Metadata, OauthError> {
    let address: Url = issuer.parse().map_err(|_| OauthError::Unfit("its authorization server has no address"))?;
    let path = address.path().trim_end_matches('/').to_owned();
    let with_path = |kind: &str| well_known(&address, kind).swap_remove(0);
    let mut places = vec![with_path("oauth-authorization-server"), with_path("openid-configuration")];
    if !path.is_empty() {
        let mut appended = address.clone();
        appended.set_path(&format!("{path}/.well-known/openid-configuration"));
        places.push(appended);
    }
    let found: Option<Metadata> = first(client, &places).await?;
    let found = found.ok_or(OauthError::Unfit("its authorization server does not describe itself"))?;
    check(issuer, &found)?;
    Ok(found)
}

fn check(issuer: &str, found: &Metadata) -> Result<(), OauthError> {
    if found.issuer.trim_end_matches('/') != issuer.trim_end_matches('/') {
        return Err(OauthError::Unfit("its authorization server describes another one"));
    }
    if !found.code_challenge_methods_supported.iter().any(|method| method == "S256") {
        return Err(OauthError::Unfit("its authorization server does not know PKCE with S256"));
    }
    let further = [found.registration_endpoint.as_deref(), found.revocation_endpoint.as_deref()].into_iter().flatten();
    for place in [found.authorization_endpoint.as_str(), found.token_endpoint.as_str()].into_iter().chain(further) {
        endpoint(place)?;
    }
    Ok(())
}

/// An address that secrets may be sent to: HTTPS, or this machine.
pub(crate) fn endpoint(place: &str) -> Result<Url, OauthError> {
    let url: Url = place.parse().map_err(|_| OauthError::Unfit("its authorization server names something that is no address"))?;
    let is_here = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    if url.scheme() == "https" || (url.scheme() == "http" && is_here) {
        return Ok(url);
    }
    Err(OauthError::Unfit("its authorization server wants secrets without TLS"))
}

/// How tokens name a server: without a fragment, and without a slash that stands for nothing.
fn canonical(server: &Url) -> String {
    let mut server = server.clone();
    server.set_fragment(None);
    let text = server.to_string();
    if server.path() == "/" { text.trim_end_matches('/').to_owned() } else { text }
}

/// Whether a resource is this server, or has it among what is below its path.
pub(crate) fn is_of(resource: &str, server: &Url) -> bool {
    let Ok(resource) = resource.parse::<Url>() else { return false };
    let path = resource.path().trim_end_matches('/');
    let below = server.path().strip_prefix(path);
    resource.origin() == server.origin() && below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The first of these places that has the document.
async fn first<T: DeserializeOwned>(client: &Client, places: &[Url]) -> Result<Option<T>, OauthError> {
    for place in places {
        let answer = send(client.get(place.clone())?.header(ACCEPT, "application/json"), place).await?;
        if answer.status().is_success() {
            let body = body(answer, place).await?;
            return serde_json::from_slice(&body)
                .map(Some)
                .map_err(|_| OauthError::Unfit("what it publishes is not of the form that is stated"));
        }
    }
    Ok(None)
}

pub(crate) async fn send(request: RequestBuilder, to: &Url) -> Result<Response, OauthError> {
    request.timeout(PATIENCE).send().await.map_err(|error| unreachable(to, &error))
}

fn unreachable(place: &Url, error: &reqwest::Error) -> OauthError {
    let why = if error.is_timeout() { "it does not answer" } else { "the connection failed" };
    OauthError::Unreachable(place.origin().ascii_serialization(), why.into())
}

pub(crate) async fn body(answer: Response, place: &Url) -> Result<Vec<u8>, OauthError> {
    let (mut chunks, mut body) = (answer.bytes_stream(), Vec::new());
    while let Some(chunk) = chunks.next().await {
        body.extend_from_slice(&chunk.map_err(|error| unreachable(place, &error))?);
        if body.len() > LONGEST {
            return Err(OauthError::Unfit("its answer is larger than 1 MiB"));
        }
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn challenges_are_read() {
        let read =
            read_challenge(r#"Bearer realm="a, scope=\"b\"", resource_metadata="https://a.example/x", scope="files:read files:write""#);
        assert_eq!(read, Challenge { metadata: Some(url("https://a.example/x")), scope: Some("files:read files:write".into()) });
        assert_eq!(read_challenge("Bearer scope=one, error=invalid_token").scope, Some("one".into()));
        assert_eq!(read_challenge("Basic"), Challenge::default());
        assert_eq!(read_challenge(r#"Bearer scope="open"#).scope, None);
    }

    #[test]
    fn documents_lie_where_the_standards_say() {
        let places = |address: &str| well_known(&url(address), "k").iter().map(Url::to_string).collect::<Vec<_>>();
        assert_eq!(places("https://a.example/x/mcp?q=1"), ["https://a.example/.well-known/k/x/mcp", "https://a.example/.well-known/k"]);
        assert_eq!(places("https://a.example/"), ["https://a.example/.well-known/k"]);
        assert_eq!(
            (canonical(&url("https://A.example/")), canonical(&url("https://a.example/mcp#x"))),
            ("https://a.example".into(), "https://a.example/mcp".into())
        );
    }

    #[test]
    fn a_resource_is_the_server_or_has_it() {
        let server = url("https://a.example/x/mcp");
        for resource in ["https://a.example/x/mcp", "https://a.example/x/", "https://a.example", "https://a.example/x/mcp/"] {
            assert!(is_of(resource, &server), "{resource}");
        }
        for resource in ["https://b.example/x/mcp", "http://a.example/x/mcp", "https://a.example/x/mc", "https://a.example/x/mcp/y", "x"] {
            assert!(!is_of(resource, &server), "{resource}");
        }
    }

    #[test]
    fn an_authorization_server_has_to_be_the_one_that_was_asked() {
        let metadata = |issuer: &str, token: &str, methods: &[&str]| -> Metadata {
            let text = json!({ "issuer": issuer, "authorization_endpoint": "https://a.example/authorize", "token_endpoint": token,
                "code_challenge_methods_supported": methods });
            serde_json::from_value(text).unwrap()
        };
        let is_fine = |metadata: &Metadata| check("https://a.example", metadata).is_ok();
        assert!(is_fine(&metadata("https://a.example/", "https://a.example/token", &["S256"])));
        assert!(is_fine(&metadata("https://a.example", "http://127.0.0.1:1/token", &["plain", "S256"])));
        assert!(!is_fine(&metadata("https://b.example", "https://a.example/token", &["S256"])));
        assert!(!is_fine(&metadata("https://a.example", "https://a.example/token", &["plain"])));
        assert!(!is_fine(&metadata("https://a.example", "https://a.example/token", &[])));
        for place in ["http://a.example/token", "file:///etc/passwd", "token", "javascript:alert(1)"] {
            assert!(!is_fine(&metadata("https://a.example", place, &["S256"])), "{place}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_challenge_makes_the_reader_panic(text in "\\PC*") {
            read_challenge(&text);
        }
    }
}
