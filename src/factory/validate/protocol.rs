//! What a packed server has to say over the protocol, in every revision that it may be spoken to in.

use std::io;

use serde_json::{Value, json};

use super::kept::{Answer, Speaking};
use crate::finding::Finding;

const MODERN: &str = "2026-07-28";
const LEGACY: [&str; 2] = ["2025-11-25", "2025-06-18"];
const INVALID_PARAMS: i64 = -32602;
const METHOD_NOT_FOUND: i64 = -32601;

/// What was found, and the tools that the server lists.
pub(crate) struct Heard {
    pub(crate) findings: Vec<Finding>,
    pub(crate) tools: Vec<Value>,
}

pub(crate) fn meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": { "name": "mcp-fabric-validator", "version": env!("CARGO_PKG_VERSION") },
        "io.modelcontextprotocol/clientCapabilities": {},
    })
}

fn code(answer: &Answer) -> Option<i64> {
    answer.as_ref().err().and_then(|error| error["code"].as_i64())
}

/// Speaks to a server in the present revision.
pub(crate) async fn modern(server: &mut Speaking) -> io::Result<Heard> {
    let mut found = Vec::new();
    let discovered = server.ask("server/discover", &json!({ "_meta": meta() })).await?;
    let Ok(discovered) = discovered else {
        // Most servers of today are of the older kind; that is no error.
        found.push(Finding::info("modern-not-spoken", "server/discover", format!("revision {MODERN} is not spoken")));
        return Ok(Heard { findings: found, tools: Vec::new() });
    };
    if discovered["resultType"] != "complete" || !discovered["supportedVersions"].as_array().is_some_and(|all| all.contains(&MODERN.into()))
    {
        found.push(Finding::error(
            "discover",
            "server/discover",
            "does not have resultType `complete` and the revision in supportedVersions",
        ));
    }
    for member in ["ttlMs", "cacheScope", "capabilities"] {
        if discovered.get(member).is_none() {
            found.push(Finding::error("discover", "server/discover", format!("has no {member}")));
        }
    }
    let without = server.ask("tools/list", &json!({ "_meta": { "io.modelcontextprotocol/protocolVersion": MODERN } })).await?;
    if code(&without) != Some(INVALID_PARAMS) {
        found.push(Finding::error(
            "meta-missing",
            "tools/list",
            format!("a request without clientCapabilities is not refused with {INVALID_PARAMS}"),
        ));
    }
    let mut other = meta();
    other["io.modelcontextprotocol/protocolVersion"] = "1999-01-01".into();
    if code(&server.ask("tools/list", &json!({ "_meta": other })).await?) != Some(-32022) {
        found.push(Finding::error("revision-unknown", "tools/list", "a revision that nobody knows is not refused with -32022"));
    }
    let tools = listed(server, Some(meta()), &mut found).await?;
    let again = listed(server, Some(meta()), &mut Vec::new()).await?;
    if tools != again {
        found.push(Finding::error("tools-unstable", "tools/list", "two lists in a row are not the same"));
    }
    for (at, tool) in tools.iter().enumerate() {
        described(tool, &format!("/tools/{at}"), &mut found);
    }
    unknown(server, Some(meta()), &mut found).await?;
    Ok(Heard { findings: found, tools })
}

/// Speaks to a server in a revision that begins with `initialize`.
pub(crate) async fn legacy(server: &mut Speaking, revision: &str) -> io::Result<Heard> {
    let mut found = Vec::new();
    let params = json!({ "protocolVersion": revision, "capabilities": {}, "clientInfo": { "name": "mcp-fabric-validator", "version": env!("CARGO_PKG_VERSION") } });
    let tools = match server.ask("initialize", &params).await? {
        Err(error) => {
            found.push(Finding::error("initialize", "initialize", format!("is refused: {}", crate::text::line(&error.to_string(), 200))));
            return Ok(Heard { findings: found, tools: Vec::new() });
        }
        Ok(greeting) => {
            let spoken = greeting["protocolVersion"].as_str().unwrap_or_default();
            if spoken != revision {
                let message = format!("{revision} is asked for, and `{}` spoken", crate::text::line(spoken, 40));
                found.push(Finding::warning("initialize-revision", "initialize", message));
            }
            if greeting["serverInfo"]["name"].as_str().is_none_or(str::is_empty) || !greeting["capabilities"].is_object() {
                found.push(Finding::error("initialize", "initialize", "has no serverInfo.name or no capabilities"));
            }
            server.say(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await?;
            if server.ask("ping", &json!({})).await? != Ok(json!({})) {
                found.push(Finding::error("ping", "ping", "is not answered with an empty object"));
            }
            listed(server, None, &mut found).await?
        }
    };
    for (at, tool) in tools.iter().enumerate() {
        described(tool, &format!("/tools/{at}"), &mut found);
    }
    unknown(server, None, &mut found).await?;
    Ok(Heard { findings: found, tools })
}

/// The revisions in which it is spoken to beside the present one.
pub(crate) fn revisions() -> [&'static str; 2] {
    LEGACY
}

/// All pages of a list of tools.
async fn listed(server: &mut Speaking, meta: Option<Value>, found: &mut Vec<Finding>) -> io::Result<Vec<Value>> {
    let (mut tools, mut cursor) = (Vec::new(), None::<String>);
    for _ in 0..100 {
        let mut params = json!({});
        if let Some(meta) = &meta {
            params["_meta"] = meta.clone();
        }
        if let Some(cursor) = &cursor {
            params["cursor"] = cursor.clone().into();
        }
        match server.ask("tools/list", &params).await? {
            Ok(mut page) => {
                if meta.is_some() && (page.get("ttlMs").is_none() || page["resultType"] != "complete") {
                    found.push(Finding::error("list-cache", "tools/list", "has no resultType, ttlMs and cacheScope"));
                }
                tools.extend(page["tools"].as_array_mut().map(std::mem::take).unwrap_or_default());
                cursor = page["nextCursor"].as_str().map(str::to_owned);
            }
            Err(error) => {
                found.push(Finding::error(
                    "tools-list",
                    "tools/list",
                    format!("is refused: {}", crate::text::line(&error.to_string(), 200)),
                ));
                return Ok(tools);
            }
        }
        if cursor.is_none() {
            break;
        }
    }
    if tools.is_empty() {
        found.push(Finding::warning("tools-none", "tools/list", "there is no tool"));
    }
    Ok(tools)
}

fn described(tool: &Value, place: &str, found: &mut Vec<Finding>) {
    let name = tool["name"].as_str().unwrap_or_default();
    if !(1..=128).contains(&name.len()) || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')) {
        found.push(Finding::error("tool-name", format!("{place}/name"), "is not 1 to 128 letters, digits, _, - and dots"));
    }
    if tool["inputSchema"]["type"] != "object" {
        found.push(Finding::error("schema-root", format!("{place}/inputSchema"), "must be of type object"));
    }
    if tool["description"].as_str().is_none_or(|text| text.trim().is_empty()) {
        found.push(Finding::warning("tool-description", format!("{place}/description"), "is empty"));
    }
    if !tool["annotations"].is_object() {
        found.push(Finding::warning("annotations-missing", place, "nothing says whether it only reads"));
    }
}

/// What is not there is refused by its own code.
async fn unknown(server: &mut Speaking, meta: Option<Value>, found: &mut Vec<Finding>) -> io::Result<()> {
    let with = |mut params: Value| {
        if let Some(meta) = &meta {
            params["_meta"] = meta.clone();
        }
        params
    };
    let answer = server.ask("tools/call", &with(json!({ "name": "no-such-tool-7d81b2", "arguments": {} }))).await?;
    match (&answer, code(&answer)) {
        (_, Some(INVALID_PARAMS)) => {}
        // Several SDKs answer like this, which clients read as well.
        (Ok(result), _) if result["isError"] == true => {
            found.push(Finding::warning(
                "tool-unknown",
                "tools/call",
                format!("a tool that is not there gives a result with isError, not {INVALID_PARAMS}"),
            ));
        }
        _ => found.push(Finding::error(
            "tool-unknown",
            "tools/call",
            format!("a tool that is not there is not refused with {INVALID_PARAMS}"),
        )),
    }
    if code(&server.ask("no/such/method", &with(json!({}))).await?) != Some(METHOD_NOT_FOUND) {
        found.push(Finding::error(
            "method-unknown",
            "no/such/method",
            format!("a method that is not there is not refused with {METHOD_NOT_FOUND}"),
        ));
    }
    Ok(())
}
