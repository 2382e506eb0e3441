//! From one master key to the next, while everything goes on: data keys are unwrapped and wrapped again, values are
//! not touched. What is under another key than the new one is what there is to do, so that a rotation that died goes
//! on by itself, and one that is run again does nothing.

use std::time::Instant;

use audit::{EventType, NewEvent, Outcome as Came};
use chrono::TimeDelta;
use jobs::{Context, Failure, Handler, JobId, LogLevel, NewJob, Outcome, Policy, Progress};
use platform::{Action, Actor, database::DbError, keys::SecretKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    Credentials, RingError,
    changes::DOMAIN,
    envelope::{self, Identity},
    error::CredentialsError,
    model::RotationId,
    secrets,
    store::{
        keys,
        rotation::{self as store, Rewrapped, Rotation, RotationState, Wrapped},
    },
};

/// Rows in one transaction: short enough that a writer who meets it waits for milliseconds.
const BATCH: i64 = 500;

/// Wraps everything anew.
pub(crate) struct Rotate(pub(crate) Credentials);

#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    rotation: RotationId,
}

/// Which table is at work.
#[derive(Clone, Copy)]
enum Table {
    Credentials,
    Secrets,
}

impl Credentials {
    /// Goes on to a new key, and begins to wrap everything with it.
    pub(crate) async fn rotate(&self, actor: &Actor, dry_run: bool) -> Result<(Rotation, JobId), CredentialsError> {
        actor.require(Action::CredentialsManage)?;
        let mut transaction = self.inner.database.begin_reveal("rotation").await?;
        keys::lock(&mut transaction).await?;
        if store::is_unfinished(&mut transaction).await? {
            return Err(CredentialsError::RotationState("another rotation is under way"));
        }
        let promoted =
            if dry_run { None } else { Some(self.inner.ring.promote(&mut transaction).await.map_err(|error| no_new_key(&error))?) };
        let to =
            promoted.as_ref().map_or_else(|| self.inner.ring.active().map(|(version, _)| version), |promoted| Ok(promoted.version()))?;
        let left = store::left(&mut transaction, to).await?;
        if left == 0 && !dry_run {
            return Err(CredentialsError::NoNewKey(
                "there is no new key, and nothing is under an older one: put a new key (`mcp-fabric credentials new-key`) first in the key file, or start with it as CREDENTIAL_ENCRYPTION_KEY and the present one as CREDENTIAL_ENCRYPTION_KEY_PREVIOUS".into(),
            ));
        }
        let total = if dry_run { store::left(&mut transaction, -1).await? } else { left };
        let id = store::create(&mut transaction, to, dry_run, total, &actor.to_string()).await?;
        let id = id.ok_or(CredentialsError::RotationState("another rotation is under way"))?;
        let event =
            NewEvent::new(EventType::DataChange, "credentials.rotate").on("rotation", id).with("to_version", to).with("dry_run", dry_run);
        self.inner.audit.record_in(&mut transaction, actor, event).await?;
        let rotation = store::get(&mut transaction, id).await?.ok_or(CredentialsError::NotFound("rotation"))?;
        transaction.commit().await?;
        if let Some(promoted) = promoted {
            self.inner.ring.install(promoted);
        }
        // Should the program end here, the keeper of the vault finds the rotation without its job.
        Ok((rotation, self.put_to_work(actor, id).await?))
    }

    pub(crate) async fn put_to_work(&self, actor: &Actor, id: RotationId) -> Result<JobId, CredentialsError> {
        Ok(self.inner.jobs.enqueue(actor, NewJob::of::<Rotate>(&Order { rotation: id }).singleton("credential_rotation").told()).await?)
    }

    pub(crate) async fn rotation(&self, actor: &Actor, id: RotationId) -> Result<Rotation, CredentialsError> {
        actor.require(Action::CredentialsManage)?;
        let mut connection = self.inner.database.reveal().acquire().await?;
        store::get(&mut connection, id).await?.ok_or(CredentialsError::NotFound("rotation"))
    }

    pub(crate) async fn rotations(&self, actor: &Actor, before: Option<RotationId>, limit: u32) -> Result<Vec<Rotation>, CredentialsError> {
        actor.require(Action::CredentialsManage)?;
        let mut connection = self.inner.database.reveal().acquire().await?;
        Ok(store::list(&mut connection, before, limit.into()).await?)
    }

    /// Pauses, resumes or gives up.
    pub(crate) async fn steer(&self, actor: &Actor, id: RotationId, to: RotationState) -> Result<Rotation, CredentialsError> {
        use RotationState::{Paused, Running};
        actor.require(Action::CredentialsManage)?;
        let (from, action): (&[RotationState], _) = match to {
            Paused => (&[Running], "credentials.rotation_pause"),
            Running => (&[Paused], "credentials.rotation_resume"),
            _ => (&[Running, Paused], "credentials.rotation_cancel"),
        };
        let mut transaction = self.inner.database.begin_reveal("rotation").await?;
        let before = store::get(&mut transaction, id).await?.ok_or(CredentialsError::NotFound("rotation"))?;
        if !store::set_state(&mut transaction, id, from, to).await? {
            return Err(CredentialsError::RotationState(match before.state {
                Running => "the rotation is running",
                Paused => "the rotation is paused",
                _ => "the rotation has ended",
            }));
        }
        self.inner.audit.record_in(&mut transaction, actor, NewEvent::change(action).on("rotation", id)).await?;
        let rotation = store::get(&mut transaction, id).await?.ok_or(CredentialsError::NotFound("rotation"))?;
        transaction.commit().await?;
        if to == Running {
            self.put_to_work(actor, id).await?;
        }
        Ok(rotation)
    }
}

fn no_new_key(error: &RingError) -> CredentialsError {
    match error {
        RingError::Database(_) => {
            tracing::error!(%error, "the keys could not be read again");
            CredentialsError::RotationState("the keys could not be compared with the database; try again")
        }
        error => CredentialsError::NoNewKey(error.to_string()),
    }
}

impl Handler for Rotate {
    const KIND: &'static str = "credential_rotation";
    type Payload = Order;

    fn policy(&self) -> Policy {
        Policy { limit: 1, max_attempts: 10, ..Policy::default() }
    }

    async fn run(&self, context: Context, order: Order) -> Result<Outcome, Failure> {
        match self.rotate(&context, order.rotation).await {
            Ok(Some(result)) => Ok(Outcome::Complete(result)),
            Ok(None) => Ok(Outcome::Stopped),
            Err(CredentialsError::Database(error)) => Err(error.into()),
            Err(error) => Err(Failure::passing(&error)),
        }
    }
}

impl Rotate {
    async fn rotate(&self, context: &Context, id: RotationId) -> Result<Option<Value>, CredentialsError> {
        for table in [Table::Credentials, Table::Secrets] {
            let mut after = Uuid::nil();
            loop {
                if context.is_stopping() {
                    return Ok(None);
                }
                let (rotation, last) = self.batch(context, id, table, after).await?;
                let done = u64::try_from(rotation.done + rotation.failed).unwrap_or(0);
                let total = u64::try_from(rotation.total).ok();
                context.progress(Progress { done, total, unit: "rows".into(), message: "wrapping with the new key".into() });
                if rotation.state != RotationState::Running {
                    return Ok(Some(json!({ "state": rotation.state, "done": rotation.done })));
                }
                match last {
                    Some(last) => after = last,
                    None => break,
                }
            }
        }
        self.finish(context, id).await.map(Some)
    }

    /// One batch; gives where the rotation stands, and the last row unless it was the last batch.
    async fn batch(
        &self,
        context: &Context,
        id: RotationId,
        table: Table,
        after: Uuid,
    ) -> Result<(Rotation, Option<Uuid>), CredentialsError> {
        let vault = &self.0.inner;
        let began = Instant::now();
        let mut transaction = vault.database.begin_reveal("rotation").await?;
        let rotation = store::get(&mut transaction, id).await?.ok_or(CredentialsError::NotFound("rotation"))?;
        if rotation.state != RotationState::Running {
            return Ok((rotation, None));
        }
        let to = rotation.to_version;
        // A dry run opens everything, also what is under the newest key.
        let other_than = if rotation.dry_run { -1 } else { to };
        let rows = match table {
            Table::Credentials => store::credentials(&mut transaction, other_than, after, BATCH).await?,
            Table::Secrets => store::secrets(&mut transaction, other_than, after, BATCH).await?,
        };
        let last = rows.last().map(|row| row.id);
        if vault.ring.kek(to).is_err() {
            // Another replica went on to it.
            vault.ring.reload(&vault.database).await.map_err(|_| CredentialsError::KeyUnavailable(to))?;
        }
        let new = vault.ring.kek(to)?;
        let (rewrapped, failed) = self.rewrap(rows, &new, to, table);
        for row in &failed {
            context.log(LogLevel::Error, format!("{row} does not open and stays as it is")).await;
        }
        let done = if rotation.dry_run { rewrapped.ids.len() as u64 } else { save(&mut transaction, table, to, &rewrapped).await? };
        let (done, failed) = (i64::try_from(done).unwrap_or(0), i64::try_from(failed.len()).unwrap_or(0));
        let took = TimeDelta::from_std(began.elapsed()).unwrap_or_default();
        store::advance(&mut transaction, id, done, failed, took).await?;
        let rotation = store::get(&mut transaction, id).await?.ok_or(CredentialsError::NotFound("rotation"))?;
        transaction.commit().await?;
        Ok((rotation, last))
    }

    fn rewrap(&self, rows: Vec<Wrapped>, new: &SecretKey, to: i32, table: Table) -> (Rewrapped, Vec<Uuid>) {
        let (mut rewrapped, mut failed) = (Rewrapped::default(), Vec::new());
        for row in rows {
            let Ok(old) = self.0.inner.ring.kek(row.sealed.kek_version) else {
                failed.push(row.id);
                continue;
            };
            let [a, b, c] = &row.parts;
            let identity = match table {
                Table::Credentials => Identity { domain: DOMAIN, id: row.id, parts: [a, b, c], rev: row.rev },
                Table::Secrets => secrets::identity(row.id, [a, b, c], row.rev),
            };
            match envelope::rewrap(&old, new, to, &identity, &row.sealed) {
                Ok(wrapped) => {
                    rewrapped.ids.push(row.id);
                    rewrapped.revs.push(row.rev);
                    rewrapped.wrapped.push(wrapped);
                }
                Err(_) => failed.push(row.id),
            }
        }
        (rewrapped, failed)
    }

    /// Says that it is over, and retires keys that nothing needs any more.
    async fn finish(&self, context: &Context, id: RotationId) -> Result<Value, CredentialsError> {
        let vault = &self.0.inner;
        let mut transaction = vault.database.begin_reveal("rotation").await?;
        keys::lock(&mut transaction).await?;
        store::lock(&mut transaction, id).await?;
        let rotation = store::get(&mut transaction, id).await?.ok_or(CredentialsError::NotFound("rotation"))?;
        if rotation.state != RotationState::Running {
            return Ok(json!({ "state": rotation.state, "done": rotation.done }));
        }
        // Writers hold the key that they seal with until they commit; none of them is counted too early.
        keys::lock_previous(&mut transaction).await?;
        let left = store::left(&mut transaction, rotation.to_version).await?;
        if left > rotation.failed && !rotation.dry_run {
            // Rows that somebody held while we went by.
            transaction.rollback().await?;
            return Err(CredentialsError::Contended);
        }
        // A row that was tried again after a restart counts once.
        let failed = if rotation.dry_run { rotation.failed } else { left };
        store::set_failed(&mut transaction, id, failed).await?;
        let all_well = failed == 0;
        let to = if all_well { RotationState::Completed } else { RotationState::CompletedWithErrors };
        store::set_state(&mut transaction, id, &[RotationState::Running], to).await?;
        let retired = if all_well && !rotation.dry_run { keys::retire_unused(&mut transaction).await? } else { Vec::new() };
        let event = NewEvent::new(EventType::System, "credentials.rotated")
            .outcome(if all_well { Came::Success } else { Came::Failure })
            .on("rotation", id)
            .with("done", rotation.done)
            .with("failed", failed)
            .with("retired", json!(retired));
        vault.audit.record_in(&mut transaction, &context.actor(), event).await?;
        transaction.commit().await.map_err(DbError::from)?;
        if let Err(error) = vault.ring.forget(&retired) {
            tracing::error!(%error, "the retired key could not be taken out of the key file");
        }
        Ok(json!({ "state": to, "done": rotation.done, "failed": failed, "retired": retired }))
    }
}

async fn save(connection: &mut PgConnection, table: Table, to: i32, rows: &Rewrapped) -> Result<u64, DbError> {
    match table {
        Table::Credentials => store::save_credentials(connection, to, rows).await,
        Table::Secrets => store::save_secrets(connection, to, rows).await,
    }
}
