use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use platform::{Action, Actor, Config, Database, Shutdown, actor::Forbidden, clock, database::DbError, redis::Redis, telemetry::Metrics};
use prometheus::{IntGauge, IntGaugeVec};
use sqlx::{PgConnection, postgres::PgListener};
use tokio::sync::{
    broadcast::{
        self,
        error::{RecvError, TryRecvError},
    },
    mpsc,
};

use crate::{
    fanout::{Told, Way},
    follower::{BATCH, Follower, Wanted},
    kind::{self, Kind},
    model::{Event, NewEvent},
    store::{self, Row},
};

/// How many events a slow reader may be behind before it is served from the table again.
const BUFFER: usize = 1024;
/// A look at the table without a notification, should one have been lost.
const POLL: Duration = Duration::from_secs(15);
const PRUNE_EVERY: Duration = Duration::from_mins(1);

/// Publishes events and lets others follow them.
#[derive(Clone)]
pub struct Events {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    live: broadcast::Sender<Live>,
    shutdown: Shutdown,
    kinds: &'static [&'static Kind],
    origins: Vec<String>,
    heartbeat: Duration,
    followers: IntGaugeVec,
    redis: Option<Redis>,
    ways: IntGaugeVec,
    /// The last event that was told here.
    position: AtomicI64,
}

impl Events {
    /// Starts to carry events from the table to the followers of this process, and to forget the oldest ones. `kinds` are
    /// all that the program tells.
    pub async fn start(
        config: &Config,
        database: Database,
        redis: Option<Redis>,
        kinds: &'static [&'static Kind],
        metrics: &Metrics,
        shutdown: &Shutdown,
    ) -> Result<Self, DbError> {
        let newest = store::bounds(database.system()).await?.map_or(0, |(_, newest)| newest);
        let events = Self {
            inner: Arc::new(Inner {
                database,
                live: broadcast::channel(BUFFER).0,
                shutdown: shutdown.clone(),
                kinds,
                origins: config.http.cors_origins.clone(),
                heartbeat: config.event_heartbeat,
                followers: metrics.gauges("fabric_event_followers", "Who follows the events now, by stream", &["stream"]),
                redis,
                position: AtomicI64::new(newest),
                ways: metrics.gauges("fabric_event_way", "1 for the way by which this replica hears of events", &["way"]),
            }),
        };
        shutdown.spawn(events.clone().carry(newest));
        let stopping = events.clone();
        shutdown.spawn(async move {
            stopping.stopping().await;
            stopping.inner.live.send(Live::Stopped).ok();
        });
        shutdown.spawn(events.clone().prune(config.event_retention.into()));
        Ok(events)
    }

    /// Publishes when the caller's transaction commits. Call it last: it makes publishers take turns.
    pub async fn publish_in(&self, transaction: &mut PgConnection, event: NewEvent) -> Result<(), DbError> {
        Ok(store::insert(transaction, &event.prepare()).await?)
    }

    /// Publishes at once.
    pub async fn publish(&self, event: NewEvent) -> Result<(), DbError> {
        let mut connection = self.inner.database.system().acquire().await.map_err(DbError::from)?;
        self.publish_in(&mut connection, event).await
    }

    /// Every event from now on, in order, for this process itself.
    pub fn subscribe(&self) -> Receiver {
        Receiver(self.inner.live.subscribe())
    }

    /// Reads the events after `after` (or from now on) that `actor` may hear of.
    pub async fn follow(&self, actor: &Actor, wanted: Wanted, after: Option<i64>) -> Result<Follower, FollowError> {
        actor.require(Action::EventsRead)?;
        Ok(Follower::new(self, actor, wanted, after).await?)
    }

    /// The last event that was told in this process; what it is about is in the database.
    pub fn position(&self) -> i64 {
        self.inner.position.load(Ordering::Acquire)
    }

    /// Every channel.
    pub(crate) fn channels(&self) -> BTreeSet<&'static str> {
        kind::channels(self.inner.kinds)
    }

    pub(crate) fn database(&self) -> &Database {
        &self.inner.database
    }

    /// The pages elsewhere that may call this fabric.
    pub(crate) fn origins(&self) -> &[String] {
        &self.inner.origins
    }

    /// How often a WebSocket is asked for a sign of life.
    pub(crate) fn heartbeat(&self) -> Duration {
        self.inner.heartbeat
    }

    /// Counts a follower for as long as it is kept.
    pub(crate) fn count(&self, stream: &str) -> Counted {
        let gauge = self.inner.followers.with_label_values(&[stream]);
        gauge.inc();
        Counted(gauge)
    }

    /// Whether the program stops.
    pub(crate) fn are_stopping(&self) -> bool {
        self.inner.shutdown.has_begun()
    }

    /// Ready once the program stops.
    pub(crate) async fn stopping(&self) {
        self.inner.shutdown.begun().await;
    }

    /// Tells the followers of this process of everything after `last`.
    async fn carry(self, mut last: i64) {
        while !self.inner.shutdown.has_begun() {
            let carried = match &self.inner.redis {
                Some(redis) => self.carry_with(redis, &mut last).await,
                None => self.carry_while_connected(&mut last).await,
            };
            if let Err(error) = carried {
                tracing::warn!(%error, "lost the event channel; trying again");
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                    () = self.stopping() => {}
                }
            }
        }
    }

    async fn carry_while_connected(&self, last: &mut i64) -> Result<(), DbError> {
        let listener = self.inner.database.listener().await?;
        self.go(Way::Postgres);
        self.carry_by_notifications(listener, last, None).await
    }

    /// Tells one event, and remembers that.
    pub(crate) fn tell(&self, event: Event, last: &mut i64) {
        *last = event.id;
        self.inner.position.store(event.id, Ordering::Release);
        // Without followers there is nobody to tell.
        self.inner.live.send(Live::Event(Arc::new(event))).ok();
    }

    /// The oldest event that is left, when some after `after` are not kept any more.
    pub(crate) async fn lost_after(&self, after: i64) -> Result<Option<i64>, DbError> {
        let bounds = store::bounds(self.inner.database.system()).await?;
        Ok(bounds.map(|(oldest, _)| oldest).filter(|oldest| after < oldest - 1))
    }

    /// Says by which way this replica hears of events.
    pub(crate) fn go(&self, way: Way) {
        for one in Way::ALL {
            self.inner.ways.with_label_values(&[one.as_str()]).set(i64::from(one == way));
        }
    }

    /// Reads the table whenever PostgreSQL says that there is something new.
    pub(crate) async fn carry_by_notifications(
        &self,
        mut listener: PgListener,
        last: &mut i64,
        others: Option<mpsc::Sender<Told>>,
    ) -> Result<(), DbError> {
        listener.listen("fabric_events").await?;
        loop {
            self.catch_up(last, others.as_ref()).await?;
            tokio::select! {
                notified = listener.try_recv() => { notified?; }
                () = tokio::time::sleep(POLL) => {}
                () = self.stopping() => return Ok(()),
            }
            while listener.next_buffered().is_some() {}
        }
    }

    /// Tells all that is in the table by now, also to the others where there are any.
    pub(crate) async fn catch_up(&self, last: &mut i64, others: Option<&mpsc::Sender<Told>>) -> Result<(), DbError> {
        loop {
            let batch = store::after(self.inner.database.system(), *last, BATCH).await?;
            let is_full = i64::try_from(batch.len()) == Ok(BATCH);
            // Whoever publishes and then does not commit leaves a hole, too.
            let is_apart = batch.first().is_some_and(|first| first.id > *last + 1);
            if is_apart && let Some(oldest) = self.lost_after(*last).await? {
                // Whoever hears of it looks at what there is by now.
                *last = oldest - 1;
                self.inner.position.store(*last, Ordering::Release);
                self.inner.live.send(Live::Lost).ok();
            }
            if let Some(others) = others.filter(|_| !batch.is_empty()) {
                // Whoever does not get it sees that something is missing.
                others.try_send(Told { after: *last, events: batch.iter().map(Row::from).collect() }).ok();
            }
            for event in batch {
                self.tell(event, last);
            }
            if !is_full {
                return Ok(());
            }
        }
    }

    async fn prune(self, keep: i64) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(PRUNE_EVERY) => {}
                () = self.stopping() => return,
            }
            if let Err(error) = self.prune_now(keep).await {
                tracing::warn!(%error, "could not prune the events");
            }
        }
    }

    async fn prune_now(&self, keep: i64) -> Result<(), DbError> {
        store::prune(self.inner.database.system(), keep).await?;
        let mut connection = self.inner.database.for_all().await?;
        store::drop_tickets(&mut connection, clock::now()).await?;
        Ok(())
    }
}

/// What is told in this process.
#[derive(Clone)]
pub(crate) enum Live {
    Event(Arc<Event>),
    /// Events are gone that nobody here has heard of.
    Lost,
    /// Nothing more is told: the program stops. Those who follow need not listen for that beside.
    Stopped,
}

/// Hears what is told in this process.
pub struct Receiver(broadcast::Receiver<Live>);

impl Receiver {
    /// The next event; `Lagged` where some were missed, however that came, `Closed` once the program stops.
    pub async fn recv(&mut self) -> Result<Arc<Event>, RecvError> {
        match self.0.recv().await? {
            Live::Event(event) => Ok(event),
            Live::Lost => Err(RecvError::Lagged(0)),
            Live::Stopped => Err(RecvError::Closed),
        }
    }

    /// The same, without waiting for one.
    pub fn try_recv(&mut self) -> Result<Arc<Event>, TryRecvError> {
        match self.0.try_recv()? {
            Live::Event(event) => Ok(event),
            Live::Lost => Err(TryRecvError::Lagged(0)),
            Live::Stopped => Err(TryRecvError::Closed),
        }
    }
}

/// One who follows.
pub(crate) struct Counted(IntGauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The events cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// Not allowed.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DbError),
}

impl platform::Coded for FollowError {
    fn code(&self) -> &'static str {
        match self {
            Self::Forbidden(error) => error.code(),
            Self::Database(error) => error.code(),
        }
    }
    fn denial(&self) -> Option<platform::Denial> {
        match self {
            Self::Forbidden(error) => error.denial(),
            Self::Database(_) => None,
        }
    }
    fn class(&self) -> platform::Class {
        match self {
            Self::Forbidden(error) => error.class(),
            Self::Database(error) => error.class(),
        }
    }
}
