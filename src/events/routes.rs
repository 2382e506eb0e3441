use std::collections::BTreeSet;

use async_stream::stream;
use axum::{
    extract::{FromRequestParts, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{
        IntoResponse, Response, Sse,
        sse::{self, KeepAlive},
    },
};
use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use platform::{
    Action, Class, Problem,
    http::{Json, Query, Standing, cors},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    follower::{Followed, Wanted},
    service::Events,
    socket, tickets,
};

/// `/api/mcp/events`, `/api/mcp/ws`.
pub fn router(events: Events) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(follow)).routes(routes!(issue)).routes(routes!(socket::open)).with_state(events)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Asked {
    /// Only these channels, comma-separated: `servers,jobs`.
    channels: Option<String>,
    /// Replay what came after this event, for clients that cannot send `Last-Event-ID`.
    last_event_id: Option<String>,
    /// In the place of a token, for browsers.
    ticket: Option<String>,
}

/// Somebody who wants to follow: by a token, or by a ticket that stands for one.
pub(crate) struct Watcher {
    pub(crate) standing: Standing,
    pub(crate) wanted: Wanted,
    pub(crate) after: Option<i64>,
}

impl FromRequestParts<Events> for Watcher {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, events: &Events) -> Result<Self, Problem> {
        require_known_page(events, &parts.headers)?;
        let Query(asked) = Query::<Asked>::from_request_parts(parts, events).await?;
        if let Some(ticket) = &asked.ticket {
            let token = redeem(events, ticket, &parts.headers).await?;
            parts.headers.insert(header::AUTHORIZATION, token);
        }
        let after = match parts.headers.get("last-event-id") {
            Some(value) => Some(parse_id(value.to_str().unwrap_or_default(), "header.last-event-id")?),
            None => asked.last_event_id.as_deref().map(|text| parse_id(text, "query.last_event_id")).transpose()?,
        };
        let standing = Standing::from_request_parts(parts, events).await?;
        let wanted = match &asked.channels {
            Some(list) => {
                let names = list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
                wanted(events, names.collect()).map_err(|unknown| Problem::field("unknown_channel", "query.channels", unknown))?
            }
            None => Wanted::All,
        };
        Ok(Self { standing, wanted, after })
    }
}

/// A WebSocket knows no preflight: a page elsewhere is refused here.
fn require_known_page(events: &Events, headers: &HeaderMap) -> Result<(), Problem> {
    let is_known = |origin: &str| tickets::is_own(origin, headers) || cors::is_among(events.origins(), origin);
    if tickets::origin_of(headers).is_none_or(is_known) {
        return Ok(());
    }
    Err(Problem::new(Class::Forbidden, "unknown_origin", "this page is not among FABRIC_CORS_ORIGINS"))
}

async fn redeem(events: &Events, ticket: &str, headers: &HeaderMap) -> Result<HeaderValue, Problem> {
    if headers.contains_key(header::AUTHORIZATION) {
        return Err(Problem::field("ticket_and_token", "query.ticket", "is given beside a token: send one of the two"));
    }
    let token = events.redeem_ticket(ticket, headers).await?.and_then(|token| HeaderValue::from_bytes(&token).ok());
    let mut token = token.ok_or_else(|| {
        // The code by which the trail hears of it.
        Problem::new(
            Class::Unauthenticated,
            "unauthenticated",
            "the ticket is used up, has ended, or is of another page; ask for another one",
        )
    })?;
    token.set_sensitive(true);
    Ok(token)
}

/// The channels that are named, `*` for all; else a sentence about the first that there is not.
pub(crate) fn wanted(events: &Events, names: BTreeSet<String>) -> Result<Wanted, String> {
    if names.contains("*") {
        return Ok(Wanted::All);
    }
    let known = events.channels();
    if names.iter().all(|name| known.contains(name.as_str())) {
        return Ok(Wanted::Only(names));
    }
    Err(format!("names a channel that there is not; there are {}", known.into_iter().collect::<Vec<_>>().join(", ")))
}

/// Follow what changes, as server-sent events.
///
/// Each event is `{id, type, channel, server, payload, timestamp}`; docs/events.md lists the types. With `Last-Event-ID` the
/// events since then come first; when some of those are no longer kept, an `EVENTS_LOST` event says so. The stream ends with
/// the login or the token that it was asked for with.
#[utoipa::path(get, path = "/api/mcp/events", tag = "events", params(Asked), security(("token" = []), ()),
    responses((status = 200, description = "The stream", content_type = "text/event-stream", body = String),
    (status = 400, description = "There is no such channel or event id"), (status = 401, description = "The ticket does not count"),
    (status = 403, description = "A page that may not call this fabric")))]
async fn follow(State(events): State<Events>, watcher: Watcher) -> Result<Response, Problem> {
    let Watcher { standing, wanted, after } = watcher;
    let mut follower = events.follow(&standing.actor, wanted, after).await?;
    let counted = events.count("sse");
    let told = stream! {
        let _counted = counted;
        while let Some(next) = follower.next().await {
            match next {
                Ok(Followed::Event(event)) => {
                    yield Ok(sse::Event::default().id(event.id.to_string()).event(&event.kind).data(event.text().as_str()));
                }
                Ok(Followed::Gap { oldest }) => {
                    yield Ok(sse::Event::default().event("EVENTS_LOST").data(lost(oldest)));
                }
                Err(error) => {
                    yield Err(error);
                    return;
                }
            }
        }
    };
    let no_store = [(header::CACHE_CONTROL, "no-store"), (header::HeaderName::from_static("x-accel-buffering"), "no")];
    let told = told.take_until(Box::pin(standing.ended()));
    Ok((no_store, Sse::new(told).keep_alive(KeepAlive::default())).into_response())
}

/// What who comes back too late is told.
pub(crate) fn lost(oldest: i64) -> String {
    json!({ "type": "EVENTS_LOST", "channel": "events", "payload": { "oldest": oldest } }).to_string()
}

#[derive(Serialize, ToSchema)]
struct TicketOut {
    /// For `?ticket=`, once.
    ticket: String,
    /// Until when it counts.
    expires_at: DateTime<Utc>,
}

/// Get a ticket for a browser's `EventSource` or `WebSocket`, which cannot send a token.
///
/// It counts once, for thirty seconds, for the page that asked, with the rights of the token.
#[utoipa::path(post, path = "/api/mcp/events/ticket", tag = "events", security(("token" = [])),
    responses((status = 201, description = "The ticket", body = TicketOut), (status = 400, description = "No token was sent")))]
async fn issue(State(events): State<Events>, standing: Standing, headers: HeaderMap) -> Result<Response, Problem> {
    standing.actor.require(Action::EventsRead)?;
    require_known_page(&events, &headers)?;
    let token = headers.get(header::AUTHORIZATION).ok_or_else(|| {
        Problem::field(
            "token_needed",
            "header.authorization",
            "is not there: a ticket stands for a token; calls that are trusted without one need no ticket",
        )
    })?;
    let origin = tickets::origin_of(&headers).map(str::to_owned);
    let tickets::Issued { ticket, expires_at } = events.issue_ticket(token.as_bytes(), origin).await?;
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(TicketOut { ticket, expires_at })).into_response())
}

fn parse_id(text: &str, location: &str) -> Result<i64, Problem> {
    text.parse().ok().filter(|id| *id >= 0).ok_or_else(|| Problem::field("invalid_event_id", location, "is not the id of an event"))
}
