//! Calls one tool over and over: over streamable HTTP by sessions that each wait for their answer, by plain POSTs, or
//! over the pipes of a server that is started for it; or follows the events of a fabric. Prints what came of it as one
//! line of JSON.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]
#![expect(clippy::disallowed_methods, reason = "it stands outside of the program that it measures")]

mod follow;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use reqwest::{
    Client,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde_json::{Value, json};

const USAGE: &str = "\
Calls a tool of an MCP server over and over.

  calls mcp URL SESSIONS CALLS TOOL     streamable HTTP of 2025-11-25; CALLS of all sessions together
  calls churn URL SESSIONS              opens sessions one after the other, lists tools in each, and ends each
  calls post URL SESSIONS CALLS BODY    plain POSTs of one body
  calls stdio CALLS TOOL PROGRAM…       a program that is started for it
  calls follow URL FOLLOWERS CHANNEL SECONDS   events of a fabric: how long after it was written each is heard

  TOKEN in the environment is sent as a bearer token.";
const REVISION: &str = "2025-11-25";

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["mcp", url, sessions, calls, tool] => run(url, sessions, calls, &Way::Mcp(tool.to_owned())),
        ["churn", url, sessions] => run(url, "1", sessions, &Way::Churn),
        ["post", url, sessions, calls, body] => run(url, sessions, calls, &Way::Post(body.to_owned())),
        ["follow", url, followers, channel, seconds] => follow::follow(url, followers, channel, seconds),
        ["stdio", calls, tool, program, ref arguments @ ..] => stdio(calls, tool, program, arguments),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

#[derive(Clone)]
enum Way {
    Mcp(String),
    Churn,
    Post(String),
}

fn call(id: usize, tool: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": tool, "arguments": { "message": "hello" } } })
}

fn greeting() -> Value {
    let params = json!({ "protocolVersion": REVISION, "capabilities": {}, "clientInfo": { "name": "calls", "version": "1" } });
    json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params })
}

fn summary(mut times: Vec<Duration>, whole: Duration) -> Value {
    times.sort_unstable();
    let per_second = times.len() as u128 * 1_000_000 / whole.as_micros().max(1);
    json!({ "calls": times.len(), "per_second": u64::try_from(per_second).unwrap_or(u64::MAX), "p50_us": at_percent(&times, 50), "p99_us": at_percent(&times, 99) })
}

/// The time that so many of a hundred do not exceed, in microseconds; they are in order.
fn at_percent(times: &[Duration], part: usize) -> u64 {
    let time = times.get((times.len() * part / 100).min(times.len().saturating_sub(1)));
    time.map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

#[tokio::main(flavor = "current_thread")]
async fn run(url: &str, sessions: &str, calls: &str, way: &Way) -> Outcome<Value> {
    let (sessions, calls): (usize, usize) = (sessions.parse()?, calls.parse()?);
    // Clients want one, though everything is spoken to in plain.
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    if let Ok(token) = std::env::var("TOKEN") {
        headers.insert(AUTHORIZATION, format!("Bearer {token}").parse()?);
    }
    let mut speakers = Vec::new();
    for _ in 0..sessions {
        let client = Client::builder().default_headers(headers.clone()).tcp_nodelay(true).build()?;
        let mut speaker = Speaker { client, url: url.to_owned(), headers: HeaderMap::new() };
        if let Way::Mcp(_) = way {
            speaker.greet().await?;
        }
        speakers.push(speaker);
    }
    let began = Instant::now();
    let each = speakers.into_iter().map(|speaker| tokio::spawn(speaker.work(way.clone(), calls / sessions)));
    let mut times = Vec::with_capacity(calls);
    for one in each.collect::<Vec<_>>() {
        times.extend(one.await??);
    }
    Ok(summary(times, began.elapsed()))
}

struct Speaker {
    client: Client,
    url: String,
    headers: HeaderMap,
}

impl Speaker {
    async fn greet(&mut self) -> Outcome<()> {
        let answer = self.client.post(&self.url).body(greeting().to_string()).send().await?.error_for_status()?;
        if let Some(session) = answer.headers().get("mcp-session-id").cloned() {
            self.headers.insert(HeaderName::from_static("mcp-session-id"), session);
        }
        answer.bytes().await?;
        self.headers.insert(HeaderName::from_static("mcp-protocol-version"), HeaderValue::from_static(REVISION));
        let told = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }).to_string();
        self.client.post(&self.url).headers(self.headers.clone()).body(told).send().await?.error_for_status()?;
        Ok(())
    }

    async fn ask(&self, body: String, wanted: &str) -> Outcome<()> {
        let answer = self.client.post(&self.url).headers(self.headers.clone()).body(body).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        if status.is_success() && text.contains(wanted) { Ok(()) } else { Err(format!("{status}: {text}").into()) }
    }

    async fn work(mut self, way: Way, calls: usize) -> Outcome<Vec<Duration>> {
        let mut times = Vec::with_capacity(calls);
        for number in 1..=calls {
            let began = Instant::now();
            match &way {
                Way::Mcp(tool) => self.ask(call(number, tool).to_string(), "\"result\"").await?,
                Way::Post(body) => self.ask(body.clone(), "").await?,
                Way::Churn => {
                    self.headers.clear();
                    self.greet().await?;
                    self.ask(json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }).to_string(), "\"result\"").await?;
                    self.client.delete(&self.url).headers(self.headers.clone()).send().await?.error_for_status()?;
                }
            }
            times.push(began.elapsed());
        }
        Ok(times)
    }
}

fn stdio(calls: &str, tool: &str, program: &str, arguments: &[&str]) -> Outcome<Value> {
    let calls: usize = calls.parse()?;
    let mut child = Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else { return Err("it has no pipes".into()) };
    let mut lines = BufReader::new(output).lines();
    let mut ask = |message: &Value| -> Outcome<()> {
        writeln!(input, "{message}")?;
        for line in lines.by_ref() {
            let said: Value = serde_json::from_str(&line?)?;
            if said["id"] == message["id"] {
                return if said["result"].is_null() { Err(said.to_string().into()) } else { Ok(()) };
            }
            if message["id"].is_null() {
                break;
            }
        }
        Ok(())
    };
    ask(&greeting())?;
    let mut times = Vec::with_capacity(calls);
    let began = Instant::now();
    for number in 1..=calls {
        let each = Instant::now();
        ask(&call(number, tool))?;
        times.push(each.elapsed());
    }
    let whole = began.elapsed();
    child.kill()?;
    child.wait()?;
    Ok(summary(times, whole))
}
