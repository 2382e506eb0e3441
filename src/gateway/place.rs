//! The endpoints that there are, and whose servers they offer.

use std::fmt;

use virtual_servers::VirtualServerId;

/// Where a client has connected.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// `/mcp`: everything that the actor may use.
    All,
    /// `/mcp/s/{server}`: one server, by its id.
    Server(String),
    /// `/mcp/v/{id}`, or a domain of the pool: a virtual server.
    Virtual(VirtualServerId),
}

impl Place {
    /// Whether several servers are offered there, under names that say whose they are.
    pub(crate) fn is_shared(&self) -> bool {
        match self {
            Self::All | Self::Virtual(_) => true,
            Self::Server(_) => false,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("/mcp"),
            Self::Server(id) => write!(f, "/mcp/s/{id}"),
            Self::Virtual(id) => write!(f, "/mcp/v/{id}"),
        }
    }
}
