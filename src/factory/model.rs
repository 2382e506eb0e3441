use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use servers::Visibility;
use users::Asker;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{curate::Choice, generate::Language};

/// The id of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct OrderId(pub(crate) Uuid);

/// Which kind of input an order has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum InputKind {
    Description,
    Openapi,
    Url,
    Postman,
    Graphql,
    Curl,
    Spec,
}

impl InputKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Description => "description",
            Self::Openapi => "openapi",
            Self::Url => "url",
            Self::Postman => "postman",
            Self::Graphql => "graphql",
            Self::Curl => "curl",
            Self::Spec => "spec",
        }
    }
}

/// What may be said of how a server is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// Which operations become tools, and how.
    #[serde(flatten)]
    pub(crate) choice: Choice,
    /// Where the API is, in place of what the document says.
    #[serde(default, alias = "baseUrl")]
    pub(crate) base_url: Option<String>,
    /// Also an image for containers, on this one (`docker.io/library/node:22-alpine`), which has to have what runs the server.
    #[serde(default)]
    pub(crate) image: Option<String>,
    /// Who sees the server; `private` where nothing is said.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub(crate) visibility: Option<Visibility>,
}

/// What is wanted, but for the document.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) kind: InputKind,
    pub(crate) name: Option<String>,
    pub(crate) runtime: Language,
    pub(crate) options: Options,
}

/// What was asked for, by whom.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) asker: Asker,
    pub(crate) wanted: Wanted,
    pub(crate) document: Option<Vec<u8>>,
}

/// A version of a server, as it is to be kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Generated {
    pub(crate) server_id: String,
    pub(crate) version: String,
    pub(crate) spec: Option<Value>,
    pub(crate) content_sha256: Option<String>,
    pub(crate) manifest: Value,
    pub(crate) package_path: Option<String>,
    pub(crate) docker_image: Option<String>,
    pub(crate) claude_config: Option<Value>,
    pub(crate) bundle_sha256: Option<String>,
}

/// The same, as it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) id: Uuid,
    pub(crate) server_id: String,
    pub(crate) version: String,
    pub(crate) spec: Option<Value>,
    pub(crate) content_sha256: Option<String>,
    pub(crate) manifest: Value,
    pub(crate) package_path: Option<String>,
    pub(crate) docker_image: Option<String>,
    pub(crate) claude_config: Option<Value>,
    pub(crate) bundle_sha256: Option<String>,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) updated_at: DateTime<Utc>,
}

impl Stored {
    /// What the registry says of it in one line.
    pub(crate) fn description(&self) -> Option<&str> {
        self.manifest["description"].as_str()
    }
}
