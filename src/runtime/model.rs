use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::supervisor::FABRIC_STOPPED;

platform::id! {
    /// An instance.
    pub struct InstanceId;
}

platform::words! {
    /// Where an instance stands.
    pub enum State {
        /// It is to be started.
        Pending = "PENDING",
        /// What it needs is being made: an install, a folder, limits.
        Creating = "CREATING",
        /// It was started and does not answer yet, or it waits to be started again.
        Starting = "STARTING",
        /// It answers.
        Running = "RUNNING",
        /// It is being ended.
        Stopping = "STOPPING",
        /// It ended, as somebody wanted.
        Stopped = "STOPPED",
        /// It could not be started, or kept running; `reason` says why.
        Failed = "FAILED",
    }
}

/// Every step that there is, and what makes it; docs/states.md is drawn from this.
pub const TRANSITIONS: &[(State, State, &str)] = &[
    (State::Pending, State::Creating, "a place is free"),
    (State::Pending, State::Stopped, "it is not wanted any more"),
    (State::Pending, State::Failed, "a limit is reached, or something is missing"),
    (State::Creating, State::Starting, "everything is there"),
    (State::Creating, State::Stopping, "it is not wanted any more"),
    (State::Creating, State::Failed, "it cannot be made"),
    (State::Starting, State::Running, "it answers"),
    (State::Starting, State::Stopping, "it is not wanted any more"),
    (State::Starting, State::Failed, "it does not start, or did so too often"),
    (State::Running, State::Starting, "it ended or stopped answering, or is to be restarted"),
    (State::Running, State::Stopping, "it is not wanted any more, or idle"),
    (State::Running, State::Failed, "it ended, and is not to be restarted"),
    (State::Stopping, State::Stopped, "it has ended"),
    (State::Stopping, State::Failed, "it cannot be ended"),
    (State::Stopped, State::Pending, "it is wanted again"),
    (State::Failed, State::Pending, "it is wanted again"),
];

impl State {
    /// Whether the step is one of [`TRANSITIONS`].
    pub fn may_become(self, to: Self) -> bool {
        TRANSITIONS.iter().any(|(from, next, _)| *from == self && *next == to)
    }

    /// Whether nothing of it is there.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed)
    }
}

/// The picture of docs/states.md.
pub fn diagram() -> String {
    let line = |(from, to, why): &(State, State, &str)| format!("    {from} --> {to}: {why}\n");
    format!("stateDiagram-v2\n    [*] --> PENDING\n{}", TRANSITIONS.iter().map(line).collect::<String>())
}

platform::words! {
    /// What an instance is.
    pub enum Backend {
        /// A process of this machine.
        Process = "process",
        /// A container.
        Container = "container",
        /// A server elsewhere.
        Remote = "remote",
    }
}

platform::words! {
    /// The two ways in which servers speak; see the revisions of the protocol.
    pub enum Era {
        /// With `initialize` and a session: revisions up to 2025-11-25.
        Legacy = "legacy",
        /// With `server/discover` and without a session: revision 2026-07-28.
        Modern = "modern",
    }
}

/// Why an instance stands where it does; for people, without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Stable, `snake_case`; of an install, as its row has it.
    pub code: Cow<'static, str>,
    /// A sentence.
    pub text: String,
    /// Whether it passes by itself, and is no failure of the server.
    pub(crate) is_passing: bool,
}

impl Reason {
    pub(crate) fn new(code: impl Into<Cow<'static, str>>, text: impl Into<String>) -> Self {
        Self { code: code.into(), text: text.into(), is_passing: false }
    }

    pub(crate) fn passing(code: impl Into<Cow<'static, str>>, text: impl Into<String>) -> Self {
        Self { is_passing: true, ..Self::new(code, text) }
    }
}

/// What a client calls a session of its own: up to 64 letters, digits, `.`, `_` and `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionName(String);

impl SessionName {
    /// `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let is_name = (1..=64).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'));
        is_name.then(|| Self(text.to_owned()))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whose places are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cap {
    /// All that one user may have.
    OfUser,
    /// All that this machine has.
    OfNode,
}

platform::words! {
    /// Who keeps the limits of an instance.
    pub enum Keeper {
        /// The kernel, by a control group.
        Cgroup = "cgroup",
        /// A watchdog, and limits for each process.
        BestEffort = "best_effort",
        /// The container engine.
        Engine = "engine",
    }
}

/// What an instance may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Kept {
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Thousandths of a core.
    pub cpu_millis: u64,
    /// Processes and threads.
    pub processes: u64,
    /// Who keeps them.
    pub limits: Keeper,
    /// Whether the file system is closed but for what it needs.
    pub files_closed: bool,
}

/// A running server, or one that was running.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its row.
    pub id: InstanceId,
    /// What is wanted.
    pub configuration: Uuid,
    /// Of one that is for a session.
    pub session: String,
    /// Whose it is, as actors are written.
    pub owner: String,
    /// Which server.
    pub server_id: String,
    /// Which fabric runs it.
    pub node: String,
    /// Until when that fabric is believed to.
    pub lease_until: DateTime<Utc>,
    /// What it is.
    pub backend: Backend,
    /// Where it stands.
    pub state: State,
    /// Why: a stable code, and a sentence.
    pub reason: Option<(String, String)>,
    /// Since when.
    pub since: DateTime<Utc>,
    /// How often it was tried since it last ran well.
    pub attempt: i32,
    /// When it is tried again.
    pub next_try_at: Option<DateTime<Utc>>,
    /// How often it was started again, altogether.
    pub restarts: i64,
    /// Of its process.
    pub pid: Option<i32>,
    /// Its container, as the engine calls it.
    pub container: Option<String>,
    /// Of the package.
    pub version: Option<String>,
    /// How it speaks.
    pub era: Option<Era>,
    /// How many tools it has.
    pub tools: Option<i32>,
    /// What it may use.
    pub limits: Option<Kept>,
    /// When it was first wanted.
    pub created_at: DateTime<Utc>,
}

impl Instance {
    /// Whether it ended with its fabric: it comes again with that, as long as it is wanted.
    pub fn ended_with_fabric(&self) -> bool {
        self.reason.as_ref().is_some_and(|(code, _)| code == FABRIC_STOPPED)
    }

    /// The era that it is for, where a server that speaks in both has one instance for each: its session says so.
    pub(crate) fn fixed_era(&self) -> Option<Era> {
        self.session.rsplit_once(ERA_MARK).and_then(|(_, era)| era.parse().ok())
    }
}

/// What parts the name of a session from the era of an instance; no client's name for a session has it.
const ERA_MARK: char = '~';

/// The session of an instance that speaks in one era alone.
pub fn session_of_era(session: &str, era: Era) -> String {
    format!("{session}{ERA_MARK}{era}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [State; 7] =
        [State::Pending, State::Creating, State::Starting, State::Running, State::Stopping, State::Stopped, State::Failed];

    #[test]
    fn what_runs_can_fail_and_what_is_over_can_begin_again() {
        for state in ALL {
            assert_eq!(state.may_become(State::Failed), !state.is_over(), "{state}");
            assert_eq!(state.may_become(State::Pending), state.is_over(), "{state}");
            assert!(!state.may_become(state), "{state}");
        }
        assert!(State::Running.may_become(State::Starting));
        assert!(!State::Stopped.may_become(State::Running));
    }

    #[test]
    fn the_document_shows_the_table() {
        let text = include_str!("../../docs/states.md");
        assert!(text.contains(&diagram()), "docs/states.md should hold:\n{}", diagram());
    }
}
