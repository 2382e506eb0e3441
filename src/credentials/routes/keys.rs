use axum::{extract::State, http::StatusCode};
use jobs::JobId;
use platform::{
    Action, Actor, Problem,
    http::{Json, Path},
    page::{self, PageParams, PageRequest},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Credentials,
    error::CredentialsError,
    keeper::Chore,
    model::RotationId,
    store::rotation::{Rotation, RotationState},
};

pub(super) fn router() -> OpenApiRouter<Credentials> {
    OpenApiRouter::new()
        .routes(routes!(rotate, list))
        .routes(routes!(get))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(cancel))
        .routes(routes!(verify))
        .routes(routes!(migrate))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RotateIn {
    /// Open everything and write nothing.
    #[serde(default, alias = "dryRun")]
    dry_run: bool,
}

#[derive(Serialize, ToSchema)]
struct Began {
    job_id: JobId,
    #[serde(flatten)]
    rotation: Rotation,
}

/// Go on to a new master key, and wrap everything with it while everything goes on.
#[utoipa::path(post, path = "/api/mcp/credentials/rotations", tag = "credentials", request_body = RotateIn, security(("token" = [])),
    responses((status = 202, description = "It has begun", body = Began), (status = 409, description = "There is no new key, or another one runs")))]
async fn rotate(
    State(credentials): State<Credentials>,
    actor: Actor,
    Json(body): Json<RotateIn>,
) -> Result<(StatusCode, Json<Began>), Problem> {
    let (rotation, job_id) = credentials.rotate(&actor, body.dry_run).await?;
    Ok((StatusCode::ACCEPTED, Json(Began { job_id, rotation })))
}

#[derive(Serialize, ToSchema)]
struct RotationList {
    rotations: Vec<Rotation>,
    next_cursor: Option<String>,
}

/// List rotations, newest first.
#[utoipa::path(get, path = "/api/mcp/credentials/rotations", tag = "credentials", params(PageParams), security(("token" = [])),
    responses((status = 200, description = "One page", body = RotationList)))]
async fn list(State(credentials): State<Credentials>, actor: Actor, page: PageRequest<RotationId>) -> Result<Json<RotationList>, Problem> {
    let rows = credentials.rotations(&actor, page.after, page.limit + 1).await?;
    let (rotations, next_cursor) = page::cut(rows, page.limit, |rotation| rotation.id);
    Ok(Json(RotationList { rotations, next_cursor }))
}

/// Show how far a rotation is.
#[utoipa::path(get, path = "/api/mcp/credentials/rotations/{id}", tag = "credentials", params(("id" = String, Path)), security(("token" = [])),
    responses((status = 200, description = "Where it stands", body = Rotation), (status = 404, description = "No such rotation")))]
async fn get(State(credentials): State<Credentials>, actor: Actor, Path(id): Path<String>) -> Result<Json<Rotation>, Problem> {
    actor.require(Action::CredentialsManage)?;
    Ok(Json(credentials.rotation(&actor, parse_id(&id)?).await?))
}

/// Pause a rotation.
#[utoipa::path(post, path = "/api/mcp/credentials/rotations/{id}/pause", tag = "credentials", params(("id" = String, Path)), security(("token" = [])),
    responses((status = 200, description = "Where it stands", body = Rotation), (status = 409, description = "It does not run")))]
async fn pause(State(credentials): State<Credentials>, actor: Actor, Path(id): Path<String>) -> Result<Json<Rotation>, Problem> {
    steer(&credentials, &actor, &id, RotationState::Paused).await
}

/// Resume a rotation.
#[utoipa::path(post, path = "/api/mcp/credentials/rotations/{id}/resume", tag = "credentials", params(("id" = String, Path)), security(("token" = [])),
    responses((status = 200, description = "Where it stands", body = Rotation), (status = 409, description = "It is not paused")))]
async fn resume(State(credentials): State<Credentials>, actor: Actor, Path(id): Path<String>) -> Result<Json<Rotation>, Problem> {
    steer(&credentials, &actor, &id, RotationState::Running).await
}

/// Give a rotation up; what is done stays done, and both keys stay.
#[utoipa::path(post, path = "/api/mcp/credentials/rotations/{id}/cancel", tag = "credentials", params(("id" = String, Path)), security(("token" = [])),
    responses((status = 200, description = "Where it stands", body = Rotation), (status = 409, description = "It has ended")))]
async fn cancel(State(credentials): State<Credentials>, actor: Actor, Path(id): Path<String>) -> Result<Json<Rotation>, Problem> {
    steer(&credentials, &actor, &id, RotationState::Cancelled).await
}

async fn steer(credentials: &Credentials, actor: &Actor, id: &str, to: RotationState) -> Result<Json<Rotation>, Problem> {
    actor.require(Action::CredentialsManage)?;
    Ok(Json(credentials.steer(actor, parse_id(id)?, to).await?))
}

#[derive(Serialize, ToSchema)]
struct Ordered {
    job_id: JobId,
}

/// Look whether every stored value opens and is the one that was last stored.
#[utoipa::path(post, path = "/api/mcp/credentials/verify", tag = "credentials", security(("token" = [])),
    responses((status = 202, description = "The job whose result says it", body = Ordered)))]
async fn verify(State(credentials): State<Credentials>, actor: Actor) -> Result<(StatusCode, Json<Ordered>), Problem> {
    let job_id = credentials.order(&actor, Chore::Verify).await?;
    Ok((StatusCode::ACCEPTED, Json(Ordered { job_id })))
}

/// Seal values that were written in the plain form (value and iv under the master key).
#[utoipa::path(post, path = "/api/mcp/credentials/migrate", tag = "credentials", security(("token" = [])),
    responses((status = 202, description = "The job", body = Ordered)))]
async fn migrate(State(credentials): State<Credentials>, actor: Actor) -> Result<(StatusCode, Json<Ordered>), Problem> {
    let job_id = credentials.order(&actor, Chore::Migrate).await?;
    Ok((StatusCode::ACCEPTED, Json(Ordered { job_id })))
}

/// An id that cannot be one belongs to no rotation.
fn parse_id(id: &str) -> Result<RotationId, Problem> {
    id.parse().map_err(|_| CredentialsError::NotFound("rotation").into())
}
