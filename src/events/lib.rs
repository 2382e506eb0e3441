//! What changed, for those who watch: stored in commit order, replayed by id, and carried between
//! replicas by LISTEN/NOTIFY.
//!
//! Owns `mcp_fabric.events` and `mcp_fabric.event_tickets`. Knows no feature: each declares its own types of event
//! ([`Kind`]) and publishes them in the transaction that makes the change ([`Events::publish_in`]), so that nobody hears of
//! a change that was rolled back. The table is bounded; who comes back too late is told so.

mod fanout;
mod follower;
mod kind;
mod model;
mod routes;
mod service;
mod socket;
mod store;
mod tickets;

pub use follower::{Followed, Follower, Wanted};
pub use kind::{Kind, document};
pub use model::{Audience, Event, NewEvent, Prepared};
pub use routes::router;
pub use service::{Events, Receiver};
