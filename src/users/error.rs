use std::time::Duration;

use audit::AuditError;
use platform::{Class, Coded, Denial, FieldError, actor::Forbidden, client::ClientError, database::DbError, files::FileError};

/// What can go wrong with accounts, sessions and tokens.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// No such account, token or invitation, or none that the actor may see.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// A field cannot be used.
    #[error("{location}: {message}")]
    Field {
        /// Which one.
        location: &'static str,
        /// Why; never what was sent.
        message: String,
    },
    /// The same for everything that can be wrong with a login.
    #[error("the email or the password is wrong, or the account cannot log in now")]
    Credentials,
    /// The same for everything that can be wrong with a refresh token.
    #[error("the refresh token is not valid (any more); log in again")]
    Refresh,
    /// Registration is closed, or the invitation is not valid for this.
    #[error("{0}")]
    Registration(&'static str),
    /// The address is taken.
    #[error("there is an account with this email already")]
    EmailTaken,
    /// There would be nobody left to administer the fabric.
    #[error("this is the last admin; make another one first")]
    LastAdmin,
    /// The actor is no person with an account.
    #[error("this token belongs to no account; log in as a user")]
    NoAccount,
    /// Too many passwords are being hashed.
    #[error("too many logins at once; try again in a moment")]
    Busy,
    /// The hash could not be made.
    #[error("the password could not be hashed")]
    Hashing,
    /// The actor may not.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The trail cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DbError),
    /// Outgoing HTTP cannot be set up.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A file of the data folder failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Something that belongs to the account could not be erased.
    #[error("something that belongs to the account could not be erased: {0}")]
    Belongings(String),
}

impl From<sqlx::Error> for UsersError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl UsersError {
    pub(crate) fn field(location: &'static str, message: impl Into<String>) -> Self {
        Self::Field { location, message: message.into() }
    }
}

impl Coded for UsersError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not_found",
            Self::Field { .. } => "invalid_field",
            Self::Credentials => "invalid_credentials",
            Self::Refresh => "invalid_refresh_token",
            Self::Registration(_) => "registration_refused",
            Self::EmailTaken => "email_taken",
            Self::LastAdmin => "last_admin",
            Self::NoAccount => "no_account",
            Self::Busy => "too_many_logins",
            Self::Hashing | Self::Belongings(_) | Self::File(_) | Self::Client(_) => "internal",
            Self::Forbidden(error) => error.code(),
            Self::Audit(error) => error.code(),
            Self::Database(error) => error.code(),
        }
    }
    fn class(&self) -> Class {
        match self {
            Self::NotFound(_) => Class::NotFound,
            Self::Field { .. } => Class::BadRequest,
            Self::Credentials | Self::Refresh => Class::Unauthenticated,
            Self::Registration(_) | Self::NoAccount => Class::Forbidden,
            Self::EmailTaken | Self::LastAdmin => Class::Conflict,
            Self::Busy => Class::TooMany,
            Self::Hashing | Self::Belongings(_) | Self::File(_) | Self::Client(_) => Class::Internal,
            Self::Forbidden(error) => error.class(),
            Self::Audit(error) => error.class(),
            Self::Database(error) => error.class(),
        }
    }
    fn fields(&self) -> Vec<FieldError> {
        match self {
            Self::Field { location, message } => vec![FieldError::new(*location, message.clone())],
            _ => Vec::new(),
        }
    }
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy => Some(Duration::from_secs(2)),
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
