//! Whose instances are whose, and how many there may be.

use reqwest::Method;
use serde_json::{Value, json};

use super::with;
use crate::support::TestApp;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn nobody_sees_the_instances_of_others() {
    let (app, _packages) = with(&[], &json!({})).await;
    let root = app.person("root@example.com", "admin").await;
    let ada = app.person("ada@example.com", "member").await;
    let bob = app.person("bob@example.com", "member").await;
    app.call(
        Method::POST,
        "/api/mcp/credentials",
        &ada.access,
        &json!({ "server_id": "subject", "env_var": "WHOSE", "value": "adas-own" }),
    )
    .await
    .expect(201);
    for person in [&ada, &bob] {
        app.call(Method::POST, "/api/mcp/servers/subject/start", &person.access, &Value::Null).await.expect(202);
    }
    let of_ada = app.instance_in(&ada.access, "subject", "RUNNING").await;
    let of_bob = app.instance_in(&bob.access, "subject", "RUNNING").await;
    assert_ne!((&of_ada["id"], &of_ada["pid"]), (&of_bob["id"], &of_bob["pid"]), "each has a process of their own");
    let env = async |instance: &Value, token: &str| {
        let path = format!("/api/mcp/instances/{}/tools/env/call", instance["id"].as_str().unwrap());
        app.call(Method::POST, &path, token, &json!({})).await.expect(200)["content"][0]["text"].as_str().unwrap().to_owned()
    };
    assert!(env(&of_ada, &ada.access).await.contains("adas-own"));
    assert!(!env(&of_bob, &bob.access).await.contains("adas-own"));
    let id = of_ada["id"].as_str().unwrap();
    for (method, path) in [
        (Method::GET, format!("/api/mcp/instances/{id}")),
        (Method::GET, format!("/api/mcp/instances/{id}/logs")),
        (Method::GET, format!("/api/mcp/instances/{id}/tools")),
        (Method::POST, format!("/api/mcp/instances/{id}/tools/echo/call")),
        (Method::DELETE, format!("/api/mcp/instances/{id}")),
    ] {
        app.call(method, &path, &bob.access, &Value::Null).await.expect_problem(404, "instance_not_found");
    }
    let count = async |token: &str| {
        app.call(Method::GET, "/api/mcp/instances", token, &Value::Null).await.expect(200)["instances"].as_array().unwrap().len()
    };
    assert_eq!((count(&bob.access).await, count(&root.access).await), (1, 2));
    // An administrator sees that it runs, and cannot work with what it was given in confidence.
    app.call(Method::GET, &format!("/api/mcp/instances/{id}"), &root.access, &Value::Null).await.expect(200);
    let path = format!("/api/mcp/instances/{id}/tools/env/call");
    let refused = app.call(Method::POST, &path, &root.access, &json!({})).await.expect_problem(403, "forbidden");
    assert!(!refused.to_string().contains("adas-own"), "{refused}");
    // Whoever leaves takes the process along.
    let gone = app.call(Method::DELETE, "/api/mcp/users/me", &ada.access, &json!({ "password": crate::support::PASSWORD })).await;
    assert_eq!(gone.status, 204, "{}", gone.text());
    crate::support::eventually(20, "it ends", || async { (!super::is_alive(&of_ada["pid"].to_string())).then_some(()) }).await;
    assert!(super::is_alive(&of_bob["pid"].to_string()));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn what_is_shared_is_used_by_everybody_and_kept_by_its_owner() {
    let (app, _packages) = with(&[], &json!({})).await;
    let root = app.person("root@example.com", "admin").await;
    let ada = app.person("ada@example.com", "member").await;
    let share = async |token: &str, sharing: &str| {
        let wanted = json!({ "server_id": "subject", "enabled": true, "sharing": sharing });
        app.call(Method::POST, "/api/mcp/users/me/servers", token, &wanted).await
    };
    share(&ada.access, "shared").await.expect_problem(403, "forbidden");
    share(&root.access, "shared").await.expect(201);
    let shared = app.instance_in(&root.access, "subject", "RUNNING").await;
    let path = format!("/api/mcp/instances/{}", shared["id"].as_str().unwrap());
    let as_ada = async |method: Method, rest: &str| app.call(method, &format!("{path}{rest}"), &ada.access, &json!({})).await;
    let listed = app.call(Method::GET, "/api/mcp/instances", &ada.access, &Value::Null).await.expect(200);
    assert_eq!((&listed["instances"][0]["id"], listed["instances"].as_array().unwrap().len()), (&shared["id"], 1));
    assert_eq!(as_ada(Method::GET, "").await.expect(200)["state"], "RUNNING");
    assert!(!as_ada(Method::GET, "/tools").await.expect(200)["tools"].as_array().unwrap().is_empty());
    let called =
        app.call(Method::POST, &format!("{path}/tools/echo/call"), &ada.access, &json!({ "arguments": { "message": "hi" } })).await;
    assert_eq!(called.expect(200)["content"][0]["text"], "hi");
    // What others did with it, and whether it is there, stays its owner's.
    as_ada(Method::GET, "/logs").await.expect_problem(404, "instance_not_found");
    as_ada(Method::DELETE, "").await.expect_problem(404, "instance_not_found");
    share(&root.access, "per_user").await.expect(200);
    for (method, rest) in [(Method::GET, ""), (Method::GET, "/tools"), (Method::POST, "/tools/echo/call")] {
        as_ada(method, rest).await.expect_problem(404, "instance_not_found");
    }
    let listed = app.call(Method::GET, "/api/mcp/instances", &ada.access, &Value::Null).await.expect(200);
    assert_eq!(listed["instances"], json!([]));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn each_session_has_its_own_where_that_is_wanted() {
    let (app, _packages) = with(&[("FABRIC_IDLE_SECONDS", "2"), ("FABRIC_PROBE_SECONDS", "1")], &json!({})).await;
    let start = async |session: &str| app.op_post(&format!("/api/mcp/servers/subject/start?session={session}")).await;
    start("a").await.expect_problem(400, "invalid_field");
    let wanted = json!({ "server_id": "subject", "enabled": true, "sharing": "per_session" });
    app.op_post_json("/api/mcp/users/me/servers", &wanted).await.expect(201);
    start("a%2Fb").await.expect_problem(400, "invalid_field");
    let running = async |id: &Value, state: &str| {
        crate::support::eventually(20, state, || async { Some(app.instance(id).await).filter(|now| now["state"] == state) }).await
    };
    let (a, b) = (start("a").await.expect(202), start("b").await.expect(202));
    let (a, b) = (running(&a["id"], "RUNNING").await, running(&b["id"], "RUNNING").await);
    assert_eq!((a["session"].as_str(), b["session"].as_str()), (Some("a"), Some("b")));
    assert_ne!(a["pid"], b["pid"]);
    assert_eq!(start("a").await.expect(202)["id"], a["id"]);
    assert_eq!(app.op_get("/api/mcp/instances").await.expect(200)["instances"].as_array().unwrap().len(), 2, "and none without a session");
    app.op_post("/api/mcp/servers/subject/stop?session=a").await.expect(202);
    assert_eq!(app.instance(&a["id"]).await["state"], "STOPPED");
    assert!(!super::is_alive(&a["pid"].to_string()) && super::is_alive(&b["pid"].to_string()));
    let idle = running(&b["id"], "STOPPED").await;
    assert_eq!(idle["reason"]["code"], "idle");
    app.op_post("/api/mcp/servers/subject/stop?session=none").await.expect_problem(409, "not_running");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn there_is_room_for_so_many_and_no_more() {
    let (app, _packages) = with(&[("FABRIC_MAX_INSTANCES_PER_USER", "1"), ("FABRIC_MAX_SERVERS_MEMORY_MB", "2000")], &json!({})).await;
    app.install(&json!({ "name": "@acme/subject", "serverName": "second", "enabled": false })).await;
    app.run_server("subject").await;
    app.op_post("/api/mcp/servers/second/start").await.expect_problem(409, "limit_reached");
    app.op_get("/api/mcp/users/me/servers/second").await.expect_problem(404, "not_found");
    // Somebody else has places of their own, and the machine has so much memory.
    app.person("root@example.com", "admin").await;
    let ada = app.person("ada@example.com", "member").await;
    let refused =
        app.call(Method::POST, "/api/mcp/servers/second/start", &ada.access, &Value::Null).await.expect_problem(409, "limit_reached");
    assert!(refused["detail"].as_str().unwrap().contains("FABRIC_MAX_SERVERS_MEMORY_MB"), "{refused}");
    // A wish that goes around the call meets the same limit.
    app.op_post_json("/api/mcp/users/me/servers", &json!({ "server_id": "second", "enabled": true })).await.expect(201);
    let failed = app.instance_in(&app.token, "second", "FAILED").await;
    assert_eq!(failed["reason"]["code"], "limit_reached");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_or_not_given_is_refused() {
    let app = TestApp::start().await;
    for id in ["00000000-0000-7000-8000-000000000000", "x", "..%2f..", "%00"] {
        let answer = app.op_get(&format!("/api/mcp/instances/{id}")).await;
        assert!([400, 404].contains(&answer.status), "{id}: {}", answer.text());
    }
    app.op_post("/api/mcp/servers/missing/start").await.expect_problem(404, "server_not_found");
    app.op_post("/api/mcp/servers/everything/stop").await.expect_problem(404, "not_found");
    app.op_post("/api/mcp/servers/everything/restart").await.expect_problem(404, "not_found");
    let refused = app.op_post("/api/mcp/servers/filesystem/start").await.expect_problem(422, "missing_inputs");
    assert_eq!(refused["missing"], json!(["allowed_directory"]));
    assert_eq!(refused["errors"][0]["location"], "values.allowed_directory");
    // What cannot be installed fails, is told why, and is not wanted any more.
    app.op_post("/api/mcp/servers/everything/start").await.expect(202);
    let failed = app.instance_in(&app.token, "everything", "FAILED").await;
    assert_eq!(failed["reason"]["code"], "upstream_unreachable", "{failed}");
    assert_eq!(app.op_get("/api/mcp/users/me/servers/everything").await.expect(200)["enabled"], false);
    app.stop().await;
}
