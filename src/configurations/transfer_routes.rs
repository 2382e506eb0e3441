//! Many configurations at once, over HTTP.

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use chrono::{DateTime, Utc};
use platform::{
    Actor, FieldError, Problem, clock,
    http::{Json, Query},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Configurations,
    clients::Entry,
    error::ConfigurationsError,
    model::{Configuration, Lifecycle, Limits, Restart, Sharing},
    routes::ConfigurationIn,
    transfer::{Given, Outcome, Planned, Strategy},
};

/// What an export calls itself.
const FORMAT: &str = "mcp-fabric/configurations@1";

/// `/api/mcp/users/me/servers/bulk`, `export` and `import`, and the older paths without `mcp`.
pub(crate) fn router() -> OpenApiRouter<Configurations> {
    OpenApiRouter::new()
        .routes(routes!(put_many))
        .routes(routes!(export))
        .routes(routes!(import))
        .route("/api/users/me/servers/bulk", post(put_many))
        .route("/api/users/me/servers/export", get(export))
        .route("/api/users/me/servers/import", post(import))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ManyIn {
    /// Up to 1000.
    servers: Vec<ConfigurationIn>,
    /// Only say what would be another one.
    #[serde(default, alias = "dryRun")]
    dry_run: bool,
}

#[derive(Serialize, ToSchema)]
struct ManyOut {
    dry_run: bool,
    servers: Vec<PlannedOut>,
}

#[derive(Serialize, ToSchema)]
struct PlannedOut {
    server_id: String,
    outcome: Outcome,
    /// What is another one: `enabled`, `values.REGION`.
    fields: Vec<String>,
    /// What could not be taken over.
    notes: Vec<String>,
}

fn planned(dry_run: bool, servers: Vec<Planned>) -> Json<ManyOut> {
    let out = |Planned { server_id, outcome, fields, notes, .. }| PlannedOut { server_id, outcome, fields, notes };
    Json(ManyOut { dry_run, servers: servers.into_iter().map(out).collect() })
}

fn given(place: &str, servers: Vec<ConfigurationIn>) -> Vec<Given> {
    let one = |(position, wanted): (usize, ConfigurationIn)| {
        let (server, change) = wanted.parted();
        Given { place: format!("{place}[{position}]"), server, change, notes: Vec::new() }
    };
    servers.into_iter().enumerate().map(one).collect()
}

/// Say what you want of many servers. What cannot be used is named, and then nothing is changed.
#[utoipa::path(post, path = "/api/mcp/users/me/servers/bulk", tag = "configurations", security(("token" = [])), request_body = ManyIn,
    responses((status = 200, body = ManyOut), (status = 400, description = "A server is not there, or a value does not fit: each is named")))]
async fn put_many(State(configurations): State<Configurations>, actor: Actor, Json(body): Json<ManyIn>) -> Result<Json<ManyOut>, Problem> {
    let done = configurations.import(&actor, given("body.servers", body.servers), Strategy::Overlay, body.dry_run).await?;
    Ok(planned(body.dry_run, done))
}

#[derive(Serialize, ToSchema)]
struct ExportOut {
    #[schema(example = "mcp-fabric/configurations@1")]
    format: &'static str,
    exported_at: DateTime<Utc>,
    servers: Vec<ExportedOut>,
}

#[derive(Serialize, ToSchema)]
struct ExportedOut {
    server_id: String,
    enabled: bool,
    /// `[secret]` for what the vault has.
    #[schema(value_type = Object)]
    values: Map<String, Value>,
    limits: Limits,
    restart: Restart,
    lifecycle: Lifecycle,
    sharing: Sharing,
}

impl From<Configuration> for ExportedOut {
    fn from(own: Configuration) -> Self {
        let Configuration { server_id, enabled, values, limits, restart, lifecycle, sharing, .. } = own;
        Self { server_id, enabled, values, limits, restart, lifecycle, sharing }
    }
}

/// A configuration, as a file has it.
pub(crate) fn exported(own: Configuration) -> Value {
    serde_json::to_value(ExportedOut::from(own)).unwrap_or_default()
}

/// Get all that you want of servers as a file. Secrets are not in it: they are exported, encrypted, where credentials are.
#[utoipa::path(get, path = "/api/mcp/users/me/servers/export", tag = "configurations", security(("token" = [])), responses((status = 200, body = ExportOut)))]
async fn export(State(configurations): State<Configurations>, actor: Actor) -> Result<Response, Problem> {
    let servers = configurations.export(&actor).await?.into_iter().map(Into::into).collect();
    let headers = [(header::CACHE_CONTROL, "no-store"), (header::CONTENT_DISPOSITION, "attachment; filename=\"mcp-fabric-servers.json\"")];
    Ok((headers, Json(ExportOut { format: FORMAT, exported_at: clock::now(), servers })).into_response())
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ImportQuery {
    /// What becomes of what is there already (default: `overlay`).
    strategy: Option<Strategy>,
    /// Only say what would be another one.
    dry_run: Option<bool>,
}

/// Take what you want of servers from a file: an export, or the file of Claude or Cursor (`mcpServers`) or of VS Code (`servers`).
///
/// In the files of clients, servers are found by the packages that they run, by their fabric's address, or by their names.
/// Values that a server declares as secrets go into the vault.
#[utoipa::path(post, path = "/api/mcp/users/me/servers/import", tag = "configurations", security(("token" = [])), params(ImportQuery),
    request_body = Object, responses((status = 200, body = ManyOut),
    (status = 400, description = "It is no such file, a server is not there, or a value does not fit: each is named")))]
async fn import(
    State(configurations): State<Configurations>,
    actor: Actor,
    Query(query): Query<ImportQuery>,
    Json(body): Json<Map<String, Value>>,
) -> Result<Json<ManyOut>, Problem> {
    let given = read(&configurations, body, "body").await?;
    let dry_run = query.dry_run.unwrap_or(false);
    Ok(planned(dry_run, configurations.import(&actor, given, query.strategy.unwrap_or(Strategy::Overlay), dry_run).await?))
}

/// The servers of a file that stands at a place of a request.
pub(crate) async fn read(
    configurations: &Configurations,
    mut file: Map<String, Value>,
    at: &str,
) -> Result<Vec<Given>, ConfigurationsError> {
    let wrong = |below: &str, message: &str| ConfigurationsError::Fields(vec![FieldError::new(format!("{at}{below}"), message)]);
    if file.get("format").is_some_and(|format| format != FORMAT) {
        return Err(wrong(".format", "is not one that this fabric reads: `mcp-fabric/configurations@1`"));
    }
    let (below, servers) = match (file.remove("mcpServers"), file.remove("servers")) {
        (Some(servers), None) => (".mcpServers", servers),
        (None, Some(servers)) => (".servers", servers),
        (Some(_), Some(_)) => return Err(wrong("", "has both `mcpServers` and `servers`: it is of no client")),
        (None, None) => return Err(wrong("", "has neither `servers` nor `mcpServers`: it is no file of servers")),
    };
    let place = format!("{at}{below}");
    match servers {
        Value::Array(list) => own_list(&place, list),
        Value::Object(named) => {
            let (mut given, mut errors) = (Vec::new(), Vec::new());
            for (name, entry) in named {
                let place = format!("{place}.{name}");
                match serde_json::from_value::<Entry>(entry) {
                    Ok(entry) => given.push(entry.given(&name, place, configurations.servers()).await?),
                    Err(_) => errors.push(FieldError::new(place, "is not a server as clients write them")),
                }
            }
            if errors.is_empty() { Ok(given) } else { Err(ConfigurationsError::Fields(errors)) }
        }
        _ => Err(wrong(below, "must be a list, or servers by their names")),
    }
}

/// The servers of an export.
fn own_list(place: &str, list: Vec<Value>) -> Result<Vec<Given>, ConfigurationsError> {
    let (mut wanted, mut errors) = (Vec::new(), Vec::new());
    for (position, entry) in list.into_iter().enumerate() {
        match serde_json::from_value::<ConfigurationIn>(entry) {
            Ok(entry) => wanted.push(entry),
            Err(_) => errors.push(FieldError::new(format!("{place}[{position}]"), "is not a configuration as an export has it")),
        }
    }
    if errors.is_empty() { Ok(given(place, wanted)) } else { Err(ConfigurationsError::Fields(errors)) }
}
