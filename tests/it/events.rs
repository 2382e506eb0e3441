//! The event stream.

use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{TestApp, data};

/// Reads events until there are `count`.
async fn read(app: &TestApp, path: &str, last_id: Option<&str>, count: usize) -> Vec<(Option<String>, Value)> {
    let mut request = app.request(Method::GET, path).bearer_auth(&app.token);
    if let Some(id) = last_id {
        request = request.header("last-event-id", id);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut stream = response.bytes_stream();
    let (mut text, mut found) = (String::new(), Vec::new());
    while found.len() < count {
        let chunk = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("an event within 10 s").unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
        while let Some((block, rest)) = text.split_once("\n\n") {
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(ToOwned::to_owned));
            if let Some(data) = field("data") {
                found.push((field("id"), serde_json::from_str(&data).unwrap()));
            }
            text = rest.to_owned();
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_live_and_are_replayed_after_the_last_one_seen() {
    let app = TestApp::start().await;
    let live = read(&app, "/api/mcp/events?channels=sync", None, 1);
    let change = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        app.import(&[data::entry("a.x/one", "1.0.0")]).await;
    };
    let (live, ()) = tokio::join!(live, change);
    let (id, event) = &live[0];
    assert_eq!(
        (&event["type"], &event["channel"], &event["payload"]["status"]),
        (&json!("SYNC_STATUS_CHANGED"), &json!("sync"), &json!("complete"))
    );
    assert_eq!(event["id"].to_string(), *id.as_ref().unwrap());
    assert!(event["timestamp"].as_str().unwrap().ends_with('Z'));

    app.import(&[data::entry("a.x/two", "1.0.0")]).await;
    let replayed = read(&app, "/api/mcp/events", id.as_deref(), 2).await;
    assert_eq!((&replayed[0].1["type"], &replayed[1].1["type"]), (&json!("CATALOGUE_CHANGED"), &json!("SYNC_STATUS_CHANGED")));
    let by_query = read(&app, &format!("/api/mcp/events?last_event_id={}", id.as_ref().unwrap()), None, 2).await;
    assert_eq!(by_query, replayed);
    app.op_get("/api/mcp/events?last_event_id=x").await.expect_problem(400, "invalid_event_id");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_too_late_is_told_so() {
    let app = TestApp::start().await;
    for n in 0..3 {
        app.import(&[data::entry("a.x/one", &format!("1.0.{n}"))]).await;
    }
    sqlx::query("DELETE FROM mcp_fabric.events WHERE id < (SELECT max(id) FROM mcp_fabric.events)")
        .execute(&mut app.database.connect().await)
        .await
        .unwrap();
    let events = read(&app, "/api/mcp/events", Some("1"), 2).await;
    assert_eq!((&events[0].0, &events[0].1["type"]), (&None, &json!("EVENTS_LOST")));
    assert_eq!(events[0].1["payload"]["oldest"], events[1].1["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_one_replica_reach_the_followers_of_another() {
    let one = TestApp::start().await;
    let two = TestApp::beside(&one).await;
    let followed = read(&two, "/api/mcp/events?channels=catalogue", None, 1);
    let change = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        one.import(&[data::entry("a.x/one", "1.0.0")]).await;
    };
    let (followed, ()) = tokio::join!(followed, change);
    assert_eq!(followed[0].1["type"], "CATALOGUE_CHANGED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_the_streams() {
    let app = TestApp::start().await;
    let response = app.request(Method::GET, "/api/mcp/events").bearer_auth(&app.token).send().await.unwrap();
    let reading = tokio::spawn(async move { response.bytes().await });
    let began = std::time::Instant::now();
    app.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5));
    reading.await.unwrap().unwrap();
}
