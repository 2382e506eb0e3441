//! The events in a real browser, in a page of another origin.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    response::Html,
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::{TestApp, data, skip};

/// A page that gets a ticket for each stream, follows both, and says what it heard.
const PAGE: &str = r#"<!doctype html><script type="module">
const [fabric, token] = [FABRIC, TOKEN];
const say = (what) => fetch("/said", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(what) });
const ticket = async () => {
  const answer = await fetch(`${fabric}/api/mcp/events/ticket`, { method: "POST", headers: { authorization: `Bearer ${token}` } });
  return (await answer.json()).ticket;
};
try {
  const once = await ticket();
  const source = new EventSource(`${fabric}/api/mcp/events?channels=catalog&ticket=${once}`);
  source.addEventListener("CATALOG_CHANGED", (event) => say({ by: "EventSource", ...JSON.parse(event.data) }));
  source.onopen = () => say({ by: "EventSource", type: "open" });
  const socket = new WebSocket(`${fabric.replace("http", "ws")}/api/mcp/ws?channels=catalog&ticket=${await ticket()}`);
  socket.onmessage = (event) => say({ by: "WebSocket", ...JSON.parse(event.data) });
  const again = new WebSocket(`${fabric.replace("http", "ws")}/api/mcp/ws?ticket=${once}`);
  again.onopen = () => say({ by: "a used ticket", type: "open" });
  again.onerror = () => say({ by: "a used ticket", type: "refused" });
} catch (error) { say({ by: "page", type: "error", error: String(error) }); }
</script>"#;

async fn said(State(tell): State<mpsc::UnboundedSender<Value>>, Json(what): Json<Value>) {
    tell.send(what).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_follows_by_both_streams() {
    if Command::new("chromium").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return skip("there is no chromium on this machine");
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let app = TestApp::with(&[("FABRIC_CORS_ORIGINS", &origin)]).await;
    let page = PAGE.replace("FABRIC", &json!(app.url).to_string()).replace("TOKEN", &json!(app.token).to_string());
    let (tell, mut heard) = mpsc::unbounded_channel();
    let site = Router::new().route("/", get(move || async move { Html(page) })).route("/said", post(said)).with_state(tell);
    let site = tokio::spawn(async move { axum::serve(listener, site).await });
    let profile = tempfile::tempdir().unwrap();
    let mut browser = Command::new("chromium");
    browser.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]);
    browser.arg(format!("--user-data-dir={}", profile.path().display())).arg(&origin);
    let mut browser = browser.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut seen: Vec<(String, String)> = Vec::new();
    let mut next = async |seen: &mut Vec<(String, String)>| {
        let what = tokio::time::timeout(Duration::from_secs(30), heard.recv()).await.expect("the page says something within 30 s").unwrap();
        let text = |name: &str| what[name].as_str().unwrap_or_default().to_owned();
        assert_ne!(what["by"], "page", "{what}");
        seen.push((text("by"), text("type")));
        what
    };
    let has = |seen: &[(String, String)], by: &str, kind: &str| seen.iter().any(|(one, other)| one == by && other == kind);
    while !(has(&seen, "EventSource", "open") && has(&seen, "WebSocket", "CONNECTED") && has(&seen, "a used ticket", "refused")) {
        next(&mut seen).await;
    }
    app.import(&[data::entry("a.x/one", "1.0.0")]).await;
    let mut ids = Vec::new();
    while !(has(&seen, "EventSource", "CATALOG_CHANGED") && has(&seen, "WebSocket", "CATALOG_CHANGED")) {
        let what = next(&mut seen).await;
        ids.extend(what["id"].as_i64().filter(|_| what["type"] == "CATALOG_CHANGED"));
    }
    assert!(ids.len() == 2 && ids[0] == ids[1], "the same event by both: {ids:?}");
    assert!(!has(&seen, "a used ticket", "open"));
    browser.kill().unwrap();
    browser.wait().unwrap();
    site.abort();
    app.stop().await;
}
