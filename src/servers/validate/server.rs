//! The rules about what describes the server as a whole.

use super::{
    IssueType,
    address::{self, AddressFault},
    definitions::PUBLISHER_PROVIDED,
    place::Place,
    report::Issues,
    version,
};

/// The largest publisher-provided part of `_meta`, in bytes of JSON.
const MAX_PUBLISHER_PROVIDED: usize = 4096;

/// Checks the document without its packages and remotes.
pub(super) fn check(document: &Place, issues: &mut Issues) {
    if let Some(fault) = name_fault(document.text_or_empty("name")) {
        issues.semantic("name", "invalid-server-name", fault);
    }
    version::check(document, issues);
    if let Some(repository) = document.member("repository") {
        check_repository(&repository, issues);
    }
    check_website(document, issues);
    check_title(document, issues);
    for icon in document.list("icons") {
        check_icon(&icon, issues);
    }
    check_publisher_provided(document, issues);
    let has_any = |name: &str| document.member(name).is_some_and(|list| list.items().next().is_some());
    if !has_any("packages") && !has_any("remotes") {
        issues.warning(IssueType::Linter, "", "nothing-to-run", "neither packages nor remotes: clients cannot use this server");
    }
}

/// What is wrong with a server's name, in the words of the official registry.
fn name_fault(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("server name is required and must be a string".to_owned());
    }
    let Some((namespace, part)) = name.split_once('/') else {
        return Some("server name must be in format 'dns-namespace/name' (e.g., 'com.example.api/server')".to_owned());
    };
    if part.contains('/') {
        return Some("server name cannot contain multiple slashes".to_owned());
    }
    if namespace.is_empty() || part.is_empty() {
        return Some("server name must be in format 'dns-namespace/name' with non-empty namespace and name parts".to_owned());
    }
    if !is_name_part(namespace, b".-") {
        return Some(format!(
            "server name format is invalid: namespace '{namespace}' is invalid. Namespace must start and end with alphanumeric \
             characters, and may contain dots and hyphens in the middle"
        ));
    }
    (!is_name_part(part, b"._-")).then(|| {
        format!(
            "server name format is invalid: name '{part}' is invalid. Name must start and end with alphanumeric characters, and \
             may contain dots, underscores, and hyphens in the middle"
        )
    })
}

/// Two characters at least, as the first and the last one are asked for separately.
fn is_name_part(text: &str, inner: &[u8]) -> bool {
    let is_inner = |byte: &u8| byte.is_ascii_alphanumeric() || inner.contains(byte);
    matches!(text.as_bytes(), [first, middle @ .., last]
        if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() && middle.iter().all(is_inner))
}

fn check_repository(repository: &Place, issues: &mut Issues) {
    let (url, source) = (repository.text_or_empty("url"), repository.text_or_empty("source"));
    // The official registry lets an empty repository pass here; that its members are missing is for the schema to say.
    if url.is_empty() && source.is_empty() {
        return;
    }
    if !is_repository_url(source, url) {
        issues.semantic(&repository.path_of("url"), "invalid-repository-url", format!("invalid repository URL: {url}"));
    }
    let subfolder = repository.text_or_empty("subfolder");
    if !subfolder.is_empty() && !is_subfolder(subfolder) {
        issues.semantic(&repository.path_of("subfolder"), "invalid-subfolder-path", format!("invalid subfolder path: {subfolder}"));
    }
}

/// `https://github.com/owner/repository` or the same of GitLab, depending on the source.
fn is_repository_url(source: &str, url: &str) -> bool {
    let host = match source {
        "github" => "github.com/",
        "gitlab" => "gitlab.com/",
        _ => return false,
    };
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let rest = rest.map(|rest| rest.strip_prefix("www.").unwrap_or(rest));
    let Some(path) = rest.and_then(|rest| rest.strip_prefix(host)) else { return false };
    let is_word = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    path.strip_suffix('/').unwrap_or(path).split_once('/').is_some_and(|(owner, name)| is_word(owner) && is_word(name))
}

/// A relative path without any detours.
fn is_subfolder(path: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    path.chars().all(is_allowed) && path.split('/').all(|segment| !matches!(segment, "" | "." | ".."))
}

fn check_website(document: &Place, issues: &mut Issues) {
    let url = document.text_or_empty("websiteUrl");
    if url.is_empty() {
        return;
    }
    let (reference, message) = match address::parse(url) {
        Ok(parsed) if parsed.scheme() == "https" => return,
        Ok(_) => ("website-url-invalid-scheme", format!("websiteUrl must use https scheme: {url}")),
        Err(AddressFault::NotAbsolute) => ("website-url-must-be-absolute", format!("websiteUrl must be absolute (include scheme): {url}")),
        Err(AddressFault::Invalid) => ("invalid-website-url", format!("invalid websiteUrl: {url}")),
    };
    issues.semantic(&document.path_of("websiteUrl"), reference, message);
}

fn check_title(document: &Place, issues: &mut Issues) {
    let title = document.text_or_empty("title");
    if !title.is_empty() && title.trim().is_empty() {
        issues.semantic(&document.path_of("title"), "title-whitespace-only", "title cannot be only whitespace");
    }
}

fn check_icon(icon: &Place, issues: &mut Issues) {
    let Some(src) = icon.text("src") else { return };
    let (reference, message) = match address::parse(src) {
        Ok(parsed) if parsed.scheme() == "https" => return,
        Ok(parsed) => ("icon-src-invalid-scheme", format!("icon src must use https scheme (got {}): {src}", parsed.scheme())),
        Err(AddressFault::NotAbsolute) => ("icon-src-not-absolute", format!("icon src must be an absolute URL (include scheme): {src}")),
        Err(AddressFault::Invalid) => ("icon-src-invalid-url", format!("invalid icon src URL: {src}")),
    };
    issues.semantic(&icon.path_of("src"), reference, message);
}

fn check_publisher_provided(document: &Place, issues: &mut Issues) {
    let Some(provided) = document.member("_meta").and_then(|meta| meta.member(PUBLISHER_PROVIDED)) else { return };
    let size = provided.value.to_string().len();
    if size > MAX_PUBLISHER_PROVIDED {
        let message = format!("_meta.{PUBLISHER_PROVIDED} extension exceeds 4KB limit ({size} bytes)");
        issues.semantic(&provided.path, "publisher-provided-too-large", message);
    }
}
