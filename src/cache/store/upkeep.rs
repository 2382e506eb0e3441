use chrono::{DateTime, Utc};
use platform::database::DbError;
use sqlx::PgPool;

use crate::model::Total;

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
