//! Servers elsewhere: MCP over HTTP, carried to and from the lines that [`crate::wire`] speaks.
//!
//! Streamable HTTP answers each message with JSON or with a stream of events (revisions from 2025-03-26 on); HTTP+SSE has one
//! stream for all answers and an address for messages (2024-11-05). Redirects are not followed: headers may hold secrets.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use oauth::{Bearer, OauthError};
use platform::{
    client::{Client, ClientError},
    http::header_text,
    sse::Parts,
};
use reqwest::{
    RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{json, value::RawValue};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream},
    sync::{Semaphore, watch},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    launch::{AUTHORIZATION_NEEDED, reason_of},
    log::Log,
    model::Reason,
    outgoing::{self, Message},
    repeated::ParamHeaders,
    wire::plain,
};

const SESSION: &str = "mcp-session-id";
const VERSION: &str = "mcp-protocol-version";
/// How many messages are on their way at once.
const AT_ONCE: usize = 32;
/// What one event or body may measure.
const LONGEST: usize = 16 << 20;
/// How long the head of an answer may take: a tool may be at work on it.
const PATIENCE: Duration = Duration::from_mins(10);
/// How long the old transport may take to say where messages go.
const ENDPOINT: Duration = Duration::from_secs(20);
const PIPE: usize = 64 << 10;

platform::words! {
    /// How a server elsewhere is spoken to.
    pub enum Transport {
        /// A message is a request, and its answer is the answer.
        StreamableHttp = "streamable-http",
        /// One stream for all answers.
        Sse = "sse",
    }
}

/// Where a server is, and what is sent along.
#[derive(Clone)]
pub(crate) struct Order {
    pub(crate) transport: Transport,
    pub(crate) url: Url,
    pub(crate) headers: BTreeMap<String, SecretString>,
    /// The tokens of a login there.
    pub(crate) bearer: Option<Bearer>,
}

/// A server elsewhere that is spoken to.
pub(crate) struct Remote {
    gone: watch::Receiver<Option<Reason>>,
    /// Ends what carries when this is dropped.
    _stop: DropGuard,
}

impl Remote {
    /// Returns when it cannot be spoken to any more, and why.
    pub(crate) async fn ended(&mut self) -> Reason {
        let ended = || Reason::new("connection_closed", "the connection ended");
        self.gone.wait_for(Option::is_some).await.ok().and_then(|gone| gone.clone()).unwrap_or_else(ended)
    }
}

/// What carries messages of one server.
struct Carrier {
    client: Client,
    order: Order,
    /// Tokens do not reach it.
    log: Arc<Log>,
    /// Where messages go; the old transport is told.
    target: watch::Sender<Option<Url>>,
    /// What the server calls this session, and the revision that it speaks.
    session: Mutex<(Option<String>, Option<String>)>,
    out: tokio::sync::Mutex<DuplexStream>,
    places: Semaphore,
    /// Requests without a session, by their ids: their streams are closed when they are taken back.
    running: Mutex<HashMap<String, CancellationToken>>,
    repeated: ParamHeaders,
    gone: watch::Sender<Option<Reason>>,
}

/// Begins to speak with a server elsewhere: gives what ends it, and both ends of its lines.
pub(crate) fn open(client: &Client, order: Order, log: Arc<Log>) -> (Remote, DuplexStream, DuplexStream) {
    let (input, lines) = tokio::io::duplex(PIPE);
    let (out, output) = tokio::io::duplex(PIPE);
    let (tell, gone) = watch::channel(None);
    let target = watch::Sender::new((order.transport == Transport::StreamableHttp).then(|| order.url.clone()));
    let carrier = Arc::new(Carrier {
        client: client.clone(),
        order,
        log,
        target,
        session: Mutex::default(),
        out: tokio::sync::Mutex::new(out),
        places: Semaphore::new(AT_ONCE),
        running: Mutex::default(),
        repeated: ParamHeaders::default(),
        gone: tell,
    });
    let stop = CancellationToken::new();
    if carrier.order.transport == Transport::Sse {
        spawn(&stop, Arc::clone(&carrier).listen());
    }
    spawn(&stop, carry(Arc::clone(&carrier), lines, stop.clone()));
    (Remote { gone, _stop: stop.drop_guard() }, input, output)
}

#[expect(clippy::disallowed_methods, reason = "ends with the connection that it carries")]
fn spawn(stop: &CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = task => {}
        }
    });
}

/// Sends each line as a message of its own; at the end, the session.
async fn carry(carrier: Arc<Carrier>, lines: DuplexStream, stop: CancellationToken) {
    let mut lines = BufReader::new(lines).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Some(message) = Message::parse(line) else { continue };
        if message.method == "notifications/initialized" {
            // Before it has come, a server may refuse everything else.
            carrier.send(message).await;
            continue;
        }
        // Where there is no session, a request is taken back by closing its stream.
        let running = message.taken_back.as_ref().and_then(|id| carrier.running().remove(id));
        if let Some(running) = running {
            running.cancel();
            continue;
        }
        let token = carrier.begin(&message);
        let carrier = Arc::clone(&carrier);
        spawn(&stop, async move { carrier.send_unless(message, token).await });
    }
    carrier.close().await;
}

/// Why a message did not come through.
enum Lost {
    /// Nothing will any more.
    Gone(Reason),
    /// This one was refused.
    Refused(String),
}

impl From<ClientError> for Lost {
    fn from(error: ClientError) -> Self {
        Self::Gone(Reason::new("remote_refused", error.to_string()))
    }
}

fn unreachable(error: &reqwest::Error) -> Lost {
    let mut why = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(next) = source {
        why = next.to_string();
        source = next.source();
    }
    Lost::Gone(Reason::passing("remote_unreachable", format!("it cannot be reached: {}", plain(&why, 200))))
}

fn refused(status: StatusCode) -> Lost {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Lost::Gone(Reason::new("remote_unauthorized", format!("it refuses the credentials that it was given ({status})")))
        }
        status if status.is_redirection() => Lost::Gone(Reason::new(
            "remote_redirects",
            format!("it sends elsewhere ({status}), which is not followed: headers may hold secrets"),
        )),
        status => Lost::Refused(format!("HTTP {status}")),
    }
}

impl Carrier {
    fn remember(&self) -> std::sync::MutexGuard<'_, (Option<String>, Option<String>)> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With the headers of the order, and a token of its login. `refused` is a token that was not taken.
    async fn dressed(
        &self,
        request: RequestBuilder,
        refused: Option<&SecretString>,
    ) -> Result<(RequestBuilder, Option<SecretString>), Lost> {
        let has_login = self.order.bearer.is_some();
        let headers = self.order.headers.iter().filter(|(name, _)| !has_login || *name != "authorization");
        let request = headers.fold(request, |request, (name, value)| {
            let parsed = (HeaderName::try_from(name), HeaderValue::try_from(value.expose_secret()));
            let (Ok(name), Ok(mut value)) = parsed else { return request };
            value.set_sensitive(true);
            request.header(name, value)
        });
        let Some(bearer) = &self.order.bearer else { return Ok((request, None)) };
        let token = bearer.token(refused).await.map_err(|error| {
            let passes = matches!(error, OauthError::Unreachable(..));
            let reason = reason_of(&error);
            Lost::Gone(Reason { is_passing: passes || reason.is_passing, ..reason })
        })?;
        self.log.hide_also(&token);
        Ok((request.bearer_auth(token.expose_secret()), Some(token)))
    }

    /// Why a refusal ends it: a login may be all that is missing.
    fn refused(&self, status: StatusCode) -> Lost {
        let has_token = self.order.bearer.is_some() || self.order.headers.contains_key("authorization");
        if status == StatusCode::UNAUTHORIZED && !has_token {
            let text = "it wants you to log in: `mcp-fabric authorize`, or POST to its `authorization`, begins that";
            return Lost::Gone(Reason::new(AUTHORIZATION_NEEDED, text));
        }
        refused(status)
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<String, CancellationToken>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request that can be taken back by closing its stream.
    fn begin(&self, message: &Message) -> CancellationToken {
        let token = CancellationToken::new();
        if let Some(id) = message.id.as_ref().filter(|_| message.modern.is_some() && message.is_request()) {
            self.running().insert(id.to_string(), token.clone());
        }
        token
    }

    async fn send(&self, message: Message) {
        let token = self.begin(&message);
        self.send_unless(message, token).await;
    }

    async fn send_unless(&self, message: Message, token: CancellationToken) {
        tokio::select! {
            () = token.cancelled() => {}
            () = self.send_until_done(&message) => {}
        }
        if let Some(id) = &message.id {
            self.running().remove(&id.to_string());
        }
    }

    async fn send_until_done(&self, message: &Message) {
        // What only waits for news takes no place from what works.
        let is_work = message.is_request() && message.method != "subscriptions/listen";
        // Answers to the server's own questions are what requests may be waiting for.
        let _place = if is_work { self.places.acquire().await.ok() } else { None };
        let answered = AtomicBool::new(false);
        match self.post(message, &answered).await {
            Ok(()) if message.is_request() && !answered.load(Ordering::Relaxed) && self.order.transport == Transport::StreamableHttp => {
                let text = "the answer broke off before it was whole";
                self.say(&json!({ "jsonrpc": "2.0", "id": message.id, "error": { "code": -32000, "message": text } }).to_string()).await;
            }
            Ok(()) => {}
            Err(Lost::Gone(reason)) => {
                self.gone.send_replace(Some(reason));
            }
            Err(Lost::Refused(why)) => {
                if let Some(id) = &message.id {
                    self.say(&json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32000, "message": why } }).to_string()).await;
                }
            }
        }
    }

    async fn post(&self, message: &Message, answered: &AtomicBool) -> Result<(), Lost> {
        let target = self.target.subscribe().wait_for(Option::is_some).await.ok().and_then(|target| target.clone());
        let Some(target) = target else { return Ok(()) };
        let mut refused = None;
        loop {
            let (mut request, token) = self.dressed(self.client.post(target.clone())?, refused.as_ref()).await?;
            request = request.header(ACCEPT, "application/json, text/event-stream").header(CONTENT_TYPE, "application/json");
            for (name, value) in self.own_headers(message) {
                request = request.header(name, value);
            }
            let sent = tokio::time::timeout(PATIENCE, request.body(message.line.clone()).send()).await;
            let response = sent.map_err(|_| Lost::Refused("it did not answer in time".into()))?.map_err(|error| unreachable(&error))?;
            // A token may end before its time; another one is tried once.
            if response.status() != StatusCode::UNAUTHORIZED || token.is_none() || refused.is_some() {
                return self.take(message, response, answered).await;
            }
            refused = token;
        }
    }

    /// What the protocol wants beside the body.
    fn own_headers(&self, message: &Message) -> Vec<(String, String)> {
        let (session, version) = self.remember().clone();
        let mut headers = Vec::new();
        if let Some(modern) = &message.modern {
            headers.push((VERSION.to_owned(), modern.clone()));
            headers.push(("mcp-method".to_owned(), message.method.clone()));
            headers.extend(message.name.as_deref().map(|name| ("mcp-name".to_owned(), header_text::encode(name).into_owned())));
            if message.method == "tools/call" {
                headers.extend(self.repeated.of_line(&message.line));
            }
            return headers;
        }
        headers.extend(session.map(|session| (SESSION.to_owned(), session)));
        headers.extend(version.map(|version| (VERSION.to_owned(), version)));
        headers
    }

    async fn take(&self, message: &Message, response: Response, answered: &AtomicBool) -> Result<(), Lost> {
        let status = response.status();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let kind = header(CONTENT_TYPE.as_str()).unwrap_or_default();
        if message.method == "initialize"
            && let Some(session) = header(SESSION)
        {
            self.remember().0 = Some(session);
        }
        if status == StatusCode::NOT_FOUND && self.remember().0.is_some() {
            return Err(Lost::Gone(Reason::new("session_ended", "it does not know this session any more")));
        }
        if kind.starts_with("text/event-stream") && status.is_success() {
            return self.events(message, response, answered).await;
        }
        let is_json = kind.starts_with("application/json");
        let is_unauthorized = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        if !status.is_success() && (!is_json || is_unauthorized) {
            return Err(self.refused(status));
        }
        if !is_json {
            return Ok(());
        }
        let body = body(response).await?;
        let text = String::from_utf8(body).map_err(|_| Lost::Refused("it answered with something that is not text".into()))?;
        let not_json = |_| Lost::Refused("it answered with something that is not JSON".into());
        let answers: Vec<&RawValue> = if text.trim_start().starts_with('[') {
            serde_json::from_str(&text).map_err(not_json)?
        } else {
            vec![serde_json::from_str(&text).map_err(not_json)?]
        };
        for answer in answers {
            match (&message.id, outgoing::refusal(answer)) {
                // A refusal of the whole request names no message.
                (Some(id), Some(error)) if !status.is_success() => {
                    answered.store(true, Ordering::Relaxed);
                    self.say(&format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{error}}}")).await;
                }
                _ => self.hear(message, answer.get(), answered).await,
            }
        }
        Ok(())
    }

    /// The events of one answer.
    async fn events(&self, message: &Message, response: Response, answered: &AtomicBool) -> Result<(), Lost> {
        let mut events = Events::new(response);
        while let Some((_, data)) = events.next().await? {
            self.hear(message, &data, answered).await;
        }
        Ok(())
    }

    async fn hear(&self, message: &Message, answer: &str, answered: &AtomicBool) {
        if message.method == "initialize"
            && let Some(version) = outgoing::agreed_version(answer)
        {
            self.remember().1 = Some(version);
        }
        if message.method == "tools/list" {
            self.repeated.learn(answer);
        }
        if message.is_answered_by(answer) {
            answered.store(true, Ordering::Relaxed);
        }
        self.say(answer).await;
    }

    /// One line; JSON has line ends between its words only.
    async fn say(&self, answer: &str) {
        let mut line = answer.replace(['\n', '\r'], " ");
        line.push('\n');
        // Whoever listened may have gone.
        self.out.lock().await.write_all(line.as_bytes()).await.ok();
    }

    /// The one stream of the old transport.
    async fn listen(self: Arc<Self>) {
        let lost = match self.follow().await {
            Ok(()) => Reason::new("connection_closed", "it closed its stream"),
            Err(Lost::Gone(reason)) => reason,
            Err(Lost::Refused(why)) => Reason::new("remote_refused", why),
        };
        self.gone.send_replace(Some(lost));
    }

    async fn follow(&self) -> Result<(), Lost> {
        let (request, _) = self.dressed(self.client.get(self.order.url.clone())?, None).await?;
        let sent = tokio::time::timeout(ENDPOINT, request.header(ACCEPT, "text/event-stream").send()).await;
        let response = sent.map_err(|_| Lost::Refused("it did not answer in time".into()))?.map_err(|error| unreachable(&error))?;
        if !response.status().is_success() {
            return Err(self.refused(response.status()));
        }
        let mut events = Events::new(response);
        while let Some((kind, data)) = events.next().await? {
            if kind == "endpoint" {
                let target = self.order.url.join(data.trim()).ok().filter(|target| target.origin() == self.order.url.origin());
                let target = target.ok_or_else(|| Lost::Refused("it names an address elsewhere for messages".into()))?;
                self.target.send_replace(Some(target));
            } else {
                self.say(&data).await;
            }
        }
        Ok(())
    }

    /// Tells the server that its session is over.
    async fn close(&self) {
        let Some(session) = self.remember().0.take() else { return };
        let Ok(request) = self.client.delete(self.order.url.clone()) else { return };
        if let Ok((request, _)) = self.dressed(request, None).await {
            let told = request.header(SESSION, session).timeout(Duration::from_secs(2)).send();
            // A server need not know how; it forgets sessions by itself.
            told.await.ok();
        }
    }
}

async fn body(response: Response) -> Result<Vec<u8>, Lost> {
    let (mut chunks, mut body) = (response.bytes_stream(), Vec::new());
    while let Some(chunk) = chunks.next().await {
        body.extend_from_slice(&chunk.map_err(|error| unreachable(&error))?);
        if body.len() > LONGEST {
            return Err(Lost::Refused("its answer is larger than 16 MiB".into()));
        }
    }
    Ok(body)
}

/// Events of a stream (the WHATWG's server-sent events), as far as MCP uses them.
struct Events {
    chunks: futures_util::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    parts: Parts,
}

impl Events {
    fn new(response: Response) -> Self {
        Self { chunks: response.bytes_stream().boxed(), parts: Parts::default() }
    }

    /// The kind and the data of the next event that has data.
    async fn next(&mut self) -> Result<Option<(String, String)>, Lost> {
        loop {
            if let Some(event) = self.parts.next() {
                return Ok(Some(event));
            }
            if self.parts.buffer.len() > LONGEST {
                return Err(Lost::Refused("an event of it is larger than 16 MiB".into()));
            }
            match self.chunks.next().await {
                Some(Ok(chunk)) => self.parts.buffer.extend_from_slice(&chunk),
                // A stream that breaks off has told what it told.
                Some(Err(_)) | None => return Ok(None),
            }
        }
    }
}
