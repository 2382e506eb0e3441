//! The factory: from a description or an API document to a server that was type-checked, spoken to and called.
//!
//! Owns `mcp_fabric.factory_orders` and `generated_servers`; the servers themselves are kept by `servers`, and changed by
//! `catalog`.
//!
//! Invariants:
//! - text of documents enters code as JSON literals, and nowhere else;
//! - what was generated runs in the sandbox, and nowhere else;
//! - a server is registered in one transaction, once it has passed; what was looked at by no tool is skipped, and not passed;
//! - the same specification gives the same bytes.

mod curate;
mod digest;
mod error;
mod fetch;
mod finding;
pub mod fuzz;
mod generate;
mod job;
mod llm;
mod make;
mod model;
mod names;
mod output;
mod pack;
mod parse;
mod registry;
mod routes;
mod service;
mod spec;
mod store;
mod text;
mod validate;

pub use error::FactoryError;
pub use finding::{Finding, Severity};
pub use routes::{older, router};
pub use service::{Factory, Neighbours};
