//! Messages to a server elsewhere, and its answers: what the way has to know of them.

use serde::Deserialize;
use serde_json::value::RawValue;

/// A message on its way to the server: the line as it is, and what of it matters here.
pub(crate) struct Message {
    pub(crate) line: String,
    /// Of a request.
    pub(crate) id: Option<Box<RawValue>>,
    pub(crate) method: String,
    /// What it says of itself, where it does.
    pub(crate) modern: Option<String>,
    /// The tool, the prompt or the resource.
    pub(crate) name: Option<String>,
    /// What it takes back.
    pub(crate) taken_back: Option<String>,
}

#[derive(Default, Deserialize)]
struct Parsed<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(default)]
    method: String,
    #[serde(default)]
    params: ParsedParams,
}

#[derive(Default, Deserialize)]
struct ParsedParams {
    #[serde(rename = "_meta")]
    meta: Option<ParsedMeta>,
    name: Option<serde_json::Value>,
    uri: Option<serde_json::Value>,
    #[serde(rename = "requestId")]
    request: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct ParsedMeta {
    #[serde(rename = "io.modelcontextprotocol/protocolVersion")]
    version: Option<String>,
}

impl Message {
    /// Whether an answer is waited for.
    pub(crate) fn is_request(&self) -> bool {
        self.id.is_some() && !self.method.is_empty()
    }

    /// Whether a message is its answer.
    pub(crate) fn is_answered_by(&self, message: &str) -> bool {
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(borrow)]
            id: Option<&'a RawValue>,
            method: Option<serde::de::IgnoredAny>,
        }
        let Ok(answer) = serde_json::from_str::<Answer>(message) else { return false };
        answer.method.is_none() && answer.id.map(RawValue::get) == self.id.as_deref().map(RawValue::get)
    }

    pub(crate) fn parse(line: String) -> Option<Self> {
        let parsed: Parsed = serde_json::from_str(&line).ok()?;
        let text = |value: Option<serde_json::Value>| value.and_then(|value| value.as_str().map(str::to_owned));
        let name = match parsed.method.as_str() {
            "tools/call" | "prompts/get" => text(parsed.params.name),
            "resources/read" => text(parsed.params.uri),
            _ => None,
        };
        let taken_back = (parsed.method == "notifications/cancelled").then_some(parsed.params.request).flatten().map(|id| id.to_string());
        let (id, method) = (parsed.id.map(ToOwned::to_owned), parsed.method);
        let modern = parsed.params.meta.and_then(|meta| meta.version);
        Some(Self { line, id, method, modern, name, taken_back })
    }
}

/// The error of an answer that names no message.
pub(crate) fn refusal(answer: &RawValue) -> Option<&RawValue> {
    #[derive(Deserialize)]
    struct Refusal<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
        #[serde(borrow)]
        error: Option<&'a RawValue>,
    }
    let refusal: Refusal = serde_json::from_str(answer.get()).ok()?;
    refusal.error.filter(|_| refusal.id.is_none())
}

/// The revision that an answer to `initialize` agrees on.
pub(crate) fn agreed_version(answer: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Greeted {
        result: Option<Agreed>,
    }
    #[derive(Deserialize)]
    struct Agreed {
        #[serde(rename = "protocolVersion")]
        version: Option<String>,
    }
    serde_json::from_str::<Greeted>(answer).ok()?.result?.version
}
