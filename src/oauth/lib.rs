//! Logging in to servers elsewhere: OAuth 2.1 as the MCP specification wants it of clients (basic/authorization).
//!
//! Owns `mcp_fabric.oauth_grants`, `oauth_logins` and `oauth_clients`. A login begins with an address for a browser and
//! ends at our callback, where whoever came is shown for whom it is before anything is stored. Tokens are a user's own, in
//! the vault, and go to the one server that they are for. Every login has a state of its own that is used once, PKCE, the
//! `resource` parameter (RFC 8707), and the issuer's name is compared where it is given (RFC 9207).

mod bearer;
mod discovery;
mod error;
mod exchange;
mod page;
mod routes;
mod service;
mod store;

pub use bearer::Bearer;
pub use error::OauthError;
pub use routes::router;
pub use service::{Neighbours, Oauth};
