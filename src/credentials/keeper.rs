//! What keeps the vault right by itself: a daily look at every value, and work that was left behind.

use std::sync::atomic::{AtomicI64, Ordering};

use audit::NewEvent;
use jobs::{Context, Failure, Handler, JobId, NewJob, Outcome, Policy};
use platform::{Action, Actor, clock};
use serde::{Deserialize, Serialize};

use crate::{
    Credentials,
    error::CredentialsError,
    model::RotationId,
    store::{check, rows},
};

/// Seconds between two looks at everything.
const EVERY: i64 = 24 * 3600;
/// Seconds after a start.
const AFTER_START: i64 = 600;

/// Looks at every value, or moves those of the plain form.
pub(crate) struct Keep(pub(crate) Credentials);

platform::words! {
    /// What is to be done with all values.
    pub enum Chore {
        /// Verify them, and tell the trail of them anew.
        Verify = "verify",
        /// Seal those of the plain form.
        Migrate = "migrate",
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    chore: Chore,
}

impl Credentials {
    /// Has something done with all values.
    pub(crate) async fn order(&self, actor: &Actor, chore: Chore) -> Result<JobId, CredentialsError> {
        actor.require(Action::CredentialsManage)?;
        let mut transaction = self.inner.database.begin(actor).await?;
        let job = NewJob::of::<Keep>(&Order { chore }).singleton(format!("credentials_{chore}")).told();
        let id = self.inner.jobs.enqueue_in(&mut transaction, actor, job).await?;
        let action = match chore {
            Chore::Verify => "credentials.verify",
            Chore::Migrate => "credentials.migrate",
        };
        self.inner.audit.record_in(&mut transaction, actor, NewEvent::change(action).on("job", id)).await?;
        transaction.commit().await?;
        Ok(id)
    }
}

/// Looks at everything once a day, takes up a rotation that lost its job, and removes what was stored for servers
/// whose names are others' now.
pub(crate) async fn when_due(vault: &Credentials) {
    static LAST: AtomicI64 = AtomicI64::new(0);
    if let Err(error) = resume(vault).await {
        tracing::debug!(%error, "no rotation could be taken up");
    }
    let now = clock::now().timestamp();
    let last = LAST.load(Ordering::Relaxed);
    if last == 0 {
        // Some time after the start, so that a program that is started every day looks every day.
        LAST.store(now - EVERY + AFTER_START, Ordering::Relaxed);
    } else if now - last >= EVERY {
        LAST.store(now, Ordering::Relaxed);
        if let Err(error) = vault.order(&Actor::system("keeper"), Chore::Verify).await {
            tracing::debug!(%error, "the daily look at the vault did not begin");
        }
    }
}

async fn resume(vault: &Credentials) -> Result<(), CredentialsError> {
    let mut connection = vault.inner.database.reveal().acquire().await?;
    let left_behind = check::running_rotation(&mut connection).await?;
    drop(connection);
    if let Some(id) = left_behind {
        vault.put_to_work(&Actor::system("keeper"), RotationId(id)).await?;
    }
    let mut transaction = vault.inner.database.begin_reveal("keeper").await?;
    for (id, server) in rows::delete_orphans(&mut transaction).await? {
        let event = NewEvent::change("credential.delete")
            .on("credential", id)
            .server(server)
            .with("because", "the name belongs to another server now");
        vault.inner.audit.record_in(&mut transaction, &Actor::system("keeper"), event).await?;
    }
    Ok(transaction.commit().await?)
}

impl Handler for Keep {
    const KIND: &'static str = "credentials_keep";
    type Payload = Order;

    fn policy(&self) -> Policy {
        Policy { limit: 1, ..Policy::default() }
    }

    async fn run(&self, context: Context, order: Order) -> Result<Outcome, Failure> {
        let done = match order.chore {
            Chore::Verify => self.0.verify_all(&context, true).await,
            Chore::Migrate => self.0.migrate_all(&context).await,
        };
        match done {
            Ok(Some(result)) => Ok(Outcome::Complete(result)),
            Ok(None) => Ok(Outcome::Stopped),
            Err(CredentialsError::Database(error)) => Err(error.into()),
            Err(error) => Err(Failure::passing(&error)),
        }
    }
}
