use std::collections::BTreeMap;

use async_stream::stream;
use axum::{
    body::{Body, Bytes},
    extract::State as Held,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use platform::{
    Action, Actor, Problem,
    http::{Json, Path, Query, Standing},
    page::{self, PageRequest},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};
use servers::{ServerRef, ServersError};
use tokio::sync::broadcast::error::RecvError;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Runtime,
    error::RuntimeError,
    log::Entry,
    model::{Backend, Era, Instance, InstanceId, Kept, SessionName, State},
    states::{Source, Stand},
    store::Filter,
};

/// Starting and stopping servers, and `/api/mcp/instances`.
pub fn router(runtime: Runtime) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(start))
        .routes(routes!(stop))
        .routes(routes!(restart))
        .routes(routes!(list))
        .routes(routes!(states))
        .routes(routes!(one, remove))
        .routes(routes!(logs))
        .routes(routes!(tools))
        .routes(routes!(call))
        .with_state(runtime)
}

#[derive(Serialize, ToSchema)]
struct InstanceOut {
    id: InstanceId,
    server_id: String,
    /// Whose it is.
    owner: String,
    /// Of one that is for a session.
    session: Option<String>,
    /// Which fabric runs it.
    node_id: String,
    backend: Backend,
    state: State,
    /// Since when it stands there.
    since: DateTime<Utc>,
    reason: Option<ReasonOut>,
    /// How often it was tried since it last ran well.
    attempt: i32,
    next_try_at: Option<DateTime<Utc>>,
    restarts: i64,
    pid: Option<i32>,
    /// As the container engine calls it.
    container: Option<String>,
    /// Of the package.
    version: Option<String>,
    /// How it speaks.
    era: Option<Era>,
    /// How many tools it has.
    tools: Option<i32>,
    limits: Option<Kept>,
    created_at: DateTime<Utc>,
}

#[derive(Serialize, ToSchema)]
struct ReasonOut {
    code: String,
    message: String,
}

impl From<Instance> for InstanceOut {
    fn from(found: Instance) -> Self {
        Self {
            id: found.id,
            server_id: found.server_id,
            owner: found.owner,
            session: Some(found.session).filter(|session| !session.is_empty()),
            node_id: found.node,
            backend: found.backend,
            state: found.state,
            since: found.since,
            reason: found.reason.map(|(code, message)| ReasonOut { code, message }),
            attempt: found.attempt,
            next_try_at: found.next_try_at,
            restarts: found.restarts,
            pid: found.pid,
            container: found.container,
            version: found.version,
            era: found.era,
            tools: found.tools,
            limits: found.limits,
            created_at: found.created_at,
        }
    }
}

fn server(text: &str) -> Result<ServerRef, Problem> {
    text.parse().map_err(|_| ServersError::NotFound.into())
}

fn id(text: &str) -> Result<InstanceId, RuntimeError> {
    text.parse().map_err(|_| RuntimeError::NotFound)
}

fn begun(instance: Instance) -> Response {
    let location =
        HeaderValue::try_from(format!("/api/mcp/instances/{}", instance.id)).unwrap_or(HeaderValue::from_static("/api/mcp/instances"));
    (StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(InstanceOut::from(instance))).into_response()
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct SessionQuery {
    /// A session of a client (up to 64 letters, digits, `.`, `_`, `-`), which has an instance of its own where your
    /// configuration says `per_session`; it ends when it is idle.
    session: Option<String>,
}

impl SessionQuery {
    fn name(&self) -> Result<Option<SessionName>, RuntimeError> {
        let unfit = RuntimeError::Field("query.session", "must be up to 64 letters, digits, `.`, `_` and `-`");
        self.session.as_deref().map(|name| SessionName::parse(name).ok_or(unfit)).transpose()
    }
}

/// Start a server: you want it to run from now on. What it runs is installed first, where it is not.
#[utoipa::path(post, path = "/api/mcp/servers/{id}/start", tag = "runtime", security(("token" = [])),
    params(("id" = String, Path, description = "The server's id, percent-encoded, or its UUID"), SessionQuery),
    responses((status = 202, description = "It starts, or runs already", body = InstanceOut), (status = 404, description = "No such server"),
    (status = 409, description = "A limit is reached"), (status = 422, description = "It needs values that it was not given: `missing` lists them")))]
async fn start(
    Held(runtime): Held<Runtime>,
    actor: Actor,
    Path(name): Path<String>,
    Query(query): Query<SessionQuery>,
) -> Result<Response, Problem> {
    Ok(begun(runtime.start_server(&actor, &server(&name)?, query.name()?.as_ref()).await?))
}

/// Stop a server: you do not want it to run any more.
#[utoipa::path(post, path = "/api/mcp/servers/{id}/stop", tag = "runtime", security(("token" = [])),
    params(("id" = String, Path, description = "The server's id, percent-encoded, or its UUID"), SessionQuery),
    responses((status = 202, description = "It ends, or has ended already", body = InstanceOut), (status = 404, description = "You do not have it"),
    (status = 409, description = "It was never started")))]
async fn stop(
    Held(runtime): Held<Runtime>,
    actor: Actor,
    Path(name): Path<String>,
    Query(query): Query<SessionQuery>,
) -> Result<Response, Problem> {
    Ok(begun(runtime.stop_server(&actor, &server(&name)?, query.name()?.as_ref()).await?))
}

/// Start a server anew that runs.
#[utoipa::path(post, path = "/api/mcp/servers/{id}/restart", tag = "runtime", security(("token" = [])),
    params(("id" = String, Path, description = "The server's id, percent-encoded, or its UUID")),
    responses((status = 202, description = "It is started anew", body = InstanceOut), (status = 404, description = "You do not have it"),
    (status = 409, description = "It does not run")))]
async fn restart(Held(runtime): Held<Runtime>, actor: Actor, Path(name): Path<String>) -> Result<Response, Problem> {
    Ok(begun(runtime.restart_server(&actor, &server(&name)?).await?))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only of this server.
    server_id: Option<String>,
    /// Only in this state.
    state: Option<State>,
}

#[derive(Serialize, ToSchema)]
struct InstancesOut {
    instances: Vec<InstanceOut>,
    next_cursor: Option<String>,
}

/// List your instances and those that are shared; administrators see everybody's.
#[utoipa::path(get, path = "/api/mcp/instances", tag = "runtime", security(("token" = [])), params(ListQuery, page::PageParams),
    responses((status = 200, body = InstancesOut)))]
async fn list(
    Held(runtime): Held<Runtime>,
    actor: Actor,
    Query(query): Query<ListQuery>,
    page: PageRequest<InstanceId>,
) -> Result<Json<InstancesOut>, Problem> {
    let filter = Filter { server_id: query.server_id, state: query.state, ..Filter::default() };
    let found = runtime.list(&actor, &filter, page.after, page.limit + 1).await?;
    let (found, next_cursor) = page::cut(found, page.limit, |last| last.id);
    Ok(Json(InstancesOut { instances: found.into_iter().map(Into::into).collect(), next_cursor }))
}

#[derive(Serialize, ToSchema)]
struct StatesOut {
    /// By the ids of servers.
    servers: BTreeMap<String, Stand>,
    /// Where it was read.
    source: Source,
}

/// How each of your servers stands, in one answer for those who look often.
#[utoipa::path(get, path = "/api/mcp/states", tag = "runtime", security(("token" = [])), responses((status = 200, body = StatesOut)))]
async fn states(Held(runtime): Held<Runtime>, actor: Actor) -> Result<Json<StatesOut>, Problem> {
    let (servers, source) = runtime.states(&actor).await?;
    Ok(Json(StatesOut { servers, source }))
}

#[derive(Serialize, ToSchema)]
struct ShownOut {
    #[serde(flatten)]
    instance: InstanceOut,
    /// What it uses now, where it runs here.
    usage: Option<UsageOut>,
}

#[derive(Serialize, ToSchema)]
struct UsageOut {
    processes: u32,
    memory_bytes: u64,
    /// Since its processes began.
    cpu_millis: u64,
}

/// Show one instance, and what it uses.
#[utoipa::path(get, path = "/api/mcp/instances/{id}", tag = "runtime", security(("token" = [])),
    params(("id" = String, Path, description = "The instance")),
    responses((status = 200, body = ShownOut), (status = 404, description = "You have no such instance")))]
async fn one(Held(runtime): Held<Runtime>, actor: Actor, Path(name): Path<String>) -> Result<Json<ShownOut>, Problem> {
    let instance = runtime.usable(&actor, id(&name)?, Action::InstancesRead).await?;
    let usage = runtime.usage(&instance).await;
    let usage = usage.map(|used| UsageOut { processes: used.processes, memory_bytes: used.memory_bytes, cpu_millis: used.cpu_millis });
    Ok(Json(ShownOut { instance: instance.into(), usage }))
}

/// Stop an instance where it runs, and remove it with its folder and its log.
#[utoipa::path(delete, path = "/api/mcp/instances/{id}", tag = "runtime", security(("token" = [])),
    params(("id" = String, Path, description = "The instance")),
    responses((status = 204, description = "Removed"), (status = 404, description = "You have no such instance")))]
async fn remove(Held(runtime): Held<Runtime>, actor: Actor, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    runtime.remove(&actor, id(&name)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LogsQuery {
    /// How many of the newest lines (1 to 5000, default 200).
    lines: Option<u32>,
    /// Go on with every line that comes, as JSON lines.
    #[serde(default)]
    follow: bool,
}

#[derive(Serialize, ToSchema)]
struct LogsOut {
    /// Oldest first.
    lines: Vec<Entry>,
}

/// Read the log of an instance, or follow it.
#[utoipa::path(get, path = "/api/mcp/instances/{id}/logs", tag = "runtime", security(("token" = [])),
    params(("id" = String, Path, description = "The instance"), LogsQuery),
    responses((status = 200, description = "The lines; one JSON object a line with `follow`", body = LogsOut),
    (status = 404, description = "You have no such instance")))]
async fn logs(
    Held(runtime): Held<Runtime>,
    standing: Standing,
    Path(name): Path<String>,
    Query(query): Query<LogsQuery>,
) -> Result<Response, Problem> {
    let (actor, id) = (standing.actor.clone(), id(&name)?);
    let lines = query.lines.unwrap_or(200);
    if !(1..=5000).contains(&lines) {
        return Err(Problem::field("invalid_lines", "query.lines", "must be a whole number from 1 to 5000"));
    }
    // Followed first: a line between the two would be lost.
    let live = if query.follow { runtime.follow(&actor, id).await? } else { None };
    let kept = runtime.log(&actor, id, lines as usize).await?;
    if !query.follow {
        return Ok(Json(LogsOut { lines: kept }).into_response());
    }
    let last = kept.last().map(|entry| entry.at);
    let lines = stream! {
        for entry in &kept {
            yield Ok::<Bytes, std::convert::Infallible>(line(entry));
        }
        let Some(mut live) = live else { return };
        let ended = standing.ended();
        tokio::pin!(ended);
        loop {
            tokio::select! {
                () = &mut ended => return,
                entry = live.recv() => match entry {
                    Ok(entry) if last.is_some_and(|last| entry.at <= last) => {}
                    Ok(entry) => yield Ok(line(&entry)),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
            }
        }
    };
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(lines)).into_response())
}

fn line(entry: &Entry) -> Bytes {
    let mut line = serde_json::to_vec(entry).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

#[derive(Serialize, ToSchema)]
struct ToolsOut {
    /// As the server describes them.
    #[schema(value_type = Vec<Object>)]
    tools: Vec<Value>,
}

/// List the tools of an instance.
#[utoipa::path(get, path = "/api/mcp/instances/{id}/tools", tag = "runtime", security(("token" = [])),
    params(("id" = String, Path, description = "The instance")),
    responses((status = 200, body = ToolsOut), (status = 404, description = "You have no such instance"), (status = 409, description = "It does not run"),
    (status = 502, description = "The server refused"), (status = 504, description = "The server did not answer in time")))]
async fn tools(Held(runtime): Held<Runtime>, actor: Actor, Path(name): Path<String>) -> Result<Json<ToolsOut>, Problem> {
    Ok(Json(ToolsOut { tools: runtime.tools(&actor, id(&name)?).await? }))
}

/// What a tool is called with.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CallIn {
    /// By name, as the tool's schema says.
    #[serde(default)]
    #[schema(value_type = Object)]
    arguments: Map<String, Value>,
}

/// Call a tool of an instance of your own, or of a shared one; what it gives stays as it came.
#[utoipa::path(post, path = "/api/mcp/instances/{id}/tools/{name}/call", tag = "runtime", request_body = CallIn, security(("token" = [])),
    params(("id" = String, Path, description = "The instance"), ("name" = String, Path, description = "The tool")),
    responses((status = 200, description = "The result, as MCP has it", body = Object),
    (status = 403, description = "It is somebody else's and not shared: its tools work with its owner's credentials"), (status = 404, description = "You have no such instance"),
    (status = 409, description = "It does not run"), (status = 502, description = "The server refused, or ended"),
    (status = 504, description = "The server did not answer in time")))]
async fn call(
    Held(runtime): Held<Runtime>,
    actor: Actor,
    Path((instance, tool)): Path<(String, String)>,
    Json(CallIn { arguments }): Json<CallIn>,
) -> Result<Json<Box<RawValue>>, Problem> {
    Ok(Json(runtime.call(&actor, id(&instance)?, &tool, &Value::Object(arguments)).await?))
}
