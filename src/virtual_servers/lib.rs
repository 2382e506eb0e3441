//! Named endpoints of users, each with the tools of a chosen set of sources and servers.
//!
//! Owns `mcp_fabric.virtual_servers`. An endpoint is a domain of `MCP_GATEWAY_URL_POOLS`, one server's at a time, or where
//! there is no pool a path of this fabric. What is removed frees its endpoint and can be restored; the gateway serves
//! what there is.

mod error;
mod model;
mod routes;
mod service;
mod store;

pub use error::VirtualServersError;
pub use model::{Names, Prefix, VirtualServer, VirtualServerId};
pub use routes::router;
pub use service::{Offers, VIRTUAL_SERVER_CHANGED, VirtualServers};
