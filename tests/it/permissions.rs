//! Who may do what: docs/security.md has the table, and this compares it with what the program answers.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::TestApp;

/// Rows of the table: the call, and what each role gets.
fn table() -> Vec<(String, [String; 3])> {
    let text = include_str!("../../docs/security.md");
    let rows = text.lines().skip_while(|line| !line.starts_with("| call | admin | member | auditor |")).skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            (cells[0].trim_matches('`').to_owned(), [cells[1], cells[2], cells[3]].map(str::to_owned))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_roles_is_what_the_program_does() {
    let app = TestApp::start().await;
    app.person("root@example.com", "admin").await;
    let document = app.get("/openapi.json").await.expect(200);
    let mut calls = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            if operation.get("security").is_some() {
                calls.push(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    let table: BTreeMap<String, [String; 3]> = table().into_iter().collect();
    let missing: Vec<&String> = calls.iter().filter(|call| !table.contains_key(*call)).collect();
    assert!(missing.is_empty(), "docs/security.md has no row for {missing:#?}");
    let gone: Vec<&String> = table.keys().filter(|call| !calls.contains(call)).collect();
    assert!(gone.is_empty(), "docs/security.md has rows for calls that are gone: {gone:#?}");
    for (call, expected) in &table {
        let (method, path) = call.split_once(' ').unwrap();
        let path = path
            .replace("{user_id}", "nobody")
            .replace("{server_id}", "everything")
            .replace("{server_name}", "everything")
            .replace("{name}", "missing")
            .replace("{env_var}", "NONE")
            .replace("{revision}", "1")
            .replace("{id}", "00000000-0000-7000-8000-000000000000");
        let path = if call == "DELETE /api/mcp/cache" { format!("{path}?registry_type=npm&identifier=zod&version=1.0.0") } else { path };
        for (role, expected) in ["admin", "member", "auditor"].iter().zip(expected) {
            // Each call by somebody new: some of them end the login.
            let email = format!("{role}{}@example.com", platform::ids::fresh().simple());
            let person = app.person(&email, role).await;
            let mut request = app.request(Method::from_bytes(method.as_bytes()).unwrap(), &path).bearer_auth(&person.access);
            if method != "GET" {
                request = request.json(&body(call));
            }
            let response = request.timeout(std::time::Duration::from_secs(5)).send().await.unwrap();
            let is_refused = response.status().as_u16() == 403;
            assert_eq!(is_refused, expected == "no", "{call} as {role}: {}", response.status());
        }
        app.send(app.request(Method::from_bytes(method.as_bytes()).unwrap(), &path).json(&body(call)))
            .await
            .expect_problem(401, "unauthenticated");
    }
}

/// A body that is well-formed and changes nothing that the other calls need.
fn body(call: &str) -> Value {
    match call {
        "POST /api/mcp/bulk" => json!({ "action": "enable", "server_ids": ["everything"], "dry_run": true }),
        "POST /api/mcp/generate" => json!({ "description": "order me a pizza" }),
        "POST /api/mcp/generated" => json!({ "name": "mcp-x", "version": "1.0.0" }),
        "POST /api/mcp/validate" => json!({ "spec": {} }),
        "POST /api/mcp/sources" => json!({ "type": "box" }),
        "POST /api/mcp/templates" => json!({ "name": "x", "enabled": false }),
        "POST /api/mcp/catalog/rules" => json!({ "effect": "deny", "pattern": "nobody/nothing", "dry_run": true }),
        "POST /api/mcp/catalog/{id}/restore" => json!({ "revision": 1 }),
        "POST /api/mcp/users/me/servers/bulk" | "POST /api/mcp/users/me/servers/import" => json!({ "servers": [] }),
        "POST /api/mcp/users/me/servers" => json!({ "server_id": "everything" }),
        "POST /api/mcp/instances/{id}/tools/{name}/call" => json!({ "arguments": {} }),
        "POST /api/mcp/packages/install" => json!({ "name": "everything", "enabled": false }),
        "POST /api/mcp/credentials" => json!({ "server_id": "everything", "env_var": "KEY", "value": "x" }),
        "PUT /api/mcp/credentials/{user_id}/{server_id}" => json!({ "credentials": [] }),
        "POST /api/mcp/credentials/import" => json!({ "server_id": "everything", "format": "env", "content": "A=1" }),
        "POST /api/mcp/tokens" => json!({ "name": "x", "scopes": ["catalogue:read"] }),
        "DELETE /api/mcp/users/me" => json!({ "password": "wrong" }),
        "PUT /api/mcp/users/me/password" => json!({ "current_password": "wrong", "new_password": "tundra anvil 94 quince" }),
        "POST /api/mcp/cache" => json!({ "packages": [{ "registry_type": "npm", "identifier": "zod", "version": "1.0.0" }] }),
        "POST /api/mcp/cache/export" => json!({ "servers": [] }),
        "POST /api/mcp/sync/import" => json!({ "servers": [] }),
        "POST /api/mcp/credentials/rotations" => json!({ "dry_run": true }),
        _ => json!({}),
    }
}
