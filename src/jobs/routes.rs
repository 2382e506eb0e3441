use axum::extract::State;
use chrono::{DateTime, Utc};
use platform::{
    Actor, Problem,
    http::{Json, Path, Query},
    page::{self, PageRequest},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    model::{Job, JobId, JobStatus, LogLine, Progress},
    service::Jobs,
};

/// `/api/mcp/jobs`.
pub fn router(jobs: Jobs) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get)).routes(routes!(cancel)).routes(routes!(retry)).with_state(jobs)
}

/// A job as clients see it.
#[derive(Serialize, ToSchema)]
pub struct JobOut {
    job_id: JobId,
    kind: String,
    status: JobStatus,
    progress: Option<Progress>,
    /// Only where one job is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<Vec<LogLine>>,
    /// What came of it.
    result: Option<Value>,
    /// `{code, message}`.
    error: Option<Value>,
    priority: i16,
    attempt: i32,
    cancel_requested: bool,
    created_by: String,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    completed_at: Option<DateTime<Utc>>,
}

/// The answer about one job.
pub fn wire(job: Job, log: Option<Vec<LogLine>>) -> JobOut {
    JobOut {
        job_id: job.id,
        kind: job.kind,
        status: job.status,
        progress: job.progress,
        log,
        result: job.result,
        error: job.error,
        priority: job.priority,
        attempt: job.attempt,
        cancel_requested: job.cancel_requested,
        created_by: job.created_by,
        created_at: job.created_at,
        started_at: job.started_at,
        completed_at: job.completed_at,
    }
}

#[derive(Serialize, ToSchema)]
struct JobList {
    jobs: Vec<JobOut>,
    next_cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Only jobs of this kind.
    kind: Option<String>,
    /// Only jobs that stand there.
    #[param(value_type = Option<JobStatus>)]
    status: Option<String>,
    /// How many (1 to 200, default 50).
    #[param(value_type = Option<u32>)]
    #[serde(rename = "limit")]
    _limit: Option<String>,
    /// From the page before.
    #[serde(rename = "cursor")]
    _cursor: Option<String>,
}

/// List jobs, newest first.
#[utoipa::path(get, path = "/api/mcp/jobs", tag = "jobs", params(Filter), security(("token" = [])),
    responses((status = 200, description = "One page", body = JobList)))]
async fn list(
    State(jobs): State<Jobs>,
    actor: Actor,
    page: PageRequest<JobId>,
    Query(filter): Query<Filter>,
) -> Result<Json<JobList>, Problem> {
    let status = filter.status.as_deref().map(|text| text.parse::<JobStatus>().map_err(|_| unknown_status())).transpose()?;
    let rows = jobs.list(&actor, filter.kind.as_deref(), status, page.after, page.limit + 1).await?;
    let (rows, next_cursor) = page::cut(rows, page.limit, |job| job.id);
    Ok(Json(JobList { jobs: rows.into_iter().map(|job| wire(job, None)).collect(), next_cursor }))
}

fn unknown_status() -> Problem {
    Problem::field("invalid_status", "query.status", "must be pending, processing, complete, failed, cancelled or needs_input")
}

/// Show one job with its log.
#[utoipa::path(get, path = "/api/mcp/jobs/{id}", tag = "jobs", params(("id" = String, Path)), security(("token" = [])),
    responses((status = 200, description = "The job", body = JobOut), (status = 404, description = "No such job")))]
async fn get(State(jobs): State<Jobs>, actor: Actor, Path(id): Path<String>) -> Result<Json<JobOut>, Problem> {
    let (job, log) = jobs.get(&actor, parse_id(&id)?).await?;
    Ok(Json(wire(job, Some(log))))
}

/// Stop a job: at once when it waits, at its next safe point when it runs.
#[utoipa::path(post, path = "/api/mcp/jobs/{id}/cancel", tag = "jobs", params(("id" = String, Path)), security(("token" = [])),
    responses((status = 200, description = "The job", body = JobOut), (status = 404, description = "No such job"), (status = 409, description = "It has ended")))]
async fn cancel(State(jobs): State<Jobs>, actor: Actor, Path(id): Path<String>) -> Result<Json<JobOut>, Problem> {
    let (job, log) = jobs.cancel(&actor, parse_id(&id)?).await?;
    Ok(Json(wire(job, Some(log))))
}

/// Put a job that ended without success back in the queue.
#[utoipa::path(post, path = "/api/mcp/jobs/{id}/retry", tag = "jobs", params(("id" = String, Path)), security(("token" = [])),
    responses((status = 200, description = "The job", body = JobOut), (status = 404, description = "No such job"), (status = 409, description = "It is not one to retry")))]
async fn retry(State(jobs): State<Jobs>, actor: Actor, Path(id): Path<String>) -> Result<Json<JobOut>, Problem> {
    let (job, log) = jobs.retry(&actor, parse_id(&id)?).await?;
    Ok(Json(wire(job, Some(log))))
}

/// An id that cannot be one belongs to no job.
fn parse_id(id: &str) -> Result<JobId, Problem> {
    id.parse().map_err(|_| crate::JobsError::NotFound.into())
}
