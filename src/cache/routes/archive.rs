//! `/api/mcp/cache/export` and `/api/mcp/cache/import`.

use axum::{
    body::Body,
    extract::{Request, State},
    http::header,
    response::{IntoResponse as _, Response},
};
use futures_util::TryStreamExt as _;
use platform::{
    Actor, Problem,
    http::{Json, Query},
};
use serde::{Deserialize, Serialize};
use tokio_util::io::StreamReader;
use utoipa::{IntoParams, ToSchema};

use crate::{
    archive::{ExportOrder, Imported},
    service::Cache,
};

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ImportQuery {
    /// A key that is trusted besides the configured ones.
    key: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct KeyOut {
    /// Base64 of an Ed25519 key.
    key: String,
}

/// Show the key that archives of this fabric are signed with.
#[utoipa::path(get, path = "/api/mcp/cache/key", tag = "cache", security(("token" = [])), responses((status = 200, description = "The public key", body = KeyOut)))]
pub(super) async fn key(State(cache): State<Cache>, actor: Actor) -> Result<Json<KeyOut>, Problem> {
    Ok(Json(KeyOut { key: cache.public_key(&actor)? }))
}

/// Write packages into an archive, for a fabric without internet.
#[utoipa::path(post, path = "/api/mcp/cache/export", tag = "cache", security(("token" = [])), request_body = ExportOrder,
    responses((status = 200, description = "A tar file", content_type = "application/x-tar", body = Vec<u8>),
        (status = 422, description = "Not everything is cached")))]
pub(super) async fn export(State(cache): State<Cache>, actor: Actor, Json(order): Json<ExportOrder>) -> Result<Response, Problem> {
    let archive = cache.export(&actor, &order).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/x-tar"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"fabric-cache.tar\""),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Body::from_stream(archive)).into_response())
}

/// Take an archive in; all of it is verified before any of it counts.
#[utoipa::path(post, path = "/api/mcp/cache/import", tag = "cache", security(("token" = [])), params(ImportQuery),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = 200, description = "What it brought", body = Imported),
        (status = 422, description = "It is signed by nobody that is trusted, or was changed")))]
pub(super) async fn import(
    State(cache): State<Cache>,
    actor: Actor,
    Query(query): Query<ImportQuery>,
    request: Request,
) -> Result<Json<Imported>, Problem> {
    let body = request.into_body().into_data_stream().map_err(std::io::Error::other);
    Ok(Json(cache.import(&actor, StreamReader::new(body), query.key.as_deref()).await?))
}
