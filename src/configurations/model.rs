use chrono::{DateTime, Utc};
use platform::secrets::SECRET;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

platform::id! {
    /// A configuration.
    pub struct ConfigurationId;
}

platform::words! {
    /// When an instance that ended is started again.
    pub enum Restart {
        /// Whatever it ended with.
        Always = "always",
        /// When it ended by itself with an error, or was killed.
        OnFailure = "on_failure",
        /// Not by itself.
        Never = "never",
    }
}

platform::words! {
    /// How long an instance lives.
    pub enum Lifecycle {
        /// While the configuration is enabled.
        Persistent = "persistent",
        /// From the first call until it is idle.
        OnDemand = "on_demand",
        /// As long as the session of a client.
        PerSession = "per_session",
    }
}

platform::words! {
    /// Who uses an instance.
    pub enum Sharing {
        /// Everybody who may reach the server.
        Shared = "shared",
        /// Its user alone.
        PerUser = "per_user",
        /// One session of its user.
        PerSession = "per_session",
    }
}

platform::words! {
    /// Whether a configuration counts.
    pub enum Standing {
        /// It does.
        Active = "active",
        /// It was removed, and can be restored.
        Archived = "archived",
    }
}

/// What an instance may use; what is not stated is as the fabric's settings say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of memory.
    #[serde(alias = "memoryBytes")]
    #[schema(minimum = 16_777_216, maximum = 1_099_511_627_776_i64)]
    pub memory_bytes: Option<i64>,
    /// Thousandths of a core.
    #[serde(alias = "cpuMillis")]
    #[schema(minimum = 10, maximum = 1_000_000)]
    pub cpu_millis: Option<i32>,
    /// Processes and threads.
    #[schema(minimum = 1, maximum = 100_000)]
    pub processes: Option<i32>,
}

impl Limits {
    /// The first limit that cannot be kept, and what it may be.
    pub(crate) fn unfit(&self) -> Option<(&'static str, &'static str)> {
        if self.memory_bytes.is_some_and(|bytes| !(16 << 20..=1 << 40).contains(&bytes)) {
            return Some(("memory_bytes", "must be 16777216 (16 MiB) to 1099511627776 (1 TiB)"));
        }
        if self.cpu_millis.is_some_and(|millis| !(10..=1_000_000).contains(&millis)) {
            return Some(("cpu_millis", "must be 10 to 1000000 thousandths of a core"));
        }
        let is_wrong = self.processes.is_some_and(|count| !(1..=100_000).contains(&count));
        is_wrong.then_some(("processes", "must be 1 to 100000"))
    }
}

/// What somebody wants of a server.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// Its row.
    pub id: ConfigurationId,
    /// Whose it is, as actors are written.
    pub owner: String,
    /// Of which server.
    pub server_id: String,
    /// It is to run.
    pub enabled: bool,
    /// By the name of the input; without the secret ones.
    pub values: Map<String, Value>,
    /// What it may use.
    pub limits: Limits,
    /// When it is started again.
    pub restart: Restart,
    /// How long it lives.
    pub lifecycle: Lifecycle,
    /// Who uses it.
    pub sharing: Sharing,
    /// Whether it counts.
    pub status: Standing,
    /// Counts changes; for `If-Match`.
    pub revision: i64,
    /// When it was first made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

impl Configuration {
    /// Whether it was removed, and can be restored.
    pub fn is_archived(&self) -> bool {
        self.status == Standing::Archived
    }

    /// All that is wanted, as a change that would lead here.
    pub fn settings(&self) -> Change {
        Change {
            enabled: Some(self.enabled),
            values: self.values.clone(),
            limits: Some(self.limits),
            restart: Some(self.restart),
            lifecycle: Some(self.lifecycle),
            sharing: Some(self.sharing),
        }
    }

    /// Whether each session of a client has an instance of its own.
    pub fn is_per_session(&self) -> bool {
        self.sharing == Sharing::PerSession || self.lifecycle == Lifecycle::PerSession
    }
}

/// What is to be changed; what is not named stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Change {
    /// Whether it is to run.
    pub enabled: Option<bool>,
    /// By the name of the input; null takes a value away.
    pub values: Map<String, Value>,
    /// What it may use.
    pub limits: Option<Limits>,
    /// When it is started again.
    pub restart: Option<Restart>,
    /// How long it lives.
    pub lifecycle: Option<Lifecycle>,
    /// Who uses it.
    pub sharing: Option<Sharing>,
}

impl Change {
    /// Whether a configuration that stands so would not be another one. Of a secret that is given, nobody can tell.
    pub fn is_in(&self, now: &Self) -> bool {
        let is_so = |name: &String, value: &Value| match (value, now.values.get(name)) {
            (Value::Null, there) => there.is_none(),
            (Value::String(text), _) if text == SECRET => true,
            (value, there) => there.is_some_and(|there| plain(there) == plain(value)),
        };
        self.enabled.is_none_or(|wanted| now.enabled == Some(wanted))
            && self.limits.is_none_or(|wanted| now.limits == Some(wanted))
            && self.restart.is_none_or(|wanted| now.restart == Some(wanted))
            && self.lifecycle.is_none_or(|wanted| now.lifecycle == Some(wanted))
            && self.sharing.is_none_or(|wanted| now.sharing == Some(wanted))
            && self.values.iter().all(|(name, value)| is_so(name, value))
    }
}

/// A value, as a process gets it.
pub(crate) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
