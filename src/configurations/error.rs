use std::time::Duration;

use audit::AuditError;
use credentials::CredentialsError;
use platform::{Class, Coded, Denial, FieldError, actor::Forbidden, database::DbError};
use servers::ServersError;

/// What can go wrong with configurations.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationsError {
    /// None of this actor for this server.
    #[error("you have no such configuration")]
    NotFound,
    /// No template of this actor, and none that is shared.
    #[error("you have no such template")]
    NoTemplate,
    /// A field cannot be used: which, and why; never what was sent.
    #[error("{0}: {1}")]
    Field(String, &'static str),
    /// Several fields cannot be used: which, and why.
    #[error("{}", .0.iter().map(|field| format!("{}: {}", field.location, field.message)).collect::<Vec<_>>().join("; "))]
    Fields(Vec<FieldError>),
    /// `If-Match` names another revision.
    #[error("the configuration has changed since; its revision is {0}")]
    Stale(i64),
    /// The actor may not.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The trail cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The catalogue failed, or has no such server.
    #[error(transparent)]
    Servers(#[from] ServersError),
    /// The vault failed.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DbError),
}

impl From<sqlx::Error> for ConfigurationsError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl ConfigurationsError {
    /// The error of another part that this one passes on.
    fn inner(&self) -> Option<&dyn Coded> {
        match self {
            Self::NotFound | Self::NoTemplate | Self::Field(..) | Self::Fields(_) | Self::Stale(_) => None,
            Self::Forbidden(error) => Some(error),
            Self::Audit(error) => Some(error),
            Self::Servers(error) => Some(error),
            Self::Credentials(error) => Some(error),
            Self::Database(error) => Some(error),
        }
    }
}

impl Coded for ConfigurationsError {
    fn code(&self) -> &'static str {
        match self {
            Self::Field(..) | Self::Fields(_) => "invalid_field",
            Self::Stale(_) => "stale_revision",
            Self::NoTemplate => "template_not_found",
            other => other.inner().map_or("not_found", Coded::code),
        }
    }
    fn class(&self) -> Class {
        match self {
            Self::Field(..) | Self::Fields(_) => Class::BadRequest,
            Self::Stale(_) => Class::Stale,
            other => other.inner().map_or(Class::NotFound, Coded::class),
        }
    }
    fn fields(&self) -> Vec<FieldError> {
        match self {
            Self::Field(location, message) => vec![FieldError::new(location.clone(), *message)],
            Self::Fields(fields) => fields.clone(),
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
