//! Would the official registry accept this document?
//!
//! A linter for server.json documents with the rules of the official MCP registry: the form that its
//! schema asks for (`schema`, `definitions`), and what it asks of the content (the other modules).
//! This fabric itself takes documents far more leniently; nothing here decides about what it stores.
//!
//! Whether a package belongs to its publisher can only be found out over the network and is not looked at.

mod address;
mod definitions;
mod mcpb;
mod oci;
mod package;
mod place;
mod registry;
mod remote;
mod report;
mod schema;
mod server;
#[cfg(test)]
mod tests;
mod version;

use serde_json::Value;

pub use definitions::CURRENT_SCHEMA;
use place::Place;
use report::Issues;
pub use report::{Issue, IssueType, Report, Severity};

/// The base URLs that the official registry expects of packages whose registries have no fixed address here.
#[derive(Clone, Debug, Default)]
pub struct ExpectedRegistries {
    /// The only `registryBaseUrl` that an npm package may state, if it is known.
    pub npm: Option<String>,
    /// The only `registryBaseUrl` that a PyPI package may state, if it is known.
    pub pypi: Option<String>,
}

/// Checks the bytes of one server.json document.
pub fn validate(document: &[u8]) -> Report {
    validate_with(document, &ExpectedRegistries::default())
}

/// Checks the bytes of one server.json document, comparing base URLs with the expected ones.
pub fn validate_with(document: &[u8], expected: &ExpectedRegistries) -> Report {
    let mut issues = Issues::default();
    match serde_json::from_slice::<Value>(document) {
        Ok(value) => check(&Place::root(&value), expected, &mut issues),
        Err(error) => issues.error(IssueType::Json, "", "json-syntax-error", syntax_message(&error)),
    }
    issues.into_report()
}

fn check(document: &Place, expected: &ExpectedRegistries, issues: &mut Issues) {
    schema::check(document, issues);
    if !document.value.is_object() || issues.is_settled() {
        return;
    }
    server::check(document, issues);
    for package in document.list("packages") {
        package::check(&package, issues);
        registry::check(&package, expected, issues);
    }
    for remote in document.list("remotes") {
        remote::check(&remote, issues);
    }
}

/// Where the JSON breaks off; never what stands there, as documents may hold what is not for a log.
fn syntax_message(error: &serde_json::Error) -> String {
    let fault = if error.is_eof() { "JSON ends too early" } else { "malformed JSON" };
    format!("{fault} at line {} column {}", error.line(), error.column())
}
