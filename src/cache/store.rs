//! All SQL of the cache.

use chrono::{DateTime, Utc};
use platform::database::DbError;
use sqlx::{PgConnection, PgExecutor, PgPool};

use crate::{
    digest::BlobId,
    model::{Artifact, Document, Lock, Total},
    names::{Package, RegistryType},
};

struct Row {
    registry_type: String,
    name: String,
    version: String,
    file_name: String,
    status: String,
    blob: Option<Vec<u8>>,
    size_bytes: Option<i64>,
    bytes_done: i64,
    bytes_total: Option<i64>,
    upstream_digest: Option<String>,
    source: Option<String>,
    attempts: i32,
    error_code: Option<String>,
    error: Option<String>,
    fetched_at: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for Artifact {
    type Error = DbError;

    fn try_from(row: Row) -> Result<Self, DbError> {
        let key = format!("{}/{}/{}/{}", row.registry_type, row.name, row.version, row.file_name);
        let inconsistent = |column| DbError::Inconsistent { table: "cache_artifacts", column, row: key.clone() };
        Ok(Self {
            file_name: row.file_name,
            status: row.status.parse().map_err(|_| inconsistent("status"))?,
            blob: row.blob.map(|bytes| BlobId::from_bytes(&bytes).ok_or_else(|| inconsistent("blob"))).transpose()?,
            size_bytes: row.size_bytes,
            bytes_done: row.bytes_done,
            bytes_total: row.bytes_total,
            upstream_digest: row.upstream_digest,
            source: row.source,
            attempts: row.attempts,
            error_code: row.error_code,
            error: row.error,
            fetched_at: row.fetched_at,
        })
    }
}

/// The files of a package that are known, by name.
pub(crate) async fn files(executor: impl PgExecutor<'_>, package: &Package) -> Result<Vec<Artifact>, DbError> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT registry_type, name, version, file_name, status, blob, size_bytes, bytes_done, bytes_total, upstream_digest, source,
                attempts, error_code, error, fetched_at
         FROM mcp_fabric.cache_artifacts WHERE registry_type = $1 AND name = $2 AND version = $3 ORDER BY file_name",
        package.registry().as_str(),
        package.name(),
        package.version(),
    );
    rows.fetch_all(executor).await?.into_iter().map(Artifact::try_from).collect()
}

/// One file of a package.
pub(crate) async fn file(pool: &PgPool, package: &Package, file: &str) -> Result<Option<Artifact>, DbError> {
    let row = sqlx::query_as!(
        Row,
        "SELECT registry_type, name, version, file_name, status, blob, size_bytes, bytes_done, bytes_total, upstream_digest, source,
                attempts, error_code, error, fetched_at
         FROM mcp_fabric.cache_artifacts WHERE registry_type = $1 AND name = $2 AND version = $3 AND file_name = $4",
        package.registry().as_str(),
        package.name(),
        package.version(),
        file,
    );
    row.fetch_optional(pool).await?.map(Artifact::try_from).transpose()
}

/// Takes the file for a download, unless it is here or another node is at it; then false.
pub(crate) async fn claim(pool: &PgPool, package: &Package, file: &str, node: &str, lease_seconds: f64) -> Result<bool, sqlx::Error> {
    let claimed = sqlx::query!(
        "INSERT INTO mcp_fabric.cache_artifacts AS a (registry_type, name, version, file_name, status, attempts, lease_node, leased_until)
         VALUES ($1, $2, $3, $4, 'downloading', 1, $5, now() + make_interval(secs => $6))
         ON CONFLICT (registry_type, name, version, file_name) DO UPDATE SET
            status = 'downloading', attempts = a.attempts + 1, lease_node = excluded.lease_node, leased_until = excluded.leased_until,
            bytes_done = 0, bytes_total = NULL, error_code = NULL, error = NULL
         WHERE a.status <> 'cached' AND (a.leased_until IS NULL OR a.leased_until < now() OR a.lease_node = excluded.lease_node)",
        package.registry().as_str(),
        package.name(),
        package.version(),
        file,
        node,
        lease_seconds,
    );
    Ok(claimed.execute(pool).await?.rows_affected() == 1)
}

/// Keeps the lease and says how far the download is.
pub(crate) async fn tell(
    pool: &PgPool,
    package: &Package,
    file: &str,
    node: &str,
    lease_seconds: f64,
    done: i64,
    total: Option<i64>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE mcp_fabric.cache_artifacts SET leased_until = now() + make_interval(secs => $5), bytes_done = $6, bytes_total = $7
         WHERE registry_type = $1 AND name = $2 AND version = $3 AND file_name = $4 AND status = 'downloading' AND lease_node = $8",
        package.registry().as_str(),
        package.name(),
        package.version(),
        file,
        lease_seconds,
        done,
        total,
        node,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// What is written of a file that is verified and stored.
pub(crate) struct Cached<'a> {
    pub(crate) blob: BlobId,
    pub(crate) size: i64,
    pub(crate) upstream_digest: &'a str,
    pub(crate) source: &'a str,
}

/// Held until the transaction ends: what adds files and what removes them takes turns, over all replicas.
pub(crate) async fn take_turns(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('mcp_fabric.cache'))").execute(connection).await?;
    Ok(())
}

/// Writes that a file is here, also when its row was removed meanwhile.
pub(crate) async fn finish(
    connection: &mut PgConnection,
    package: &Package,
    file: &str,
    cached: &Cached<'_>,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO mcp_fabric.cache_artifacts AS a
            (registry_type, name, version, file_name, status, attempts, blob, size_bytes, bytes_done, bytes_total, upstream_digest, source,
             fetched_at, last_used_at)
         VALUES ($1, $2, $3, $4, 'cached', 1, $5, $6, $6, $6, $7, $8, $9, $9)
         ON CONFLICT (registry_type, name, version, file_name) DO UPDATE SET
            status = 'cached', blob = excluded.blob, size_bytes = excluded.size_bytes, bytes_done = excluded.bytes_done,
            bytes_total = excluded.bytes_total, upstream_digest = excluded.upstream_digest, source = excluded.source,
            fetched_at = excluded.fetched_at, last_used_at = excluded.last_used_at, lease_node = NULL, leased_until = NULL,
            error_code = NULL, error = NULL",
        package.registry().as_str(),
        package.name(),
        package.version(),
        file,
        cached.blob.as_bytes(),
        cached.size,
        cached.upstream_digest,
        cached.source,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn fail(pool: &PgPool, package: &Package, file: &str, node: &str, code: &str, message: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE mcp_fabric.cache_artifacts SET status = 'failed', error_code = $5, error = $6, lease_node = NULL, leased_until = NULL
         WHERE registry_type = $1 AND name = $2 AND version = $3 AND file_name = $4 AND status = 'downloading' AND lease_node = $7",
        package.registry().as_str(),
        package.name(),
        package.version(),
        file,
        code,
        message,
        node,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// The bytes of a file that was here are gone, or are others: it has to be fetched again.
pub(crate) async fn lose(pool: &PgPool, package: &Package, file: &str, blob: &BlobId, message: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE mcp_fabric.cache_artifacts SET status = 'failed', error_code = 'lost', error = $6
         WHERE registry_type = $1 AND name = $2 AND version = $3 AND file_name = $4 AND status = 'cached' AND blob = $5",
        package.registry().as_str(),
        package.name(),
        package.version(),
        file,
        blob.as_bytes(),
        message,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Downloads of this node from before it started are not going on.
pub(crate) async fn release(pool: &PgPool, node: &str) -> Result<u64, sqlx::Error> {
    let released = sqlx::query!(
        "UPDATE mcp_fabric.cache_artifacts
         SET status = 'failed', error_code = 'interrupted', error = 'the program ended during the download', lease_node = NULL, leased_until = NULL
         WHERE lease_node = $1",
        node
    );
    Ok(released.execute(pool).await?.rows_affected())
}

/// Removes a package's files and its lock; gives the blobs that nothing refers to any more, and how many files there were.
pub(crate) async fn remove(connection: &mut PgConnection, package: &Package) -> Result<(Vec<BlobId>, u64, i64), sqlx::Error> {
    let removed = sqlx::query!(
        "DELETE FROM mcp_fabric.cache_artifacts WHERE registry_type = $1 AND name = $2 AND version = $3 RETURNING blob, size_bytes",
        package.registry().as_str(),
        package.name(),
        package.version(),
    )
    .fetch_all(&mut *connection)
    .await?;
    sqlx::query!(
        "DELETE FROM mcp_fabric.cache_locks WHERE registry_type = $1 AND name = $2 AND version = $3",
        package.registry().as_str(),
        package.name(),
        package.version(),
    )
    .execute(&mut *connection)
    .await?;
    let mut blobs: Vec<Vec<u8>> = removed.iter().filter_map(|row| row.blob.clone()).collect();
    blobs.sort();
    blobs.dedup();
    let free = sqlx::query_scalar!(
        r#"SELECT gone AS "gone!" FROM unnest($1::bytea[]) AS gone
           WHERE NOT EXISTS (SELECT FROM mcp_fabric.cache_artifacts WHERE blob = gone)
             AND NOT EXISTS (SELECT FROM mcp_fabric.cache_documents WHERE blob = gone)"#,
        &blobs
    )
    .fetch_all(connection)
    .await?;
    let freed = removed.iter().filter(|row| row.blob.as_ref().is_some_and(|blob| free.contains(blob)));
    let bytes = freed.filter_map(|row| row.size_bytes).sum();
    Ok((free.iter().filter_map(|blob| BlobId::from_bytes(blob)).collect(), removed.len() as u64, bytes))
}

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

pub(crate) async fn document(pool: &PgPool, registry: RegistryType, name: &str) -> Result<Option<Document>, DbError> {
    let row = sqlx::query!(
        "SELECT blob, source, etag, checked_at FROM mcp_fabric.cache_documents WHERE registry_type = $1 AND name = $2",
        registry.as_str(),
        name,
    );
    let Some(row) = row.fetch_optional(pool).await? else { return Ok(None) };
    let blob = BlobId::from_bytes(&row.blob).ok_or_else(|| DbError::Inconsistent {
        table: "cache_documents",
        column: "blob",
        row: name.to_owned(),
    })?;
    Ok(Some(Document { blob, source: row.source, etag: row.etag, checked_at: row.checked_at }))
}

/// Keeps a document; gives the blob that it replaces, when nothing else refers to that one.
pub(crate) async fn keep_document(
    connection: &mut PgConnection,
    registry: RegistryType,
    name: &str,
    document: &Document,
) -> Result<Option<BlobId>, sqlx::Error> {
    let before = sqlx::query_scalar!(
        "SELECT blob FROM mcp_fabric.cache_documents WHERE registry_type = $1 AND name = $2 FOR UPDATE",
        registry.as_str(),
        name
    )
    .fetch_optional(&mut *connection)
    .await?;
    sqlx::query!(
        "INSERT INTO mcp_fabric.cache_documents (registry_type, name, blob, source, etag, checked_at) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (registry_type, name) DO UPDATE SET
            blob = excluded.blob, source = excluded.source, etag = excluded.etag, checked_at = excluded.checked_at",
        registry.as_str(),
        name,
        document.blob.as_bytes(),
        document.source,
        document.etag,
        document.checked_at,
    )
    .execute(&mut *connection)
    .await?;
    let replaced = before.filter(|before| before.as_slice() != document.blob.as_bytes());
    let Some(replaced) = replaced else { return Ok(None) };
    let is_used = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM mcp_fabric.cache_documents WHERE blob = $1) OR EXISTS (SELECT FROM mcp_fabric.cache_artifacts WHERE blob = $1) AS "used!""#,
        replaced,
    );
    let is_used = is_used.fetch_one(connection).await?;
    Ok(BlobId::from_bytes(&replaced).filter(|_| !is_used))
}

pub(crate) async fn lock(pool: &PgPool, package: &Package) -> Result<Option<Lock>, DbError> {
    let row = sqlx::query!(
        "SELECT packages, resolver, created_at FROM mcp_fabric.cache_locks WHERE registry_type = $1 AND name = $2 AND version = $3",
        package.registry().as_str(),
        package.name(),
        package.version(),
    );
    let Some(row) = row.fetch_optional(pool).await? else { return Ok(None) };
    let inconsistent = |_| DbError::Inconsistent { table: "cache_locks", column: "packages", row: package.to_string() };
    let packages = serde_json::from_value(row.packages).map_err(inconsistent)?;
    Ok(Some(Lock { packages, resolver: row.resolver, created_at: row.created_at }))
}

/// Keeps a lock; the first one stays.
pub(crate) async fn keep_lock(pool: &PgPool, package: &Package, lock: &Lock) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO mcp_fabric.cache_locks (registry_type, name, version, packages, resolver, created_at) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT DO NOTHING",
        package.registry().as_str(),
        package.name(),
        package.version(),
        serde_json::json!(lock.packages),
        lock.resolver,
        lock.created_at,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// How many files of a lock are not here.
pub(crate) async fn missing_of_lock(pool: &PgPool, package: &Package) -> Result<i64, DbError> {
    let missing = sqlx::query_scalar!(
        r#"SELECT count(*) AS "missing!" FROM mcp_fabric.cache_locks l, jsonb_array_elements(l.packages) AS p, jsonb_array_elements(p -> 'files') AS f
           WHERE l.registry_type = $1 AND l.name = $2 AND l.version = $3 AND NOT EXISTS (
               SELECT FROM mcp_fabric.cache_artifacts a
               WHERE a.registry_type = l.registry_type AND a.name = p ->> 'name' AND a.version = p ->> 'version' AND a.file_name = f ->> 'name'
                 AND a.status = 'cached' AND encode(a.blob, 'hex') = f ->> 'sha256')"#,
        package.registry().as_str(),
        package.name(),
        package.version(),
    );
    Ok(missing.fetch_one(pool).await?)
}

/// Names of the documents that are there.
pub(crate) async fn document_names(pool: &PgPool, registry: RegistryType) -> Result<Vec<String>, DbError> {
    let names =
        sqlx::query_scalar!("SELECT name FROM mcp_fabric.cache_documents WHERE registry_type = $1 ORDER BY name", registry.as_str());
    Ok(names.fetch_all(pool).await?)
}
