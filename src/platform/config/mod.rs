//! Configuration: where each setting comes from, and what it means.
//!
//! Order: command-line flag, environment, `.env`, `config/local.toml`, `config/default.toml`
//! (built into the program). [`sources`] finds the text of each setting, this module gives it a type.

mod cache;
mod factory;
mod gateway;
mod parse;
mod runtime;
mod security;
pub mod sources;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

pub use cache::{AnonymousFill, CacheConfig, CachePolicy, Claim, Exception, Pattern, Requirement, Target};
pub use factory::{FactoryConfig, ModelConfig, Speaks};
pub use gateway::GatewayConfig;
pub use runtime::{FirstPackage, Isolation, RuntimeConfig};
pub use security::{
    AuditConfig, IdentityConfig, InternalListen, KeySource, MutualTls, OidcConfig, Registration, TracesConfig, VaultConfig, parse_ring_file,
};
pub use sources::{Layers, Resolved, SETTINGS, Setting, Source};

/// A setting that cannot be used, with the place it came from.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The value does not parse.
    #[error("{key} (from {source_name}): {reason}")]
    Invalid {
        /// The setting.
        key: &'static str,
        /// Where its value came from.
        source_name: String,
        /// What is wrong; never the value of a secret.
        reason: String,
    },
    /// A configuration file does not parse.
    #[error("could not read {path}: {reason}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that names no setting of ours.
    #[error("{path} has no setting `{key}`; `mcp-fabric doctor` lists those there are")]
    Unknown {
        /// Which file.
        path: PathBuf,
        /// The key in it.
        key: String,
    },
}

/// Everything that can be set, typed.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where HTTP is served.
    pub listen: SocketAddr,
    /// How clients reach us, when it is not `listen` (behind a proxy).
    pub public_url: Option<Url>,
    /// Our state: managed database, tokens, role secrets. Absolute.
    pub data_dir: PathBuf,
    /// `local.toml`, and replacements for the predefined catalogue and the category rules.
    pub config_dir: PathBuf,
    /// Database settings.
    pub database: DatabaseConfig,
    /// The registry that is mirrored.
    pub upstream: UpstreamConfig,
    /// When and how to mirror.
    pub sync: SyncConfig,
    /// HTTP settings.
    pub http: HttpConfig,
    /// Workers and retention.
    pub jobs: JobsConfig,
    /// How many events are kept.
    pub event_retention: u32,
    /// How often a follower by WebSocket is asked for a sign of life.
    pub event_heartbeat: Duration,
    /// What replicas tell each other by, beside the database.
    pub redis_url: Option<SecretString>,
    /// Operations over many servers.
    pub bulk: BulkConfig,
    /// Memory for rendered registry answers, in bytes.
    pub memory_bytes: u64,
    /// Never call anything outside.
    pub offline: bool,
    /// Hosts that outgoing requests may reach although their address is private.
    pub allowed_hosts: Vec<String>,
    /// The fabric's own npm registry setting, if any.
    pub npm_registry: Option<Url>,
    /// The package cache.
    pub cache: CacheConfig,
    /// Accounts and sessions.
    pub identity: IdentityConfig,
    /// The credential vault.
    pub vault: VaultConfig,
    /// The audit trail.
    pub audit: AuditConfig,
    /// Where spans go.
    pub traces: Option<TracesConfig>,
    /// What a new fabric installs by itself.
    pub install_on_start: Vec<FirstPackage>,
    /// How servers run.
    pub runtime: RuntimeConfig,
    /// How MCP clients are served.
    pub gateway: GatewayConfig,
    /// How servers are made.
    pub factory: FactoryConfig,
    /// Log settings.
    pub log: LogConfig,
}

/// Which database, and as whom.
#[derive(Clone, Debug)]
pub struct DatabaseConfig {
    /// The database to use; without one the program runs its own.
    pub url: Option<SecretString>,
    /// Connections that serve requests, of each kind: for users, for what sees the rows of all, and for secrets.
    pub pool: u32,
    /// The database roles are called `<prefix>_app` and so on.
    pub role_prefix: String,
    /// Refuse to run as the plain owner of the database.
    pub require_separation: bool,
    /// Where `initdb`, `pg_ctl` and `postgres` lie.
    pub pg_bin_dir: Option<PathBuf>,
}

/// The registry that is mirrored.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// Its base, without `/v0.1`.
    pub url: Url,
    /// Requests a second at most.
    pub requests_per_second: f64,
    /// How long one request may take.
    pub timeout: Duration,
    /// The first wait before a failed request is tried again; it doubles.
    pub backoff: Duration,
}

/// When and how to mirror.
#[derive(Clone, Debug)]
pub struct SyncConfig {
    /// Five or six fields, UTC; `None` when switched off.
    pub cron: Option<String>,
    /// Start a run at start-up when the last success is older than a day.
    pub on_start: bool,
    /// How often a full reconcile replaces the daily incremental run.
    pub reconcile_every: Duration,
    /// A reconcile that would drop more than this share of the versions is refused.
    pub max_drop_percent: f64,
}

/// HTTP settings.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Origins that browsers may call the API from; `*` stands for any port.
    pub cors_origins: Vec<String>,
    /// Loopback callers without a token act as the operator.
    pub trust_loopback: bool,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Requests a second and address (or actor); `None` for no limit.
    pub rate_limit: Option<u32>,
    /// Certificate chain and key, PEM.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Write one log line for each request.
    pub access_log: bool,
    /// Connections at once.
    pub max_connections: u32,
    /// How long an answer may be left unread.
    pub write_timeout: Duration,
}

/// Workers and retention.
#[derive(Clone, Debug)]
pub struct JobsConfig {
    /// Jobs at once in this process; 0 for none.
    pub workers: u32,
    /// How long a lease lasts without a heartbeat.
    pub lease: Duration,
    /// How long finished jobs are kept.
    pub retention: Duration,
}

/// How the log is written.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// `tracing` filter directives.
    pub filter: String,
    /// Pretty, JSON, or by whether standard error is a terminal.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Pretty,
    /// For programs.
    Json,
}

/// How operations over many servers are kept from taking everything.
#[derive(Clone, Copy, Debug)]
pub struct BulkConfig {
    /// How many of one actor may wait or run.
    pub unfinished: u32,
    /// How many servers of one operation are worked on at once.
    pub at_once: u32,
    /// How many servers of one operation are begun in a second.
    pub per_second: u32,
}

impl Config {
    /// Gives every setting its type; the first one that has none is the error.
    pub fn from_layers(layers: &Layers) -> Result<Self, ConfigError> {
        let data_dir = absolute(&layers.get::<PathBuf>("FABRIC_DATA_DIR")?);
        Ok(Self {
            listen: layers.get("FABRIC_LISTEN")?,
            public_url: layers.optional("FABRIC_PUBLIC_URL")?,
            data_dir,
            config_dir: Self::config_dir(layers)?,
            database: DatabaseConfig {
                url: layers.optional("DATABASE_URL")?,
                pool: layers.get::<parse::Count>("FABRIC_DATABASE_POOL")?.0,
                role_prefix: layers.get::<parse::RolePrefix>("FABRIC_ROLE_PREFIX")?.0,
                require_separation: layers.get("FABRIC_REQUIRE_ROLE_SEPARATION")?,
                pg_bin_dir: layers.optional("FABRIC_PG_BIN_DIR")?,
            },
            upstream: UpstreamConfig {
                url: layers.get("FABRIC_UPSTREAM_URL")?,
                requests_per_second: layers.get::<parse::Positive>("FABRIC_UPSTREAM_RPS")?.0,
                timeout: layers.get::<parse::Seconds>("FABRIC_UPSTREAM_TIMEOUT_SECONDS")?.0,
                backoff: layers.get::<parse::Millis>("FABRIC_UPSTREAM_BACKOFF_MS")?.0,
            },
            sync: SyncConfig {
                cron: layers.get::<parse::Cron>("FABRIC_SYNC_CRON")?.0,
                on_start: layers.get("FABRIC_SYNC_ON_START")?,
                reconcile_every: layers.get::<parse::Days>("FABRIC_SYNC_RECONCILE_DAYS")?.0,
                max_drop_percent: layers.get::<parse::Positive>("FABRIC_SYNC_MAX_DROP_PERCENT")?.0,
            },
            http: Self::http(layers)?,
            jobs: JobsConfig {
                workers: layers.get::<parse::Bounded>("FABRIC_JOB_WORKERS")?.0.min(1000),
                lease: layers.get::<parse::Seconds>("FABRIC_JOB_LEASE_SECONDS")?.0,
                retention: layers.get::<parse::Days>("FABRIC_JOB_RETENTION_DAYS")?.0,
            },
            event_retention: layers.get("FABRIC_EVENT_RETENTION")?,
            event_heartbeat: layers.get::<parse::Seconds>("FABRIC_EVENT_HEARTBEAT_SECONDS")?.0,
            redis_url: layers.optional::<String>("REDIS_URL")?.map(Into::into),
            bulk: BulkConfig {
                unfinished: layers.get::<parse::Bounded>("FABRIC_BULK_UNFINISHED")?.0.max(1),
                at_once: layers.get::<parse::Bounded>("FABRIC_BULK_AT_ONCE")?.0.clamp(1, 100),
                per_second: layers.get::<parse::Bounded>("FABRIC_BULK_PER_SECOND")?.0.clamp(1, 1000),
            },
            memory_bytes: u64::from(layers.get::<parse::Bounded>("FABRIC_MEMORY_MB")?.0) << 20,
            offline: layers.get("FABRIC_OFFLINE")?,
            allowed_hosts: layers.list("FABRIC_ALLOWED_HOSTS")?,
            npm_registry: layers.optional("FABRIC_NPM_REGISTRY")?,
            cache: CacheConfig::from_layers(layers)?,
            identity: IdentityConfig::from_layers(layers, layers.optional("FABRIC_PUBLIC_URL")?.as_ref())?,
            vault: VaultConfig::from_layers(layers)?,
            audit: AuditConfig::from_layers(layers)?,
            traces: TracesConfig::from_layers(layers)?,
            install_on_start: runtime::install_on_start(layers)?,
            runtime: RuntimeConfig::from_layers(layers)?,
            gateway: GatewayConfig::from_layers(layers)?,
            factory: FactoryConfig::from_layers(layers)?,
            log: LogConfig { filter: layers.get::<parse::LogFilter>("FABRIC_LOG")?.0, format: layers.get("FABRIC_LOG_FORMAT")? },
        })
    }

    /// The usual folder need not be there; one that was asked for does.
    fn config_dir(layers: &Layers) -> Result<PathBuf, ConfigError> {
        let folder: PathBuf = layers.get("FABRIC_CONFIG_DIR")?;
        if layers.source("FABRIC_CONFIG_DIR") == Some(Source::Default) || folder.is_dir() {
            return Ok(folder);
        }
        Err(layers.invalid("FABRIC_CONFIG_DIR", "is not a folder"))
    }

    fn http(layers: &Layers) -> Result<HttpConfig, ConfigError> {
        let tls = match (layers.optional("FABRIC_TLS_CERT")?, layers.optional("FABRIC_TLS_KEY")?) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => return Err(layers.invalid("FABRIC_TLS_KEY", "is missing; FABRIC_TLS_CERT is set, and TLS needs both")),
            (None, Some(_)) => return Err(layers.invalid("FABRIC_TLS_CERT", "is missing; FABRIC_TLS_KEY is set, and TLS needs both")),
        };
        let http = HttpConfig {
            cors_origins: layers.list::<parse::Origin>("FABRIC_CORS_ORIGINS")?.into_iter().map(|origin| origin.0).collect(),
            trust_loopback: layers.get("FABRIC_TRUST_LOOPBACK")?,
            trusted_proxies: layers.list("FABRIC_TRUSTED_PROXIES")?,
            rate_limit: Some(layers.get("FABRIC_RATE_LIMIT")?).filter(|limit| *limit > 0),
            tls,
            access_log: layers.get("FABRIC_ACCESS_LOG")?,
            max_connections: layers.get::<parse::Bounded>("FABRIC_MAX_CONNECTIONS")?.0,
            write_timeout: layers.get::<parse::Seconds>("FABRIC_WRITE_TIMEOUT_SECONDS")?.0,
        };
        if http.trust_loopback && !layers.get::<SocketAddr>("FABRIC_LISTEN")?.ip().is_loopback() {
            return Err(layers.invalid("FABRIC_TRUST_LOOPBACK", "works only while FABRIC_LISTEN is a loopback address"));
        }
        Ok(http)
    }

    /// How to reach this fabric from here, when it listens at `bound`.
    pub fn local_url(&self, bound: SocketAddr) -> String {
        let scheme = if self.http.tls.is_some() { "https" } else { "http" };
        let host = if bound.ip().is_unspecified() { "127.0.0.1".into() } else { bound.ip().to_string() };
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        format!("{scheme}://{host}:{}", bound.port())
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The database's host and name for messages: never the password.
pub fn describe_database(url: &SecretString) -> String {
    match Url::parse(url.expose_secret()) {
        Ok(url) => format!("{}{}", url.host_str().unwrap_or("localhost"), url.path()),
        Err(_) => "the database of DATABASE_URL".into(),
    }
}
