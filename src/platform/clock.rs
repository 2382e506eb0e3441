//! The one door to the time of day.

use chrono::{DateTime, SubsecRound, Utc};

/// The present moment in UTC, cut to microseconds, which is what PostgreSQL keeps.
#[expect(clippy::disallowed_methods, reason = "this is the door")]
pub fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

/// `2026-01-02T03:04:05.678Z`: RFC 3339 in UTC with the fraction that the instant has, no trailing
/// zeros, as the official registry writes its timestamps.
pub fn rfc3339(at: DateTime<Utc>) -> String {
    let mut text = at.format("%Y-%m-%dT%H:%M:%S%.6f").to_string();
    let kept = text.trim_end_matches('0').trim_end_matches('.').len();
    text.truncate(kept);
    text.push('Z');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_carry_only_the_fraction_they_have() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        for text in ["2025-09-09T03:01:00.123456Z", "2025-09-09T03:01:00.5Z", "2025-09-09T03:00:00Z"] {
            assert_eq!(rfc3339(at(text)), text);
        }
        assert_eq!(rfc3339(at("2025-09-09T05:01:00.120+02:00")), "2025-09-09T03:01:00.12Z");
    }
}
