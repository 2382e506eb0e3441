use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use configurations::{Strategy, TemplateId};
use jobs::JobId;
use platform::{
    Actor, Problem,
    http::{Json, Path},
    page::{self, PageRequest},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Bulk,
    error::BulkError,
    model::{BulkId, BulkOperation, Counts, Direction, Item, ItemStatus, Operation, Status},
    plan::{Outcome, Which},
    service::{Meant, Order},
};

/// `/api/mcp/bulk`.
pub fn router(bulk: Bulk) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(begin, list))
        .routes(routes!(one))
        .routes(routes!(cancel))
        .routes(routes!(retry))
        .routes(routes!(roll_back))
        .with_state(bulk)
}

/// One action over many servers.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BulkIn {
    /// What is done to each.
    action: Operation,
    /// To these, by id or UUID: 1 to 1000.
    #[serde(alias = "serverIds")]
    server_ids: Option<Vec<String>>,
    /// Or to those that fit: of the catalogue for `install` and `cache`, else of what you have configured.
    filter: Option<Which>,
    /// Of `apply_template`: the template that is laid over the configuration of each.
    #[serde(alias = "templateId")]
    template_id: Option<TemplateId>,
    /// Of `import`: an export, or the file of Claude, Cursor or VS Code, without secrets.
    #[schema(value_type = Option<Object>)]
    document: Option<Map<String, Value>>,
    /// Of `import`: what becomes of what is there already (default: `overlay`).
    strategy: Option<Strategy>,
    /// Only say what would be done.
    #[serde(default, alias = "dryRun")]
    dry_run: bool,
    /// All or nothing: when one fails, what was done is undone.
    #[serde(default)]
    atomic: bool,
}

#[derive(Serialize, ToSchema)]
struct BegunOut {
    bulk_id: BulkId,
    job_id: Option<JobId>,
    status: Status,
    total: i64,
}

#[derive(Serialize, ToSchema)]
struct RehearsedOut {
    dry_run: bool,
    total: usize,
    items: Vec<RehearsedItemOut>,
}

#[derive(Serialize, ToSchema)]
struct RehearsedItemOut {
    server_id: String,
    outcome: Outcome,
}

#[derive(Serialize, ToSchema)]
struct OperationOut {
    bulk_id: BulkId,
    action: Operation,
    direction: Direction,
    atomic: bool,
    status: Status,
    job_id: Option<JobId>,
    counts: Counts,
    created_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
}

impl From<BulkOperation> for OperationOut {
    fn from(found: BulkOperation) -> Self {
        let BulkOperation { id, asker: _, operation, direction, atomic, status, job, generation: _, created_at, finished_at, counts } =
            found;
        Self { bulk_id: id, action: operation, direction, atomic, status, job_id: job, counts, created_at, finished_at }
    }
}

#[derive(Serialize, ToSchema)]
struct ItemOut {
    server_id: String,
    status: ItemStatus,
    /// `{code, message}` of what went wrong.
    error: Option<ItemErrorOut>,
    #[schema(value_type = Option<Object>)]
    result: Option<Value>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
}

#[derive(Serialize, ToSchema)]
struct ItemErrorOut {
    code: String,
    message: String,
}

impl From<Item> for ItemOut {
    fn from(found: Item) -> Self {
        let Item { n: _, server_id, wanted: _, status, before: _, error, result, started_at, finished_at } = found;
        let error = error.map(|(code, message)| ItemErrorOut { code, message });
        Self { server_id, status, error, result, started_at, finished_at }
    }
}

#[derive(Serialize, ToSchema)]
struct OneOut {
    #[serde(flatten)]
    operation: OperationOut,
    items: Vec<ItemOut>,
}

#[derive(Serialize, ToSchema)]
struct OperationsOut {
    operations: Vec<OperationOut>,
    next_cursor: Option<String>,
}

fn begun(operation: &BulkOperation) -> Response {
    let body = BegunOut { bulk_id: operation.id, job_id: operation.job, status: operation.status, total: operation.counts.total };
    let location = HeaderValue::from_str(&format!("/api/mcp/bulk/{}", operation.id)).unwrap_or(HeaderValue::from_static("/api/mcp/bulk"));
    (StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(body)).into_response()
}

/// Do one thing to many servers.
#[utoipa::path(post, path = "/api/mcp/bulk", tag = "bulk", security(("token" = [])), request_body = BulkIn,
    responses((status = 202, description = "A job does it", body = BegunOut), (status = 200, description = "What would be done (`dry_run`)", body = RehearsedOut),
    (status = 400, description = "A server is not there, or the action has no opposite"), (status = 429, description = "Too many of yours wait or run")))]
async fn begin(State(bulk): State<Bulk>, actor: Actor, Json(body): Json<BulkIn>) -> Result<Response, Problem> {
    let BulkIn { action, server_ids, filter, template_id, document, strategy, dry_run, atomic } = body;
    let meant = match (server_ids, filter, document) {
        (Some(named), None, None) => Meant::Named(named),
        (None, Some(which), None) => Meant::Found(which),
        (None, None, Some(document)) => Meant::Filed(document, strategy.unwrap_or(Strategy::Overlay)),
        _ => {
            return Err(
                BulkError::field("body.server_ids", "or a filter has to be given, or a document to import, and only one of them").into()
            );
        }
    };
    let order = Order { operation: action, meant, template: template_id, atomic };
    if dry_run {
        let items = bulk.rehearse(&actor, order).await?;
        let items: Vec<_> = items.into_iter().map(|(server_id, outcome)| RehearsedItemOut { server_id, outcome }).collect();
        return Ok(Json(RehearsedOut { dry_run, total: items.len(), items }).into_response());
    }
    Ok(begun(&bulk.begin(&actor, order).await?))
}

/// List your operations over many servers, newest first.
#[utoipa::path(get, path = "/api/mcp/bulk", tag = "bulk", security(("token" = [])), params(page::PageParams), responses((status = 200, body = OperationsOut)))]
async fn list(State(bulk): State<Bulk>, actor: Actor, page: PageRequest<BulkId>) -> Result<Json<OperationsOut>, Problem> {
    let found = bulk.list(&actor, page.after, page.limit + 1).await?;
    let (found, next_cursor) = page::cut(found, page.limit, |last| last.id);
    Ok(Json(OperationsOut { operations: found.into_iter().map(Into::into).collect(), next_cursor }))
}

/// Show an operation, and where each of its servers stands.
#[utoipa::path(get, path = "/api/mcp/bulk/{id}", tag = "bulk", security(("token" = [])), params(("id" = BulkId, Path)),
    responses((status = 200, body = OneOut), (status = 404, description = "You have no such operation")))]
async fn one(State(bulk): State<Bulk>, actor: Actor, Path(id): Path<String>) -> Result<Json<OneOut>, Problem> {
    let (operation, items) = bulk.get(&actor, parse(&id)?).await?;
    Ok(Json(OneOut { operation: operation.into(), items: items.into_iter().map(Into::into).collect() }))
}

/// Stop an operation: what is done stays.
#[utoipa::path(post, path = "/api/mcp/bulk/{id}/cancel", tag = "bulk", security(("token" = [])), params(("id" = BulkId, Path)),
    responses((status = 202, body = BegunOut), (status = 404, description = "You have no such operation"), (status = 409, description = "It has ended")))]
async fn cancel(State(bulk): State<Bulk>, actor: Actor, Path(id): Path<String>) -> Result<Response, Problem> {
    Ok(begun(&bulk.cancel(&actor, parse(&id)?).await?))
}

/// Try again what failed or was cancelled.
#[utoipa::path(post, path = "/api/mcp/bulk/{id}/retry", tag = "bulk", security(("token" = [])), params(("id" = BulkId, Path)),
    responses((status = 202, body = BegunOut), (status = 404, description = "You have no such operation"),
    (status = 409, description = "It has not ended, or nothing of it failed")))]
async fn retry(State(bulk): State<Bulk>, actor: Actor, Path(id): Path<String>) -> Result<Response, Problem> {
    Ok(begun(&bulk.retry(&actor, parse(&id)?).await?))
}

/// Undo what was done, as far as the servers are as the operation left them.
#[utoipa::path(post, path = "/api/mcp/bulk/{id}/rollback", tag = "bulk", security(("token" = [])), params(("id" = BulkId, Path)),
    responses((status = 202, body = BegunOut), (status = 400, description = "The action has no opposite"), (status = 404, description = "You have no such operation"),
    (status = 409, description = "It has not ended, or nothing of it is done")))]
async fn roll_back(State(bulk): State<Bulk>, actor: Actor, Path(id): Path<String>) -> Result<Response, Problem> {
    Ok(begun(&bulk.roll_back(&actor, parse(&id)?).await?))
}

fn parse(id: &str) -> Result<BulkId, BulkError> {
    id.parse().map_err(|_| BulkError::NotFound)
}
