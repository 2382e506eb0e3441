//! The rules of container images.

use super::{IssueType, place::Place, report::Issues};

const REGISTRIES: [&str; 5] = ["docker.io", "index.docker.io", "registry-1.docker.io", "ghcr.io", "mcr.microsoft.com"];
const REGISTRY_SUFFIXES: [&str; 2] = [".pkg.dev", ".azurecr.io"];
/// Where an image is looked for whose reference names no registry.
const DEFAULT_REGISTRY: &str = "docker.io";

/// Checks one package of registry type `oci`.
pub(super) fn check(package: &Place, issues: &mut Issues) {
    let instead = "in 'identifier' instead (e.g., 'docker.io/owner/image:1.0.0')";
    if !package.text_or_empty("registryBaseUrl").is_empty() {
        let message = format!("OCI packages must not have 'registryBaseUrl' field - use canonical reference {instead}");
        issues.semantic(&package.path_of("registryBaseUrl"), "registry-base-url-not-allowed", message);
    }
    if !package.text_or_empty("version").is_empty() {
        let message = format!("OCI packages must not have 'version' field - include version {instead}");
        issues.semantic(&package.path_of("version"), "oci-version-not-allowed", message);
    }
    let identifier = package.text_or_empty("identifier");
    if !identifier.is_empty() {
        check_identifier(&package.path_of("identifier"), identifier, issues);
    }
}

fn check_identifier(path: &str, identifier: &str, issues: &mut Issues) {
    let Some(reference) = Reference::parse(identifier) else {
        return issues.semantic(path, "invalid-oci-reference", format!("invalid OCI reference: {identifier}"));
    };
    let registry = reference.registry;
    let is_allowed = REGISTRIES.contains(&registry) || REGISTRY_SUFFIXES.iter().any(|suffix| registry.ends_with(suffix));
    if !is_allowed {
        issues.semantic(path, "unsupported-oci-registry", format!("unsupported OCI registry: {registry}"));
    }
    if !reference.has_digest && matches!(reference.tag, None | Some("latest")) {
        let message = "the image has no fixed version; give a tag other than 'latest', or a digest";
        issues.warning(IssueType::Linter, path, "oci-version-not-fixed", message);
    }
}

/// `registry/repository:tag@digest`, of which only the repository must be there.
#[derive(Debug, PartialEq, Eq)]
struct Reference<'a> {
    registry: &'a str,
    tag: Option<&'a str>,
    has_digest: bool,
}

impl<'a> Reference<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let (registry, rest) = match rest.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
            _ => (DEFAULT_REGISTRY, rest),
        };
        let (repository, tag) = match rest.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        let is_valid = is_registry(registry) && is_repository(repository) && tag.is_none_or(is_tag) && digest.is_none_or(is_digest);
        is_valid.then_some(Self { registry, tag, has_digest: digest.is_some() })
    }
}

/// `host` or `host:port`
fn is_registry(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "0"));
    let is_host = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
    is_host && !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_repository(text: &str) -> bool {
    let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.');
    (2..=255).contains(&text.len()) && text.split('/').all(|part| !part.is_empty() && part.bytes().all(is_allowed))
}

fn is_tag(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=128).contains(&text.len()) && text.bytes().all(is_allowed)
}

fn is_digest(text: &str) -> bool {
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.strip_prefix("sha256:").is_some_and(|hash| hash.len() == 64 && hash.bytes().all(is_hex))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_references() {
        let digest = format!("ghcr.io/a/b:1.0@sha256:{}", "a".repeat(64));
        let cases = [
            ("ghcr.io/owner/image:1.0", Some(("ghcr.io", Some("1.0"), false))),
            ("owner/image", Some(("docker.io", None, false))),
            ("image:latest", Some(("docker.io", Some("latest"), false))),
            ("localhost:5000/image", Some(("localhost:5000", None, false))),
            ("us-docker.pkg.dev/p/r/i:2", Some(("us-docker.pkg.dev", Some("2"), false))),
            (digest.as_str(), Some(("ghcr.io", Some("1.0"), true))),
            ("https://ghcr.io/owner/image:1.0", None),
            ("ghcr.io/Owner/image:1.0", None),
            ("ghcr.io/owner/image:", None),
            ("ghcr.io/owner/image@sha256:abc", None),
            ("ghcr.io//image", None),
            ("ü/é", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|(registry, tag, has_digest)| Reference { registry, tag, has_digest });
            assert_eq!(Reference::parse(text), expected, "{text}");
        }
    }
}
