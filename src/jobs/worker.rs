//! Takes jobs and runs them.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use chrono::TimeDelta;
use events::{Events, NewEvent};
use futures_util::FutureExt as _;
use platform::{Database, Shutdown, clock, config::JobsConfig, database::DbError, random, telemetry::Metrics};
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec};
use serde_json::json;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    context::Context,
    handler::{AnyHandler, Ended, Failure, Handlers, Outcome, Retry},
    model::{JOB_PROGRESS, Job, JobStatus, Progress, status_event},
    store::{self, Ending, Lease, Takes},
};

/// A look at the queue without a notification: for jobs whose time comes.
const POLL: Duration = Duration::from_secs(2);
const HOUSEKEEPING: Duration = Duration::from_mins(5);
/// How often progress is written and told at most.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// A job whose process ended so often without its getting anywhere is given up.
const MAX_LOST: i32 = 25;
const MAX_BACKOFF: Duration = Duration::from_hours(1);

#[derive(Clone)]
pub(crate) struct Worker {
    database: Database,
    events: Events,
    config: JobsConfig,
    node: String,
    handlers: Handlers,
    /// Rung when a job may have come, ended, or been cancelled.
    bell: Arc<Notify>,
    cancelled: watch::Sender<()>,
    finished: IntCounterVec,
    running: IntGauge,
    queued: IntGaugeVec,
    shutdown: Shutdown,
}

impl Worker {
    pub(crate) fn new(
        database: Database,
        events: Events,
        config: JobsConfig,
        node: String,
        handlers: Handlers,
        metrics: &Metrics,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            database,
            events,
            config,
            node,
            handlers,
            bell: Arc::default(),
            cancelled: watch::channel(()).0,
            finished: metrics.counters("fabric_jobs_total", "Runs of jobs that ended, by kind and how", &["kind", "status"]),
            running: metrics.gauge("fabric_jobs_running", "Jobs that this process is working on"),
            queued: metrics.gauges("fabric_jobs_queued", "Jobs of all replicas that wait or run, by kind and status", &["kind", "status"]),
            shutdown,
        }
    }

    pub(crate) async fn run(self) {
        self.shutdown.spawn(self.clone().listen());
        self.shutdown.spawn(self.clone().keep_house());
        if let Err(error) = self.release_lost(Some(&self.node)).await {
            tracing::warn!(%error, "could not take up the jobs of the run before; they wait for their leases to end");
        }
        let slots = Arc::new(Semaphore::new(self.config.workers as usize));
        while !self.shutdown.has_begun() {
            let slot = tokio::select! {
                slot = Arc::clone(&slots).acquire_owned() => slot,
                () = self.shutdown.begun() => return,
            };
            let Ok(slot) = slot else { return };
            match self.claim().await {
                Ok(Some((job, lease))) => {
                    let worker = self.clone();
                    let slot = Some(slot).filter(|_| !self.handlers.waits_for_others(&job.kind));
                    self.shutdown.spawn(async move {
                        worker.work(job, lease).await;
                        drop(slot);
                        worker.bell.notify_one();
                    });
                }
                Ok(None) => self.rest().await,
                Err(error) => {
                    tracing::warn!(%error, "could not look for jobs");
                    self.rest().await;
                }
            }
        }
    }

    async fn rest(&self) {
        tokio::select! {
            () = self.bell.notified() => {}
            () = tokio::time::sleep(POLL) => {}
            () = self.shutdown.begun() => {}
        }
    }

    async fn claim(&self) -> Result<Option<(Job, Lease)>, DbError> {
        let now = clock::now();
        let takes = Takes {
            kinds: self.handlers.by_kind.keys().map(|&kind| kind.to_owned()).collect(),
            limits: self.handlers.by_kind.values().map(|handler| handler.policy().limit).collect(),
        };
        let token = platform::ids::fresh();
        let job = store::claim(self.database.begin_system().await?, &takes, &self.node, token, self.config.lease, now).await?;
        Ok(job.map(|job| {
            let lease = Lease { job: job.id, token, lasts: self.config.lease };
            (job, lease)
        }))
    }

    async fn work(&self, job: Job, lease: Lease) {
        let Some((&kind, handler)) = self.handlers.by_kind.get_key_value(job.kind.as_str()) else { return };
        self.running.inc();
        self.tell(&job, JobStatus::Processing).await;
        let stop = self.shutdown.child();
        let (progress, seen) = watch::channel(None);
        let cancelled = CancellationToken::new();
        let context = Context {
            database: self.database.clone(),
            lease: lease.clone(),
            kind,
            progress,
            stop: stop.clone(),
            cancelled: cancelled.clone(),
        };
        let beating = self.beat(&job, &lease, seen.clone(), stop, cancelled);
        let running = AssertUnwindSafe(handler.run(context, job.payload.clone())).catch_unwind();
        let ended = tokio::select! {
            ended = running => ended,
            never = beating => match never {},
        };
        let ended = ended.unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
            tracing::error!(job = %job.id, kind, "a job panicked: {}", said.unwrap_or_default());
            Err(Failure { code: "internal", message: "the program made a mistake; its log says more".into(), retry: Retry::Never })
        });
        let last_progress = seen.borrow().clone();
        self.end(&job, &lease, handler.as_ref(), ended, last_progress).await;
        self.running.dec();
    }

    /// Keeps the lease and writes progress until it is dropped; stops the job when the lease is lost or
    /// somebody asked for that.
    async fn beat(
        &self,
        job: &Job,
        lease: &Lease,
        mut progress: watch::Receiver<Option<Progress>>,
        stop: CancellationToken,
        cancelled: CancellationToken,
    ) -> std::convert::Infallible {
        let mut bell = self.cancelled.subscribe();
        loop {
            let news = tokio::select! {
                () = tokio::time::sleep(lease.lasts / 3) => None,
                Ok(()) = bell.changed() => None,
                Ok(()) = progress.changed() => {
                    tokio::time::sleep(PROGRESS_EVERY).await;
                    progress.borrow_and_update().clone()
                }
            };
            match store::heartbeat(self.database.system(), lease, news.as_ref()).await {
                Ok(Some(false)) => {}
                Ok(Some(true)) => {
                    cancelled.cancel();
                    stop.cancel();
                }
                Ok(None) => stop.cancel(),
                Err(error) => tracing::warn!(job = %lease.job, %error, "could not keep the lease of a job"),
            }
            if let Some(news) = news {
                let payload = json!({ "jobId": job.id, "kind": job.kind, "progress": news });
                self.events.publish(NewEvent::of(&job.created_by, &JOB_PROGRESS, payload)).await.ok();
                if let Some(progress) = self.handlers.progress_of(&job.kind) {
                    self.events.publish(progress.of(job, JobStatus::Processing, Some(&news), None)).await.ok();
                }
            }
        }
    }

    async fn end(&self, job: &Job, lease: &Lease, handler: &dyn AnyHandler, ended: Result<Outcome, Failure>, progress: Option<Progress>) {
        // Without the database there is nothing to write to; the lease outlives that for a while.
        let deadline = tokio::time::Instant::now() + lease.lasts;
        loop {
            match self.try_end(job, lease, handler, &ended, progress.as_ref()).await {
                Ok(()) => return,
                Err(error) if tokio::time::Instant::now() < deadline && !self.shutdown.has_begun() => {
                    tracing::warn!(job = %job.id, %error, "could not write how a job ended; trying again");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                Err(error) => {
                    tracing::error!(job = %job.id, %error, "could not write how a job ended; it starts again when its lease has run out");
                    return;
                }
            }
        }
    }

    async fn try_end(
        &self,
        job: &Job,
        lease: &Lease,
        handler: &dyn AnyHandler,
        ended: &Result<Outcome, Failure>,
        progress: Option<&Progress>,
    ) -> Result<(), DbError> {
        let now = clock::now();
        let mut transaction = self.database.begin_system().await?;
        let (attempt, cancelled) = store::lock(&mut transaction, job.id).await?.unwrap_or((job.attempt, false));
        let mut ending = Ending {
            status: JobStatus::Complete,
            result: None,
            error: None,
            progress: progress.and_then(|progress| serde_json::to_value(progress).ok()),
            run_at: job.run_at,
            uncounted: false,
        };
        match ended {
            Ok(Outcome::Stopped) | Err(_) if cancelled => ending.status = JobStatus::Cancelled,
            Ok(Outcome::Complete(result)) => ending.result = Some(result),
            Ok(Outcome::NeedsInput(missing)) => (ending.status, ending.result) = (JobStatus::NeedsInput, Some(missing)),
            Ok(Outcome::Stopped) => (ending.status, ending.uncounted) = (JobStatus::Pending, true),
            Err(failure) => {
                ending.error = Some(json!({ "code": failure.code, "message": failure.message }));
                ending.status = JobStatus::Failed;
                if let Some(wait) = next_try(handler, failure, attempt) {
                    (ending.status, ending.run_at) = (JobStatus::Pending, now + wait);
                }
            }
        }
        if !store::finish(&mut transaction, lease, &ending, now).await? {
            tracing::warn!(job = %job.id, "a job ended after its lease was lost; what it says is not kept");
            return Ok(());
        }
        let told = Ended { status: ending.status, error: ending.error };
        self.handlers.tell_end(&mut transaction, &self.events, job, &told).await?;
        transaction.commit().await?;
        self.finished.with_label_values(&[job.kind.as_str(), ending.status.as_str()]).inc();
        if let Err(failure) = ended {
            tracing::warn!(job = %job.id, kind = job.kind, code = failure.code, status = %ending.status, "a job failed: {}", failure.message);
        }
        Ok(())
    }

    /// Gives back the jobs of workers that are gone: those of an earlier process of this node, or those
    /// whose lease has run out. Gives how many there were.
    async fn release_lost(&self, owner: Option<&str>) -> Result<usize, DbError> {
        let mut transaction = self.database.begin_system().await?;
        let released = store::release_lost(&mut transaction, owner, clock::now(), MAX_LOST).await?;
        for job in &released {
            let ended = Ended { status: job.status, error: job.error.clone() };
            self.handlers.tell_end(&mut transaction, &self.events, job, &ended).await?;
        }
        transaction.commit().await?;
        for job in released.iter().filter(|job| job.status.is_finished()) {
            self.finished.with_label_values(&[job.kind.as_str(), job.status.as_str()]).inc();
        }
        Ok(released.len())
    }

    async fn tell(&self, job: &Job, status: JobStatus) {
        if let Err(error) = self.events.publish(status_event(job.id, &job.kind, &job.created_by, status)).await {
            tracing::warn!(job = %job.id, %error, "could not tell that a job started");
        }
    }

    /// Hears of new and cancelled jobs from every replica.
    async fn listen(self) {
        while !self.shutdown.has_begun() {
            if let Err(error) = self.listen_while_connected().await {
                tracing::warn!(%error, "lost the job channel; trying again");
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = self.shutdown.begun() => {}
            }
        }
    }

    async fn listen_while_connected(&self) -> Result<(), DbError> {
        let mut listener = self.database.listener().await?;
        listener.listen("fabric_jobs").await?;
        loop {
            tokio::select! {
                heard = listener.try_recv() => { heard?; }
                () = self.shutdown.begun() => return Ok(()),
            }
            self.bell.notify_one();
            self.cancelled.send_replace(());
        }
    }

    async fn keep_house(self) {
        let mut next_cleaning = tokio::time::Instant::now() + HOUSEKEEPING;
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.config.lease / 2) => {}
                () = self.shutdown.begun() => return,
            }
            let now = clock::now();
            match self.release_lost(None).await {
                Ok(0) => {}
                Ok(_) => self.bell.notify_one(),
                Err(error) => tracing::warn!(%error, "could not look for lost jobs"),
            }
            match store::counts(self.database.system()).await {
                Ok(counts) => {
                    self.queued.reset();
                    for (kind, status, count) in counts {
                        self.queued.with_label_values(&[kind.as_str(), status.as_str()]).set(count);
                    }
                }
                Err(error) => tracing::warn!(%error, "could not count the jobs"),
            }
            if tokio::time::Instant::now() < next_cleaning {
                continue;
            }
            next_cleaning += HOUSEKEEPING;
            let before = now - TimeDelta::from_std(self.config.retention).unwrap_or(TimeDelta::MAX);
            if let Err(error) = store::delete_finished(self.database.system(), before).await {
                tracing::warn!(%error, "could not delete old jobs");
            }
        }
    }
}

/// The wait before the next try, or `None` when there is none.
fn next_try(handler: &dyn AnyHandler, failure: &Failure, attempt: i32) -> Option<Duration> {
    let policy = handler.policy();
    match failure.retry {
        Retry::Never => None,
        Retry::At(at) => Some((at - clock::now()).to_std().unwrap_or_default()),
        Retry::Backoff if attempt >= policy.max_attempts => None,
        Retry::Backoff => {
            let doublings = u32::try_from(attempt - 1).unwrap_or(0).min(16);
            Some(random::jitter((policy.backoff * 2_u32.pow(doublings)).min(MAX_BACKOFF)))
        }
    }
}
