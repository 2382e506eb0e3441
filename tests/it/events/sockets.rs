//! `/api/mcp/ws`.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _, http::HeaderValue},
};

use super::read;
use crate::{
    gateway::Gateway,
    support::{TestApp, data, eventually},
};

/// A client of the WebSocket.
pub(super) struct Socket {
    inner: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Socket {
    /// Opens one, with headers; else the status of the refusal.
    pub(super) async fn open(app: &TestApp, query: &str, headers: &[(&'static str, &str)]) -> Result<Self, u16> {
        let address = app.url.strip_prefix("http").unwrap();
        let mut request = format!("ws{address}/api/mcp/ws{query}").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
        }
        match connect_async(request).await {
            Ok((inner, _)) => Ok(Self { inner }),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// Opens one with a token; gives what is said first, too.
    pub(super) async fn with(app: &TestApp, token: &str, query: &str) -> (Self, Value) {
        let mut socket = Self::open(app, query, &[("authorization", &format!("Bearer {token}"))]).await.unwrap();
        let first = socket.next().await;
        assert_eq!(first["type"], "CONNECTED", "{first}");
        (socket, first)
    }

    /// The next text, within ten seconds.
    pub(super) async fn next(&mut self) -> Value {
        loop {
            let message = tokio::time::timeout(Duration::from_secs(10), self.inner.next()).await.expect("a message within 10 s");
            match message.expect("the socket stays open").unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next one of a type.
    pub(super) async fn of_type(&mut self, kind: &str) -> Value {
        loop {
            let message = self.next().await;
            if message["type"] == kind {
                return message;
            }
        }
    }

    /// The code that it is closed with.
    pub(super) async fn closed(&mut self) -> u16 {
        loop {
            let message = tokio::time::timeout(Duration::from_secs(15), self.inner.next()).await.expect("it is closed within 15 s");
            if let Message::Close(frame) = message.expect("a closing message").unwrap() {
                return frame.expect("a code").code.into();
            }
        }
    }

    pub(super) async fn say(&mut self, message: &Value) {
        self.inner.send(Message::text(message.to_string())).await.unwrap();
    }

    /// Says something and gives the answer.
    async fn ask(&mut self, message: &Value) -> Value {
        self.say(message).await;
        self.next().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_streams_tell_the_same_in_the_form_of_the_requirements() {
    let gateway = Gateway::with(&[]).await;
    let app = &gateway.app;
    gateway.install("weather", &json!({})).await;
    let (mut socket, connected) = Socket::with(app, &app.token, "?channels=servers").await;
    assert_eq!((&connected["channels"], &connected["heartbeatSeconds"]), (&json!(["servers"]), &json!(30.0)));
    app.run_server("weather").await;
    let mut told = Vec::new();
    while told.last().is_none_or(|event: &Value| event["payload"]["newState"] != "RUNNING") {
        told.push(socket.of_type("SERVER_STATE_CHANGED").await);
    }
    let last = told.last().unwrap();
    assert_eq!(
        (&last["channel"], &last["server"], &last["payload"]["oldState"]),
        (&json!("servers"), &json!("weather"), &json!("STARTING"))
    );
    let server = app.op_get("/api/mcp/servers/weather").await.expect(200);
    assert_eq!(last["payload"]["serverId"], server["uuid"]);
    assert!(last["payload"]["timestamp"].as_str().unwrap().ends_with('Z'), "{last}");
    let replayed = read(app, "/api/mcp/events?channels=servers", Some(&connected["lastEventId"].to_string()), told.len()).await;
    assert_eq!(replayed.into_iter().map(|(_, event)| event).collect::<Vec<_>>(), told, "the same, from the table");
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_are_chosen_while_it_is_open() {
    let app = TestApp::start().await;
    let (mut socket, connected) = Socket::with(&app, &app.token, "?channels=sync").await;
    app.import(&[data::entry("a.x/one", "1.0.0")]).await;
    assert_eq!(socket.next().await["type"], "SYNC_PROGRESS");
    // What came before on a channel that is new; what was told already is not told again.
    let before = connected["lastEventId"].as_i64().unwrap();
    let answer = socket.ask(&json!({ "type": "subscribe", "channels": ["sync", "catalog"], "after": before })).await;
    assert_eq!((&answer["type"], &answer["channels"]), (&json!("SUBSCRIBED"), &json!(["catalog", "sync"])));
    assert_eq!(socket.next().await["type"], "CATALOG_CHANGED");
    assert_eq!(socket.ask(&json!({ "type": "ping" })).await, json!({ "type": "PONG" }));
    let answer = socket.ask(&json!({ "type": "unsubscribe", "channels": ["sync"] })).await;
    assert_eq!(answer["channels"], json!(["catalog"]));
    app.import(&[data::entry("a.x/two", "1.0.0")]).await;
    assert_eq!(socket.next().await["type"], "CATALOG_CHANGED");
    assert_eq!(socket.ask(&json!({ "type": "ping" })).await["type"], "PONG");
    let answer = socket.ask(&json!({ "type": "subscribe", "channels": ["*"] })).await;
    assert_eq!(answer["channels"], Value::Null);
    let answer = socket.ask(&json!({ "type": "unsubscribe", "channels": ["audit"] })).await;
    assert!(answer["channels"].as_array().unwrap().len() > 5 && !answer["channels"].as_array().unwrap().contains(&json!("audit")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_while_the_past_is_told_is_told_once() {
    const EACH: usize = 1200;
    let app = TestApp::start().await;
    let (mut socket, connected) = Socket::with(&app, &app.token, "?channels=jobs").await;
    let before = connected["lastEventId"].as_i64().unwrap();
    sqlx::query(
        "INSERT INTO mcp_fabric.events (type, channel, payload, created_at)
         SELECT kind, channel, jsonb_build_object('n', n), now() FROM generate_series(1, $1) AS n,
             (VALUES ('SYNC_PROGRESS', 'sync'), ('CATALOG_CHANGED', 'catalog')) AS what(kind, channel)",
    )
    .bind(i32::try_from(EACH).unwrap())
    .execute(&mut app.database.connect().await)
    .await
    .unwrap();
    // Something that is told tells the carrier of the rest.
    app.op_post_json("/api/mcp/cache/export", &json!({ "all": true })).await;
    app.import(&[data::entry("a.x/one", "1.0.0")]).await;
    eventually(10, "they are carried", || async {
        let (_, now) = Socket::with(&app, &app.token, "").await;
        (now["lastEventId"].as_i64().unwrap() >= before + 2 * i64::try_from(EACH).unwrap()).then_some(())
    })
    .await;
    for channel in ["sync", "catalog"] {
        socket.say(&json!({ "type": "subscribe", "channels": [channel], "after": before })).await;
    }
    let mut ids = std::collections::BTreeSet::new();
    let mut seen = 0;
    while seen < 2 * EACH {
        let said = socket.next().await;
        if let Some(id) = said["id"].as_i64().filter(|_| said["payload"]["n"].is_i64()) {
            assert!(ids.insert(id), "{said} is told twice");
            seen += 1;
        }
    }
    socket.say(&json!({ "type": "ping" })).await;
    loop {
        let said = socket.next().await;
        if said["type"] == "PONG" {
            break;
        }
        assert!(said["id"].as_i64().is_none_or(|id| ids.insert(id)), "{said} is told twice");
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_answered_and_changes_nothing() {
    let app = TestApp::start().await;
    let (mut socket, _) = Socket::with(&app, &app.token, "?channels=sync").await;
    for (said, code) in [
        (json!({ "type": "subscribe", "channels": ["nonsense"] }), "unknown_channel"),
        (json!({ "type": "unsubscribe", "channels": ["nonsense"] }), "unknown_channel"),
        (json!({ "type": "subscribe" }), "invalid_message"),
        (json!({ "type": "shout" }), "invalid_message"),
        (json!({ "type": "ping", "more": 1 }), "invalid_message"),
        (json!([]), "invalid_message"),
    ] {
        let answer = socket.ask(&said).await;
        assert_eq!((&answer["type"], &answer["code"]), (&json!("ERROR"), &json!(code)), "{said}");
    }
    socket.inner.send(Message::Text("{".into())).await.unwrap();
    assert_eq!(socket.next().await["code"], "invalid_message");
    socket.inner.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    assert_eq!(socket.next().await["code"], "invalid_message");
    app.import(&[data::entry("a.x/one", "1.0.0")]).await;
    assert_eq!(socket.next().await["type"], "SYNC_PROGRESS", "the channels are the same still");
    // What is far too large ends it.
    socket.inner.send(Message::text("x".repeat(100 << 10))).await.ok();
    let ended = tokio::time::timeout(Duration::from_secs(10), async { while let Some(Ok(_)) = socket.inner.next().await {} });
    ended.await.expect("it ends");

    app.op_get("/api/mcp/ws").await.expect_problem(400, "websocket_needed");
    app.get("/api/mcp/ws").await.expect_problem(401, "unauthenticated");
    let token = format!("Bearer {}", app.token);
    for (query, headers, status) in [
        ("", &[][..], 401),
        ("?channels=nonsense", &[("authorization", token.as_str())][..], 400),
        ("?last_event_id=-1", &[("authorization", token.as_str())], 400),
        ("", &[("authorization", token.as_str()), ("origin", "http://evil.example")], 403),
        ("", &[("authorization", token.as_str()), ("origin", "null")], 403),
    ] {
        assert_eq!(Socket::open(&app, query, headers).await.err(), Some(status), "{query} {headers:?}");
    }
    let own = [("authorization", token.as_str()), ("origin", app.url.as_str())];
    assert!(Socket::open(&app, "", &own).await.is_ok(), "its own pages may");
    assert!(Socket::open(&app, "", &[("authorization", &token), ("origin", "http://localhost:3000")]).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_hears_of_what_is_somebody_elses() {
    let gateway = Gateway::with(&[]).await;
    let app = &gateway.app;
    gateway.install("mine", &json!({})).await;
    gateway.install("other", &json!({})).await;
    app.person("root@example.com", "admin").await;
    let (ada, bob) = (app.person("ada@example.com", "member").await, app.person("bob@example.com", "member").await);
    let auditor = app.person("eve@example.com", "auditor").await;
    let body = json!({ "name": "narrow", "scopes": ["catalogue:read"], "servers": ["other"] });
    let narrow = app.call(Method::POST, "/api/mcp/tokens", &ada.access, &body).await.expect(201)["token"].as_str().unwrap().to_owned();
    let mut sockets = Vec::new();
    for token in [&ada.access, &bob.access, &narrow, &auditor.access] {
        sockets.push(Socket::with(app, token, "?channels=configurations,servers,jobs,audit,catalog").await.0);
    }
    let want = json!({ "server_id": "mine", "enabled": false });
    app.call(Method::POST, "/api/mcp/users/me/servers", &ada.access, &want).await.expect(201);
    app.import(&[data::entry("a.x/one", "1.0.0")]).await;
    let mut heard = Vec::new();
    for socket in &mut sockets {
        let mut kinds = Vec::new();
        while kinds.last().is_none_or(|kind| kind != "CATALOG_CHANGED") {
            let event = socket.next().await;
            if event["type"] == "CONFIGURATION_CHANGED" {
                assert_eq!((&event["server"], &event["payload"]["enabled"]), (&json!("mine"), &json!(false)));
            }
            kinds.push(event["type"].as_str().unwrap().to_owned());
        }
        heard.push(kinds);
    }
    assert_eq!(heard[0], ["CONFIGURATION_CHANGED", "CATALOG_CHANGED"]);
    assert_eq!(heard[1], ["CATALOG_CHANGED"], "somebody else");
    assert_eq!(heard[2], ["CATALOG_CHANGED"], "a token for another server");
    let recorded = sockets[3].of_type("AUDIT_RECORDED").await;
    assert!(
        recorded["payload"]["count"].as_i64().unwrap() > 0
            && recorded["payload"]["lastSeq"].as_i64() >= recorded["payload"]["firstSeq"].as_i64()
    );
    assert!(!heard[3].iter().any(|kind| kind == "CONFIGURATION_CHANGED"), "an auditor reads the trail, and no more");
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_after_a_restart_with_nothing_missing_and_nothing_twice() {
    let mut app = TestApp::start().await;
    let (mut socket, connected) = Socket::with(&app, &app.token, "?channels=sync").await;
    let start = connected["lastEventId"].as_i64().unwrap();
    let mut told = Vec::new();
    for n in 0..3 {
        app.import(&[data::entry("a.x/one", &format!("1.0.{n}"))]).await;
        told.push(socket.next().await["id"].as_i64().unwrap());
    }
    let away = async { app.restart().await };
    let (code, ()) = tokio::join!(socket.closed(), away);
    assert_eq!(code, 1001);
    for n in 3..6 {
        app.import(&[data::entry("a.x/one", &format!("1.0.{n}"))]).await;
    }
    let (mut socket, _) = Socket::with(&app, &app.token, &format!("?channels=sync&last_event_id={}", told[2])).await;
    app.import(&[data::entry("a.x/one", "1.0.6")]).await;
    for _ in 0..4 {
        told.push(socket.next().await["id"].as_i64().unwrap());
    }
    let all: Vec<i64> = sqlx::query_scalar("SELECT id FROM mcp_fabric.events WHERE channel = 'sync' AND id > $1 ORDER BY id")
        .bind(start)
        .fetch_all(&mut app.database.connect().await)
        .await
        .unwrap();
    assert_eq!(told, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_the_login_and_with_the_other_end() {
    let app = TestApp::with(&[("FABRIC_EVENT_HEARTBEAT_SECONDS", "1")]).await;
    app.person("root@example.com", "admin").await;
    let ada = app.person("ada@example.com", "member").await;
    let (mut socket, _) = Socket::with(&app, &ada.access, "").await;
    // It answers while it is read.
    let (mut kept, _) = Socket::with(&app, &app.token, "?channels=sync").await;
    let reading = tokio::spawn(async move { while let Some(Ok(_)) = kept.inner.next().await {} });
    // One that answers no ping: it is open, and nobody reads it.
    let (dead, _) = Socket::with(&app, &app.token, "").await;
    assert_eq!(app.call(Method::POST, "/api/mcp/auth/logout", &ada.access, &Value::Null).await.status, 204);
    assert_eq!(socket.closed().await, 1008);
    let open = || async {
        let metrics = app.op_get("/metrics").await.text();
        let count = metrics.lines().find_map(|line| line.strip_prefix("fabric_event_followers{stream=\"websocket\"} "))?.to_owned();
        (count == "1").then_some(())
    };
    eventually(20, "only the one that answers is left", open).await;
    assert!(!reading.is_finished());
    drop(dead);
    app.stop().await;
    reading.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_read_ends_with_its_login_all_the_same() {
    let app = TestApp::start().await;
    app.person("root@example.com", "admin").await;
    let ada = app.person("ada@example.com", "member").await;
    let (_, first) = Socket::with(&app, &ada.access, "").await;
    sqlx::query(
        "INSERT INTO mcp_fabric.events (type, channel, payload, created_at)
         SELECT 'CATALOG_CHANGED', 'catalog', jsonb_build_object('text', repeat('x', 20000)), now() FROM generate_series(1, 2000)",
    )
    .execute(&mut app.database.connect().await)
    .await
    .unwrap();
    let (unread, _) = Socket::with(&app, &ada.access, &format!("?last_event_id={}", first["lastEventId"])).await;
    let followers = || async {
        let metrics = app.op_get("/metrics").await.text();
        metrics.lines().find_map(|line| line.strip_prefix("fabric_event_followers{stream=\"websocket\"} "))?.parse::<u32>().ok()
    };
    eventually(5, "it is followed", || async { followers().await.filter(|count| *count == 1) }).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(app.call(Method::POST, "/api/mcp/auth/logout", &ada.access, &Value::Null).await.status, 204);
    eventually(8, "nobody is left", || async { followers().await.filter(|count| *count == 0) }).await;
    drop(unread);
    app.stop().await;
}
