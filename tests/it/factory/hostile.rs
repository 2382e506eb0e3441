//! Documents of people who want something else than a server.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::people;

fn document(paths: &Value) -> Value {
    json!({ "openapi": "3.1.0", "info": { "title": "Evil", "version": "1" }, "servers": [{ "url": "https://evil.example" }], "paths": paths })
}

#[tokio::test(flavor = "multi_thread")]
async fn text_of_documents_is_never_code() {
    let (app, ada, _) = people().await;
    let evil = "`${process.exit(1)}` \" ' \\ */ </script> <!-- \u{2028} $(touch evil) ${{7*7}} #{7*7}";
    let operation = json!({ "operationId": format!("x{evil}"), "summary": evil, "description": evil, "tags": [evil],
        "parameters": [{ "name": evil, "in": "query", "description": evil, "schema": { "type": "string", "enum": [evil], "default": evil } }],
        "responses": { "200": { "description": evil } } });
    let document = json!({ "openapi": "3.1.0", "info": { "title": evil, "description": evil, "version": evil },
        "servers": [{ "url": "https://evil.example/`${1}`" }], "paths": { "/a`${1}`": { "get": operation } } });
    let job = app.generated(&ada.access, &json!({ "openapi": document, "name": "mcp-evil" })).await;
    assert_eq!(job["status"], "complete", "{job:#}");
    let project = app.data().join("output/mcp-evil/1.0.0");
    let tools = std::fs::read_to_string(project.join("src/tools.ts")).unwrap();
    // Inside of literals only: with them taken out, nothing of it is left.
    let mut outside = String::new();
    let (mut in_literal, mut escaped) = (false, false);
    for char in tools.chars() {
        match (in_literal, escaped, char) {
            (true, true, _) => escaped = false,
            (true, false, '\\') => escaped = true,
            (true, false, '"') => in_literal = false,
            (true, false, _) => assert!(char != '\n' && char != '\u{2028}', "a literal goes over its line"),
            (false, _, '"') => in_literal = true,
            (false, _, char) => outside.push(char),
        }
    }
    for evil in ["`", "$", "process.exit", "touch evil", "7*7", "script>"] {
        assert!(!outside.contains(evil), "{evil}: {outside}");
    }
    for name in ["package.json", "manifest.json", "server.json"] {
        serde_json::from_slice::<Value>(&std::fs::read(project.join(name)).unwrap()).unwrap();
    }
    let readme = std::fs::read_to_string(project.join("README.md")).unwrap();
    assert!(!readme.contains("</script>") && !readme.contains("<!--"), "{readme}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_neither_collide_nor_climb() {
    let (app, ada, _) = people().await;
    let get = |id: &str| json!({ "get": { "operationId": id, "responses": {} } });
    let long = "a".repeat(300);
    let paths = json!({
        "/a": get("list"), "/b": get("LIST"), "/c": get("li-st"), "/d": get("../../etc/passwd"), "/e": get(&long), "/f": get(&format!("{long}b")),
        "/g": get("__proto__"), "/h": get("constructor"), "/i": get("delete"), "/j": get("данные"),
        "/k/{id}": { "get": { "parameters": [{ "name": "id", "in": "path", "required": true, "schema": {} }, { "name": "id", "in": "query", "schema": {} },
            { "name": "__proto__", "in": "query", "schema": { "type": "string" } }], "responses": {} } },
    });
    let job = app.generated(&ada.access, &json!({ "openapi": document(&paths) })).await;
    assert_eq!(job["status"], "complete", "{job:#}");
    let spec = app.read(&ada.access, "/api/mcp/generated/mcp-evil").await.expect(200)["spec"].take();
    let names: Vec<&str> = spec["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 11);
    assert!(names.iter().all(|name| name.len() <= 40 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')), "{names:?}");
    let distinct: std::collections::HashSet<String> = names.iter().map(|name| name.to_lowercase()).collect();
    assert_eq!(distinct.len(), 11, "{names:?}");
    let k = spec["tools"].as_array().unwrap().iter().find(|tool| tool["action"]["path"] == "/k/{id}").unwrap();
    assert!(k["input_schema"]["properties"]["id"].is_object() && k["input_schema"]["properties"]["query_id"].is_object(), "{k:#}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn references_lead_nowhere_but_into_the_document() {
    let (app, ada, _) = people().await;
    let body = |to: &str| json!({ "post": { "requestBody": { "required": true, "content": { "application/json": { "schema": { "$ref": to } } } }, "responses": {} } });
    let paths = json!({ "/file": body("file:///etc/passwd"), "/address": body("http://127.0.0.1:9/x"), "/relative": body("../x.json"),
        "/nothing": body("#/nothing"), "/itself": body("#/paths/~1itself/post/requestBody/content/application~1json/schema") });
    let job = app.generated(&ada.access, &json!({ "openapi": document(&paths) })).await;
    assert_eq!((&job["status"], &job["result"]["tools"]), (&json!("complete"), &json!(5)), "{job:#}");
    let log = job["log"].to_string();
    for id in ["ref-outside", "ref-missing", "ref-circular"] {
        assert!(log.contains(id), "{id}: {log}");
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_do_not_go_off() {
    let (app, ada, _) = people().await;
    // Each of twenty schemas names the next one ten times: 10^20 of them.
    let mut schemas = serde_json::Map::new();
    for n in 0..20 {
        let next = json!({ "$ref": format!("#/components/schemas/s{}", n + 1) });
        let all: serde_json::Map<String, Value> = (0..10).map(|m| (format!("p{m}"), next.clone())).collect();
        schemas.insert(format!("s{n}"), json!({ "type": "object", "properties": all }));
    }
    schemas.insert("s20".into(), json!({ "type": "string" }));
    let mut wide = document(
        &json!({ "/a": { "post": { "requestBody": { "content": { "application/json": { "schema": { "$ref": "#/components/schemas/s0" } } } }, "responses": {} } } }),
    );
    wide["components"] = json!({ "schemas": schemas });
    let job = app.generated(&ada.access, &json!({ "openapi": wide })).await;
    assert_eq!(job["status"], "complete", "{job:#}");
    let archive = std::fs::metadata(job["result"]["package"].as_str().unwrap()).unwrap();
    assert!(archive.len() < 200_000, "{}", archive.len());
    // Aliases of aliases, and what is nested beyond reason.
    let mut laughs = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for n in 1..30 {
        writeln!(laughs, "a{n}: &a{n} [{}]", vec![format!("*a{}", n - 1); 10].join(",")).unwrap();
    }
    for (bomb, code) in [
        (laughs, "document_unreadable"),
        ("[".repeat(1_000_000), "document_too_large"),
        (format!("{}1{}", "{\"a\":".repeat(5000), "}".repeat(5000)), "document_too_large"),
    ] {
        let job = app.generated(&ada.access, &json!({ "openapi": bomb })).await;
        assert_eq!((&job["status"], &job["error"]["code"]), (&json!("failed"), &json!(code)), "{}", job["error"]);
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_of_fifty_megabytes_is_read() {
    let (app, ada, _) = people().await;
    let mut large = document(&json!({ "/a": { "get": { "operationId": "readA", "responses": {} } } }));
    large["x-padding"] = "y".repeat(50 << 20).into();
    let job = app.generated(&ada.access, &json!({ "openapi": large })).await;
    assert_eq!(job["status"], "complete", "{}", job["error"]);
    // Beyond 64 MiB, the request is refused before it is read.
    large["x-padding"] = "y".repeat(66 << 20).into();
    let answer = app.call(reqwest::Method::POST, "/api/mcp/generate", &ada.access, &json!({ "openapi": large })).await;
    answer.expect_problem(413, "body_too_large");
    // Older paths take no more than 1 MiB.
    large["x-padding"] = "y".repeat(2 << 20).into();
    let answer = app.call(reqwest::Method::POST, "/api/generate", &ada.access, &json!({ "openapi": large })).await;
    answer.expect_problem(413, "body_too_large");
    app.stop().await;
}
