//! Starts the program and stops it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use axum_server::{Handle, tls_rustls::RustlsConfig};
use cache::CacheError;
use credentials::{CredentialsError, RingError};
use oauth::OauthError;
use packages::PackagesError;
use platform::{
    Config, Database, Shutdown,
    actor::Door,
    config::ConfigError,
    database::{self, OpenError, Separation, managed::Cluster},
    files::{self, FileError, IoContext as _},
    http::{Front, access::Access},
    ids,
    telemetry::Metrics,
};
use runtime::RuntimeError;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, task::JoinHandle};
use users::UsersError;

use crate::{
    connections::Limits,
    internal::{self, Internal, InternalError},
    router,
    services::{self, Built},
};

/// How long requests that are under way may take once the program stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// How long background work may take to reach a safe point.
const WORK_LIMIT: Duration = Duration::from_secs(6);
/// How long connections to the database may take to be given back.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// How long stopping may take altogether; service managers wait a little longer.
const STOP_LIMIT: Duration = Duration::from_millis(9500);
/// How long a client may take to send its headers.
const HEADER_LIMIT: Duration = Duration::from_secs(15);

/// The program cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Another process serves this data folder.
    #[error("another process (pid {pid}) is serving the data folder {folder}; commands talk to that one, and a second one needs its own FABRIC_DATA_DIR", folder = .folder.display())]
    AlreadyRunning {
        /// Its number, or `?`.
        pid: String,
        /// The data folder.
        folder: PathBuf,
    },
    /// The address of the factory's own listener cannot be listened at.
    #[error("cannot listen on {0}: {1}; MCP_FACTORY_PORT sets another port")]
    ListenForFactory(SocketAddr, #[source] std::io::Error),
    /// The address cannot be listened at.
    #[error("cannot listen on {0}: {1}; FABRIC_LISTEN sets another address")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// The certificate or its key cannot be used.
    #[error("cannot serve TLS with {path}: {reason}", path = .0.display(), reason = .1)]
    Tls(PathBuf, String),
    /// `REDIS_URL` cannot be used.
    #[error(transparent)]
    Redis(platform::redis::RedisUnusable),
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// The catalogue cannot be prepared.
    #[error(transparent)]
    Servers(#[from] servers::ServersError),
    /// The package cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The master keys do not fit the database.
    #[error(transparent)]
    Keys(#[from] RingError),
    /// The vault cannot be opened.
    #[error(transparent)]
    Vault(#[from] CredentialsError),
    /// The folders of installations cannot be used.
    #[error(transparent)]
    Packages(#[from] PackagesError),
    /// Outgoing HTTP cannot be set up.
    #[error(transparent)]
    Oauth(#[from] OauthError),
    /// Other people's programs cannot be kept as it is asked for.
    #[error("servers cannot be run: {0}")]
    Sandbox(std::io::Error),
    /// Servers cannot be run.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Spans cannot be exported as it is asked for.
    #[error(transparent)]
    Traces(#[from] platform::traces::TracesError),
    /// The folder of what is made cannot be used, or the model not be asked.
    #[error(transparent)]
    Factory(#[from] factory::FactoryError),
    /// Virtual servers cannot be looked at.
    #[error(transparent)]
    VirtualServers(#[from] virtual_servers::VirtualServersError),
    /// Accounts cannot be used.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// The internal listener cannot be used.
    #[error(transparent)]
    Internal(#[from] InternalError),
    /// The schedule cannot be used.
    #[error(transparent)]
    Schedule(#[from] sync::ScheduleError),
    /// Outgoing HTTP cannot be set up.
    #[error(transparent)]
    Client(#[from] platform::client::ClientError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

impl StartError {
    /// Whether it is a matter of configuration, which starting again will not mend (exit code 78).
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Config(_) | Self::Schedule(_) | Self::Tls(..) | Self::Sandbox(_) | Self::Traces(_) | Self::Redis(_) => true,
            Self::Database(error) => error.is_configuration(),
            Self::Servers(error) => matches!(error, servers::ServersError::Rules(_) | servers::ServersError::Predefined(_)),
            Self::File(error) => error.is_configuration(),
            Self::Cache(error) => error.is_configuration(),
            Self::Keys(error) => error.is_configuration(),
            Self::Internal(error) => error.is_configuration(),
            Self::Vault(_)
            | Self::Packages(_)
            | Self::Oauth(_)
            | Self::Runtime(_)
            | Self::Factory(_)
            | Self::ListenForFactory(..)
            | Self::VirtualServers(_)
            | Self::Users(_)
            | Self::AlreadyRunning { .. }
            | Self::Listen(..)
            | Self::Client(_) => false,
        }
    }
}

/// What commands of the same data folder need to know of a running program.
#[derive(Debug, Serialize, Deserialize)]
pub struct Running {
    /// Where it is reached from this machine.
    pub url: String,
    /// Its process number.
    pub pid: u32,
}

/// What is served when everything has started.
struct Served {
    url: String,
    handle: Handle<SocketAddr>,
    server: JoinHandle<std::io::Result<()>>,
    internal: Option<Internal>,
}

/// The running program.
pub struct App {
    /// Where it is reached from this machine.
    pub url: String,
    /// Where the operator's token lies.
    pub token_file: PathBuf,
    config: Config,
    shutdown: Shutdown,
    handle: Handle<SocketAddr>,
    server: JoinHandle<std::io::Result<()>>,
    internal: Option<Internal>,
    database: Database,
    cluster: Option<Arc<Cluster>>,
    /// Held for as long as this process serves the data folder.
    _lock: fs::File,
}

impl App {
    /// Starts everything; HTTP is served when this returns.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        rustls::crypto::ring::default_provider().install_default().ok();
        sync::check_schedule(&config)?;
        let tls = config.http.tls.as_ref().map(|(certificate, key)| load_tls(certificate, key)).transpose()?;
        files::private_folder(&config.data_dir)?;
        let lock = lock(&config.data_dir)?;
        let (database, cluster) = database::open(&config).await?;
        let shutdown = Shutdown::default();
        if let Some(cluster) = &cluster {
            shutdown.spawn(Arc::clone(cluster).supervise(shutdown.clone()));
        }
        let started = Self::serve(&config, tls, &database, &shutdown).await;
        match started {
            Ok(Served { url, handle, server, internal }) => {
                let token_file = files::operator_token_file(&config.data_dir);
                Ok(Self { url, token_file, config, shutdown, handle, server, internal, database, cluster, _lock: lock })
            }
            Err(error) => {
                shutdown.finish(WORK_LIMIT).await;
                stop_database(&database, cluster.as_deref(), STOP_LIMIT).await;
                Err(error)
            }
        }
    }

    async fn serve(config: &Config, tls: Option<RustlsConfig>, database: &Database, shutdown: &Shutdown) -> Result<Served, StartError> {
        if let Separation::Owner { reason } = &database.separation {
            tracing::warn!("working as the plain owner of the database, under forced row-level security: {reason}");
        }
        if config.http.trust_loopback {
            tracing::warn!(
                "FABRIC_TRUST_LOOPBACK is set: programs on this machine, servers that run here among them, act as the operator without a token"
            );
        }
        let metrics = Metrics::default();
        let node = node_id(&config.data_dir)?;
        let Built { services, handlers } = Box::pin(services::build(config, database, &node, &metrics, shutdown)).await?;
        let (jobs, sync) = (services.jobs.clone(), services.sync.clone());
        let (packages, oauth, runtime) = (services.packages.clone(), services.oauth.clone(), services.runtime.clone());

        let authenticator = Arc::new(services.users.clone());
        let front = Front::new(config, Access::new(authenticator.clone(), config.http.trust_loopback), Door::Public, &metrics);
        // Being on this machine is no right to plaintext.
        let inner_front = front.at(Door::Internal, Access::new(authenticator, false));
        let internal = internal::start(config, router::internal(services.credentials.clone(), inner_front))?;
        let older = router::factory(services.factory.clone(), services.jobs.clone(), config, front.clone());
        let service = router::build(services, config, front, metrics.clone());
        let listener = std::net::TcpListener::bind(config.listen).map_err(|error| StartError::Listen(config.listen, error))?;
        let bound = listener.local_addr().map_err(|error| StartError::Listen(config.listen, error))?;
        let url = config.local_url(bound);
        let handle = Handle::new();
        let limits = Limits {
            places: Arc::new(Semaphore::new(config.http.max_connections as usize)),
            unread: config.http.write_timeout,
            silent: HEADER_LIMIT,
            open: metrics.gauge("fabric_http_connections", "Connections that are open"),
            refused: metrics.counter("fabric_http_connections_refused_total", "Connections beyond FABRIC_MAX_CONNECTIONS"),
        };
        let mut servers = vec![(config.listen, listener, service)];
        if let Some(port) = config.factory.port {
            let address = SocketAddr::new(config.listen.ip(), port);
            let listener = std::net::TcpListener::bind(address).map_err(|error| StartError::ListenForFactory(address, error))?;
            servers.push((address, listener, older));
        }
        let server = spawn_servers(servers, tls.as_ref(), &handle, &limits)?;

        jobs.start(config, node, handlers, &metrics, shutdown);
        packages.start(config, shutdown);
        oauth.start(&url);
        runtime.start(&url);
        sync.start(shutdown).await?;
        let running = Running { url: url.clone(), pid: std::process::id() };
        let text = serde_json::to_vec_pretty(&running).unwrap_or_default();
        files::write_private(&files::address_file(&config.data_dir), &text)?;
        Ok(Served { url, handle, server, internal })
    }

    /// Stops everything in order: requests finish, jobs reach a safe point, the database is closed.
    pub async fn stop(self) {
        let began = Instant::now();
        self.shutdown.begin();
        self.handle.graceful_shutdown(Some(DRAIN_LIMIT));
        if let Some(internal) = self.internal {
            internal.stop(DRAIN_LIMIT).await;
        }
        let (ended, served) = tokio::join!(self.shutdown.finish(WORK_LIMIT), self.server);
        if !ended {
            tracing::warn!("some background work did not reach a safe point in time; it goes on after the next start");
        }
        if let Ok(Err(error)) = served {
            tracing::error!(%error, "the HTTP server failed");
        }
        stop_database(&self.database, self.cluster.as_deref(), STOP_LIMIT.saturating_sub(began.elapsed())).await;
        let address = files::address_file(&self.config.data_dir);
        if let Err(error) = fs::remove_file(&address) {
            tracing::debug!(%error, "could not remove {}", address.display());
        }
    }
}

async fn stop_database(database: &Database, cluster: Option<&Cluster>, within: Duration) {
    let began = Instant::now();
    if tokio::time::timeout(CLOSE_LIMIT, database.close()).await.is_err() {
        tracing::warn!("some database connections were still in use");
    }
    if let Some(cluster) = cluster
        && let Err(error) = cluster.stop(within.saturating_sub(began.elapsed())).await
    {
        tracing::error!(%error, "the managed database did not stop in order; it recovers at the next start");
    }
}

/// Serves each listener; ends when all of them have, which their handle makes them.
#[expect(clippy::disallowed_methods, reason = "the servers end by their handle, not by the shutdown token")]
fn spawn_servers(
    servers: Vec<(SocketAddr, std::net::TcpListener, axum::Router)>,
    tls: Option<&RustlsConfig>,
    handle: &Handle<SocketAddr>,
    limits: &Limits,
) -> Result<JoinHandle<std::io::Result<()>>, StartError> {
    let spawn = |(address, listener, service)| {
        spawn_server(listener, tls.cloned(), handle.clone(), limits.clone(), service).map_err(|error| StartError::Listen(address, error))
    };
    let running: Vec<JoinHandle<std::io::Result<()>>> = servers.into_iter().map(spawn).collect::<Result<_, _>>()?;
    Ok(tokio::spawn(async move {
        for server in running {
            server.await.map_err(std::io::Error::other)??;
        }
        Ok(())
    }))
}

#[expect(clippy::disallowed_methods, reason = "the server ends by its handle, not by the shutdown token")]
fn spawn_server(
    listener: std::net::TcpListener,
    tls: Option<RustlsConfig>,
    handle: Handle<SocketAddr>,
    limits: Limits,
    service: axum::Router,
) -> std::io::Result<JoinHandle<std::io::Result<()>>> {
    listener.set_nonblocking(true)?;
    let service = service.into_make_service_with_connect_info::<SocketAddr>();
    macro_rules! limited {
        ($server:expr) => {{
            // Limited to one version of HTTP, the server would upgrade no connection to a WebSocket: `connections` does that.
            let mut server = $server.map(|accept| limits.around(accept)).handle(handle);
            let http1 = &mut server.http_builder().http1();
            http1.header_read_timeout(HEADER_LIMIT).timer(hyper_util::rt::TokioTimer::new());
            server
        }};
    }
    Ok(match tls {
        Some(tls) => tokio::spawn(limited!(axum_server::from_tcp_rustls(listener, tls)?).serve(service)),
        None => tokio::spawn(limited!(axum_server::from_tcp(listener)?).serve(service)),
    })
}

fn load_tls(certificate: &Path, key: &Path) -> Result<RustlsConfig, StartError> {
    let failed = |path: &Path, reason: &dyn std::fmt::Display| StartError::Tls(path.to_owned(), reason.to_string());
    let chain: Vec<CertificateDer> =
        CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect).map_err(|error| failed(certificate, &error))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| failed(key, &error))?;
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, private);
    let mut config = config.map_err(|error| failed(certificate, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(RustlsConfig::from_config(Arc::new(config)))
}

/// One process serves a data folder at a time; the lock ends with the process, however it ends.
pub(crate) fn lock(data: &Path) -> Result<fs::File, StartError> {
    let path = data.join("serve.lock");
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).about("open", &path)?;
    match file.try_lock() {
        Ok(()) => {
            // What a killed program left there leads nowhere, or to somebody else.
            fs::remove_file(files::address_file(data)).ok();
            Ok(file)
        }
        Err(fs::TryLockError::WouldBlock) => {
            let pid = running(data).map_or_else(|| "?".to_owned(), |running| running.pid.to_string());
            Err(StartError::AlreadyRunning { pid, folder: data.to_owned() })
        }
        Err(fs::TryLockError::Error(error)) => Ok(Err(error).about("lock", &path)?),
    }
}

/// The program that serves this data folder, if there is one.
pub fn running(data: &Path) -> Option<Running> {
    let lock = fs::OpenOptions::new().write(true).open(data.join("serve.lock")).ok()?;
    if lock.try_lock_shared().is_ok() {
        return None;
    }
    let text = files::read_if_present(&files::address_file(data)).ok()??;
    serde_json::from_str(&text).ok()
}

/// Stable for a data folder: what this node had at work before a crash is its own to take up.
fn node_id(data: &Path) -> Result<String, FileError> {
    let path = data.join("node-id");
    if let Some(id) = files::read_if_present(&path)?.map(|text| text.trim().to_owned()).filter(|id| !id.is_empty()) {
        return Ok(id);
    }
    let id = ids::fresh().to_string();
    files::write_private(&path, id.as_bytes())?;
    Ok(id)
}
