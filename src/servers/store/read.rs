//! Reading for `/api/mcp`.

use platform::database::DbError;
use sqlx::{PgPool, Postgres, QueryBuilder, Row as _, postgres::PgRow};
use uuid::Uuid;

use crate::model::{CredentialRow, Filter, ListKey, PackageRow, RemoteRow, ServerId, ServerRef, Sort, Summary, VersionRow};

const COLUMNS: &str = "s.id, s.uuid, s.title, s.description, s.version, s.origin, s.status, s.categories, s.registry_types, s.updated_at";

fn summary(row: &PgRow) -> Result<Summary, DbError> {
    let id: String = row.try_get("id")?;
    let inconsistent = |column| DbError::Inconsistent { table: "servers", column, row: id.clone() };
    Ok(Summary {
        uuid: row.try_get("uuid")?,
        title: row.try_get("title")?,
        description: row.try_get("description")?,
        version: row.try_get("version")?,
        origin: row.try_get::<&str, _>("origin")?.parse().map_err(|_| inconsistent("origin"))?,
        status: row.try_get::<&str, _>("status")?.parse().map_err(|_| inconsistent("status"))?,
        categories: row.try_get("categories")?,
        registry_types: row.try_get("registry_types")?,
        updated_at: row.try_get("updated_at")?,
        rank: row.try_get("rank")?,
        id,
    })
}

/// Adds the conditions of `filter`, after a `WHERE` that has one already.
fn filter_by(query: &mut QueryBuilder<Postgres>, filter: &Filter) {
    if let Some(search) = &filter.search {
        query.push(" AND (s.search @@ websearch_to_tsquery('english', ").push_bind(search.clone());
        query.push(") OR s.handle ILIKE ").push_bind(contains(search));
        // A whole id is looked for as it stands.
        if search.contains('/') {
            query.push(" OR s.id ILIKE ").push_bind(contains(search));
        }
        query.push(")");
    }
    if let Some(category) = &filter.category {
        query.push(" AND s.categories @> ARRAY[").push_bind(category.clone()).push("]");
    }
    if let Some(kind) = &filter.registry_type {
        query.push(" AND ").push_bind(kind.clone()).push(" = ANY(s.registry_types)");
    }
    if let Some(transport) = &filter.transport {
        query.push(" AND ").push_bind(transport.clone()).push(" = ANY(s.transports)");
    }
    if let Some(origin) = filter.origin {
        query.push(" AND s.origin = ").push_bind(origin.as_str());
    }
    match filter.status {
        Some(status) => query.push(" AND s.status = ").push_bind(status.as_str()),
        None => query.push(" AND s.status <> 'deleted'"),
    };
    if let Some(has_remote) = filter.has_remote {
        query.push(" AND s.has_remote = ").push_bind(has_remote);
    }
    if let Some(since) = filter.updated_since {
        query.push(" AND s.updated_at > ").push_bind(since);
    }
}

/// A LIKE pattern for texts that contain `text`.
pub(crate) fn contains(text: &str) -> String {
    let escaped = text.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_");
    format!("%{escaped}%")
}

/// The expression by which a search ranks: the exact short name first, then how well the text matches
/// and how much of the name it is. A whole number, so that a cursor can hold it.
fn push_rank(query: &mut QueryBuilder<Postgres>, search: Option<&str>) {
    let Some(search) = search else {
        query.push("0::bigint");
        return;
    };
    query.push("(CASE WHEN lower(regexp_replace(s.id, '^.*/', '')) = lower(").push_bind(search.to_owned());
    query.push(") THEN 10000000 ELSE 0 END + (1000000 * (ts_rank(s.search, websearch_to_tsquery('english', ").push_bind(search.to_owned());
    query.push(")) + similarity(s.handle, ").push_bind(search.to_owned());
    query.push(")))::bigint)::bigint");
}

/// One page of servers, and one more where there is another page.
pub(crate) async fn list(pool: &PgPool, filter: &Filter, sort: Sort, after: Option<&ListKey>, limit: i64) -> Result<Vec<Summary>, DbError> {
    let mut query = QueryBuilder::new("SELECT * FROM (SELECT ");
    query.push(COLUMNS).push(", ");
    push_rank(&mut query, filter.search.as_deref().filter(|_| sort == Sort::Relevance));
    query.push(" AS rank FROM mcp_fabric.servers s WHERE s.erased_at IS NULL");
    filter_by(&mut query, filter);
    query.push(") AS found");
    if let Some(after) = after {
        match sort {
            Sort::Name => query.push(" WHERE id > ").push_bind(after.id.clone()),
            Sort::Updated => {
                query.push(" WHERE (updated_at < ").push_bind(after.updated_at).push(" OR (updated_at = ").push_bind(after.updated_at);
                query.push(" AND id > ").push_bind(after.id.clone()).push("))")
            }
            Sort::Relevance => {
                query.push(" WHERE (rank < ").push_bind(after.rank).push(" OR (rank = ").push_bind(after.rank);
                query.push(" AND id > ").push_bind(after.id.clone()).push("))")
            }
        };
    }
    query.push(match sort {
        Sort::Name => " ORDER BY id",
        Sort::Updated => " ORDER BY updated_at DESC, id",
        Sort::Relevance => " ORDER BY rank DESC, id",
    });
    query.push(" LIMIT ").push_bind(limit);
    query.build().fetch_all(pool).await?.iter().map(summary).collect()
}

/// How many servers fit the filter.
pub(crate) async fn count(pool: &PgPool, filter: &Filter) -> Result<i64, DbError> {
    let mut query = QueryBuilder::new("SELECT count(*) FROM mcp_fabric.servers s WHERE s.erased_at IS NULL");
    filter_by(&mut query, filter);
    Ok(query.build_query_scalar().fetch_one(pool).await?)
}

pub(crate) async fn get(pool: &PgPool, server: &ServerRef) -> Result<Option<Summary>, DbError> {
    let mut query = QueryBuilder::new("SELECT ");
    query.push(COLUMNS).push(", 0::bigint AS rank FROM mcp_fabric.servers s WHERE s.erased_at IS NULL AND ");
    match server {
        ServerRef::Id(id) => query.push("s.id = ").push_bind(id.as_str().to_owned()),
        ServerRef::Uuid(uuid) => query.push("s.uuid = ").push_bind(*uuid),
    };
    query.build().fetch_optional(pool).await?.as_ref().map(summary).transpose()
}

pub(crate) async fn id_of(pool: &PgPool, uuid: Uuid) -> Result<Option<ServerId>, DbError> {
    let id = sqlx::query_scalar!("SELECT id FROM mcp_fabric.servers WHERE uuid = $1", uuid).fetch_optional(pool).await?;
    Ok(id.and_then(|id| ServerId::parse(&id).ok()))
}

pub(crate) async fn packages(pool: &PgPool, server: &str, version: &str) -> Result<Vec<PackageRow>, DbError> {
    let rows = sqlx::query_as!(
        PackageRow,
        "SELECT registry_type, identifier, package_version, transport, cached_at, cache_path, cache_size_bytes, cache_checksum
         FROM mcp_fabric.server_packages WHERE server_id = $1 AND version = $2 ORDER BY position",
        server,
        version,
    );
    Ok(rows.fetch_all(pool).await?)
}

pub(crate) async fn remotes(pool: &PgPool, server: &str) -> Result<Vec<RemoteRow>, DbError> {
    let rows = sqlx::query_as!(
        RemoteRow,
        "SELECT type AS kind, url FROM mcp_fabric.server_remotes WHERE server_id = $1 ORDER BY position",
        server
    );
    Ok(rows.fetch_all(pool).await?)
}

pub(crate) async fn credentials(pool: &PgPool, server: &str) -> Result<Vec<CredentialRow>, DbError> {
    let rows = sqlx::query_as!(
        CredentialRow,
        "SELECT location, env_var, description, required, secret, format, choices, default_value
         FROM mcp_fabric.credential_docs WHERE server_id = $1 ORDER BY position",
        server,
    );
    Ok(rows.fetch_all(pool).await?)
}

/// Newest first; `after` is the version after which to go on.
pub(crate) async fn versions(pool: &PgPool, server: &str, after: Option<&str>, limit: i64) -> Result<Vec<VersionRow>, DbError> {
    let rows = sqlx::query!(
        "SELECT version, status, is_latest, published_at, updated_at FROM mcp_fabric.server_versions v
         WHERE server_id = $1 AND ($2::text IS NULL OR (coalesce(published_at, '-infinity'), version) < (
            SELECT coalesce(last.published_at, '-infinity'), last.version FROM mcp_fabric.server_versions last
            WHERE last.server_id = $1 AND last.version = $2))
         ORDER BY coalesce(published_at, '-infinity') DESC, version DESC LIMIT $3",
        server,
        after,
        limit,
    );
    let rows = rows.fetch_all(pool).await?;
    rows.into_iter()
        .map(|row| {
            let status = row.status.parse();
            let status =
                status.map_err(|_| DbError::Inconsistent { table: "server_versions", column: "status", row: server.to_owned() })?;
            Ok(VersionRow {
                version: row.version,
                status,
                is_latest: row.is_latest,
                published_at: row.published_at,
                updated_at: row.updated_at,
            })
        })
        .collect()
}

pub(crate) async fn categories(pool: &PgPool) -> Result<Vec<(String, i64)>, DbError> {
    let rows = sqlx::query!(r#"SELECT name AS "name!", count AS "count!" FROM mcp_fabric.server_categories ORDER BY count DESC, name"#);
    Ok(rows.fetch_all(pool).await?.into_iter().map(|row| (row.name, row.count)).collect())
}
