use platform::database::DbError;
use sqlx::{PgExecutor, PgPool};

use crate::{model::Lock, names::Package};

/// The lock of a package under further constraints; empty for the usual one.
pub(crate) async fn lock(pool: &PgPool, package: &Package, constraints: &str) -> Result<Option<Lock>, DbError> {
    let row = sqlx::query!(
        "SELECT packages, resolver, created_at FROM mcp_fabric.cache_locks
         WHERE registry_type = $1 AND name = $2 AND version = $3 AND constraints = $4",
        package.registry().as_str(),
        package.name(),
        package.version(),
        constraints,
    );
    let Some(row) = row.fetch_optional(pool).await? else { return Ok(None) };
    let inconsistent = |_| DbError::Inconsistent { table: "cache_locks", column: "packages", row: package.to_string() };
    let packages = serde_json::from_value(row.packages).map_err(inconsistent)?;
    Ok(Some(Lock { packages, resolver: row.resolver, created_at: row.created_at }))
}

/// Keeps a lock; the first one stays.
pub(crate) async fn keep_lock(executor: impl PgExecutor<'_>, package: &Package, constraints: &str, lock: &Lock) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO mcp_fabric.cache_locks (registry_type, name, version, packages, resolver, created_at, constraints) VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT DO NOTHING",
        package.registry().as_str(),
        package.name(),
        package.version(),
        serde_json::json!(lock.packages),
        lock.resolver,
        lock.created_at,
        constraints,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// How many files of a lock are not here.
pub(crate) async fn missing_of_lock(pool: &PgPool, package: &Package) -> Result<i64, DbError> {
    let missing = sqlx::query_scalar!(
        r#"SELECT count(*) AS "missing!" FROM mcp_fabric.cache_locks l, jsonb_array_elements(l.packages) AS p, jsonb_array_elements(p -> 'files') AS f
           WHERE l.registry_type = $1 AND l.name = $2 AND l.version = $3 AND l.constraints = '' AND NOT EXISTS (
               SELECT FROM mcp_fabric.cache_artifacts a
               WHERE a.registry_type = l.registry_type AND a.name = p ->> 'name' AND a.version = p ->> 'version' AND a.file_name = f ->> 'name'
                 AND a.status = 'cached' AND encode(a.blob, 'hex') = f ->> 'sha256')"#,
        package.registry().as_str(),
        package.name(),
        package.version(),
    );
    Ok(missing.fetch_one(pool).await?)
}
