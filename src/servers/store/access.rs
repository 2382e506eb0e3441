//! Servers that were made here, and who may see and use which.

use sqlx::PgConnection;

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
         WHERE s.origin = 'custom' AND s.id = $1 AND (s.owner IS NOT NULL) = $2",
        id.as_str(),
        is_of_catalogue,
    );
    Ok(rows.fetch_all(connection).await?.into_iter().map(|row| (row.server_id, row.version)).collect())
}
