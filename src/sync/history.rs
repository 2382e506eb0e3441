use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

platform::id! {
    /// A run of the mirror.
    pub struct RunId;
}

platform::words! {
    /// What a run does.
    pub enum Kind {
        /// Reads everything, the latest versions first.
        Full = "full",
        /// Reads what changed since the last success.
        Incremental = "incremental",
        /// Reads everything and removes what upstream erased.
        Reconcile = "reconcile",
        /// Takes pages from a file.
        Import = "import",
    }
}

platform::words! {
    /// What a run is asked to do.
    pub enum Mode {
        /// Read everything.
        Full = "full",
        /// Read what changed.
        Incremental = "incremental",
        /// Read everything and remove what upstream erased.
        Reconcile = "reconcile",
    }
}

impl From<Mode> for Kind {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Full => Self::Full,
            Mode::Incremental => Self::Incremental,
            Mode::Reconcile => Self::Reconcile,
        }
    }
}

platform::words! {
    /// How a run stands.
    pub enum RunStatus {
        /// Under way, or about to go on.
        Running = "running",
        /// Done.
        Complete = "complete",
        /// Given up, or waiting to be tried again.
        Failed = "failed",
        /// Stopped because somebody asked.
        Cancelled = "cancelled",
    }
}

platform::words! {
    /// Which part of a run comes next.
    pub enum Phase {
        /// The latest version of each server: what helps people soonest.
        Latest = "latest",
        /// Every version.
        All = "all",
        /// What changed while the run was reading.
        Changes = "changes",
        /// Removing what upstream erased.
        Sweep = "sweep",
        /// Nothing.
        Done = "done",
    }
}

impl Kind {
    /// The first phase of a run of this kind.
    pub(crate) fn first_phase(self) -> Phase {
        match self {
            Self::Full => Phase::Latest,
            Self::Reconcile => Phase::All,
            Self::Incremental => Phase::Changes,
            Self::Import => Phase::Done,
        }
    }

    /// The phase after `phase`.
    pub(crate) fn after(self, phase: Phase) -> Phase {
        match (self, phase) {
            (_, Phase::Latest) => Phase::All,
            (_, Phase::All) => Phase::Changes,
            (Self::Reconcile, Phase::Changes) => Phase::Sweep,
            (_, Phase::Changes | Phase::Sweep | Phase::Done) => Phase::Done,
        }
    }
}

/// A run and what it has done so far.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// The job that does it; none for imports.
    pub job_id: Option<Uuid>,
    /// What it does.
    pub kind: Kind,
    /// How it stands.
    pub status: RunStatus,
    /// Which part comes next.
    pub phase: Phase,
    /// When it was asked for.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Changes after this moment are read.
    pub updated_since: Option<DateTime<Utc>>,
    /// Where the present phase goes on.
    pub cursor: Option<String>,
    /// Pages read.
    pub pages: i32,
    /// Entries read.
    pub seen: i32,
    /// Versions that were new.
    pub inserted: i32,
    /// Versions that changed.
    pub updated: i32,
    /// Versions that were taken down or erased.
    pub deleted: i32,
    /// Entries that could not be taken.
    pub skipped: i32,
    /// The first of them, with the reason.
    pub skipped_entries: Value,
    /// `{code, message}`.
    pub error: Option<Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_run_has_its_phases() {
        let phases = |kind: Kind| {
            let mut all = vec![kind.first_phase()];
            while *all.last().unwrap() != Phase::Done {
                all.push(kind.after(*all.last().unwrap()));
            }
            all
        };
        assert_eq!(phases(Kind::Full), [Phase::Latest, Phase::All, Phase::Changes, Phase::Done]);
        assert_eq!(phases(Kind::Incremental), [Phase::Changes, Phase::Done]);
        assert_eq!(phases(Kind::Reconcile), [Phase::All, Phase::Changes, Phase::Sweep, Phase::Done]);
    }
}
