use std::collections::BTreeMap;

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use platform::{
    Actor, Problem,
    http::{
        Address, Json, Path, Query,
        extract::{etag, if_match},
    },
    page::{self, PageRequest},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    VirtualServers,
    error::VirtualServersError,
    model::{Change, Prefix, VirtualServer, VirtualServerId},
};

/// What these routes work with.
#[derive(Clone)]
struct Held {
    virtual_servers: VirtualServers,
    address: Address,
}

/// `/api/mcp/virtual-servers`.
pub fn router(virtual_servers: VirtualServers, address: Address) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(one, update, remove))
        .routes(routes!(restore))
        .routes(routes!(add_source, remove_source))
        .with_state(Held { virtual_servers, address })
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct VirtualServerIn {
    /// For people. Needed for a new one.
    name: Option<String>,
    /// Your sources that it may reach.
    #[serde(alias = "sourceIds")]
    source_ids: Option<Vec<String>>,
    /// Servers that it offers, by their ids.
    #[serde(alias = "serverIds")]
    server_ids: Option<Vec<String>>,
    /// What stands before the names of tools (default: `server`). Without a prefix, no two tools may have one name.
    prefix: Option<Prefix>,
    /// The tools that are offered, by their names here before anything is renamed; all where there are none.
    tools: Option<Vec<String>>,
    /// Tools by their names here, and what they are called instead.
    renamed: Option<BTreeMap<String, String>>,
}

impl From<VirtualServerIn> for Change {
    fn from(body: VirtualServerIn) -> Self {
        let VirtualServerIn { name, source_ids, server_ids, prefix, tools, renamed } = body;
        Self { name, source_ids, server_ids, prefix, tools, renamed }
    }
}

/// What a source comes to.
#[derive(Serialize, ToSchema)]
struct SourceOut {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    /// The server whose tools it makes reachable.
    server_id: Option<String>,
    /// Why it offers no tools, if it does not.
    note: Option<&'static str>,
}

#[derive(Serialize, ToSchema)]
struct VirtualServerOut {
    id: VirtualServerId,
    name: String,
    /// Its own, as long as it is there.
    endpoint: String,
    /// Where MCP clients connect.
    url: String,
    /// What there is to say of the endpoint.
    note: Option<&'static str>,
    source_ids: Vec<String>,
    sources: Vec<SourceOut>,
    server_ids: Vec<String>,
    prefix: Prefix,
    tools: Vec<String>,
    renamed: BTreeMap<String, String>,
    /// For `If-Match`.
    revision: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    deleted_at: Option<DateTime<Utc>>,
}

const OUTSIDE: &str = "this domain is not in MCP_GATEWAY_URL_POOLS any more; the server keeps it until it is removed";
const MOVED: &str = "the endpoint that it had is somebody else's by now, so it has another one";
const NO_SERVER: &str = "no server of the catalogue has this type as its id, so it offers no tools";

impl Held {
    async fn out(&self, headers: &HeaderMap, found: VirtualServer, note: Option<&'static str>) -> Result<VirtualServerOut, Problem> {
        let reach = self.virtual_servers.reach(&found).await?;
        let sources = reach.into_iter().map(|reach| SourceOut {
            note: reach.server_id.is_none().then_some(NO_SERVER),
            id: reach.source_id,
            kind: reach.kind,
            server_id: reach.server_id,
        });
        let note = note.or_else(|| self.virtual_servers.is_outside(&found.endpoint).then_some(OUTSIDE));
        let url = if found.endpoint.starts_with('/') {
            format!("{}{}", self.address.of(headers).unwrap_or_default(), found.endpoint)
        } else {
            format!("{}/mcp", found.endpoint)
        };
        let VirtualServer {
            id,
            owner: _,
            name,
            endpoint,
            source_ids,
            server_ids,
            prefix,
            tools,
            renamed,
            revision,
            created_at,
            updated_at,
            deleted_at,
        } = found;
        Ok(VirtualServerOut {
            id,
            name,
            endpoint,
            url,
            note,
            source_ids,
            sources: sources.collect(),
            server_ids,
            prefix,
            tools,
            renamed,
            revision,
            created_at,
            updated_at,
            deleted_at,
        })
    }

    async fn shown(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        found: VirtualServer,
        note: Option<&'static str>,
    ) -> Result<Response, Problem> {
        let etag = etag(found.revision);
        Ok((status, [(header::ETAG, etag)], Json(self.out(headers, found, note).await?)).into_response())
    }
}

#[derive(Serialize, ToSchema)]
struct VirtualServersOut {
    virtual_servers: Vec<VirtualServerOut>,
    next_cursor: Option<String>,
}

fn id(text: &str) -> Result<VirtualServerId, VirtualServersError> {
    text.parse().map_err(|_| VirtualServersError::NotFound)
}

/// List your virtual servers.
#[utoipa::path(get, path = "/api/mcp/virtual-servers", tag = "virtual servers", security(("token" = [])), params(page::PageParams),
    responses((status = 200, body = VirtualServersOut)))]
async fn list(
    State(held): State<Held>,
    actor: Actor,
    headers: HeaderMap,
    page: PageRequest<VirtualServerId>,
) -> Result<Json<VirtualServersOut>, Problem> {
    let found = held.virtual_servers.list(&actor, page.after, page.limit + 1).await?;
    let (found, next_cursor) = page::cut(found, page.limit, |last| last.id);
    let mut virtual_servers = Vec::with_capacity(found.len());
    for one in found {
        virtual_servers.push(held.out(&headers, one, None).await?);
    }
    Ok(Json(VirtualServersOut { virtual_servers, next_cursor }))
}

/// Make a virtual server; its endpoint is taken from the pool, or is a path of this fabric.
#[utoipa::path(post, path = "/api/mcp/virtual-servers", tag = "virtual servers", request_body = VirtualServerIn, security(("token" = [])),
    responses((status = 201, body = VirtualServerOut), (status = 400, description = "A field cannot be used"),
    (status = 409, description = "Every domain of the pool is in use, or two tools would have one name")))]
async fn create(
    State(held): State<Held>,
    actor: Actor,
    headers: HeaderMap,
    Json(body): Json<VirtualServerIn>,
) -> Result<Response, Problem> {
    let made = held.virtual_servers.create(&actor, body.into()).await?;
    held.shown(StatusCode::CREATED, &headers, made, None).await
}

/// Show one of your virtual servers.
#[utoipa::path(get, path = "/api/mcp/virtual-servers/{id}", tag = "virtual servers", security(("token" = [])), params(("id" = String, Path)),
    responses((status = 200, body = VirtualServerOut), (status = 404, description = "You have no such virtual server")))]
async fn one(State(held): State<Held>, actor: Actor, headers: HeaderMap, Path(name): Path<String>) -> Result<Response, Problem> {
    let found = held.virtual_servers.get(&actor, id(&name)?).await?;
    held.shown(StatusCode::OK, &headers, found, None).await
}

/// Change one of your virtual servers; what is left out stays, and so does its endpoint.
#[utoipa::path(put, path = "/api/mcp/virtual-servers/{id}", tag = "virtual servers", request_body = VirtualServerIn, security(("token" = [])),
    params(("id" = String, Path)), responses((status = 200, body = VirtualServerOut), (status = 404, description = "You have no such virtual server"),
    (status = 409, description = "Two tools would have one name"), (status = 412, description = "If-Match names another revision")))]
async fn update(
    State(held): State<Held>,
    actor: Actor,
    headers: HeaderMap,
    Path(name): Path<String>,
    Json(body): Json<VirtualServerIn>,
) -> Result<Response, Problem> {
    let changed = held.virtual_servers.update(&actor, id(&name)?, body.into(), if_match(&headers)?).await?;
    held.shown(StatusCode::OK, &headers, changed, None).await
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct RemoveQuery {
    /// For ever, and anybody's; for administrators.
    #[serde(default)]
    permanent: bool,
}

/// Remove a virtual server; it can be restored, unless it is removed for ever.
#[utoipa::path(delete, path = "/api/mcp/virtual-servers/{id}", tag = "virtual servers", security(("token" = [])),
    params(("id" = String, Path), RemoveQuery), responses((status = 204, description = "Removed; its endpoint is free"),
    (status = 404, description = "You have no such virtual server"), (status = 412, description = "If-Match names another revision")))]
async fn remove(
    State(held): State<Held>,
    actor: Actor,
    headers: HeaderMap,
    Path(name): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> Result<StatusCode, Problem> {
    let id = id(&name)?;
    if query.permanent {
        held.virtual_servers.erase_one(&actor, id).await?;
    } else {
        held.virtual_servers.remove(&actor, id, if_match(&headers)?).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Restore one that was removed, at the endpoint that it had where that is free; `note` says where it is not.
#[utoipa::path(post, path = "/api/mcp/virtual-servers/{id}/restore", tag = "virtual servers", security(("token" = [])),
    params(("id" = String, Path)), responses((status = 200, body = VirtualServerOut), (status = 404, description = "There is nothing to restore"),
    (status = 409, description = "Every domain of the pool is in use")))]
async fn restore(State(held): State<Held>, actor: Actor, headers: HeaderMap, Path(name): Path<String>) -> Result<Response, Problem> {
    let (restored, is_same) = held.virtual_servers.restore(&actor, id(&name)?).await?;
    held.shown(StatusCode::OK, &headers, restored, (!is_same).then_some(MOVED)).await
}

/// Let a virtual server reach a source.
#[utoipa::path(put, path = "/api/mcp/virtual-servers/{id}/sources/{source_id}", tag = "virtual servers", security(("token" = [])),
    params(("id" = String, Path), ("source_id" = String, Path)), responses((status = 200, body = VirtualServerOut),
    (status = 400, description = "You have no such source"), (status = 404, description = "You have no such virtual server")))]
async fn add_source(
    State(held): State<Held>,
    actor: Actor,
    headers: HeaderMap,
    Path((name, source)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let changed = held.virtual_servers.put_source(&actor, id(&name)?, &source, true).await?;
    held.shown(StatusCode::OK, &headers, changed, None).await
}

/// Take a source away from a virtual server.
#[utoipa::path(delete, path = "/api/mcp/virtual-servers/{id}/sources/{source_id}", tag = "virtual servers", security(("token" = [])),
    params(("id" = String, Path), ("source_id" = String, Path)), responses((status = 200, body = VirtualServerOut),
    (status = 404, description = "You have no such virtual server, or it has no such source")))]
async fn remove_source(
    State(held): State<Held>,
    actor: Actor,
    headers: HeaderMap,
    Path((name, source)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let changed = held.virtual_servers.put_source(&actor, id(&name)?, &source, false).await?;
    held.shown(StatusCode::OK, &headers, changed, None).await
}
