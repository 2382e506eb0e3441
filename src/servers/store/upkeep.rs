//! Erasing what upstream erased, and sorting anew when the rules changed.

use chrono::{DateTime, Utc};
use platform::database::DbError;
use sqlx::{PgConnection, PgPool};

use crate::model::{CachedPackage, DeclaredInput, ServerId};

/// Mirrored versions that came in before `before`, by server and version, after the given key.
pub(crate) async fn mirrored_versions(
    pool: &PgPool,
    before: DateTime<Utc>,
    after: &(String, String),
    limit: i64,
) -> Result<Vec<(String, String)>, DbError> {
    let rows = sqlx::query!(
        "SELECT v.server_id, v.version FROM mcp_fabric.server_versions v JOIN mcp_fabric.servers s ON s.id = v.server_id
         WHERE s.origin = 'upstream' AND v.received_at < $1 AND (v.server_id, v.version) > ($2, $3)
         ORDER BY v.server_id, v.version LIMIT $4",
        before,
        after.0,
        after.1,
        limit,
    );
    Ok(rows.fetch_all(pool).await?.into_iter().map(|row| (row.server_id, row.version)).collect())
}

/// Versions of predefined servers that are not among `names`.
pub(crate) async fn withdrawn(connection: &mut PgConnection, names: &[String]) -> Result<Vec<(String, String)>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT v.server_id, v.version FROM mcp_fabric.server_versions v JOIN mcp_fabric.servers s ON s.id = v.server_id
         WHERE s.origin = 'predefined' AND s.id <> ALL($1)",
        names
    );
    Ok(rows.fetch_all(connection).await?.into_iter().map(|row| (row.server_id, row.version)).collect())
}

/// Makes searches as fast as they can be after much was written.
pub(crate) async fn settle_searches(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT mcp_fabric.settle_searches()").execute(connection).await?;
    Ok(())
}

/// Removes versions; gives how many there were.
pub(crate) async fn delete_versions(connection: &mut PgConnection, servers: &[String], versions: &[String]) -> Result<u64, sqlx::Error> {
    let deleted = sqlx::query!(
        "DELETE FROM mcp_fabric.server_versions v
         USING unnest($1::text[], $2::text[]) AS gone(server_id, version)
         WHERE v.server_id = gone.server_id AND v.version = gone.version",
        servers,
        versions,
    );
    Ok(deleted.execute(connection).await?.rows_affected())
}

/// Hides servers that have no version left. The row stays, so that what refers to it still can.
pub(crate) async fn entomb(connection: &mut PgConnection, servers: &[String]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE mcp_fabric.servers s
         SET erased_at = now(), version = NULL, latest_hash = NULL, categories = '{}', registry_types = '{}', transports = '{}', has_remote = false
         WHERE id = ANY($1) AND NOT EXISTS (SELECT FROM mcp_fabric.server_versions v WHERE v.server_id = s.id)",
        servers,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "DELETE FROM mcp_fabric.server_remotes r USING mcp_fabric.servers s WHERE s.id = r.server_id AND s.id = ANY($1) AND s.erased_at IS NOT NULL",
        servers,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "DELETE FROM mcp_fabric.credential_docs c USING mcp_fabric.servers s WHERE s.id = c.server_id AND s.id = ANY($1) AND s.erased_at IS NOT NULL",
        servers,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A server that other rules sorted.
pub(crate) struct Unsorted {
    pub(crate) id: String,
    pub(crate) title: Option<String>,
    pub(crate) description: String,
}

pub(crate) async fn sorted_by_other_rules(connection: &mut PgConnection, rules_hash: &[u8], limit: i64) -> Result<Vec<Unsorted>, DbError> {
    let rows = sqlx::query_as!(
        Unsorted,
        "SELECT id, title, description FROM mcp_fabric.servers WHERE rules_hash <> $1 AND latest_hash IS NOT NULL ORDER BY id LIMIT $2",
        rules_hash,
        limit,
    );
    Ok(rows.fetch_all(connection).await?)
}

/// `categories[i]` are the categories of `ids[i]`, one a line.
pub(crate) async fn write_categories(
    connection: &mut PgConnection,
    ids: &[String],
    categories: &[String],
    rules_hash: &[u8],
) -> Result<(), DbError> {
    sqlx::query!(
        r"UPDATE mcp_fabric.servers s SET categories = string_to_array(new.categories, E'\n'), rules_hash = $3
         FROM unnest($1::text[], $2::text[]) AS new(id, categories) WHERE s.id = new.id",
        ids,
        categories,
        rules_hash,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// How many servers are listed and how many versions there are.
pub(crate) async fn counts(pool: &PgPool) -> Result<(i64, i64), DbError> {
    let row = sqlx::query!(
        r#"SELECT (SELECT count(*) FROM mcp_fabric.servers WHERE erased_at IS NULL AND is_listed) AS "servers!",
                  (SELECT count(*) FROM mcp_fabric.server_versions v JOIN mcp_fabric.servers s ON s.id = v.server_id
                   WHERE s.is_listed) AS "versions!""#
    );
    let row = row.fetch_one(pool).await?;
    Ok((row.servers, row.versions))
}

/// How many mirrored servers come up to `id` by name, and how many there are.
pub(crate) async fn place_of(pool: &PgPool, id: &ServerId) -> Result<(i64, i64), DbError> {
    let row = sqlx::query!(
        r#"SELECT count(*) FILTER (WHERE id <= $1) AS "before!", count(*) AS "all!" FROM mcp_fabric.servers WHERE origin = 'upstream'"#,
        id.as_str()
    );
    let row = row.fetch_one(pool).await?;
    Ok((row.before, row.all))
}

/// Writes what the cache has of a package to every row that names it, by the package's own name (Python names
/// count as one in any spelling, bundles are told apart by what their file has to be) or by one of the `names` that it is known by: registry type, identifier, and
/// version, which is empty where none is named.
pub(crate) async fn mark_cached(
    connection: &mut PgConnection,
    [registry_type, name, version]: [&str; 3],
    names: &[[String; 3]],
    cached: Option<&CachedPackage>,
) -> Result<(), sqlx::Error> {
    let column = |at: usize| names.iter().map(|name| name[at].clone()).collect::<Vec<String>>();
    sqlx::query!(
        "UPDATE mcp_fabric.server_packages p SET cached_at = $7, cache_path = $8, cache_size_bytes = $9, cache_checksum = $10
         FROM (SELECT server_id, version, position FROM mcp_fabric.server_packages
               WHERE registry_type = $1 AND package_version = $3
                 AND lower(regexp_replace(identifier, '[-_.]+', '-', 'g')) = lower(regexp_replace($2, '[-_.]+', '-', 'g'))
                 AND (registry_type = 'pypi' OR identifier = $2)
               UNION
               SELECT server_id, version, position FROM mcp_fabric.server_packages
               WHERE registry_type = $1 AND $1 = 'mcpb' AND 'sha256:' || lower(file_sha256) = $3
                 AND lower(regexp_replace(identifier, '[-_.]+', '-', 'g'))
                     IN (lower(regexp_replace('https://' || $2, '[-_.]+', '-', 'g')), lower(regexp_replace('http://' || $2, '[-_.]+', '-', 'g')))
               UNION
               SELECT server_id, version, position FROM unnest($4::text[], $5::text[], $6::text[]) AS named(registry_type, identifier, wanted)
               JOIN mcp_fabric.server_packages other ON other.registry_type = named.registry_type
                 AND lower(regexp_replace(other.identifier, '[-_.]+', '-', 'g')) = lower(regexp_replace(named.identifier, '[-_.]+', '-', 'g'))
                 AND other.identifier = named.identifier AND coalesce(other.package_version, '') = named.wanted) AS meant
         WHERE (p.server_id, p.version, p.position) = (meant.server_id, meant.version, meant.position)",
        registry_type,
        name,
        version,
        &column(0),
        &column(1),
        &column(2),
        cached.map(|cached| cached.at),
        cached.map(|cached| cached.path.as_str()),
        cached.map(|cached| cached.size_bytes),
        cached.map(|cached| cached.checksum.as_str()),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Held until the transaction ends: writers of the catalogue take turns.
pub(crate) async fn lock(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('mcp_fabric.catalogue'))").execute(connection).await?;
    Ok(())
}

/// Keeps what the installed package of a server wants to be told; nothing where it wants nothing.
pub(crate) async fn declare(connection: &mut PgConnection, server: &str, inputs: &[DeclaredInput]) -> Result<(), sqlx::Error> {
    if inputs.is_empty() {
        sqlx::query!("DELETE FROM mcp_fabric.installed_inputs WHERE server_id = $1", server).execute(connection).await?;
    } else {
        sqlx::query!(
            "INSERT INTO mcp_fabric.installed_inputs (server_id, inputs) VALUES ($1, $2)
             ON CONFLICT (server_id) DO UPDATE SET inputs = excluded.inputs",
            server,
            serde_json::json!(inputs)
        )
        .execute(connection)
        .await?;
    }
    Ok(())
}
