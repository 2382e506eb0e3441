use std::sync::{Arc, OnceLock};

use audit::{Audit, NewEvent};
use events::Events;
use futures_util::{FutureExt as _, future::BoxFuture};
use platform::{Action, Actor, Config, Database, clock};
use serde_json::json;
use servers::{ServerRef, Servers, ServersError, Viewer};
use sources::Sources;
use sqlx::PgConnection;
use users::{Belongings, UserId};

use crate::{
    error::VirtualServersError,
    model::{Change, Names, Prefix, VirtualServer, VirtualServerId, collisions},
    store,
};

/// The event that says that a virtual server is another one, or gone.
pub static VIRTUAL_SERVER_CHANGED: events::Kind = events::Kind {
    name: "VIRTUAL_SERVER_CHANGED",
    channel: "virtual_servers",
    told: "When a virtual server is made, changed, deleted or restored.",
    heard_by: "Whose it is, and the operator.",
    payload: &[("virtualServerId", "the virtual server"), ("revision", "of it, for `If-Match`"), ("deleted", "whether it is gone")],
};

/// How often a change is tried again that others come before.
const MOST_TRIES: u32 = 10;

/// What servers offer that run for somebody; the gateway knows it.
pub trait Offers: Send + Sync + 'static {
    /// What each of these servers offers that answers, under the names that it has before anything is renamed.
    fn names<'a>(&'a self, actor: &'a Actor, servers: &'a [String], prefix: Prefix) -> BoxFuture<'a, Vec<Names>>;
}

/// Virtual servers; cheap to clone.
#[derive(Clone)]
pub struct VirtualServers {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    audit: Audit,
    events: Events,
    servers: Servers,
    sources: Sources,
    /// Domains that endpoints are taken from; none for paths of this fabric.
    pool: Vec<String>,
    offers: OnceLock<Arc<dyn Offers>>,
}

/// What of its sources a virtual server can offer: their types, and the servers that these name.
pub(crate) struct Reach {
    pub(crate) source_id: String,
    pub(crate) kind: String,
    pub(crate) server_id: Option<String>,
}

impl VirtualServers {
    /// The service.
    pub fn new(config: &Config, database: Database, audit: Audit, events: Events, servers: Servers, sources: Sources) -> Self {
        let pool = config.gateway.pool.clone();
        Self { inner: Arc::new(Inner { database, audit, events, servers, sources, pool, offers: OnceLock::new() }) }
    }

    /// From now on, it is known what servers offer.
    pub fn set_offers(&self, offers: Arc<dyn Offers>) {
        self.inner.offers.set(offers).ok();
    }

    /// Says which domains are in use that are not in the pool any more, and gives them.
    pub async fn check_pool(&self) -> Result<Vec<String>, VirtualServersError> {
        let mut transaction = self.inner.database.begin_for_all().await?;
        let mut kept = store::endpoints(&mut transaction).await?;
        kept.retain(|endpoint| self.is_outside(endpoint));
        for endpoint in &kept {
            tracing::warn!(endpoint, "a virtual server has an endpoint that is not in MCP_GATEWAY_URL_POOLS any more; it keeps it");
        }
        Ok(kept)
    }

    /// Whether an endpoint is a domain that the pool does not have any more.
    pub(crate) fn is_outside(&self, endpoint: &str) -> bool {
        !endpoint.starts_with('/') && !self.inner.pool.iter().any(|domain| domain == endpoint)
    }

    /// Makes a virtual server of the actor's own, with an endpoint that nobody else has.
    pub(crate) async fn create(&self, actor: &Actor, change: Change) -> Result<VirtualServer, VirtualServersError> {
        actor.require(Action::VirtualServersWrite)?;
        let (id, now) = (VirtualServerId::fresh(), clock::now());
        let mut new = VirtualServer {
            id,
            owner: actor.to_string(),
            name: String::new(),
            endpoint: String::new(),
            source_ids: Vec::new(),
            server_ids: Vec::new(),
            prefix: Prefix::Server,
            tools: Vec::new(),
            renamed: std::collections::BTreeMap::new(),
            revision: 1,
            created_at: now,
            updated_at: now,
            deleted_at: None,
        };
        change.apply(&mut new);
        self.check(actor, &mut new).await?;
        let mut transaction = self.inner.database.begin_for_all().await?;
        new.endpoint = self.endpoint_in(&mut transaction, id, None).await?;
        store::create(&mut transaction, &new, actor.user()).await?;
        self.tell_in(&mut transaction, actor, "virtual_server.create", &new).await?;
        transaction.commit().await?;
        Ok(new)
    }

    /// An endpoint that is free: the one that is wanted, if it is.
    async fn endpoint_in(
        &self,
        transaction: &mut PgConnection,
        id: VirtualServerId,
        wanted: Option<&str>,
    ) -> Result<String, VirtualServersError> {
        if self.inner.pool.is_empty() {
            return Ok(format!("/mcp/v/{id}"));
        }
        store::lock_pool(transaction).await?;
        let used = store::endpoints(transaction).await?;
        let is_free = |domain: &&String| !used.contains(*domain);
        let found = self.inner.pool.iter().filter(is_free).find(|domain| Some(domain.as_str()) == wanted);
        let free = found.or_else(|| self.inner.pool.iter().find(is_free));
        free.cloned().ok_or(VirtualServersError::PoolExhausted)
    }

    /// Whether a virtual server can be as it is to be.
    async fn check(&self, actor: &Actor, new: &mut VirtualServer) -> Result<(), VirtualServersError> {
        if let Some((location, message)) = new.unfit() {
            return Err(VirtualServersError::Field(location, message));
        }
        let own = self.inner.sources.kinds(&new.owner, &new.source_ids).await?;
        if own.len() != new.source_ids.len() {
            return Err(VirtualServersError::Field("body.source_ids", "names a source that you do not have"));
        }
        new.source_ids = own.into_iter().map(|(id, _)| id).collect();
        let mut ids = Vec::new();
        for server in &new.server_ids {
            let unknown = || VirtualServersError::Field("body.server_ids", "names a server that there is not");
            let server: ServerRef = server.parse().map_err(|_| unknown())?;
            match self.inner.servers.inputs(&Viewer::of(actor), &server).await {
                Ok((id, _)) => ids.push(id),
                Err(ServersError::NotFound) => return Err(unknown()),
                // It may be in it from before; nothing of it is offered.
                Err(ServersError::Denied) => ids.push(self.inner.servers.id_of(&server).await?),
                Err(error) => return Err(error.into()),
            }
        }
        new.server_ids = ids;
        // Names with prefixes are never two things' but where somebody gives them.
        let can_collide = new.prefix == Prefix::None || !new.renamed.is_empty();
        if can_collide && let Some(offers) = self.inner.offers.get() {
            let servers = self.servers_of(new).await?;
            let twice = collisions(new, &offers.names(actor, &servers, new.prefix).await);
            if !twice.is_empty() {
                return Err(VirtualServersError::Collision(twice));
            }
        }
        Ok(())
    }

    /// The actor's own, by id.
    pub(crate) async fn list(
        &self,
        actor: &Actor,
        after: Option<VirtualServerId>,
        limit: u32,
    ) -> Result<Vec<VirtualServer>, VirtualServersError> {
        actor.require(Action::VirtualServersRead)?;
        let mut transaction = self.inner.database.begin(actor).await?;
        Ok(store::list(&mut transaction, &actor.to_string(), after.map(|after| after.0), limit.into()).await?)
    }

    /// One of the actor's own that is not removed.
    pub(crate) async fn get(&self, actor: &Actor, id: VirtualServerId) -> Result<VirtualServer, VirtualServersError> {
        actor.require(Action::VirtualServersRead)?;
        let mut transaction = self.inner.database.begin(actor).await?;
        let found = store::get(&mut transaction, id.0).await?;
        found.filter(|found| found.owner == actor.to_string() && found.deleted_at.is_none()).ok_or(VirtualServersError::NotFound)
    }

    /// One of the actor's own, held.
    async fn hold(
        &self,
        transaction: &mut PgConnection,
        actor: &Actor,
        id: VirtualServerId,
        expected: Option<i64>,
    ) -> Result<VirtualServer, VirtualServersError> {
        let held = store::hold(transaction, id.0).await?;
        let held = held.filter(|held| held.owner == actor.to_string()).ok_or(VirtualServersError::NotFound)?;
        if expected.is_none_or(|expected| expected == held.revision) { Ok(held) } else { Err(VirtualServersError::Stale(held.revision)) }
    }

    /// Changes one of the actor's own; its endpoint stays.
    pub(crate) async fn update(
        &self,
        actor: &Actor,
        id: VirtualServerId,
        change: Change,
        expected: Option<i64>,
    ) -> Result<VirtualServer, VirtualServersError> {
        actor.require(Action::VirtualServersWrite)?;
        let mut new = self.get(actor, id).await?;
        if expected.is_some_and(|expected| expected != new.revision) {
            return Err(VirtualServersError::Stale(new.revision));
        }
        let read = new.revision;
        change.apply(&mut new);
        self.check(actor, &mut new).await?;
        let mut transaction = self.inner.database.begin(actor).await?;
        // What was checked is what is written, unless somebody was quicker.
        self.hold(&mut transaction, actor, id, Some(read)).await?;
        self.write_in(&mut transaction, actor, "virtual_server.update", &mut new).await?;
        transaction.commit().await?;
        Ok(new)
    }

    /// Adds a source, or takes it away.
    pub(crate) async fn put_source(
        &self,
        actor: &Actor,
        id: VirtualServerId,
        source: &str,
        is_in: bool,
    ) -> Result<VirtualServer, VirtualServersError> {
        let mut tries = 0;
        loop {
            let VirtualServer { mut source_ids, revision, .. } = self.get(actor, id).await?;
            if !is_in && !source_ids.iter().any(|there| there == source) {
                return Err(VirtualServersError::NotFound);
            }
            source_ids.retain(|there| there != source);
            if is_in {
                source_ids.push(source.to_owned());
            }
            let change = Change { source_ids: Some(source_ids), ..Change::default() };
            match self.update(actor, id, change, Some(revision)).await {
                // Somebody was quicker: theirs stays.
                Err(VirtualServersError::Stale(_)) if tries < MOST_TRIES => tries += 1,
                other => return other,
            }
        }
    }

    /// Removes one of the actor's own, so that it can be restored; its endpoint is free.
    pub(crate) async fn remove(&self, actor: &Actor, id: VirtualServerId, expected: Option<i64>) -> Result<(), VirtualServersError> {
        actor.require(Action::VirtualServersWrite)?;
        let mut transaction = self.inner.database.begin(actor).await?;
        let mut held = self.hold(&mut transaction, actor, id, expected).await?;
        if held.deleted_at.is_some() {
            return Err(VirtualServersError::NotFound);
        }
        held.deleted_at = Some(clock::now());
        self.write_in(&mut transaction, actor, "virtual_server.delete", &mut held).await?;
        Ok(transaction.commit().await?)
    }

    /// Restores one of the actor's own, at the same endpoint where that is free; gives whether it is.
    pub(crate) async fn restore(&self, actor: &Actor, id: VirtualServerId) -> Result<(VirtualServer, bool), VirtualServersError> {
        actor.require(Action::VirtualServersWrite)?;
        let mut connection = self.inner.database.for_all().await?;
        let known = store::get(&mut connection, id.0).await?.filter(|known| known.owner == actor.to_string());
        drop(connection);
        let known = known.ok_or(VirtualServersError::NotFound)?;
        // Sources that went meanwhile are gone.
        let sources = self.inner.sources.kinds(&known.owner, &known.source_ids).await?;
        let mut transaction = self.inner.database.begin_for_all().await?;
        let mut held = self.hold(&mut transaction, actor, id, None).await?;
        if held.deleted_at.take().is_none() {
            return Err(VirtualServersError::NotFound);
        }
        let endpoint = self.endpoint_in(&mut transaction, id, Some(&held.endpoint)).await?;
        let is_same = endpoint == held.endpoint;
        held.endpoint = endpoint;
        held.source_ids = sources.into_iter().map(|(id, _)| id).collect();
        self.write_in(&mut transaction, actor, "virtual_server.restore", &mut held).await?;
        transaction.commit().await?;
        Ok((held, is_same))
    }

    /// Removes anybody's for ever.
    pub(crate) async fn erase_one(&self, actor: &Actor, id: VirtualServerId) -> Result<(), VirtualServersError> {
        actor.require(Action::VirtualServersErase)?;
        let mut transaction = self.inner.database.begin_for_all().await?;
        let held = store::hold(&mut transaction, id.0).await?.ok_or(VirtualServersError::NotFound)?;
        store::remove(&mut transaction, id.0).await?;
        self.tell_in(&mut transaction, actor, "virtual_server.erase", &held).await?;
        Ok(transaction.commit().await?)
    }

    /// What its sources come to.
    pub(crate) async fn reach(&self, server: &VirtualServer) -> Result<Vec<Reach>, VirtualServersError> {
        let mut all = Vec::new();
        for (source_id, kind) in self.inner.sources.kinds(&server.owner, &server.source_ids).await? {
            let server_id = match kind.parse::<ServerRef>() {
                Ok(named) => match self.inner.servers.inputs(&Viewer::owner(&server.owner), &named).await {
                    Ok((id, _)) => Some(id),
                    Err(ServersError::NotFound | ServersError::Denied) => None,
                    Err(error) => return Err(error.into()),
                },
                Err(_) => None,
            };
            all.push(Reach { source_id, kind, server_id });
        }
        Ok(all)
    }

    /// The ids of all servers that it offers.
    async fn servers_of(&self, server: &VirtualServer) -> Result<Vec<String>, VirtualServersError> {
        let of_sources = self.reach(server).await?.into_iter().filter_map(|reach| reach.server_id);
        Ok(server.server_ids.iter().cloned().chain(of_sources).collect())
    }

    /// One of the actor's own as the gateway serves it, with the ids of the servers that it offers.
    pub async fn served(&self, actor: &Actor, id: VirtualServerId) -> Result<(VirtualServer, Vec<String>), VirtualServersError> {
        let mut transaction = self.inner.database.begin(actor).await?;
        let found = store::get(&mut transaction, id.0).await?;
        drop(transaction);
        let found = found.filter(|found| found.owner == actor.to_string() && found.deleted_at.is_none());
        let found = found.ok_or(VirtualServersError::NotFound)?;
        let servers = self.servers_of(&found).await?;
        Ok((found, servers))
    }

    /// The one whose endpoint is a domain.
    pub async fn at(&self, domain: &str) -> Result<Option<VirtualServerId>, VirtualServersError> {
        let mut connection = self.inner.database.for_all().await?;
        Ok(store::at(&mut connection, domain).await?.map(VirtualServerId))
    }

    async fn write_in(
        &self,
        transaction: &mut PgConnection,
        actor: &Actor,
        action: &'static str,
        new: &mut VirtualServer,
    ) -> Result<(), VirtualServersError> {
        new.revision += 1;
        new.updated_at = clock::now();
        store::write(transaction, new).await?;
        self.tell_in(transaction, actor, action, new).await
    }

    async fn tell_in(
        &self,
        transaction: &mut PgConnection,
        actor: &Actor,
        action: &'static str,
        server: &VirtualServer,
    ) -> Result<(), VirtualServersError> {
        let told = NewEvent::change(action).on("virtual_server", server.id).with("endpoint", server.endpoint.clone());
        self.inner.audit.record_in(transaction, actor, told.with("revision", server.revision).of(&server.owner)).await?;
        let payload = json!({ "virtualServerId": server.id, "revision": server.revision, "deleted": server.deleted_at.is_some() });
        Ok(self.inner.events.publish_in(transaction, events::NewEvent::of(&server.owner, &VIRTUAL_SERVER_CHANGED, payload)).await?)
    }
}

impl Belongings for VirtualServers {
    fn erase<'a>(&'a self, transaction: &'a mut PgConnection, user: UserId) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let owner = format!("user:{user}");
            let count = store::erase(transaction, &owner).await.map_err(|error| error.to_string())?;
            if count > 0 {
                let event = NewEvent::change("virtual_server.erase").with("count", count).of(owner);
                let recorded = self.inner.audit.record_in(transaction, &Actor::system("erase"), event).await;
                recorded.map_err(|error| error.to_string())?;
            }
            Ok(())
        }
        .boxed()
    }
}
