//! The front layer: what happens to every request, once, in one place.
//!
//! Request id, caller's address, rate limit, limits of size and time, panics, the body of problems, metrics and
//! the access log.

use std::{
    future::poll_fn,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::{ConnectInfo, DefaultBodyLimit, FromRequestParts, MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt as _;
use ipnet::IpNet;
use prometheus::{HistogramVec, IntCounterVec};

use super::{
    Peer,
    access::{Access, Refusal, Unauthenticated},
    rate::{Key, Limiter},
};
use crate::{
    Actor, Config, Origin,
    actor::{Door, Identity},
    ids,
    problem::{Class, Coded as _, Problem},
    telemetry::Metrics,
};

/// What a body may measure where a route does not say otherwise.
const MAX_BODY: usize = 1 << 20;
/// How long a handler may take until its answer begins.
const HANDLER_LIMIT: Duration = Duration::from_mins(1);
/// The same where somebody else decides how long it takes: a client by its own pace, a server by its work.
const LONG_LIMIT: Duration = Duration::from_hours(6);
/// The routes where that is so; each has limits of its own.
const LONG: &[&str] = &[
    "/api/mcp/cache/import",
    "/api/mcp/audit/verify",
    "/api/mcp/instances/{id}/tools",
    "/api/mcp/instances/{id}/tools/{name}/call",
    "/api/mcp/validate",
    "/api/validate",
    "/packages/install",
    "/packages/{name}/enable",
    "/mcp",
    "/mcp/s/{server}",
    "/mcp/v/{id}",
];
/// How much of a path the access log shows, in characters.
const LOGGED_PATH: usize = 512;
const REQUEST_ID: &str = "x-request-id";
const MAX_REQUEST_ID: usize = 64;
/// How much of a caller's name for itself is kept, in bytes.
const MAX_USER_AGENT: usize = 256;

/// The state of the front layer; cheap to clone.
#[derive(Clone)]
pub struct Front {
    inner: Arc<Inner>,
}

/// The id of the request, as its answer says it.
#[derive(Clone)]
struct RequestId(HeaderValue);

#[derive(Clone)]
struct Inner {
    access: Access,
    door: Door,
    trusted_proxies: Vec<IpNet>,
    limiter: Option<Arc<Limiter>>,
    access_log: bool,
    answers: IntCounterVec,
    seconds: HistogramVec,
}

impl Front {
    /// Of one listener, as the configuration says.
    pub fn new(config: &Config, access: Access, door: Door, metrics: &Metrics) -> Self {
        let buckets = [0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0];
        Self {
            inner: Arc::new(Inner {
                access,
                door,
                trusted_proxies: config.http.trusted_proxies.clone(),
                limiter: config.http.rate_limit.and_then(Limiter::new).map(Arc::new),
                access_log: config.http.access_log,
                answers: metrics.counters("fabric_http_responses_total", "Answers by route and status", &["method", "route", "status"]),
                seconds: metrics.seconds("fabric_http_seconds", "Time until the answer began, by route", &["route"], &buckets),
            }),
        }
    }

    /// The same for another listener: one set of limits and figures for both.
    #[must_use]
    pub fn at(&self, door: Door, access: Access) -> Self {
        Self { inner: Arc::new(Inner { access, door, ..self.inner.as_ref().clone() }) }
    }

    /// The layer that a request came through.
    pub(super) fn of(parts: &Parts) -> Result<Self, Problem> {
        Ok(parts.extensions.get::<Self>().ok_or(Unauthenticated)?.clone())
    }

    /// What decides who a request comes from.
    pub(super) fn access(&self) -> &Access {
        &self.inner.access
    }

    fn count_actor(&self, actor: &Actor) -> Result<(), Problem> {
        self.inner.limiter.as_ref().map_or(Ok(()), |limiter| limiter.check(&Key::Actor(actor.to_string())))
    }

    fn count(&self, method: &Method, route: &str, status: StatusCode, took: Duration) {
        // Methods come from outside: only known ones become a label.
        let method = match *method {
            Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::PATCH | Method::DELETE | Method::OPTIONS => method.as_str(),
            _ => "other",
        };
        self.inner.answers.with_label_values(&[method, route, status.as_str()]).inc();
        self.inner.seconds.with_label_values(&[route]).observe(took.as_secs_f64());
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Actor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let origin = Origin::from_request_parts(parts, state).await?;
        let front = Front::of(parts)?;
        let identity =
            front.access().authenticate(&parts.headers, parts.extensions.get().copied(), &origin, parts.extensions.get()).await?;
        let actor = Self::new(identity, Arc::new(origin));
        front.count_actor(&actor)?;
        Ok(actor)
    }
}

/// Whoever reads what everybody may: an actor, or nobody where no token came. A token that does not count is refused.
pub struct Reader(pub Actor);

impl<S: Send + Sync> FromRequestParts<S> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Actor::from_request_parts(parts, state).await {
            Err(problem) if problem.class == Class::Unauthenticated && !parts.headers.contains_key(header::AUTHORIZATION) => {
                let origin = Origin::from_request_parts(parts, state).await?;
                Ok(Self(Actor::new(Identity::Nobody, Arc::new(origin))))
            }
            found => found.map(Self),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Origin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let front = Front::of(parts)?;
        let id = parts.extensions.get::<RequestId>().map(|id| &id.0);
        Ok(origin(front.inner.door, id, parts.extensions.get().copied(), parts.headers.get(header::USER_AGENT)))
    }
}

fn origin(door: Door, id: Option<&HeaderValue>, peer: Option<Peer>, agent: Option<&HeaderValue>) -> Origin {
    Origin {
        door,
        request_id: id.and_then(|id| id.to_str().ok()).map(str::to_owned),
        address: peer.map(|peer| peer.address),
        user_agent: agent.map(|agent| one_line(agent.as_bytes())),
    }
}

/// A text that a trail and a terminal can show: no control characters, no line ends of any kind, not too long.
fn one_line(bytes: &[u8]) -> String {
    let is_harmless =
        |c: &char| !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut text: String = String::from_utf8_lossy(bytes).chars().map(|c| if is_harmless(&c) { c } else { '\u{fffd}' }).collect();
    text.truncate(text.floor_char_boundary(MAX_USER_AGENT));
    text
}

/// The middleware itself.
pub async fn front(State(front): State<Front>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let request_id = request_id(request.headers());
    let peer = request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .map(|info| Peer::find(info.0, request.headers(), &front.inner.trusted_proxies));
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let agent = request.headers().get(header::USER_AGENT).cloned();
    let path = front.inner.access_log.then(|| request.uri().path().chars().take(LOGGED_PATH).collect::<String>());

    let allowed = match (&front.inner.limiter, peer) {
        (Some(limiter), Some(peer)) => limiter.check(&Key::of_address(peer.address)),
        _ => Ok(()),
    };
    if let Some(peer) = peer {
        request.extensions_mut().insert(peer);
    }
    request.extensions_mut().insert(front.clone());
    request.extensions_mut().insert(RequestId(request_id.clone()));
    DefaultBodyLimit::max(MAX_BODY).apply(&mut request);
    let mut response = match allowed {
        Ok(()) => {
            let is_long = route.as_ref().is_some_and(|route| LONG.contains(&route.as_str()));
            let limit = if is_long { LONG_LIMIT } else { HANDLER_LIMIT };
            named(guarded(next.run(request), limit), &request_id).await
        }
        Err(problem) => problem.into_response(),
    };
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        if problem.class == Class::Forbidden || problem.code == Unauthenticated.code() {
            let origin = Arc::new(origin(front.inner.door, Some(&request_id), peer, agent.as_ref()));
            let call = format!("{method} {}", route.as_ref().map_or("none", MatchedPath::as_str));
            front.inner.access.refused(Refusal { origin, denial: problem.denial.clone(), call });
        }
        response = write_problem(&problem, &request_id, response);
    }
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REQUEST_ID, request_id.clone());

    let took = began.elapsed();
    front.count(&method, route.as_ref().map_or("none", MatchedPath::as_str), response.status(), took);
    if let Some(path) = path {
        tracing::info!(
            target: "access",
            %method,
            path,
            status = response.status().as_u16(),
            ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            peer = peer.map(|peer| peer.address.to_string()),
            request_id = request_id.to_str().unwrap_or_default(),
            "answered"
        );
    }
    response
}

/// The caller's id when it is harmless, else a fresh one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let harmless = |value: &&HeaderValue| {
        value.len() <= MAX_REQUEST_ID
            && !value.is_empty()
            && value.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let given = headers.get(REQUEST_ID).filter(harmless).cloned();
    given.unwrap_or_else(|| {
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let text = ids::fresh().hyphenated().encode_lower(&mut text);
        HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("none"))
    })
}

/// Puts the request id on what is logged while a handler waits for something. An answer from memory waits
/// for nothing, and a span would be a tenth of its cost.
async fn named(handler: impl Future<Output = Response>, request_id: &HeaderValue) -> Response {
    let mut span: Option<tracing::Span> = None;
    let mut handler = pin!(handler);
    poll_fn(|context| {
        let polled = match &span {
            Some(span) => span.in_scope(|| handler.as_mut().poll(context)),
            None => handler.as_mut().poll(context),
        };
        if polled.is_pending() {
            span.get_or_insert_with(|| tracing::info_span!("request", id = request_id.to_str().unwrap_or_default()));
        }
        polled
    })
    .await
}

/// Runs the handler within its time; a panic becomes a 500.
async fn guarded(handler: impl Future<Output = Response>, limit: Duration) -> Response {
    match tokio::time::timeout(limit, AssertUnwindSafe(handler).catch_unwind()).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => {
            let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            let mut problem =
                Problem::new(Class::Internal, "internal", "something went wrong on our side; the request id finds it in the log");
            problem.cause = Some(format!("panic: {}", said.unwrap_or("without a message")));
            problem.into_response()
        }
        Err(_) => Problem::new(Class::Timeout, "timeout", "the answer took too long to make").into_response(),
    }
}

/// Keeps the headers that other layers set (CORS) and logs it, once.
fn write_problem(problem: &Problem, request_id: &HeaderValue, bare: Response) -> Response {
    let request_id = request_id.to_str().unwrap_or_default();
    let status = problem.class.status();
    let cause = problem.cause.as_deref().unwrap_or(&problem.detail);
    if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED {
        tracing::error!(request_id, code = problem.code, status = status.as_u16(), "{cause}");
    } else {
        tracing::debug!(request_id, code = problem.code, status = status.as_u16(), "{cause}");
    }
    let (mut parts, _) = bare.into_parts();
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    parts.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    parts.headers.remove(header::CONTENT_LENGTH);
    if let Some(wait) = problem.retry_after {
        parts.headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)));
    }
    if status == StatusCode::UNAUTHORIZED {
        parts.headers.entry(header::WWW_AUTHENTICATE).or_insert(HeaderValue::from_static("Bearer realm=\"mcp-fabric\""));
    }
    Response::from_parts(parts, Body::from(problem.body(request_id).to_string()))
}

/// No route has this path. A trailing slash is forgiven with a redirect.
#[expect(clippy::unused_async, reason = "axum takes asynchronous handlers")]
pub async fn not_found(request: Request) -> Response {
    let path = request.uri().path();
    let trimmed = path.trim_end_matches('/');
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads && trimmed.len() < path.len() && trimmed.starts_with('/') && !trimmed.starts_with("//") && !trimmed.contains('\\') {
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        if let Ok(target) = HeaderValue::from_str(&format!("{trimmed}{query}")) {
            return (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, target)]).into_response();
        }
    }
    Problem::new(Class::NotFound, "route_not_found", "there is nothing at this path; /openapi.json lists what there is").into_response()
}

/// The path exists, with other methods.
#[expect(clippy::unused_async, reason = "axum takes asynchronous handlers")]
pub async fn method_not_allowed() -> Problem {
    Problem::new(Class::MethodNotAllowed, "method_not_allowed", "this path does not take this method")
}
