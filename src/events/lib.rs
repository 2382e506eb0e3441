//! What changed, for those who watch: stored in commit order, replayed by id, and carried between
//! replicas by LISTEN/NOTIFY.
//!
//! Owns `mcp_fabric.events`. Knows no feature: each publishes its own types of event, in the
//! transaction that makes the change ([`Events::publish_in`]), so that nobody hears of a change that
//! was rolled back. The table is bounded; who comes back too late is told so.

mod model;
mod routes;
mod service;
mod store;

pub use model::{Event, NewEvent};
pub use routes::router;
pub use service::{Events, Followed};
