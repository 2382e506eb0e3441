//! From one master key to the next, while everything goes on, and whatever dies meanwhile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use platform::keys::SecretKey;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Binary, TestApp, cluster, eventually, keys};

const PATH: &str = "/api/mcp/credentials";
const ROTATIONS: &str = "/api/mcp/credentials/rotations";

async fn fill(app: &TestApp, users: usize) {
    for user in 0..users {
        let credentials: Vec<Value> =
            (0..100).map(|n| json!({ "env_var": format!("KEY_{n}"), "value": format!("value {user} {n}") })).collect();
        app.call(Method::PUT, &format!("{PATH}/user{user}/everything"), &app.token, &json!({ "credentials": credentials }))
            .await
            .expect(200);
    }
}

async fn versions(app: &TestApp) -> Vec<(i32, String)> {
    sqlx::query_as("SELECT version, state FROM credentials.key_versions ORDER BY version")
        .fetch_all(&mut app.database.connect().await)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_needs_a_new_key_and_retires_the_old_one() {
    let mut app = TestApp::start().await;
    fill(&app, 2).await;
    let service = app.service(&["credentials:reveal"], Some(&["everything"])).await;
    app.op_post_json(ROTATIONS, &json!({})).await.expect_problem(409, "no_new_key");
    let dry = app.op_post_json(ROTATIONS, &json!({ "dry_run": true })).await.expect(202);
    let job = app.job(dry["job_id"].as_str().unwrap()).await;
    assert_eq!((&job["result"]["state"], &job["result"]["done"]), (&json!("completed"), &json!(201)), "{job}");
    // First as the second key, everywhere; then it is gone on to without a restart.
    let new = SecretKey::generate().to_base64().to_string();
    app.set("CREDENTIAL_ENCRYPTION_KEY", "");
    app.set("CREDENTIAL_ENCRYPTION_KEYS", &format!("{},{new}", keys()[0]));
    app.restart().await;
    assert_eq!(versions(&app).await, [(1, "active".to_owned())]);
    let began = app.op_post_json(ROTATIONS, &json!({})).await.expect(202);
    assert_eq!((&began["to_version"], &began["total"]), (&json!(2), &json!(201)));
    let job = app.job(began["job_id"].as_str().unwrap()).await;
    assert_eq!(job["result"], json!({ "state": "completed", "done": 201, "failed": 0, "retired": [1] }));
    let standing = app.op_get(&format!("{ROTATIONS}/{}", began["id"].as_str().unwrap())).await.expect(200);
    assert_eq!((&standing["state"], &standing["done"], &standing["failed"]), (&json!("completed"), &json!(201), &json!(0)));
    assert_eq!(versions(&app).await, [(1, "retired".to_owned()), (2, "active".to_owned())]);
    let answer = app.internal(&format!("{PATH}/user1/everything/decrypt"), Some(&service), &json!({ "env_vars": ["KEY_7"] })).await;
    assert_eq!(answer.expect(200)["env"], json!({ "KEY_7": "value 1 7" }));
    app.set("CREDENTIAL_ENCRYPTION_KEYS", &new);
    app.restart().await;
    let answer = app.internal(&format!("{PATH}/user0/everything/decrypt"), Some(&service), &json!({ "env_vars": ["KEY_99"] })).await;
    assert_eq!(answer.expect(200)["env"], json!({ "KEY_99": "value 0 99" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_file_is_read_again_when_keys_are_rotated() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let write = |text: String, mode: u32| {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    let (first, second) = (SecretKey::generate().to_base64().to_string(), SecretKey::generate().to_base64().to_string());
    write(first.clone(), 0o644);
    let mut layers = platform::config::Layers::defaults().unwrap();
    layers.set("CREDENTIAL_ENCRYPTION_KEY_FILE", file.to_str().unwrap(), platform::config::Source::Flag);
    assert!(platform::Config::from_layers(&layers).unwrap_err().to_string().contains("others can read"));
    write(first.clone(), 0o600);
    let settings = [("CREDENTIAL_ENCRYPTION_KEY", ""), ("CREDENTIAL_ENCRYPTION_KEY_FILE", file.to_str().unwrap())];
    let app = TestApp::with(&settings).await;
    let beside = TestApp::beside_with(&app, &settings).await;
    fill(&app, 1).await;
    let service = app.service(&["credentials:reveal"], Some(&["everything"])).await;
    write(format!("{second}\n{first}\n"), 0o600);
    let began = app.op_post_json(ROTATIONS, &json!({})).await.expect(202);
    assert_eq!(app.job(began["job_id"].as_str().unwrap()).await["result"]["state"], "completed");
    assert_eq!(versions(&app).await, [(1, "retired".to_owned()), (2, "active".to_owned())]);
    // The replica that was not asked reads the file when it meets the new version.
    let answer = beside.internal(&format!("{PATH}/user0/everything/decrypt"), Some(&service), &json!({ "env_vars": ["KEY_1"] })).await;
    assert_eq!(answer.expect(200)["env"], json!({ "KEY_1": "value 0 1" }));
    let body = json!({ "user_id": "user0", "server_id": "everything", "env_var": "KEY_1", "value": "new" });
    assert_eq!(beside.op_post_json(PATH, &body).await.status, 200, "and seals with it");
}

/// A rotation that is refused leaves the old key sealing: nothing of the new one is in use.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_rotation_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let write = |text: String| {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    };
    let (first, second) = (SecretKey::generate().to_base64().to_string(), SecretKey::generate().to_base64().to_string());
    write(first.clone());
    let app = TestApp::with(&[("CREDENTIAL_ENCRYPTION_KEY", ""), ("CREDENTIAL_ENCRYPTION_KEY_FILE", file.to_str().unwrap())]).await;
    fill(&app, 1).await;
    let mut connection = app.database.connect().await;
    sqlx::query("INSERT INTO credentials.key_rotations (id, to_version, state, total, started_by) VALUES (gen_random_uuid(), 1, 'paused', 1, 'test')")
        .execute(&mut connection)
        .await
        .unwrap();
    write(format!("{second}\n{first}\n"));
    app.op_post_json(ROTATIONS, &json!({})).await.expect_problem(409, "rotation_state");
    assert_eq!(versions(&app).await, [(1, "active".to_owned())]);
    let body = json!({ "user_id": "user0", "server_id": "everything", "env_var": "KEY_1", "value": "new" });
    assert_eq!(app.op_post_json(PATH, &body).await.expect(200)["key_version"], 1);
}

/// Somebody who is about to commit a value under the old key keeps it from being retired.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_not_retired_under_a_writer() {
    let mut app = TestApp::start().await;
    fill(&app, 1).await;
    let mut writer = app.database.connect().await;
    sqlx::raw_sql("BEGIN; SELECT version FROM credentials.key_versions WHERE version = 1 FOR KEY SHARE")
        .execute(&mut writer)
        .await
        .unwrap();
    let new = SecretKey::generate().to_base64().to_string();
    app.set("CREDENTIAL_ENCRYPTION_KEY", "");
    app.set("CREDENTIAL_ENCRYPTION_KEYS", &format!("{new},{}", keys()[0]));
    app.restart().await;
    let began = app.op_post_json(ROTATIONS, &json!({})).await.expect(202);
    let id = began["id"].as_str().unwrap();
    eventually(20, "all rows are moved", || async {
        let standing = app.op_get(&format!("{ROTATIONS}/{id}")).await.expect(200);
        (standing["done"] == standing["total"]).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(versions(&app).await[0], (1, "previous".to_owned()));
    sqlx::raw_sql("COMMIT").execute(&mut writer).await.unwrap();
    assert_eq!(app.job(began["job_id"].as_str().unwrap()).await["result"]["retired"], json!([1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_does_not_open_stays_and_so_does_its_key() {
    let mut app = TestApp::start().await;
    fill(&app, 1).await;
    let new = SecretKey::generate().to_base64().to_string();
    app.set("CREDENTIAL_ENCRYPTION_KEY", "");
    app.set("CREDENTIAL_ENCRYPTION_KEYS", &format!("{new},{}", keys()[0]));
    app.restart().await;
    let mut connection = app.database.connect().await;
    sqlx::query("UPDATE credentials.mcp_credentials SET key_commit = decode(repeat('00', 32), 'hex') WHERE env_var = 'KEY_5'")
        .execute(&mut connection)
        .await
        .unwrap();
    let before: Vec<u8> = sqlx::query_scalar("SELECT wrapped_dek FROM credentials.mcp_credentials WHERE env_var = 'KEY_5'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let began = app.op_post_json(ROTATIONS, &json!({})).await.expect(202);
    let job = app.job(began["job_id"].as_str().unwrap()).await;
    assert_eq!(job["result"], json!({ "state": "completed_with_errors", "done": 100, "failed": 1, "retired": [] }));
    let after: Vec<u8> = sqlx::query_scalar("SELECT wrapped_dek FROM credentials.mcp_credentials WHERE env_var = 'KEY_5'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(before, after);
    assert_eq!(versions(&app).await, [(1, "previous".to_owned()), (2, "active".to_owned())]);
    let log = app.op_get(&format!("/api/mcp/jobs/{}", began["job_id"].as_str().unwrap())).await.text();
    assert!(log.contains("does not open and stays as it is"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_pauses_goes_on_and_can_be_given_up() {
    let mut app = TestApp::start().await;
    fill(&app, 30).await;
    let new = SecretKey::generate().to_base64().to_string();
    app.set("CREDENTIAL_ENCRYPTION_KEY", "");
    app.set("CREDENTIAL_ENCRYPTION_KEYS", &format!("{new},{}", keys()[0]));
    app.restart().await;
    let began = app.op_post_json(ROTATIONS, &json!({})).await.expect(202);
    let id = began["id"].as_str().unwrap();
    let steer = async |to: &str| app.op_post(&format!("{ROTATIONS}/{id}/{to}")).await;
    let paused = steer("pause").await.expect(200);
    assert_eq!(paused["state"], "paused");
    app.job(began["job_id"].as_str().unwrap()).await;
    let at = app.op_get(&format!("{ROTATIONS}/{id}")).await.expect(200)["done"].clone();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(app.op_get(&format!("{ROTATIONS}/{id}")).await.expect(200)["done"], at);
    app.op_post_json(ROTATIONS, &json!({})).await.expect_problem(409, "rotation_state");
    steer("pause").await.expect_problem(409, "rotation_state");
    steer("resume").await.expect(200);
    let done = eventually(30, "it completes", || async {
        let standing = app.op_get(&format!("{ROTATIONS}/{id}")).await.expect(200);
        (standing["state"] == "completed").then_some(standing)
    })
    .await;
    assert_eq!(done["done"], 3001);
    steer("cancel").await.expect_problem(409, "rotation_state");
    app.op_get(&format!("{ROTATIONS}/nothing")).await.expect_problem(404, "not_found");
}

/// The program is killed at twenty points of a rotation of ten thousand rows, with writers at work.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_survives_every_kill() {
    let database = cluster::database().await;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    cluster::share_roles(&data).await;
    let url = database.url();
    let first = SecretKey::generate().to_base64().to_string();
    let second = SecretKey::generate().to_base64().to_string();
    let start = |ring: &str| {
        let settings = [
            ("DATABASE_URL", url.as_str()),
            ("CREDENTIAL_ENCRYPTION_KEY", ""),
            ("CREDENTIAL_ENCRYPTION_KEYS", ring),
            ("FABRIC_JOB_LEASE_SECONDS", "2"),
            ("FABRIC_RATE_LIMIT", "0"),
        ];
        Binary::serve(&data, &settings)
    };
    let program = start(&first);
    let http = reqwest::Client::new();
    let token = std::fs::read_to_string(data.join("operator.token")).unwrap().trim().to_owned();
    for user in 0..100 {
        let credentials: Vec<Value> =
            (0..100).map(|n| json!({ "env_var": format!("KEY_{n}"), "value": format!("value {user} {n}") })).collect();
        let request = http
            .put(format!("{}{PATH}/user{user}/everything", program.url))
            .bearer_auth(&token)
            .json(&json!({ "credentials": credentials }));
        assert_eq!(request.send().await.unwrap().status(), 200);
    }
    program.kill();
    let ring = format!("{second},{first}");
    let mut program = start(&ring);
    let began = http.post(format!("{}{ROTATIONS}", program.url)).bearer_auth(&token).json(&json!({})).send().await.unwrap();
    assert_eq!(began.status(), 202);
    let (written, stop, place) =
        (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)), Arc::new(std::sync::Mutex::new(program.url.clone())));
    let writer = tokio::spawn({
        let (http, token, written, stop, place) =
            (http.clone(), token.clone(), Arc::clone(&written), Arc::clone(&stop), Arc::clone(&place));
        async move {
            let mut n = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let url = place.lock().unwrap().clone();
                let body = json!({ "user_id": format!("user{}", n % 100), "server_id": "everything", "env_var": "WRITTEN", "value": format!("write {n}") });
                let sent = http.post(format!("{url}{PATH}")).bearer_auth(&token).json(&body).timeout(Duration::from_secs(5)).send().await;
                if sent.is_ok_and(|answer| answer.status().is_success()) {
                    written.fetch_add(1, Ordering::Relaxed);
                    n += 1;
                } else {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    });
    for n in 0..20_u64 {
        tokio::time::sleep(Duration::from_millis(15 + 37 * n % 160)).await;
        program.kill();
        program = start(&ring);
        place.lock().unwrap().clone_from(&program.url);
    }
    let ask = async |path: String| -> Value {
        http.get(format!("{}{path}", program.url)).bearer_auth(&token).send().await.unwrap().json().await.unwrap()
    };
    let done = eventually(90, "the rotation ends", || async {
        let listed = ask(ROTATIONS.to_owned()).await;
        (listed["rotations"][0]["state"] == "completed").then(|| listed["rotations"][0].clone())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    assert!(written.load(Ordering::Relaxed) > 50, "{written:?}");
    assert_eq!(done["failed"], 0);
    let mut connection = database.connect().await;
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM credentials.mcp_credentials WHERE kek_version <> 2")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(left, 0);
    let verify = http.post(format!("{}/api/mcp/credentials/verify", program.url)).bearer_auth(&token).send().await.unwrap();
    let job = verify.json::<Value>().await.unwrap()["job_id"].as_str().unwrap().to_owned();
    let result = eventually(60, "everything is looked at", || async {
        let job = ask(format!("/api/mcp/jobs/{job}")).await;
        (job["status"] == "complete").then(|| job["result"].clone())
    })
    .await;
    assert_eq!(result["ok"], true, "{result}");
    assert!(result["checked"].as_u64().unwrap() > 10_000);
    let report: Value =
        http.post(format!("{}/api/mcp/audit/verify", program.url)).bearer_auth(&token).send().await.unwrap().json().await.unwrap();
    assert_eq!(report["ok"], true, "{report}");
}
