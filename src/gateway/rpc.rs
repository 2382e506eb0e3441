//! JSON-RPC 2.0 as MCP uses it. What is passed on stays as it came, member by member.

use std::{borrow::Cow, fmt};

use axum::http::StatusCode;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, json, value::RawValue};

/// JSON as it came.
pub(crate) type Raw = Box<RawValue>;

/// The members of a JSON object, in their order, each as it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Members<'a>(Vec<(Cow<'a, str>, Cow<'a, RawValue>)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        #[derive(Deserialize)]
        struct Key<'a>(#[serde(borrow)] Cow<'a, str>);
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members: Vec<(Cow<'de, str>, Cow<'de, RawValue>)> = Vec::with_capacity(8);
                while let Some((key, value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    // Of two, the one is looked at here and the other may be heeded elsewhere.
                    if members.iter().any(|(known, _)| *known == key.0) {
                        return Err(serde::de::Error::custom("a member is there twice"));
                    }
                    members.push((key.0, Cow::Borrowed(value)));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl<'a> Members<'a> {
    /// Of an object; `None` for anything else.
    pub(crate) fn of(raw: &'a RawValue) -> Option<Self> {
        serde_json::from_str(raw.get()).ok()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// A member that is a text.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.get(name).and_then(|value| serde_json::from_str(value.get()).ok())
    }

    /// In its place where it is there, else at the end.
    pub(crate) fn set(&mut self, name: &'a str, value: Raw) {
        match self.0.iter_mut().find(|(key, _)| key == name) {
            Some((_, there)) => *there = Cow::Owned(value),
            None => self.0.push((Cow::Borrowed(name), Cow::Owned(value))),
        }
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<Cow<'a, RawValue>> {
        let place = self.0.iter().position(|(key, _)| key == name)?;
        Some(self.0.remove(place).1)
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|(key, _)| keep(key));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

/// The object that they are.
impl fmt::Display for Members<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (place, (key, value)) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{}:{value}", quoted(key))?;
        }
        f.write_str("}")
    }
}

/// So much of a stranger's text at most, without control characters.
pub(crate) fn plain(text: &str, most: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(most).collect()
}

/// A text as JSON.
pub(crate) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// JSON that was made here.
pub(crate) fn raw(json: String) -> Raw {
    RawValue::from_string(json).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// What a request is called: a number or a text, as it came.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Id(String);

impl Id {
    fn of(raw: &RawValue) -> Option<Self> {
        let is_id = matches!(raw.get().as_bytes().first(), Some(b'"' | b'-' | b'0'..=b'9'));
        is_id.then(|| Self(raw.get().to_owned()))
    }

    /// As a member of another message.
    pub(crate) fn read(raw: Option<&RawValue>) -> Option<Self> {
        raw.and_then(Self::of)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One message of a client.
#[derive(Debug)]
pub(crate) enum Message {
    Request {
        id: Id,
        method: String,
        params: Option<Raw>,
    },
    Notification {
        method: String,
        params: Option<Raw>,
    },
    /// What it answers to a request of ours.
    Response {
        id: Id,
        answer: Result<Raw, Raw>,
    },
}

#[derive(Deserialize)]
struct Envelope<'a> {
    jsonrpc: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    method: Option<String>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// Also `null` is something that is there.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl Message {
    /// One message; a batch is none.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Fault> {
        let text = std::str::from_utf8(body).map_err(|_| Fault::parse())?;
        let whole: &RawValue = serde_json::from_str(text).map_err(|_| Fault::parse())?;
        Self::of(whole)
    }

    pub(crate) fn of(whole: &RawValue) -> Result<Self, Fault> {
        let envelope: Envelope = serde_json::from_str(whole.get())
            .map_err(|_| Fault::invalid("it has to be one JSON-RPC message; batches are not part of this revision"))?;
        if envelope.jsonrpc.as_deref() != Some("2.0") {
            return Err(Fault::invalid("`jsonrpc` has to be \"2.0\""));
        }
        let owned = |raw: Option<&RawValue>| raw.map(ToOwned::to_owned);
        if envelope.params.is_some_and(|params| !params.get().starts_with('{')) {
            return Err(Fault::invalid("`params` has to be an object"));
        }
        if envelope.params.is_some_and(|params| !is_plain(params)) {
            return Err(Fault::ours(StatusCode::BAD_REQUEST, INVALID_PARAMS, "Invalid params: a member is there twice"));
        }
        match (envelope.method, envelope.id) {
            (Some(method), Some(id)) => {
                let id = Id::of(id).ok_or_else(|| Fault::invalid("`id` has to be a text or a number"))?;
                Ok(Self::Request { id, method, params: owned(envelope.params) })
            }
            (Some(method), None) => Ok(Self::Notification { method, params: owned(envelope.params) }),
            (None, Some(id)) => {
                let id = Id::of(id).ok_or_else(|| Fault::invalid("`id` has to be a text or a number"))?;
                let answer = match (envelope.result, envelope.error) {
                    (Some(result), None) => Ok(result.to_owned()),
                    (None, Some(error)) => Err(error.to_owned()),
                    _ => return Err(Fault::invalid("a response has either `result` or `error`")),
                };
                Ok(Self::Response { id, answer })
            }
            (None, None) => Err(Fault::invalid("it has neither `method` nor `id`")),
        }
    }
}

/// Whether no member of parameters is there twice, also of their `_meta`.
fn is_plain(params: &RawValue) -> bool {
    let Some(members) = Members::of(params) else { return false };
    members.get("_meta").is_none_or(|meta| !meta.get().starts_with('{') || Members::of(meta).is_some())
}

/// The messages of a body: one, or several where the revision has batches (2025-03-26).
pub(crate) fn batch(body: &[u8]) -> Option<Vec<&RawValue>> {
    let text = std::str::from_utf8(body).ok()?;
    text.trim_start().starts_with('[').then(|| serde_json::from_str(text).ok()).flatten()
}

/// Why a request has no result.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The server's own error, as it came.
    Theirs(Raw),
    /// Ours.
    Ours {
        /// Where the answer has not begun yet.
        status: StatusCode,
        code: i64,
        message: String,
        data: Option<Value>,
    },
    /// The client does not want it any more: there is no answer.
    Cancelled,
}

pub(crate) const PARSE_ERROR: i64 = -32700;
pub(crate) const INVALID_REQUEST: i64 = -32600;
pub(crate) const METHOD_NOT_FOUND: i64 = -32601;
pub(crate) const INVALID_PARAMS: i64 = -32602;
pub(crate) const INTERNAL: i64 = -32603;
/// As the official SDKs write a timeout, and a session that is gone.
pub(crate) const TIMEOUT: i64 = -32001;
/// A server that cannot be used now.
pub(crate) const UNAVAILABLE: i64 = -32000;
/// Of revision 2026-07-28.
pub(crate) const HEADER_MISMATCH: i64 = -32020;
pub(crate) const MISSING_CAPABILITY: i64 = -32021;
pub(crate) const UNSUPPORTED_REVISION: i64 = -32022;

impl Fault {
    pub(crate) fn ours(status: StatusCode, code: i64, message: impl Into<String>) -> Self {
        Self::Ours { status, code, message: message.into(), data: None }
    }

    /// An error of a request that was understood.
    pub(crate) fn of(code: i64, message: impl Into<String>) -> Self {
        Self::ours(StatusCode::OK, code, message)
    }

    pub(crate) fn parse() -> Self {
        Self::ours(StatusCode::BAD_REQUEST, PARSE_ERROR, "Parse error: the body is not JSON")
    }

    pub(crate) fn invalid(why: &str) -> Self {
        Self::ours(StatusCode::BAD_REQUEST, INVALID_REQUEST, format!("Invalid request: {why}"))
    }

    pub(crate) fn too_many() -> Self {
        Self::ours(StatusCode::TOO_MANY_REQUESTS, UNAVAILABLE, "too many requests are worked on at once; wait for some of them to end")
    }

    pub(crate) fn method_not_found(method: &str) -> Self {
        let shown = plain(method, 100);
        Self::of(METHOD_NOT_FOUND, format!("Method not found: {shown}"))
    }

    /// Whether it says that a server was started and failed.
    pub(crate) fn is_of_failed_server(&self) -> bool {
        matches!(self, Self::Ours { data: Some(data), .. } if data["code"] == "not_running")
    }

    pub(crate) fn with(self, data: Value) -> Self {
        match self {
            Self::Ours { status, code, message, .. } => Self::Ours { status, code, message, data: Some(data) },
            other => other,
        }
    }

    pub(crate) fn code(&self) -> i64 {
        match self {
            Self::Ours { code, .. } => *code,
            Self::Theirs(error) => Members::of(error).and_then(|error| error.get("code")?.get().parse().ok()).unwrap_or(INTERNAL),
            Self::Cancelled => 0,
        }
    }

    /// The error object.
    pub(crate) fn error(&self) -> String {
        match self {
            Self::Theirs(error) => error.get().to_owned(),
            Self::Ours { code, message, data: None, .. } => json!({ "code": code, "message": message }).to_string(),
            Self::Ours { code, message, data: Some(data), .. } => json!({ "code": code, "message": message, "data": data }).to_string(),
            Self::Cancelled => json!({ "code": -32800, "message": "cancelled" }).to_string(),
        }
    }
}

/// The response to a request.
pub(crate) fn response(id: Option<&Id>, answer: &Result<String, Fault>) -> String {
    let id = id.map_or("null", |id| &id.0);
    match answer {
        Ok(result) => format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}"),
        Err(fault) => format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{}}}", fault.error()),
    }
}

pub(crate) fn notification(method: &str, params: &str) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"method\":{},\"params\":{params}}}", quoted(method))
}

pub(crate) fn request(id: u64, method: &str, params: Option<&RawValue>) -> String {
    let params = params.map_or("{}", RawValue::get);
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":{},\"params\":{params}}}", quoted(method))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_stay_as_they_came() {
        let text = r#"{"b": 1.0,"a":{"z":[1, 2],"y":"é\u0041"},"c":null}"#;
        let whole: &RawValue = serde_json::from_str(text).unwrap();
        let mut members = Members::of(whole).unwrap();
        assert_eq!(members.to_string(), r#"{"b":1.0,"a":{"z":[1, 2],"y":"é\u0041"},"c":null}"#);
        members.set("c", raw("3".into()));
        members.set("d", raw("\"x\"".into()));
        assert_eq!(members.remove("b").unwrap().get(), "1.0");
        assert_eq!(members.to_string(), r#"{"a":{"z":[1, 2],"y":"é\u0041"},"c":3,"d":"x"}"#);
    }

    #[test]
    fn a_member_that_is_there_twice_is_refused() {
        for params in [r#"{"name":"a","name":"b"}"#, r#"{"_meta":{"progressToken":1,"progressToken":2}}"#, r#"{"_meta":{},"_meta":{}}"#] {
            let body = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{params}}}");
            assert_eq!(Message::parse(body.as_bytes()).unwrap_err().code(), INVALID_PARAMS, "{params}");
        }
    }

    #[test]
    fn each_kind_of_rubbish_has_its_code() {
        let code = |body: &str| Message::parse(body.as_bytes()).unwrap_err().code();
        for body in ["", "{", "nope", "{\"jsonrpc\":\"2.0\",}"] {
            assert_eq!(code(body), PARSE_ERROR, "{body}");
        }
        for body in [
            "[]",
            "1",
            "{}",
            r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"a","params":[1]}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#,
        ] {
            assert_eq!(code(body), INVALID_REQUEST, "{body}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_body_makes_the_parser_panic(body in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            Message::parse(&body).ok();
            batch(&body);
        }

        #[test]
        fn any_object_comes_out_as_it_went_in(keys in proptest::collection::btree_set("\\PC{0,8}", 0..6)) {
            let object: serde_json::Map<String, Value> = keys.into_iter().enumerate().map(|(n, key)| (key, n.into())).collect();
            let text = Value::Object(object).to_string();
            let whole: &RawValue = serde_json::from_str(&text).unwrap();
            proptest::prop_assert_eq!(Members::of(whole).unwrap().to_string(), text);
        }
    }
}
