//! Documents for tests: the project's own, and real ones where they lie beside the checkout.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// An entry of the present shape.
pub(crate) fn entry(name: &str, version: &str) -> Value {
    entry_with(name, version, json!({}), json!({}))
}

/// An entry whose document and official metadata have further members.
pub(crate) fn entry_with(name: &str, version: &str, server: Value, official: Value) -> Value {
    let mut document = json!({
        "$schema": "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json",
        "name": name,
        "description": format!("What {name} does"),
        "version": version,
        "packages": [{ "registryType": "npm", "identifier": format!("@x/{}", name.replace('/', "-")), "version": version, "transport": { "type": "stdio" } }],
    });
    let mut meta = json!({
        "status": "active", "statusChangedAt": "2026-01-02T03:04:05.123456Z", "publishedAt": "2026-01-02T03:04:05.123456Z",
        "updatedAt": "2026-01-02T03:04:05.123456Z", "isLatest": true,
    });
    merge(&mut document, server);
    merge(&mut meta, official);
    json!({ "server": document, "_meta": { "io.modelcontextprotocol.registry/official": meta } })
}

fn merge(into: &mut Value, from: Value) {
    let (Value::Object(into), Value::Object(from)) = (into, from) else { return };
    into.extend(from);
}

/// `count` servers with `versions` versions each, the last one the latest.
pub(crate) fn many(count: usize, versions: usize) -> Vec<Value> {
    (0..count)
        .flat_map(|server| {
            (0..versions).map(move |version| {
                let latest = json!({ "isLatest": version + 1 == versions });
                entry_with(&format!("io.test.n{:02}/server-{server:04}", server % 7), &format!("1.{version}.0"), json!({}), latest)
            })
        })
        .collect()
}

fn real_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/registry")
}

/// The real entries of the official registry in the API's present shape; the project's own where they
/// are not there.
pub(crate) fn real_entries() -> Vec<Value> {
    let text = std::fs::read_to_string(real_folder().join("servers.json"))
        .unwrap_or_else(|_| include_str!("../../fixtures/servers.json").to_owned());
    let page: Value = serde_json::from_str(&text).unwrap();
    page["servers"].as_array().unwrap().clone()
}

/// A file of real documents in an older or newer shape, where it is there.
pub(crate) fn real_file(name: &str) -> Option<String> {
    std::fs::read_to_string(real_folder().join(name)).ok()
}
