//! Mistakes that a reader of the gateway found; each of these failed once.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::Gateway;
use crate::support::{Events, Mcp, eventually};

/// The newest event of a call of a tool.
async fn told(gateway: &Gateway, name: &str) -> Value {
    eventually(5, "the trail tells of it", || async {
        let events = gateway.app.op_get("/api/mcp/audit?action=tool.call&limit=50").await.expect(200);
        events["events"].as_array().unwrap().iter().find(|event| event["detail"]["name"] == name).cloned()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_its_client_takes_back_is_told_of() {
    let gateway = Gateway::with(&[]).await;
    gateway.run("dual", &json!({})).await;
    for revision in ["2025-11-25", "2026-07-28"] {
        let client = Mcp::connect(&gateway.endpoint("dual"), &gateway.app.token, revision).await;
        let message = client.message("tools/call", json!({ "name": "sleep", "arguments": { "ms": 15_000 } }));
        let asked = tokio::spawn(client.post(&message).send());
        tokio::time::sleep(Duration::from_millis(300)).await;
        if client.is_modern() {
            asked.abort();
        } else {
            client.notify("notifications/cancelled", json!({ "requestId": message["id"] })).await;
        }
        let event = told(&gateway, "sleep").await;
        assert_eq!((&event["outcome"], &event["detail"]["code"]), (&json!("failure"), &json!("cancelled")), "{revision}");
        gateway.app.op_get("/api/mcp/audit?action=tool.call&limit=50").await.expect(200);
    }
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_hears_the_thousandth_change_as_the_first() {
    let gateway = Gateway::with(&[]).await;
    gateway.run("old", &json!({ "FIXTURE_ERA": "legacy" })).await;
    let client = Mcp::connect(&gateway.endpoint("old"), &gateway.app.token, "2025-11-25").await;
    client.request("resources/subscribe", json!({ "uri": "test://watched-resource" })).await.result();
    let mut events = client.listen(None).await;
    for _ in 0..700 {
        client.tool("test_trigger_resource_change", json!({})).await.result();
        events.of_method("notifications/resources/updated").await;
    }
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_takes_all_places() {
    let gateway = Gateway::with(&[("FABRIC_CALL_SECONDS", "5")]).await;
    gateway.run("dual", &json!({})).await;
    let client = Mcp::connect(&gateway.endpoint("dual"), &gateway.app.token, "2025-03-26").await;
    let batch = |from: usize| -> Value {
        let call =
            |id| json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": "sleep", "arguments": { "ms": 2000 } } });
        (from..from + 90).map(call).collect()
    };
    let (one, two) = (batch(1000), batch(2000));
    let (one, two) = tokio::join!(client.post(&one).send(), client.post(&two).send());
    let answers: Vec<Value> = [one.unwrap().text().await.unwrap(), two.unwrap().text().await.unwrap()]
        .iter()
        .flat_map(|text| {
            let last = text.lines().rev().find_map(|line| line.strip_prefix("data: ")).unwrap_or(text).to_owned();
            serde_json::from_str::<Vec<Value>>(&last).unwrap()
        })
        .collect();
    let refused =
        answers.iter().filter(|answer| answer["error"]["message"].as_str().is_some_and(|text| text.contains("too many requests"))).count();
    assert_eq!((answers.len(), refused), (180, 180 - 128));
    assert_eq!(client.tool("echo", json!({ "message": "on" })).await.text(), "Echo: on");
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_the_right_to_it() {
    let gateway = Gateway::with(&[]).await;
    let app = &gateway.app;
    gateway.install("dual", &json!({})).await;
    app.person("root@example.org", "admin").await;
    let ada = app.person("ada@example.org", "member").await;
    app.call(Method::POST, "/api/mcp/users/me/servers", &ada.access, &json!({ "server_id": "dual", "enabled": true })).await.expect(201);
    app.instance_in(&ada.access, "dual", "RUNNING").await;
    let old = Mcp::connect(&gateway.endpoint("dual"), &ada.access, "2025-11-25").await;
    let new = Mcp::connect(&gateway.endpoint("dual"), &ada.access, "2026-07-28").await;
    let mut general = old.listen(None).await;
    let listen = new.message("subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } }));
    let mut listening = Events::of(new.post(&listen).send().await.unwrap());
    listening.of_method("notifications/subscriptions/acknowledged").await;
    // As long as there is the right, there is the stream.
    tokio::time::sleep(Duration::from_secs(5)).await;
    old.tool("test_trigger_tool_change", json!({})).await.result();
    general.of_method("notifications/tools/list_changed").await;
    assert_eq!(app.call(Method::POST, "/api/mcp/auth/logout", &ada.access, &json!({ "refresh_token": ada.refresh })).await.status / 100, 2);
    let ends = async {
        while general.next().await.is_some() {}
        while listening.next().await.is_some() {}
    };
    tokio::time::timeout(Duration::from_secs(9), ends).await.expect("both end");
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_twice_is_refused() {
    let gateway = Gateway::with(&[]).await;
    gateway.run("dual", &json!({})).await;
    let client = Mcp::connect(&gateway.endpoint("dual"), &gateway.app.token, "2025-11-25").await;
    let session = client.session.clone().unwrap();
    for params in [
        r#"{"name":"echo","arguments":{"message":"x"},"name":"crash"}"#,
        r#"{"name":"echo","arguments":{"message":"x"},"_meta":{},"_meta":{"progressToken":17}}"#,
        r#"{"name":"echo","arguments":{"message":"x"},"_meta":{"progressToken":1,"progressToken":17}}"#,
    ] {
        let body = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{params}}}");
        let request = gateway.app.request(Method::POST, "/mcp/s/dual").bearer_auth(&gateway.app.token).header("mcp-session-id", &session);
        let answer = request.header("content-type", "application/json").header("accept", "*/*").body(body).send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.json::<Value>().await.unwrap()["error"]["code"].clone()),
            (400, json!(-32602)),
            "{params}"
        );
    }
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_find_modern_clients_that_do_several_things() {
    let gateway = Gateway::with(&[]).await;
    gateway.run("old", &json!({ "FIXTURE_ERA": "legacy" })).await;
    let client = Mcp::connect(&gateway.endpoint("old"), &gateway.app.token, "2026-07-28").await;
    // One that nobody ever answers, and one that works meanwhile.
    let params = json!({ "name": "test_elicitation", "arguments": { "message": "never answered" } });
    assert_eq!(client.once("tools/call", params).await.result()["resultType"], "input_required");
    let slow = client.clone();
    let slow = tokio::spawn(async move { slow.tool("sleep", json!({ "ms": 1500 })).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let came = client.tool("test_elicitation", json!({ "message": "who?" })).await;
    assert!(came.text().contains("action=accept"), "{came:?}");
    assert_eq!(slow.await.unwrap().text(), "Slept 1500 ms");
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_shared_any_more_is_heard_by_its_owner_alone() {
    let gateway = Gateway::with(&[]).await;
    let app = &gateway.app;
    gateway.install("dual", &json!({})).await;
    let share = async |how: &str| {
        let wanted = json!({ "server_id": "dual", "enabled": true, "sharing": how });
        assert_eq!(app.op_post_json("/api/mcp/users/me/servers", &wanted).await.status / 100, 2);
        app.instance_in(&app.token, "dual", "RUNNING").await
    };
    share("shared").await;
    app.person("root@example.org", "admin").await;
    let bob = app.person("bob@example.org", "member").await;
    let of_bob = Mcp::connect(&gateway.endpoint("dual"), &bob.access, "2025-11-25").await;
    of_bob.tool("echo", json!({ "message": "x" })).await.result();
    let mut heard = of_bob.listen(None).await;
    // Opened before: while the server is between two lives, a new session is refused.
    let own = Mcp::connect(&gateway.endpoint("dual"), &app.token, "2025-11-25").await;
    share("per_user").await;
    eventually(15, "it is started anew for its owner", || async {
        let came = own.tool("test_elicitation", json!({ "message": "?" })).await;
        (came.count("elicitation/create") == 1).then_some(())
    })
    .await;
    own.tool("test_trigger_tool_change", json!({})).await.result();
    let asked = async {
        while let Some((_, message)) = heard.next().await {
            assert_ne!(message["method"], "elicitation/create");
        }
    };
    // It ends, since it is not his any more.
    tokio::time::timeout(Duration::from_secs(9), asked).await.expect("the stream ends");
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn modern_clients_use_what_each_session_has_of_its_own() {
    let gateway = Gateway::with(&[]).await;
    gateway.install("own", &json!({})).await;
    let wanted = json!({ "server_id": "own", "enabled": true, "sharing": "per_session" });
    gateway.app.op_post_json("/api/mcp/users/me/servers", &wanted).await.expect(201);
    let client = Mcp::connect(&gateway.endpoint("own"), &gateway.app.token, "2026-07-28").await;
    let pid = client.tool("pid", json!({})).await.text().to_owned();
    assert_eq!(client.tool("pid", json!({})).await.text(), pid);
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_modern_client_hears_of_servers_that_come() {
    let gateway = Gateway::with(&[]).await;
    gateway.run("first", &json!({})).await;
    let client = Mcp::connect(&format!("{}/mcp", gateway.app.url), &gateway.app.token, "2026-07-28").await;
    let listen = client.message("subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } }));
    let mut events = Events::of(client.post(&listen).send().await.unwrap());
    events.of_method("notifications/subscriptions/acknowledged").await;
    gateway.run("second", &json!({})).await;
    events.of_method("notifications/tools/list_changed").await;
    // And what changes there later.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(client.names("tools/list").await.contains(&"second__echo".to_owned()));
    client.tool("second__test_trigger_tool_change", json!({})).await.result();
    events.of_method("notifications/tools/list_changed").await;
    assert!(client.names("tools/list").await.contains(&"second__test_dynamic_tool".to_owned()));
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_outlives_the_process_that_it_is_about() {
    let gateway = Gateway::with(&[]).await;
    for (server, era) in [("old", "legacy"), ("new", "modern")] {
        let running = gateway.run(server, &json!({ "FIXTURE_ERA": era })).await;
        let client = Mcp::connect(&gateway.endpoint(server), &gateway.app.token, "2025-11-25").await;
        client.request("resources/subscribe", json!({ "uri": "test://watched-resource" })).await.result();
        let mut events = client.listen(None).await;
        client.tool("crash", json!({})).await;
        eventually(15, "it is back", || async {
            let now = gateway.app.instance(&running["id"]).await;
            (now["state"] == "RUNNING" && now["pid"] != running["pid"]).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        client.tool("test_trigger_resource_change", json!({})).await.result();
        events.of_method("notifications/resources/updated").await;
    }
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_may_call_can_and_looking_ends_nothing() {
    let gateway = Gateway::with(&[]).await;
    gateway.run("dual", &json!({})).await;
    let app = &gateway.app;
    let asks = |origin: &'static str| {
        let request = app.request(Method::OPTIONS, "/mcp/s/dual").header("origin", origin).header("access-control-request-method", "POST");
        request.header("access-control-request-headers", "authorization,mcp-session-id,mcp-param-region").send()
    };
    let allowed = asks("http://localhost:3000").await.unwrap();
    assert_eq!(allowed.headers()["access-control-allow-origin"], "http://localhost:3000");
    assert!(allowed.headers()["access-control-allow-headers"].to_str().unwrap().contains("mcp-param-region"));
    assert_eq!(asks("http://evil.example").await.unwrap().status(), 403);
    let client = Mcp::connect(&gateway.endpoint("dual"), &app.token, "2025-11-25").await;
    let look =
        app.request(Method::HEAD, "/mcp/s/dual").bearer_auth(&app.token).header("mcp-session-id", client.session.as_deref().unwrap());
    assert_eq!(look.send().await.unwrap().status(), 405);
    assert_eq!(client.once("ping", json!({})).await.status, 200);
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_that_headers_repeat_are_the_same_there() {
    let gateway = Gateway::with(&[]).await;
    gateway.run("dual", &json!({})).await;
    let client = Mcp::connect(&gateway.endpoint("dual"), &gateway.app.token, "2026-07-28").await;
    let message = client.message("tools/call", json!({ "name": "test_custom_header", "arguments": { "region": "eu-1" } }));
    let call = async |header: Option<&str>| {
        let request = client.post(&message);
        let request = if let Some(header) = header { request.header("mcp-param-region", header) } else { request };
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap()["error"]["code"].as_i64())
    };
    assert_eq!(call(Some("eu-1")).await, (200, None));
    assert_eq!(call(Some("=?base64?ZXUtMQ==?=")).await, (200, None));
    assert_eq!(call(Some("us-1")).await, (400, Some(-32020)));
    assert_eq!(call(None).await, (400, Some(-32020)));
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_takes_back_is_told_to_the_client() {
    let gateway = Gateway::with(&[]).await;
    gateway.run("alpha", &json!({ "FIXTURE_ERA": "legacy" })).await;
    let client = Mcp::connect(&gateway.endpoint("alpha"), &gateway.app.token, "2025-11-25").await;
    // The server answers in the same breath, thirty times: what it took back is never told after the answer, or not at all.
    for _ in 0..30 {
        let message = client.message("tools/call", json!({ "name": "impatient", "arguments": {} }));
        let mut events = Events::of(client.post(&message).send().await.unwrap());
        let asked = events.of_method("elicitation/create").await;
        let told = events.of_method("notifications/cancelled").await;
        assert_eq!(told["params"]["requestId"], asked["id"]);
        let (_, answer) = events.next().await.unwrap();
        assert_eq!(answer["result"]["content"][0]["text"], "Taken back", "{answer}");
        // Whoever answers all the same does no harm.
        let late = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "action": "decline" } });
        assert_eq!(client.post(&late).send().await.unwrap().status(), 202);
    }
    assert_eq!(client.tool("echo", json!({ "message": "on" })).await.text(), "Echo: on");
    gateway.app.stop().await;
}
