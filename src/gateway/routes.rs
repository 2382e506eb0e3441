use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State as Held},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use platform::{
    Action, Actor, Problem,
    http::{Json, Path, Query, Reader, cors, extract, front},
};
use serde::Deserialize;
use serde_json::Value;
use servers::{ServerRef, ServersError, Viewer};
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Gateway,
    answer::{Accepts, refused},
    client_config::{ClientKind, Way, by_gateway, direct},
    error::GatewayError,
    legacy::{self, Come},
    modern,
    place::Place,
    resource,
    rpc::{Message, batch},
};

/// What a message may measure: 4 MiB of arguments and what is around them.
const MOST: usize = (4 << 20) + (64 << 10);

/// What clients are told of servers.
pub fn router(gateway: Gateway) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(client_config)).routes(routes!(client_config_of_all)).with_state(gateway)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ConfigQuery {
    /// Whose file it is for.
    client: ClientKind,
    /// `gateway` (the default): by this fabric; `direct`: the client starts the server itself.
    via: Option<Way>,
}

/// The JSON that a client's file is to have for a server. Secrets are never in it: the client asks for them.
#[utoipa::path(get, path = "/api/mcp/servers/{id}/client-config", tag = "gateway",
    params(("id" = String, Path, description = "The server's id, percent-encoded, or its UUID"), ConfigQuery),
    responses((status = 200, description = "The file", body = Value), (status = 400, description = "No such client"),
    (status = 404, description = "No such server"), (status = 422, description = "Its document says neither what to run nor where it is")))]
async fn client_config(
    Held(gateway): Held<Gateway>,
    Path(server): Path<String>,
    Query(query): Query<ConfigQuery>,
    Reader(actor): Reader,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    let server: ServerRef = server.parse().map_err(|_| Problem::from(ServersError::NotFound))?;
    let described = gateway.inner.servers.document(&Viewer::of(&actor), &server).await?;
    if query.via == Some(Way::Direct) {
        let file = direct(query.client, &described.id, &described.document).ok_or(GatewayError::NothingToRun)?;
        return Ok(Json(file));
    }
    Ok(Json(by_gateway(query.client, Some(&described.id), &gateway.address(&headers)?)))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ConfigOfAllQuery {
    /// Whose file it is for.
    client: ClientKind,
}

/// The JSON that a client's file is to have for everything that one may use, at `/mcp`.
#[utoipa::path(get, path = "/api/mcp/client-config", tag = "gateway", params(ConfigOfAllQuery),
    responses((status = 200, description = "The file", body = Value), (status = 400, description = "No such client")))]
async fn client_config_of_all(
    Held(gateway): Held<Gateway>,
    Query(query): Query<ConfigOfAllQuery>,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    Ok(Json(by_gateway(query.client, None, &gateway.address(&headers)?)))
}

/// `/mcp` and what is below it. Pages of strangers are turned away before anything else.
pub fn endpoints(gateway: Gateway, origins: &[String]) -> Router {
    Router::new()
        .route("/mcp", post(all).get(all).delete(all))
        .route("/mcp/s/{server}", post(server).get(server).delete(server))
        .route("/mcp/v/{id}", post(put_together).get(put_together).delete(put_together))
        .method_not_allowed_fallback(front::method_not_allowed)
        .layer(DefaultBodyLimit::max(MOST))
        .layer(middleware::from_fn_with_state(gateway.clone(), as_resource))
        .route(resource::WELL_KNOWN, get(resource::described))
        .route(&format!("{}/{{*path}}", resource::WELL_KNOWN), get(resource::described))
        .layer(cors::for_mcp(origins))
        .layer(middleware::from_fn_with_state(gateway.clone(), guard))
        .with_state(gateway)
}

async fn guard(Held(gateway): Held<Gateway>, request: Request, next: Next) -> Response {
    match gateway.inner.guard.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => Problem::of(&error).into_response(),
    }
}

/// Says what the request is for, as tokens of an external issuer name it, and where whoever is refused finds that issuer.
async fn as_resource(Held(gateway): Held<Gateway>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let Some(audience) = gateway.audience(request.headers(), &path) else { return next.run(request).await };
    let domain = gateway.inner.guard.domain_of(request.headers()).map(str::to_owned);
    request.extensions_mut().insert(audience);
    gateway.challenged(domain.as_deref(), &path, next.run(request).await)
}

async fn all(Held(gateway): Held<Gateway>, actor: Actor, request: Request) -> Result<Response, Problem> {
    let place = gateway.at_domain(request.headers()).await?.map_or(Place::All, Place::Virtual);
    serve(gateway, actor, place, request).await
}

async fn put_together(Held(gateway): Held<Gateway>, actor: Actor, Path(id): Path<String>, request: Request) -> Result<Response, Problem> {
    let id = id.parse().map_err(|_| Problem::of(&GatewayError::NoServer))?;
    serve(gateway, actor, Place::Virtual(id), request).await
}

async fn server(Held(gateway): Held<Gateway>, actor: Actor, Path(server): Path<String>, request: Request) -> Result<Response, Problem> {
    let server: ServerRef = server.parse().map_err(|_| Problem::of(&GatewayError::NoServer))?;
    let id = gateway.inner.servers.id_of(&server).await?;
    serve(gateway, actor, Place::Server(id), request).await
}

async fn serve(gateway: Gateway, actor: Actor, place: Place, request: Request) -> Result<Response, Problem> {
    actor.require(Action::ToolsCall)?;
    let (parts, body) = request.into_parts();
    let request = Request::from_parts(parts.clone(), body);
    let come = Come { gateway: gateway.clone(), actor, place, parts };
    let method = &come.parts.method;
    if method != Method::POST {
        let is_modern = come.headers().get(legacy::VERSION).is_some_and(|version| version == "2026-07-28");
        return Ok(match *method {
            _ if is_modern => modern::no_such_method_of_http(None),
            Method::GET => {
                gateway.members(&come.actor, &come.place).await?;
                legacy::get(&come)
            }
            Method::DELETE => legacy::delete(&come),
            _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        });
    }
    if let Some(refusal) = unfit(come.headers()) {
        return Ok(refusal.into_response());
    }
    let servers = gateway.members(&come.actor, &come.place).await?;
    let body = extract::body(request, &()).await?;
    if let Some(messages) = batch(&body) {
        return Ok(legacy::post_batch(come, servers, messages).await);
    }
    Ok(match Message::parse(&body) {
        Err(fault) => refused(None, fault),
        Ok(message) if modern::is_meant(come.headers(), &message) => modern::post(come, servers, message).await,
        Ok(message) => legacy::post(come, servers, message).await,
    })
}

/// A body that is not JSON, or an answer that could not be read.
fn unfit(headers: &HeaderMap) -> Option<StatusCode> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Some(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let accepts = Accepts::of(headers);
    (!accepts.json && !accepts.events).then_some(StatusCode::NOT_ACCEPTABLE)
}
