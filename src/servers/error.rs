use platform::{Class, Coded, actor::Forbidden, database::DbError};

use crate::{categories::RulesError, predefined::PredefinedError};

/// What can be wrong with a request about the catalogue.
#[derive(Debug, thiserror::Error)]
pub enum ServersError {
    /// No such server, or it was erased.
    #[error("there is no server with this id")]
    NotFound,
    /// Not the id of a server.
    #[error("the id {0}")]
    InvalidId(#[from] crate::model::InvalidServerId),
    /// A server of another origin has the name.
    #[error("a server of this name is in the catalogue already; take another name")]
    NameTaken,
    /// The rules of administrators deny it.
    #[error("the administrators of this fabric do not allow this server")]
    Denied,
    /// A document that no server can have.
    #[error("the document cannot be used: {0}")]
    Unusable(&'static str),
    /// Not allowed.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DbError),
    /// The category rules cannot be used.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// The predefined servers cannot be used.
    #[error(transparent)]
    Predefined(#[from] PredefinedError),
}

impl From<sqlx::Error> for ServersError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl Coded for ServersError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "server_not_found",
            Self::InvalidId(_) => "invalid_server_id",
            Self::NameTaken => "server_name_taken",
            Self::Denied => "server_denied",
            Self::Unusable(_) => "document_unusable",
            Self::Forbidden(error) => error.code(),
            Self::Database(error) => error.code(),
            Self::Rules(_) => "invalid_category_rules",
            Self::Predefined(_) => "invalid_predefined_servers",
        }
    }

    fn class(&self) -> Class {
        match self {
            Self::NotFound => Class::NotFound,
            Self::InvalidId(_) => Class::BadRequest,
            Self::NameTaken => Class::Conflict,
            Self::Denied => Class::Forbidden,
            Self::Unusable(_) => Class::Unprocessable,
            Self::Forbidden(error) => error.class(),
            Self::Database(error) => error.class(),
            Self::Rules(_) | Self::Predefined(_) => Class::Internal,
        }
    }

    fn denial(&self) -> Option<platform::Denial> {
        match self {
            Self::Forbidden(error) => error.denial(),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            Self::Database(error) => error.retry_after(),
            _ => None,
        }
    }
}
