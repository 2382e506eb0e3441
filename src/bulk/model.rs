use chrono::{DateTime, Utc};
use configurations::Change;
use jobs::JobId;
use platform::Action;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use users::Asker;

platform::id! {
    /// One action over many servers.
    pub struct BulkId;
}

platform::words! {
    /// What is done to each server.
    pub enum Operation {
        /// Want it to run.
        Enable = "enable",
        /// Not any more.
        Disable = "disable",
        /// Start it, and wait until it answers.
        Start = "start",
        /// Stop it, and wait until it has ended.
        Stop = "stop",
        /// Start it anew, where it runs.
        Restart = "restart",
        /// Make its package runnable.
        Install = "install",
        /// To the newest version of its package.
        Upgrade = "upgrade",
        /// Have its package cached.
        Cache = "cache",
        /// Archive what one wants of it.
        Delete = "delete",
        /// Lay a template over what one wants of it.
        ApplyTemplate = "apply_template",
        /// Say what one wants of it, as a file has it.
        Export = "export",
        /// Want of it what a file says.
        Import = "import",
    }
}

impl Operation {
    /// What an actor needs the right to.
    pub(crate) fn action(self) -> Action {
        match self {
            Self::Enable | Self::Disable | Self::Delete | Self::ApplyTemplate | Self::Import => Action::ConfigurationsWrite,
            Self::Export => Action::ConfigurationsRead,
            Self::Start | Self::Stop | Self::Restart => Action::InstancesManage,
            Self::Install | Self::Upgrade => Action::PackagesInstall,
            Self::Cache => Action::CacheFill,
        }
    }

    /// Whether it can be undone.
    pub(crate) fn has_opposite(self) -> bool {
        !matches!(self, Self::Restart | Self::Cache | Self::Export)
    }

    /// Whether it is for servers of the catalogue, or for what the actor has configured.
    pub(crate) fn is_of_catalogue(self) -> bool {
        matches!(self, Self::Install | Self::Cache)
    }
}

platform::words! {
    /// Where an operation stands.
    pub enum Status {
        /// It waits for its job.
        Pending = "pending",
        /// It is at work.
        Running = "running",
        /// Every server is as it was to be.
        Complete = "complete",
        /// Some are, some failed.
        Partial = "partial",
        /// None is.
        Failed = "failed",
        /// Somebody stopped it; what was done before stays.
        Cancelled = "cancelled",
        /// What was done is undone, as far as that was possible.
        RolledBack = "rolled_back",
    }
}

impl Status {
    /// Whether nothing happens any more.
    pub fn is_finished(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }
}

platform::words! {
    /// Where one server of an operation stands.
    pub enum ItemStatus {
        /// Nothing was done yet.
        Pending = "pending",
        /// It is worked on.
        Running = "running",
        /// It is as it was to be.
        Done = "done",
        /// It was so before.
        Unchanged = "unchanged",
        /// It could not be done.
        Failed = "failed",
        /// The operation was stopped before it.
        Cancelled = "cancelled",
        /// It was done, and is undone.
        RolledBack = "rolled_back",
        /// It was done, and could not be undone: it is another one by now.
        Kept = "kept",
    }
}

platform::words! {
    /// Which way an operation goes.
    pub enum Direction {
        /// It does.
        Forward = "forward",
        /// It undoes.
        Back = "back",
    }
}

/// One action over many servers.
#[derive(Clone, Debug)]
pub(crate) struct BulkOperation {
    pub(crate) id: BulkId,
    pub(crate) asker: Asker,
    pub(crate) operation: Operation,
    pub(crate) direction: Direction,
    pub(crate) atomic: bool,
    pub(crate) status: Status,
    pub(crate) job: Option<JobId>,
    /// Counts its jobs: only the last one works on it.
    pub(crate) generation: i32,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) finished_at: Option<DateTime<Utc>>,
    pub(crate) counts: Counts,
}

impl BulkOperation {
    /// Whether a job of this generation works on it: it was given to no other, and has not ended.
    pub(crate) fn is_worked_on_by(&self, generation: i32) -> bool {
        self.generation == generation && !self.status.is_finished()
    }
}

/// How many items stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(crate) struct Counts {
    pub(crate) total: i64,
    pub(crate) pending: i64,
    pub(crate) running: i64,
    pub(crate) done: i64,
    pub(crate) unchanged: i64,
    pub(crate) failed: i64,
    pub(crate) cancelled: i64,
    pub(crate) rolled_back: i64,
    pub(crate) kept: i64,
}

impl Counts {
    /// Where an operation stands whose job has ended.
    pub(crate) fn status(&self, direction: Direction) -> Status {
        match direction {
            Direction::Back if self.done + self.running == 0 => Status::RolledBack,
            Direction::Forward if self.cancelled > 0 => Status::Cancelled,
            Direction::Forward if self.done + self.unchanged == self.total => Status::Complete,
            Direction::Forward if self.failed == self.total => Status::Failed,
            Direction::Back | Direction::Forward => Status::Partial,
        }
    }
}

/// One server of an operation.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) n: i32,
    pub(crate) server_id: String,
    /// What is wanted of it, where a template or a file says that.
    pub(crate) wanted: Option<Wanted>,
    pub(crate) status: ItemStatus,
    /// What there was before anything was done; none while nothing was.
    pub(crate) before: Option<Before>,
    /// A stable code, and a sentence.
    pub(crate) error: Option<(String, String)>,
    pub(crate) result: Option<Value>,
    pub(crate) started_at: Option<DateTime<Utc>>,
    pub(crate) finished_at: Option<DateTime<Utc>>,
}

/// What is wanted of a server by a template or a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wanted {
    /// This is laid over what is there.
    Settings(Box<Change>),
    /// Nothing any more.
    Archive,
}

/// How a server stood before an operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Before {
    /// The configuration, if there was one.
    pub(crate) configuration: Option<Configured>,
    /// The version that was installed, if one was.
    pub(crate) installed: Option<String>,
    /// How often the instance had been started again, if it ran.
    pub(crate) restarts: Option<i64>,
    /// There was an instance that had not ended, or only with the fabric.
    #[serde(default)]
    pub(crate) alive: bool,
}

/// What counts of a configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Configured {
    pub(crate) enabled: bool,
    pub(crate) archived: bool,
    /// All of it; not of operations before there were templates.
    #[serde(default)]
    pub(crate) settings: Change,
    #[serde(default)]
    pub(crate) revision: i64,
}

/// What came of an item.
#[derive(Debug)]
pub(crate) enum Acted {
    /// It is as it was to be, and something is to be told of it.
    Done(Value),
    /// It was so before.
    Unchanged,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_an_operation_stands_follows_from_its_items() {
        let counts = |done, failed, cancelled| Counts { total: done + failed + cancelled, done, failed, cancelled, ..Counts::default() };
        for (counts, status) in [
            (counts(0, 0, 0), Status::Complete),
            (counts(3, 0, 0), Status::Complete),
            (counts(2, 1, 0), Status::Partial),
            (counts(0, 3, 0), Status::Failed),
            (counts(1, 1, 1), Status::Cancelled),
            (Counts { total: 2, done: 1, rolled_back: 1, ..Counts::default() }, Status::Partial),
        ] {
            assert_eq!(counts.status(Direction::Forward), status, "{counts:?}");
        }
        let back = |done, rolled_back, kept| Counts { total: 3, done, rolled_back, kept, ..Counts::default() }.status(Direction::Back);
        assert_eq!([back(0, 3, 0), back(0, 2, 1), back(1, 2, 0)], [Status::RolledBack, Status::RolledBack, Status::Partial]);
    }
}
