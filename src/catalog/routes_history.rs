use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use chrono::{DateTime, Utc};
use platform::{
    Actor, Problem,
    http::{Json, Path, Query, extract::if_match},
    page::{self, PageParams, PageRequest},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use servers::Visibility;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Catalog,
    model::Revision,
    routes::{server, shown},
};

/// Below `/api/mcp/catalog/{id}`.
pub(crate) fn router() -> OpenApiRouter<Catalog> {
    OpenApiRouter::new().routes(routes!(history)).routes(routes!(revision)).routes(routes!(difference)).routes(routes!(restore))
}

/// How a server was after a change.
#[derive(Serialize, ToSchema)]
struct RevisionOut {
    revision: i64,
    /// Who changed it, as actors are written.
    changed_by: String,
    changed_at: DateTime<Utc>,
    note: Option<String>,
    visibility: Visibility,
    hidden: bool,
    #[schema(value_type = Object)]
    metadata: Value,
    /// Its server.json, of a server that was made here; of one revision, not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    document: Option<Value>,
}

impl From<Revision> for RevisionOut {
    fn from(kept: Revision) -> Self {
        let Revision { number, document, metadata, visibility, is_hidden, changed_by, changed_at, note } = kept;
        Self { revision: number, changed_by, changed_at, note, visibility, hidden: is_hidden, metadata, document }
    }
}

#[derive(Serialize, ToSchema)]
struct History {
    revisions: Vec<RevisionOut>,
    next_cursor: Option<String>,
}

/// List what a server was, the newest first; for its owner and administrators.
#[utoipa::path(get, path = "/api/mcp/catalog/{id}/history", tag = "catalog", security(("token" = [])), params(("id" = String, Path), PageParams),
    responses((status = 200, body = History), (status = 404, description = "No such server, or none that you may see")))]
async fn history(
    State(catalog): State<Catalog>,
    actor: Actor,
    Path(id): Path<String>,
    page: PageRequest<i64>,
) -> Result<Json<History>, Problem> {
    let kept = catalog.history(&actor, &server(&id)?, page.after, page.limit + 1).await?;
    let (kept, next_cursor) = page::cut(kept, page.limit, |last| last.number);
    let revisions = kept.into_iter().map(|one| RevisionOut { document: None, ..one.into() }).collect();
    Ok(Json(History { revisions, next_cursor }))
}

/// Show what a server was.
#[utoipa::path(get, path = "/api/mcp/catalog/{id}/history/{revision}", tag = "catalog", security(("token" = [])),
    params(("id" = String, Path), ("revision" = i64, Path)),
    responses((status = 200, body = RevisionOut), (status = 404, description = "No such server or revision")))]
async fn revision(
    State(catalog): State<Catalog>,
    actor: Actor,
    Path((id, revision)): Path<(String, i64)>,
) -> Result<Json<RevisionOut>, Problem> {
    Ok(Json(catalog.revision(&actor, &server(&id)?, revision).await?.into()))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct DifferenceQuery {
    /// The revision to begin with; the one before `to`, where it is left out.
    from: Option<i64>,
    /// The revision to end with; the newest, where it is left out.
    to: Option<i64>,
}

#[derive(Serialize, ToSchema)]
struct DifferenceOut {
    from: i64,
    to: i64,
    /// JSON Patch (RFC 6902) over `document`, `metadata`, `visibility` and `hidden`.
    #[schema(value_type = Vec<Object>)]
    patch: Value,
}

/// What changed of a server between two revisions.
#[utoipa::path(get, path = "/api/mcp/catalog/{id}/diff", tag = "catalog", security(("token" = [])), params(("id" = String, Path), DifferenceQuery),
    responses((status = 200, body = DifferenceOut), (status = 404, description = "No such server or revision")))]
async fn difference(
    State(catalog): State<Catalog>,
    actor: Actor,
    Path(id): Path<String>,
    Query(query): Query<DifferenceQuery>,
) -> Result<Json<DifferenceOut>, Problem> {
    let found = catalog.difference(&actor, &server(&id)?, query.from, query.to).await?;
    Ok(Json(DifferenceOut { from: found.from, to: found.to, patch: found.patch }))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RestoreIn {
    revision: i64,
    /// Why, for the history.
    note: Option<String>,
}

/// Make a server what it was: its document and metadata, as a new revision. Who sees it stays as it is.
#[utoipa::path(post, path = "/api/mcp/catalog/{id}/restore", tag = "catalog", request_body = RestoreIn, security(("token" = [])),
    params(("id" = String, Path)), responses((status = 200, description = "The server"), (status = 404, description = "No such server or revision"),
    (status = 412, description = "If-Match names another revision")))]
async fn restore(
    State(catalog): State<Catalog>,
    actor: Actor,
    headers: HeaderMap,
    Path(id): Path<String>,
    Json(body): Json<RestoreIn>,
) -> Result<Response, Problem> {
    let restored = catalog.restore(&actor, &server(&id)?, body.revision, body.note, if_match(&headers)?).await?;
    Ok(shown(StatusCode::OK, &actor, restored))
}
