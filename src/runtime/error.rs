use std::time::Duration;

use audit::AuditError;
use configurations::ConfigurationsError;
use credentials::CredentialsError;
use packages::PackagesError;
use platform::{Class, Coded, Denial, FieldError, actor::Forbidden, database::DbError, files::FileError};
use serde_json::{Map, Value};
use servers::ServersError;

use crate::{
    model::{Cap, State},
    wire::CallError,
};

/// What can go wrong with instances.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// None of this actor with this id.
    #[error("there is no such instance")]
    NotFound,
    /// The state does not allow it.
    #[error("this cannot be done while the instance is {0}")]
    Illegal(State),
    /// Nothing runs.
    #[error("the server does not run; start it first")]
    NotRunning,
    /// It ended, or could not be started: why.
    #[error("the server does not run: {0}")]
    Ended(String),
    /// Another fabric runs it.
    #[error("another fabric on the same database runs it")]
    Elsewhere,
    /// Inputs are missing: their names.
    #[error("the server needs values that it was not given: {}", .0.join(", "))]
    Missing(Vec<String>),
    /// A document that cannot be launched.
    #[error("{0}")]
    Unfit(String),
    /// A cap: which one.
    #[error("{1}")]
    LimitReached(Cap, String),
    /// The server itself.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A field cannot be used.
    #[error("{0}: {1}")]
    Field(&'static str, &'static str),
    /// The folders of instances cannot be used.
    #[error("the folders of instances cannot be used: {0}")]
    Folder(#[from] std::io::Error),
    /// Outgoing HTTP cannot be set up.
    #[error(transparent)]
    Client(#[from] platform::client::ClientError),
    /// A file of the data folder cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
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
    /// A configuration failed.
    #[error(transparent)]
    Configurations(#[from] ConfigurationsError),
    /// An installation failed, or there is none.
    #[error(transparent)]
    Packages(#[from] PackagesError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DbError),
}

impl From<sqlx::Error> for RuntimeError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl RuntimeError {
    /// The error of another part that this one passes on.
    fn inner(&self) -> Option<&dyn Coded> {
        match self {
            Self::Forbidden(error) => Some(error),
            Self::Audit(error) => Some(error),
            Self::Servers(error) => Some(error),
            Self::Credentials(error) => Some(error),
            Self::Configurations(error) => Some(error),
            Self::Packages(error) => Some(error),
            Self::Database(error) => Some(error),
            _ => None,
        }
    }
}

impl Coded for RuntimeError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "instance_not_found",
            Self::Illegal(_) => "illegal_transition",
            Self::NotRunning | Self::Ended(_) => "not_running",
            Self::Elsewhere => "on_another_node",
            Self::Missing(_) => "missing_inputs",
            Self::Unfit(_) => "document_unusable",
            Self::LimitReached(..) => "limit_reached",
            Self::Call(CallError::Refused { .. }) => "server_error",
            Self::Call(CallError::Timeout(_)) => "server_timeout",
            Self::Call(CallError::TooMuch) => "answer_too_large",
            Self::Call(CallError::Closed) => "server_ended",
            Self::Field(..) => "invalid_field",
            other => other.inner().map_or("data_folder_unusable", Coded::code),
        }
    }
    fn class(&self) -> Class {
        match self {
            Self::NotFound => Class::NotFound,
            Self::Illegal(_) | Self::NotRunning | Self::Ended(_) | Self::LimitReached(..) => Class::Conflict,
            Self::Elsewhere => Class::Unavailable,
            Self::Missing(_) | Self::Unfit(_) => Class::Unprocessable,
            Self::Call(CallError::Timeout(_)) => Class::Timeout,
            Self::Call(_) => Class::BadGateway,
            Self::Field(..) => Class::BadRequest,
            other => other.inner().map_or(Class::Internal, Coded::class),
        }
    }
    fn fields(&self) -> Vec<FieldError> {
        match self {
            Self::Field(location, message) => vec![FieldError::new(*location, *message)],
            Self::Missing(names) => names.iter().map(|name| FieldError::new(format!("values.{name}"), "is required")).collect(),
            other => other.inner().map(Coded::fields).unwrap_or_default(),
        }
    }
    fn retry_after(&self) -> Option<Duration> {
        self.inner().and_then(Coded::retry_after)
    }
    fn denial(&self) -> Option<Denial> {
        self.inner().and_then(Coded::denial)
    }
    fn extra(&self) -> Map<String, Value> {
        match self {
            Self::Call(CallError::Refused { code, .. }) => Map::from_iter([("rpc_code".to_owned(), (*code).into())]),
            Self::Missing(names) => Map::from_iter([("missing".to_owned(), names.clone().into())]),
            other => other.inner().map(Coded::extra).unwrap_or_default(),
        }
    }
}
