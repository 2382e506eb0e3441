use std::time::Duration;

use audit::AuditError;
use credentials::CredentialsError;
use platform::{Class, Coded, Denial, FieldError, actor::Forbidden, client::ClientError, database::DbError};
use servers::ServersError;

/// What can go wrong with logins at servers elsewhere.
#[derive(Debug, thiserror::Error)]
pub enum OauthError {
    /// The actor has not logged in there.
    #[error("you have not logged in to this server")]
    NotFound,
    /// Nothing of it runs elsewhere.
    #[error("this server does not run elsewhere: there is nothing to log in to")]
    NotElsewhere,
    /// It answered without a token.
    #[error("this server wants no login; start it")]
    NotNeeded,
    /// The login that an answer belongs to is unknown, used, or too old.
    #[error("this login is not known any more; begin it again")]
    Unknown,
    /// The answer comes from another authorization server (RFC 9207).
    #[error("this answer does not come from the authorization server that was asked")]
    OtherIssuer,
    /// What the authorization server refused, in its own words.
    #[error("the authorization server refused: {0}")]
    Refused(String),
    /// The refresh token counts no more.
    #[error("the login at this server has ended; log in again")]
    Over,
    /// What it publishes about itself cannot be used.
    #[error("the server's authorization cannot be used: {0}")]
    Unfit(&'static str),
    /// It cannot be reached.
    #[error("{0} cannot be reached: {1}")]
    Unreachable(String, String),
    /// It may not be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
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

impl From<sqlx::Error> for OauthError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl OauthError {
    /// The error of another part that this one passes on.
    fn inner(&self) -> Option<&dyn Coded> {
        match self {
            Self::Forbidden(error) => Some(error),
            Self::Audit(error) => Some(error),
            Self::Servers(error) => Some(error),
            Self::Credentials(error) => Some(error),
            Self::Database(error) => Some(error),
            _ => None,
        }
    }
}

impl Coded for OauthError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "not_logged_in",
            Self::NotElsewhere => "not_elsewhere",
            Self::NotNeeded => "login_not_needed",
            Self::Unknown => "login_unknown",
            Self::OtherIssuer => "login_of_another_issuer",
            Self::Refused(_) => "login_refused",
            Self::Over => "authorization_needed",
            Self::Unfit(_) => "authorization_unusable",
            Self::Unreachable(..) => "remote_unreachable",
            Self::Client(_) => "remote_refused",
            other => other.inner().map_or("internal", Coded::code),
        }
    }
    fn class(&self) -> Class {
        match self {
            Self::NotFound => Class::NotFound,
            Self::NotElsewhere | Self::Unfit(_) | Self::Client(_) => Class::Unprocessable,
            Self::NotNeeded | Self::Over => Class::Conflict,
            Self::Unknown | Self::OtherIssuer => Class::BadRequest,
            Self::Refused(_) | Self::Unreachable(..) => Class::BadGateway,
            other => other.inner().map_or(Class::Internal, Coded::class),
        }
    }
    fn fields(&self) -> Vec<FieldError> {
        self.inner().map(Coded::fields).unwrap_or_default()
    }
    fn retry_after(&self) -> Option<Duration> {
        self.inner().and_then(Coded::retry_after)
    }
    fn denial(&self) -> Option<Denial> {
        self.inner().and_then(Coded::denial)
    }
}
