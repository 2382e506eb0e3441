use axum::{extract::State, http::HeaderMap, response::Response};
use chrono::{DateTime, Utc};
use platform::{
    Actor, Problem,
    http::{Json, Path, Query, Reader},
    page::{self, PageParams, PageRequest},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{
    error::ServersError,
    model::{DeclaredInput, Filter, ListKey, Origin, PackageRow, RemoteRow, ServerRef, Sort, Status, Summary, VersionRow, Viewer},
    service::{Detail, Servers},
};

/// The longest search, in characters.
const MAX_SEARCH: usize = 200;

/// `/api/mcp/servers` and `/api/mcp/categories`.
pub fn router(servers: Servers) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get))
        .routes(routes!(versions))
        .routes(routes!(credentials))
        .routes(routes!(categories))
        .with_state(servers)
}

/// A server in a list.
#[derive(Serialize, ToSchema)]
struct ServerOut {
    id: String,
    uuid: Uuid,
    name: String,
    title: Option<String>,
    description: String,
    version: Option<String>,
    origin: Origin,
    status: Status,
    categories: Vec<String>,
    registry_types: Vec<String>,
    updated_at: DateTime<Utc>,
}

impl From<Summary> for ServerOut {
    fn from(row: Summary) -> Self {
        Self {
            name: row.id.clone(),
            id: row.id,
            uuid: row.uuid,
            title: row.title,
            description: row.description,
            version: row.version,
            origin: row.origin,
            status: row.status,
            categories: row.categories,
            registry_types: row.registry_types,
            updated_at: row.updated_at,
        }
    }
}

#[derive(Serialize, ToSchema)]
struct ServerList {
    servers: Vec<ServerOut>,
    /// How many fit the filter, on all pages.
    total: i64,
    next_cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct PackageOut {
    registry_type: String,
    identifier: String,
    version: Option<String>,
    transport: Option<String>,
    cached_at: Option<DateTime<Utc>>,
    cache_path: Option<String>,
    cache_size_bytes: Option<i64>,
    cache_checksum: Option<String>,
}

impl From<PackageRow> for PackageOut {
    fn from(row: PackageRow) -> Self {
        Self {
            registry_type: row.registry_type,
            identifier: row.identifier,
            version: row.package_version,
            transport: row.transport,
            cached_at: row.cached_at,
            cache_path: row.cache_path,
            cache_size_bytes: row.cache_size_bytes,
            cache_checksum: row.cache_checksum,
        }
    }
}

#[derive(Serialize, ToSchema)]
struct RemoteOut {
    r#type: String,
    url: String,
}

impl From<RemoteRow> for RemoteOut {
    fn from(row: RemoteRow) -> Self {
        Self { r#type: row.kind, url: row.url }
    }
}

#[derive(Serialize, ToSchema)]
struct EnvVarOut {
    name: String,
    description: Option<String>,
    required: bool,
    secret: bool,
    format: String,
    choices: Option<Vec<String>>,
    default: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct VersionOut {
    version: String,
    status: Status,
    is_latest: bool,
    published_at: Option<DateTime<Utc>>,
    updated_at: DateTime<Utc>,
}

impl From<VersionRow> for VersionOut {
    fn from(row: VersionRow) -> Self {
        Self {
            version: row.version,
            status: row.status,
            is_latest: row.is_latest,
            published_at: row.published_at,
            updated_at: row.updated_at,
        }
    }
}

/// A server with all that its latest version says.
#[derive(Serialize, ToSchema)]
struct ServerDetailOut {
    #[serde(flatten)]
    server: ServerOut,
    packages: Vec<PackageOut>,
    remotes: Vec<RemoteOut>,
    env_vars: Vec<EnvVarOut>,
    /// The newest ones; `/versions` lists them all.
    versions: Vec<VersionOut>,
}

impl From<Detail> for ServerDetailOut {
    fn from(detail: Detail) -> Self {
        let env_var = |row: DeclaredInput| EnvVarOut {
            name: row.env_var,
            description: row.description,
            required: row.required,
            secret: row.secret,
            format: row.format,
            choices: row.choices,
            default: row.default_value,
        };
        Self {
            server: detail.summary.into(),
            packages: detail.packages.into_iter().map(Into::into).collect(),
            remotes: detail.remotes.into_iter().map(Into::into).collect(),
            env_vars: detail.credentials.into_iter().filter(|row| row.location == "env").map(env_var).collect(),
            versions: detail.versions.into_iter().map(Into::into).collect(),
        }
    }
}

#[derive(Serialize, ToSchema)]
struct CredentialDocs {
    server_id: String,
    credentials: Vec<CredentialOut>,
}

#[derive(Serialize, ToSchema)]
struct CredentialOut {
    env_var: String,
    description: Option<String>,
    required: bool,
    secret: bool,
    format: String,
    choices: Option<Vec<String>>,
    default: Option<String>,
    /// `env`, `header` or `argument`.
    r#in: String,
}

impl From<DeclaredInput> for CredentialOut {
    fn from(row: DeclaredInput) -> Self {
        Self {
            env_var: row.env_var,
            description: row.description,
            required: row.required,
            secret: row.secret,
            format: row.format,
            choices: row.choices,
            default: row.default_value,
            r#in: row.location,
        }
    }
}

#[derive(Serialize, ToSchema)]
struct VersionList {
    versions: Vec<VersionOut>,
    next_cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct CategoryOut {
    name: String,
    count: i64,
}

#[derive(Serialize, ToSchema)]
struct CategoryList {
    categories: Vec<CategoryOut>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Words to find in name, title and description.
    q: Option<String>,
    /// The same as `q`.
    search: Option<String>,
    /// Only servers of this category.
    category: Option<String>,
    /// Only servers with a package of this type: `npm`, `pypi`, `oci`, `mcpb`, …
    registry_type: Option<String>,
    /// Only servers that speak this: `stdio`, `streamable-http`, `sse`.
    transport: Option<String>,
    /// Only servers that came from there.
    #[param(value_type = Option<Origin>)]
    origin: Option<String>,
    /// Only servers with this status; without it, all but deleted ones.
    #[param(value_type = Option<Status>)]
    status: Option<String>,
    /// Only servers that have a remote, or have none.
    #[param(value_type = Option<bool>)]
    has_remote: Option<String>,
    /// Only servers that changed after this moment (RFC 3339).
    #[param(value_type = Option<DateTime<Utc>>)]
    updated_since: Option<String>,
    /// `relevance` (with a search), `name` or `updated`.
    #[param(value_type = Option<Sort>)]
    sort: Option<String>,
    /// How many (1 to 200, default 50).
    #[param(value_type = Option<u32>)]
    #[serde(rename = "limit")]
    _limit: Option<String>,
    /// From the page before.
    #[serde(rename = "cursor")]
    _cursor: Option<String>,
}

impl ListQuery {
    fn parse(self, actor: &Actor) -> Result<(Filter, Sort), Problem> {
        let search = match (self.q, self.search) {
            (Some(q), Some(search)) if q != search => {
                return Err(Problem::field("invalid_search", "query.search", "is the same as `q`; give one of them"));
            }
            (q, search) => q.or(search).filter(|text| !text.trim().is_empty()),
        };
        if search.as_ref().is_some_and(|text| text.chars().count() > MAX_SEARCH) {
            return Err(Problem::field("invalid_search", "query.q", format!("is longer than {MAX_SEARCH} characters")));
        }
        let sort = word(self.sort, "invalid_sort", "query.sort", "relevance, name or updated")?;
        let filter = Filter {
            category: self.category,
            registry_type: self.registry_type,
            transport: self.transport,
            origins: word(self.origin, "invalid_origin", "query.origin", "upstream, predefined, custom or generated")?
                .into_iter()
                .collect(),
            status: word(self.status, "invalid_status", "query.status", "active, deprecated or deleted")?,
            has_remote: word(self.has_remote, "invalid_has_remote", "query.has_remote", "true or false")?,
            updated_since: word(
                self.updated_since,
                "invalid_updated_since",
                "query.updated_since",
                "an RFC 3339 timestamp, such as 2025-08-07T13:15:04.280Z",
            )?,
            search,
            viewer: Viewer::of(actor),
            ..Filter::default()
        };
        let usual = if filter.search.is_some() { Sort::Relevance } else { Sort::Name };
        let sort = sort.filter(|sort| *sort != Sort::Relevance || filter.search.is_some()).unwrap_or(usual);
        Ok((filter, sort))
    }
}

fn word<T: std::str::FromStr>(text: Option<String>, code: &'static str, location: &str, expected: &str) -> Result<Option<T>, Problem> {
    text.map(|text| text.parse().map_err(|_| Problem::field(code, location, format!("must be {expected}")))).transpose()
}

fn server(id: &str) -> Result<ServerRef, ServersError> {
    Ok(id.parse()?)
}

/// List and search servers.
#[utoipa::path(get, path = "/api/mcp/servers", tag = "catalogue", params(ListQuery),
    responses((status = 200, description = "One page", body = ServerList), (status = 400, description = "A parameter is wrong")))]
async fn list(
    State(servers): State<Servers>,
    Reader(actor): Reader,
    page: PageRequest<ListKey>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (filter, sort) = query.parse(&actor)?;
    let render = async {
        let (rows, total) = servers.list(&filter, sort, page.after.as_ref(), page.limit + 1).await?;
        let (rows, next_cursor) = page::cut(rows, page.limit, |row| ListKey::from(row));
        let list = ServerList { servers: rows.into_iter().map(Into::into).collect(), total, next_cursor };
        Ok(serde_json::to_string(&list).unwrap_or_default())
    };
    let key = format!("list\n{filter:?}\n{sort}\n{:?}\n{}", page.after, page.limit);
    let answer = servers.remembered(key, render).await.map_err(|error| Problem::of(&*error))?;
    Ok(answer.respond(&headers))
}

/// Show one server: by id (percent-encoded), registry name or UUID.
#[utoipa::path(get, path = "/api/mcp/servers/{id}", tag = "catalogue", params(("id" = String, Path)),
    responses((status = 200, description = "The server", body = ServerDetailOut), (status = 404, description = "No such server")))]
async fn get(State(servers): State<Servers>, Reader(actor): Reader, Path(id): Path<String>) -> Result<Json<ServerDetailOut>, Problem> {
    Ok(Json(servers.detail(&Viewer::of(&actor), &server(&id)?).await?.into()))
}

/// List the versions of a server, newest first.
#[utoipa::path(get, path = "/api/mcp/servers/{id}/versions", tag = "catalogue", params(("id" = String, Path), PageParams),
    responses((status = 200, description = "One page", body = VersionList), (status = 404, description = "No such server")))]
async fn versions(
    State(servers): State<Servers>,
    Reader(actor): Reader,
    Path(id): Path<String>,
    page: PageRequest<String>,
) -> Result<Json<VersionList>, Problem> {
    let rows = servers.versions(&Viewer::of(&actor), &server(&id)?, page.after.as_deref(), page.limit + 1).await?;
    let (rows, next_cursor) = page::cut(rows, page.limit, |row| row.version.clone());
    Ok(Json(VersionList { versions: rows.into_iter().map(Into::into).collect(), next_cursor }))
}

/// What a server wants to be told before it starts.
#[utoipa::path(get, path = "/api/mcp/servers/{id}/credentials", tag = "catalogue", params(("id" = String, Path)),
    responses((status = 200, description = "The list", body = CredentialDocs), (status = 404, description = "No such server")))]
async fn credentials(
    State(servers): State<Servers>,
    Reader(actor): Reader,
    Path(id): Path<String>,
) -> Result<Json<CredentialDocs>, Problem> {
    let (server_id, rows) = servers.inputs(&Viewer::of(&actor), &server(&id)?).await?;
    Ok(Json(CredentialDocs { server_id, credentials: rows.into_iter().map(Into::into).collect() }))
}

/// List the categories, the largest first.
#[utoipa::path(get, path = "/api/mcp/categories", tag = "catalogue", responses((status = 200, description = "The list", body = CategoryList)))]
async fn categories(State(servers): State<Servers>) -> Result<Json<CategoryList>, Problem> {
    let rows = servers.categories().await?;
    Ok(Json(CategoryList { categories: rows.into_iter().map(|(name, count)| CategoryOut { name, count }).collect() }))
}
