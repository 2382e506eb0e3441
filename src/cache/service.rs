use std::{collections::HashMap, sync::Arc, time::Duration};

use audit::{Audit, EventId, EventType, NewEvent, Outcome as Came};
use jobs::{Handlers, JobId, Jobs, NewJob};
use moka::future::Cache as Memory;
use platform::{
    Action, Actor, Coded as _, Config, Database, Shutdown,
    config::{CacheConfig, Target},
    telemetry::Metrics,
};
use servers::{ServerRef, Servers, Viewer};

use crate::{
    artifacts::{Artifacts, Held, Key},
    asked::{Asked, Outcome},
    blobs::Blobs,
    documents::{Ask, Documents, Name, Said},
    error::{CacheError, registry_type},
    fetchers::Fetchers,
    flights::Flights,
    job::{CacheJob, Payload},
    made::MADE_HERE,
    model::{Listed, Total, Wanted},
    names::{NpmName, PypiName, RegistryType},
    policy::Rules,
    reference::{OciName, OciReference, Pinned},
    room::Room,
    standing::Standing,
    store::{self, Coming},
    upkeep::{PruneJob, PruneOrder, VerifyJob, VerifyOrder},
};

/// How long it is believed that a part belongs to an image: clients ask for many parts in a row.
const IMAGE_FOR: Duration = Duration::from_secs(5);
/// How many files that come in are told of.
const MOST_COMING: i64 = 100;

/// The package cache.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

/// What the cache works with.
pub struct Neighbours {
    /// The database.
    pub database: Database,
    /// The audit trail.
    pub audit: Audit,
    /// Fetching is a job.
    pub jobs: Jobs,
    /// Which packages there are.
    pub servers: Servers,
}

struct Inner {
    database: Database,
    audit: Audit,
    jobs: Jobs,
    servers: Servers,
    documents: Arc<Documents>,
    artifacts: Arc<Artifacts>,
    config: CacheConfig,
    data_dir: std::path::PathBuf,
    importing: tokio::sync::Mutex<()>,
    /// To which image a part belongs, for a moment.
    images: Memory<(OciName, Pinned), Pinned>,
    shutdown: Shutdown,
}

/// Everything that is in the cache, and what was asked of it since this process started.
pub(crate) struct Stats {
    pub(crate) by_type: Vec<OfType>,
}

/// The same of one type.
pub(crate) struct OfType {
    pub(crate) registry: RegistryType,
    pub(crate) sums: Total,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) coalesced: u64,
    pub(crate) verify_failures: u64,
    pub(crate) evictions: u64,
}

/// What is to be cached of a package or a server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fill {
    /// Of the server, or of the package.
    pub(crate) version: Option<String>,
    pub(crate) registry_type: Option<String>,
    /// With everything that an install needs.
    pub(crate) closure: bool,
    /// For these platforms instead of the configured ones.
    pub(crate) targets: Vec<Target>,
}

/// A package as somebody names it: type, name, version, and what its file has to be.
pub(crate) type Named = (Option<String>, String, Option<String>, Option<String>);

/// The job that does it, if there is anything to do, and where the packages stand.
pub(crate) type Filling = (Option<JobId>, Vec<Standing>);

impl Cache {
    /// Opens the cache folder. `node` is this data folder's name among replicas.
    pub async fn start(
        config: &Config,
        node: String,
        Neighbours { database, audit, jobs, servers }: Neighbours,
        metrics: &Metrics,
        shutdown: &Shutdown,
    ) -> Result<Self, CacheError> {
        let blobs = Blobs::open(&config.cache.dir, &node).await?;
        let interrupted = store::release(database.system(), &node).await?;
        let left = blobs.sweep_drafts().await?;
        if interrupted > 0 || left > 0 {
            tracing::info!(interrupted, left, "downloads of an earlier process did not end; they start again when they are asked for");
        }
        let pulls_left = metrics.gauge("fabric_docker_hub_pulls_left", "Pulls that Docker Hub says are left to this address");
        let documents = Arc::new(Documents::new(database.clone(), blobs.clone(), config, pulls_left, shutdown.clone()));
        let rules = Arc::new(Rules::new(config.cache.policy.clone()));
        let asked = metrics.counters(
            "fabric_cache_requests_total",
            "Files asked of the package cache, by type and outcome",
            &["registry_type", "outcome"],
        );
        let mismatches = "Files whose bytes were not what the registry stated, or not any more, by type";
        let artifacts = Arc::new(Artifacts {
            database: database.clone(),
            blobs,
            documents: Arc::clone(&documents),
            room: Room::new(&config.cache),
            rules: Arc::clone(&rules),
            fetchers: Fetchers::new(&documents, &rules, &config.cache, &config.allowed_hosts),
            servers: servers.clone(),
            node,
            target: config.cache.targets.first().cloned().unwrap_or_else(Target::here),
            max_file: config.cache.max_file_bytes,
            patience: config.cache.patience,
            memory: Artifacts::memory(config.cache.memory_bytes / 2),
            flights: Flights::new(shutdown.clone()),
            checks: Flights::new(shutdown.clone()),
            used: std::sync::Mutex::default(),
            asked: Asked::new(&asked),
            evictions: metrics.counters(
                "fabric_cache_evictions_total",
                "Files that were removed to make room, by type",
                &["registry_type"],
            ),
            mismatches: metrics.counters("fabric_cache_integrity_failures_total", mismatches, &["registry_type"]),
        });
        if !config.offline {
            // The installed clients take a moment to say which registries they use; the first asker need not wait.
            let documents = Arc::clone(&documents);
            shutdown.spawn(async move { drop(documents.clients().await) });
        }
        shutdown.spawn(Arc::clone(&documents).forget_in_time(shutdown.clone()));
        shutdown.spawn(Arc::clone(&artifacts).note_uses(shutdown.clone()));
        shutdown.spawn(Arc::clone(&artifacts).watch_room(shutdown.clone()));
        shutdown.spawn(Arc::clone(&artifacts).repair());
        let inner = Inner {
            database,
            audit,
            jobs,
            servers,
            documents,
            artifacts,
            config: config.cache.clone(),
            data_dir: config.data_dir.clone(),
            importing: tokio::sync::Mutex::default(),
            images: Memory::builder().max_capacity(10_000).time_to_live(IMAGE_FOR).build(),
            shutdown: shutdown.clone(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What does the jobs.
    pub fn handlers(&self, handlers: Handlers) -> Handlers {
        let cache = || self.clone();
        handlers.with(CacheJob { cache: cache() }).with(VerifyJob { cache: cache() }).with(PruneJob { cache: cache() })
    }

    /// Asks that the packages of a server are cached with everything that an install needs: a job, or nothing when they are
    /// here already.
    pub async fn fill(&self, actor: &Actor, server: &ServerRef) -> Result<Option<JobId>, CacheError> {
        Ok(self.cache(actor, server, &Fill { closure: true, ..Fill::default() }).await?.0)
    }

    /// The same, as it is asked for.
    pub(crate) async fn cache(&self, actor: &Actor, server: &ServerRef, order: &Fill) -> Result<Filling, CacheError> {
        actor.require(Action::CacheFill)?;
        let wanted = self.wanted(actor, server, order.version.as_deref(), order.registry_type.as_deref()).await?;
        self.begin(actor, wanted, order).await
    }

    async fn begin(&self, actor: &Actor, wanted: Vec<Wanted>, order: &Fill) -> Result<Filling, CacheError> {
        for wanted in &wanted {
            let (registry, name) = Self::spelling(wanted)?;
            self.rules().check_name(registry, &name)?;
        }
        let standings = self.standings(wanted.clone()).await?;
        // What a tag, or no version at all, stands for may have changed since somebody looked.
        let mut is_known = true;
        for wanted in &wanted {
            is_known &= self.is_settled(wanted).await?;
        }
        let is_here = |target: &Target| {
            let of_target = |standing: &&Standing| standing.target.as_ref().is_none_or(|own| *own == target.to_string());
            wanted.iter().all(|wanted| {
                let mut those = standings.iter().filter(|standing| standing.wanted == *wanted).filter(of_target).peekable();
                those.peek().is_some() && those.all(|standing| standing.is_whole(order.closure))
            })
        };
        let targets = if order.targets.is_empty() { self.inner.config.targets.clone() } else { order.targets.clone() };
        // Which files of a package are for which of several platforms, only the job finds out.
        if is_known && order.targets.is_empty() && targets.iter().all(is_here) {
            return Ok((None, standings));
        }
        let targets = targets.iter().map(ToString::to_string).collect();
        let names: Vec<String> = wanted.iter().map(|wanted| format!("{}:{}", wanted.registry_type, wanted.identifier)).collect();
        let told = NewEvent::new(EventType::Execution, "cache.fill").with("packages", names.join(" "));
        let payload = Payload { packages: wanted, closure: order.closure, targets };
        let job = self.inner.jobs.enqueue(actor, NewJob::of::<CacheJob>(&payload).told_as(told)).await?;
        Ok((Some(job), standings))
    }

    /// Asks that packages are cached, whichever servers name them: type, name, version and SHA-256 of each.
    /// Without a type, it is the one from which servers take a package of that name.
    pub(crate) async fn cache_packages(&self, actor: &Actor, packages: Vec<Named>, order: &Fill) -> Result<Filling, CacheError> {
        actor.require(Action::CacheFill)?;
        let servers = &self.inner.servers;
        let mut all = Vec::with_capacity(packages.len());
        for (registry_type, identifier, version, sha256) in packages {
            let registry_type = match registry_type {
                Some(registry_type) => registry_type,
                None => match &servers.registry_types_of(&identifier).await?[..] {
                    [only] => only.clone(),
                    [] => return Err(CacheError::Unnamed),
                    several => return Err(CacheError::Ambiguous(several.join(", "))),
                },
            };
            let sha256 = match sha256 {
                None if registry_type == RegistryType::Mcpb.as_str() => servers.file_sha256_of(&identifier).await?,
                stated => stated,
            };
            all.push(Wanted { registry_type, identifier, version, sha256 });
        }
        self.begin(actor, all, order).await
    }

    /// What is cached of a server's packages.
    pub(crate) async fn status(
        &self,
        actor: &Actor,
        server: &ServerRef,
        version: Option<&str>,
    ) -> Result<(String, Vec<Standing>), CacheError> {
        actor.require(Action::CacheRead)?;
        let (id, packages) = self.packages(actor, server, version).await?;
        Ok((id, self.standings(packages).await?))
    }

    /// Removes what is cached of a server's packages; gives how many files and bytes that were.
    pub(crate) async fn clear(&self, actor: &Actor, server: &ServerRef, version: Option<&str>) -> Result<(u64, i64), CacheError> {
        actor.require(Action::CacheManage)?;
        let (id, packages) = self.packages(actor, server, version).await?;
        let intent = self.intend(actor, NewEvent::change("cache.remove").server(id)).await?;
        let removed = self.remove_meant(&packages).await;
        self.tell(actor, intent, "cache.remove", removed.as_ref().map(|_| ()));
        removed
    }

    /// Says what is about to be done in more than one transaction; [`Self::tell`] says what came of it.
    pub(crate) async fn intend(&self, actor: &Actor, event: NewEvent) -> Result<EventId, CacheError> {
        Ok(self.inner.audit.record(actor, event.outcome(Came::Intent)).await?)
    }

    pub(crate) fn tell(&self, actor: &Actor, intent: EventId, action: &'static str, came: Result<(), &CacheError>) {
        let event = NewEvent::change(action).answers(intent);
        let event = match came {
            Ok(()) => event,
            Err(error) => event.outcome(Came::Failure).with("code", error.code()),
        };
        self.inner.audit.note(actor, event);
    }

    async fn remove_meant(&self, packages: &[Wanted]) -> Result<(u64, i64), CacheError> {
        let (mut files, mut bytes) = (0, 0);
        for wanted in packages {
            for (_, package) in self.meant(wanted).await? {
                let (more_files, more_bytes) = self.inner.artifacts.remove(&package).await?;
                (files, bytes) = (files + more_files, bytes + more_bytes);
            }
        }
        Ok((files, bytes))
    }

    /// Removes one package, whichever server names it.
    pub(crate) async fn remove_package(&self, actor: &Actor, wanted: &Wanted) -> Result<(u64, i64), CacheError> {
        actor.require(Action::CacheManage)?;
        Self::spelling(wanted)?;
        let event = NewEvent::change("cache.remove").on("package", format!("{}:{}", wanted.registry_type, wanted.identifier));
        let intent = self.intend(actor, event).await?;
        let removed = self.remove_meant(std::slice::from_ref(wanted)).await;
        self.tell(actor, intent, "cache.remove", removed.as_ref().map(|_| ()));
        let (files, bytes) = removed?;
        if files == 0 { Err(CacheError::NotHere) } else { Ok((files, bytes)) }
    }

    /// What is in the cache, a page at a time.
    pub(crate) async fn list(
        &self,
        actor: &Actor,
        registry: Option<RegistryType>,
        name: Option<&str>,
        after: Option<&[String; 3]>,
        limit: i64,
    ) -> Result<Vec<Listed>, CacheError> {
        actor.require(Action::CacheRead)?;
        // Names of what was made here are names of servers, which may be private.
        let hidden = (!actor.may(Action::CacheManage)).then(|| format!("{MADE_HERE}/%"));
        Ok(store::list(self.inner.database.system(), registry, name, hidden.as_deref(), after, limit).await?)
    }

    /// Whether a server names a package by its own name.
    pub(crate) async fn is_in_catalogue(&self, listed: &Listed) -> Result<bool, CacheError> {
        Ok(self.inner.servers.names_package([&listed.registry_type, &listed.name, &listed.version]).await?)
    }

    /// The files that come in now.
    pub(crate) async fn coming(&self, actor: &Actor) -> Result<Vec<Coming>, CacheError> {
        actor.require(Action::CacheRead)?;
        Ok(store::coming(self.inner.database.system(), MOST_COMING).await?)
    }

    /// Asks that everything is read again.
    pub(crate) async fn verify(&self, actor: &Actor) -> Result<JobId, CacheError> {
        actor.require(Action::CacheManage)?;
        Ok(self
            .inner
            .jobs
            .enqueue(actor, NewJob::of::<VerifyJob>(&VerifyOrder {}).told_as(NewEvent::new(EventType::Execution, "cache.verify")))
            .await?)
    }

    /// Asks that what nobody needs is removed.
    pub(crate) async fn prune(&self, actor: &Actor, order: &PruneOrder) -> Result<JobId, CacheError> {
        actor.require(Action::CacheManage)?;
        Ok(self
            .inner
            .jobs
            .enqueue(actor, NewJob::of::<PruneJob>(order).told_as(NewEvent::new(EventType::BulkOperation, "cache.prune")))
            .await?)
    }

    pub(crate) async fn stats(&self, actor: &Actor) -> Result<Stats, CacheError> {
        actor.require(Action::CacheRead)?;
        let totals: HashMap<String, Total> = store::totals(self.inner.database.system()).await?.into_iter().collect();
        let by_type = RegistryType::ALL.map(|registry| {
            let total = totals.get(registry.as_str()).copied().unwrap_or_default();
            let artifacts = &self.inner.artifacts;
            OfType {
                registry,
                sums: total,
                hits: artifacts.asked.so_far(registry, Outcome::Hit),
                misses: artifacts.asked.so_far(registry, Outcome::Miss),
                coalesced: artifacts.asked.so_far(registry, Outcome::Coalesced),
                verify_failures: artifacts.mismatches.with_label_values(&[registry.as_str()]).get(),
                evictions: artifacts.evictions.with_label_values(&[registry.as_str()]).get(),
            }
        });
        Ok(Stats { by_type: by_type.into() })
    }

    /// The id of a server that is named, and the packages of one of its versions.
    async fn packages(&self, actor: &Actor, server: &ServerRef, version: Option<&str>) -> Result<(String, Vec<Wanted>), CacheError> {
        let found = self.inner.servers.packages(&Viewer::of(actor), server, version).await?;
        let missing = || CacheError::NoServerVersion(version.unwrap_or("that stands").chars().take(80).collect());
        let (id, packages) = found.ok_or_else(missing)?;
        Ok((id, packages.into_iter().map(Wanted::from).collect()))
    }

    /// The packages that a server's version names, each once.
    async fn wanted(
        &self,
        actor: &Actor,
        server: &ServerRef,
        version: Option<&str>,
        only: Option<&str>,
    ) -> Result<Vec<Wanted>, CacheError> {
        let only = only.map(registry_type).transpose()?;
        let (_, packages) = self.packages(actor, server, version).await?;
        let mut all: Vec<Wanted> = Vec::new();
        for wanted in packages {
            if only.is_none_or(|only| only.as_str() == wanted.registry_type) && !all.contains(&wanted) {
                all.push(wanted);
            }
        }
        if all.is_empty() {
            return Err(CacheError::NoPackages);
        }
        all.iter().try_for_each(|wanted| Self::spelling(wanted).map(drop))?;
        Ok(all)
    }

    /// A file, fetched and verified where it is not here.
    pub(crate) async fn file(&self, key: &Key, may_fetch: bool) -> Result<Held, CacheError> {
        self.inner.artifacts.get(key, may_fetch).await
    }

    /// Brings a file in that will be asked for soon; whoever asks then joins.
    pub(crate) fn expect(&self, key: Key) {
        let cache = self.clone();
        self.inner.shutdown.spawn(async move {
            // Whoever asks for it is told what is wrong with it.
            cache.file(&key, true).await.ok();
        });
    }

    pub(crate) fn path(&self, held: &Held) -> std::path::PathBuf {
        self.inner.artifacts.path(held)
    }

    pub(crate) async fn packument(&self, name: &NpmName, ask: Ask) -> Result<Said, CacheError> {
        self.rules().check_name(RegistryType::Npm, name.as_str())?;
        self.inner.documents.get(&Name::Npm(name.clone()), ask).await
    }

    pub(crate) async fn project(&self, name: &PypiName, ask: Ask) -> Result<Said, CacheError> {
        self.rules().check_name(RegistryType::Pypi, name.as_str())?;
        self.inner.documents.get(&Name::Pypi(name.clone()), ask).await
    }

    pub(crate) async fn manifest(&self, reference: &OciReference, ask: Ask) -> Result<Said, CacheError> {
        self.rules().check_name(RegistryType::Oci, reference.name.as_str())?;
        self.inner.documents.get(&Name::Oci(reference.clone()), ask).await
    }

    /// The tags of a repository that were asked for here; the upstream may have more.
    pub(crate) async fn tags(&self, name: &OciName) -> Result<Vec<String>, CacheError> {
        self.rules().check_name(RegistryType::Oci, name.as_str())?;
        Ok(store::tags(self.inner.database.system(), name).await?)
    }

    pub(crate) fn fetchers(&self) -> &Fetchers {
        &self.inner.artifacts.fetchers
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.inner.artifacts.rules
    }

    pub(crate) fn artifacts(&self) -> &Arc<Artifacts> {
        &self.inner.artifacts
    }

    /// The Python projects of which something is known here.
    pub(crate) async fn projects(&self) -> Result<Vec<String>, CacheError> {
        Ok(store::document_names(self.inner.database.system(), RegistryType::Pypi).await?)
    }

    pub(crate) fn blobs(&self) -> &Blobs {
        &self.inner.artifacts.blobs
    }

    pub(crate) fn audit(&self) -> &Audit {
        &self.inner.audit
    }

    pub(crate) fn database(&self) -> &Database {
        &self.inner.database
    }

    pub(crate) fn images(&self) -> &Memory<(OciName, Pinned), Pinned> {
        &self.inner.images
    }

    pub(crate) fn importing(&self) -> &tokio::sync::Mutex<()> {
        &self.inner.importing
    }

    pub(crate) fn data_dir(&self) -> &std::path::Path {
        &self.inner.data_dir
    }

    pub(crate) fn is_offline(&self) -> bool {
        self.inner.documents.offline
    }

    pub(crate) fn config(&self) -> &CacheConfig {
        &self.inner.config
    }
}
