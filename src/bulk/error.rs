use std::time::Duration;

use audit::AuditError;
use cache::CacheError;
use configurations::ConfigurationsError;
use jobs::JobsError;
use packages::PackagesError;
use platform::{Class, Coded, Denial, FieldError, actor::Forbidden, database::DbError};
use runtime::RuntimeError;
use servers::ServersError;

use crate::model::Operation;

/// What can go wrong with operations over many servers.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// None of this actor with this id.
    #[error("you have no such operation")]
    NotFound,
    /// Fields cannot be used: which, and why.
    #[error("{}", .0.iter().map(|field| format!("{}: {}", field.location, field.message)).collect::<Vec<_>>().join("; "))]
    Fields(Vec<FieldError>),
    /// Too many of this actor's are unfinished.
    #[error("{0} of your operations wait or run already; let one of them end, or cancel it")]
    TooMany(i64),
    /// It has not ended yet.
    #[error("the operation has not ended yet")]
    Unfinished,
    /// It has ended.
    #[error("the operation has ended")]
    Finished,
    /// Nothing of it failed.
    #[error("nothing of the operation failed or was cancelled")]
    NothingToRetry,
    /// Nothing of it was done, or all of that is undone.
    #[error("nothing of the operation is done that could be undone")]
    NothingToRollBack,
    /// There is no way back.
    #[error("`{0}` has no opposite: it cannot be undone")]
    Irreversible(Operation),
    /// Whoever asked for it has no account or no token any more.
    #[error("whoever asked for it may not do so any more")]
    AskerGone,
    /// A server did not get where it was to be in time.
    #[error("the server was `{0}` after {1} s")]
    Late(String, u64),
    /// A server ended where it was not to be.
    #[error("{1}")]
    Ended(String, String),
    /// The actor may not.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The trail cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A job failed.
    #[error(transparent)]
    Jobs(#[from] JobsError),
    /// The catalogue failed, or has no such server.
    #[error(transparent)]
    Servers(#[from] ServersError),
    /// A configuration could not be changed.
    #[error(transparent)]
    Configurations(#[from] ConfigurationsError),
    /// A package could not be installed.
    #[error(transparent)]
    Packages(#[from] PackagesError),
    /// A package could not be cached.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A server could not be started or stopped.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DbError),
}

impl From<sqlx::Error> for BulkError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl BulkError {
    /// One field that cannot be used.
    pub(crate) fn field(location: &str, message: impl Into<String>) -> Self {
        Self::Fields(vec![FieldError::new(location, message)])
    }

    /// The error of another part that this one passes on.
    fn inner(&self) -> Option<&dyn Coded> {
        match self {
            Self::Forbidden(error) => Some(error),
            Self::Audit(error) => Some(error),
            Self::Jobs(error) => Some(error),
            Self::Servers(error) => Some(error),
            Self::Configurations(error) => Some(error),
            Self::Packages(error) => Some(error),
            Self::Cache(error) => Some(error),
            Self::Runtime(error) => Some(error),
            Self::Database(error) => Some(error),
            _ => None,
        }
    }

    /// The code that an item shows: what a job or an instance ended with has one of its own.
    pub(crate) fn shown_code(&self) -> String {
        match self {
            Self::Ended(code, _) => code.clone(),
            other => other.code().to_owned(),
        }
    }
}

impl Coded for BulkError {
    fn code(&self) -> &'static str {
        match self {
            Self::Fields(_) => "invalid_field",
            Self::TooMany(_) => "too_many_bulk_operations",
            Self::Unfinished => "bulk_unfinished",
            Self::Finished => "bulk_finished",
            Self::NothingToRetry => "nothing_to_retry",
            Self::NothingToRollBack => "nothing_to_roll_back",
            Self::Irreversible(_) => "not_reversible",
            Self::AskerGone => "asker_gone",
            Self::Late(..) => "timeout",
            Self::Ended(..) => "failed",
            other => other.inner().map_or("not_found", Coded::code),
        }
    }
    fn class(&self) -> Class {
        match self {
            Self::Fields(_) | Self::Irreversible(_) => Class::BadRequest,
            Self::TooMany(_) => Class::TooMany,
            Self::Unfinished | Self::Finished | Self::NothingToRetry | Self::NothingToRollBack => Class::Conflict,
            Self::AskerGone => Class::Forbidden,
            Self::Late(..) => Class::Timeout,
            Self::Ended(..) => Class::Unprocessable,
            other => other.inner().map_or(Class::NotFound, Coded::class),
        }
    }
    fn fields(&self) -> Vec<FieldError> {
        match self {
            Self::Fields(fields) => fields.clone(),
            other => other.inner().map(Coded::fields).unwrap_or_default(),
        }
    }
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooMany(_) => Some(Duration::from_secs(5)),
            other => other.inner().and_then(Coded::retry_after),
        }
    }
    fn denial(&self) -> Option<Denial> {
        self.inner().and_then(Coded::denial)
    }
}
