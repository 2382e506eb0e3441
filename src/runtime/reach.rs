//! Who sees, steers and uses which instances.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use configurations::{Configuration, Lifecycle, Sharing};
use platform::{Action, Actor};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::{
    Runtime,
    error::RuntimeError,
    exchange::Heard,
    live::Live,
    model::{Instance, InstanceId, State},
    service::Inner,
    session::Session,
    store::{self, Filter},
};

/// How long a call waits for a server that starts on demand, beyond its own limit for starting.
const ON_DEMAND: Duration = Duration::from_secs(5);

/// A server that answers.
#[derive(Clone)]
pub struct Reached {
    /// What it is spoken to through, until it ends.
    pub session: Arc<Session>,
    live: Arc<Live>,
}

impl Reached {
    /// What it says that is no matter of a request; for the first who asks, in each life of its instance.
    pub fn outside(&self) -> Option<mpsc::Receiver<Heard>> {
        self.live.outside()
    }

    /// What it is spoken to through, over its restarts; it ends with the life of its instance.
    pub fn sessions(&self) -> watch::Receiver<Option<Arc<Session>>> {
        self.live.session.subscribe()
    }

    /// Somebody needs it, also where nobody calls it.
    pub fn touch(&self) {
        self.live.touch();
    }

    /// Whether that life is over.
    pub fn is_over(&self) -> bool {
        self.live.state.borrow().is_over()
    }

    /// Whether another one is of the same life of the same instance.
    pub fn is_of_one_life(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.live, &other.live)
    }
}

impl Inner {
    pub(crate) fn live(&self, configuration: Uuid, session: &str) -> Option<Arc<Live>> {
        let active = self.active();
        let handle = active.get(&(configuration, session.to_owned()))?;
        // One that is over stays on the list until the next look at it.
        (!handle.live.state.borrow().is_over()).then(|| Arc::clone(&handle.live))
    }

    /// What a server is spoken to through, once it has started.
    pub(crate) async fn answering(&self, live: &Live) -> Result<Arc<Session>, RuntimeError> {
        live.touch();
        if let Some(session) = &*live.session.borrow() {
            return Ok(Arc::clone(session));
        }
        if !matches!(*live.state.borrow(), State::Pending | State::Creating | State::Starting) {
            return Err(RuntimeError::NotRunning);
        }
        let (mut session, mut state) = (live.session.subscribe(), live.state.subscribe());
        let ready = tokio::select! {
            ready = session.wait_for(Option::is_some) => ready.ok().and_then(|ready| ready.clone()),
            _ = state.wait_for(|state| state.is_over()) => None,
            () = tokio::time::sleep(self.config.start_limit + ON_DEMAND) => None,
        };
        ready.ok_or(RuntimeError::NotRunning)
    }

    /// The configurations whose instances everybody uses who may reach their servers.
    async fn shared(&self) -> Result<Vec<Uuid>, RuntimeError> {
        // Nobody is called so: what is left is shared.
        Ok(self.configurations.usable("").await?.into_iter().map(|wanted| wanted.id.0).collect())
    }

    /// Whether everybody may use an instance who may reach its server.
    pub(crate) async fn is_shared(&self, instance: &Instance) -> Result<bool, RuntimeError> {
        let found = self.configurations.of(&instance.owner, &instance.server_id).await?;
        let is_it = |wanted: Configuration| wanted.id.0 == instance.configuration && wanted.enabled && wanted.sharing == Sharing::Shared;
        Ok(instance.session.is_empty() && found.is_some_and(is_it))
    }
}

impl Runtime {
    /// What an actor may use of what is to run: their own, and what is shared; one for each server.
    pub async fn usable_configurations(&self, actor: &Actor) -> Result<Vec<Arc<Configuration>>, RuntimeError> {
        actor.require(Action::ToolsCall)?;
        let owner = actor.to_string();
        let (own, shared): (Vec<_>, Vec<_>) =
            self.inner.configurations.usable(&owner).await?.into_iter().partition(|one| one.owner == owner);
        let mut all = BTreeMap::new();
        for configuration in own.into_iter().chain(shared) {
            if actor.servers().is_none_or(|servers| servers.contains(&configuration.server_id)) {
                all.entry(configuration.server_id.clone()).or_insert_with(|| Arc::new(configuration));
            }
        }
        Ok(all.into_values().collect())
    }

    /// What runs of a configuration, for one session of a client or for all (`""`). What starts on demand is started.
    pub async fn reach(&self, configuration: &Configuration, session: &str) -> Result<Reached, RuntimeError> {
        let id = configuration.id.0;
        let is_to_run = session.is_empty() && configuration.lifecycle == Lifecycle::Persistent && !configuration.is_per_session();
        let live = match self.inner.live(id, session) {
            None if !is_to_run => {
                Arc::clone(&self.inner).ensure(configuration, session).await?;
                self.inner.live(id, session)
            }
            live => live,
        };
        let answering = match &live {
            Some(live) => self.inner.answering(live).await,
            None => Err(RuntimeError::NotRunning),
        };
        match (answering, live) {
            (Ok(session), Some(live)) => Ok(Reached { session, live }),
            _ => Err(self.why_not(configuration, session).await?),
        }
    }

    /// Why nothing runs of a configuration.
    async fn why_not(&self, configuration: &Configuration, session: &str) -> Result<RuntimeError, RuntimeError> {
        let there = self.inner.there(configuration.id.0, session).await?;
        Ok(match there {
            Some(there) if there.node != self.inner.node && !there.state.is_over() => RuntimeError::Elsewhere,
            Some(Instance { reason: Some((_, text)), .. }) => RuntimeError::Ended(text),
            _ => RuntimeError::NotRunning,
        })
    }

    /// Ends what runs for one session of a client.
    pub async fn end_session(&self, configuration: &Configuration, session: &str) -> Result<(), RuntimeError> {
        let there = self.inner.there(configuration.id.0, session).await?;
        match there.filter(|_| !session.is_empty()) {
            Some(instance) => self.inner.stop_now(&instance).await,
            None => Ok(()),
        }
    }

    /// Instances of the actor and those that are shared, or everybody's for those who may see them.
    pub(crate) async fn list(
        &self,
        actor: &Actor,
        filter: &Filter,
        after: Option<InstanceId>,
        limit: u32,
    ) -> Result<Vec<Instance>, RuntimeError> {
        actor.require(Action::InstancesRead)?;
        let (owner, sees_all) = (actor.to_string(), actor.may(Action::InstancesAll));
        let shared = if sees_all { Vec::new() } else { self.inner.shared().await? };
        let of = (!sees_all).then_some((owner.as_str(), &shared[..]));
        let mut connection = self.inner.database.for_all().await?;
        Ok(store::list(&mut connection, actor.servers(), of, filter, after, limit.into()).await?)
    }

    /// One instance that the actor may see: any for those who may see all, else their own.
    pub async fn get(&self, actor: &Actor, id: InstanceId, action: Action) -> Result<Instance, RuntimeError> {
        actor.require(action)?;
        let found = if actor.may(Action::InstancesAll) {
            store::get(&mut *self.inner.database.for_all().await?, id).await?
        } else {
            store::get(&mut *self.inner.database.begin(actor).await?, id).await?
        };
        let found = found.ok_or(RuntimeError::NotFound)?;
        actor.require_server(action, &found.server_id).map_err(|_| RuntimeError::NotFound)?;
        Ok(found)
    }

    /// One instance that the actor may use: their own, or one that is shared.
    pub(crate) async fn usable(&self, actor: &Actor, id: InstanceId, action: Action) -> Result<Instance, RuntimeError> {
        match self.get(actor, id, action).await {
            Err(RuntimeError::NotFound) => {}
            found => return found,
        }
        let mut connection = self.inner.database.for_all().await?;
        let found = store::get(&mut connection, id).await?.ok_or(RuntimeError::NotFound)?;
        drop(connection);
        actor.require_server(action, &found.server_id).map_err(|_| RuntimeError::NotFound)?;
        if self.inner.is_shared(&found).await? { Ok(found) } else { Err(RuntimeError::NotFound) }
    }
}
