use chrono::{DateTime, Utc};
use jobs::JobId;
use platform::{database::DbError, ids};
use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use users::Asker;
use uuid::Uuid;

use crate::model::{Generated, Order, OrderId, Stored};

/// Keeps what is asked for.
pub(crate) async fn keep_order(
    connection: &mut PgConnection,
    (id, job): (OrderId, JobId),
    asker: &Asker,
    user: Option<Uuid>,
    (wanted, document): (&Value, Option<&[u8]>),
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO mcp_fabric.factory_orders (id, job_id, owner, user_id, token, wanted, document, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        id.0,
        job.0,
        asker.owner,
        user,
        asker.token,
        wanted,
        document,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What was asked for, and by whom.
pub(crate) async fn order(connection: &mut PgConnection, id: OrderId) -> Result<Option<Order>, DbError> {
    let row = sqlx::query!("SELECT owner, token, wanted, document FROM mcp_fabric.factory_orders WHERE id = $1", id.0);
    let Some(row) = row.fetch_optional(connection).await? else { return Ok(None) };
    let wrong = |_| DbError::Inconsistent { table: "factory_orders", column: "wanted", row: id.0.to_string() };
    let asker = Asker { owner: row.owner, token: row.token };
    Ok(Some(Order { asker, wanted: serde_json::from_value(row.wanted).map_err(wrong)?, document: row.document }))
}

/// How many of an owner's are not made yet.
pub(crate) async fn unfinished(connection: &mut PgConnection, owner: &str) -> Result<i64, sqlx::Error> {
    let row =
        sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM mcp_fabric.factory_orders WHERE owner = $1 AND failed_at IS NULL"#, owner);
    row.fetch_one(connection).await
}

/// Says when the job of an order failed, or that it is worked on again.
pub(crate) async fn note_failed(connection: &mut PgConnection, id: OrderId, at: Option<DateTime<Utc>>) -> Result<(), sqlx::Error> {
    sqlx::query!("UPDATE mcp_fabric.factory_orders SET failed_at = $2 WHERE id = $1", id.0, at).execute(connection).await?;
    Ok(())
}

/// Forgets an owner's orders that failed before this moment.
pub(crate) async fn sweep_orders(connection: &mut PgConnection, owner: &str, before: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM mcp_fabric.factory_orders WHERE owner = $1 AND failed_at < $2", owner, before).execute(connection).await?;
    Ok(())
}

/// Forgets what was asked for.
pub(crate) async fn forget_order(connection: &mut PgConnection, id: OrderId) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM mcp_fabric.factory_orders WHERE id = $1", id.0).execute(connection).await?;
    Ok(())
}

/// Writes a version that was made, or registered.
pub(crate) async fn keep(connection: &mut PgConnection, made: &Generated, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO mcp_fabric.generated_servers
             (id, server_id, version, spec, content_sha256, manifest, package_path, docker_image, claude_config, bundle_sha256, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)
         ON CONFLICT (server_id, version) DO UPDATE
         SET spec = excluded.spec, content_sha256 = excluded.content_sha256, manifest = excluded.manifest, package_path = excluded.package_path,
             docker_image = excluded.docker_image, claude_config = excluded.claude_config, bundle_sha256 = excluded.bundle_sha256,
             updated_at = excluded.updated_at",
        ids::fresh(),
        made.server_id,
        made.version,
        made.spec,
        made.content_sha256,
        made.manifest,
        made.package_path,
        made.docker_image,
        made.claude_config,
        made.bundle_sha256,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The versions of a server, newest first.
pub(crate) async fn versions(pool: &PgPool, server_id: &str) -> Result<Vec<Stored>, DbError> {
    let rows = sqlx::query_as!(
        Stored,
        "SELECT id, server_id, version, spec, content_sha256, manifest, package_path, docker_image, claude_config, bundle_sha256, created_at, updated_at
         FROM mcp_fabric.generated_servers WHERE server_id = $1 ORDER BY created_at DESC, version DESC",
        server_id,
    );
    Ok(rows.fetch_all(pool).await?)
}

/// The versions of a server and what each was made from, inside of a transaction.
pub(crate) async fn contents_in(connection: &mut PgConnection, server_id: &str) -> Result<Vec<(String, Option<String>)>, sqlx::Error> {
    let rows = sqlx::query!("SELECT version, content_sha256 FROM mcp_fabric.generated_servers WHERE server_id = $1", server_id);
    Ok(rows.fetch_all(connection).await?.into_iter().map(|row| (row.version, row.content_sha256)).collect())
}

/// The versions of a server with their bundles, inside of a transaction.
pub(crate) async fn bundles_in(connection: &mut PgConnection, server_id: &str) -> Result<Vec<(String, Option<String>)>, sqlx::Error> {
    let rows = sqlx::query!("SELECT version, bundle_sha256 FROM mcp_fabric.generated_servers WHERE server_id = $1", server_id);
    Ok(rows.fetch_all(connection).await?.into_iter().map(|row| (row.version, row.bundle_sha256)).collect())
}
