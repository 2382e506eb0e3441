use std::time::Duration;

use audit::AuditError;
use configurations::ConfigurationsError;
use packages::PackagesError;
use platform::{Class, Coded, Denial, FieldError, actor::Forbidden, database::DbError};
use servers::ServersError;

/// What can go wrong when the catalogue is changed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// No such revision of this server.
    #[error("the server has no such revision")]
    NoRevision,
    /// No such rule.
    #[error("there is no such rule")]
    NoRule,
    /// The rule is there already.
    #[error("there is such a rule already")]
    RuleTaken,
    /// Fields that cannot be used, all of them.
    #[error("the server cannot be kept: {}", summed(.0))]
    Fields(Vec<FieldError>),
    /// Not made here.
    #[error("this server comes from {0}, so its document is never changed here; administrators can annotate and hide it")]
    NotEditable(&'static str),
    /// It is installed.
    #[error("this server is installed; uninstall it first: DELETE /api/mcp/packages/{0}")]
    Installed(String),
    /// Somebody has as many as anybody may.
    #[error("you keep {0} servers here already, which is as many as anybody may")]
    TooMany(i64),
    /// `If-Match` names another revision.
    #[error("the server has changed since; its revision is {0}")]
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
    /// Configurations failed.
    #[error(transparent)]
    Configurations(#[from] ConfigurationsError),
    /// Installations failed.
    #[error(transparent)]
    Packages(#[from] PackagesError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DbError),
}

fn summed(fields: &[FieldError]) -> String {
    match fields {
        [only] => format!("{} {}", only.location, only.message),
        several => format!("{} things are wrong with it", several.len()),
    }
}

impl From<sqlx::Error> for CatalogError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl CatalogError {
    pub(crate) fn field(location: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Fields(vec![FieldError::new(location, message)])
    }

    /// The error of another part that this one passes on.
    fn inner(&self) -> Option<&dyn Coded> {
        match self {
            Self::NoRevision
            | Self::NoRule
            | Self::RuleTaken
            | Self::Fields(_)
            | Self::NotEditable(_)
            | Self::Installed(_)
            | Self::TooMany(_)
            | Self::Stale(_) => None,
            Self::Forbidden(error) => Some(error),
            Self::Audit(error) => Some(error),
            Self::Servers(error) => Some(error),
            Self::Configurations(error) => Some(error),
            Self::Packages(error) => Some(error),
            Self::Database(error) => Some(error),
        }
    }
}

impl Coded for CatalogError {
    fn code(&self) -> &'static str {
        match self {
            Self::NoRevision => "revision_not_found",
            Self::NoRule => "rule_not_found",
            Self::RuleTaken => "rule_exists",
            Self::Fields(_) => "invalid_server",
            Self::NotEditable(_) => "not_editable",
            Self::Installed(_) => "server_installed",
            Self::TooMany(_) => "too_many_servers",
            Self::Stale(_) => "stale_revision",
            other => other.inner().map_or("internal", Coded::code),
        }
    }

    fn class(&self) -> Class {
        match self {
            Self::NoRevision | Self::NoRule => Class::NotFound,
            Self::Fields(_) => Class::Unprocessable,
            Self::RuleTaken | Self::NotEditable(_) | Self::Installed(_) | Self::TooMany(_) => Class::Conflict,
            Self::Stale(_) => Class::Stale,
            other => other.inner().map_or(Class::Internal, Coded::class),
        }
    }

    fn fields(&self) -> Vec<FieldError> {
        match self {
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
