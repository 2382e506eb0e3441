//! Sessions of clients with a handshake: whose they are, how long they last, what of them is read again.

use reqwest::Method;
use serde_json::{Value, json};

use super::Gateway;
use crate::support::{Events, Mcp, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_off_is_read_on() {
    let gateway = Gateway::with(&[]).await;
    gateway.run("dual", &json!({})).await;
    let client = Mcp::connect(&gateway.endpoint("dual"), &gateway.app.token, "2025-11-25").await;
    let params = json!({ "name": "test_tool_with_progress", "arguments": {}, "_meta": { "progressToken": 1 } });
    let message = client.message("tools/call", params);
    let mut events = Events::of(client.post(&message).send().await.unwrap());
    assert_eq!(events.next().await.unwrap().1["params"]["progress"], 0.0);
    let last = events.last.clone().unwrap();
    drop(events);
    // The server works on; what comes meanwhile is kept.
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    let mut again = client.listen(Some(&last)).await;
    let mut rest = Vec::new();
    while let Some((_, message)) = again.next().await {
        rest.push(message);
    }
    assert_eq!(rest.iter().filter(|said| said["method"] == "notifications/progress").count(), 2, "{rest:?}");
    assert_eq!(rest.last().unwrap()["id"], message["id"]);
    for (rubbish, status) in [("x", 400), ("99-1", 404)] {
        let request = gateway.app.request(Method::GET, "/mcp/s/dual").bearer_auth(&gateway.app.token).header("accept", "text/event-stream");
        let request = request.header("mcp-session-id", client.session.as_deref().unwrap()).header("last-event-id", rubbish);
        assert_eq!(request.send().await.unwrap().status(), status, "{rubbish}");
    }
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_of_one_actor_at_one_place_until_it_ends() {
    let mut gateway = Gateway::with(&[]).await;
    gateway.run("dual", &json!({})).await;
    gateway.run("other", &json!({})).await;
    let client = Mcp::connect(&gateway.endpoint("dual"), &gateway.app.token, "2025-11-25").await;
    let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
    let is_gone = async |client: &Mcp| {
        let answer = client.post(&ping).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.unwrap()["error"]["code"].as_i64())
    };
    // Everybody may use what is shared, and yet not the session of another one.
    gateway.app.op_post_json("/api/mcp/users/me/servers", &json!({ "server_id": "dual", "sharing": "shared" })).await.expect(200);
    gateway.app.person("root@example.org", "admin").await;
    let member = gateway.app.person("ada@example.org", "member").await;
    let stranger = Mcp { token: member.access.clone(), ..client.clone() };
    eventually(10, "it is shared", || async { (is_gone(&stranger).await == (404, Some(-32001))).then_some(()) }).await;
    assert_eq!(is_gone(&Mcp { url: gateway.endpoint("other"), ..client.clone() }).await, (404, Some(-32001)));
    assert_eq!(is_gone(&Mcp { session: Some("0".repeat(64)), ..client.clone() }).await, (404, Some(-32001)));
    assert_eq!(client.once("ping", json!({})).await.result(), &json!({}));
    assert_eq!(client.close().await, 204);
    assert_eq!(is_gone(&client).await, (404, Some(-32001)));
    // A fabric that was started anew knows none: clients begin again.
    let client = Mcp::connect(&gateway.endpoint("other"), &gateway.app.token, "2025-06-18").await;
    gateway.app.restart().await;
    gateway.app.instance_in(&gateway.app.token, "other", "RUNNING").await;
    let client = Mcp { url: gateway.endpoint("other"), ..client };
    assert_eq!(is_gone(&client).await, (404, Some(-32001)));
    let again = Mcp::connect(&client.url, &gateway.app.token, "2025-06-18").await;
    assert_eq!(again.tool("echo", json!({ "message": "again" })).await.text(), "Echo: again");
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_nobody_uses_end() {
    let gateway = Gateway::with(&[("FABRIC_MCP_SESSION_SECONDS", "1"), ("FABRIC_MCP_MAX_SESSIONS_PER_USER", "3")]).await;
    gateway.run("dual", &json!({})).await;
    let url = gateway.endpoint("dual");
    // Whoever was idle longest makes room.
    let first = Mcp::connect(&url, &gateway.app.token, "2025-11-25").await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(Mcp::connect(&url, &gateway.app.token, "2025-11-25").await);
    }
    assert_eq!(first.once("ping", json!({})).await.status, 404);
    assert_eq!(others[0].once("ping", json!({})).await.status, 200);
    eventually(40, "they end", || async {
        let metrics = gateway.app.op_get("/metrics").await.text();
        metrics.contains("mcp_sessions 0").then_some(())
    })
    .await;
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_has_an_instance_of_its_own_where_that_is_wanted() {
    let gateway = Gateway::with(&[]).await;
    gateway.install("own", &json!({})).await;
    let wanted = json!({ "server_id": "own", "enabled": true, "sharing": "per_session" });
    gateway.app.op_post_json("/api/mcp/users/me/servers", &wanted).await.expect(201);
    let url = gateway.endpoint("own");
    let (one, two) =
        tokio::join!(Mcp::connect(&url, &gateway.app.token, "2025-11-25"), Mcp::connect(&url, &gateway.app.token, "2025-11-25"));
    let pid = async |client: &Mcp| client.tool("pid", json!({})).await.text().to_owned();
    let (first, second) = (pid(&one).await, pid(&two).await);
    assert!(first != second && pid(&one).await == first);
    // Both ask at once, and each is asked what is meant for it.
    let ask = |client: Mcp| async move { client.tool("test_elicitation", json!({ "message": "who?" })).await };
    let (a, b) = tokio::join!(ask(one.clone()), ask(two.clone()));
    assert_eq!((a.count("elicitation/create"), b.count("elicitation/create")), (1, 1));
    assert_eq!(one.close().await, 204);
    eventually(10, "its process ends with it", || async { (!crate::runtime::is_alive(&first)).then_some(()) }).await;
    assert_eq!(pid(&two).await, second);
    gateway.app.stop().await;
}
