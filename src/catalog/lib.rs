//! Changes of the catalogue by people: servers of their own, what administrators say of the others, and which of them
//! they allow.
//!
//! Owns `mcp_fabric.catalog_revisions` and `catalog_rules`; the servers themselves are kept by `servers`, whose rules of
//! who may see and use which are decided there. A document that is mirrored or predefined is never changed.

mod document;
mod error;
mod generated;
mod history;
mod image;
mod model;
mod routes;
mod routes_history;
mod routes_rules;
mod rules;
mod service;
mod store;

pub use error::CatalogError;
pub use routes::{older, router};
pub use service::{Catalog, Neighbours};
