//! Spans for a collector that speaks OTLP over HTTP (OpenTelemetry), where one is set.

use std::{collections::HashMap, time::Duration};

use opentelemetry::{
    Context, KeyValue,
    trace::{
        Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState, Tracer as _,
        TracerProvider as _,
    },
};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider},
};
use secrecy::ExposeSecret as _;

use crate::{Shutdown, config::TracesConfig};

const NAME: &str = "mcp-fabric";
/// How long a collector may take for what it is sent at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where spans go.
#[derive(Clone, Debug)]
pub struct Traces {
    tracer: SdkTracer,
}

/// Traces cannot be exported as they are set.
#[derive(Debug, thiserror::Error)]
#[error("FABRIC_OTLP_ENDPOINT: {0}")]
pub struct TracesError(String);

impl Traces {
    /// Begins to export. What the collector does not take is lost: nothing waits for it.
    pub fn start(config: &TracesConfig, shutdown: &Shutdown) -> Result<Self, TracesError> {
        let endpoint = format!("{}/v1/traces", config.endpoint.as_str().trim_end_matches('/'));
        let headers: HashMap<String, String> =
            config.headers.iter().map(|(name, value)| (name.clone(), value.expose_secret().to_owned())).collect();
        // Its client has a thread of its own, and may not be made on one of ours.
        let build = move || {
            SpanExporter::builder()
                .with_http()
                .with_protocol(Protocol::HttpJson)
                .with_endpoint(endpoint)
                .with_headers(headers)
                .with_timeout(PATIENCE)
                .build()
        };
        let exporter = std::thread::spawn(build).join().map_err(|_| TracesError("the exporter cannot be made".into()))?;
        let exporter = exporter.map_err(|error| TracesError(error.to_string()))?;
        let resource =
            Resource::builder().with_service_name(NAME).with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build();
        let tracer = provider.tracer(NAME);
        let over = shutdown.clone();
        shutdown.spawn(async move {
            over.begun().await;
            let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(PATIENCE)).await;
            if let Ok(Err(error)) = ended {
                tracing::warn!(%error, "the last spans were not taken");
            }
        });
        Ok(Self { tracer })
    }

    /// Begins a span of a request, within the trace that its `traceparent` names (W3C Trace Context).
    pub fn serve(&self, name: String, parent: Option<&str>) -> Span {
        let context = parent.and_then(remote).map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
        Span(self.tracer.span_builder(name).with_kind(SpanKind::Server).start_with_context(&self.tracer, &context))
    }
}

/// A span; it ends when it is dropped.
#[derive(Debug)]
pub struct Span(opentelemetry_sdk::trace::Span);

impl Span {
    /// Says something of it.
    pub fn set(&mut self, key: &'static str, value: impl Into<opentelemetry::Value>) {
        self.0.set_attribute(KeyValue::new(key, value));
    }

    /// It failed, with this code.
    pub fn fail(&mut self, code: String) {
        self.0.set_attribute(KeyValue::new("error.type", code));
        self.0.set_status(Status::error(""));
    }

    /// As what is done meanwhile names it.
    pub fn traceparent(&self) -> String {
        let own = self.0.span_context();
        format!("00-{}-{}-{:02x}", own.trace_id(), own.span_id(), own.trace_flags().to_u8())
    }
}

/// The span that a `traceparent` names; `None` for what is none.
fn remote(text: &str) -> Option<SpanContext> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, length| text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let is_whole = is_hex(version, 2) && version != "ff" && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2);
    if !is_whole || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let context = SpanContext::new(trace, span, flags, true, TraceState::NONE);
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_names_of_spans_are_taken() {
        let whole = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(remote(whole).unwrap().is_sampled());
        assert!(remote("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later").is_some());
        for text in [
            "",
            "00",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert!(remote(text).is_none(), "{text}");
        }
    }
}
