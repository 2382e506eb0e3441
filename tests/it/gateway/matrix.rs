//! Every revision that clients speak, before every era that servers speak: what passes, passes in both directions.

use serde_json::{Value, json};

use super::Gateway;
use crate::support::{Events, Mcp};

const REVISIONS: [&str; 4] = ["2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"];

/// What has to pass, whoever speaks with whom.
async fn everything(client: &Mcp, label: &str) {
    let tools = client.request("tools/list", json!({})).await;
    let echo = tools.result()["tools"].as_array().unwrap().iter().find(|tool| tool["name"] == "echo").unwrap().clone();
    assert!(echo["outputSchema"].is_object(), "{label}");
    if client.is_modern() {
        assert_eq!(tools.result()["resultType"], "complete", "{label}");
        assert!(tools.result()["ttlMs"].is_number() && tools.result()["cacheScope"].is_string(), "{label}: {}", tools.response);
    }
    let echoed = client.tool("echo", json!({ "message": "héllo\n" })).await;
    assert_eq!(echoed.text(), "Echo: héllo\n", "{label}");
    assert_eq!(echoed.result()["structuredContent"], json!({ "message": "héllo\n" }), "{label}");

    // Progress comes under the client's own token, and without one there is none.
    let params = json!({ "name": "test_tool_with_progress", "arguments": {}, "_meta": { "progressToken": "mine" } });
    let came = client.request("tools/call", params).await;
    assert_eq!(came.count("notifications/progress"), 3, "{label}: {came:?}");
    assert!(came.said.iter().all(|said| said["params"]["progressToken"] == "mine"), "{label}");
    assert_eq!(client.tool("test_tool_with_progress", json!({})).await.count("notifications/progress"), 0, "{label}");

    // What the server asks back.
    let came = client.tool("test_elicitation", json!({ "message": "who?" })).await;
    assert_eq!(came.count("elicitation/create"), 1, "{label}: {came:?}");
    assert!(came.text().contains("action=accept") && came.text().contains("ada@example.org"), "{label}: {}", came.text());
    assert!(client.tool("test_sampling", json!({ "prompt": "?" })).await.text().contains("Paris"), "{label}");
    assert!(client.tool("test_input_required_result_list_roots", json!({})).await.text().contains("file:///home/ada"), "{label}");
    let rounds = client.tool("test_input_required_result_multi_round", json!({})).await;
    assert!(rounds.text().contains("Ada") && rounds.text().contains("blue"), "{label}: {}", rounds.text());

    // Resources, prompts, completion.
    let read = client.request("resources/read", json!({ "uri": "test://static-text" })).await;
    assert!(read.result()["contents"][0]["text"].is_string(), "{label}");
    assert!(!client.names("resources/templates/list").await.is_empty(), "{label}");
    let prompt = json!({ "name": "test_prompt_with_arguments", "arguments": { "arg1": "one", "arg2": "two" } });
    assert!(client.request("prompts/get", prompt).await.result()["messages"].to_string().contains("one"), "{label}");
    let complete =
        json!({ "ref": { "type": "ref/prompt", "name": "test_prompt_with_arguments" }, "argument": { "name": "arg1", "value": "p" } });
    assert!(client.request("completion/complete", complete).await.result()["completion"]["values"].is_array(), "{label}");

    // The server's own refusals, as they are.
    assert_eq!(client.tool("no_such_tool", json!({})).await.code(), -32602, "{label}");
    let missing = client.request("no/such/method", json!({})).await;
    assert_eq!((missing.code(), missing.status), (-32601, if client.is_modern() { 404 } else { 200 }), "{label}");
}

/// Changes of resources, told to those who want to hear of them.
async fn subscribes(client: &Mcp, label: &str) {
    let watched = json!({ "uri": "test://watched-resource" });
    let mut events = if client.is_modern() {
        let wanted = json!({ "notifications": { "toolsListChanged": true, "resourceSubscriptions": ["test://watched-resource"] } });
        let message = client.message("subscriptions/listen", wanted);
        let mut events = Events::of(client.post(&message).send().await.unwrap());
        let acknowledged = events.of_method("notifications/subscriptions/acknowledged").await;
        assert_eq!(acknowledged["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], message["id"], "{label}");
        events
    } else {
        client.request("resources/subscribe", watched.clone()).await.result();
        client.listen(None).await
    };
    client.tool("test_trigger_resource_change", json!({})).await.result();
    assert_eq!(events.of_method("notifications/resources/updated").await["params"]["uri"], "test://watched-resource", "{label}");
    client.tool("test_trigger_tool_change", json!({})).await.result();
    events.of_method("notifications/tools/list_changed").await;
    client.tool("test_trigger_tool_change", json!({})).await.result();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_speaks_with_every_server() {
    let gateway = Gateway::with(&[]).await;
    for (server, env, era) in [
        ("dual", json!({}), "modern"),
        ("old", json!({ "FIXTURE_ERA": "legacy" }), "legacy"),
        ("new", json!({ "FIXTURE_ERA": "modern" }), "modern"),
    ] {
        assert_eq!(gateway.run(server, &env).await["era"], era);
        for revision in REVISIONS {
            let label = format!("{revision} before {server}");
            let client = Mcp::connect(&gateway.endpoint(server), &gateway.app.token, revision).await;
            everything(&client, &label).await;
            subscribes(&client, &label).await;
        }
    }
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_come_when_they_are_wanted_and_from_the_level_that_is() {
    let gateway = Gateway::with(&[]).await;
    for (server, era) in [("dual", ""), ("old", "legacy"), ("new", "modern")] {
        gateway.run(server, &json!({ "FIXTURE_ERA": era })).await;
        let old = Mcp::connect(&gateway.endpoint(server), &gateway.app.token, "2025-11-25").await;
        for (level, count) in [("debug", 3), ("error", 0), ("info", 3)] {
            old.request("logging/setLevel", json!({ "level": level })).await.result();
            let came = old.tool("test_tool_with_logging", json!({})).await;
            assert_eq!(came.count("notifications/message"), count, "{server} {level}: {came:?}");
        }
        assert_eq!(old.request("logging/setLevel", json!({ "level": "loud" })).await.code(), -32602);
        let new = Mcp::connect(&gateway.endpoint(server), &gateway.app.token, "2026-07-28").await;
        for (meta, count) in [(json!({}), 0), (json!({ "io.modelcontextprotocol/logLevel": "info" }), 3)] {
            let params = json!({ "name": "test_tool_with_logging", "arguments": {}, "_meta": meta });
            let came = new.request("tools/call", params).await;
            assert_eq!(came.count("notifications/message"), count, "{server} {meta}: {came:?}");
        }
    }
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_does_not_offer_is_not_asked_of_it() {
    let gateway = Gateway::with(&[]).await;
    for (server, era) in [("dual", ""), ("old", "legacy"), ("new", "modern")] {
        gateway.run(server, &json!({ "FIXTURE_ERA": era })).await;
        for revision in ["2025-11-25", "2026-07-28"] {
            let client = Mcp::connect_as(&gateway.endpoint(server), &gateway.app.token, revision, json!({})).await;
            let came = client.tool("test_elicitation", json!({ "message": "who?" })).await;
            let is_refused = came.response.get("error").is_some() || came.result()["isError"] == true;
            assert!(is_refused && came.said.is_empty(), "{revision} before {server}: {came:?}");
        }
    }
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cancelled_ends_at_the_server() {
    let gateway = Gateway::with(&[("FABRIC_CALL_SECONDS", "20")]).await;
    let running = gateway.run("dual", &json!({})).await;
    let url = gateway.endpoint("dual");
    let old = Mcp::connect(&url, &gateway.app.token, "2025-11-25").await;
    let message = old.message("tools/call", json!({ "name": "sleep", "arguments": { "ms": 15_000 } }));
    let asked = tokio::spawn(old.post(&message).send());
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    old.notify("notifications/cancelled", json!({ "requestId": message["id"], "reason": "changed my mind" })).await;
    let answered = tokio::time::timeout(std::time::Duration::from_secs(3), asked).await.unwrap().unwrap().unwrap();
    assert_eq!((answered.status().as_u16(), answered.text().await.unwrap()), (202, String::new()), "there is no answer");
    // A modern client closes its request.
    let new = Mcp::connect(&url, &gateway.app.token, "2026-07-28").await;
    let message = new.message("tools/call", json!({ "name": "sleep", "arguments": { "ms": 15_000 } }));
    assert!(tokio::time::timeout(std::time::Duration::from_millis(300), new.post(&message).send()).await.is_err());
    // Nothing of it keeps the server.
    assert_eq!(new.tool("echo", json!({ "message": "on" })).await.text(), "Echo: on");
    assert_eq!(old.tool("echo", json!({ "message": "on" })).await.text(), "Echo: on");
    let now: Value = gateway.app.instance(&running["id"]).await;
    assert_eq!(now["pid"], running["pid"]);
    gateway.app.stop().await;
}
