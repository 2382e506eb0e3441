//! Registry entries in every shape that registries have had, read leniently.
//!
//! The present shape is `{"server": {…}, "_meta": {…}}` and its `server` is kept byte for byte. Entries
//! in the shapes of May to September 2025 are brought into the present one; what was received is kept
//! beside that.

use std::{borrow::Cow, collections::BTreeMap};

use chrono::{DateTime, Datelike as _, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};
use sha2::{Digest as _, Sha256};

use crate::model::{LOCAL_NAMESPACE, Origin, ServerId, Status};

/// The key of the official registry's part of `_meta`.
pub(crate) const OFFICIAL: &str = "io.modelcontextprotocol.registry/official";
/// The key of our own part of the outer `_meta`; only entries that are not mirrored carry it.
pub(crate) const OWN_META: &str = "io.github.mcp-fabric/catalogue";
/// A single entry is not larger than this; the largest real one has 37 kB.
const MAX_ENTRY: usize = 1 << 20;
const MAX_VERSION: usize = 255;

/// One version of one server as it came in.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Which server.
    pub id: ServerId,
    /// Which version.
    pub version: String,
    /// The server.json document to serve.
    pub document: String,
    /// What was received, when that was of an older shape.
    pub received: Option<String>,
    /// SHA-256 of `document`.
    pub content_hash: [u8; 32],
    /// Members of the outer `_meta` besides the official one, as a JSON object.
    pub extra_meta: Option<String>,
    /// What the registry says of it.
    pub status: Status,
    /// Why it has that status.
    pub status_message: Option<String>,
    /// Since when it has that status.
    pub status_changed_at: Option<DateTime<Utc>>,
    /// When it was published.
    pub published_at: Option<DateTime<Utc>>,
    /// When the registry last changed it.
    pub updated_at: Option<DateTime<Utc>>,
    /// Whether the registry says that it is the latest version; `None` when it says nothing.
    pub is_latest: Option<bool>,
}

impl Entry {
    /// This entry as one that cannot be taken.
    pub(crate) fn skip(&self, reason: SkipReason) -> Skip {
        Skip { name: Some(self.id.to_string()), version: Some(self.version.clone()), reason }
    }
}

/// An entry that cannot be taken, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Skip {
    /// The name, as far as it could be read.
    pub name: Option<String>,
    /// The version, as far as it could be read.
    pub version: Option<String>,
    /// Why.
    pub reason: SkipReason,
}

/// Why an entry cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// Larger than 1 MiB.
    TooLarge,
    /// Bytes that are not UTF-8.
    InvalidUtf8,
    /// Not a JSON object, or its `server` is not one.
    NotAnObject,
    /// No name, or one that is not `namespace/name`.
    InvalidName,
    /// A name in a namespace that belongs to this fabric.
    ReservedName,
    /// No version, or one that is too long, `latest`, or has control characters.
    InvalidVersion,
    /// The same version of the same server stood in the page before.
    Duplicate,
    /// The name belongs to a server of another origin.
    NameTaken,
    /// What the registry says of it cannot be understood.
    InvalidMetadata,
    /// The database cannot keep it.
    NotStorable,
}

/// Reads one entry of a registry's list, or a bare server document.
pub fn parse_entry(raw: &RawValue, origin: Origin) -> Result<Entry, Skip> {
    let text = raw.get();
    let skip = |reason| Skip { name: None, version: None, reason };
    if text.len() > MAX_ENTRY {
        return Err(Skip { name: peek(text, "name"), version: peek(text, "version"), reason: SkipReason::TooLarge });
    }
    let parts: Parts = serde_json::from_str(text).map_err(|_| skip(SkipReason::NotAnObject))?;
    let raw_server = parts.server.unwrap_or(raw);
    let server: Map<String, Value> = serde_json::from_str(raw_server.get()).map_err(|_| skip(SkipReason::NotAnObject))?;
    let name = text_of(&server, &["name"]);
    let version = text_of(&server, &["version"]).or_else(|| text_of(server.get("version_detail")?.as_object()?, &["version"]));
    let skip = |reason| Skip { name: name.map(clip), version: version.map(clip), reason };
    let id = read_id(name, origin).map_err(skip)?;
    let version = version.filter(|version| is_version(version)).ok_or_else(|| skip(SkipReason::InvalidVersion))?.to_owned();
    let outer = Outer::read(parts.meta).ok_or_else(|| skip(SkipReason::InvalidMetadata))?;
    let about = About::find(&server, outer.official.or(parts.x_official)).ok_or_else(|| skip(SkipReason::InvalidMetadata))?;

    let is_old = server.contains_key("version_detail") || has_official_inside(&server) || has_old_packages(&server);
    let (document, received) = if is_old {
        (Value::Object(modern(server.clone(), &version)).to_string(), Some(text.to_owned()))
    } else {
        (raw_server.get().to_owned(), None)
    };
    Ok(Entry {
        id,
        version,
        content_hash: Sha256::digest(document.as_bytes()).into(),
        document,
        received,
        extra_meta: outer.others,
        status: about.status,
        status_message: about.status_message,
        status_changed_at: about.status_changed_at,
        published_at: about.published_at,
        updated_at: about.updated_at.or(about.published_at),
        is_latest: about.is_latest,
    })
}

/// The parts of an entry that are looked at as they stand.
#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow)]
    server: Option<&'a RawValue>,
    #[serde(borrow, rename = "_meta")]
    meta: Option<&'a RawValue>,
    #[serde(rename = "x-io.modelcontextprotocol.registry")]
    x_official: Option<Map<String, Value>>,
}

fn read_id(name: Option<&str>, origin: Origin) -> Result<ServerId, SkipReason> {
    let name = name.ok_or(SkipReason::InvalidName)?;
    let is_local = name.split_once('/').is_some_and(|(namespace, _)| namespace == LOCAL_NAMESPACE);
    if origin == Origin::Upstream {
        if is_local {
            return Err(SkipReason::ReservedName);
        }
        if !name.contains('/') {
            return Err(SkipReason::InvalidName);
        }
    }
    ServerId::from_registry_name(name).map_err(|_| SkipReason::InvalidName)
}

fn is_version(version: &str) -> bool {
    !version.is_empty() && version.len() <= MAX_VERSION && version != "latest" && !version.contains(char::is_control)
}

/// What the registry itself says of an entry, wherever it stood at the time.
struct About {
    status: Status,
    status_message: Option<String>,
    status_changed_at: Option<DateTime<Utc>>,
    published_at: Option<DateTime<Utc>>,
    updated_at: Option<DateTime<Utc>>,
    is_latest: Option<bool>,
}

impl About {
    /// `None` where it says something that cannot be understood: better no entry than a take-down unseen.
    fn find(server: &Map<String, Value>, said: Option<Map<String, Value>>) -> Option<Self> {
        let inner = server.get("_meta").and_then(|meta| meta.get(OFFICIAL)).and_then(Value::as_object);
        let said = said.or_else(|| inner.cloned()).unwrap_or_default();
        let detail = server.get("version_detail").and_then(Value::as_object).cloned().unwrap_or_default();
        let time = |keys: &[&str]| text_of(&said, keys).or_else(|| text_of(&detail, keys)).and_then(timestamp);
        let status = match text_of(&said, &["status"]).or_else(|| text_of(server, &["status"])) {
            Some(word) => word.parse().ok()?,
            None => Status::Active,
        };
        Some(Self {
            status,
            status_message: text_of(&said, &["statusMessage", "status_message"]).map(storable),
            status_changed_at: time(&["statusChangedAt", "status_changed_at"]),
            published_at: time(&["publishedAt", "published_at", "release_date"]),
            updated_at: time(&["updatedAt", "updated_at"]),
            is_latest: [&said, &detail].iter().find_map(|map| map.get("isLatest").or_else(|| map.get("is_latest"))?.as_bool()),
        })
    }
}

/// A moment that RFC 3339 can write.
fn timestamp(text: &str) -> Option<DateTime<Utc>> {
    text.parse::<DateTime<Utc>>().ok().filter(|at| (0..=9999).contains(&at.year()))
}

/// The outer `_meta`: the official part, and the others as they stand.
#[derive(Default)]
struct Outer {
    official: Option<Map<String, Value>>,
    others: Option<String>,
}

impl Outer {
    fn read(meta: Option<&RawValue>) -> Option<Self> {
        let Some(meta) = meta.filter(|meta| meta.get() != "null") else { return Some(Self::default()) };
        let mut members: BTreeMap<String, &RawValue> = serde_json::from_str(meta.get()).ok()?;
        let official = match members.remove(OFFICIAL) {
            Some(official) => serde_json::from_str(official.get()).ok()?,
            None => None,
        };
        // What is ours to say is not upstream's.
        members.remove(OWN_META);
        let others = (!members.is_empty()).then(|| serde_json::to_string(&members).ok()).flatten();
        Some(Self { official, others })
    }
}

fn text_of<'a>(map: &'a Map<String, Value>, keys: &[&str]) -> Option<&'a str> {
    keys.iter().find_map(|key| map.get(*key)?.as_str())
}

/// Until September 2025 the registry's own part stood inside the document.
fn has_official_inside(server: &Map<String, Value>) -> bool {
    server.get("_meta").is_some_and(|meta| meta.get(OFFICIAL).is_some())
}

fn has_old_packages(server: &Map<String, Value>) -> bool {
    let packages = server.get("packages").and_then(Value::as_array);
    packages.is_some_and(|list| list.iter().any(|package| package.get("registry_name").is_some() || package.get("registry_type").is_some()))
}

/// A document of the shapes before October 2025 with the names that fields have now.
fn modern(server: Map<String, Value>, version: &str) -> Map<String, Value> {
    let mut out = Map::new();
    for (key, value) in server {
        match (key.as_str(), value) {
            ("id" | "version_detail" | "status", _) => {}
            ("_meta", Value::Object(mut meta)) => {
                meta.remove(OFFICIAL);
                if !meta.is_empty() {
                    out.insert(key, Value::Object(meta));
                }
            }
            ("packages", Value::Array(packages)) => {
                out.insert(key, packages.into_iter().map(modern_package).collect());
            }
            (_, value) => {
                out.insert(camel(&key).into_owned(), modern_names(value));
            }
        }
    }
    out.insert("version".into(), version.into());
    out
}

fn modern_package(package: Value) -> Value {
    let Value::Object(package) = package else { return package };
    let mut out = Map::new();
    for (key, value) in package {
        let key = match key.as_str() {
            "registry_name" => "registryType".into(),
            "name" => "identifier".into(),
            other => camel(other).into_owned(),
        };
        let value = match value {
            Value::String(text) if key == "registryType" && text == "docker" => "oci".into(),
            other => modern_names(other),
        };
        out.insert(key, value);
    }
    out.entry("transport").or_insert_with(|| serde_json::json!({ "type": "stdio" }));
    if out.get("version").and_then(Value::as_str) == Some("") {
        out.remove("version");
    }
    Value::Object(out)
}

fn modern_names(value: Value) -> Value {
    match value {
        // The keys of `variables` are names that templates refer to.
        Value::Object(map) => map
            .into_iter()
            .map(|(key, value)| match (key.as_str(), value) {
                ("variables", Value::Object(named)) => (key, named.into_iter().map(|(name, value)| (name, modern_names(value))).collect()),
                (_, value) => (camel(&key).into_owned(), modern_names(value)),
            })
            .collect(),
        Value::Array(items) => items.into_iter().map(modern_names).collect(),
        other => other,
    }
}

fn camel(key: &str) -> Cow<'_, str> {
    if !key.contains('_') || key.starts_with('_') {
        return key.into();
    }
    let mut words = key.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words
        .fold(first, |mut out, word| {
            let mut letters = word.chars();
            out.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
            out.push_str(letters.as_str());
            out
        })
        .into()
}

/// The value of `"key": "value"` near the start or the end of a text that is too large to parse.
fn peek(text: &str, key: &str) -> Option<String> {
    const NEAR: usize = 4096;
    let key = format!("\"{key}\"");
    let (start, end) = (text.floor_char_boundary(NEAR), text.ceil_char_boundary(text.len().saturating_sub(NEAR)));
    [&text[..start], &text[end..]].into_iter().find_map(|part| {
        let (_, rest) = part.split_once(&key)?;
        rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?.split('"').next().map(clip)
    })
}

fn clip(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_VERSION).collect()
}

/// What lists, searches and installations need to know of a document.
#[derive(Clone, Debug, Default)]
pub(crate) struct Digest {
    pub(crate) title: Option<String>,
    pub(crate) description: String,
    pub(crate) packages: Vec<Package>,
    pub(crate) remotes: Vec<Remote>,
    pub(crate) document: Map<String, Value>,
}

#[derive(Clone, Debug)]
pub(crate) struct Package {
    pub(crate) registry_type: String,
    pub(crate) identifier: String,
    pub(crate) version: Option<String>,
    pub(crate) transport: Option<String>,
    pub(crate) registry_base_url: Option<String>,
    pub(crate) file_sha256: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Remote {
    pub(crate) kind: String,
    pub(crate) url: String,
}

impl Digest {
    /// Takes what is there and passes over what is not of the expected form.
    pub(crate) fn of(document: &str) -> Self {
        let document: Map<String, Value> = serde_json::from_str(document).unwrap_or_default();
        let objects = |key: &str| document.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object);
        let own = |map: &Map<String, Value>, keys: &[&str]| text_of(map, keys).map(storable);
        let packages = objects("packages").filter_map(|package| {
            Some(Package {
                registry_type: own(package, &["registryType", "registry_type", "registry_name"])?,
                identifier: own(package, &["identifier", "name"])?,
                version: own(package, &["version"]).filter(|version| !version.is_empty()),
                transport: package.get("transport").and_then(Value::as_object).and_then(|transport| own(transport, &["type"])),
                registry_base_url: own(package, &["registryBaseUrl", "registry_base_url"]),
                file_sha256: own(package, &["fileSha256", "file_sha256"]),
            })
        });
        let remotes = objects("remotes").filter_map(|remote| {
            Some(Remote { kind: own(remote, &["type", "transport_type", "transport"])?, url: own(remote, &["url"])? })
        });
        Self {
            title: own(&document, &["title"]).filter(|title| !title.trim().is_empty()),
            description: own(&document, &["description"]).unwrap_or_default(),
            packages: packages.collect(),
            remotes: remotes.collect(),
            document,
        }
    }
}

/// PostgreSQL keeps every character but U+0000.
pub(crate) fn storable(text: &str) -> String {
    text.replace('\0', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(json: &str) -> Result<Entry, Skip> {
        parse_entry(&RawValue::from_string(json.to_owned()).unwrap(), Origin::Upstream)
    }

    #[test]
    fn the_present_shape_is_kept_byte_for_byte() {
        let document = r#"{ "name":"io.x/y",  "version" : "1.0.0","unknown":[1,  2] }"#;
        let json = format!(
            r#"{{"server":{document},"_meta":{{"{OFFICIAL}":{{"status":"deprecated","statusMessage":"old","publishedAt":"2025-01-02T03:04:05.6Z","isLatest":true}},"a.b/c":1}}}}"#
        );
        let entry = entry(&json).unwrap();
        assert_eq!(entry.document, document);
        assert_eq!((entry.id.as_str(), entry.version.as_str(), entry.status), ("io.x/y", "1.0.0", Status::Deprecated));
        assert_eq!((entry.is_latest, entry.extra_meta.as_deref(), entry.received), (Some(true), Some(r#"{"a.b/c":1}"#), None));
        assert_eq!(entry.updated_at, entry.published_at);
    }

    #[test]
    fn the_shape_of_may_2025_is_brought_up_to_date() {
        let json = r#"{"id":"1","name":"io.x/y","description":"d","version_detail":{"version":"0.1","release_date":"2025-05-16T18:56:49Z","is_latest":true},
            "packages":[{"registry_name":"docker","name":"a/b","version":"","environment_variables":[{"name":"K","is_required":true}]}]}"#;
        let entry = entry(json).unwrap();
        assert_eq!((entry.version.as_str(), entry.is_latest), ("0.1", Some(true)));
        let expected = serde_json::json!({
            "name": "io.x/y", "description": "d", "version": "0.1",
            "packages": [{ "registryType": "oci", "identifier": "a/b", "transport": { "type": "stdio" },
                "environmentVariables": [{ "name": "K", "isRequired": true }] }],
        });
        assert_eq!(serde_json::from_str::<Value>(&entry.document).unwrap(), expected);
        assert_eq!(entry.received.as_deref(), Some(json));
    }

    #[test]
    fn the_shapes_of_summer_2025_are_read() {
        let inner = format!(
            r#"{{"name":"io.x/y","version":"1","status":"deleted","_meta":{{"{OFFICIAL}":{{"serverId":"s","is_latest":false}}}}}}"#
        );
        let found = entry(&inner).unwrap();
        assert_eq!((found.status, found.is_latest), (Status::Deleted, Some(false)));
        let beside = r#"{"server":{"name":"io.x/y","version":"1"},"x-io.modelcontextprotocol.registry":{"published_at":"2025-07-09T00:00:00Z","is_latest":true}}"#;
        let found = entry(beside).unwrap();
        assert_eq!((found.is_latest, found.published_at.is_some()), (Some(true), true));
    }

    #[test]
    fn odd_neighbours_do_not_hide_what_the_registry_says() {
        let json = format!(
            r#"{{"server":{{"name":"a/b","version":"1"}},"_meta":{{"{OFFICIAL}":{{"status":"deleted","updatedAt":"-9999-01-01T00:00:00Z"}},"x":1e999,"{OWN_META}":{{"origin":"predefined"}}}}}}"#
        );
        let entry = entry(&json).unwrap();
        assert_eq!((entry.status, entry.updated_at, entry.extra_meta.as_deref()), (Status::Deleted, None, Some(r#"{"x":1e999}"#)));
    }

    #[test]
    fn what_cannot_be_taken_says_why() {
        let large = format!(r#"{{"server":{{"name":"io.x/big","version":"1","description":"{}"}}}}"#, "x".repeat(MAX_ENTRY));
        for (json, reason) in [
            ("7", SkipReason::NotAnObject),
            (r#"{"server":7}"#, SkipReason::NotAnObject),
            (r#"{"server":{"version":"1"}}"#, SkipReason::InvalidName),
            (r#"{"server":{"name":"plain","version":"1"}}"#, SkipReason::InvalidName),
            (r#"{"server":{"name":"a/b/c","version":"1"}}"#, SkipReason::InvalidName),
            (r#"{"server":{"name":"local.fabric/git","version":"1"}}"#, SkipReason::ReservedName),
            (r#"{"server":{"name":"a/b"}}"#, SkipReason::InvalidVersion),
            (r#"{"server":{"name":"a/b","version":"latest"}}"#, SkipReason::InvalidVersion),
            (r#"{"server":{"name":"a/b","version":"1\u0000"}}"#, SkipReason::InvalidVersion),
            (r#"{"server":{"name":"a/b","version":"1"},"_meta":7}"#, SkipReason::InvalidMetadata),
            (
                r#"{"server":{"name":"a/b","version":"1"},"_meta":{"io.modelcontextprotocol.registry/official":{"status":"gone"}}}"#,
                SkipReason::InvalidMetadata,
            ),
            (&large, SkipReason::TooLarge),
        ] {
            assert_eq!(entry(json).unwrap_err().reason, reason, "{}", &json[..json.len().min(80)]);
        }
        assert_eq!(entry(&large).unwrap_err().name.as_deref(), Some("io.x/big"));
    }

    proptest::proptest! {
        /// JSON that almost is an entry: keys of entries with values of any kind.
        #[test]
        fn no_json_makes_the_reader_panic(
            keys in proptest::collection::vec("server|_meta|name|version|packages|version_detail|registry_name|x", 0..6),
            values in proptest::collection::vec("null|7|\"a/b\"|\"1\"|\\[\\{\"name\":1\\}\\]|\\{\"name\":\"a/b\",\"version\":\"1\"\\}", 6),
        ) {
            let members: Vec<String> = keys.iter().zip(&values).map(|(key, value)| format!("\"{key}\":{value}")).collect();
            if let Ok(entry) = entry(&format!("{{{}}}", members.join(","))) {
                Digest::of(&entry.document);
            }
        }
    }
}
