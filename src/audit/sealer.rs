//! The writer of the chain: one at a time, over all replicas.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{NaiveDate, TimeDelta};
use events::{Audience, Events};
use platform::{Actor, Database, Shutdown, clock, database::DbError, telemetry::Metrics};
use prometheus::{IntCounter, IntGauge};
use serde_json::json;
use sqlx::{Connection as _, Postgres, Transaction};
use tokio::{sync::Notify, time::sleep};
use uuid::Uuid;

use crate::{
    AuditKeys, checkpoint,
    model::{Body, EventType, Link, NewEvent, Outcome, Personal},
    store::{
        self,
        chain::{Head, Waiting},
    },
};

/// How many events are chained in one commit.
const BATCH: i64 = 2048;
/// How long after an event was written the chain takes it, when nobody else writes.
const GATHER: Duration = Duration::from_millis(100);
/// How often it is told that the chain has grown: told with each portion, it would push everything else out of the events.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// How often it looks for what other replicas wrote.
const LOOK: Duration = Duration::from_secs(1);
/// Said in the chain where its end had been altered.
pub(crate) const HEAD_ALTERED: &str = "audit.head_altered";
/// How long somebody who needs everything chained waits for the other writer.
const TURN_LIMIT: &str = "5s";
/// How often the state of the chain is signed.
const CHECKPOINT_EVERY: TimeDelta = TimeDelta::hours(1);

/// Takes what waits into the chain.
#[derive(Clone)]
pub(crate) struct Sealer {
    database: Database,
    events: Events,
    keys: AuditKeys,
    shared: Arc<Shared>,
}

/// The event that says that the trail has grown.
pub static AUDIT_RECORDED: events::Kind = events::Kind {
    name: "AUDIT_RECORDED",
    channel: "audit",
    told: "When events were taken into the audit trail, every two seconds at most: `/api/mcp/audit` gives them by their `seq`.",
    heard_by: "Administrators and auditors.",
    payload: &[("firstSeq", "the first of them"), ("lastSeq", "the last of them"), ("count", "how many there are")],
};

struct Shared {
    /// What was chained and not told: the first and the last.
    untold: Mutex<Option<(i64, i64)>>,
    wake: Notify,
    awake: AtomicBool,
    chained: IntCounter,
    stuck: IntGauge,
}

impl Sealer {
    pub(crate) fn new(database: Database, events: Events, keys: AuditKeys, metrics: &Metrics) -> Self {
        let shared = Shared {
            untold: Mutex::default(),
            wake: Notify::new(),
            awake: AtomicBool::new(false),
            chained: metrics.counter("fabric_audit_events_total", "Events that were taken into the chain"),
            stuck: metrics.gauge("fabric_audit_stuck", "1 while events cannot be taken into the chain"),
        };
        Self { database, events, keys, shared: Arc::new(shared) }
    }

    /// Something has been written, or will be within a moment.
    pub(crate) fn wake(&self) {
        if !self.shared.awake.swap(true, Ordering::Relaxed) {
            self.shared.wake.notify_one();
        }
    }

    pub(crate) async fn run(self, shutdown: Shutdown) {
        let mut told_at: Option<Instant> = None;
        loop {
            tokio::select! {
                () = sleep(LOOK) => {}
                () = self.shared.wake.notified() => sleep(GATHER).await,
                () = shutdown.begun() => break,
            }
            self.shared.awake.store(false, Ordering::Relaxed);
            self.tell(self.seal_soon().await);
            if told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
                told_at = Some(Instant::now());
                self.tell_growth().await;
            }
            if let Err(error) = self.sign_when_due(CHECKPOINT_EVERY).await {
                tracing::warn!(%error, "the state of the audit trail could not be signed");
            }
        }
        // What was written last waits for the next start, should this not work.
        self.tell(self.seal_all().await);
        self.tell_growth().await;
        if let Err(error) = self.sign_when_due(TimeDelta::zero()).await {
            tracing::warn!(%error, "the state of the audit trail could not be signed");
        }
    }

    fn untold(&self) -> std::sync::MutexGuard<'_, Option<(i64, i64)>> {
        self.shared.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grown(&self, first: i64, last: i64) {
        let mut untold = self.untold();
        let (before, after) = untold.unwrap_or((first, last));
        *untold = Some((before.min(first), after.max(last)));
    }

    /// Tells of what was chained since the last time.
    async fn tell_growth(&self) {
        let Some((first, last)) = self.untold().take() else { return };
        let payload = json!({ "firstSeq": first, "lastSeq": last, "count": last - first + 1 });
        let told = events::NewEvent { kind: &AUDIT_RECORDED, audience: Audience::Auditors, server: None, payload };
        if let Err(error) = self.events.publish(told).await {
            tracing::warn!(%error, "could not tell that the audit trail has grown");
            self.grown(first, last);
        }
    }

    fn tell(&self, sealed: Result<(), DbError>) {
        self.shared.stuck.set(i64::from(sealed.is_err()));
        if let Err(error) = sealed {
            tracing::error!(%error, cause = ?std::error::Error::source(&error).map(ToString::to_string), "events cannot be taken into the audit chain; they wait");
        }
    }

    /// Chains what waits, unless another writer is at it.
    async fn seal_soon(&self) -> Result<(), DbError> {
        while store::chain::is_waiting(self.database.audit()).await? {
            let mut connection = self.database.audit().acquire().await.map_err(DbError::from)?;
            let mut transaction = connection.begin().await?;
            let Some(head) = store::chain::lock_head(&mut transaction).await? else { return Ok(()) };
            if self.seal(transaction, head).await? < BATCH {
                break;
            }
        }
        Ok(())
    }

    /// Chains everything that was written before this was called, also what another writer has just taken.
    pub(crate) async fn seal_all(&self) -> Result<(), DbError> {
        loop {
            let mut connection = self.database.audit().acquire().await.map_err(DbError::from)?;
            let mut transaction = connection.begin().await?;
            let head = store::chain::wait_for_head(&mut transaction, TURN_LIMIT).await?;
            if self.seal(transaction, head).await? < BATCH {
                return Ok(());
            }
        }
    }

    async fn seal(&self, mut transaction: Transaction<'_, Postgres>, head: Head) -> Result<i64, DbError> {
        let today = clock::now().date_naive();
        store::chain::ensure_day(&mut transaction, today).await?;
        let day = head.day.max(today);
        let waiting = store::chain::take(&mut transaction, BATCH).await?;
        let taken = i64::try_from(waiting.len()).unwrap_or(BATCH);
        if waiting.is_empty() {
            return Ok(0);
        }
        let (links, personal) = self.chain(&head, waiting);
        if day > today {
            store::chain::ensure_day(&mut transaction, day).await?;
        }
        store::chain::append(&mut transaction, day, &links).await?;
        store::chain::append_personal(&mut transaction, day, &personal).await?;
        store::chain::set_head(&mut transaction, &self.head_after(&links, &head, day)).await?;
        transaction.commit().await?;
        self.grown(head.seq + 1, links.last().map_or(head.seq, |link| link.seq));
        self.shared.chained.inc_by(links.len() as u64);
        Ok(taken)
    }

    fn chain(&self, head: &Head, waiting: Vec<Waiting>) -> (Vec<Link>, Vec<(Uuid, Personal)>) {
        let mut links: Vec<Link> = Vec::with_capacity(waiting.len() + 1);
        let mut personal = Vec::new();
        let (mut seq, mut prev) = (head.seq, head.hash);
        let mut push = |body: Body, authentic: bool| {
            seq += 1;
            let link = Link::new(prev, seq, body, authentic);
            prev = link.hash;
            links.push(link);
        };
        if !is_ours(&self.keys, head) {
            // What was signed before says how far the chain was right; from here on it says that it is not.
            push(warning(HEAD_ALTERED, &[]), true);
        }
        for event in waiting {
            let pii = event.pii.as_deref().unwrap_or_default();
            let authentic = self.keys.verify_mac(&[event.event.as_bytes(), &[0], pii.as_bytes()], &event.mac);
            let Ok(body) = serde_json::from_str::<Body>(&event.event) else {
                push(warning("audit.unreadable", &[("n", event.n)]), false);
                continue;
            };
            if let Ok(person) = serde_json::from_str::<Personal>(pii) {
                personal.push((body.id.0, person));
            }
            push(body, authentic);
        }
        (links, personal)
    }

    fn head_after(&self, links: &[Link], head: &Head, day: NaiveDate) -> Head {
        let (seq, hash) = links.last().map_or((head.seq, head.hash), |link| (link.seq, link.hash));
        Head { seq, day, hash, mac: Some(head_mac(&self.keys, seq, &hash).to_vec()) }
    }

    /// Signs the state of the chain when it has grown and the last signature is older than `after`.
    pub(crate) async fn sign_when_due(&self, after: TimeDelta) -> Result<(), DbError> {
        let mut connection = self.database.audit().acquire().await.map_err(DbError::from)?;
        let last = store::upkeep::last_checkpoint(&mut connection).await?;
        let due = last.as_ref().is_none_or(|last| clock::now() - last.at >= after);
        if !due {
            return Ok(());
        }
        let mut transaction = connection.begin().await?;
        let head = store::chain::wait_for_head(&mut transaction, TURN_LIMIT).await?;
        if head.seq == last.as_ref().map_or(0, |last| last.seq) || !is_ours(&self.keys, &head) {
            return Ok(());
        }
        checkpoint::write(&mut transaction, &self.keys, &head, None).await?;
        Ok(transaction.commit().await?)
    }
}

/// Whether this fabric wrote the end of the chain.
pub(crate) fn is_ours(keys: &AuditKeys, head: &Head) -> bool {
    match &head.mac {
        Some(mac) => keys.verify_mac(&[b"head", &head.seq.to_be_bytes(), &head.hash], mac),
        None => head.seq == 0,
    }
}

fn head_mac(keys: &AuditKeys, seq: i64, hash: &[u8; 32]) -> [u8; 32] {
    keys.mac(&[b"head", &seq.to_be_bytes(), hash])
}

fn warning(action: &'static str, detail: &[(&str, i64)]) -> Body {
    let event = NewEvent::new(EventType::Warning, action).outcome(Outcome::Failure);
    detail.iter().fold(event, |event, (key, value)| event.with(key, *value)).by(&Actor::system("audit")).0
}
