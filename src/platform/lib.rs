//! What every feature stands on and that knows no feature: configuration, errors, the actor,
//! the database, the HTTP pieces, the outgoing HTTP client, telemetry and shutdown.
//!
//! Invariants: nothing here names a feature's table or route; each door to the outside world
//! (time, randomness, environment, processes, outgoing HTTP) is opened in exactly one module.

// The macros of this crate name it, here as elsewhere.
extern crate self as platform;

pub mod actor;
pub mod client;
pub mod clock;
pub mod config;
pub mod database;
pub mod files;
pub mod http;
pub mod ids;
pub mod keys;
pub mod page;
pub mod problem;
pub mod random;
pub mod redis;
pub mod secrets;
pub mod shutdown;
pub mod sse;
pub mod telemetry;
pub mod traces;
pub mod words;

pub use actor::{Action, Actor, Identity, Origin, Role, Scope};
pub use config::Config;
pub use database::Database;
pub use problem::{Class, Coded, Denial, FieldError, Problem, public_message};
pub use shutdown::Shutdown;
