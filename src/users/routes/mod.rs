//! `/api/mcp/auth`, `/api/mcp/users`, `/api/mcp/invites`, `/api/mcp/tokens`.

mod accounts;
mod auth;
mod tokens;

use axum::{
    http::{HeaderValue, header},
    response::Response,
};
use tower::util::MapResponseLayer;
use utoipa_axum::router::OpenApiRouter;

use crate::Users;

/// Everything about accounts, sessions and tokens.
pub fn router(users: Users) -> OpenApiRouter {
    OpenApiRouter::new()
        .merge(auth::router())
        .merge(accounts::router())
        .merge(tokens::router())
        .layer(MapResponseLayer::new(unkept))
        .with_state(users)
}

/// No answer of these is for a cache.
fn unkept(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
