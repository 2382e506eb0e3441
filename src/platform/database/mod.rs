//! The database: connections, the roles that they work as, and errors.
//!
//! [`Database::open`] takes either `DATABASE_URL` or the managed cluster ([`managed`]), migrates,
//! makes the roles ([`roles`]) and hands out pools: for requests, for what sees the rows of all, for jobs, for secrets, for the trail.

pub mod backup;
pub mod binaries;
mod error;
pub mod fetch;
pub mod managed;
pub mod migrations;
pub mod roles;
mod scram;
pub mod upgrade;

use std::{
    str::FromStr as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{
    AssertSqlSafe, PgConnection, PgPool, Postgres, Transaction,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};

pub use error::{DbError, on_constraint};
pub use roles::Separation;

use crate::{Actor, Config, config::describe_database};

/// How long a database may take to answer before we say that it does not.
const CONNECT_LIMIT: Duration = Duration::from_secs(8);
/// How long a connection is taken to be there without a look: by sqlx's own count, which begins anew each minute.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// Connections that keep the audit trail: the writer of the chain, notes, verification, an export.
const AUDIT_CONNECTIONS: u32 = 6;
/// PostgreSQL 15, as `server_version_num` tells it.
const OLDEST_SERVER: i32 = 150_000;

/// A database that cannot be used at start-up.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No answer, or not from a database of ours.
    #[error("cannot reach the database {database}: {reason}")]
    Unreachable {
        /// Host and database name.
        database: String,
        /// Why.
        reason: String,
    },
    /// `DATABASE_URL` is not a PostgreSQL URL.
    #[error("DATABASE_URL is not of the form postgresql://user:password@host:port/database")]
    BadUrl,
    /// The server is older than what we need.
    #[error("the database server is PostgreSQL {0}; MCP Fabric needs 15 or newer")]
    TooOld(String),
    /// The schema could not be brought up to date.
    #[error(transparent)]
    Migrate(#[from] migrations::MigrateError),
    /// The roles are not as they have to be.
    #[error(transparent)]
    Roles(#[from] roles::RolesError),
    /// The managed cluster does not run.
    #[error(transparent)]
    Managed(#[from] managed::ManagedError),
    /// The database answered with an error.
    #[error("the database refused: {0}")]
    Database(#[from] sqlx::Error),
    /// The database failed once it was open.
    #[error(transparent)]
    Failed(#[from] DbError),
    /// A file of a backup cannot be read or written.
    #[error(transparent)]
    File(crate::files::FileError),
}

impl OpenError {
    /// Whether it is a matter of configuration, which starting again will not mend (exit code 78).
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::BadUrl | Self::TooOld(_) | Self::Roles(_) | Self::Migrate(migrations::MigrateError::Newer(_)) => true,
            Self::Unreachable { .. } | Self::Migrate(_) | Self::Managed(_) | Self::Database(_) | Self::Failed(_) | Self::File(_) => false,
        }
    }
}

/// The open database.
#[derive(Clone, Debug)]
pub struct Database {
    requests: PgPool,
    for_all: PgPool,
    jobs: PgPool,
    reveal: PgPool,
    audit: PgPool,
    doubt: Doubt,
    /// Whether requests work as a role that owns nothing.
    pub separation: Separation,
}

/// After a transaction could not begin, connections are looked at before they are used: it may have failed half-way, and nothing
/// tells on which of them.
#[derive(Clone, Debug, Default)]
struct Doubt(Arc<Mutex<Option<Instant>>>);

impl Doubt {
    fn begin(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// As long as a connection goes without a look otherwise.
    fn is_there(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|begun| begun.elapsed() < 2 * TRUSTED_FOR)
    }
}

/// The connection of the role that owns the schema: for migrations, roles and `db` commands only.
pub struct Owner {
    options: PgConnectOptions,
    described: String,
}

impl Owner {
    /// The owner that `DATABASE_URL` names.
    pub fn from_url(url: &SecretString) -> Result<Self, OpenError> {
        let text = url.expose_secret().trim();
        let scheme_end = text.find("://").ok_or(OpenError::BadUrl)?;
        if !matches!(&text[..scheme_end], "postgres" | "postgresql" | "postgresql+asyncpg") {
            return Err(OpenError::BadUrl);
        }
        let options = PgConnectOptions::from_str(&format!("postgresql{}", &text[scheme_end..])).map_err(|_| OpenError::BadUrl)?;
        Ok(Self { options, described: describe_database(url) })
    }

    /// The owner of the managed cluster's database.
    pub fn of_cluster(cluster: &managed::Cluster) -> Self {
        Self { options: cluster.owner_options(), described: "that this program manages".into() }
    }

    /// One connection, within the time limit and to a server that is new enough.
    pub async fn connect(&self) -> Result<PgConnection, OpenError> {
        let unreachable = |reason: String| OpenError::Unreachable { database: self.described.clone(), reason };
        let connecting = sqlx::ConnectOptions::connect(&self.options);
        let mut connection = tokio::time::timeout(CONNECT_LIMIT, connecting)
            .await
            .map_err(|_| unreachable(format!("no answer within {} s", CONNECT_LIMIT.as_secs())))?
            .map_err(|error| unreachable(error.to_string()))?;
        let number: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::int").fetch_one(&mut connection).await?;
        if number < OLDEST_SERVER { Err(OpenError::TooOld(self.server_version(&mut connection).await?)) } else { Ok(connection) }
    }

    /// The version of the server, as it calls itself: `15.18 (Debian 15.18-0+deb12u1)`.
    pub async fn server_version(&self, connection: &mut PgConnection) -> Result<String, OpenError> {
        Ok(sqlx::query_scalar("SELECT current_setting('server_version')").fetch_one(connection).await?)
    }

    /// Connections of the program itself, which name their actor once.
    fn system_pool(options: PgConnectOptions, actor: &str, size: u32, statement_limit: &str, doubt: &Doubt) -> PgPool {
        Self::pool(size, options.options([("fabric.actor", actor)]), statement_limit, doubt.clone())
    }

    /// Connections that serve whoever asks: each transaction names its actor.
    fn serving_pool(options: PgConnectOptions, size: u32, doubt: &Doubt) -> PgPool {
        Self::pool(size, options, "30s", doubt.clone())
    }

    fn pool(size: u32, options: PgConnectOptions, statement_limit: &str, doubt: Doubt) -> PgPool {
        let pool = PgPoolOptions::new().max_connections(size);
        // What was used a moment ago is not asked whether it is still there: that would be a second message for each query.
        let pool = pool.test_before_acquire(false).before_acquire(move |connection, meta| {
            let is_to_be_looked_at = meta.idle_for >= TRUSTED_FOR || doubt.is_there();
            Box::pin(async move {
                if is_to_be_looked_at {
                    // Fails also within a transaction that failed, as a mere sign of life does not.
                    sqlx::raw_sql("SELECT 1").execute(connection).await?;
                }
                Ok(true)
            })
        });
        pool.acquire_timeout(Duration::from_secs(5)).idle_timeout(Duration::from_mins(1)).connect_lazy_with(
            options.application_name("mcp-fabric").options([
                ("statement_timeout", statement_limit),
                // A plan that was made once is wrong later: for tables that were empty, for other search words.
                ("plan_cache_mode", "force_custom_plan"),
            ]),
        )
    }
}

impl Database {
    /// Migrates, makes the roles, and opens the pools.
    pub async fn open(owner: &Owner, config: &Config) -> Result<Self, OpenError> {
        let mut connection = owner.connect().await?;
        migrations::migrate(&mut connection).await?;
        let roles = roles::Roles::load(&config.data_dir, &config.database.role_prefix)?;
        let separation = roles.establish(&mut connection, config.database.require_separation).await?;
        let log_in = |role| match &separation {
            Separation::Roles => roles.log_in(&owner.options, role),
            Separation::Owner { .. } => owner.options.clone(),
        };
        let doubt = Doubt::default();
        let database = Self {
            requests: Owner::serving_pool(log_in(roles::Role::App), config.database.pool, &doubt),
            for_all: Owner::system_pool(log_in(roles::Role::App), "system:request", config.database.pool, "30s", &doubt),
            jobs: Owner::system_pool(log_in(roles::Role::Worker), "system:worker", 4 + config.jobs.workers, "120s", &doubt),
            reveal: Owner::serving_pool(log_in(roles::Role::Reveal), config.database.pool, &doubt),
            audit: Owner::system_pool(log_in(roles::Role::Audit), "system:audit", AUDIT_CONNECTIONS, "120s", &doubt),
            doubt,
            separation,
        };
        for pool in [&database.requests, &database.for_all, &database.jobs, &database.reveal, &database.audit] {
            roles.check_serving(pool).await?;
        }
        for pool in [&database.requests, &database.reveal] {
            roles::check_isolation(pool).await?;
        }
        Ok(database)
    }

    /// For tables that everybody may read.
    pub fn public(&self) -> &PgPool {
        &self.requests
    }

    /// For work of the system: jobs, the mirror, housekeeping. Row-level security lets it see every row.
    pub fn system(&self) -> &PgPool {
        &self.jobs
    }

    /// For the plaintext of credentials alone: the only connections that can read ciphertext.
    pub fn reveal(&self) -> &PgPool {
        &self.reveal
    }

    /// A transaction on one of those connections, for a named kind of work on all rows.
    pub async fn begin_reveal(&self, job: &'static str) -> Result<Transaction<'static, Postgres>, DbError> {
        self.begin_on(&self.reveal, named(&Actor::system(job))).await
    }

    /// For keeping the audit trail.
    pub fn audit(&self) -> &PgPool {
        &self.audit
    }

    /// A connection that sees the rows of all, for one statement. Whoever calls this has asked for the right to.
    pub async fn for_all(&self) -> Result<PoolConnection<Postgres>, DbError> {
        Ok(self.for_all.acquire().await?)
    }

    /// A transaction that sees the rows of all. Whoever calls this has asked for the right to.
    pub async fn begin_for_all(&self) -> Result<Transaction<'static, Postgres>, DbError> {
        self.begin_on(&self.for_all, "BEGIN".to_owned()).await
    }

    /// A transaction of the system, on the connections of jobs.
    pub async fn begin_system(&self) -> Result<Transaction<'static, Postgres>, DbError> {
        self.begin_on(&self.jobs, "BEGIN".to_owned()).await
    }

    /// A transaction in which row-level security shows what `actor` may see.
    pub async fn begin(&self, actor: &Actor) -> Result<Transaction<'static, Postgres>, DbError> {
        self.begin_on(&self.requests, named(actor)).await
    }

    /// Begins a transaction, by a task of its own: a `BEGIN` that is given up while it is on its way is never rolled back, and its
    /// connection would go back to the pool with the transaction, and the actor, on it.
    #[expect(clippy::disallowed_methods, reason = "it is waited for, unless whoever waits goes")]
    async fn begin_on(&self, pool: &PgPool, statement: String) -> Result<Transaction<'static, Postgres>, DbError> {
        let (pool, doubt) = (pool.clone(), self.doubt.clone());
        let begin = async move { pool.begin_with(AssertSqlSafe(statement)).await.inspect_err(|_| doubt.begin()) };
        Ok(tokio::spawn(begin).await.unwrap_or(Err(sqlx::Error::WorkerCrashed))?)
    }

    /// A connection that hears notifications, and reconnects by itself.
    pub async fn listener(&self) -> Result<PgListener, DbError> {
        let mut listener = PgListener::connect_with(&self.jobs).await?;
        listener.ignore_pool_close_event(true);
        Ok(listener)
    }

    /// Fails unless the database answers.
    pub async fn ping(&self) -> Result<(), DbError> {
        sqlx::query("SELECT 1").execute(&self.requests).await?;
        Ok(())
    }

    /// Closes the pools; waits for connections that are in use.
    pub async fn close(&self) {
        tokio::join!(self.requests.close(), self.for_all.close(), self.jobs.close(), self.reveal.close(), self.audit.close());
    }
}

/// What begins a transaction of an actor, as one message.
fn named(actor: &Actor) -> String {
    format!("BEGIN; SET LOCAL fabric.actor = {}", quoted(&actor.to_string()))
}

/// A text as PostgreSQL reads it, whatever `standard_conforming_strings` says.
fn quoted(text: &str) -> String {
    format!("E'{}'", text.replace('\\', r"\\").replace('\'', "''"))
}

/// Opens the database that the configuration names, starting the managed cluster when there is none.
pub async fn open(config: &Config) -> Result<(Database, Option<Arc<managed::Cluster>>), OpenError> {
    let Some(url) = &config.database.url else {
        let cluster = managed::Cluster::start(managed::Options::of(config)).await?;
        match Database::open(&Owner::of_cluster(&cluster), config).await {
            Ok(database) => return Ok((database, Some(Arc::new(cluster)))),
            Err(error) => {
                if !cluster.was_running() {
                    cluster.stop(managed::STOP_AT_LEISURE).await?;
                }
                return Err(error);
            }
        }
    };
    Ok((Database::open(&Owner::from_url(url)?, config).await?, None))
}
