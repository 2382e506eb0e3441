//! Who hears what servers say unasked: a session, or a modern client's stream for it.

use std::{
    collections::HashSet,
    sync::{Arc, Weak},
};

use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    client::Client,
    meta,
    rpc::{Id, notification},
};

/// One of them, for as long as it is there.
#[derive(Clone)]
pub(crate) enum Hearer {
    Session(Weak<Client>),
    Stream(Weak<Listening>),
}

impl Hearer {
    /// Tells it; false when it has gone.
    pub(crate) fn hear(&self, method: &str, params: Option<&RawValue>) -> bool {
        match self {
            Self::Session(client) => client.upgrade().map(|client| client.hear(method, params)).is_some(),
            Self::Stream(listening) => listening.upgrade().is_some_and(|listening| listening.hear(method, params)),
        }
    }

    /// Whether it has not gone.
    pub(crate) fn is_there(&self) -> bool {
        match self {
            Self::Session(client) => client.strong_count() > 0,
            Self::Stream(listening) => listening.strong_count() > 0,
        }
    }

    /// The session, if it is one.
    pub(crate) fn session(&self) -> Option<Arc<Client>> {
        match self {
            Self::Session(client) => client.upgrade(),
            Self::Stream(_) => None,
        }
    }
}

/// What a modern client wants to hear of (`subscriptions/listen`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Filter {
    tools_list_changed: bool,
    prompts_list_changed: bool,
    resources_list_changed: bool,
    pub(crate) resource_subscriptions: HashSet<String>,
}

/// A modern client's stream for what is said unasked.
pub(crate) struct Listening {
    id: Id,
    filter: Filter,
    say: mpsc::Sender<String>,
    /// Ends the stream of a reader who is too slow: coming back, it asks for everything anew.
    pub(crate) stop: CancellationToken,
}

impl Listening {
    pub(crate) fn new(id: Id, filter: Filter, say: mpsc::Sender<String>) -> Self {
        Self { id, filter, say, stop: CancellationToken::new() }
    }

    /// The first message of its stream: what of the wish is granted.
    pub(crate) fn acknowledgement(&self) -> String {
        let mut granted = json!({
            "toolsListChanged": self.filter.tools_list_changed,
            "promptsListChanged": self.filter.prompts_list_changed,
            "resourcesListChanged": self.filter.resources_list_changed,
        });
        if let Some(granted) = granted.as_object_mut() {
            granted.retain(|_, is_granted| *is_granted == true);
            if !self.filter.resource_subscriptions.is_empty() {
                granted.insert("resourceSubscriptions".into(), json!(self.filter.resource_subscriptions));
            }
        }
        let params = crate::rpc::raw(json!({ "notifications": granted }).to_string());
        notification("notifications/subscriptions/acknowledged", &meta::subscription(Some(&params), &self.id.to_string()))
    }

    pub(crate) fn hear(&self, method: &str, params: Option<&RawValue>) -> bool {
        let is_wanted = match method {
            "notifications/tools/list_changed" => self.filter.tools_list_changed,
            "notifications/prompts/list_changed" => self.filter.prompts_list_changed,
            "notifications/resources/list_changed" => self.filter.resources_list_changed,
            // Whoever tells of it has looked who wants it.
            "notifications/resources/updated" => true,
            _ => false,
        };
        if !is_wanted {
            return !self.say.is_closed();
        }
        let told = self.say.try_send(notification(method, &meta::subscription(params, &self.id.to_string())));
        if told.is_err() {
            self.stop.cancel();
        }
        told.is_ok()
    }
}
