//! `/api/mcp/servers/{id}/cache` and `/api/mcp/cache`.

mod archive;
mod upkeep;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use chrono::{DateTime, Utc};
use platform::{
    Actor, Class, Problem,
    config::Target,
    http::{Json, Path, Query},
};
use serde::{Deserialize, Serialize};
use servers::{ServerRef, ServersError};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    error::CacheError,
    model::{Claimed, Locked, Status, Total, Whole},
    service::{Cache, Fill, Filling, OfType, Stats},
    standing::Standing,
};

/// What people and programs ask of the cache.
pub fn router(cache: Cache) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(fill, clear))
        .routes(routes!(status))
        .routes(routes!(upkeep::list, add, upkeep::remove))
        .routes(routes!(stats))
        .routes(routes!(upkeep::downloads))
        .routes(routes!(upkeep::verify))
        .routes(routes!(upkeep::prune))
        .routes(routes!(archive::key))
        .routes(routes!(archive::export))
        .routes(routes!(archive::import))
        .with_state(cache)
}

/// What is to be cached of a server.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct FillIn {
    /// Of this version of the server, instead of the latest.
    version: Option<String>,
    /// Only packages of this type.
    #[serde(alias = "registryType")]
    registry_type: Option<String>,
    /// Also everything that an install of them needs (the default).
    closure: Option<bool>,
    /// For these platforms (`linux/arm64`) instead of the configured ones.
    #[serde(default)]
    targets: Vec<String>,
}

/// One package, or several, whichever servers name them.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AddIn {
    /// Several at once, instead of one.
    #[serde(default)]
    packages: Vec<PackageIn>,
    /// `npm`, `pypi`, `oci` or `mcpb`; without it, where servers take a package of that name from.
    #[serde(alias = "registryType")]
    registry_type: Option<String>,
    /// Its name there.
    identifier: Option<String>,
    /// An exact version, or a tag; without it, the newest.
    version: Option<String>,
    /// Also everything that an install of it needs (the default).
    closure: Option<bool>,
    /// For these platforms (`linux/arm64`) instead of the configured ones.
    #[serde(default)]
    targets: Vec<String>,
    /// What the file of a bundle has to be, hexadecimal; without it, what servers state.
    #[serde(alias = "fileSha256")]
    file_sha256: Option<String>,
}

/// One of several packages.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PackageIn {
    #[serde(alias = "registryType")]
    registry_type: Option<String>,
    identifier: String,
    version: Option<String>,
    #[serde(alias = "fileSha256")]
    file_sha256: Option<String>,
}

/// How many packages one request may name.
const MAX_PACKAGES: usize = 5000;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct FillQuery {
    /// The same as in the body, which counts more.
    closure: Option<bool>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct VersionQuery {
    /// Of this version of the server, instead of the latest.
    version: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct PackageOut {
    registry_type: String,
    identifier: String,
    version: Option<String>,
    /// The platform, for an image.
    target: Option<String>,
    status: Status,
    bytes_done: i64,
    bytes_total: Option<i64>,
    cached_at: Option<DateTime<Utc>>,
    /// Below the cache folder.
    cache_path: Option<String>,
    cache_size_bytes: Option<i64>,
    /// `sha256:<hex>` of the file that most installs take.
    cache_checksum: Option<String>,
    attempts: i32,
    error: Option<ErrorOut>,
    files: Vec<FileOut>,
    /// What an install of it needs, once that was resolved.
    closure: Option<ClosureOut>,
}

#[derive(Serialize, ToSchema)]
struct ClosureOut {
    /// Which program chose the packages.
    resolver: String,
    resolved_at: DateTime<Utc>,
    /// The package itself among them.
    packages: Vec<Locked>,
    size_bytes: u64,
    /// Files that are not here any more.
    missing: i64,
}

#[derive(Serialize, ToSchema)]
struct ErrorOut {
    code: String,
    message: String,
}

#[derive(Serialize, ToSchema)]
struct FileOut {
    name: String,
    status: Status,
    size_bytes: Option<i64>,
    sha256: Option<String>,
    /// What the registry states: `sha512:<hex>`.
    upstream_digest: Option<String>,
    /// What the registry's signature of it is worth.
    signature: Claimed,
    /// The same of a statement of where it was built.
    provenance: Claimed,
}

impl From<Standing> for PackageOut {
    fn from(standing: Standing) -> Self {
        let files = &standing.files;
        let whole = standing.package.as_ref().and_then(|package| Whole::of(package, files));
        let failed = files.iter().find(|file| file.status == Status::Failed).filter(|_| standing.status == Status::Failed);
        let is_cached = standing.status == Status::Cached;
        Self {
            status: standing.status,
            bytes_done: files.iter().map(|file| file.bytes_done).sum(),
            bytes_total: files.iter().map(|file| file.bytes_total).sum::<Option<i64>>().filter(|_| !files.is_empty()),
            cached_at: whole.map(|whole| whole.fetched_at),
            cache_path: standing.package.as_ref().filter(|_| is_cached).map(|package| package.folder().display().to_string()),
            cache_size_bytes: whole.filter(|_| is_cached).map(|whole| whole.size_bytes),
            cache_checksum: whole.map(|whole| format!("sha256:{}", whole.main.hex())),
            attempts: files.iter().map(|file| file.attempts).max().unwrap_or(0),
            error: failed.map(|file| ErrorOut {
                code: file.error_code.clone().unwrap_or_default(),
                message: file.error.clone().unwrap_or_default(),
            }),
            files: files
                .iter()
                .map(|file| FileOut {
                    name: file.file_name.clone(),
                    status: file.status,
                    size_bytes: file.size_bytes,
                    sha256: file.blob.map(|blob| blob.hex()),
                    upstream_digest: file.upstream_digest.clone(),
                    signature: file.signature,
                    provenance: file.provenance,
                })
                .collect(),
            closure: standing.lock.map(|(lock, missing)| ClosureOut {
                resolver: lock.resolver,
                resolved_at: lock.created_at,
                size_bytes: lock.packages.iter().flat_map(|locked| &locked.files).map(|file| file.size).sum(),
                packages: lock.packages,
                missing,
            }),
            target: standing.target,
            registry_type: standing.wanted.registry_type,
            identifier: standing.wanted.identifier,
            version: standing.wanted.version,
        }
    }
}

#[derive(Serialize, ToSchema)]
struct FillOut {
    /// Absent when everything is here already.
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<jobs::JobId>,
    /// `pending`, or `cached` when everything is here already.
    status: &'static str,
    packages: Vec<PackageOut>,
}

#[derive(Serialize, ToSchema)]
struct StatusOut {
    server_id: String,
    packages: Vec<PackageOut>,
}

#[derive(Serialize, ToSchema)]
struct ClearOut {
    /// Files.
    removed: u64,
    /// Bytes that no other package shares.
    freed_bytes: i64,
}

#[derive(Serialize, ToSchema)]
struct StatsOut {
    total: TypeOut,
    #[schema(value_type = Object)]
    by_type: std::collections::BTreeMap<&'static str, TypeOut>,
}

#[derive(Clone, Copy, Default, Serialize, ToSchema)]
struct TypeOut {
    #[serde(flatten)]
    total: Total,
    /// Requests since the program started that were answered from here.
    hits: u64,
    /// Requests that had to be fetched.
    misses: u64,
    /// Requests that waited for the fetch of another.
    coalesced: u64,
    /// Files that came, or were found, to be other bytes than were stated.
    verify_failures: u64,
    /// Files that were removed to make room.
    evictions: u64,
}

impl From<Stats> for StatsOut {
    fn from(stats: Stats) -> Self {
        let (mut total, mut by_type) = (TypeOut::default(), std::collections::BTreeMap::new());
        for OfType { registry, sums, hits, misses, coalesced, verify_failures, evictions } in stats.by_type {
            let out = TypeOut { total: sums, hits, misses, coalesced, verify_failures, evictions };
            total = TypeOut {
                total: total.total + out.total,
                hits: total.hits + hits,
                misses: total.misses + misses,
                coalesced: total.coalesced + coalesced,
                verify_failures: total.verify_failures + verify_failures,
                evictions: total.evictions + evictions,
            };
            by_type.insert(registry.as_str(), out);
        }
        Self { total, by_type }
    }
}

fn server(id: &str) -> Result<ServerRef, CacheError> {
    Ok(id.parse().map_err(ServersError::from)?)
}

fn targets(texts: &[String]) -> Result<Vec<Target>, Problem> {
    let read = |text: &String| {
        let told = "targets: each is a platform such as linux/arm64";
        Target::parse(text).ok_or_else(|| Problem::new(Class::BadRequest, "invalid_target", told))
    };
    texts.iter().map(read).collect()
}

fn filled((job_id, standings): Filling) -> Response {
    let (code, status) = if job_id.is_some() { (StatusCode::ACCEPTED, "pending") } else { (StatusCode::OK, "cached") };
    (code, Json(FillOut { job_id, status, packages: standings.into_iter().map(Into::into).collect() })).into_response()
}

/// Cache the packages of a server, verified.
#[utoipa::path(post, path = "/api/mcp/servers/{id}/cache", tag = "cache", security(("token" = [])), params(("id" = String, Path), FillQuery), request_body = Option<FillIn>,
    responses((status = 202, description = "A job does it", body = FillOut), (status = 200, description = "They are here already", body = FillOut),
        (status = 404, description = "No such server or version"), (status = 422, description = "No package of it can be cached")))]
async fn fill(
    State(cache): State<Cache>,
    actor: Actor,
    Path(id): Path<String>,
    Query(query): Query<FillQuery>,
    Json(asked): Json<FillIn>,
) -> Result<Response, Problem> {
    let (targets, closure) = (targets(&asked.targets)?, asked.closure.or(query.closure).unwrap_or(true));
    let fill = Fill { version: asked.version, registry_type: asked.registry_type, closure, targets };
    Ok(filled(cache.cache(&actor, &server(&id)?, &fill).await?))
}

/// Cache packages, whichever servers name them.
#[utoipa::path(post, path = "/api/mcp/cache", tag = "cache", security(("token" = [])), request_body = AddIn,
    responses((status = 202, description = "A job does it", body = FillOut), (status = 200, description = "It is here already", body = FillOut),
        (status = 422, description = "Packages of this type cannot be cached")))]
async fn add(State(cache): State<Cache>, actor: Actor, Json(asked): Json<AddIn>) -> Result<Response, Problem> {
    let mut packages = asked.packages;
    if packages.is_empty() {
        let missing = || Problem::field("invalid_body", "body.identifier", "is missing; so are packages");
        let AddIn { registry_type, version, file_sha256, .. } = asked;
        packages = vec![PackageIn { registry_type, identifier: asked.identifier.ok_or_else(missing)?, version, file_sha256 }];
    }
    if packages.len() > MAX_PACKAGES {
        return Err(Problem::field("invalid_body", "body.packages", format!("may be {MAX_PACKAGES} at most")));
    }
    let fill = Fill { closure: asked.closure.unwrap_or(true), targets: targets(&asked.targets)?, ..Fill::default() };
    let wanted = |package: PackageIn| (package.registry_type, package.identifier, package.version, package.file_sha256);
    Ok(filled(cache.cache_packages(&actor, packages.into_iter().map(wanted).collect(), &fill).await?))
}

/// Show what is cached of a server.
#[utoipa::path(get, path = "/api/mcp/servers/{id}/cache/status", tag = "cache", security(("token" = [])), params(("id" = String, Path), VersionQuery),
    responses((status = 200, description = "Its packages", body = StatusOut), (status = 404, description = "No such server or version")))]
async fn status(
    State(cache): State<Cache>,
    actor: Actor,
    Path(id): Path<String>,
    Query(query): Query<VersionQuery>,
) -> Result<Json<StatusOut>, Problem> {
    let (server_id, standings) = cache.status(&actor, &server(&id)?, query.version.as_deref()).await?;
    Ok(Json(StatusOut { server_id, packages: standings.into_iter().map(Into::into).collect() }))
}

/// Remove what is cached of a server.
#[utoipa::path(delete, path = "/api/mcp/servers/{id}/cache", tag = "cache", security(("token" = [])), params(("id" = String, Path), VersionQuery),
    responses((status = 200, description = "What was removed", body = ClearOut), (status = 404, description = "No such server or version")))]
async fn clear(
    State(cache): State<Cache>,
    actor: Actor,
    Path(id): Path<String>,
    Query(query): Query<VersionQuery>,
) -> Result<Json<ClearOut>, Problem> {
    let (removed, freed_bytes) = cache.clear(&actor, &server(&id)?, query.version.as_deref()).await?;
    Ok(Json(ClearOut { removed, freed_bytes }))
}

/// Show what is in the cache.
#[utoipa::path(get, path = "/api/mcp/cache/stats", tag = "cache", security(("token" = [])), responses((status = 200, description = "Sums", body = StatsOut)))]
async fn stats(State(cache): State<Cache>, actor: Actor) -> Result<Json<StatsOut>, Problem> {
    Ok(Json(cache.stats(&actor).await?.into()))
}
