//! The rules about remotes.

use std::collections::BTreeSet;

use super::{address, package::undefined_variables, place::Place, report::Issues};

/// Checks one remote.
pub(super) fn check(remote: &Place, issues: &mut Issues) {
    match remote.text("type") {
        // That it is missing is for the schema to say.
        None => {}
        Some(kind @ ("streamable-http" | "sse")) => check_url(remote, kind, issues),
        Some(kind) => {
            let message = format!("unsupported transport type for remotes: {kind} (only streamable-http and sse are supported)");
            issues.semantic(&remote.path_of("type"), "unsupported-remote-transport-type", message);
        }
    }
}

fn check_url(remote: &Place, kind: &str, issues: &mut Issues) {
    let url = remote.text_or_empty("url");
    let path = remote.path_of("url");
    if url.is_empty() {
        return issues.semantic(&path, "remote-transport-url-required", format!("url is required for {kind} transport type"));
    }
    if !address::is_public_https(url) {
        issues.semantic(&path, "invalid-remote-url", format!("invalid remote URL: {url}"));
    }
    let variables = remote.member("variables");
    let variables: BTreeSet<&str> = variables.iter().flat_map(Place::members).map(|(name, _)| name).collect();
    if !address::has_only_variables(url, &variables) {
        let message = format!("invalid remote URL: {}", undefined_variables(url, &variables));
        issues.semantic(&path, "invalid-templated-url", message);
    }
}
