//! Who acts. Every service method that changes something or reads private data takes an [`Actor`] first.

use std::fmt;

use crate::problem::{Class, Coded};

/// Who acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The local administrator: holds the operator token, or is a trusted loopback caller.
    Operator,
    /// The program itself, for a named kind of job.
    System(&'static str),
}

/// What an actor wants to do; [`Actor::require`] decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// See jobs, their logs and their results.
    JobsRead,
    /// Cancel and retry jobs.
    JobsManage,
    /// Follow the event stream.
    EventsRead,
    /// See the state and the history of the mirror.
    SyncRead,
    /// Start a sync or import documents.
    SyncManage,
    /// Read the metrics.
    MetricsRead,
    /// See what is in the package cache.
    CacheRead,
    /// Have packages cached, and remove them.
    CacheManage,
}

/// The actor is known, but may not do this.
#[derive(Debug, thiserror::Error)]
#[error("this needs the right `{0:?}`, which {1} does not have")]
pub struct Forbidden(Scope, String);

impl Coded for Forbidden {
    fn code(&self) -> &'static str {
        "forbidden"
    }
    fn class(&self) -> Class {
        Class::Forbidden
    }
}

impl Actor {
    /// Fails unless this actor may do `scope`.
    pub fn require(&self, scope: Scope) -> Result<(), Forbidden> {
        match (self, scope) {
            (Self::Operator | Self::System(_), _) => Ok(()),
        }
    }
}

/// The name under which rows remember who made them and row-level security compares:
/// `operator`, or `system:<job kind>`.
impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("operator"),
            Self::System(job) => write!(f, "system:{job}"),
        }
    }
}
