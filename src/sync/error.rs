use platform::{Class, Coded, actor::Forbidden, database::DbError};
use serde_json::{Map, Value, json};
use servers::ServersError;

use crate::{
    history::{Run, RunId},
    page::PageError,
};

/// What can be wrong with a request about the mirror.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// One run at a time.
    #[error("a sync is running already")]
    AlreadyRunning(Option<Box<Run>>),
    /// The configuration forbids outgoing requests.
    #[error("FABRIC_OFFLINE is set: nothing is read from upstream; `sync import` takes pages from disk")]
    Offline,
    /// No such run.
    #[error("there is no import with this run_id, or it has ended")]
    RunNotFound(RunId),
    /// The posted page is not one.
    #[error("the body is not a page of a registry: {0}")]
    Page(#[from] PageError),
    /// Not allowed.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The audit trail cannot be written.
    #[error(transparent)]
    Audit(#[from] audit::AuditError),
    /// The catalogue failed.
    #[error(transparent)]
    Servers(#[from] ServersError),
    /// The job queue failed.
    #[error(transparent)]
    Jobs(#[from] jobs::JobsError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DbError),
}

impl From<sqlx::Error> for SyncError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl Coded for SyncError {
    fn code(&self) -> &'static str {
        match self {
            Self::AlreadyRunning(_) => "sync_already_running",
            Self::Offline => "offline",
            Self::RunNotFound(_) => "run_not_found",
            Self::Page(_) => "invalid_page",
            Self::Forbidden(error) => error.code(),
            Self::Audit(error) => error.code(),
            Self::Servers(error) => error.code(),
            Self::Jobs(error) => error.code(),
            Self::Database(error) => error.code(),
        }
    }

    fn class(&self) -> Class {
        match self {
            Self::AlreadyRunning(_) | Self::Offline => Class::Conflict,
            Self::RunNotFound(_) => Class::NotFound,
            Self::Page(_) => Class::BadRequest,
            Self::Forbidden(error) => error.class(),
            Self::Audit(error) => error.class(),
            Self::Servers(error) => error.class(),
            Self::Jobs(error) => error.class(),
            Self::Database(error) => error.class(),
        }
    }

    fn denial(&self) -> Option<platform::Denial> {
        match self {
            Self::Forbidden(error) => error.denial(),
            Self::Servers(error) => error.denial(),
            Self::Jobs(error) => error.denial(),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            Self::Audit(error) => error.retry_after(),
            Self::Servers(error) => error.retry_after(),
            Self::Jobs(error) => error.retry_after(),
            Self::Database(error) => error.retry_after(),
            _ => None,
        }
    }

    fn extra(&self) -> Map<String, Value> {
        let Self::AlreadyRunning(Some(run)) = self else { return Map::new() };
        [
            ("run_id", json!(run.id)),
            ("job_id", json!(run.job_id)),
            ("kind", json!(run.kind)),
            // `status` is the HTTP status in a problem.
            ("run_status", json!(run.status)),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }
}
