//! `GET /api/mcp/ws`: the events over a WebSocket (RFC 6455).

use std::{
    collections::{BTreeSet, VecDeque},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{
        State,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code, rejection::WebSocketUpgradeRejection},
    },
    response::{IntoResponse as _, Response},
};
use platform::{Class, Problem, database::DbError, http::Standing};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};

use crate::{
    follower::{Followed, Follower, Wanted},
    model::Event,
    routes::{Asked, Watcher, lost, wanted},
    service::Events,
};

/// What a message of a client may measure.
const MOST_BYTES: usize = 16 << 10;
/// A client says little: the usual buffers would be most of what a thousand of them take.
const BUFFER: usize = 1 << 10;

/// How long a closing message may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a client says.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Said {
    Subscribe { channels: BTreeSet<String>, after: Option<i64> },
    Unsubscribe { channels: BTreeSet<String> },
    Ping {},
}

/// Follow what changes, over a WebSocket.
///
/// The same events as of `/api/mcp/events`, as text messages; docs/events.md says what a client may send.
#[utoipa::path(get, path = "/api/mcp/ws", tag = "events", params(Asked), security(("token" = []), ()),
    responses((status = 101, description = "The WebSocket"), (status = 400, description = "It is no WebSocket, or there is no such channel or event id"),
    (status = 401, description = "The ticket does not count"), (status = 403, description = "A page that may not call this fabric")))]
pub(crate) async fn open(
    State(events): State<Events>,
    watcher: Watcher,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|_| {
        Problem::new(
            Class::BadRequest,
            "websocket_needed",
            "this is a WebSocket: open it with `Connection: upgrade` and `Upgrade: websocket`",
        )
    })?;
    let Watcher { standing, wanted, after } = watcher;
    let follower = events.follow(&standing.actor, wanted, after).await?;
    let upgrade = upgrade.read_buffer_size(BUFFER).write_buffer_size(0).max_message_size(MOST_BYTES).max_frame_size(MOST_BYTES);
    Ok(upgrade.on_upgrade(move |socket| Conversation { events, socket, follower, past: Past::default() }.go(standing)).into_response())
}

/// One client.
struct Conversation {
    events: Events,
    socket: WebSocket,
    follower: Follower,
    /// What is told first.
    past: Past,
}

/// What came before on channels that are new.
#[derive(Default)]
struct Past {
    /// What is still to be told, in the order in which it was asked for; no channel is in it twice.
    left: VecDeque<Stretch>,
    /// Of the first of them, what was read.
    ready: VecDeque<Event>,
}

/// What came on some channels after an event.
struct Stretch {
    channels: Vec<String>,
    from: i64,
    /// The oldest event that is kept, where older ones were wanted.
    lost: Option<i64>,
}

impl Past {
    /// The next of it; the live ones once there is no more. What is dropped while it waits has lost nothing.
    async fn or_next(&mut self, follower: &mut Follower) -> Option<Result<Followed, DbError>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                if follower.hears(&event) {
                    return Some(Ok(Followed::Event(Arc::new(event))));
                }
                continue;
            }
            let Some(first) = self.left.front_mut() else { return follower.next().await };
            if let Some(oldest) = first.lost.take() {
                return Some(Ok(Followed::Gap { oldest }));
            }
            match follower.past(&mut first.from, &first.channels).await {
                Ok(past) if past.is_empty() => drop(self.left.pop_front()),
                Ok(past) => self.ready = past.into(),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Nothing of these channels is wanted any more.
    fn forget(&mut self, channels: &[String]) {
        self.ready.retain(|event| !channels.contains(&event.channel));
        self.left.iter_mut().for_each(|stretch| stretch.channels.retain(|channel| !channels.contains(channel)));
    }
}

/// Why it ends.
enum End {
    /// The client left, or cannot be reached.
    Gone,
    /// With a code of RFC 6455, section 7.4, and a sentence.
    Close(u16, &'static str),
}

impl From<axum::Error> for End {
    fn from(error: axum::Error) -> Self {
        tracing::debug!(%error, "a follower is gone");
        Self::Gone
    }
}

impl From<DbError> for End {
    fn from(error: DbError) -> Self {
        tracing::warn!(%error, "a follower cannot be told of events");
        Self::Close(close_code::ERROR, "the events cannot be read now; come back with the last id")
    }
}

impl Conversation {
    async fn go(mut self, standing: Standing) {
        let _counted = self.events.count("websocket");
        if let Err(End::Close(code, reason)) = self.talk(standing).await {
            let close = self.socket.send(Message::Close(Some(CloseFrame { code, reason: reason.into() })));
            // Whoever does not read is not waited for.
            tokio::time::timeout(FAREWELL, close).await.ok();
        }
    }

    async fn talk(&mut self, standing: Standing) -> Result<std::convert::Infallible, End> {
        let heartbeat = self.events.heartbeat();
        let mut beat = tokio::time::interval_at(Instant::now() + heartbeat, heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard_at = Instant::now();
        let mut ended = pin!(standing.ended());
        self.say(json!({
            "type": "CONNECTED", "channels": channels(self.follower.wanted()), "lastEventId": self.follower.position(),
            "heartbeatSeconds": heartbeat.as_secs_f64(),
        }))
        .await?;
        loop {
            tokio::select! {
                followed = self.past.or_next(&mut self.follower) => {
                    let text = match followed {
                        Some(Ok(Followed::Event(event))) => event.text().clone(),
                        Some(Ok(Followed::Gap { oldest })) => lost(oldest).into(),
                        Some(Err(error)) => return Err(error.into()),
                        None => return Err(End::Close(close_code::AWAY, "the fabric stops; come back with the last id")),
                    };
                    let began = Instant::now();
                    tokio::select! {
                        sent = self.socket.send(Message::Text(text)) => sent?,
                        () = &mut ended => return Err(End::Close(close_code::POLICY, "the token has ended")),
                    }
                    // Whoever had to be waited for has read.
                    if began.elapsed() > heartbeat {
                        heard_at = Instant::now();
                    }
                }
                message = self.socket.recv() => {
                    heard_at = Instant::now();
                    self.hear(message.ok_or(End::Gone)??).await?;
                }
                _ = beat.tick() => {
                    if heard_at.elapsed() > heartbeat * 2 {
                        return Err(End::Close(close_code::POLICY, "no sign of life; come back with the last id"));
                    }
                    self.socket.send(Message::Ping(axum::body::Bytes::new())).await?;
                }
                () = &mut ended => return Err(End::Close(close_code::POLICY, "the token has ended")),
            }
        }
    }

    async fn hear(&mut self, message: Message) -> Result<(), End> {
        match message {
            Message::Text(text) => match serde_json::from_str(&text) {
                Ok(Said::Subscribe { channels, after }) => self.subscribe(channels, after).await,
                Ok(Said::Unsubscribe { channels }) => self.unsubscribe(channels).await,
                Ok(Said::Ping {}) => self.say(json!({ "type": "PONG" })).await,
                Err(_) => self.complain("invalid_message", "is not `subscribe`, `unsubscribe` or `ping` as docs/events.md has them").await,
            },
            Message::Binary(_) => self.complain("invalid_message", "is not text").await,
            Message::Close(_) => Err(End::Gone),
            Message::Ping(_) | Message::Pong(_) => Ok(()),
        }
    }

    async fn subscribe(&mut self, named: BTreeSet<String>, after: Option<i64>) -> Result<(), End> {
        let asked = match wanted(&self.events, named) {
            Ok(asked) => asked,
            Err(unknown) => return self.complain("unknown_channel", &unknown).await,
        };
        let before = self.follower.wanted().clone();
        let new: Vec<String> =
            self.events.channels().into_iter().filter(|name| asked.has(name) && !before.has(name)).map(str::to_owned).collect();
        self.follower.set_wanted(match (before, asked) {
            (Wanted::Only(mut before), Wanted::Only(asked)) => {
                before.extend(asked);
                Wanted::Only(before)
            }
            (_, asked) => asked,
        });
        let now = self.follower.wanted();
        let gone: Vec<String> = self.events.channels().into_iter().filter(|name| !now.has(name)).map(str::to_owned).collect();
        self.past.forget(&gone);
        self.confirm().await?;
        let Some(from) = after.filter(|_| !new.is_empty()) else { return Ok(()) };
        let lost = self.events.lost_after(from).await?;
        self.past.left.push_back(Stretch { channels: new, from, lost });
        Ok(())
    }

    async fn unsubscribe(&mut self, named: BTreeSet<String>) -> Result<(), End> {
        let asked = match wanted(&self.events, named) {
            Ok(asked) => asked,
            Err(unknown) => return self.complain("unknown_channel", &unknown).await,
        };
        let before = self.follower.wanted().clone();
        let (gone, left): (Vec<&str>, Vec<&str>) =
            self.events.channels().into_iter().filter(|name| before.has(name)).partition(|name| asked.has(name));
        self.past.forget(&gone.into_iter().map(str::to_owned).collect::<Vec<_>>());
        self.follower.set_wanted(Wanted::Only(left.into_iter().map(str::to_owned).collect()));
        self.confirm().await
    }

    async fn confirm(&mut self) -> Result<(), End> {
        let said = json!({ "type": "SUBSCRIBED", "channels": channels(self.follower.wanted()), "lastEventId": self.follower.position() });
        self.say(said).await
    }

    async fn complain(&mut self, code: &str, detail: &str) -> Result<(), End> {
        self.say(json!({ "type": "ERROR", "code": code, "detail": detail })).await
    }

    async fn say(&mut self, message: Value) -> Result<(), End> {
        Ok(self.socket.send(Message::Text(message.to_string().into())).await?)
    }
}

/// The names; null for all.
fn channels(wanted: &Wanted) -> Value {
    match wanted {
        Wanted::All => Value::Null,
        Wanted::Only(channels) => json!(channels),
    }
}
