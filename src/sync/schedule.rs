//! The daily run.

use chrono::{DateTime, Utc};
use platform::{Config, Shutdown};
use tokio::sync::Mutex;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use uuid::Uuid;

/// The schedule cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// Not a schedule.
    #[error("FABRIC_SYNC_CRON is not a schedule whose fields are all in range, such as `0 3 * * *`")]
    Fields,
    /// The scheduler failed.
    #[error("the schedule of the mirror could not be started: {0}")]
    Scheduler(#[from] JobSchedulerError),
}

/// The schedule in force.
pub(crate) struct Schedule {
    scheduler: Mutex<JobScheduler>,
    job: Uuid,
}

impl Schedule {
    /// Calls `run` on schedule until the program stops; `fields` are six, seconds first, UTC.
    pub(crate) async fn start<F: Future<Output = ()> + Send + 'static>(
        fields: &str,
        shutdown: &Shutdown,
        run: impl Fn() -> F + Send + Sync + 'static,
    ) -> Result<Self, ScheduleError> {
        let scheduler = JobScheduler::new().await?;
        let job = scheduler.add(Job::new_async(fields, move |_, _| Box::pin(run()))?).await?;
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

/// Whether the schedule that is set is one.
pub fn check(config: &Config) -> Result<(), ScheduleError> {
    if let Some(fields) = &config.sync.cron {
        Job::new(fields.as_str(), |_, _| {}).map_err(|_| ScheduleError::Fields)?;
    }
    Ok(())
}
