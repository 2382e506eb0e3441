//! The daily run.

use chrono::{DateTime, Utc};
use platform::{Actor, Shutdown};
use tokio::sync::Mutex;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use uuid::Uuid;

use crate::{error::SyncError, service::Sync};

/// The schedule cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("FABRIC_SYNC_CRON: {0}")]
pub struct ScheduleError(#[from] JobSchedulerError);

/// The schedule in force.
pub(crate) struct Schedule {
    scheduler: Mutex<JobScheduler>,
    job: Uuid,
}

impl Schedule {
    /// Keeps the schedule; `fields` are six, seconds first, UTC.
    pub(crate) async fn start(sync: Sync, fields: &str, shutdown: &Shutdown) -> Result<Self, ScheduleError> {
        let scheduler = JobScheduler::new().await?;
        let job = scheduler
            .add(Job::new_async(fields, move |_, _| {
                let sync = sync.clone();
                Box::pin(async move { run(&sync).await })
            })?)
            .await?;
        scheduler.start().await?;
        let (stopping, mut stopped) = (shutdown.clone(), scheduler.clone());
        shutdown.spawn(async move {
            stopping.begun().await;
            if let Err(error) = stopped.shutdown().await {
                tracing::warn!(%error, "the schedule did not stop in order");
            }
        });
        Ok(Self { scheduler: Mutex::new(scheduler), job })
    }

    /// When it runs next.
    pub(crate) async fn next_run(&self) -> Option<DateTime<Utc>> {
        self.scheduler.lock().await.next_tick_for_job(self.job).await.ok().flatten()
    }
}

/// Every replica has the schedule; the first one to ask starts the run.
async fn run(sync: &Sync) {
    match sync.trigger_due(&Actor::System("cron")).await {
        Ok(run) => tracing::info!(run = %run.id, kind = %run.kind, "the daily sync begins"),
        Err(SyncError::AlreadyRunning(_)) => tracing::info!("a sync is running already; the daily one is left out"),
        Err(error) => tracing::error!(%error, "the daily sync could not begin"),
    }
}
