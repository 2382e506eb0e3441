use std::time::Duration;

use audit::AuditError;
use platform::{Class, Coded, Denial, FieldError, actor::Forbidden, database::DbError};
use servers::ServersError;
use sources::SourcesError;

/// What can go wrong with virtual servers.
#[derive(Debug, thiserror::Error)]
pub enum VirtualServersError {
    /// None of this actor.
    #[error("you have no such virtual server")]
    NotFound,
    /// A field cannot be used: which, and why; never what was sent.
    #[error("{0}: {1}")]
    Field(&'static str, &'static str),
    /// `If-Match` names another revision.
    #[error("the virtual server has changed since; its revision is {0}")]
    Stale(i64),
    /// The actor may not.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The trail cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Every domain of the pool is somebody's.
    #[error("every domain of MCP_GATEWAY_URL_POOLS is in use; remove a virtual server, or add a domain")]
    PoolExhausted,
    /// These names would be two tools', or two prompts'.
    #[error("two tools, or two prompts, would have one name: {}; rename or leave out a tool of each, or use prefixes", .0.join(", "))]
    Collision(Vec<String>),
    /// Sources failed.
    #[error(transparent)]
    Sources(#[from] SourcesError),
    /// The catalogue failed.
    #[error(transparent)]
    Servers(#[from] ServersError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DbError),
}

impl From<sqlx::Error> for VirtualServersError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl VirtualServersError {
    /// The error of another part that this one passes on.
    fn inner(&self) -> Option<&dyn Coded> {
        match self {
            Self::NotFound | Self::Field(..) | Self::Stale(_) | Self::PoolExhausted | Self::Collision(_) => None,
            Self::Forbidden(error) => Some(error),
            Self::Audit(error) => Some(error),
            Self::Sources(error) => Some(error),
            Self::Servers(error) => Some(error),
            Self::Database(error) => Some(error),
        }
    }
}

impl Coded for VirtualServersError {
    fn code(&self) -> &'static str {
        match self {
            Self::Field(..) => "invalid_field",
            Self::Stale(_) => "stale_revision",
            Self::PoolExhausted => "endpoint_pool_exhausted",
            Self::Collision(_) => "tool_name_collision",
            other => other.inner().map_or("virtual_server_not_found", Coded::code),
        }
    }
    fn class(&self) -> Class {
        match self {
            Self::Field(..) => Class::BadRequest,
            Self::Stale(_) => Class::Stale,
            Self::PoolExhausted | Self::Collision(_) => Class::Conflict,
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
