use std::sync::{Arc, OnceLock};

use platform::{
    Action, Actor, Config, Database, Shutdown, clock,
    database::{DbError, on_constraint},
    telemetry::Metrics,
};
use sqlx::{PgConnection, Postgres, Transaction};

use audit::{Audit, EventType, NewEvent};
use events::Events;

use crate::{
    error::JobsError,
    handler::{Ended, Handlers},
    model::{Job, JobId, JobStatus, LogLine, NewJob, status_event},
    store,
    worker::Worker,
};

/// Takes, tells and steers jobs.
#[derive(Clone)]
pub struct Jobs {
    database: Database,
    events: Events,
    audit: Audit,
    /// What [`Jobs::start`] was given.
    handlers: Arc<OnceLock<Handlers>>,
}

impl Jobs {
    /// The service alone; [`Jobs::start`] makes it work.
    pub fn new(database: Database, events: Events, audit: Audit) -> Self {
        Self { database, events, audit, handlers: Arc::default() }
    }

    /// Starts this process's workers. `node` is stable for a data folder: jobs that an earlier process of
    /// the same node had are taken up again at once.
    pub fn start(&self, config: &Config, node: String, handlers: Handlers, metrics: &Metrics, shutdown: &Shutdown) {
        let handlers = self.handlers.get_or_init(|| handlers).clone();
        let worker =
            Worker::new(self.database.clone(), self.events.clone(), config.jobs.clone(), node, handlers, metrics, shutdown.clone());
        shutdown.spawn(worker.run());
    }

    /// Asks for a job; it starts as soon as a worker is free.
    pub async fn enqueue(&self, actor: &Actor, job: NewJob) -> Result<JobId, JobsError> {
        let mut transaction = self.database.begin(actor).await?;
        let id = self.enqueue_in(&mut transaction, actor, job).await?;
        transaction.commit().await?;
        Ok(id)
    }

    /// Asks for a job when the caller's transaction commits.
    pub async fn enqueue_in(&self, transaction: &mut PgConnection, actor: &Actor, job: NewJob) -> Result<JobId, JobsError> {
        let id = JobId::fresh();
        let created_by = actor.to_string();
        if !store::insert(transaction, id, &job, &created_by, clock::now()).await? {
            let key = job.singleton.as_deref().unwrap_or_default();
            let rival = store::unfinished_singleton(transaction, key).await?;
            // Without a rival, it has ended since, or it is one that the actor may not see.
            if rival.is_some() || !store::insert(transaction, id, &job, &created_by, clock::now()).await? {
                return Err(JobsError::AlreadyRunning(rival));
            }
        }
        if let Some(event) = job.event {
            self.audit.record_in(transaction, actor, event.on("job", id).with("kind", job.kind)).await?;
        }
        store::wake(transaction).await?;
        self.events.publish_in(transaction, status_event(id, job.kind, &created_by, JobStatus::Pending)).await?;
        Ok(id)
    }

    /// Admins see and steer all jobs, others their own.
    async fn begin(&self, actor: &Actor) -> Result<Transaction<'static, Postgres>, DbError> {
        if actor.may(Action::JobsAll) { self.database.begin_for_all().await } else { self.database.begin(actor).await }
    }

    /// One job with its log.
    pub async fn get(&self, actor: &Actor, id: JobId) -> Result<(Job, Vec<LogLine>), JobsError> {
        actor.require(Action::JobsRead)?;
        let mut transaction = self.begin(actor).await?;
        let job = store::get(&mut transaction, id).await?.ok_or(JobsError::NotFound)?;
        let log = store::log(&mut transaction, id).await?;
        Ok((job, log))
    }

    /// Jobs that this actor may see, newest first.
    pub async fn list(
        &self,
        actor: &Actor,
        kind: Option<&str>,
        status: Option<JobStatus>,
        before: Option<JobId>,
        limit: u32,
    ) -> Result<Vec<Job>, JobsError> {
        actor.require(Action::JobsRead)?;
        let mut transaction = self.begin(actor).await?;
        Ok(store::list(&mut transaction, kind, status, before, limit.into()).await?)
    }

    /// Stops a job: at once when it waits, at its next safe point when it runs.
    pub async fn cancel(&self, actor: &Actor, id: JobId) -> Result<(Job, Vec<LogLine>), JobsError> {
        self.change(actor, id, Change::Cancel).await
    }

    /// Puts a job that ended without success back in the queue.
    pub async fn retry(&self, actor: &Actor, id: JobId) -> Result<(Job, Vec<LogLine>), JobsError> {
        self.change(actor, id, Change::Retry).await
    }

    async fn change(&self, actor: &Actor, id: JobId, change: Change) -> Result<(Job, Vec<LogLine>), JobsError> {
        actor.require(Action::JobsManage)?;
        let mut transaction = self.begin(actor).await?;
        let before = store::get(&mut transaction, id).await?.ok_or(JobsError::NotFound)?;
        let done = match change {
            Change::Cancel => store::cancel(&mut transaction, id, clock::now()).await?,
            Change::Retry => {
                if let Some(rival) = store::rival(&mut transaction, id).await? {
                    return Err(JobsError::AlreadyRunning(Some(rival)));
                }
                let retried = store::retry(&mut transaction, id, clock::now()).await;
                retried.map_err(|error| on_constraint(error, "jobs_singleton", || JobsError::NotRetryable(before.status)))?
            }
        };
        if !done {
            return Err(match change {
                Change::Cancel => JobsError::Finished(before.status),
                Change::Retry => JobsError::NotRetryable(before.status),
            });
        }
        let job = store::get(&mut transaction, id).await?.ok_or(JobsError::NotFound)?;
        let log = store::log(&mut transaction, id).await?;
        let action = match change {
            Change::Cancel => "job.cancel",
            Change::Retry => "job.retry",
        };
        let event = NewEvent::new(EventType::Execution, action).of(&job.created_by).on("job", id).with("kind", job.kind.as_str());
        self.audit.record_in(&mut transaction, actor, event).await?;
        store::wake(&mut transaction).await?;
        if let Some(handlers) = self.handlers.get()
            && job.status != before.status
        {
            handlers.tell_end(&mut transaction, &self.events, &job, &Ended { status: job.status, error: None }).await?;
        }
        transaction.commit().await.map_err(DbError::from)?;
        Ok((job, log))
    }
}

#[derive(Clone, Copy)]
enum Change {
    Cancel,
    Retry,
}
