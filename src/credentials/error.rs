use std::time::Duration;

use audit::AuditError;
use jobs::JobsError;
use platform::{Class, Coded, Denial, FieldError, actor::Forbidden, database::DbError};
use servers::ServersError;

/// What can go wrong with credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// No such credential, rotation or hand-off, or none that the actor may see.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// A field cannot be used.
    #[error("{location}: {message}")]
    Field {
        /// Which one.
        location: String,
        /// Why; never what was sent.
        message: &'static str,
    },
    /// `If-Match` names another revision.
    #[error("the credential has changed since; its revision is {0}")]
    Stale(i64),
    /// Others write the same credential all the time.
    #[error("the credential is being changed by others; try again")]
    Contended,
    /// A row does not open.
    #[error("a stored credential does not open: its row was changed (`mcp-fabric credentials verify` tells which)")]
    Integrity,
    /// The key of a row is not at hand here.
    #[error("the key with version {0} is not at hand in this process; give it with the keys of the configuration")]
    KeyUnavailable(i32),
    /// The master key has sealed as much as it may.
    #[error("the master key has been used too often; rotate it (`mcp-fabric credentials rotate-key`)")]
    KeyExhausted,
    /// There is nothing to rotate to.
    #[error("{0}")]
    NoNewKey(String),
    /// A rotation is under way, or has ended.
    #[error("{0}")]
    RotationState(&'static str),
    /// Too many reveals with one token.
    #[error("too many reveals with this token; wait before the next one")]
    TooMany,
    /// A hand-off that was used, or is too old.
    #[error("this hand-off is used up or too old")]
    Gone,
    /// The actor may not.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The trail cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The catalogue failed, or has no such server.
    #[error(transparent)]
    Servers(#[from] std::sync::Arc<ServersError>),
    /// The queue failed.
    #[error(transparent)]
    Jobs(#[from] JobsError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DbError),
}

impl From<ServersError> for CredentialsError {
    fn from(error: ServersError) -> Self {
        Self::Servers(error.into())
    }
}

impl From<sqlx::Error> for CredentialsError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl CredentialsError {
    pub(crate) fn field(location: impl Into<String>, message: &'static str) -> Self {
        Self::Field { location: location.into(), message }
    }
}

impl Coded for CredentialsError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not_found",
            Self::Field { .. } => "invalid_field",
            Self::Stale(_) => "stale_revision",
            Self::Contended => "contended",
            Self::Integrity => "integrity_error",
            Self::KeyUnavailable(_) => "key_unavailable",
            Self::KeyExhausted => "key_exhausted",
            Self::NoNewKey(_) => "no_new_key",
            Self::RotationState(_) => "rotation_state",
            Self::TooMany => "too_many_requests",
            Self::Gone => "gone",
            Self::Forbidden(error) => error.code(),
            Self::Audit(error) => error.code(),
            Self::Servers(error) => error.code(),
            Self::Jobs(error) => error.code(),
            Self::Database(error) => error.code(),
        }
    }
    fn class(&self) -> Class {
        match self {
            Self::NotFound(_) => Class::NotFound,
            Self::Field { .. } => Class::BadRequest,
            Self::Stale(_) => Class::Stale,
            Self::Contended | Self::NoNewKey(_) | Self::RotationState(_) => Class::Conflict,
            Self::Integrity => Class::Internal,
            Self::KeyUnavailable(_) | Self::KeyExhausted => Class::Unavailable,
            Self::TooMany => Class::TooMany,
            Self::Gone => Class::Gone,
            Self::Forbidden(error) => error.class(),
            Self::Audit(error) => error.class(),
            Self::Servers(error) => error.class(),
            Self::Jobs(error) => error.class(),
            Self::Database(error) => error.class(),
        }
    }
    fn fields(&self) -> Vec<FieldError> {
        match self {
            Self::Field { location, message } => vec![FieldError::new(location.clone(), *message)],
            _ => Vec::new(),
        }
    }
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooMany | Self::Contended => Some(Duration::from_secs(1)),
            Self::KeyUnavailable(_) => Some(Duration::from_secs(5)),
            Self::Audit(error) => error.retry_after(),
            Self::Database(error) => error.retry_after(),
            _ => None,
        }
    }
    fn denial(&self) -> Option<Denial> {
        match self {
            Self::Forbidden(error) => error.denial(),
            Self::Audit(error) => error.denial(),
            _ => None,
        }
    }
}
