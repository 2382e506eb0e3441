//! Running servers: what is wanted becomes a healthy, limited, credentialed instance, and stays that way by itself.
//!
//! Owns `mcp_fabric.instances` and `server_eras`, and the folder `instances` of the data folder. One loop
//! ([`reconcile`]) compares what configurations want with what runs; one task for each instance ([`supervisor`]) walks
//! it from state to state.
//!
//! Invariants:
//! - a step is one of [`TRANSITIONS`] and is stored, with its reason and its event, before the next thing is done;
//! - a row is changed only by the fabric that has its lease, and only from the state in which that believes it to be;
//! - a child never outlives its fabric, and a second one is started only after everything of the first has ended;
//! - plaintext is asked for one launch and passed by the environment alone.

mod attend;
mod body;
mod boot;
mod containers;
mod cures;
mod error;
mod exchange;
mod fill;
pub mod fuzz;
mod launch;
mod lines;
mod live;
mod log;
mod message;
mod model;
mod older;
mod outgoing;
mod process;
mod reach;
mod reconcile;
mod remote;
mod repeated;
mod routes;
mod service;
mod session;
mod starts;
mod states;
mod steps;
mod store;
mod supervisor;
mod wire;

pub use containers::engine_version;
pub use error::RuntimeError;
pub use exchange::{Asked, Failure, Heard, Next, Party, Reply, Ticket};
pub use log::{Entry, Log, Stream};
pub use model::{Backend, Era, Instance, InstanceId, Keeper, Kept, Reason, State, TRANSITIONS, diagram, session_of_era};
pub use older::older;
pub use reach::Reached;
pub use repeated::{ParamHeaders, Repeated, repeated};
pub use routes::router;
pub use service::{Neighbours, Runtime, SERVER_STATE_CHANGED, Usage};
pub use session::{Greeting, Session};
pub use wire::{CallError, Wire};
