use chrono::{DateTime, Utc};
use events::Prepared;
use platform::database::DbError;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::model::{Configuration, ConfigurationId, Limits, Standing};

struct Row {
    id: Uuid,
    owner: String,
    server_id: String,
    enabled: bool,
    input_values: Value,
    memory_bytes: Option<i64>,
    cpu_millis: Option<i32>,
    processes: Option<i32>,
    restart: String,
    lifecycle: String,
    sharing: String,
    status: String,
    revision: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<Row> for Configuration {
    type Error = DbError;

    fn try_from(row: Row) -> Result<Self, DbError> {
        let wrong = |column| DbError::Inconsistent { table: "configurations", column, row: row.id.to_string() };
        let Value::Object(values) = row.input_values else { return Err(wrong("input_values")) };
        Ok(Self {
            id: ConfigurationId(row.id),
            owner: row.owner,
            enabled: row.enabled,
            values,
            limits: Limits { memory_bytes: row.memory_bytes, cpu_millis: row.cpu_millis, processes: row.processes },
            restart: row.restart.parse().map_err(|_| wrong("restart"))?,
            lifecycle: row.lifecycle.parse().map_err(|_| wrong("lifecycle"))?,
            sharing: row.sharing.parse().map_err(|_| wrong("sharing"))?,
            status: row.status.parse().map_err(|_| wrong("status"))?,
            revision: row.revision,
            created_at: row.created_at,
            updated_at: row.updated_at,
            server_id: row.server_id,
        })
    }
}

/// Makes the row where there is none for the server as it is now, and gives it, held; nothing where there is one, or no such server.
pub(crate) async fn ensure(
    connection: &mut PgConnection,
    id: Uuid,
    owner: &str,
    server: &str,
    now: DateTime<Utc>,
) -> Result<Option<Configuration>, DbError> {
    let row = sqlx::query_as!(
        Row,
        "INSERT INTO mcp_fabric.configurations AS c (id, owner, server_id, incarnation, created_at, updated_at)
         SELECT $1, $2, s.id, s.incarnation, $4, $4 FROM mcp_fabric.servers s WHERE s.id = $3 AND s.erased_at IS NULL
         ON CONFLICT (owner, server_id) DO UPDATE
            SET id = $1, incarnation = excluded.incarnation, enabled = false, input_values = '{}', memory_bytes = NULL, cpu_millis = NULL,
                processes = NULL, restart = 'on_failure', lifecycle = 'persistent', sharing = 'per_user', status = 'active', revision = 0,
                created_at = $4, updated_at = $4
            WHERE c.incarnation <> excluded.incarnation
         RETURNING c.id, c.owner, c.server_id, c.enabled, c.input_values, c.memory_bytes, c.cpu_millis, c.processes, c.restart, c.lifecycle,
                   c.sharing, c.status, c.revision, c.created_at, c.updated_at",
        id,
        owner,
        server,
        now
    );
    row.fetch_optional(connection).await?.map(Configuration::try_from).transpose()
}

/// The row of an owner for a server, held until the transaction ends.
pub(crate) async fn hold(connection: &mut PgConnection, owner: &str, server: &str) -> Result<Option<Configuration>, DbError> {
    let row = sqlx::query_as!(
        Row,
        "SELECT c.id, c.owner, c.server_id, c.enabled, c.input_values, c.memory_bytes, c.cpu_millis, c.processes, c.restart, c.lifecycle, c.sharing,
                c.status, c.revision, c.created_at, c.updated_at
         FROM mcp_fabric.configurations c JOIN mcp_fabric.servers s ON s.id = c.server_id AND s.incarnation = c.incarnation
         WHERE c.owner = $1 AND c.server_id = $2 FOR NO KEY UPDATE OF c",
        owner,
        server
    );
    row.fetch_optional(connection).await?.map(Configuration::try_from).transpose()
}

pub(crate) async fn get(connection: &mut PgConnection, owner: &str, server: &str) -> Result<Option<Configuration>, DbError> {
    let row = sqlx::query_as!(
        Row,
        "SELECT c.id, c.owner, c.server_id, c.enabled, c.input_values, c.memory_bytes, c.cpu_millis, c.processes, c.restart, c.lifecycle, c.sharing,
                c.status, c.revision, c.created_at, c.updated_at
         FROM mcp_fabric.configurations c JOIN mcp_fabric.servers s ON s.id = c.server_id AND s.incarnation = c.incarnation
         WHERE c.owner = $1 AND c.server_id = $2",
        owner,
        server
    );
    row.fetch_optional(connection).await?.map(Configuration::try_from).transpose()
}

/// Those of an owner after a server's id, by it.
pub(crate) async fn list(
    connection: &mut PgConnection,
    owner: &str,
    servers: Option<&[String]>,
    status: Standing,
    after: &str,
    limit: i64,
) -> Result<Vec<Configuration>, DbError> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT c.id, c.owner, c.server_id, c.enabled, c.input_values, c.memory_bytes, c.cpu_millis, c.processes, c.restart, c.lifecycle, c.sharing,
                  c.status, c.revision, c.created_at, c.updated_at
           FROM mcp_fabric.configurations c JOIN mcp_fabric.servers s ON s.id = c.server_id AND s.incarnation = c.incarnation
           WHERE c.owner = $1 AND ($2::text[] IS NULL OR c.server_id = ANY ($2)) AND c.status = $3 AND c.server_id COLLATE "C" > $4
           ORDER BY c.server_id COLLATE "C" LIMIT $5"#,
        owner,
        servers,
        status.as_str(),
        after,
        limit
    );
    rows.fetch_all(connection).await?.into_iter().map(Configuration::try_from).collect()
}

/// All that are to run, or of these the ones of some servers, or the ones that an owner may use: their own, and what is shared.
/// Those of servers that are gone, denied, or private to somebody else are not.
pub(crate) async fn enabled(
    connection: &mut PgConnection,
    servers: Option<&[String]>,
    usable_by: Option<&str>,
) -> Result<Vec<Configuration>, DbError> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT c.id, c.owner, c.server_id, c.enabled, c.input_values, c.memory_bytes, c.cpu_millis, c.processes, c.restart, c.lifecycle,
                c.sharing, c.status, c.revision, c.created_at, c.updated_at
         FROM mcp_fabric.configurations c
         JOIN mcp_fabric.servers s ON s.id = c.server_id AND s.incarnation = c.incarnation AND s.erased_at IS NULL
         WHERE c.enabled AND ($1::text IS NULL OR c.owner = $1 OR c.sharing = 'shared')
           AND NOT s.is_denied AND (s.visibility <> 'private' OR c.owner IN (s.owner, 'operator'))
           AND ($1::text IS NULL OR s.visibility <> 'private' OR $1 IN (s.owner, 'operator', ''))
           AND ($2::text[] IS NULL OR c.server_id = ANY ($2))
         ORDER BY c.created_at",
        usable_by,
        servers
    );
    rows.fetch_all(connection).await?.into_iter().map(Configuration::try_from).collect()
}

/// Those of one server that are enabled, whosever they are.
pub(crate) async fn enabled_for(connection: &mut PgConnection, server: &str) -> Result<Vec<Configuration>, DbError> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT c.id, c.owner, c.server_id, c.enabled, c.input_values, c.memory_bytes, c.cpu_millis, c.processes, c.restart, c.lifecycle,
                c.sharing, c.status, c.revision, c.created_at, c.updated_at
         FROM mcp_fabric.configurations c
         JOIN mcp_fabric.servers s ON s.id = c.server_id AND s.incarnation = c.incarnation
         WHERE c.enabled AND c.server_id = $1",
        server
    );
    rows.fetch_all(connection).await?.into_iter().map(Configuration::try_from).collect()
}

/// Which of these servers an owner wants to run.
pub(crate) async fn enabled_of(connection: &mut PgConnection, owner: &str, servers: &[String]) -> Result<Vec<String>, DbError> {
    let rows = sqlx::query_scalar!(
        "SELECT c.server_id FROM mcp_fabric.configurations c
         JOIN mcp_fabric.servers s ON s.id = c.server_id AND s.incarnation = c.incarnation
         WHERE c.owner = $1 AND c.enabled AND c.server_id = ANY ($2)",
        owner,
        servers
    );
    Ok(rows.fetch_all(connection).await?)
}

/// Writes a held row as its next revision, and tells of it.
pub(crate) async fn write(connection: &mut PgConnection, new: &Configuration, told: &Prepared) -> Result<(), DbError> {
    sqlx::query!(
        "WITH written AS (
             UPDATE mcp_fabric.configurations
             SET enabled = $2, input_values = $3, memory_bytes = $4, cpu_millis = $5, processes = $6, restart = $7, lifecycle = $8, sharing = $9,
                 status = $10, revision = $11, updated_at = $12
             WHERE id = $1 RETURNING 1)
         SELECT mcp_fabric.publish_event($13, $14, $15, $16, $17, $18) FROM written",
        new.id.0,
        new.enabled,
        Value::Object(new.values.clone()),
        new.limits.memory_bytes,
        new.limits.cpu_millis,
        new.limits.processes,
        new.restart.as_str(),
        new.lifecycle.as_str(),
        new.sharing.as_str(),
        new.status.as_str(),
        new.revision,
        new.updated_at,
        told.kind,
        told.channel,
        told.owner,
        told.server,
        told.payload,
        told.at
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes all of an owner; gives the servers that they were for.
pub(crate) async fn erase(connection: &mut PgConnection, owner: &str) -> Result<Vec<String>, DbError> {
    let gone = sqlx::query_scalar!("DELETE FROM mcp_fabric.configurations WHERE owner = $1 RETURNING server_id", owner);
    Ok(gone.fetch_all(connection).await?)
}
