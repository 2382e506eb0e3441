//! What an endpoint offers: which servers, and what their tools are called there.

use std::{ops::Deref, sync::Arc};

use configurations::Configuration;
use virtual_servers::{Prefix, VirtualServer};

use crate::names;

/// The servers of an endpoint, by their ids, and how they are shown.
#[derive(Clone)]
pub(crate) struct Offer {
    servers: Arc<Vec<Arc<Configuration>>>,
    /// Where it is one that somebody has put together.
    virtual_server: Option<Arc<VirtualServer>>,
}

impl Deref for Offer {
    type Target = [Arc<Configuration>];

    fn deref(&self) -> &Self::Target {
        &self.servers
    }
}

impl Offer {
    pub(crate) fn of(servers: Arc<Vec<Arc<Configuration>>>) -> Self {
        Self { servers, virtual_server: None }
    }

    pub(crate) fn put_together(servers: Vec<Arc<Configuration>>, virtual_server: Arc<VirtualServer>) -> Self {
        Self { servers: Arc::new(servers), virtual_server: Some(virtual_server) }
    }

    fn prefix(&self) -> Prefix {
        self.virtual_server.as_ref().map_or(Prefix::Server, |one| one.prefix)
    }

    /// Whether the names of things say whose they are.
    pub(crate) fn has_prefixes(&self) -> bool {
        self.prefix() == Prefix::Server
    }

    /// What a server's thing is called here before anything is renamed.
    fn base(&self, server: &str, name: &str) -> String {
        names::at(self.prefix(), server, name)
    }

    /// What a tool is called here; `None` where it is not offered.
    pub(crate) fn tool(&self, prefix: &str, name: &str) -> Option<String> {
        let base = self.base(prefix, name);
        self.virtual_server.as_ref().map_or_else(|| Some(base.clone()), |one| one.shown(&base))
    }

    /// What a prompt is called here.
    pub(crate) fn prompt(&self, prefix: &str, name: &str) -> String {
        self.base(prefix, name)
    }

    /// The name of a tool here before anything was renamed; `None` for one that is not offered.
    pub(crate) fn tool_base(&self, shown: &str) -> Option<String> {
        self.virtual_server.as_ref().map_or_else(|| Some(shown.to_owned()), |one| one.original(shown))
    }
}
