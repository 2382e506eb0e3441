use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State as Held},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::post,
};
use platform::{
    Action, Actor, Problem,
    http::{Path, extract},
};
use servers::ServerRef;

use crate::{
    Gateway,
    answer::{Accepts, refused},
    error::GatewayError,
    legacy::{self, Come},
    modern,
    place::Place,
    rpc::{Message, batch},
};

/// What a message may measure: 4 MiB of arguments and what is around them.
const MOST: usize = (4 << 20) + (64 << 10);

/// `/mcp` and what is below it. Pages of strangers are turned away before anything else.
pub fn endpoints(gateway: Gateway) -> Router {
    Router::new()
        .route("/mcp", post(all).get(all).delete(all))
        .route("/mcp/s/{server}", post(server).get(server).delete(server))
        .layer(DefaultBodyLimit::max(MOST))
        .layer(middleware::from_fn_with_state(gateway.clone(), guard))
        .with_state(gateway)
}

async fn guard(Held(gateway): Held<Gateway>, request: Request, next: Next) -> Response {
    match gateway.inner.guard.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => Problem::of(&error).into_response(),
    }
}

async fn all(Held(gateway): Held<Gateway>, actor: Actor, request: Request) -> Result<Response, Problem> {
    serve(gateway, actor, Place::All, request).await
}

async fn server(Held(gateway): Held<Gateway>, actor: Actor, Path(server): Path<String>, request: Request) -> Result<Response, Problem> {
    let server: ServerRef = server.parse().map_err(|_| Problem::of(&GatewayError::NoServer))?;
    let id = gateway.inner.servers.id_of(&server).await?;
    serve(gateway, actor, Place::Server(id), request).await
}

async fn serve(gateway: Gateway, actor: Actor, place: Place, request: Request) -> Result<Response, Problem> {
    actor.require(Action::ToolsCall)?;
    let (method, headers) = (request.method().clone(), request.headers().clone());
    let come = Come { gateway: gateway.clone(), actor, place, headers };
    if method != Method::POST {
        let is_modern = come.headers.get(legacy::VERSION).is_some_and(|version| version == "2026-07-28");
        return Ok(match method {
            _ if is_modern => modern::no_such_method_of_http(None),
            Method::GET => legacy::get(&come),
            _ => legacy::delete(&come),
        });
    }
    if let Some(refusal) = unfit(&come.headers) {
        return Ok(refusal.into_response());
    }
    let servers = gateway.members(&come.actor, &come.place).await?;
    let body = extract::body(request, &()).await?;
    if let Some(messages) = batch(&body) {
        return Ok(legacy::post_batch(come, servers, messages).await);
    }
    Ok(match Message::parse(&body) {
        Err(fault) => refused(None, fault),
        Ok(message) if modern::is_meant(&come.headers, &message) => modern::post(come, servers, message).await,
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
