//! What is done to one server.

use std::time::Duration;

use configurations::Change;
use jobs::{JobId, JobStatus};
use packages::Order;
use platform::{Action, Actor};
use runtime::{Instance, RuntimeError, State};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use crate::{
    Bulk,
    error::BulkError,
    model::{Acted, Before, Operation, Wanted},
    plan::{Outcome, by_id},
};

/// How long a server may take to start or to stop.
const SERVER_LIMIT: Duration = Duration::from_mins(3);
/// How long a package may take.
const JOB_LIMIT: Duration = Duration::from_mins(30);
/// How often it is looked without an event.
const LOOK: Duration = Duration::from_secs(1);

impl Bulk {
    /// Brings a server to where it is to be. It may have been tried before: `before` is how it stood then, and `now` how it
    /// stands.
    pub(crate) async fn act(
        &self,
        actor: &Actor,
        operation: Operation,
        (server_id, wanted): (&str, Option<&Wanted>),
        (before, now): (&Before, &Before),
    ) -> Result<Acted, BulkError> {
        if Self::outcome(operation, before, wanted) == Outcome::Unchanged {
            return Ok(Acted::Unchanged);
        }
        // It was done, and the fabric ended before it could say so.
        if Self::outcome(operation, now, wanted) == Outcome::Unchanged {
            let revision = now.configuration.as_ref().map(|own| own.revision);
            return Ok(Acted::Done(json!({ "version": now.installed, "revision": revision })));
        }
        let server = by_id(server_id)?;
        match operation {
            Operation::Enable | Operation::Disable => {
                let enabled = operation == Operation::Enable;
                let revision = self.inner.configurations.enable(actor, &server, enabled).await?.revision;
                Ok(Acted::Done(json!({ "revision": revision })))
            }
            Operation::Start => {
                let events = self.inner.events.subscribe();
                let begun = self.inner.runtime.start_server(actor, &server, None).await?;
                self.await_state(actor, begun, events, |instance| instance.state == State::Running).await
            }
            Operation::Stop => {
                let events = self.inner.events.subscribe();
                let ending = match self.inner.runtime.stop_server(actor, &server, None).await {
                    // It is not wanted any more, and nothing ever ran.
                    Err(RuntimeError::NotRunning) => return Ok(Acted::Done(json!({}))),
                    ending => ending?,
                };
                self.await_state(actor, ending, events, |instance| instance.state.is_over()).await
            }
            Operation::Restart => self.restart(actor, server_id, (before, now)).await,
            Operation::Install => {
                let order = Order { name: server_id.to_owned(), ..Order::default() };
                let (_, job) = self.inner.packages.install(actor, order).await?;
                self.await_job(actor, job).await?;
                Ok(Acted::Done(json!({ "version": self.look(actor, server_id).await?.installed })))
            }
            Operation::Upgrade => {
                let (_, job) = self.inner.packages.upgrade(actor, server_id, None).await?;
                self.await_job(actor, job).await?;
                let version = self.look(actor, server_id).await?.installed;
                if version == before.installed {
                    Ok(Acted::Unchanged)
                } else {
                    Ok(Acted::Done(json!({ "from": before.installed, "to": version })))
                }
            }
            Operation::Cache => match self.inner.cache.fill(actor, &server).await? {
                Some(job) => self.await_job(actor, job).await.map(Acted::Done),
                None => Ok(Acted::Unchanged),
            },
            Operation::ApplyTemplate | Operation::Import if let Some(Wanted::Settings(wanted)) = wanted => {
                // Over what was looked at, and nothing that came meanwhile.
                let seen = now.configuration.as_ref().map(|own| own.revision);
                let revision = self.inner.configurations.apply(actor, &server, Change::clone(wanted), seen).await?.revision;
                Ok(Acted::Done(json!({ "revision": revision })))
            }
            Operation::Export => Ok(Acted::Done(self.inner.configurations.exported(actor, &server).await?)),
            Operation::Delete | Operation::ApplyTemplate | Operation::Import => {
                self.inner.configurations.archive(actor, &server, None).await?;
                Ok(Acted::Done(json!({})))
            }
        }
    }

    async fn restart(&self, actor: &Actor, server_id: &str, (before, now): (&Before, &Before)) -> Result<Acted, BulkError> {
        let server = by_id(server_id)?;
        let deadline = tokio::time::Instant::now() + SERVER_LIMIT;
        let mut now = now.clone();
        // After a start of the fabric, what ran and is wanted still is on its way to running again.
        while now.restarts.is_none() && now.alive && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
            now = self.look(actor, server_id).await?;
        }
        if before.restarts.is_some() && now.restarts > before.restarts {
            return Ok(Acted::Done(json!({})));
        }
        let events = self.inner.events.subscribe();
        let instance = loop {
            match self.inner.runtime.restart_server(actor, &server).await {
                // The row is of a fabric that ended; this one takes it up in a moment.
                Err(RuntimeError::Elsewhere) if tokio::time::Instant::now() < deadline => tokio::time::sleep(LOOK).await,
                instance => break instance?,
            }
        };
        let restarts = instance.restarts;
        self.await_state(actor, instance, events, |instance| instance.state == State::Running && instance.restarts > restarts).await
    }

    /// Waits until an instance is where it is to be, or has failed. `events` are those since before it was looked at.
    async fn await_state(
        &self,
        actor: &Actor,
        mut instance: Instance,
        mut events: events::Receiver,
        is_there: impl Fn(&Instance) -> bool,
    ) -> Result<Acted, BulkError> {
        let deadline = tokio::time::Instant::now() + SERVER_LIMIT;
        loop {
            if is_there(&instance) {
                return Ok(Acted::Done(json!({ "instance_id": instance.id, "state": instance.state })));
            }
            if instance.state == State::Failed && instance.next_try_at.is_none() {
                let (code, message) = instance.reason.unwrap_or_else(|| ("failed".into(), "the server failed".into()));
                return Err(BulkError::Ended(code, message));
            }
            if tokio::time::Instant::now() > deadline {
                return Err(BulkError::Late(instance.state.to_string(), SERVER_LIMIT.as_secs()));
            }
            // What it passes through is no matter.
            let is_of_it = |event: &events::Event| {
                let state = event.payload["newState"].as_str().and_then(|state| state.parse().ok());
                let is_settled = state.is_none_or(|state: State| state == State::Running || state.is_over());
                event.is(&runtime::SERVER_STATE_CHANGED) && event.server.as_deref() == Some(instance.server_id.as_str()) && is_settled
            };
            until(&mut events, is_of_it).await;
            instance = self.inner.runtime.get(actor, instance.id, Action::InstancesRead).await?;
        }
    }

    /// Waits for a job; gives its result.
    pub(crate) async fn await_job(&self, actor: &Actor, id: JobId) -> Result<Value, BulkError> {
        let mut events = self.inner.events.subscribe();
        let deadline = tokio::time::Instant::now() + JOB_LIMIT;
        loop {
            let (job, _) = self.inner.jobs.get(actor, id).await?;
            match job.status {
                JobStatus::Complete | JobStatus::NeedsInput => return Ok(json!({ "job_id": id })),
                JobStatus::Failed | JobStatus::Cancelled => {
                    let error = job.error.unwrap_or_default();
                    let text = |name: &str, usual: &str| error[name].as_str().unwrap_or(usual).to_owned();
                    return Err(BulkError::Ended(text("code", job.status.as_str()), text("message", "its job was cancelled")));
                }
                JobStatus::Pending | JobStatus::Processing if tokio::time::Instant::now() > deadline => {
                    return Err(BulkError::Late(job.status.to_string(), JOB_LIMIT.as_secs()));
                }
                JobStatus::Pending | JobStatus::Processing => {}
            }
            let wanted = json!(id);
            until(&mut events, |event| event.is(&jobs::JOB_STATUS_CHANGED) && event.payload["jobId"] == wanted).await;
        }
    }
}

/// Returns with an event of interest, or after a moment: one may have been missed.
async fn until(events: &mut events::Receiver, is_of_it: impl Fn(&events::Event) -> bool) {
    let hear = async {
        loop {
            match events.recv().await {
                Ok(event) if is_of_it(&event) => return,
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => return,
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    };
    tokio::time::timeout(LOOK, hear).await.ok();
}
