//! The factory's API in the shapes that earlier systems documented, and what it refuses.

use reqwest::Method;
use serde_json::{Value, json};

use super::{PETS, people};
use crate::support::{Binary, TestApp, cluster};

#[tokio::test(flavor = "multi_thread")]
async fn older_paths_answer_in_their_shapes() {
    let (app, ada, bob) = people().await;
    let token = &ada.access;
    // Unknown fields are passed over here.
    let order = json!({ "description": "A weather API that fetches current conditions and forecasts", "runtime": "node", "priority": 7 });
    let answer = app.call(Method::POST, "/api/generate", token, &order).await;
    let begun = answer.expect(202);
    let id = begun["job_id"].as_str().unwrap();
    assert!(id.starts_with("job_") && begun["status"] == "processing", "{begun}");
    assert_eq!(answer.header("location"), Some(format!("/api/jobs/{id}").as_str()));
    let job = crate::support::eventually(60, "the job ends", || async {
        let job = app.read(token, &format!("/api/jobs/{id}")).await.expect(200);
        (job["status"] != "processing").then_some(job)
    })
    .await;
    assert_eq!(
        (&job["job_id"], &job["status"], &job["result"]["name"]),
        (&json!(id), &json!("complete"), &json!("mcp-weather")),
        "{job:#}"
    );
    app.read(&bob.access, &format!("/api/jobs/{id}")).await.expect_problem(404, "job_not_found");
    app.read(token, "/api/jobs/job_nothing").await.expect_problem(404, "job_not_found");
    let list = app.read(token, "/api/servers?limit=10").await.expect(200);
    let description = "Current weather and forecasts for any place, from Open-Meteo";
    assert_eq!(list, json!({ "servers": [{ "name": "mcp-weather", "version": "1.0.0", "description": description }] }));
    let one = app.read(token, "/api/servers/mcp-weather?version=1.0.0").await.expect(200);
    for member in
        ["id", "name", "version", "description", "spec", "package_path", "docker_image", "claude_config", "created_at", "updated_at"]
    {
        assert!(one.get(member).is_some(), "{member}");
    }
    app.read(token, "/api/servers/mcp-weather?version=9.9.9").await.expect_problem(404, "generated_not_found");
    let valid = app.call(Method::POST, "/api/validate", token, &json!({ "spec": one["spec"] })).await.expect(200);
    assert_eq!((&valid["valid"], &valid["errors"]), (&json!(true), &json!([])), "{valid:#}");
    let valid = app.call(Method::POST, "/api/validate", token, &json!({ "path": "mcp-weather/mcp-weather-1.0.0.tgz" })).await.expect(200);
    assert_eq!(valid["valid"], true, "{valid:#}");
    // What somebody else made is not there to be looked at.
    let path = json!({ "path": "mcp-weather" });
    app.call(Method::POST, "/api/validate", &bob.access, &path).await.expect_problem(400, "path_not_found");
    // Its own manifest registers it again, and takes nothing from it.
    let manifest: Value = serde_json::from_slice(&std::fs::read(app.data().join("output/mcp-weather/manifest.json")).unwrap()).unwrap();
    let again = app.call(Method::POST, "/api/servers", token, &manifest).await.expect(201);
    assert_eq!((&again["spec"], &again["claude_config"]), (&one["spec"], &one["claude_config"]));
    let removed = app.call(Method::DELETE, "/api/servers/mcp-weather?files=true", token, &Value::Null).await.expect(200);
    assert_eq!(removed["removed"], true);
    assert!(!app.data().join("output/mcp-weather").exists());
    app.read(token, "/api/servers/mcp-weather").await.expect_problem(404, "server_not_found");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_of_earlier_systems_are_registered() {
    let (app, ada, _) = people().await;
    let manifest = json!({ "name": "mcp-mine", "version": "2.0.0", "description": "Mine", "docker_image": "ghcr.io/acme/mine:2.0.0",
        "claude_config": { "mcpServers": { "mcp-mine": { "command": "npx", "args": ["mine"] } } }, "spec": { "name": "mcp-mine", "tools": [] }, "custom": [1, 2] });
    let stored = app.call(Method::POST, "/api/servers", &ada.access, &manifest).await.expect(201);
    assert_eq!((&stored["name"], &stored["docker_image"], &stored["manifest"]), (&manifest["name"], &manifest["docker_image"], &manifest));
    let newer = json!({ "name": "mcp-mine", "version": "2.1.0" });
    app.call(Method::POST, "/api/servers", &ada.access, &newer).await.expect(201);
    let latest = app.read(&ada.access, "/api/servers/mcp-mine").await.expect(200);
    assert_eq!(latest["version"], "2.1.0");
    for (manifest, locations) in [
        (json!({}), vec!["body.name", "body.version"]),
        (json!({ "name": "../x", "version": "1" }), vec!["body.name", "body.version"]),
        (json!({ "name": "mcp-x", "version": "1.0.0", "spec": 7, "claude_config": "x" }), vec!["body.spec", "body.claude_config"]),
    ] {
        let problem = app.call(Method::POST, "/api/servers", &ada.access, &manifest).await.expect_problem(400, "invalid_field");
        let found: Vec<&str> = problem["errors"].as_array().unwrap().iter().map(|one| one["location"].as_str().unwrap()).collect();
        assert_eq!(found, locations, "{manifest}");
    }
    let outside = json!({ "name": "mcp-x", "version": "1.0.0", "package": "/etc/passwd" });
    app.call(Method::POST, "/api/servers", &ada.access, &outside).await.expect_problem(400, "path_outside");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_orders_are_refused_by_name() {
    let (app, ada, _) = people().await;
    let token = &ada.access;
    for (order, location) in [
        (json!({}), "body"),
        (json!({ "description": "x", "curl": "curl https://x.dev" }), "body"),
        (json!({ "description": "  " }), "body.description"),
        (json!({ "openapi": "" }), "body.openapi"),
        (json!({ "description": "x\u{0}y" }), "body.description"),
        (json!({ "description": "calculator", "name": "../../etc" }), "body.name"),
        (json!({ "description": "calculator", "options": { "base_url": "file:///etc/passwd" } }), "body.options.base_url"),
    ] {
        let problem = app.call(Method::POST, "/api/mcp/generate", token, &order).await.expect_problem(400, "invalid_field");
        assert_eq!(problem["errors"][0]["location"], location, "{order}");
    }
    for bad in [
        json!({ "description": "calculator", "runtime": "cobol" }),
        json!({ "description": "calculator", "wrong": 1 }),
        json!({ "description": 7 }),
    ] {
        assert_eq!(app.call(Method::POST, "/api/mcp/generate", token, &bad).await.status, 400, "{bad}");
    }
    for (order, code) in [
        (json!({ "openapi": "not: [an, api" }), "document_unreadable"),
        (json!({ "openapi": { "openapi": "4.0.0", "paths": {} } }), "document_unreadable"),
        (json!({ "openapi": { "openapi": "3.0.0", "info": {}, "paths": {} } }), "document_unreadable"),
        (json!({ "curl": "wget https://x.dev" }), "document_unreadable"),
        (json!({ "spec": { "name": "x" } }), "server_invalid"),
        (json!({ "url": "http://169.254.169.254/latest/meta-data" }), "document_unreadable"),
        (json!({ "url": "file:///etc/passwd" }), "invalid_field"),
        (json!({ "openapi": PETS, "options": { "include": ["nothing*"] } }), "invalid_field"),
    ] {
        let job = app.generated(token, &order).await;
        assert_eq!((&job["status"], &job["error"]["code"]), (&json!("failed"), &json!(code)), "{order}: {job:#}");
    }
    for bad in [json!({}), json!({ "spec": {}, "path": "x" }), json!({ "path": " " })] {
        app.call(Method::POST, "/api/mcp/validate", token, &bad).await.expect_problem(400, "invalid_field");
    }
    for bad in ["..", "../master.key", "/etc"] {
        app.call(Method::POST, "/api/mcp/validate", token, &json!({ "path": bad })).await.expect_problem(400, "path_outside");
    }
    let report = app.call(Method::POST, "/api/mcp/validate", token, &json!({ "spec": { "name": "x", "tools": [] } })).await.expect(200);
    assert_eq!((&report["valid"], &report["findings"][0]["id"]), (&json!(false), &json!("spec-shape")), "{report:#}");
    app.read(token, "/api/mcp/generated?limit=0").await.expect_problem(400, "invalid_field");
    assert_eq!(app.read(token, "/api/mcp/generated").await.expect(200), json!({ "servers": [] }));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_node_protocol_and_calls_are_skipped_and_the_own_port_answers() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let app = TestApp::with(&[("MCP_FACTORY_PORT", &port)]).await;
    let token = std::fs::read_to_string(app.data().join("operator.token")).unwrap();
    let client = reqwest::Client::new();
    let listed = client.get(format!("http://127.0.0.1:{port}/api/servers")).bearer_auth(token.trim()).send().await.unwrap();
    assert_eq!(listed.json::<Value>().await.unwrap(), json!({ "servers": [] }));
    let unknown = client.get(format!("http://127.0.0.1:{port}/api/mcp/servers")).bearer_auth(token.trim()).send().await.unwrap();
    assert_eq!(unknown.status(), 404);
    app.stop().await;
    let (folder, database) = (tempfile::tempdir().unwrap(), cluster::database().await);
    let data = folder.path().join("data");
    cluster::share_roles(&data).await;
    let settings = [("PATH", "/nowhere"), ("FABRIC_OFFLINE", "true"), ("DATABASE_URL", &database.url())];
    let made = Binary::run(&data, &settings, &["--json", "generate", "A calculator API with add and divide"]);
    let said = String::from_utf8_lossy(&made.stdout);
    let result: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said} {}", String::from_utf8_lossy(&made.stderr)));
    let verdicts: Vec<(&str, &str)> = result["report"]["levels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["level"].as_str().unwrap(), one["verdict"].as_str().unwrap()))
        .collect();
    assert_eq!(verdicts, [("L0", "passed"), ("L1", "skipped"), ("L2", "passed"), ("L3", "skipped"), ("L4", "skipped")], "{result:#}");
}
