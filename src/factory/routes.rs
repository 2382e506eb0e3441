use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing,
};
use chrono::{DateTime, Utc};
use jobs::{JobId, JobStatus, Jobs};
use platform::{
    Actor, Problem,
    http::{Json, Path, Query, Reader},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json, value::RawValue};
use servers::Viewer;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{
    Factory,
    error::FactoryError,
    finding::Finding,
    generate::Language,
    model::{InputKind, Options, Stored, Wanted},
    parse::document,
    registry::MOST_LISTED,
    service::{Looked, parted},
    spec,
    validate::{Looked as Level, Report},
};

/// How many servers a list has where nothing is said.
const USUALLY_LISTED: u32 = 50;
/// What one request may measure: a document as large as is read, as JSON text.
const LARGEST: usize = document::LARGEST + (1 << 20);
/// What a specification may measure that is looked at at once.
const LARGEST_SPEC: usize = 8 << 20;
/// What the ids of jobs begin with on older paths.
const JOB_PREFIX: &str = "job_";

/// `/api/mcp/generate`, `/api/mcp/validate` and `/api/mcp/generated`.
pub fn router(factory: Factory) -> OpenApiRouter {
    let specs = OpenApiRouter::new().routes(routes!(validate)).layer(DefaultBodyLimit::max(LARGEST_SPEC));
    let documents = OpenApiRouter::new().routes(routes!(generate)).layer(DefaultBodyLimit::max(LARGEST));
    OpenApiRouter::new()
        .routes(routes!(schema))
        .merge(documents)
        .merge(specs)
        .routes(routes!(list, register))
        .routes(routes!(one, remove))
        .routes(routes!(bundle))
        .with_state(factory)
}

/// The same as earlier systems had it: `/api/generate`, `/api/jobs`, `/api/servers` and `/api/validate`.
pub fn older(factory: Factory, jobs: Jobs) -> Router {
    let jobs = Router::new().route("/api/jobs/{id}", routing::get(older_job)).with_state(jobs);
    Router::new()
        .route("/api/generate", routing::post(older_generate))
        .route("/api/servers", routing::get(older_list).post(older_register))
        .route("/api/servers/{name}", routing::get(older_one).delete(older_remove))
        .route("/api/validate", routing::post(older_validate))
        .with_state(factory)
        .merge(jobs)
}

/// What a server is to be made from: one of the inputs, and what may be said of it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct GenerateIn {
    /// In English: what the server is to do.
    description: Option<String>,
    /// An OpenAPI (3.0 to 3.2) or Swagger 2.0 document, as JSON, or as text (JSON or YAML).
    #[schema(value_type = Option<Object>)]
    openapi: Option<Box<RawValue>>,
    /// Where such a document is.
    url: Option<String>,
    /// A Postman collection (2.0 or 2.1).
    #[schema(value_type = Option<Object>)]
    postman: Option<Box<RawValue>>,
    /// The answer to GraphQL's introspection.
    #[schema(value_type = Option<Object>)]
    graphql: Option<Box<RawValue>>,
    /// One or more commands of curl.
    curl: Option<String>,
    /// A specification, as jobs of this kind make it.
    #[schema(value_type = Option<Object>)]
    spec: Option<Box<RawValue>>,
    #[serde(default)]
    runtime: Language,
    /// The server's name; without one, it is named after the input.
    name: Option<String>,
    #[serde(default)]
    options: Options,
}

impl GenerateIn {
    /// The one input that is given, as bytes.
    fn order(self) -> Result<(Wanted, Vec<u8>), FactoryError> {
        // Nothing is made of a document before it is its turn.
        let text = |raw: Box<RawValue>| match serde_json::from_str::<String>(raw.get()) {
            Ok(text) => text.into_bytes(),
            Err(_) => String::from(Box::<str>::from(raw)).into_bytes(),
        };
        let given = [
            (InputKind::Description, self.description.map(String::into_bytes)),
            (InputKind::Openapi, self.openapi.map(text)),
            (InputKind::Url, self.url.map(String::into_bytes)),
            (InputKind::Postman, self.postman.map(text)),
            (InputKind::Graphql, self.graphql.map(text)),
            (InputKind::Curl, self.curl.map(String::into_bytes)),
            (InputKind::Spec, self.spec.map(text)),
        ];
        let mut given = given.into_iter().filter_map(|(kind, input)| input.map(|input| (kind, input)));
        let (Some((kind, document)), None) = (given.next(), given.next()) else {
            return Err(FactoryError::field("body", "has to have one of description, openapi, url, postman, graphql, curl and spec"));
        };
        if document.iter().all(u8::is_ascii_whitespace) {
            return Err(FactoryError::field(&format!("body.{}", kind.as_str()), "is empty"));
        }
        if document.contains(&0) {
            return Err(FactoryError::field(&format!("body.{}", kind.as_str()), "has the character U+0000 in it"));
        }
        Ok((Wanted { kind, name: self.name, runtime: self.runtime, options: self.options }, document))
    }
}

#[derive(Serialize, ToSchema)]
struct BegunOut {
    #[schema(value_type = String)]
    job_id: Value,
    /// `processing`.
    status: &'static str,
}

/// Makes a server: a job, whose result is `{name, version, package, claude_config, …}`, or questions where the input says too
/// little.
#[utoipa::path(
    post,
    path = "/api/mcp/generate",
    tag = "factory", security(("token" = [])),
    request_body = GenerateIn,
    responses((status = 202, body = BegunOut), (status = 400, description = "Not exactly one input, or a field that cannot be used"))
)]
async fn generate(State(factory): State<Factory>, actor: Actor, Json(order): Json<GenerateIn>) -> Result<Response, Problem> {
    let (wanted, document) = order.order()?;
    let job = factory.begin(&actor, wanted, document).await?;
    let place = format!("/api/mcp/jobs/{job}");
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(BegunOut { job_id: json!(job), status: "processing" })).into_response())
}

/// The JSON Schema of specifications (`spec`).
#[utoipa::path(get, path = "/api/mcp/generate/schema", tag = "factory", responses((status = 200, body = Object)))]
async fn schema() -> Json<Value> {
    Json(spec::schema())
}

/// What is to be looked at: a specification, or where a server lies.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ValidateIn {
    /// A specification.
    #[schema(value_type = Option<Object>)]
    spec: Option<Value>,
    /// A folder or an archive (`.tgz`) below the output folder; the operator may name any.
    path: Option<String>,
}

impl ValidateIn {
    fn looked(self) -> Result<Looked, FactoryError> {
        match (self.spec, self.path) {
            (Some(spec), None) => Ok(Looked::Spec(spec)),
            (None, Some(path)) if !path.trim().is_empty() => Ok(Looked::Path(path)),
            _ => Err(FactoryError::field("body", "has to have spec, or path")),
        }
    }
}

#[derive(Serialize, ToSchema)]
struct ValidatedOut {
    valid: bool,
    /// What is wrong, in words.
    errors: Vec<String>,
    /// What could be better, in words.
    warnings: Vec<String>,
    /// All that was noticed.
    findings: Vec<Finding>,
    /// What was looked at: `skipped` where a tool for it is missing.
    levels: Vec<Level>,
}

impl From<Report> for ValidatedOut {
    fn from(report: Report) -> Self {
        let (errors, warnings) = parted(&report.findings);
        Self { valid: report.valid, errors, warnings, findings: report.findings, levels: report.levels }
    }
}

/// Looks at a server: specification (L0), types (L1), dependencies (L2), protocol (L3) and calls (L4).
#[utoipa::path(post, path = "/api/mcp/validate", tag = "factory", security(("token" = [])), request_body = ValidateIn, responses((status = 200, body = ValidatedOut)))]
async fn validate(State(factory): State<Factory>, actor: Actor, Json(wanted): Json<ValidateIn>) -> Result<Json<ValidatedOut>, Problem> {
    Ok(Json(factory.validate(&actor, wanted.looked()?).await?.into()))
}

#[derive(Deserialize, IntoParams)]
struct ListQuery {
    /// 1 to 1000.
    limit: Option<u32>,
    /// Words to find in name and description.
    search: Option<String>,
}

impl ListQuery {
    fn limit(&self) -> Result<u32, FactoryError> {
        match self.limit.unwrap_or(USUALLY_LISTED) {
            limit @ 1..=MOST_LISTED => Ok(limit),
            _ => Err(FactoryError::field("query.limit", format!("must be 1 to {MOST_LISTED}"))),
        }
    }
}

#[derive(Serialize, ToSchema)]
struct ListedOut {
    name: String,
    version: String,
    description: String,
}

#[derive(Serialize, ToSchema)]
struct ListOut {
    servers: Vec<ListedOut>,
}

/// Servers that were made here, by name.
#[utoipa::path(get, path = "/api/mcp/generated", tag = "factory", security(("token" = [])), params(ListQuery), responses((status = 200, body = ListOut)))]
async fn list(State(factory): State<Factory>, actor: Actor, Query(query): Query<ListQuery>) -> Result<Json<ListOut>, Problem> {
    let search = query.search.as_deref().map(str::trim).filter(|search| !search.is_empty());
    if search.is_some_and(|search| search.len() > 200 || search.contains('\0')) {
        return Err(Problem::field("invalid_field", "query.search", "must be at most 200 bytes of text"));
    }
    let found = factory.list(&actor, search, query.limit()?).await?;
    let servers = found.into_iter().map(|one| ListedOut { name: one.name, version: one.version, description: one.description }).collect();
    Ok(Json(ListOut { servers }))
}

#[derive(Serialize, ToSchema)]
struct GeneratedOut {
    id: Uuid,
    name: String,
    version: String,
    description: Option<String>,
    /// What it was made from.
    #[schema(value_type = Option<Object>)]
    spec: Option<Value>,
    /// The archive.
    package_path: Option<String>,
    docker_image: Option<String>,
    /// For the file of an MCP client.
    #[schema(value_type = Option<Object>)]
    claude_config: Option<Value>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    /// All that its manifest says.
    #[schema(value_type = Object)]
    manifest: Value,
}

impl From<Stored> for GeneratedOut {
    fn from(stored: Stored) -> Self {
        Self {
            id: stored.id,
            description: stored.description().map(str::to_owned),
            name: stored.server_id,
            version: stored.version,
            spec: stored.spec,
            package_path: stored.package_path,
            docker_image: stored.docker_image,
            claude_config: stored.claude_config,
            created_at: stored.created_at,
            updated_at: stored.updated_at,
            manifest: stored.manifest,
        }
    }
}

/// Registers a server by its `manifest.json`: `name` and `version` are needed, whatever else is in it is kept.
#[utoipa::path(post, path = "/api/mcp/generated", tag = "factory", security(("token" = [])), request_body = Object, responses((status = 201, body = GeneratedOut)))]
async fn register(State(factory): State<Factory>, actor: Actor, Json(manifest): Json<Map<String, Value>>) -> Result<Response, Problem> {
    let stored = factory.register(&actor, manifest).await?;
    Ok((StatusCode::CREATED, Json(GeneratedOut::from(stored))).into_response())
}

#[derive(Deserialize, IntoParams)]
struct OneQuery {
    /// Without it, the latest.
    version: Option<String>,
}

/// One of them.
#[utoipa::path(get, path = "/api/mcp/generated/{name}", tag = "factory", security(("token" = [])), params(("name" = String, Path), OneQuery), responses((status = 200, body = GeneratedOut), (status = 404, description = "None that you may see")))]
async fn one(
    State(factory): State<Factory>,
    actor: Actor,
    Path(name): Path<String>,
    Query(query): Query<OneQuery>,
) -> Result<Json<GeneratedOut>, Problem> {
    Ok(Json(factory.get(&actor, &name, query.version.as_deref()).await?.into()))
}

#[derive(Deserialize, IntoParams)]
struct RemoveQuery {
    /// Its files, too.
    #[serde(default)]
    files: bool,
}

/// Removes a server with all its versions.
#[utoipa::path(delete, path = "/api/mcp/generated/{name}", tag = "factory", security(("token" = [])), params(("name" = String, Path), RemoveQuery), responses((status = 204), (status = 409, description = "It is installed")))]
async fn remove(
    State(factory): State<Factory>,
    actor: Actor,
    Path(name): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> Result<StatusCode, Problem> {
    factory.remove(&actor, &name, query.files).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The bundle of a version, as `?rewrite=local` of the registry API names it.
#[utoipa::path(
    get,
    path = "/api/mcp/generated/{name}/{version}/{file}",
    tag = "factory",
    params(("name" = String, Path), ("version" = String, Path), ("file" = String, Path)),
    responses((status = 200, content_type = "application/octet-stream"), (status = 404, description = "None that you may see"))
)]
async fn bundle(
    State(factory): State<Factory>,
    Reader(reader): Reader,
    Path((name, version, file)): Path<(String, String, String)>,
) -> Result<Response, Problem> {
    if file != format!("{name}-{version}.mcpb") {
        return Err(FactoryError::NotFound.into());
    }
    let place = factory.bundle(&Viewer::of(&reader), &name, &version).await?;
    let bytes = tokio::fs::read(place).await.map_err(FactoryError::Folder)?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], Body::from(bytes)).into_response())
}

/// Older callers may send what is not known.
#[derive(Deserialize)]
struct OlderGenerateIn {
    description: Option<String>,
    openapi: Option<Box<RawValue>>,
    url: Option<String>,
    postman: Option<Box<RawValue>>,
    graphql: Option<Box<RawValue>>,
    curl: Option<String>,
    spec: Option<Box<RawValue>>,
    runtime: Option<Language>,
    name: Option<String>,
}

async fn older_generate(State(factory): State<Factory>, actor: Actor, Json(order): Json<OlderGenerateIn>) -> Result<Response, Problem> {
    let OlderGenerateIn { description, openapi, url, postman, graphql, curl, spec, runtime, name } = order;
    let runtime = runtime.unwrap_or_default();
    let (wanted, document) =
        GenerateIn { description, openapi, url, postman, graphql, curl, spec, runtime, name, options: Options::default() }.order()?;
    let job = factory.begin(&actor, wanted, document).await?;
    let id = older_id(job);
    let place = format!("/api/jobs/{id}");
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(json!({ "job_id": id, "status": "processing" }))).into_response())
}

fn older_id(job: JobId) -> String {
    format!("{JOB_PREFIX}{}", job.0.simple())
}

async fn older_job(State(jobs): State<Jobs>, actor: Actor, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let parsed = id.strip_prefix(JOB_PREFIX).unwrap_or(&id).parse::<Uuid>().map_err(|_| jobs::JobsError::NotFound)?;
    let (job, _) = jobs.get(&actor, JobId(parsed)).await?;
    let status = match job.status {
        JobStatus::Pending => JobStatus::Processing,
        other => other,
    };
    let mut answer = json!({ "job_id": older_id(job.id), "status": status, "created_at": job.created_at });
    if let Some(result) = job.result {
        answer["result"] = result;
    }
    if let Some(error) = job.error {
        answer["error"] = error["message"].clone();
        answer["code"] = error["code"].clone();
    }
    if let Some(progress) = job.progress {
        answer["progress"] = json!(progress);
    }
    if let Some(at) = job.completed_at {
        answer["completed_at"] = json!(at);
    }
    Ok(Json(answer))
}

#[derive(Deserialize)]
struct OlderListQuery {
    limit: Option<u32>,
}

async fn older_list(State(factory): State<Factory>, actor: Actor, Query(query): Query<OlderListQuery>) -> Result<Json<ListOut>, Problem> {
    list(State(factory), actor, Query(ListQuery { limit: query.limit, search: None })).await
}

async fn older_register(state: State<Factory>, actor: Actor, manifest: Json<Map<String, Value>>) -> Result<Response, Problem> {
    register(state, actor, manifest).await
}

async fn older_one(state: State<Factory>, actor: Actor, path: Path<String>, query: Query<OneQuery>) -> Result<Json<GeneratedOut>, Problem> {
    one(state, actor, path, query).await
}

async fn older_remove(state: State<Factory>, actor: Actor, path: Path<String>, query: Query<RemoveQuery>) -> Result<Json<Value>, Problem> {
    let name = path.0.clone();
    remove(state, actor, path, query).await?;
    Ok(Json(json!({ "removed": true, "name": name })))
}

#[derive(Deserialize)]
struct OlderValidateIn {
    spec: Option<Value>,
    path: Option<String>,
}

async fn older_validate(state: State<Factory>, actor: Actor, Json(wanted): Json<OlderValidateIn>) -> Result<Json<ValidatedOut>, Problem> {
    validate(state, actor, Json(ValidateIn { spec: wanted.spec, path: wanted.path })).await
}
