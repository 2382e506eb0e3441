use axum::{extract::State, http::StatusCode};
use platform::{Actor, Origin, Problem, http::Json};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{User, Users, model::UserId, sessions::Tickets};

pub(super) fn router() -> OpenApiRouter<Users> {
    OpenApiRouter::new().routes(routes!(register)).routes(routes!(login)).routes(routes!(refresh)).routes(routes!(logout))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Registration {
    #[schema(example = "ada@example.com")]
    email: String,
    /// 8 characters or more.
    #[schema(value_type = String, format = "password")]
    password: SecretString,
    /// What an admin's invitation says, where one is needed.
    #[schema(value_type = Option<String>)]
    invite: Option<SecretString>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Login {
    email: String,
    #[schema(value_type = String, format = "password")]
    password: SecretString,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Refresh {
    #[schema(value_type = String)]
    #[serde(alias = "refreshToken")]
    refresh_token: SecretString,
}

/// What a login gives.
#[derive(Serialize, ToSchema)]
struct TicketsOut {
    access_token: String,
    /// `Bearer`.
    token_type: &'static str,
    /// Seconds.
    expires_in: i64,
    /// Good once; it is exchanged for another.
    refresh_token: String,
    user: UserOut,
}

#[derive(Serialize, ToSchema)]
struct UserOut {
    id: UserId,
    email: String,
    role: platform::Role,
}

impl From<Tickets> for TicketsOut {
    fn from(tickets: Tickets) -> Self {
        Self {
            access_token: tickets.access.expose_secret().to_owned(),
            token_type: "Bearer",
            expires_in: tickets.expires_in.num_seconds(),
            refresh_token: tickets.refresh.expose_secret().to_owned(),
            user: UserOut { id: tickets.user.id, email: tickets.user.email, role: tickets.user.role },
        }
    }
}

/// Make an account. The first is an admin, and needs the operator's token.
#[utoipa::path(post, path = "/api/mcp/auth/register", tag = "auth", request_body = Registration, responses(
    (status = 201, description = "The account", body = User), (status = 403, description = "Not without an invitation, or not at all"),
    (status = 409, description = "There is one with this email")))]
async fn register(
    State(users): State<Users>,
    actor: Result<Actor, Problem>,
    origin: Origin,
    Json(body): Json<Registration>,
) -> Result<(StatusCode, Json<User>), Problem> {
    let user = users.register(actor.ok(), origin, &body.email, body.password, body.invite).await?;
    Ok((StatusCode::CREATED, Json(user)))
}

/// Log in: a short access token, and a refresh token for the next one.
#[utoipa::path(post, path = "/api/mcp/auth/login", tag = "auth", request_body = Login, responses(
    (status = 200, description = "Tokens", body = TicketsOut), (status = 401, description = "The same answer whatever is wrong")))]
async fn login(State(users): State<Users>, origin: Origin, Json(body): Json<Login>) -> Result<Json<TicketsOut>, Problem> {
    Ok(Json(users.log_in(origin, &body.email, body.password).await?.into()))
}

/// Exchange a refresh token. One that was used before ends its login.
#[utoipa::path(post, path = "/api/mcp/auth/refresh", tag = "auth", request_body = Refresh, responses(
    (status = 200, description = "Tokens", body = TicketsOut), (status = 401, description = "Log in again")))]
async fn refresh(State(users): State<Users>, origin: Origin, Json(body): Json<Refresh>) -> Result<Json<TicketsOut>, Problem> {
    Ok(Json(users.refresh(origin, body.refresh_token).await?.into()))
}

/// End the login that the access token belongs to.
#[utoipa::path(post, path = "/api/mcp/auth/logout", tag = "auth", security(("token" = [])),
    responses((status = 204, description = "It has ended")))]
async fn logout(State(users): State<Users>, actor: Actor) -> Result<StatusCode, Problem> {
    users.log_out(&actor).await?;
    Ok(StatusCode::NO_CONTENT)
}
