//! Sessions of clients that speak with a handshake (revisions up to 2025-11-25).

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use configurations::Configuration;
use platform::{Shutdown, clock, random};
use runtime::{Asked, Party};
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    meta::{Manner, without_subscription},
    place::Place,
    revision::Revision,
    rpc::{Fault, Id, Members, Raw, notification, raw, request},
    stream::{Position, Stream},
};

/// How many questions of servers a client may leave unanswered.
const MOST_ASKED: usize = 64;
/// How many requests of one session are worked on at once.
const MOST_RUNNING: usize = 128;
/// How many streams whose answers have come are kept for one who comes back, how much of them, and for how long.
const MOST_DONE: usize = 16;
const MOST_DONE_BYTES: usize = 8 << 20;
const DONE_KEPT: Duration = Duration::from_mins(2);
/// How long a person may think about what a server asks.
pub(crate) const THINKING: Duration = Duration::from_mins(10);
/// The stream that belongs to no request.
const GENERAL: u64 = 0;

/// One session.
pub(crate) struct Client {
    /// 256 random bits.
    pub(crate) id: String,
    pub(crate) party: Party,
    /// Who began it, and nobody else goes on with it.
    owner: String,
    pub(crate) place: Place,
    pub(crate) revision: Revision,
    capabilities: Raw,
    info: Option<Raw>,
    general: Arc<Stream>,
    streams: Mutex<Streams>,
    running: Mutex<HashMap<Id, CancellationToken>>,
    asked: Mutex<HashMap<u64, (Pending, Instant)>>,
    next_ask: AtomicU64,
    log_level: Mutex<Option<String>>,
    /// Milliseconds since the epoch.
    used: AtomicI64,
    /// Instances that are for this session alone.
    own: Mutex<Vec<(Arc<Configuration>, String)>>,
}

#[derive(Default)]
struct Streams {
    all: HashMap<u64, Arc<Stream>>,
    done: std::collections::VecDeque<(u64, Instant)>,
    last: u64,
}

impl Streams {
    fn prune(&mut self) {
        let bytes = |all: &HashMap<u64, Arc<Stream>>, done: &std::collections::VecDeque<(u64, Instant)>| -> usize {
            done.iter().filter_map(|(number, _)| all.get(number)).map(|stream| stream.bytes()).sum()
        };
        while let Some((oldest, since)) = self.done.front().copied()
            && (self.done.len() > MOST_DONE || since.elapsed() > DONE_KEPT || bytes(&self.all, &self.done) > MOST_DONE_BYTES)
        {
            self.done.pop_front();
            self.all.remove(&oldest);
        }
    }
}

/// Who waits for what a client answers.
enum Pending {
    /// A server.
    Server(Asked),
    /// The gateway, for a server that does not ask by requests.
    Ours(oneshot::Sender<Result<Raw, Raw>>),
}

/// An answer that the gateway waits for; one that is not waited for any more is nobody's.
pub(crate) struct Awaited {
    client: Arc<Client>,
    number: u64,
    told: oneshot::Receiver<Result<Raw, Raw>>,
}

impl Awaited {
    /// What the client answers, if it does.
    pub(crate) async fn answer(mut self) -> Option<Result<Raw, Raw>> {
        tokio::time::timeout(THINKING, &mut self.told).await.ok().and_then(Result::ok)
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        held(&self.client.asked).remove(&self.number);
    }
}

/// What a client says of itself in `initialize`.
pub(crate) struct Introduction {
    pub(crate) revision: Revision,
    pub(crate) capabilities: Raw,
    pub(crate) info: Option<Raw>,
}

/// The capability that a request of a server needs.
pub(crate) fn capability_of(method: &str) -> Option<&'static str> {
    match method {
        "sampling/createMessage" => Some("sampling"),
        "elicitation/create" => Some("elicitation"),
        "roots/list" => Some("roots"),
        _ => None,
    }
}

/// Whether capabilities have what a request of a server needs.
pub(crate) fn is_able(capabilities: &RawValue, method: &str) -> bool {
    let all = Members::of(capabilities).unwrap_or_default();
    capability_of(method).is_some_and(|needed| all.get(needed).is_some_and(|there| there.get() != "null"))
}

/// Levels of `notifications/message`, from the least (RFC 5424).
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

pub(crate) fn is_level(level: &str) -> bool {
    LEVELS.contains(&level)
}

/// Whether a message is to be told to one who wants a level.
fn is_loud_enough(params: Option<&RawValue>, wanted: &str) -> bool {
    let rank = |level: &str| LEVELS.iter().position(|known| *known == level);
    let level = params.and_then(Members::of).and_then(|params| params.text("level"));
    level.as_deref().and_then(rank).zip(rank(wanted)).is_none_or(|(level, wanted)| level >= wanted)
}

fn held<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    pub(crate) fn new(owner: String, place: Place, party: Party, introduction: Introduction) -> Self {
        Self {
            id: random::token(),
            party,
            owner,
            place,
            revision: introduction.revision,
            capabilities: introduction.capabilities,
            info: introduction.info,
            general: Arc::new(Stream::new(GENERAL)),
            streams: Mutex::default(),
            running: Mutex::default(),
            asked: Mutex::default(),
            next_ask: AtomicU64::new(1),
            log_level: Mutex::default(),
            used: AtomicI64::new(clock::now().timestamp_millis()),
            own: Mutex::default(),
        }
    }

    /// Whether it is this actor's, at this place.
    pub(crate) fn is_of(&self, owner: &str, place: &Place) -> bool {
        self.owner == owner && self.place == *place
    }

    pub(crate) fn owner(&self) -> &str {
        &self.owner
    }

    pub(crate) fn touch(&self) {
        self.used.store(clock::now().timestamp_millis(), Ordering::Relaxed);
    }

    pub(crate) fn idle_for(&self) -> Duration {
        let millis = clock::now().timestamp_millis() - self.used.load(Ordering::Relaxed);
        if held(&self.running).is_empty() { Duration::from_millis(u64::try_from(millis).unwrap_or(0)) } else { Duration::ZERO }
    }

    pub(crate) fn is_able(&self, method: &str) -> bool {
        is_able(&self.capabilities, method)
    }

    /// As a modern server is to hear of it with each request.
    pub(crate) fn manner(&self) -> Manner {
        Manner { capabilities: self.capabilities.clone(), info: self.info.clone(), log_level: held(&self.log_level).clone() }
    }

    pub(crate) fn set_log_level(&self, level: String) {
        *held(&self.log_level) = Some(level);
    }

    /// Whether it wants to hear of something that a server logged.
    pub(crate) fn wants(&self, method: &str, params: Option<&RawValue>) -> bool {
        method != "notifications/message" || held(&self.log_level).as_deref().is_none_or(|wanted| is_loud_enough(params, wanted))
    }

    /// Something that is no matter of a request.
    pub(crate) fn hear(&self, method: &str, params: Option<&RawValue>) {
        if self.wants(method, params) {
            let params = params.map_or(Cow::Borrowed("{}"), without_subscription);
            self.general.push(&notification(method, &params), true);
        }
    }

    /// A request of a server as the client is to have it. The client's answer goes to the server, whichever call it was
    /// for: over pipes, a server does not say that.
    /// With it comes what the client is told once the server has taken it back, if it does.
    pub(crate) fn ask(self: &Arc<Self>, mut asked: Asked) -> Option<(String, impl Future<Output = Option<String>> + Send + use<>)> {
        let (method, params) = (asked.method.clone(), asked.params.clone());
        if !self.is_able(&method) {
            asked.refuse(crate::rpc::METHOD_NOT_FOUND, "the client that is connected does not offer this");
            return None;
        }
        let taken_back = asked.taken_back();
        let number = self.expect(Pending::Server(asked))?;
        let client = Arc::downgrade(self);
        let taken_back = async move {
            if !taken_back.await {
                return None;
            }
            held(&client.upgrade()?.asked).remove(&number)?;
            let params = format!("{{\"requestId\":{number},\"reason\":\"the server does not need it any more\"}}");
            Some(notification("notifications/cancelled", &params))
        };
        Some((request(number, &method, params.as_deref()), taken_back))
    }

    /// A question of the gateway's own.
    pub(crate) fn ask_for(self: &Arc<Self>, method: &str, params: Option<&RawValue>) -> Option<(String, Awaited)> {
        let (tell, told) = oneshot::channel();
        let number = self.expect(Pending::Ours(tell))?;
        Some((request(number, method, params), Awaited { client: Arc::clone(self), number, told }))
    }

    /// Whether it has yet to answer something.
    pub(crate) fn is_asked(&self) -> bool {
        held(&self.asked).values().any(|(_, since)| since.elapsed() < THINKING)
    }

    /// What cannot be told in the answer to a request.
    pub(crate) fn say(&self, message: &str) {
        self.general.push(message, false);
    }

    fn expect(&self, pending: Pending) -> Option<u64> {
        let mut asked = held(&self.asked);
        asked.retain(|_, (_, since)| since.elapsed() < THINKING);
        if asked.len() >= MOST_ASKED {
            return None;
        }
        let number = self.next_ask.fetch_add(1, Ordering::Relaxed);
        asked.insert(number, (pending, Instant::now()));
        Some(number)
    }

    /// Something that a server asks while it does nothing for anybody.
    pub(crate) fn ask_outside(self: &Arc<Self>, asked: Asked, shutdown: &Shutdown) {
        let Some((message, taken_back)) = self.ask(asked) else { return };
        self.say(&message);
        let client = Arc::clone(self);
        shutdown.spawn(async move {
            if let Some(message) = taken_back.await {
                client.say(&message);
            }
        });
    }

    /// What the client answers to a question; one that nobody asked is passed over.
    pub(crate) fn answered(&self, id: &Id, answer: Result<Raw, Raw>) {
        let number = id.to_string().trim_matches('"').parse().ok();
        let pending = number.and_then(|number: u64| held(&self.asked).remove(&number));
        match pending {
            Some((Pending::Server(asked), _)) => asked.answer(answer.as_deref().map_err(|error| &**error)),
            Some((Pending::Ours(tell), _)) => drop(tell.send(answer)),
            None => {}
        }
    }

    /// A request of the client that is worked on.
    pub(crate) fn begin(self: &Arc<Self>, id: &Id) -> Result<Running, Fault> {
        let token = CancellationToken::new();
        let mut running = held(&self.running);
        if running.contains_key(id) {
            return Err(Fault::invalid("another request of this `id` is worked on"));
        }
        if running.len() >= MOST_RUNNING {
            return Err(Fault::too_many());
        }
        running.insert(id.clone(), token.clone());
        Ok(Running { client: Arc::clone(self), id: id.clone(), cancelled: token })
    }

    pub(crate) fn cancel(&self, id: &Id) {
        if let Some(running) = held(&self.running).get(id) {
            running.cancel();
        }
    }

    /// A stream for what belongs to one request.
    pub(crate) fn open_stream(&self) -> (u64, Arc<Stream>) {
        let mut streams = held(&self.streams);
        streams.last += 1;
        let number = streams.last;
        let stream = Arc::new(Stream::new(number));
        streams.all.insert(number, Arc::clone(&stream));
        (number, stream)
    }

    /// Its answer has come; it is kept for a while.
    pub(crate) fn close_stream(&self, number: u64) {
        let mut streams = held(&self.streams);
        if let Some(stream) = streams.all.get(&number) {
            stream.finish();
            streams.done.push_back((number, Instant::now()));
        }
        streams.prune();
    }

    /// Forgets what nobody came back for.
    pub(crate) fn prune(&self) {
        held(&self.streams).prune();
        held(&self.asked).retain(|_, (_, since)| since.elapsed() < THINKING);
    }

    /// The stream that somebody reads on, and from which event; without a position, the general one.
    pub(crate) fn stream_at(&self, position: Option<Position>) -> Option<(Arc<Stream>, Option<u64>)> {
        match position {
            None => Some((Arc::clone(&self.general), None)),
            Some(Position { stream: GENERAL, event }) => Some((Arc::clone(&self.general), Some(event))),
            Some(Position { stream, event }) => held(&self.streams).all.get(&stream).map(|stream| (Arc::clone(stream), Some(event))),
        }
    }

    /// Notes an instance that is for this session alone.
    pub(crate) fn owns(&self, configuration: &Arc<Configuration>, session: &str) {
        let mut own = held(&self.own);
        if !own.iter().any(|(known, name)| known.id == configuration.id && name == session) {
            own.push((Arc::clone(configuration), session.to_owned()));
        }
    }

    /// It is over: whoever waits for something of it waits no longer.
    pub(crate) fn end(&self) -> Vec<(Arc<Configuration>, String)> {
        self.general.finish();
        held(&self.asked).clear();
        held(&self.running).values().for_each(CancellationToken::cancel);
        held(&self.streams).all.values().for_each(|stream| stream.finish());
        std::mem::take(&mut held(&self.own))
    }
}

/// A request of a client, for as long as it is worked on.
pub(crate) struct Running {
    client: Arc<Client>,
    id: Id,
    pub(crate) cancelled: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        held(&self.client.running).remove(&self.id);
    }
}

/// What is not said is nothing.
pub(crate) fn no_capabilities() -> Raw {
    raw("{}".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_told_from_the_level_that_is_wanted() {
        let of = |level: &str| raw(format!("{{\"level\":\"{level}\"}}"));
        assert!(is_loud_enough(Some(&of("error")), "warning") && is_loud_enough(Some(&of("warning")), "warning"));
        assert!(!is_loud_enough(Some(&of("info")), "warning"));
        assert!(is_loud_enough(Some(&of("strange")), "warning") && is_loud_enough(None, "warning"));
    }

    #[test]
    fn who_offers_nothing_is_asked_nothing() {
        let able = raw(r#"{"sampling":{},"elicitation":null}"#.into());
        assert!(is_able(&able, "sampling/createMessage") && !is_able(&able, "elicitation/create") && !is_able(&able, "roots/list"));
        assert!(!is_able(&able, "anything/else"));
    }
}
