//! What registries say of packages: asked for once at a time, kept, asked again when it is old, and given
//! although it is old when the registry is down.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::TimeDelta;
use moka::future::Cache as Memory;
use platform::{Shutdown, client::Client, clock, database::DbError};
use reqwest::{Response, StatusCode, header};
use tokio::time::timeout;
use url::Url;

use crate::{
    blobs::Blobs,
    download::{Auth, DownloadError},
    error::CacheError,
    flights::Flights,
    model::Document,
    names::{NpmName, PypiName, RegistryType},
    npm::Packument,
    pypi::{self, Project},
    sources::Sources,
    store,
};

/// The largest document, in bytes: those of the most popular packages have some ten megabytes.
const MAX_DOCUMENT: usize = 64 << 20;
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How old an answer may be that did not have what somebody wants.
const JUST_NOW: TimeDelta = TimeDelta::seconds(10);
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

/// A package whose registry is asked what there is of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    Npm(NpmName),
    Pypi(PypiName),
}

impl Name {
    fn registry(&self) -> RegistryType {
        match self {
            Self::Npm(_) => RegistryType::Npm,
            Self::Pypi(_) => RegistryType::Pypi,
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Npm(name) => name.as_str(),
            Self::Pypi(name) => name.as_str(),
        }
    }
}

/// What a registry said.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    /// For npm the registry's own text; for PyPI a [`Project`].
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
    pub(crate) database: platform::Database,
    pub(crate) blobs: Blobs,
    pub(crate) sources: Arc<Sources>,
    pub(crate) offline: bool,
    ttl: TimeDelta,
    memory: Memory<Name, Said>,
    absent: Memory<Name, ()>,
    flights: Flights<Name, Outcome>,
}

impl Documents {
    pub(crate) fn new(
        database: platform::Database,
        blobs: Blobs,
        sources: Arc<Sources>,
        offline: bool,
        ttl: Duration,
        memory_bytes: u64,
        shutdown: Shutdown,
    ) -> Self {
        let weigh = |_: &Name, said: &Said| u32::try_from(said.text.len() + 256).unwrap_or(u32::MAX);
        Self {
            database,
            blobs,
            sources,
            offline,
            ttl: TimeDelta::from_std(ttl).unwrap_or(TimeDelta::MAX),
            memory: Memory::builder().max_capacity(memory_bytes).weigher(weigh).build(),
            absent: Memory::builder().max_capacity(10_000).time_to_live(ABSENT_FOR).build(),
            flights: Flights::new(shutdown),
        }
    }

    /// What the registry says of a package.
    pub(crate) async fn get(self: &Arc<Self>, name: &Name, client: &Client, ask: Ask) -> Result<Said, CacheError> {
        let known = self.known(name).await?;
        if let Some(said) = &known
            && clock::now() - said.row.checked_at < if ask == Ask::Again { JUST_NOW.min(self.ttl) } else { self.ttl }
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
        let (this, wanted, client, before) = (Arc::clone(self), name.clone(), client.clone(), known.clone());
        let work = || async move { this.fetch(&wanted, &client, before).await.map_err(Arc::new) };
        let (outcome, _) = self.flights.join_or_start(name.clone(), work).await;
        match (outcome.map_err(|_| CacheError::Stopping)?, known) {
            (Ok(said), _) => Ok(said),
            (Err(error), Some(said)) if error.is_upstream() => {
                tracing::warn!(package = name.as_str(), %error, "the registry cannot be asked; what it said before is given");
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
        let Some(row) = store::document(self.database.system(), name.registry(), name.as_str()).await? else { return Ok(None) };
        // A cache folder of another machine, or one that lost files, is filled again.
        let Ok(text) = self.blobs.read(&row.blob).await else { return Ok(None) };
        if crate::digest::BlobId::of(&text) != row.blob {
            tracing::error!(package = name.as_str(), blob = row.blob.hex(), "a stored document was changed; it is fetched again");
            return Ok(None);
        }
        let said = Said { text: text.into(), row, is_stale: false };
        self.memory.insert(name.clone(), said.clone()).await;
        Ok(Some(said))
    }

    async fn fetch(&self, name: &Name, client: &Client, before: Option<Said>) -> Result<Said, CacheError> {
        let (url, auth, accept) = self.address(name).await?;
        let source = url.as_str().to_owned();
        let etag = before.as_ref().filter(|said| said.row.source == source).and_then(|said| said.row.etag.clone());
        let response = ask(client, url, auth.as_ref(), accept, etag.as_deref()).await?;
        let checked_at = clock::now();
        let said = match (response.status(), before) {
            (StatusCode::NOT_MODIFIED, Some(said)) if etag.is_some() => {
                Said { row: Document { checked_at, ..said.row }, is_stale: false, ..said }
            }
            (StatusCode::OK, _) => {
                let etag = response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
                let text = self.read(name, response).await?;
                let blob = self.blobs.put(&text).await?;
                Said { text, row: Document { blob, source, etag, checked_at }, is_stale: false }
            }
            (StatusCode::NOT_FOUND | StatusCode::GONE, _) => return Err(CacheError::NotFound),
            (status, _) => return Err(DownloadError::Status(status).into()),
        };
        let mut transaction = self.database.system().begin().await?;
        let replaced = store::keep_document(&mut transaction, name.registry(), name.as_str(), &said.row).await?;
        transaction.commit().await.map_err(DbError::from)?;
        if let Some(replaced) = replaced {
            self.blobs.remove(&replaced).await?;
        }
        self.memory.insert(name.clone(), said.clone()).await;
        Ok(said)
    }

    async fn address(&self, name: &Name) -> Result<(Url, Option<Auth>, &'static str), CacheError> {
        let (registry, path, accept) = match name {
            // The one slash of a scoped name is part of the name.
            Name::Npm(name) => (self.sources.npm(name).await?, name.as_str().replace('/', "%2F"), "application/json"),
            Name::Pypi(name) => (self.sources.pypi().await?, format!("{}/", name.as_str()), pypi::ACCEPT),
        };
        let url = registry.url.join(&path).map_err(|error| CacheError::Document(error.to_string()))?;
        Ok((url, registry.auth.clone(), accept))
    }

    /// Takes the document in and looks whether it is one.
    async fn read(&self, name: &Name, response: Response) -> Result<Bytes, CacheError> {
        let url = response.url().clone();
        let content_type =
            response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let body = bounded(response).await?;
        Ok(match name {
            Name::Npm(name) => {
                Packument::parse(name, &body)?;
                body
            }
            Name::Pypi(name) => {
                let project = Project::parse(name, &url, &content_type, &body)?;
                serde_json::to_vec(&project).map_err(|error| CacheError::Document(error.to_string()))?.into()
            }
        })
    }
}

async fn ask(client: &Client, url: Url, auth: Option<&Auth>, accept: &str, etag: Option<&str>) -> Result<Response, CacheError> {
    let mut request = client.get(url)?.header(header::ACCEPT, accept);
    if let Some(auth) = auth {
        request = auth.on(request);
    }
    if let Some(etag) = etag {
        request = request.header(header::IF_NONE_MATCH, etag);
    }
    let response = timeout(ANSWER_LIMIT, request.send()).await.map_err(|_| DownloadError::TooSlow)?;
    Ok(response.map_err(DownloadError::from)?)
}

async fn bounded(mut response: Response) -> Result<Bytes, CacheError> {
    let mut body = Vec::new();
    let whole = async {
        while let Some(chunk) = response.chunk().await.map_err(DownloadError::from)? {
            if body.len() + chunk.len() > MAX_DOCUMENT {
                return Err(DownloadError::TooLarge(MAX_DOCUMENT as u64));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(())
    };
    timeout(2 * ANSWER_LIMIT, whole).await.map_err(|_| DownloadError::TooSlow)??;
    Ok(body.into())
}
