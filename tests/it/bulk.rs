//! Many servers at once.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    gateway::Gateway,
    support::{Packages, TestApp, data, eventually},
};

impl TestApp {
    /// Asks for an operation and waits for its end.
    async fn bulk(&self, token: &str, order: &Value) -> Value {
        let begun = self.call(Method::POST, "/api/mcp/bulk", token, order).await.expect(202);
        assert_eq!(begun["status"], "pending", "{begun}");
        self.bulk_end(token, begun["bulk_id"].as_str().unwrap()).await
    }

    async fn bulk_now(&self, token: &str, id: &str) -> Value {
        self.send(self.request(Method::GET, &format!("/api/mcp/bulk/{id}")).bearer_auth(token)).await.expect(200)
    }

    async fn bulk_end(&self, token: &str, id: &str) -> Value {
        eventually(60, "the operation ends", || async {
            let now = self.bulk_now(token, id).await;
            let has_ended = !["pending", "running"].contains(&now["status"].as_str().unwrap());
            has_ended.then_some(now)
        })
        .await
    }

    /// What is done again with one that has ended: `retry` or `rollback`.
    async fn bulk_again(&self, id: &str, what: &str) -> Value {
        let begun = self.op_post(&format!("/api/mcp/bulk/{id}/{what}")).await.expect(202);
        assert_eq!(begun["bulk_id"], id);
        self.bulk_end(&self.token, id).await
    }

    async fn is_enabled(&self, server: &str) -> Option<bool> {
        let answer = self.op_get(&format!("/api/mcp/users/me/servers/{server}")).await;
        if answer.status == 404 { None } else { answer.expect(200)["enabled"].as_bool() }
    }
}

fn counts(operation: &Value) -> Vec<(String, i64)> {
    let counts = operation["counts"].as_object().unwrap();
    counts.iter().filter(|(_, count)| **count != 0).map(|(name, count)| (name.clone(), count.as_i64().unwrap())).collect()
}

fn item<'a>(operation: &'a Value, server: &str) -> &'a Value {
    operation["items"].as_array().unwrap().iter().find(|item| item["server_id"] == server).unwrap()
}

const ALL: [&str; 3] = ["one", "two", "three"];
const SIX: [&str; 6] = ["one", "two", "three", "four", "five", "six"];

async fn with_servers(names: &[&str], further: &[(&str, &str)]) -> Gateway {
    let gateway = Gateway::with(further).await;
    for name in names {
        gateway.install(name, &json!({})).await;
    }
    gateway
}

/// Servers of the catalogue whose package can be installed.
async fn installable(further: &[(&str, &str)]) -> (TestApp, Packages) {
    let packages = Packages::start().await;
    packages.subject("@acme/subject", "1.0.0");
    let settings = packages.settings();
    let mut all: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    all.extend(further);
    let app = TestApp::with(&all).await;
    let package = json!({ "registryType": "npm", "identifier": "@acme/subject", "version": "1.0.0", "transport": { "type": "stdio" } });
    let entry = |name: &str| data::entry_with(name, "1.0.0", json!({ "packages": [package.clone()] }), json!({}));
    app.import(&["a.x/one", "a.x/two", "a.x/three"].map(entry)).await;
    (app, packages)
}

async fn three(further: &[(&str, &str)]) -> Gateway {
    with_servers(&ALL, further).await
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_started_restarted_and_stopped_together() {
    let gateway = three(&[]).await;
    let app = &gateway.app;
    let done = app.bulk(&app.token, &json!({ "action": "enable", "server_ids": ["one", "two", "one"] })).await;
    assert_eq!((&done["status"], &done["action"]), (&json!("complete"), &json!("enable")));
    assert_eq!(counts(&done), [("done".into(), 2), ("total".into(), 2)], "{done}");
    assert_eq!(app.is_enabled("one").await, Some(true));
    let started = app.bulk(&app.token, &json!({ "action": "start", "server_ids": ALL })).await;
    assert_eq!(started["status"], "complete", "{started}");
    assert_eq!(item(&started, "three")["result"]["state"], "RUNNING");
    let again = app.bulk(&app.token, &json!({ "action": "start", "server_ids": ALL })).await;
    assert_eq!(counts(&again), [("total".into(), 3), ("unchanged".into(), 3)]);
    let pids = || async {
        let list = app.op_get("/api/mcp/instances").await.expect(200);
        let list = list["instances"].as_array().unwrap().clone();
        list.iter().map(|instance| (instance["server_id"].as_str().unwrap().to_owned(), instance["pid"].as_i64())).collect::<Vec<_>>()
    };
    let before = pids().await;
    let restarted = app.bulk(&app.token, &json!({ "action": "restart", "filter": { "enabled": true } })).await;
    assert_eq!(counts(&restarted), [("done".into(), 3), ("total".into(), 3)], "{restarted}");
    assert!(before.iter().all(|(_, pid)| pid.is_some()) && pids().await.iter().all(|now| !before.contains(now)));
    let stopped = app.bulk(&app.token, &json!({ "action": "stop", "server_ids": ALL })).await;
    assert_eq!(stopped["status"], "complete", "{stopped}");
    assert!(pids().await.iter().all(|(_, pid)| pid.is_none()));
    // What was stopped is started again when that is undone.
    let id = stopped["bulk_id"].as_str().unwrap();
    let back = app.bulk_again(id, "rollback").await;
    assert_eq!((&back["status"], counts(&back)), (&json!("rolled_back"), vec![("rolled_back".into(), 3), ("total".into(), 3)]));
    eventually(20, "they run again", || async { pids().await.iter().all(|(_, pid)| pid.is_some()).then_some(()) }).await;
    let listed = app.op_get("/api/mcp/bulk?limit=2").await.expect(200);
    assert_eq!(listed["operations"][0]["bulk_id"], id);
    assert!(listed["next_cursor"].is_string());
    let told = app.trail("&action=bulk.roll_back").await;
    assert_eq!((told.len(), &told[0]["event_type"]), (1, &json!("bulk_operation")));
    assert_eq!(app.trail("&action=bulk.begin").await.len(), 5);
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_named_and_changes_nothing() {
    let gateway = three(&[]).await;
    let app = &gateway.app;
    let many: Vec<String> = (0..1001).map(|n| format!("s{n}")).collect();
    for (order, code, place) in [
        (json!({ "action": "enable" }), "invalid_field", "body.server_ids"),
        (json!({ "action": "enable", "server_ids": ["one"], "filter": {} }), "invalid_field", "body.server_ids"),
        (json!({ "action": "enable", "server_ids": [] }), "invalid_field", "body.server_ids"),
        (json!({ "action": "enable", "server_ids": many }), "invalid_field", "body.server_ids"),
        (json!({ "action": "explode", "server_ids": ["one"] }), "invalid_body", "body"),
        (json!({ "action": "enable", "server_ids": ["one"], "more": 1 }), "invalid_body", "body"),
        (json!({ "action": "enable", "filter": { "colour": "red" } }), "invalid_body", "body"),
        (json!({ "action": "install", "filter": { "enabled": true } }), "invalid_field", "body.filter.enabled"),
    ] {
        let problem = app.op_post_json("/api/mcp/bulk", &order).await.expect_problem(400, code);
        assert_eq!(problem["errors"][0]["location"], place, "{problem}");
    }
    let problem = app.op_post_json("/api/mcp/bulk", &json!({ "action": "enable", "server_ids": ["one", "gone", "../x", "two"] })).await;
    let problem = problem.expect_problem(400, "invalid_field");
    let places: Vec<&str> = problem["errors"].as_array().unwrap().iter().map(|error| error["location"].as_str().unwrap()).collect();
    assert_eq!(places, ["body.server_ids[1]", "body.server_ids[2]"], "all of them are named");
    let atomic = json!({ "action": "restart", "server_ids": ["one"], "atomic": true });
    app.op_post_json("/api/mcp/bulk", &atomic).await.expect_problem(400, "not_reversible");
    for path in ["/api/mcp/bulk/x", "/api/mcp/bulk/018f0000-0000-7000-8000-000000000000"] {
        app.op_get(path).await.expect_problem(404, "not_found");
    }
    app.post("/api/mcp/bulk", &json!({})).await.expect_problem(401, "unauthenticated");
    assert_eq!(app.op_get("/api/mcp/bulk").await.expect(200)["operations"], json!([]));
    assert_eq!(app.is_enabled("one").await, None);

    let rehearsed = json!({ "action": "enable", "server_ids": ALL, "dry_run": true });
    let rehearsed = app.op_post_json("/api/mcp/bulk", &rehearsed).await.expect(200);
    assert_eq!((&rehearsed["total"], &rehearsed["items"][0]["outcome"]), (&json!(3), &json!("change")));
    assert_eq!(app.is_enabled("one").await, None);
    assert_eq!(app.op_get("/api/mcp/bulk").await.expect(200)["operations"], json!([]));
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_told_and_tried_again_and_all_or_nothing_is_nothing() {
    let gateway = three(&[]).await;
    let app = &gateway.app;
    // One that ends at once.
    let order = json!({ "name": "@acme/subject", "serverName": "broken", "enabled": false, "command": "/bin/false", "args": [] });
    app.install(&order).await;
    let want = json!({ "server_id": "broken", "restart": "never" });
    app.op_post_json("/api/mcp/users/me/servers", &want).await.expect(201);
    let partial = app.bulk(&app.token, &json!({ "action": "start", "server_ids": ["one", "broken"] })).await;
    assert_eq!(
        (&partial["status"], counts(&partial)),
        (&json!("partial"), vec![("done".into(), 1), ("failed".into(), 1), ("total".into(), 2)])
    );
    let broken = item(&partial, "broken");
    assert!(broken["error"]["code"].is_string() && broken["error"]["message"].is_string(), "{broken}");
    let id = partial["bulk_id"].as_str().unwrap();
    let again = app.bulk_again(id, "retry").await;
    assert_eq!(counts(&again), [("done".into(), 1), ("failed".into(), 1), ("total".into(), 2)], "only what failed is tried again");
    assert_eq!(item(&again, "one")["finished_at"], item(&partial, "one")["finished_at"]);

    let atomic = app.bulk(&app.token, &json!({ "action": "start", "server_ids": ["two", "broken"], "atomic": true })).await;
    assert_eq!(atomic["status"], "rolled_back", "{atomic}");
    assert_eq!((&item(&atomic, "two")["status"], &item(&atomic, "broken")["status"]), (&json!("rolled_back"), &json!("failed")));
    assert_ne!(app.is_enabled("two").await, Some(true), "it was not wanted before");
    assert_eq!(app.is_enabled("one").await, Some(true), "what is no part of it stays");

    let whole = app.bulk(&app.token, &json!({ "action": "disable", "server_ids": ["one"] })).await;
    let id = whole["bulk_id"].as_str().unwrap();
    app.op_post(&format!("/api/mcp/bulk/{id}/retry")).await.expect_problem(409, "nothing_to_retry");
    app.op_post(&format!("/api/mcp/bulk/{id}/cancel")).await.expect_problem(409, "bulk_finished");
    // Somebody means something else by now.
    app.op_post_json("/api/mcp/users/me/servers", &json!({ "server_id": "one", "enabled": true })).await.expect(200);
    app.op_post_json("/api/mcp/users/me/servers", &json!({ "server_id": "one", "enabled": false })).await.expect(200);
    let back = app.bulk_again(id, "rollback").await;
    assert_eq!(item(&back, "one")["status"], "rolled_back", "it is as it was left");
    app.op_post(&format!("/api/mcp/bulk/{id}/rollback")).await.expect_problem(409, "nothing_to_roll_back");
    let whole = app.bulk(&app.token, &json!({ "action": "delete", "server_ids": ["one"] })).await;
    let id = whole["bulk_id"].as_str().unwrap();
    app.op_post_json("/api/mcp/users/me/servers", &json!({ "server_id": "one", "enabled": false })).await.expect(200);
    assert_eq!(item(&app.bulk_again(id, "rollback").await, "one")["status"], "kept");
    let restarted = app.bulk(&app.token, &json!({ "action": "restart", "server_ids": ["one"] })).await;
    assert_eq!(
        (&restarted["status"], &restarted["items"][0]["error"]["code"]),
        (&json!("failed"), &json!("illegal_transition")),
        "{restarted}"
    );
    let id = restarted["bulk_id"].as_str().unwrap();
    app.op_post(&format!("/api/mcp/bulk/{id}/rollback")).await.expect_problem(400, "not_reversible");
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_operation_keeps_what_is_done_and_can_go_on() {
    let gateway = with_servers(&SIX, &[("FABRIC_BULK_AT_ONCE", "1"), ("FABRIC_BULK_PER_SECOND", "1")]).await;
    let app = &gateway.app;
    let begun = app.op_post_json("/api/mcp/bulk", &json!({ "action": "enable", "server_ids": SIX })).await.expect(202);
    let id = begun["bulk_id"].as_str().unwrap();
    app.op_post(&format!("/api/mcp/bulk/{id}/retry")).await.expect_problem(409, "bulk_unfinished");
    app.op_post(&format!("/api/mcp/bulk/{id}/rollback")).await.expect_problem(409, "bulk_unfinished");
    let first = || async { (app.bulk_now(&app.token, id).await["counts"]["done"] == 1).then_some(()) };
    eventually(20, "the first is done", first).await;
    app.op_post(&format!("/api/mcp/bulk/{id}/cancel")).await.expect(202);
    let ended = app.bulk_end(&app.token, id).await;
    assert_eq!(ended["status"], "cancelled", "{ended}");
    let (done, cancelled) = (ended["counts"]["done"].as_i64().unwrap(), ended["counts"]["cancelled"].as_i64().unwrap());
    assert!(done >= 1 && cancelled >= 1 && done + cancelled == 6, "{ended}");
    assert_eq!(app.trail("&action=bulk.cancel").await.len(), 1);
    assert_eq!(app.is_enabled("one").await, Some(true));
    assert_eq!(app.is_enabled("six").await, None);
    let whole = app.bulk_again(id, "retry").await;
    assert_eq!((&whole["status"], &whole["counts"]["done"]), (&json!("complete"), &json!(6)));
    assert_eq!(app.trail("&action=bulk.retry").await.len(), 1);
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_at_any_point_loses_and_doubles_nothing() {
    let mut gateway = with_servers(&SIX, &[("FABRIC_BULK_PER_SECOND", "2"), ("FABRIC_BULK_AT_ONCE", "2")]).await;
    let app = &mut gateway.app;
    let begun = app.op_post_json("/api/mcp/bulk", &json!({ "action": "enable", "server_ids": SIX })).await.expect(202);
    let id = begun["bulk_id"].as_str().unwrap().to_owned();
    // Each life of the fabric does a part of it.
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        app.restart().await;
    }
    let ended = app.bulk_end(&app.token, &id).await;
    assert_eq!((&ended["status"], counts(&ended)), (&json!("complete"), vec![("done".into(), 6), ("total".into(), 6)]), "{ended}");
    for name in SIX {
        let own = app.op_get(&format!("/api/mcp/users/me/servers/{name}")).await.expect(200);
        assert_eq!((&own["enabled"], &own["revision"]), (&json!(true), &json!(1)), "{name} was enabled once");
    }
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_has_the_rights_that_whoever_asked_has_by_then() {
    let mut gateway = three(&[("FABRIC_BULK_UNFINISHED", "2")]).await;
    gateway.app.set("FABRIC_JOB_WORKERS", "0");
    gateway.app.restart().await;
    let app = &gateway.app;
    app.person("root@example.com", "admin").await;
    let (ada, bob) = (app.person("ada@example.com", "member").await, app.person("bob@example.com", "member").await);
    let order = json!({ "action": "enable", "server_ids": ["one"] });
    let ask = async |token: &str| app.call(Method::POST, "/api/mcp/bulk", token, &order).await;
    let of_ada = ask(&ada.access).await.expect(202)["bulk_id"].as_str().unwrap().to_owned();
    let of_bob = ask(&bob.access).await.expect(202)["bulk_id"].as_str().unwrap().to_owned();
    ask(&bob.access).await.expect(202);
    ask(&bob.access).await.expect_problem(429, "too_many_bulk_operations");
    let path = format!("/api/mcp/bulk/{of_ada}");
    for method in [Method::GET, Method::POST] {
        let path = if method == Method::POST { format!("{path}/cancel") } else { path.clone() };
        app.call(method, &path, &bob.access, &json!({})).await.expect_problem(404, "not_found");
    }
    let listed = app.send(app.request(Method::GET, "/api/mcp/bulk").bearer_auth(&ada.access)).await.expect(200);
    assert_eq!(listed["operations"].as_array().unwrap().len(), 1);
    let auditor = json!({ "role": "auditor" });
    app.call(Method::PUT, &format!("/api/mcp/users/{}", bob.id), &app.token, &auditor).await.expect(200);
    gateway.app.set("FABRIC_JOB_WORKERS", "4");
    gateway.app.restart().await;
    let app = &gateway.app;
    let ada = app.log_in(&ada.email).await;
    assert_eq!(app.bulk_end(&ada.access, &of_ada).await["status"], "complete");
    let bob = app.log_in(&bob.email).await;
    let refused = app.bulk_end(&bob.access, &of_bob).await;
    assert_eq!((&refused["status"], &refused["items"][0]["error"]["code"]), (&json!("failed"), &json!("forbidden")), "{refused}");
    gateway.app.stop().await;
}

/// With one worker, which an operation that waits for others must not take.
#[tokio::test(flavor = "multi_thread")]
async fn packages_are_cached_installed_and_uninstalled_together() {
    let (app, _packages) = installable(&[("FABRIC_JOB_WORKERS", "1")]).await;
    let cached = app.bulk(&app.token, &json!({ "action": "cache", "filter": { "registry_type": "npm", "origin": "upstream" } })).await;
    assert_eq!(cached["status"], "complete", "{cached}");
    let ids = ["a.x/one", "a.x/two", "a.x/three"];
    let installed = app.bulk(&app.token, &json!({ "action": "install", "server_ids": ids, "atomic": true })).await;
    assert_eq!(counts(&installed), [("done".into(), 3), ("total".into(), 3)], "{installed}");
    assert_eq!(item(&installed, "a.x/two")["result"]["version"], "1.0.0");
    let id = installed["bulk_id"].as_str().unwrap();
    // Somebody else wants one of them by now.
    app.person("root@example.com", "admin").await;
    let bob = app.person("bob@example.com", "member").await;
    let want = json!({ "server_id": "a.x/two", "enabled": true });
    app.call(Method::POST, "/api/mcp/users/me/servers", &bob.access, &want).await.expect(201);
    let back = app.bulk_again(id, "rollback").await;
    assert_eq!((&item(&back, "a.x/one")["status"], &item(&back, "a.x/two")["status"]), (&json!("rolled_back"), &json!("kept")), "{back}");
    app.op_get("/api/mcp/packages/by-id/a.x%2Fone").await.expect_problem(404, "not_installed");
    app.op_get("/api/mcp/packages/by-id/a.x%2Ftwo").await.expect(200);
    // Its job is put back by itself: the operation has ended, and nothing is done again.
    let job = back["job_id"].as_str().unwrap();
    app.op_post(&format!("/api/mcp/jobs/{job}/retry")).await;
    assert_eq!(app.bulk_now(&app.token, id).await["finished_at"], back["finished_at"]);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_taken_away_end_what_is_left() {
    let gateway = with_servers(&SIX, &[("FABRIC_BULK_AT_ONCE", "1"), ("FABRIC_BULK_PER_SECOND", "1")]).await;
    let app = &gateway.app;
    app.person("root@example.com", "admin").await;
    let ada = app.person("ada@example.com", "member").await;
    let token = async |servers: Value| {
        let body = json!({ "name": "narrow", "scopes": ["catalogue:read", "configurations:write", "runtime:write"], "servers": servers });
        app.call(Method::POST, "/api/mcp/tokens", &ada.access, &body).await.expect(201)
    };
    let (wide, narrow) = (token(json!(SIX)).await, token(json!(["one"])).await);
    let order = json!({ "action": "enable", "server_ids": SIX });
    let begun = app.call(Method::POST, "/api/mcp/bulk", wide["token"].as_str().unwrap(), &order).await.expect(202);
    let id = begun["bulk_id"].as_str().unwrap();
    eventually(20, "the first is done", || async { (app.bulk_now(&ada.access, id).await["counts"]["done"] == 1).then_some(()) }).await;
    let revoke = format!("/api/mcp/tokens/{}", wide["id"].as_str().unwrap());
    assert_eq!(app.call(Method::DELETE, &revoke, &ada.access, &json!({})).await.status, 204);
    let ended = app.bulk_end(&ada.access, id).await;
    assert_eq!((&ended["status"], &item(&ended, "six")["error"]["code"]), (&json!("partial"), &json!("asker_gone")), "{ended}");
    // What a token is not for is not there for it, whoever began it.
    let narrow = narrow["token"].as_str().unwrap();
    app.send(app.request(Method::GET, &format!("/api/mcp/bulk/{id}")).bearer_auth(narrow)).await.expect_problem(404, "not_found");
    app.call(Method::POST, &format!("/api/mcp/bulk/{id}/rollback"), narrow, &json!({})).await.expect_problem(404, "not_found");
    let listed = app.send(app.request(Method::GET, "/api/mcp/bulk").bearer_auth(narrow)).await.expect(200);
    assert_eq!(listed["operations"], json!([]));
    app.call(Method::POST, "/api/mcp/bulk", narrow, &order).await.expect_problem(400, "invalid_field");
    // Whoever logs in goes on with rights of their own.
    app.call(Method::POST, &format!("/api/mcp/bulk/{id}/retry"), &ada.access, &json!({})).await.expect(202);
    assert_eq!(app.bulk_end(&ada.access, id).await["status"], "complete");
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_go_on_after_a_restart_of_the_fabric() {
    let mut gateway = with_servers(&SIX[..4], &[("FABRIC_BULK_AT_ONCE", "1"), ("FABRIC_BULK_PER_SECOND", "1")]).await;
    let app = &mut gateway.app;
    let started = app.bulk(&app.token, &json!({ "action": "start", "server_ids": SIX[..4] })).await;
    assert_eq!(started["status"], "complete", "{started}");
    let begun = app.op_post_json("/api/mcp/bulk", &json!({ "action": "restart", "server_ids": SIX[..4] })).await.expect(202);
    let id = begun["bulk_id"].as_str().unwrap().to_owned();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    app.restart().await;
    let ended = app.bulk_end(&app.token, &id).await;
    assert_eq!(counts(&ended), [("done".into(), 4), ("total".into(), 4)], "{ended}");
    gateway.app.stop().await;
}
