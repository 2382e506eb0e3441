use std::sync::Arc;

use chrono::{DateTime, Utc};
use events::{Events, Kind, NewEvent};
use platform::{Action, Actor, Config, Database, Shutdown, clock, database::DbError, http::Answer};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::{Mutex, broadcast::error::RecvError};

use crate::{
    categories::Rules,
    document::{Entry, SkipReason},
    error::ServersError,
    ingest::{self, Applied},
    kept::Kept,
    model::{
        CachedPackage, DeclaredInput, Filter, ListKey, Origin, PackageRow, RemoteRow, ServerId, ServerPackage, ServerRef, Sort, Summary,
        VersionRow, Viewer,
    },
    predefined, render,
    store::{list, read, registry, upkeep},
    validate::{self, ExpectedRegistries, Report},
};

/// The event that says that the catalogue is another one now.
pub static CATALOG_CHANGED: Kind = Kind {
    name: "CATALOG_CHANGED",
    channel: "catalog",
    told: "When servers of the catalogue are new, changed or gone: once for many of them.",
    heard_by: "Everybody.",
    payload: &[("access", "whether it is another matter now who may see and use which servers")],
};
/// How many servers are sorted anew in one go.
const SORT_BATCH: i64 = 1000;
/// Memory for what servers require.
const REQUIRED_BYTES: u64 = 4 << 20;
/// How many versions the answer about one server lists.
const DETAIL_VERSIONS: i64 = 50;

/// The catalogue.
#[derive(Clone)]
pub struct Servers {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) database: Database,
    pub(crate) events: Events,
    /// Who writes what was made here: one at a time, so that waiting for the lock takes no connections from others.
    pub(crate) turn: Arc<Mutex<()>>,
    rules: Rules,
    rendered: Kept<Answer>,
    /// The environment variables that servers need values for.
    required: Kept<Vec<String>>,
}

/// What is rendered, as the answer that it is sent in.
async fn json(render: impl Future<Output = Result<String, ServersError>>) -> Result<Answer, ServersError> {
    Ok(Answer::new("application/json", render.await?))
}

/// Everything that is shown of one server.
pub(crate) struct Detail {
    pub(crate) summary: Summary,
    pub(crate) packages: Vec<PackageRow>,
    pub(crate) remotes: Vec<RemoteRow>,
    pub(crate) credentials: Vec<DeclaredInput>,
    pub(crate) versions: Vec<VersionRow>,
}

impl Servers {
    /// Brings the predefined servers in line with their file, sorts by the rules in force, and starts to forget
    ///  rendered answers whenever the catalogue changes.
    pub async fn start(config: &Config, database: Database, events: Events, shutdown: &Shutdown) -> Result<Self, ServersError> {
        let predefined = predefined::load(&config.config_dir)?;
        let (rendered, required) = (Kept::new(config.memory_bytes), Kept::new(REQUIRED_BYTES));
        let (rules, turn) = (Rules::load(&config.config_dir)?, Arc::default());
        let inner = Inner { database, events, turn, rules, rendered, required };
        let servers = Self { inner: Arc::new(inner) };
        shutdown.spawn(servers.clone().forget_when_changed(shutdown.clone()));

        let mut transaction = servers.inner.database.begin_system().await?;
        let actor = Actor::system("start");
        let names: Vec<String> = predefined.iter().map(|entry| entry.id.to_string()).collect();
        let applied = servers.apply_in(&mut transaction, &actor, predefined, Origin::Predefined).await?;
        let withdrawn = upkeep::withdrawn(&mut transaction, &names).await?;
        let erased = servers.erase_in(&mut transaction, &actor, &withdrawn).await?;
        if applied.changed || erased > 0 {
            servers.announce_in(&mut transaction).await?;
        }
        transaction.commit().await?;
        let (sorting, stop) = (servers.clone(), shutdown.clone());
        shutdown.spawn(async move {
            if let Err(error) = sorting.sort_anew(stop).await {
                tracing::warn!(%error, "could not sort the catalogue by the new category rules");
            }
        });
        Ok(servers)
    }

    /// Takes entries into the catalogue. Writers of all replicas take turns until their transaction ends.
    pub async fn apply_in(
        &self,
        transaction: &mut PgConnection,
        actor: &Actor,
        entries: Vec<Entry>,
        origin: Origin,
    ) -> Result<Applied, ServersError> {
        actor.require(Action::SyncManage)?;
        upkeep::lock(transaction).await?;
        match self.apply_together(transaction, entries.clone(), origin).await {
            // One entry that the database cannot keep does not hold up the others.
            Err(DbError::Nul(_) | DbError::OutOfRange(_) | DbError::Other(_)) if !entries.is_empty() => {
                let mut all = Applied::default();
                for entry in entries {
                    all.add(self.apply_one(transaction, entry, origin).await?);
                }
                Ok(all)
            }
            applied => Ok(applied?),
        }
    }

    async fn apply_one(&self, transaction: &mut PgConnection, entry: Entry, origin: Origin) -> Result<Applied, DbError> {
        let skip = entry.skip(SkipReason::NotStorable);
        match self.apply_together(transaction, vec![entry], origin).await {
            Err(DbError::Nul(error) | DbError::OutOfRange(error) | DbError::Other(error)) => {
                tracing::warn!(name = skip.name, version = skip.version, %error, "an entry cannot be kept");
                Ok(Applied { skipped: vec![skip], ..Applied::default() })
            }
            applied => applied,
        }
    }

    /// All or none, within the caller's transaction.
    pub(crate) async fn apply_together(
        &self,
        transaction: &mut PgConnection,
        entries: Vec<Entry>,
        origin: Origin,
    ) -> Result<Applied, DbError> {
        let mut savepoint = transaction.begin().await?;
        let applied = ingest::apply(&mut savepoint, entries, origin, &self.inner.rules, clock::now()).await?;
        savepoint.commit().await?;
        Ok(applied)
    }

    /// Mirrored versions that came in before `before`, in order, a portion at a time: the empty key starts,
    /// an empty portion ends.
    pub async fn mirrored_versions(
        &self,
        before: DateTime<Utc>,
        after: &(String, String),
        limit: i64,
    ) -> Result<Vec<(String, String)>, ServersError> {
        Ok(upkeep::mirrored_versions(self.inner.database.system(), before, after, limit).await?)
    }

    /// Removes versions that upstream erased. A server without any is hidden; its row stays for what
    /// refers to it.
    pub async fn erase_in(&self, transaction: &mut PgConnection, actor: &Actor, gone: &[(String, String)]) -> Result<u64, ServersError> {
        actor.require(Action::SyncManage)?;
        upkeep::lock(transaction).await?;
        Ok(self.erase_versions(transaction, gone).await?)
    }

    pub(crate) async fn erase_versions(&self, transaction: &mut PgConnection, gone: &[(String, String)]) -> Result<u64, DbError> {
        let (mut servers, versions): (Vec<String>, Vec<String>) = gone.iter().cloned().unzip();
        let erased = upkeep::delete_versions(transaction, &servers, &versions).await?;
        servers.sort();
        servers.dedup();
        upkeep::entomb(transaction, &servers).await?;
        ingest::settle_latest(transaction, &servers, &[]).await?;
        ingest::refresh(transaction, &servers, &self.inner.rules).await?;
        Ok(erased)
    }

    /// Tells every replica and follower that the catalogue changed, when the transaction commits.
    pub async fn announce_in(&self, transaction: &mut PgConnection) -> Result<(), DbError> {
        upkeep::settle_searches(transaction).await?;
        self.inner.events.publish_in(transaction, NewEvent::for_everyone(&CATALOG_CHANGED, json!({ "access": false }))).await
    }

    /// Forgets what is kept in this process, once a transaction that announced a change has committed:
    /// whoever made the change sees it at once, and need not wait for the notification.
    pub fn forget(&self) {
        self.inner.rendered.forget();
        self.inner.required.forget();
    }

    /// How many servers are listed and how many versions there are.
    pub async fn counts(&self) -> Result<(i64, i64), ServersError> {
        Ok(upkeep::counts(self.inner.database.public()).await?)
    }

    /// The id of a server that is named, and the packages of one of its versions, else of the latest. `None`
    /// when it has no such version.
    pub async fn packages(
        &self,
        viewer: &Viewer,
        server: &ServerRef,
        version: Option<&str>,
    ) -> Result<Option<(String, Vec<ServerPackage>)>, ServersError> {
        let summary = self.summary(viewer, server).await?;
        let Some(version) = version.map(str::to_owned).or(summary.version) else { return Ok(None) };
        let pool = self.inner.database.public();
        if !read::has_version(pool, &summary.id, &version).await? {
            return Ok(None);
        }
        let rows = read::packages(pool, &summary.id, &version).await?;
        let packages = rows
            .into_iter()
            .map(|row| ServerPackage {
                registry_type: row.registry_type,
                identifier: row.identifier,
                version: row.package_version,
                file_sha256: row.file_sha256,
            })
            .collect();
        Ok(Some((summary.id, packages)))
    }

    /// Says what the installed package of a server wants to be told beside what its document says. The caller says who may.
    pub async fn declare_in(&self, transaction: &mut PgConnection, server: &str, inputs: &[DeclaredInput]) -> Result<(), ServersError> {
        Ok(upkeep::declare(transaction, server, inputs).await?)
    }

    /// The SHA-256 that servers state for a bundle; nothing when none or several do.
    pub async fn file_sha256_of(&self, identifier: &str) -> Result<Option<String>, ServersError> {
        Ok(read::file_sha256_of(self.inner.database.public(), identifier).await?)
    }

    /// The types of registries from which servers take a package of this name.
    pub async fn registry_types_of(&self, identifier: &str) -> Result<Vec<String>, ServersError> {
        Ok(read::registry_types_of(self.inner.database.public(), identifier).await?)
    }

    /// The server of the catalogue whose package it is: the predefined one, else the only one that names it.
    pub async fn server_of_package(&self, registry_type: &str, identifier: &str) -> Result<Option<String>, ServersError> {
        let mut found = read::servers_of_package(self.inner.database.public(), registry_type, identifier).await?.into_iter();
        let first = found.next();
        let is_sure = first.as_ref().is_some_and(|(_, origin)| origin == Origin::Predefined.as_str()) || found.next().is_none();
        Ok(first.filter(|_| is_sure).map(|(id, _)| id))
    }

    /// Says of a package (registry type, name, version), wherever it is named so or by one of `names`, what the
    /// cache has of it.
    pub async fn mark_cached_in(
        &self,
        transaction: &mut PgConnection,
        package: [&str; 3],
        names: &[[String; 3]],
        cached: Option<&CachedPackage>,
    ) -> Result<(), ServersError> {
        Ok(upkeep::mark_cached(transaction, package, names, cached).await?)
    }

    /// Whether a server names a package (registry type, name, version).
    pub async fn names_package(&self, package: [&str; 3]) -> Result<bool, ServersError> {
        Ok(read::names_package(self.inner.database.public(), package).await?)
    }

    /// How many mirrored servers come up to `id` by name, and how many there are.
    pub async fn place_of(&self, id: &ServerId) -> Result<(i64, i64), ServersError> {
        Ok(upkeep::place_of(self.inner.database.public(), id).await?)
    }

    /// The ids of servers that fit, by id, so many at most.
    pub async fn find(&self, filter: &Filter, limit: usize) -> Result<Vec<String>, ServersError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let (found, _) = list::list(self.inner.database.public(), filter, Sort::Name, None, limit).await?;
        Ok(found.into_iter().map(|found| found.id).collect())
    }

    /// One page of servers, one more where there is another page, and how many there are on all pages.
    pub async fn list(
        &self,
        filter: &Filter,
        sort: Sort,
        after: Option<&ListKey>,
        limit: u32,
    ) -> Result<(Vec<Summary>, i64), ServersError> {
        Ok(list::list(self.inner.database.public(), filter, sort, after, i64::from(limit)).await?)
    }

    /// The answer under `key`, from memory where it is there.
    pub(crate) async fn remembered(
        &self,
        key: String,
        render: impl Future<Output = Result<String, ServersError>>,
    ) -> Result<Arc<Answer>, Arc<ServersError>> {
        self.inner.rendered.get(key, json(render)).await
    }

    pub(crate) async fn detail(&self, viewer: &Viewer, server: &ServerRef) -> Result<Detail, ServersError> {
        let pool = self.inner.database.public();
        let summary = self.summary(viewer, server).await?;
        let id = summary.id.as_str();
        let (packages, remotes, credentials, versions) = tokio::join!(
            read::packages(pool, id, summary.version.as_deref().unwrap_or_default()),
            read::remotes(pool, id),
            read::credentials(pool, id),
            read::versions(pool, id, None, DETAIL_VERSIONS),
        );
        Ok(Detail { packages: packages?, remotes: remotes?, credentials: credentials?, versions: versions?, summary })
    }

    /// The id of a server. One that is named by its id is not looked for.
    pub async fn id_of(&self, server: &ServerRef) -> Result<String, ServersError> {
        match server {
            ServerRef::Id(id) => Ok(id.as_str().to_owned()),
            ServerRef::Uuid(_) => Ok(self.summary(&Viewer::All, server).await?.id),
        }
    }

    /// The environment variables that a server needs a value for, from memory where they are there.
    pub async fn required_env_vars(&self, viewer: &Viewer, id: &str, server: &ServerRef) -> Result<Arc<Vec<String>>, Arc<ServersError>> {
        let read = async {
            let (_, rows) = self.inputs(viewer, server).await?;
            let needed = rows.into_iter().filter(|row| row.location == "env" && row.required && row.default_value.is_none());
            Ok(needed.map(|row| row.env_var).collect())
        };
        self.inner.required.get(format!("{viewer:?}\n{id}"), read).await
    }

    /// The id of a server, and what it wants to be told before it starts.
    pub async fn inputs(&self, viewer: &Viewer, server: &ServerRef) -> Result<(String, Vec<DeclaredInput>), ServersError> {
        let id = self.summary(viewer, server).await?.id;
        let rows = read::credentials(self.inner.database.public(), &id).await?;
        Ok((id, rows))
    }

    pub(crate) async fn versions(
        &self,
        viewer: &Viewer,
        server: &ServerRef,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<VersionRow>, ServersError> {
        let id = self.summary(viewer, server).await?.id;
        Ok(read::versions(self.inner.database.public(), &id, after, limit.into()).await?)
    }

    pub(crate) async fn categories(&self) -> Result<Vec<(String, i64)>, ServersError> {
        Ok(read::categories(self.inner.database.public()).await?)
    }

    /// The registry name of a server that is named by id, registry name or UUID.
    pub(crate) async fn registry_name(&self, server: &str) -> Result<Option<String>, ServersError> {
        Ok(match server.parse::<ServerRef>() {
            Ok(ServerRef::Id(id)) => Some(id.registry_name()),
            Ok(ServerRef::Uuid(uuid)) => read::id_of(self.inner.database.public(), uuid).await?.map(|id: ServerId| id.registry_name()),
            Err(_) => None,
        })
    }

    /// A page of the registry API, from memory where it is there.
    pub(crate) async fn registry_page(&self, key: String, filter: &registry::PageFilter) -> Result<Arc<Answer>, Arc<ServersError>> {
        let render = async {
            let page = registry::page(self.inner.database.public(), filter).await?;
            Ok(render::page(&page))
        };
        self.inner.rendered.get(key, json(render)).await
    }

    /// Every version of a server for the registry API, from memory where they are there.
    pub(crate) async fn registry_versions(&self, name: &str, include_deleted: bool) -> Result<Arc<Answer>, Arc<ServersError>> {
        let render = async {
            let rows = registry::versions(self.inner.database.public(), name, include_deleted).await?;
            if rows.is_empty() { Err(ServersError::NotFound) } else { Ok(render::list(&rows, None)) }
        };
        self.inner.rendered.get(format!("versions\n{name}\n{include_deleted}"), json(render)).await
    }

    /// One version for the registry API, from memory where it is there.
    pub(crate) async fn registry_version(
        &self,
        name: &str,
        which: &registry::Which,
        include_deleted: bool,
    ) -> Result<Arc<Answer>, Arc<ServersError>> {
        let key = format!("version\n{name}\n{which:?}\n{include_deleted}");
        let render = async {
            let row = registry::version(self.inner.database.public(), name, which, include_deleted).await?;
            row.map(|row| render::entry(&row)).ok_or(ServersError::NotFound)
        };
        self.inner.rendered.get(key, json(render)).await
    }

    /// Would the official registry accept this document?
    pub(crate) async fn validate(&self, document: &[u8]) -> Result<Report, ServersError> {
        let pool = self.inner.database.public();
        let (npm, pypi) = tokio::join!(registry::stated_base_url(pool, "npm"), registry::stated_base_url(pool, "pypi"));
        Ok(validate::validate_with(document, &ExpectedRegistries { npm: npm?, pypi: pypi? }))
    }

    async fn forget_when_changed(self, shutdown: Shutdown) {
        let mut heard = self.inner.events.subscribe();
        loop {
            let event = tokio::select! {
                event = heard.recv() => event,
                () = shutdown.begun() => return,
            };
            match event {
                Ok(event) if !event.is(&CATALOG_CHANGED) => {}
                Ok(_) | Err(RecvError::Lagged(_)) => self.forget(),
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Sorts the servers that other rules sorted, a portion at a time.
    async fn sort_anew(self, shutdown: Shutdown) -> Result<(), ServersError> {
        while !shutdown.has_begun() {
            let mut transaction = self.inner.database.begin_system().await?;
            upkeep::lock(&mut transaction).await?;
            let batch = upkeep::sorted_by_other_rules(&mut transaction, &self.inner.rules.hash, SORT_BATCH).await?;
            if batch.is_empty() {
                return Ok(());
            }
            let categories =
                |server: &upkeep::Unsorted| self.inner.rules.sort(&server.id, server.title.as_deref(), &server.description).join("\n");
            let (ids, categories): (Vec<String>, Vec<String>) = batch.iter().map(|server| (server.id.clone(), categories(server))).unzip();
            upkeep::write_categories(&mut transaction, &ids, &categories, &self.inner.rules.hash).await?;
            self.announce_in(&mut transaction).await?;
            transaction.commit().await?;
        }
        Ok(())
    }
}
