//! Servers elsewhere, over both transports: a small one on loopback that remembers what it was sent.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::{Mcp, TestApp, data, eventually};

/// A method, and the headers that came with it.
type Heard = (String, HashMap<String, String>);

#[derive(Clone, Default)]
struct Elsewhere {
    /// Headers of every message, by its method.
    heard: Arc<Mutex<Vec<Heard>>>,
    sessions: Arc<AtomicUsize>,
    /// The sessions that it knows.
    known: Arc<Mutex<Vec<String>>>,
    /// Those of them that have heard that they may begin.
    begun: Arc<Mutex<Vec<String>>>,
    /// Of the old transport, by their sessions.
    streams: Arc<Mutex<HashMap<String, mpsc::UnboundedSender<String>>>>,
    /// What is told outside of requests, by the newest stream for that.
    beside: Arc<Mutex<Option<mpsc::UnboundedSender<Event>>>>,
    /// What the server was told besides requests and notifications.
    answers: Arc<Mutex<Vec<Value>>>,
    has_more_tools: Arc<AtomicBool>,
    /// It answers what is not a message with 404, as frameworks do by themselves.
    has_no_stream: Arc<AtomicBool>,
    refuses: Arc<Mutex<Option<u16>>>,
    task: Arc<Mutex<Option<tokio::task::JoinHandle<std::io::Result<()>>>>>,
}

pub(super) fn answer(message: &Value) -> Value {
    let id = &message["id"];
    match message["method"].as_str().unwrap() {
        "initialize" => {
            let capabilities = json!({ "tools": { "listChanged": true } });
            json!({ "jsonrpc": "2.0", "id": id, "result": { "protocolVersion": "2025-06-18", "capabilities": capabilities, "serverInfo": { "name": "elsewhere", "version": "1" } } })
        }
        "ping" => json!({ "jsonrpc": "2.0", "id": id, "result": {} }),
        "tools/list" => {
            json!({ "jsonrpc": "2.0", "id": id, "result": { "tools": [{ "name": "echo", "inputSchema": { "type": "object" } }] } })
        }
        "tools/call" => {
            json!({ "jsonrpc": "2.0", "id": id, "result": { "content": [{ "type": "text", "text": message["params"]["arguments"]["message"] }] } })
        }
        _ => json!({ "jsonrpc": "2.0", "id": null, "error": { "code": -32600, "message": "Bad Request: no session" } }),
    }
}

impl Elsewhere {
    async fn start() -> (Self, String) {
        let elsewhere = Self::default();
        let service = Router::new()
            .route("/mcp", post(streamable).get(beside).delete(end))
            .route("/sse", get(stream))
            .route("/message", post(message));
        let service = service
            .route("/away", post(|| async { axum::response::Redirect::temporary("http://169.254.169.254/") }))
            .with_state(elsewhere.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move { axum::serve(listener, service).await });
        *elsewhere.task.lock().unwrap() = Some(task);
        (elsewhere, url)
    }

    /// It is gone, and its address free.
    fn stop(&self) {
        self.task.lock().unwrap().take().unwrap().abort();
    }

    /// It is there again, where it was.
    async fn come_back(&self, url: &str) {
        let service = Router::new().route("/mcp", post(streamable).delete(end)).with_state(self.clone());
        let listener = tokio::net::TcpListener::bind(url.strip_prefix("http://").unwrap()).await.unwrap();
        tokio::spawn(async move { axum::serve(listener, service).await });
    }

    fn hear(&self, headers: &HeaderMap, message: &Value) {
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned())).collect();
        self.heard.lock().unwrap().push((message["method"].as_str().unwrap_or_default().to_owned(), headers));
    }

    /// A header of the newest message of a method.
    fn header(&self, method: &str, name: &str) -> Option<String> {
        let heard = self.heard.lock().unwrap();
        heard.iter().rev().find(|(own, _)| own == method).and_then(|(_, headers)| headers.get(name).cloned())
    }
}

async fn streamable(State(elsewhere): State<Elsewhere>, headers: HeaderMap, Json(message): Json<Value>) -> Response {
    elsewhere.hear(&headers, &message);
    if message.get("method").is_none() {
        elsewhere.answers.lock().unwrap().push(message);
        return StatusCode::ACCEPTED.into_response();
    }
    if let Some(status) = *elsewhere.refuses.lock().unwrap() {
        return StatusCode::from_u16(status).unwrap().into_response();
    }
    let session = headers.get("mcp-session-id").map(|value| value.to_str().unwrap().to_owned());
    match (message["method"].as_str(), session) {
        (Some("initialize"), _) => {
            let session = format!("session-{}", elsewhere.sessions.fetch_add(1, Ordering::SeqCst));
            elsewhere.known.lock().unwrap().push(session.clone());
            ([("mcp-session-id", session)], Json(answer(&message))).into_response()
        }
        (_, None) => (StatusCode::BAD_REQUEST, Json(answer(&json!({ "method": "x" })))).into_response(),
        (_, Some(session)) if !elsewhere.known.lock().unwrap().contains(&session) => StatusCode::NOT_FOUND.into_response(),
        (Some("notifications/initialized"), Some(session)) => {
            // Whoever does not wait for this is refused.
            tokio::time::sleep(Duration::from_millis(100)).await;
            elsewhere.begun.lock().unwrap().push(session);
            StatusCode::ACCEPTED.into_response()
        }
        (Some(method), _) if method.starts_with("notifications/") => StatusCode::ACCEPTED.into_response(),
        (_, Some(session)) if !elsewhere.begun.lock().unwrap().contains(&session) => StatusCode::CONFLICT.into_response(),
        (Some("tools/call"), _) if message["params"]["arguments"]["message"] == "in two parts" => {
            elsewhere.answers.lock().unwrap().push(answer(&message));
            let place = Event::default().id("call-1").retry(Duration::from_millis(50)).data("");
            Sse::new(futures_util::stream::iter([Ok::<_, Infallible>(place)])).into_response()
        }
        (Some("tools/list"), _) if elsewhere.has_more_tools.load(Ordering::SeqCst) => {
            let mut listed = answer(&message);
            listed["result"]["tools"].as_array_mut().unwrap().push(json!({ "name": "late", "inputSchema": { "type": "object" } }));
            Json(listed).into_response()
        }
        (Some("tools/call"), _) => {
            // A word on the way, and then the answer, as a stream.
            let word = json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": {} });
            let events = [word, answer(&message)].map(|event| Ok::<_, Infallible>(Event::default().data(event.to_string())));
            Sse::new(futures_util::stream::iter(events)).into_response()
        }
        _ => Json(answer(&message)).into_response(),
    }
}

/// What is told outside of requests, or the rest of an answer.
async fn beside(State(elsewhere): State<Elsewhere>, headers: HeaderMap) -> Response {
    elsewhere.hear(&headers, &json!({ "method": "GET" }));
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    if elsewhere.has_no_stream.load(Ordering::SeqCst) {
        return StatusCode::NOT_FOUND.into_response();
    }
    if !text("mcp-session-id").is_some_and(|session| elsewhere.known.lock().unwrap().contains(&session)) {
        return StatusCode::NOT_FOUND.into_response();
    }
    if text("last-event-id").as_deref() == Some("call-1") {
        let answer = elsewhere.answers.lock().unwrap().pop().unwrap();
        let rest = Event::default().id("call-2").data(answer.to_string());
        return Sse::new(futures_util::stream::iter([Ok::<_, Infallible>(rest)])).into_response();
    }
    let (tell, mut hear) = mpsc::unbounded_channel();
    *elsewhere.beside.lock().unwrap() = Some(tell);
    let events = async_stream::stream! {
        while let Some(event) = hear.recv().await {
            yield Ok::<_, Infallible>(event);
        }
    };
    Sse::new(events).into_response()
}

async fn end(State(elsewhere): State<Elsewhere>, headers: HeaderMap) -> StatusCode {
    elsewhere.hear(&headers, &json!({ "method": "DELETE" }));
    StatusCode::OK
}

async fn stream(State(elsewhere): State<Elsewhere>) -> Response {
    let (tell, mut hear) = mpsc::unbounded_channel();
    let name = platform::ids::fresh().to_string();
    elsewhere.streams.lock().unwrap().insert(name.clone(), tell);
    let events = async_stream::stream! {
        yield Ok::<_, Infallible>(Event::default().event("endpoint").data(format!("/message?session={name}")));
        while let Some(text) = hear.recv().await {
            yield Ok(Event::default().event("message").data(text));
        }
    };
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

async fn message(
    State(elsewhere): State<Elsewhere>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    Json(message): Json<Value>,
) -> StatusCode {
    elsewhere.hear(&headers, &message);
    if message.get("id").is_some() {
        let mut answer = answer(&message);
        answer["id"] = message["id"].clone();
        elsewhere.streams.lock().unwrap()[&query["session"]].send(answer.to_string()).ok();
    }
    StatusCode::ACCEPTED
}

async fn with(url: &str, further: &[(&str, &str)]) -> TestApp {
    let host = url.strip_prefix("http://").unwrap();
    let mut settings = vec![("FABRIC_ALLOWED_HOSTS", host)];
    settings.extend(further);
    let app = TestApp::with(&settings).await;
    let headers =
        json!([{ "name": "Authorization", "value": "Bearer {key}", "variables": { "key": { "isSecret": true, "isRequired": true } } }]);
    let entry = |name: &str, kind: &str, path: &str, headers: &Value| {
        data::entry_with(
            name,
            "1.0.0",
            json!({ "packages": [], "remotes": [{ "type": kind, "url": format!("{url}{path}"), "headers": headers }] }),
            json!({}),
        )
    };
    let (none, entries) = (json!([]), |headers: &Value, none: &Value| {
        [
            entry("a.x/new", "streamable-http", "/mcp", headers),
            entry("a.x/old", "sse", "/sse", none),
            entry("a.x/away", "streamable-http", "/away", none),
        ]
    });
    app.import(&entries(&headers, &none)).await;
    app
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_elsewhere_is_spoken_to_with_what_the_vault_has() {
    let (elsewhere, url) = Elsewhere::start().await;
    let app = with(&url, &[("FABRIC_PROBE_SECONDS", "1")]).await;
    let refused = app.op_post("/api/mcp/servers/a.x%2Fnew/start").await.expect_problem(422, "missing_inputs");
    assert_eq!(refused["missing"], json!(["key"]));
    let stored = json!({ "server_id": "a.x/new", "values": { "key": "s3cret-key" } });
    app.op_post_json("/api/mcp/users/me/servers", &stored).await.expect(201);
    app.op_post("/api/mcp/servers/a.x%2Fnew/start").await.expect(202);
    let running = app.instance_in(&app.token, "a.x/new", "RUNNING").await;
    assert_eq!(
        (running["backend"].as_str(), running["era"].as_str(), running["tools"].as_i64()),
        (Some("remote"), Some("legacy"), Some(1))
    );
    assert!(running["pid"].is_null() && running["limits"].is_null());
    assert_eq!(app.tool(&running, "echo", json!({ "message": "far away" })).await, "far away");
    let sent = |name: &str| elsewhere.header("tools/call", name).unwrap();
    assert_eq!(
        [sent("authorization"), sent("mcp-session-id"), sent("mcp-protocol-version")],
        ["Bearer s3cret-key".to_owned(), "session-0".into(), "2025-06-18".into()]
    );
    // A session that is forgotten there is begun anew.
    elsewhere.known.lock().unwrap().clear();
    eventually(20, "it has another session", || async {
        let now = app.instance(&running["id"]).await;
        (now["state"] == "RUNNING" && now["restarts"] == 1).then_some(())
    })
    .await;
    assert_eq!(app.tool(&running, "echo", json!({ "message": "again" })).await, "again");
    assert_eq!(elsewhere.header("tools/call", "mcp-session-id").unwrap(), "session-1");
    app.op_post("/api/mcp/servers/a.x%2Fnew/stop").await.expect(202);
    app.instance_in(&app.token, "a.x/new", "STOPPED").await;
    assert_eq!(elsewhere.header("DELETE", "mcp-session-id").unwrap(), "session-1", "it is told");
    // A refusal of the credentials says so, without them.
    *elsewhere.refuses.lock().unwrap() = Some(401);
    app.op_post("/api/mcp/servers/a.x%2Fnew/start").await.expect(202);
    let failed = app.instance_in(&app.token, "a.x/new", "FAILED").await;
    let why = failed["reason"]["message"].as_str().unwrap();
    assert!(why.contains("refuses the credentials") && !why.contains("s3cret"), "{why}");
    app.stop().await;
}

/// The fabric speaks with it, and somebody listens to what it has to say.
async fn listened_to(elsewhere: &Elsewhere, url: &str) -> (TestApp, Mcp) {
    let app = with(url, &[]).await;
    let stored = json!({ "server_id": "a.x/new", "values": { "key": "s3cret-key" } });
    app.op_post_json("/api/mcp/users/me/servers", &stored).await.expect(201);
    app.run_server("a.x/new").await;
    eventually(10, "it has a stream", || async { elsewhere.beside.lock().unwrap().is_some().then_some(()) }).await;
    let client = Mcp::connect(&format!("{}/mcp/s/a.x%2Fnew", app.url), &app.token, "2025-11-25").await;
    (app, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_says_outside_of_requests_is_heard() {
    let (elsewhere, url) = Elsewhere::start().await;
    let (app, client) = listened_to(&elsewhere, &url).await;
    let got = |name: &str| elsewhere.header("GET", name);
    let agreed = (got("authorization"), got("mcp-session-id"), got("mcp-protocol-version"), got("last-event-id"));
    assert_eq!(agreed, (Some("Bearer s3cret-key".into()), Some("session-0".into()), Some("2025-06-18".into()), None));
    let tell = |id: &str, message: &Value| {
        let event = Event::default().id(id).retry(Duration::from_millis(50)).data(message.to_string());
        elsewhere.beside.lock().unwrap().as_ref().unwrap().send(event).unwrap();
    };
    let changed = json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" });
    let mut events = client.listen(None).await;
    assert_eq!(client.names("tools/list").await, ["echo"]);
    elsewhere.has_more_tools.store(true, Ordering::SeqCst);
    tell("7", &changed);
    events.of_method("notifications/tools/list_changed").await;
    assert_eq!(client.names("tools/list").await, ["echo", "late"]);
    // What it asks is answered.
    tell("8", &json!({ "jsonrpc": "2.0", "id": "are you there", "method": "ping" }));
    let answered = eventually(10, "it is answered", || async { elsewhere.answers.lock().unwrap().pop() }).await;
    assert_eq!((&answered["id"], &answered["result"]), (&json!("are you there"), &json!({})));
    // The stream breaks off: it is taken up where it was, and no request was harmed.
    elsewhere.beside.lock().unwrap().take();
    eventually(10, "it has a stream again", || async { elsewhere.beside.lock().unwrap().is_some().then_some(()) }).await;
    assert_eq!(got("last-event-id").as_deref(), Some("8"));
    elsewhere.has_more_tools.store(false, Ordering::SeqCst);
    tell("9", &changed);
    events.of_method("notifications/tools/list_changed").await;
    assert_eq!(client.names("tools/list").await, ["echo"]);
    // A session that is forgotten there is begun anew, though nobody asks anything.
    elsewhere.known.lock().unwrap().clear();
    elsewhere.beside.lock().unwrap().take();
    eventually(20, "it has another session", || async { (got("mcp-session-id").as_deref() == Some("session-1")).then_some(()) }).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_without_a_stream_of_its_own_is_used_all_the_same() {
    let (elsewhere, url) = Elsewhere::start().await;
    elsewhere.has_no_stream.store(true, Ordering::SeqCst);
    let app = with(&url, &[]).await;
    let stored = json!({ "server_id": "a.x/new", "values": { "key": "s3cret-key" } });
    app.op_post_json("/api/mcp/users/me/servers", &stored).await.expect(201);
    let running = app.run_server("a.x/new").await;
    eventually(10, "it was asked for one", || async { elsewhere.header("GET", "mcp-session-id") }).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(app.tool(&running, "echo", json!({ "message": "still here" })).await, "still here");
    assert_eq!(app.instance(&running["id"]).await["restarts"], 0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_read_on() {
    let (elsewhere, url) = Elsewhere::start().await;
    let (app, client) = listened_to(&elsewhere, &url).await;
    assert_eq!(client.tool("echo", json!({ "message": "in two parts" })).await.text(), "in two parts");
    assert_eq!(elsewhere.header("GET", "last-event-id").as_deref(), Some("call-1"));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_transport_is_spoken_and_redirects_are_not_followed() {
    let (elsewhere, url) = Elsewhere::start().await;
    let app = with(&url, &[("FABRIC_START_SECONDS", "8")]).await;
    app.op_post("/api/mcp/servers/a.x%2Fold/start").await.expect(202);
    let running = app.instance_in(&app.token, "a.x/old", "RUNNING").await;
    assert_eq!(app.tool(&running, "echo", json!({ "message": "by the old way" })).await, "by the old way");
    // Its stream ends: it is taken up again.
    elsewhere.streams.lock().unwrap().clear();
    eventually(20, "it is back", || async {
        let now = app.instance(&running["id"]).await;
        (now["state"] == "RUNNING" && now["restarts"] == 1).then_some(())
    })
    .await;
    assert_eq!(app.tool(&running, "echo", json!({ "message": "again" })).await, "again");
    app.op_post("/api/mcp/servers/a.x%2Faway/start").await.expect(202);
    let failed = app.instance_in(&app.token, "a.x/away", "FAILED").await;
    assert!(failed["reason"]["message"].as_str().unwrap().contains("sends elsewhere (307"), "{failed}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_be_reached_for_a_while_is_waited_for() {
    let (elsewhere, url) = Elsewhere::start().await;
    let mut app = with(&url, &[]).await;
    let stored = json!({ "server_id": "a.x/new", "values": { "key": "s3cret-key" } });
    app.op_post_json("/api/mcp/users/me/servers", &stored).await.expect(201);
    app.op_post("/api/mcp/servers/a.x%2Fnew/start").await.expect(202);
    app.instance_in(&app.token, "a.x/new", "RUNNING").await;
    app.halt().await;
    elsewhere.stop();
    app.begin_again().await;
    // It ran before this fabric stopped: that the network comes up later is nobody's failure.
    let waiting = eventually(20, "it waits", || async {
        let found = app.op_get("/api/mcp/instances?server_id=a.x%2Fnew").await.expect(200)["instances"][0].clone();
        (found["attempt"].as_i64() >= Some(2) && found["reason"]["code"] == "remote_unreachable").then_some(found)
    })
    .await;
    assert_eq!(waiting["state"], "STARTING");
    assert_eq!(app.op_get("/api/mcp/users/me/servers/a.x%2Fnew").await.expect(200)["enabled"], true);
    elsewhere.come_back(&url).await;
    app.instance_in(&app.token, "a.x/new", "RUNNING").await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_inside_are_refused() {
    let (_elsewhere, url) = Elsewhere::start().await;
    let app = TestApp::start().await;
    let remote = json!({ "packages": [], "remotes": [{ "type": "streamable-http", "url": format!("{url}/mcp") }] });
    app.import(&[data::entry_with("a.x/inside", "1.0.0", remote, json!({}))]).await;
    app.op_post("/api/mcp/servers/a.x%2Finside/start").await.expect(202);
    let failed = app.instance_in(&app.token, "a.x/inside", "FAILED").await;
    assert!(failed["reason"]["message"].as_str().unwrap().contains("is a private address"), "{failed}");
    app.stop().await;
}
