//! `/api/mcp/credentials`: on the public listener everything but plaintext, on the internal one plaintext alone.

mod internal;
mod keys;
mod public;

use platform::{
    Problem,
    http::{Path, answer::unkept},
};
use servers::ServerRef;
use tower::util::MapResponseLayer;
use utoipa_axum::router::OpenApiRouter;

use crate::Credentials;

pub use internal::internal;

/// What everybody may reach.
pub fn router(credentials: Credentials) -> OpenApiRouter {
    OpenApiRouter::new().merge(public::router()).merge(keys::router()).layer(MapResponseLayer::new(unkept)).with_state(credentials)
}

/// A server as a path or a body names it.
fn parse_server(text: &str) -> Result<ServerRef, Problem> {
    text.parse().map_err(|_| servers::ServersError::NotFound.into())
}

type UserAndServer = Path<(String, String)>;
