//! MCP over standard input and output, for clients that start programs: each line is carried to the gateway, and what
//! comes back is a line again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use clap::Args;
use platform::{http::header_text, sse::Parts};
use reqwest::{
    Method, RequestBuilder, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};
use runtime::ParamHeaders;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    sync::Semaphore,
    task::{AbortHandle, JoinSet},
};

use super::{
    CliError, Context,
    client::{Fabric, encoded},
};

const SESSION: &str = "mcp-session-id";
const VERSION: &str = "mcp-protocol-version";
const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// How many messages are on their way at once.
const AT_ONCE: usize = 64;
/// How long answers may take that are still on their way when the client has gone.
const GOODBYE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_secs(1);

/// Speak MCP over standard input and output with a server of the fabric; for clients that start programs
///
/// Without a server, everything that you may use is offered, under names that say whose it is. With `FABRIC_URL`, the
/// token is taken from `FABRIC_TOKEN`, or from `~/.config/mcp-fabric/token`.
#[derive(Debug, Args)]
pub(super) struct Connect {
    /// A server's id
    server: Option<String>,
}

struct Bridge {
    fabric: Fabric,
    path: String,
    /// The session that the gateway gave, and the revision that was agreed on.
    session: Mutex<(Option<String>, Option<String>)>,
    /// What the client said at first.
    greeting: Mutex<Option<String>>,
    /// Requests without a session, by their ids: they are cancelled by not waiting any more.
    running: Mutex<HashMap<String, AbortHandle>>,
    repeated: ParamHeaders,
    out: tokio::sync::Mutex<tokio::io::Stdout>,
    places: Semaphore,
}

pub(super) async fn connect(context: Context, asked: Connect) -> Result<(), CliError> {
    let fabric = Fabric::reach_running(&context).await?;
    let path = asked.server.map_or_else(|| "/mcp".to_owned(), |server| format!("/mcp/s/{}", encoded(&server)));
    let bridge = Arc::new(Bridge {
        fabric,
        path,
        session: Mutex::default(),
        greeting: Mutex::default(),
        running: Mutex::default(),
        repeated: ParamHeaders::default(),
        out: tokio::sync::Mutex::new(tokio::io::stdout()),
        places: Semaphore::new(AT_ONCE),
    });
    let (mut lines, mut tasks) = (BufReader::new(tokio::io::stdin()).lines(), JoinSet::new());
    while let Some(line) = lines.next_line().await.map_err(CliError::Input)? {
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        while tasks.try_join_next().is_some() {}
        match message["method"].as_str() {
            // What follows needs what comes of these.
            Some("initialize") => {
                *bridge.greeting.lock().unwrap_or_else(PoisonError::into_inner) = Some(line.clone());
                bridge.send(line, message).await;
            }
            Some("notifications/initialized") => {
                bridge.send(line, message).await;
                tasks.spawn(Arc::clone(&bridge).listen());
            }
            Some("notifications/cancelled") if bridge.cancel(&message["params"]["requestId"]) => {}
            _ => {
                let id = message.get("id").map(ToString::to_string);
                let carried = Arc::clone(&bridge);
                let task = tasks.spawn(async move { carried.send(line, message).await });
                if let Some(id) = id {
                    bridge.running().insert(id, task);
                }
            }
        }
    }
    let listening_ends = async { while tasks.len() > usize::from(bridge.has_session()) && tasks.join_next().await.is_some() {} };
    tokio::time::timeout(GOODBYE, listening_ends).await.ok();
    bridge.close().await;
    Ok(())
}

impl Bridge {
    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<String, AbortHandle>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self) -> std::sync::MutexGuard<'_, (Option<String>, Option<String>)> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_session(&self) -> bool {
        self.session().0.is_some()
    }

    /// Ends a request of a client without a session; false where a session has to be told.
    fn cancel(&self, id: &Value) -> bool {
        if self.has_session() {
            return false;
        }
        if let Some(task) = self.running().remove(&id.to_string()) {
            task.abort();
        }
        true
    }

    /// Carries one message, and everything that comes of it.
    async fn send(&self, line: String, message: Value) {
        let Ok(_place) = self.places.acquire().await else { return };
        if let Err(why) = self.carry(line, &message).await
            && let Some(id) = message.get("id").filter(|_| message.get("method").is_some())
        {
            self.say(&json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32000, "message": why } }).to_string()).await;
        }
        if let Some(id) = message.get("id") {
            self.running().remove(&id.to_string());
        }
    }

    async fn carry(&self, line: String, message: &Value) -> Result<(), String> {
        let mut response = self.post(line.clone(), message).await?;
        // A fabric that was started anew knows no session: the client need not know that.
        if response.status() == StatusCode::NOT_FOUND && self.has_session() && message["method"] != "initialize" {
            self.greet_again().await?;
            response = self.post(line, message).await?;
        }
        self.take(message, response).await
    }

    /// Begins another session with what the client said at first.
    async fn greet_again(&self) -> Result<(), String> {
        let Some(greeting) = self.greeting.lock().unwrap_or_else(PoisonError::into_inner).clone() else {
            return Err("the session ended, and cannot be begun again".into());
        };
        *self.session() = (None, None);
        let message: Value = serde_json::from_str(&greeting).unwrap_or_default();
        let response = self.post(greeting, &message).await?;
        self.session().0 = session_of(&response);
        let answer: Value = response.json().await.map_err(|error| error.to_string())?;
        let version = answer["result"]["protocolVersion"].as_str().map(str::to_owned);
        self.session().1.clone_from(&version);
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        self.post(initialized.to_string(), &initialized).await?;
        if version.is_some() { Ok(()) } else { Err("the session ended, and another one was refused".into()) }
    }

    async fn post(&self, line: String, message: &Value) -> Result<Response, String> {
        let request = self.request(Method::POST, message).header(CONTENT_TYPE, "application/json");
        let request = request.header(ACCEPT, "application/json, text/event-stream");
        request.body(line).send().await.map_err(|error| format!("the fabric cannot be reached: {error}"))
    }

    /// A request with the headers that go with the message.
    fn request(&self, method: Method, message: &Value) -> RequestBuilder {
        let request = self.fabric.stream(method, &self.path);
        self.headers(message).into_iter().fold(request, |request, (name, value)| request.header(name, value))
    }

    /// What the protocol wants beside the body.
    fn headers(&self, message: &Value) -> Vec<(String, String)> {
        let params = &message["params"];
        if let Some(version) = params["_meta"][META_VERSION].as_str() {
            let mut headers = vec![(VERSION.to_owned(), version.to_owned())];
            headers.push(("mcp-method".to_owned(), message["method"].as_str().unwrap_or_default().to_owned()));
            let name = match message["method"].as_str() {
                Some("tools/call" | "prompts/get") => params["name"].as_str(),
                Some("resources/read") => params["uri"].as_str(),
                _ => None,
            };
            headers.extend(name.map(|name| ("mcp-name".to_owned(), header_text::encode(name).into_owned())));
            if message["method"] == "tools/call" {
                headers.extend(self.repeated.of(params));
            }
            return headers;
        }
        let (session, version) = self.session().clone();
        [(SESSION, session), (VERSION, version)].into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    async fn take(&self, message: &Value, response: Response) -> Result<(), String> {
        let is_greeting = message["method"] == "initialize";
        if is_greeting {
            self.session().0 = session_of(&response);
        }
        let (status, kind) = (response.status(), kind_of(&response));
        if kind == "text/event-stream" {
            return self.events(message, response).await;
        }
        let body = response.text().await.map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_str(&body).unwrap_or_default();
        if answer["jsonrpc"] == "2.0" && !answer["id"].is_null() {
            if is_greeting {
                self.session().1 = answer["result"]["protocolVersion"].as_str().map(str::to_owned);
            }
            self.hear(message, &body).await;
            return Ok(());
        }
        // A refusal of the whole message names none.
        let why = answer["detail"].as_str().or(answer["error"]["message"].as_str());
        if status.is_success() { Ok(()) } else { Err(why.map_or_else(|| status.to_string(), str::to_owned)) }
    }

    /// What is said of a message; lists of tools say what calls repeat in headers.
    async fn hear(&self, message: &Value, said: &str) {
        if message["method"] == "tools/list" {
            self.repeated.learn(said);
        }
        self.say(said).await;
    }

    async fn events(&self, message: &Value, mut response: Response) -> Result<(), String> {
        let mut parts = Parts::default();
        while let Some(chunk) = response.chunk().await.map_err(|error| format!("the answer broke off: {error}"))? {
            parts.buffer.extend_from_slice(&chunk);
            while let Some(event) = parts.next() {
                if !event.data.is_empty() {
                    self.hear(message, &event.data).await;
                }
            }
        }
        Ok(())
    }

    /// What the server says unasked.
    async fn listen(self: Arc<Self>) {
        loop {
            let request = self.request(Method::GET, &Value::Null).header(ACCEPT, "text/event-stream");
            match request.send().await {
                Ok(response) if response.status().is_success() => drop(self.events(&Value::Null, response).await),
                // A session that is gone is begun anew with the next message.
                Ok(response) if matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::SERVICE_UNAVAILABLE) => {}
                Ok(response) if response.status().is_client_error() => return,
                Ok(_) | Err(_) => {}
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn close(&self) {
        if !self.has_session() {
            return;
        }
        // A session that is not ended ends by itself.
        self.request(Method::DELETE, &Value::Null).timeout(GOODBYE).send().await.ok();
    }

    /// One line; JSON has line ends between its words only.
    async fn say(&self, message: &str) {
        let mut line = message.replace(['\n', '\r'], " ");
        line.push('\n');
        let mut out = self.out.lock().await;
        // Whoever read may have gone; then standard input ends, too.
        if out.write_all(line.as_bytes()).await.is_ok() {
            out.flush().await.ok();
        }
    }
}

fn session_of(response: &Response) -> Option<String> {
    response.headers().get(SESSION).and_then(|id| id.to_str().ok()).map(str::to_owned)
}

fn kind_of(response: &Response) -> String {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().to_owned()
}
