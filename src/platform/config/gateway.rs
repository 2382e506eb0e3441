//! Settings of the endpoints for MCP clients.

use std::time::Duration;

use url::Url;

use super::{
    ConfigError, Layers,
    parse::{Bounded, FromSetting, Seconds},
};

/// How MCP clients are served.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// After which time without a message a session ends.
    pub session_idle: Duration,
    /// Sessions at once of everybody.
    pub most_sessions: usize,
    /// Sessions at once of one actor.
    pub most_sessions_of_one: usize,
    /// How long a list of several servers waits for each of them.
    pub list_limit: Duration,
    /// Bytes of one result.
    pub result_bytes: usize,
    /// Domains that virtual servers are reached at, each as `https://host`; none for paths of this fabric.
    pub pool: Vec<String>,
}

/// A domain of the pool: a scheme and a host, maybe with a port.
struct Domain(String);

impl FromSetting for Domain {
    fn from_setting(text: &str) -> Result<Self, String> {
        let unfit = || "is not a list of addresses like `https://mcp1.example.com`, parted by commas".to_owned();
        let url: Url = text.trim().parse().map_err(|_| unfit())?;
        let is_bare = matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if is_bare { Ok(Self(url.origin().ascii_serialization())) } else { Err(unfit()) }
    }
}

impl GatewayConfig {
    pub(super) fn from_layers(layers: &Layers) -> Result<Self, ConfigError> {
        let number = |key| Ok::<usize, ConfigError>(usize::try_from(layers.get::<Bounded>(key)?.0).unwrap_or(usize::MAX));
        Ok(Self {
            session_idle: layers.get::<Seconds>("FABRIC_MCP_SESSION_SECONDS")?.0,
            most_sessions: number("FABRIC_MCP_MAX_SESSIONS")?.max(1),
            most_sessions_of_one: number("FABRIC_MCP_MAX_SESSIONS_PER_USER")?.max(1),
            list_limit: layers.get::<Seconds>("FABRIC_MCP_LIST_SECONDS")?.0,
            pool: {
                let mut pool: Vec<String> = layers.list::<Domain>("MCP_GATEWAY_URL_POOLS")?.into_iter().map(|domain| domain.0).collect();
                pool.sort();
                pool.dedup();
                pool
            },
            result_bytes: number("FABRIC_MCP_RESULT_MB")? << 20,
        })
    }
}
