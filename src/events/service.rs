use std::{sync::Arc, time::Duration};

use async_stream::stream;
use futures_util::Stream;
use platform::{Action, Actor, Database, Shutdown, actor::Forbidden, clock, database::DbError};
use sqlx::PgConnection;
use tokio::sync::broadcast::{self, error::RecvError};

use crate::{
    model::{Event, NewEvent},
    store,
};

/// How many events a slow reader may be behind before it is served from the table again.
const BUFFER: usize = 1024;
/// How many rows one look at the table takes.
const BATCH: i64 = 500;
/// A look at the table without a notification, should one have been lost.
const POLL: Duration = Duration::from_secs(15);
const PRUNE_EVERY: Duration = Duration::from_mins(1);

/// Publishes events and lets others follow them.
#[derive(Clone)]
pub struct Events {
    database: Database,
    live: broadcast::Sender<Arc<Event>>,
    shutdown: Shutdown,
}

/// What a follower is given.
pub enum Followed {
    /// An event.
    Event(Arc<Event>),
    /// Events after the given id are no longer kept: the follower has to read the state afresh.
    Gap {
        /// The oldest event that is still there.
        oldest: i64,
    },
}

impl Events {
    /// Starts to carry events from the table to the followers of this process, keeping the newest `keep`.
    pub async fn start(database: Database, keep: u32, shutdown: &Shutdown) -> Result<Self, DbError> {
        let newest = store::bounds(database.system()).await?.map_or(0, |(_, newest)| newest);
        let events = Self { database, live: broadcast::channel(BUFFER).0, shutdown: shutdown.clone() };
        shutdown.spawn(events.clone().carry(newest));
        shutdown.spawn(events.clone().prune(keep.into()));
        Ok(events)
    }

    /// Publishes when the caller's transaction commits. Call it last: it makes publishers take turns.
    pub async fn publish_in(&self, transaction: &mut PgConnection, event: &NewEvent) -> Result<(), DbError> {
        Ok(store::insert(transaction, event, clock::now()).await?)
    }

    /// Publishes at once.
    pub async fn publish(&self, event: &NewEvent) -> Result<(), DbError> {
        let mut transaction = self.database.system().begin().await?;
        self.publish_in(&mut transaction, event).await?;
        Ok(transaction.commit().await?)
    }

    /// Every event of this process's life from now on, in order; lagging readers miss some.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.live.subscribe()
    }

    /// The events after `after` (or from now on) that `actor` may hear of, until the program stops.
    pub async fn follow(
        &self,
        actor: &Actor,
        after: Option<i64>,
    ) -> Result<impl Stream<Item = Result<Followed, DbError>> + use<>, FollowError> {
        actor.require(Action::EventsRead)?;
        let mut live = self.live.subscribe();
        let bounds = store::bounds(self.database.system()).await.map_err(DbError::from)?;
        let newest = bounds.map_or(0, |(_, newest)| newest);
        let gap = match (after, bounds) {
            // A number beyond the newest is of a database that has since been replaced.
            (Some(after), Some((oldest, newest))) if after < oldest - 1 || after > newest => Some(oldest),
            _ => None,
        };
        let mut last = match gap {
            Some(oldest) => oldest - 1,
            None => after.unwrap_or(newest),
        };
        let (this, actor) = (self.clone(), actor.clone());
        Ok(stream! {
            if let Some(oldest) = gap {
                yield Ok(Followed::Gap { oldest });
            }
            let mut behind = last < newest;
            loop {
                if behind {
                    match store::bounds(this.database.system()).await {
                        Ok(Some((oldest, _))) if last < oldest - 1 => {
                            last = oldest - 1;
                            yield Ok(Followed::Gap { oldest });
                        }
                        Ok(_) => {}
                        Err(error) => {
                            yield Err(DbError::from(error));
                            return;
                        }
                    }
                }
                while behind {
                    let batch = match store::after(this.database.system(), last, BATCH).await {
                        Ok(batch) => batch,
                        Err(error) => {
                            yield Err(error.into());
                            return;
                        }
                    };
                    behind = i64::try_from(batch.len()) == Ok(BATCH);
                    for event in batch {
                        last = event.id;
                        if event.is_visible_to(&actor) {
                            yield Ok(Followed::Event(Arc::new(event)));
                        }
                    }
                }
                let heard = tokio::select! {
                    heard = live.recv() => heard,
                    () = this.shutdown.begun() => return,
                };
                match heard {
                    Ok(event) if event.id > last => {
                        last = event.id;
                        if event.is_visible_to(&actor) {
                            yield Ok(Followed::Event(event));
                        }
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => behind = true,
                    Err(RecvError::Closed) => return,
                }
            }
        })
    }

    /// Tells the followers of this process of everything after `last`.
    async fn carry(self, mut last: i64) {
        while !self.shutdown.has_begun() {
            if let Err(error) = self.carry_while_connected(&mut last).await {
                tracing::warn!(%error, "lost the event channel; trying again");
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                    () = self.shutdown.begun() => {}
                }
            }
        }
    }

    async fn carry_while_connected(&self, last: &mut i64) -> Result<(), DbError> {
        let mut listener = self.database.listener().await?;
        listener.listen("fabric_events").await?;
        loop {
            let batch = store::after(self.database.system(), *last, BATCH).await?;
            let is_full = i64::try_from(batch.len()) == Ok(BATCH);
            for event in batch {
                *last = event.id;
                // Without followers there is nobody to tell.
                self.live.send(Arc::new(event)).ok();
            }
            if is_full {
                continue;
            }
            tokio::select! {
                notified = listener.try_recv() => { notified?; }
                () = tokio::time::sleep(POLL) => {}
                () = self.shutdown.begun() => return Ok(()),
            }
            while listener.next_buffered().is_some() {}
        }
    }

    async fn prune(self, keep: i64) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(PRUNE_EVERY) => {}
                () = self.shutdown.begun() => return,
            }
            if let Err(error) = store::prune(self.database.system(), keep).await {
                tracing::warn!(%error, "could not prune the events");
            }
        }
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
