//! What the audit trail is told of calls.

use audit::{EventType, NewEvent, Outcome, Promise};
use configurations::Configuration;
use platform::{
    Actor,
    secrets::{SECRET, is_named_secret, is_secret_itself},
};
use serde_json::{Value, value::RawValue};

use crate::{
    rpc::{Fault, Members, UNAVAILABLE},
    work::{Asking, Work},
};

/// How much of one text, of one list, and of all arguments the trail is told.
const LONGEST_TEXT: usize = 256;
const MOST_ITEMS: usize = 32;
const MOST: usize = 8 << 10;
const DEEPEST: usize = 8;

impl Work {
    /// A place in the trail, before anything happens that it has to tell of.
    pub(crate) fn promise(&self, configuration: &Configuration, asking: &Asking<'_>, named: &str) -> Result<Option<Telling>, Fault> {
        let action = match asking.method {
            "tools/call" => "tool.call",
            "prompts/get" => "prompt.get",
            "resources/read" => "resource.read",
            _ => return Ok(None),
        };
        let promise = self.gateway.inner.audit.promise().map_err(|_| {
            let status = axum::http::StatusCode::SERVICE_UNAVAILABLE;
            Fault::ours(status, UNAVAILABLE, "the audit trail cannot be written, so nothing that it has to tell of can be done")
        })?;
        // Names and sizes, and contents only where the operator wants them.
        let shown: String = named.chars().map(|c| if c.is_control() { ' ' } else { c }).take(256).collect();
        let event = NewEvent::new(EventType::Execution, action)
            .server(configuration.server_id.clone())
            .with("name", shown)
            .with("endpoint", self.place.to_string())
            .with("bytes_in", asking.params.map_or(0, |params| params.get().len()));
        let event = if self.gateway.inner.tells_arguments { with_arguments(event, asking.params) } else { event };
        Ok(Some(Telling { actor: self.actor.clone(), kept: Some((promise, event)), outcome: Came::Nothing }))
    }
}

/// What the trail is told of a call, however it ends: also of one that its client does not wait for.
pub(crate) struct Telling {
    actor: Actor,
    kept: Option<(Promise, NewEvent)>,
    pub(crate) outcome: Came,
}

/// What came of a call.
pub(crate) enum Came {
    /// Its client went away or took it back; what the server did is not known.
    Nothing,
    /// So many bytes.
    Answered(usize),
    /// With this code.
    Failed(i64),
}

impl Drop for Telling {
    fn drop(&mut self) {
        let Some((promise, event)) = self.kept.take() else { return };
        let event = match self.outcome {
            Came::Nothing => event.outcome(Outcome::Failure).with("code", "cancelled"),
            Came::Answered(bytes) => event.with("bytes_out", bytes),
            Came::Failed(code) => event.outcome(Outcome::Failure).with("code", code),
        };
        promise.keep(&self.actor, event);
    }
}

/// Arguments without what looks like a secret. They may tell of persons, and can be erased.
fn with_arguments(event: NewEvent, params: Option<&RawValue>) -> NewEvent {
    let arguments = params.and_then(Members::of).and_then(|params| {
        let given = params.get("arguments")?;
        serde_json::from_str::<Value>(given.get()).ok()
    });
    let Some(mut arguments) = arguments else { return event };
    redact(&mut arguments, 0);
    if arguments.to_string().len() > MOST {
        return event.personal("arguments", "[too long]");
    }
    event.personal("arguments", arguments)
}

fn redact(value: &mut Value, depth: usize) {
    if depth > DEEPEST {
        *value = "[too deep]".into();
        return;
    }
    match value {
        Value::String(text) if is_secret_itself(text) => *value = SECRET.into(),
        Value::String(text) if text.len() > LONGEST_TEXT => {
            text.truncate(text.floor_char_boundary(LONGEST_TEXT));
            text.push('…');
        }
        Value::Array(items) => {
            items.truncate(MOST_ITEMS);
            for item in items {
                redact(item, depth + 1);
            }
        }
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                if is_named_secret(name) {
                    *member = SECRET.into();
                } else {
                    redact(member, depth + 1);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_that_looks_like_a_secret_is_told() {
        let mut arguments = json!({
            "path": "/a", "apiKey": "k1", "nested": [{ "password": { "value": "k2" } }, "Bearer k3"], "url": "https://ada:k4@db/x",
            "text": "é".repeat(300), "list": vec![1; 100], "deep": [[[[[[[[[["k5"]]]]]]]]]],
        });
        redact(&mut arguments, 0);
        let text = arguments.to_string();
        assert!((1..=5).all(|n| !text.contains(&format!("k{n}"))), "{text}");
        assert_eq!((arguments["path"].as_str(), arguments["list"].as_array().unwrap().len()), (Some("/a"), MOST_ITEMS));
        assert!(arguments["text"].as_str().unwrap().len() <= LONGEST_TEXT + 3);
    }
}
