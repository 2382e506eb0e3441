//! `/api/mcp/auth`, `/api/mcp/users`, `/api/mcp/invites`, `/api/mcp/tokens`.

mod accounts;
mod auth;
mod tokens;

use platform::http::answer::unkept;
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
