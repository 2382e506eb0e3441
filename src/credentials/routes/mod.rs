//! `/api/mcp/credentials`: on the public listener everything but plaintext, on the internal one plaintext alone.

mod internal;
mod keys;
mod public;

use axum::http::header;
use platform::{
    Problem,
    http::{Path, answer::unkept},
};
use servers::ServerRef;
use tower::util::MapResponseLayer;
use utoipa_axum::router::OpenApiRouter;

use crate::{Credentials, error::CredentialsError};

pub use internal::internal;

/// What everybody may reach.
pub fn router(credentials: Credentials) -> OpenApiRouter {
    OpenApiRouter::new().merge(public::router()).merge(keys::router()).layer(MapResponseLayer::new(unkept)).with_state(credentials)
}

/// A server as a path or a body names it.
fn parse_server(text: &str) -> Result<ServerRef, Problem> {
    text.parse().map_err(|_| servers::ServersError::NotFound.into())
}

/// A revision as `If-Match` names it: `"7"`, or `"0"` for none yet.
fn parse_if_match(headers: &axum::http::HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let revision = value.to_str().ok().and_then(|text| text.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok());
    revision.map(Some).ok_or_else(|| CredentialsError::field("header.if-match", "must be one revision in quotes, as ETag gives it").into())
}

type UserAndServer = Path<(String, String)>;
