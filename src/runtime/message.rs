//! What is read of the messages of a server.

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

/// A message of JSON-RPC 2.0, before it is known of which kind.
#[derive(Deserialize)]
pub(crate) struct Message<'a> {
    #[serde(borrow)]
    pub(crate) id: Option<&'a RawValue>,
    pub(crate) method: Option<String>,
    #[serde(borrow)]
    pub(crate) params: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) result: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) error: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
pub(crate) struct WireError {
    #[serde(default)]
    pub(crate) code: i64,
    #[serde(default)]
    pub(crate) message: String,
}

/// What a server takes back.
#[derive(Deserialize)]
pub(crate) struct TakenBack<'a> {
    #[serde(rename = "requestId", borrow)]
    pub(crate) id: &'a RawValue,
}

/// To which request a notification belongs.
#[derive(Default, Deserialize)]
pub(crate) struct Belonging {
    #[serde(rename = "progressToken")]
    pub(crate) progress: Option<u64>,
    #[serde(rename = "_meta")]
    pub(crate) meta: Option<BelongingMeta>,
}

#[derive(Deserialize)]
pub(crate) struct BelongingMeta {
    /// As it was sent, or as a text.
    #[serde(rename = "io.modelcontextprotocol/subscriptionId")]
    pub(crate) subscription: Option<Value>,
}

impl BelongingMeta {
    pub(crate) fn subscription(self) -> Option<u64> {
        let id = self.subscription?;
        id.as_u64().or_else(|| id.as_str()?.parse().ok())
    }
}
