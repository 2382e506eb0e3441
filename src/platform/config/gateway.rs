//! Settings of the endpoints for MCP clients.

use std::time::Duration;

use super::{
    ConfigError, Layers,
    parse::{Bounded, Seconds},
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
}

impl GatewayConfig {
    pub(super) fn from_layers(layers: &Layers) -> Result<Self, ConfigError> {
        let number = |key| Ok::<usize, ConfigError>(usize::try_from(layers.get::<Bounded>(key)?.0).unwrap_or(usize::MAX));
        Ok(Self {
            session_idle: layers.get::<Seconds>("FABRIC_MCP_SESSION_SECONDS")?.0,
            most_sessions: number("FABRIC_MCP_MAX_SESSIONS")?.max(1),
            most_sessions_of_one: number("FABRIC_MCP_MAX_SESSIONS_PER_USER")?.max(1),
            list_limit: layers.get::<Seconds>("FABRIC_MCP_LIST_SECONDS")?.0,
            result_bytes: number("FABRIC_MCP_RESULT_MB")? << 20,
        })
    }
}
