//! What breaks between clients and servers, and what it costs.

use std::time::Duration;

use serde_json::json;

use super::Gateway;
use crate::support::{Events, Mcp, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_ends_its_calls_and_comes_back() {
    let gateway = Gateway::with(&[]).await;
    let running = gateway.run("dual", &json!({})).await;
    let url = gateway.endpoint("dual");
    for revision in ["2025-11-25", "2026-07-28"] {
        let client = Mcp::connect(&url, &gateway.app.token, revision).await;
        let sleeping = client.clone();
        let slow = tokio::spawn(async move { sleeping.tool("sleep", json!({ "ms": 20_000 })).await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        let crashed = client.tool("crash", json!({})).await;
        assert_eq!(crashed.code(), -32000, "{crashed:?}");
        let slow = tokio::time::timeout(Duration::from_secs(5), slow).await.unwrap().unwrap();
        assert!(slow.response["error"]["message"].as_str().unwrap().contains("ended before it answered"), "{slow:?}");
        // The session goes on: a call waits for the server that comes back.
        let back = eventually(15, "it answers again", || async {
            let came = client.tool("echo", json!({ "message": "back" })).await;
            came.response.get("result").is_some().then_some(came)
        })
        .await;
        assert_eq!(back.text(), "Echo: back");
    }
    assert_ne!(gateway.app.instance(&running["id"]).await["pid"], running["pid"]);
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_and_giants_are_limited() {
    let gateway = Gateway::with(&[("FABRIC_MCP_RESULT_MB", "1"), ("FABRIC_CALL_SECONDS", "4")]).await;
    gateway.run("old", &json!({ "FIXTURE_ERA": "legacy" })).await;
    let client = Mcp::connect(&gateway.endpoint("old"), &gateway.app.token, "2025-11-25").await;
    // A client that reads gets what fits; the answer comes in any case.
    let came = client.tool("flood", json!({ "count": 20_000 })).await;
    assert_eq!(came.text(), "Sent 20000 messages");
    assert!(came.count("notifications/message") <= 20_000);
    assert_eq!(client.tool("big", json!({ "bytes": 900_000 })).await.text().len(), 900_000);
    let giant = client.tool("big", json!({ "bytes": 2_000_000 })).await;
    assert!(giant.response["error"]["message"].as_str().unwrap().contains("FABRIC_MCP_RESULT_MB"), "{}", giant.code());
    // A line that is longer than is kept has no answer, and nobody waits for ever.
    let endless = client.tool("big", json!({ "bytes": 17_000_000 })).await;
    assert_eq!(endless.code(), -32001);
    assert_eq!(client.tool("echo", json!({ "message": "on" })).await.text(), "Echo: on");
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_in_the_middle_leaves_nothing() {
    let gateway = Gateway::with(&[]).await;
    gateway.run("dual", &json!({})).await;
    for revision in ["2025-11-25", "2026-07-28"] {
        let client = Mcp::connect(&gateway.endpoint("dual"), &gateway.app.token, revision).await;
        for _ in 0..50 {
            let params = json!({ "name": "test_tool_with_progress", "arguments": {}, "_meta": { "progressToken": 1 } });
            let mut events = Events::of(client.post(&client.message("tools/call", params)).send().await.unwrap());
            events.next().await.unwrap();
        }
        assert_eq!(client.tool("echo", json!({ "message": "on" })).await.text(), "Echo: on");
    }
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_do_not_read_cost_nobody_else_anything() {
    let most = [("FABRIC_MCP_MAX_SESSIONS_PER_USER", "1100"), ("FABRIC_MCP_MAX_SESSIONS", "1100"), ("FABRIC_MAX_CONNECTIONS", "4096")];
    let gateway = Gateway::with(&[&most[..], &[("FABRIC_RATE_LIMIT", "0")]].concat()).await;
    gateway.run("dual", &json!({})).await;
    let client = Mcp::connect(&gateway.endpoint("dual"), &gateway.app.token, "2025-11-25").await;
    let mut held = Vec::new();
    for _ in 0..1000 {
        let session = Mcp::connect(&gateway.endpoint("dual"), &gateway.app.token, "2025-11-25").await;
        held.push(session.listen(None).await);
    }
    for _ in 0..200 {
        client.tool("test_trigger_resource_change", json!({})).await.result();
    }
    for _ in 0..100 {
        client.tool("test_trigger_tool_change", json!({})).await.result();
    }
    assert_eq!(client.tool("echo", json!({ "message": "on" })).await.text(), "Echo: on");
    // Those who come to read find what is newest.
    held[7].of_method("notifications/tools/list_changed").await;
    gateway.app.stop().await;
}
