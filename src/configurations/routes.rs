use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use chrono::{DateTime, Utc};
use platform::{
    Actor, Problem,
    http::{
        Json, Path, Query,
        extract::{etag, if_match, parse_json},
    },
    page::{self, PageRequest},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use servers::{ServerRef, ServersError};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Configurations,
    model::{Change, Configuration, ConfigurationId, Lifecycle, Limits, Restart, Sharing, Standing},
    service::Shown,
    templates, transfer_routes,
};

/// `/api/mcp/users/me/servers`, and the older `/api/users/me/servers`.
pub fn router(configurations: Configurations) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(list, put))
        .routes(routes!(one, archive))
        .routes(routes!(restore))
        .merge(transfer_routes::router())
        .merge(templates::router())
        .route("/api/users/me/servers", get(list).post(put_older))
        .route("/api/users/me/servers/{server_id}", get(one).delete(archive))
        .route("/api/users/me/servers/{server_id}/restore", post(restore))
        .with_state(configurations)
}

/// What is wanted of a server; what is left out stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigurationIn {
    /// Of which: its id or its UUID.
    #[serde(alias = "serverId")]
    #[schema(example = "filesystem")]
    server_id: String,
    /// Whether it is to run (default: not).
    enabled: Option<bool>,
    /// By the name of an input that the server declares: text, a number, true or false, or null to take a value away.
    /// Secret ones go into the vault; `[secret]` leaves them.
    #[serde(default)]
    #[schema(value_type = Object)]
    values: Map<String, Value>,
    limits: Option<Limits>,
    /// When it is started again (default: `on_failure`).
    restart: Option<Restart>,
    /// How long an instance lives (default: `persistent`).
    lifecycle: Option<Lifecycle>,
    /// Who uses an instance (default: `per_user`); `shared` is for administrators.
    sharing: Option<Sharing>,
}

impl ConfigurationIn {
    /// The server that is named, and what is wanted of it.
    pub(crate) fn parted(self) -> (String, Change) {
        let Self { server_id, enabled, values, limits, restart, lifecycle, sharing } = self;
        (server_id, Change { enabled, values, limits, restart, lifecycle, sharing })
    }
}

/// A configuration, without its values.
#[derive(Serialize, ToSchema)]
struct ConfigurationOut {
    id: ConfigurationId,
    server_id: String,
    enabled: bool,
    limits: Limits,
    restart: Restart,
    lifecycle: Lifecycle,
    sharing: Sharing,
    status: Standing,
    /// For `If-Match`.
    revision: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<Configuration> for ConfigurationOut {
    fn from(found: Configuration) -> Self {
        let Configuration {
            id,
            owner: _,
            server_id,
            enabled,
            values: _,
            limits,
            restart,
            lifecycle,
            sharing,
            status,
            revision,
            created_at,
            updated_at,
        } = found;
        Self { id, server_id, enabled, limits, restart, lifecycle, sharing, status, revision, created_at, updated_at }
    }
}

#[derive(Serialize, ToSchema)]
struct ShownOut {
    #[serde(flatten)]
    configuration: ConfigurationOut,
    /// By the name of the input; `[secret]` for what the vault has.
    #[schema(value_type = Object)]
    values: Map<String, Value>,
    /// What the server needs and was not given.
    missing: Vec<String>,
}

fn shown(status: StatusCode, Shown { mut configuration, missing }: Shown) -> Response {
    let values = std::mem::take(&mut configuration.values);
    let etag = etag(configuration.revision);
    let body = ShownOut { configuration: configuration.into(), values, missing };
    (status, [(header::ETAG, etag), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(body)).into_response()
}

fn server(text: &str) -> Result<ServerRef, Problem> {
    text.parse().map_err(|_| ServersError::NotFound.into())
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// `active` (default) or `archived`.
    status: Option<Standing>,
}

#[derive(Serialize, ToSchema)]
struct ConfigurationsOut {
    servers: Vec<ConfigurationOut>,
    next_cursor: Option<String>,
}

/// List what you want of servers, by server.
#[utoipa::path(get, path = "/api/mcp/users/me/servers", tag = "configurations", security(("token" = [])), params(ListQuery, page::PageParams),
    responses((status = 200, body = ConfigurationsOut)))]
async fn list(
    State(configurations): State<Configurations>,
    actor: Actor,
    Query(query): Query<ListQuery>,
    page: PageRequest<String>,
) -> Result<Json<ConfigurationsOut>, Problem> {
    let after = page.after.unwrap_or_default();
    let found = configurations.list(&actor, query.status.unwrap_or(Standing::Active), &after, page.limit + 1).await?;
    let (found, next_cursor) = page::cut(found, page.limit, |last| last.server_id.clone());
    Ok(Json(ConfigurationsOut { servers: found.into_iter().map(Into::into).collect(), next_cursor }))
}

/// Say what you want of a server, anew (201) or in another way than before (200).
#[utoipa::path(post, path = "/api/mcp/users/me/servers", tag = "configurations", request_body = ConfigurationIn, security(("token" = [])),
    responses((status = 201, description = "Made", body = ShownOut), (status = 200, description = "Changed", body = ShownOut),
    (status = 400, description = "A value does not fit the input that the server declares"), (status = 404, description = "No such server"),
    (status = 412, description = "If-Match names another revision")))]
async fn put(
    State(configurations): State<Configurations>,
    actor: Actor,
    headers: HeaderMap,
    Json(body): Json<ConfigurationIn>,
) -> Result<Response, Problem> {
    let expected = if_match(&headers)?;
    let (server_id, change) = body.parted();
    let put = configurations.put(&actor, &server(&server_id)?, change, expected).await?;
    let status = if put.configuration.revision == 1 { StatusCode::CREATED } else { StatusCode::OK };
    Ok(shown(status, put))
}

/// The fields that this call knows.
const FIELDS: [&str; 8] = ["server_id", "serverId", "enabled", "values", "limits", "restart", "lifecycle", "sharing"];

/// As older paths take it: what is not known is ignored.
async fn put_older(
    configurations: State<Configurations>,
    actor: Actor,
    headers: HeaderMap,
    Json(mut body): Json<Map<String, Value>>,
) -> Result<Response, Problem> {
    body.retain(|name, _| FIELDS.contains(&name.as_str()));
    let bytes = serde_json::to_vec(&body).unwrap_or_default();
    put(configurations, actor, headers, Json(parse_json(&bytes)?)).await
}

/// Show what you want of one server, archived or not.
#[utoipa::path(get, path = "/api/mcp/users/me/servers/{server_id}", tag = "configurations", security(("token" = [])),
    params(("server_id" = String, Path, description = "The server's id, percent-encoded, or its UUID")),
    responses((status = 200, body = ShownOut), (status = 404, description = "You have none for this server")))]
async fn one(State(configurations): State<Configurations>, actor: Actor, Path(server_id): Path<String>) -> Result<Response, Problem> {
    Ok(shown(StatusCode::OK, configurations.get(&actor, &server(&server_id)?).await?))
}

/// Archive what you want of a server: it is not wanted any more, and can be restored.
#[utoipa::path(delete, path = "/api/mcp/users/me/servers/{server_id}", tag = "configurations", security(("token" = [])),
    params(("server_id" = String, Path, description = "The server's id, percent-encoded, or its UUID")),
    responses((status = 204, description = "Archived"), (status = 404, description = "You have none for this server"),
    (status = 412, description = "If-Match names another revision")))]
async fn archive(
    State(configurations): State<Configurations>,
    actor: Actor,
    headers: HeaderMap,
    Path(server_id): Path<String>,
) -> Result<StatusCode, Problem> {
    configurations.archive(&actor, &server(&server_id)?, if_match(&headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Restore what was archived; it is not enabled.
#[utoipa::path(post, path = "/api/mcp/users/me/servers/{server_id}/restore", tag = "configurations", security(("token" = [])),
    params(("server_id" = String, Path, description = "The server's id, percent-encoded, or its UUID")),
    responses((status = 200, body = ShownOut), (status = 404, description = "There is nothing to restore"),
    (status = 412, description = "If-Match names another revision")))]
async fn restore(
    State(configurations): State<Configurations>,
    actor: Actor,
    headers: HeaderMap,
    Path(server_id): Path<String>,
) -> Result<Response, Problem> {
    let restored = configurations.restore(&actor, &server(&server_id)?, if_match(&headers)?).await?;
    Ok(shown(StatusCode::OK, restored))
}
