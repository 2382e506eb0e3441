use axum::{
    extract::{DefaultBodyLimit, Request, State},
    http::StatusCode,
};
use chrono::{DateTime, Utc};
use platform::{
    Actor, Problem,
    http::{Json, Query, extract},
    page::{self, PageParams, PageRequest},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{
    history::{Kind, Mode, Run, RunId, RunStatus},
    service::Sync,
};

/// A posted page may hold a thousand large documents.
const MAX_IMPORT: usize = 64 << 20;

/// `/api/mcp/sync`.
pub fn router(sync: Sync) -> OpenApiRouter {
    let import = OpenApiRouter::new().routes(routes!(import)).layer(DefaultBodyLimit::max(MAX_IMPORT));
    OpenApiRouter::new().routes(routes!(status)).routes(routes!(trigger)).routes(routes!(history)).merge(import).with_state(sync)
}

#[derive(Serialize, ToSchema)]
struct RunOut {
    run_id: RunId,
    job_id: Option<Uuid>,
    kind: Kind,
    status: RunStatus,
    started_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    pages: i32,
    seen: i32,
    inserted: i32,
    updated: i32,
    deleted: i32,
    skipped: i32,
    /// `{code, message}`.
    error: Option<Value>,
}

impl From<Run> for RunOut {
    fn from(run: Run) -> Self {
        Self {
            run_id: run.id,
            job_id: run.job_id,
            kind: run.kind,
            status: run.status,
            started_at: run.started_at,
            finished_at: run.finished_at,
            pages: run.pages,
            seen: run.seen,
            inserted: run.inserted,
            updated: run.updated,
            deleted: run.deleted,
            skipped: run.skipped,
            error: run.error,
        }
    }
}

#[derive(Serialize, ToSchema)]
struct UpstreamOut {
    url: String,
    /// Requests that failed in a row.
    failures: u32,
    /// Until when it is left alone.
    resting_until: Option<DateTime<Utc>>,
    last_success_at: Option<DateTime<Utc>>,
    /// The last success is older than a day.
    stale: bool,
}

#[derive(Serialize, ToSchema)]
struct SyncStatus {
    running: bool,
    current: Option<RunOut>,
    last: Option<RunOut>,
    next_run_at: Option<DateTime<Utc>>,
    servers: i64,
    versions: i64,
    upstream: UpstreamOut,
}

/// How the mirror stands.
#[utoipa::path(get, path = "/api/mcp/sync/status", tag = "sync", responses((status = 200, description = "The status", body = SyncStatus)))]
async fn status(State(sync): State<Sync>) -> Result<Json<SyncStatus>, Problem> {
    let standing = sync.standing().await?;
    let freshness = standing.freshness;
    Ok(Json(SyncStatus {
        running: standing.current.is_some(),
        current: standing.current.map(Into::into),
        last: standing.last.map(Into::into),
        next_run_at: standing.next_run_at,
        servers: standing.servers,
        versions: standing.versions,
        upstream: UpstreamOut {
            url: sync.upstream().shown_url().to_owned(),
            failures: freshness.failures,
            resting_until: freshness.resting_until,
            last_success_at: freshness.last_success,
            stale: freshness.is_stale,
        },
    }))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct TriggerQuery {
    /// `full`, `incremental` or `reconcile`; without it, what is due.
    #[param(value_type = Option<Mode>)]
    mode: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct Triggered {
    run_id: RunId,
    job_id: Option<Uuid>,
    kind: Kind,
    status: &'static str,
}

/// Start a sync.
#[utoipa::path(post, path = "/api/mcp/sync/trigger", tag = "sync", params(TriggerQuery), security(("token" = [])),
    responses((status = 202, description = "It begins", body = Triggered), (status = 409, description = "One is running already")))]
async fn trigger(
    State(sync): State<Sync>,
    actor: Actor,
    Query(query): Query<TriggerQuery>,
) -> Result<(StatusCode, Json<Triggered>), Problem> {
    let parse =
        |text: String| text.parse().map_err(|_| Problem::field("invalid_mode", "query.mode", "must be full, incremental or reconcile"));
    let mode: Option<Mode> = query.mode.map(parse).transpose()?;
    let run = sync.trigger(&actor, mode).await?;
    Ok((StatusCode::ACCEPTED, Json(Triggered { run_id: run.id, job_id: run.job_id, kind: run.kind, status: "pending" })))
}

#[derive(Serialize, ToSchema)]
struct HistoryItem {
    #[serde(flatten)]
    run: RunOut,
    /// The entries that could not be taken, with the reasons.
    skipped_entries: Value,
}

#[derive(Serialize, ToSchema)]
struct History {
    runs: Vec<HistoryItem>,
    next_cursor: Option<String>,
}

/// List runs, newest first.
#[utoipa::path(get, path = "/api/mcp/sync/history", tag = "sync", params(PageParams), security(("token" = [])),
    responses((status = 200, description = "One page", body = History)))]
async fn history(State(sync): State<Sync>, actor: Actor, page: PageRequest<RunId>) -> Result<Json<History>, Problem> {
    let runs = sync.history(&actor, page.after, page.limit + 1).await?;
    let (runs, next_cursor) = page::cut(runs, page.limit, |run| run.id);
    let item = |run: Run| HistoryItem { skipped_entries: run.skipped_entries.clone(), run: run.into() };
    Ok(Json(History { runs: runs.into_iter().map(item).collect(), next_cursor }))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ImportQuery {
    /// The import that this page belongs to; without it, a new one begins.
    #[param(value_type = Option<Uuid>)]
    run_id: Option<String>,
    /// Whether this is its last page.
    #[serde(default)]
    last: bool,
}

/// Take a page of a registry from a file: the body is what a registry answers to `GET /v0.1/servers`.
#[utoipa::path(post, path = "/api/mcp/sync/import", tag = "sync", params(ImportQuery), security(("token" = [])), request_body = Object,
    responses((status = 200, description = "What the import has done so far", body = HistoryItem), (status = 400, description = "Not a page")))]
async fn import(
    State(sync): State<Sync>,
    actor: Actor,
    Query(query): Query<ImportQuery>,
    request: Request,
) -> Result<Json<HistoryItem>, Problem> {
    let parse = |text: String| text.parse().map_err(|_| Problem::field("invalid_run_id", "query.run_id", "is not the id of a run"));
    let run_id: Option<RunId> = query.run_id.map(parse).transpose()?;
    let body = extract::body(request, &()).await?;
    let run = sync.import(&actor, run_id, query.last, &body).await?;
    Ok(Json(HistoryItem { skipped_entries: run.skipped_entries.clone(), run: run.into() }))
}
