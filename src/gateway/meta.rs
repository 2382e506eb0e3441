//! What is changed on the way between a client and a server of whatever eras, and nothing else.

use std::borrow::Cow;

use runtime::Era;
use serde_json::value::RawValue;

use crate::{
    revision::Revision,
    rpc::{INVALID_PARAMS, Members, Raw, quoted, raw},
};

pub(crate) const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
pub(crate) const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
pub(crate) const INFO: &str = "io.modelcontextprotocol/clientInfo";
pub(crate) const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
pub(crate) const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
pub(crate) const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
const PROGRESS: &str = "progressToken";
/// A key of W3C Trace Context, which MCP reserves.
pub(crate) const TRACEPARENT: &str = "traceparent";

/// What a client with a handshake said once, and a modern server wants to hear with each request.
pub(crate) struct Manner {
    pub(crate) capabilities: Raw,
    pub(crate) info: Option<Raw>,
    pub(crate) log_level: Option<String>,
}

/// Parameters as a server is to have them, and the client's progress token if it wants to hear of progress.
pub(crate) fn to_server(
    params: Option<&RawValue>,
    renamed: Option<(&'static str, &str)>,
    (era, ticket): (Era, u64),
    manner: Option<&Manner>,
    traceparent: Option<&str>,
) -> (String, Option<Raw>) {
    let mut params = params.and_then(Members::of).unwrap_or_default();
    if let Some((member, value)) = renamed {
        params.set(member, raw(quoted(value)));
    }
    let said = params.remove("_meta");
    let mut meta = said.as_deref().and_then(Members::of).unwrap_or_default();
    let token = meta.remove(PROGRESS).map(Cow::into_owned);
    match era {
        Era::Legacy => meta.retain(|key| ![VERSION, CAPABILITIES, INFO, LOG_LEVEL].contains(&key)),
        Era::Modern => {
            meta.set(VERSION, raw(quoted(Revision::Modern.as_str())));
            if let Some(manner) = manner {
                meta.set(CAPABILITIES, manner.capabilities.clone());
                if let Some(info) = &manner.info {
                    meta.set(INFO, info.clone());
                }
                if let Some(level) = &manner.log_level {
                    meta.set(LOG_LEVEL, raw(quoted(level)));
                }
            }
        }
    }
    if token.is_some() {
        meta.set(PROGRESS, raw(ticket.to_string()));
    }
    if let Some(traceparent) = traceparent {
        meta.set(TRACEPARENT, raw(quoted(traceparent)));
    }
    let meta = (!meta.is_empty()).then(|| raw(meta.to_string()));
    if let Some(meta) = meta {
        params.set("_meta", meta);
    }
    (params.to_string(), token)
}

/// The parameters of a progress notification under the client's own token.
pub(crate) fn progress(params: &RawValue, token: &RawValue) -> String {
    let mut params = Members::of(params).unwrap_or_default();
    params.set(PROGRESS, token.to_owned());
    params.to_string()
}

/// The parameters of a notification under the client's own subscription.
pub(crate) fn subscription(params: Option<&RawValue>, id: &str) -> String {
    let mut params = params.and_then(Members::of).unwrap_or_default();
    let said = params.remove("_meta");
    let mut meta = said.as_deref().and_then(Members::of).unwrap_or_default();
    meta.set(SUBSCRIPTION, raw(id.to_owned()));
    let meta = raw(meta.to_string());
    params.set("_meta", meta);
    params.to_string()
}

/// The parameters of a notification for a client that has no subscriptions: without the gateway's own.
pub(crate) fn without_subscription(params: &RawValue) -> Cow<'_, str> {
    if !params.get().contains(SUBSCRIPTION) {
        return Cow::Borrowed(params.get());
    }
    let mut params = Members::of(params).unwrap_or_default();
    let said = params.remove("_meta");
    let mut meta = said.as_deref().and_then(Members::of).unwrap_or_default();
    meta.remove(SUBSCRIPTION);
    let meta = (!meta.is_empty()).then(|| raw(meta.to_string()));
    if let Some(meta) = meta {
        params.set("_meta", meta);
    }
    Cow::Owned(params.to_string())
}

/// An error with the code that modern clients know it by: a resource that there is not is a parameter that is wrong.
pub(crate) fn error_for_modern(error: Raw) -> Raw {
    let code = Members::of(&error).and_then(|error| error.get("code").map(|code| code.get() == "-32002"));
    if code != Some(true) {
        return error;
    }
    let mut members = Members::of(&error).unwrap_or_default();
    members.set("code", raw(INVALID_PARAMS.to_string()));
    raw(members.to_string())
}

/// Whether results of this method say for how long they may be kept.
fn is_cacheable(method: &str) -> bool {
    method.ends_with("/list") || matches!(method, "resources/read" | "server/discover")
}

/// A result with what modern clients want of it and a server with a handshake does not say.
pub(crate) fn for_modern(result: &RawValue, method: &str) -> String {
    #[derive(Default, serde::Deserialize)]
    struct Said<'a> {
        #[serde(borrow, rename = "resultType")]
        result_type: Option<&'a RawValue>,
        #[serde(borrow, rename = "ttlMs")]
        ttl: Option<&'a RawValue>,
        #[serde(borrow, rename = "cacheScope")]
        scope: Option<&'a RawValue>,
    }
    let said: Said = serde_json::from_str(result.get()).unwrap_or_default();
    let is_final = said.result_type.is_none_or(|kind| kind.get() == "\"complete\"");
    let mut missing = String::new();
    if said.result_type.is_none() {
        missing.push_str("\"resultType\":\"complete\",");
    }
    if is_final && is_cacheable(method) {
        if said.ttl.is_none() {
            missing.push_str("\"ttlMs\":0,");
        }
        if said.scope.is_none() {
            missing.push_str("\"cacheScope\":\"private\",");
        }
    }
    let Some(rest) = result.get().strip_prefix('{').filter(|_| !missing.is_empty()) else { return result.get().to_owned() };
    if rest.trim_start() == "}" {
        missing.pop();
    }
    format!("{{{missing}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> Raw {
        raw(json.to_owned())
    }

    #[test]
    fn a_server_hears_of_its_own_era_only() {
        let params = of(r#"{"name":"a__b","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",
            "io.modelcontextprotocol/clientCapabilities":{},"progressToken":"mine","traceparent":"00-1"},"arguments":{"z":1,"a":2}}"#);
        let (legacy, token) = to_server(Some(&params), Some(("name", "b")), (Era::Legacy, 7), None, None);
        assert_eq!(legacy, r#"{"name":"b","arguments":{"z":1,"a":2},"_meta":{"traceparent":"00-1","progressToken":7}}"#);
        assert_eq!(token.unwrap().get(), "\"mine\"");
        let (legacy, token) = to_server(None, None, (Era::Legacy, 7), None, None);
        assert_eq!((legacy.as_str(), token.is_none()), ("{}", true));
        let manner = Manner { capabilities: of("{\"roots\":{}}"), info: None, log_level: Some("info".into()) };
        let (modern, _) = to_server(None, None, (Era::Modern, 7), Some(&manner), None);
        assert_eq!(
            modern,
            r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"roots":{}},"io.modelcontextprotocol/logLevel":"info"}}"#
        );
    }

    #[test]
    fn a_modern_client_hears_what_it_needs() {
        let made = |result: &str, method: &str| for_modern(&of(result), method);
        assert_eq!(made("{}", "tools/call"), r#"{"resultType":"complete"}"#);
        assert_eq!(
            made(r#"{"tools":[],"ttlMs":5}"#, "tools/list"),
            r#"{"resultType":"complete","cacheScope":"private","tools":[],"ttlMs":5}"#
        );
        let asks = r#"{"resultType":"input_required","inputRequests":{}}"#;
        assert_eq!(made(asks, "resources/read"), asks);
    }

    #[test]
    fn tokens_and_subscriptions_are_the_clients_own() {
        assert_eq!(progress(&of(r#"{"progressToken":7,"progress":1}"#), &of("\"mine\"")), r#"{"progressToken":"mine","progress":1}"#);
        assert_eq!(
            subscription(Some(&of(r#"{"uri":"a","_meta":{"io.modelcontextprotocol/subscriptionId":7}}"#)), "\"x\""),
            r#"{"uri":"a","_meta":{"io.modelcontextprotocol/subscriptionId":"x"}}"#
        );
        let told = of(r#"{"uri":"a","_meta":{"io.modelcontextprotocol/subscriptionId":7,"k":1}}"#);
        assert_eq!(without_subscription(&told), r#"{"uri":"a","_meta":{"k":1}}"#);
    }
}
