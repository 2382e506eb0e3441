//! The rules of MCPB packages: bundles that are downloaded from a release of their source's host.

use super::{address, place::Place, report::Issues};

/// Checks one package of registry type `mcpb`.
pub(super) fn check(package: &Place, issues: &mut Issues) {
    if package.text_or_empty("fileSha256").is_empty() {
        let message = "must include a fileSha256 hash for integrity verification";
        issues.semantic(&package.path_of("fileSha256"), "file-sha256-required", message);
    }
    if !package.text_or_empty("registryBaseUrl").is_empty() {
        let message = "MCPB packages must not have 'registryBaseUrl' field - use the full download URL in 'identifier' instead";
        issues.semantic(&package.path_of("registryBaseUrl"), "registry-base-url-not-allowed", message);
    }
    let identifier = package.text_or_empty("identifier");
    if identifier.is_empty() {
        return;
    }
    let path = package.path_of("identifier");
    if let Some(fault) = address_fault(identifier) {
        issues.semantic(&path, "invalid-mcpb-url", fault);
    }
    if !identifier.to_ascii_lowercase().contains("mcp") {
        issues.semantic(&path, "invalid-mcpb-url", format!("MCPB package URL must contain 'mcp': {identifier}"));
    }
}

fn address_fault(identifier: &str) -> Option<String> {
    let Ok(url) = address::parse(identifier) else {
        return Some(format!("invalid MCPB package URL: {identifier}"));
    };
    if url.scheme() != "https" {
        return Some(format!("invalid MCPB package URL, must use HTTPS: {identifier}"));
    }
    let host = url.host_str().unwrap_or_default();
    if let Some(port) = url.port() {
        return Some(not_allowed(&format!("{host}:{port}")));
    }
    let segments: Vec<&str> = url.path_segments().into_iter().flatten().collect();
    match host {
        "github.com" | "www.github.com" => (!is_github_release(&segments)).then(|| {
            "GitHub MCPB packages must be release assets following the pattern '/owner/repo/releases/download/tag/filename'".to_owned()
        }),
        "gitlab.com" | "www.gitlab.com" => (!is_gitlab_release(&segments)).then(|| {
            "GitLab MCPB packages must be release assets following patterns '/owner/repo/-/releases/tag/downloads/filename' or \
             '/owner/repo/-/package_files/id/download'"
                .to_owned()
        }),
        _ => Some(not_allowed(host)),
    }
}

fn not_allowed(host: &str) -> String {
    format!("MCPB packages must be hosted on allowlisted providers (GitHub or GitLab). Host '{host}' is not allowed")
}

fn is_github_release(segments: &[&str]) -> bool {
    matches!(segments, [owner, name, "releases", "download", tag, file]
        if is_github_owner(owner) && is_word(name) && !tag.is_empty() && !file.is_empty())
}

/// At most 39 letters, digits and hyphens, the latter not at the ends.
fn is_github_owner(owner: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=39).contains(&owner.len()) && owner.bytes().all(is_allowed) && !owner.starts_with('-') && !owner.ends_with('-')
}

/// Projects of GitLab may lie in groups within groups.
fn is_gitlab_release(segments: &[&str]) -> bool {
    let project = match segments {
        [project @ .., "-", "releases", tag, "downloads", file] if !tag.is_empty() && !file.is_empty() => project,
        [project @ .., "-", "package_files", id, "download"] if !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()) => project,
        _ => return false,
    };
    !project.is_empty() && project.iter().all(|part| is_word(part))
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}
