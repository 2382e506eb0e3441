use axum::{extract::State, http::StatusCode};
use platform::{
    Actor, Problem, Role,
    http::{Json, Path, Query},
    page::{self, PageRequest},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{
    User, Users,
    error::UsersError,
    model::{Invite, UserId},
};

pub(super) fn router() -> OpenApiRouter<Users> {
    OpenApiRouter::new()
        .routes(routes!(me, leave))
        .routes(routes!(change_password))
        .routes(routes!(list))
        .routes(routes!(get, change, erase))
        .routes(routes!(reset_password))
        .routes(routes!(invite, invites))
        .routes(routes!(uninvite))
}

/// Show one's own account.
#[utoipa::path(get, path = "/api/mcp/users/me", tag = "users", security(("token" = [])),
    responses((status = 200, description = "The account", body = User)))]
async fn me(State(users): State<Users>, actor: Actor) -> Result<Json<User>, Problem> {
    Ok(Json(users.me(&actor).await?))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Confirmation {
    /// The present one.
    #[schema(value_type = String, format = "password")]
    password: SecretString,
}

/// Erase one's own account, with all that is one's own.
#[utoipa::path(delete, path = "/api/mcp/users/me", tag = "users", request_body = Confirmation, security(("token" = [])),
    responses((status = 204, description = "It is gone"), (status = 401, description = "Another password"),
              (status = 409, description = "It is the last admin")))]
async fn leave(State(users): State<Users>, actor: Actor, Json(body): Json<Confirmation>) -> Result<StatusCode, Problem> {
    users.leave(&actor, body.password).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewPassword {
    #[schema(value_type = String, format = "password")]
    #[serde(alias = "currentPassword")]
    current_password: SecretString,
    #[schema(value_type = String, format = "password")]
    #[serde(alias = "newPassword")]
    new_password: SecretString,
}

/// Change one's own password; ends all logins.
#[utoipa::path(put, path = "/api/mcp/users/me/password", tag = "users", request_body = NewPassword, security(("token" = [])),
    responses((status = 204, description = "It is changed; log in again"), (status = 401, description = "Another password")))]
async fn change_password(State(users): State<Users>, actor: Actor, Json(body): Json<NewPassword>) -> Result<StatusCode, Problem> {
    users.change_password(&actor, body.current_password, body.new_password).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Serialize, ToSchema)]
struct UserList {
    users: Vec<User>,
    next_cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// Only the account with this address.
    email: Option<String>,
    /// How many (1 to 200, default 50).
    #[param(value_type = Option<u32>)]
    #[serde(rename = "limit")]
    _limit: Option<String>,
    /// From the page before.
    #[serde(rename = "cursor")]
    _cursor: Option<String>,
}

/// List accounts, in the order of their making.
#[utoipa::path(get, path = "/api/mcp/users", tag = "users", params(Asked), security(("token" = [])),
    responses((status = 200, description = "One page", body = UserList)))]
async fn list(
    State(users): State<Users>,
    actor: Actor,
    page: PageRequest<UserId>,
    Query(asked): Query<Asked>,
) -> Result<Json<UserList>, Problem> {
    let rows = users.list(&actor, asked.email.as_deref(), page.after, page.limit + 1).await?;
    let (users, next_cursor) = page::cut(rows, page.limit, |user| user.id);
    Ok(Json(UserList { users, next_cursor }))
}

/// Show an account.
#[utoipa::path(get, path = "/api/mcp/users/{id}", tag = "users", params(("id" = String, Path)), security(("token" = [])),
    responses((status = 200, description = "The account", body = User), (status = 404, description = "No such account")))]
async fn get(State(users): State<Users>, actor: Actor, Path(id): Path<String>) -> Result<Json<User>, Problem> {
    Ok(Json(users.get(&actor, parse_id(&id)?).await?))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Change {
    #[schema(value_type = Option<Role>)]
    role: Option<String>,
    /// Whether it may log in.
    disabled: Option<bool>,
}

/// Give an account another role, or shut it or open it; ends its logins.
#[utoipa::path(put, path = "/api/mcp/users/{id}", tag = "users", params(("id" = String, Path)), request_body = Change, security(("token" = [])),
    responses((status = 200, description = "The account", body = User), (status = 404, description = "No such account"),
              (status = 409, description = "It is the last admin")))]
async fn change(State(users): State<Users>, actor: Actor, Path(id): Path<String>, Json(body): Json<Change>) -> Result<Json<User>, Problem> {
    let role = body.role.as_deref().map(parse_role).transpose()?;
    Ok(Json(users.change(&actor, parse_id(&id)?, role, body.disabled).await?))
}

/// Erase an account, with all that is its own.
#[utoipa::path(delete, path = "/api/mcp/users/{id}", tag = "users", params(("id" = String, Path)), security(("token" = [])),
    responses((status = 204, description = "It is gone"), (status = 404, description = "No such account"),
              (status = 409, description = "It is the last admin")))]
async fn erase(State(users): State<Users>, actor: Actor, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    actor.require(platform::Action::UsersManage)?;
    users.erase(&actor, parse_id(&id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Serialize, ToSchema)]
struct FreshPassword {
    /// Shown once; to be changed.
    password: String,
}

/// Give an account a fresh password; ends its logins and its lock.
#[utoipa::path(post, path = "/api/mcp/users/{id}/reset-password", tag = "users", params(("id" = String, Path)), security(("token" = [])),
    responses((status = 200, description = "The password", body = FreshPassword), (status = 404, description = "No such account")))]
async fn reset_password(State(users): State<Users>, actor: Actor, Path(id): Path<String>) -> Result<Json<FreshPassword>, Problem> {
    actor.require(platform::Action::UsersManage)?;
    let password = users.reset_password(&actor, parse_id(&id)?).await?;
    Ok(Json(FreshPassword { password: password.expose_secret().to_owned() }))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Invitation {
    /// The only address that may use it.
    email: Option<String>,
    #[schema(value_type = Option<Role>)]
    role: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct Invited {
    /// What the invited person registers with; shown once.
    invite: String,
    #[serde(flatten)]
    about: Invite,
}

/// Invite somebody.
#[utoipa::path(post, path = "/api/mcp/invites", tag = "users", request_body = Invitation, security(("token" = [])),
    responses((status = 201, description = "The invitation, for a week", body = Invited)))]
async fn invite(State(users): State<Users>, actor: Actor, Json(body): Json<Invitation>) -> Result<(StatusCode, Json<Invited>), Problem> {
    let role = body.role.as_deref().map_or(Ok(Role::Member), parse_role)?;
    let (about, secret) = users.invite(&actor, body.email.as_deref(), role).await?;
    Ok((StatusCode::CREATED, Json(Invited { invite: secret.expose_secret().to_owned(), about })))
}

#[derive(Serialize, ToSchema)]
struct InviteList {
    invites: Vec<Invite>,
    next_cursor: Option<String>,
}

/// List invitations.
#[utoipa::path(get, path = "/api/mcp/invites", tag = "users", params(page::PageParams), security(("token" = [])),
    responses((status = 200, description = "One page", body = InviteList)))]
async fn invites(State(users): State<Users>, actor: Actor, page: PageRequest<Uuid>) -> Result<Json<InviteList>, Problem> {
    let rows = users.invites(&actor, page.after, page.limit + 1).await?;
    let (invites, next_cursor) = page::cut(rows, page.limit, |invite| invite.id);
    Ok(Json(InviteList { invites, next_cursor }))
}

/// Take an invitation back.
#[utoipa::path(delete, path = "/api/mcp/invites/{id}", tag = "users", params(("id" = String, Path)), security(("token" = [])),
    responses((status = 204, description = "It is void"), (status = 404, description = "No such invitation")))]
async fn uninvite(State(users): State<Users>, actor: Actor, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    actor.require(platform::Action::UsersManage)?;
    users.uninvite(&actor, id.parse().map_err(|_| UsersError::NotFound("invitation"))?).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn parse_role(text: &str) -> Result<Role, Problem> {
    text.parse().map_err(|_| Problem::field("invalid_field", "body.role", "must be admin, member or auditor"))
}

/// An id that cannot be one belongs to no account.
fn parse_id(id: &str) -> Result<UserId, Problem> {
    id.parse().map_err(|_| UsersError::NotFound("user").into())
}
