use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::{DateTime, Utc};
use events::Events;
use platform::{Action, Actor, Config, Database, Shutdown, client::ClientError, telemetry::Metrics};
use prometheus::IntCounter;
use sqlx::PgConnection;
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use uuid::Uuid;

use crate::{
    AuditKeys,
    copies::Copies,
    error::AuditError,
    model::{Body, Event, EventId, EventType, NewEvent, Outcome, Personal, subject_of},
    notes::{self, Behind},
    retention,
    sealer::Sealer,
    store,
};

/// How long writing an event may take before what needs it is refused.
const WRITE_LIMIT: Duration = Duration::from_secs(2);

/// Exports at once; the others are told to come back.
const EXPORTS: usize = 2;

/// What events are asked for.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Whose they are.
    pub owner: Option<String>,
    /// Who acted.
    pub actor: Option<String>,
    /// Exactly this action.
    pub action: Option<String>,
    /// What kind of thing happened.
    pub event_type: Option<EventType>,
    /// What came of it.
    pub outcome: Option<Outcome>,
    /// About which server.
    pub server_id: Option<String>,
    /// Done to which thing.
    pub target_id: Option<String>,
    /// Not before.
    pub from: Option<DateTime<Utc>>,
    /// Before.
    pub to: Option<DateTime<Utc>>,
}

/// The audit trail; cheap to clone.
#[derive(Clone)]
pub struct Audit {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) database: Database,
    pub(crate) keys: AuditKeys,
    pub(crate) sealer: Sealer,
    pub(crate) retention: Duration,
    pub(crate) max_bytes: u64,
    /// An export reads for as long as its reader takes.
    pub(crate) exports: Arc<Semaphore>,
    notes: mpsc::Sender<Written>,
    /// Events that were promised; a flood of refusals takes no place from them.
    promised: mpsc::Sender<Written>,
    pub(crate) behind: Behind,
    lost: IntCounter,
    /// Refusals that found the queue full, by action; told as one event each.
    pub(crate) unsaid: Mutex<BTreeMap<&'static str, i64>>,
}

/// An event as it is put into the database.
pub(crate) struct Written {
    pub(crate) event: String,
    pub(crate) pii: Option<String>,
    pub(crate) mac: [u8; 32],
}

impl Audit {
    /// Starts the writer of the chain, the one of notes, the cleaner, and the copies outside.
    pub fn start(
        config: &Config,
        database: Database,
        events: Events,
        keys: AuditKeys,
        metrics: &Metrics,
        shutdown: &Shutdown,
    ) -> Result<Self, ClientError> {
        let (sender, receiver) = mpsc::channel(notes::WAITING);
        let (promised, kept) = mpsc::channel(notes::WAITING);
        let sealer = Sealer::new(database.clone(), events, keys.clone(), metrics);
        let audit = Self {
            inner: Arc::new(Inner {
                database,
                keys,
                sealer: sealer.clone(),
                retention: config.audit.retention,
                max_bytes: config.audit.max_bytes,
                exports: Arc::new(Semaphore::new(EXPORTS)),
                notes: sender,
                promised,
                behind: Behind::default(),
                lost: metrics.counter("fabric_audit_notes_lost_total", "Refusals that were counted instead of recorded one by one"),
                unsaid: Mutex::default(),
            }),
        };
        shutdown.spawn(sealer.run(shutdown.clone()));
        shutdown.spawn(notes::run(audit.clone(), receiver, Duration::ZERO, shutdown.clone()));
        shutdown.spawn(notes::run(audit.clone(), kept, notes::GATHER, shutdown.clone()));
        shutdown.spawn(retention::run(audit.clone(), shutdown.clone()));
        for copies in Copies::of(config)? {
            shutdown.spawn(copies.run(audit.clone(), shutdown.clone()));
        }
        Ok(audit)
    }

    /// Records an event when the caller's transaction commits. When it cannot, nothing may happen.
    pub async fn record_in(&self, transaction: &mut PgConnection, actor: &Actor, event: NewEvent) -> Result<EventId, AuditError> {
        let (id, written) = self.write(actor, event);
        let put = store::put(transaction, &written.event, written.pii.as_deref(), &written.mac);
        within_limit(put).await?;
        self.inner.sealer.wake();
        Ok(id)
    }

    /// Records an event that stands alone; it is on disk when this returns.
    pub async fn record(&self, actor: &Actor, event: NewEvent) -> Result<EventId, AuditError> {
        let (id, written) = self.write(actor, event);
        let put = async {
            let mut connection = self.inner.database.audit().acquire().await?;
            store::put(&mut connection, &written.event, written.pii.as_deref(), &written.mac).await
        };
        within_limit(put).await?;
        self.inner.sealer.wake();
        Ok(id)
    }

    /// Counts an event instead of recording it, when there are too many of its kind; one event tells the count.
    pub fn count(&self, action: &'static str) {
        self.inner.lost.inc();
        if let Ok(mut unsaid) = self.inner.unsaid.lock() {
            *unsaid.entry(action).or_default() += 1;
        }
    }

    /// What a statement of the caller's own puts into the database beside what it does: the event, what is
    /// personal about it, and their authentication.
    pub fn prepare(&self, actor: &Actor, event: NewEvent) -> (EventId, Prepared) {
        let (id, written) = self.write(actor, event);
        self.inner.sealer.wake();
        (id, Prepared { event: written.event, pii: written.pii, mac: written.mac })
    }

    /// Records an event soon, without waiting for it: refusals, and what came of an intent.
    pub fn note(&self, actor: &Actor, event: NewEvent) {
        let action = event.action;
        let (_, written) = self.write(actor, event);
        if self.inner.notes.try_send(written).is_err() {
            self.count(action);
        }
    }

    /// A place for an event of something that is about to happen and too frequent to wait for the disk: once it has
    /// happened, it is written within a quarter of a second. Where it could not be, there is no place.
    pub fn promise(&self) -> Result<Promise, AuditError> {
        if self.inner.behind.is_stale() {
            return Err(AuditError::Unavailable(None));
        }
        let place = self.inner.promised.clone().try_reserve_owned().map_err(|_| AuditError::Unavailable(None))?;
        Ok(Promise { audit: self.clone(), place })
    }

    pub(crate) fn write(&self, actor: &Actor, event: NewEvent) -> (EventId, Written) {
        let (body, personal) = event.by(actor);
        (body.id, written(&self.inner.keys, &body, personal.as_ref()))
    }

    /// Events that this actor may see, newest first.
    pub async fn list(&self, actor: &Actor, filter: Filter, before: Option<i64>, limit: u32) -> Result<Vec<Event>, AuditError> {
        let filter = visible(actor, filter)?;
        let mut connection = self.inner.database.for_all().await?;
        let rows = store::read::list(&mut connection, &filter, before, limit.into()).await?;
        Ok(rows.into_iter().map(store::read::shown).collect())
    }

    /// Events of these actions in the order of the chain, after `after`: what a feature remembers by them.
    pub async fn history(&self, actor: &Actor, actions: &[&str], after: i64, limit: i64) -> Result<Vec<Event>, AuditError> {
        actor.require(Action::AuditReadAll)?;
        let mut connection = self.inner.database.audit().acquire().await?;
        let rows = store::read::history(&mut connection, actions, after, limit).await?;
        Ok(rows.into_iter().map(store::read::shown).collect())
    }

    /// The first event that there still is.
    pub async fn begins_at(&self, actor: &Actor) -> Result<Option<i64>, AuditError> {
        actor.require(Action::AuditReadAll)?;
        let mut connection = self.inner.database.audit().acquire().await?;
        Ok(store::chain::first(&mut connection).await?)
    }

    /// Erases who a person is from the trail; the chain stays valid. Gives how many events told it.
    pub async fn erase(&self, user: Uuid) -> Result<u64, AuditError> {
        // What still waits is chained first, so that it is found.
        self.inner.sealer.seal_all().await?;
        Ok(store::erase(self.inner.database.audit(), &subject_of(user)).await?)
    }

    /// Chains everything that waits.
    pub async fn seal(&self) -> Result<(), AuditError> {
        Ok(self.inner.sealer.seal_all().await?)
    }
}

/// A place for an event that comes soon.
pub struct Promise {
    audit: Audit,
    place: mpsc::OwnedPermit<Written>,
}

impl Promise {
    /// Records the event.
    pub fn keep(self, actor: &Actor, event: NewEvent) {
        let (_, written) = self.audit.write(actor, event);
        self.place.send(written);
    }
}

/// An event for a statement of the caller's own.
pub struct Prepared {
    /// For `audit.pending.event`.
    pub event: String,
    /// For `audit.pending.pii`.
    pub pii: Option<String>,
    /// For `audit.pending.mac`.
    pub mac: [u8; 32],
}

pub(crate) fn written(keys: &AuditKeys, body: &Body, personal: Option<&Personal>) -> Written {
    // Structs of texts and numbers always serialize.
    let event = serde_json::to_string(body).unwrap_or_default();
    let pii = personal.map(|personal| serde_json::to_string(personal).unwrap_or_default());
    let mac = keys.mac(&[event.as_bytes(), &[0], pii.as_deref().unwrap_or_default().as_bytes()]);
    Written { event, pii, mac }
}

/// The part of the trail that this actor may see.
pub(crate) fn visible(actor: &Actor, filter: Filter) -> Result<Filter, AuditError> {
    actor.require(Action::AuditRead)?;
    if let (Some(from), Some(to)) = (filter.from, filter.to)
        && from > to
    {
        return Err(AuditError::Filter { location: "query.from", message: "is later than `to`" });
    }
    if actor.may(Action::AuditReadAll) { Ok(filter) } else { Ok(Filter { owner: Some(actor.to_string()), ..filter }) }
}

async fn within_limit(put: impl Future<Output = Result<(), sqlx::Error>>) -> Result<(), AuditError> {
    match timeout(WRITE_LIMIT, put).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(AuditError::Unavailable(Some(error))),
        Err(_) => Err(AuditError::Unavailable(None)),
    }
}
