use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use platform::{Actor, database::DbError};
use tokio::sync::broadcast::error::RecvError;

use crate::{Events, Receiver, model::Event, store};

/// How many rows one look at the table takes.
pub(crate) const BATCH: i64 = 500;

/// What a follower is given.
pub enum Followed {
    /// An event.
    Event(Arc<Event>),
    /// Events are no longer kept: the follower has to read the state afresh.
    Gap {
        /// The oldest event that is still there.
        oldest: i64,
    },
}

/// Which channels a follower hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Every one.
    All,
    /// These.
    Only(BTreeSet<String>),
}

impl Wanted {
    /// Whether it is one of them.
    pub fn has(&self, channel: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(channels) => channels.contains(channel),
        }
    }
}

/// Reads events in order, each once: live ones from memory, and from the table what it has missed.
pub struct Follower {
    events: Events,
    actor: Actor,
    wanted: Wanted,
    live: Receiver,
    /// Read from the table and not yet given.
    read: VecDeque<Event>,
    /// The last one that was passed.
    last: i64,
    /// Something after that is in the table and may not come live.
    behind: bool,
    gap: Option<i64>,
}

impl Follower {
    pub(crate) async fn new(events: &Events, actor: &Actor, wanted: Wanted, after: Option<i64>) -> Result<Self, DbError> {
        let live = events.subscribe();
        let bounds = store::bounds(events.database().system()).await.map_err(DbError::from)?;
        let newest = bounds.map_or(0, |(_, newest)| newest);
        let gap = match (after, bounds) {
            (Some(1..), None) => Some(1),
            // A number beyond the newest is of a database that has since been replaced.
            (Some(after), Some((oldest, newest))) if after < oldest - 1 || after > newest => Some(oldest),
            _ => None,
        };
        let last = match gap {
            Some(oldest) => oldest - 1,
            None => after.unwrap_or(newest),
        };
        let (events, actor) = (events.clone(), actor.clone());
        Ok(Self { events, actor, wanted, live, read: VecDeque::new(), last, behind: last < newest, gap })
    }

    /// The last event that was passed, whether it was given or not.
    pub fn position(&self) -> i64 {
        self.last
    }

    /// Which channels it hears.
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// From here on it hears others.
    pub fn set_wanted(&mut self, wanted: Wanted) {
        self.wanted = wanted;
    }

    /// Whether it is one that the actor may hear of, on a channel that is wanted.
    pub(crate) fn hears(&self, event: &Event) -> bool {
        self.wanted.has(&event.channel) && event.is_visible_to(&self.actor)
    }

    /// The next one; nothing once the program stops. What is dropped while it waits has lost nothing.
    pub async fn next(&mut self) -> Option<Result<Followed, DbError>> {
        loop {
            if let Some(oldest) = self.gap.take() {
                return Some(Ok(Followed::Gap { oldest }));
            }
            if let Some(event) = self.read.pop_front() {
                self.last = event.id;
                if self.hears(&event) {
                    return Some(Ok(Followed::Event(Arc::new(event))));
                }
            } else if self.behind {
                if let Err(error) = self.catch_up().await {
                    return Some(Err(error));
                }
            } else {
                if self.events.are_stopping() {
                    return None;
                }
                match self.live.recv().await {
                    Ok(event) if event.id > self.last => {
                        self.last = event.id;
                        if self.hears(&event) {
                            return Some(Ok(Followed::Event(event)));
                        }
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => self.behind = true,
                    Err(RecvError::Closed) => return None,
                }
            }
        }
    }

    /// Reads on from the table; says so when what comes next is not there any more.
    async fn catch_up(&mut self) -> Result<(), DbError> {
        let batch = store::after(self.events.database().system(), self.last, BATCH).await?;
        // Looked at last: what is pruned meanwhile is told as lost, and not passed over.
        if let Some(oldest) = self.events.lost_after(self.last).await? {
            self.last = oldest - 1;
            self.gap = Some(oldest);
            return Ok(());
        }
        self.behind = i64::try_from(batch.len()) == Ok(BATCH);
        self.read = batch.into();
        Ok(())
    }

    /// A portion of what was told on some channels after `from` and before what is yet to come; empty at the end.
    /// `from` moves on.
    pub async fn past(&self, from: &mut i64, channels: &[String]) -> Result<Vec<Event>, DbError> {
        let events = store::between(self.events.database().system(), (*from, self.last), channels, BATCH).await?;
        if let Some(newest) = events.last() {
            *from = newest.id;
        }
        Ok(events)
    }
}
