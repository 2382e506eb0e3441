//! What a review found, each as it was.

use reqwest::Method;
use serde_json::{Value, json};

use super::{PETS, people};
use crate::support::TestApp;

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_no_way_to_files_or_images_of_others() {
    let (app, ada, bob) = people().await;
    let job = app.generated(&ada.access, &json!({ "openapi": PETS, "name": "mcp-hers" })).await;
    let archive = job["result"]["package"].as_str().unwrap();
    for package in [archive, "mcp-hers/mcp-hers-1.0.0.tgz", "mcp-hers", "../master.key"] {
        let manifest = json!({ "name": "mcp-his", "version": "1.0.0", "package": package });
        app.call(Method::POST, "/api/mcp/generated", &bob.access, &manifest).await.expect_problem(400, "path_outside");
    }
    let manifest = json!({ "name": "mcp-hers", "version": "9.0.0" });
    app.call(Method::POST, "/api/mcp/generated", &bob.access, &manifest).await.expect_problem(409, "name_taken");
    // An image that nobody vouches for is named, and not run.
    let manifest = json!({ "name": "mcp-his", "version": "1.0.0", "docker_image": "evil.example/image:1" });
    app.call(Method::POST, "/api/mcp/generated", &bob.access, &manifest).await.expect(201);
    let install = json!({ "name": "mcp-his", "enabled": false });
    app.call(Method::POST, "/api/mcp/packages/install", &bob.access, &install).await.expect_problem(422, "no_packages");
    // Names of private servers are not told by the cache.
    let listed = app.read(&bob.access, "/api/mcp/cache").await.expect(200).to_string();
    assert!(!listed.contains("mcp-hers"), "{listed}");
    assert!(app.op_get("/api/mcp/cache").await.expect(200).to_string().contains("mcp-hers"));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_private_is_not_shown_with_what_is_shared() {
    let (app, ada, bob) = people().await;
    app.generated(&ada.access, &json!({ "openapi": PETS, "name": "mcp-pets" })).await;
    let shared = json!({ "openapi": PETS, "name": "mcp-pets", "options": { "exclude": ["delete*"], "visibility": "shared" } });
    let job = app.generated(&ada.access, &shared).await;
    assert_eq!(job["result"]["version"], "1.1.0", "{job:#}");
    app.read(&bob.access, "/api/mcp/generated/mcp-pets").await.expect(200);
    app.read(&bob.access, "/api/mcp/generated/mcp-pets?version=1.0.0").await.expect_problem(404, "generated_not_found");
    let public = json!({ "openapi": PETS, "name": "mcp-pets", "options": { "visibility": "public" } });
    assert_eq!(app.call(Method::POST, "/api/mcp/generate", &ada.access, &public).await.status, 403);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_failed_stand_in_nobodys_way() {
    let (app, ada, _) = people().await;
    for _ in 0..25 {
        assert_eq!(app.generated(&ada.access, &json!({ "openapi": "no: api" })).await["status"], "failed");
    }
    assert_eq!(app.generated(&ada.access, &json!({ "description": "calculator" })).await["status"], "complete");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_given_anew_has_nothing_of_the_former_one() {
    let (app, ada, bob) = people().await;
    app.generated(&ada.access, &json!({ "openapi": PETS, "name": "mcp-both" })).await;
    app.generated(&ada.access, &json!({ "description": "calculator", "name": "mcp-both" })).await;
    // Without its files, and by the catalogue.
    assert_eq!(app.call(Method::DELETE, "/api/mcp/catalog/custom/mcp-both", &ada.access, &Value::Null).await.status, 204);
    assert!(app.data().join("output/mcp-both/1.1.0").exists());
    let job = app.generated(&bob.access, &json!({ "description": "notes", "name": "mcp-both" })).await;
    assert_eq!((&job["status"], &job["result"]["version"]), (&json!("complete"), &json!("1.0.0")), "{job:#}");
    assert!(!app.data().join("output/mcp-both/1.1.0").exists());
    let path = json!({ "path": "mcp-both/1.1.0" });
    app.call(Method::POST, "/api/mcp/validate", &bob.access, &path).await.expect_problem(400, "path_not_found");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wide_documents_cost_no_more_than_is_shown() {
    let app = TestApp::start().await;
    // Each input has two hundred fields of its own type.
    let own = json!({ "kind": "INPUT_OBJECT", "name": "In" });
    let fields: Vec<Value> = (0..200).map(|n| json!({ "name": format!("f{n}"), "type": own })).collect();
    let query = json!({ "kind": "OBJECT", "name": "Query", "fields": [{ "name": "find", "args": [{ "name": "by", "type": own }], "type": { "kind": "SCALAR", "name": "ID" } }] });
    let graphql = json!({ "__schema": { "queryType": { "name": "Query" }, "types": [query, { "kind": "INPUT_OBJECT", "name": "In", "inputFields": fields }] } });
    let job = app.generated(&app.token, &json!({ "graphql": graphql, "options": { "base_url": "https://x.example/q" } })).await;
    assert_eq!(job["status"], "complete", "{job:#}");
    // A body with two thousand members, each with as many.
    let wide = |to: &str| (0..2000).map(|n| (format!("p{n}"), json!({ "$ref": to }))).collect::<serde_json::Map<_, _>>();
    let document = json!({ "openapi": "3.1.0", "info": { "title": "Wide", "version": "1" }, "servers": [{ "url": "https://wide.example" }],
        "paths": { "/a": { "post": { "requestBody": { "content": { "application/json": { "schema": { "$ref": "#/components/schemas/A" } } } }, "responses": {} } } },
        "components": { "schemas": { "A": { "type": "object", "properties": wide("#/components/schemas/B") }, "B": { "type": "object", "properties": wide("#/nothing") } } } });
    let job = app.generated(&app.token, &json!({ "openapi": document })).await;
    assert_eq!(job["status"], "complete", "{job:#}");
    assert!(job["log"].to_string().len() < 50_000);
    let spec = app.op_get("/api/mcp/generated/mcp-wide").await.expect(200)["spec"].take();
    assert!(spec.to_string().len() < 40_000, "{}", spec.to_string().len());
    // Alternatives of alternatives, none of which can be made up.
    let mut schema = json!({ "type": "object", "properties": {} });
    for _ in 0..5 {
        let all: Vec<Value> = (0..100).map(|_| json!({ "required": ["q"], "properties": { "q": false } })).collect();
        schema = json!({ "type": "object", "required": ["p"], "properties": { "p": schema }, "oneOf": all });
    }
    let tool = json!({ "name": "x", "title": "x", "description": "x", "annotations": { "read_only": true, "destructive": false, "idempotent": true, "open_world": true },
        "input_schema": schema, "action": { "kind": "http", "method": "GET", "path": "/x" } });
    let spec = json!({ "spec_version": 1, "name": "mcp-deep", "version": "1.0.0", "description": "x", "bases": [{ "url": "https://x.example", "env": "X_BASE_URL" }],
        "tools": [tool], "source": { "kind": "spec", "sha256": "0" } });
    let report = app.op_post_json("/api/mcp/validate", &json!({ "spec": spec })).await.expect(200);
    assert!(report["levels"].is_array(), "{report:#}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_private_goes_with_its_owner() {
    let (app, ada, _) = people().await;
    app.generated(&ada.access, &json!({ "description": "calculator", "name": "mcp-private" })).await;
    let shared = json!({ "description": "notes", "name": "mcp-shared", "options": { "visibility": "shared" } });
    app.generated(&ada.access, &shared).await;
    let password = json!({ "password": crate::support::PASSWORD });
    assert_eq!(app.call(Method::DELETE, "/api/mcp/users/me", &ada.access, &password).await.status, 204);
    assert!(!app.data().join("output/mcp-private").exists());
    assert!(app.data().join("output/mcp-shared").exists());
    let cached = app.op_get("/api/mcp/cache").await.expect(200).to_string();
    assert!(!cached.contains("mcp-private") && cached.contains("mcp-shared"), "{cached}");
    app.stop().await;
}
