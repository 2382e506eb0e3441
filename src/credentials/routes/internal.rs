use std::collections::BTreeMap;

use axum::{
    body::Bytes,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use chrono::TimeDelta;
use platform::{
    Actor, Class, Origin, Problem,
    http::{Json, Path, answer::unkept},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap as _};
use tower::util::MapResponseLayer;
use zeroize::Zeroizing;

use super::{UserAndServer, parse_server};
use crate::{Credentials, error::CredentialsError, reveal::Revealed, transfer::Reader};

/// Everything that the internal listener has.
pub fn internal(credentials: Credentials) -> axum::Router {
    axum::Router::new()
        .route("/api/mcp/credentials/{user_id}/{server_id}/decrypt", axum::routing::post(decrypt))
        .route("/api/mcp/credentials/{user_id}/{server_id}/wrap", axum::routing::post(wrap))
        .route("/api/mcp/credentials/{user_id}/export", axum::routing::post(export))
        .route("/api/mcp/credentials/unwrap", axum::routing::post(unwrap))
        .layer(middleware::from_fn(no_browsers))
        .layer(MapResponseLayer::new(unkept))
        .with_state(credentials)
}

/// No web page has anything to do here.
async fn no_browsers(request: Request, next: Next) -> Response {
    let headers: &HeaderMap = request.headers();
    if headers.contains_key(header::ORIGIN) || headers.keys().any(|name| name.as_str().starts_with("sec-fetch-")) {
        return Problem::new(Class::Forbidden, "forbidden", "this listener is not for browsers").into_response();
    }
    next.run(request).await
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Wanted {
    #[serde(alias = "envVars")]
    env_vars: Option<Vec<String>>,
}

/// The environment of a launch: the only answer with plaintext in it.
struct Environment<'a>(&'a BTreeMap<String, SecretString>);

impl Serialize for Environment<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0 {
            map.serialize_entry(name, value.expose_secret())?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct RevealedOut<'a> {
    user_id: &'a str,
    server_id: &'a str,
    env: Environment<'a>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    expired: &'a [String],
}

/// The body is wiped when it has been sent.
fn answer(revealed: &Revealed) -> Response {
    let out = RevealedOut {
        user_id: revealed.user.as_str(),
        server_id: &revealed.server_id,
        env: Environment(&revealed.env),
        expired: &revealed.expired,
    };
    let body = Zeroizing::new(serde_json::to_vec(&out).unwrap_or_default());
    let headers = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (headers, Bytes::from_owner(body)).into_response()
}

/// Give out what one user stored for one server.
async fn decrypt(
    State(credentials): State<Credentials>,
    actor: Actor,
    Path((user, server)): UserAndServer,
    Json(body): Json<Wanted>,
) -> Result<Response, Problem> {
    let server = parse_server(&server).map_err(|_| CredentialsError::NotFound("credential"))?;
    Ok(answer(&credentials.reveal(&actor, &user, &server, body.env_vars).await?))
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct WrapIn {
    #[serde(alias = "envVars")]
    env_vars: Option<Vec<String>>,
    /// From 1 to 300 seconds; 60 unless it says otherwise.
    #[serde(alias = "ttlSeconds")]
    ttl_seconds: Option<u32>,
}

#[derive(Serialize)]
struct WrapOut {
    wrap_token: String,
    expires_in: i64,
}

/// Make a hand-off that reveals once.
async fn wrap(
    State(credentials): State<Credentials>,
    actor: Actor,
    Path((user, server)): UserAndServer,
    Json(body): Json<WrapIn>,
) -> Result<Json<WrapOut>, Problem> {
    let server = parse_server(&server).map_err(|_| CredentialsError::NotFound("credential"))?;
    let ttl = body.ttl_seconds.map(|seconds| TimeDelta::seconds(seconds.into()));
    let (token, ttl) = credentials.wrap(&actor, &user, &server, body.env_vars, ttl).await?;
    Ok(Json(WrapOut { wrap_token: token.expose_secret().to_owned(), expires_in: ttl.num_seconds() }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportIn {
    recipient: Option<String>,
    passphrase: Option<SecretString>,
}

/// Give out all credentials of a user, encrypted with age.
async fn export(
    State(credentials): State<Credentials>,
    actor: Actor,
    Path(user): Path<String>,
    Json(body): Json<ExportIn>,
) -> Result<Response, Problem> {
    let reader = match (body.recipient, body.passphrase) {
        (Some(recipient), None) => Reader::Recipient(recipient),
        (None, Some(passphrase)) => Reader::Passphrase(passphrase),
        _ => return Err(CredentialsError::field("body", "must hold either `recipient` or `passphrase`").into()),
    };
    let file = credentials.export(&actor, &user, reader).await?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/age-encryption"))], file).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UnwrapIn {
    #[serde(alias = "wrapToken")]
    wrap_token: SecretString,
}

/// Reveal by a hand-off, once; the token is all that is needed.
async fn unwrap(State(credentials): State<Credentials>, origin: Origin, Json(body): Json<UnwrapIn>) -> Result<Response, Problem> {
    let actor = Actor::new(platform::Identity::Nobody, std::sync::Arc::new(origin));
    Ok(answer(&credentials.unwrap(&actor, &body.wrap_token).await?))
}
