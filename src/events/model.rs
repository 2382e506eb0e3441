use std::sync::OnceLock;

use axum::extract::ws::Utf8Bytes;
use chrono::{DateTime, Utc};
use platform::{Action, Actor, Identity, clock};
use serde::Serialize;
use serde_json::{Value, json};

use crate::kind::Kind;

/// How the table writes [`Audience::Auditors`].
const AUDITORS: &str = "auditors";

/// Who may hear of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Every actor.
    Everyone,
    /// One actor, as [`Actor`] is written.
    Owner(String),
    /// Whoever may read the whole audit trail.
    Auditors,
}

impl Audience {
    pub(crate) fn stored(&self) -> Option<&str> {
        match self {
            Self::Everyone => None,
            Self::Owner(owner) => Some(owner),
            Self::Auditors => Some(AUDITORS),
        }
    }

    pub(crate) fn of_stored(owner: Option<String>) -> Self {
        match owner {
            None => Self::Everyone,
            Some(owner) if owner == AUDITORS => Self::Auditors,
            Some(owner) => Self::Owner(owner),
        }
    }
}

/// Something that is about to be told.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Its type.
    pub kind: &'static Kind,
    /// For whom.
    pub audience: Audience,
    /// The id of the server that it is about.
    pub server: Option<String>,
    /// What clients read: the members that the type declares.
    pub payload: Value,
}

impl NewEvent {
    /// An event that every actor may hear of.
    pub fn for_everyone(kind: &'static Kind, payload: Value) -> Self {
        Self { kind, audience: Audience::Everyone, server: None, payload }
    }

    /// An event of one actor, as [`Actor`] is written.
    pub fn of(owner: impl Into<String>, kind: &'static Kind, payload: Value) -> Self {
        Self { kind, audience: Audience::Owner(owner.into()), server: None, payload }
    }

    /// It is about a server; who may not use that does not hear of it.
    #[must_use]
    pub fn about(mut self, server: impl Into<String>) -> Self {
        self.server = Some(server.into());
        self
    }

    /// The event, as of now, for a statement that publishes it.
    pub fn prepare(self) -> Prepared {
        debug_assert!(self.is_as_declared(), "{self:?}");
        let Self { kind, audience, server, payload } = self;
        let owner = audience.stored().map(str::to_owned);
        Prepared { kind: kind.name, channel: kind.channel, owner, server, payload, at: clock::now() }
    }

    /// Whether its payload is what its type declares; documents would be wrong otherwise.
    fn is_as_declared(&self) -> bool {
        let declared = |name: &String| self.kind.payload.iter().any(|(member, _)| member == name);
        self.payload.as_object().is_some_and(|payload| payload.keys().all(declared))
    }
}

/// What `mcp_fabric.publish_event` takes, in its order. A statement that calls it does so last: publishers take turns from
/// there to the end of their transaction.
#[derive(Debug)]
#[expect(missing_docs, reason = "they are the members of [`Event`]")]
pub struct Prepared {
    pub kind: &'static str,
    pub channel: &'static str,
    pub owner: Option<String>,
    pub server: Option<String>,
    pub payload: Value,
    pub at: DateTime<Utc>,
}

/// Something that happened.
#[derive(Debug)]
pub struct Event {
    /// Grows in commit order; what `Last-Event-ID` refers to.
    pub id: i64,
    /// The name of its type.
    pub kind: String,
    /// What it can be filtered by.
    pub channel: String,
    /// For whom.
    pub audience: Audience,
    /// The id of the server that it is about.
    pub server: Option<String>,
    /// What clients read.
    pub payload: Value,
    /// When it happened.
    pub created_at: DateTime<Utc>,
    /// What followers are sent, once somebody was.
    pub(crate) text: OnceLock<Utf8Bytes>,
}

#[derive(Serialize)]
struct Wire<'a> {
    id: i64,
    r#type: &'a str,
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    payload: Value,
    timestamp: String,
}

impl Event {
    /// Whether it is of this type.
    pub fn is(&self, kind: &Kind) -> bool {
        self.kind == kind.name
    }

    /// Whether `actor` may hear of it.
    pub fn is_visible_to(&self, actor: &Actor) -> bool {
        let is_server_granted = match (&self.server, actor.servers()) {
            (Some(server), Some(granted)) => granted.contains(server),
            _ => true,
        };
        is_server_granted
            && match (&actor.identity, &self.audience) {
                (Identity::Nobody, _) => false,
                (Identity::Operator | Identity::System(_), _) | (_, Audience::Everyone) => true,
                (_, Audience::Owner(owner)) => *owner == actor.to_string(),
                (_, Audience::Auditors) => actor.may(Action::AuditReadAll),
            }
    }

    /// `{id, type, channel, server, payload, timestamp}` as JSON, as every follower has it.
    pub(crate) fn text(&self) -> &Utf8Bytes {
        self.text.get_or_init(|| {
            let timestamp = clock::rfc3339(self.created_at);
            let mut payload = self.payload.clone();
            if let Some(payload) = payload.as_object_mut() {
                payload.insert("timestamp".into(), timestamp.clone().into());
            }
            json!(Wire { id: self.id, r#type: &self.kind, channel: &self.channel, server: self.server.as_deref(), payload, timestamp })
                .to_string()
                .into()
        })
    }
}
