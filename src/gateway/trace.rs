//! The span of a call, for a collector of traces.

use axum::http::HeaderMap;
use configurations::Configuration;
use platform::traces::Span;

use crate::{
    meta::TRACEPARENT,
    rpc::{Members, plain},
    work::{Asking, Work, known},
};

/// The longest `traceparent` that is looked at.
const LONGEST: usize = 128;

/// The span that made a request, as its header says (W3C Trace Context).
pub(crate) fn of(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(TRACEPARENT)?.to_str().ok()?;
    (text.len() <= LONGEST).then(|| text.to_owned())
}

impl Work {
    /// Begins the span of what is asked of a server, where spans are kept. What the client says in the message counts
    /// before what its header says.
    pub(crate) fn span(&self, configuration: &Configuration, asking: &Asking<'_>, named: &str) -> Option<Span> {
        let traces = self.gateway.inner.traces.as_ref()?;
        let params = self.params.as_deref().and_then(Members::of);
        let said = params.as_ref().and_then(|params| Members::of(params.get("_meta")?)?.text(TRACEPARENT));
        let method = known(asking.method);
        let is_tool = method == "tools/call";
        let shown = plain(named, 128);
        let name = if is_tool { format!("{method} {shown}") } else { method.to_owned() };
        let mut span = traces.serve(name, said.as_deref().or(self.traceparent.as_deref()));
        span.set("mcp.method.name", method);
        span.set("mcp_fabric.server", configuration.server_id.clone());
        span.set("mcp_fabric.endpoint", self.place.to_string());
        span.set("enduser.id", self.actor.to_string());
        match method {
            "tools/call" => span.set("gen_ai.tool.name", shown),
            "prompts/get" => span.set("gen_ai.prompt.name", shown),
            _ => {}
        }
        Some(span)
    }
}
