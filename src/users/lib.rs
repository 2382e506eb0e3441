//! Accounts, sessions and tokens: who is at the other end of a request.
//!
//! Owns the schema `identity`. A login gives a short access token (JWT) and a refresh token; tokens of the other
//! kinds (personal, service, operator) are of one format ([`token`]). [`Users`] is the program's `Authenticator`.
//!
//! Invariants:
//! - of every secret only a hash is stored, and none is ever shown a second time;
//! - a session, an account or a token that has ended opens nothing any more: at once in this process, within two
//!   seconds in others;
//! - whoever fails to log in learns nothing: not whether the account exists, is locked or disabled;
//! - what belongs to an account goes with it.

mod accounts;
mod authenticate;
mod email;
mod error;
mod failures;
#[doc(hidden)]
pub mod fuzz;
mod jwk;
mod jwt;
mod later;
mod model;
mod oidc;
mod operator;
mod password;
mod routes;
mod service;
mod sessions;
mod store;
mod token;
mod tokens;

pub use error::UsersError;
pub use later::Asker;
pub use model::{User, UserId};
pub use routes::router;
pub use service::{Belongings, Users};
