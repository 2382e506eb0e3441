//! Spans of calls, as a collector on this machine gets them.

use std::sync::{Arc, Mutex};

use axum::{Router, body::Bytes, http::HeaderMap, routing::post};
use serde_json::{Value, json};

use super::Gateway;
use crate::support::{Mcp, eventually};

type Got = Arc<Mutex<Vec<(HeaderMap, Value)>>>;

async fn collector() -> (String, Got) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (url, got) = (format!("http://{}", listener.local_addr().unwrap()), Got::default());
    let keep = Arc::clone(&got);
    let take = async move |headers: HeaderMap, body: Bytes| {
        keep.lock().unwrap().push((headers, serde_json::from_slice(&body).unwrap()));
        "{}"
    };
    let service = Router::new().route("/v1/traces", post(take));
    tokio::spawn(async move { axum::serve(listener, service).await });
    (url, got)
}

/// Every span that came, and what is said of who sent it.
fn spans(got: &Got) -> Vec<Value> {
    let all = got.lock().unwrap();
    let resources = all.iter().flat_map(|(_, body)| body["resourceSpans"].as_array().unwrap());
    let scopes = resources.flat_map(|one| {
        let names = |one: &Value| one["key"] == "service.name" && one["value"]["stringValue"] == "mcp-fabric";
        assert!(one["resource"]["attributes"].as_array().unwrap().iter().any(names), "{one}");
        one["scopeSpans"].as_array().unwrap()
    });
    scopes.flat_map(|scope| scope["spans"].as_array().unwrap().clone()).collect()
}

fn attribute<'a>(span: &'a Value, key: &str) -> Option<&'a str> {
    let found = span["attributes"].as_array()?.iter().find(|one| one["key"] == key)?;
    found["value"]["stringValue"].as_str()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_is_a_span_within_the_trace_of_its_client() {
    let (url, got) = collector().await;
    let gateway = Gateway::with(&[("FABRIC_OTLP_ENDPOINT", &url), ("FABRIC_OTLP_HEADERS", "x-key=hunter2")]).await;
    gateway.run("alpha", &json!({ "FIXTURE_ERA": "legacy" })).await;
    let client = Mcp::connect(&gateway.endpoint("alpha"), &gateway.app.token, "2025-11-25").await;
    let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let meta = json!({ "traceparent": format!("00-{trace}-{parent}-01") });
    let params = json!({ "name": "echo", "arguments": { "message": "words" }, "_meta": meta });
    client.request("tools/call", params).await.result();
    client.tool("no_such_tool", json!({})).await;
    let found = eventually(15, "the spans have come", || async { Some(spans(&got)).filter(|spans| spans.len() >= 2) }).await;
    let called = found.iter().find(|span| span["name"] == "tools/call echo").unwrap();
    assert_eq!((called["traceId"].as_str(), called["parentSpanId"].as_str()), (Some(trace), Some(parent)), "{called}");
    assert_eq!((attribute(called, "mcp.method.name"), attribute(called, "gen_ai.tool.name")), (Some("tools/call"), Some("echo")));
    assert_eq!((attribute(called, "mcp_fabric.server"), attribute(called, "enduser.id")), (Some("alpha"), Some("operator")));
    let other = found.iter().find(|span| span["name"] == "tools/call no_such_tool").unwrap();
    assert_ne!(other["traceId"], trace);
    assert!(!found.iter().any(|span| span.to_string().contains("words")), "no contents");
    assert_eq!(got.lock().unwrap()[0].0["x-key"], "hunter2");
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_is_no_matter_of_calls() {
    let gateway = Gateway::with(&[("FABRIC_OTLP_ENDPOINT", "http://127.0.0.1:9")]).await;
    gateway.run("alpha", &json!({ "FIXTURE_ERA": "modern" })).await;
    let client = Mcp::connect(&gateway.endpoint("alpha"), &gateway.app.token, "2026-07-28").await;
    for _ in 0..20 {
        assert_eq!(client.tool("echo", json!({ "message": "x" })).await.text(), "Echo: x");
    }
    gateway.app.stop().await;
}
