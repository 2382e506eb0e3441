use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use audit::{Audit, EventType, NewEvent};
use configurations::{Configuration, Configurations, ConfigurationsError, Lifecycle};
use credentials::Credentials;
use events::{Events, Kind};
use futures_util::{FutureExt as _, future::BoxFuture};
use oauth::Oauth;
use packages::{Installation, NoToolchain, Packages, Toolchain};
use platform::{
    Action, Actor, Config, Database, Shutdown, client::Client, config::RuntimeConfig, database::DbError, redis::Redis, telemetry::Metrics,
};
use prometheus::IntCounterVec;
use sandbox::Machine;
use serde_json::{Value, json, value::RawValue};
use servers::{ServerRef, Servers, Viewer, uuid_of};
use sqlx::PgConnection;
use tokio::sync::Notify;
use users::{Belongings, UserId};
use uuid::Uuid;

use crate::{
    containers::{self, Engine},
    error::RuntimeError,
    fill,
    launch::{self, Known},
    live::Live,
    log::{Entry, Log},
    model::{Backend, Instance, InstanceId, Keeper, Kept, Reason, SessionName, State},
    process::Starter,
    reconcile::Handle,
    session::Session,
    states::Changes,
    store,
};

/// The event that says that an instance stands elsewhere than before.
pub static SERVER_STATE_CHANGED: Kind = Kind {
    name: "SERVER_STATE_CHANGED",
    channel: "servers",
    told: "When an instance goes from one state to another (docs/states.md).",
    heard_by: "Whose instance it is, and the operator.",
    payload: &[
        ("serverId", "the server's UUID"),
        ("instanceId", "the instance"),
        ("session", "the session that it is for, or null"),
        ("oldState", "where it stood; null for a new one"),
        ("newState", "where it stands"),
        ("reason", "why, as a code, where there is a reason"),
    ],
};

/// Running servers; cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) database: Database,
    pub(crate) audit: Audit,
    pub(crate) events: Events,
    pub(crate) servers: Servers,
    pub(crate) credentials: Credentials,
    pub(crate) configurations: Configurations,
    pub(crate) packages: Packages,
    pub(crate) oauth: Oauth,
    pub(crate) starter: Starter,
    pub(crate) engine: Arc<Engine>,
    /// For servers elsewhere.
    pub(crate) client: Client,
    pub(crate) config: RuntimeConfig,
    pub(crate) node: String,
    /// How long this fabric is believed to have its instances without a sign of life.
    pub(crate) lease: Duration,
    /// Folders that no server is given.
    pub(crate) own_folders: Vec<PathBuf>,
    pub(crate) shutdown: Shutdown,
    /// What is switched on here and not taken up yet, by owner and server.
    pub(crate) starts: Mutex<HashSet<(String, String)>>,
    /// What this process runs, by configuration and session.
    pub(crate) active: Mutex<HashMap<(Uuid, String), Handle>>,
    /// Servers of which something may have changed.
    pub(crate) to_look_at: Mutex<BTreeSet<String>>,
    /// There are some.
    pub(crate) wake: Notify,
    /// Held while it is looked whether there is room, until that is taken.
    pub(crate) admission: tokio::sync::Mutex<()>,
    programs: tokio::sync::Mutex<HashMap<String, PathBuf>>,
    pub(crate) changes: Option<Arc<Changes>>,
    transitions: IntCounterVec,
}

/// The instance that an event is about.
pub(crate) struct About<'a> {
    pub(crate) id: InstanceId,
    pub(crate) owner: &'a str,
    pub(crate) server_id: &'a str,
    pub(crate) session: &'a str,
}

/// The event of a step.
pub(crate) fn changed(about: &About<'_>, from: Option<State>, to: State, reason: Option<&Reason>) -> events::NewEvent {
    let payload = json!({
        "serverId": uuid_of(about.server_id), "instanceId": about.id, "session": (!about.session.is_empty()).then_some(about.session),
        "oldState": from, "newState": to, "reason": reason.map(|reason| &reason.code),
    });
    events::NewEvent::of(about.owner, &SERVER_STATE_CHANGED, payload).about(about.server_id)
}

/// What instances work with.
pub struct Neighbours {
    /// The database.
    pub database: Database,
    /// The audit trail.
    pub audit: Audit,
    /// Changes are told, and listened to.
    pub events: Events,
    /// Which servers there are.
    pub servers: Servers,
    /// What they are given in confidence.
    pub credentials: Credentials,
    /// What is to run.
    pub configurations: Configurations,
    /// What is run.
    pub packages: Packages,
    /// Logins at servers elsewhere.
    pub oauth: Oauth,
    /// What starts processes.
    pub machine: Arc<Machine>,
    /// Where replicas keep answers for each other.
    pub redis: Option<Redis>,
}

/// What an instance uses now.
pub use sandbox::Usage;

impl Inner {
    pub(crate) fn active(&self) -> std::sync::MutexGuard<'_, HashMap<(Uuid, String), Handle>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self, from: State, to: State, outcome: &str) {
        self.transitions.with_label_values(&[from.as_str(), to.as_str(), outcome]).inc();
    }

    /// Stores a step, with its event; false when the row is not where it should be, or somebody else's.
    /// What is `given_up` is switched off in the same transaction.
    pub(crate) async fn store_step(
        &self,
        instance: &Instance,
        to: State,
        reason: Option<&Reason>,
        given_up: Option<&Configuration>,
    ) -> Result<bool, RuntimeError> {
        let about = About { id: instance.id, owner: &instance.owner, server_id: &instance.server_id, session: &instance.session };
        let told = changed(&about, Some(instance.state), to, reason).prepare();
        let Some((wanted, reason)) = given_up.zip(reason) else {
            let mut connection = self.database.for_all().await?;
            return Ok(store::step(&mut connection, instance, to, reason, &told).await?);
        };
        let mut transaction = self.database.begin_for_all().await?;
        self.configurations.give_up_in(&mut transaction, &Actor::system("runtime"), wanted, &reason.code).await?;
        if !store::step(&mut transaction, instance, to, Some(reason), &told).await? {
            return Ok(false);
        }
        transaction.commit().await.map_err(DbError::from)?;
        Ok(true)
    }

    /// What an instance may use, and who keeps it.
    pub(crate) fn limits(&self, asked: &configurations::Limits, is_container: bool) -> Kept {
        let kept = self.starter.limits(asked);
        if is_container { Kept { limits: Keeper::Engine, files_closed: true, ..kept } } else { kept }
    }

    /// A program by its name; interpreters are asked for once.
    pub(crate) async fn program(&self, name: &str) -> Result<PathBuf, NoToolchain> {
        if name.starts_with('/') {
            return Ok(name.into());
        }
        let toolchain = match name {
            "node" => Toolchain::Node,
            "python" | "python3" => Toolchain::Python,
            other => {
                let places = ["/usr/local/bin", "/usr/bin", "/bin"].map(|folder| Path::new(folder).join(other));
                return Ok(places.iter().find(|place| place.is_file()).unwrap_or(&places[1]).clone());
            }
        };
        let mut programs = self.programs.lock().await;
        if let Some(known) = programs.get(name).filter(|known| known.is_file()) {
            return Ok(known.clone());
        }
        let found = toolchain.find_for_servers(self.packages.place()).await?.program;
        programs.insert(name.to_owned(), found.clone());
        Ok(found)
    }
}

impl Runtime {
    /// Looks at what this machine can keep servers from. Nothing runs yet.
    pub fn new(config: &Config, node: &str, neighbours: Neighbours, metrics: &Metrics, shutdown: &Shutdown) -> Result<Self, RuntimeError> {
        let Neighbours { database, audit, events, servers, credentials, configurations, packages, oauth, machine, redis } = neighbours;
        tracing::info!("how servers are kept from the rest of this machine: {}", machine.describe());
        let starter = Starter::new(packages.place(), machine, &config.runtime)?;
        let own = [config.data_dir.clone(), config.cache.dir.clone(), config.config_dir.clone(), packages.place().to_owned()];
        let own_folders = own.iter().filter_map(|folder| std::fs::canonicalize(folder).ok()).collect();
        let transitions = metrics.counters("state_transitions_total", "Steps of instances, by outcome", &["from", "to", "outcome"]);
        let changes = redis.map(|redis| Arc::new(Changes::new(redis, events.position())));
        let inner = Inner {
            database,
            audit,
            events,
            servers,
            credentials,
            configurations,
            packages,
            oauth,
            starter,
            client: Client::direct(config.allowed_hosts.iter().cloned(), config.offline)?,
            engine: Engine::new(config.runtime.engine.as_deref(), node, metrics),
            config: config.runtime.clone(),
            node: node.to_owned(),
            lease: config.jobs.lease,
            own_folders,
            shutdown: shutdown.clone(),
            starts: Mutex::default(),
            active: Mutex::default(),
            to_look_at: Mutex::default(),
            wake: Notify::new(),
            admission: tokio::sync::Mutex::default(),
            programs: tokio::sync::Mutex::default(),
            changes,
            transitions,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Begins to run what is wanted. `local` is where this fabric is reached from this machine.
    pub fn start(&self, local: &str) {
        self.inner.engine.set_registry(local.split_once("://").map_or(local, |(_, address)| address).to_owned());
        if let Some(changes) = &self.inner.changes {
            self.inner.shutdown.spawn(Arc::clone(changes).follow(self.clone(), self.inner.events.subscribe()));
        }
        if self.inner.config.most_instances > 0 {
            self.inner.shutdown.spawn(Arc::clone(&self.inner).reconcile());
        }
    }

    /// Says that the actor wants a server to run; gives the instance, which may not run yet. A session has one of its own,
    /// where the configuration says so.
    pub async fn start_server(&self, actor: &Actor, server: &ServerRef, session: Option<&SessionName>) -> Result<Instance, RuntimeError> {
        actor.require(Action::InstancesManage)?;
        let there = self.inner.known(&Viewer::of(actor), server).await?;
        let id = &there.described.id;
        actor.require_server(Action::InstancesManage, id)?;
        let known = self.inner.configurations.of(&actor.to_string(), id).await?;
        self.require_inputs(actor, &there, known.as_ref()).await?;
        if session.is_some() && !known.as_ref().is_some_and(Configuration::is_per_session) {
            return Err(RuntimeError::Field("query.session", "is for configurations whose sharing or lifecycle is per_session"));
        }
        let session = session.map_or("", SessionName::as_str);
        let (limits, except) = known.as_ref().map(|known| (known.limits, Some((known.id.0, session)))).unwrap_or_default();
        self.inner.require_room(&actor.to_string(), &limits, except).await?;
        let _begun = self.inner.begin_start(actor, id);
        let configuration = match known {
            Some(known) if known.enabled => known,
            _ => self.inner.configurations.enable_known(actor, id).await?,
        };
        Arc::clone(&self.inner).ensure_of(there, &configuration, session).await
    }

    /// Fails when a server needs values that the actor has not given.
    async fn require_inputs(&self, actor: &Actor, server: &Known, configuration: Option<&Configuration>) -> Result<(), RuntimeError> {
        let values = configuration.map(|found| found.values.clone()).unwrap_or_default();
        let names = self.inner.credentials.held(actor, &server.described.id).await?;
        // Whether they are there is all that matters here.
        let held = names.into_iter().map(|name| (name, String::new().into())).collect();
        let filled = if let Some(entry) = server.remote() {
            let given = fill::Given { values: &values, secrets: &held, args: None, env: &BTreeMap::new() };
            fill::remote(entry, &given).map(drop)
        } else {
            let installation = server.installation.as_ref();
            let entry = if let Some(installation) = installation {
                self.inner.packages.entry(&server.described.document, installation, None)
            } else {
                actor.require(Action::PackagesInstall)?;
                self.inner.packages.entry_to_be(actor, &server.described)?
            };
            let args = installation.and_then(Installation::args_instead);
            let env = installation.map(|found| found.env.clone()).unwrap_or_default();
            fill::fill(&entry, &fill::Given { values: &values, secrets: &held, args, env: &env }).map(drop)
        };
        match filled {
            Err(fill::Unfilled::Missing(names)) => Err(RuntimeError::Missing(names)),
            Err(other) => Err(RuntimeError::Unfit(launch::unfilled(other).text)),
            Ok(()) => Ok(()),
        }
    }

    /// Says that the actor does not want a server to run; gives the instance, which may still be ending. The end of a
    /// session is no matter of the others.
    pub async fn stop_server(&self, actor: &Actor, server: &ServerRef, session: Option<&SessionName>) -> Result<Instance, RuntimeError> {
        let configuration = self.wanted(actor, Action::InstancesManage, server).await?;
        if let Some(session) = session {
            let instance = self.instance_of(&configuration, session.as_str()).await?;
            self.inner.stop_now(&instance).await?;
            return self.instance_of(&configuration, session.as_str()).await;
        }
        if configuration.enabled {
            self.inner.configurations.enable(actor, server, false).await?;
            self.inner.look_at(&configuration.server_id);
        }
        self.instance_of(&configuration, "").await
    }

    /// Starts a server anew that runs.
    pub async fn restart_server(&self, actor: &Actor, server: &ServerRef) -> Result<Instance, RuntimeError> {
        let configuration = self.wanted(actor, Action::InstancesManage, server).await?;
        let instance = self.instance_of(&configuration, "").await?;
        if instance.state != State::Running {
            return Err(RuntimeError::Illegal(instance.state));
        }
        let told = NewEvent::new(EventType::Execution, "instance.restart").on("instance", instance.id).server(&instance.server_id);
        self.inner.audit.record(actor, told.of(&instance.owner)).await?;
        let active = self.inner.active();
        let handle = active.get(&(instance.configuration, instance.session.clone())).ok_or(RuntimeError::Elsewhere)?;
        handle.wanted.send_modify(|wanted| wanted.restart += 1);
        Ok(instance)
    }

    /// The actor's configuration for a server.
    async fn wanted(&self, actor: &Actor, action: Action, server: &ServerRef) -> Result<Configuration, RuntimeError> {
        actor.require(action)?;
        let id = self.inner.servers.id_of(server).await?;
        actor.require_server(action, &id)?;
        let found = self.inner.configurations.of(&actor.to_string(), &id).await?;
        found.ok_or(RuntimeError::Configurations(ConfigurationsError::NotFound))
    }

    /// The instance of a configuration that is for no session, if there ever was one.
    pub async fn main_instance(&self, configuration: &Configuration) -> Result<Option<Instance>, RuntimeError> {
        self.find_instance(configuration, "").await
    }

    async fn find_instance(&self, configuration: &Configuration, session: &str) -> Result<Option<Instance>, RuntimeError> {
        Ok(self.inner.there(configuration.id.0, session).await?)
    }

    async fn instance_of(&self, configuration: &Configuration, session: &str) -> Result<Instance, RuntimeError> {
        self.find_instance(configuration, session).await?.ok_or(RuntimeError::NotRunning)
    }

    fn live(&self, instance: &Instance) -> Option<Arc<Live>> {
        self.inner.live(instance.configuration, &instance.session)
    }

    /// What an instance of this process uses now.
    pub async fn usage(&self, instance: &Instance) -> Option<Usage> {
        let watch = self.live(instance)?.watch()?;
        watch.usage().await
    }

    /// The newest lines of the log of an instance, oldest first.
    pub async fn log(&self, actor: &Actor, id: InstanceId, lines: usize) -> Result<Vec<Entry>, RuntimeError> {
        let instance = self.get(actor, id, Action::InstancesRead).await?;
        let folder = self.inner.starter.folder(instance.id);
        Ok(tokio::task::spawn_blocking(move || Log::tail(&folder, lines)).await.unwrap_or_default())
    }

    /// The lines of an instance from now on; `None` where nothing says any here.
    pub async fn follow(&self, actor: &Actor, id: InstanceId) -> Result<Option<tokio::sync::broadcast::Receiver<Entry>>, RuntimeError> {
        let instance = self.get(actor, id, Action::InstancesRead).await?;
        Ok(self.live(&instance).map(|live| live.log.follow()))
    }

    /// The server of an instance, once it answers: one that starts on demand is started.
    async fn session(&self, instance: &Instance) -> Result<(Arc<Live>, Arc<Session>), RuntimeError> {
        let is_on_demand = async {
            let found = self.inner.configurations.of(&instance.owner, &instance.server_id).await?;
            Ok::<_, RuntimeError>(found.filter(|found| found.enabled && found.lifecycle != Lifecycle::Persistent))
        };
        let live = match self.live(instance) {
            Some(live) => live,
            None if instance.node != self.inner.node && !instance.state.is_over() => return Err(RuntimeError::Elsewhere),
            None => {
                let configuration = is_on_demand.await?.ok_or(RuntimeError::NotRunning)?;
                Arc::clone(&self.inner).ensure(&configuration, &instance.session).await?;
                self.live(instance).ok_or(RuntimeError::NotRunning)?
            }
        };
        let session = self.inner.answering(&live).await?;
        Ok((live, session))
    }

    /// The tools of an instance, as its server describes them.
    pub async fn tools(&self, actor: &Actor, id: InstanceId) -> Result<Vec<Value>, RuntimeError> {
        let instance = self.usable(actor, id, Action::InstancesRead).await?;
        let (_, session) = self.session(&instance).await?;
        let mut tools = session.tools(self.inner.config.call_limit).await?;
        tools.retain(|tool| actor.may_use_tool(&instance.server_id, tool["name"].as_str().unwrap_or_default()));
        Ok(tools)
    }

    /// Calls a tool of an instance of the actor's own, or of one that is shared; what it gives stays as it came.
    pub async fn call(&self, actor: &Actor, id: InstanceId, tool: &str, arguments: &Value) -> Result<Box<RawValue>, RuntimeError> {
        let instance = self.usable(actor, id, Action::ToolsCall).await?;
        if instance.owner != actor.to_string() && !self.inner.is_shared(&instance).await? {
            let reason =
                "a tool works with what its owner gave in confidence, and is called by its owner alone, unless they share it".to_owned();
            return Err(actor.denied(Action::ToolsCall, reason).into());
        }
        if !actor.may_use_tool(&instance.server_id, tool) {
            return Err(actor.denied(Action::ToolsCall, "this token is not for that tool".to_owned()).into());
        }
        let told = NewEvent::new(EventType::Execution, "tool.call").on("instance", instance.id).server(&instance.server_id);
        self.inner.audit.record(actor, told.with("tool", crate::wire::plain(tool, 128)).of(&instance.owner)).await?;
        let (live, session) = self.session(&instance).await?;
        let called = session.call(tool, arguments, self.inner.config.call_limit).await;
        live.touch();
        Ok(called?)
    }

    /// Stops an instance where it runs, and removes it with its folder and its log.
    pub async fn remove(&self, actor: &Actor, id: InstanceId) -> Result<(), RuntimeError> {
        let instance = self.get(actor, id, Action::InstancesManage).await?;
        let told = NewEvent::change("instance.remove").on("instance", instance.id).server(&instance.server_id).of(&instance.owner);
        self.inner.audit.record(actor, told).await?;
        let configuration = self.inner.configurations.of(&instance.owner, &instance.server_id).await?;
        // One session says nothing of the others.
        if let Some(wanted) = configuration.filter(|wanted| wanted.enabled && instance.session.is_empty()) {
            let system = Actor::system("runtime");
            self.inner.configurations.give_up(&system, &wanted, "removed").await?;
        }
        self.inner.look_at(&instance.server_id);
        self.inner.stop_now(&instance).await?;
        store::remove(&mut *self.inner.database.for_all().await?, instance.id).await?;
        if let Some(changes) = &self.inner.changes {
            changes.forget(&instance.owner).await;
        }
        if instance.backend == Backend::Container
            && let Err(error) = self.inner.engine.remove(&containers::name_of(instance.id)).await
        {
            tracing::warn!(%error, "the container of an instance that was removed could not be removed");
        }
        Ok(self.inner.starter.forget(instance.id)?)
    }
}

impl Belongings for Runtime {
    fn erase<'a>(&'a self, transaction: &'a mut PgConnection, user: UserId) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let owner = format!("user:{user}");
            let servers = store::erase(transaction, &owner).await.map_err(|error| error.to_string())?;
            for server in servers {
                self.inner.look_at(&server);
                let event = NewEvent::change("instance.erase").server(server).of(owner.clone());
                let recorded = self.inner.audit.record_in(transaction, &Actor::system("erase"), event).await;
                recorded.map_err(|error| error.to_string())?;
            }
            Ok(())
        }
        .boxed()
    }
}
