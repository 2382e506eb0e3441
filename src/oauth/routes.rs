use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use platform::{
    Actor, Class, Coded as _, Problem,
    http::{Json, Path, Query},
};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use servers::{ServerRef, ServersError};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Oauth,
    error::OauthError,
    page,
    service::{Begin, Brought},
    store::Grant,
};

/// Logging in to servers elsewhere, and where browsers come back to.
pub fn router(oauth: Oauth) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(authorization, authorize, forget)).routes(routes!(callback, confirmed)).with_state(oauth)
}

/// How to log in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AuthorizeIn {
    /// Of a client that was registered by hand, where the authorization server wants that.
    client_id: Option<String>,
    /// Of that client.
    #[schema(value_type = Option<String>, format = Password)]
    client_secret: Option<SecretString>,
    /// What to ask for (default: what the server says).
    scope: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct AuthorizeOut {
    /// To be opened in a browser, by you alone.
    authorization_url: String,
    /// Where the browser comes back to: what a client that is registered by hand has to be registered with.
    redirect_uri: String,
    /// Until when it can be used.
    expires_at: DateTime<Utc>,
}

#[derive(Serialize, ToSchema)]
struct AuthorizationOut {
    server_id: String,
    /// Who gave the tokens.
    issuer: String,
    /// The server as the tokens name it.
    resource: String,
    scope: Option<String>,
    /// Of the access token, which is renewed before.
    expires_at: Option<DateTime<Utc>>,
    /// Whether you have to log in again.
    is_over: bool,
    /// When it was last renewed.
    updated_at: DateTime<Utc>,
}

impl From<Grant> for AuthorizationOut {
    fn from(grant: Grant) -> Self {
        let Grant { server_id, issuer, resource, scope, expires_at, is_over, updated_at, .. } = grant;
        Self { server_id, issuer, resource, scope, expires_at, is_over, updated_at }
    }
}

fn server(text: &str) -> Result<ServerRef, Problem> {
    text.parse().map_err(|_| ServersError::NotFound.into())
}

/// Begin to log in to a server elsewhere
///
/// OAuth 2.1 with PKCE: open the address in a browser. The tokens are yours alone, lie in the vault, and are renewed by
/// themselves.
#[utoipa::path(post, path = "/api/mcp/servers/{id}/authorization", tag = "runtime", security(("token" = [])), request_body = AuthorizeIn,
    params(("id" = String, Path, description = "A server")),
    responses((status = 201, body = AuthorizeOut), (status = 409, description = "login_not_needed"),
        (status = 422, description = "not_elsewhere, authorization_unusable"),
        (status = 502, description = "remote_unreachable, login_refused")))]
async fn authorize(
    State(oauth): State<Oauth>,
    actor: Actor,
    Path(id): Path<String>,
    Json(body): Json<AuthorizeIn>,
) -> Result<Response, Problem> {
    let AuthorizeIn { client_id, client_secret, scope } = body;
    let order = Begin { client: client_id.map(|id| (id, client_secret)), scope };
    let begun = oauth.begin(&actor, &server(&id)?, order).await?;
    let out = AuthorizeOut { authorization_url: begun.address.into(), redirect_uri: begun.redirect_uri, expires_at: begun.expires_at };
    let mut answer = (StatusCode::CREATED, Json(out)).into_response();
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

/// Your login at a server elsewhere
#[utoipa::path(get, path = "/api/mcp/servers/{id}/authorization", tag = "runtime", security(("token" = [])), params(("id" = String, Path, description = "A server")),
    responses((status = 200, body = AuthorizationOut), (status = 404, description = "not_logged_in")))]
async fn authorization(State(oauth): State<Oauth>, actor: Actor, Path(id): Path<String>) -> Result<Json<AuthorizationOut>, Problem> {
    Ok(Json(oauth.grant(&actor, &server(&id)?).await?.into()))
}

/// End your login at a server elsewhere
///
/// Its tokens are removed here, and revoked where they came from if that is offered.
#[utoipa::path(delete, path = "/api/mcp/servers/{id}/authorization", tag = "runtime", security(("token" = [])), params(("id" = String, Path, description = "A server")),
    responses((status = 204), (status = 404, description = "not_logged_in")))]
async fn forget(State(oauth): State<Oauth>, actor: Actor, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    oauth.revoke(&actor, &server(&id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, IntoParams)]
struct CallbackQuery {
    state: Option<String>,
    code: Option<String>,
    iss: Option<String>,
    error: Option<String>,
    error_description: Option<String>,
}

impl CallbackQuery {
    fn brought(self, place: String) -> Result<Brought, Response> {
        let plain = |text: String| text.chars().filter(|c| !c.is_control()).take(200).collect::<String>();
        match (self.state, self.code, self.error) {
            (_, _, Some(error)) => {
                let sentence = self.error_description.map(|sentence| format!(": {}", plain(sentence))).unwrap_or_default();
                Err(page::failed(StatusCode::BAD_REQUEST, &format!("The authorization server refused: {}{sentence}", plain(error))))
            }
            (Some(state), Some(code), None) => Ok(Brought { place, state, code, iss: self.iss }),
            _ => Err(page::failed(StatusCode::BAD_REQUEST, "This address lacks what an authorization server adds to it")),
        }
    }
}

/// Where browsers come back to after a login
///
/// Shows for whom the login is, and asks whether to go on.
#[utoipa::path(get, path = "/api/mcp/oauth/callback/{place}", tag = "runtime", params(("place" = String, Path, description = "Stands for the authorization server"), CallbackQuery),
    responses((status = 200, description = "A page", content_type = "text/html"), (status = 400, description = "A page", content_type = "text/html")))]
async fn callback(State(oauth): State<Oauth>, Path(place): Path<String>, Query(query): Query<CallbackQuery>) -> Response {
    let brought = match query.brought(place) {
        Ok(brought) => brought,
        Err(page) => return page,
    };
    match oauth.asked(&brought).await {
        Ok(login) => page::ask(&login.owner, &login.server_id, &login.issuer),
        Err(error) => shown(&error),
    }
}

/// Go on with a login that a browser brought back
#[utoipa::path(post, path = "/api/mcp/oauth/callback/{place}", tag = "runtime", params(("place" = String, Path, description = "Stands for the authorization server"), CallbackQuery),
    responses((status = 200, description = "A page", content_type = "text/html"), (status = 400, description = "A page", content_type = "text/html")))]
async fn confirmed(State(oauth): State<Oauth>, Path(place): Path<String>, Query(query): Query<CallbackQuery>) -> Response {
    let brought = match query.brought(place) {
        Ok(brought) => brought,
        Err(page) => return page,
    };
    match oauth.finish(&brought).await {
        Ok(login) => page::done(&login.server_id),
        Err(error) => shown(&error),
    }
}

/// For people: what is wrong on our side is in the log.
fn shown(error: &OauthError) -> Response {
    let (status, why) = match error.class() {
        Class::Internal => {
            tracing::error!(code = error.code(), %error, "a login could not be finished");
            (StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong on our side".to_owned())
        }
        Class::BadGateway => (StatusCode::BAD_GATEWAY, error.to_string()),
        Class::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "The service is not ready; try again in a moment".to_owned()),
        _ => (StatusCode::BAD_REQUEST, error.to_string()),
    };
    page::failed(status, &why)
}
