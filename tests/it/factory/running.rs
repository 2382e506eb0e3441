//! Generated servers as they run: the whole way from a document to calls, and what is left of what was stopped.

use std::{collections::BTreeMap, process::Stdio};

use serde_json::{Value, json};
use tokio::process::Command;
use wiremock::{Mock, MockServer, ResponseTemplate, matchers::any};

use super::{PETS, levels};
use crate::{
    gateway::{NODE, installed},
    support::{Binary, Mcp, Packages, TestApp, cluster, eventually},
};

/// An API that answers everything alike.
async fn api() -> MockServer {
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(ResponseTemplate::new(200).set_body_json(json!({ "ok": true }))).mount(&server).await;
    server
}

impl TestApp {
    /// Installs and starts a server of the catalogue; gives the id of its instance.
    pub(super) async fn running(&self, server: &str) -> String {
        let begun = self.op_post_json("/api/mcp/packages/install", &json!({ "name": server, "enabled": false })).await.expect(202);
        let job = self.job(begun["job_id"].as_str().unwrap()).await;
        assert_eq!(job["status"], "complete", "{job:#}");
        let begun = self.op_post(&format!("/api/mcp/servers/{server}/start")).await.expect(202);
        let id = begun["id"].as_str().unwrap().to_owned();
        eventually(60, "the server runs", || async {
            let instance = self.op_get(&format!("/api/mcp/instances/{id}")).await.expect(200);
            assert_ne!(instance["state"], "FAILED", "{instance:#}");
            (instance["state"] == "RUNNING").then_some(())
        })
        .await;
        id
    }
}

/// Where it stands, style, explode, the value, and what the request has to have: path or query, header, cookie.
type Row = (&'static str, &'static str, bool, &'static str, &'static str);
const EACH: [Row; 26] = [
    ("path", "simple", false, "\"blue\"", "/blue"),
    ("path", "simple", false, "[\"blue\",\"black\",\"brown\"]", "/blue,black,brown"),
    ("path", "simple", false, "{\"B\":150,\"G\":200,\"R\":100}", "/B,150,G,200,R,100"),
    ("path", "simple", true, "{\"B\":150,\"G\":200,\"R\":100}", "/B=150,G=200,R=100"),
    ("path", "label", false, "\"blue\"", "/.blue"),
    ("path", "label", false, "[\"blue\",\"black\",\"brown\"]", "/.blue,black,brown"),
    ("path", "label", true, "[\"blue\",\"black\",\"brown\"]", "/.blue.black.brown"),
    ("path", "label", true, "{\"B\":150,\"G\":200,\"R\":100}", "/.B=150.G=200.R=100"),
    ("path", "matrix", false, "\"blue\"", "/;color=blue"),
    ("path", "matrix", false, "[\"blue\",\"black\",\"brown\"]", "/;color=blue,black,brown"),
    ("path", "matrix", true, "[\"blue\",\"black\",\"brown\"]", "/;color=blue;color=black;color=brown"),
    ("path", "matrix", true, "{\"B\":150,\"G\":200,\"R\":100}", "/;B=150;G=200;R=100"),
    ("query", "form", true, "\"blue & green/é\"", "?color=blue%20%26%20green%2F%C3%A9"),
    ("query", "form", true, "[\"blue\",\"black\",\"brown\"]", "?color=blue&color=black&color=brown"),
    ("query", "form", false, "[\"blue\",\"black\",\"brown\"]", "?color=blue,black,brown"),
    ("query", "form", true, "{\"B\":150,\"G\":200,\"R\":100}", "?B=150&G=200&R=100"),
    ("query", "form", false, "{\"B\":150,\"G\":200,\"R\":100}", "?color=B,150,G,200,R,100"),
    ("query", "spaceDelimited", false, "[\"blue\",\"black\",\"brown\"]", "?color=blue%20black%20brown"),
    ("query", "pipeDelimited", false, "[\"blue\",\"black\",\"brown\"]", "?color=blue%7Cblack%7Cbrown"),
    ("query", "deepObject", true, "{\"B\":150,\"G\":200,\"R\":100}", "?color%5BB%5D=150&color%5BG%5D=200&color%5BR%5D=100"),
    ("query", "reserved", true, "\"a/b:c?d@e\"", "?color=a/b:c?d@e"),
    ("query", "content", true, "{\"B\":[1,2]}", "?color=%7B%22B%22%3A%5B1%2C2%5D%7D"),
    ("header", "simple", false, "[\"blue\",\"black\",\"brown\"]", "blue,black,brown"),
    ("header", "simple", true, "{\"B\":150,\"G\":200,\"R\":100}", "B=150,G=200,R=100"),
    ("cookie", "form", false, "\"blue\"", "color=blue"),
    ("cookie", "form", false, "[\"blue\",\"black\"]", "color=blue,black"),
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs node"]
async fn every_parameter_style_arrives_as_the_document_demands() {
    let (api, app) = (api().await, TestApp::start().await);
    let mut paths = serde_json::Map::new();
    for (at, (place, style, explode, value, _)) in EACH.iter().enumerate() {
        let example: Value = serde_json::from_str(value).unwrap();
        let kind = if example.is_array() {
            json!({ "type": "array", "items": { "type": "string" } })
        } else if example.is_object() {
            json!({ "type": "object" })
        } else {
            json!({ "type": "string" })
        };
        let mut parameter = json!({ "name": "color", "in": place, "required": true, "style": style, "explode": explode, "schema": kind });
        if *style == "reserved" {
            parameter = json!({ "name": "color", "in": place, "allowReserved": true, "schema": kind });
        } else if *style == "content" {
            parameter = json!({ "name": "color", "in": place, "content": { "application/json": { "schema": kind } } });
        }
        let path = if *place == "path" { format!("/op{at}/{{color}}") } else { format!("/op{at}") };
        paths.insert(path, json!({ "get": { "operationId": format!("op{at}"), "parameters": [parameter], "responses": {} } }));
    }
    let document =
        json!({ "openapi": "3.0.3", "info": { "title": "Styles", "version": "1" }, "servers": [{ "url": api.uri() }], "paths": paths });
    let job = app.generated(&app.token, &json!({ "openapi": document })).await;
    assert_eq!(job["status"], "complete", "{job:#}");
    assert!(levels(&job).contains(&("L4".into(), "passed".into())), "{job:#}");
    let instance = app.running("mcp-styles").await;
    let mut wrong = Vec::new();
    for (at, (place, style, explode, value, wanted)) in EACH.iter().enumerate() {
        api.reset().await;
        Mock::given(any()).respond_with(ResponseTemplate::new(200)).mount(&api).await;
        let args = json!({ "arguments": { "color": serde_json::from_str::<Value>(value).unwrap() } });
        let answer = app.op_post_json(&format!("/api/mcp/instances/{instance}/tools/op{at}/call"), &args).await.expect(200);
        let asked = api.received_requests().await.unwrap();
        let [one] = &asked[..] else { panic!("{place} {style}: {answer:#}") };
        let header = |name: &str| one.headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        let came = match *place {
            "path" => one.url.path().strip_prefix(&format!("/op{at}")).unwrap().to_owned(),
            "query" => format!("?{}", one.url.query().unwrap_or_default()),
            "header" => header("color"),
            _ => header("cookie"),
        };
        if came != *wanted {
            wrong.push(format!("{place} {style} explode={explode}: wanted {wanted}, came {came}"));
        }
    }
    assert_eq!(wrong, [""; 0]);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs node"]
async fn a_generated_server_is_installed_run_and_served_like_any_other() {
    let (api, app) = (api().await, TestApp::start().await);
    let job = app.generated(&app.token, &json!({ "openapi": PETS, "options": { "base_url": format!("{}/v2", api.uri()) } })).await;
    assert_eq!(
        levels(&job)[2..],
        [("L2", "passed"), ("L3", "passed"), ("L4", "passed")].map(|(a, b)| (a.to_owned(), b.to_owned())),
        "{job:#}"
    );
    let credential = json!({ "server_id": "mcp-pet-shop", "env_var": "PET_SHOP_KEY", "value": "k-123" });
    app.running("mcp-pet-shop").await;
    for revision in ["2026-07-28", "2025-11-25"] {
        let client = Mcp::connect(&format!("{}/mcp/s/mcp-pet-shop", app.url), &app.token, revision).await;
        let names = client.names("tools/list").await;
        assert_eq!(names, ["create_orders", "list_pets", "create_pet", "get_pet", "upload_photo", "delete_pet"]);
        let came = client.tool("get_pet", json!({ "petId": 7 })).await;
        // Without its key it says which one is missing.
        assert!(came.result()["isError"] == true && came.text().contains("PET_SHOP_KEY"), "{:?}", came.result());
        let came = client.tool("get_pet", json!({ "petId": "seven", "more": 1 })).await;
        assert!(
            came.result()["isError"] == true && came.text().contains("petId must be integer") && came.text().contains("more"),
            "{}",
            came.text()
        );
    }
    app.op_post_json("/api/mcp/credentials", &credential).await;
    // The bundle is where the registry says that it is.
    app.op_post_json("/api/mcp/catalog/rules", &json!({ "effect": "allow", "pattern": "*" })).await;
    let entry = app.op_get("/v0.1/servers/local.fabric%2Fmcp-pet-shop/versions/latest?rewrite=local").await;
    if entry.status == 200 {
        let address = entry.json()["server"]["packages"][0]["identifier"].as_str().unwrap().to_owned();
        assert!(address.starts_with(&app.url), "{address}");
    }
    let bundle = app.op_get("/api/mcp/generated/mcp-pet-shop/1.0.0/mcp-pet-shop-1.0.0.mcpb").await;
    assert_eq!((bundle.status, &bundle.body[..2]), (200, &b"PK"[..]));
    app.get("/api/mcp/generated/mcp-pet-shop/1.0.0/mcp-pet-shop-1.0.0.mcpb").await.expect_problem(404, "server_not_found");
    // What is installed is not removed.
    let refused = app.call(reqwest::Method::DELETE, "/api/mcp/generated/mcp-pet-shop", &app.token, &Value::Null).await;
    refused.expect_problem(409, "server_installed");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm and its public registry"]
async fn what_is_made_passes_the_tools_of_others() {
    let folder = installed("factory", &["typescript@7.0.2", "esbuild@0.28.2", "@anthropic-ai/mcpb@2.1.2"], &[]);
    let app = TestApp::with(&[("FABRIC_NPM_REGISTRY", "")]).await;
    let job = app.generated(&app.token, &json!({ "openapi": PETS })).await;
    assert!(levels(&job).iter().all(|(_, verdict)| verdict == "passed"), "{job:#}");
    let archive = job["result"]["package"].as_str().unwrap();
    let run = async |program: &std::path::Path, args: &[&str], place: &std::path::Path| {
        let output = Command::new(program).args(args).current_dir(place).stdin(Stdio::null()).output().await.unwrap();
        assert!(
            output.status.success(),
            "{args:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    };
    // npm installs it, and its own test passes.
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("package.json"), "{}").unwrap();
    run("npm".as_ref(), &["install", "--no-audit", "--no-fund", archive], place.path()).await;
    run("node".as_ref(), &["--test", "test/"], &place.path().join("node_modules/mcp-pet-shop")).await;
    // The runtime in one file is what its source says.
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/factory/node");
    let bundled = place.path().join("bundle.mjs");
    run(&source.join("bundle"), &[folder.join("node_modules/.bin/esbuild").to_str().unwrap(), bundled.to_str().unwrap()], place.path())
        .await;
    assert_eq!(
        std::fs::read_to_string(bundled).unwrap(),
        std::fs::read_to_string(source.join("runtime.bundle.mjs")).unwrap(),
        "src/factory/node/bundle writes it"
    );
    // The bundle's manifest is one to MCPB's own validator.
    let bytes = std::fs::read(std::path::Path::new(archive).with_extension("mcpb")).unwrap();
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
    let manifest = place.path().join("manifest.json");
    std::io::copy(&mut zip.by_name("manifest.json").unwrap(), &mut std::fs::File::create(&manifest).unwrap()).unwrap();
    run(&folder.join("node_modules/.bin/mcpb"), &["validate", "manifest.json"], place.path()).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm and its public registry"]
async fn the_runtime_passes_the_conformance_suite() {
    const SUITE: &str = "@modelcontextprotocol/conformance@0.2.0-alpha.12";
    let server = MockServer::start().await;
    Mock::given(wiremock::matchers::path("/text"))
        .respond_with(ResponseTemplate::new(200).set_body_raw("This is a simple text response for testing.", "text/plain"))
        .mount(&server)
        .await;
    Mock::given(wiremock::matchers::path("/error"))
        .respond_with(ResponseTemplate::new(500).set_body_raw("This tool intentionally returns an error for testing", "text/plain"))
        .mount(&server)
        .await;
    let app = TestApp::with(&[("FABRIC_TRUST_LOOPBACK", "true")]).await;
    let get = |id: &str| json!({ "get": { "operationId": id, "responses": {} } });
    let document = json!({ "openapi": "3.1.0", "info": { "title": "Fixture", "version": "1" }, "servers": [{ "url": server.uri() }],
        "paths": { "/text": get("test_simple_text"), "/error": get("test_error_handling") } });
    let job = app.generated(&app.token, &json!({ "openapi": document })).await;
    assert_eq!(job["status"], "complete", "{job:#}");
    app.running("mcp-fixture").await;
    let folder = installed("conformance", &[NODE, SUITE], &[]);
    let url = format!("{}/mcp/s/mcp-fixture", app.url);
    let scenarios = BTreeMap::from([
        ("2025-11-25", &["server-initialize", "ping", "tools-list", "tools-call-simple-text", "tools-call-error"][..]),
        ("2026-07-28", &["server-stateless", "tools-list", "tools-call-simple-text", "tools-call-error", "caching"][..]),
    ]);
    for (revision, names) in scenarios {
        for name in names {
            let results = tempfile::tempdir().unwrap();
            let mut suite = Command::new(folder.join("node_modules/.bin/node"));
            suite.arg(folder.join("node_modules/@modelcontextprotocol/conformance/dist/index.js"));
            suite.args(["server", "--url", &url, "--scenario", name, "--spec-version", revision, "-o"]).arg(results.path());
            let output = suite.current_dir(&folder).kill_on_drop(true).output();
            tokio::time::timeout(std::time::Duration::from_mins(2), output).await.unwrap().unwrap();
            let found = std::fs::read_dir(results.path())
                .unwrap()
                .flatten()
                .filter_map(|entry| std::fs::read(entry.path().join("checks.json")).ok());
            let checks: Vec<Value> = found.flat_map(|checks| serde_json::from_slice::<Vec<Value>>(&checks).unwrap()).collect();
            assert!(checks.iter().any(|check| check["status"] == "SUCCESS"), "{revision} {name}: {checks:#?}");
            // What the suite tests by tools of its own fixture, and what a server of tools alone has not, is left out.
            let is_of_fixture = |check: &Value| {
                let message = check["errorMessage"].as_str().unwrap_or_default();
                message.starts_with("Not testable: server does not list")
                    || ["prompts/", "resources/"].iter().any(|of| message.starts_with(of))
            };
            let failed: Vec<&Value> = checks.iter().filter(|check| check["status"] == "FAILURE" && !is_of_fixture(check)).collect();
            assert!(failed.is_empty(), "{revision} {name}: {failed:#?}");
        }
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_fabric_leaves_no_half_and_finishes_the_whole() {
    let (folder, database) = (tempfile::tempdir().unwrap(), cluster::database().await);
    let data = folder.path().join("data");
    cluster::share_roles(&data).await;
    let settings = [("DATABASE_URL", database.url())];
    let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let http = reqwest::Client::new();
    let document = json!({ "openapi": PETS });
    for wait in [0, 5, 20, 60, 150, 300] {
        let fabric = Binary::serve(&data, &settings);
        let token = std::fs::read_to_string(data.join("operator.token")).unwrap();
        let name = format!("mcp-killed-{wait}");
        let order = json!({ "openapi": document["openapi"], "name": name });
        let begun: Value = http
            .post(format!("{}/api/mcp/generate", fabric.url))
            .bearer_auth(token.trim())
            .json(&order)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        let id = begun["job_id"].as_str().unwrap().to_owned();
        tokio::time::sleep(std::time::Duration::from_millis(wait)).await;
        fabric.kill();
        let fabric = Binary::serve(&data, &settings);
        let get = async |path: &str| http.get(format!("{}{path}", fabric.url)).bearer_auth(token.trim()).send().await.unwrap();
        let job = eventually(60, "the job goes on", || async {
            let job: Value = get(&format!("/api/mcp/jobs/{id}")).await.json().await.unwrap();
            (!matches!(job["status"].as_str(), Some("pending" | "processing"))).then_some(job)
        })
        .await;
        assert_eq!(job["status"], "complete", "after {wait} ms: {job:#}");
        assert!(std::path::Path::new(job["result"]["package"].as_str().unwrap()).is_file());
        let stored: Value = get(&format!("/api/mcp/generated/{name}")).await.json().await.unwrap();
        assert_eq!(stored["version"], "1.0.0", "after {wait} ms: once, and whole: {stored:#}");
        fabric.terminate();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_registers_nothing() {
    let app = TestApp::start().await;
    let paths: serde_json::Map<String, Value> =
        (0..3000).map(|n| (format!("/t{n}"), json!({ "get": { "operationId": format!("t{n}"), "responses": {} } }))).collect();
    let document = json!({ "openapi": "3.1.0", "info": { "title": "Slow", "version": "1" }, "servers": [{ "url": "https://slow.example" }], "paths": paths });
    let begun = app.op_post_json("/api/mcp/generate", &json!({ "openapi": document })).await.expect(202);
    let id = begun["job_id"].as_str().unwrap();
    app.op_post(&format!("/api/mcp/jobs/{id}/cancel")).await.expect(200);
    assert_eq!(app.job(id).await["status"], "cancelled");
    assert_eq!(app.op_get("/api/mcp/generated").await.expect(200), json!({ "servers": [] }));
    assert!(!app.data().join("output/mcp-slow/mcp-slow-1.0.0.tgz").exists());
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_made_of_its_base_and_the_server() {
    let packages = Packages::start().await;
    let tag = packages.image("tools/node", &[b"first layer", b"second layer"], |_| ());
    let host = packages.host();
    let settings = [("FABRIC_OCI_PLAIN_HTTP", host.as_str()), ("FABRIC_ALLOWED_HOSTS", host.as_str())];
    let app = TestApp::with(&settings).await;
    let base = format!("{host}/tools/node@{tag}");
    let order = json!({ "description": "A calculator API with add", "options": { "image": base } });
    let job = app.generated(&app.token, &order).await;
    assert_eq!(job["status"], "complete", "{job:#}");
    let stored = app.op_get("/api/mcp/generated/mcp-calculator").await.expect(200);
    assert_eq!(stored["docker_image"], "local.fabric/mcp-calculator:1.0.0");
    let mut tar = tar::Archive::new(std::fs::File::open(job["result"]["image"].as_str().unwrap()).unwrap());
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        files.insert(entry.path().unwrap().display().to_string(), bytes);
    }
    let read = |name: &str| serde_json::from_slice::<Value>(&files[name]).unwrap();
    let blob = |digest: &Value| format!("blobs/sha256/{}", digest.as_str().unwrap().strip_prefix("sha256:").unwrap());
    let manifest = read(&blob(&read("index.json")["manifests"][0]["digest"]));
    let config = read(&blob(&manifest["config"]["digest"]));
    assert_eq!(
        (manifest["layers"].as_array().unwrap().len(), config["rootfs"]["diff_ids"].as_array().unwrap().len()),
        (3, 1),
        "{config:#}"
    );
    assert_eq!(config["config"]["Entrypoint"], json!(["node", "/app/server.mjs"]));
    for layer in manifest["layers"].as_array().unwrap() {
        assert!(files.contains_key(&blob(&layer["digest"])), "{layer}");
    }
    // Nothing that was begun is left beside it.
    let beside = std::fs::read_dir(app.data().join("output/mcp-calculator")).unwrap().flatten();
    assert!(beside.into_iter().all(|entry| !entry.file_name().to_string_lossy().starts_with('.')));
    // A base that is not there ends the job, and leaves no server.
    let missing = json!({ "description": "A calculator API with add and divide", "name": "mcp-other", "options": { "image": format!("{host}/tools/none:1") } });
    assert_eq!(app.generated(&app.token, &missing).await["status"], "failed");
    app.op_get("/api/mcp/generated/mcp-other").await.expect_problem(404, "server_not_found");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm and its public registry"]
async fn real_documents_of_every_size_become_servers_whose_calls_are_right() {
    let folder = installed("documents", &["@octokit/openapi@23.0.2", "@readme/oas-examples@8.2.2"], &[]).join("node_modules");
    let app = TestApp::start().await;
    let sizes = [
        "@readme/oas-examples/3.0/json/petstore.json",
        "@readme/oas-examples/3.1/json/train-travel.json",
        "@octokit/openapi/generated/api.github.com.json",
    ];
    for (at, name) in sizes.iter().enumerate() {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        for language in ["node", "python"] {
            let order = json!({ "openapi": text, "name": format!("real-{at}-{language}"), "runtime": language });
            let job = app.generated(&app.token, &order).await;
            assert_eq!(job["status"], "complete", "{name} {language}: {}", job["error"]);
            let calls = job["result"]["report"]["levels"].as_array().unwrap().iter().find(|one| one["level"] == "L4").unwrap();
            let note = calls["note"].as_str().unwrap();
            let counts: Vec<usize> = note.split(' ').filter_map(|word| word.parse().ok()).collect();
            assert!(calls["verdict"] == "passed" && counts[0] == counts[1] && counts[0] > 0, "{name} {language}: {note}");
        }
    }
    app.stop().await;
}
