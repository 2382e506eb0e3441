use std::{collections::BTreeSet, fmt::Write as _};

/// A type of event. Each feature declares its own, once; docs/events.md is made of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// As clients compare it: `SERVER_STATE_CHANGED`.
    pub name: &'static str,
    /// What it can be filtered by: `servers`.
    pub channel: &'static str,
    /// When it is told, as a sentence.
    pub told: &'static str,
    /// Who hears of it, as a sentence.
    pub heard_by: &'static str,
    /// The members of its payload beside `timestamp`, each with what it is.
    pub payload: &'static [(&'static str, &'static str)],
}

/// What docs/events.md says before the list of types.
const GUIDE: &str = include_str!("guide.md");

/// Every channel that they are told on.
pub(crate) fn channels(kinds: &[&Kind]) -> BTreeSet<&'static str> {
    kinds.iter().map(|kind| kind.channel).collect()
}

/// docs/events.md.
pub fn document(kinds: &[&Kind]) -> String {
    let channels: Vec<String> = channels(kinds).into_iter().map(|channel| format!("`{channel}`")).collect();
    let mut text = GUIDE.replace("{channels}", &channels.join(", "));
    for kind in kinds {
        write!(text, "\n### {}\n\nChannel `{}`. {} {}\n\n| payload | |\n|---|---|\n", kind.name, kind.channel, kind.told, kind.heard_by)
            .ok();
        for (member, says) in kind.payload {
            writeln!(text, "| `{member}` | {says} |").ok();
        }
        writeln!(text, "| `timestamp` | when it happened (RFC 3339) |").ok();
    }
    text
}
