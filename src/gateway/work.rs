//! One request of a client while it is worked on: to which server it goes, what is said meanwhile, what it comes to.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use configurations::Configuration;
use platform::{Actor, traces::Span};
use runtime::{Era, Failure, Heard, Next, Party, Session, Ticket, session_of_era};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::{
    answer::Accepts,
    backend::Backend,
    client::{Client, is_able},
    hearer::Hearer,
    meta::{self, LOG_LEVEL},
    offer::Offer,
    parked::{Asker, Parked, QUESTION},
    place::Place,
    questions::Questions,
    rpc::{Fault, INVALID_PARAMS, INVALID_REQUEST, Id, Members, Raw, TIMEOUT, UNAVAILABLE, notification, raw},
    service::Gateway,
    trail::Came,
};

/// How long what is said of a request waits for a reader.
const UNREAD: Duration = Duration::from_secs(10);
/// How many times its limit a call may take that goes on to say something.
const MOST_LIMITS: u32 = 30;
/// How often a server may ask for more input during one call.
const MOST_ROUNDS: usize = 10;

/// Who made the request.
pub(crate) enum By {
    /// A session.
    Session(Arc<Client>),
    /// A modern client, which says all of itself with each request.
    Alone(Alone),
}

/// A modern client, for one request.
pub(crate) struct Alone {
    pub(crate) party: Party,
    pub(crate) capabilities: Raw,
}

/// A request that is worked on.
pub(crate) struct Work {
    pub(crate) gateway: Gateway,
    pub(crate) actor: Actor,
    pub(crate) place: Place,
    pub(crate) servers: Offer,
    pub(crate) by: By,
    pub(crate) id: Id,
    pub(crate) method: String,
    pub(crate) params: Option<Raw>,
    /// What the client is told before the answer.
    pub(crate) say: mpsc::Sender<Said>,
    /// What it can read.
    pub(crate) accepts: Accepts,
    /// The span that made the request, as its header says.
    pub(crate) traceparent: Option<String>,
}

/// What a client is told before an answer.
pub(crate) struct Said {
    pub(crate) message: String,
    /// It is a notification, which a client that does not read may miss.
    pub(crate) may_be_lost: bool,
}

/// What came of a request on the way to a server.
enum Relayed {
    Result(Raw),
    /// The server asks something of a client that it cannot ask while it answers.
    Asked(runtime::Asked),
}

/// How a server is to be asked.
pub(crate) struct Asking<'a> {
    pub(crate) method: &'a str,
    pub(crate) params: Option<&'a RawValue>,
    /// A member of the parameters that the server calls otherwise.
    pub(crate) renamed: Option<(&'static str, &'a str)>,
    /// The span of the request here, where spans are kept.
    pub(crate) traceparent: Option<String>,
}

impl Work {
    pub(crate) fn era(&self) -> Era {
        match self.by {
            By::Session(_) => Era::Legacy,
            By::Alone(_) => Era::Modern,
        }
    }

    pub(crate) fn party(&self) -> Party {
        match &self.by {
            By::Session(client) => client.party,
            By::Alone(alone) => alone.party,
        }
    }

    /// A text among the parameters.
    pub(crate) fn param(&self, name: &str) -> Result<String, Fault> {
        let found = self.params.as_deref().and_then(Members::of).and_then(|params| params.text(name));
        found.ok_or_else(|| Fault::of(INVALID_PARAMS, format!("Invalid params: `{name}` has to be a text")))
    }

    /// A server, in the client's own era where it speaks in both.
    pub(crate) async fn backend(&self, configuration: &Arc<Configuration>) -> Result<(Arc<Backend>, Arc<Session>), Fault> {
        let own = match &self.by {
            _ if !configuration.is_per_session() => String::new(),
            By::Session(client) => client.id.clone(),
            // Who has no sessions has one instance for all of them.
            By::Alone(alone) => format!("stateless-{:016x}", alone.party.0),
        };
        let own = own.as_str();
        self.note_own(configuration, own, own);
        let mut found = self.gateway.reach(configuration, own).await?;
        if self.era() == Era::Legacy && found.0.has_other_era(&found.1) {
            let name = session_of_era(own, Era::Legacy);
            self.note_own(configuration, own, &name);
            match self.gateway.reach(configuration, &name).await {
                Ok(other) => found = other,
                Err(fault) => {
                    // What it does not do as it says, or not now, can be done in the other era as well.
                    tracing::debug!(server = configuration.server_id, error = fault.error(), "a server does not speak with a handshake");
                    if fault.is_of_failed_server() {
                        found.0.note_no_other_era();
                    }
                }
            }
        }
        if let By::Session(client) = &self.by {
            found.0.attach(client.party.0, || Hearer::Session(Arc::downgrade(client)));
        }
        Ok(found)
    }

    fn note_own(&self, configuration: &Arc<Configuration>, own: &str, name: &str) {
        if let By::Session(client) = &self.by
            && !own.is_empty()
        {
            client.owns(configuration, name);
        }
    }

    /// Asks a server, and gives its result as the client is to have it.
    pub(crate) async fn forward(&self, configuration: &Arc<Configuration>, mut asking: Asking<'_>) -> Result<String, Fault> {
        let began = Instant::now();
        let named = asking.renamed.map(|(_, name)| name.to_owned()).or_else(|| name_in(asking.params)).unwrap_or_default();
        self.require_granted(configuration, asking.method, &named)?;
        let mut telling = self.promise(configuration, &asking, &named)?;
        let mut span = self.span(configuration, &asking, &named);
        asking.traceparent = span.as_ref().map(Span::traceparent);
        let answer = self.ask(configuration, &asking, &named).await;
        let answer = answer.map(|result| self.as_granted(configuration, asking.method, result));
        let server = configuration.server_id.as_str();
        self.gateway.inner.seconds.with_label_values(&[server, known(asking.method)]).observe(began.elapsed().as_secs_f64());
        if let Err(fault) = &answer {
            if let Some(span) = &mut span {
                span.fail(fault.code().to_string());
            }
            self.gateway.inner.errors.with_label_values(&[server, &self.label(configuration, &asking, &named)]).inc();
        }
        if let Some(telling) = &mut telling {
            telling.outcome = match &answer {
                Ok(result) => Came::Answered(result.len()),
                Err(fault) => Came::Failed(fault.code()),
            };
        }
        answer
    }

    /// A tool that the server lists, as a label; what strangers make up is none.
    fn label(&self, configuration: &Configuration, asking: &Asking<'_>, named: &str) -> String {
        let is_listed = asking.method == "tools/call" && self.gateway.lists_tool(configuration, named);
        if is_listed { named.to_owned() } else { known(asking.method).to_owned() }
    }

    async fn ask(&self, configuration: &Arc<Configuration>, asking: &Asking<'_>, named: &str) -> Result<String, Fault> {
        let (backend, session) = self.backend(configuration).await?;
        backend.require_open()?;
        match (&self.by, session.era) {
            (By::Alone(_), Era::Legacy) => self.ask_and_park(backend, &session, asking, named).await,
            (By::Session(client), Era::Modern) => self.ask_in_rounds(client, &backend, &session, asking).await,
            _ => {
                let (mut ticket, token) = self.send(&session, asking, None).await?;
                match self.relay(&mut ticket, token.as_deref(), &backend).await? {
                    Relayed::Result(result) => Ok(self.shaped(&result, asking.method)),
                    Relayed::Asked(_) => Err(Fault::of(INVALID_REQUEST, "the server asks what a server of its revision may not ask")),
                }
            }
        }
    }

    fn shaped(&self, result: &RawValue, method: &str) -> String {
        match self.era() {
            Era::Legacy => result.get().to_owned(),
            Era::Modern => meta::for_modern(result, method),
        }
    }

    /// Sends a request; gives it with the client's progress token.
    async fn send(&self, session: &Session, asking: &Asking<'_>, params: Option<&RawValue>) -> Result<(Ticket, Option<Raw>), Fault> {
        let mut ticket = session.ticket(Some(self.party()));
        let manner = match &self.by {
            By::Session(client) if session.era == Era::Modern => Some(client.manner()),
            _ => None,
        };
        let params = params.or(asking.params);
        let (params, token) =
            meta::to_server(params, asking.renamed, (session.era, ticket.id()), manner.as_ref(), asking.traceparent.as_deref());
        let sent = tokio::time::timeout(self.gateway.inner.call_limit, ticket.send(asking.method, &params)).await;
        sent.map_err(|_| Fault::of(TIMEOUT, "the server does not read what it is sent"))??;
        Ok((ticket, token))
    }

    /// Passes on what a server says until it answers.
    async fn relay(&self, ticket: &mut Ticket, token: Option<&RawValue>, backend: &Backend) -> Result<Relayed, Fault> {
        let (limit, began) = (self.gateway.inner.call_limit, Instant::now());
        let mut questions = self.questions();
        loop {
            let next = tokio::select! {
                next = tokio::time::timeout(limit, ticket.next()) => next,
                Some(message) = questions.taken_back() => {
                    questions.tell(message).await;
                    continue;
                }
                () = tokio::time::sleep_until((began + limit * MOST_LIMITS).into()) => {
                    return Err(Fault::of(TIMEOUT, "the server went on for too long without an answer"));
                }
            };
            let next = match next {
                Ok(next) => next,
                // Nobody is late while a person thinks.
                Err(_) if self.is_client_asked() => continue,
                Err(_) => {
                    backend.note_answer(false);
                    return Err(Fault::of(TIMEOUT, format!("the server did not answer within {} s", limit.as_secs_f32())));
                }
            };
            match next {
                Next::Heard(Heard::Progress(params)) => {
                    if let Some(token) = token {
                        self.say_notification("notifications/progress", &meta::progress(&params, token)).await;
                    }
                }
                Next::Heard(Heard::Notification(method, params)) => {
                    if self.wants(&method, params.as_deref()) {
                        self.say_notification(&method, params.as_deref().map_or("{}", RawValue::get)).await;
                    }
                }
                Next::Heard(Heard::Asked(question)) => match &self.by {
                    By::Session(client) => {
                        if let Some((message, taken_back)) = client.ask(question) {
                            self.say_request(client, message).await;
                            questions.add(client, taken_back);
                        }
                    }
                    By::Alone(alone) if is_able(&alone.capabilities, &question.method) => return Ok(Relayed::Asked(question)),
                    By::Alone(_) => question.refuse(crate::rpc::METHOD_NOT_FOUND, "the client that calls does not offer this"),
                },
                Next::Answer(answer) => {
                    questions.tell_what_is_taken_back().await;
                    backend.note_answer(true);
                    let result = answer.map_err(|failure| self.fault(failure))?;
                    if result.get().len() > self.gateway.inner.config.result_bytes {
                        return Err(Fault::of(UNAVAILABLE, "the server answered with more than FABRIC_MCP_RESULT_MB allows"));
                    }
                    return Ok(Relayed::Result(result));
                }
            }
        }
    }

    /// A server's error as the client's revision writes it.
    fn fault(&self, failure: Failure) -> Fault {
        match Fault::from(failure) {
            Fault::Theirs(error) if self.era() == Era::Modern => Fault::Theirs(meta::error_for_modern(error)),
            other => other,
        }
    }

    fn is_client_asked(&self) -> bool {
        matches!(&self.by, By::Session(client) if client.is_asked())
    }

    async fn say_notification(&self, method: &str, params: &str) {
        let said = Said { message: notification(method, params), may_be_lost: true };
        // Whoever does not read misses some.
        tokio::time::timeout(UNREAD, self.say.send(said)).await.ok();
    }

    /// Where nothing but the answer is read of this request, it is told on the session's own stream.
    async fn say_request(&self, client: &Client, message: String) {
        if self.accepts.events && !self.say.is_closed() {
            self.say.send(Said { message, may_be_lost: false }).await.ok();
        } else {
            client.say(&message);
        }
    }

    fn questions(&self) -> Questions {
        let say = self.accepts.events.then(|| self.say.downgrade());
        Questions::new(say, self.gateway.inner.shutdown.clone())
    }

    /// Whether the client wants to hear of a notification during its request. Modern clients ask for logs with each.
    fn wants(&self, method: &str, params: Option<&RawValue>) -> bool {
        match &self.by {
            By::Session(client) => client.wants(method, params),
            By::Alone(_) if method == "notifications/message" => {
                let params = self.params.as_deref().and_then(Members::of);
                params.as_ref().and_then(|params| Members::of(params.get("_meta")?)?.text(LOG_LEVEL)).is_some()
            }
            By::Alone(_) => true,
        }
    }

    /// A modern client before a server with a handshake: what that asks back becomes the result of this call, and the
    /// next one goes on with it.
    async fn ask_and_park(&self, backend: Arc<Backend>, session: &Session, asking: &Asking<'_>, named: &str) -> Result<String, Fault> {
        let asker =
            Asker { owner: self.actor.to_string(), place: self.place.clone(), method: asking.method.to_owned(), of: named.to_owned() };
        let params = self.params.as_deref().and_then(Members::of).unwrap_or_default();
        let (mut ticket, token, backend) = match params.text("requestState") {
            None => {
                let (ticket, token) = self.send(session, asking, None).await?;
                (ticket, token, backend)
            }
            Some(state) => {
                let parked = self.gateway.inner.lot.take(&state, &asker)?;
                let answers = params.get("inputResponses").and_then(Members::of).unwrap_or_default();
                let Some(answer) = answers.get(QUESTION) else { return self.gateway.inner.lot.park(parked) };
                parked.ticket.set_party(Some(self.party()));
                parked.asked.answer(Ok(answer));
                (parked.ticket, parked.token, parked.backend)
            }
        };
        match self.relay(&mut ticket, token.as_deref(), &backend).await? {
            Relayed::Result(result) => Ok(self.shaped(&result, asking.method)),
            Relayed::Asked(question) => {
                // What the server asks meanwhile is not for a call that nobody reads.
                ticket.set_party(None);
                self.gateway.inner.lot.park(Parked { ticket, asked: question, token, backend, asker })
            }
        }
    }

    /// A session before a modern server: what that needs is asked of the client by requests, and the call is made again.
    async fn ask_in_rounds(
        &self,
        client: &Arc<Client>,
        backend: &Backend,
        session: &Session,
        asking: &Asking<'_>,
    ) -> Result<String, Fault> {
        let mut params = asking.params.map(ToOwned::to_owned);
        for _ in 0..MOST_ROUNDS {
            let (mut ticket, token) = self.send(session, asking, params.as_deref()).await?;
            let Relayed::Result(result) = self.relay(&mut ticket, token.as_deref(), backend).await? else {
                return Err(Fault::of(INVALID_REQUEST, "the server asks what a server of its revision may not ask"));
            };
            let wanted = Members::of(&result).unwrap_or_default();
            if wanted.text("resultType").as_deref() != Some("input_required") {
                return Ok(result.get().to_owned());
            }
            let answers = self.fulfil(client, wanted.get("inputRequests")).await?;
            let mut next = asking.params.and_then(Members::of).unwrap_or_default();
            next.set("inputResponses", raw(answers));
            if let Some(state) = wanted.get("requestState") {
                next.set("requestState", state.to_owned());
            }
            params = Some(raw(next.to_string()));
        }
        Err(Fault::of(INVALID_REQUEST, format!("the server asked for input {MOST_ROUNDS} times in a row")))
    }

    /// Asks a client everything that a server wants to know; gives the answers.
    async fn fulfil(&self, client: &Arc<Client>, requests: Option<&RawValue>) -> Result<String, Fault> {
        let requests = requests.and_then(Members::of).unwrap_or_default();
        let mut answers = Members::default();
        for (name, wanted) in requests.iter() {
            let wanted = Members::of(wanted).unwrap_or_default();
            let method = wanted.text("method").unwrap_or_default();
            let asked = if client.is_able(&method) { client.ask_for(&method, wanted.get("params")) } else { None };
            let Some((message, answer)) = asked else {
                return Err(Fault::of(INVALID_REQUEST, "the server asks for something that this client does not offer"));
            };
            self.say_request(client, message).await;
            match answer.answer().await {
                Some(Ok(answer)) => answers.set(name, answer),
                Some(Err(error)) => return Err(Fault::Theirs(error)),
                None => return Err(Fault::of(TIMEOUT, "the client did not answer what the server asks")),
            }
        }
        Ok(answers.to_string())
    }
}

/// What is asked for by these parameters: the name of a tool or a prompt, or the address of a resource.
fn name_in(params: Option<&RawValue>) -> Option<String> {
    let params = params.and_then(Members::of)?;
    params.text("name").or_else(|| params.text("uri"))
}

/// A method as a label: what strangers make up is one.
pub(crate) fn known(method: &str) -> &'static str {
    const METHODS: [&str; 10] = [
        "tools/call",
        "tools/list",
        "prompts/get",
        "prompts/list",
        "resources/read",
        "resources/list",
        "resources/templates/list",
        "resources/subscribe",
        "resources/unsubscribe",
        "completion/complete",
    ];
    METHODS.into_iter().find(|known| *known == method).unwrap_or("other")
}
