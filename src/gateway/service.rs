use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use audit::Audit;
use axum::http::HeaderMap;
use configurations::Configuration;
use events::Events;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, join_all},
};
use moka::future::Cache;
use platform::{
    Actor, Config, Identity, Shutdown,
    actor::Entry,
    config::GatewayConfig,
    http::Address,
    telemetry::Metrics,
    traces::{Traces, TracesError},
};
use prometheus::{HistogramVec, IntCounterVec, IntGauge};
use runtime::{Era, Party, Runtime, RuntimeError, Session};
use serde_json::value::RawValue;
use servers::Servers as Catalogue;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use virtual_servers::{Names, Offers, Prefix, VirtualServer, VirtualServerId, VirtualServers, VirtualServersError};

use crate::{
    backend::{Backend, Listing},
    client::{Client, Introduction},
    error::GatewayError,
    guard::Guard,
    hearer::Listening,
    lists::Kind,
    names,
    offer::Offer,
    parked::Lot,
    place::Place,
    resource::Resource,
    rpc::{Fault, UNAVAILABLE},
};

/// How long a change that another replica made may go unnoticed here.
const MEMORY: Duration = Duration::from_secs(2);
const REMEMBERED: u64 = 10_000;
/// How often it is looked for what nobody needs any more.
const SWEEP: Duration = Duration::from_secs(15);

/// The endpoints of MCP clients; cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) runtime: Runtime,
    pub(crate) audit: Audit,
    pub(crate) servers: Catalogue,
    pub(crate) config: GatewayConfig,
    /// Whether the trail is told of arguments.
    pub(crate) tells_arguments: bool,
    /// Where spans go.
    pub(crate) traces: Option<Traces>,
    /// How long a server may take for a call.
    pub(crate) call_limit: Duration,
    pub(crate) guard: Guard,
    /// Tokens of an external issuer, where there is one.
    pub(crate) resource: Option<Resource>,
    address: Address,
    pub(crate) shutdown: Shutdown,
    pub(crate) lot: Lot,
    pub(crate) seconds: HistogramVec,
    pub(crate) errors: IntCounterVec,
    /// By actor and token: what they may use.
    pub(crate) members: Cache<(String, Option<Uuid>), Usable>,
    /// How many requests of each actor are worked on.
    busy: Mutex<HashMap<String, usize>>,
    /// Modern clients that listen.
    listeners: Mutex<Vec<Listener>>,
    /// By actor: virtual servers, and the ids of the servers that they offer.
    pub(crate) put_together: Cache<(String, VirtualServerId), PutTogether>,
    /// By domain: whose endpoint it is.
    pub(crate) domains: Cache<String, Option<VirtualServerId>>,
    virtual_servers: VirtualServers,
    backends: Mutex<HashMap<(Uuid, String), Arc<Backend>>>,
    clients: Mutex<HashMap<String, Arc<Client>>>,
    open: IntGauge,
    parties: AtomicU64,
}

/// How many requests of one actor are worked on at once: the trail has to have places for everybody's.
const MOST_OF_ONE: usize = 256;

/// A request that is worked on, among those of its actor.
pub(crate) struct Busy {
    gateway: Gateway,
    name: String,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut busy = self.gateway.busy();
        if let Some(count) = busy.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                busy.remove(&self.name);
            }
        }
    }
}

/// A modern client that listens: who, where.
#[derive(Clone)]
pub(crate) struct Listener {
    pub(crate) actor: Actor,
    pub(crate) place: Place,
    pub(crate) party: Party,
    pub(crate) listening: Weak<Listening>,
}

/// A virtual server, and the ids of the servers that it offers.
pub(crate) type PutTogether = Arc<(Arc<VirtualServer>, Vec<String>)>;
/// What an actor may use, by the ids of servers.
pub(crate) type Usable = Arc<Vec<Arc<Configuration>>>;

/// What the gateway works with.
pub struct Neighbours {
    /// What runs.
    pub runtime: Runtime,
    /// Every call is told.
    pub audit: Audit,
    /// Which servers there are.
    pub servers: Catalogue,
    /// What people have put together.
    pub virtual_servers: VirtualServers,
    /// Domains of virtual servers that are not in the pool any more.
    pub kept_domains: Vec<String>,
    /// What comes and goes.
    pub events: Events,
}

impl Gateway {
    /// The service; what looks after sessions has begun.
    pub fn start(config: &Config, neighbours: Neighbours, metrics: &Metrics, shutdown: &Shutdown) -> Result<Self, TracesError> {
        let Neighbours { runtime, audit, servers, virtual_servers, kept_domains, events } = neighbours;
        let traces = config.traces.as_ref().map(|traces| Traces::start(traces, shutdown)).transpose()?;
        let buckets = [0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 10.0, 60.0];
        let gateway = Self {
            inner: Arc::new(Inner {
                runtime,
                audit,
                servers,
                config: config.gateway.clone(),
                call_limit: config.runtime.call_limit,
                guard: Guard::new(config, &kept_domains),
                resource: Resource::new(config),
                tells_arguments: config.audit.arguments,
                traces,
                address: config.cache.address.clone(),
                shutdown: shutdown.clone(),
                lot: Lot::default(),
                seconds: metrics.seconds(
                    "mcp_request_seconds",
                    "Time of a server's answers, by server and method",
                    &["server", "method"],
                    &buckets,
                ),
                errors: metrics.counters(
                    "mcp_request_errors_total",
                    "Requests that servers did not answer with a result",
                    &["server", "name"],
                ),
                members: Cache::builder().max_capacity(REMEMBERED).time_to_live(MEMORY).build(),
                put_together: Cache::builder().max_capacity(REMEMBERED).time_to_live(MEMORY).build(),
                domains: Cache::builder().max_capacity(REMEMBERED).time_to_live(MEMORY).build(),
                virtual_servers,
                busy: Mutex::default(),
                listeners: Mutex::default(),
                backends: Mutex::default(),
                clients: Mutex::default(),
                open: metrics.gauge("mcp_sessions", "Sessions of clients that speak with a handshake"),
                parties: AtomicU64::new(1),
            }),
        };
        shutdown.spawn(gateway.clone().sweep());
        shutdown.spawn(gateway.clone().follow(events.subscribe()));
        Ok(gateway)
    }

    /// How whoever sent a request reaches this fabric.
    pub(crate) fn address(&self, headers: &HeaderMap) -> Result<String, GatewayError> {
        self.inner.address.of(headers).ok_or(GatewayError::Field("header.host", "has to say how this fabric is reached"))
    }

    /// Takes a place for a request of an actor, who has a number of them.
    pub(crate) fn admit(&self, actor: &Actor) -> Result<Busy, Fault> {
        let name = actor.to_string();
        let mut busy = self.busy();
        let count = busy.entry(name.clone()).or_default();
        if *count >= MOST_OF_ONE {
            return Err(Fault::too_many());
        }
        *count += 1;
        Ok(Busy { gateway: self.clone(), name })
    }

    fn busy(&self) -> std::sync::MutexGuard<'_, HashMap<String, usize>> {
        self.inner.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn listeners(&self) -> std::sync::MutexGuard<'_, Vec<Listener>> {
        self.inner.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, somebody hears of servers that come.
    pub(crate) fn note_listener(&self, listener: Listener) {
        let mut all = self.listeners();
        all.retain(|other| other.listening.strong_count() > 0);
        all.push(listener);
    }

    /// Whether a server is known to have a tool of this name.
    pub(crate) fn lists_tool(&self, server: &Configuration, name: &str) -> bool {
        let backends = self.backends();
        let mut known = backends.values().filter(|backend| backend.configuration.id == server.id).filter_map(|one| one.known(Kind::Tools));
        known.any(|list| list.items.iter().any(|tool| tool.key == name))
    }

    /// Who has no session is one party with all that it asks.
    pub(crate) fn party_of(actor: &Actor) -> Party {
        let digest = Sha256::digest(actor.to_string().as_bytes());
        let number = digest.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        // Sessions are counted from one on, and never come so far.
        Party(number | 1 << 63)
    }

    pub(crate) fn party(&self) -> Party {
        Party(self.inner.parties.fetch_add(1, Ordering::Relaxed))
    }

    /// The servers of an endpoint that an actor may use.
    pub(crate) async fn members(&self, actor: &Actor, place: &Place) -> Result<Offer, GatewayError> {
        let key = (actor.to_string(), token_of(actor));
        let load = async { Ok::<_, RuntimeError>(Arc::new(self.inner.runtime.usable_configurations(actor).await?)) };
        let all = self.inner.members.try_get_with(key, load).await?;
        match place {
            Place::All => Ok(Offer::of(all)),
            Place::Server(id) => {
                let one = all.iter().find(|one| one.server_id == *id).cloned();
                Ok(Offer::of(Arc::new(vec![one.ok_or(GatewayError::NoServer)?])))
            }
            Place::Virtual(id) => {
                let load = async {
                    let (server, ids) = self.inner.virtual_servers.served(actor, *id).await?;
                    Ok::<_, VirtualServersError>(Arc::new((Arc::new(server), ids)))
                };
                let found = self.inner.put_together.try_get_with((actor.to_string(), *id), load).await?;
                let (server, ids) = (Arc::clone(&found.0), &found.1);
                let servers = all.iter().filter(|one| ids.contains(&one.server_id)).cloned().collect();
                Ok(Offer::put_together(servers, server))
            }
        }
    }

    /// What a server's things are called at an endpoint of several; none for one that does not list them in time.
    async fn names_of(&self, configuration: &Arc<Configuration>, kind: Kind, prefix: Prefix) -> Vec<String> {
        let within = self.inner.config.list_limit;
        let listed = async {
            let (backend, session) = self.reach(configuration, "").await.ok()?;
            match backend.list(kind, &session, within).await {
                Listing::Known(list) => Some(list),
                Listing::Missing(_) => None,
            }
        };
        let Some(list) = tokio::time::timeout(within, listed).await.ok().flatten() else { return Vec::new() };
        let server = names::server(&configuration.server_id);
        list.items.iter().map(|item| names::at(prefix, &server, &item.key)).collect()
    }

    /// The virtual server whose endpoint a request came to, by its `Host`.
    pub(crate) async fn at_domain(&self, headers: &HeaderMap) -> Result<Option<VirtualServerId>, GatewayError> {
        match self.inner.guard.domain_of(headers) {
            // A domain that is nobody's has nothing, and not everything.
            Some(domain) => match self.inner.domains.try_get_with(domain.to_owned(), self.inner.virtual_servers.at(domain)).await? {
                None => Err(GatewayError::NoServer),
                found => Ok(found),
            },
            None => Ok(None),
        }
    }

    pub(crate) fn backends(&self) -> std::sync::MutexGuard<'_, HashMap<(Uuid, String), Arc<Backend>>> {
        self.inner.backends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn clients(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Client>>> {
        self.inner.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A server and what it is spoken to through, once it answers.
    pub(crate) async fn reach(&self, configuration: &Arc<Configuration>, session: &str) -> Result<(Arc<Backend>, Arc<Session>), Fault> {
        let reached = self.inner.runtime.reach(configuration, session).await.map_err(|error| unreachable_server(&error))?;
        let current = Arc::clone(&reached.session);
        let mut backends = self.backends();
        let key = (configuration.id.0, session.to_owned());
        if let Some(backend) = backends.get(&key).filter(|backend| backend.reached.is_of_one_life(&reached)) {
            backend.note_sharing(configuration.sharing);
            return Ok((Arc::clone(backend), current));
        }
        let before = backends.get(&key).cloned();
        let backend = Backend::begin(Arc::clone(configuration), reached, before.as_deref(), &self.inner.shutdown);
        backends.insert(key, Arc::clone(&backend));
        Ok((backend, current))
    }

    /// A session for a client that introduces itself.
    pub(crate) fn open(&self, actor: &Actor, place: Place, introduction: Introduction) -> Result<Arc<Client>, GatewayError> {
        let client = Arc::new(Client::new(actor.to_string(), place, self.party(), introduction));
        let mut clients = self.clients();
        let of_one = clients.values().filter(|other| other.owner() == client.owner()).count();
        if clients.len() >= self.inner.config.most_sessions || of_one >= self.inner.config.most_sessions_of_one {
            // Whoever has been idle longest, of the same actor if these are too many, can come back.
            let is_own_matter = of_one >= self.inner.config.most_sessions_of_one;
            let candidates = clients.values().filter(|other| !is_own_matter || other.owner() == client.owner());
            let oldest = candidates.max_by_key(|other| other.idle_for()).filter(|other| other.idle_for() > Duration::from_secs(1));
            let oldest = oldest.map(|oldest| oldest.id.clone()).ok_or(GatewayError::TooManySessions)?;
            if let Some(ended) = clients.remove(&oldest) {
                self.finish(&ended);
            }
        }
        clients.insert(client.id.clone(), Arc::clone(&client));
        self.inner.open.set(i64::try_from(clients.len()).unwrap_or(i64::MAX));
        Ok(client)
    }

    /// A session, if it is this actor's at this place.
    pub(crate) fn client(&self, id: &str, actor: &Actor, place: &Place) -> Option<Arc<Client>> {
        let client = self.clients().get(id).filter(|client| client.is_of(&actor.to_string(), place)).cloned()?;
        client.touch();
        Some(client)
    }

    /// Ends a session.
    pub(crate) fn close(&self, client: &Client) {
        let mut clients = self.clients();
        if let Some(ended) = clients.remove(&client.id) {
            self.inner.open.set(i64::try_from(clients.len()).unwrap_or(i64::MAX));
            drop(clients);
            self.finish(&ended);
        }
    }

    fn finish(&self, client: &Client) {
        self.detach(client.party);
        for (configuration, session) in client.end() {
            let runtime = self.inner.runtime.clone();
            self.inner.shutdown.spawn(async move {
                if let Err(error) = runtime.end_session(&configuration, &session).await {
                    tracing::debug!(%error, "the instance of a session could not be ended; it ends when it is idle");
                }
            });
        }
    }

    /// Nobody of this party hears anything any more.
    pub(crate) fn detach(&self, party: Party) {
        self.backends().values().for_each(|backend| backend.detach(party.0));
    }

    /// Tells servers that a session uses what their client has to say; those that have no handshake need not know.
    pub(crate) async fn tell_servers(&self, servers: &Offer, party: Party, method: &str, params: Option<&RawValue>) {
        let heard: Vec<Arc<Backend>> = self.backends().values().filter(|backend| backend.is_heard_by(party.0)).cloned().collect();
        for backend in heard {
            let session = backend.reached.sessions().borrow().clone();
            let is_one_of_them = servers.iter().any(|server| server.id == backend.configuration.id);
            if let Some(session) = session.filter(|session| is_one_of_them && session.era == Era::Legacy)
                && session.notify(method, params.map(RawValue::get)).await.is_err()
            {
                tracing::debug!(server = backend.configuration.server_id, "a server that ends could not be told something");
            }
        }
    }

    /// Whether a session hears a server already.
    pub(crate) fn is_attached(&self, server: &Configuration, party: Party) -> bool {
        self.backends().values().any(|backend| backend.configuration.id == server.id && backend.is_heard_by(party.0))
    }

    async fn sweep(self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(SWEEP) => {}
                () = self.inner.shutdown.begun() => return,
            }
            self.inner.lot.sweep();
            let idle: Vec<Arc<Client>> =
                self.clients().values().filter(|client| client.idle_for() > self.inner.config.session_idle).cloned().collect();
            for client in idle {
                self.close(&client);
            }
            for client in self.clients().values() {
                client.prune();
            }
            for backend in self.backends().values() {
                backend.keep_alive();
            }
            self.backends().retain(|_, backend| !backend.reached.is_over() || backend.is_heard());
        }
    }
}

impl Offers for Gateway {
    fn names<'a>(&'a self, actor: &'a Actor, servers: &'a [String], prefix: Prefix) -> BoxFuture<'a, Vec<Names>> {
        async move {
            let Ok(all) = self.members(actor, &Place::All).await else { return Vec::new() };
            let wanted = all.iter().filter(|one| servers.contains(&one.server_id) && !one.is_per_session());
            let listed = wanted.map(async |configuration| {
                let (tools, prompts) =
                    tokio::join!(self.names_of(configuration, Kind::Tools, prefix), self.names_of(configuration, Kind::Prompts, prefix));
                Names { tools, prompts }
            });
            join_all(listed).await
        }
        .boxed()
    }
}

/// The token that an actor came with, if it was one with limits.
fn token_of(actor: &Actor) -> Option<Uuid> {
    match &actor.identity {
        Identity::User { entry: Entry::Token(grant), .. } | Identity::Service(grant) => Some(grant.token),
        Identity::User { .. } | Identity::Nobody | Identity::Operator | Identity::System(_) => None,
    }
}

/// Why a server cannot be spoken to, for a client.
fn unreachable_server(error: &RuntimeError) -> Fault {
    if platform::Coded::class(error) == platform::Class::Internal {
        tracing::error!(%error, "a server could not be reached");
    }
    Fault::of(UNAVAILABLE, platform::public_message(error)).with(serde_json::json!({ "code": platform::Coded::code(error) }))
}
