//! What a validation found.

use serde::Serialize;
use utoipa::ToSchema;

/// More issues than this help nobody; the rest is summed up in one.
const MAX_ISSUES: usize = 500;
/// Messages quote the document, which may hold very long values.
const MAX_MESSAGE: usize = 600;

/// What was found in a document.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Report {
    /// Whether there is no issue of severity `error`.
    pub valid: bool,
    /// All that was found, in the order of the document's parts.
    pub issues: Vec<Issue>,
}

/// One thing that is wrong or doubtful.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Issue {
    /// Which kind of rule it breaks.
    #[serde(rename = "type")]
    pub r#type: IssueType,
    /// Where in the document, like `packages[0].version`; empty for the whole document.
    pub path: String,
    /// What is wrong, in one sentence.
    pub message: String,
    /// How bad it is.
    pub severity: Severity,
    /// The code of the rule.
    pub reference: String,
}

/// Which kind of rule an issue breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum IssueType {
    /// The document is not JSON.
    Json,
    /// The document is not of the form of a server.json.
    Schema,
    /// The form is right, the content is not.
    Semantic,
    /// Advice that the official registry itself does not give.
    Linter,
}

/// How bad an issue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The official registry would refuse the document.
    Error,
    /// It would take the document, but something is likely not meant so.
    Warning,
    /// Good to know.
    Info,
}

/// Collects what is found.
#[derive(Debug, Default)]
pub(super) struct Issues {
    kept: Vec<Issue>,
    is_cut: bool,
    has_errors: bool,
}

impl Issues {
    /// A broken rule of the schema.
    pub(super) fn schema(&mut self, path: &str, reference: &str, message: impl Into<String>) {
        self.error(IssueType::Schema, path, reference, message);
    }

    /// A broken rule about the content.
    pub(super) fn semantic(&mut self, path: &str, reference: &str, message: impl Into<String>) {
        self.error(IssueType::Semantic, path, reference, message);
    }

    /// A broken rule of the given kind.
    pub(super) fn error(&mut self, kind: IssueType, path: &str, reference: &str, message: impl Into<String>) {
        self.add(kind, Severity::Error, path, reference, message.into());
    }

    /// Something that does not make the document invalid.
    pub(super) fn warning(&mut self, kind: IssueType, path: &str, reference: &str, message: impl Into<String>) {
        self.add(kind, Severity::Warning, path, reference, message.into());
    }

    fn add(&mut self, kind: IssueType, severity: Severity, path: &str, reference: &str, message: String) {
        self.has_errors |= severity == Severity::Error;
        if self.kept.len() >= MAX_ISSUES {
            self.is_cut = true;
            return;
        }
        let message = clip(message, MAX_MESSAGE);
        self.kept.push(Issue { r#type: kind, path: path.to_owned(), message, severity, reference: reference.to_owned() });
    }

    /// Whether nothing that is still to come would change the report.
    pub(super) fn is_settled(&self) -> bool {
        self.is_cut && self.has_errors
    }

    pub(super) fn into_report(self) -> Report {
        let Self { mut kept, is_cut, has_errors } = self;
        if is_cut {
            // An error among those left out must still be seen as one in the list.
            let severity = if has_errors { Severity::Error } else { Severity::Warning };
            kept.push(Issue {
                r#type: IssueType::Linter,
                path: String::new(),
                message: format!("only the first {MAX_ISSUES} issues are listed"),
                severity,
                reference: "too-many-issues".to_owned(),
            });
        }
        Report { valid: !has_errors, issues: kept }
    }
}

/// At most `max` characters of a text.
pub(super) fn clip(mut text: String, max: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(max) {
        text.truncate(end);
        text.push('…');
    }
    text
}
