use std::{collections::HashMap, sync::Arc};

use jobs::{Handlers, JobId, Jobs, NewJob};
use platform::{
    Actor, Config, Database, Scope, Shutdown,
    client::{self, Client},
    config::CacheConfig,
    telemetry::Metrics,
};
use prometheus::IntCounterVec;
use servers::{ServerRef, Servers};
use tokio::sync::OnceCell;

use crate::{
    artifacts::{Artifacts, Clients, Held, Key},
    blobs::Blobs,
    documents::{Ask, Documents, Name, Said},
    error::{CacheError, registry_type},
    flights::Flights,
    job::{CacheJob, Payload},
    model::{Artifact, Lock, Status, Total, Wanted},
    names::{NpmName, Package, PypiName, RegistryType},
    pypi::Project,
    sources::Sources,
    store,
};

/// The package cache.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    jobs: Jobs,
    servers: Servers,
    documents: Arc<Documents>,
    artifacts: Arc<Artifacts>,
    sources: Arc<Sources>,
    clients: OnceCell<Clients>,
    config: CacheConfig,
    allowed_hosts: Vec<String>,
    offline: bool,
    asked: IntCounterVec,
}

/// What is known of one package of a server.
pub(crate) struct Standing {
    pub(crate) wanted: Wanted,
    pub(crate) status: Status,
    /// The exact version, when it is known.
    pub(crate) package: Option<Package>,
    pub(crate) files: Vec<Artifact>,
    /// What an install of it needs, and how many files of that are not here.
    pub(crate) lock: Option<(Lock, i64)>,
}

impl Standing {
    fn is_whole(&self, closure: bool) -> bool {
        self.status == Status::Cached && (!closure || self.lock.as_ref().is_some_and(|(_, missing)| *missing == 0))
    }
}

/// Everything that is in the cache, and what was asked of it since this process started.
pub(crate) struct Stats {
    pub(crate) by_type: Vec<(RegistryType, Total, HashMap<&'static str, u64>)>,
}

/// What the counter of requests tells apart.
const OUTCOMES: [&str; 4] = ["hit", "miss", "coalesced", "refused"];

impl Cache {
    /// Opens the cache folder. `node` is this data folder's name among replicas.
    pub async fn start(
        config: &Config,
        node: String,
        database: Database,
        jobs: Jobs,
        servers: Servers,
        metrics: &Metrics,
        shutdown: &Shutdown,
    ) -> Result<Self, CacheError> {
        let blobs = Blobs::open(&config.cache.dir, &node).await?;
        let interrupted = store::release(database.system(), &node).await?;
        let left = blobs.sweep_drafts().await?;
        if interrupted > 0 || left > 0 {
            tracing::info!(interrupted, left, "downloads of an earlier process did not end; they start again when they are asked for");
        }
        let sources = Arc::new(Sources::new(&config.cache, config.npm_registry.clone()));
        let documents = Arc::new(Documents::new(
            database.clone(),
            blobs.clone(),
            Arc::clone(&sources),
            config.offline,
            config.cache.metadata_ttl,
            config.cache.memory_bytes / 2,
            shutdown.clone(),
        ));
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
            servers: servers.clone(),
            node,
            allow_sha1: config.cache.allow_sha1,
            max_file: config.cache.max_file_bytes,
            patience: config.cache.patience,
            allowed_hosts: config.allowed_hosts.clone(),
            memory: Artifacts::memory(config.cache.memory_bytes / 2),
            flights: Flights::new(shutdown.clone()),
            used: std::sync::Mutex::default(),
            asked: asked.clone(),
            mismatches: metrics.counters("fabric_cache_integrity_failures_total", mismatches, &["registry_type"]),
        });
        shutdown.spawn(Arc::clone(&artifacts).note_uses(shutdown.clone()));
        let inner = Inner {
            database,
            jobs,
            servers,
            documents,
            artifacts,
            sources,
            clients: OnceCell::new(),
            config: config.cache.clone(),
            allowed_hosts: config.allowed_hosts.clone(),
            offline: config.offline,
            asked,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What does the jobs.
    pub fn handlers(&self, handlers: Handlers) -> Handlers {
        handlers.with(CacheJob { cache: self.clone() })
    }

    /// The clients may reach the hosts of the configured registries, whatever their address; which ones
    /// these are is found out when the first package is asked for.
    pub(crate) async fn clients(&self) -> Result<&Clients, CacheError> {
        let inner = &self.inner;
        inner
            .clients
            .get_or_try_init(|| async {
                let own = inner.sources.urls().await.into_iter().filter_map(|url| client::own_host(&url));
                let allowed: Vec<String> = inner.allowed_hosts.iter().cloned().chain(own).collect();
                Ok(Clients { documents: Client::new(allowed.clone(), inner.offline)?, files: Client::verbatim(allowed, inner.offline)? })
            })
            .await
    }

    /// Asks that packages of a server are cached: a job, or nothing when they are here already.
    pub(crate) async fn cache(
        &self,
        actor: &Actor,
        server: &ServerRef,
        version: Option<&str>,
        only: Option<&str>,
        closure: bool,
    ) -> Result<(Option<JobId>, Vec<Standing>), CacheError> {
        actor.require(Scope::CacheManage)?;
        let wanted = self.wanted(server, version, only).await?;
        self.begin(actor, wanted, closure).await
    }

    async fn begin(&self, actor: &Actor, wanted: Vec<Wanted>, closure: bool) -> Result<(Option<JobId>, Vec<Standing>), CacheError> {
        let standings = self.standings(wanted).await?;
        if standings.iter().all(|standing| standing.is_whole(closure)) {
            return Ok((None, standings));
        }
        let packages = standings.iter().map(|standing| standing.wanted.clone()).collect();
        let job = self.inner.jobs.enqueue(actor, NewJob::of::<CacheJob>(&Payload { packages, closure })).await?;
        Ok((Some(job), standings))
    }

    /// Asks that one package is cached, whichever server names it. Without a type, it is the one from which
    /// servers take a package of that name.
    pub(crate) async fn cache_package(
        &self,
        actor: &Actor,
        registry_type: Option<String>,
        identifier: String,
        version: Option<String>,
        closure: bool,
    ) -> Result<(Option<JobId>, Vec<Standing>), CacheError> {
        actor.require(Scope::CacheManage)?;
        let registry_type = match registry_type {
            Some(registry_type) => registry_type,
            None => match &self.inner.servers.registry_types_of(&identifier).await?[..] {
                [only] => only.clone(),
                [] => return Err(CacheError::Unnamed),
                several => return Err(CacheError::Ambiguous(several.join(", "))),
            },
        };
        let wanted = Wanted { registry_type, identifier, version };
        check(&wanted)?;
        self.begin(actor, vec![wanted], closure).await
    }

    /// What is cached of a server's packages.
    pub(crate) async fn status(
        &self,
        actor: &Actor,
        server: &ServerRef,
        version: Option<&str>,
    ) -> Result<(String, Vec<Standing>), CacheError> {
        actor.require(Scope::CacheRead)?;
        let (id, packages) = self.packages(server, version).await?;
        Ok((id, self.standings(packages).await?))
    }

    /// Removes what is cached of a server's packages; gives how many files and bytes that were.
    pub(crate) async fn clear(&self, actor: &Actor, server: &ServerRef, version: Option<&str>) -> Result<(u64, i64), CacheError> {
        actor.require(Scope::CacheManage)?;
        let (_, packages) = self.packages(server, version).await?;
        let (mut files, mut bytes) = (0, 0);
        for wanted in packages {
            if let Some(package) = exactly(&wanted) {
                let (more_files, more_bytes) = self.inner.artifacts.remove(&package).await?;
                (files, bytes) = (files + more_files, bytes + more_bytes);
            }
        }
        Ok((files, bytes))
    }

    pub(crate) async fn stats(&self, actor: &Actor) -> Result<Stats, CacheError> {
        actor.require(Scope::CacheRead)?;
        let totals: HashMap<String, Total> = store::totals(self.inner.database.system()).await?.into_iter().collect();
        let by_type = [RegistryType::Npm, RegistryType::Pypi].map(|registry| {
            let total = totals.get(registry.as_str()).copied().unwrap_or_default();
            let asked = |outcome: &'static str| (outcome, self.inner.asked.with_label_values(&[registry.as_str(), outcome]).get());
            (registry, total, OUTCOMES.map(asked).into_iter().collect())
        });
        Ok(Stats { by_type: by_type.into() })
    }

    /// The id of a server that is named, and the packages of one of its versions.
    async fn packages(&self, server: &ServerRef, version: Option<&str>) -> Result<(String, Vec<Wanted>), CacheError> {
        let found = self.inner.servers.packages(server, version).await?;
        let missing = || CacheError::NoServerVersion(version.unwrap_or("that stands").chars().take(80).collect());
        let (id, packages) = found.ok_or_else(missing)?;
        Ok((id, packages.into_iter().map(Wanted::from).collect()))
    }

    /// The packages that a server's version names, each once.
    async fn wanted(&self, server: &ServerRef, version: Option<&str>, only: Option<&str>) -> Result<Vec<Wanted>, CacheError> {
        let only = only.map(registry_type).transpose()?;
        let (_, packages) = self.packages(server, version).await?;
        let mut all: Vec<Wanted> = Vec::new();
        for wanted in packages {
            if only.is_none_or(|only| only.as_str() == wanted.registry_type) && !all.contains(&wanted) {
                all.push(wanted);
            }
        }
        if all.is_empty() {
            return Err(CacheError::NoPackages);
        }
        all.iter().try_for_each(check)?;
        Ok(all)
    }

    async fn standings(&self, wanted: Vec<Wanted>) -> Result<Vec<Standing>, CacheError> {
        let mut standings = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            standings.push(self.standing(wanted).await?);
        }
        Ok(standings)
    }

    async fn standing(&self, wanted: Wanted) -> Result<Standing, CacheError> {
        let pool = self.inner.database.system();
        let package = exactly(&wanted);
        let (files, lock) = match &package {
            Some(package) => (store::files(pool, package).await?, store::lock(pool, package).await?),
            None => (Vec::new(), None),
        };
        let has = |status: Status| files.iter().any(|file| file.status == status && file.is_installed());
        let status = match () {
            () if has(Status::Downloading) => Status::Downloading,
            () if has(Status::Cached) => Status::Cached,
            () if has(Status::Failed) => Status::Failed,
            () => Status::NotCached,
        };
        let lock = match (lock, &package) {
            (Some(lock), Some(package)) => Some((lock, store::missing_of_lock(pool, package).await?)),
            _ => None,
        };
        Ok(Standing { wanted, status, package, files, lock })
    }

    /// A file, fetched and verified where it is not here.
    pub(crate) async fn file(&self, key: &Key, may_fetch: bool) -> Result<Held, CacheError> {
        self.inner.artifacts.get(key, self.clients().await?, may_fetch).await
    }

    pub(crate) fn path(&self, held: &Held) -> std::path::PathBuf {
        self.inner.artifacts.path(held)
    }

    pub(crate) async fn packument(&self, name: &NpmName, ask: Ask) -> Result<Said, CacheError> {
        self.inner.documents.get(&Name::Npm(name.clone()), &self.clients().await?.documents, ask).await
    }

    pub(crate) async fn project(&self, name: &PypiName, ask: Ask) -> Result<(Said, Project), CacheError> {
        let said = self.inner.documents.get(&Name::Pypi(name.clone()), &self.clients().await?.documents, ask).await?;
        let project = said.project()?;
        Ok((said, project))
    }

    /// The Python projects of which something is known here.
    pub(crate) async fn projects(&self) -> Result<Vec<String>, CacheError> {
        Ok(store::document_names(self.inner.database.system(), RegistryType::Pypi).await?)
    }

    pub(crate) fn blobs(&self) -> &Blobs {
        &self.inner.artifacts.blobs
    }

    pub(crate) fn database(&self) -> &Database {
        &self.inner.database
    }

    pub(crate) fn config(&self) -> &CacheConfig {
        &self.inner.config
    }
}

/// The package that is meant, where its version is an exact one.
fn exactly(wanted: &Wanted) -> Option<Package> {
    Package::parse(registry_type(&wanted.registry_type).ok()?, &wanted.identifier, wanted.version.as_deref()?).ok()
}

/// What cannot be cached is told at once, not by a job.
fn check(wanted: &Wanted) -> Result<(), CacheError> {
    match registry_type(&wanted.registry_type)? {
        RegistryType::Npm => NpmName::parse(&wanted.identifier).map(drop)?,
        RegistryType::Pypi => PypiName::parse(&wanted.identifier).map(drop)?,
    }
    Ok(())
}
