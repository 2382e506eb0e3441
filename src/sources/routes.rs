use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use platform::{
    Actor, Problem,
    http::{
        Json, Path,
        extract::{etag, if_match},
    },
    page::{self, PageRequest},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Sources,
    error::SourcesError,
    model::{Source, SourceId},
};

/// `/api/mcp/sources`.
pub fn router(sources: Sources) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(one, update, remove)).with_state(sources)
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SourceIn {
    /// What it is: any word; a server's id makes that server's tools reachable by it.
    #[serde(rename = "type")]
    #[schema(example = "snowflake")]
    kind: String,
    /// How it is reached. Values of keys that look like secrets go into the vault, and are read back as `[secret]`.
    #[serde(default, alias = "source_metadata", alias = "sourceMetadata")]
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SourceChangeIn {
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Takes the place of what there was; `[secret]` leaves a secret as it is.
    #[serde(default, alias = "source_metadata", alias = "sourceMetadata")]
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
}

#[derive(Serialize, ToSchema)]
struct SourceOut {
    id: SourceId,
    #[serde(rename = "type")]
    kind: String,
    #[schema(value_type = Object)]
    source_metadata: Map<String, Value>,
    /// For `If-Match`.
    revision: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<Source> for SourceOut {
    fn from(found: Source) -> Self {
        let Source { id, owner: _, kind, metadata, revision, created_at, updated_at } = found;
        Self { id, kind, source_metadata: metadata, revision, created_at, updated_at }
    }
}

#[derive(Serialize, ToSchema)]
struct SourcesOut {
    sources: Vec<SourceOut>,
    next_cursor: Option<String>,
}

fn shown(status: StatusCode, source: Source) -> Response {
    let etag = etag(source.revision);
    let headers = [(header::ETAG, etag), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (status, headers, Json(SourceOut::from(source))).into_response()
}

fn id(text: &str) -> Result<SourceId, SourcesError> {
    text.parse().map_err(|_| SourcesError::NotFound)
}

/// List your data sources.
#[utoipa::path(get, path = "/api/mcp/sources", tag = "sources", security(("token" = [])), params(page::PageParams),
    responses((status = 200, body = SourcesOut)))]
async fn list(State(sources): State<Sources>, actor: Actor, page: PageRequest<SourceId>) -> Result<Json<SourcesOut>, Problem> {
    let found = sources.list(&actor, page.after, page.limit + 1).await?;
    let (found, next_cursor) = page::cut(found, page.limit, |last| last.id);
    Ok(Json(SourcesOut { sources: found.into_iter().map(Into::into).collect(), next_cursor }))
}

/// Make a data source.
#[utoipa::path(post, path = "/api/mcp/sources", tag = "sources", request_body = SourceIn, security(("token" = [])),
    responses((status = 201, body = SourceOut), (status = 400, description = "A field cannot be used")))]
async fn create(State(sources): State<Sources>, actor: Actor, Json(body): Json<SourceIn>) -> Result<Response, Problem> {
    Ok(shown(StatusCode::CREATED, sources.create(&actor, &body.kind, body.metadata).await?))
}

/// Show one of your data sources.
#[utoipa::path(get, path = "/api/mcp/sources/{id}", tag = "sources", security(("token" = [])), params(("id" = String, Path)),
    responses((status = 200, body = SourceOut), (status = 404, description = "You have no such source")))]
async fn one(State(sources): State<Sources>, actor: Actor, Path(name): Path<String>) -> Result<Response, Problem> {
    Ok(shown(StatusCode::OK, sources.get(&actor, id(&name)?).await?))
}

/// Change one of your data sources; what is left out stays.
#[utoipa::path(put, path = "/api/mcp/sources/{id}", tag = "sources", request_body = SourceChangeIn, security(("token" = [])),
    params(("id" = String, Path)), responses((status = 200, body = SourceOut), (status = 404, description = "You have no such source"),
    (status = 412, description = "If-Match names another revision")))]
async fn update(
    State(sources): State<Sources>,
    actor: Actor,
    headers: HeaderMap,
    Path(name): Path<String>,
    Json(body): Json<SourceChangeIn>,
) -> Result<Response, Problem> {
    let changed = sources.update(&actor, id(&name)?, body.kind.as_deref(), body.metadata, if_match(&headers)?).await?;
    Ok(shown(StatusCode::OK, changed))
}

/// Remove one of your data sources; it is in no virtual server any more.
#[utoipa::path(delete, path = "/api/mcp/sources/{id}", tag = "sources", security(("token" = [])), params(("id" = String, Path)),
    responses((status = 204, description = "Removed"), (status = 404, description = "You have no such source"),
    (status = 412, description = "If-Match names another revision")))]
async fn remove(State(sources): State<Sources>, actor: Actor, headers: HeaderMap, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    sources.remove(&actor, id(&name)?, if_match(&headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
