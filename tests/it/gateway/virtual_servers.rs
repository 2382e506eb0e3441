//! Sources and virtual servers: what people put together, and what clients get of it.

use reqwest::Method;
use serde_json::{Value, json};

use super::Gateway;
use crate::support::{Mcp, TestApp, eventually};

const POOL: &str = "https://mcp1.example,https://mcp2.example:8443,https://mcp3.example";

#[tokio::test(flavor = "multi_thread")]
async fn sources_keep_secrets_in_the_vault() {
    let app = TestApp::start().await;
    app.person("root@example.org", "admin").await;
    let (ada, bob) = (app.person("ada@example.org", "member").await, app.person("bob@example.org", "member").await);
    let source = json!({ "type": "snowflake", "metadata": { "account": "acme", "password": "hunter2-hunter2", "deep": { "api_key": "k-123456789" } } });
    let made = app.call(Method::POST, "/api/mcp/sources", &ada.access, &source).await;
    assert_eq!(made.header("etag"), Some("\"1\""));
    let made = made.expect(201);
    assert_eq!(made["source_metadata"], json!({ "account": "acme", "password": "[secret]", "deep": { "api_key": "[secret]" } }));
    let path = format!("/api/mcp/sources/{}", made["id"].as_str().unwrap());
    let get = async |token: &str| app.call(Method::GET, &path, token, &Value::Null).await;
    assert_eq!(get(&ada.access).await.expect(200), made);
    get(&bob.access).await.expect_problem(404, "source_not_found");
    // `[secret]` leaves a secret, anything else replaces it, and what is gone is forgotten.
    let change = json!({ "metadata": { "account": "acme2", "password": "[secret]", "deep": { "api_key": "other-987654321" } } });
    let changed = app.call(Method::PUT, &path, &ada.access, &change).await.expect(200);
    assert_eq!(
        (&changed["revision"], &changed["type"], &changed["source_metadata"]["account"]),
        (&json!(2), &json!("snowflake"), &json!("acme2"))
    );
    let stale = app.request(Method::PUT, &path).bearer_auth(&ada.access).header("if-match", "\"1\"").json(&json!({ "type": "box" }));
    app.send(stale).await.expect_problem(412, "stale_revision");
    for body in [
        json!({ "type": "" }),
        json!({ "type": "a\nb" }),
        json!({ "type": "x".repeat(256) }),
        json!({ "type": "x", "metadata": { "token": 7 } }),
        json!({ "type": "x", "metadata": [] }),
        json!({ "type": "x", "other": 1 }),
    ] {
        assert_eq!(app.call(Method::POST, "/api/mcp/sources", &ada.access, &body).await.status, 400, "{body}");
    }
    // What cannot be kept leaves everything as it was.
    let unkept = json!({ "metadata": { "account": "a\u{0}", "password": "another-secret-1" } });
    assert_eq!(app.call(Method::PUT, &path, &ada.access, &unkept).await.status, 400);
    let sealed: i64 = sqlx::query_scalar("SELECT count(*) FROM credentials.sealed_secrets WHERE scope = 'source'")
        .fetch_one(&mut app.database.connect().await)
        .await
        .unwrap();
    assert_eq!(sealed, 1);
    let orphan = json!({ "type": "x", "metadata": { "a": "\u{0}", "token": "orphan-secret-1" } });
    assert_eq!(app.call(Method::POST, "/api/mcp/sources", &ada.access, &orphan).await.status, 400);
    // No row, no answer and no event has the value.
    let rows: Vec<String> =
        sqlx::query_scalar("SELECT t::text FROM mcp_fabric.sources t").fetch_all(&mut app.database.connect().await).await.unwrap();
    let trail = app.op_get("/api/mcp/audit?limit=50").await.text();
    for secret in ["hunter2", "k-123456789", "other-987654321", "another-secret-1", "orphan-secret-1"] {
        assert!(!rows.iter().any(|row| row.contains(secret)) && !trail.contains(secret), "{secret}");
    }
    app.call(Method::DELETE, &path, &bob.access, &Value::Null).await.expect_problem(404, "source_not_found");
    assert_eq!(app.call(Method::DELETE, &path, &ada.access, &Value::Null).await.status, 204);
    get(&ada.access).await.expect_problem(404, "source_not_found");
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM credentials.sealed_secrets WHERE scope = 'source'")
        .fetch_one(&mut app.database.connect().await)
        .await
        .unwrap();
    assert_eq!(left, 0, "no secret is left");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_one_servers_at_a_time() {
    let app = TestApp::with(&[("MCP_GATEWAY_URL_POOLS", POOL)]).await;
    let create = async |number: usize| {
        let wanted = json!({ "name": format!("server {number}") });
        app.op_post_json("/api/mcp/virtual-servers", &wanted).await
    };
    // Fifty at once on three domains.
    let answers = futures_util::future::join_all((0..50).map(create)).await;
    let mut endpoints: Vec<String> =
        answers.iter().filter(|answer| answer.status == 201).map(|answer| answer.json()["endpoint"].as_str().unwrap().to_owned()).collect();
    endpoints.sort();
    assert_eq!(endpoints, ["https://mcp1.example", "https://mcp2.example:8443", "https://mcp3.example"]);
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        answer.expect_problem(409, "endpoint_pool_exhausted");
    }
    // Removing frees an endpoint, and restoring takes it again, or another one.
    let of = |endpoint: &str| answers.iter().map(crate::support::Answer::json).find(|made| made["endpoint"] == endpoint).unwrap();
    let path = |made: &Value| format!("/api/mcp/virtual-servers/{}", made["id"].as_str().unwrap());
    let (one, two) = (of("https://mcp1.example"), of("https://mcp2.example:8443"));
    assert_eq!(one["url"], "https://mcp1.example/mcp");
    let remove = async |made: &Value| app.call(Method::DELETE, &path(made), &app.token, &Value::Null).await.status;
    assert_eq!(remove(&one).await, 204);
    assert_eq!(remove(&one).await, 404);
    let restored = app.op_post(&format!("{}/restore", path(&one))).await.expect(200);
    assert_eq!((&restored["endpoint"], &restored["note"]), (&json!("https://mcp1.example"), &Value::Null));
    assert_eq!((remove(&one).await, remove(&two).await), (204, 204));
    let new = create(99).await.expect(201);
    assert_eq!(new["endpoint"], "https://mcp1.example");
    let restored = app.op_post(&format!("{}/restore", path(&one))).await.expect(200);
    assert_eq!(restored["endpoint"], "https://mcp2.example:8443");
    assert!(restored["note"].as_str().unwrap().contains("another one"));
    app.op_post(&format!("{}/restore", path(&two))).await.expect_problem(409, "endpoint_pool_exhausted");
    app.op_post(&format!("{}/restore", path(&one))).await.expect_problem(404, "virtual_server_not_found");
    // A change leaves it; for ever is for administrators.
    let renamed = app.call(Method::PUT, &path(&new), &app.token, &json!({ "name": "other" })).await.expect(200);
    assert_eq!((&renamed["name"], &renamed["endpoint"]), (&json!("other"), &new["endpoint"]));
    app.call(Method::PUT, &path(&new), &app.token, &json!({ "endpoint": "https://x.example" })).await.expect_problem(400, "invalid_body");
    app.person("root@example.org", "admin").await;
    let ada = app.person("ada@example.org", "member").await;
    let for_ever = format!("{}?permanent=true", path(&new));
    assert_eq!(app.call(Method::DELETE, &for_ever, &ada.access, &Value::Null).await.status, 403);
    app.call(Method::GET, &path(&new), &ada.access, &Value::Null).await.expect_problem(404, "virtual_server_not_found");
    assert_eq!(app.call(Method::DELETE, &for_ever, &app.token, &Value::Null).await.status, 204);
    app.op_post(&format!("{}/restore", path(&new))).await.expect_problem(404, "virtual_server_not_found");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_that_is_taken_from_the_pool_is_kept_and_said() {
    let app = TestApp::with(&[("MCP_GATEWAY_URL_POOLS", "https://old.example")]).await;
    let made = app.op_post_json("/api/mcp/virtual-servers", &json!({ "name": "x" })).await.expect(201);
    let other = TestApp::beside_with(&app, &[("MCP_GATEWAY_URL_POOLS", "https://new.example")]).await;
    let shown = other.op_get(&format!("/api/mcp/virtual-servers/{}", made["id"].as_str().unwrap())).await.expect(200);
    assert_eq!(shown["endpoint"], "https://old.example");
    assert!(shown["note"].as_str().unwrap().contains("not in MCP_GATEWAY_URL_POOLS"), "{shown}");
    // And served.
    let initialize =
        json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": { "protocolVersion": "2025-11-25", "capabilities": {} } });
    let knock = other.request(Method::POST, "/mcp").header("host", "old.example").bearer_auth(&other.token).json(&initialize);
    assert_eq!(knock.send().await.unwrap().status(), 200);
    other.stop().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_together_is_offered_and_nothing_else() {
    let gateway = Gateway::with(&[("MCP_GATEWAY_URL_POOLS", "http://mcp1.example")]).await;
    let app = &gateway.app;
    for name in ["alpha", "beta", "gamma"] {
        gateway.run(name, &json!({ "FIXTURE_ERA": "legacy" })).await;
    }
    let source = app.op_post_json("/api/mcp/sources", &json!({ "type": "beta" })).await.expect(201);
    let nothing = app.op_post_json("/api/mcp/sources", &json!({ "type": "outlook" })).await.expect(201);
    let wanted = json!({ "name": "mine", "server_ids": ["alpha"], "source_ids": [source["id"], nothing["id"]] });
    let made = app.op_post_json("/api/mcp/virtual-servers", &wanted).await.expect(201);
    let note = made["sources"].as_array().unwrap().iter().find(|one| one["type"] == "outlook").unwrap()["note"].clone();
    assert!(note.as_str().unwrap().contains("offers no tools"));
    let id = made["id"].as_str().unwrap().to_owned();
    let path = format!("/api/mcp/virtual-servers/{id}");
    let client = Mcp::connect(&format!("{}/mcp/v/{id}", app.url), &app.token, "2025-11-25").await;
    let prefixes = async || {
        let names = client.names("tools/list").await;
        let mut all: Vec<String> = names.iter().map(|name| name.split("__").next().unwrap().to_owned()).collect();
        all.dedup();
        all
    };
    assert_eq!(prefixes().await, ["alpha", "beta"]);
    assert_eq!(client.tool("beta__echo", json!({ "message": "x" })).await.text(), "Echo: x");
    assert_eq!(client.tool("gamma__echo", json!({ "message": "x" })).await.code(), -32602);
    // The same by its domain, and nothing at a domain that is nobody's.
    let of_host = Mcp { url: format!("{}/mcp", app.url), ..client.clone() };
    let at_host = async |host: &str| {
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
        of_host.post(&message).header("host", host).send().await.unwrap()
    };
    let listed: Value = at_host("mcp1.example").await.json().await.unwrap();
    assert!(listed["result"]["tools"].as_array().unwrap().iter().all(|tool| !tool["name"].as_str().unwrap().starts_with("gamma")));
    assert_eq!(at_host("mcp9.example").await.status(), 403);
    // A source that goes takes its tools along, and whoever listens hears of it.
    let mut events = client.listen(None).await;
    let removed = app.call(Method::DELETE, &format!("{path}/sources/{}", source["id"].as_str().unwrap()), &app.token, &Value::Null).await;
    assert_eq!(removed.expect(200)["source_ids"], json!([nothing["id"]]));
    events.of_method("notifications/tools/list_changed").await;
    eventually(5, "its tools are gone", || async { (prefixes().await == ["alpha"]).then_some(()) }).await;
    app.call(Method::PUT, &format!("{path}/sources/{}", source["id"].as_str().unwrap()), &app.token, &Value::Null).await.expect(200);
    assert_eq!(
        app.call(Method::DELETE, &format!("/api/mcp/sources/{}", source["id"].as_str().unwrap()), &app.token, &Value::Null).await.status,
        204
    );
    assert_eq!(app.op_get(&path).await.expect(200)["source_ids"], json!([nothing["id"]]), "a source that is gone is in none");
    // Filters and names of one's own.
    let change = json!({ "tools": ["alpha__echo", "alpha__pid"], "renamed": { "alpha__echo": "say" } });
    app.call(Method::PUT, &path, &app.token, &change).await.expect(200);
    let names = eventually(5, "they are other names", || async {
        let mut names = client.names("tools/list").await;
        names.sort();
        (names.len() == 2).then_some(names)
    })
    .await;
    assert_eq!(names, ["alpha__pid", "say"]);
    assert_eq!(client.tool("say", json!({ "message": "hi" })).await.text(), "Echo: hi");
    for hidden in ["alpha__echo", "alpha__env"] {
        assert_eq!(client.tool(hidden, json!({ "message": "x", "name": "X" })).await.code(), -32602, "{hidden}");
    }
    // Somebody else's is none of theirs.
    app.person("root@example.org", "admin").await;
    let bob = app.person("bob@example.org", "member").await;
    let knock = Mcp { token: bob.access.clone(), session: None, ..client.clone() };
    let initialize =
        json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": { "protocolVersion": "2025-11-25", "capabilities": {} } });
    assert_eq!(knock.post(&initialize).send().await.unwrap().status(), 404);
    assert_eq!(app.call(Method::DELETE, &path, &app.token, &Value::Null).await.status, 204);
    eventually(5, "it is gone", || async {
        let answer = client.post(&json!({ "jsonrpc": "2.0", "id": 9, "method": "tools/list" })).send().await.unwrap();
        (answer.status() == 404).then_some(())
    })
    .await;
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_prefix_no_two_tools_have_one_name() {
    let gateway = Gateway::with(&[]).await;
    let app = &gateway.app;
    for name in ["alpha", "beta"] {
        gateway.run(name, &json!({})).await;
    }
    let both = json!({ "name": "both", "server_ids": ["alpha", "beta"], "prefix": "none" });
    let refused = app.op_post_json("/api/mcp/virtual-servers", &both).await.expect_problem(409, "tool_name_collision");
    assert!(refused["detail"].as_str().unwrap().contains("echo"), "{refused}");
    // Prompts cannot be left out, and tools can be renamed to what another one is called.
    let few = json!({ "name": "few", "server_ids": ["alpha", "beta"], "prefix": "none", "tools": ["x"] });
    let refused = app.op_post_json("/api/mcp/virtual-servers", &few).await.expect_problem(409, "tool_name_collision");
    assert!(refused["detail"].as_str().unwrap().contains("test_prompt_with_arguments"), "{refused}");
    let renamed = json!({ "name": "named", "server_ids": ["alpha", "beta"], "renamed": { "alpha__echo": "beta__echo" } });
    let refused = app.op_post_json("/api/mcp/virtual-servers", &renamed).await.expect_problem(409, "tool_name_collision");
    assert!(refused["detail"].as_str().unwrap().contains("one name: beta__echo;"), "{refused}");
    let one = json!({ "name": "one", "server_ids": ["alpha"], "prefix": "none" });
    let made = app.op_post_json("/api/mcp/virtual-servers", &one).await.expect(201);
    assert!(made["endpoint"].as_str().unwrap().starts_with("/mcp/v/"));
    let client = Mcp::connect(made["url"].as_str().unwrap(), &app.token, "2026-07-28").await;
    assert!(client.names("tools/list").await.contains(&"echo".to_owned()));
    assert_eq!(client.tool("echo", json!({ "message": "x" })).await.text(), "Echo: x");
    let prompt = json!({ "name": "test_prompt_with_arguments", "arguments": { "arg1": "one", "arg2": "two" } });
    assert!(client.request("prompts/get", prompt).await.result()["messages"].is_array());
    for (body, code) in [
        (json!({ "name": "x", "server_ids": ["nowhere"] }), "invalid_field"),
        (json!({ "name": "x", "source_ids": ["01a21fc2-7a34-73a1-b6b5-80a15012df64"] }), "invalid_field"),
        (json!({ "name": "" }), "invalid_field"),
        (json!({ "name": "x", "renamed": { "a": "two words" } }), "invalid_field"),
        (json!({ "name": "x", "prefix": "both" }), "invalid_body"),
    ] {
        app.op_post_json("/api/mcp/virtual-servers", &body).await.expect_problem(400, code);
    }
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_hear_of_a_source_that_is_another_one() {
    let gateway = Gateway::with(&[]).await;
    let app = &gateway.app;
    gateway.run("alpha", &json!({})).await;
    let source = app.op_post_json("/api/mcp/sources", &json!({ "type": "nothing-there", "metadata": {} })).await.expect(201);
    let body = json!({ "name": "of a source", "source_ids": [source["id"]] });
    let made = app.op_post_json("/api/mcp/virtual-servers", &body).await.expect(201);
    let client = Mcp::connect(made["url"].as_str().unwrap(), &app.token, "2025-11-25").await;
    let mut events = client.listen(None).await;
    assert!(client.names("tools/list").await.is_empty());
    let path = format!("/api/mcp/sources/{}", source["id"].as_str().unwrap());
    app.call(Method::PUT, &path, &app.token, &json!({ "type": "alpha" })).await.expect(200);
    events.of_method("notifications/tools/list_changed").await;
    assert!(client.names("tools/list").await.contains(&"alpha__echo".to_owned()));
    assert_eq!(app.call(Method::DELETE, &path, &app.token, &Value::Null).await.status, 204);
    events.of_method("notifications/tools/list_changed").await;
    assert!(client.names("tools/list").await.is_empty());
    gateway.app.stop().await;
}
