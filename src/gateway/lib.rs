//! The endpoints of MCP clients: `/mcp` for everything that one may use, `/mcp/s/{server}` for one server, `/mcp/v/{id}` and the
//! domains of the pool for what somebody has put together.
//!
//! Owns no table. A client of any revision is carried to a server of any revision ([`route`] finds the server, [`work`]
//! carries one request, [`legacy`] and [`modern`] are the two manners of clients). Why it is not built on an SDK's
//! models: docs/architecture.md.
//!
//! Invariants:
//! - results are passed on as they came, member by member; what is added or changed stands in [`meta`] alone;
//! - who may use what is asked with every request; a session, a stream, a parked call are of one actor;
//! - nothing waits without a limit in time, and nothing is kept without a limit in number and size;
//! - a client's token never reaches a server.

mod answer;
mod backend;
mod client;
mod client_config;
mod error;
mod granted;
mod greeting;
mod guard;
mod hearer;
mod legacy;
mod lists;
mod meta;
mod modern;
mod names;
mod news;
mod offer;
mod parked;
mod place;
mod questions;
mod resource;
mod revision;
mod rights;
mod route;
mod routes;
mod rpc;
mod service;
mod stream;
mod trace;
mod trail;
mod work;

pub use error::GatewayError;
pub use routes::{endpoints, router};
pub use service::{Gateway, Neighbours};
