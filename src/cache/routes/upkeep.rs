//! `/api/mcp/cache`: what is there, reading it again, and removing it.

use axum::{extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use platform::{
    Actor, Problem,
    http::{Json, Query},
    page::{self, PageParams, PageRequest},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::ClearOut;
use crate::{
    error::registry_type,
    model::{Listed, Wanted},
    service::Cache,
    store::Coming,
    upkeep::PruneOrder,
};

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only packages of this type.
    registry_type: Option<String>,
    /// Only packages with this text in their names.
    search: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct ListOut {
    packages: Vec<ListedOut>,
    /// For the next page.
    next_cursor: Option<String>,
}

/// A package of the cache.
#[derive(Serialize, ToSchema)]
struct ListedOut {
    registry_type: String,
    identifier: String,
    version: String,
    /// That are here.
    files: i64,
    cache_size_bytes: i64,
    /// Asked for on purpose: not removed to make room.
    pinned: bool,
    cached_at: Option<DateTime<Utc>>,
    last_used_at: Option<DateTime<Utc>>,
}

impl From<Listed> for ListedOut {
    fn from(listed: Listed) -> Self {
        Self {
            registry_type: listed.registry_type,
            identifier: listed.name,
            version: listed.version,
            files: listed.files,
            cache_size_bytes: listed.size_bytes,
            pinned: listed.is_pinned,
            cached_at: listed.fetched_at,
            last_used_at: listed.last_used_at,
        }
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct RemoveQuery {
    /// `npm`, `pypi`, `oci` or `mcpb`.
    registry_type: String,
    /// Its name there.
    identifier: String,
    /// Its version, as it was asked for or as it is listed.
    version: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct BegunOut {
    job_id: jobs::JobId,
    /// `pending`
    status: &'static str,
}

fn begun(job_id: jobs::JobId) -> (StatusCode, Json<BegunOut>) {
    (StatusCode::ACCEPTED, Json(BegunOut { job_id, status: "pending" }))
}

/// List what is in the cache.
#[utoipa::path(get, path = "/api/mcp/cache", tag = "cache", security(("token" = [])), params(ListQuery, PageParams),
    responses((status = 200, description = "By type, name and version", body = ListOut)))]
pub(super) async fn list(
    State(cache): State<Cache>,
    actor: Actor,
    Query(query): Query<ListQuery>,
    request: PageRequest<[String; 3]>,
) -> Result<Json<ListOut>, Problem> {
    let registry = query.registry_type.as_deref().map(registry_type).transpose()?;
    let rows = cache.list(&actor, registry, query.search.as_deref(), request.after.as_ref(), i64::from(request.limit) + 1).await?;
    let key = |row: &Listed| [row.registry_type.clone(), row.name.clone(), row.version.clone()];
    let (rows, next_cursor) = page::cut(rows, request.limit, key);
    Ok(Json(ListOut { packages: rows.into_iter().map(Into::into).collect(), next_cursor }))
}

#[derive(Serialize, ToSchema)]
pub(super) struct DownloadsOut {
    downloads: Vec<DownloadOut>,
}

/// A file that comes in.
#[derive(Serialize, ToSchema)]
struct DownloadOut {
    registry_type: String,
    identifier: String,
    version: String,
    file: String,
    bytes_done: i64,
    /// Where it is known.
    bytes_total: Option<i64>,
}

/// Show the files that come in now.
#[utoipa::path(get, path = "/api/mcp/cache/downloads", tag = "cache", security(("token" = [])),
    responses((status = 200, description = "At most a hundred", body = DownloadsOut)))]
pub(super) async fn downloads(State(cache): State<Cache>, actor: Actor) -> Result<Json<DownloadsOut>, Problem> {
    let out = |coming: Coming| DownloadOut {
        registry_type: coming.registry_type,
        identifier: coming.name,
        version: coming.version,
        file: coming.file_name,
        bytes_done: coming.bytes_done,
        bytes_total: coming.bytes_total,
    };
    Ok(Json(DownloadsOut { downloads: cache.coming(&actor).await?.into_iter().map(out).collect() }))
}

/// Remove one package from the cache.
#[utoipa::path(delete, path = "/api/mcp/cache", tag = "cache", security(("token" = [])), params(RemoveQuery),
    responses((status = 200, description = "What was removed", body = ClearOut), (status = 404, description = "Nothing of it is cached")))]
pub(super) async fn remove(State(cache): State<Cache>, actor: Actor, Query(query): Query<RemoveQuery>) -> Result<Json<ClearOut>, Problem> {
    let RemoveQuery { registry_type, identifier, version } = query;
    let (removed, freed_bytes) = cache.remove_package(&actor, &Wanted { registry_type, identifier, version, sha256: None }).await?;
    Ok(Json(ClearOut { removed, freed_bytes }))
}

/// Read everything again; what is not what it was is set aside and fetched anew.
#[utoipa::path(post, path = "/api/mcp/cache/verify", tag = "cache", security(("token" = [])),
    responses((status = 202, description = "A job does it", body = BegunOut)))]
pub(super) async fn verify(State(cache): State<Cache>, actor: Actor) -> Result<(StatusCode, Json<BegunOut>), Problem> {
    Ok(begun(cache.verify(&actor).await?))
}

/// Remove what nobody needs.
#[utoipa::path(post, path = "/api/mcp/cache/prune", tag = "cache", security(("token" = [])), request_body = Option<PruneOrder>,
    responses((status = 202, description = "A job does it, and tells what went", body = BegunOut)))]
pub(super) async fn prune(
    State(cache): State<Cache>,
    actor: Actor,
    Json(order): Json<PruneOrder>,
) -> Result<(StatusCode, Json<BegunOut>), Problem> {
    Ok(begun(cache.prune(&actor, &order).await?))
}
