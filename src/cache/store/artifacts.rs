use chrono::{DateTime, Utc};
use platform::database::DbError;
use sqlx::{PgConnection, PgExecutor, PgPool};

use crate::{
    digest::BlobId,
    model::{Artifact, Facts},
    names::Package,
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
    is_planned: bool,
    published_at: Option<DateTime<Utc>>,
    signature: String,
    provenance: String,
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
            is_planned: row.is_planned,
            published_at: row.published_at,
            signature: row.signature.parse().map_err(|_| inconsistent("signature"))?,
            provenance: row.provenance.parse().map_err(|_| inconsistent("provenance"))?,
        })
    }
}

/// The files of a package that are known, by name.
pub(crate) async fn files(executor: impl PgExecutor<'_>, package: &Package) -> Result<Vec<Artifact>, DbError> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT registry_type, name, version, file_name, status, blob, size_bytes, bytes_done, bytes_total, upstream_digest, source,
                attempts, error_code, error, fetched_at, is_planned, published_at, signature, provenance
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
                attempts, error_code, error, fetched_at, is_planned, published_at, signature, provenance
         FROM mcp_fabric.cache_artifacts WHERE registry_type = $1 AND name = $2 AND version = $3 AND file_name = $4",
        package.registry().as_str(),
        package.name(),
        package.version(),
        file,
    );
    row.fetch_optional(pool).await?.map(Artifact::try_from).transpose()
}

/// Notes what a package is to consist of; files that are known already stay what they are.
pub(crate) async fn plan(pool: &PgPool, package: &Package, files: &[(String, Option<i64>)], is_pinned: bool) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO mcp_fabric.cache_artifacts AS a (registry_type, name, version, file_name, status, bytes_total, is_planned, is_pinned)
         SELECT $1, $2, $3, file_name, 'not_cached', size, true, $6 FROM unnest($4::text[], $5::bigint[]) AS planned(file_name, size)
         ON CONFLICT (registry_type, name, version, file_name) DO UPDATE SET is_planned = true, is_pinned = a.is_pinned OR excluded.is_pinned",
        package.registry().as_str(),
        package.name(),
        package.version(),
        &files.iter().map(|(name, _)| name.clone()).collect::<Vec<String>>(),
        &files.iter().map(|(_, size)| *size).collect::<Vec<Option<i64>>>() as &[Option<i64>],
        is_pinned,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Keeps a package from being removed to make room, and notes what it consists of.
pub(crate) async fn pin(connection: &mut PgConnection, package: &Package, planned: &[String]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE mcp_fabric.cache_artifacts SET is_pinned = true, is_planned = is_planned OR file_name = ANY($4)
         WHERE registry_type = $1 AND name = $2 AND version = $3",
        package.registry().as_str(),
        package.name(),
        package.version(),
        planned,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// When a file was first heard of.
pub(crate) async fn seen_at(pool: &PgPool, package: &Package, file: &str) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    let seen = sqlx::query_scalar!(
        "SELECT seen_at FROM mcp_fabric.cache_artifacts WHERE registry_type = $1 AND name = $2 AND version = $3 AND file_name = $4",
        package.registry().as_str(),
        package.name(),
        package.version(),
        file,
    );
    seen.fetch_optional(pool).await
}

/// Notes that a rule did not let a file in.
pub(crate) async fn note_refused(pool: &PgPool, package: &Package, file: &str, message: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO mcp_fabric.cache_artifacts AS a (registry_type, name, version, file_name, status, error_code, error)
         VALUES ($1, $2, $3, $4, 'failed', 'policy', $5)
         ON CONFLICT (registry_type, name, version, file_name) DO UPDATE SET status = 'failed', error_code = 'policy', error = excluded.error
         WHERE a.status IN ('not_cached', 'failed')",
        package.registry().as_str(),
        package.name(),
        package.version(),
        file,
        message,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// The image that a part belongs to, one that has it by preference.
pub(crate) async fn image_of(pool: &PgPool, name: &str, part: &str) -> Result<Option<String>, DbError> {
    let version = sqlx::query_scalar!(
        "SELECT version FROM mcp_fabric.cache_artifacts WHERE registry_type = 'oci' AND name = $1 AND file_name = $2
         ORDER BY status = 'cached' DESC,
                  EXISTS (SELECT FROM mcp_fabric.cache_documents d WHERE d.registry_type = 'oci' AND d.name = $1 || '@' || version) DESC,
                  seen_at DESC, version LIMIT 1",
        name,
        part,
    );
    Ok(version.fetch_optional(pool).await?)
}

/// Takes the file for a download, unless it is here or another node is at it; then false.
pub(crate) async fn claim(pool: &PgPool, package: &Package, file: &str, node: &str, lease_seconds: f64) -> Result<bool, sqlx::Error> {
    let claimed = sqlx::query!(
        "INSERT INTO mcp_fabric.cache_artifacts AS a (registry_type, name, version, file_name, status, attempts, lease_node, leased_until)
         VALUES ($1, $2, $3, $4, 'downloading', 1, $5, now() + make_interval(secs => $6))
         ON CONFLICT (registry_type, name, version, file_name) DO UPDATE SET
            status = 'downloading', attempts = a.attempts + 1, lease_node = excluded.lease_node, leased_until = excluded.leased_until,
            bytes_done = 0, error_code = NULL, error = NULL
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
        "UPDATE mcp_fabric.cache_artifacts SET leased_until = now() + make_interval(secs => $5), bytes_done = $6, bytes_total = coalesce($7, bytes_total)
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
    pub(crate) facts: Facts,
}

/// Held until the transaction ends: what adds files and what removes them takes turns, over all replicas.
pub(crate) async fn take_turns(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('mcp_fabric.cache'))").execute(connection).await?;
    Ok(())
}

/// Whether this node still has the file's lease, which nobody takes or removes until the transaction ends.
pub(crate) async fn holds(connection: &mut PgConnection, package: &Package, file: &str, node: &str) -> Result<bool, sqlx::Error> {
    let held = sqlx::query_scalar!(
        r#"SELECT true AS "held!" FROM mcp_fabric.cache_artifacts
           WHERE registry_type = $1 AND name = $2 AND version = $3 AND file_name = $4 AND status = 'downloading' AND lease_node = $5
           FOR UPDATE"#,
        package.registry().as_str(),
        package.name(),
        package.version(),
        file,
        node,
    );
    Ok(held.fetch_optional(connection).await?.is_some())
}

/// Writes that a file is here: one that was fetched, or that an archive brought.
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
             fetched_at, last_used_at, published_at, signature, provenance)
         VALUES ($1, $2, $3, $4, 'cached', 1, $5, $6, $6, $6, $7, $8, $9, $9, $10, $11, $12)
         ON CONFLICT (registry_type, name, version, file_name) DO UPDATE SET
            status = 'cached', blob = excluded.blob, size_bytes = excluded.size_bytes, bytes_done = excluded.bytes_done,
            bytes_total = excluded.bytes_total, upstream_digest = excluded.upstream_digest, source = excluded.source,
            fetched_at = excluded.fetched_at, last_used_at = excluded.last_used_at, published_at = excluded.published_at,
            signature = excluded.signature, provenance = excluded.provenance, lease_node = NULL, leased_until = NULL,
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
        cached.facts.published_at,
        cached.facts.signature.as_str(),
        cached.facts.provenance.as_str(),
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
pub(crate) async fn lose(
    connection: &mut PgConnection,
    package: &Package,
    file: &str,
    blob: &BlobId,
    message: &str,
) -> Result<(), sqlx::Error> {
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
    .execute(connection)
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

/// A file that comes in.
pub(crate) struct Coming {
    pub(crate) registry_type: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) file_name: String,
    pub(crate) bytes_done: i64,
    pub(crate) bytes_total: Option<i64>,
}

/// The files that come in now, on any node.
pub(crate) async fn coming(pool: &PgPool, limit: i64) -> Result<Vec<Coming>, DbError> {
    let coming = sqlx::query_as!(
        Coming,
        "SELECT registry_type, name, version, file_name, bytes_done, bytes_total FROM mcp_fabric.cache_artifacts
         WHERE lease_node IS NOT NULL AND status = 'downloading' AND leased_until > now() ORDER BY registry_type, name, version, file_name LIMIT $1",
        limit,
    );
    Ok(coming.fetch_all(pool).await?)
}
