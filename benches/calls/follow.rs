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
use tokio_tungstenite::{connect_async, tungstenite::client::IntoClientRequest as _};

use crate::{Outcome, at_percent};

/// What all followers have heard.
#[derive(Default)]
struct Heard {
    open: AtomicUsize,
    times: Mutex<Vec<Duration>>,
}

impl Heard {
    /// Notes how long ago an event was written.
    fn note(&self, event: &str) {
        let now = Utc::now();
        let Ok(event) = serde_json::from_str::<Value>(event) else { return };
        let Some(Ok(written)) = event["timestamp"].as_str().map(str::parse::<DateTime<Utc>>) else { return };
        self.times.lock().unwrap_or_else(PoisonError::into_inner).push((now - written).to_std().unwrap_or_default());
    }
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
    let mut times = std::mem::take(&mut *heard.times.lock().unwrap_or_else(PoisonError::into_inner));
    times.sort_unstable();
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
    let (mut socket, _) = connect_async(request).await?;
    heard.open.fetch_add(1, Ordering::Relaxed);
    while let Some(message) = socket.next().await {
        if let Ok(text) = message?.into_text() {
            heard.note(&text);
        }
    }
    Ok(())
}
