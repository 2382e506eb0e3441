//! What a client is told of an endpoint when it comes.

use std::sync::Arc;

use runtime::{Era, Session};
use serde_json::json;

use crate::{
    client::Client,
    meta::SERVER_INFO,
    revision::ALL,
    rpc::{Fault, Raw, quoted, raw},
    work::Work,
};

/// What a place of several servers offers, whatever they are: they come and go.
fn of_all(is_modern: bool) -> String {
    let mut all = json!({
        "tools": { "listChanged": true },
        "prompts": { "listChanged": true },
        "resources": { "listChanged": true, "subscribe": true },
        "completions": {},
    });
    if !is_modern {
        all["logging"] = json!({});
    }
    all.to_string()
}

/// What is said of a server whose greeting an earlier process heard.
const UNKNOWN: &str = r#"{"tools":{"listChanged":true},"prompts":{},"resources":{},"completions":{},"logging":{}}"#;

const INSTRUCTIONS: &str = "Tools and prompts of several servers, each named `<server>__<name>`. \
    What a server cannot list at the moment is named in `_meta` of the list, and comes back by itself.";

struct Greeting {
    capabilities: String,
    info: Raw,
    instructions: Option<String>,
}

fn of_server(session: &Arc<Session>) -> Greeting {
    let said = session.greeting.as_ref();
    Greeting {
        capabilities: said.and_then(|said| said.capabilities.as_deref()).map_or(UNKNOWN, |said| said.get()).to_owned(),
        info: said.and_then(runtime::Greeting::info).map_or_else(own_info, ToOwned::to_owned),
        instructions: said.and_then(|said| said.instructions.clone()),
    }
}

fn own_info() -> Raw {
    raw(json!({ "name": "mcp-fabric", "version": env!("CARGO_PKG_VERSION") }).to_string())
}

impl Work {
    async fn greeting(&self) -> Result<Greeting, Fault> {
        if self.place.is_shared() {
            let is_modern = self.era() == Era::Modern;
            return Ok(Greeting { capabilities: of_all(is_modern), info: own_info(), instructions: Some(INSTRUCTIONS.into()) });
        }
        let (_, session) = self.backend(self.only()?).await?;
        Ok(of_server(&session))
    }

    /// The result of `initialize`.
    pub(crate) async fn initialize(&self, client: &Client) -> Result<String, Fault> {
        let Greeting { capabilities, info, instructions } = self.greeting().await?;
        let instructions = instructions.map(|text| format!(",\"instructions\":{}", quoted(&text))).unwrap_or_default();
        let revision = client.revision;
        Ok(format!("{{\"protocolVersion\":\"{revision}\",\"capabilities\":{capabilities},\"serverInfo\":{info}{instructions}}}"))
    }

    /// The result of `server/discover`.
    pub(crate) async fn discover(&self) -> Result<String, Fault> {
        let Greeting { capabilities, info, instructions } = self.greeting().await?;
        let instructions = instructions.map(|text| format!("\"instructions\":{},", quoted(&text))).unwrap_or_default();
        let revisions = json!(ALL);
        Ok(format!(
            "{{\"resultType\":\"complete\",\"supportedVersions\":{revisions},\"capabilities\":{capabilities},{instructions}\
             \"ttlMs\":0,\"cacheScope\":\"private\",\"_meta\":{{\"{SERVER_INFO}\":{info}}}}}"
        ))
    }
}
