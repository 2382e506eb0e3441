//! How each of an actor's servers stands, in one answer for those who look often. With Redis, replicas keep it for each
//! other there; PostgreSQL is the truth: what is kept counts only as long as no later change was heard of.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use events::Audience;
use platform::{Action, Actor, redis::Redis};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use utoipa::ToSchema;

use crate::{
    Runtime, SERVER_STATE_CHANGED,
    error::RuntimeError,
    model::{InstanceId, State},
    store::{self, Filter},
};

/// How long an answer is kept.
const KEPT: Duration = Duration::from_mins(5);
/// How many servers an answer has.
const MOST: i64 = 1000;
/// Of how many owners the last change is remembered.
const OWNERS: usize = 10_000;

/// How one server stands.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Stand {
    pub(crate) instance_id: InstanceId,
    pub(crate) state: State,
    /// Since when.
    pub(crate) since: DateTime<Utc>,
}

platform::words! {
    /// Where an answer was read.
    pub enum Source {
        /// The database.
        Postgresql = "postgresql",
        /// What a replica has kept.
        Redis = "redis",
    }
}

/// An answer as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// All events up to this one are in it.
    as_of: i64,
    servers: BTreeMap<String, Stand>,
}

/// The last changes that were heard of.
pub(crate) struct Changes {
    redis: Redis,
    /// By owner; of others, `floor` counts.
    heard: Mutex<(HashMap<String, i64>, i64)>,
}

impl Changes {
    pub(crate) fn new(redis: Redis, floor: i64) -> Self {
        Self { redis, heard: Mutex::new((HashMap::new(), floor)) }
    }

    fn hear(&self, owner: &str, id: i64) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.0.len() >= OWNERS {
            *heard = (HashMap::new(), id);
        }
        heard.0.insert(owner.to_owned(), id);
    }

    /// Whatever is kept from before is not good enough.
    fn forget_all(&self, floor: i64) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = (HashMap::new(), floor);
    }

    /// An instance went without a step that is told.
    pub(crate) async fn forget(&self, owner: &str) {
        if let Err(error) = self.redis.forget(&name(owner)).await {
            tracing::debug!(%error, "states that are kept could not be forgotten");
        }
    }

    fn last(&self, owner: &str) -> i64 {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.0.get(owner).copied().unwrap_or(heard.1)
    }

    /// Hears of changes until the program stops.
    pub(crate) async fn follow(self: Arc<Self>, runtime: Runtime, mut events: events::Receiver) {
        // What was told before is not heard of any more.
        self.forget_all(runtime.inner.events.position());
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = runtime.inner.shutdown.begun() => return,
            };
            match event {
                Ok(event) => {
                    if let (true, Audience::Owner(owner)) = (event.is(&SERVER_STATE_CHANGED), &event.audience) {
                        self.hear(owner, event.id);
                    }
                }
                Err(RecvError::Lagged(_)) => self.forget_all(runtime.inner.events.position()),
                Err(RecvError::Closed) => return,
            }
        }
    }

    async fn kept(&self, owner: &str) -> Option<Kept> {
        let kept =
            self.redis.get(&name(owner)).await.inspect_err(|error| tracing::debug!(%error, "states are read from the database")).ok()??;
        let kept: Kept = serde_json::from_str(&kept).ok()?;
        (kept.as_of >= self.last(owner)).then_some(kept)
    }
}

fn name(owner: &str) -> String {
    format!("states:{owner}")
}

impl Runtime {
    /// How each of the actor's own servers stands, and where that was read.
    pub(crate) async fn states(&self, actor: &Actor) -> Result<(BTreeMap<String, Stand>, Source), RuntimeError> {
        actor.require(Action::InstancesRead)?;
        let owner = actor.to_string();
        let (mut servers, source) = match &self.inner.changes {
            Some(changes) => match changes.kept(&owner).await {
                Some(kept) => (kept.servers, Source::Redis),
                None => (self.read_and_keep(changes, &owner).await?, Source::Postgresql),
            },
            None => (self.read_states(&owner).await?, Source::Postgresql),
        };
        servers.retain(|server, _| actor.require_server(Action::InstancesRead, server).is_ok());
        Ok((servers, source))
    }

    async fn read_and_keep(&self, changes: &Arc<Changes>, owner: &str) -> Result<BTreeMap<String, Stand>, RuntimeError> {
        // What was told by now is in the database by now.
        let kept = Kept { as_of: self.inner.events.position(), servers: self.read_states(owner).await? };
        let (redis, name, text) = (changes.redis.clone(), name(owner), serde_json::to_string(&kept).unwrap_or_default());
        self.inner.shutdown.spawn(async move {
            if let Err(error) = redis.keep(&name, &text, KEPT).await {
                tracing::debug!(%error, "states are not kept");
            }
        });
        Ok(kept.servers)
    }

    async fn read_states(&self, owner: &str) -> Result<BTreeMap<String, Stand>, RuntimeError> {
        let mut connection = self.inner.database.for_all().await?;
        // Of a server with sessions, the one that is for all.
        let filter = Filter { is_main: true, ..Filter::default() };
        let found = store::list(&mut connection, None, Some((owner, &[])), &filter, None, MOST).await?;
        Ok(found.into_iter().map(|one| (one.server_id, Stand { instance_id: one.id, state: one.state, since: one.since })).collect())
    }
}
