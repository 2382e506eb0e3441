use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing,
};
use chrono::{DateTime, Utc};
use platform::{
    Actor, Problem,
    http::{
        Json, Path, Query, Reader,
        extract::{etag, if_match},
    },
    page::{self, PageRequest},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use servers::{Filter, ListKey, Origin, Places, ServerRef, ServersError, Sort, Status, Summary, Viewer, Visibility};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{
    Catalog,
    error::CatalogError,
    image::image_of,
    model::{CatalogType, Change},
    routes_history, routes_rules,
    service::{Shown, is_own},
};

/// The longest search, in characters.
const MAX_SEARCH: usize = 200;

/// `/api/mcp/catalog`.
pub fn router(catalog: Catalog) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(create))
        .routes(routes!(one, update))
        .routes(routes!(remove))
        .merge(routes_history::router())
        .merge(routes_rules::router())
        .with_state(catalog)
}

/// `/api/catalog`, as earlier systems had it.
pub fn older(catalog: Catalog) -> Router {
    Router::new()
        .route("/api/catalog", routing::get(list))
        .route("/api/catalog/custom", routing::post(create))
        .route("/api/catalog/{id}", routing::get(one).put(update))
        .route("/api/catalog/custom/{id}", routing::delete(remove))
        .with_state(catalog)
}

/// A server, as the catalogue's editor shows it.
#[derive(Serialize, ToSchema)]
struct CatalogServer {
    id: Uuid,
    /// The id that is a text.
    name: String,
    /// What it is made of: an OCI reference, `<type>:<identifier>@<version>`, or where it is.
    image: Option<String>,
    description: String,
    catalog_type: CatalogType,
    /// What is said of it beside its document.
    #[schema(value_type = Object)]
    metadata: Value,
    /// The person who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<Uuid>,
    title: Option<String>,
    version: Option<String>,
    origin: Origin,
    status: Status,
    categories: Vec<String>,
    /// Who sees it.
    visibility: Visibility,
    /// Whether you keep it here.
    own: bool,
    /// In no list, by administrators.
    hidden: bool,
    /// Not to be used, by administrators.
    denied: bool,
    /// For `If-Match`.
    revision: i64,
    updated_at: DateTime<Utc>,
    /// Its latest server.json; of one server, not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    document: Option<Value>,
}

impl CatalogServer {
    fn of(actor: &Actor, row: Summary, places: &Places) -> Self {
        Self {
            id: row.uuid,
            image: image_of(places, &row.id),
            name: row.id,
            description: row.description,
            catalog_type: CatalogType::of(row.origin),
            metadata: row.access.metadata,
            created_by: row.access.created_by,
            title: row.title,
            version: row.version,
            origin: row.origin,
            status: row.status,
            categories: row.categories,
            visibility: row.access.visibility,
            own: row.access.owner.is_some_and(|owner| is_own(actor, &owner)),
            hidden: row.access.is_hidden,
            denied: row.access.is_denied,
            revision: row.access.revision,
            updated_at: row.updated_at,
            document: None,
        }
    }
}

/// A server, as it is answered.
pub(crate) fn shown(status: StatusCode, actor: &Actor, shown: Shown) -> Response {
    let etag = etag(shown.summary.access.revision);
    let server = CatalogServer { document: Some(shown.document), ..CatalogServer::of(actor, shown.summary, &shown.places) };
    (status, [(header::ETAG, etag)], Json(server)).into_response()
}

#[derive(Serialize, ToSchema)]
struct CatalogList {
    servers: Vec<CatalogServer>,
    /// How many fit, on all pages.
    total: i64,
    next_cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Words to find in name, title and description.
    q: Option<String>,
    /// `custom` for what was made here, `predefined` for the rest.
    #[serde(rename = "type")]
    #[param(rename = "type")]
    kind: Option<CatalogType>,
    /// Only servers of this category.
    category: Option<String>,
    /// Only those that you keep here.
    #[serde(default)]
    own: bool,
    /// Also those that are hidden or denied; for administrators.
    #[serde(default)]
    include_hidden: bool,
    /// How many (1 to 200, default 50).
    #[param(value_type = Option<u32>)]
    #[serde(rename = "limit")]
    _limit: Option<String>,
    /// From the page before.
    #[serde(rename = "cursor")]
    _cursor: Option<String>,
}

pub(crate) fn server(id: &str) -> Result<ServerRef, CatalogError> {
    id.parse().map_err(|_| ServersError::NotFound.into())
}

/// List servers: all that everybody sees, what is shared with those who sign in, and your own.
#[utoipa::path(get, path = "/api/mcp/catalog", tag = "catalog", params(ListQuery),
    responses((status = 200, body = CatalogList), (status = 400, description = "A parameter is wrong")))]
async fn list(
    State(catalog): State<Catalog>,
    Reader(actor): Reader,
    page: PageRequest<ListKey>,
    Query(query): Query<ListQuery>,
) -> Result<Json<CatalogList>, Problem> {
    let search = query.q.filter(|text| !text.trim().is_empty());
    if search.as_ref().is_some_and(|text| text.chars().count() > MAX_SEARCH) {
        return Err(Problem::field("invalid_search", "query.q", format!("is longer than {MAX_SEARCH} characters")));
    }
    let sort = if search.is_some() { Sort::Relevance } else { Sort::Name };
    let filter = Filter {
        viewer: Viewer::of(&actor),
        with_unlisted: query.include_hidden,
        search,
        category: query.category,
        origins: query.kind.map(CatalogType::origins).unwrap_or_default(),
        owner: query.own.then(|| actor.to_string()),
        ..Filter::default()
    };
    let (rows, total, places) = catalog.list(&actor, &filter, sort, page.after.as_ref(), page.limit + 1).await?;
    let (rows, next_cursor) = page::cut(rows, page.limit, |row| ListKey::from(row));
    let servers = rows.into_iter().map(|row| CatalogServer::of(&actor, row, &places)).collect();
    Ok(Json(CatalogList { servers, total, next_cursor }))
}

/// Show one server, by its id (the text, percent-encoded, or the UUID), with its document.
#[utoipa::path(get, path = "/api/mcp/catalog/{id}", tag = "catalog", params(("id" = String, Path)),
    responses((status = 200, body = CatalogServer), (status = 404, description = "No such server, or none that you may see")))]
async fn one(State(catalog): State<Catalog>, Reader(actor): Reader, Path(id): Path<String>) -> Result<Response, Problem> {
    Ok(shown(StatusCode::OK, &actor, catalog.get(&actor, &server(&id)?).await?))
}

/// What is to be kept of a server: all that it says in a `document`, or in parts.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ServerIn {
    /// Its id: a plain name; with a namespace for administrators. Needed for a new one, and never changed.
    name: Option<String>,
    /// An OCI reference, or `npm:<name>@<version>`, or `pypi:<name>@<version>`.
    image: Option<String>,
    title: Option<String>,
    description: Option<String>,
    /// Of the server; without one, that of the image.
    version: Option<String>,
    /// A whole server.json, in place of the four above.
    #[schema(value_type = Option<Object>)]
    document: Option<Value>,
    /// Said beside the document; secrets do not belong here.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
    /// `private` (the default), `shared` with all who sign in, or `public`, for administrators.
    visibility: Option<Visibility>,
    /// In no list; for administrators.
    hidden: Option<bool>,
    /// Why it is changed, for the history.
    note: Option<String>,
    /// As it is shown; it can only be what it is.
    catalog_type: Option<CatalogType>,
}

impl ServerIn {
    fn change(self) -> Change {
        let Self { name, image, title, description, version, document, metadata, visibility, hidden, note, catalog_type: _ } = self;
        Change { name, document, image, title, description, version, metadata, visibility, is_hidden: hidden, note }
    }
}

/// Make a server of your own. Everything that is wrong with it is named.
#[utoipa::path(post, path = "/api/mcp/catalog/custom", tag = "catalog", request_body = ServerIn, security(("token" = [])),
    responses((status = 201, body = CatalogServer), (status = 403, description = "The name or the visibility is for administrators, or the name is denied"),
    (status = 409, description = "The name is taken"), (status = 422, description = "What is wrong with it, in `errors`")))]
async fn create(State(catalog): State<Catalog>, actor: Actor, Json(body): Json<ServerIn>) -> Result<Response, Problem> {
    if body.catalog_type.is_some_and(|kind| kind != CatalogType::Custom) {
        return Err(CatalogError::field("body.catalog_type", "can only be custom: what is predefined comes with the program").into());
    }
    let made = catalog.create(&actor, &body.change()).await?;
    Ok(shown(StatusCode::CREATED, &actor, made))
}

/// Change a server of your own; what is left out stays. Of all others, administrators may change `metadata` and `hidden`.
#[utoipa::path(put, path = "/api/mcp/catalog/{id}", tag = "catalog", request_body = ServerIn, security(("token" = [])), params(("id" = String, Path)),
    responses((status = 200, body = CatalogServer), (status = 404, description = "No such server, or none that you may see"),
    (status = 409, description = "Its document is not kept here"), (status = 412, description = "If-Match names another revision"),
    (status = 422, description = "What is wrong with it, in `errors`")))]
async fn update(
    State(catalog): State<Catalog>,
    actor: Actor,
    headers: HeaderMap,
    Path(id): Path<String>,
    Json(body): Json<ServerIn>,
) -> Result<Response, Problem> {
    let changed = catalog.change(&actor, &server(&id)?, &body.change(), if_match(&headers)?).await?;
    Ok(shown(StatusCode::OK, &actor, changed))
}

/// Remove a server of your own; configurations of it are switched off.
#[utoipa::path(delete, path = "/api/mcp/catalog/custom/{id}", tag = "catalog", security(("token" = [])), params(("id" = String, Path)),
    responses((status = 204, description = "Removed"), (status = 404, description = "No such server, or none that you may see"),
    (status = 409, description = "It was not made here, or it is installed"), (status = 412, description = "If-Match names another revision")))]
async fn remove(State(catalog): State<Catalog>, actor: Actor, headers: HeaderMap, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    catalog.remove(&actor, &server(&id)?, if_match(&headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
