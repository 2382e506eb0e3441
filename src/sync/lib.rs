//! The mirror of the upstream registry.
//!
//! Owns `mcp_fabric.sync_history` and `sync_seen`. A run is a job with a row of `sync_history` as its
//! detail; each page is applied to the catalogue in one transaction with the cursor that follows it, so a
//! run goes on from where it was after any interruption, and a page of a worker that was superseded is
//! never saved. What was good before is only removed by the sweep of a reconcile, within its guard.

mod counters;
mod error;
mod history;
mod job;
pub mod page;
mod routes;
mod schedule;
mod service;
mod store;
mod upstream;

pub use error::SyncError;
pub use history::{Kind, Mode, Phase, Run, RunId, RunStatus};
pub use job::{SYNC_PROGRESS, SyncJob};
pub use routes::router;
pub use schedule::{ScheduleError, check as check_schedule};
pub use service::{Freshness, Neighbours, Sync};
pub use upstream::Upstream;
