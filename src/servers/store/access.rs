//! Servers that were made here, and who may see and use which.

use platform::database::DbError;
use sqlx::{PgConnection, PgPool};

use crate::model::{Access, ServerId};

/// Whether a server of this id is there, and not only the memory of one.
pub(crate) async fn is_there(connection: &mut PgConnection, id: &ServerId) -> Result<bool, sqlx::Error> {
    let there = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM mcp_fabric.servers WHERE id = $1 AND erased_at IS NULL) AS "there!""#,
        id.as_str()
    );
    there.fetch_one(connection).await
}

/// Says whose a server is, who may see it, and what is said of it.
pub(crate) async fn set_access(connection: &mut PgConnection, id: &ServerId, access: &Access) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE mcp_fabric.servers
         SET owner = $2, created_by = $3, visibility = $4, is_hidden = $5, metadata = $6, revision = $7
         WHERE id = $1",
        id.as_str(),
        access.owner,
        access.created_by,
        access.visibility.as_str(),
        access.is_hidden,
        access.metadata,
        access.revision,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Gives a server to somebody who is no person.
pub(crate) async fn hand_over(connection: &mut PgConnection, id: &ServerId, owner: &str) -> Result<(), sqlx::Error> {
    sqlx::query!("UPDATE mcp_fabric.servers SET owner = $2, created_by = NULL WHERE id = $1", id.as_str(), owner)
        .execute(connection)
        .await?;
    Ok(())
}

/// Those of these servers that are private, with their owners.
pub(crate) async fn private_among(pool: &PgPool, servers: &[String]) -> Result<Vec<(String, String)>, DbError> {
    let rows = sqlx::query!(
        r#"SELECT id, coalesce(owner, '') AS "owner!" FROM mcp_fabric.servers WHERE visibility = 'private' AND id = ANY ($1)"#,
        servers
    );
    Ok(rows.fetch_all(pool).await?.into_iter().map(|row| (row.id, row.owner)).collect())
}

pub(crate) async fn renew(connection: &mut PgConnection, id: &ServerId) -> Result<(), sqlx::Error> {
    sqlx::query!("UPDATE mcp_fabric.servers SET incarnation = incarnation + 1 WHERE id = $1", id.as_str()).execute(connection).await?;
    Ok(())
}

/// Removes versions but the latest, which is new from now on: those who follow changes have not seen it.
pub(crate) async fn keep_latest(connection: &mut PgConnection, id: &ServerId) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM mcp_fabric.server_versions WHERE server_id = $1 AND NOT is_latest", id.as_str())
        .execute(&mut *connection)
        .await?;
    sqlx::query!("DELETE FROM mcp_fabric.server_version_history WHERE server_id = $1", id.as_str()).execute(&mut *connection).await?;
    sqlx::query!("UPDATE mcp_fabric.server_versions SET updated_at = now() WHERE server_id = $1", id.as_str()).execute(connection).await?;
    Ok(())
}

/// The ids of the servers of an owner.
pub(crate) async fn owned_by(connection: &mut PgConnection, owner: &str) -> Result<Vec<(String, bool)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT id, visibility = 'private' AS "is_private!" FROM mcp_fabric.servers WHERE owner = $1 AND erased_at IS NULL"#,
        owner
    );
    Ok(rows.fetch_all(connection).await?.into_iter().map(|row| (row.id, row.is_private)).collect())
}

/// The versions of a server that was made here: by an installation, or in the catalogue.
pub(crate) async fn custom_versions(
    connection: &mut PgConnection,
    id: &ServerId,
    is_of_catalogue: bool,
) -> Result<Vec<(String, String)>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT v.server_id, v.version FROM mcp_fabric.server_versions v JOIN mcp_fabric.servers s ON s.id = v.server_id
         WHERE s.origin IN ('custom', 'generated') AND s.id = $1 AND (s.owner IS NOT NULL) = $2",
        id.as_str(),
        is_of_catalogue,
    );
    Ok(rows.fetch_all(connection).await?.into_iter().map(|row| (row.server_id, row.version)).collect())
}
