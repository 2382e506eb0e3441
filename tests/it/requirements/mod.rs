//! Every example of the requirements that is covered so far, sent as it is written there.
//!
//! `fabric-phase-2.json` holds the examples as data: the request line of the requirements, and what has
//! to be in the answer. The fabric runs as they assume it: on a developer's machine, where plain curl
//! lines work (`FABRIC_TRUST_LOOPBACK`).

use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;

use crate::support::{TestApp, Upstream, data};

#[derive(Deserialize)]
struct Example {
    method: String,
    path: String,
    status: u16,
    /// Members that the answer has, with their types: `string`, `number`, `boolean`, `array`, `object`, `any`.
    members: serde_json::Map<String, Value>,
    /// Members with fixed values.
    #[serde(default)]
    values: serde_json::Map<String, Value>,
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoints_of_phase_1_answer_as_required() {
    let upstream = Upstream::start(data::real_entries()).await;
    let app = TestApp::with(&[("FABRIC_TRUST_LOOPBACK", "true"), ("FABRIC_UPSTREAM_URL", &upstream.url)]).await;
    let examples: Vec<Example> = serde_json::from_str(include_str!("fabric-phase-2.json")).unwrap();
    for example in examples {
        let line = format!("{} {}", example.method, example.path);
        let answer = app.send(app.request(example.method.parse::<Method>().unwrap(), &example.path)).await;
        let body = answer.expect(example.status);
        for (member, expected) in &example.members {
            let found = body.pointer(member).unwrap_or_else(|| panic!("{line}: no {member} in {body}"));
            assert!(expected == "any" || expected == kind(found), "{line}: {member} is {found}");
        }
        for (member, expected) in &example.values {
            assert_eq!(body.pointer(member), Some(expected), "{line}: {member}");
        }
        if let Some(job) = body["job_id"].as_str() {
            assert_eq!(app.job(job).await["status"], "complete");
        }
    }
}

/// "55+ servers synced", the tables by name, and the columns that the cache is promised.
#[tokio::test(flavor = "multi_thread")]
async fn the_database_has_what_the_requirements_name() {
    let upstream = Upstream::start(data::many(60, 1)).await;
    let app = TestApp::with(&[("FABRIC_UPSTREAM_URL", &upstream.url)]).await;
    app.sync("full").await;
    let mut connection = app.database.connect().await;
    for table in ["servers", "server_packages", "server_env_vars", "server_categories", "server_remotes", "sync_history", "credential_docs"]
    {
        let exists: bool =
            sqlx::query_scalar("SELECT to_regclass('mcp_fabric.' || $1) IS NOT NULL").bind(table).fetch_one(&mut connection).await.unwrap();
        assert!(exists, "{table}");
    }
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT column_name::text, data_type::text FROM information_schema.columns
         WHERE table_schema = 'mcp_fabric' AND table_name = 'server_packages' AND column_name LIKE 'cache%' ORDER BY 1",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let columns: Vec<(&str, &str)> = columns.iter().map(|(name, kind)| (name.as_str(), kind.as_str())).collect();
    let expected =
        [("cache_checksum", "text"), ("cache_path", "text"), ("cache_size_bytes", "bigint"), ("cached_at", "timestamp with time zone")];
    assert_eq!(columns, expected);
    let id: String = sqlx::query_scalar("SELECT data_type::text FROM information_schema.columns WHERE table_schema = 'mcp_fabric' AND table_name = 'servers' AND column_name = 'id'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(id, "text");
    assert!(app.get("/api/mcp/sync/status").await.expect(200)["servers"].as_i64().unwrap() >= 55);
}

/// docs/requirements.md names tests: each of them is there, in the module that is named.
#[test]
fn the_tests_that_the_document_names_are_there() {
    let document = include_str!("../../../docs/requirements.md");
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let named = document.split('`').skip(1).step_by(2).filter(|name| name.contains("::"));
    let mut missing = Vec::new();
    for name in named.clone() {
        let mut parts: Vec<&str> = name.split("::").collect();
        let function = format!("fn {}(", parts.pop().unwrap());
        let module = root.join(parts.join("/"));
        let files = [module.with_extension("rs"), module.join("mod.rs")];
        if !files.iter().filter_map(|file| std::fs::read_to_string(file).ok()).any(|text| text.contains(&function)) {
            missing.push(name);
        }
    }
    assert!(missing.is_empty(), "docs/requirements.md names tests that are gone: {missing:#?}");
    assert!(named.count() > 30);
}
