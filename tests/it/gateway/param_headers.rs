//! Arguments that a modern call repeats in headers, on ways where the client sends none: to servers elsewhere, over pipes.

use reqwest::Method;
use serde_json::json;

use super::{Gateway, command_line::Pipe};
use crate::support::{Mcp, TestApp, data};

/// A fabric whose server is another fabric's.
async fn before(gateway: &Gateway) -> TestApp {
    let host = gateway.app.url.strip_prefix("http://").unwrap();
    let app = TestApp::with(&[("FABRIC_ALLOWED_HOSTS", host)]).await;
    let variables = json!({ "key": { "isSecret": true, "isRequired": true } });
    let headers = json!([{ "name": "Authorization", "value": "Bearer {key}", "variables": variables }]);
    let remote = json!({ "type": "streamable-http", "url": gateway.endpoint("dual"), "headers": headers });
    let parts = json!({ "packages": [], "remotes": [remote] });
    app.import(&[data::entry_with("a.x/there", "1.0.0", parts, json!({}))]).await;
    let given = json!({ "server_id": "a.x/there", "values": { "key": gateway.app.token } });
    app.op_post_json("/api/mcp/users/me/servers", &given).await.expect(201);
    app
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_elsewhere_gets_the_headers_that_its_schema_wants() {
    let gateway = Gateway::with(&[]).await;
    gateway.run("dual", &json!({})).await;
    let app = before(&gateway).await;
    let running = app.run_server("a.x/there").await;
    assert_eq!(running["era"], "modern");
    for region in ["eu-1", "Zürich"] {
        let arguments = json!({ "region": region });
        assert_eq!(app.tool(&running, "test_custom_header", arguments.clone()).await, format!("Region: {region}"));
        // A client with a session sends none either.
        let client = Mcp::connect(&format!("{}/mcp/s/a.x%2Fthere", app.url), &app.token, "2025-11-25").await;
        assert_eq!(client.tool("test_custom_header", arguments).await.text(), format!("Region: {region}"));
    }
    app.call(Method::POST, "/api/mcp/servers/a.x%2Fthere/stop", &app.token, &json!({})).await.expect(202);
    app.stop().await;
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bridge_repeats_what_the_lists_said() {
    let gateway = Gateway::with(&[]).await;
    gateway.run("dual", &json!({})).await;
    let mut pipe = Pipe::open(&gateway, &["dual"]);
    let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} });
    let call = json!({ "name": "test_custom_header", "arguments": { "region": "eu-1" }, "_meta": meta });
    assert_eq!(pipe.ask(1, "tools/call", call.clone()).await["error"]["code"], -32020, "without a list, nobody knows of it");
    let list = pipe.ask(2, "tools/list", json!({ "_meta": meta })).await;
    assert!(list["result"]["tools"].is_array(), "{list}");
    let answer = pipe.ask(3, "tools/call", call).await;
    assert_eq!(answer["result"]["content"][0]["text"], "Region: eu-1", "{answer}");
    drop(pipe);
    gateway.app.stop().await;
}
