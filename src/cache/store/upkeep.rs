use chrono::{DateTime, Utc};
use platform::database::DbError;
use sqlx::PgPool;

use crate::{
    digest::BlobId,
    model::{Listed, Total},
    names::{Package, RegistryType},
};

/// When these files were last used.
pub(crate) async fn used(pool: &PgPool, keys: &[[String; 4]], now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    let column = |at: usize| keys.iter().map(|key| key[at].clone()).collect::<Vec<String>>();
    sqlx::query!(
        "UPDATE mcp_fabric.cache_artifacts a SET last_used_at = $5
         FROM (SELECT registry_type, name, version, file_name FROM mcp_fabric.cache_artifacts
               JOIN unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS asked(registry_type, name, version, file_name)
               USING (registry_type, name, version, file_name) ORDER BY 1, 2, 3, 4 FOR UPDATE OF cache_artifacts) AS used
         WHERE a.registry_type = used.registry_type AND a.name = used.name AND a.version = used.version AND a.file_name = used.file_name",
        &column(0),
        &column(1),
        &column(2),
        &column(3),
        now,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Sums by registry type.
pub(crate) async fn totals(pool: &PgPool) -> Result<Vec<(String, Total)>, DbError> {
    let rows = sqlx::query!(
        r#"SELECT registry_type AS "registry_type!", count(DISTINCT name) AS "packages!", count(DISTINCT (name, version)) AS "versions!",
                  count(*) AS "files!", coalesce(sum(size_bytes), 0)::bigint AS "bytes!",
                  (coalesce(sum(size_bytes), 0) - coalesce(sum(size_bytes) FILTER (WHERE first), 0))::bigint AS "shared!"
           FROM (SELECT *, row_number() OVER (PARTITION BY blob ORDER BY registry_type, name, version, file_name) = 1 AS first
                 FROM mcp_fabric.cache_artifacts WHERE status = 'cached') AS files
           GROUP BY registry_type"#
    );
    let rows = rows.fetch_all(pool).await?;
    let total = |files: i64, packages, versions, bytes, bytes_shared| Total { packages, versions, files, bytes, bytes_shared };
    Ok(rows.into_iter().map(|row| (row.registry_type, total(row.files, row.packages, row.versions, row.bytes, row.shared))).collect())
}

/// Bytes of all files and documents, each blob once.
pub(crate) async fn bytes_stored(pool: &PgPool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT coalesce(sum(size_bytes), 0)::bigint AS "bytes!"
           FROM (SELECT DISTINCT ON (blob) blob, size_bytes
                 FROM (SELECT blob, size_bytes FROM mcp_fabric.cache_artifacts WHERE status = 'cached'
                       UNION ALL SELECT blob, size_bytes FROM mcp_fabric.cache_documents) AS stored
                 ORDER BY blob) AS blobs"#
    )
    .fetch_one(pool)
    .await
}

fn package(registry: &str, name: &str, version: &str) -> Result<Package, DbError> {
    let inconsistent = || DbError::Inconsistent { table: "cache_artifacts", column: "name", row: format!("{registry} {name} {version}") };
    let registry: RegistryType = registry.parse().map_err(|_| inconsistent())?;
    Package::parse(registry, name, version).map_err(|_| inconsistent())
}

/// Packages that nobody asked for on purpose, the least recently used first.
pub(crate) async fn coldest(pool: &PgPool, limit: i64) -> Result<Vec<Package>, DbError> {
    let rows = sqlx::query!(
        "SELECT registry_type, name, version FROM mcp_fabric.cache_artifacts
         GROUP BY registry_type, name, version
         HAVING NOT bool_or(is_pinned) AND NOT bool_or(status = 'downloading') AND bool_or(status = 'cached')
         ORDER BY max(last_used_at) NULLS FIRST, registry_type, name, version LIMIT $1",
        limit
    );
    rows.fetch_all(pool).await?.iter().map(|row| package(&row.registry_type, &row.name, &row.version)).collect()
}

/// Whether a package may go to make room: nobody asked for it on purpose, and nothing of it is coming in.
pub(crate) async fn is_cold(connection: &mut sqlx::PgConnection, package: &Package) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT coalesce(NOT bool_or(is_pinned) AND NOT bool_or(status = 'downloading'), false) AS "cold!"
           FROM mcp_fabric.cache_artifacts WHERE registry_type = $1 AND name = $2 AND version = $3"#,
        package.registry().as_str(),
        package.name(),
        package.version(),
    )
    .fetch_one(connection)
    .await
}

/// Forgets what registries said of packages of which nothing is here, what was asked for longest ago first; gives the
/// blobs.
pub(crate) async fn forget_cold_documents(connection: &mut sqlx::PgConnection, limit: i64) -> Result<Vec<BlobId>, sqlx::Error> {
    let gone = sqlx::query_scalar!(
        "DELETE FROM mcp_fabric.cache_documents WHERE (registry_type, name) IN (
            SELECT registry_type, name FROM mcp_fabric.cache_documents d
            WHERE NOT EXISTS (SELECT FROM mcp_fabric.cache_artifacts a WHERE a.registry_type = d.registry_type
                              AND a.name = CASE WHEN d.registry_type = 'oci' THEN regexp_replace(d.name, '(@|:[^:/]*$).*$', '') ELSE d.name END)
            ORDER BY checked_at LIMIT $1)
         RETURNING blob",
        limit
    );
    Ok(gone.fetch_all(connection).await?.iter().filter_map(|blob| BlobId::from_bytes(blob)).collect())
}

/// A blob that a row knows.
pub(crate) struct Stored {
    pub(crate) blob: BlobId,
    pub(crate) size: u64,
}

/// Every blob of a file that is here.
pub(crate) async fn stored(pool: &PgPool) -> Result<Vec<Stored>, DbError> {
    let rows = sqlx::query!(
        r#"SELECT DISTINCT ON (blob) blob AS "blob!", size_bytes AS "size!" FROM mcp_fabric.cache_artifacts WHERE status = 'cached' ORDER BY blob"#
    );
    let read = |blob: &[u8], size: i64| Some(Stored { blob: BlobId::from_bytes(blob)?, size: size.try_into().ok()? });
    Ok(rows.fetch_all(pool).await?.iter().filter_map(|row| read(&row.blob, row.size)).collect())
}

/// The files that are these bytes.
pub(crate) async fn files_of_blob(pool: &PgPool, blob: &BlobId) -> Result<Vec<(Package, String)>, DbError> {
    let rows = sqlx::query!(
        "SELECT registry_type, name, version, file_name FROM mcp_fabric.cache_artifacts WHERE blob = $1 AND status = 'cached' ORDER BY 1, 2, 3, 4",
        blob.as_bytes()
    );
    let rows = rows.fetch_all(pool).await?.into_iter();
    rows.map(|row| Ok((package(&row.registry_type, &row.name, &row.version)?, row.file_name))).collect()
}

/// Whether a row knows a blob.
pub(crate) async fn is_known(connection: &mut sqlx::PgConnection, blob: &BlobId) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM mcp_fabric.cache_artifacts WHERE blob = $1) OR EXISTS (SELECT FROM mcp_fabric.cache_documents WHERE blob = $1) AS "known!""#,
        blob.as_bytes()
    )
    .fetch_one(connection)
    .await
}

/// Forgets that files could not be had; gives how many there were. Those that belong to what a package is to
/// consist of are wanted still.
pub(crate) async fn forget_failed(pool: &PgPool, dry_run: bool) -> Result<i64, sqlx::Error> {
    if dry_run {
        let count = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM mcp_fabric.cache_artifacts WHERE status = 'failed'"#);
        return count.fetch_one(pool).await;
    }
    sqlx::query_scalar!(
        r#"WITH gone AS (DELETE FROM mcp_fabric.cache_artifacts WHERE status = 'failed' AND NOT is_planned RETURNING 1),
           wanted AS (UPDATE mcp_fabric.cache_artifacts SET status = 'not_cached', error_code = NULL, error = NULL
                      WHERE status = 'failed' AND is_planned RETURNING 1)
           SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM wanted) AS "count!""#
    )
    .fetch_one(pool)
    .await
}

/// Packages with what is known of their use, the least recently used first; with those that somebody asked for
/// on purpose, if `pinned`.
pub(crate) async fn by_use(pool: &PgPool, pinned: bool) -> Result<Vec<Listed>, DbError> {
    let rows = sqlx::query_as!(
        Listed,
        r#"WITH needed AS (
               SELECT DISTINCT l.registry_type, p ->> 'name' AS name, p ->> 'version' AS version
               FROM mcp_fabric.cache_locks l, jsonb_array_elements(l.packages) AS p
               WHERE (p ->> 'name', p ->> 'version') IS DISTINCT FROM (l.name, l.version)
           )
           SELECT registry_type AS "registry_type!", name AS "name!", version AS "version!", count(*) FILTER (WHERE status = 'cached') AS "files!",
                  coalesce(sum(size_bytes) FILTER (WHERE status = 'cached'), 0)::bigint AS "size_bytes!", bool_or(is_pinned) AS "is_pinned!",
                  max(fetched_at) AS fetched_at, max(last_used_at) AS last_used_at,
                  EXISTS (SELECT FROM mcp_fabric.cache_names n
                          WHERE n.package_type = a.registry_type AND n.name = a.name AND n.version = a.version) AS "is_named!",
                  EXISTS (SELECT FROM needed n WHERE n.registry_type = a.registry_type AND n.name = a.name AND n.version = a.version) AS "is_needed!"
           FROM mcp_fabric.cache_artifacts a
           GROUP BY registry_type, name, version
           HAVING ($1 OR NOT bool_or(is_pinned)) AND NOT bool_or(status = 'downloading')
           ORDER BY max(last_used_at) NULLS FIRST, 1, 2, 3"#,
        pinned
    );
    Ok(rows.fetch_all(pool).await?)
}

/// A page of packages by type, name and version; without those whose names are like `hidden`.
pub(crate) async fn list(
    pool: &PgPool,
    registry: Option<RegistryType>,
    name: Option<&str>,
    hidden: Option<&str>,
    after: Option<&[String; 3]>,
    limit: i64,
) -> Result<Vec<Listed>, DbError> {
    let after = after.map(|[registry, name, version]| (registry.as_str(), name.as_str(), version.as_str()));
    let rows = sqlx::query_as!(
        Listed,
        r#"SELECT registry_type AS "registry_type!", name AS "name!", version AS "version!", count(*) FILTER (WHERE status = 'cached') AS "files!",
                  coalesce(sum(size_bytes) FILTER (WHERE status = 'cached'), 0)::bigint AS "size_bytes!", bool_or(is_pinned) AS "is_pinned!",
                  max(fetched_at) AS fetched_at, max(last_used_at) AS last_used_at, false AS "is_named!", false AS "is_needed!"
           FROM mcp_fabric.cache_artifacts
           WHERE ($1::text IS NULL OR registry_type = $1) AND ($2::text IS NULL OR strpos(name, $2) > 0)
             AND ($3::text IS NULL OR (registry_type, name, version) > ($3, $4::text, $5::text))
             AND ($7::text IS NULL OR name NOT LIKE $7)
           GROUP BY registry_type, name, version ORDER BY 1, 2, 3 LIMIT $6"#,
        registry.map(RegistryType::as_str),
        name,
        after.map(|after| after.0),
        after.map(|after| after.1),
        after.map(|after| after.2),
        limit,
        hidden,
    );
    Ok(rows.fetch_all(pool).await?)
}
