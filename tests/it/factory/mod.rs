//! Servers from descriptions and API documents.

mod hostile;
mod model;
mod older;
mod reviewed;
mod running;
mod runtimes;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Person, TestApp};

const PETS: &str = include_str!("data/petstore.yaml");

impl TestApp {
    /// Asks for a server; gives its job once that has ended.
    pub(super) async fn generated(&self, token: &str, order: &Value) -> Value {
        let begun = self.call(Method::POST, "/api/mcp/generate", token, order).await.expect(202);
        assert_eq!(begun["status"], "processing");
        self.job(begun["job_id"].as_str().unwrap()).await
    }

    pub(super) async fn read(&self, token: &str, path: &str) -> Answer {
        self.send(self.request(Method::GET, path).bearer_auth(token)).await
    }
}

async fn people() -> (TestApp, Person, Person) {
    let app = TestApp::start().await;
    app.person("root@example.org", "admin").await;
    let ada = app.person("ada@example.org", "member").await;
    let bob = app.person("bob@example.org", "member").await;
    (app, ada, bob)
}

fn levels(job: &Value) -> Vec<(String, String)> {
    let levels = job["result"]["report"]["levels"].as_array().unwrap_or_else(|| panic!("{job:#}"));
    levels.iter().map(|one| (one["level"].as_str().unwrap().to_owned(), one["verdict"].as_str().unwrap().to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_descriptions_of_the_requirements_end_complete() {
    let (app, ada, _) = people().await;
    for (description, name) in [
        ("A weather API that fetches current conditions and forecasts", "mcp-weather"),
        ("A calculator API with add, subtract, multiply, divide", "mcp-calculator"),
    ] {
        let job = app.generated(&ada.access, &json!({ "description": description, "runtime": "node" })).await;
        assert_eq!(job["status"], "complete", "{job:#}");
        let result = &job["result"];
        assert_eq!((&result["name"], &result["version"]), (&json!(name), &json!("1.0.0")));
        let archive = std::path::PathBuf::from(result["package"].as_str().unwrap());
        assert!(archive.is_absolute() && archive.is_file(), "{}", archive.display());
        assert_eq!(archive, app.data().join(format!("output/{name}/{name}-1.0.0.tgz")));
        let manifest: Value = serde_json::from_slice(&std::fs::read(archive.with_file_name("manifest.json")).unwrap()).unwrap();
        assert_eq!(
            (&manifest["name"], &manifest["version"], &manifest["claude_config"]),
            (&result["name"], &result["version"], &result["claude_config"])
        );
        assert!(result["claude_config"]["mcpServers"][name]["args"].as_array().unwrap().contains(&result["package"]));
        // Nothing that was not looked at passed: the registries of this test have no compiler.
        let levels = levels(&job);
        assert!(levels.contains(&("L0".into(), "passed".into())) && levels.contains(&("L1".into(), "skipped".into())), "{levels:?}");
        assert!(levels.iter().all(|(_, verdict)| verdict != "failed"), "{levels:?}");
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_is_made_once_and_what_differs_is_a_version() {
    let (app, ada, bob) = people().await;
    let order = json!({ "openapi": PETS });
    let first = app.generated(&ada.access, &order).await;
    assert_eq!((&first["result"]["name"], &first["result"]["version"]), (&json!("mcp-pet-shop"), &json!("1.0.0")), "{first:#}");
    let again = app.generated(&ada.access, &order).await;
    assert_eq!((&again["result"]["version"], &again["result"]["package"]), (&json!("1.0.0"), &first["result"]["package"]));
    let fewer =
        app.generated(&ada.access, &json!({ "openapi": PETS, "options": { "include": ["tag:pets"], "exclude": ["delete*"] } })).await;
    assert_eq!((&fewer["result"]["version"], &fewer["result"]["tools"]), (&json!("1.1.0"), &json!(3)), "{fewer:#}");
    // Somebody else's is somebody else's, and found by nobody but them.
    let other = app.generated(&bob.access, &order).await;
    assert_eq!(other["result"]["name"], "mcp-pet-shop-2", "{other:#}");
    let taken = app.generated(&bob.access, &json!({ "openapi": PETS, "name": "mcp-pet-shop" })).await;
    assert_eq!((&taken["status"], &taken["error"]["code"]), (&json!("failed"), &json!("name_taken")));
    app.read(&bob.access, "/api/mcp/generated/mcp-pet-shop").await.expect_problem(404, "server_not_found");
    let list = app.read(&bob.access, "/api/mcp/generated").await.expect(200);
    assert_eq!(list["servers"].as_array().unwrap().len(), 1, "{list}");
    // All versions are kept, in the catalogue as here.
    for version in ["1.0.0", "1.1.0"] {
        let one = app.read(&ada.access, &format!("/api/mcp/generated/mcp-pet-shop?version={version}")).await.expect(200);
        assert_eq!(one["spec"]["version"], version);
    }
    let server = app.read(&ada.access, "/api/mcp/servers/mcp-pet-shop").await.expect(200);
    assert_eq!((&server["origin"], &server["version"]), (&json!("generated"), &json!("1.1.0")), "{server:#}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_becomes_the_tools_that_it_describes() {
    let (app, ada, _) = people().await;
    let job = app.generated(&ada.access, &json!({ "openapi": PETS })).await;
    assert_eq!(job["status"], "complete", "{job:#}");
    let spec = app.read(&ada.access, "/api/mcp/generated/mcp-pet-shop").await.expect(200)["spec"].take();
    let names: Vec<&str> = spec["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["create_orders", "list_pets", "create_pet", "get_pet", "upload_photo", "delete_pet"]);
    let tool = |name: &str| spec["tools"].as_array().unwrap().iter().find(|tool| tool["name"] == name).unwrap();
    assert_eq!(spec["bases"], json!([{ "url": "https://eu.pets.example/v2", "env": "PET_SHOP_BASE_URL" }]));
    assert_eq!(spec["auth"]["key"], json!({ "kind": "api_key", "in": "header", "name": "X-Shop-Key", "env": "PET_SHOP_KEY" }));
    let list = tool("list_pets");
    assert_eq!(
        list["input_schema"]["properties"]["limit"],
        json!({ "type": "integer", "minimum": 1, "maximum": 100, "default": 20, "description": "How many" })
    );
    assert_eq!(list["description"], "List pets. Returns: A page of pets");
    assert_eq!(list["annotations"], json!({ "read_only": true, "destructive": false, "idempotent": true, "open_world": true }));
    // What is read-only is not sent, and what goes in circles ends.
    let pet = &tool("create_pet")["input_schema"]["properties"]["body"];
    assert_eq!((&pet["required"], pet["properties"].get("id")), (&json!(["name"]), None), "{pet:#}");
    assert_eq!(pet["properties"]["parent"]["description"], "Again Pet; its members are not listed.");
    assert!(tool("delete_pet")["description"].as_str().unwrap().starts_with("[DEPRECATED]"));
    assert_eq!(tool("delete_pet")["action"]["security"], json!([["shop"], ["key"]]));
    assert_eq!(tool("upload_photo")["action"]["body"]["parts"]["file"], json!({ "binary": true }));
    assert_eq!(spec["provenance"][""], "document");
    // What was made is written down as it is read.
    let again = app.generated(&ada.access, &json!({ "spec": spec, "name": "mcp-again" })).await;
    assert_eq!((&again["status"], &again["result"]["name"]), (&json!("complete"), &json!("mcp-again")), "{again:#}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_understood_is_asked_about() {
    let (app, ada, _) = people().await;
    for (order, question) in [
        (json!({ "description": "order me a pizza" }), "api_unknown"),
        (json!({ "description": "A weather API with forecasts and alerts by SMS" }), "capability_unknown"),
        (json!({ "description": "GET /pets - all pets" }), "base_url_unknown"),
    ] {
        let job = app.generated(&ada.access, &order).await;
        assert_eq!((&job["status"], &job["result"]["questions"][0]["id"]), (&json!("needs_input"), &json!(question)), "{job:#}");
    }
    let order = json!({ "description": "GET /pets - all pets", "options": { "base_url": "https://pets.example" } });
    assert_eq!(app.generated(&ada.access, &order).await["status"], "complete");
    assert!(app.read(&ada.access, "/api/mcp/generated").await.expect(200)["servers"].as_array().unwrap().len() == 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_input_is_read() {
    let (app, ada, _) = people().await;
    let curl = "curl -X POST https://api.acme.dev/v1/orders -H 'Authorization: Bearer s3cr3t' -d '{\"item\": \"x\"}'\ncurl https://api.acme.dev/v1/orders/42";
    let postman = json!({ "info": { "name": "Acme", "schema": "https://schema.getpostman.com/json/collection/v2.1.0/collection.json" },
        "item": [{ "name": "List orders", "request": { "method": "GET", "url": "https://api.acme.dev/orders?state=open" } }] });
    let string = json!({ "kind": "SCALAR", "name": "String" });
    let graphql = json!({ "__schema": { "queryType": { "name": "Query" }, "types": [
        { "kind": "OBJECT", "name": "Query", "fields": [{ "name": "hello", "args": [{ "name": "to", "type": string }], "type": string }] }] } });
    let swagger = json!({ "swagger": "2.0", "info": { "title": "Old", "version": "1" }, "host": "old.example", "basePath": "/v1", "schemes": ["https"],
        "paths": { "/things": { "get": { "operationId": "listThings", "parameters": [
            { "name": "ids", "in": "query", "type": "array", "items": { "type": "integer" }, "collectionFormat": "pipes" }], "responses": {} } } } });
    for (order, name, tools, kind) in [
        (json!({ "curl": curl }), "mcp-acme", 2, "curl"),
        (json!({ "postman": postman, "name": "mcp-acme-postman" }), "mcp-acme-postman", 1, "postman"),
        (json!({ "graphql": graphql, "options": { "base_url": "https://graph.example/graphql" } }), "mcp-graph", 1, "graphql"),
        (json!({ "openapi": swagger }), "mcp-old", 1, "swagger"),
        (
            json!({ "description": "GET https://api.acme.dev/health - whether it is well", "name": "mcp-health" }),
            "mcp-health",
            1,
            "description",
        ),
    ] {
        let job = app.generated(&ada.access, &order).await;
        assert_eq!(
            (&job["status"], &job["result"]["name"], &job["result"]["tools"]),
            (&json!("complete"), &json!(name), &json!(tools)),
            "{job:#}"
        );
        let stored = app.read(&ada.access, &format!("/api/mcp/generated/{name}")).await.expect(200);
        assert_eq!(stored["spec"]["source"]["kind"], kind);
        assert!(!stored.to_string().contains("s3cr3t"), "secrets of examples are not kept");
    }
    let style = app.read(&ada.access, "/api/mcp/generated/mcp-old").await.expect(200)["spec"]["tools"][0]["action"]["params"][0].take();
    assert_eq!((&style["style"], &style["explode"]), (&json!("pipeDelimited"), &json!(false)));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_operations_stand_behind_four_tools() {
    let (app, ada, _) = people().await;
    let operation = |n: usize| {
        json!({ "get": { "operationId": format!("readThing{n}"), "summary": format!("Read thing {n}"), "responses": {} },
        "delete": { "operationId": format!("deleteThing{n}"), "responses": {} } })
    };
    let paths: serde_json::Map<String, Value> = (0..70).map(|n| (format!("/things{n}/{{id}}"), operation(n))).collect();
    let document = json!({ "openapi": "3.1.0", "info": { "title": "Many things", "version": "1" }, "servers": [{ "url": "https://many.example" }], "paths": paths });
    let job = app.generated(&ada.access, &json!({ "openapi": document })).await;
    assert_eq!((&job["result"]["tools"], &job["result"]["operations"]), (&json!(4), &json!(140)), "{job:#}");
    let log = job["log"].to_string();
    assert!(log.contains("tools-dynamic") && log.contains("path-parameter-undeclared"), "{log}");
    // All of them are more than clients take.
    let job = app.generated(&ada.access, &json!({ "openapi": document, "options": { "tools": "all" } })).await;
    assert_eq!((&job["status"], &job["error"]["code"]), (&json!("failed"), &json!("server_invalid")));
    assert!(job["error"]["message"].as_str().unwrap().contains("tools-too-many"), "{job:#}");
    app.stop().await;
}
