use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use platform::database::DbError;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::model::{VirtualServer, VirtualServerId};

struct Row {
    id: Uuid,
    owner: String,
    name: String,
    endpoint: String,
    source_ids: Vec<String>,
    server_ids: Vec<String>,
    prefix: String,
    tools: Vec<String>,
    renamed: Value,
    revision: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    deleted_at: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for VirtualServer {
    type Error = DbError;

    fn try_from(row: Row) -> Result<Self, DbError> {
        let wrong = |column| DbError::Inconsistent { table: "virtual_servers", column, row: row.id.to_string() };
        let renamed: BTreeMap<String, String> = serde_json::from_value(row.renamed.clone()).map_err(|_| wrong("renamed"))?;
        Ok(Self {
            id: VirtualServerId(row.id),
            prefix: row.prefix.parse().map_err(|_| wrong("prefix"))?,
            renamed,
            owner: row.owner,
            name: row.name,
            endpoint: row.endpoint,
            source_ids: row.source_ids,
            server_ids: row.server_ids,
            tools: row.tools,
            revision: row.revision,
            created_at: row.created_at,
            updated_at: row.updated_at,
            deleted_at: row.deleted_at,
        })
    }
}

/// Endpoints are given one after the other: this waits for whoever gives one.
pub(crate) async fn lock_pool(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('mcp_fabric.virtual_servers.endpoint'))").execute(connection).await?;
    Ok(())
}

/// Endpoints that are somebody's.
pub(crate) async fn endpoints(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!("SELECT endpoint FROM mcp_fabric.virtual_servers WHERE deleted_at IS NULL").fetch_all(connection).await
}

pub(crate) async fn create(connection: &mut PgConnection, new: &VirtualServer, user: Option<Uuid>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO mcp_fabric.virtual_servers
             (id, owner, user_id, name, endpoint, source_ids, server_ids, prefix, tools, renamed, revision, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12)",
        new.id.0,
        new.owner,
        user,
        new.name,
        new.endpoint,
        &new.source_ids,
        &new.server_ids,
        new.prefix.as_str(),
        &new.tools,
        json!(new.renamed),
        new.revision,
        new.created_at
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Those of an owner after an id, by it; without those that were removed.
pub(crate) async fn list(
    connection: &mut PgConnection,
    owner: &str,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<VirtualServer>, DbError> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT id, owner, name, endpoint, source_ids, server_ids, prefix, tools, renamed, revision, created_at, updated_at, deleted_at
         FROM mcp_fabric.virtual_servers
         WHERE owner = $1 AND deleted_at IS NULL AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3",
        owner,
        after,
        limit
    );
    rows.fetch_all(connection).await?.into_iter().map(VirtualServer::try_from).collect()
}

/// One by its id, removed or not.
pub(crate) async fn get(connection: &mut PgConnection, id: Uuid) -> Result<Option<VirtualServer>, DbError> {
    let row = sqlx::query_as!(
        Row,
        "SELECT id, owner, name, endpoint, source_ids, server_ids, prefix, tools, renamed, revision, created_at, updated_at, deleted_at
         FROM mcp_fabric.virtual_servers WHERE id = $1",
        id
    );
    row.fetch_optional(connection).await?.map(VirtualServer::try_from).transpose()
}

/// The same, held until the transaction ends.
pub(crate) async fn hold(connection: &mut PgConnection, id: Uuid) -> Result<Option<VirtualServer>, DbError> {
    let row = sqlx::query_as!(
        Row,
        "SELECT id, owner, name, endpoint, source_ids, server_ids, prefix, tools, renamed, revision, created_at, updated_at, deleted_at
         FROM mcp_fabric.virtual_servers WHERE id = $1 FOR NO KEY UPDATE",
        id
    );
    row.fetch_optional(connection).await?.map(VirtualServer::try_from).transpose()
}

/// The one whose endpoint this is.
pub(crate) async fn at(connection: &mut PgConnection, endpoint: &str) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar!("SELECT id FROM mcp_fabric.virtual_servers WHERE endpoint = $1 AND deleted_at IS NULL", endpoint)
        .fetch_optional(connection)
        .await
}

pub(crate) async fn write(connection: &mut PgConnection, new: &VirtualServer) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE mcp_fabric.virtual_servers
         SET name = $2, endpoint = $3, source_ids = $4, server_ids = $5, prefix = $6, tools = $7, renamed = $8, revision = $9, updated_at = $10,
             deleted_at = $11
         WHERE id = $1",
        new.id.0,
        new.name,
        new.endpoint,
        &new.source_ids,
        &new.server_ids,
        new.prefix.as_str(),
        &new.tools,
        json!(new.renamed),
        new.revision,
        new.updated_at,
        new.deleted_at
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn remove(connection: &mut PgConnection, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM mcp_fabric.virtual_servers WHERE id = $1", id).execute(connection).await?;
    Ok(())
}

/// Removes all of an owner; gives how many.
pub(crate) async fn erase(connection: &mut PgConnection, owner: &str) -> Result<u64, sqlx::Error> {
    Ok(sqlx::query!("DELETE FROM mcp_fabric.virtual_servers WHERE owner = $1", owner).execute(connection).await?.rows_affected())
}
