//! Database errors, sorted into what a client can be told.

use crate::problem::{Class, Coded};

/// Any failure of the database.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// It cannot be reached, or has no connection free.
    #[error("the database is not available")]
    Unavailable(#[source] sqlx::Error),
    /// It took longer than a request may.
    #[error("the database took too long")]
    Timeout(#[source] sqlx::Error),
    /// A text contains U+0000, which PostgreSQL cannot keep.
    #[error("a text contains the character U+0000")]
    Nul(#[source] sqlx::Error),
    /// A value lies outside what its column can keep.
    #[error("a value is out of range")]
    OutOfRange(#[source] sqlx::Error),
    /// A row that we wrote no longer parses.
    #[error("row {row} of {table}: column {column} is inconsistent")]
    Inconsistent {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// Which row.
        row: String,
    },
    /// Anything else: a bug.
    #[error("database error: {0}")]
    Other(#[source] sqlx::Error),
}

impl From<sqlx::Error> for DbError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
                Self::Unavailable(error)
            }
            sqlx::Error::Database(inner) => match inner.code().as_deref() {
                // Class 57: shutdown, crash, cannot connect now. Class 53: out of connections, memory or disk. 08: connection.
                Some(code) if code.starts_with("57P") || code.starts_with("53") || code.starts_with("08") => Self::Unavailable(error),
                // query_canceled (statement_timeout), lock_not_available
                Some("57014" | "55P03") => Self::Timeout(error),
                // untranslatable_character, invalid byte sequence
                Some("22P05" | "22021") => Self::Nul(error),
                // datetime_field_overflow, numeric_value_out_of_range, invalid_datetime_format, program_limit_exceeded
                Some("22008" | "22003" | "22007" | "54000") => Self::OutOfRange(error),
                _ => Self::Other(error),
            },
            _ => Self::Other(error),
        }
    }
}

impl Coded for DbError {
    fn code(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "database_unavailable",
            Self::Timeout(_) => "database_timeout",
            Self::Nul(_) => "invalid_character",
            Self::OutOfRange(_) => "value_out_of_range",
            Self::Inconsistent { .. } => "data_inconsistent",
            Self::Other(_) => "internal",
        }
    }
    fn class(&self) -> Class {
        match self {
            Self::Unavailable(_) => Class::Unavailable,
            Self::Timeout(_) => Class::Timeout,
            Self::Nul(_) | Self::OutOfRange(_) => Class::BadRequest,
            Self::Inconsistent { .. } | Self::Other(_) => Class::Internal,
        }
    }
    fn retry_after(&self) -> Option<std::time::Duration> {
        matches!(self, Self::Unavailable(_)).then_some(std::time::Duration::from_secs(2))
    }
}

/// Turns the violation of the named constraint into the error that it means.
pub fn on_constraint<E: From<DbError>>(error: sqlx::Error, constraint: &str, meaning: impl FnOnce() -> E) -> E {
    let violated = error.as_database_error().and_then(sqlx::error::DatabaseError::constraint) == Some(constraint);
    if violated { meaning() } else { DbError::from(error).into() }
}
