//! Tokens that are for some tools only: others are neither listed nor called, and nothing else of a server is reached.

use audit::{EventType, NewEvent, Outcome};
use configurations::Configuration;
use platform::Action;
use serde_json::value::RawValue;

use crate::{
    lists::Kind,
    rpc::{Fault, INVALID_PARAMS, INVALID_REQUEST, Members, Raw, plain, raw},
    work::Work,
};

impl Work {
    /// Fails where the token is not for what is asked of a server.
    pub(crate) fn require_granted(&self, configuration: &Configuration, method: &str, named: &str) -> Result<(), Fault> {
        if self.actor.tools().is_none() || Kind::of_method(method).is_some() {
            return Ok(());
        }
        match method {
            "tools/call" if self.actor.may_use_tool(&configuration.server_id, named) => Ok(()),
            "tools/call" => {
                let shown = plain(named, 128);
                let told = NewEvent::new(EventType::Authorization, "access.deny").server(configuration.server_id.clone());
                let told = told.with("action", Action::ToolsCall.as_str()).with("name", shown.as_str()).outcome(Outcome::Denied);
                self.gateway.inner.audit.note(&self.actor, told);
                Err(Fault::of(INVALID_PARAMS, format!("this token is not for the tool: {shown}")))
            }
            "logging/setLevel" => Ok(()),
            _ => Err(Fault::of(INVALID_REQUEST, "this token is for some tools only")),
        }
    }

    /// Whether a thing of a server may be listed.
    pub(crate) fn is_granted(&self, configuration: &Configuration, kind: Kind, key: &str) -> bool {
        self.actor.tools().is_none() || (kind == Kind::Tools && self.actor.may_use_tool(&configuration.server_id, key))
    }

    /// A list of one server without what the token is not for.
    pub(crate) fn as_granted(&self, configuration: &Configuration, method: &str, result: String) -> String {
        let Some(kind) = Kind::of_method(method).filter(|_| self.actor.tools().is_some()) else { return result };
        let result = raw(result);
        let mut members = Members::of(&result).unwrap_or_default();
        let listed: Vec<&RawValue> =
            members.get(kind.member()).and_then(|listed| serde_json::from_str(listed.get()).ok()).unwrap_or_default();
        let is_granted = |item: &&RawValue| {
            Members::of(item).and_then(|item| item.text(kind.key())).is_some_and(|key| self.is_granted(configuration, kind, &key))
        };
        let kept: Vec<&str> = listed.into_iter().filter(is_granted).map(RawValue::get).collect();
        let kept: Raw = raw(format!("[{}]", kept.join(",")));
        members.set(kind.member(), kept);
        members.to_string()
    }
}
