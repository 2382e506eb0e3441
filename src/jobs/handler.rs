use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use events::{Events, NewEvent};
use platform::{Coded, clock, database::DbError, public_message};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::{
    context::Context,
    model::{Job, JobStatus, Progress, status_event},
};

/// How long a job waits for a database that is not available.
const DATABASE_WAIT: Duration = Duration::from_secs(2);

/// Does the jobs of one kind.
pub trait Handler: Send + Sync + 'static {
    /// The kind, `snake_case`; rows keep it, so it never changes.
    const KIND: &'static str;
    /// What a job of this kind has to know.
    type Payload: Serialize + DeserializeOwned + Send;

    /// How jobs of this kind are treated.
    fn policy(&self) -> Policy {
        Policy::default()
    }

    /// Does the job. It may be stopped at any point and started again: steps with effects outside the
    /// database go through [`Context::step`], and it returns soon after [`Context::stopping`] does.
    fn run(&self, context: Context, payload: Self::Payload) -> impl Future<Output = Result<Outcome, Failure>> + Send;

    /// Writes to the feature's own rows how the job ended, in the transaction in which it ends, so that
    /// both always say the same. Also called for a job that never began or whose worker was lost.
    fn ended(&self, _: &mut PgConnection, _: Self::Payload, _: &Ended) -> impl Future<Output = Result<(), DbError>> + Send {
        std::future::ready(Ok(()))
    }
}

/// How an attempt at a job ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Where the job stands now; `pending` when it will be tried again.
    pub status: JobStatus,
    /// `{code, message}` of a failure.
    pub error: Option<Value>,
}

/// How jobs of one kind are treated.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// How often a job may fail before it is given up.
    pub max_attempts: i32,
    /// The wait after the first failure; it doubles.
    pub backoff: Duration,
    /// How many jobs of this kind run at once, over all replicas.
    pub limit: i32,
    /// It waits for other jobs and takes no worker from them.
    pub waits_for_others: bool,
    /// What tells of its progress beside `JOB_PROGRESS`.
    pub progress: Option<ProgressEvent>,
}

/// A type of event for the progress of jobs of one kind, with the payload that [`PROGRESS_MEMBERS`] names.
#[derive(Clone, Copy, Debug)]
pub struct ProgressEvent {
    /// The type.
    pub kind: &'static events::Kind,
    /// Whether every actor hears of it, or whose job it is.
    pub is_public: bool,
}

/// The payload of such events.
pub const PROGRESS_MEMBERS: &[(&str, &str)] = &[
    ("jobId", "the job"),
    ("status", "`processing`, then `complete`, `failed`, `cancelled` or `needs_input`; `pending` when it is tried again"),
    ("progress", "`{done, total, unit, message}` while it is processing; `total` is null while it is not known"),
    ("error", "`{code, message}` when it failed"),
];

impl Default for Policy {
    fn default() -> Self {
        Self { max_attempts: 3, backoff: Duration::from_secs(5), limit: 64, waits_for_others: false, progress: None }
    }
}

/// How a job ended well.
#[derive(Debug)]
pub enum Outcome {
    /// Done.
    Complete(Value),
    /// Done as far as possible; the value says what is missing.
    NeedsInput(Value),
    /// It was asked to stop, and did at a point from which it can go on.
    Stopped,
}

/// How a job failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Stable, `snake_case`.
    pub code: &'static str,
    /// For people; no secrets.
    pub message: String,
    /// Whether trying again can help.
    pub retry: Retry,
}

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// No.
    Never,
    /// After the usual wait.
    Backoff,
    /// Not before that time, and however often: it waits for something that is not its own.
    At(DateTime<Utc>),
}

impl Failure {
    /// A failure that trying again does not mend.
    pub fn last(error: &impl Coded) -> Self {
        Self { code: error.code(), message: public_message(error), retry: Retry::Never }
    }

    /// A failure that may pass.
    pub fn passing(error: &impl Coded) -> Self {
        Self { code: error.code(), message: public_message(error), retry: Retry::Backoff }
    }

    /// Another worker has the job by now.
    pub fn lease_lost() -> Self {
        Self { code: "lease_lost", message: "another worker has taken the job over".into(), retry: Retry::Never }
    }
}

impl From<DbError> for Failure {
    fn from(error: DbError) -> Self {
        tracing::warn!(error = %error, cause = ?std::error::Error::source(&error).map(ToString::to_string), "a job met a database error");
        let failure = Self::passing(&error);
        match error {
            // A restart of the database is nobody's failure.
            DbError::Unavailable(_) => Self { retry: Retry::At(clock::now() + DATABASE_WAIT), ..failure },
            _ => failure,
        }
    }
}

impl ProgressEvent {
    pub(crate) fn of(self, job: &Job, status: JobStatus, progress: Option<&Progress>, error: Option<&Value>) -> NewEvent {
        let payload = json!({ "jobId": job.id, "status": status, "progress": progress, "error": error });
        if self.is_public { NewEvent::for_everyone(self.kind, payload) } else { NewEvent::of(&job.created_by, self.kind, payload) }
    }
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

pub(crate) trait AnyHandler: Send + Sync {
    fn policy(&self) -> Policy;
    fn run(&self, context: Context, payload: Value) -> Boxed<'_, Result<Outcome, Failure>>;
    fn ended<'a>(&'a self, connection: &'a mut PgConnection, payload: Value, ended: &'a Ended) -> Boxed<'a, Result<(), DbError>>;
}

impl<H: Handler> AnyHandler for H {
    fn policy(&self) -> Policy {
        Handler::policy(self)
    }

    fn run(&self, context: Context, payload: Value) -> Boxed<'_, Result<Outcome, Failure>> {
        Box::pin(async move {
            let payload = serde_json::from_value(payload).map_err(|error| Failure {
                code: "payload_unreadable",
                message: format!("the job was written by another version of the program: {error}"),
                retry: Retry::Never,
            })?;
            Handler::run(self, context, payload).await
        })
    }

    fn ended<'a>(&'a self, connection: &'a mut PgConnection, payload: Value, ended: &'a Ended) -> Boxed<'a, Result<(), DbError>> {
        Box::pin(async move {
            // A payload of another version of the program: nothing of this one was done.
            let Ok(payload) = serde_json::from_value(payload) else { return Ok(()) };
            Handler::ended(self, connection, payload, ended).await
        })
    }
}

/// The handlers of this program, by kind.
#[derive(Clone, Default)]
pub struct Handlers {
    pub(crate) by_kind: BTreeMap<&'static str, Arc<dyn AnyHandler>>,
}

impl Handlers {
    /// Adds a handler.
    #[must_use]
    pub fn with<H: Handler>(mut self, handler: H) -> Self {
        self.by_kind.insert(H::KIND, Arc::new(handler));
        self
    }

    pub(crate) fn waits_for_others(&self, kind: &str) -> bool {
        self.by_kind.get(kind).is_some_and(|handler| handler.policy().waits_for_others)
    }

    pub(crate) fn progress_of(&self, kind: &str) -> Option<ProgressEvent> {
        self.by_kind.get(kind)?.policy().progress
    }

    /// Tells the job's own feature, and those who watch, how it ended or that it is to be tried again.
    pub(crate) async fn tell_end(&self, connection: &mut PgConnection, events: &Events, job: &Job, ended: &Ended) -> Result<(), DbError> {
        if let Some(handler) = self.by_kind.get(job.kind.as_str()) {
            handler.ended(connection, job.payload.clone(), ended).await?;
        }
        if let Some(progress) = self.progress_of(&job.kind) {
            events.publish_in(connection, progress.of(job, ended.status, None, ended.error.as_ref())).await?;
        }
        events.publish_in(connection, status_event(job.id, &job.kind, &job.created_by, ended.status)).await
    }
}
