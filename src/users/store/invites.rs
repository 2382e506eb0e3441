use chrono::{DateTime, Utc};
use platform::{Role, database::DbError};
use sqlx::PgConnection;
use uuid::Uuid;

use super::users;
use crate::{email::Email, model::Invite};

pub(crate) async fn create(
    connection: &mut PgConnection,
    hash: &[u8; 32],
    email: Option<&Email>,
    role: Role,
    created_by: &str,
    expires_at: DateTime<Utc>,
) -> Result<Invite, DbError> {
    let row = sqlx::query!(
        "INSERT INTO identity.invites (id, email, role, hash, created_by, expires_at) VALUES ($1, $2, $3, $4, $5, $6) RETURNING id, created_at",
        platform::ids::fresh(),
        email.map(Email::as_str),
        role.as_str(),
        hash,
        created_by,
        expires_at
    )
    .fetch_one(connection)
    .await?;
    let email = email.map(|email| email.as_str().to_owned());
    Ok(Invite { id: row.id, email, role, created_by: created_by.to_owned(), created_at: row.created_at, expires_at, used_at: None })
}

/// Uses an invitation up; gives the role that it is for.
pub(crate) async fn take(
    connection: &mut PgConnection,
    hash: &[u8; 32],
    email: &Email,
    now: DateTime<Utc>,
) -> Result<Option<Role>, DbError> {
    let row = sqlx::query!(
        "UPDATE identity.invites SET used_at = $3 WHERE hash = $1 AND used_at IS NULL AND expires_at > $3 AND (email IS NULL OR email = $2)
         RETURNING id, role",
        hash,
        email.as_str(),
        now
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| users::role(&row.role, row.id)).transpose()
}

pub(crate) async fn list(connection: &mut PgConnection, after: Option<Uuid>, limit: i64) -> Result<Vec<Invite>, DbError> {
    let rows = sqlx::query!(
        "SELECT id, email, role, created_by, created_at, expires_at, used_at FROM identity.invites
         WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT $2",
        after,
        limit
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Invite {
                id: row.id,
                email: row.email,
                role: users::role(&row.role, row.id)?,
                created_by: row.created_by,
                created_at: row.created_at,
                expires_at: row.expires_at,
                used_at: row.used_at,
            })
        })
        .collect()
}

/// Forgets who was invited with this address.
pub(crate) async fn erase(connection: &mut PgConnection, email: &str) -> Result<(), DbError> {
    sqlx::query!("DELETE FROM identity.invites WHERE email = $1", email).execute(connection).await?;
    Ok(())
}

/// Forgets invitations that ended before.
pub(crate) async fn forget(connection: &mut PgConnection, before: DateTime<Utc>) -> Result<(), DbError> {
    sqlx::query!("DELETE FROM identity.invites WHERE expires_at < $1", before).execute(connection).await?;
    Ok(())
}

pub(crate) async fn delete(connection: &mut PgConnection, id: Uuid) -> Result<bool, DbError> {
    Ok(sqlx::query!("DELETE FROM identity.invites WHERE id = $1", id).execute(connection).await?.rows_affected() == 1)
}
