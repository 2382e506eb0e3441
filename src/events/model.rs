use chrono::{DateTime, Utc};
use platform::{Actor, Identity, clock};
use serde::Serialize;
use serde_json::{Value, json};

/// Something that is about to be told.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// `SCREAMING_SNAKE_CASE`, as clients compare it: `JOB_STATUS_CHANGED`.
    pub kind: &'static str,
    /// What it can be filtered by: `jobs`, `catalogue`.
    pub channel: &'static str,
    /// Whose it is, as [`Actor`] is written; `None` for every actor.
    pub owner: Option<String>,
    /// What clients read.
    pub payload: Value,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Event {
    /// Grows in commit order; what `Last-Event-ID` refers to.
    pub id: i64,
    /// `SCREAMING_SNAKE_CASE`.
    pub kind: String,
    /// What it can be filtered by.
    pub channel: String,
    /// Whose it is; `None` for every actor.
    pub owner: Option<String>,
    /// What clients read.
    pub payload: Value,
    /// When it happened.
    pub created_at: DateTime<Utc>,
}

#[derive(Serialize)]
struct Wire<'a> {
    id: i64,
    r#type: &'a str,
    channel: &'a str,
    payload: &'a Value,
    timestamp: String,
}

impl Event {
    /// Whether `actor` may hear of it; the same rule as the table's row-level security.
    pub fn is_visible_to(&self, actor: &Actor) -> bool {
        match actor.identity {
            Identity::Operator | Identity::System(_) => true,
            Identity::User { .. } | Identity::Service(_) => self.owner.as_ref().is_none_or(|owner| *owner == actor.to_string()),
            Identity::Nobody => false,
        }
    }

    /// `{id, type, channel, payload, timestamp}`.
    pub fn wire(&self) -> Value {
        json!(Wire {
            id: self.id,
            r#type: &self.kind,
            channel: &self.channel,
            payload: &self.payload,
            timestamp: clock::rfc3339(self.created_at),
        })
    }
}
