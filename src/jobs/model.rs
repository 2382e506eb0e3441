use audit::{EventType, NewEvent as Told};
use chrono::{DateTime, Utc};
use events::{Kind, NewEvent};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

platform::id! {
    /// A job.
    pub struct JobId;
}

platform::words! {
    /// Where a job stands.
    pub enum JobStatus {
        /// Waits for its time and for a worker.
        Pending = "pending",
        /// A worker has it.
        Processing = "processing",
        /// Done; `result` holds what came of it.
        Complete = "complete",
        /// Given up; `error` says why.
        Failed = "failed",
        /// Stopped because somebody asked.
        Cancelled = "cancelled",
        /// Done as far as possible; `result` says what is missing.
        NeedsInput = "needs_input",
    }
}

impl JobStatus {
    /// Whether nothing more happens by itself.
    pub fn is_finished(self) -> bool {
        !matches!(self, Self::Pending | Self::Processing)
    }
}

platform::words! {
    /// How much a log line matters.
    pub enum LogLevel {
        /// As it should be.
        Info = "info",
        /// Worth a look.
        Warn = "warn",
        /// Something failed.
        Error = "error",
    }
}

/// How far a job is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// Units done.
    pub done: u64,
    /// Units in all, when that is known.
    pub total: Option<u64>,
    /// What is counted: `pages`, `bytes`.
    pub unit: String,
    /// What is being done, for people.
    pub message: String,
}

/// One line that a job said.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LogLine {
    /// When.
    pub at: DateTime<Utc>,
    /// `info`, `warn` or `error`.
    pub level: String,
    /// What, in a sentence.
    pub message: String,
}

/// A job with everything that is known of it.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Which handler does it.
    pub kind: String,
    /// Where it stands.
    pub status: JobStatus,
    /// Higher goes first.
    pub priority: i16,
    /// What the handler was given.
    pub payload: Value,
    /// How far it is.
    pub progress: Option<Progress>,
    /// What came of it.
    pub result: Option<Value>,
    /// `{code, message}`.
    pub error: Option<Value>,
    /// How often it was started since it last got anywhere.
    pub attempt: i32,
    /// Whether somebody asked it to stop.
    pub cancel_requested: bool,
    /// Not before.
    pub run_at: DateTime<Utc>,
    /// Who asked for it, as `Actor` is written.
    pub created_by: String,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When it first started.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub completed_at: Option<DateTime<Utc>>,
}

/// A job to be done.
#[derive(Clone, Debug)]
pub struct NewJob {
    pub(crate) kind: &'static str,
    pub(crate) payload: Value,
    pub(crate) priority: i16,
    pub(crate) singleton: Option<String>,
    /// What the audit trail says of it; `None` where its feature says it.
    pub(crate) event: Option<Told>,
}

impl NewJob {
    /// A job for the handler `H`.
    pub fn of<H: crate::Handler>(payload: &H::Payload) -> Self {
        let event = Some(Told::new(EventType::Execution, "job.create"));
        Self { kind: H::KIND, payload: serde_json::to_value(payload).unwrap_or_default(), priority: 0, singleton: None, event }
    }

    /// Refused while another unfinished job has the same key.
    #[must_use]
    pub fn singleton(mut self, key: impl Into<String>) -> Self {
        self.singleton = Some(key.into());
        self
    }

    /// What the audit trail says of it, instead of `job.create`.
    #[must_use]
    pub fn told_as(mut self, event: Told) -> Self {
        self.event = Some(event);
        self
    }

    /// The feature has told the audit trail what it is about.
    #[must_use]
    pub fn told(mut self) -> Self {
        self.event = None;
        self
    }

    /// Higher goes first; 0 is usual.
    #[must_use]
    pub fn priority(mut self, priority: i16) -> Self {
        self.priority = priority;
        self
    }
}

/// The event that says that a job has another status.
pub static JOB_STATUS_CHANGED: Kind = Kind {
    name: "JOB_STATUS_CHANGED",
    channel: "jobs",
    told: "When a job is queued, begins, or ends.",
    heard_by: "Whoever asked for the job, and the operator.",
    payload: &[
        ("jobId", "the job"),
        ("kind", "what it does: `sync`, `cache`, `install`, …"),
        ("status", "`pending`, `processing`, `complete`, `failed`, `cancelled`, `needs_input`"),
    ],
};

/// The event that says how far a job is.
pub static JOB_PROGRESS: Kind = Kind {
    name: "JOB_PROGRESS",
    channel: "jobs",
    told: "While a job runs, a few times a second at most.",
    heard_by: "Whoever asked for the job, and the operator.",
    payload: &[
        ("jobId", "the job"),
        ("kind", "what it does"),
        ("progress", "`{done, total, unit, message}`; `total` is null while it is not known"),
    ],
};

/// What watchers hear when a job gets another status.
pub(crate) fn status_event(id: JobId, kind: &str, created_by: &str, status: JobStatus) -> NewEvent {
    NewEvent::of(created_by, &JOB_STATUS_CHANGED, json!({ "jobId": id, "kind": kind, "status": status }))
}
