//! Carrying events between replicas by Redis: one replica reads the table and tells the others, so that they need not read
//! it. Every message says which event came before it; who misses one reads the table. Without Redis, or where nobody tells,
//! each replica is woken by PostgreSQL and reads the table itself, as it does where there is no `REDIS_URL`.

use std::time::Duration;

use futures_util::StreamExt as _;
use platform::{database::DbError, redis::Redis};
use serde::{Deserialize, Serialize};
use sqlx::{Connection as _, PgConnection};
use tokio::sync::mpsc;

use crate::{
    model::Event,
    service::Events,
    store::{self, Row},
};

const CHANNEL: &str = "events";
/// How often whoever tells says that it is there.
const BEAT: Duration = Duration::from_secs(1);
/// After so long without a word, nobody tells.
const SILENCE: Duration = Duration::from_secs(3);
/// How long a replica is woken by PostgreSQL before it looks again who tells.
const AGAIN: Duration = Duration::from_secs(5);
/// How many messages in a row Redis may not take.
const PATIENCE: u32 = 5;
/// How many messages wait for Redis before some are left out.
const WAITING: usize = 64;

/// Events that follow each other.
#[derive(Serialize, Deserialize)]
pub(crate) struct Told {
    /// The one before the first of them.
    pub(crate) after: i64,
    pub(crate) events: Vec<Row>,
}

/// By which way a replica hears of events; the metric `fabric_event_way` has them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// It reads the table, and tells the others by Redis.
    Teller,
    /// By Redis.
    Redis,
    /// It is woken by PostgreSQL, and reads the table.
    Postgres,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Teller, Self::Redis, Self::Postgres];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Teller => "teller",
            Self::Redis => "redis",
            Self::Postgres => "postgresql",
        }
    }
}

impl Events {
    /// Carries events in one of these ways until that ends.
    pub(crate) async fn carry_with(&self, redis: &Redis, last: &mut i64) -> Result<(), DbError> {
        // A connection of its own: the right to tell ends with it.
        let mut right = self.database().system().acquire().await?.detach();
        if store::is_teller(&mut right).await? {
            let listener = self.database().listener().await?;
            self.go(Way::Teller);
            let (tell, told) = mpsc::channel(WAITING);
            tokio::select! {
                ended = self.carry_by_notifications(listener, last, Some(tell)) => return ended,
                ended = while_there(&mut right) => return ended,
                // Whoever reaches Redis may do better.
                () = self.pass_on(redis, told) => drop(right),
            }
        } else {
            drop(right);
            if let Err(Ended::Database(error)) = self.hear(redis, last).await {
                return Err(error);
            }
        }
        self.go(Way::Postgres);
        let listener = self.database().listener().await?;
        tokio::time::timeout(AGAIN, self.carry_by_notifications(listener, last, None)).await.unwrap_or(Ok(()))
    }

    /// Tells followers of what Redis says.
    async fn hear(&self, redis: &Redis, last: &mut i64) -> Result<(), Ended> {
        let mut messages = redis.subscribe(CHANNEL).await.map_err(|error| {
            tracing::warn!(%error, "events are heard by PostgreSQL alone");
            Ended::Silence
        })?;
        // What was told before.
        self.catch_up(last, None).await.map_err(Ended::Database)?;
        self.go(Way::Redis);
        loop {
            let message = tokio::select! {
                message = tokio::time::timeout(SILENCE, messages.next()) => message.ok().flatten().ok_or(Ended::Silence)?,
                () = self.stopping() => return Ok(()),
            };
            let Ok(Told { after, events }) = serde_json::from_str::<Told>(&message) else { continue };
            if after > *last {
                self.catch_up(last, None).await.map_err(Ended::Database)?;
            }
            for event in events.into_iter().map(Event::from).filter(|event| event.id > *last).collect::<Vec<_>>() {
                self.tell(event, last);
            }
        }
    }

    /// Gives to Redis what is told, and a sign of life in between, which says up to where: what Redis does not take, others read
    /// from the table. Ends when Redis takes nothing for a while.
    async fn pass_on(&self, redis: &Redis, mut told: mpsc::Receiver<Told>) {
        let mut failed = 0;
        while failed < PATIENCE {
            let told = match tokio::time::timeout(BEAT, told.recv()).await {
                Ok(Some(told)) => told,
                Ok(None) => return,
                Err(_) => Told { after: self.position(), events: Vec::new() },
            };
            match redis.publish(CHANNEL, &serde_json::to_string(&told).unwrap_or_default()).await {
                Ok(()) => failed = 0,
                Err(error) => {
                    if failed == 0 {
                        tracing::warn!(%error, "other replicas hear of events by PostgreSQL");
                    }
                    failed += 1;
                }
            }
        }
    }
}

/// Why nothing more is heard.
enum Ended {
    Silence,
    Database(DbError),
}

/// Ends with the connection.
async fn while_there(connection: &mut PgConnection) -> Result<(), DbError> {
    loop {
        tokio::time::sleep(BEAT).await;
        connection.ping().await?;
    }
}
