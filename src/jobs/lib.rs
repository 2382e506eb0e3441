//! Durable background work: what is long is a job.
//!
//! Owns `mcp_fabric.jobs`, `job_log` and `job_steps`. A job is claimed with `SKIP LOCKED` under a lease
//! that heartbeats keep; a worker that dies loses the lease and the job starts again, skipping the
//! steps it has finished. No transaction is open while a job works. Knows no feature: each hands its
//! [`Handler`]s to [`Jobs::start`].

mod context;
mod error;
mod handler;
mod model;
mod routes;
mod service;
mod store;
mod worker;

pub use context::Context;
pub use error::JobsError;
pub use handler::{Ended, Failure, Handler, Handlers, Outcome, PROGRESS_MEMBERS, Policy, ProgressEvent, Retry};
pub use model::{JOB_PROGRESS, JOB_STATUS_CHANGED, Job, JobId, JobStatus, LogLevel, LogLine, NewJob, Progress};
pub use routes::{router, wire};
pub use service::Jobs;
