//! A client of the Model Context Protocol over streamable HTTP, of any revision, written from the specification.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::StreamExt as _;
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};

const MODERN: &str = "2026-07-28";

/// What a client answers to a server's questions, by method.
pub(crate) type Answers = fn(&Value) -> Value;

/// A client that is connected, or needs no connection.
#[derive(Clone)]
pub(crate) struct Mcp {
    pub(crate) http: reqwest::Client,
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) revision: &'static str,
    pub(crate) session: Option<String>,
    pub(crate) greeting: Value,
    pub(crate) capabilities: Value,
    pub(crate) answers: Answers,
    pub(crate) next: Arc<AtomicU64>,
}

/// What came of a request: everything that was said, and the response.
#[derive(Debug)]
pub(crate) struct Came {
    pub(crate) said: Vec<Value>,
    pub(crate) response: Value,
    pub(crate) status: u16,
}

impl Came {
    /// The result; fails the test when it is an error.
    #[track_caller]
    pub(crate) fn result(&self) -> &Value {
        assert!(self.response.get("result").is_some(), "{self:?}");
        &self.response["result"]
    }

    /// The code of the error; fails the test when it is a result.
    #[track_caller]
    pub(crate) fn code(&self) -> i64 {
        self.response["error"]["code"].as_i64().unwrap_or_else(|| panic!("{self:?}"))
    }

    /// The text of a tool's result.
    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        self.result()["content"][0]["text"].as_str().unwrap()
    }

    /// How often something of this method was said.
    pub(crate) fn count(&self, method: &str) -> usize {
        self.said.iter().filter(|said| said["method"] == method).count()
    }
}

fn usual_answer(question: &Value) -> Value {
    match question["method"].as_str().unwrap() {
        "elicitation/create" => {
            json!({ "action": "accept", "content": { "username": "ada", "email": "ada@example.org", "name": "Ada", "confirmed": true, "color": "blue" } })
        }
        "sampling/createMessage" => json!({ "role": "assistant", "model": "m", "content": { "type": "text", "text": "Paris" } }),
        "roots/list" => json!({ "roots": [{ "uri": "file:///home/ada", "name": "home" }] }),
        other => panic!("asked for {other}"),
    }
}

impl Mcp {
    /// Connects, where the revision has that; offers everything.
    pub(crate) async fn connect(url: &str, token: &str, revision: &'static str) -> Self {
        Self::connect_as(url, token, revision, json!({ "sampling": {}, "elicitation": {}, "roots": { "listChanged": true } })).await
    }

    /// The same, offering what is given.
    pub(crate) async fn connect_as(url: &str, token: &str, revision: &'static str, capabilities: Value) -> Self {
        let mut client = Self {
            http: reqwest::Client::new(),
            url: url.to_owned(),
            token: token.to_owned(),
            revision,
            session: None,
            greeting: Value::Null,
            capabilities,
            answers: usual_answer,
            next: Arc::new(AtomicU64::new(1)),
        };
        if client.is_modern() {
            client.greeting = client.request("server/discover", json!({})).await.result().clone();
            return client;
        }
        let params =
            json!({ "protocolVersion": revision, "capabilities": client.capabilities, "clientInfo": { "name": "test", "version": "1" } });
        let body = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
        let response = client.post(&body).send().await.unwrap();
        let session = response.headers().get("mcp-session-id").map(|id| id.to_str().unwrap().to_owned());
        let answer: Value = response.json().await.unwrap();
        assert!(session.is_some(), "{answer}");
        client.session = session;
        client.greeting = answer["result"].clone();
        assert_eq!(client.greeting["protocolVersion"], revision);
        client.notify("notifications/initialized", json!({})).await;
        client
    }

    pub(crate) fn is_modern(&self) -> bool {
        self.revision == MODERN
    }

    /// A POST of a message, with what the revision wants in headers.
    pub(crate) fn post(&self, message: &Value) -> RequestBuilder {
        let mut request = self.http.post(&self.url).bearer_auth(&self.token).json(message);
        request = request.header("accept", "application/json, text/event-stream");
        if self.is_modern() {
            request = request.header("mcp-protocol-version", MODERN).header("mcp-method", message["method"].as_str().unwrap_or_default());
            let name = message["params"]["name"].as_str().or(message["params"]["uri"].as_str());
            if let (Some(name), Some("tools/call" | "prompts/get" | "resources/read")) = (name, message["method"].as_str()) {
                request = request.header("mcp-name", name);
            }
        } else if let Some(session) = &self.session {
            request = request.header("mcp-session-id", session).header("mcp-protocol-version", self.revision);
        }
        request
    }

    /// A GET of the session's own stream, or of one that broke off.
    pub(crate) async fn listen(&self, last: Option<&str>) -> Events {
        let mut request = self.http.get(&self.url).bearer_auth(&self.token).header("accept", "text/event-stream");
        request = request.header("mcp-session-id", self.session.as_deref().unwrap());
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        Events::of(response)
    }

    /// The end of the session.
    pub(crate) async fn close(&self) -> u16 {
        let request = self.http.delete(&self.url).bearer_auth(&self.token).header("mcp-session-id", self.session.as_deref().unwrap());
        request.send().await.unwrap().status().as_u16()
    }

    pub(crate) fn message(&self, method: &str, mut params: Value) -> Value {
        if self.is_modern() {
            let mut meta = params["_meta"].as_object().cloned().unwrap_or_default();
            meta.insert("io.modelcontextprotocol/protocolVersion".into(), MODERN.into());
            meta.insert("io.modelcontextprotocol/clientCapabilities".into(), self.capabilities.clone());
            meta.insert("io.modelcontextprotocol/clientInfo".into(), json!({ "name": "test", "version": "1" }));
            params["_meta"] = meta.into();
        }
        json!({ "jsonrpc": "2.0", "id": self.next.fetch_add(1, Ordering::Relaxed), "method": method, "params": params })
    }

    pub(crate) async fn notify(&self, method: &str, params: Value) {
        let status = self.post(&json!({ "jsonrpc": "2.0", "method": method, "params": params })).send().await.unwrap().status();
        assert_eq!(status, 202, "{method}");
    }

    /// Asks, answers what it is asked, and gives what came.
    pub(crate) async fn request(&self, method: &str, params: Value) -> Came {
        let mut said = Vec::new();
        let mut params = params;
        loop {
            let mut came = self.once(method, params.clone()).await;
            said.append(&mut came.said);
            let result = &came.response["result"];
            if result["resultType"] != "input_required" {
                return Came { said, ..came };
            }
            let questions = result["inputRequests"].as_object().unwrap();
            said.extend(questions.values().cloned());
            let answers: serde_json::Map<String, Value> =
                questions.iter().map(|(name, question)| (name.clone(), (self.answers)(question))).collect();
            params["inputResponses"] = answers.into();
            params["requestState"] = result["requestState"].clone();
            if params["requestState"].is_null() {
                params.as_object_mut().unwrap().remove("requestState");
            }
        }
    }

    /// One request and its response.
    pub(crate) async fn once(&self, method: &str, params: Value) -> Came {
        let message = self.message(method, params);
        let response = self.post(&message).send().await.unwrap();
        let status = response.status().as_u16();
        let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned()).unwrap_or_default();
        if !kind.starts_with("text/event-stream") {
            let text = response.text().await.unwrap();
            let response = serde_json::from_str(&text).unwrap_or_else(|_| json!({ "not_json": text }));
            return Came { said: Vec::new(), response, status };
        }
        let (mut events, mut said) = (Events::of(response), Vec::new());
        while let Some((_, event)) = events.next().await {
            if event["id"] == message["id"] && event.get("method").is_none() {
                return Came { said, response: event, status };
            }
            if event.get("id").is_some() {
                let answer = json!({ "jsonrpc": "2.0", "id": event["id"], "result": (self.answers)(&event) });
                assert_eq!(self.post(&answer).send().await.unwrap().status(), 202);
            }
            said.push(event);
        }
        Came { said, response: Value::Null, status }
    }

    pub(crate) async fn tool(&self, name: &str, arguments: Value) -> Came {
        self.request("tools/call", json!({ "name": name, "arguments": arguments })).await
    }

    /// The names of what a list has.
    pub(crate) async fn names(&self, method: &str) -> Vec<String> {
        let came = self.request(method, json!({})).await;
        let result = came.result();
        let list = ["tools", "prompts", "resources", "resourceTemplates"].into_iter().find_map(|key| result[key].as_array()).unwrap();
        list.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    }
}

/// The events of a stream: their ids and their messages; those without a message are passed over.
pub(crate) struct Events {
    chunks: futures_util::stream::BoxStream<'static, reqwest::Result<axum::body::Bytes>>,
    text: String,
    ready: VecDeque<(Option<String>, Value)>,
    /// The newest id, also of events without a message.
    pub(crate) last: Option<String>,
}

impl Events {
    pub(crate) fn of(response: Response) -> Self {
        Self { chunks: response.bytes_stream().boxed(), text: String::new(), ready: VecDeque::new(), last: None }
    }

    pub(crate) async fn next(&mut self) -> Option<(Option<String>, Value)> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let chunk = self.chunks.next().await?.ok()?;
            self.text.push_str(&String::from_utf8_lossy(&chunk));
            while let Some(end) = self.text.find("\n\n") {
                let event: String = self.text.drain(..end + 2).collect();
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
                if let Some(id) = field("id:") {
                    self.last = Some(id);
                }
                if let Some(message) = field("data:").and_then(|data| serde_json::from_str(&data).ok()) {
                    self.ready.push_back((self.last.clone(), message));
                }
            }
        }
    }

    /// The next message of a method, within ten seconds.
    pub(crate) async fn of_method(&mut self, method: &str) -> Value {
        let found = async {
            loop {
                let (_, message) = self.next().await.expect("the stream goes on");
                if message["method"] == method {
                    return message;
                }
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), found).await.unwrap_or_else(|_| panic!("no {method} came"))
    }
}
