//! Tokens for some tools: others are neither listed nor called, anywhere.

use reqwest::Method;
use serde_json::{Value, json};

use super::Gateway;
use crate::support::{Mcp, TestApp};

/// A personal token of the operator's sort would be for everything: a member has one for some tools.
async fn token(app: &TestApp, access: &str, tools: &Value) -> String {
    let body = json!({ "name": "some tools", "scopes": ["mcp:call", "runtime:write"], "tools": tools });
    let made = app.call(Method::POST, "/api/mcp/tokens", access, &body).await.expect(201);
    made["token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_some_tools_is_for_nothing_else() {
    let gateway = Gateway::with(&[]).await;
    let app = &gateway.app;
    let ada = app.person("ada@example.com", "admin").await;
    for server in ["alpha", "beta"] {
        gateway.run(server, &json!({ "FIXTURE_ERA": "legacy" })).await;
        let wanted = json!({ "server_id": server, "enabled": true, "lifecycle": "persistent" });
        app.call(Method::POST, "/api/mcp/users/me/servers", &ada.access, &wanted).await.expect(201);
        app.instance_in(&ada.access, server, "RUNNING").await;
    }
    let some = token(app, &ada.access, &json!(["alpha#echo", "test_simple*"])).await;
    for revision in ["2025-11-25", "2026-07-28"] {
        let client = Mcp::connect(&format!("{}/mcp", app.url), &some, revision).await;
        let names = client.names("tools/list").await;
        assert!(names.contains(&"alpha__echo".to_owned()) && names.contains(&"beta__test_simple_text".to_owned()), "{names:?}");
        assert!(names.iter().all(|name| name == "alpha__echo" || name.contains("__test_simple")), "{names:?}");
        assert_eq!(client.tool("alpha__echo", json!({ "message": "x" })).await.text(), "Echo: x");
        for refused in ["beta__echo", "alpha__pid"] {
            assert_eq!(client.tool(refused, json!({})).await.code(), -32602, "{refused}");
        }
        assert!(client.names("prompts/list").await.is_empty());
        assert_eq!(client.request("resources/list", json!({})).await.result()["resources"], json!([]));
        let own = Mcp::connect(&format!("{}/mcp/s/beta", app.url), &some, revision).await;
        let names = own.names("tools/list").await;
        assert!(!names.is_empty() && names.iter().all(|name| name.starts_with("test_simple")), "{names:?}");
        assert_eq!(own.tool("echo", json!({ "message": "x" })).await.code(), -32602);
        assert!(own.names("prompts/list").await.is_empty());
        assert_eq!(own.request("prompts/get", json!({ "name": "test_simple_prompt" })).await.code(), -32600);
        assert_eq!(own.request("resources/read", json!({ "uri": "test://static-text" })).await.code(), -32600);
        if !own.is_modern() {
            assert_eq!(own.request("resources/subscribe", json!({ "uri": "test://static-text" })).await.code(), -32600);
        }
    }
    // The API for people is no way around.
    let instances = app.call(Method::GET, "/api/mcp/instances", &some, &Value::Null).await.expect(200);
    let instance = instances["instances"].as_array().unwrap().iter().find(|one| one["server_id"] == "beta").unwrap();
    let path = format!("/api/mcp/instances/{}/tools", instance["id"].as_str().unwrap());
    let listed = app.call(Method::GET, &path, &some, &Value::Null).await.expect(200);
    assert!(listed["tools"].as_array().unwrap().iter().all(|tool| tool["name"].as_str().unwrap().starts_with("test_simple")));
    app.call(Method::POST, &format!("{path}/echo/call"), &some, &json!({ "arguments": { "message": "x" } }))
        .await
        .expect_problem(403, "forbidden");
    app.call(Method::POST, &format!("{path}/test_simple_text/call"), &some, &json!({})).await.expect(200);
    let denied = app.trail("&action=access.deny&outcome=denied").await;
    assert!(denied.iter().any(|event| event["detail"]["name"] == "pid" && event["server_id"] == "alpha"), "{denied:?}");
    let shown = app.call(Method::GET, "/api/mcp/tokens", &ada.access, &Value::Null).await.expect(200);
    assert_eq!(shown["tokens"][0]["tools"], json!(["alpha#echo", "test_simple*"]));
    for bad in [json!([]), json!(["a*b"]), json!(["#x"]), json!([""]), json!(vec!["x"; 201])] {
        let body = json!({ "name": "x", "scopes": ["mcp:call"], "tools": bad });
        app.call(Method::POST, "/api/mcp/tokens", &ada.access, &body).await.expect_problem(400, "invalid_field");
    }
    gateway.app.stop().await;
}
