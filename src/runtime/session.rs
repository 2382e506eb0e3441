//! Speaking MCP with a server: in which era, which tools, calling one, whether it is well.
//!
//! The era is learned once and never mixed on one process: dual-era servers lock it (basic/versioning of the
//! specification, revision 2026-07-28).

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    model::Era,
    wire::{CallError, Wire, plain},
};

/// The revisions that are offered.
const LEGACY: &str = "2025-11-25";
const MODERN: &str = "2026-07-28";
/// How long a server may think about `server/discover` before it counts as one that does not know it.
const DISCOVER: Duration = Duration::from_secs(4);
/// How long an answer may take that needs no work.
pub(crate) const PROMPT: Duration = Duration::from_secs(10);
/// Pages and tools beyond these are not asked for.
const MOST_PAGES: usize = 100;
const MOST_TOOLS: usize = 10_000;
/// How much a server may say of all its tools together.
const MOST_BYTES: usize = 16 << 20;
/// JSON-RPC errors of modern servers that do not speak our revision: they know `server/discover`.
const MODERN_ERRORS: std::ops::RangeInclusive<i64> = -32029..=-32020;

/// A server that answers.
pub struct Session {
    pub(crate) wire: Arc<Wire>,
    /// How it speaks.
    pub era: Era,
    /// What it calls itself, and its version.
    pub server: Option<(String, String)>,
}

#[derive(Deserialize)]
struct Hello {
    #[serde(rename = "serverInfo")]
    server: Option<Named>,
    #[serde(rename = "_meta")]
    meta: Option<Meta>,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(rename = "io.modelcontextprotocol/serverInfo")]
    server: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
    #[serde(default)]
    version: String,
}

#[derive(Deserialize)]
struct Tools {
    #[serde(default)]
    tools: Vec<Value>,
    #[serde(rename = "nextCursor")]
    next: Option<String>,
}

fn client_info() -> Value {
    json!({ "name": "mcp-fabric", "version": env!("CARGO_PKG_VERSION") })
}

fn unreadable() -> CallError {
    CallError::Refused { code: -32700, message: "the server's answer is not of the form that the protocol states".into() }
}

fn read<'a, T: Deserialize<'a>>(result: &'a RawValue) -> Result<T, CallError> {
    serde_json::from_str(result.get()).map_err(|_| unreadable())
}

impl Session {
    /// Greets a server that was just started. Where its era is not known, it is asked in the modern way first.
    pub(crate) async fn open(wire: Arc<Wire>, known: Option<Era>, within: Duration) -> Result<Self, CallError> {
        let greet = async {
            match known {
                Some(Era::Legacy) => Self::initialize(wire).await,
                Some(Era::Modern) => {
                    let hello = discover(&wire, within).await?;
                    Self::modern(wire, &hello)
                }
                None => match discover(&wire, DISCOVER).await {
                    Ok(hello) => Self::modern(wire, &hello),
                    Err(CallError::Closed) => Err(CallError::Closed),
                    Err(CallError::Refused { code, message }) if MODERN_ERRORS.contains(&code) => Err(CallError::Refused { code, message }),
                    Err(_) => Self::initialize(wire).await,
                },
            }
        };
        tokio::time::timeout(within, greet).await.unwrap_or(Err(CallError::Timeout(within)))
    }

    /// Goes on with a server that was greeted before, by an earlier process.
    pub(crate) async fn resume(wire: Arc<Wire>, era: Era) -> Result<Self, CallError> {
        let session = Self { wire, era, server: None };
        session.probe().await?;
        Ok(session)
    }

    fn modern(wire: Arc<Wire>, hello: &RawValue) -> Result<Self, CallError> {
        let hello: Hello = read(hello)?;
        let server = hello.meta.and_then(|meta| meta.server).or(hello.server);
        Ok(Self { wire, era: Era::Modern, server: server.as_ref().map(named) })
    }

    async fn initialize(wire: Arc<Wire>) -> Result<Self, CallError> {
        let params = json!({ "protocolVersion": LEGACY, "capabilities": {}, "clientInfo": client_info() });
        let hello = wire.request("initialize", &params, Duration::MAX).await?;
        let hello: Hello = read(&hello)?;
        wire.notify("notifications/initialized").await?;
        Ok(Self { wire, era: Era::Legacy, server: hello.server.as_ref().map(named) })
    }

    fn params(&self, mut params: Value) -> Value {
        if self.era == Era::Modern {
            params["_meta"] = meta();
        }
        params
    }

    /// Every tool, as the server describes it.
    pub async fn tools(&self, within: Duration) -> Result<Vec<Value>, CallError> {
        let (mut all, mut cursor, mut bytes) = (Vec::new(), None::<String>, 0);
        for _ in 0..MOST_PAGES {
            let params = cursor.as_ref().map_or_else(|| json!({}), |cursor| json!({ "cursor": cursor }));
            let page = match self.wire.request("tools/list", &self.params(params), within).await {
                // A server without tools need not know the method.
                Err(CallError::Refused { code: -32601, .. }) => return Ok(all),
                page => page?,
            };
            bytes += page.get().len();
            if bytes > MOST_BYTES {
                return Err(CallError::TooMuch);
            }
            let page: Tools = read(&page)?;
            all.extend(page.tools);
            if page.next.is_none() || page.next == cursor || all.len() > MOST_TOOLS {
                break;
            }
            cursor = page.next;
        }
        Ok(all)
    }

    /// Calls a tool; what it gives stays as it came.
    pub async fn call(&self, tool: &str, arguments: &Value, within: Duration) -> Result<Box<RawValue>, CallError> {
        let params = self.params(json!({ "name": tool, "arguments": arguments }));
        self.wire.request("tools/call", &params, within).await
    }

    /// Asks whether the server is well, in the way of its era: a modern one does not know `ping`.
    pub(crate) async fn probe(&self) -> Result<(), CallError> {
        let asked = match self.era {
            Era::Legacy => self.wire.request("ping", &json!({}), PROMPT).await,
            Era::Modern => discover(&self.wire, PROMPT).await,
        };
        match asked {
            // It answers, which is what was asked.
            Ok(_) | Err(CallError::Refused { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn named(server: &Named) -> (String, String) {
    (plain(&server.name, 200), plain(&server.version, 100))
}

fn meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": client_info(),
    })
}

async fn discover(wire: &Wire, within: Duration) -> Result<Box<RawValue>, CallError> {
    wire.request("server/discover", &json!({ "_meta": meta() }), within).await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

    use super::*;
    use crate::log::Log;

    #[tokio::test]
    async fn tools_without_an_end_are_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let ((ours, theirs), (reads, mut writes)) = (tokio::io::duplex(1 << 16), tokio::io::duplex(1 << 16));
        let wire = Wire::open(ours, reads, Log::open(folder.path()).unwrap());
        let session = Session { wire, era: Era::Legacy, server: None };
        let server = async {
            let (mut asked, mut page) = (BufReader::new(theirs).lines(), 0);
            while let Ok(Some(line)) = asked.next_line().await {
                page += 1;
                let id = serde_json::from_str::<Value>(&line).unwrap()["id"].clone();
                let tool = json!({ "name": "long", "description": "x".repeat(4 << 20) });
                let answer = json!({ "jsonrpc": "2.0", "id": id, "result": { "tools": [tool], "nextCursor": page.to_string() } });
                writes.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
            }
            page
        };
        let ask = async {
            let listed = session.tools(Duration::from_secs(20)).await;
            session.wire.hang_up();
            listed
        };
        let (listed, pages) = tokio::join!(ask, server);
        assert!(matches!(listed, Err(CallError::TooMuch)));
        assert_eq!(pages, 4);
    }
}
