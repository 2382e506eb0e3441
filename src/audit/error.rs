use std::time::Duration;

use platform::{Class, Coded, FieldError, actor::Forbidden, database::DbError};

/// What can go wrong with the trail.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// It cannot be written, and so what needs it does not happen.
    #[error("the audit trail cannot be written now, and nothing is done without it")]
    Unavailable(#[source] Option<sqlx::Error>),
    /// Enough exports are under way.
    #[error("other exports of the audit trail are under way; try again when they are done")]
    Exporting,
    /// The actor may not.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// A filter cannot be used.
    #[error("{location}: {message}")]
    Filter {
        /// Which one.
        location: &'static str,
        /// Why.
        message: &'static str,
    },
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DbError),
}

impl From<sqlx::Error> for AuditError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl Coded for AuditError {
    fn code(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "audit_unavailable",
            Self::Exporting => "too_many_exports",
            Self::Forbidden(error) => error.code(),
            Self::Filter { .. } => "invalid_filter",
            Self::Database(error) => error.code(),
        }
    }
    fn class(&self) -> Class {
        match self {
            Self::Unavailable(_) => Class::Unavailable,
            Self::Exporting => Class::TooMany,
            Self::Forbidden(error) => error.class(),
            Self::Filter { .. } => Class::BadRequest,
            Self::Database(error) => error.class(),
        }
    }
    fn fields(&self) -> Vec<FieldError> {
        match self {
            Self::Filter { location, message } => vec![FieldError::new(*location, *message)],
            Self::Unavailable(_) | Self::Exporting | Self::Forbidden(_) | Self::Database(_) => Vec::new(),
        }
    }
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable(_) => Some(Duration::from_secs(2)),
            Self::Exporting => Some(Duration::from_secs(30)),
            Self::Database(error) => error.retry_after(),
            Self::Forbidden(_) | Self::Filter { .. } => None,
        }
    }
    fn denial(&self) -> Option<platform::Denial> {
        match self {
            Self::Forbidden(error) => error.denial(),
            Self::Unavailable(_) | Self::Exporting | Self::Filter { .. } | Self::Database(_) => None,
        }
    }
}
