//! The endpoints as protected resources of an external issuer of tokens (RFC 9728). Without such an issuer there is
//! nothing of this.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use platform::{
    Class, Config, Problem,
    config::OidcConfig,
    http::{Json, access::Audience, front},
};
use serde_json::{Value, json};
use virtual_servers::VirtualServerId;

use crate::Gateway;

/// Where what an endpoint is lies, before the path of the endpoint itself (RFC 9728, section 3.1).
pub(crate) const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// What tokens of the issuer are for.
pub(crate) struct Resource {
    oidc: OidcConfig,
    /// The fabric's own address, without a slash at its end.
    base: String,
}

impl Resource {
    pub(crate) fn new(config: &Config) -> Option<Self> {
        let base = config.public_url.as_ref()?.as_str().trim_end_matches('/').to_owned();
        Some(Self { oidc: config.identity.oidc.clone()?, base })
    }

    /// The names of the endpoint at a path: its own, and that of all of them, which covers each.
    fn audience(&self, domain: Option<&str>, path: &str) -> Audience {
        let own = format!("{}{path}", domain.unwrap_or(&self.base));
        let all = format!("{}/mcp", self.base);
        Audience(if domain.is_some() || own == all { Arc::new([own]) } else { Arc::new([own, all]) })
    }

    fn challenge(&self, domain: Option<&str>, path: &str, error: Option<&str>) -> Option<HeaderValue> {
        let mut text = format!("Bearer realm=\"mcp-fabric\", resource_metadata=\"{}{WELL_KNOWN}{path}\"", domain.unwrap_or(&self.base));
        for (name, value) in [("error", error), ("scope", self.oidc.scope.as_deref())] {
            if let Some(value) = value {
                text = format!("{text}, {name}=\"{value}\"");
            }
        }
        HeaderValue::from_str(&text).ok()
    }

    fn describe(&self, domain: Option<&str>, path: &str) -> Value {
        let mut described = json!({
            "resource": format!("{}{path}", domain.unwrap_or(&self.base)),
            "authorization_servers": [self.oidc.issuer_text],
            "bearer_methods_supported": ["header"],
            "resource_name": "MCP Fabric",
        });
        if let Some(scope) = &self.oidc.scope {
            described["scopes_supported"] = json!([scope]);
        }
        described
    }
}

impl Gateway {
    /// What a request to an endpoint is for, as tokens of the issuer say it.
    pub(crate) fn audience(&self, headers: &HeaderMap, path: &str) -> Option<Audience> {
        self.inner.resource.as_ref().map(|resource| resource.audience(self.inner.guard.domain_of(headers), path))
    }

    /// Tells whoever was refused for want of a token where it stands which tokens are taken.
    pub(crate) fn challenged(&self, domain: Option<&str>, path: &str, mut response: Response) -> Response {
        let error = match response.extensions().get::<Problem>() {
            Some(problem) if problem.class == Class::Unauthenticated => None,
            Some(problem) if problem.code == "insufficient_scope" => Some(problem.code),
            _ => return response,
        };
        let challenge = self.inner.resource.as_ref().and_then(|resource| resource.challenge(domain, path, error));
        if let Some(challenge) = challenge {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// What an endpoint says of itself; at the root of the place, the endpoint of everything.
pub(crate) async fn described(State(gateway): State<Gateway>, request: Request) -> Response {
    // As it is written: an endpoint's name is compared letter by letter.
    let path = request.uri().path().strip_prefix(WELL_KNOWN).filter(|path| !path.is_empty()).unwrap_or("/mcp");
    let is_endpoint = match path.split('/').skip(1).collect::<Vec<_>>()[..] {
        ["mcp"] => true,
        ["mcp", "s", server] => !server.is_empty(),
        ["mcp", "v", id] => id.parse::<VirtualServerId>().is_ok(),
        _ => false,
    };
    match gateway.inner.resource.as_ref().filter(|_| is_endpoint) {
        Some(resource) => Json(resource.describe(gateway.inner.guard.domain_of(request.headers()), path)).into_response(),
        None => front::not_found(request).await,
    }
}
