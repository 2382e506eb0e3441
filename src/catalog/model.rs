use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use servers::{Origin, Visibility};
use uuid::Uuid;

/// What somebody wants of a server; what is left out stays.
#[derive(Clone, Debug, Default)]
pub(crate) struct Change {
    /// Its id, of a new one.
    pub(crate) name: Option<String>,
    /// All that it says of itself.
    pub(crate) document: Option<Value>,
    /// The same in parts.
    pub(crate) image: Option<String>,
    pub(crate) title: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) version: Option<String>,
    /// What is said of it beside that.
    pub(crate) metadata: Option<Map<String, Value>>,
    pub(crate) visibility: Option<Visibility>,
    pub(crate) is_hidden: Option<bool>,
    /// Why.
    pub(crate) note: Option<String>,
}

impl Change {
    /// Whether it is about what the server says of itself.
    pub(crate) fn is_of_document(&self) -> bool {
        self.document.is_some() || self.has_parts()
    }

    pub(crate) fn has_parts(&self) -> bool {
        self.image.is_some() || self.title.is_some() || self.description.is_some() || self.version.is_some()
    }
}

platform::words! {
    /// Where a server came from, as earlier systems put it.
    pub enum CatalogType {
        /// The registry, or the program.
        Predefined = "predefined",
        /// People, or the factory.
        Custom = "custom",
    }
}

impl CatalogType {
    pub(crate) const fn of(origin: Origin) -> Self {
        match origin {
            Origin::Upstream | Origin::Predefined => Self::Predefined,
            Origin::Custom | Origin::Generated => Self::Custom,
        }
    }

    pub(crate) fn origins(self) -> Vec<Origin> {
        match self {
            Self::Predefined => vec![Origin::Upstream, Origin::Predefined],
            Self::Custom => vec![Origin::Custom, Origin::Generated],
        }
    }
}

/// How a server was after a change.
#[derive(Clone, Debug)]
pub(crate) struct Revision {
    pub(crate) number: i64,
    /// Of a server that was made here.
    pub(crate) document: Option<Value>,
    pub(crate) metadata: Value,
    pub(crate) visibility: Visibility,
    pub(crate) is_hidden: bool,
    /// As actors are written.
    pub(crate) changed_by: String,
    pub(crate) changed_at: DateTime<Utc>,
    pub(crate) note: Option<String>,
}

platform::words! {
    /// What a rule does with the servers that it is about.
    pub enum Effect {
        /// They may be used; all that no such rule is about may not.
        Allow = "allow",
        /// They may not be used, whatever allows them.
        Deny = "deny",
    }
}

/// Which servers may be used.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) id: Uuid,
    pub(crate) effect: Effect,
    /// A name, with `*` for any characters.
    pub(crate) pattern: String,
    pub(crate) note: Option<String>,
    pub(crate) created_by: String,
    pub(crate) created_at: DateTime<Utc>,
}
