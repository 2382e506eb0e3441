//! Clients that speak with a handshake: sessions over streamable HTTP (revisions 2024-11-05 to 2025-11-25).

use std::sync::Arc;

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use platform::{Actor, Problem};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::{
    answer::{Accepts, Final, First, UNSAID, Working, events, first, json, last, refused},
    client::{Client, Introduction, Running, no_capabilities},
    offer::Offer,
    place::Place,
    revision::{NEWEST_LEGACY, Revision},
    rights::{Rights, while_allowed},
    rpc::{Fault, INVALID_PARAMS, Id, Members, Message, Raw, TIMEOUT, response},
    service::{Busy, Gateway},
    stream::Position,
    trace,
    work::{By, Said, Work},
};

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
pub(crate) const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");

/// What a request came with.
pub(crate) struct Come {
    pub(crate) gateway: Gateway,
    pub(crate) actor: Actor,
    pub(crate) place: Place,
    pub(crate) parts: Parts,
}

impl Come {
    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// For a stream that it opens.
    pub(crate) fn rights(&self) -> Rights {
        Rights { gateway: self.gateway.clone(), parts: self.parts.clone(), owner: self.actor.to_string(), place: self.place.clone() }
    }

    fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// The session that it is of.
    fn client(&self) -> Result<Arc<Client>, Response> {
        let Some(id) = self.header(&SESSION) else {
            return Err(refused(None, Fault::invalid("`Mcp-Session-Id` is missing; `initialize` gives one")));
        };
        if let Some(version) = self.header(&VERSION)
            && !version.parse::<Revision>().is_ok_and(|revision| revision != Revision::Modern)
        {
            return Err(refused(None, Fault::invalid("`MCP-Protocol-Version` is not a revision that sessions have")));
        }
        self.gateway.client(id, &self.actor, &self.place).ok_or_else(|| {
            let gone = "Session not found: it ended, or is not yours; begin a new one with `initialize`";
            refused(None, Fault::ours(StatusCode::NOT_FOUND, TIMEOUT, gone))
        })
    }

    fn work(&self, client: &Arc<Client>, servers: Offer, id: Id, method: String, params: Option<Raw>, say: mpsc::Sender<Said>) -> Work {
        Work {
            gateway: self.gateway.clone(),
            actor: self.actor.clone(),
            place: self.place.clone(),
            servers,
            by: By::Session(Arc::clone(client)),
            id,
            method,
            params,
            say,
            accepts: Accepts::of(self.headers()),
            traceparent: trace::of(self.headers()),
        }
    }
}

/// One message.
pub(crate) async fn post(come: Come, servers: Offer, message: Message) -> Response {
    let message = match message {
        Message::Request { id, method, params } if method == "initialize" && come.header(&SESSION).is_none() => {
            return initialize(come, servers, id, params).await;
        }
        message => message,
    };
    let client = match come.client() {
        Err(refused) => return refused,
        Ok(client) => client,
    };
    match message {
        Message::Request { id, method, params } => request(come, &client, servers, id, method, params).await,
        other => {
            take(&come, &client, &servers, other).await;
            StatusCode::ACCEPTED.into_response()
        }
    }
}

/// What a client says of itself.
fn introduction(params: Option<&RawValue>) -> Result<Introduction, Fault> {
    let params = params.and_then(Members::of).unwrap_or_default();
    let asked = params.text("protocolVersion");
    let asked = asked.ok_or_else(|| Fault::of(INVALID_PARAMS, "Invalid params: `protocolVersion` has to be a text"))?;
    let revision = asked.parse().ok().filter(|revision| *revision != Revision::Modern).unwrap_or(NEWEST_LEGACY);
    let object = |name: &str| params.get(name).filter(|value| value.get().starts_with('{')).map(ToOwned::to_owned);
    Ok(Introduction { revision, capabilities: object("capabilities").unwrap_or_else(no_capabilities), info: object("clientInfo") })
}

async fn initialize(come: Come, servers: Offer, id: Id, params: Option<Raw>) -> Response {
    let introduction = match introduction(params.as_deref()) {
        Ok(introduction) => introduction,
        Err(fault) => return json(StatusCode::OK, response(Some(&id), &Err(fault))),
    };
    let client = match come.gateway.open(&come.actor, come.place.clone(), introduction) {
        Ok(client) => client,
        Err(error) => return Problem::of(&error).into_response(),
    };
    // A session whose client has gone before it knew of it is nobody's.
    let mut opening = Opening { gateway: come.gateway.clone(), client: Some(Arc::clone(&client)) };
    let (say, _) = mpsc::channel(1);
    let work = come.work(&client, servers, id.clone(), "initialize".into(), params, say);
    let answer = work.initialize(&client).await;
    let mut response = json(StatusCode::OK, response(Some(&id), &answer));
    if let (Ok(session), Ok(_)) = (HeaderValue::from_str(&client.id), answer) {
        response.headers_mut().insert(SESSION, session);
        opening.client = None;
    }
    response
}

/// A session that ends when it is not taken.
struct Opening {
    gateway: Gateway,
    client: Option<Arc<Client>>,
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            self.gateway.close(&client);
        }
    }
}

/// What wants no answer.
async fn take(come: &Come, client: &Arc<Client>, servers: &Offer, message: Message) {
    match message {
        Message::Response { id, answer } => client.answered(&id, answer),
        Message::Notification { method, params } if method == "notifications/cancelled" => {
            let params = params.as_deref().and_then(Members::of).unwrap_or_default();
            if let Some(id) = Id::read(params.get("requestId")) {
                client.cancel(&id);
            }
        }
        Message::Notification { method, params } if method == "notifications/roots/list_changed" => {
            come.gateway.tell_servers(servers, client.party, &method, params.as_deref()).await;
        }
        Message::Notification { .. } | Message::Request { .. } => {}
    }
}

async fn request(come: Come, client: &Arc<Client>, servers: Offer, id: Id, method: String, params: Option<Raw>) -> Response {
    let (running, busy) = match client.begin(&id).and_then(|running| Ok((running, come.gateway.admit(&come.actor)?))) {
        Ok(begun) => begun,
        Err(fault) => return refused(Some(&id), fault),
    };
    let (say, said) = mpsc::channel(UNSAID);
    let work = come.work(client, servers, id, method, params, say);
    let working: Working = Box::pin(run(work, running, busy));
    answer(&come, client, working, said).await
}

async fn run(work: Work, running: Running, _busy: Busy) -> Final {
    let answer = tokio::select! {
        answer = work.run() => answer,
        () = running.cancelled.cancelled() => Err(Fault::Cancelled),
    };
    last(&work.id, &answer, false)
}

/// JSON, or a stream that can be read again. What a client does not wait for is worked on nevertheless.
async fn answer(come: &Come, client: &Arc<Client>, working: Working, mut said: mpsc::Receiver<Said>) -> Response {
    let mut held = Held { gateway: come.gateway.clone(), working: Some(working) };
    let Some(working) = &mut held.working else { return StatusCode::ACCEPTED.into_response() };
    let first_said = match first(working, &mut said, Accepts::of(come.headers())).await {
        First::Answer(Some((status, body))) => {
            held.working = None;
            return json(status, body);
        }
        First::Answer(None) => {
            held.working = None;
            return StatusCode::ACCEPTED.into_response();
        }
        First::Else(said) => said,
    };
    let Some(mut working) = held.working.take() else { return StatusCode::ACCEPTED.into_response() };
    let (number, stream) = client.open_stream();
    let (writer, client) = (Arc::clone(&stream), Arc::clone(client));
    let primed = client.revision >= Revision::Polling;
    if let Some(said) = first_said {
        stream.push(&said.message, said.may_be_lost);
    }
    come.gateway.inner.shutdown.spawn(async move {
        let answer = loop {
            tokio::select! {
                biased;
                Some(said) = said.recv() => writer.push(&said.message, said.may_be_lost),
                answer = &mut working => break answer,
            }
        };
        while let Ok(said) = said.try_recv() {
            writer.push(&said.message, said.may_be_lost);
        }
        if let Some((_, answer)) = answer {
            writer.push(&answer, false);
        }
        client.close_stream(number);
    });
    events(while_allowed(stream.read(Some(0), primed), come.rights()))
}

/// Work that goes on when whoever waited for it has gone.
struct Held {
    gateway: Gateway,
    working: Option<Working>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(working) = self.working.take() {
            self.gateway.inner.shutdown.spawn(async move { drop(working.await) });
        }
    }
}

/// Several messages in one body, which revision 2025-03-26 has: their answers come together.
pub(crate) async fn post_batch(come: Come, servers: Offer, messages: Vec<&RawValue>) -> Response {
    const MOST: usize = 100;
    let client = match come.client() {
        Err(refused) => return refused,
        Ok(client) if client.revision != Revision::Batches => {
            return refused(None, Fault::invalid("it has to be one JSON-RPC message; batches are not part of this revision"));
        }
        Ok(client) => client,
    };
    if messages.is_empty() || messages.len() > MOST {
        return refused(None, Fault::invalid("a batch has 1 to 100 messages"));
    }
    let (say, said) = mpsc::channel(UNSAID);
    let mut all: Vec<Working> = Vec::new();
    for message in messages {
        match Message::of(message) {
            Err(fault) => {
                let text = response(None, &Err(fault));
                all.push(Box::pin(async move { Some((StatusCode::OK, text)) }));
            }
            Ok(Message::Request { id, method, params }) => {
                match client.begin(&id).and_then(|running| Ok((running, come.gateway.admit(&come.actor)?))) {
                    Ok((running, busy)) => {
                        let work = come.work(&client, servers.clone(), id, method, params, say.clone());
                        all.push(Box::pin(run(work, running, busy)));
                    }
                    Err(fault) => {
                        let text = response(Some(&id), &Err(fault));
                        all.push(Box::pin(async move { Some((StatusCode::OK, text)) }));
                    }
                }
            }
            Ok(other) => take(&come, &client, &servers, other).await,
        }
    }
    if all.is_empty() {
        return StatusCode::ACCEPTED.into_response();
    }
    drop(say);
    let working: Working = Box::pin(async move {
        let answers = futures_util::future::join_all(all).await;
        let answers: Vec<String> = answers.into_iter().flatten().map(|(_, answer)| answer).collect();
        Some((StatusCode::OK, format!("[{}]", answers.join(","))))
    });
    answer(&come, &client, working, said).await
}

/// The stream of what is no matter of a request, or one that broke off.
pub(crate) fn get(come: &Come) -> Response {
    let client = match come.client() {
        Err(refused) => return refused,
        Ok(client) => client,
    };
    if !Accepts::of(come.headers()).events {
        return StatusCode::NOT_ACCEPTABLE.into_response();
    }
    let position = match come.header(&LAST_EVENT).map(Position::parse) {
        Some(None) => return refused(None, Fault::invalid("`Last-Event-ID` is not one that was given here")),
        Some(position) => position,
        None => None,
    };
    match client.stream_at(position) {
        Some((stream, after)) => events(while_allowed(stream.read(after, client.revision >= Revision::Polling), come.rights())),
        None => refused(None, Fault::ours(StatusCode::NOT_FOUND, TIMEOUT, "that stream is over and forgotten")),
    }
}

/// The end of a session.
pub(crate) fn delete(come: &Come) -> Response {
    match come.client() {
        Err(refused) => refused,
        Ok(client) => {
            come.gateway.close(&client);
            StatusCode::NO_CONTENT.into_response()
        }
    }
}
