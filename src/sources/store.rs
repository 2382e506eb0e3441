use chrono::{DateTime, Utc};
use platform::database::DbError;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::model::{Source, SourceId};

struct Row {
    id: Uuid,
    owner: String,
    r#type: String,
    source_metadata: Value,
    revision: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<Row> for Source {
    type Error = DbError;

    fn try_from(row: Row) -> Result<Self, DbError> {
        let Value::Object(metadata) = row.source_metadata else {
            return Err(DbError::Inconsistent { table: "sources", column: "source_metadata", row: row.id.to_string() });
        };
        Ok(Self {
            id: SourceId(row.id),
            owner: row.owner,
            kind: row.r#type,
            metadata,
            revision: row.revision,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

pub(crate) async fn create(connection: &mut PgConnection, source: &Source, user: Option<Uuid>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO mcp_fabric.sources (id, owner, user_id, type, source_metadata, revision, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7)",
        source.id.0,
        source.owner,
        user,
        source.kind,
        Value::Object(source.metadata.clone()),
        source.revision,
        source.created_at
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Those of an owner after an id, by it.
pub(crate) async fn list(connection: &mut PgConnection, owner: &str, after: Option<Uuid>, limit: i64) -> Result<Vec<Source>, DbError> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT id, owner, type, source_metadata, revision, created_at, updated_at FROM mcp_fabric.sources
         WHERE owner = $1 AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3",
        owner,
        after,
        limit
    );
    rows.fetch_all(connection).await?.into_iter().map(Source::try_from).collect()
}

pub(crate) async fn get(connection: &mut PgConnection, owner: &str, id: Uuid) -> Result<Option<Source>, DbError> {
    let row = sqlx::query_as!(
        Row,
        "SELECT id, owner, type, source_metadata, revision, created_at, updated_at FROM mcp_fabric.sources WHERE owner = $1 AND id = $2",
        owner,
        id
    );
    row.fetch_optional(connection).await?.map(Source::try_from).transpose()
}

/// The same, held until the transaction ends.
pub(crate) async fn hold(connection: &mut PgConnection, owner: &str, id: Uuid) -> Result<Option<Source>, DbError> {
    let row = sqlx::query_as!(
        Row,
        "SELECT id, owner, type, source_metadata, revision, created_at, updated_at FROM mcp_fabric.sources
         WHERE owner = $1 AND id = $2 FOR NO KEY UPDATE",
        owner,
        id
    );
    row.fetch_optional(connection).await?.map(Source::try_from).transpose()
}

pub(crate) async fn write(connection: &mut PgConnection, source: &Source) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE mcp_fabric.sources SET type = $2, source_metadata = $3, revision = $4, updated_at = $5 WHERE id = $1",
        source.id.0,
        source.kind,
        Value::Object(source.metadata.clone()),
        source.revision,
        source.updated_at
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn remove(connection: &mut PgConnection, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM mcp_fabric.sources WHERE id = $1", id).execute(connection).await?;
    Ok(())
}

/// The types of those of these that an owner has.
pub(crate) async fn kinds(connection: &mut PgConnection, owner: &str, ids: &[Uuid]) -> Result<Vec<(Uuid, String)>, DbError> {
    let rows = sqlx::query!("SELECT id, type FROM mcp_fabric.sources WHERE owner = $1 AND id = ANY ($2) ORDER BY id", owner, ids);
    Ok(rows.fetch_all(connection).await?.into_iter().map(|row| (row.id, row.r#type)).collect())
}

/// Removes all of an owner; gives how many.
pub(crate) async fn erase(connection: &mut PgConnection, owner: &str) -> Result<u64, sqlx::Error> {
    Ok(sqlx::query!("DELETE FROM mcp_fabric.sources WHERE owner = $1", owner).execute(connection).await?.rows_affected())
}
