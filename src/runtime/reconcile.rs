//! From what is wanted to what runs: one loop that compares the two, and is woken by every change.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use configurations::{CONFIGURATION_CHANGED, Configuration, Lifecycle};
use events::{Audience, Event};
use packages::INSTALLATION_CHANGED;
use platform::{clock, database::DbError};
use servers::CATALOG_CHANGED;
use tokio::sync::{
    broadcast::error::{RecvError, TryRecvError},
    watch,
};
use uuid::Uuid;

use crate::{
    containers::{self, INSTANCE},
    error::RuntimeError,
    launch::Known,
    live::{Live, Wanted},
    log::Log,
    model::{Backend, Cap, Instance, InstanceId, Reason, State},
    service::{About, Inner, SERVER_STATE_CHANGED, changed},
    store::{self, Claim, Lost},
    supervisor::{FABRIC_STOPPED, Supervisor},
};

/// How often trees are removed that nothing uses.
const SWEEP: Duration = Duration::from_mins(30);

/// After how long everything is compared again when that failed.
const AGAIN: Duration = Duration::from_secs(1);

/// How long the log of a session that ended can be read.
const SESSIONS_KEPT: TimeDelta = TimeDelta::days(1);

/// An instance that this process runs.
pub(crate) struct Handle {
    pub(crate) id: InstanceId,
    pub(crate) wanted: watch::Sender<Wanted>,
    pub(crate) live: Arc<Live>,
}

/// What may be another thing by now.
#[derive(Default)]
struct News {
    /// Of these servers.
    servers: BTreeSet<String>,
    /// Of any.
    is_all: bool,
    /// Another fabric may have ended.
    fabric_stopped: bool,
}

impl News {
    fn all() -> Self {
        Self { is_all: true, ..Self::default() }
    }

    fn is_none(&self) -> bool {
        self.servers.is_empty() && !self.is_all
    }

    /// The servers that are to be looked at, unless all are.
    fn servers(self) -> Option<Vec<String>> {
        (!self.is_all).then(|| self.servers.into_iter().collect())
    }

    fn hear(&mut self, inner: &Inner, event: &Event) {
        if event.is(&CONFIGURATION_CHANGED) || event.is(&INSTALLATION_CHANGED) {
            match (&event.server, &event.audience) {
                // Whoever starts it says so when that is done.
                (Some(server), Audience::Owner(owner)) if inner.is_being_started(owner, server) => {}
                (Some(server), _) => drop(self.servers.insert(server.clone())),
                (None, _) => self.is_all = true,
            }
        } else if event.is(&CATALOG_CHANGED) {
            // What was allowed may not be any more.
            self.is_all |= event.payload["access"] == true;
        } else if event.is(&SERVER_STATE_CHANGED) && event.payload["reason"] == FABRIC_STOPPED {
            self.fabric_stopped = true;
            self.is_all = true;
        }
    }
}

impl Inner {
    pub(crate) async fn reconcile(self: Arc<Self>) {
        let reason = Reason::new("fabric_ended", "the fabric that ran it ended");
        // What an earlier process of this node ran ended with it.
        self.abandon_until_done(Some(&self.node), &reason).await;
        let inner = Arc::clone(&self);
        self.shutdown.spawn(async move { inner.sweep_folders().await });
        self.sweep_containers(false).await;
        let (mut events, mut swept) = (self.events.subscribe(), Instant::now());
        // Leases need no look with every change: many changes at once would each touch the rows of all.
        let mut leases_looked_at = None::<Instant>;
        let mut news = News::all();
        // Often enough that a lease does not end unseen, and that nothing that was missed stays so.
        let mut next_of_all = Instant::now();
        loop {
            if news.fabric_stopped || leases_looked_at.is_none_or(|at| at.elapsed() >= self.lease / 6) {
                leases_looked_at = Some(Instant::now());
                if let Err(error) = self.look_at_leases().await {
                    tracing::warn!(%error, "the leases of what runs could not be looked at");
                }
            }
            if news.is_all {
                next_of_all = Instant::now() + self.lease / 3;
            }
            if let Err(error) = self.compare(news.servers().as_deref()).await {
                tracing::warn!(%error, "what runs could not be compared with what is wanted");
                next_of_all = Instant::now() + AGAIN;
            }
            if swept.elapsed() >= SWEEP {
                swept = Instant::now();
                // What runs is looked after meanwhile.
                let inner = Arc::clone(&self);
                self.shutdown.spawn(async move { inner.sweep().await });
            }
            let Some(next) = self.news(&mut events, next_of_all).await else { return };
            news = next;
        }
    }

    /// Waits for what may make another thing of what is wanted, or of what runs; nothing once the program stops.
    async fn news(&self, events: &mut events::Receiver, next_of_all: Instant) -> Option<News> {
        let mut news = News::default();
        let next = tokio::time::sleep_until(next_of_all.into());
        tokio::pin!(next);
        while news.is_none() {
            tokio::select! {
                () = self.shutdown.begun() => return None,
                () = &mut next => news.is_all = true,
                () = self.wake.notified() => {}
                event = events.recv() => match event {
                    Ok(event) => news.hear(self, &event),
                    Err(RecvError::Lagged(_)) => news.is_all = true,
                    Err(RecvError::Closed) => return None,
                },
            }
            // What came meanwhile is looked at in one go.
            loop {
                match events.try_recv() {
                    Ok(event) => news.hear(self, &event),
                    Err(TryRecvError::Lagged(_)) => news.is_all = true,
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                }
            }
            news.servers.append(&mut self.to_look_at.lock().unwrap_or_else(PoisonError::into_inner));
        }
        Some(news)
    }

    /// Removes instances of sessions that ended a while ago; their folders go with them.
    async fn sweep_sessions(&self) {
        let swept = async {
            let mut connection = self.database.for_all().await?;
            let gone = store::remove_sessions(&mut connection, clock::now() - SESSIONS_KEPT).await?;
            Ok::<_, DbError>(gone)
        };
        match swept.await {
            Ok(0) => {}
            Ok(gone) => tracing::info!(gone, "instances of sessions that ended were removed"),
            Err(error) => tracing::warn!(%error, "instances of sessions that ended could not be removed"),
        }
    }

    /// Removes the folders of instances that nobody knows any more, such as those of users who left.
    async fn sweep_folders(&self) {
        let folders = self.starter.settled_folders();
        let known = async {
            let mut connection = self.database.for_all().await?;
            store::known(&mut connection, &folders).await
        };
        let known = match known.await {
            Ok(known) => known,
            Err(error) => return tracing::warn!(%error, "which instances there are could not be asked"),
        };
        if known.is_empty() {
            // All of them are of another database; what servers keep there may be missed by somebody.
            return;
        }
        for id in folders.into_iter().filter(|id| !known.contains(id)) {
            if let Err(error) = self.starter.forget(id) {
                tracing::warn!(%error, "the folder of an instance that is gone could not be removed");
            }
        }
    }

    async fn abandon_until_done(&self, beginning: Option<&str>, reason: &Reason) {
        while let Err(error) = self.abandon(beginning, reason).await {
            tracing::warn!(%error, "instances whose fabric is gone could not be looked at");
            tokio::select! {
                () = self.shutdown.begun() => return,
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    }

    /// Fails what nobody runs any more.
    async fn abandon(&self, beginning: Option<&str>, reason: &Reason) -> Result<(), DbError> {
        let mut transaction = self.database.begin_for_all().await?;
        let lost: Vec<Lost> = store::abandon(&mut transaction, beginning, reason, clock::now()).await?;
        for one in &lost {
            let about = About { id: one.id, owner: &one.owner, server_id: &one.server_id, session: &one.session };
            self.events.publish_in(&mut transaction, changed(&about, Some(one.from), State::Failed, Some(reason))).await?;
        }
        transaction.commit().await?;
        for one in &lost {
            self.count(one.from, State::Failed, "ok");
            // It may be wanted here.
            self.look_at(&one.server_id);
        }
        Ok(())
    }

    /// Says that this fabric is there, and fails what no fabric has any more.
    async fn look_at_leases(&self) -> Result<(), DbError> {
        self.renew().await?;
        self.abandon(None, &Reason::new("node_lost", "the fabric that ran it has not been heard of")).await
    }

    /// Compares what runs with what is wanted, of some servers or of all.
    async fn compare(self: &Arc<Self>, among: Option<&[String]>) -> Result<(), RuntimeError> {
        let wanted = self.configurations.enabled(among).await?;
        let servers: Vec<String> = wanted.iter().map(|wanted| wanted.server_id.clone()).collect();
        let trees = self.packages.trees_of(&servers).await?;
        let by_id: HashMap<Uuid, &Configuration> = wanted.iter().map(|wanted| (wanted.id.0, wanted)).collect();
        self.active().retain(|(configuration, _), handle| {
            if among.is_some_and(|among| !among.contains(&handle.wanted.borrow().configuration.server_id)) {
                return true;
            }
            handle.wanted.send_if_modified(|now| match by_id.get(configuration) {
                Some(found) => {
                    let installed = trees.get(&found.server_id).cloned();
                    let runs = !now.has_ended;
                    let is_other = now.runs != runs || now.configuration.revision != found.revision || now.installed != installed;
                    *now = Wanted { runs, configuration: Arc::new(Configuration::clone(found)), installed, ..*now };
                    is_other
                }
                None => std::mem::replace(&mut now.runs, false),
            });
            !handle.wanted.is_closed()
        });
        for configuration in wanted.iter().filter(|wanted| self.is_left(wanted)) {
            if let Err(error) = self.ensure(configuration, "").await {
                tracing::warn!(server_id = configuration.server_id, %error, "a server that is wanted could not be taken up");
            }
        }
        Ok(())
    }

    /// Whether what is to run all the time is neither here nor about to be.
    fn is_left(&self, wanted: &Configuration) -> bool {
        let is_persistent = wanted.lifecycle == Lifecycle::Persistent && !wanted.is_per_session();
        is_persistent && !self.is_here(&(wanted.id.0, String::new())) && !self.is_being_started(&wanted.owner, &wanted.server_id)
    }

    /// Whether this process runs the instance of a configuration and a session.
    fn is_here(&self, key: &(Uuid, String)) -> bool {
        self.active().get(key).is_some_and(|handle| !handle.wanted.is_closed() && !handle.live.state.borrow().is_over())
    }

    fn lease_time(&self) -> TimeDelta {
        TimeDelta::from_std(self.lease).unwrap_or(TimeDelta::seconds(30))
    }

    /// Says that this fabric is there; ends what it does not have any more.
    async fn renew(&self) -> Result<(), DbError> {
        let mut transaction = self.database.begin_for_all().await?;
        let running: Vec<InstanceId> = self.active().values().map(|handle| handle.id).collect();
        let until = clock::now() + self.lease_time();
        let ours: HashSet<InstanceId> = store::renew(&mut transaction, &self.node, &running, until).await?.into_iter().collect();
        transaction.commit().await?;
        for handle in self.active().values() {
            let is_known = running.contains(&handle.id);
            if is_known && !handle.live.state.borrow().is_over() && !ours.contains(&handle.id) {
                handle.wanted.send_modify(Wanted::end);
            }
        }
        Ok(())
    }

    /// The instance of a configuration, taken up where nobody has it.
    pub(crate) async fn ensure(self: &Arc<Self>, configuration: &Configuration, session: &str) -> Result<Instance, RuntimeError> {
        let key = (configuration.id.0, session.to_owned());
        if self.is_here(&key) {
            return self.there(key.0, &key.1).await?.ok_or(RuntimeError::NotFound);
        }
        let server = self.server_of(configuration).await?;
        self.ensure_of(server, configuration, session).await
    }

    /// The same of a server that was just looked at.
    #[expect(clippy::disallowed_methods, reason = "it is waited for, unless whoever waits goes")]
    pub(crate) async fn ensure_of(
        self: &Arc<Self>,
        server: Known,
        configuration: &Configuration,
        session: &str,
    ) -> Result<Instance, RuntimeError> {
        if self.config.most_instances == 0 {
            let text = "no servers run on this fabric; FABRIC_MAX_INSTANCES sets how many there may be";
            return Err(RuntimeError::LimitReached(Cap::OfNode, text.into()));
        }
        let installation = server.installation.as_ref();
        let backend = if installation.is_some_and(|found| found.package.registry_type == "oci") {
            Backend::Container
        } else if server.remote().is_some() {
            Backend::Remote
        } else {
            Backend::Process
        };
        let installed = installation.and_then(|found| found.runnable.as_ref()).map(|runnable| runnable.tree.clone());
        let wanted = Wanted { runs: true, has_ended: false, configuration: Arc::new(configuration.clone()), restart: 0, installed };
        // Whoever asks may go; what is claimed is taken up.
        let key = (configuration.id.0, session.to_owned());
        let taken_up = tokio::spawn(Arc::clone(self).take_up(key, backend, wanted, server)).await;
        taken_up.unwrap_or_else(|error| Err(RuntimeError::Folder(std::io::Error::other(error))))
    }

    /// The instance of a configuration and a session.
    pub(crate) async fn there(&self, configuration: Uuid, session: &str) -> Result<Option<Instance>, DbError> {
        store::of_configuration(&mut *self.database.for_all().await?, configuration, session).await
    }

    /// Claims an instance and begins to run it, unless somebody has it.
    async fn take_up(
        self: Arc<Self>,
        key: (Uuid, String),
        backend: Backend,
        wanted: Wanted,
        server: Known,
    ) -> Result<Instance, RuntimeError> {
        let configuration = Arc::clone(&wanted.configuration);
        let before = self.there(key.0, &key.1).await?;
        // It ended by itself or with its fabric, and nothing else is wanted since.
        let has_run = before.as_ref().is_some_and(|before| before.era.is_some() && before.since > configuration.updated_at);
        let id = match before {
            Some(there) if !there.state.is_over() => return Ok(there),
            Some(over) => over.id,
            None => InstanceId::fresh(),
        };
        // Before it counts: without a folder, nobody runs it.
        let log = Log::open(&self.starter.prepare(id)?)?;
        let claim = Claim {
            configuration: configuration.id.0,
            session: &key.1,
            owner: &configuration.owner,
            server_id: &configuration.server_id,
            backend,
            node: &self.node,
            lease_until: clock::now() + self.lease_time(),
        };
        let about = About { id, owner: claim.owner, server_id: claim.server_id, session: claim.session };
        let told = changed(&about, None, State::Pending, None).prepare();
        let claimed = store::claim(&mut *self.database.for_all().await?, id, &claim, &told).await?;
        let Some(instance) = claimed else { return self.there(key.0, &key.1).await?.ok_or(RuntimeError::NotFound) };
        let (launched, (tell, hear)) = (wanted.clone(), watch::channel(wanted));
        let live = Arc::new(Live::new(log));
        let supervisor = Supervisor {
            inner: Arc::clone(&self),
            instance: instance.clone(),
            wanted: hear,
            launched,
            server: Some(server),
            live: Arc::clone(&live),
            has_run,
        };
        self.active().insert(key, Handle { id: instance.id, wanted: tell, live });
        // Since its server was looked at, somebody may have denied it, or want something else of it.
        self.look_at(&instance.server_id);
        let (again, server_id) = (Arc::clone(&self), instance.server_id.clone());
        self.shutdown.spawn(async move {
            supervisor.run().await;
            again.look_at(&server_id);
        });
        Ok(instance)
    }

    /// Fails when there is no room for one more instance, besides that of a configuration and a session.
    pub(crate) async fn require_room(
        &self,
        owner: &str,
        limits: &configurations::Limits,
        except: Option<(Uuid, &str)>,
    ) -> Result<(), RuntimeError> {
        let mut connection = self.database.for_all().await?;
        let load = store::load(&mut connection, owner, &self.node, except).await?;
        drop(connection);
        let asked = self.starter.limits(limits);
        let over = |there: i64, more: u64, most: u64| most > 0 && u64::try_from(there).unwrap_or(0) + more > most;
        let full =
            |cap, what: &str, setting: &str| Err(RuntimeError::LimitReached(cap, format!("{what}; {setting} sets how many there may be")));
        if over(load.of_owner, 1, self.config.most_of_user.into()) {
            return full(Cap::OfUser, "you have as many running servers as one user may have", "FABRIC_MAX_INSTANCES_PER_USER");
        }
        if self.config.most_instances == 0 || over(load.of_node, 1, self.config.most_instances.into()) {
            return full(Cap::OfNode, "as many servers run here as this fabric may run", "FABRIC_MAX_INSTANCES");
        }
        if over(load.memory_bytes, asked.memory_bytes, self.config.most_memory_bytes) {
            return full(
                Cap::OfNode,
                "the servers that run here may already use as much memory as there is for them",
                "FABRIC_MAX_SERVERS_MEMORY_MB",
            );
        }
        if over(load.cpu_millis, asked.cpu_millis, self.config.most_cpu_millis) {
            return full(
                Cap::OfNode,
                "the servers that run here may already use as much CPU as there is for them",
                "FABRIC_MAX_SERVERS_CPU_MILLIS",
            );
        }
        Ok(())
    }

    /// Ends an instance of this process, and waits until it is over.
    pub(crate) async fn stop_now(&self, instance: &Instance) -> Result<(), RuntimeError> {
        let live = {
            let active = self.active();
            let Some(handle) = active.get(&(instance.configuration, instance.session.clone())) else {
                return if instance.state.is_over() { Ok(()) } else { Err(RuntimeError::Elsewhere) };
            };
            handle.wanted.send_modify(Wanted::end);
            Arc::clone(&handle.live)
        };
        let mut state = live.state.subscribe();
        let over = state.wait_for(|state| state.is_over());
        tokio::time::timeout(Duration::from_secs(15), over).await.map_err(|_| RuntimeError::Illegal(instance.state))?.ok();
        Ok(())
    }

    /// Removes containers that an earlier process of this fabric left and nobody wants; those that are wanted are attached
    /// to when they are taken up. `is_settled` says that what is wanted has been taken up.
    async fn sweep_containers(&self, is_settled: bool) {
        let Ok(left) = self.engine.list().await else { return };
        let wanted: HashSet<Uuid> = match self.configurations.enabled(None).await {
            Ok(wanted) => wanted.iter().map(|wanted| wanted.id.0).collect(),
            Err(_) => return,
        };
        for container in left {
            let id = container.labels.as_ref().and_then(|labels| labels.get(INSTANCE)?.parse::<InstanceId>().ok());
            let Some(id) = id else { continue };
            let found = async {
                let mut connection = self.database.for_all().await?;
                store::get(&mut connection, id).await
            };
            let is_here = self.active().values().any(|handle| handle.id == id && !handle.live.state.borrow().is_over());
            let is_wanted = match found.await {
                Ok(_) if is_settled => is_here,
                Ok(found) => found.is_some_and(|found| wanted.contains(&found.configuration) && found.node == self.node),
                Err(_) => true,
            };
            if !is_wanted && let Err(error) = self.engine.remove(&containers::name_of(id)).await {
                tracing::warn!(%error, "a container that nobody wants could not be removed");
            }
        }
    }

    /// Removes what nothing uses any more: trees, containers, folders.
    async fn sweep(&self) {
        self.sweep_containers(true).await;
        self.sweep_sessions().await;
        self.sweep_folders().await;
        let trees: Vec<String> = {
            let active = self.active();
            active.values().filter_map(|handle| handle.live.tree.lock().ok().and_then(|tree| tree.clone())).collect()
        };
        if let Err(error) = self.packages.sweep(trees).await {
            tracing::warn!(%error, "packages that nothing uses could not be removed");
        }
    }
}
