//! What was noticed of an input or of a server: which rule, how bad, where, and in words.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing; a level that passed or was skipped says so here, too.
    Info,
    /// It works, but not as well as it could.
    Warning,
    /// It is not valid.
    Error,
}

/// One thing that was noticed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// The rule; stable.
    pub id: String,
    /// How bad it is.
    pub severity: Severity,
    /// JSON pointer into the document or the specification, or the name of a file.
    pub path: String,
    /// In words.
    pub message: String,
}

impl Finding {
    /// It is not valid.
    pub fn error(id: &str, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::of(Severity::Error, id, path, message)
    }

    /// It works, but not as well as it could.
    pub fn warning(id: &str, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::of(Severity::Warning, id, path, message)
    }

    /// Worth knowing.
    pub fn info(id: &str, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::of(Severity::Info, id, path, message)
    }

    fn of(severity: Severity, id: &str, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { id: id.to_owned(), severity, path: path.into(), message: message.into() }
    }
}

/// One segment of a JSON pointer (RFC 6901).
pub(crate) fn segment(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
