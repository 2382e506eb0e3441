//! Data sources of users: a type, and what is needed to reach one, which virtual servers may reach.
//!
//! Owns `mcp_fabric.sources`. Values of keys that look like secrets lie in the vault, and `[secret]` in their place; any
//! type is taken, and one that no server of the catalogue is for offers nothing.

mod error;
mod model;
mod routes;
mod service;
mod store;

pub use error::SourcesError;
pub use model::{Source, SourceId};
pub use routes::router;
pub use service::{SOURCE_CHANGED, Sources};
