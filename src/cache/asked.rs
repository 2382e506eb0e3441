use prometheus::{IntCounter, IntCounterVec};

use crate::names::RegistryType;

/// How requests for files were answered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    Hit,
    Miss,
    Coalesced,
    Refused,
}

/// Counts of requests, by registry type and outcome; looked up once.
pub(crate) struct Asked {
    counters: [[IntCounter; 4]; 4],
}

impl Asked {
    pub(crate) fn new(counters: &IntCounterVec) -> Self {
        let of = |registry: RegistryType| {
            ["hit", "miss", "coalesced", "refused"].map(|outcome| counters.with_label_values(&[registry.as_str(), outcome]))
        };
        Self { counters: RegistryType::ALL.map(of) }
    }

    pub(crate) fn count(&self, registry: RegistryType, outcome: Outcome) {
        self.counters[registry as usize][outcome as usize].inc();
    }

    pub(crate) fn so_far(&self, registry: RegistryType, outcome: Outcome) -> u64 {
        self.counters[registry as usize][outcome as usize].get()
    }
}
