use platform::database::DbError;
use sqlx::PgConnection;
use uuid::Uuid;

use super::reveal::Row;
use crate::envelope::Sealed;

/// A row with all that its identity consists of.
pub(crate) struct Whole {
    pub(crate) user: String,
    pub(crate) server: String,
    pub(crate) row: Row,
}

/// Rows after `after`, by id.
pub(crate) async fn rows(connection: &mut PgConnection, after: Uuid, only_plain: bool, limit: i64) -> Result<Vec<Whole>, DbError> {
    let rows = sqlx::query!(
        "SELECT id, user_id, server_id, env_var, encrypted_value, iv, alg, kek_version, wrapped_dek, key_commit, rev, expires_at
         FROM credentials.mcp_credentials WHERE id > $1 AND (NOT $2 OR alg = 0) ORDER BY id LIMIT $3",
        after,
        only_plain,
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Whole {
            user: row.user_id,
            server: row.server_id,
            row: Row {
                id: row.id,
                env_var: row.env_var,
                alg: row.alg,
                rev: row.rev,
                expires_at: row.expires_at,
                sealed: Sealed::from_columns((row.encrypted_value, row.iv), row.kek_version, row.wrapped_dek, row.key_commit),
            },
        })
        .collect())
}

/// All of a user, each with its kind, by server and name.
pub(crate) async fn of_user(connection: &mut PgConnection, user: &str) -> Result<Vec<(Whole, crate::Kind)>, DbError> {
    let rows = sqlx::query!(
        "SELECT c.id, c.user_id, c.server_id, c.env_var, c.encrypted_value, c.iv, c.alg, c.kek_version, c.wrapped_dek, c.key_commit, c.rev, c.kind,
                c.expires_at
         FROM credentials.mcp_credentials c JOIN mcp_fabric.servers s ON s.id = c.server_id AND s.incarnation = c.incarnation
         WHERE c.user_id = $1 ORDER BY c.server_id, c.env_var",
        user
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let kind = super::rows::kind(&row.kind, row.id)?;
            let sealed = Sealed::from_columns((row.encrypted_value, row.iv), row.kek_version, row.wrapped_dek, row.key_commit);
            let (id, env_var, alg, rev, expires_at) = (row.id, row.env_var, row.alg, row.rev, row.expires_at);
            Ok((Whole { user: row.user_id, server: row.server_id, row: Row { id, env_var, alg, rev, expires_at, sealed } }, kind))
        })
        .collect()
}

/// Those of these rows that the trail has not been told of since `before`.
pub(crate) async fn unattested(
    connection: &mut PgConnection,
    ids: &[Uuid],
    before: chrono::DateTime<chrono::Utc>,
) -> Result<Vec<Uuid>, DbError> {
    let rows = sqlx::query_scalar!("SELECT id FROM credentials.mcp_credentials WHERE id = ANY ($1) AND attested_at < $2", ids, before);
    Ok(rows.fetch_all(connection).await?)
}

pub(crate) async fn set_attested(connection: &mut PgConnection, ids: &[Uuid]) -> Result<(), DbError> {
    sqlx::query!("UPDATE credentials.mcp_credentials SET attested_at = now() WHERE id = ANY ($1)", ids).execute(connection).await?;
    Ok(())
}

/// Replaces a row of the requirements' plain form, if it is still what was read.
pub(crate) async fn seal_plain(connection: &mut PgConnection, whole: &Whole, rev: i64, sealed: &Sealed) -> Result<bool, DbError> {
    let done = sqlx::query!(
        "UPDATE credentials.mcp_credentials SET encrypted_value = $3, iv = $4, alg = 1, kek_version = $5, wrapped_dek = $6, key_commit = $7, rev = $8
         WHERE id = $1 AND alg = 0 AND encrypted_value = $2",
        whole.row.id,
        whole.row.sealed.value,
        sealed.value,
        sealed.iv,
        sealed.kek_version,
        sealed.wrapped_dek,
        sealed.key_commit,
        rev
    );
    Ok(done.execute(connection).await?.rows_affected() == 1)
}

/// A rotation that nobody works on, though it should be.
pub(crate) async fn running_rotation(connection: &mut PgConnection) -> Result<Option<Uuid>, DbError> {
    let id = sqlx::query_scalar!(
        "SELECT id FROM credentials.key_rotations WHERE state = 'running' AND heartbeat_at < now() - interval '1 minute'"
    );
    Ok(id.fetch_optional(connection).await?)
}
