use platform::{clock, telemetry::Metrics};
use prometheus::{IntCounterVec, IntGauge};

use crate::history::{Kind, RunStatus};

/// Figures of runs.
#[derive(Clone)]
pub(crate) struct Counters {
    runs: IntCounterVec,
    last_success: IntGauge,
}

impl Counters {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            runs: metrics.counters(
                "fabric_sync_runs_total",
                "Attempts at runs of the mirror that ended, by kind and how",
                &["kind", "status"],
            ),
            last_success: metrics.gauge("fabric_sync_last_success_timestamp_seconds", "When the last successful run of this process ended"),
        }
    }

    pub(crate) fn ended(&self, kind: Kind, status: RunStatus) {
        self.runs.with_label_values(&[kind.as_str(), status.as_str()]).inc();
        if status == RunStatus::Complete {
            self.last_success.set(clock::now().timestamp());
        }
    }
}
