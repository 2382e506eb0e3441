use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use platform::{
    Actor, Problem,
    http::{
        Json, Path,
        extract::{etag, if_match},
    },
    page::{self, PageRequest},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    model::{Template, TemplateId},
    service::Wanted,
};
use crate::{
    Configurations,
    error::ConfigurationsError,
    model::{Change, Lifecycle, Limits, Restart, Sharing},
};

/// `/api/mcp/templates`.
pub(crate) fn router() -> OpenApiRouter<Configurations> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(one, update, remove))
}

/// What is wanted of servers, whichever they are; what is left out stays as each has it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TemplateIn {
    /// For people, and yours alone once. Needed for a new one.
    name: Option<String>,
    description: Option<String>,
    enabled: Option<bool>,
    /// By the name of an input: text, a number, true, false, or null to take a value away. Secrets do not belong here.
    #[schema(value_type = Option<Object>)]
    values: Option<Map<String, Value>>,
    limits: Option<Limits>,
    restart: Option<Restart>,
    lifecycle: Option<Lifecycle>,
    sharing: Option<Sharing>,
    /// Whether everybody may use it; for administrators.
    shared: Option<bool>,
}

impl From<TemplateIn> for Wanted {
    fn from(body: TemplateIn) -> Self {
        let TemplateIn { name, description, enabled, values, limits, restart, lifecycle, sharing, shared } = body;
        let has_values = values.is_some();
        let settings = Change { enabled, values: values.unwrap_or_default(), limits, restart, lifecycle, sharing };
        Self { name, description, settings, has_values, shared }
    }
}

#[derive(Serialize, ToSchema)]
struct TemplateOut {
    id: TemplateId,
    name: String,
    description: String,
    enabled: Option<bool>,
    #[schema(value_type = Object)]
    values: Map<String, Value>,
    limits: Option<Limits>,
    restart: Option<Restart>,
    lifecycle: Option<Lifecycle>,
    sharing: Option<Sharing>,
    shared: bool,
    /// Whether it is yours.
    own: bool,
    /// For `If-Match`.
    revision: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TemplateOut {
    fn of(actor: &Actor, found: Template) -> Self {
        let Template { id, owner, name, description, settings, shared, revision, created_at, updated_at } = found;
        let Change { enabled, values, limits, restart, lifecycle, sharing } = settings;
        let own = owner == actor.to_string();
        Self { id, name, description, enabled, values, limits, restart, lifecycle, sharing, shared, own, revision, created_at, updated_at }
    }
}

fn shown(status: StatusCode, actor: &Actor, found: Template) -> Response {
    let etag = etag(found.revision);
    (status, [(header::ETAG, etag)], Json(TemplateOut::of(actor, found))).into_response()
}

#[derive(Serialize, ToSchema)]
struct TemplatesOut {
    templates: Vec<TemplateOut>,
    next_cursor: Option<String>,
}

fn id(text: &str) -> Result<TemplateId, ConfigurationsError> {
    text.parse().map_err(|_| ConfigurationsError::NoTemplate)
}

/// List templates: yours, and those that everybody may use.
#[utoipa::path(get, path = "/api/mcp/templates", tag = "configurations", security(("token" = [])), params(page::PageParams),
    responses((status = 200, body = TemplatesOut)))]
async fn list(
    State(configurations): State<Configurations>,
    actor: Actor,
    page: PageRequest<TemplateId>,
) -> Result<Json<TemplatesOut>, Problem> {
    let found = configurations.templates(&actor, page.after, page.limit + 1).await?;
    let (found, next_cursor) = page::cut(found, page.limit, |last| last.id);
    Ok(Json(TemplatesOut { templates: found.into_iter().map(|one| TemplateOut::of(&actor, one)).collect(), next_cursor }))
}

/// Make a template; `POST /api/mcp/bulk` with `apply_template` lays it over the configurations of servers.
#[utoipa::path(post, path = "/api/mcp/templates", tag = "configurations", security(("token" = [])), request_body = TemplateIn,
    responses((status = 201, body = TemplateOut), (status = 400, description = "Fields cannot be used: each is named")))]
async fn create(State(configurations): State<Configurations>, actor: Actor, Json(body): Json<TemplateIn>) -> Result<Response, Problem> {
    let made = configurations.create_template(&actor, body.into()).await?;
    Ok(shown(StatusCode::CREATED, &actor, made))
}

/// Show a template.
#[utoipa::path(get, path = "/api/mcp/templates/{id}", tag = "configurations", security(("token" = [])), params(("id" = String, Path)),
    responses((status = 200, body = TemplateOut), (status = 404, description = "You have no such template")))]
async fn one(State(configurations): State<Configurations>, actor: Actor, Path(name): Path<String>) -> Result<Response, Problem> {
    Ok(shown(StatusCode::OK, &actor, configurations.template(&actor, id(&name)?).await?))
}

/// Change a template of yours; what is left out stays, and so does what it was applied to.
#[utoipa::path(put, path = "/api/mcp/templates/{id}", tag = "configurations", security(("token" = [])), request_body = TemplateIn,
    params(("id" = String, Path)), responses((status = 200, body = TemplateOut), (status = 404, description = "You have no such template"),
    (status = 412, description = "If-Match names another revision")))]
async fn update(
    State(configurations): State<Configurations>,
    actor: Actor,
    headers: HeaderMap,
    Path(name): Path<String>,
    Json(body): Json<TemplateIn>,
) -> Result<Response, Problem> {
    let changed = configurations.update_template(&actor, id(&name)?, body.into(), if_match(&headers)?).await?;
    Ok(shown(StatusCode::OK, &actor, changed))
}

/// Remove a template of yours; what it was applied to stays as it is.
#[utoipa::path(delete, path = "/api/mcp/templates/{id}", tag = "configurations", security(("token" = [])), params(("id" = String, Path)),
    responses((status = 204, description = "Removed"), (status = 404, description = "You have no such template"),
    (status = 412, description = "If-Match names another revision")))]
async fn remove(
    State(configurations): State<Configurations>,
    actor: Actor,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    configurations.remove_template(&actor, id(&name)?, if_match(&headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
