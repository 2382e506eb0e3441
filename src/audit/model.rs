use std::fmt::Display;

use chrono::{DateTime, Utc};
use platform::{Actor, clock};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

platform::id! {
    /// An event.
    pub struct EventId;
}

platform::words! {
    /// What kind of thing happened.
    pub enum EventType {
        /// Somebody came in, or tried to.
        Authentication = "authentication",
        /// Somebody was refused for want of rights.
        Authorization = "authorization",
        /// Private data was read.
        DataAccess = "data_access",
        /// Something was changed.
        DataChange = "data_change",
        /// Something was started or stopped.
        Execution = "execution",
        /// Many things were changed at once.
        BulkOperation = "bulk_operation",
        /// The program did something of its own accord.
        System = "system",
        /// Something that an operator should look at.
        Warning = "warning",
    }
}

platform::words! {
    /// What came of it.
    pub enum Outcome {
        /// It is about to happen; another event answers this one.
        Intent = "intent",
        /// It was done.
        Success = "success",
        /// The actor may not.
        Denied = "denied",
        /// It was tried and did not work.
        Failure = "failure",
        /// Nothing was heard of an intent any more.
        Timeout = "timeout",
    }
}

/// Something that is about to be recorded.
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub(crate) event_type: EventType,
    pub(crate) action: &'static str,
    pub(crate) outcome: Outcome,
    pub(crate) actor: Option<String>,
    pub(crate) owner: Option<String>,
    pub(crate) target: Option<(&'static str, String)>,
    pub(crate) server_id: Option<String>,
    pub(crate) answers: Option<EventId>,
    pub(crate) detail: Map<String, Value>,
    pub(crate) personal: Map<String, Value>,
}

impl NewEvent {
    /// An event of this type: `NewEvent::new(EventType::DataChange, "credential.store")`, successful unless
    /// it says otherwise.
    pub fn new(event_type: EventType, action: &'static str) -> Self {
        Self {
            event_type,
            action,
            outcome: Outcome::Success,
            actor: None,
            owner: None,
            target: None,
            server_id: None,
            answers: None,
            detail: Map::new(),
            personal: Map::new(),
        }
    }

    /// What was done.
    pub fn action(&self) -> &'static str {
        self.action
    }

    /// A change that was made.
    pub fn change(action: &'static str) -> Self {
        Self::new(EventType::DataChange, action)
    }

    /// What came of it.
    #[must_use]
    pub fn outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }

    /// What it was done to: a kind of thing and its id.
    #[must_use]
    pub fn on(mut self, kind: &'static str, id: impl Display) -> Self {
        self.target = Some((kind, id.to_string()));
        self
    }

    /// The server that it is about.
    #[must_use]
    pub fn server(mut self, id: impl Into<String>) -> Self {
        self.server_id = Some(id.into());
        self
    }

    /// Whose it is, as actors are written, when it is not the actor's own.
    #[must_use]
    pub fn of(mut self, owner: impl Display) -> Self {
        self.owner = Some(owner.to_string());
        self
    }

    /// Who acted, as actors are written, where it is not who sent the request.
    #[must_use]
    pub fn acted_by(mut self, actor: String) -> Self {
        self.actor = Some(actor);
        self
    }

    /// The intent that it answers.
    #[must_use]
    pub fn answers(mut self, intent: EventId) -> Self {
        self.answers = Some(intent);
        self
    }

    /// Something more about it: never a secret, never a person.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.detail.insert(key.into(), value.into());
        self
    }

    /// Something that tells who a person is; it can be erased.
    #[must_use]
    pub fn personal(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.personal.insert(key.into(), value.into());
        self
    }

    /// The event and what is personal about it.
    pub(crate) fn by(self, actor: &Actor) -> (Body, Option<Personal>) {
        let mut personal = self.personal;
        if let Some(address) = actor.origin.address {
            personal.insert("address".into(), address.to_string().into());
        }
        if let Some(agent) = &actor.origin.user_agent {
            personal.insert("user_agent".into(), agent.clone().into());
        }
        let actor_name = self.actor.unwrap_or_else(|| actor.to_string());
        let owner = self.owner.unwrap_or_else(|| actor_name.clone());
        let personal = (!personal.is_empty()).then(|| Personal {
            subject: owner.starts_with("user:").then(|| owner.clone()),
            salt: platform::random::bytes(),
            content: Value::Object(personal).to_string(),
        });
        let (target_type, target_id) = self.target.map_or((None, None), |(kind, id)| (Some(kind.to_owned()), Some(id)));
        let body = Body {
            id: EventId::fresh(),
            at: clock::now(),
            event_type: self.event_type,
            action: self.action.to_owned(),
            outcome: self.outcome,
            actor: actor_name,
            owner,
            door: actor.origin.door.as_str().to_owned(),
            request_id: actor.origin.request_id.clone(),
            target_type,
            target_id,
            server_id: self.server_id,
            answers: self.answers,
            detail: json!(self.detail).to_string(),
            pii_commitment: personal.as_ref().map(Personal::commitment),
        };
        (body, personal)
    }
}

/// What the chain covers of an event; the order of the members is that of the canonical form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Body {
    pub(crate) id: EventId,
    pub(crate) at: DateTime<Utc>,
    pub(crate) event_type: EventType,
    pub(crate) action: String,
    pub(crate) outcome: Outcome,
    pub(crate) actor: String,
    pub(crate) owner: String,
    pub(crate) door: String,
    pub(crate) request_id: Option<String>,
    pub(crate) target_type: Option<String>,
    pub(crate) target_id: Option<String>,
    pub(crate) server_id: Option<String>,
    pub(crate) answers: Option<EventId>,
    /// JSON, byte for byte as it was written.
    pub(crate) detail: String,
    #[serde(with = "optional_hex")]
    pub(crate) pii_commitment: Option<[u8; 32]>,
}

/// What tells who a person is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Personal {
    /// The account that it belongs to.
    pub(crate) subject: Option<String>,
    pub(crate) salt: [u8; 16],
    /// JSON, byte for byte as it was written.
    pub(crate) content: String,
}

/// A link of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) seq: i64,
    pub(crate) body: Body,
    /// Whether what waited to be chained was what this program had written.
    pub(crate) authentic: bool,
    pub(crate) prev: [u8; 32],
    pub(crate) hash: [u8; 32],
}

/// An event as people see it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Event {
    /// Its place in the chain.
    pub seq: i64,
    /// Its id.
    pub id: EventId,
    /// When it happened.
    pub timestamp: DateTime<Utc>,
    /// What kind of thing it was.
    pub event_type: EventType,
    /// `credential.store`, `session.login`, …
    pub action: String,
    /// What came of it.
    pub outcome: Outcome,
    /// Who did it.
    pub actor: String,
    /// Whose it was.
    pub owner: String,
    /// Through which listener: `public`, `internal` or `inside`.
    pub source: String,
    /// As the answer's `X-Request-Id` said.
    pub request_id: Option<String>,
    /// What kind of thing it was done to.
    pub target_type: Option<String>,
    /// To which one.
    pub target_id: Option<String>,
    /// About which server.
    pub server_id: Option<String>,
    /// The event that this one answers.
    pub answers: Option<EventId>,
    /// More about it.
    pub detail: Value,
    /// Who it was (address, user agent, email), unless that has been erased.
    pub personal: Option<Value>,
}

mod optional_hex {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::ref_option, reason = "serde hands out a reference to the member")]
    pub(super) fn serialize<S: Serializer>(bytes: &Option<[u8; 32]>, serializer: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => serializer.serialize_some(&platform::random::hex(bytes)),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[u8; 32]>, D::Error> {
        let text: Option<String> = Option::deserialize(deserializer)?;
        text.map(|text| crate::chain::unhex(&text).ok_or_else(|| D::Error::custom("is not a digest"))).transpose()
    }
}

impl Personal {
    /// What the chain holds in its place.
    pub(crate) fn commitment(&self) -> [u8; 32] {
        crate::chain::commitment(&self.salt, self.content.as_bytes())
    }
}

/// The account of an actor's name, `user:<uuid>`.
pub(crate) fn subject_of(user: Uuid) -> String {
    format!("user:{user}")
}
