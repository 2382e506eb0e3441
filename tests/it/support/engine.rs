//! A double of the container engine's API on loopback: it keeps what it is asked to make, speaks MCP for every container,
//! and can be away.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// A container that was made.
#[derive(Clone)]
pub(crate) struct Made {
    pub(crate) body: Value,
    pub(crate) runs: bool,
    end: watch::Sender<bool>,
}

/// The engine.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) url: String,
    containers: Arc<Mutex<HashMap<String, Made>>>,
    away: Arc<AtomicBool>,
    /// Questions of now, and the most there were at once.
    busy: Arc<(AtomicUsize, AtomicUsize)>,
    /// Sentences with which the next makings are refused.
    refusals: Arc<Mutex<Vec<(u16, String)>>>,
}

impl Engine {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let engine = Self { url, containers: Arc::default(), away: Arc::default(), busy: Arc::default(), refusals: Arc::default() };
        let served = engine.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let engine = served.clone();
                tokio::spawn(async move { engine.serve(stream).await });
            }
        });
        engine
    }

    /// From now on it does not answer, and its containers are gone; or it answers again.
    pub(crate) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
        if away {
            for (_, made) in self.containers.lock().unwrap().drain() {
                made.end.send_replace(true);
            }
        }
    }

    /// What was made, by name.
    pub(crate) fn made(&self) -> HashMap<String, Made> {
        self.containers.lock().unwrap().clone()
    }

    pub(crate) fn most_at_once(&self) -> usize {
        self.busy.1.load(Ordering::SeqCst)
    }

    /// The next making is refused.
    pub(crate) fn refuse(&self, status: u16, message: &str) {
        self.refusals.lock().unwrap().push((status, message.to_owned()));
    }

    async fn serve(&self, stream: TcpStream) -> Option<()> {
        if self.away.load(Ordering::SeqCst) {
            return None;
        }
        let mut stream = BufReader::new(stream);
        let (mut first, mut length) = (String::new(), 0);
        stream.read_line(&mut first).await.ok()?;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.ok()?;
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        let (method, target) = (first.split(' ').next()?, first.split(' ').nth(1)?);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        // `/v1.41/containers/…`, or without a version.
        let path = path.strip_prefix("/v1.").and_then(|rest| rest.split_once('/')).map_or(path.trim_start_matches('/'), |(_, rest)| rest);
        let parts: Vec<&str> = path.split('/').collect();
        if let ["containers", name, "attach"] = parts[..] {
            return self.attach(stream, name).await;
        }
        let now = self.busy.0.fetch_add(1, Ordering::SeqCst) + 1;
        self.busy.1.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(10)).await;
        let (status, answer) = self.answer(method, &parts, query, &body);
        self.busy.0.fetch_sub(1, Ordering::SeqCst);
        let text = if answer.is_null() { String::new() } else { answer.to_string() };
        let head =
            format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", text.len());
        stream.get_mut().write_all(format!("{head}{text}").as_bytes()).await.ok()
    }

    fn answer(&self, method: &str, parts: &[&str], query: &str, body: &[u8]) -> (u16, Value) {
        let missing = || (404, json!({ "message": "No such container" }));
        let mut containers = self.containers.lock().unwrap();
        match (method, parts) {
            (_, ["version"]) => (200, json!({ "Version": "double", "ApiVersion": "1.41", "MinAPIVersion": "1.12" })),
            ("GET", ["images", ..]) => (200, json!({ "Id": "sha256:1", "Config": { "User": "" } })),
            ("POST", ["containers", "create"]) => {
                if let Some((status, message)) = self.refusals.lock().unwrap().pop() {
                    return (status, json!({ "message": message }));
                }
                let name = query.split('&').find_map(|pair| pair.strip_prefix("name=")).unwrap_or_default().to_owned();
                let made = Made { body: serde_json::from_slice(body).unwrap(), runs: false, end: watch::Sender::new(false) };
                containers.insert(name, made);
                (201, json!({ "Id": "1", "Warnings": [] }))
            }
            ("POST", ["containers", name, "start"]) => containers.get_mut(*name).map_or_else(missing, |made| {
                made.runs = true;
                (204, Value::Null)
            }),
            ("POST", ["containers", name, "stop"]) => containers.get_mut(*name).map_or_else(missing, |made| {
                made.runs = false;
                made.end.send_replace(true);
                (204, Value::Null)
            }),
            ("DELETE", ["containers", name]) => containers.remove(*name).map_or_else(missing, |made| {
                made.end.send_replace(true);
                (204, Value::Null)
            }),
            ("GET", ["containers", "json"]) => (200, json!([])),
            ("GET", ["containers", name, "json"]) => containers.get(*name).map_or_else(missing, |made| {
                let state = json!({ "Running": made.runs, "ExitCode": 0, "OOMKilled": false });
                (200, json!({ "Id": "1", "State": state, "Config": { "Labels": made.body["Labels"] } }))
            }),
            _ => (501, json!({ "message": "the double does not know this" })),
        }
    }

    /// Raw from here on: lines come in, and frames with lines go out.
    async fn attach(&self, mut stream: BufReader<TcpStream>, name: &str) -> Option<()> {
        let mut ended = self.containers.lock().unwrap().get(name)?.end.subscribe();
        let head =
            "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
        stream.get_mut().write_all(head.as_bytes()).await.ok()?;
        loop {
            let mut line = String::new();
            let count = tokio::select! {
                _ = ended.wait_for(|ended| *ended) => return None,
                count = stream.read_line(&mut line) => count.ok()?,
            };
            if count == 0 {
                return None;
            }
            let asked: Value = serde_json::from_str(&line).ok()?;
            let Some(id) = asked.get("id") else { continue };
            let answer = match asked["method"].as_str() {
                Some("initialize") => {
                    json!({ "id": id, "result": { "protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": { "name": "double" } } })
                }
                Some("ping") => json!({ "id": id, "result": {} }),
                Some("tools/list") => json!({ "id": id, "result": { "tools": [{ "name": "echo", "inputSchema": { "type": "object" } }] } }),
                Some("tools/call") => json!({ "id": id, "result": { "content": [{ "type": "text", "text": "from the double" }] } }),
                _ => json!({ "id": id, "error": { "code": -32601, "message": "Method not found" } }),
            };
            let text = format!("{answer}\n");
            let mut frame = vec![1, 0, 0, 0];
            frame.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
            frame.extend_from_slice(text.as_bytes());
            stream.get_mut().write_all(&frame).await.ok()?;
        }
    }
}
