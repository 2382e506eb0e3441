//! What is refused at the endpoints of MCP clients, and how exactly.

use reqwest::Method;
use serde_json::{Value, json};

use super::Gateway;
use crate::support::Mcp;

/// Sends bytes as they are; gives the status and the code.
async fn send(gateway: &Gateway, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> (u16, Option<i64>) {
    let mut request = gateway.app.request(Method::POST, "/mcp/s/dual").bearer_auth(&gateway.app.token);
    let usual = [("content-type", "application/json"), ("accept", "application/json, text/event-stream")];
    for (name, value) in usual.iter().filter(|(name, _)| !headers.iter().any(|(given, _)| given == name)).chain(headers) {
        request = request.header(*name, *value);
    }
    let answer = request.body(body).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json::<Value>().await.ok().and_then(|answer| answer["error"]["code"].as_i64()))
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_has_its_code() {
    let gateway = Gateway::with(&[]).await;
    gateway.run("dual", &json!({})).await;
    let client = Mcp::connect(&gateway.endpoint("dual"), &gateway.app.token, "2025-11-25").await;
    let session = client.session.clone().unwrap();
    let of_session = [("mcp-session-id", session.as_str())];
    for (body, code) in [
        ("", -32700),
        ("{", -32700),
        ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"", -32700),
        ("7", -32600),
        ("{}", -32600),
        ("[]", -32600),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, -32600),
        (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#, -32600),
    ] {
        assert_eq!(send(&gateway, &of_session, body).await, (400, Some(code)), "{body}");
    }
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    assert_eq!(send(&gateway, &of_session, &b"\xff\xfe{}"[..]).await, (400, Some(-32700)));
    assert_eq!(send(&gateway, &[], ping).await, (400, Some(-32600)), "without a session");
    assert_eq!(send(&gateway, &[of_session[0], ("mcp-protocol-version", "1999-01-01")], ping).await, (400, Some(-32600)));
    assert_eq!(send(&gateway, &[of_session[0], ("content-type", "text/plain")], ping).await.0, 415);
    assert_eq!(send(&gateway, &[of_session[0], ("accept", "image/png")], ping).await.0, 406);
    assert_eq!(send(&gateway, &of_session, vec![b' '; 5 << 20]).await.0, 413);
    // Numbers and texts are ids that are told apart, and none is used twice at once.
    for id in [json!("1"), json!(1), json!("\u{e9}"), json!(-7)] {
        let answer = client.post(&json!({ "jsonrpc": "2.0", "id": id, "method": "ping" })).send().await.unwrap();
        assert_eq!(answer.json::<Value>().await.unwrap()["id"], id);
    }
    let slow =
        json!({ "jsonrpc": "2.0", "id": "twice", "method": "tools/call", "params": { "name": "sleep", "arguments": { "ms": 600 } } });
    let (one, two) = tokio::join!(client.post(&slow).send(), client.post(&slow).send());
    let mut statuses = [one.unwrap().status().as_u16(), two.unwrap().status().as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400]);
    // An answer that nobody waits for, and a cancellation of nothing.
    assert_eq!(send(&gateway, &of_session, r#"{"jsonrpc":"2.0","id":99,"result":{}}"#).await.0, 202);
    client.notify("notifications/cancelled", json!({ "requestId": 12345 })).await;
    client.notify("notifications/no/such", json!({})).await;
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_part_of_one_revision() {
    let gateway = Gateway::with(&[]).await;
    gateway.run("dual", &json!({})).await;
    let client = Mcp::connect(&gateway.endpoint("dual"), &gateway.app.token, "2025-03-26").await;
    let batch = json!([
        { "jsonrpc": "2.0", "id": 1, "method": "ping" },
        { "jsonrpc": "2.0", "method": "notifications/initialized" },
        { "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": { "name": "echo", "arguments": { "message": "two" } } },
        { "jsonrpc": "2.0", "id": 3 },
    ]);
    let answers: Value = client.post(&batch).send().await.unwrap().json().await.unwrap();
    let of = |id: Value| answers.as_array().unwrap().iter().find(|answer| answer["id"] == id).unwrap().clone();
    assert_eq!(answers.as_array().unwrap().len(), 3);
    assert_eq!(of(json!(1))["result"], json!({}));
    assert_eq!(of(json!(2))["result"]["content"][0]["text"], "Echo: two");
    assert_eq!(of(Value::Null)["error"]["code"], -32600);
    let only_told = json!([{ "jsonrpc": "2.0", "method": "notifications/initialized" }]);
    assert_eq!(client.post(&only_told).send().await.unwrap().status(), 202);
    assert_eq!(client.post(&json!([])).send().await.unwrap().status(), 400);
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_the_newest_revision_say_what_the_body_says() {
    let gateway = Gateway::with(&[]).await;
    gateway.run("dual", &json!({})).await;
    let client = Mcp::connect(&gateway.endpoint("dual"), &gateway.app.token, "2026-07-28").await;
    let message = client.message("tools/call", json!({ "name": "echo", "arguments": { "message": "x" } }));
    let good = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "echo")];
    let with = async |headers: &[(&str, &str)], message: &Value| send(&gateway, headers, message.to_string()).await;
    assert_eq!(with(&good, &message).await, (200, None));
    assert_eq!(with(&[good[0], good[1], ("mcp-name", "=?base64?ZWNobw==?=")], &message).await, (200, None));
    for (headers, why) in [
        (vec![good[1], good[2]], "no version"),
        (vec![good[0], good[2]], "no method"),
        (vec![good[0], good[1]], "no name"),
        (vec![good[0], ("mcp-method", "tools/list"), good[2]], "another method"),
        (vec![good[0], good[1], ("mcp-name", "big")], "another name"),
        (vec![good[0], good[1], good[2], ("mcp-name", "big")], "two names"),
        (vec![good[0], good[1], ("mcp-name", "=?base64?%%?=")], "not base64"),
        (vec![("mcp-protocol-version", "2025-11-25"), good[1], good[2]], "another version"),
    ] {
        assert_eq!(with(&headers, &message).await, (400, Some(-32020)), "{why}");
    }
    let mut unknown = message.clone();
    unknown["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2099-01-01");
    assert_eq!(with(&[("mcp-protocol-version", "2099-01-01"), good[1], good[2]], &unknown).await, (400, Some(-32022)));
    let mut silent = message.clone();
    silent["params"]["_meta"].as_object_mut().unwrap().remove("io.modelcontextprotocol/clientCapabilities");
    assert_eq!(with(&good, &silent).await, (400, Some(-32602)));
    for method in ["ping", "initialize", "logging/setLevel", "resources/subscribe", "no/such"] {
        let message = client.message(method, json!({}));
        assert_eq!(with(&[good[0], ("mcp-method", method)], &message).await, (404, Some(-32601)), "{method}");
    }
    for method in [Method::GET, Method::DELETE] {
        let request = gateway.app.request(method, "/mcp/s/dual").bearer_auth(&gateway.app.token).header(good[0].0, good[0].1);
        let answer = request.send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers()["allow"].to_str().unwrap()), (405, "POST"));
    }
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_a_call_goes_on_with_is_not_made_up() {
    let gateway = Gateway::with(&[]).await;
    gateway.run("old", &json!({ "FIXTURE_ERA": "legacy" })).await;
    gateway.app.person("root@example.org", "admin").await;
    let member = gateway.app.person("ada@example.org", "member").await;
    gateway.app.op_post_json("/api/mcp/users/me/servers", &json!({ "server_id": "old", "enabled": true })).await.expect(200);
    let client = Mcp::connect(&gateway.endpoint("old"), &gateway.app.token, "2026-07-28").await;
    let asked = client.once("tools/call", json!({ "name": "test_elicitation", "arguments": { "message": "?" } })).await;
    let state = asked.result()["requestState"].as_str().unwrap().to_owned();
    assert_eq!(asked.result()["inputRequests"]["question"]["method"], "elicitation/create");
    let go_on = |state: &str, tool: &str| json!({ "name": tool, "arguments": { "message": "?" }, "requestState": state, "inputResponses": { "question": { "action": "decline" } } });
    for forged in ["", "x", "a.1.b", &state.replacen('.', "0.", 1), &format!("{state}x"), &state[..state.len() - 2]] {
        assert_eq!(client.once("tools/call", go_on(forged, "test_elicitation")).await.code(), -32602, "{forged}");
    }
    assert_eq!(client.once("tools/call", go_on(&state, "test_sampling")).await.code(), -32602, "another tool");
    // Somebody else's: they may call the same server, and do not get at this call.
    gateway
        .app
        .call(Method::POST, "/api/mcp/users/me/servers", &member.access, &json!({ "server_id": "old", "enabled": true }))
        .await
        .expect(201);
    gateway.app.instance_in(&member.access, "old", "RUNNING").await;
    let stranger = Mcp { token: member.access.clone(), ..client.clone() };
    assert_eq!(stranger.once("tools/call", go_on(&state, "test_elicitation")).await.code(), -32602, "somebody else");
    // Without an answer it is asked again; with one it goes on, once.
    let mut unanswered = go_on(&state, "test_elicitation");
    unanswered.as_object_mut().unwrap().remove("inputResponses");
    let again = client.once("tools/call", unanswered).await;
    let state = again.result()["requestState"].as_str().unwrap().to_owned();
    assert!(client.once("tools/call", go_on(&state, "test_elicitation")).await.text().contains("action=decline"));
    assert_eq!(client.once("tools/call", go_on(&state, "test_elicitation")).await.code(), -32602, "used");
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_turned_away() {
    let gateway = Gateway::with(&[]).await;
    gateway.run("dual", &json!({})).await;
    let app = &gateway.app;
    let initialize =
        json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": { "protocolVersion": "2025-11-25", "capabilities": {} } });
    let knock = |token: Option<&str>, headers: &[(&str, &str)]| {
        let mut request = app.request(Method::POST, "/mcp").json(&initialize);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.send()
    };
    let token = Some(app.token.as_str());
    assert_eq!(knock(None, &[]).await.unwrap().status(), 401);
    assert_eq!(knock(Some("x"), &[]).await.unwrap().status(), 401);
    assert_eq!(knock(token, &[("host", "evil.example:8085")]).await.unwrap().status(), 403);
    assert_eq!(knock(token, &[("origin", "http://evil.example")]).await.unwrap().status(), 403);
    assert_eq!(knock(token, &[("origin", "null")]).await.unwrap().status(), 403);
    assert_eq!(knock(token, &[("origin", "http://localhost:3000")]).await.unwrap().status(), 200);
    // Tokens say what for, and which servers.
    let elsewhere = app.service(&["catalogue:read"], None).await;
    assert_eq!(knock(Some(&elsewhere), &[]).await.unwrap().status(), 403);
    app.person("root@example.org", "admin").await;
    let auditor = app.person("audit@example.org", "auditor").await;
    assert_eq!(knock(Some(&auditor.access), &[]).await.unwrap().status(), 403);
    // A server that one has not is one that is not there.
    let member = app.person("ada@example.org", "member").await;
    for server in ["dual", "no-such", "a%2Fb", "%00", ".."] {
        let path = format!("/mcp/s/{server}");
        let answer = app.send(app.request(Method::POST, &path).bearer_auth(&member.access).json(&initialize)).await;
        assert!(matches!(answer.status, 404), "{server}: {}", answer.text());
    }
    gateway.app.stop().await;
}
