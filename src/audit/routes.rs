use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use platform::{
    Actor, Problem,
    http::{Json, Query},
    page::{self, PageRequest},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Audit, Event,
    export::Format,
    model::{EventType, Outcome},
    service::Filter,
    verify::Report,
};

/// `/api/mcp/audit`.
pub fn router(audit: Audit) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(export)).routes(routes!(verify)).with_state(audit)
}

#[derive(Serialize, ToSchema)]
struct EventList {
    events: Vec<Event>,
    next_cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// Who acted: `user:<id>`, `service:<id>`, `operator`, `system:<job>`.
    actor: Option<String>,
    /// Whose it was, written like an actor.
    owner: Option<String>,
    /// Exactly this action: `credential.store`.
    action: Option<String>,
    /// What kind of thing happened.
    #[param(value_type = Option<EventType>)]
    event_type: Option<String>,
    /// What came of it.
    #[param(value_type = Option<Outcome>)]
    outcome: Option<String>,
    /// About which server.
    server_id: Option<String>,
    /// Done to which thing.
    target_id: Option<String>,
    /// Not before this moment (RFC 3339).
    #[param(value_type = Option<DateTime<Utc>>)]
    from: Option<String>,
    /// Before this moment.
    #[param(value_type = Option<DateTime<Utc>>)]
    to: Option<String>,
    /// How many (1 to 1000, default 50).
    #[param(value_type = Option<u32>)]
    #[serde(rename = "limit")]
    _limit: Option<String>,
    /// From the page before.
    #[serde(rename = "cursor")]
    _cursor: Option<String>,
    /// How an export is written.
    #[param(value_type = Option<Format>)]
    format: Option<String>,
}

impl Asked {
    fn filter(self) -> Result<Filter, Problem> {
        let word = |location: &str| Problem::field("invalid_filter", location, "is none of the words that this can be");
        Ok(Filter {
            owner: self.owner,
            actor: self.actor,
            action: self.action,
            event_type: self.event_type.map(|text| text.parse().map_err(|_| word("query.event_type"))).transpose()?,
            outcome: self.outcome.map(|text| text.parse().map_err(|_| word("query.outcome"))).transpose()?,
            server_id: self.server_id,
            target_id: self.target_id,
            from: self.from.as_deref().map(|text| moment("query.from", text)).transpose()?,
            to: self.to.as_deref().map(|text| moment("query.to", text)).transpose()?,
        })
    }
}

/// A moment that the trail can have: RFC 3339, with a year of four digits.
fn moment(location: &str, text: &str) -> Result<DateTime<Utc>, Problem> {
    let refused = || Problem::field("invalid_filter", location, "is not a moment such as 2026-01-02T03:04:05Z");
    let at: DateTime<Utc> = text.parse().map_err(|_| refused())?;
    if ("1970-01-01T00:00:00Z".."9999-01-01T00:00:00Z").contains(&at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true).as_str()) {
        Ok(at)
    } else {
        Err(refused())
    }
}

/// List events, newest first: one's own, or all for admins and auditors.
#[utoipa::path(get, path = "/api/mcp/audit", tag = "audit", params(Asked), security(("token" = [])),
    responses((status = 200, description = "One page", body = EventList)))]
async fn list(
    State(audit): State<Audit>,
    actor: Actor,
    page: PageRequest<i64, 1000>,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let rows = audit.list(&actor, asked.filter()?, page.after, page.limit + 1).await?;
    let (events, next_cursor) = page::cut(rows, page.limit, |event| event.seq);
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(EventList { events, next_cursor })).into_response())
}

/// Export events, oldest first: JSONL with a signed last line, or CSV.
#[utoipa::path(get, path = "/api/mcp/audit/export", tag = "audit", params(Asked), security(("token" = [])),
    responses((status = 200, description = "The file", body = String, content_type = "application/x-ndjson")))]
async fn export(State(audit): State<Audit>, actor: Actor, Query(asked): Query<Asked>) -> Result<Response, Problem> {
    let unknown = || Problem::field("invalid_format", "query.format", "must be jsonl or csv");
    let format = asked.format.as_deref().map_or(Ok(Format::Jsonl), |text| text.parse().map_err(|_| unknown()))?;
    let (content_type, file) = match format {
        Format::Jsonl => ("application/x-ndjson", "attachment; filename=\"audit.jsonl\""),
        Format::Csv => ("text/csv; charset=utf-8", "attachment; filename=\"audit.csv\""),
    };
    let lines = audit.export(&actor, asked.filter()?, format).await?;
    let body = Body::from_stream(lines.inspect_err(|error| tracing::error!(%error, "an export of the audit trail was cut")));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CONTENT_DISPOSITION, HeaderValue::from_static(file)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((StatusCode::OK, headers, body).into_response())
}

/// Look whether the trail is whole; names the first thing that is wrong.
#[utoipa::path(post, path = "/api/mcp/audit/verify", tag = "audit", security(("token" = [])),
    responses((status = 200, description = "What was found", body = Report)))]
async fn verify(State(audit): State<Audit>, actor: Actor) -> Result<Json<Report>, Problem> {
    Ok(Json(audit.verify(&actor).await?))
}
