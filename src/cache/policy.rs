//! What may come into the cache, and be given from it.

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use platform::{
    clock,
    config::{CachePolicy, Claim},
};

use crate::{
    model::{Claimed, Facts},
    names::{Package, RegistryType},
};

/// A rule that does not let a package in, by the name of its setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is on the list of what may not.
    #[error("FABRIC_CACHE_DENY names it")]
    Denied,
    /// It is not on the list of what may.
    #[error("FABRIC_CACHE_ALLOW does not name it")]
    NotAllowed,
    /// It was published just now.
    #[error("it was published {0} hours ago, and FABRIC_CACHE_MIN_AGE_HOURS asks for {1}")]
    TooYoung(i64, i64),
    /// Nobody says when.
    #[error("nobody says when it was published, and FABRIC_CACHE_MIN_AGE_HOURS asks for {0} hours")]
    AgeUnknown(i64),
    /// It comes without what it has to come with.
    #[error("FABRIC_CACHE_REQUIRE asks for a {0} that it does not have")]
    Unproved(&'static str),
    /// A registry never signs so.
    #[error("the signature that it comes with is not by the key that it names")]
    Forged,
    /// All of it together.
    #[error("with what an install of it needs it measures more than the {0} bytes of FABRIC_CACHE_MAX_CLOSURE_MB")]
    TooLarge(u64),
    /// The limit of the cache.
    #[error("with it the cache would measure more than FABRIC_CACHE_QUOTA_MB, and what is here is wanted")]
    Quota,
    /// The room on the disk.
    #[error("less than FABRIC_CACHE_RESERVE_MB would be free on the disk")]
    Reserve,
}

/// The rules in force.
#[derive(Debug)]
pub(crate) struct Rules {
    policy: CachePolicy,
}

impl Rules {
    pub(crate) fn new(policy: CachePolicy) -> Self {
        Self { policy }
    }

    /// Rules that hold for a package by its name, also for what is here already.
    pub(crate) fn check_name(&self, registry: RegistryType, name: &str) -> Result<(), Refusal> {
        let policy = &self.policy;
        if policy.allow.is_empty() && policy.deny.is_empty() || self.is_excepted(registry, name) {
            return Ok(());
        }
        let holds = |patterns: &[platform::config::Pattern]| patterns.iter().any(|pattern| pattern.holds(registry.as_str(), name));
        if holds(&policy.deny) {
            return Err(Refusal::Denied);
        }
        if policy.allow.is_empty() || holds(&policy.allow) { Ok(()) } else { Err(Refusal::NotAllowed) }
    }

    /// Rules that hold for what comes in. `seen_at` is when it was first heard of, which counts where no
    /// registry says when it was published: for images and bundles.
    pub(crate) fn check(&self, package: &Package, facts: &Facts, seen_at: DateTime<Utc>) -> Result<(), Refusal> {
        if facts.signature == Claimed::Invalid {
            return Err(Refusal::Forged);
        }
        let (registry, name) = (package.registry(), package.name());
        if self.is_excepted(registry, name) {
            return Ok(());
        }
        let required = self.policy.require.iter().filter(|required| required.registry_type == registry.as_str());
        for required in required {
            let (claimed, what) = match required.claim {
                Claim::Signature => (facts.signature == Claimed::Verified, "signature"),
                Claim::Provenance => (matches!(facts.provenance, Claimed::Verified | Claimed::Stated), "provenance"),
            };
            if !claimed {
                return Err(Refusal::Unproved(what));
            }
        }
        if self.policy.min_age.is_zero() {
            return Ok(());
        }
        let published_at = match registry {
            RegistryType::Npm | RegistryType::Pypi => facts.published_at,
            RegistryType::Oci | RegistryType::Mcpb => Some(seen_at),
        };
        let wanted = self.min_age().num_hours();
        let age = clock::now() - published_at.ok_or(Refusal::AgeUnknown(wanted))?;
        if age < self.min_age() { Err(Refusal::TooYoung(age.num_hours(), wanted)) } else { Ok(()) }
    }

    /// Versions published after this moment are not shown to clients, so that they choose others. In steps of
    /// an hour, so that what is rendered can be kept.
    pub(crate) fn cutoff(&self, registry: RegistryType, name: &str) -> Option<DateTime<Utc>> {
        if self.policy.min_age.is_zero() || self.is_excepted(registry, name) {
            return None;
        }
        let moment = clock::now() - self.min_age();
        Some(moment.duration_trunc(TimeDelta::hours(1)).unwrap_or(moment))
    }

    pub(crate) fn check_size(&self, bytes: u64) -> Result<(), Refusal> {
        if bytes > self.policy.max_closure_bytes { Err(Refusal::TooLarge(self.policy.max_closure_bytes)) } else { Ok(()) }
    }

    fn min_age(&self) -> TimeDelta {
        TimeDelta::from_std(self.policy.min_age).unwrap_or(TimeDelta::MAX)
    }

    fn is_excepted(&self, registry: RegistryType, name: &str) -> bool {
        let now = clock::now();
        self.policy.exceptions.iter().any(|exception| now < exception.until && exception.pattern.holds(registry.as_str(), name))
    }
}
