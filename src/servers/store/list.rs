//! Lists of servers: filters, searches and their order.

use platform::database::DbError;
use sqlx::{PgPool, Postgres, QueryBuilder, Row as _};

use super::read::{COLUMNS, summary};
use crate::model::{Filter, ListKey, Sort, Summary, Viewer};

/// One page of servers, one more where there is another page, and how many there are on all pages.
pub(crate) async fn list(
    pool: &PgPool,
    filter: &Filter,
    sort: Sort,
    after: Option<&ListKey>,
    limit: i64,
) -> Result<(Vec<Summary>, i64), DbError> {
    if let (Some(search), Sort::Relevance) = (&filter.search, sort) {
        return best(pool, filter, search, after, limit).await;
    }
    let (rows, total) = tokio::join!(in_order(pool, filter, sort, after, limit), count(pool, filter));
    Ok((rows?, total?))
}

/// The servers that fit the filter, by name or newest change.
async fn in_order(pool: &PgPool, filter: &Filter, sort: Sort, after: Option<&ListKey>, limit: i64) -> Result<Vec<Summary>, DbError> {
    let mut query = QueryBuilder::new("SELECT ");
    query.push(COLUMNS).push(", 0::bigint AS rank FROM mcp_fabric.servers s WHERE s.erased_at IS NULL");
    filter_by(&mut query, filter);
    if let Some(after) = after {
        match sort {
            Sort::Updated => {
                query.push(" AND (s.updated_at < ").push_bind(after.updated_at).push(" OR (s.updated_at = ").push_bind(after.updated_at);
                query.push(" AND s.id > ").push_bind(after.id.clone()).push("))")
            }
            Sort::Name | Sort::Relevance => query.push(" AND s.id > ").push_bind(after.id.clone()),
        };
    }
    query.push(if sort == Sort::Updated { " ORDER BY s.updated_at DESC, s.id" } else { " ORDER BY s.id" });
    query.push(" LIMIT ").push_bind(limit);
    query.build().fetch_all(pool).await?.iter().map(summary).collect()
}

/// The servers that fit the filter, best match first. All of them are found and ranked for each page, so
/// they are counted on the way.
async fn best(pool: &PgPool, filter: &Filter, search: &str, after: Option<&ListKey>, limit: i64) -> Result<(Vec<Summary>, i64), DbError> {
    let mut query = QueryBuilder::new("WITH found AS MATERIALIZED (SELECT s.id, ");
    push_rank(&mut query, search);
    query.push(" AS rank FROM mcp_fabric.servers s WHERE s.erased_at IS NULL");
    filter_by(&mut query, filter);
    query.push("), page AS (SELECT id, rank FROM found");
    if let Some(after) = after {
        query.push(" WHERE rank < ").push_bind(after.rank).push(" OR (rank = ").push_bind(after.rank);
        query.push(" AND id > ").push_bind(after.id.clone()).push(")");
    }
    query.push(" ORDER BY rank DESC, id LIMIT ").push_bind(limit).push(") SELECT ").push(COLUMNS);
    query.push(", page.rank, (SELECT count(*) FROM found) AS total FROM page JOIN mcp_fabric.servers s ON s.id = page.id");
    query.push(" ORDER BY page.rank DESC, s.id");
    let rows = query.build().fetch_all(pool).await?;
    let total = match rows.first() {
        Some(row) => row.try_get("total")?,
        None if after.is_none() => 0,
        None => count(pool, filter).await?,
    };
    Ok((rows.iter().map(summary).collect::<Result<_, _>>()?, total))
}

async fn count(pool: &PgPool, filter: &Filter) -> Result<i64, DbError> {
    let mut query = QueryBuilder::new("SELECT count(*) FROM mcp_fabric.servers s WHERE s.erased_at IS NULL");
    filter_by(&mut query, filter);
    Ok(query.build_query_scalar().fetch_one(pool).await?)
}

/// Adds the conditions of `filter`, after a `WHERE` that has one already.
fn filter_by(query: &mut QueryBuilder<Postgres>, filter: &Filter) {
    show_to(query, filter);
    if let Some(search) = &filter.search {
        query.push(" AND (s.search @@ websearch_to_tsquery('english', ").push_bind(search.clone()).push(")");
        let handle = handle(search);
        if !handle.is_empty() {
            query.push(" OR s.handle LIKE ").push_bind(contains(&handle));
        }
        // A whole name is looked for as it stands.
        if search.contains('/') {
            query.push(" OR s.registry_name ILIKE ").push_bind(contains(search));
        }
        query.push(")");
    }
    if let Some(among) = &filter.among {
        query.push(" AND s.id = ANY(").push_bind(among.clone()).push(")");
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
    if !filter.origins.is_empty() {
        let origins: Vec<&str> = filter.origins.iter().map(|origin| origin.as_str()).collect();
        query.push(" AND s.origin = ANY(").push_bind(origins).push(")");
    }
    if let Some(owner) = &filter.owner {
        query.push(" AND s.owner = ").push_bind(owner.clone());
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

/// Only what whoever looks may know of.
fn show_to(query: &mut QueryBuilder<Postgres>, filter: &Filter) {
    let unlisted = if filter.with_unlisted { "" } else { "NOT s.is_hidden AND NOT s.is_denied AND " };
    match &filter.viewer {
        Viewer::Nobody => query.push(" AND s.is_listed"),
        Viewer::Somebody(name) => {
            query.push(" AND (s.is_listed OR (").push(unlisted).push("(s.visibility <> 'private' OR s.owner = ").push_bind(name.clone());
            query.push(")))")
        }
        Viewer::All => query.push(" AND (s.is_listed OR (").push(unlisted).push("true))"),
    };
}

/// A LIKE pattern for texts that contain `text`.
pub(super) fn contains(text: &str) -> String {
    let escaped = text.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_");
    format!("%{escaped}%")
}

/// A search as the column `handle` would hold it: its words in lower case.
fn handle(search: &str) -> String {
    let words: Vec<String> =
        search.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_ascii_lowercase).collect();
    words.join(" ")
}

/// The expression by which a search ranks: the exact short name first, then how well the text matches
/// and how much of the name it is. A whole number, so that a cursor can hold it.
fn push_rank(query: &mut QueryBuilder<Postgres>, search: &str) {
    query.push("(CASE WHEN lower(substr(s.id, strpos(s.id, '/') + 1)) = ").push_bind(search.trim().to_lowercase());
    query.push(" THEN 10000000 ELSE 0 END + (1000000 * (ts_rank(s.search, websearch_to_tsquery('english', ").push_bind(search.to_owned());
    query.push("))");
    let handle = handle(search);
    if !handle.is_empty() {
        query.push(" + CASE WHEN s.handle LIKE ").push_bind(contains(&handle));
        query.push(" THEN ").push_bind(i32::try_from(handle.len()).unwrap_or(i32::MAX)).push("::real / length(s.handle) ELSE 0 END");
    }
    query.push("))::bigint)::bigint");
}

#[cfg(test)]
mod tests {
    use super::{contains, handle};

    #[test]
    fn a_search_is_put_in_the_words_of_names() {
        for (search, words) in [("My-Weather", "my weather"), (" a/b.c ", "a b c"), ("天气", ""), ("--", ""), ("100%", "100")] {
            assert_eq!(handle(search), words);
        }
        assert_eq!(contains(r"5%_\"), r"%5\%\_\\%");
    }
}
