//! What passes by itself is waited for, and nothing is switched off for it.

use serde_json::{Value, json};

use super::{faults::kill, is_alive, with};
use crate::support::{TestApp, eventually};

/// The instance of a server, once this holds for it.
async fn once(app: &TestApp, server: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    eventually(30, what, || async {
        let found = app.op_get(&format!("/api/mcp/instances?server_id={server}")).await.expect(200)["instances"][0].clone();
        holds(&found).then_some(found)
    })
    .await
}

fn waits(instance: &Value, state: &str) -> bool {
    instance["state"] == state && instance["reason"]["code"] == "limit_reached" && !instance["next_try_at"].is_null()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn a_machine_that_is_full_is_waited_for() {
    let (app, _packages) = with(&[("FABRIC_MAX_INSTANCES", "1")], &json!({})).await;
    app.install(&json!({ "name": "@acme/subject", "serverName": "second", "enabled": false })).await;
    app.run_server("subject").await;
    app.op_post("/api/mcp/servers/second/start").await.expect_problem(409, "limit_reached");
    app.op_post_json("/api/mcp/users/me/servers", &json!({ "server_id": "second", "enabled": true })).await.expect(201);
    let waiting = once(&app, "second", "it waits", |found| waits(found, "PENDING")).await;
    assert!(waiting["reason"]["message"].as_str().unwrap().contains("FABRIC_MAX_INSTANCES"), "{waiting}");
    assert_eq!(app.op_get("/api/mcp/users/me/servers/second").await.expect(200)["enabled"], true);
    app.op_post("/api/mcp/servers/subject/stop").await.expect(202);
    app.instance_in(&app.token, "second", "RUNNING").await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn larger_limits_need_room_too() {
    let (app, _packages) = with(&[("FABRIC_MAX_SERVERS_MEMORY_MB", "600")], &json!({})).await;
    let limited = async |bytes: i64| {
        let wanted = json!({ "server_id": "subject", "enabled": true, "limits": { "memory_bytes": bytes } });
        app.op_post_json("/api/mcp/users/me/servers", &wanted).await
    };
    limited(256 << 20).await.expect(201);
    let running = app.instance_in(&app.token, "subject", "RUNNING").await;
    limited(2 << 30).await.expect(200);
    once(&app, "subject", "it waits for room", |found| waits(found, "STARTING")).await;
    assert!(!is_alive(&running["pid"].to_string()));
    limited(300 << 20).await.expect(200);
    let again = app.instance_in(&app.token, "subject", "RUNNING").await;
    assert_eq!(again["limits"]["memory_bytes"], 300 << 20);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn a_row_that_nobody_runs_ends_with_its_lease() {
    let (app, _packages) = with(&[("FABRIC_JOB_LEASE_SECONDS", "3")], &json!({})).await;
    app.install(&json!({ "name": "@acme/subject", "serverName": "second", "enabled": false })).await;
    let running = app.run_server("subject").await;
    app.op_post_json("/api/mcp/users/me/servers", &json!({ "server_id": "second" })).await.expect(201);
    // As it is where a fabric loses what it had just claimed.
    let mut connection = app.database.connect().await;
    sqlx::raw_sql(
        "INSERT INTO mcp_fabric.instances (id, configuration_id, session, owner, server_id, node_id, lease_until, backend, state, since, created_at)
         SELECT gen_random_uuid(), c.id, '', c.owner, c.server_id, i.node_id, now() + interval '3 s', 'process', 'CREATING', now(), now()
         FROM mcp_fabric.configurations c, mcp_fabric.instances i WHERE c.server_id = 'second'",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let lost = once(&app, "second", "it is lost", |found| found["state"] == "FAILED").await;
    assert_eq!(lost["reason"]["code"], "node_lost");
    let now = app.instance(&running["id"]).await;
    assert_eq!((&now["state"], &now["pid"]), (&json!("RUNNING"), &running["pid"]), "what runs keeps its lease");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn what_is_stopped_while_it_starts_has_ended() {
    let (app, _packages) = with(&[], &json!({ "env": { "MODE": "mute" } })).await;
    app.op_post("/api/mcp/servers/subject/start").await.expect(202);
    let starting = once(&app, "subject", "it starts", |found| found["state"] == "STARTING" && !found["pid"].is_null()).await;
    app.op_post("/api/mcp/servers/subject/stop").await.expect(202);
    app.instance_in(&app.token, "subject", "STOPPED").await;
    assert!(!is_alive(&starting["pid"].to_string()));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn what_comes_back_has_what_is_in_the_vault_by_then() {
    let (app, _packages) = with(&[], &json!({ "env": { "ACME_TOKEN": "first-value" } })).await;
    let first = app.run_server("subject").await;
    assert!(app.tool(&first, "env", json!({})).await.contains("first-value"));
    let order = json!({ "name": "@acme/subject", "serverName": "subject", "enabled": true, "env": { "ACME_TOKEN": "second-value" } });
    app.install(&order).await;
    kill(&first["pid"]);
    let again = once(&app, "subject", "it is back", |found| found["state"] == "RUNNING" && found["pid"] != first["pid"]).await;
    let env = app.tool(&again, "env", json!({})).await;
    assert!(env.contains("second-value") && !env.contains("first-value"), "{env}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn folders_that_nobody_knows_are_removed() {
    let (mut app, _packages) = with(&[], &json!({})).await;
    let running = app.run_server("subject").await;
    let folders = app.data().join("instances");
    let (old, new) = (folders.join("01890a5d-ac96-774b-bcce-b302099a8057"), folders.join("01890a5d-ac96-774b-bcce-b302099a8058"));
    for folder in [&old, &new] {
        std::fs::create_dir_all(folder.join("work")).unwrap();
    }
    let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_hours(1);
    let known = folders.join(running["id"].as_str().unwrap());
    // Where none is known, all of them are another database's.
    std::fs::File::open(&old).unwrap().set_modified(hour_ago).unwrap();
    app.restart().await;
    app.instance_in(&app.token, "subject", "RUNNING").await;
    assert!(old.exists());
    std::fs::File::open(&known).unwrap().set_modified(hour_ago).unwrap();
    app.restart().await;
    eventually(10, "it is removed", || async { (!old.exists()).then_some(()) }).await;
    assert!(new.exists(), "one that was just made may get its row yet");
    assert!(known.exists());
    app.stop().await;
}
