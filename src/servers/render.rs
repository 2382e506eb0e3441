//! Rows as the registry API writes them.

use platform::clock;
use serde_json::{Map, Value, json};

use crate::{
    document::{OFFICIAL, OWN_META},
    model::Origin,
    store::registry::{EntryRow, Page},
};

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

    let mut meta = vec![format!(r#""{OFFICIAL}":{}"#, Value::Object(official))];
    // A JSON object as it was received, without its braces.
    meta.extend(row.extra_meta.as_deref().and_then(|others| others.strip_prefix('{')?.strip_suffix('}')).map(ToOwned::to_owned));
    if row.origin != Origin::Upstream.as_str() {
        meta.push(format!(r#""{OWN_META}":{}"#, json!({ "origin": row.origin })));
    }
    format!(r#"{{"server":{},"_meta":{{{}}}}}"#, row.document, meta.join(","))
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

/// A page, with a cursor where more may follow.
pub(crate) fn page(page: &Page) -> String {
    let cursor = page.rows.last().filter(|_| page.is_cut).map(|row| format!("{}:{}", row.registry_name, row.version));
    list(&page.rows, cursor.as_deref())
}
