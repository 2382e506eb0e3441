use std::sync::Arc;

use platform::{Class, Coded, Denial, FieldError, actor::Forbidden};
use runtime::RuntimeError;
use serde_json::{Map, Value};
use servers::ServersError;
use virtual_servers::VirtualServersError;

/// What can go wrong before a message is understood.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// None that this actor may use and that is to run.
    #[error("you have no server of that name that is to run; start it first, or look at /api/mcp/instances")]
    NoServer,
    /// A page that may not, or a name that is not ours.
    #[error("{0}")]
    Refused(&'static str),
    /// Everybody is busy.
    #[error("there are as many sessions as there may be, and all of them are busy")]
    TooManySessions,
    /// A server that no client can start or reach by itself.
    #[error("its document names no package that clients can run, and no address")]
    NothingToRun,
    /// Something that was sent cannot be used.
    #[error("{0}: {1}")]
    Field(&'static str, &'static str),
    /// The actor may not.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The catalogue has no such server, or failed.
    #[error(transparent)]
    Servers(#[from] ServersError),
    /// There is no such virtual server, or they cannot be looked at.
    #[error(transparent)]
    VirtualServers(#[from] Arc<VirtualServersError>),
    /// What runs cannot be asked.
    #[error(transparent)]
    Runtime(#[from] Arc<RuntimeError>),
}

impl GatewayError {
    fn inner(&self) -> Option<&dyn Coded> {
        match self {
            Self::Forbidden(error) => Some(error),
            Self::Servers(error) => Some(error),
            Self::VirtualServers(error) => Some(error.as_ref()),
            Self::Runtime(error) => Some(error.as_ref()),
            _ => None,
        }
    }
}

impl Coded for GatewayError {
    fn code(&self) -> &'static str {
        match self {
            Self::NoServer => "server_not_available",
            Self::Refused(_) => "origin_refused",
            Self::TooManySessions => "too_many_sessions",
            Self::NothingToRun => "document_unusable",
            Self::Field(..) => "invalid_field",
            other => other.inner().map_or("internal", Coded::code),
        }
    }
    fn class(&self) -> Class {
        match self {
            Self::NoServer => Class::NotFound,
            Self::Refused(_) => Class::Forbidden,
            Self::TooManySessions => Class::TooMany,
            Self::NothingToRun => Class::Unprocessable,
            Self::Field(..) => Class::BadRequest,
            other => other.inner().map_or(Class::Internal, Coded::class),
        }
    }
    fn fields(&self) -> Vec<FieldError> {
        match self {
            Self::Field(location, message) => vec![FieldError::new(*location, *message)],
            other => other.inner().map(Coded::fields).unwrap_or_default(),
        }
    }
    fn denial(&self) -> Option<Denial> {
        self.inner().and_then(Coded::denial)
    }
    fn extra(&self) -> Map<String, Value> {
        self.inner().map(Coded::extra).unwrap_or_default()
    }
}
