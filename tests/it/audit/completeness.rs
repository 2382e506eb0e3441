//! Every call that changes something is in the trail, once.

use reqwest::Method;
use serde_json::{Value, json};

use super::execute;
use crate::support::{Person, TestApp};

/// Every call of the API document that changes something leaves exactly one event, and one more for what came of it.
#[tokio::test(flavor = "multi_thread")]
async fn every_change_leaves_exactly_one_event() {
    let app = TestApp::with(&[("FABRIC_REGISTRATION", "open")]).await;
    let root = app.person("root@example.com", "admin").await;
    let document = app.get("/openapi.json").await.expect(200);
    let mut left = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys().filter(|method| *method != "get") {
            left.push(format!("{} {path}", method.to_uppercase()));
        }
    }
    left.retain(|call| !EXEMPT.iter().any(|(exempt, _)| exempt == call));
    for call in left {
        let (method, path, body, token) = prepare(&app, &root, &call).await;
        let archive = app.op_post_json("/api/mcp/cache/export", &json!({ "all": true })).await.body;
        let newest = app.trail("").await[0]["seq"].as_i64().unwrap();
        let answer = if call.ends_with("/cache/import") {
            app.send(app.request(Method::POST, &path).bearer_auth(&token).header("content-type", "application/x-tar").body(archive)).await
        } else {
            app.call(method.parse().unwrap(), &path, &token, &body).await
        };
        // There is nothing to remove, which is known only after it was tried.
        let is_nothing = call == "DELETE /api/mcp/cache" && answer.status == 404;
        assert!(answer.status < 300 || is_nothing, "{call}: {}", answer.text());
        let events: Vec<Value> = app.trail("").await.into_iter().filter(|event| event["seq"].as_i64().unwrap() > newest).collect();
        // What the program then does by itself is the system's.
        let own: Vec<&Value> =
            events.iter().filter(|event| !event["actor"].as_str().unwrap().starts_with("system:") && event["answers"].is_null()).collect();
        assert_eq!(own.len(), 1, "{call}: {events:#?}");
    }
}

/// Calls that change nothing that is kept.
const EXEMPT: &[(&str, &str)] = &[
    ("POST /v0.1/validate", "looks at a document and keeps nothing"),
    ("POST /api/mcp/audit/verify", "looks at the trail and changes nothing"),
    ("POST /api/mcp/servers/{id}/stop", "needs a server that runs: see runtime::trail"),
    ("POST /api/mcp/servers/{id}/restart", "needs a server that runs: see runtime::trail"),
    ("POST /api/mcp/instances/{id}/tools/{name}/call", "needs a server that runs: see runtime::trail"),
    ("DELETE /api/mcp/instances/{id}", "needs a server that runs: see runtime::trail"),
    ("POST /api/mcp/servers/{id}/authorization", "needs an authorization server: see runtime::oauth"),
    ("DELETE /api/mcp/servers/{id}/authorization", "needs an authorization server: see runtime::oauth"),
    ("POST /api/mcp/oauth/callback/{place}", "needs an authorization server: see runtime::oauth"),
    ("POST /api/mcp/validate", "looks at a server and keeps nothing"),
    ("POST /api/mcp/events/ticket", "lends a token for thirty seconds"),
    ("POST /api/mcp/bulk", "its servers leave events of their own: see bulk"),
    ("POST /api/mcp/bulk/{id}/cancel", "needs an operation: see bulk"),
    ("POST /api/mcp/bulk/{id}/retry", "needs an operation: see bulk"),
    ("POST /api/mcp/bulk/{id}/rollback", "needs an operation: see bulk"),
    ("POST /api/mcp/packages/upgrade", "upgrades nothing where nothing is older, and else leaves one event for each"),
];

/// A source of somebody's; gives its id.
async fn source(app: &TestApp, token: &str) -> String {
    let made = app.call(Method::POST, "/api/mcp/sources", token, &json!({ "type": "box" })).await.expect(201);
    made["id"].as_str().unwrap().to_owned()
}

/// What a call needs to do something.
async fn prepare(app: &TestApp, root: &Person, call: &str) -> (String, String, Value, String) {
    let (method, path) = call.split_once(' ').unwrap();
    let given = |path: String, body: Value, token: &str| (method.to_owned(), path, body, token.to_owned());
    let fresh = || format!("p{}@example.com", platform::ids::fresh().simple());
    let admin = &root.access;
    let password = crate::support::PASSWORD;
    match call {
        "POST /api/mcp/auth/register" => given(path.into(), json!({ "email": fresh(), "password": password }), admin),
        "POST /api/mcp/auth/login" => given(path.into(), json!({ "email": root.email, "password": password }), admin),
        "POST /api/mcp/auth/refresh" => {
            let person = app.log_in(&root.email).await;
            given(path.into(), json!({ "refresh_token": person.refresh }), admin)
        }
        "POST /api/mcp/auth/logout" => given(path.into(), Value::Null, &app.log_in(&root.email).await.access),
        "PUT /api/mcp/users/me/password" => {
            let person = app.person(&fresh(), "member").await;
            given(path.into(), json!({ "current_password": password, "new_password": "another anvil 94 quince" }), &person.access)
        }
        "DELETE /api/mcp/users/me" => {
            let person = app.person(&fresh(), "member").await;
            given(path.into(), json!({ "password": password }), &person.access)
        }
        "PUT /api/mcp/users/{id}" | "DELETE /api/mcp/users/{id}" | "POST /api/mcp/users/{id}/reset-password" => {
            let person = app.person(&fresh(), "member").await;
            given(path.replace("{id}", &person.id), if method == "PUT" { json!({ "role": "auditor" }) } else { Value::Null }, admin)
        }
        "POST /api/mcp/invites" => given(path.into(), json!({}), admin),
        "DELETE /api/mcp/invites/{id}" => {
            let invite = app.op_post_json("/api/mcp/invites", &json!({})).await.expect(201);
            given(path.replace("{id}", invite["id"].as_str().unwrap()), Value::Null, admin)
        }
        "POST /api/mcp/tokens" => given(path.into(), json!({ "name": "x", "scopes": ["catalogue:read"] }), admin),
        "DELETE /api/mcp/tokens/{id}" => {
            let made =
                app.call(Method::POST, "/api/mcp/tokens", admin, &json!({ "name": "x", "scopes": ["catalogue:read"] })).await.expect(201);
            given(path.replace("{id}", made["id"].as_str().unwrap()), Value::Null, admin)
        }
        "POST /api/mcp/users/me/servers/bulk" | "POST /api/mcp/users/me/servers/import" => {
            given(path.into(), json!({ "servers": [] }), admin)
        }
        "POST /api/mcp/users/me/servers" => given(path.into(), json!({ "server_id": "everything", "enabled": true }), admin),
        "DELETE /api/mcp/users/me/servers/{server_id}" | "POST /api/mcp/users/me/servers/{server_id}/restore" => {
            let path = path.replace("{server_id}", "everything");
            app.call(Method::POST, "/api/mcp/users/me/servers", admin, &json!({ "server_id": "everything" })).await;
            if method == "POST" {
                assert_eq!(app.call(Method::DELETE, path.trim_end_matches("/restore"), admin, &Value::Null).await.status, 204);
            }
            given(path, Value::Null, admin)
        }
        "POST /api/mcp/sources" => given(path.into(), json!({ "type": "box", "metadata": { "token": "t-12345" } }), admin),
        "PUT /api/mcp/sources/{id}" | "DELETE /api/mcp/sources/{id}" => {
            given(path.replace("{id}", &source(app, admin).await), json!({ "type": "other" }), admin)
        }
        "POST /api/mcp/catalog/rules" => given(path.into(), json!({ "effect": "deny", "pattern": "nobody/nothing" }), admin),
        "DELETE /api/mcp/catalog/rules/{id}" => {
            let rule = app.op_post_json("/api/mcp/catalog/rules", &json!({ "effect": "deny", "pattern": "nobody/else" })).await.expect(201);
            given(path.replace("{id}", rule["id"].as_str().unwrap()), Value::Null, admin)
        }
        call if call.contains(" /api/mcp/catalog/") => {
            let name = format!("s{}", platform::ids::fresh().simple());
            let own = json!({ "name": name, "image": "npm:x@1.0.0", "description": "x" });
            if call.ends_with("/custom") {
                return given(path.into(), own, admin);
            }
            app.call(Method::POST, "/api/mcp/catalog/custom", admin, &own).await.expect(201);
            let body = if call.ends_with("/restore") { json!({ "revision": 1 }) } else { json!({ "title": "x" }) };
            given(path.replace("{id}", &name), body, admin)
        }
        "POST /api/mcp/generate" => given(path.into(), json!({ "description": "order me a pizza" }), admin),
        call if call.contains(" /api/mcp/generated") => {
            let manifest = json!({ "name": format!("g{}", platform::ids::fresh().simple()), "version": "1.0.0" });
            if method == "DELETE" {
                app.call(Method::POST, "/api/mcp/generated", admin, &manifest).await.expect(201);
            }
            given(path.replace("{name}", manifest["name"].as_str().unwrap()), manifest, admin)
        }
        "POST /api/mcp/templates" => given(path.into(), json!({ "name": "first", "enabled": false }), admin),
        "PUT /api/mcp/templates/{id}" | "DELETE /api/mcp/templates/{id}" => {
            let name = platform::ids::fresh().to_string();
            let made = app.call(Method::POST, "/api/mcp/templates", admin, &json!({ "name": name, "enabled": false })).await.expect(201);
            given(path.replace("{id}", made["id"].as_str().unwrap()), json!({ "enabled": true }), admin)
        }
        "POST /api/mcp/virtual-servers" => given(path.into(), json!({ "name": "x" }), admin),
        call if call.contains(" /api/mcp/virtual-servers/{id}") => {
            let source = source(app, admin).await;
            let sources = if method == "DELETE" { vec![source.clone()] } else { Vec::new() };
            let made = app.call(Method::POST, "/api/mcp/virtual-servers", admin, &json!({ "name": "x", "source_ids": sources })).await;
            let path = path.replace("{id}", made.expect(201)["id"].as_str().unwrap()).replace("{source_id}", &source);
            if call.ends_with("/restore") {
                let path = path.trim_end_matches("/restore");
                assert_eq!(app.call(Method::DELETE, path, admin, &Value::Null).await.status, 204);
            }
            given(path, if call.ends_with("{id}") { json!({ "name": "y" }) } else { Value::Null }, admin)
        }
        "POST /api/mcp/packages/install" => given(path.into(), json!({ "name": "everything", "enabled": false }), admin),
        "DELETE /api/mcp/packages/{name}"
        | "PUT /api/mcp/packages/{name}/enable"
        | "PUT /api/mcp/packages/{name}/disable"
        | "POST /api/mcp/packages/{name}/upgrade" => {
            let order = json!({ "name": "everything", "enabled": false });
            let begun = app.call(Method::POST, "/api/mcp/packages/install", admin, &order).await.expect(202);
            app.job(begun["job_id"].as_str().unwrap()).await;
            given(path.replace("{name}", "everything"), Value::Null, admin)
        }
        "POST /api/mcp/credentials" => given(path.into(), json!({ "server_id": "everything", "env_var": "A", "value": "x" }), admin),
        "PUT /api/mcp/credentials/{user_id}/{server_id}" => {
            let path = path.replace("{user_id}", &root.id).replace("{server_id}", "everything");
            let many: Vec<Value> = (0..5).map(|n| json!({ "env_var": format!("A{n}"), "value": "y" })).collect();
            given(path, json!({ "credentials": many, "replace": true }), admin)
        }
        "POST /api/mcp/credentials/import" => {
            given(path.into(), json!({ "server_id": "everything", "format": "env", "content": "A=1\nB=2" }), admin)
        }
        "DELETE /api/mcp/credentials/{user_id}/{server_id}/{env_var}" => {
            app.call(Method::POST, "/api/mcp/credentials", admin, &json!({ "server_id": "everything", "env_var": "B", "value": "x" }))
                .await
                .expect(201);
            let path = path.replace("{user_id}", &root.id).replace("{server_id}", "everything").replace("{env_var}", "B");
            given(path, Value::Null, admin)
        }
        "POST /api/mcp/credentials/rotations" => given(path.into(), json!({ "dry_run": true }), admin),
        "POST /api/mcp/credentials/rotations/{id}/pause"
        | "POST /api/mcp/credentials/rotations/{id}/resume"
        | "POST /api/mcp/credentials/rotations/{id}/cancel" => {
            let id = waiting_rotation(app, if call.ends_with("resume") { "paused" } else { "running" }).await;
            given(path.replace("{id}", &id), Value::Null, admin)
        }
        "POST /api/mcp/credentials/verify" | "POST /api/mcp/credentials/migrate" => given(path.into(), Value::Null, admin),
        "POST /api/mcp/jobs/{id}/cancel" | "POST /api/mcp/jobs/{id}/retry" => {
            let id = stopped_job(app, call.ends_with("retry")).await;
            given(path.replace("{id}", &id), Value::Null, admin)
        }
        "POST /api/mcp/sync/trigger" => given(path.into(), Value::Null, admin),
        "POST /api/mcp/sync/import" => given(format!("{path}?last=true"), json!({ "servers": [] }), admin),
        "POST /api/mcp/servers/{id}/start" => given(path.replace("{id}", "everything"), Value::Null, admin),
        "POST /api/mcp/servers/{id}/cache" | "DELETE /api/mcp/servers/{id}/cache" => {
            given(path.replace("{id}", "everything"), Value::Null, admin)
        }
        "POST /api/mcp/cache" => {
            given(path.into(), json!({ "packages": [{ "registry_type": "npm", "identifier": "zod", "version": "1.0.0" }] }), admin)
        }
        "DELETE /api/mcp/cache" => given(format!("{path}?registry_type=npm&identifier=zod&version=1.0.0"), Value::Null, admin),
        "POST /api/mcp/cache/import" => given(path.into(), Value::Null, admin),
        "POST /api/mcp/cache/verify" | "POST /api/mcp/cache/prune" => given(path.into(), json!({}), admin),
        "POST /api/mcp/cache/export" => given(path.into(), json!({ "all": true }), admin),
        _ => panic!("{call} has no case here: what does it leave in the audit trail?"),
    }
}

/// A rotation that stands there, whose job is over.
pub(super) async fn waiting_rotation(app: &TestApp, state: &str) -> String {
    let mut connection = app.database.connect().await;
    let id = platform::ids::fresh();
    execute(
        &mut connection,
        "UPDATE credentials.key_rotations SET state = 'cancelled', finished_at = now() WHERE state IN ('running', 'paused')",
    )
    .await;
    sqlx::query("INSERT INTO credentials.key_rotations (id, to_version, state, total, started_by) VALUES ($1, 1, $2, 0, 'test')")
        .bind(id)
        .bind(state)
        .execute(&mut connection)
        .await
        .unwrap();
    id.to_string()
}

/// A job that waits, or one that was cancelled.
pub(super) async fn stopped_job(app: &TestApp, cancelled: bool) -> String {
    let mut connection = app.database.connect().await;
    let id = platform::ids::fresh();
    sqlx::query("INSERT INTO mcp_fabric.jobs (id, kind, status, payload, run_at, created_by, created_at, completed_at) VALUES ($1, 'nobody_does_this', $2, '{}', now() + interval '1 day', 'operator', now(), $3)")
        .bind(id)
        .bind(if cancelled { "cancelled" } else { "pending" })
        .bind(cancelled.then(platform::clock::now))
        .execute(&mut connection)
        .await
        .unwrap();
    id.to_string()
}
