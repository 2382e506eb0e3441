//! The audit trail: who did what to what, from where, and with what outcome.
//!
//! Owns the schema `audit`. An event is written to `pending` in the transaction of what it tells
//! ([`Audit::record_in`]), or by itself where nothing is changed. One writer at a time ([`sealer`]) takes
//! what waits there into the chain of `events`, at least every second, in day partitions.
//!
//! Invariants:
//! - what needs an event and cannot write it does not happen (503 `audit_unavailable`, within two seconds);
//! - an event is never changed: what came of an intent is a second event that answers it;
//! - the chain covers everything but what is personal, of which it holds a salted commitment, so that a
//!   person can be erased and the chain still verifies;
//! - only whole days at the beginning go, and only after a signed checkpoint that says so.

mod chain;
mod checkpoint;
mod copies;
mod error;
mod export;
mod keys;
mod model;
mod notes;
mod retention;
mod routes;
mod sealer;
mod service;
mod store;
mod verify;

pub use chain::unhex as parse_key;
pub use error::AuditError;
pub use keys::AuditKeys;
pub use model::{Event, EventId, EventType, NewEvent, Outcome};
pub use routes::router;
pub use sealer::AUDIT_RECORDED;
pub use service::{Audit, Filter, Prepared, Promise};
pub use verify::{Damage, Found, Report, verify_export};
