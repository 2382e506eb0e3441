use std::time::Duration;

use audit::AuditError;
use credentials::CredentialsError;
use platform::{Class, Coded, Denial, FieldError, actor::Forbidden, database::DbError};

/// What can go wrong with sources.
#[derive(Debug, thiserror::Error)]
pub enum SourcesError {
    /// None of this actor.
    #[error("you have no such source")]
    NotFound,
    /// A field cannot be used: which, and why; never what was sent.
    #[error("{0}: {1}")]
    Field(&'static str, &'static str),
    /// `If-Match` names another revision.
    #[error("the source has changed since; its revision is {0}")]
    Stale(i64),
    /// The actor may not.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The trail cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The vault failed.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DbError),
}

impl From<sqlx::Error> for SourcesError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl SourcesError {
    /// The error of another part that this one passes on.
    fn inner(&self) -> Option<&dyn Coded> {
        match self {
            Self::NotFound | Self::Field(..) | Self::Stale(_) => None,
            Self::Forbidden(error) => Some(error),
            Self::Audit(error) => Some(error),
            Self::Credentials(error) => Some(error),
            Self::Database(error) => Some(error),
        }
    }
}

impl Coded for SourcesError {
    fn code(&self) -> &'static str {
        match self {
            Self::Field(..) => "invalid_field",
            Self::Stale(_) => "stale_revision",
            other => other.inner().map_or("source_not_found", Coded::code),
        }
    }
    fn class(&self) -> Class {
        match self {
            Self::Field(..) => Class::BadRequest,
            Self::Stale(_) => Class::Stale,
            other => other.inner().map_or(Class::NotFound, Coded::class),
        }
    }
    fn fields(&self) -> Vec<FieldError> {
        match self {
            Self::Field(location, message) => vec![FieldError::new(*location, *message)],
            other => other.inner().map(Coded::fields).unwrap_or_default(),
        }
    }
    fn retry_after(&self) -> Option<Duration> {
        self.inner().and_then(Coded::retry_after)
    }
    fn denial(&self) -> Option<Denial> {
        self.inner().and_then(Coded::denial)
    }
}
