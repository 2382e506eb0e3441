use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use platform::{
    Actor, Problem,
    http::{Json, Path},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{
    Catalog,
    error::CatalogError,
    model::{Effect, Rule},
    rules::Effects,
};

/// How many servers an answer names.
const NAMED: usize = 100;

/// `/api/mcp/catalog/rules`.
pub(crate) fn router() -> OpenApiRouter<Catalog> {
    OpenApiRouter::new().routes(routes!(list, add)).routes(routes!(remove))
}

#[derive(Serialize, ToSchema)]
struct RuleOut {
    id: Uuid,
    effect: Effect,
    pattern: String,
    note: Option<String>,
    created_by: String,
    created_at: DateTime<Utc>,
}

impl From<Rule> for RuleOut {
    fn from(rule: Rule) -> Self {
        let Rule { id, effect, pattern, note, created_by, created_at } = rule;
        Self { id, effect, pattern, note, created_by, created_at }
    }
}

#[derive(Serialize, ToSchema)]
struct RuleList {
    rules: Vec<RuleOut>,
}

/// Servers that are another matter now; the first hundred by name.
#[derive(Serialize, ToSchema)]
struct Changed {
    count: usize,
    servers: Vec<String>,
}

impl From<Vec<String>> for Changed {
    fn from(mut servers: Vec<String>) -> Self {
        let count = servers.len();
        servers.truncate(NAMED);
        Self { count, servers }
    }
}

#[derive(Serialize, ToSchema)]
struct EffectsOut {
    /// Those that may not be used any more.
    denied: Changed,
    /// Those that may be used again.
    allowed: Changed,
}

impl From<Effects> for EffectsOut {
    fn from(effects: Effects) -> Self {
        Self { denied: effects.denied.into(), allowed: effects.allowed.into() }
    }
}

#[derive(Serialize, ToSchema)]
struct Added {
    #[serde(flatten)]
    rule: RuleOut,
    effects: EffectsOut,
}

/// List the rules of which servers may be used. A server that a `deny` rule is about may not, whatever allows it; where there
/// are `allow` rules, those that none is about may not either.
#[utoipa::path(get, path = "/api/mcp/catalog/rules", tag = "catalog", security(("token" = [])), responses((status = 200, body = RuleList)))]
async fn list(State(catalog): State<Catalog>, actor: Actor) -> Result<Json<RuleList>, Problem> {
    let rules = catalog.rules(&actor).await?;
    Ok(Json(RuleList { rules: rules.into_iter().map(RuleOut::from).collect() }))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RuleIn {
    effect: Effect,
    /// The name of a server, with `*` for any characters: `io.github.acme/*`. Upper and lower case are the same.
    pattern: String,
    /// Why.
    note: Option<String>,
    /// Only says what it would change.
    #[serde(default)]
    dry_run: bool,
}

/// Add a rule; what runs and may not any more is stopped, and the registry API and the gateway do not have it.
#[utoipa::path(post, path = "/api/mcp/catalog/rules", tag = "catalog", request_body = RuleIn, security(("token" = [])),
    responses((status = 201, body = Added), (status = 200, description = "What it would change, where it is only tried", body = Added),
    (status = 409, description = "There is such a rule"), (status = 422, description = "The pattern cannot be used")))]
async fn add(State(catalog): State<Catalog>, actor: Actor, Json(body): Json<RuleIn>) -> Result<Response, Problem> {
    let RuleIn { effect, pattern, note, dry_run } = body;
    let (rule, effects) = catalog.add_rule(&actor, effect, &pattern, note, dry_run).await?;
    let status = if dry_run { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(Added { rule: rule.into(), effects: effects.into() })).into_response())
}

/// Remove a rule; says what changes.
#[utoipa::path(delete, path = "/api/mcp/catalog/rules/{id}", tag = "catalog", security(("token" = [])), params(("id" = String, Path)),
    responses((status = 200, body = EffectsOut), (status = 404, description = "No such rule")))]
async fn remove(State(catalog): State<Catalog>, actor: Actor, Path(id): Path<String>) -> Result<Json<EffectsOut>, Problem> {
    let id = id.parse().map_err(|_| CatalogError::NoRule)?;
    Ok(Json(catalog.remove_rule(&actor, id).await?.into()))
}
