use std::future::Future;

use platform::{Actor, Database, clock, database::DbError};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::PgConnection;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    handler::{Failure, Retry},
    model::{JobId, LogLevel, Progress},
    store::{self, Lease},
};

/// How many log lines a job keeps.
const LOG_LINES: i64 = 1000;

/// What a running job has to do with its row.
#[derive(Clone)]
pub struct Context {
    pub(crate) database: Database,
    pub(crate) lease: Lease,
    pub(crate) kind: &'static str,
    pub(crate) progress: watch::Sender<Option<Progress>>,
    pub(crate) stop: CancellationToken,
    pub(crate) cancelled: CancellationToken,
}

impl Context {
    /// The job that is running.
    pub fn job_id(&self) -> JobId {
        self.lease.job
    }

    /// As whom it acts.
    pub fn actor(&self) -> Actor {
        Actor::system(self.kind)
    }

    /// Whether it should end: it was cancelled, the program stops, or the lease is lost.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Whether it should end because somebody cancelled it.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }

    /// Returns when it should end.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Says how far it is; written and told at most once a second.
    pub fn progress(&self, progress: Progress) {
        self.progress.send_replace(Some(progress));
    }

    /// Adds a line to the job's log.
    pub async fn log(&self, level: LogLevel, message: impl AsRef<str> + Send) {
        let message = message.as_ref();
        tracing::info!(job = %self.lease.job, kind = self.kind, level = level.as_str(), "{message}");
        let written = store::append_log(self.database.system(), self.lease.job, level, message, clock::now(), LOG_LINES).await;
        if let Err(error) = written {
            tracing::warn!(job = %self.lease.job, %error, "could not write the job's log");
        }
    }

    /// Does `work` once, however often the job is started: a finished step gives what it gave before.
    /// A step that is interrupted is done again, so its effect has to bear that.
    pub async fn step<T, F>(&self, name: &str, work: F) -> Result<T, Failure>
    where
        T: Serialize + DeserializeOwned,
        F: Future<Output = Result<T, Failure>>,
    {
        let unreadable =
            || Failure { code: "step_unreadable", message: format!("what step `{name}` gave cannot be read"), retry: Retry::Never };
        let done = store::step(self.database.system(), self.lease.job, name).await.map_err(DbError::from)?;
        if let Some(output) = done {
            return serde_json::from_value(output).map_err(|_| unreadable());
        }
        let output = work.await?;
        let mut transaction = self.database.begin_system().await?;
        self.finish_step_in(&mut transaction, name, &output).await?;
        transaction.commit().await.map_err(DbError::from)?;
        Ok(output)
    }

    /// Marks a step as finished in the transaction that holds its effect.
    pub async fn finish_step_in<T: Serialize>(&self, transaction: &mut PgConnection, name: &str, output: &T) -> Result<(), Failure> {
        let output = serde_json::to_value(output).unwrap_or_default();
        self.checkpoint_in(transaction).await?;
        store::save_step(transaction, self.lease.job, name, &output, clock::now()).await.map_err(DbError::from)?;
        Ok(())
    }

    /// What `mcp_fabric.holds_job` takes: a statement that has that among its conditions saves nothing of a superseded worker.
    pub fn hold(&self) -> (Uuid, Uuid) {
        (self.lease.job.0, self.lease.token)
    }

    /// Fails when the lease is lost, so that nothing of a superseded worker is saved in the transaction.
    pub async fn hold_in(&self, transaction: &mut PgConnection) -> Result<(), Failure> {
        if store::holds(transaction, &self.lease).await.map_err(DbError::from)? { Ok(()) } else { Err(Failure::lease_lost()) }
    }

    /// Says, in the transaction that saves it, that the job got somewhere: its earlier failures no longer
    /// count. Fails when the lease is lost, so that nothing of a superseded worker is saved.
    pub async fn checkpoint_in(&self, transaction: &mut PgConnection) -> Result<(), Failure> {
        if store::reset_attempts(transaction, &self.lease).await.map_err(DbError::from)? {
            return Ok(());
        }
        Err(Failure::lease_lost())
    }
}
