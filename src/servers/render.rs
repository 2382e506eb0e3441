//! Rows as the registry API writes them.

use platform::clock;
use serde_json::{Map, Value, json};

use crate::{document::OFFICIAL, model::Origin, store::registry::EntryRow};

/// The key of our own part of the outer `_meta`; only entries that are not mirrored carry it.
const OWN_META: &str = "io.github.mcp-fabric/catalogue";

/// `{"server": …, "_meta": …}` with the document as it was received.
pub(crate) fn entry(row: &EntryRow) -> String {
    let mut official = Map::new();
    official.insert("status".into(), row.status.clone().into());
    if let Some(message) = &row.status_message {
        official.insert("statusMessage".into(), message.clone().into());
    }
    for (key, at) in [("statusChangedAt", row.status_changed_at), ("publishedAt", row.published_at), ("updatedAt", Some(row.updated_at))] {
        if let Some(at) = at {
            official.insert(key.into(), clock::rfc3339(at).into());
        }
    }
    official.insert("isLatest".into(), row.is_latest.into());

    let mut meta: Map<String, Value> = row.extra_meta.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    if row.origin != Origin::Upstream.as_str() {
        meta.insert(OWN_META.into(), json!({ "origin": row.origin }));
    }
    meta.insert(OFFICIAL.into(), official.into());
    format!(r#"{{"server":{},"_meta":{}}}"#, row.document, Value::Object(meta))
}

pub(crate) fn list(rows: &[EntryRow], next_cursor: Option<&str>) -> String {
    let entries: Vec<String> = rows.iter().map(entry).collect();
    let mut metadata = Map::new();
    if let Some(cursor) = next_cursor {
        metadata.insert("nextCursor".into(), cursor.into());
    }
    metadata.insert("count".into(), rows.len().into());
    format!(r#"{{"servers":[{}],"metadata":{}}}"#, entries.join(","), Value::Object(metadata))
}

/// A page; like the official registry it has a cursor whenever it is full.
pub(crate) fn page(rows: &[EntryRow], limit: i64) -> String {
    let is_full = i64::try_from(rows.len()) == Ok(limit);
    let cursor = rows.last().filter(|_| is_full).map(|row| format!("{}:{}", row.registry_name, row.version));
    list(rows, cursor.as_deref())
}
