//! The event streams: server-sent events and `WebSocket`s.

mod browser;
mod many;
mod replicas;
mod sockets;
mod tickets;

use std::time::Duration;

use events::{Events, Followed, Wanted};
use futures_util::StreamExt as _;
use platform::{Database, Shutdown, database::Owner, telemetry::Metrics};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use mcp_fabric::kinds::KINDS;

use crate::support::{TestApp, data, operator};

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
        (&json!("SYNC_PROGRESS"), &json!("sync"), &json!("complete"))
    );
    assert_eq!(event["id"].to_string(), *id.as_ref().unwrap());
    assert!(event["timestamp"].as_str().unwrap().ends_with('Z'));

    app.import(&[data::entry("a.x/two", "1.0.0")]).await;
    let replayed = read(&app, "/api/mcp/events?channels=sync,catalog", id.as_deref(), 2).await;
    assert_eq!((&replayed[0].1["type"], &replayed[1].1["type"]), (&json!("CATALOG_CHANGED"), &json!("SYNC_PROGRESS")));
    let by_query = read(&app, &format!("/api/mcp/events?channels=sync,catalog&last_event_id={}", id.as_ref().unwrap()), None, 2).await;
    assert_eq!(by_query, replayed);
    app.op_get("/api/mcp/events?last_event_id=x").await.expect_problem(400, "invalid_event_id");
    app.op_get("/api/mcp/events?channels=sync,nonsense").await.expect_problem(400, "unknown_channel");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_too_late_is_told_so() {
    let app = TestApp::start().await;
    for n in 0..3 {
        app.import(&[data::entry("a.x/one", &format!("1.0.{n}"))]).await;
    }
    sqlx::query("DELETE FROM mcp_fabric.events WHERE id < (SELECT max(id) FROM mcp_fabric.events WHERE channel = 'sync')")
        .execute(&mut app.database.connect().await)
        .await
        .unwrap();
    let events = read(&app, "/api/mcp/events?channels=sync,catalog", Some("1"), 2).await;
    assert_eq!((&events[0].0, &events[0].1["type"]), (&None, &json!("EVENTS_LOST")));
    assert_eq!(events[0].1["payload"]["oldest"], events[1].1["id"]);
}

/// The events of another process on the same database, and what ends it.
async fn another(app: &TestApp) -> (Events, Shutdown) {
    let database = Database::open(&Owner::from_url(&app.database.url().into()).unwrap(), &app.config()).await.unwrap();
    let shutdown = Shutdown::default();
    let events = Events::start(&app.config(), database, None, KINDS, &Metrics::default(), &shutdown).await.unwrap();
    (events, shutdown)
}

/// A follower that reads nothing falls behind what is kept in memory, and then behind the table.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_falls_behind_is_told_what_it_lost() {
    let app = TestApp::start().await;
    let (events, shutdown) = another(&app).await;
    let (mut heard, mut followed) = (events.subscribe(), events.follow(&operator(), Wanted::All, None).await.unwrap());
    let mut connection = app.database.connect().await;
    for statement in [
        "INSERT INTO mcp_fabric.events (type, channel, payload, created_at) SELECT 'X', 'x', '{}', now() FROM generate_series(1, 2000)",
        "DELETE FROM mcp_fabric.events WHERE id <= (SELECT max(id) - 10 FROM mcp_fabric.events)",
    ] {
        sqlx::query(statement).execute(&mut connection).await.unwrap();
        sqlx::query("NOTIFY fabric_events").execute(&mut connection).await.unwrap();
        if statement.starts_with("INSERT") {
            let mut count = 0;
            while count < 2000 {
                match tokio::time::timeout(Duration::from_secs(20), heard.recv()).await.unwrap() {
                    Ok(_) => count += 1,
                    Err(RecvError::Lagged(missed)) => count += missed,
                    Err(RecvError::Closed) => panic!("the events ended"),
                }
            }
        }
    }
    let oldest: i64 = sqlx::query_scalar("SELECT min(id) FROM mcp_fabric.events").fetch_one(&mut connection).await.unwrap();
    let Followed::Gap { oldest: told } = followed.next().await.unwrap().unwrap() else { panic!("no gap is told") };
    assert_eq!(told, oldest);
    for id in oldest..oldest + 10 {
        let Followed::Event(event) = followed.next().await.unwrap().unwrap() else { panic!("a second gap") };
        assert_eq!(event.id, id);
    }
    assert!(shutdown.finish(Duration::from_secs(5)).await);
}

/// Its connection was gone, and what others wrote meanwhile is not kept any more.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_fabric_has_missed_is_told_as_lost_to_its_followers() {
    let app = TestApp::start().await;
    let (events, shutdown) = another(&app).await;
    let (mut heard, mut followed) = (events.subscribe(), events.follow(&operator(), Wanted::All, None).await.unwrap());
    let mut connection = app.database.connect().await;
    let mut transaction = sqlx::Connection::begin(&mut connection).await.unwrap();
    // Nobody else publishes meanwhile.
    sqlx::raw_sql(
        "SELECT pg_advisory_xact_lock(hashtext('mcp_fabric.events'));
         INSERT INTO mcp_fabric.events (type, channel, payload, created_at) SELECT 'X', 'x', '{}', now() FROM generate_series(1, 20);
         DELETE FROM mcp_fabric.events WHERE id < (SELECT max(id) FROM mcp_fabric.events);
         NOTIFY fabric_events",
    )
    .execute(&mut *transaction)
    .await
    .unwrap();
    let left: i64 = sqlx::query_scalar("SELECT id FROM mcp_fabric.events").fetch_one(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    while let Ok(event) = heard.recv().await {
        assert!(event.id < left - 19, "whoever works by events looks at everything first");
    }
    assert_eq!(heard.recv().await.unwrap().id, left);
    let oldest = loop {
        match followed.next().await.unwrap().unwrap() {
            Followed::Gap { oldest } => break oldest,
            Followed::Event(event) => assert!(event.id < left - 19, "no gap is told"),
        }
    };
    let Followed::Event(event) = followed.next().await.unwrap().unwrap() else { panic!("a second gap") };
    assert_eq!((oldest, event.id), (left, left));
    assert!(shutdown.finish(Duration::from_secs(5)).await);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_login() {
    let app = TestApp::start().await;
    app.person("root@example.com", "admin").await;
    let ada = app.person("ada@example.com", "member").await;
    let other = app.log_in(&ada.email).await;
    let open = async |token: &str| {
        let response = app.request(Method::GET, "/api/mcp/events").bearer_auth(token).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.bytes_stream()
    };
    let (mut ended, mut kept) = (open(&ada.access).await, open(&other.access).await);
    assert_eq!(app.call(Method::POST, "/api/mcp/auth/logout", &ada.access, &Value::Null).await.status, 204);
    let end = async { while ended.next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(10), end).await.expect("the stream ends");
    let goes_on = tokio::time::timeout(Duration::from_millis(100), async { while kept.next().await.is_some() {} }).await;
    assert!(goes_on.is_err(), "another login of the same person keeps its own");
}
