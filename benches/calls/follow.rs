//! Followers of a fabric's events, half by server-sent events and half by WebSocket: how long after it was written each of
//! them hears of an event.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use reqwest::Client;
use serde_json::{Value, json};
use tokio_tungstenite::{
    connect_async_with_config,
    tungstenite::{client::IntoClientRequest as _, protocol::WebSocketConfig},
};

use crate::{Outcome, at_percent};

/// How much a follower reads at once: events are small, and room for more would be filled with zeros for each of them.
const READ_AT_ONCE: usize = 4 << 10;

/// What all followers have heard.
#[derive(Default)]
struct Heard {
    open: AtomicUsize,
    events: Mutex<Vec<(DateTime<Utc>, String)>>,
}

impl Heard {
    /// Notes when an event came. It is read when all have come: followers share a core, and none is to wait for another one.
    fn note(&self, event: &str) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push((Utc::now(), event.to_owned()));
    }

    /// How long after they were written events came, the soonest first.
    fn times(&self) -> Vec<Duration> {
        let events = std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner));
        let mut times: Vec<Duration> = events.iter().filter_map(|(came, event)| age(event, *came)).collect();
        times.sort_unstable();
        times
    }
}

/// How old an event was; nothing for what is none.
fn age(event: &str, came: DateTime<Utc>) -> Option<Duration> {
    let event: Value = serde_json::from_str(event).ok()?;
    let written: DateTime<Utc> = event["timestamp"].as_str()?.parse().ok()?;
    Some((came - written).to_std().unwrap_or_default())
}

/// Opens `followers` at `url` (`http://host:port`), says `ready` on standard error, and listens for a while.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn follow(url: &str, followers: &str, channel: &str, seconds: &str) -> Outcome<Value> {
    let (followers, seconds): (usize, u64) = (followers.parse()?, seconds.parse()?);
    rustls::crypto::ring::default_provider().install_default().ok();
    let (token, heard) = (std::env::var("TOKEN")?, Arc::new(Heard::default()));
    for number in 0..followers {
        let (url, channel, token, heard) = (url.to_owned(), channel.to_owned(), token.clone(), Arc::clone(&heard));
        tokio::spawn(async move {
            let ended = if number % 2 == 0 {
                by_sse(&url, &channel, &token, &heard).await
            } else {
                by_socket(&url, &channel, &token, &heard).await
            };
            if let Err(error) = ended {
                eprintln!("a follower ended: {error}");
            }
        });
    }
    while heard.open.load(Ordering::Relaxed) < followers {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eprintln!("ready");
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let times = heard.times();
    Ok(
        json!({ "heard": times.len(), "p50_us": at_percent(&times, 50), "p99_us": at_percent(&times, 99), "max_us": at_percent(&times, 100) }),
    )
}

async fn by_sse(url: &str, channel: &str, token: &str, heard: &Heard) -> Outcome<()> {
    let request = Client::builder().tcp_nodelay(true).build()?.get(format!("{url}/api/mcp/events?channels={channel}"));
    let mut chunks = request.bearer_auth(token).send().await?.error_for_status()?.bytes_stream();
    heard.open.fetch_add(1, Ordering::Relaxed);
    let mut text = String::new();
    while let Some(chunk) = chunks.next().await {
        text.push_str(&String::from_utf8_lossy(&chunk?));
        while let Some(end) = text.find("\n\n") {
            let event: String = text.drain(..end + 2).collect();
            if let Some(data) = event.lines().find_map(|line| line.strip_prefix("data: ")) {
                heard.note(data);
            }
        }
    }
    Ok(())
}

async fn by_socket(url: &str, channel: &str, token: &str, heard: &Heard) -> Outcome<()> {
    let address = url.strip_prefix("http").ok_or("the address is not http://…")?;
    let mut request = format!("ws{address}/api/mcp/ws?channels={channel}").into_client_request()?;
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse()?);
    let config = WebSocketConfig::default().read_buffer_size(READ_AT_ONCE);
    let (mut socket, _) = connect_async_with_config(request, Some(config), true).await?;
    heard.open.fetch_add(1, Ordering::Relaxed);
    while let Some(message) = socket.next().await {
        if let Ok(text) = message?.into_text() {
            heard.note(&text);
        }
    }
    Ok(())
}
