//! The catalogue: what servers there are, in which versions, and what they need.
//!
//! Owns `mcp_fabric.servers`, `server_versions`, `server_version_history`, `server_packages`,
//! `server_remotes`, `credential_docs`, `installed_inputs` and the views `server_env_vars` and `server_categories`.
//!
//! Invariants: a document is kept byte for byte as it came and served so again; each server has at most
//! one latest version; what `servers` says of a server is taken from its latest version alone.
//! `sync` writes through [`Servers::apply_in`], clients read through `/api/mcp` and `/v0.1`.

mod access;
mod categories;
mod credentials;
mod document;
mod error;
mod ingest;
mod kept;
mod latest;
mod local;
mod model;
mod predefined;
mod registry;
mod render;
mod routes;
mod service;
mod store;
pub mod validate;

pub use access::Places;
pub use categories::Rules;
pub use document::{Entry, Skip, SkipReason, parse_entry};
pub use error::ServersError;
pub use ingest::Applied;
pub use local::rewritten;
pub use model::{
    Access, CachedPackage, DeclaredInput, Described, Filter, LOCAL_NAMESPACE, ListKey, Origin, ServerId, ServerPackage, ServerRef, Sort,
    Status, Summary, Viewer, Visibility, first_remote, uuid_of,
};
pub use registry::{open_to_all, other_method, router as registry_router};
pub use routes::router;
pub use service::{CATALOG_CHANGED, Servers};
