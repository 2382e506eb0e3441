use chrono::{DateTime, Utc};
use platform::database::DbError;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    envelope::Sealed,
    model::{EnvVar, Kind, Metadata, UserRef},
};

/// What there is before a value is written.
pub(crate) struct Before {
    /// The row's id and revision, when there is one.
    pub(crate) row: Option<(Uuid, i64)>,
    /// Whether the row was stored for the server that has this name now.
    pub(crate) is_present: bool,
    /// Which server has this name now.
    pub(crate) incarnation: i32,
}

/// `None` when there is no such server.
pub(crate) async fn peek(
    connection: &mut PgConnection,
    actor: &str,
    user: &UserRef,
    server: &str,
    env_var: &EnvVar,
) -> Result<Option<Before>, DbError> {
    let row = sqlx::query!(
        r#"SELECT id AS "id?", rev AS "rev?", incarnation AS "incarnation?", present AS "present!" FROM credentials.peek($1, $2, $3, $4)"#,
        actor,
        user.as_str(),
        server,
        env_var.as_str()
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Before { row: row.id.zip(row.rev), is_present: row.incarnation == Some(row.present), incarnation: row.present }))
}

/// A value that is about to be written.
pub(crate) struct New<'a> {
    pub(crate) actor: &'a str,
    pub(crate) id: Uuid,
    pub(crate) user: &'a UserRef,
    pub(crate) server: &'a str,
    pub(crate) env_var: &'a EnvVar,
    pub(crate) sealed: Sealed,
    pub(crate) rev: i64,
    pub(crate) kind: Kind,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) incarnation: i32,
    /// `None` where one event tells of many values.
    pub(crate) event: Option<audit::Prepared>,
}

/// Writes a value, and its event where it has one; `None` when somebody else was faster, or the key was retired meanwhile.
pub(crate) async fn put(connection: &mut PgConnection, new: &New<'_>) -> Result<Option<(DateTime<Utc>, DateTime<Utc>)>, sqlx::Error> {
    let Sealed { value, iv, kek_version, wrapped_dek, key_commit } = &new.sealed;
    let event = new.event.as_ref();
    let row = sqlx::query!(
        r#"SELECT created_at AS "created_at!", updated_at AS "updated_at!"
           FROM credentials.put($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)"#,
        new.actor,
        new.id,
        new.user.as_str(),
        new.server,
        new.env_var.as_str(),
        value,
        iv,
        kek_version,
        wrapped_dek,
        key_commit,
        new.rev,
        new.kind.as_str(),
        new.expires_at,
        new.incarnation,
        event.map(|event| event.event.as_str()),
        event.and_then(|event| event.pii.as_deref()),
        event.map(|event| event.mac.as_slice())
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| (row.created_at, row.updated_at)))
}

pub(crate) fn kind(text: &str, id: Uuid) -> Result<Kind, DbError> {
    text.parse().map_err(|_| DbError::Inconsistent { table: "mcp_credentials", column: "kind", row: id.to_string() })
}

/// What there is of one user for one server, by name.
pub(crate) async fn list(pool: &PgPool, actor: &str, user: &UserRef, server: &str) -> Result<Vec<Metadata>, DbError> {
    let rows = sqlx::query!(
        r#"SELECT id AS "id!", env_var AS "env_var!", kind AS "kind!", created_at AS "created_at!", updated_at AS "updated_at!",
                  last_used_at, expires_at, kek_version, rev AS "rev!"
           FROM credentials.list($1, $2, $3)"#,
        actor,
        user.as_str(),
        server
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Metadata {
                kind: kind(&row.kind, row.id)?,
                env_var: row.env_var,
                created_at: row.created_at,
                updated_at: row.updated_at,
                last_used_at: row.last_used_at,
                expires_at: row.expires_at,
                key_version: row.kek_version,
                revision: row.rev,
            })
        })
        .collect()
}

/// What there is of one user, by server and name, after `after`.
pub(crate) async fn list_all(
    connection: &mut PgConnection,
    user: &UserRef,
    servers: Option<&[String]>,
    after: Option<(&str, &str)>,
    limit: i64,
) -> Result<Vec<(String, Metadata)>, DbError> {
    let (server, name) = after.unwrap_or_default();
    let rows = sqlx::query!(
        r#"SELECT c.id, c.server_id, c.env_var, c.kind, c.created_at AS "created_at!", c.updated_at AS "updated_at!", c.last_used_at,
                  c.expires_at, c.kek_version, c.rev
           FROM credentials.mcp_credentials c JOIN mcp_fabric.servers s ON s.id = c.server_id AND s.incarnation = c.incarnation
           WHERE c.user_id = $1 AND ($5::text[] IS NULL OR c.server_id = ANY ($5)) AND (c.server_id COLLATE "C", c.env_var COLLATE "C") > ($2, $3)
           ORDER BY c.server_id COLLATE "C", c.env_var COLLATE "C" LIMIT $4"#,
        user.as_str(),
        server,
        name,
        limit,
        servers
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let metadata = Metadata {
                kind: kind(&row.kind, row.id)?,
                env_var: row.env_var,
                created_at: row.created_at,
                updated_at: row.updated_at,
                last_used_at: row.last_used_at,
                expires_at: row.expires_at,
                key_version: row.kek_version,
                revision: row.rev,
            };
            Ok((row.server_id, metadata))
        })
        .collect()
}

/// Removes one; gives its id.
pub(crate) async fn delete(connection: &mut PgConnection, user: &UserRef, server: &str, env_var: &EnvVar) -> Result<Option<Uuid>, DbError> {
    let row = sqlx::query_scalar!(
        "DELETE FROM credentials.mcp_credentials c USING mcp_fabric.servers s
         WHERE s.id = c.server_id AND s.incarnation = c.incarnation AND c.user_id = $1 AND c.server_id = $2 AND c.env_var = $3 RETURNING c.id",
        user.as_str(),
        server,
        env_var.as_str()
    );
    Ok(row.fetch_optional(connection).await?)
}

/// Removes those of a server that are not named; gives their ids and names.
pub(crate) async fn delete_others(
    connection: &mut PgConnection,
    user: &UserRef,
    server: &str,
    kept: &[String],
) -> Result<Vec<(Uuid, String)>, DbError> {
    let rows = sqlx::query!(
        "DELETE FROM credentials.mcp_credentials WHERE user_id = $1 AND server_id = $2 AND env_var <> ALL ($3) RETURNING id, env_var",
        user.as_str(),
        server,
        kept
    );
    Ok(rows.fetch_all(connection).await?.into_iter().map(|row| (row.id, row.env_var)).collect())
}

/// Removes all of a user; gives their ids.
pub(crate) async fn delete_all(connection: &mut PgConnection, user: &str) -> Result<Vec<Uuid>, DbError> {
    Ok(sqlx::query_scalar!("DELETE FROM credentials.mcp_credentials WHERE user_id = $1 RETURNING id", user).fetch_all(connection).await?)
}

/// Removes what was stored for servers whose names belong to others now; gives their ids and servers.
pub(crate) async fn delete_orphans(connection: &mut PgConnection) -> Result<Vec<(Uuid, String)>, DbError> {
    let rows = sqlx::query!(
        "DELETE FROM credentials.mcp_credentials c USING mcp_fabric.servers s
         WHERE s.id = c.server_id AND s.incarnation <> c.incarnation RETURNING c.id, c.server_id"
    );
    Ok(rows.fetch_all(connection).await?.into_iter().map(|row| (row.id, row.server_id)).collect())
}
