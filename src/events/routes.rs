use axum::{
    extract::State,
    http::{HeaderMap, header},
    response::{
        IntoResponse, Response, Sse,
        sse::{self, KeepAlive},
    },
};
use futures_util::StreamExt as _;
use platform::{
    Problem,
    http::{Query, Standing},
};
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::service::{Events, Followed};

/// `/api/mcp/events`.
pub fn router(events: Events) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(follow)).with_state(events)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Only these channels, comma-separated: `jobs,catalogue`.
    channels: Option<String>,
    /// Replay what came after this event, for clients that cannot send `Last-Event-ID`.
    last_event_id: Option<String>,
}

/// Follow what changes, as server-sent events.
///
/// Each event is `{id, type, channel, payload, timestamp}`. With `Last-Event-ID` the events since then
/// come first; when some of those are no longer kept, an `EVENTS_LOST` event says so. The stream ends with the login or
/// the token that it was asked for with.
#[utoipa::path(get, path = "/api/mcp/events", tag = "events", params(Filter), security(("token" = [])),
    responses((status = 200, description = "The stream", content_type = "text/event-stream", body = String)))]
async fn follow(
    State(events): State<Events>,
    standing: Standing,
    headers: HeaderMap,
    Query(filter): Query<Filter>,
) -> Result<Response, Problem> {
    let after = match headers.get("last-event-id") {
        Some(value) => Some(parse_id(value.to_str().unwrap_or_default(), "header.last-event-id")?),
        None => filter.last_event_id.as_deref().map(|text| parse_id(text, "query.last_event_id")).transpose()?,
    };
    let channels: Option<Vec<String>> = filter
        .channels
        .map(|list| list.split(',').map(|channel| channel.trim().to_owned()).filter(|channel| !channel.is_empty()).collect());
    let stream = events.follow(&standing.actor, after).await?.filter_map(move |followed| {
        let wanted = |channel: &str| channels.as_ref().is_none_or(|list| list.iter().any(|item| item == channel));
        let sent = match followed {
            Ok(Followed::Event(event)) if wanted(&event.channel) => {
                Some(Ok(sse::Event::default().id(event.id.to_string()).event(&event.kind).data(event.wire().to_string())))
            }
            Ok(Followed::Event(_)) => None,
            Ok(Followed::Gap { oldest }) => {
                let lost = json!({ "type": "EVENTS_LOST", "channel": "events", "payload": { "oldest": oldest } });
                Some(Ok(sse::Event::default().event("EVENTS_LOST").data(lost.to_string())))
            }
            Err(error) => Some(Err(error)),
        };
        std::future::ready(sent)
    });
    let no_store = [(header::CACHE_CONTROL, "no-store"), (header::HeaderName::from_static("x-accel-buffering"), "no")];
    Ok((no_store, Sse::new(stream.take_until(Box::pin(standing.ended()))).keep_alive(KeepAlive::default())).into_response())
}

fn parse_id(text: &str, location: &str) -> Result<i64, Problem> {
    text.parse().ok().filter(|id| *id >= 0).ok_or_else(|| Problem::field("invalid_event_id", location, "is not the id of an event"))
}
