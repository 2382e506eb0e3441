use platform::{Class, Coded, actor::Forbidden, database::DbError};
use serde_json::{Map, Value};

use crate::model::{JobId, JobStatus};

/// What can be wrong with a request about jobs.
#[derive(Debug, thiserror::Error)]
pub enum JobsError {
    /// No such job, or not one that this actor may see.
    #[error("there is no job with this id")]
    NotFound,
    /// It has ended already.
    #[error("the job has ended already: it is {0}")]
    Finished(JobStatus),
    /// Only jobs that ended without success are retried.
    #[error("only a failed, cancelled or waiting job can be retried; this one is {0}")]
    NotRetryable(JobStatus),
    /// Another unfinished job has the same singleton key: this one, when the actor may see it.
    #[error("such a job is already waiting or running")]
    AlreadyRunning(Option<JobId>),
    /// Not allowed.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The audit trail cannot be written.
    #[error(transparent)]
    Audit(#[from] audit::AuditError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DbError),
}

impl From<sqlx::Error> for JobsError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl Coded for JobsError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "job_not_found",
            Self::Finished(_) => "job_finished",
            Self::NotRetryable(_) => "job_not_retryable",
            Self::AlreadyRunning(_) => "job_already_running",
            Self::Forbidden(error) => error.code(),
            Self::Audit(error) => error.code(),
            Self::Database(error) => error.code(),
        }
    }

    fn class(&self) -> Class {
        match self {
            Self::NotFound => Class::NotFound,
            Self::Finished(_) | Self::NotRetryable(_) | Self::AlreadyRunning(_) => Class::Conflict,
            Self::Forbidden(error) => error.class(),
            Self::Audit(error) => error.class(),
            Self::Database(error) => error.class(),
        }
    }

    fn denial(&self) -> Option<platform::Denial> {
        match self {
            Self::Forbidden(error) => error.denial(),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            Self::Audit(error) => error.retry_after(),
            Self::Database(error) => error.retry_after(),
            _ => None,
        }
    }

    fn extra(&self) -> Map<String, Value> {
        match self {
            Self::AlreadyRunning(Some(id)) => Map::from_iter([("job_id".to_owned(), id.to_string().into())]),
            Self::Finished(status) | Self::NotRetryable(status) => Map::from_iter([("job_status".to_owned(), status.as_str().into())]),
            _ => Map::new(),
        }
    }
}
