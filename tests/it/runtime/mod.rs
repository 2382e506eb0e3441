//! Running servers: a real program, real processes, real limits.

mod bundles;
mod containers;
mod engine_faults;
mod faults;
mod oauth;
mod people;
mod podman;
mod real;
mod remote;
mod sandbox;
mod scripts;
mod trail;
mod waits;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Packages, TestApp, eventually};

/// A fabric with the small server installed as `subject`.
pub(crate) async fn with(further: &[(&str, &str)], order: &Value) -> (TestApp, Packages) {
    let packages = Packages::start().await;
    packages.subject("@acme/subject", "1.0.0");
    let settings = packages.settings();
    let mut all: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    all.extend(further);
    let app = TestApp::with(&all).await;
    let mut whole = json!({ "name": "@acme/subject", "serverName": "subject", "enabled": false });
    whole.as_object_mut().unwrap().extend(order.as_object().cloned().unwrap_or_default());
    assert_eq!(app.install(&whole).await["status"], "installed");
    (app, packages)
}

impl TestApp {
    /// Has the operator start a server, and waits until it runs.
    pub(crate) async fn run_server(&self, server: &str) -> Value {
        self.op_post(&format!("/api/mcp/servers/{}/start", server.replace('/', "%2F"))).await.expect(202);
        self.instance_in(&self.token, server, "RUNNING").await
    }

    /// Calls a tool of an instance as the operator; gives the text of the result.
    pub(crate) async fn tool(&self, instance: &Value, tool: &str, arguments: Value) -> String {
        let path = format!("/api/mcp/instances/{}/tools/{tool}/call", instance["id"].as_str().unwrap());
        let result = self.op_post_json(&path, &json!({ "arguments": arguments })).await.expect(200);
        result["content"][0]["text"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn instance(&self, id: &Value) -> Value {
        self.op_get(&format!("/api/mcp/instances/{}", id.as_str().unwrap())).await.expect(200)
    }
}

/// Whether a process is there that has not ended.
pub(crate) fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn a_server_runs_with_what_it_was_given_and_stops() {
    let order = json!({ "args": ["one", "two words; $(id)"], "env": { "COLOUR": "blue", "ACME_TOKEN": "s3cret-value" } });
    let (app, _packages) = with(&[], &order).await;
    let running = app.run_server("subject").await;
    assert_eq!(
        (running["era"].as_str(), running["version"].as_str(), running["tools"].as_i64()),
        (Some("legacy"), Some("1.0.0"), Some(15))
    );
    let own: Value = serde_json::from_str(&app.tool(&running, "self", json!({})).await).unwrap();
    assert_eq!(own["argv"], json!(["one", "two words; $(id)"]), "no shell reads arguments");
    assert_eq!(own["pid"], running["pid"]);
    assert!(own["cwd"].as_str().unwrap().ends_with("/work"));
    let env: Value = serde_json::from_str(&app.tool(&running, "env", json!({})).await).unwrap();
    let mut names: Vec<&str> = env.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    // Where nothing better tells what a server started, it has a mark.
    names.retain(|name| *name != "FABRIC_INSTANCE" || rustix::process::geteuid().is_root());
    assert_eq!(names, ["ACME_TOKEN", "COLOUR", "HOME", "LANG", "PATH", "TMPDIR"], "nothing but what is declared");
    assert_eq!(env["ACME_TOKEN"], "s3cret-value");
    // What it was given in confidence is in no argument, log, answer or row.
    app.tool(&running, "say", json!({ "message": "the token is s3cret-value" })).await;
    let cmdline = std::fs::read_to_string(format!("/proc/{}/cmdline", running["pid"])).unwrap();
    let id = running["id"].as_str().unwrap();
    let log = eventually(5, "it is in the log", || async {
        let log = app.op_get(&format!("/api/mcp/instances/{id}/logs")).await.text();
        log.contains("the token is").then_some(log)
    })
    .await;
    assert!(log.contains("the token is [secret]") && !cmdline.contains("s3cret-value"), "{log} {cmdline}");
    let used = app.instance(&running["id"]).await["usage"].clone();
    assert!(used["memory_bytes"].as_i64().unwrap() > 10 << 20 && used["processes"] == 1, "{used}");

    app.op_post("/api/mcp/servers/subject/stop").await.expect(202);
    let stopped = app.instance_in(&app.token, "subject", "STOPPED").await;
    assert_eq!((stopped["id"].clone(), stopped["reason"]["code"].as_str()), (running["id"].clone(), Some("not_wanted")));
    assert!(!is_alive(&running["pid"].to_string()));
    app.op_post_json(&format!("/api/mcp/instances/{id}/tools/echo/call"), &json!({})).await.expect_problem(409, "not_running");
    app.op_post("/api/mcp/servers/subject/restart").await.expect_problem(409, "illegal_transition");
    let metrics = app.op_get("/metrics").await.text();
    assert!(metrics.contains("state_transitions_total{from=\"STOPPING\",outcome=\"ok\",to=\"STOPPED\"} 1"), "{metrics}");
    assert!(!metrics.contains("outcome=\"refused\",to="));
    assert_eq!(app.call(Method::DELETE, &format!("/api/mcp/instances/{id}"), &app.token, &Value::Null).await.status, 204);
    app.op_get(&format!("/api/mcp/instances/{id}")).await.expect_problem(404, "instance_not_found");
    assert!(!app.data().join("instances").join(id).exists());
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn what_is_wanted_decides_what_runs() {
    let (mut app, packages) = with(&[("FABRIC_CACHE_METADATA_SECONDS", "1")], &json!({})).await;
    let want = async |app: &TestApp, wanted: Value| app.op_post_json("/api/mcp/users/me/servers", &wanted).await;
    want(&app, json!({ "server_id": "subject", "enabled": true })).await.expect(201);
    let first = app.instance_in(&app.token, "subject", "RUNNING").await;
    // Another limit is another process; the same wish again is none.
    want(&app, json!({ "server_id": "subject", "enabled": true })).await.expect(200);
    want(&app, json!({ "server_id": "subject", "limits": { "memory_bytes": 268_435_456 } })).await.expect(200);
    let second = eventually(10, "it is started anew", || async {
        let now = app.instance(&first["id"]).await;
        (now["state"] == "RUNNING" && now["pid"] != first["pid"]).then_some(now)
    })
    .await;
    assert_eq!((second["limits"]["memory_bytes"].as_i64(), second["restarts"].as_i64()), (Some(268_435_456), Some(1)));
    // So is another version.
    packages.subject("@acme/subject", "1.1.0");
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    app.op_post("/api/mcp/packages/subject/upgrade").await.expect(202);
    eventually(30, "the new version runs", || async {
        let now = app.instance(&first["id"]).await;
        (now["state"] == "RUNNING" && now["version"] == "1.1.0").then_some(())
    })
    .await;
    // It survives the fabric as a wish, and not as a process.
    let before = app.instance(&first["id"]).await["pid"].to_string();
    app.restart().await;
    assert!(!is_alive(&before));
    let after = app.instance_in(&app.token, "subject", "RUNNING").await;
    assert_eq!(after["id"], first["id"]);
    want(&app, json!({ "server_id": "subject", "enabled": false })).await.expect(200);
    app.instance_in(&app.token, "subject", "STOPPED").await;
    // What is uninstalled stops.
    app.run_server("subject").await;
    assert_eq!(app.call(Method::DELETE, "/api/mcp/packages/subject", &app.token, &Value::Null).await.status, 204);
    app.instance_in(&app.token, "subject", "STOPPED").await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn servers_of_every_manner_are_understood() {
    let packages = Packages::start().await;
    packages.subject("@acme/subject", "1.0.0");
    let settings = packages.settings();
    let mut all: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    all.extend([("FABRIC_START_SECONDS", "4"), ("FABRIC_CALL_SECONDS", "1"), ("FABRIC_PROBE_SECONDS", "1")]);
    let app = TestApp::with(&all).await;
    for (mode, state, detail) in [
        ("modern", "RUNNING", "modern"),
        ("garbage", "RUNNING", "legacy"),
        ("late", "RUNNING", "legacy"),
        ("mute", "FAILED", "start_timeout"),
        ("crash", "FAILED", "start_failed"),
    ] {
        let order = json!({ "name": "@acme/subject", "serverName": mode, "enabled": true, "env": { "MODE": mode } });
        app.install(&order).await;
        let found = app.instance_in(&app.token, mode, state).await;
        let told = if state == "RUNNING" { &found["era"] } else { &found["reason"]["code"] };
        assert_eq!(told, detail, "{found}");
        // What failed is not wanted any more, and says why.
        let wanted = app.op_get(&format!("/api/mcp/users/me/servers/{mode}")).await.expect(200);
        assert_eq!(wanted["enabled"], state == "RUNNING", "{mode}");
        if mode == "crash" {
            let why = found["reason"]["message"].as_str().unwrap();
            assert!(why.contains("exit code 7") && why.contains("cannot start without a moon"), "{why}");
        }
    }
    let modern = app.instance_in(&app.token, "modern", "RUNNING").await;
    // A modern server knows no ping, and is well nevertheless.
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert_eq!(app.instance(&modern["id"]).await["pid"], modern["pid"]);
    assert_eq!(app.tool(&modern, "echo", json!({ "message": "hi" })).await, "hi");
    let hang = format!("/api/mcp/instances/{}/tools/hang/call", modern["id"].as_str().unwrap());
    app.op_post_json(&hang, &json!({})).await.expect_problem(504, "server_timeout");
    let missing = format!("/api/mcp/instances/{}/tools/missing/call", modern["id"].as_str().unwrap());
    assert_eq!(app.op_post_json(&missing, &json!({})).await.expect_problem(502, "server_error")["rpc_code"], -32602);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn what_starts_on_demand_ends_when_it_is_idle() {
    let (app, _packages) = with(&[("FABRIC_IDLE_SECONDS", "1"), ("FABRIC_PROBE_SECONDS", "1")], &json!({})).await;
    let wanted = json!({ "server_id": "subject", "enabled": true, "lifecycle": "on_demand" });
    app.op_post_json("/api/mcp/users/me/servers", &wanted).await.expect(201);
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(app.op_get("/api/mcp/instances").await.expect(200)["instances"], json!([]));
    let first = app.run_server("subject").await;
    let idle = app.instance_in(&app.token, "subject", "STOPPED").await;
    assert_eq!(idle["reason"]["code"], "idle");
    // A call starts it.
    assert_eq!(app.tool(&first, "echo", json!({ "message": "again" })).await, "again");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn a_log_is_followed() {
    use futures_util::StreamExt as _;
    let (app, _packages) = with(&[], &json!({})).await;
    let running = app.run_server("subject").await;
    let path = format!("/api/mcp/instances/{}/logs?follow=true&lines=1", running["id"].as_str().unwrap());
    let response = app.request(Method::GET, &path).bearer_auth(&app.token).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let mut chunks = response.bytes_stream();
    assert!(String::from_utf8_lossy(&chunks.next().await.unwrap().unwrap()).contains("subject: here"));
    app.tool(&running, "say", json!({ "message": "a new line" })).await;
    let next = tokio::time::timeout(std::time::Duration::from_secs(5), chunks.next()).await.unwrap().unwrap().unwrap();
    let entry: Value = serde_json::from_slice(&next).unwrap();
    assert_eq!((entry["stream"].as_str(), entry["text"].as_str()), (Some("stderr"), Some("a new line")));
    for lines in ["0", "5001", "x"] {
        assert_eq!(app.op_get(&path.replace("follow=true&lines=1", &format!("lines={lines}"))).await.status, 400);
    }
    app.stop().await;
}
