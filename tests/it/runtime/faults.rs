//! What happens when something goes wrong: a child, the fabric, or both.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{is_alive, with};
use crate::support::{Binary, Packages, TestApp, eventually};

pub(super) fn kill(pid: &Value) {
    assert!(std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn a_killed_server_comes_back_and_the_state_is_true_throughout() {
    let (app, _packages) = with(&[], &json!({})).await;
    let first = app.run_server("subject").await;
    let child = app.tool(&first, "fork", json!({})).await;
    kill(&first["pid"]);
    let second = eventually(10, "it is back", || async {
        let now = app.instance(&first["id"]).await;
        // A row that says RUNNING names a process that is there, but for the moment in which its end is noticed.
        let is_true = now["state"] != "RUNNING" || now["pid"] == first["pid"] || is_alive(&now["pid"].to_string());
        assert!(is_true, "{now}");
        (now["state"] == "RUNNING" && now["pid"] != first["pid"]).then_some(now)
    })
    .await;
    assert_eq!((second["restarts"].as_i64(), second["attempt"].as_i64()), (Some(1), Some(1)));
    assert!(!is_alive(&child), "what it started has ended with it");
    assert_eq!(app.tool(&second, "echo", json!({ "message": "back" })).await, "back");
    // Its own end in the middle of a call is told to the caller, and is an end like any other.
    let path = format!("/api/mcp/instances/{}/tools/die/call", second["id"].as_str().unwrap());
    app.op_post_json(&path, &json!({})).await.expect_problem(502, "server_ended");
    eventually(10, "it is back again", || async {
        let now = app.instance(&first["id"]).await;
        (now["state"] == "RUNNING" && now["restarts"] == 2).then_some(())
    })
    .await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn a_policy_says_whether_it_comes_back() {
    let (app, _packages) = with(&[], &json!({})).await;
    let wanted = json!({ "server_id": "subject", "enabled": true, "restart": "never" });
    app.op_post_json("/api/mcp/users/me/servers", &wanted).await.expect(201);
    let running = app.instance_in(&app.token, "subject", "RUNNING").await;
    kill(&running["pid"]);
    let failed = app.instance_in(&app.token, "subject", "FAILED").await;
    assert_eq!(
        (failed["reason"]["code"].as_str(), failed["reason"]["message"].as_str()),
        (Some("exited"), Some("it was ended by signal 9"))
    );
    assert_eq!(app.op_get("/api/mcp/users/me/servers/subject").await.expect(200)["enabled"], false);
    // Starting it again is a new wish.
    app.run_server("subject").await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn what_does_not_want_to_end_is_ended() {
    let (app, _packages) = with(&[], &json!({ "env": { "MODE": "stubborn" } })).await;
    let running = app.run_server("subject").await;
    let child = app.tool(&running, "fork", json!({})).await;
    app.op_post("/api/mcp/servers/subject/stop").await.expect(202);
    app.instance_in(&app.token, "subject", "STOPPING").await;
    app.instance_in(&app.token, "subject", "STOPPED").await;
    assert!(!is_alive(&running["pid"].to_string()) && !is_alive(&child));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn a_server_that_does_not_last_is_given_up() {
    let (app, _packages) = with(&[], &json!({})).await;
    let first = app.run_server("subject").await;
    let began = Instant::now();
    let mut ended = first["pid"].clone();
    kill(&ended);
    // It waits longer each time; until it is given up the test would take minutes, so it is stopped while it waits.
    for attempt in 1..=3 {
        let now = eventually(20, "it is back", || async {
            let now = app.instance(&first["id"]).await;
            (now["state"] == "RUNNING" && now["pid"] != ended).then_some(now)
        })
        .await;
        assert_eq!(now["attempt"], attempt);
        ended = now["pid"].clone();
        kill(&ended);
    }
    assert!(began.elapsed() > Duration::from_millis(1500), "the second and third start were waited for");
    let waiting = eventually(10, "it waits", || async {
        let now = app.instance(&first["id"]).await;
        (now["state"] == "STARTING" && !now["next_try_at"].is_null()).then_some(now)
    })
    .await;
    assert_eq!(waiting["reason"]["message"], "it was ended by signal 9");
    app.op_post("/api/mcp/servers/subject/stop").await.expect(202);
    app.instance_in(&app.token, "subject", "STOPPED").await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn another_fabric_takes_over_what_one_leaves() {
    let (mut one, packages) = with(&[], &json!({})).await;
    let running = one.run_server("subject").await;
    let settings = packages.settings();
    let further: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let other = TestApp::beside_with(&one, &further).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let seen = other.instance(&running["id"]).await;
    assert_eq!((&seen["node_id"], &seen["pid"]), (&running["node_id"], &running["pid"]), "one of them has it");
    let path = format!("/api/mcp/instances/{}/tools/echo/call", running["id"].as_str().unwrap());
    other.op_post_json(&path, &json!({})).await.expect_problem(503, "on_another_node");
    one.halt().await;
    let taken = eventually(30, "the other one has it", || async {
        let now = other.instance(&running["id"]).await;
        (now["state"] == "RUNNING" && now["node_id"] != running["node_id"]).then_some(now)
    })
    .await;
    assert!(!is_alive(&running["pid"].to_string()));
    assert_eq!(other.tool(&taken, "echo", json!({ "message": "here" })).await, "here");
    other.stop().await;
}

/// Processes whose command line names all of these.
pub(super) fn processes_of(words: &[&str]) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let named = entries.filter_map(|entry| {
        let pid = entry.file_name().into_string().ok()?;
        let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        (words.iter().all(|word| line.contains(word)) && is_alive(&pid)).then_some(pid)
    });
    named.collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn a_fabric_that_is_killed_at_any_moment_loses_and_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let data = folder.path().join("data");
    let packages = Packages::start().await;
    packages.subject("@acme/subject", "1.0.0");
    let database = crate::support::cluster::database().await;
    crate::support::cluster::share_roles(&data).await;
    let (url, registries) = (database.url(), packages.settings());
    let mut settings: Vec<(&str, &str)> = registries.iter().map(|(key, value)| (*key, value.as_str())).collect();
    settings.extend([("DATABASE_URL", url.as_str()), ("FABRIC_JOB_LEASE_SECONDS", "3")]);
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = reqwest::Client::new();
    let post = async |program: &Binary, path: &str, body: Value| {
        let token = std::fs::read_to_string(data.join("operator.token")).unwrap().trim().to_owned();
        let request = client.post(format!("{}{path}", program.url)).bearer_auth(token).json(&body).timeout(Duration::from_secs(5));
        request.send().await.ok();
    };
    let place = data.display().to_string();
    for round in 0..20_usize {
        let program = Binary::serve(&data, &settings);
        for server in ["a", "b", "c"] {
            post(&program, "/api/mcp/packages/install", json!({ "name": "@acme/subject", "serverName": server, "enabled": true })).await;
        }
        tokio::time::sleep(Duration::from_millis(round as u64 * 41 % 700)).await;
        post(
            &program,
            &format!("/api/mcp/servers/{}/{}", ["a", "b", "c"][round % 3], ["stop", "start", "restart"][round / 3 % 3]),
            json!({}),
        )
        .await;
        tokio::time::sleep(Duration::from_millis(round as u64 * 29 % 300)).await;
        program.kill();
        eventually(5, "its children end with it", || async { processes_of(&[&place, "server.js"]).is_empty().then_some(()) }).await;
    }
    let program = Binary::serve(&data, &settings);
    for server in ["a", "b", "c"] {
        post(&program, "/api/mcp/packages/install", json!({ "name": "@acme/subject", "serverName": server, "enabled": true })).await;
        post(&program, &format!("/api/mcp/servers/{server}/start"), json!({})).await;
    }
    let token = std::fs::read_to_string(data.join("operator.token")).unwrap().trim().to_owned();
    let found = eventually(60, "all of them run", || async {
        let found: Value =
            client.get(format!("{}/api/mcp/instances", program.url)).bearer_auth(&token).send().await.ok()?.json().await.ok()?;
        let all = found["instances"].as_array()?.clone();
        (all.len() == 3 && all.iter().all(|one| one["state"] == "RUNNING")).then_some(all)
    })
    .await;
    let mut pids: Vec<String> = found.iter().map(|one| one["pid"].to_string()).collect();
    let mut there = processes_of(&[&place, "server.js"]);
    pids.sort_unstable();
    there.sort_unstable();
    assert_eq!(there, pids, "each runs once");
    assert!(program.terminate().1);
    assert!(processes_of(&[&place, "server.js"]).is_empty());
}
