//! What registries say of packages: asked for once at a time, kept, asked again when it is old, and given
//! although it is old when the registry is down.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::TimeDelta;
use moka::future::Cache as Memory;
use platform::{
    Config, Database, Shutdown,
    client::{self, Client},
    clock,
    database::DbError,
};
use prometheus::IntGauge;
use reqwest::{Response, StatusCode, header};
use tokio::{sync::OnceCell, time::timeout};
use url::Url;

use crate::{
    blobs::Blobs,
    digest::BlobId,
    download::{Auth, DownloadError},
    error::CacheError,
    fetchers::Clients,
    flights::Flights,
    hosts::Hosts,
    model::Document,
    names::{NpmName, PypiName, RegistryType},
    npm::Packument,
    oci::{self, Manifest},
    policy::Refusal,
    pypi::{self, Project},
    realms::Realms,
    reference::{OciAt, OciReference},
    removal::remove_unknown,
    sources::Sources,
    store,
};

/// The largest document, in bytes: those of the most popular packages have some ten megabytes.
const MAX_DOCUMENT: usize = 64 << 20;
/// The largest manifest; the distribution spec has registries take 4 MiB.
const MAX_MANIFEST: usize = 8 << 20;
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How old an answer may be that did not have what somebody wants.
const JUST_NOW: TimeDelta = TimeDelta::seconds(10);
/// How long what is in memory is not compared with its row: other replicas write rows, too.
const REMEMBERED_FOR: Duration = Duration::from_mins(1);
/// How long it is believed that there is no such package.
const ABSENT_FOR: Duration = Duration::from_mins(1);

/// When a registry is asked although something is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Not at all.
    Never,
    /// When what is known is old.
    IfOld,
    /// Unless it was asked just now: somebody wants what it did not have.
    Again,
}

/// What a registry is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    Npm(NpmName),
    Pypi(PypiName),
    /// A manifest.
    Oci(OciReference),
    /// The keys that the npm registry at this address signs with.
    NpmKeys(Url),
}

impl Name {
    fn registry(&self) -> RegistryType {
        match self {
            Self::Npm(_) | Self::NpmKeys(_) => RegistryType::Npm,
            Self::Pypi(_) => RegistryType::Pypi,
            Self::Oci(_) => RegistryType::Oci,
        }
    }

    /// What the row of it is called; no package can be called like keys are.
    fn text(&self) -> String {
        match self {
            Self::Npm(name) => name.as_str().to_owned(),
            Self::Pypi(name) => name.as_str().to_owned(),
            Self::Oci(reference) => reference.to_string(),
            Self::NpmKeys(registry) => format!("keys of {registry}"),
        }
    }

    /// Whether what is known of it can never change.
    fn is_fixed(&self) -> bool {
        matches!(self, Self::Oci(reference) if reference.is_fixed())
    }
}

/// What a registry said.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    /// The registry's own text, but for PyPI a [`Project`].
    pub(crate) text: Bytes,
    pub(crate) row: Document,
    /// It is old, and the registry could not be asked.
    pub(crate) is_stale: bool,
}

impl Said {
    /// What an index said of a Python project.
    pub(crate) fn project(&self) -> Result<Project, CacheError> {
        serde_json::from_slice(&self.text).map_err(|error| CacheError::Document(error.to_string()))
    }
}

type Outcome = Result<Said, Arc<CacheError>>;

pub(crate) struct Documents {
    pub(crate) database: Database,
    pub(crate) blobs: Blobs,
    pub(crate) sources: Sources,
    pub(crate) realms: Realms,
    pub(crate) hosts: Hosts,
    pub(crate) offline: bool,
    allowed_hosts: Vec<String>,
    clients: OnceCell<Clients>,
    ttl: TimeDelta,
    /// Whether it counts when versions were published.
    needs_times: bool,
    /// What has to stay free on the disk.
    reserve: u64,
    memory: Memory<Name, Said>,
    absent: Memory<Name, ()>,
    flights: Flights<Name, Outcome>,
    /// How many pulls Docker Hub says are left.
    pulls_left: IntGauge,
}

impl Documents {
    pub(crate) fn new(database: Database, blobs: Blobs, config: &Config, pulls_left: IntGauge, shutdown: Shutdown) -> Self {
        let weigh = |_: &Name, said: &Said| u32::try_from(said.text.len() + 256).unwrap_or(u32::MAX);
        Self {
            database,
            blobs,
            sources: Sources::new(&config.cache, config.npm_registry.clone()),
            realms: Realms::new(&config.cache, &config.allowed_hosts),
            hosts: Hosts::new(config.cache.per_host),
            offline: config.offline,
            allowed_hosts: config.allowed_hosts.clone(),
            clients: OnceCell::new(),
            ttl: TimeDelta::from_std(config.cache.metadata_ttl).unwrap_or(TimeDelta::MAX),
            reserve: config.cache.reserve_bytes,
            needs_times: !config.cache.policy.min_age.is_zero(),
            memory: Memory::builder().max_capacity(config.cache.memory_bytes / 2).weigher(weigh).time_to_live(REMEMBERED_FOR).build(),
            absent: Memory::builder().max_capacity(10_000).time_to_live(ABSENT_FOR).build(),
            flights: Flights::new(shutdown),
            pulls_left,
        }
    }

    /// The clients may reach the hosts of the configured registries, whatever their address; which ones
    /// these are, the installed clients are asked once.
    pub(crate) async fn clients(&self) -> Result<&Clients, CacheError> {
        self.clients
            .get_or_try_init(|| async {
                let own = self.sources.urls().await.into_iter().filter_map(|url| client::own_host(&url));
                let allowed: Vec<String> = self.allowed_hosts.iter().cloned().chain(own).collect();
                Ok(Clients { documents: Client::new(allowed.clone(), self.offline)?, files: Client::verbatim(allowed, self.offline)? })
            })
            .await
    }

    /// The client for documents.
    pub(crate) async fn client(&self) -> Result<&Client, CacheError> {
        Ok(&self.clients().await?.documents)
    }

    /// What the registry says of a package.
    pub(crate) async fn get(self: &Arc<Self>, name: &Name, ask: Ask) -> Result<Said, CacheError> {
        let known = self.known(name).await?;
        if let Some(said) = &known
            && (name.is_fixed() || is_young(said, if ask == Ask::Again { JUST_NOW.min(self.ttl) } else { self.ttl }))
        {
            return Ok(said.clone());
        }
        if self.offline || ask == Ask::Never {
            let refused = if self.offline { CacheError::Offline } else { CacheError::NotCached };
            return known.map(|said| Said { is_stale: true, ..said }).ok_or(refused);
        }
        if known.is_none() && self.absent.contains_key(name) {
            return Err(CacheError::NotFound);
        }
        let (this, wanted, before) = (Arc::clone(self), name.clone(), known.clone());
        let work = || async move { this.fetch(&wanted, before).await.map_err(Arc::new) };
        let (outcome, _) = self.flights.join_or_start(name.clone(), work).await;
        match (outcome.map_err(|_| CacheError::Stopping)?, known) {
            (Ok(said), _) => Ok(said),
            (Err(error), Some(said)) if error.is_upstream() => {
                tracing::warn!(package = name.text(), %error, "the registry cannot be asked; what it said before is given");
                Ok(Said { is_stale: true, ..said })
            }
            (Err(error), _) => {
                if matches!(*error, CacheError::NotFound) {
                    self.absent.insert(name.clone(), ()).await;
                }
                Err(CacheError::Shared(error))
            }
        }
    }

    /// What is here already.
    async fn known(&self, name: &Name) -> Result<Option<Said>, CacheError> {
        if let Some(said) = self.memory.get(name).await {
            return Ok(Some(said));
        }
        let Some(row) = store::document(self.database.system(), name.registry(), &name.text()).await? else { return Ok(None) };
        // A cache folder of another machine, or one that lost files, is filled again.
        let Ok(text) = self.blobs.read(&row.blob).await else { return Ok(None) };
        if BlobId::of(&text) != row.blob {
            tracing::error!(package = name.text(), blob = row.blob.hex(), "a stored document was changed; it is fetched again");
            return Ok(None);
        }
        let said = Said { text: text.into(), row, is_stale: false };
        self.memory.insert(name.clone(), said.clone()).await;
        Ok(Some(said))
    }

    async fn fetch(&self, name: &Name, before: Option<Said>) -> Result<Said, CacheError> {
        let request = self.request(name).await?;
        let visit = self.hosts.enter(&request.url).await?;
        let said = visit.ended(self.ask(name, &request, before).await)?;
        let mut transaction = self.database.begin_system().await?;
        store::take_turns(&mut transaction).await?;
        // It may have been removed while the registry was asked.
        if !self.blobs.has(&said.row.blob).await {
            self.blobs.put(&said.text).await?;
        }
        let size = i64::try_from(said.text.len()).unwrap_or(i64::MAX);
        let replaced = store::keep_document(&mut transaction, name.registry(), &name.text(), &said.row, size).await?;
        transaction.commit().await.map_err(DbError::from)?;
        if let Some(replaced) = replaced {
            remove_unknown(&self.database, &self.blobs, &[replaced]).await?;
        }
        self.memory.insert(name.clone(), said.clone()).await;
        Ok(said)
    }

    /// What is too old to be used goes also while nobody asks.
    pub(crate) async fn forget_in_time(self: Arc<Self>, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(REMEMBERED_FOR) => {}
                () = shutdown.begun() => return,
            }
            self.memory.run_pending_tasks().await;
            self.absent.run_pending_tasks().await;
        }
    }

    /// What is in memory may not be what is there any more.
    pub(crate) fn forget_all(&self) {
        self.memory.invalidate_all();
    }

    async fn ask(&self, name: &Name, request: &Request, before: Option<Said>) -> Result<Said, CacheError> {
        let client = self.client().await?;
        let source = request.url.as_str().to_owned();
        if let (Some(said), Name::Oci(reference)) = (&before, name)
            && self.is_unmoved(client, request, reference, said).await?
        {
            return Ok(Said { row: Document { checked_at: clock::now(), ..said.row.clone() }, is_stale: false, ..said.clone() });
        }
        let etag = before.as_ref().filter(|said| said.row.source == source).and_then(|said| said.row.etag.clone());
        let response = self.answer(client.get(request.url.clone())?, name, request, etag.as_deref()).await?;
        let checked_at = clock::now();
        match (response.status(), before) {
            (StatusCode::NOT_MODIFIED, Some(said)) if etag.is_some() => {
                Ok(Said { row: Document { checked_at, ..said.row }, is_stale: false, ..said })
            }
            (StatusCode::OK, _) => {
                let etag = response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
                let text = self.with_times(name, request, self.read(name, response).await?).await?;
                if self.blobs.free_bytes()? < self.reserve.saturating_add(text.len() as u64) {
                    return Err(Refusal::Reserve.into());
                }
                let blob = self.blobs.put(&text).await?;
                Ok(Said { text, row: Document { blob, source, etag, checked_at }, is_stale: false })
            }
            (StatusCode::NOT_FOUND | StatusCode::GONE, _) => Err(CacheError::NotFound),
            (status, _) => Err(DownloadError::Status(status).into()),
        }
    }

    /// Whether a tag still stands for what it stood for: asked by HEAD, which Docker Hub does not count.
    async fn is_unmoved(&self, client: &Client, request: &Request, reference: &OciReference, said: &Said) -> Result<bool, CacheError> {
        let response = self.answer(client.head(request.url.clone())?, &Name::Oci(reference.clone()), request, None).await?;
        let stated = response.headers().get("docker-content-digest").and_then(|digest| oci::stated_digest(digest.to_str().ok()?));
        Ok(response.status() == StatusCode::OK && stated == Some(said.row.blob))
    }

    async fn answer(
        &self,
        mut asking: reqwest::RequestBuilder,
        name: &Name,
        request: &Request,
        etag: Option<&str>,
    ) -> Result<Response, CacheError> {
        asking = asking.header(header::ACCEPT, request.accept);
        if let Some(auth) = &request.auth {
            asking = auth.on(asking);
        }
        if let Some(etag) = etag {
            asking = asking.header(header::IF_NONE_MATCH, etag);
        }
        let response = timeout(ANSWER_LIMIT, asking.send()).await.map_err(|_| DownloadError::TooSlow)?.map_err(DownloadError::from)?;
        if let Name::Oci(reference) = name {
            self.note_pulls(reference, &response);
            if response.status() == StatusCode::UNAUTHORIZED {
                self.realms.forget(&reference.name);
            }
        }
        Ok(response)
    }

    /// `ratelimit-remaining: 76;w=21600`
    fn note_pulls(&self, reference: &OciReference, response: &Response) {
        let stated = response.headers().get("ratelimit-remaining").and_then(|left| left.to_str().ok());
        if let Some(left) = stated.and_then(|left| left.split(';').next()?.trim().parse().ok())
            && reference.name.is_on_hub()
        {
            self.pulls_left.set(left);
        }
    }

    async fn request(&self, name: &Name) -> Result<Request, CacheError> {
        let (registry, path, accept) = match name {
            // The one slash of a scoped name is part of the name.
            Name::Npm(name) => (self.sources.npm(name).await?.clone(), name.as_str().replace('/', "%2F"), "application/json"),
            Name::NpmKeys(registry) => {
                let url = registry.join("-/npm/v1/keys").map_err(|error| CacheError::Document(error.to_string()))?;
                return Ok(Request { url, auth: None, accept: "application/json" });
            }
            Name::Pypi(name) => (self.sources.pypi().await?.clone(), format!("{}/", name.as_str()), pypi::ACCEPT),
            Name::Oci(reference) => {
                let url = self.realms.address(&reference.name, "manifests", &reference.at.to_string())?;
                let auth = self.realms.auth(self.client().await?, &reference.name).await?;
                return Ok(Request { url, auth, accept: oci::ACCEPT });
            }
        };
        let url = registry.url.join(&path).map_err(|error| CacheError::Document(error.to_string()))?;
        Ok(Request { url, auth: registry.auth, accept })
    }

    /// Where the age of versions counts and an index does not say it, its other interface is asked. Without an
    /// answer nobody knows, which is for the rules to judge.
    async fn with_times(&self, name: &Name, request: &Request, text: Bytes) -> Result<Bytes, CacheError> {
        let (Name::Pypi(name), true) = (name, self.needs_times) else { return Ok(text) };
        let malformed = |error: serde_json::Error| CacheError::Document(error.to_string());
        let mut project: Project = serde_json::from_slice(&text).map_err(malformed)?;
        let url = request.url.join(&format!("../../pypi/{}/json", name.as_str())).ok();
        let Some(url) = url.filter(|_| project.is_timeless()) else { return Ok(text) };
        let mut asking = self.client().await?.get(url)?.header(header::ACCEPT, "application/json");
        if let Some(auth) = &request.auth {
            asking = auth.on(asking);
        }
        let response = timeout(ANSWER_LIMIT, asking.send()).await;
        let Ok(Ok(response)) = response else { return Ok(text) };
        if response.status() == StatusCode::OK
            && let Ok(document) = bounded(response, MAX_DOCUMENT).await
            && project.add_times(&document).is_ok()
        {
            return Ok(serde_json::to_vec(&project).map_err(malformed)?.into());
        }
        Ok(text)
    }

    /// Takes the document in and looks whether it is one.
    async fn read(&self, name: &Name, response: Response) -> Result<Bytes, CacheError> {
        let url = response.url().clone();
        let content_type =
            response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let stated = response.headers().get("docker-content-digest").and_then(|digest| oci::stated_digest(digest.to_str().ok()?));
        let body = bounded(response, if matches!(name, Name::Oci(_)) { MAX_MANIFEST } else { MAX_DOCUMENT }).await?;
        let name = name.clone();
        // Those of popular packages take a while.
        let reading = tokio::task::spawn_blocking(move || checked(&name, &url, &content_type, stated, body));
        reading.await.map_err(|_| CacheError::Stopping)?
    }
}

/// The document as it is kept, if it is one.
fn checked(name: &Name, url: &Url, content_type: &str, stated: Option<BlobId>, body: Bytes) -> Result<Bytes, CacheError> {
    match name {
        Name::Npm(name) => drop(Packument::parse(name, &body)?),
        Name::NpmKeys(_) => drop(crate::signatures::Keys::parse(&body)?),
        Name::Oci(reference) => check_manifest(reference, content_type, stated, &body)?,
        Name::Pypi(name) => {
            let project = Project::parse(name, url, content_type, &body)?;
            return Ok(serde_json::to_vec(&project).map_err(|error| CacheError::Document(error.to_string()))?.into());
        }
    }
    Ok(body)
}

struct Request {
    url: Url,
    auth: Option<Auth>,
    accept: &'static str,
}

/// A manifest is known by the digest of its bytes: by the one that was asked for, and by the one that is stated.
fn check_manifest(reference: &OciReference, content_type: &str, stated: Option<BlobId>, body: &[u8]) -> Result<(), CacheError> {
    let blob = BlobId::of(body);
    let wanted = match &reference.at {
        OciAt::Digest(pinned) => Some(*pinned.blob()),
        OciAt::Tag(_) => stated,
    };
    if let Some(wanted) = wanted.filter(|wanted| *wanted != blob) {
        let named = |blob: &BlobId| format!("sha256:{}", blob.hex());
        return Err(DownloadError::Mismatch { expected: named(&wanted), got: named(&blob) }.into());
    }
    let manifest = Manifest::parse(body)?;
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if essence != manifest.media_type() {
        return Err(CacheError::Document(format!("it is called {} inside, and something else outside", manifest.media_type())));
    }
    Ok(())
}

/// An answer from the future is one from before the clock was set back: nobody knows how old it is.
fn is_young(said: &Said, than: TimeDelta) -> bool {
    let age = clock::now() - said.row.checked_at;
    age < than && age > -JUST_NOW
}

/// Takes in at most `max` bytes.
pub(crate) async fn bounded(mut response: Response, max: usize) -> Result<Bytes, CacheError> {
    let mut body = Vec::new();
    let whole = async {
        while let Some(chunk) = response.chunk().await.map_err(DownloadError::from)? {
            if body.len() + chunk.len() > max {
                return Err(DownloadError::TooLarge(max as u64));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(())
    };
    timeout(2 * ANSWER_LIMIT, whole).await.map_err(|_| DownloadError::TooSlow)??;
    // It may stay for a while: without the room that it grew into.
    body.shrink_to_fit();
    Ok(body.into())
}
