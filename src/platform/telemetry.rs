//! Logs and metrics.

use std::io::IsTerminal as _;

use prometheus::{
    Encoder as _, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    core::Collector,
};
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{LogConfig, LogFormat};

/// Sends log lines to standard error: pretty on a terminal, JSON otherwise. The first call wins.
pub fn start_logging(config: &LogConfig) {
    let filter = EnvFilter::try_new(&config.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let json = match config.format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Pretty => false,
        LogFormat::Json => true,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if json {
        lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
    } else {
        lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).boxed()
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init().ok();
}

/// What the program counts; each feature registers its own figures here.
#[derive(Clone, Default, Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// A counter.
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(valid(IntCounter::new(name, help)))
    }

    /// A counter with labels.
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(valid(IntCounterVec::new(Opts::new(name, help), labels)))
    }

    /// A gauge.
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(valid(IntGauge::new(name, help)))
    }

    /// Gauges with labels.
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(valid(IntGaugeVec::new(Opts::new(name, help), labels)))
    }

    /// A histogram of seconds with labels.
    pub fn seconds(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        self.register(valid(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)))
    }

    fn register<C: Collector + Clone + 'static>(&self, collector: C) -> C {
        if let Err(error) = self.registry.register(Box::new(collector.clone())) {
            tracing::error!(%error, "a metric was registered twice");
        }
        collector
    }

    /// Everything in Prometheus' text format (version 0.0.4).
    pub fn render(&self) -> String {
        let mut out = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            tracing::error!(%error, "could not render the metrics");
        }
        String::from_utf8(out).unwrap_or_default()
    }
}

/// Names and labels of metrics are literals in our source, so a wrong one shows at the first start.
#[expect(clippy::panic, reason = "a wrong literal, found by the first start")]
fn valid<T>(metric: prometheus::Result<T>) -> T {
    match metric {
        Ok(metric) => metric,
        Err(error) => panic!("a metric has an invalid name: {error}"),
    }
}
