//! Speaking MCP with a server: in which era, which tools, calling one, whether it is well.
//!
//! The era is learned once and never mixed on one process: dual-era servers lock it (basic/versioning of the
//! specification, revision 2026-07-28).

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    exchange::{Failure, Party, Ticket},
    model::Era,
    wire::{CallError, Wire},
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
#[derive(Debug)]
pub struct Session {
    pub(crate) wire: Arc<Wire>,
    /// How it speaks.
    pub era: Era,
    /// What it said of itself; nothing where an earlier process was told.
    pub greeting: Option<Greeting>,
}

/// What a server says of itself, as it came.
#[derive(Debug, Deserialize)]
pub struct Greeting {
    /// What it can do.
    pub capabilities: Option<Box<RawValue>>,
    /// How it is to be used.
    pub instructions: Option<String>,
    /// The revision that was agreed on, of servers with a handshake.
    #[serde(rename = "protocolVersion")]
    pub revision: Option<String>,
    /// All revisions that it speaks, of modern servers.
    #[serde(default, rename = "supportedVersions")]
    pub revisions: Vec<String>,
    #[serde(rename = "serverInfo")]
    info: Option<Box<RawValue>>,
    #[serde(rename = "_meta")]
    meta: Option<Meta>,
}

#[derive(Debug, Deserialize)]
struct Meta {
    #[serde(rename = "io.modelcontextprotocol/serverInfo")]
    info: Option<Box<RawValue>>,
}

impl Greeting {
    /// What it calls itself.
    pub fn info(&self) -> Option<&RawValue> {
        self.meta.as_ref().and_then(|meta| meta.info.as_deref()).or(self.info.as_deref())
    }

    /// Whether a modern server speaks with a handshake, too.
    pub fn is_dual(&self) -> bool {
        self.revisions.iter().any(|revision| revision.as_str() < MODERN)
    }
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
    /// Greets a server that was just started. Where its era is not known, it is asked in the modern way first. `asks` says
    /// whether it may ask its client for anything.
    pub(crate) async fn open(wire: Arc<Wire>, known: Option<Era>, asks: bool, within: Duration) -> Result<Self, CallError> {
        let greet = async {
            match known {
                Some(Era::Legacy) => Self::initialize(wire, asks).await,
                Some(Era::Modern) => {
                    let hello = discover(&wire, within).await?;
                    Self::modern(wire, &hello)
                }
                None => match discover(&wire, DISCOVER).await {
                    Ok(hello) => Self::modern(wire, &hello),
                    Err(CallError::Closed) => Err(CallError::Closed),
                    Err(CallError::Refused { code, message }) if MODERN_ERRORS.contains(&code) => Err(CallError::Refused { code, message }),
                    Err(_) => Self::initialize(wire, asks).await,
                },
            }
        };
        tokio::time::timeout(within, greet).await.unwrap_or(Err(CallError::Timeout(within)))
    }

    /// Goes on with a server that was greeted before, by an earlier process.
    pub(crate) async fn resume(wire: Arc<Wire>, era: Era) -> Result<Self, CallError> {
        if era == Era::Modern {
            let hello = discover(&wire, PROMPT).await?;
            return Self::modern(wire, &hello);
        }
        let session = Self { wire, era, greeting: None };
        session.probe().await?;
        Ok(session)
    }

    fn modern(wire: Arc<Wire>, hello: &RawValue) -> Result<Self, CallError> {
        Ok(Self { wire, era: Era::Modern, greeting: Some(read(hello)?) })
    }

    async fn initialize(wire: Arc<Wire>, asks: bool) -> Result<Self, CallError> {
        let capabilities = if asks {
            json!({ "sampling": {}, "elicitation": { "form": {}, "url": {} }, "roots": { "listChanged": true } })
        } else {
            json!({})
        };
        let params = json!({ "protocolVersion": LEGACY, "capabilities": capabilities, "clientInfo": client_info() });
        let hello = wire.request("initialize", &params, Duration::MAX).await?;
        let greeting = Some(read(&hello)?);
        wire.notify("notifications/initialized", None).await?;
        Ok(Self { wire, era: Era::Legacy, greeting })
    }

    /// A request to be sent, of somebody's or, without a party, of the fabric's own.
    pub fn ticket(&self, party: Option<Party>) -> Ticket {
        self.wire.ticket(party)
    }

    /// Tells the server something; the parameters are JSON.
    pub async fn notify(&self, method: &str, params: Option<&str>) -> Result<(), Failure> {
        self.wire.notify(method, params).await
    }

    /// Whether the server has gone.
    pub fn is_closed(&self) -> bool {
        self.wire.is_closed()
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

fn meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": client_info(),
    })
}

async fn discover(wire: &Arc<Wire>, within: Duration) -> Result<Box<RawValue>, CallError> {
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
        let wire = Wire::open(ours, reads, Log::open(folder.path()).unwrap(), tokio::sync::mpsc::channel(1).0);
        let session = Session { wire, era: Era::Legacy, greeting: None };
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
