use std::time::Duration;

use audit::AuditError;
use cache::CacheError;
use catalog::CatalogError;
use jobs::JobsError;
use platform::{Class, Coded, Denial, FieldError, actor::Forbidden, database::DbError};
use servers::ServersError;

use crate::finding::Finding;

/// What can go wrong in the factory.
#[derive(Debug, thiserror::Error)]
pub enum FactoryError {
    /// Fields cannot be used: which, and why.
    #[error("{}", .0.iter().map(|field| format!("{}: {}", field.location, field.message)).collect::<Vec<_>>().join("; "))]
    Fields(Vec<FieldError>),
    /// A document is none of its kind, or of no kind that is known.
    #[error("the document cannot be read: {0}")]
    Unreadable(String),
    /// A document is larger, deeper or has more in it than is read.
    #[error("the document is more than is read: {0}")]
    TooLarge(String),
    /// What was made did not stand its tests.
    #[error("the server did not pass: {}", .0.iter().take(3).map(|found| format!("{} at {}: {}", found.id, found.path, found.message)).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Finding>),
    /// No server of this name that the actor may see.
    #[error("there is no generated server of this name")]
    NotFound,
    /// Another one has the name.
    #[error("the name `{0}` is taken by another server; say another one as `name`")]
    NameTaken(String),
    /// Another job has made this version meanwhile.
    #[error("another job has made this version of `{0}` meanwhile")]
    VersionTaken(String),
    /// A path leads out of the folder.
    #[error("the path is not below the folder of what was generated")]
    Outside,
    /// A path leads nowhere.
    #[error("there is nothing at this path")]
    NoSuchPath,
    /// Somebody's own are too many.
    #[error("{0} of your jobs wait or run already; let one of them end, or cancel it")]
    TooMany(i64),
    /// What a job was to work on is gone.
    #[error("what the job was to work on is not kept any more; ask again")]
    OrderGone,
    /// Whoever asked has no account or no token any more.
    #[error("whoever asked for it may not do so any more")]
    AskerGone,
    /// The language model did not give what was asked for.
    #[error("{0}")]
    Model(String),
    /// The language model is busy or cannot be reached.
    #[error("{0}")]
    ModelAway(String),
    /// The job was told to stop.
    #[error("the job was told to stop")]
    Stopped,
    /// Files cannot be written or read.
    #[error("the folder of what is generated cannot be used: {0}")]
    Folder(#[from] std::io::Error),
    /// The actor may not.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The trail cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A job failed.
    #[error(transparent)]
    Jobs(#[from] JobsError),
    /// The catalogue failed.
    #[error(transparent)]
    Servers(#[from] ServersError),
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The catalogue does not take it.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DbError),
}

impl From<sqlx::Error> for FactoryError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl FactoryError {
    /// One field that cannot be used.
    pub(crate) fn field(location: &str, message: impl Into<String>) -> Self {
        Self::Fields(vec![FieldError::new(location, message)])
    }

    fn inner(&self) -> Option<&dyn Coded> {
        match self {
            Self::Forbidden(error) => Some(error),
            Self::Audit(error) => Some(error),
            Self::Jobs(error) => Some(error),
            Self::Servers(error) => Some(error),
            Self::Cache(error) => Some(error),
            Self::Catalog(error) => Some(error),
            Self::Database(error) => Some(error),
            _ => None,
        }
    }
}

impl Coded for FactoryError {
    fn code(&self) -> &'static str {
        match self {
            Self::Fields(_) => "invalid_field",
            Self::Unreadable(_) => "document_unreadable",
            Self::TooLarge(_) => "document_too_large",
            Self::Invalid(_) => "server_invalid",
            Self::NameTaken(_) => "name_taken",
            Self::VersionTaken(_) => "version_taken",
            Self::Outside => "path_outside",
            Self::NoSuchPath => "path_not_found",
            Self::TooMany(_) => "too_many_jobs",
            Self::OrderGone => "order_gone",
            Self::AskerGone => "asker_gone",
            Self::Model(_) => "model_failed",
            Self::ModelAway(_) => "model_unavailable",
            Self::Stopped => "stopped",
            Self::Folder(_) => "output_unusable",
            other => other.inner().map_or("generated_not_found", Coded::code),
        }
    }
    fn class(&self) -> Class {
        match self {
            Self::Fields(_) | Self::Outside | Self::NoSuchPath => Class::BadRequest,
            Self::Unreadable(_) | Self::TooLarge(_) | Self::Invalid(_) | Self::Model(_) => Class::Unprocessable,
            Self::NameTaken(_) | Self::VersionTaken(_) | Self::OrderGone => Class::Conflict,
            Self::TooMany(_) => Class::TooMany,
            Self::AskerGone => Class::Forbidden,
            Self::ModelAway(_) | Self::Stopped => Class::Unavailable,
            Self::Folder(_) => Class::Internal,
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
