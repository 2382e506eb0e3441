use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use platform::{Actor, actor::Identity};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The namespace of plain names in registry documents: `local.fabric/<id>`.
pub const LOCAL_NAMESPACE: &str = "local.fabric";
/// The longest id, in bytes.
const MAX_ID: usize = 255;

/// The id of a catalogue entry: a registry name (`io.github.acme/weather`) or a plain one (`mcp-weather`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ServerId(String);

/// Not the id of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a server id: one is `name` or `namespace/name`, of letters, digits, dots, hyphens and underscores")]
pub struct InvalidServerId;

impl ServerId {
    /// `name` or `namespace/name`.
    pub fn parse(text: &str) -> Result<Self, InvalidServerId> {
        let is_part = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if text.len() > MAX_ID || parts.len() > 2 || !parts.iter().all(|part| is_part(part)) {
            return Err(InvalidServerId);
        }
        Ok(Self(text.to_owned()))
    }

    /// The id of the server that registry documents call `name`.
    pub fn from_registry_name(name: &str) -> Result<Self, InvalidServerId> {
        Self::parse(name.strip_prefix(LOCAL_NAMESPACE).and_then(|rest| rest.strip_prefix('/')).unwrap_or(name))
    }

    /// What registry documents call it.
    pub fn registry_name(&self) -> String {
        if self.0.contains('/') { self.0.clone() } else { format!("{LOCAL_NAMESPACE}/{}", self.0) }
    }

    /// A stable UUID (version 5) that is accepted wherever an id is.
    pub fn uuid(&self) -> Uuid {
        uuid_of(&self.0)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The UUID of a server by its id, as events have it.
pub fn uuid_of(id: &str) -> Uuid {
    Uuid::new_v5(&Uuid::new_v5(&Uuid::NAMESPACE_DNS, LOCAL_NAMESPACE.as_bytes()), id.as_bytes())
}

/// How a caller names a server: by id, by registry name, or by UUID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerRef {
    /// By its id.
    Id(ServerId),
    /// By its UUID.
    Uuid(Uuid),
}

impl FromStr for ServerRef {
    type Err = InvalidServerId;

    fn from_str(text: &str) -> Result<Self, InvalidServerId> {
        match Uuid::try_parse(text) {
            Ok(uuid) if text.len() == 36 => Ok(Self::Uuid(uuid)),
            _ => ServerId::from_registry_name(text).map(Self::Id),
        }
    }
}

platform::words! {
    /// Where a server came from.
    pub enum Origin {
        /// The mirrored registry.
        Upstream = "upstream",
        /// The program itself.
        Predefined = "predefined",
        /// A user or an import.
        Custom = "custom",
        /// The factory.
        Generated = "generated",
    }
}

platform::words! {
    /// What the publisher or the registry says of a version.
    pub enum Status {
        /// Usable.
        Active = "active",
        /// Usable, but no longer cared for.
        Deprecated = "deprecated",
        /// Taken down.
        Deleted = "deleted",
    }
}

platform::words! {
    /// How lists of servers are sorted.
    pub enum Sort {
        /// Best match first; needs a search.
        Relevance = "relevance",
        /// By id.
        Name = "name",
        /// Newest change first.
        Updated = "updated",
    }
}

platform::words! {
    /// Who may see a server that was made here.
    pub enum Visibility {
        /// Its owner alone.
        Private = "private",
        /// Everybody who has signed in.
        Shared = "shared",
        /// Everybody; the registry API lists it.
        Public = "public",
    }
}

/// Who looks at the catalogue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Viewer {
    /// Nobody who is known.
    #[default]
    Nobody,
    /// An actor, as actors are written.
    Somebody(String),
    /// The operator, and the program itself: they see what is everybody's.
    All,
}

impl Viewer {
    /// Who acts.
    pub fn of(actor: &Actor) -> Self {
        match actor.identity {
            Identity::Nobody => Self::Nobody,
            Identity::Operator | Identity::System(_) => Self::All,
            Identity::User { .. } | Identity::Service(_) => Self::Somebody(actor.to_string()),
        }
    }

    /// Whose something is, as actors are written.
    pub fn owner(owner: &str) -> Self {
        if owner == "operator" { Self::All } else { Self::Somebody(owner.to_owned()) }
    }
}

/// Whose a server is, who may see it, and what administrators say of it.
#[derive(Clone, Debug)]
pub struct Access {
    /// Who keeps its document here, as actors are written; nobody does of what is mirrored, predefined or made by an
    /// installation.
    pub owner: Option<String>,
    /// The same, where it is a person.
    pub created_by: Option<Uuid>,
    /// Who may see it.
    pub visibility: Visibility,
    /// In no list, and usable by its name.
    pub is_hidden: bool,
    /// Neither listed nor usable, by the rules of administrators.
    pub is_denied: bool,
    /// What people say of it beside its document.
    pub metadata: serde_json::Value,
    /// Counts changes of all this; for `If-Match`.
    pub revision: i64,
}

impl Access {
    /// Whether somebody may know of the server.
    pub fn shows_to(&self, viewer: &Viewer) -> bool {
        match (self.visibility, viewer) {
            (Visibility::Public, _) | (_, Viewer::All) => true,
            (Visibility::Shared, viewer) => *viewer != Viewer::Nobody,
            (Visibility::Private, Viewer::Somebody(name)) => self.owner.as_ref() == Some(name),
            (Visibility::Private, Viewer::Nobody) => false,
        }
    }
}

/// A line of a list of servers.
#[derive(Clone, Debug)]
pub struct Summary {
    /// As clients name it.
    pub id: String,
    /// Of the id.
    pub uuid: Uuid,
    /// For people.
    pub title: Option<String>,
    /// What it is for.
    pub description: String,
    /// The latest version.
    pub version: Option<String>,
    /// Where it came from.
    pub origin: Origin,
    /// Of the latest version.
    pub status: Status,
    /// By the rules of `config/categories.toml`.
    pub categories: Vec<String>,
    /// Of the packages of its latest version.
    pub registry_types: Vec<String>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// Who may see and use it.
    pub access: Access,
    /// How well it matches, times a million; only in searches.
    pub rank: i64,
}

/// What a list of servers is asked for.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Who looks: only what they may know of is found.
    pub viewer: Viewer,
    /// Also what is hidden, and what is denied.
    pub with_unlisted: bool,
    /// Words to find in name, title and description.
    pub search: Option<String>,
    /// Of this category.
    pub category: Option<String>,
    /// With a package of this type.
    pub registry_type: Option<String>,
    /// That speak this.
    pub transport: Option<String>,
    /// That came from one of these; from anywhere where there are none.
    pub origins: Vec<Origin>,
    /// Whose document this actor keeps here.
    pub owner: Option<String>,
    /// With this status; without it, all but deleted ones.
    pub status: Option<Status>,
    /// That have a remote, or have none.
    pub has_remote: Option<bool>,
    /// That changed after this moment.
    pub updated_since: Option<DateTime<Utc>>,
    /// Only of these.
    pub among: Option<Vec<String>>,
}

/// The key of the last line of a page.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListKey {
    pub(crate) rank: i64,
    pub(crate) updated_at: DateTime<Utc>,
    pub(crate) id: String,
}

impl From<&Summary> for ListKey {
    fn from(row: &Summary) -> Self {
        Self { rank: row.rank, updated_at: row.updated_at, id: row.id.clone() }
    }
}

/// One package of a version, with what the cache knows of it.
#[derive(Clone, Debug)]
pub(crate) struct PackageRow {
    pub(crate) registry_type: String,
    pub(crate) identifier: String,
    pub(crate) package_version: Option<String>,
    pub(crate) transport: Option<String>,
    pub(crate) file_sha256: Option<String>,
    pub(crate) cached_at: Option<DateTime<Utc>>,
    pub(crate) cache_path: Option<String>,
    pub(crate) cache_size_bytes: Option<i64>,
    pub(crate) cache_checksum: Option<String>,
}

/// A package that a version of a server names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerPackage {
    /// `npm`, `pypi`, `oci`, …
    pub registry_type: String,
    /// Its name there.
    pub identifier: String,
    /// Its version there, as the document has it.
    pub version: Option<String>,
    /// What the file has to be, for a bundle.
    pub file_sha256: Option<String>,
}

/// What a version of a server says of itself.
#[derive(Clone, Debug)]
pub struct Described {
    /// Of which server.
    pub id: String,
    /// Where that came from.
    pub origin: Origin,
    /// The version.
    pub version: String,
    /// Its server.json document.
    pub document: serde_json::Value,
    /// Who may see and use it.
    pub access: Access,
}

impl Described {
    /// Whether its document is the catalogue's, and not that of an installation.
    pub fn is_of_catalogue(&self) -> bool {
        self.origin != Origin::Custom || self.access.owner.is_some()
    }

    /// Whether more than a member stands behind it: a registry, the program, or an administrator.
    pub fn is_vouched_for(&self) -> bool {
        let is_operators = self.access.owner.as_deref() == Some("operator");
        self.origin != Origin::Custom || is_operators || (self.access.owner.is_some() && self.access.visibility == Visibility::Public)
    }
}

/// What the cache has of a package.
#[derive(Clone, Debug)]
pub struct CachedPackage {
    /// Since when.
    pub at: DateTime<Utc>,
    /// Below the cache folder.
    pub path: String,
    /// All of its files.
    pub size_bytes: i64,
    /// `sha256:<hex>` of the file that most installs take.
    pub checksum: String,
}

/// Where a document says that a server runs elsewhere: the first of its remotes of a kind that is known.
pub fn first_remote(document: &serde_json::Value) -> Option<&serde_json::Value> {
    let is_known = |remote: &&serde_json::Value| matches!(remote["type"].as_str(), Some("streamable-http" | "http" | "sse"));
    document["remotes"].as_array()?.iter().find(is_known)
}

/// One remote of the latest version.
#[derive(Clone, Debug)]
pub(crate) struct RemoteRow {
    pub(crate) kind: String,
    pub(crate) url: String,
}

/// One thing that the latest version wants to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredInput {
    /// `env`, `header` or `argument`.
    pub location: String,
    /// The name of it there.
    pub env_var: String,
    /// For people.
    pub description: Option<String>,
    /// The server does not work without it.
    pub required: bool,
    /// It is to be kept as a secret.
    pub secret: bool,
    /// `string`, `number`, `boolean` or `filepath`.
    pub format: String,
    /// The only values that it may have.
    pub choices: Option<Vec<String>>,
    /// What holds when nothing is given.
    pub default_value: Option<String>,
}

/// One version without its document.
#[derive(Clone, Debug)]
pub(crate) struct VersionRow {
    pub(crate) version: String,
    pub(crate) status: Status,
    pub(crate) is_latest: bool,
    pub(crate) published_at: Option<DateTime<Utc>>,
    pub(crate) updated_at: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_one_or_two_parts() {
        for good in ["mcp-weather", "io.github.acme/weather", "A/b", "a.b/c_d-e.f"] {
            assert_eq!(ServerId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "/", "a/", "/a", "a/b/c", "..", "a/..", "../a", "a b", "a\0b", "é", &"x".repeat(256)] {
            assert!(ServerId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn plain_names_are_local_in_documents() {
        let id = ServerId::parse("git").unwrap();
        assert_eq!(id.registry_name(), "local.fabric/git");
        assert_eq!(ServerId::from_registry_name("local.fabric/git").unwrap(), id);
        assert_eq!(ServerId::parse("io.x/git").unwrap().registry_name(), "io.x/git");
    }
}
