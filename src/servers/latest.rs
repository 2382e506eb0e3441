//! Which version is the latest, where the registry does not say.
//!
//! The publisher's rule: two semantic versions compare as such, two others by time of publication, and
//! a semantic version is above another one. Versions that were taken down come last.

use std::cmp::Ordering;

use chrono::{DateTime, Utc};
use semver::Version;

use crate::model::Status;

/// What the rule looks at.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) version: String,
    pub(crate) status: Status,
    pub(crate) published_at: Option<DateTime<Utc>>,
}

/// The version that should be the latest.
pub(crate) fn pick(candidates: &[Candidate]) -> Option<&Candidate> {
    candidates.iter().max_by(|a, b| compare(a, b))
}

fn compare(a: &Candidate, b: &Candidate) -> Ordering {
    let stands = |candidate: &Candidate| candidate.status != Status::Deleted;
    let by_version = match (semantic(&a.version), semantic(&b.version)) {
        // Build metadata does not count; of equal versions the earlier one stays the latest.
        (Some(x), Some(y)) => x.cmp_precedence(&y).then_with(|| b.published_at.cmp(&a.published_at)),
        (None, None) => a.published_at.cmp(&b.published_at),
        (x, y) => x.is_some().cmp(&y.is_some()),
    };
    stands(a).cmp(&stands(b)).then(by_version).then_with(|| b.version.cmp(&a.version))
}

/// Three numeric parts with an optional `v` (Go's `x/mod/semver` with all parts present).
fn semantic(version: &str) -> Option<Version> {
    Version::parse(version.strip_prefix('v').unwrap_or(version)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latest(versions: &[(&str, Status, &str)]) -> String {
        let candidates: Vec<Candidate> = versions
            .iter()
            .map(|(version, status, day)| Candidate {
                version: (*version).into(),
                status: *status,
                published_at: format!("2025-01-{day}T00:00:00Z").parse().ok(),
            })
            .collect();
        pick(&candidates).unwrap().version.clone()
    }

    #[test]
    fn the_rule_of_the_official_registry() {
        use Status::{Active, Deleted, Deprecated};
        assert_eq!(latest(&[("1.9.0", Active, "01"), ("1.10.0", Active, "02")]), "1.10.0");
        assert_eq!(latest(&[("1.0.0-rc.1", Active, "09"), ("1.0.0", Active, "01")]), "1.0.0");
        assert_eq!(latest(&[("v2.0.0", Active, "01"), ("1.0.0", Active, "02")]), "v2.0.0");
        assert_eq!(latest(&[("2025-06-18", Active, "01"), ("2024-01-01", Active, "02")]), "2024-01-01");
        assert_eq!(latest(&[("1.0", Active, "09"), ("0.0.1", Active, "01")]), "0.0.1");
        assert_eq!(latest(&[("1.0.0+b", Active, "02"), ("1.0.0+a", Active, "01")]), "1.0.0+a");
        assert_eq!(latest(&[("2.0.0", Deleted, "02"), ("1.0.0", Deprecated, "01")]), "1.0.0");
        assert_eq!(latest(&[("2.0.0", Deleted, "01"), ("1.0.0", Deleted, "02")]), "2.0.0");
    }
}
