//! Many servers at once: one action over a list of them or over what a filter finds, with a result for each.
//!
//! Owns `mcp_fabric.bulk_operations` and `mcp_fabric.bulk_items`. An operation is a job, which acts with the rights that
//! whoever asked has by then.
//!
//! Invariants:
//! - before anything is done to a server, its item says so and what there was before, so that a restart at any point goes
//!   on where it was: what is there already is not done again;
//! - an item is undone only while it is as the operation left it.

mod act;
mod error;
mod job;
mod model;
mod plan;
mod routes;
mod service;
mod store;
mod undo;

pub use error::BulkError;
pub use model::{BulkId, ItemStatus, Operation, Status};
pub use routes::router;
pub use service::{BULK_PROGRESS, Bulk, Neighbours};
