//! What carries messages to one server elsewhere, and its answers back.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use oauth::OauthError;
use platform::{
    client::{Client, ClientError},
    http::header_text,
};
use reqwest::{
    RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{json, value::RawValue};
use tokio::{
    io::{AsyncWriteExt as _, DuplexStream},
    sync::{Semaphore, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Order, Transport,
    events::{Events, body},
    lost::{Lost, refused, unreachable},
};
use crate::{
    launch::{AUTHORIZATION_NEEDED, reason_of},
    log::Log,
    model::Reason,
    outgoing::{self, Message},
    repeated::ParamHeaders,
};

const SESSION: &str = "mcp-session-id";
const VERSION: &str = "mcp-protocol-version";
/// How many messages are on their way at once.
const AT_ONCE: usize = 32;
/// How long the head of an answer may take: a tool may be at work on it.
const PATIENCE: Duration = Duration::from_mins(10);
/// How often an answer that broke off is asked for again without anything new of it.
const FRUITLESS: usize = 5;

/// What was agreed on at the handshake.
#[derive(Clone, Default)]
struct Session {
    /// What the server calls it.
    id: Option<String>,
    /// The revision that it speaks.
    revision: Option<String>,
}

/// What carries messages of one server.
pub(super) struct Carrier {
    pub(super) client: Client,
    pub(super) order: Order,
    /// Tokens do not reach it.
    log: Arc<Log>,
    /// Where messages go; the old transport is told.
    pub(super) target: watch::Sender<Option<Url>>,
    session: Mutex<Session>,
    out: tokio::sync::Mutex<DuplexStream>,
    places: Semaphore,
    /// Requests without a session, by their ids: their streams are closed when they are taken back.
    running: Mutex<HashMap<String, CancellationToken>>,
    repeated: ParamHeaders,
    pub(super) gone: watch::Sender<Option<Reason>>,
}

impl Carrier {
    pub(super) fn new(client: Client, order: Order, log: Arc<Log>, out: DuplexStream, gone: watch::Sender<Option<Reason>>) -> Self {
        let target = (order.transport == Transport::StreamableHttp).then(|| order.url.clone());
        Self {
            client,
            order,
            log,
            target: watch::Sender::new(target),
            session: Mutex::default(),
            out: tokio::sync::Mutex::new(out),
            places: Semaphore::new(AT_ONCE),
            running: Mutex::default(),
            repeated: ParamHeaders::default(),
            gone,
        }
    }

    fn remember(&self) -> std::sync::MutexGuard<'_, Session> {
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
    pub(super) fn refused(&self, status: StatusCode) -> Lost {
        let has_token = self.order.bearer.is_some() || self.order.headers.contains_key("authorization");
        if status == StatusCode::UNAUTHORIZED && !has_token {
            let text = "it wants you to log in: `mcp-fabric authorize`, or POST to its `authorization`, begins that";
            return Lost::Gone(Reason::new(AUTHORIZATION_NEEDED, text));
        }
        refused(status)
    }

    pub(super) fn running(&self) -> std::sync::MutexGuard<'_, HashMap<String, CancellationToken>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request that can be taken back by closing its stream.
    pub(super) fn begin(&self, message: &Message) -> CancellationToken {
        let token = CancellationToken::new();
        if let Some(id) = message.id.as_ref().filter(|_| message.modern.is_some() && message.is_request()) {
            self.running().insert(id.to_string(), token.clone());
        }
        token
    }

    pub(super) async fn send(&self, message: Message) {
        let token = self.begin(&message);
        self.send_unless(message, token).await;
    }

    pub(super) async fn send_unless(&self, message: Message, token: CancellationToken) {
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
        let own = self.own_headers(message);
        let request = || {
            let request = self.client.post(target.clone())?.header(CONTENT_TYPE, "application/json").body(message.line.clone());
            Ok(with(request.header(ACCEPT, "application/json, text/event-stream"), &own))
        };
        let response = self.ask(request, PATIENCE).await?;
        self.take(message, response, answered).await
    }

    /// Sends one request; a token of a login may end before its time, so that another one is tried once.
    pub(super) async fn ask(
        &self,
        request: impl Fn() -> Result<RequestBuilder, ClientError>,
        patience: Duration,
    ) -> Result<Response, Lost> {
        let mut refused = None;
        loop {
            let (request, token) = self.dressed(request()?, refused.as_ref()).await?;
            let sent = tokio::time::timeout(patience, request.send()).await;
            let response = sent.map_err(|_| Lost::Refused("it did not answer in time".into()))?.map_err(|error| unreachable(&error))?;
            if response.status() != StatusCode::UNAUTHORIZED || token.is_none() || refused.is_some() {
                return Ok(response);
            }
            refused = token;
        }
    }

    /// What the protocol wants beside the body.
    fn own_headers(&self, message: &Message) -> Vec<(String, String)> {
        if let Some(modern) = &message.modern {
            let mut headers = vec![(VERSION.to_owned(), modern.clone()), ("mcp-method".to_owned(), message.method.clone())];
            headers.extend(message.name.as_deref().map(|name| ("mcp-name".to_owned(), header_text::encode(name).into_owned())));
            if message.method == "tools/call" {
                headers.extend(self.repeated.of_line(&message.line));
            }
            return headers;
        }
        self.session_headers()
    }

    pub(super) fn session_headers(&self) -> Vec<(String, String)> {
        let Session { id, revision } = self.remember().clone();
        let id = id.map(|id| (SESSION.to_owned(), id));
        let revision = revision.map(|revision| (VERSION.to_owned(), revision));
        id.into_iter().chain(revision).collect()
    }

    async fn take(&self, message: &Message, response: Response, answered: &AtomicBool) -> Result<(), Lost> {
        let status = response.status();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let kind = header(CONTENT_TYPE.as_str()).unwrap_or_default();
        if message.method == "initialize"
            && let Some(session) = header(SESSION)
        {
            self.remember().id = Some(session);
        }
        if status == StatusCode::NOT_FOUND && self.has_session() {
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

    pub(super) fn has_session(&self) -> bool {
        self.remember().id.is_some()
    }

    /// The events of one answer. A stream that breaks off before its answer has come is read on where the server keeps what it
    /// tells (revision 2025-11-25, Streamable HTTP, "Resumability and Redelivery").
    async fn events(&self, message: &Message, response: Response, answered: &AtomicBool) -> Result<(), Lost> {
        let (mut events, mut fruitless) = (Events::new(response), 0);
        // Once it was read on: a stream that tells something else for ever is not waited for any longer.
        let mut until: Option<Instant> = None;
        loop {
            let began_at = events.place.last.clone();
            loop {
                let next = match until {
                    Some(until) => tokio::time::timeout_at(until, events.next()).await.unwrap_or(Ok(None))?,
                    None => events.next().await?,
                };
                let Some((_, data)) = next else { break };
                fruitless = 0;
                self.hear(message, &data, answered).await;
            }
            let until = *until.get_or_insert_with(|| Instant::now() + PATIENCE);
            let is_whole = answered.load(Ordering::Relaxed) || !message.is_request() || message.modern.is_some();
            let place = events.place.clone();
            // A server that is asked again and again says by a new place that it is at it.
            if place.last != began_at {
                fruitless = 0;
            }
            if is_whole || place.last.is_none() || fruitless == FRUITLESS || Instant::now() >= until {
                return Ok(());
            }
            fruitless += 1;
            tokio::time::sleep(place.retry.unwrap_or(Duration::from_secs(1))).await;
            match self.read_on(&place).await? {
                Some(further) => events = further,
                None => return Ok(()),
            }
        }
    }

    async fn hear(&self, message: &Message, answer: &str, answered: &AtomicBool) {
        if message.method == "initialize"
            && let Some(version) = outgoing::agreed_version(answer)
        {
            self.remember().revision = Some(version);
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
    pub(super) async fn say(&self, answer: &str) {
        let mut line = answer.replace(['\n', '\r'], " ");
        line.push('\n');
        // Whoever listened may have gone.
        self.out.lock().await.write_all(line.as_bytes()).await.ok();
    }

    /// Tells the server that its session is over.
    pub(super) async fn close(&self) {
        let Some(session) = self.remember().id.take() else { return };
        let Ok(request) = self.client.delete(self.order.url.clone()) else { return };
        if let Ok((request, _)) = self.dressed(request, None).await {
            let told = request.header(SESSION, session).timeout(Duration::from_secs(2)).send();
            // A server need not know how; it forgets sessions by itself.
            told.await.ok();
        }
    }
}

pub(super) fn with(request: RequestBuilder, headers: &[(String, String)]) -> RequestBuilder {
    headers.iter().fold(request, |request, (name, value)| request.header(name, value))
}
