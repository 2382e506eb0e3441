//! Versions: which are reserved, and which are ranges rather than versions.

use super::{place::Place, report::Issues};

/// Checks the member `version` of the document or of a package.
pub(super) fn check(place: &Place, issues: &mut Issues) {
    let Some(version) = place.text("version") else { return };
    let path = place.path_of("version");
    if version == "latest" {
        issues.semantic(&path, "reserved-version-string", "version string 'latest' is reserved and cannot be used");
    } else if is_range(version) {
        issues.semantic(&path, "version-looks-like-range", format!("version must be a specific version, not a range: {version:?}"));
    }
}

/// Whether a text is one of the usual notations for a range. All others are versions, like dates or `v1.0`.
fn is_range(version: &str) -> bool {
    let version = version.trim();
    is_comparison(version) || is_span(version) || is_choice(version) || is_wildcard(version)
}

/// `^1.2.3`, `~1.2`, `>= 1.0.0`
fn is_comparison(text: &str) -> bool {
    let comparators = ["^", "~", ">=", "<=", ">", "<", "="];
    let rest = comparators.iter().find_map(|comparator| text.strip_prefix(comparator));
    rest.and_then(|rest| after_version(rest.trim_start())) == Some("")
}

/// `1.2.3 - 2.0.0`, with exactly one space before the hyphen
fn is_span(text: &str) -> bool {
    let upper = after_version(text).and_then(|rest| rest.strip_prefix(char::is_whitespace)).and_then(|rest| rest.strip_prefix('-'));
    upper.and_then(|upper| after_version(upper.trim_start())) == Some("")
}

/// `1.2 || 1.3`
fn is_choice(text: &str) -> bool {
    let is_version = |part: &str| after_version(part.trim()) == Some("");
    text.contains("||") && text.split("||").all(is_version)
}

/// `1.x`, `1.2.*`. As in the official registry, an `x` in a pre-release such as `1.2.3-linux` makes a wildcard too.
fn is_wildcard(text: &str) -> bool {
    let first = text.strip_prefix('v').and_then(after_digits).or_else(|| after_digits_or_wildcard(text));
    let Some(mut rest) = first else { return false };
    let mut more = 0;
    while more < 2
        && let Some(behind) = rest.strip_prefix('.').and_then(after_digits_or_wildcard)
    {
        rest = behind;
        more += 1;
    }
    more > 0 && after_pre_release(rest).is_empty() && text.contains(['x', 'X', '*'])
}

/// What stands behind `v?\d+(\.\d+){0,3}(-[0-9A-Za-z.-]+)?`.
fn after_version(text: &str) -> Option<&str> {
    let mut rest = after_digits(text.strip_prefix('v').unwrap_or(text))?;
    for _ in 0..3 {
        let Some(behind) = rest.strip_prefix('.').and_then(after_digits) else { break };
        rest = behind;
    }
    Some(after_pre_release(rest))
}

fn after_digits(text: &str) -> Option<&str> {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    (rest.len() < text.len()).then_some(rest)
}

fn after_digits_or_wildcard(text: &str) -> Option<&str> {
    after_digits(text).or_else(|| text.strip_prefix(['x', 'X', '*']))
}

/// What stands behind a pre-release, or the text itself when it does not begin with one.
fn after_pre_release(text: &str) -> &str {
    let Some(tail) = text.strip_prefix('-') else { return text };
    let rest = tail.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-');
    if rest.len() < tail.len() { rest } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let ranges = [
            "^1.2.3",
            "~1.2",
            ">=1.0.0",
            "<=1",
            "> 1.0",
            "<v2.0.0",
            "=1.0.0-beta.1",
            "1.2.3 - 2.0.0",
            "1 -2",
            "v1 - v2-rc",
            "1.2 || 1.3",
            "1||2||3",
            "1.x",
            "1.2.*",
            "1.2.X",
            "v1.x",
            "x.x",
            "*.1",
            " 1.x ",
            "1.2.x-beta",
            "1.2.3-linux",
        ];
        for text in ranges {
            assert!(is_range(text), "{text}");
        }
    }

    #[test]
    fn versions() {
        let versions = [
            "",
            "1",
            "1.0.0",
            "v1.0",
            "2025-06-18",
            "1.0.1º",
            "1.2.3.4",
            "1.2.3.4.5",
            "1.0.0-beta",
            "1.0.0+x",
            "x",
            "*",
            "1.2.3.x",
            "vx.1",
            "^",
            "^a",
            "1  - 2",
            "1 || ",
            "||",
            "1 - ",
            "1.",
            "é",
            "latest",
            "main",
            "^1.2.3.4.5",
            "1-",
        ];
        for text in versions {
            assert!(!is_range(text), "{text}");
        }
    }
}
