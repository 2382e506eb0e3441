//! The container engine: eight questions to it at once, each counted, and no memory of whether it is there.

use std::{
    collections::HashMap,
    future::Future,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    errors::Error,
    models::ContainerSummary,
    query_parameters::{CreateImageOptions, ListContainersOptions, RemoveContainerOptions},
};
use futures_util::TryStreamExt as _;
use platform::telemetry::Metrics;
use prometheus::IntCounterVec;
use tokio::sync::{Mutex, Semaphore};

use crate::wire::plain;

/// How many questions are asked at once: engines answer more of them slower, not sooner.
const AT_ONCE: usize = 8;
/// How long an answer may take to begin, in seconds.
const PATIENCE: u64 = 120;
/// Where engines usually listen, besides what is configured.
pub(crate) const SOCKETS: [&str; 3] = ["/var/run/docker.sock", "/run/podman/podman.sock", "/run/docker.sock"];
/// The label that says which fabric a container is of.
pub(crate) const NODE: &str = "io.github.mcp-fabric.node";
/// The label that says which instance it is.
pub(crate) const INSTANCE: &str = "io.github.mcp-fabric.instance";

/// Why the engine did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// It does not answer.
    #[error("no container engine answers at {0}: {1}")]
    Unavailable(String, String),
    /// It refuses: its status and its sentence.
    #[error("the container engine refused: {1} ({0})")]
    Refused(u16, String),
}

impl EngineError {
    /// Whether what was asked about is not there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Refused(404, _))
    }

    /// Whether it is there, and only not now.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self, Self::Unavailable(..))
    }
}

/// The way to an engine; cheap to clone.
pub(crate) struct Engine {
    address: String,
    /// The connection with the version that both sides know.
    client: Mutex<Option<Docker>>,
    places: Semaphore,
    operations: IntCounterVec,
    pub(crate) node: String,
    /// Where the engine reaches this fabric's own registry: `127.0.0.1:8085`.
    registry: OnceLock<String>,
}

impl Engine {
    /// The engine at an address (`unix:///var/run/docker.sock`, `http://127.0.0.1:2375`), else where engines usually are.
    pub(crate) fn new(address: Option<&str>, node: &str, metrics: &Metrics) -> Arc<Self> {
        let usual = || SOCKETS.into_iter().find(|socket| Path::new(socket).exists()).unwrap_or(SOCKETS[0]);
        let address = address.map_or_else(|| format!("unix://{}", usual()), str::to_owned);
        let operations =
            metrics.counters("container_operations_total", "Questions to the container engine, by outcome", &["op", "outcome"]);
        let (client, places, registry) = (Mutex::default(), Semaphore::new(AT_ONCE), OnceLock::new());
        Arc::new(Self { address, client, places, operations, node: node.to_owned(), registry })
    }

    /// Says where the engine reaches this fabric's own registry.
    pub(crate) fn set_registry(&self, address: String) {
        self.registry.set(address).ok();
    }

    async fn client(&self) -> Result<Docker, Error> {
        let mut known = self.client.lock().await;
        if let Some(client) = &*known {
            return Ok(client.clone());
        }
        let client = if self.address.starts_with("http://") || self.address.starts_with("tcp://") {
            Docker::connect_with_http(&self.address, PATIENCE, API_DEFAULT_VERSION)
        } else {
            Docker::connect_with_unix(&self.address, PATIENCE, API_DEFAULT_VERSION)
        }?;
        let client = client.negotiate_version().await?;
        Ok(known.insert(client).clone())
    }

    /// Asks the engine, when it is this question's turn.
    pub(crate) async fn ask<T, F>(&self, op: &'static str, question: impl FnOnce(Docker) -> F) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let _turn = self.places.acquire().await;
        let asked = async { question(self.client().await?).await };
        let answer = asked.await.map_err(|error| self.understand(&error));
        let outcome = match &answer {
            Ok(_) => "ok",
            Err(error) if error.is_missing() => "missing",
            Err(EngineError::Unavailable(..)) => "unavailable",
            Err(EngineError::Refused(..)) => "refused",
        };
        self.operations.with_label_values(&[op, outcome]).inc();
        if answer.as_ref().err().is_some_and(EngineError::is_away) {
            // It may be another version when it comes back.
            *self.client.lock().await = None;
        }
        answer
    }

    fn understand(&self, error: &Error) -> EngineError {
        match error {
            Error::DockerResponseServerError { status_code, message } => EngineError::Refused(*status_code, plain(message, 400)),
            Error::DockerStreamError { error } | Error::DockerContainerWaitError { error, .. } => {
                EngineError::Refused(500, plain(error, 400))
            }
            other => {
                let mut why = other.to_string();
                let mut source = std::error::Error::source(other);
                while let Some(next) = source {
                    why = next.to_string();
                    source = next.source();
                }
                EngineError::Unavailable(self.address.clone(), plain(&why, 200))
            }
        }
    }

    /// What the engine calls an image of the fabric's own registry.
    pub(crate) fn reference(&self, name: &str, digest: &str) -> String {
        let registry = self.registry.get().map_or("127.0.0.1:8085", String::as_str);
        // In a path, a host's port is parted by an underscore.
        format!("{registry}/{}@{digest}", name.replace(':', "_"))
    }

    /// Has the engine pull an image from the fabric's own registry, by digest, where it does not have it; gives the user
    /// that the image wants to run as.
    pub(crate) async fn pull(&self, reference: &str) -> Result<Option<String>, EngineError> {
        if let Err(error) = self.inspect_image(reference).await {
            if !error.is_missing() {
                return Err(error);
            }
            let options = CreateImageOptions { from_image: Some(reference.to_owned()), ..CreateImageOptions::default() };
            self.ask("pull", async |docker: Docker| {
                let mut coming = Box::pin(docker.create_image(Some(options), None, None));
                while let Some(told) = coming.try_next().await? {
                    if let Some(message) = told.error_detail.and_then(|error| error.message) {
                        return Err(Error::DockerStreamError { error: message });
                    }
                }
                Ok(())
            })
            .await?;
        }
        self.inspect_image(reference).await
    }

    async fn inspect_image(&self, reference: &str) -> Result<Option<String>, EngineError> {
        let found = self.ask("inspect_image", async |docker: Docker| docker.inspect_image(reference).await).await?;
        Ok(found.config.and_then(|config| config.user).filter(|user| !user.is_empty()))
    }

    /// The containers of this fabric, whoever they are for.
    pub(crate) async fn list(&self) -> Result<Vec<ContainerSummary>, EngineError> {
        let filters = HashMap::from([("label".to_owned(), vec![format!("{NODE}={}", self.node)])]);
        let options = ListContainersOptions { all: true, filters: Some(filters), ..ListContainersOptions::default() };
        self.ask("list", async |docker: Docker| docker.list_containers(Some(options)).await).await
    }

    /// Removes a container with all that it left; one that is not there is removed.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptions { force: true, v: true, link: false };
        match self.ask("remove", async |docker: Docker| docker.remove_container(name, Some(options)).await).await {
            Err(error) if error.is_missing() => Ok(()),
            // Somebody else is at it.
            Err(EngineError::Refused(409, _)) => Ok(()),
            done => done,
        }
    }

    /// Whether an engine answers, and which.
    async fn version(&self) -> Result<String, EngineError> {
        let asked = self.ask("version", async |docker: Docker| docker.version().await);
        let version = tokio::time::timeout(Duration::from_secs(5), asked).await;
        let version = version.map_err(|_| EngineError::Unavailable(self.address.clone(), "it takes longer than 5 s".into()))??;
        Ok(version.version.unwrap_or_default())
    }
}

/// The version of the container engine at an address, else of the one where engines usually are; why it does not answer.
pub async fn engine_version(address: Option<&str>) -> Result<String, String> {
    Engine::new(address, "doctor", &Metrics::default()).version().await.map_err(|error| error.to_string())
}
