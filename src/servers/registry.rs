//! The registry API (`/v0.1`, also at `/v0` and without a prefix), as MCP clients read it.
//!
//! Parameters, orders, cursors and status codes are those of the official registry; errors are
//! problem+json, as its own are, with the `error` member that other clients read.

use axum::{
    Router,
    extract::{FromRequestParts, RawPathParams, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing,
};
use chrono::{DateTime, Utc};
use platform::{
    Class, FieldError, Problem,
    http::{Json, Query, extract, front},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    error::ServersError,
    service::Servers,
    store::registry::{PageFilter, Which},
    validate::Report,
};

const DEFAULT_LIMIT: i64 = 30;
const MAX_LIMIT: i64 = 100;

/// The registry API under `/v0.1`, `/v0` and without a prefix.
pub fn router(servers: Servers) -> OpenApiRouter {
    let documented = OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(versions))
        .routes(routes!(version))
        .routes(routes!(validate))
        .routes(routes!(health))
        .with_state(servers.clone());
    let aliases = Router::new()
        .nest("/v0", reads().merge(writes()))
        .nest(
            "/v0.1",
            Router::new()
                .route("/ping", routing::get(health))
                .route("/version", routing::get(program_version))
                .route("/servers/{name}", routing::get(latest))
                .merge(writes()),
        )
        .merge(bare())
        .with_state(servers);
    documented.merge(aliases.into())
}

fn bare() -> Router<Servers> {
    Router::new()
        .route("/servers", routing::get(list))
        .route("/servers/{name}", routing::get(latest))
        .route("/servers/{name}/versions", routing::get(versions))
        .route("/servers/{name}/versions/{version}", routing::get(version))
}

fn reads() -> Router<Servers> {
    bare()
        .route("/validate", routing::post(validate))
        .route("/health", routing::get(health))
        .route("/ping", routing::get(health))
        .route("/version", routing::get(program_version))
}

/// What a mirror does not offer.
fn writes() -> Router<Servers> {
    let refused = || async {
        Problem::new(Class::NotImplemented, "publishing_not_supported", "this registry is a mirror; publish to the official registry")
    };
    Router::new()
        .route("/publish", routing::post(refused))
        .route("/servers/{name}/status", routing::patch(refused))
        .route("/servers/{name}/versions/{version}/status", routing::patch(refused))
        .route("/servers/{name}/versions/{version}", routing::put(refused).delete(refused))
        .route("/auth/{*method}", routing::post(refused))
}

/// The answer to methods that a path of the registry does not take; preflight requests are welcome.
pub async fn other_method(method: Method) -> Response {
    if method == Method::OPTIONS { StatusCode::NO_CONTENT.into_response() } else { front::method_not_allowed().await.into_response() }
}

/// Adds what GitHub Copilot requires of every answer of a registry.
pub fn open_to_all(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, OPTIONS"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("Authorization, Content-Type"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("ETag, X-Request-Id"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// From `metadata.nextCursor` of the page before.
    cursor: Option<String>,
    /// How many (1 to 100, default 30).
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100)]
    limit: Option<String>,
    /// Only servers whose name or description contains this.
    search: Option<String>,
    /// Only versions that changed after this moment (RFC 3339); deleted ones are included.
    #[param(value_type = Option<DateTime<Utc>>)]
    updated_since: Option<String>,
    /// `latest`, or one exact version.
    version: Option<String>,
    /// Also versions that were taken down.
    #[param(value_type = Option<bool>)]
    include_deleted: Option<String>,
    /// `local`: with this fabric's own registries as `registryBaseUrl`.
    #[expect(dead_code, reason = "documents what is done around these routes")]
    rewrite: Option<String>,
}

impl ListQuery {
    fn parse(self) -> Result<PageFilter, Problem> {
        let limit = match self.limit.as_deref().map(str::parse::<i64>) {
            None => DEFAULT_LIMIT,
            Some(Ok(limit @ 1..=MAX_LIMIT)) => limit,
            Some(_) => return Err(validation_failed("query.limit", &format!("expected a whole number from 1 to {MAX_LIMIT}"))),
        };
        let updated_since = self.updated_since.as_deref().map(parse_time).transpose()?;
        let include_deleted = match (parse_bool(self.include_deleted.as_deref())?, updated_since) {
            (Some(false), Some(_)) => {
                let detail = "Cannot set include_deleted=false when using updated_since (incremental sync requires deleted servers)";
                return Err(Problem::new(Class::BadRequest, "include_deleted_required", detail));
            }
            (_, Some(_)) => true,
            (asked, None) => asked.unwrap_or(false),
        };
        let which = match self.version.as_deref() {
            None | Some("") => Which::All,
            Some("latest") => Which::Latest,
            Some(version) => Which::Exactly(version.to_owned()),
        };
        // A cursor without a version stands for everything after that name.
        let after = self.cursor.filter(|cursor| !cursor.is_empty()).map(|cursor| match cursor.split_once(':') {
            Some((name, version)) => (name.to_owned(), version.to_owned()),
            None => (cursor, String::from("\u{10ffff}")),
        });
        Ok(PageFilter { after, limit, search: self.search.filter(|text| !text.is_empty()), updated_since, which, include_deleted })
    }
}

fn parse_time(text: &str) -> Result<DateTime<Utc>, Problem> {
    DateTime::parse_from_rfc3339(text).map(Into::into).map_err(|_| {
        let detail = "Invalid updated_since format: expected RFC3339 timestamp (e.g., 2025-08-07T13:15:04.280Z)";
        Problem::new(Class::BadRequest, "invalid_updated_since", detail)
    })
}

fn parse_bool(text: Option<&str>) -> Result<Option<bool>, Problem> {
    text.map(|text| text.parse().map_err(|_| validation_failed("query.include_deleted", "expected true or false"))).transpose()
}

fn validation_failed(location: &str, message: &str) -> Problem {
    let mut problem = Problem::new(Class::Unprocessable, "validation_failed", "validation failed");
    problem.fields.push(FieldError::new(location, message));
    problem
}

fn not_found() -> Problem {
    Problem::new(Class::NotFound, "server_not_found", "Server not found")
}

fn from_shared(error: &ServersError) -> Problem {
    match error {
        ServersError::NotFound => not_found(),
        other => Problem::of(other),
    }
}

/// List servers, by name and version.
#[utoipa::path(get, path = "/v0.1/servers", tag = "registry", params(ListQuery),
    responses((status = 200, description = "One page", body = ServerListDoc), (status = 400, description = "Conflicting or malformed parameters"),
        (status = 422, description = "A parameter is out of range")))]
async fn list(State(servers): State<Servers>, Query(query): Query<ListQuery>, headers: HeaderMap) -> Result<Response, Problem> {
    let filter = query.parse()?;
    let key = format!("page\n{filter:?}");
    let answer = servers.registry_page(key, &filter).await.map_err(|error| from_shared(&error))?;
    Ok(answer.respond(&headers))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct DeletedQuery {
    /// Also versions that were taken down.
    #[param(value_type = Option<bool>)]
    include_deleted: Option<String>,
    /// `local`: with this fabric's own registries as `registryBaseUrl`.
    #[expect(dead_code, reason = "documents what is done around these routes")]
    rewrite: Option<String>,
}

/// List every version of one server, newest first.
#[utoipa::path(get, path = "/v0.1/servers/{name}/versions", tag = "registry", params(("name" = String, Path), DeletedQuery),
    responses((status = 200, description = "All of them", body = ServerListDoc), (status = 404, description = "No such server")))]
async fn versions(
    State(servers): State<Servers>,
    path: PathParts<1>,
    Query(query): Query<DeletedQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let PathParts([name]) = path;
    let include_deleted = parse_bool(query.include_deleted.as_deref())?.unwrap_or(false);
    let name = servers.registry_name(&name).await?.ok_or_else(not_found)?;
    let answer = servers.registry_versions(&name, include_deleted).await.map_err(|error| from_shared(&error))?;
    Ok(answer.respond(&headers))
}

/// Show one version of one server; `latest` is the latest one.
#[utoipa::path(get, path = "/v0.1/servers/{name}/versions/{version}", tag = "registry",
    params(("name" = String, Path), ("version" = String, Path), DeletedQuery),
    responses((status = 200, description = "The version", body = ServerResponseDoc), (status = 404, description = "No such server or version")))]
async fn version(
    State(servers): State<Servers>,
    path: PathParts<2>,
    Query(query): Query<DeletedQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let PathParts([name, version]) = path;
    let which = if version == "latest" { Which::Latest } else { Which::Exactly(version) };
    one_version(&servers, &name, &which, query, &headers).await
}

/// Not part of the API any more; answers the latest version.
async fn latest(
    State(servers): State<Servers>,
    path: PathParts<1>,
    Query(query): Query<DeletedQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let PathParts([name]) = path;
    one_version(&servers, &name, &Which::Latest, query, &headers).await
}

async fn one_version(servers: &Servers, name: &str, which: &Which, query: DeletedQuery, headers: &HeaderMap) -> Result<Response, Problem> {
    let include_deleted = parse_bool(query.include_deleted.as_deref())?.unwrap_or(false);
    let name = servers.registry_name(name).await?.ok_or_else(not_found)?;
    let answer = servers.registry_version(&name, which, include_deleted).await.map_err(|error| from_shared(&error))?;
    Ok(answer.respond(headers))
}

/// Server name and version of the path, decoded; a bad escape is told in the words of the official registry.
struct PathParts<const N: usize>([String; N]);

impl<S: Send + Sync, const N: usize> FromRequestParts<S> for PathParts<N> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let invalid = |name: &str| Problem::new(Class::BadRequest, "invalid_encoding", format!("Invalid {name} encoding"));
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| invalid("server name"))?;
        // `…/servers/{name}/versions/{version}`: the parts stand one and three places behind `servers`.
        let raw = parts.uri.path().split('/').skip_while(|part| *part != "servers").skip(1).step_by(2);
        if let Some((_, name)) = raw.zip(["server name", "version"]).find(|(part, _)| !has_valid_escapes(part)) {
            return Err(invalid(name));
        }
        let values: Vec<String> = params.iter().map(|(_, value)| value.to_owned()).collect();
        values.try_into().map(Self).map_err(|_| not_found())
    }
}

fn has_valid_escapes(part: &str) -> bool {
    let digits = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|b| b.is_ascii_hexdigit());
    part.split('%').skip(1).all(digits)
}

/// Check a server.json document by the rules of the official registry.
#[utoipa::path(post, path = "/v0.1/validate", tag = "registry", request_body = ServerDoc,
    responses((status = 200, description = "What was found", body = Report), (status = 413, description = "The body is larger than 1 MiB")))]
async fn validate(State(servers): State<Servers>, request: Request) -> Result<Json<Report>, Problem> {
    let document = extract::body(request, &()).await?;
    Ok(Json(servers.validate(&document).await?))
}

#[derive(Serialize, ToSchema)]
struct Health {
    status: &'static str,
}

/// Whether the registry answers.
#[utoipa::path(get, path = "/v0.1/health", tag = "registry", responses((status = 200, description = "It does", body = Health)))]
async fn health() -> Json<Health> {
    Json(Health { status: "ok" })
}

async fn program_version() -> Json<Value> {
    Json(json!({ "version": env!("CARGO_PKG_VERSION") }))
}

/// A server.json document.
#[derive(ToSchema)]
#[schema(value_type = Object)]
#[expect(dead_code, reason = "documents the shape")]
struct ServerDoc(Map<String, Value>);

/// One version of a server.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents the shape")]
struct ServerResponseDoc {
    #[schema(value_type = Object)]
    server: Value,
    #[schema(value_type = Object)]
    _meta: Value,
}

/// A page of versions.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents the shape")]
struct ServerListDoc {
    servers: Vec<ServerResponseDoc>,
    metadata: MetadataDoc,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "documents the shape")]
struct MetadataDoc {
    /// Absent on the last page.
    #[schema(rename = "nextCursor")]
    next_cursor: Option<String>,
    /// How many are on this page.
    count: usize,
}
