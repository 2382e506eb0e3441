use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use audit::{Audit, NewEvent};
use cache::Cache;
use configurations::Configurations;
use credentials::{Credentials, EnvVar};
use events::Events;
use jobs::{Ended, Handlers, JobId, JobStatus, Jobs, JobsError, NewJob};
use platform::{
    Action, Actor, Config, Database, Shutdown, clock,
    database::{DbError, on_constraint},
    files,
    secrets::is_named_secret,
};
use sandbox::Machine;
use secrecy::SecretString;
use serde_json::json;
use servers::{ServerId, ServerRef, Servers, ServersError, Viewer};
use sqlx::PgConnection;

use crate::{
    error::PackagesError,
    job::{InstallJob, Payload, Version},
    model::{Entry, Installation, InstallationId, Order, Runnable, Stage, folder_of},
    plan::{self, Plan},
    scripts::Scripts,
    store,
    trees::Trees,
};

/// The event that says that an installation stands elsewhere than before.
pub static INSTALLATION_CHANGED: events::Kind = events::Kind {
    name: "INSTALLATION_CHANGED",
    channel: "packages",
    told: "When a package is being installed, is installed, failed to be, or is gone.",
    heard_by: "Everybody who may use the server.",
    payload: &[("serverId", "the server's UUID"), ("status", "`installing`, `installed`, `error`, `uninstalled`")],
};
/// How often an order is planned again because the server has changed meanwhile.
const MOST_TRIES: u32 = 5;
const MOST_ARGS: usize = 200;
const LONGEST_ARG: usize = 8 << 10;

/// Packages made runnable; cheap to clone.
#[derive(Clone)]
pub struct Packages {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) database: Database,
    pub(crate) audit: Audit,
    pub(crate) events: Events,
    pub(crate) jobs: Jobs,
    pub(crate) servers: Servers,
    pub(crate) cache: Cache,
    pub(crate) credentials: Credentials,
    pub(crate) configurations: Configurations,
    pub(crate) trees: Trees,
    pub(crate) place: std::path::PathBuf,
}

/// What installations work with.
pub struct Neighbours {
    /// The database.
    pub database: Database,
    /// The audit trail.
    pub audit: Audit,
    /// Changes are told.
    pub events: Events,
    /// Installing is a job.
    pub jobs: Jobs,
    /// Which packages there are.
    pub servers: Servers,
    /// Where their files are.
    pub cache: Cache,
    /// Where secret values go.
    pub credentials: Credentials,
    /// What is to run.
    pub configurations: Configurations,
    /// What starts scripts.
    pub machine: Arc<Machine>,
}

impl Packages {
    /// Opens the folders.
    pub fn open(config: &Config, neighbours: Neighbours) -> Result<Self, PackagesError> {
        let Neighbours { database, audit, events, jobs, servers, cache, credentials, configurations, machine } = neighbours;
        let place = files::servers_place(&config.data_dir)?;
        let trees = Trees::open(&place, Scripts::new(machine, &config.runtime, &place))?;
        Ok(Self { inner: Arc::new(Inner { database, audit, events, jobs, servers, cache, credentials, configurations, trees, place }) })
    }

    /// Where files lie that servers use.
    pub fn place(&self) -> &std::path::Path {
        &self.inner.place
    }

    /// What does the jobs.
    pub fn handlers(&self, handlers: Handlers) -> Handlers {
        handlers.with(InstallJob { packages: self.clone() })
    }

    /// Takes up what an earlier process left, and installs the set of the first run.
    pub fn start(&self, config: &Config, shutdown: &Shutdown) {
        let (packages, first) = (self.clone(), config.install_on_start.clone());
        shutdown.spawn(async move {
            if let Err(error) = packages.resume().await {
                tracing::warn!(%error, "could not take up installs that an earlier process left");
            }
            packages.first_run(first).await;
        });
    }

    async fn resume(&self) -> Result<(), PackagesError> {
        let actor = Actor::system("install");
        for id in store::unfinished(self.inner.database.system()).await? {
            busy_is_fine(self.enqueue(&actor, id, Version::Renew).await)?;
        }
        self.sweep([]).await
    }

    /// Asks that a package is installed under the id of a server: the installation, and the job that works on it.
    pub async fn install(&self, actor: &Actor, order: Order) -> Result<(Installation, JobId), PackagesError> {
        let mut tries = 0;
        loop {
            match self.install_as_it_stands(actor, order.clone()).await {
                // Somebody was quicker: what is there now is looked at.
                Err(PackagesError::ServerChanged) if tries < MOST_TRIES => tries += 1,
                done => return done,
            }
        }
    }

    async fn install_as_it_stands(&self, actor: &Actor, order: Order) -> Result<(Installation, JobId), PackagesError> {
        actor.require(Action::PackagesInstall)?;
        if order.command.is_some() {
            actor.require(Action::PackagesManage)?;
        }
        check(&order)?;
        let plan = plan::understand(&self.inner.servers, actor, &order).await?;
        actor.require_server(Action::PackagesInstall, plan.server.as_str())?;
        let enabled = order.enabled;
        let joins = Join { asks_nothing: order.is_plain(), any_version: order.version.is_none() };
        let (new, secret) = asked_for(actor, &plan, order)?;
        // Nothing is changed where not all of it may be.
        if !secret.is_empty() {
            actor.require(Action::CredentialsWrite)?;
        }
        if enabled {
            actor.require(Action::ConfigurationsWrite)?;
        }
        let (id, version) = self.write_or_join(actor, &plan, &new, &joins).await?;
        let server = ServerRef::Id(plan.server.clone());
        if !secret.is_empty() {
            self.inner.credentials.store_inputs(actor, &server, secret).await?;
        }
        if enabled {
            self.inner.configurations.enable(actor, &server, true).await?;
        }
        let job = self.enqueue_or_join(actor, id, version).await?;
        Ok((self.get_by_id(id).await?, job))
    }

    /// Who asks for no more than that somebody else's installation is there joins it; who asks for more has to have it.
    async fn write_or_join(
        &self,
        actor: &Actor,
        plan: &Plan,
        new: &Installation,
        joins: &Join,
    ) -> Result<(InstallationId, Version), PackagesError> {
        match self.of(&new.server_id).await? {
            Some(there) if there.installed_by != new.installed_by && joins.asks_nothing && there.has(&new.package, joins.any_version) => {
                return Ok((there.id, if there.runnable.is_some() { Version::Keep } else { Version::Renew }));
            }
            Some(there) => Self::require_own(actor, &there)?,
            None if plan.replaces => actor.require(Action::PackagesManage)?,
            None => {}
        }
        Ok((self.write(actor, plan, new).await?, Version::Renew))
    }

    /// The rows of an order: all or none.
    async fn write(&self, actor: &Actor, plan: &Plan, new: &Installation) -> Result<InstallationId, PackagesError> {
        let (_turn, mut transaction) = self.inner.servers.begin_alone().await?;
        let there = match self.inner.servers.summary(&Viewer::All, &ServerRef::Id(plan.server.clone())).await {
            Err(ServersError::NotFound) => None,
            there => Some(there?.access.revision),
        };
        // What was looked at is what is installed.
        if there != plan.seen {
            return Err(PackagesError::ServerChanged);
        }
        if let Some(document) = &plan.document {
            self.inner.servers.put_custom_in(&mut transaction, &plan.server, document).await?;
        }
        store::claim_folder(&mut transaction, &new.folder, &new.package).await?;
        let put = store::put(&mut transaction, new, actor.may(Action::PackagesManage)).await;
        let put = put.map_err(|error| on_constraint(error, "installations_folder", || PackagesError::FolderTaken(new.folder.clone())))?;
        let id = put.ok_or_else(|| PackagesError::NameTaken(new.server_id.clone()))?;
        let told = NewEvent::change("package.install").on("installation", id).server(&new.server_id);
        let told = told.with("package", format!("{}:{}", new.package.registry_type, new.package.identifier));
        self.inner.audit.record_in(&mut transaction, actor, told).await?;
        if plan.document.is_some() {
            self.inner.servers.announce_in(&mut transaction).await?;
        }
        self.tell_in(&mut transaction, &new.server_id, Stage::Installing.as_str()).await?;
        transaction.commit().await?;
        self.inner.servers.forget();
        Ok(id)
    }

    /// Asks for the job of an installation.
    pub(crate) async fn enqueue(&self, actor: &Actor, id: InstallationId, version: Version) -> Result<JobId, PackagesError> {
        let asked = clock::now();
        let mut transaction = self.inner.database.begin(actor).await?;
        // Each actor has a job of their own to follow; those of several take turns where trees are made.
        let single = format!("{}:{id}:{actor}", if version == Version::Keep { "keep" } else { "install" });
        let job = NewJob::of::<InstallJob>(&Payload { installation: id, version }).singleton(single).told();
        let job = match self.inner.jobs.enqueue_in(&mut transaction, actor, job).await {
            Err(JobsError::AlreadyRunning(rival)) => return Err(PackagesError::Busy(rival)),
            other => other?,
        };
        transaction.commit().await?;
        if version == Version::Keep {
            return Ok(job);
        }
        let mut transaction = self.inner.database.begin_system().await?;
        store::begin(&mut transaction, id, job.0, asked).await?;
        transaction.commit().await?;
        Ok(job)
    }

    /// The same; where a job is at it already, that one is given.
    pub(crate) async fn enqueue_or_join(&self, actor: &Actor, id: InstallationId, version: Version) -> Result<JobId, PackagesError> {
        match self.enqueue(actor, id, version).await {
            Err(PackagesError::Busy(Some(job))) => Ok(job),
            other => other,
        }
    }

    pub(crate) async fn tell_in(&self, transaction: &mut PgConnection, server_id: &str, status: &str) -> Result<(), DbError> {
        let payload = json!({ "serverId": servers::uuid_of(server_id), "status": status });
        let owner = self.inner.servers.private_among(&[server_id.to_owned()]).await?.remove(server_id);
        let event = match owner {
            Some(owner) => events::NewEvent::of(&owner, &INSTALLATION_CHANGED, payload),
            None => events::NewEvent::for_everyone(&INSTALLATION_CHANGED, payload),
        };
        self.inner.events.publish_in(transaction, event.about(server_id)).await
    }

    /// Writes what an install made; false where something else is asked for meanwhile, or it was uninstalled.
    pub(crate) async fn finish(&self, installation: &Installation, made: &Runnable) -> Result<bool, PackagesError> {
        let mut transaction = self.inner.database.begin_system().await?;
        let is_written = store::finish(&mut transaction, installation, made, clock::now()).await?;
        if is_written {
            let inputs = if let Entry::Bundle(bundle) = &made.entry { bundle.declared() } else { Vec::new() };
            self.inner.servers.declare_in(&mut transaction, &installation.server_id, &inputs).await?;
            self.tell_in(&mut transaction, &installation.server_id, Stage::Installed.as_str()).await?;
        }
        transaction.commit().await?;
        Ok(is_written)
    }

    /// Writes how a job ended, in the transaction in which it does.
    pub(crate) async fn ended_in(&self, transaction: &mut PgConnection, id: InstallationId, ended: &Ended) -> Result<(), DbError> {
        if !matches!(ended.status, JobStatus::Failed | JobStatus::Cancelled) {
            return Ok(());
        }
        let text = |key: &str| ended.error.as_ref().and_then(|error| error[key].as_str());
        let (code, message) = (text("code").unwrap_or("cancelled"), text("message").unwrap_or("the install was cancelled"));
        if let Some(server) = store::fail(transaction, id, code, message, clock::now()).await? {
            self.tell_in(transaction, &server, Stage::Error.as_str()).await?;
        }
        Ok(())
    }

    pub(crate) async fn get_by_id(&self, id: InstallationId) -> Result<Installation, PackagesError> {
        store::by_id(self.inner.database.system(), id).await?.ok_or(PackagesError::NotFound)
    }

    /// Whether what can be started is here, and not only on another node.
    pub fn has_tree(&self, runnable: &Runnable) -> bool {
        matches!(runnable.entry, Entry::Image { .. }) || self.inner.trees.has(&runnable.tree)
    }

    /// The trees of the installations of these servers, by their ids.
    pub async fn trees_of(&self, servers: &[String]) -> Result<HashMap<String, String>, PackagesError> {
        Ok(store::trees_of(self.inner.database.system(), servers).await?)
    }

    /// Where a tree lies.
    pub fn tree(&self, tree: &str) -> std::path::PathBuf {
        self.inner.trees.path(tree)
    }

    /// Installs what a start misses, as the program itself; a job that is at it already is as good.
    pub async fn mend(&self, server_id: &str) -> Result<(), PackagesError> {
        let actor = Actor::system("runtime");
        if let Some(found) = self.of(server_id).await? {
            return busy_is_fine(self.enqueue(&actor, found.id, Version::Renew).await);
        }
        // The program may all that its users may not.
        let server: ServerRef = server_id.parse().map_err(ServersError::from)?;
        plan::require_vouched(&actor, Some(&self.inner.servers.document(&Viewer::All, &server).await?))?;
        busy_is_fine(self.install(&actor, Order { name: server_id.to_owned(), ..Order::default() }).await)
    }

    /// Makes the installation of a server anew under a constraint that is known to cure it; false where it has one already.
    pub async fn cure(&self, server_id: &str, cure: &str) -> Result<bool, PackagesError> {
        let actor = Actor::system("runtime");
        let mut transaction = self.inner.database.begin_system().await?;
        let Some(id) = store::cure(&mut transaction, server_id, cure, clock::now()).await? else { return Ok(false) };
        let told = NewEvent::change("package.cure").on("installation", id).server(server_id).with("constraint", cure);
        self.inner.audit.record_in(&mut transaction, &actor, told).await?;
        transaction.commit().await?;
        busy_is_fine(self.enqueue(&actor, id, Version::Renew).await).map(|()| true)
    }

    /// Which of these the actor wants to run.
    pub async fn enabled_among(&self, actor: &Actor, installations: &[Installation]) -> Result<BTreeSet<String>, PackagesError> {
        let servers: Vec<String> = installations.iter().map(|found| found.server_id.clone()).collect();
        Ok(self.inner.configurations.enabled_of(actor, &servers).await?)
    }

    /// Says whether the actor wants an installed server to run.
    pub async fn enable(&self, actor: &Actor, name: &str, enabled: bool) -> Result<Installation, PackagesError> {
        actor.require(Action::ConfigurationsWrite)?;
        let found = self.named(actor, name).await?;
        let server: ServerRef = found.server_id.parse().map_err(ServersError::from)?;
        self.inner.configurations.enable(actor, &server, enabled).await?;
        Ok(found)
    }

    /// Fails unless the actor installed it, or may change those of others.
    pub(crate) fn require_own(actor: &Actor, found: &Installation) -> Result<(), PackagesError> {
        actor.require(Action::PackagesInstall)?;
        actor.require_server(Action::PackagesInstall, &found.server_id)?;
        if found.installed_by != actor.to_string() {
            actor.require(Action::PackagesManage)?;
        }
        Ok(())
    }

    /// Uninstalls: the row, the folder, the tree that nothing else uses, and the server where installing made it.
    pub async fn uninstall(&self, actor: &Actor, name: &str) -> Result<Installation, PackagesError> {
        actor.require(Action::PackagesInstall)?;
        let found = self.named(actor, name).await?;
        Self::require_own(actor, &found)?;
        let server = ServerId::parse(&found.server_id).map_err(ServersError::from)?;
        // What is wanted of it would bring it back.
        for wanted in self.inner.configurations.enabled_for(&found.server_id).await? {
            let system = Actor::system("packages");
            self.inner.configurations.give_up(&system, &wanted, "uninstalled").await?;
        }
        let mut transaction = self.inner.database.begin_system().await?;
        let is_last = store::remove(&mut transaction, &found).await?;
        self.inner.servers.declare_in(&mut transaction, &found.server_id, &[]).await?;
        let erased = self.inner.servers.erase_custom_in(&mut transaction, &server, false).await?;
        let told = NewEvent::change("package.uninstall").on("installation", found.id).server(&found.server_id);
        self.inner.audit.record_in(&mut transaction, actor, told.with("package", found.package.identifier.as_str())).await?;
        if erased {
            self.inner.servers.announce_in(&mut transaction).await?;
        }
        self.tell_in(&mut transaction, &found.server_id, "uninstalled").await?;
        transaction.commit().await?;
        self.inner.servers.forget();
        if is_last {
            self.inner.trees.hide(&found.folder)?;
        }
        Ok(found)
    }

    /// Removes trees that no installation uses any more, but those that are still in use by what runs.
    pub async fn sweep(&self, running: impl IntoIterator<Item = String>) -> Result<(), PackagesError> {
        let mut used: HashSet<String> = store::trees(self.inner.database.system()).await?.into_iter().collect();
        used.extend(running);
        self.inner.trees.prune(&used).await
    }
}

/// What an order asks of an installation that is there.
struct Join {
    /// It is to run as the catalogue says.
    asks_nothing: bool,
    any_version: bool,
}

/// The installation that an order asks for, and the variables that go into the vault.
fn asked_for(actor: &Actor, plan: &Plan, order: Order) -> Result<(Installation, Vec<(EnvVar, SecretString)>), PackagesError> {
    let (secret, env): (BTreeMap<_, _>, BTreeMap<_, _>) = order.env.into_iter().partition(|(name, _)| is_named_secret(name));
    let now = clock::now();
    let new = Installation {
        id: InstallationId::fresh(),
        server_id: plan.server.to_string(),
        based_on: plan.base.as_ref().map(|base| base.id.clone()).filter(|base| base != plan.server.as_str()),
        folder: folder_of(&plan.package.identifier),
        package: plan.package.clone(),
        command: order.command,
        args: order.args,
        env,
        secret_env: secret.keys().cloned().collect(),
        stage: Stage::Installing,
        runnable: None,
        cure: None,
        error: None,
        job: None,
        installed_by: actor.to_string(),
        created_at: now,
        updated_at: now,
    };
    let secret = secret.into_iter().map(|(name, value)| Ok((EnvVar::parse(&name).map_err(|_| ENV)?, value.into())));
    Ok((new, secret.collect::<Result<_, PackagesError>>()?))
}

const ENV: PackagesError =
    PackagesError::Field("body.env", "has a name that no variable can have, or that would change which program runs");

/// For who wants an install to be made, whoever asked for it.
fn busy_is_fine<T>(asked: Result<T, PackagesError>) -> Result<(), PackagesError> {
    match asked {
        Err(PackagesError::Busy(_)) => Ok(()),
        asked => asked.map(drop),
    }
}

/// What cannot be used in an order is told at once.
fn check(order: &Order) -> Result<(), PackagesError> {
    let is_text = |text: &String| text.len() <= LONGEST_ARG && !text.contains('\0');
    if order.args.as_ref().is_some_and(|args| args.len() > MOST_ARGS || !args.iter().all(is_text)) {
        return Err(PackagesError::Field("body.args", "must be 200 texts at most, of 8192 bytes without NUL each"));
    }
    if order.command.as_ref().is_some_and(|command| command.is_empty() || !is_text(command)) {
        return Err(PackagesError::Field("body.command", "must be a program"));
    }
    if order.env.len() > MOST_ARGS || !order.env.values().all(is_text) {
        return Err(PackagesError::Field("body.env", "must be 200 variables at most, of 8192 bytes without NUL each"));
    }
    if order.env.keys().any(|name| EnvVar::parse(name).is_err()) {
        return Err(ENV);
    }
    Ok(())
}
