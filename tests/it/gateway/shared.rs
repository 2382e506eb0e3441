//! `/mcp`: what several servers offer, at one endpoint; who may use which; what one that is sick costs the others.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::Gateway;
use crate::support::{Mcp, eventually};

fn signal(pid: &Value, signal: &str) {
    let done = std::process::Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
    assert!(done.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_offered_under_names_that_say_whose_it_is() {
    let gateway = Gateway::with(&[]).await;
    gateway.run("alpha", &json!({ "FIXTURE_ERA": "legacy" })).await;
    gateway.run("beta", &json!({ "FIXTURE_ERA": "modern" })).await;
    let url = format!("{}/mcp", gateway.app.url);
    for revision in ["2025-03-26", "2025-11-25", "2026-07-28"] {
        let client = Mcp::connect(&url, &gateway.app.token, revision).await;
        let tools = client.names("tools/list").await;
        assert!(tools.contains(&"alpha__echo".to_owned()) && tools.contains(&"beta__echo".to_owned()), "{tools:?}");
        assert!(tools.iter().all(|name| name.len() <= 64 && name.contains("__")));
        assert_eq!(client.tool("beta__echo", json!({ "message": "b" })).await.text(), "Echo: b");
        let (one, two) = (client.tool("alpha__pid", json!({})).await, client.tool("beta__pid", json!({})).await);
        assert_ne!(one.text(), two.text());
        assert!(client.names("prompts/list").await.contains(&"alpha__test_simple_prompt".to_owned()));
        let prompt = json!({ "name": "beta__test_prompt_with_arguments", "arguments": { "arg1": "one", "arg2": "two" } });
        assert!(client.request("prompts/get", prompt).await.result()["messages"].is_array());
        // Resources keep their addresses; each is listed once.
        let resources = client.request("resources/list", json!({})).await;
        let uris: Vec<&Value> = resources.result()["resources"].as_array().unwrap().iter().map(|one| &one["uri"]).collect();
        assert_eq!(uris.iter().filter(|uri| **uri == "test://static-text").count(), 1);
        assert!(client.request("resources/read", json!({ "uri": "test://template/7/data" })).await.result()["contents"].is_array());
        let missing = client.request("resources/read", json!({ "uri": "test://nowhere" })).await;
        assert_eq!(missing.code(), if client.is_modern() { -32602 } else { -32002 });
        for (prefix, name) in [("ref/prompt", "alpha__test_prompt_with_arguments")] {
            let params = json!({ "ref": { "type": prefix, "name": name }, "argument": { "name": "arg1", "value": "" } });
            assert!(client.request("completion/complete", params).await.result()["completion"].is_object());
        }
        for unknown in ["echo", "gamma__echo", "alpha__no_such", ""] {
            assert_eq!(client.tool(unknown, json!({})).await.code(), -32602, "{unknown}");
        }
        assert_eq!(client.request("tools/list", json!({ "cursor": "2" })).await.code(), -32602);
    }
    // The trail tells names and sizes, and no contents.
    let told = eventually(5, "it is in the trail", || async {
        let events = gateway.app.op_get("/api/mcp/audit?action=tool.call&server_id=beta&limit=1").await.expect(200);
        events["events"].as_array().unwrap().first().cloned()
    })
    .await;
    assert_eq!(told["outcome"], "success");
    assert!(told["detail"]["bytes_in"].as_u64().unwrap() > 0 && told["detail"]["name"].is_string(), "{told}");
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_or_dies_costs_only_itself() {
    let gateway = Gateway::with(&[("FABRIC_CALL_SECONDS", "1")]).await;
    let sick = gateway.run("sick", &json!({ "FIXTURE_ERA": "legacy" })).await;
    gateway.run("well", &json!({ "FIXTURE_ERA": "legacy" })).await;
    signal(&sick["pid"], "-STOP");
    let client = Mcp::connect(&format!("{}/mcp", gateway.app.url), &gateway.app.token, "2025-11-25").await;
    let began = Instant::now();
    let listed = client.request("tools/list", json!({})).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    let names: Vec<&str> = listed.result()["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"well__echo") && !names.iter().any(|name| name.starts_with("sick__")), "{names:?}");
    let why = listed.result()["_meta"]["mcp-fabric/unavailable"]["sick"].as_str().unwrap();
    assert!(why.contains("did not list its tools within 1 s"), "{why}");
    // From then on nobody waits for it.
    let began = Instant::now();
    client.request("tools/list", json!({})).await.result();
    assert!(began.elapsed() < Duration::from_millis(800));
    // Calls of it end in their time, and after some of them at once.
    for _ in 0..3 {
        assert_eq!(client.tool("sick__echo", json!({ "message": "x" })).await.code(), -32001);
    }
    let began = Instant::now();
    let closed = client.tool("sick__echo", json!({ "message": "x" })).await;
    assert!(closed.response["error"]["message"].as_str().unwrap().contains("did not answer 3 times in a row"), "{closed:?}");
    assert!(began.elapsed() < Duration::from_millis(800));
    assert_eq!(client.tool("well__echo", json!({ "message": "x" })).await.text(), "Echo: x");
    // It comes back by itself, and whoever listens hears of it.
    let mut events = client.listen(None).await;
    signal(&sick["pid"], "-KILL");
    events.of_method("notifications/tools/list_changed").await;
    let names = eventually(15, "it is back", || async {
        let names = client.names("tools/list").await;
        names.contains(&"sick__echo".to_owned()).then_some(names)
    })
    .await;
    assert!(names.contains(&"well__echo".to_owned()));
    assert_eq!(client.tool("sick__echo", json!({ "message": "back" })).await.text(), "Echo: back");
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sees_what_is_somebody_elses() {
    let gateway = Gateway::with(&[]).await;
    let app = &gateway.app;
    gateway.install("mine", &json!({})).await;
    gateway.install("yours", &json!({})).await;
    app.person("root@example.org", "admin").await;
    let (ada, bob) = (app.person("ada@example.org", "member").await, app.person("bob@example.org", "member").await);
    for (person, server) in [(&ada, "mine"), (&bob, "yours")] {
        let wanted = json!({ "server_id": server, "enabled": true });
        app.call(Method::POST, "/api/mcp/users/me/servers", &person.access, &wanted).await.expect(201);
        app.instance_in(&person.access, server, "RUNNING").await;
    }
    let url = format!("{}/mcp", app.url);
    let (of_ada, of_bob) = (Mcp::connect(&url, &ada.access, "2025-11-25").await, Mcp::connect(&url, &bob.access, "2025-11-25").await);
    let all = |names: &[String], prefix: &str| !names.is_empty() && names.iter().all(|name| name.starts_with(prefix));
    assert!(all(&of_ada.names("tools/list").await, "mine__") && all(&of_bob.names("tools/list").await, "yours__"));
    assert_eq!(of_bob.tool("mine__echo", json!({ "message": "x" })).await.code(), -32602, "as one that is not there");
    // A change of the one is nothing that the other hears of.
    let mut events = of_bob.listen(None).await;
    of_ada.tool("mine__test_trigger_tool_change", json!({})).await.result();
    of_bob.tool("yours__test_trigger_tool_change", json!({})).await.result();
    events.of_method("notifications/tools/list_changed").await;
    let more = tokio::time::timeout(Duration::from_millis(500), events.next()).await;
    assert!(more.is_err(), "{more:?}");
    // What one is asked, the other cannot answer.
    let message = of_ada.message("tools/call", json!({ "name": "mine__test_elicitation", "arguments": { "message": "?" } }));
    let mut asked = crate::support::Events::of(of_ada.post(&message).send().await.unwrap());
    let question = asked.of_method("elicitation/create").await;
    let answer = |action: &str| json!({ "jsonrpc": "2.0", "id": question["id"], "result": { "action": action } });
    assert_eq!(of_bob.post(&answer("accept")).send().await.unwrap().status(), 202);
    assert_eq!(of_ada.post(&answer("cancel")).send().await.unwrap().status(), 202);
    let (_, came) = asked.next().await.unwrap();
    assert!(came["result"]["content"][0]["text"].as_str().unwrap().contains("action=cancel"), "{came}");
    // A token for one server is for no other.
    let body = json!({ "name": "narrow", "scopes": ["mcp:call"], "servers": ["yours"] });
    let narrow = app.call(Method::POST, "/api/mcp/tokens", &ada.access, &body).await.expect(201)["token"].as_str().unwrap().to_owned();
    let client = Mcp::connect(&url, &narrow, "2025-11-25").await;
    assert!(client.names("tools/list").await.is_empty());
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shared_is_used_by_all_and_asks_nobody() {
    let gateway = Gateway::with(&[]).await;
    let app = &gateway.app;
    gateway.install("common", &json!({})).await;
    let wanted = json!({ "server_id": "common", "enabled": true, "sharing": "shared" });
    app.op_post_json("/api/mcp/users/me/servers", &wanted).await.expect(201);
    app.instance_in(&app.token, "common", "RUNNING").await;
    app.person("root@example.org", "admin").await;
    let (ada, bob) = (app.person("ada@example.org", "member").await, app.person("bob@example.org", "member").await);
    let url = gateway.endpoint("common");
    let (of_ada, of_bob) = (Mcp::connect(&url, &ada.access, "2025-11-25").await, Mcp::connect(&url, &bob.access, "2025-11-25").await);
    assert_eq!(of_ada.tool("pid", json!({})).await.text(), of_bob.tool("pid", json!({})).await.text());
    let came = of_ada.tool("test_elicitation", json!({ "message": "?" })).await;
    assert!(came.said.is_empty() && (came.response.get("error").is_some() || came.result()["isError"] == true), "{came:?}");
    // Progress is whose token it has.
    let call = |client: Mcp, token: &'static str| async move {
        let params = json!({ "name": "test_tool_with_progress", "arguments": {}, "_meta": { "progressToken": token } });
        client.request("tools/call", params).await
    };
    let (one, two) = tokio::join!(call(of_ada.clone(), "same"), call(of_bob.clone(), "same"));
    assert_eq!((one.count("notifications/progress"), two.count("notifications/progress")), (3, 3));
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trail_has_arguments_only_where_that_is_wanted_and_never_secrets() {
    for (wanted, is_told) in [("false", false), ("true", true)] {
        let gateway = Gateway::with(&[("FABRIC_AUDIT_ARGUMENTS", wanted)]).await;
        gateway.run("alpha", &json!({ "FIXTURE_ERA": "legacy" })).await;
        let client = Mcp::connect(&gateway.endpoint("alpha"), &gateway.app.token, "2025-11-25").await;
        client.tool("echo", json!({ "message": "plain words", "api_key": "hunter2", "more": { "note": "Bearer hunter2" } })).await;
        let told = eventually(5, "it is in the trail", || async {
            let events = gateway.app.op_get("/api/mcp/audit?action=tool.call&server_id=alpha&limit=1").await.expect(200);
            events["events"].as_array().unwrap().first().cloned()
        })
        .await;
        let text = told.to_string();
        assert_eq!(text.contains("plain words"), is_told, "{text}");
        assert_eq!(text.contains("[secret]"), is_told, "{text}");
        assert!(!text.contains("hunter2"), "{text}");
        gateway.app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shared_later_is_told_to_all_who_may_use_it() {
    let gateway = Gateway::with(&[]).await;
    let app = &gateway.app;
    gateway.install("common", &json!({})).await;
    let want = async |sharing: &str| {
        let wanted = json!({ "server_id": "common", "enabled": true, "sharing": sharing });
        app.op_post_json("/api/mcp/users/me/servers", &wanted).await
    };
    want("per_user").await.expect(201);
    app.instance_in(&app.token, "common", "RUNNING").await;
    let own = Mcp::connect(&gateway.endpoint("common"), &app.token, "2025-11-25").await;
    own.tool("echo", json!({ "message": "x" })).await.result();
    want("shared").await.expect(200);
    app.person("root@example.org", "admin").await;
    let ada = app.person("ada@example.org", "member").await;
    let client = Mcp::connect(&format!("{}/mcp", app.url), &ada.access, "2025-11-25").await;
    eventually(10, "it is shared", || async { client.names("tools/list").await.contains(&"common__echo".to_owned()).then_some(()) }).await;
    let mut events = client.listen(None).await;
    let running = app.instance_in(&app.token, "common", "RUNNING").await;
    signal(&running["pid"], "-KILL");
    events.of_method("notifications/tools/list_changed").await;
    gateway.app.stop().await;
}
