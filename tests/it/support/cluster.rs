//! One PostgreSQL for all test processes, and a database for each test.
//!
//! The cluster lies under `target/`. Each process holds a shared lock while it runs; a watchdog waits
//! for the exclusive lock, which it gets when the last process is gone, and then stops the cluster.
//! Databases are copied from a template that is migrated once.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use platform::{
    Config,
    config::{Layers, Source},
    database::{
        Database, Owner, fetch,
        managed::{Cluster, Options},
    },
};
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection, postgres::PgConnectOptions};
use tokio::sync::OnceCell;

static SHARED: OnceCell<Shared> = OnceCell::const_new();

struct Shared {
    owner: PgConnectOptions,
    admin: PgConnectOptions,
    /// The data folder of the cluster, with the passwords of the roles.
    folder: PathBuf,
    template: String,
    _alive: File,
}

/// A database of one test; dropped with this.
pub(crate) struct TestDatabase {
    pub(crate) name: String,
    is_shared: bool,
    admin: PgConnectOptions,
    owner: PgConnectOptions,
}

/// A fresh, migrated database.
pub(crate) async fn database() -> TestDatabase {
    let shared = shared().await;
    create(shared, Some(&shared.template)).await
}

/// A database without anything in it.
pub(crate) async fn empty_database() -> TestDatabase {
    create(shared().await, None).await
}

/// The superuser of the test cluster, connected to its maintenance database.
pub(crate) async fn admin() -> PgConnection {
    shared().await.admin.connect().await.unwrap()
}

/// Copies the passwords of the roles that the template was made with.
pub(crate) async fn share_roles(data: &Path) {
    let file = "database-roles.json";
    fs::create_dir_all(data).unwrap();
    fs::copy(shared().await.folder.join(file), data.join(file)).unwrap();
}

async fn shared() -> &'static Shared {
    SHARED.get_or_init(open).await
}

async fn create(shared: &Shared, template: Option<&str>) -> TestDatabase {
    let name = format!("test_{}", platform::ids::fresh().simple());
    let copied = template.map(|template| format!(" TEMPLATE {template}")).unwrap_or_default();
    let mut connection = shared.owner.clone().database("postgres").connect().await.unwrap();
    execute(&mut connection, format!("CREATE DATABASE {name}{copied}")).await;
    TestDatabase { name, is_shared: false, admin: shared.admin.clone(), owner: shared.owner.clone() }
}

async fn execute(connection: &mut PgConnection, statement: String) {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await.unwrap();
}

async fn open() -> Shared {
    rustls::crypto::ring::default_provider().install_default().ok();
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("postgres");
    fs::create_dir_all(&folder).unwrap();
    let alive = lock_file(&folder.join("alive.lock"));
    alive.lock_shared().unwrap();
    let starting = lock_file(&folder.join("starting.lock"));
    starting.lock().unwrap();

    let options = Options { data: folder.clone(), bin_dir: None, fsync: false, fetch: fetch::Sources::default() };
    let cluster = Cluster::start(options).await.unwrap();
    if !cluster.was_running() {
        watch(&folder, &cluster);
    }
    let (owner, admin) = (cluster.owner_options(), cluster.admin_options());
    let template = template(&owner, &admin, &folder).await;
    starting.unlock().unwrap();
    Shared { owner, admin, folder, template, _alive: alive }
}

fn lock_file(path: &Path) -> File {
    File::options().create(true).truncate(false).write(true).open(path).unwrap()
}

/// Stops the cluster when the last test process is gone.
#[expect(clippy::zombie_processes, reason = "the watchdog outlives this process")]
fn watch(folder: &Path, cluster: &Cluster) {
    let stop = "exec 9<>\"$0\"; flock -x 9; cd /; kill -INT \"$(head -n 1 \"$1/postmaster.pid\")\" 2>/dev/null; while kill -0 \"$(head -n 1 \"$1/postmaster.pid\" 2>/dev/null)\" 2>/dev/null; do sleep 0.1; done";
    let mut watchdog = Command::new("sh");
    watchdog.args(["-c", stop]).arg(folder.join("alive.lock")).arg(cluster.folder());
    watchdog.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    std::os::unix::process::CommandExt::process_group(&mut watchdog, 0);
    watchdog.spawn().unwrap();
}

/// Migrates a template once for each state of the migrations.
async fn template(owner: &PgConnectOptions, admin: &PgConnectOptions, folder: &Path) -> String {
    let name = format!("template_{}", &migrations_hash()[..16]);
    let mut connection = owner.clone().database("postgres").connect().await.unwrap();
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(&name)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    if exists {
        return name;
    }
    let mut root = admin.connect().await.unwrap();
    let stale: Vec<String> =
        sqlx::query_scalar("SELECT datname::text FROM pg_database WHERE datname LIKE 'template\\_%' OR datname LIKE 'test\\_%'")
            .fetch_all(&mut root)
            .await
            .unwrap();
    for stale in stale {
        execute(&mut root, format!("DROP DATABASE IF EXISTS {stale} WITH (FORCE)")).await;
    }
    let draft = format!("draft_{}", platform::ids::fresh().simple());
    execute(&mut connection, format!("CREATE DATABASE {draft}")).await;
    let mut layers = Layers::defaults().unwrap();
    layers.set("FABRIC_DATA_DIR", folder.to_string_lossy(), Source::Flag);
    let url = url(owner, &draft);
    layers.set("DATABASE_URL", url.clone(), Source::Flag);
    let database = Database::open(&Owner::from_url(&url.into()).unwrap(), &Config::from_layers(&layers).unwrap()).await.unwrap();
    database.close().await;
    execute(&mut connection, format!("ALTER DATABASE {draft} RENAME TO {name}")).await;
    name
}

fn migrations_hash() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let hash = files.iter().fold(Sha256::new(), |hash, file| hash.chain_update(fs::read(file).unwrap()));
    platform::random::hex(&hash.finalize())
}

fn url(options: &PgConnectOptions, database: &str) -> String {
    let mut url = sqlx::ConnectOptions::to_url_lossy(&options.clone().database(database));
    url.set_scheme("postgresql").unwrap();
    url.to_string()
}

impl TestDatabase {
    /// What `DATABASE_URL` says for it.
    pub(crate) fn url(&self) -> String {
        url(&self.owner, &self.name)
    }

    /// The same database for a second program; it goes with the first.
    pub(crate) fn shared(&self) -> Self {
        Self { name: self.name.clone(), is_shared: true, admin: self.admin.clone(), owner: self.owner.clone() }
    }

    /// The same database as another role.
    pub(crate) fn url_as(&self, role: &str, password: &str) -> String {
        url(&self.owner.clone().username(role).password(password), &self.name)
    }

    /// A connection that sees everything, for checks behind the program's back.
    pub(crate) async fn connect(&self) -> PgConnection {
        self.admin.clone().database(&self.name).connect().await.unwrap()
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if self.is_shared {
            return;
        }
        let (admin, name) = (self.admin.clone(), self.name.clone());
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut connection = admin.connect().await.unwrap();
                execute(&mut connection, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
            });
        });
        dropping.join().ok();
    }
}
