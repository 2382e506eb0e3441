//! Reading for the registry API: rows as they are rendered.

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use platform::database::DbError;
use sqlx::{FromRow, PgPool, QueryBuilder};

use super::list::contains;

/// One version with what its `_meta` needs.
#[derive(FromRow)]
pub(crate) struct EntryRow {
    pub(crate) registry_name: String,
    pub(crate) version: String,
    pub(crate) document: String,
    pub(crate) extra_meta: Option<String>,
    pub(crate) status: String,
    pub(crate) status_message: Option<String>,
    pub(crate) status_changed_at: Option<DateTime<Utc>>,
    pub(crate) published_at: Option<DateTime<Utc>>,
    pub(crate) updated_at: DateTime<Utc>,
    pub(crate) is_latest: bool,
    pub(crate) origin: String,
}

const SELECT: &str = "SELECT v.registry_name, v.version, v.document, v.extra_meta, v.status, v.status_message, v.status_changed_at,
           v.published_at, v.updated_at, v.is_latest, s.origin
    FROM mcp_fabric.server_versions v JOIN mcp_fabric.servers s ON s.id = v.server_id WHERE ";

/// Which versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    All,
    Latest,
    Exactly(String),
}

/// What a page of the registry is asked for.
#[derive(Clone, Debug)]
pub(crate) struct PageFilter {
    /// Name and version of the last entry of the page before.
    pub(crate) after: Option<(String, String)>,
    pub(crate) limit: i64,
    pub(crate) search: Option<String>,
    pub(crate) updated_since: Option<DateTime<Utc>>,
    pub(crate) which: Which,
    pub(crate) include_deleted: bool,
}

/// What the documents of a page measure at most, in bytes, unless it has only one.
const PAGE_BYTES: usize = 8 << 20;

/// Some versions, and whether more may follow.
pub(crate) struct Page {
    pub(crate) rows: Vec<EntryRow>,
    pub(crate) is_cut: bool,
}

/// A page by name and version.
pub(crate) async fn page(pool: &PgPool, filter: &PageFilter) -> Result<Page, DbError> {
    let mut query = QueryBuilder::new(SELECT);
    match &filter.which {
        Which::All => query.push("s.is_listed"),
        Which::Latest => query.push("s.is_listed AND v.is_latest"),
        Which::Exactly(version) => query.push("s.is_listed AND v.version = ").push_bind(version.clone()),
    };
    if let Some((name, version)) = &filter.after {
        query.push(" AND (v.registry_name, v.version) > (").push_bind(name.clone()).push(", ").push_bind(version.clone()).push(")");
    }
    if let Some(search) = &filter.search {
        let pattern = contains(search);
        query.push(" AND (s.registry_name ILIKE ").push_bind(pattern.clone()).push(" OR s.description ILIKE ").push_bind(pattern).push(")");
    }
    if let Some(since) = filter.updated_since {
        query.push(" AND v.updated_at > ").push_bind(since);
    }
    if !filter.include_deleted {
        query.push(" AND v.status <> 'deleted'");
    }
    query.push(" ORDER BY v.registry_name, v.version LIMIT ").push_bind(filter.limit);
    let mut found = query.build_query_as::<EntryRow>().fetch(pool);
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while let Some(row) = found.try_next().await? {
        bytes += row.document.len();
        if bytes > PAGE_BYTES && !rows.is_empty() {
            return Ok(Page { rows, is_cut: true });
        }
        rows.push(row);
    }
    // Like the official registry it has a cursor whenever it is full.
    let is_cut = i64::try_from(rows.len()) == Ok(filter.limit);
    Ok(Page { rows, is_cut })
}

/// Every version of one server, newest first.
pub(crate) async fn versions(pool: &PgPool, name: &str, include_deleted: bool) -> Result<Vec<EntryRow>, DbError> {
    let mut query = QueryBuilder::new(SELECT);
    query.push("s.is_listed AND v.registry_name = ").push_bind(name.to_owned());
    if !include_deleted {
        query.push(" AND v.status <> 'deleted'");
    }
    query.push(" ORDER BY v.published_at DESC NULLS LAST, v.version DESC LIMIT 10000");
    Ok(query.build_query_as().fetch_all(pool).await?)
}

/// One version of one server.
pub(crate) async fn version(pool: &PgPool, name: &str, which: &Which, include_deleted: bool) -> Result<Option<EntryRow>, DbError> {
    let mut query = QueryBuilder::new(SELECT);
    query.push("s.is_listed AND v.registry_name = ").push_bind(name.to_owned());
    match which {
        Which::Exactly(version) => query.push(" AND v.version = ").push_bind(version.clone()),
        Which::All | Which::Latest => query.push(" AND v.is_latest"),
    };
    if !include_deleted {
        query.push(" AND v.status <> 'deleted'");
    }
    Ok(query.build_query_as().fetch_optional(pool).await?)
}

/// The base URL that the official documents state most often for packages of this type.
pub(crate) async fn stated_base_url(pool: &PgPool, registry_type: &str) -> Result<Option<String>, DbError> {
    let url = sqlx::query_scalar!(
        "SELECT registry_base_url FROM mcp_fabric.server_packages
         WHERE registry_type = $1 AND registry_base_url IS NOT NULL GROUP BY registry_base_url ORDER BY count(*) DESC, registry_base_url LIMIT 1",
        registry_type,
    );
    Ok(url.fetch_optional(pool).await?.flatten())
}
