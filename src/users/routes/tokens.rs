use axum::{extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use platform::{
    Actor, Problem, Scope,
    http::{Json, Path, Query},
    page::{self, PageRequest},
};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Users,
    error::UsersError,
    model::{TokenId, TokenInfo, TokenKind},
    tokens::Wanted,
};

pub(super) fn router() -> OpenApiRouter<Users> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(revoke))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewTokenIn {
    /// For people: what it is used by.
    name: String,
    /// `personal` (default) or, for admins, `service`.
    #[schema(value_type = Option<TokenKind>)]
    kind: Option<String>,
    #[schema(value_type = Vec<Scope>)]
    scopes: Vec<String>,
    /// The only servers that it is for.
    servers: Option<Vec<String>>,
    /// The only tools that it is for, and then for nothing else of servers: `search`, `get_*`, `io.example/weather#forecast`.
    tools: Option<Vec<String>>,
    #[serde(alias = "expiresAt")]
    expires_at: Option<DateTime<Utc>>,
}

#[derive(Serialize, ToSchema)]
struct Created {
    id: TokenId,
    /// Shown once.
    token: String,
}

/// Make a token: a personal one for oneself, or a service token for another program.
#[utoipa::path(post, path = "/api/mcp/tokens", tag = "tokens", request_body = NewTokenIn, security(("token" = [])),
    responses((status = 201, description = "The token", body = Created)))]
async fn create(State(users): State<Users>, actor: Actor, Json(body): Json<NewTokenIn>) -> Result<(StatusCode, Json<Created>), Problem> {
    let unknown = |location, words: &str| Problem::field("invalid_field", location, format!("must be of {words}"));
    let kind =
        body.kind.as_deref().map_or(Ok(TokenKind::Personal), |kind| kind.parse().map_err(|_| unknown("body.kind", "personal, service")))?;
    let all = || Scope::ALL.map(Scope::as_str).join(", ");
    let scopes: Result<Vec<Scope>, Problem> =
        body.scopes.iter().map(|scope| scope.parse().map_err(|_| unknown("body.scopes", &all()))).collect();
    let wanted = Wanted { kind, name: body.name, scopes: scopes?, servers: body.servers, tools: body.tools, expires_at: body.expires_at };
    let (id, text) = users.create_token(&actor, wanted).await?;
    Ok((StatusCode::CREATED, Json(Created { id, token: text.expose_secret().to_owned() })))
}

#[derive(Serialize, ToSchema)]
struct TokenList {
    tokens: Vec<TokenInfo>,
    next_cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// For admins: service and operator tokens instead of one's own.
    #[param(value_type = Option<bool>)]
    service: Option<bool>,
    /// How many (1 to 200, default 50).
    #[param(value_type = Option<u32>)]
    #[serde(rename = "limit")]
    _limit: Option<String>,
    /// From the page before.
    #[serde(rename = "cursor")]
    _cursor: Option<String>,
}

/// List one's own tokens, without the tokens themselves.
#[utoipa::path(get, path = "/api/mcp/tokens", tag = "tokens", params(Asked), security(("token" = [])),
    responses((status = 200, description = "One page", body = TokenList)))]
async fn list(
    State(users): State<Users>,
    actor: Actor,
    page: PageRequest<TokenId>,
    Query(asked): Query<Asked>,
) -> Result<Json<TokenList>, Problem> {
    let rows = users.tokens(&actor, asked.service.unwrap_or(false), page.after, page.limit + 1).await?;
    let (tokens, next_cursor) = page::cut(rows, page.limit, |token| token.id);
    Ok(Json(TokenList { tokens, next_cursor }))
}

/// End a token.
#[utoipa::path(delete, path = "/api/mcp/tokens/{id}", tag = "tokens", params(("id" = String, Path)), security(("token" = [])),
    responses((status = 204, description = "It has ended"), (status = 404, description = "No such token")))]
async fn revoke(State(users): State<Users>, actor: Actor, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    users.revoke_token(&actor, id.parse().map_err(|_| UsersError::NotFound("token"))?).await?;
    Ok(StatusCode::NO_CONTENT)
}
