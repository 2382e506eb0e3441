use chrono::{DateTime, TimeDelta, Utc};
use platform::{Role, database::DbError};
use sqlx::PgConnection;

use super::users;
use crate::model::{SessionId, UserId};

pub(crate) async fn create(
    connection: &mut PgConnection,
    id: SessionId,
    user: UserId,
    refresh: &[u8; 32],
    expires_at: DateTime<Utc>,
) -> Result<(), DbError> {
    sqlx::query!("INSERT INTO identity.sessions (id, user_id, expires_at) VALUES ($1, $2, $3)", id.0, user.0, expires_at)
        .execute(&mut *connection)
        .await?;
    add_refresh(connection, id, refresh).await
}

/// Adds a refresh token; one that is there already is the same successor once more.
pub(crate) async fn add_refresh(connection: &mut PgConnection, session: SessionId, hash: &[u8; 32]) -> Result<(), DbError> {
    sqlx::query!("INSERT INTO identity.refresh_tokens (hash, session_id) VALUES ($1, $2) ON CONFLICT DO NOTHING", hash, session.0)
        .execute(connection)
        .await?;
    Ok(())
}

/// A session that is open, with whose it is.
pub(crate) struct Open {
    pub(crate) session: SessionId,
    pub(crate) user: UserId,
    pub(crate) role: Role,
}

/// The session, if it and its account are open.
pub(crate) async fn open(connection: &mut PgConnection, id: SessionId, now: DateTime<Utc>) -> Result<Option<Open>, DbError> {
    let row = sqlx::query!(
        "SELECT u.id, u.role FROM identity.sessions s JOIN identity.users u ON u.id = s.user_id
         WHERE s.id = $1 AND s.revoked_at IS NULL AND s.expires_at > $2 AND u.disabled_at IS NULL",
        id.0,
        now
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| Ok(Open { session: id, user: UserId(row.id), role: users::role(&row.role, row.id)? })).transpose()
}

/// Uses a refresh token up; gives its session. Exactly one of many that try gets it.
pub(crate) async fn use_refresh(connection: &mut PgConnection, hash: &[u8; 32], now: DateTime<Utc>) -> Result<Option<SessionId>, DbError> {
    let row = sqlx::query_scalar!(
        "UPDATE identity.refresh_tokens SET used_at = $2 WHERE hash = $1 AND used_at IS NULL RETURNING session_id",
        hash,
        now
    );
    Ok(row.fetch_optional(connection).await?.map(SessionId))
}

/// A refresh token that was used before.
pub(crate) struct Used {
    pub(crate) session: SessionId,
    pub(crate) user: UserId,
    pub(crate) at: DateTime<Utc>,
    /// Whether the token that it was exchanged for has been used, too.
    pub(crate) with_successor: bool,
}

pub(crate) async fn used_refresh(connection: &mut PgConnection, hash: &[u8; 32], successor: &[u8; 32]) -> Result<Option<Used>, DbError> {
    let row = sqlx::query!(
        r#"SELECT r.session_id, s.user_id, r.used_at AS "used_at!", n.used_at IS NOT NULL AS "successor_used!"
           FROM identity.refresh_tokens r JOIN identity.sessions s ON s.id = r.session_id
           LEFT JOIN identity.refresh_tokens n ON n.hash = $2
           WHERE r.hash = $1 AND r.used_at IS NOT NULL"#,
        hash,
        successor
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Used {
        session: SessionId(row.session_id),
        user: UserId(row.user_id),
        at: row.used_at,
        with_successor: row.successor_used,
    }))
}

/// Moves the end of a session that is in use.
pub(crate) async fn prolong(connection: &mut PgConnection, id: SessionId, expires_at: DateTime<Utc>) -> Result<(), DbError> {
    sqlx::query!("UPDATE identity.sessions SET expires_at = $2 WHERE id = $1", id.0, expires_at).execute(connection).await?;
    Ok(())
}

pub(crate) async fn revoke(connection: &mut PgConnection, id: SessionId) -> Result<bool, DbError> {
    let done = sqlx::query!("UPDATE identity.sessions SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL", id.0);
    Ok(done.execute(connection).await?.rows_affected() == 1)
}

/// Ends every login of an account.
pub(crate) async fn revoke_all(connection: &mut PgConnection, user: UserId) -> Result<u64, DbError> {
    let done = sqlx::query!("UPDATE identity.sessions SET revoked_at = now() WHERE user_id = $1 AND revoked_at IS NULL", user.0);
    Ok(done.execute(connection).await?.rows_affected())
}

/// Forgets sessions that ended a while ago, with their refresh tokens.
pub(crate) async fn forget(connection: &mut PgConnection, before: DateTime<Utc>) -> Result<u64, DbError> {
    let day = before - TimeDelta::days(1);
    let done = sqlx::query!("DELETE FROM identity.sessions WHERE expires_at < $1 OR revoked_at < $1", day).execute(connection).await?;
    Ok(done.rows_affected())
}
