use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use platform::{
    Actor, Problem,
    http::{
        Json, Path, Query,
        extract::{etag, if_match},
    },
    page::{self, PageRequest},
};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{UserAndServer, parse_server};
use crate::{
    Credentials, Metadata,
    error::CredentialsError,
    model::{CredentialId, EnvVar, Kind},
    service::{OfServer, Value},
    transfer::{FileKind, Import, Imported, Strategy},
};

pub(super) fn router() -> OpenApiRouter<Credentials> {
    OpenApiRouter::new()
        .routes(routes!(store, list))
        .routes(routes!(import))
        .routes(routes!(of_server, store_all))
        .routes(routes!(delete))
        // `…/decrypt` is a path of the internal listener; here it is not even one that takes other methods.
        .route("/api/mcp/credentials/{user_id}/{server_id}/{env_var}", axum::routing::post(platform::http::front::not_found))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CredentialIn {
    /// Whose: your own id, or for services anybody's.
    #[serde(alias = "userId")]
    user_id: Option<String>,
    /// For which server: its id or its UUID.
    #[serde(alias = "serverId")]
    server_id: String,
    #[serde(alias = "envVar")]
    #[schema(example = "NOTION_API_KEY")]
    env_var: String,
    /// The secret; it is never shown again.
    #[schema(value_type = String, format = "password")]
    value: SecretString,
    #[schema(value_type = Option<Kind>)]
    kind: Option<String>,
    #[serde(alias = "expiresAt")]
    expires_at: Option<DateTime<Utc>>,
}

/// What was stored, without its value.
#[derive(Serialize, ToSchema)]
struct StoredOut {
    id: CredentialId,
    user_id: String,
    server_id: String,
    #[serde(flatten)]
    metadata: Metadata,
}

fn value(
    location: &str,
    env_var: &str,
    value: SecretString,
    kind: Option<&str>,
    expires_at: Option<DateTime<Utc>>,
) -> Result<Value, CredentialsError> {
    let env_var = EnvVar::parse(env_var).map_err(|unfit| CredentialsError::field(format!("{location}.env_var"), unfit.0))?;
    let unknown = |_| CredentialsError::field(format!("{location}.kind"), "must be env, api_key, oauth_access or oauth_refresh");
    let kind = kind.map_or(Ok(Kind::Env), |kind| kind.parse().map_err(unknown))?;
    Ok(Value { env_var, plaintext: value, kind, expires_at })
}

/// Store a credential, anew (201) or in the place of the one before (200).
#[utoipa::path(post, path = "/api/mcp/credentials", tag = "credentials", request_body = CredentialIn, security(("token" = [])), responses(
    (status = 201, description = "Stored", body = StoredOut), (status = 200, description = "Replaced", body = StoredOut),
    (status = 404, description = "No such server"), (status = 412, description = "If-Match names another revision")))]
async fn store(
    State(credentials): State<Credentials>,
    actor: Actor,
    headers: HeaderMap,
    Json(body): Json<CredentialIn>,
) -> Result<Response, Problem> {
    let expected = if_match(&headers)?;
    let value = value("body", &body.env_var, body.value, body.kind.as_deref(), body.expires_at)?;
    let server = parse_server(&body.server_id)?;
    let (user, server_id, stored) = credentials.store(&actor, body.user_id.as_deref(), &server, value, expected).await?;
    let status = if stored.is_new { StatusCode::CREATED } else { StatusCode::OK };
    let etag = etag(stored.metadata.revision);
    let body = StoredOut { id: stored.id, user_id: user.as_str().to_owned(), server_id, metadata: stored.metadata };
    Ok((status, [(header::ETAG, etag)], Json(body)).into_response())
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct OneOfMany {
    #[serde(alias = "envVar")]
    env_var: String,
    #[schema(value_type = String, format = "password")]
    value: SecretString,
    #[schema(value_type = Option<Kind>)]
    kind: Option<String>,
    #[serde(alias = "expiresAt")]
    expires_at: Option<DateTime<Utc>>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Many {
    credentials: Vec<OneOfMany>,
    /// Remove what is not named here (default: keep it).
    #[serde(default)]
    replace: bool,
}

/// What there is of one user for one server.
#[derive(Serialize, ToSchema)]
struct OfServerOut {
    user_id: String,
    server_id: String,
    credentials: Vec<Metadata>,
    /// What the server needs and is not stored.
    missing: Vec<String>,
}

impl From<OfServer> for OfServerOut {
    fn from(found: OfServer) -> Self {
        let OfServer { user, server_id, credentials, missing } = found;
        Self { user_id: user.as_str().to_owned(), server_id, credentials, missing }
    }
}

/// Show which credentials there are for a server, never their values.
#[utoipa::path(get, path = "/api/mcp/credentials/{user_id}/{server_id}", tag = "credentials", security(("token" = [])),
    params(("user_id" = String, Path), ("server_id" = String, Path)),
    responses((status = 200, description = "Without values", body = OfServerOut), (status = 404, description = "No such server or user")))]
async fn of_server(
    State(credentials): State<Credentials>,
    actor: Actor,
    Path((user, server)): UserAndServer,
) -> Result<Json<OfServerOut>, Problem> {
    let found = credentials.of_server(&actor, &user, &parse_server(&server)?).await?;
    Ok(Json(found.into()))
}

/// Store several credentials of a server at once: all or none.
#[utoipa::path(put, path = "/api/mcp/credentials/{user_id}/{server_id}", tag = "credentials", request_body = Many, security(("token" = [])),
    params(("user_id" = String, Path), ("server_id" = String, Path)),
    responses((status = 200, description = "What there is now", body = OfServerOut), (status = 404, description = "No such server or user")))]
async fn store_all(
    State(credentials): State<Credentials>,
    actor: Actor,
    Path((user, server)): UserAndServer,
    Json(body): Json<Many>,
) -> Result<Json<OfServerOut>, Problem> {
    let server = parse_server(&server)?;
    let mut values = Vec::with_capacity(body.credentials.len());
    for (n, one) in body.credentials.into_iter().enumerate() {
        values.push(value(&format!("body.credentials[{n}]"), &one.env_var, one.value, one.kind.as_deref(), one.expires_at)?);
    }
    credentials.store_all(&actor, &user, &server, values, body.replace).await?;
    let found = credentials.of_server(&actor, &user, &server).await?;
    Ok(Json(found.into()))
}

/// Delete a credential.
#[utoipa::path(delete, path = "/api/mcp/credentials/{user_id}/{server_id}/{env_var}", tag = "credentials", security(("token" = [])),
    params(("user_id" = String, Path), ("server_id" = String, Path), ("env_var" = String, Path)),
    responses((status = 204, description = "It is gone"), (status = 404, description = "There is none")))]
async fn delete(
    State(credentials): State<Credentials>,
    actor: Actor,
    Path((user, server, env_var)): Path<(String, String, String)>,
) -> Result<StatusCode, Problem> {
    let server = server.parse().map_err(|_| CredentialsError::NotFound("credential"))?;
    credentials.delete(&actor, &user, &server, &env_var).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ImportIn {
    /// Whose: your own id, or for services anybody's.
    #[serde(alias = "userId")]
    user_id: Option<String>,
    /// For which server, where the file does not say.
    #[serde(alias = "serverId")]
    server_id: Option<String>,
    /// What the file is.
    #[schema(value_type = FileKind)]
    format: String,
    /// The file itself.
    #[schema(value_type = String)]
    content: SecretString,
    /// What opens an encrypted file.
    #[schema(value_type = Option<String>, format = "password")]
    passphrase: Option<SecretString>,
    /// The same: `AGE-SECRET-KEY-…`.
    #[schema(value_type = Option<String>, format = "password")]
    identity: Option<SecretString>,
    /// What becomes of what is there: `overlay` (default), `append` or `replace`.
    #[schema(value_type = Option<Strategy>)]
    strategy: Option<String>,
}

/// Take credentials from a file: `.env`, JSON, or an encrypted export.
#[utoipa::path(post, path = "/api/mcp/credentials/import", tag = "credentials", request_body = ImportIn, security(("token" = [])),
    responses((status = 200, description = "What was taken in", body = Imported), (status = 404, description = "No such server")))]
async fn import(State(credentials): State<Credentials>, actor: Actor, Json(body): Json<ImportIn>) -> Result<Json<Imported>, Problem> {
    let kind = body.format.parse().map_err(|_| CredentialsError::field("body.format", "must be env, json or age"))?;
    let unknown = |_| CredentialsError::field("body.strategy", "must be replace, overlay or append");
    let strategy = body.strategy.as_deref().map_or(Ok(Strategy::Overlay), |text| text.parse().map_err(unknown))?;
    let secret = body.passphrase.or(body.identity);
    let import = Import { kind, strategy, server: body.server_id, content: body.content, secret };
    Ok(Json(credentials.import(&actor, body.user_id.as_deref(), import).await?))
}

#[derive(Serialize, ToSchema)]
struct Listed {
    server_id: String,
    #[serde(flatten)]
    metadata: Metadata,
}

#[derive(Serialize, ToSchema)]
struct CredentialList {
    user_id: String,
    credentials: Vec<Listed>,
    next_cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// Whose: for services anybody's.
    user_id: Option<String>,
    /// How many (1 to 200, default 50).
    #[param(value_type = Option<u32>)]
    #[serde(rename = "limit")]
    _limit: Option<String>,
    /// From the page before.
    #[serde(rename = "cursor")]
    _cursor: Option<String>,
}

/// List one's own credentials for all servers, never their values.
#[utoipa::path(get, path = "/api/mcp/credentials", tag = "credentials", params(Asked), security(("token" = [])),
    responses((status = 200, description = "One page", body = CredentialList)))]
async fn list(
    State(credentials): State<Credentials>,
    actor: Actor,
    page: PageRequest<(String, String)>,
    Query(asked): Query<Asked>,
) -> Result<Json<CredentialList>, Problem> {
    let after = page.after.as_ref().map(|(server, name)| (server.as_str(), name.as_str()));
    let (user, rows) = credentials.all(&actor, asked.user_id.as_deref(), after, page.limit + 1).await?;
    let (rows, next_cursor) = page::cut(rows, page.limit, |(server, metadata)| (server.clone(), metadata.env_var.clone()));
    let credentials = rows.into_iter().map(|(server_id, metadata)| Listed { server_id, metadata }).collect();
    Ok(Json(CredentialList { user_id: user.as_str().to_owned(), credentials, next_cursor }))
}
