//! A server as the gateway speaks with it: what it offers, who hears what it says unasked, whether it answers at all.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering},
    },
    time::Duration,
};

use configurations::{Configuration, Sharing};
use platform::{Shutdown, clock};
use runtime::{Asked, Era, Failure, Heard, Next, Reached, Session, Ticket};
use serde_json::{json, value::RawValue};
use tokio::sync::{Notify, mpsc, watch};

use crate::{
    hearer::Hearer,
    lists::{self, Kind, List, Lists},
    meta::{self, Manner},
    names,
    rpc::{Fault, INVALID_PARAMS, Members, UNAVAILABLE, raw},
};

/// So many calls in a row without an answer close the way to a server for a while.
const MOST_SILENCES: u32 = 3;
const CLOSED_MILLIS: i64 = 10_000;
/// After how long a server is asked again to say what changes, whose stream for that broke off.
const AGAIN: Duration = Duration::from_secs(1);
/// How long something may take that a server is only told.
const TOLD: Duration = Duration::from_secs(5);
const LONGEST_URI: usize = 4096;
pub(crate) const MOST_SUBSCRIPTIONS: usize = 1000;
/// For how long a list that did not come in time is not waited for again.
const SLOW_MILLIS: i64 = 30_000;

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(error) => Self::Theirs(error),
            Failure::Closed => Self::of(UNAVAILABLE, "the server ended before it answered; it is started again, if it is wanted"),
        }
    }
}

/// One life of one instance.
pub(crate) struct Backend {
    pub(crate) configuration: Arc<Configuration>,
    /// What its things are called by where others are.
    pub(crate) prefix: String,
    pub(crate) reached: Reached,
    lists: Lists,
    /// One list is asked for at a time.
    fetching: [tokio::sync::Mutex<()>; 4],
    slow_until: [AtomicI64; 4],
    hearers: Mutex<HashMap<u64, Hearer>>,
    /// By resource: who wants to hear of its changes.
    subscribed: Mutex<HashMap<String, HashSet<u64>>>,
    /// Told when that changes.
    resubscribe: Arc<Notify>,
    /// Of a modern server: the resources of which it has said that it tells their changes.
    acknowledged: watch::Sender<HashSet<String>>,
    silences: AtomicU32,
    closed_until: AtomicI64,
    /// It says that it speaks in the other era, too, and does not.
    lacks_other_era: AtomicBool,
    /// Whether several users use it.
    is_shared: AtomicBool,
    /// From which level on it logs, as somebody has asked.
    level: Mutex<Option<String>>,
    shutdown: Shutdown,
}

/// What came of asking for a list.
pub(crate) enum Listing {
    /// As it is, or as it was lately.
    Known(Arc<List>),
    /// It cannot be had now: why.
    Missing(String),
}

/// What the fabric itself is, as a client of modern servers.
pub(crate) fn own_manner() -> Manner {
    let info = json!({ "name": "mcp-fabric", "version": env!("CARGO_PKG_VERSION") });
    Manner { capabilities: raw("{}".into()), info: Some(raw(info.to_string())), log_level: None }
}

impl Backend {
    /// Begins to hear what the server says unasked. Who heard an earlier life goes on with this one.
    pub(crate) fn begin(configuration: Arc<Configuration>, reached: Reached, before: Option<&Self>, shutdown: &Shutdown) -> Arc<Self> {
        let (hearers, subscribed) = before.map(|before| (before.hearers().clone(), before.subscribed().clone())).unwrap_or_default();
        let backend = Arc::new(Self {
            prefix: names::server(&configuration.server_id),
            lists: Lists::default(),
            fetching: Default::default(),
            slow_until: Default::default(),
            hearers: Mutex::new(hearers),
            subscribed: Mutex::new(subscribed),
            resubscribe: Arc::default(),
            acknowledged: watch::Sender::default(),
            silences: AtomicU32::new(0),
            closed_until: AtomicI64::new(0),
            lacks_other_era: AtomicBool::new(false),
            is_shared: AtomicBool::new(configuration.sharing == Sharing::Shared),
            level: Mutex::default(),
            shutdown: shutdown.clone(),
            reached,
            configuration,
        });
        if let Some(outside) = backend.reached.outside() {
            let (resubscribe, is_again) = (Arc::clone(&backend.resubscribe), before.is_some());
            shutdown.spawn(pump(Arc::downgrade(&backend), outside, backend.reached.sessions(), resubscribe, is_again, shutdown.clone()));
        }
        backend
    }

    fn hearers(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Hearer>> {
        self.hearers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn subscribed(&self) -> std::sync::MutexGuard<'_, HashMap<String, HashSet<u64>>> {
        self.subscribed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, somebody hears what the server says unasked.
    pub(crate) fn attach(&self, party: u64, hearer: impl FnOnce() -> Hearer) {
        self.hearers().entry(party).or_insert_with(hearer);
    }

    pub(crate) fn detach(&self, party: u64) {
        self.hearers().remove(&party);
        let mut left = Vec::new();
        self.subscribed().retain(|uri, parties| {
            parties.remove(&party);
            if parties.is_empty() {
                left.push(uri.clone());
            }
            !parties.is_empty()
        });
        if left.is_empty() {
            return;
        }
        self.resubscribe.notify_one();
        // A server with a handshake is told, which nobody waits for.
        let session = self.reached.sessions().borrow().clone().filter(|session| session.era == Era::Legacy);
        if let Some(session) = session {
            self.shutdown.spawn(async move {
                for uri in left {
                    tell(&session, "resources/unsubscribe", &json!({ "uri": uri }).to_string()).await;
                }
            });
        }
    }

    /// Whom it is for may have changed: then nobody hears it who has not come since.
    pub(crate) fn note_sharing(&self, sharing: Sharing) {
        let is_shared = sharing == Sharing::Shared;
        if self.is_shared.swap(is_shared, Ordering::Relaxed) != is_shared {
            self.hearers().clear();
            self.subscribed().clear();
        }
    }

    /// Whether everybody may use it now.
    pub(crate) fn is_shared(&self) -> bool {
        self.is_shared.load(Ordering::Relaxed)
    }

    /// Whether it can be started in the era of a session, too.
    pub(crate) fn has_other_era(&self, session: &Session) -> bool {
        let is_dual = session.greeting.as_ref().is_some_and(runtime::Greeting::is_dual);
        session.era == Era::Modern && is_dual && !self.lacks_other_era.load(Ordering::Relaxed)
    }

    pub(crate) fn note_no_other_era(&self) {
        self.lacks_other_era.store(true, Ordering::Relaxed);
    }

    /// Whether anybody hears it.
    pub(crate) fn is_heard(&self) -> bool {
        self.hearers().values().any(Hearer::is_there)
    }

    pub(crate) fn is_heard_by(&self, party: u64) -> bool {
        self.hearers().contains_key(&party)
    }

    /// Notes that somebody wants to hear of a resource; fails for what nobody could keep.
    pub(crate) fn subscribe(&self, uri: &str, party: u64) -> Result<(), Fault> {
        let mut subscribed = self.subscribed();
        let of_one = subscribed.values().filter(|parties| parties.contains(&party)).count();
        if uri.len() > LONGEST_URI || of_one >= MOST_SUBSCRIPTIONS {
            let text = format!("addresses have up to {LONGEST_URI} bytes, and one client up to {MOST_SUBSCRIPTIONS} subscriptions");
            return Err(Fault::of(INVALID_PARAMS, text));
        }
        let is_new = !subscribed.contains_key(uri);
        subscribed.entry(uri.to_owned()).or_default().insert(party);
        if is_new {
            self.resubscribe.notify_one();
        }
        Ok(())
    }

    /// Returns once a modern server tells of a resource, or does not say so for too long.
    pub(crate) async fn tells_of(&self, uri: &str) {
        let mut acknowledged = self.acknowledged.subscribe();
        let told = acknowledged.wait_for(|all| all.contains(uri));
        if tokio::time::timeout(TOLD, told).await.is_err() {
            tracing::debug!(server = self.configuration.server_id, "a server does not say that it tells of a resource");
        }
    }

    /// What somebody waits to hear of keeps a server that ends when it is idle.
    pub(crate) fn keep_alive(&self) {
        if !self.subscribed().is_empty() {
            self.reached.touch();
        }
    }

    /// Notes from which level on a server with a handshake logs.
    pub(crate) fn note_level(&self, level: &str) {
        *self.level.lock().unwrap_or_else(PoisonError::into_inner) = Some(level.to_owned());
    }

    /// Whether nobody else wants to hear of it any more.
    pub(crate) fn unsubscribe(&self, uri: &str, party: u64) -> bool {
        let mut subscribed = self.subscribed();
        let Some(parties) = subscribed.get_mut(uri) else { return true };
        parties.remove(&party);
        let is_last = parties.is_empty();
        if is_last {
            subscribed.remove(uri);
            self.resubscribe.notify_one();
        }
        is_last
    }

    /// Fails while the server is known not to answer.
    pub(crate) fn require_open(&self) -> Result<(), Fault> {
        let left = self.closed_until.load(Ordering::Relaxed) - clock::now().timestamp_millis();
        if left <= 0 {
            return Ok(());
        }
        let text = format!("the server did not answer {MOST_SILENCES} times in a row; it is tried again in {} s", left / 1000 + 1);
        Err(Fault::of(UNAVAILABLE, text))
    }

    /// It answered, or it did not.
    pub(crate) fn note_answer(&self, came: bool) {
        if came {
            self.silences.store(0, Ordering::Relaxed);
        } else if self.silences.fetch_add(1, Ordering::Relaxed) + 1 >= MOST_SILENCES {
            self.closed_until.store(clock::now().timestamp_millis() + CLOSED_MILLIS, Ordering::Relaxed);
        }
    }

    /// All of one kind; what does not come in time comes later, and those who hear of the server hear of it.
    pub(crate) async fn list(self: &Arc<Self>, kind: Kind, session: &Arc<Session>, within: Duration) -> Listing {
        if let Some(list) = self.lists.fresh(kind, session) {
            return Listing::Known(list);
        }
        let known = self.lists.known(kind);
        let or_known = |why: String| known.map_or(Listing::Missing(why), Listing::Known);
        let late = || format!("it did not list its {} within {} s", kind.member(), within.as_secs_f32());
        if self.slow_until[kind as usize].load(Ordering::Relaxed) > clock::now().timestamp_millis() {
            return or_known(late());
        }
        let (tell, told) = tokio::sync::oneshot::channel();
        let (backend, session) = (Arc::clone(self), Arc::clone(session));
        self.shutdown.spawn(async move {
            let fetched = backend.fetch(kind, &session).await;
            if let Err(fetched) = tell.send(fetched) {
                // Nobody waited for it any more.
                backend.slow_until[kind as usize].store(0, Ordering::Relaxed);
                if fetched.is_ok() {
                    backend.tell_changed(kind);
                }
            }
        });
        match tokio::time::timeout(within, told).await {
            Ok(Ok(Ok(list))) => Listing::Known(list),
            Ok(Ok(Err(fault))) => or_known(format!("it does not list its {}: {}", kind.member(), fault.error())),
            Ok(Err(_)) => or_known("the fabric stops".into()),
            Err(_) => {
                self.slow_until[kind as usize].store(clock::now().timestamp_millis() + SLOW_MILLIS, Ordering::Relaxed);
                or_known(late())
            }
        }
    }

    async fn fetch(&self, kind: Kind, session: &Arc<Session>) -> Result<Arc<List>, Fault> {
        let _one = self.fetching[kind as usize].lock().await;
        if let Some(list) = self.lists.fresh(kind, session) {
            return Ok(list);
        }
        let changes = self.lists.changes(kind);
        let list = Arc::new(lists::fetch(session, kind, &self.prefix, &own_manner()).await?);
        self.lists.keep(kind, &list, changes);
        Ok(list)
    }

    /// What is remembered of one kind.
    pub(crate) fn known(&self, kind: Kind) -> Option<Arc<List>> {
        self.lists.known(kind)
    }

    fn tell_changed(&self, kind: Kind) {
        let list = if kind == Kind::Templates { Kind::Resources.member() } else { kind.member() };
        self.tell_all(&format!("notifications/{list}/list_changed"), None);
    }

    fn tell_all(&self, method: &str, params: Option<&RawValue>) {
        self.hearers().retain(|_, hearer| hearer.hear(method, params));
    }

    /// What the server said unasked.
    fn deliver(&self, heard: Heard) {
        match heard {
            Heard::Progress(_) => {}
            Heard::Notification(method, params) => {
                for kind in Kind::of_notification(&method) {
                    self.lists.outdate(*kind);
                }
                match method.as_str() {
                    // Of the gateway's own subscription.
                    "notifications/subscriptions/acknowledged" => {}
                    "notifications/resources/updated" => self.tell_updated(params.as_deref()),
                    // Whose it is cannot be told, and others are not to read it.
                    "notifications/message" if self.is_shared() => {}
                    _ => self.tell_all(&method, params.as_deref()),
                }
            }
            Heard::Asked(asked) => self.ask(asked),
        }
    }

    fn tell_updated(&self, params: Option<&RawValue>) {
        let uri = params.and_then(Members::of).and_then(|params| params.text("uri")).unwrap_or_default();
        let parties = self.subscribed().get(&uri).cloned().unwrap_or_default();
        let hearers = self.hearers();
        for hearer in parties.iter().filter_map(|party| hearers.get(party)) {
            hearer.hear("notifications/resources/updated", params);
        }
    }

    /// To the only one who can be asked; where there is none, or several, it is refused.
    fn ask(&self, asked: Asked) {
        let hearers = self.hearers();
        let mut able = hearers.values().filter_map(Hearer::session).filter(|client| client.is_able(&asked.method));
        if let (Some(client), None) = (able.next(), able.next()) {
            client.ask_outside(asked, &self.shutdown);
        }
    }

    /// Says again to a server that was started anew what its clients had said before.
    async fn greet_again(&self, session: &Session) {
        for kind in Kind::ALL {
            self.lists.outdate(kind);
        }
        self.note_answer(true);
        self.closed_until.store(0, Ordering::Relaxed);
        if session.era == Era::Legacy {
            let uris: Vec<String> = self.subscribed().keys().cloned().collect();
            for uri in uris {
                tell(session, "resources/subscribe", &json!({ "uri": uri }).to_string()).await;
            }
            let level = self.level.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(level) = level {
                tell(session, "logging/setLevel", &json!({ "level": level }).to_string()).await;
            }
        }
        for kind in [Kind::Tools, Kind::Prompts, Kind::Resources] {
            self.tell_changed(kind);
        }
    }

    /// Asks a modern server to say what changes.
    async fn listen(&self, session: &Session) -> Option<Listen> {
        if session.era != Era::Modern {
            return None;
        }
        let uris: HashSet<String> = self.subscribed().keys().cloned().collect();
        // What an earlier wish was granted says nothing of this one.
        self.acknowledged.send_replace(HashSet::new());
        let mut wanted = json!({ "toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true });
        if !uris.is_empty() {
            wanted["resourceSubscriptions"] = json!(uris);
        }
        let mut ticket = session.ticket(None);
        let params = raw(json!({ "notifications": wanted }).to_string());
        let (params, _) = meta::to_server(Some(&params), None, (session.era, ticket.id()), Some(&own_manner()), None);
        ticket.send("subscriptions/listen", &params).await.ok()?;
        Some(Listen { ticket, uris })
    }
}

/// A request for what changes, and for which resources it is.
struct Listen {
    ticket: Ticket,
    uris: HashSet<String>,
}

/// Tells a server something that it confirms, and that nobody waits for.
async fn tell(session: &Session, method: &str, params: &str) {
    let mut ticket = session.ticket(None);
    let asked = async {
        ticket.send(method, params).await?;
        ticket.answer().await
    };
    if !matches!(tokio::time::timeout(TOLD, asked).await, Ok(Ok(_))) {
        tracing::debug!(method, "a server could not be told something");
    }
}

/// Carries what a server says unasked to those who hear it, for as long as its instance lives.
async fn pump(
    backend: Weak<Backend>,
    mut outside: mpsc::Receiver<Heard>,
    mut sessions: watch::Receiver<Option<Arc<Session>>>,
    resubscribe: Arc<Notify>,
    is_again: bool,
    shutdown: Shutdown,
) {
    let mut session = sessions.borrow_and_update().clone();
    let mut listening = match (&session, backend.upgrade()) {
        (Some(session), Some(backend)) => {
            if is_again {
                backend.greet_again(session).await;
            }
            backend.listen(session).await
        }
        _ => None,
    };
    let mut is_again_due = false;
    loop {
        let listened = async {
            match &mut listening {
                Some(listen) => listen.ticket.next().await,
                None => std::future::pending().await,
            }
        };
        let mut is_to_listen = false;
        let due = async { if is_again_due { tokio::time::sleep(AGAIN).await } else { std::future::pending().await } };
        tokio::select! {
            () = shutdown.begun() => return,
            heard = outside.recv() => match (heard, backend.upgrade()) {
                (Some(heard), Some(backend)) => backend.deliver(heard),
                _ => return,
            },
            next = listened => match (next, backend.upgrade()) {
                (Next::Heard(heard), Some(backend)) => {
                    let is_acknowledged = matches!(&heard, Heard::Notification(method, _) if method.ends_with("/acknowledged"));
                    if let Some(listen) = listening.as_ref().filter(|_| is_acknowledged) {
                        backend.acknowledged.send_replace(listen.uris.clone());
                    }
                    backend.deliver(heard);
                }
                (Next::Answer(answer), _) => {
                    listening = None;
                    // One that does not know this will not know it later.
                    is_again_due = !matches!(answer, Err(Failure::Refused(_)));
                }
                (_, None) => return,
            },
            () = due => is_to_listen = true,
            () = resubscribe.notified() => is_to_listen = listening.is_some(),
            changed = sessions.changed() => {
                if changed.is_err() {
                    return;
                }
                session.clone_from(&sessions.borrow_and_update());
                listening = None;
                is_to_listen = session.is_some();
                if let (Some(session), Some(backend)) = (&session, backend.upgrade()) {
                    backend.greet_again(session).await;
                }
            }
        }
        if is_to_listen && let (Some(session), Some(backend)) = (&session, backend.upgrade()) {
            listening = backend.listen(session).await;
            is_again_due = false;
        }
    }
}
