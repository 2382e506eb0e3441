use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use mcp_fabric::app::{App, StartError};
use platform::{
    Config,
    config::{Layers, Source},
};
use reqwest::{Method, RequestBuilder, header::HeaderMap};
use serde_json::Value;
use tempfile::TempDir;

use super::cluster::{self, TestDatabase};

/// The program on a free port with a database of its own.
pub(crate) struct TestApp {
    app: Option<App>,
    pub(crate) url: String,
    pub(crate) token: String,
    http: reqwest::Client,
    settings: Vec<(String, String)>,
    folder: TempDir,
    pub(crate) database: TestDatabase,
}

/// What the program answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) async fn of(response: reqwest::Response) -> Self {
        Self { status: response.status().as_u16(), headers: response.headers().clone(), body: response.bytes().await.unwrap().into() }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Fails the test unless the answer has this status; gives the JSON body.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()
    }

    /// Fails the test unless the answer is this problem.
    #[track_caller]
    pub(crate) fn expect_problem(&self, status: u16, code: &str) -> Value {
        let body = self.expect(status);
        assert_eq!(body["code"], code, "{body}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(body["status"], status);
        assert_eq!(body["error"], body["detail"]);
        assert_eq!(body["type"], format!("/problems/{code}"));
        assert_eq!(Some(body["request_id"].as_str().unwrap()), self.header("x-request-id"));
        body
    }
}

/// The settings of a test: nothing outside is called, and nothing is left to chance.
fn settings(folder: &Path, database_url: &str, given: &[(&str, &str)]) -> Vec<(String, String)> {
    let cache = folder.join("cache");
    let folder = folder.join("data");
    let config = folder.join("config");
    std::fs::create_dir_all(&config).unwrap();
    let usual = [
        ("FABRIC_LISTEN", "127.0.0.1:0"),
        ("FABRIC_DATA_DIR", folder.to_str().unwrap()),
        ("FABRIC_CONFIG_DIR", config.to_str().unwrap()),
        ("FABRIC_CACHE_DIR", cache.to_str().unwrap()),
        ("DATABASE_URL", database_url),
        ("FABRIC_SYNC_ON_START", "false"),
        ("FABRIC_SYNC_CRON", "off"),
        ("FABRIC_UPSTREAM_URL", "http://127.0.0.1:9"),
        ("FABRIC_NPM_REGISTRY", "http://127.0.0.1:9/"),
        ("FABRIC_PYPI_INDEX", "http://127.0.0.1:9/"),
        ("INSTALL_ON_START", "off"),
        ("FABRIC_UPSTREAM_RPS", "100000"),
        ("FABRIC_UPSTREAM_BACKOFF_MS", "5"),
        ("FABRIC_UPSTREAM_TIMEOUT_SECONDS", "2"),
        ("FABRIC_JOB_LEASE_SECONDS", "3"),
        ("FABRIC_DATABASE_POOL", "4"),
        ("FABRIC_ACCESS_LOG", "false"),
    ];
    let [master, jwt] = super::keys();
    let keys = [("CREDENTIAL_ENCRYPTION_KEY", master), ("JWT_SECRET_KEY", jwt)];
    let mut settings: Vec<(String, String)> = usual.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    settings.extend(keys.map(|(key, value)| (key.to_owned(), value.to_owned())));
    settings.extend(given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    settings
}

/// A folder that servers under other user ids can reach.
fn open_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    folder
}

/// The configuration that these settings make.
pub(crate) fn config(settings: &[(String, String)]) -> Config {
    let mut layers = Layers::defaults().unwrap();
    for (key, value) in settings {
        layers.set(key, value.clone(), Source::Flag);
    }
    let mut config = Config::from_layers(&layers).unwrap();
    // This process is not the program that starts servers.
    config.runtime.launcher = Some(env!("CARGO_BIN_EXE_mcp-fabric").into());
    config
}

impl TestApp {
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With further settings.
    pub(crate) async fn with(given: &[(&str, &str)]) -> Self {
        Self::on(cluster::database().await, given).await
    }

    /// On a database that the test has prepared.
    pub(crate) async fn on(database: TestDatabase, given: &[(&str, &str)]) -> Self {
        let folder = open_folder();
        let settings = settings(folder.path(), &database.url(), given);
        cluster::share_roles(&folder.path().join("data")).await;
        Self::run(folder, settings, database).await
    }

    async fn run(folder: TempDir, settings: Vec<(String, String)>, database: TestDatabase) -> Self {
        let app = Self::begin(&settings).await;
        let token = std::fs::read_to_string(&app.token_file).unwrap().trim().to_owned();
        let http = reqwest::Client::builder().gzip(false).redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { url: app.url.clone(), app: Some(app), token, http, settings, folder, database }
    }

    /// Starts the program. A child that another test is just starting has, for a moment, a copy of the lock of a program
    /// that this test has stopped.
    async fn begin(settings: &[(String, String)]) -> App {
        super::eventually(10, "the data folder is free", || async {
            match App::start(config(settings)).await {
                Err(StartError::AlreadyRunning { .. }) => None,
                started => Some(started.unwrap()),
            }
        })
        .await
    }

    /// A second replica: a data folder of its own, the same database.
    pub(crate) async fn beside(other: &Self) -> Self {
        Self::beside_with(other, &[]).await
    }

    /// The same, with further settings.
    pub(crate) async fn beside_with(other: &Self, given: &[(&str, &str)]) -> Self {
        let folder = open_folder();
        let database = other.database.shared();
        // Replicas share what is configured, too: either may do the other's jobs.
        let upstream = other.settings.iter().rev().find(|(key, _)| key == "FABRIC_UPSTREAM_URL").map_or("", |(_, url)| url);
        let given: Vec<(&str, &str)> = std::iter::once(("FABRIC_UPSTREAM_URL", upstream)).chain(given.iter().copied()).collect();
        let settings = settings(folder.path(), &database.url(), &given);
        cluster::share_roles(&folder.path().join("data")).await;
        Self::run(folder, settings, database).await
    }

    /// Tries to start on a database of the test's own, and gives why it did not.
    pub(crate) async fn refused(database: &TestDatabase, given: &[(&str, &str)]) -> StartError {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path(), &database.url(), given);
        if !given.iter().any(|(key, _)| *key == "FABRIC_ROLE_PREFIX") {
            cluster::share_roles(&folder.path().join("data")).await;
        }
        match App::start(config(&settings)).await {
            Ok(app) => {
                app.stop().await;
                panic!("it started");
            }
            Err(error) => error,
        }
    }

    /// Stops in order and starts again on the same data folder and database.
    pub(crate) async fn restart(&mut self) {
        self.halt().await;
        self.begin_again().await;
    }

    /// Starts again after [`Self::halt`], on the same data folder and database.
    pub(crate) async fn begin_again(&mut self) {
        let app = Self::begin(&self.settings).await;
        self.url.clone_from(&app.url);
        self.app = Some(app);
    }

    /// Stops in order, and leaves the database to others.
    pub(crate) async fn halt(&mut self) {
        self.app.take().unwrap().stop().await;
    }

    /// For the next start.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        self.settings.push((key.to_owned(), value.to_owned()));
    }

    pub(crate) async fn stop(mut self) {
        self.app.take().unwrap().stop().await;
    }

    /// What it runs with.
    pub(crate) fn config(&self) -> Config {
        config(&self.settings)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Its package cache.
    pub(crate) fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Answer {
        Answer::of(request.send().await.unwrap()).await
    }

    /// As nobody in particular.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    /// As the operator.
    pub(crate) async fn op_get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path).bearer_auth(&self.token)).await
    }

    /// As the operator, without a body.
    pub(crate) async fn op_post(&self, path: &str) -> Answer {
        self.send(self.request(Method::POST, path).bearer_auth(&self.token)).await
    }

    /// As the operator, with a JSON body.
    pub(crate) async fn op_post_json(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).bearer_auth(&self.token).json(body)).await
    }

    /// With a token and a JSON body.
    pub(crate) async fn call(&self, method: Method, path: &str, token: &str, body: &Value) -> Answer {
        let request = self.request(method, path).bearer_auth(token);
        self.send(if body.is_null() { request } else { request.json(body) }).await
    }

    /// On the internal listener: a POST with a JSON body.
    pub(crate) async fn internal(&self, path: &str, token: Option<&str>, body: &Value) -> Answer {
        let socket = self.data().join("internal.sock");
        let client = reqwest::Client::builder().unix_socket(socket).build().unwrap();
        let request = client.post(format!("http://localhost{path}"));
        let request = if body.is_null() { request } else { request.json(body) };
        self.send(match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
        .await
    }

    /// The audit trail, newest first, once everything that was written is in it.
    pub(crate) async fn trail(&self, filter: &str) -> Vec<Value> {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let found = self.op_get(&format!("/api/mcp/audit?limit=1000{filter}")).await.expect(200);
        found["events"].as_array().unwrap().clone()
    }

    /// Takes entries into the catalogue as `sync import` does.
    pub(crate) async fn import(&self, entries: &[Value]) -> Value {
        self.op_post_json("/api/mcp/sync/import?last=true", &serde_json::json!({ "servers": entries })).await.expect(200)
    }

    /// Starts a sync and waits for its end; gives the job.
    pub(crate) async fn sync(&self, mode: &str) -> Value {
        let run = self.op_post(&format!("/api/mcp/sync/trigger?mode={mode}")).await.expect(202);
        self.job(run["job_id"].as_str().unwrap()).await
    }

    /// Waits for the end of a job.
    pub(crate) async fn job(&self, id: &str) -> Value {
        super::eventually(60, "the job ends", || async {
            let job = self.op_get(&format!("/api/mcp/jobs/{id}")).await.expect(200);
            (!matches!(job["status"].as_str(), Some("pending" | "processing"))).then_some(job)
        })
        .await
    }

    /// Every entry of the registry API, by name and version.
    pub(crate) async fn catalogue(&self) -> Vec<Value> {
        let (mut entries, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("/v0.1/servers?limit=100&include_deleted=true&cursor={cursor}")).await.expect(200);
            entries.extend(page["servers"].as_array().unwrap().iter().cloned());
            match page["metadata"]["nextCursor"].as_str() {
                Some(next) => cursor = next.replace('+', "%2B").replace('/', "%2F"),
                None => return entries,
            }
        }
    }
}

impl Drop for TestApp {
    /// A test that ends without stopping its program still stops it, so that nothing is left behind.
    fn drop(&mut self) {
        let Some(app) = self.app.take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            tokio::task::block_in_place(|| runtime.block_on(app.stop()));
        }
    }
}
