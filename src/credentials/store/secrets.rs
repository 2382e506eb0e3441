use chrono::{DateTime, Utc};
use platform::database::DbError;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::envelope::Sealed;

/// A sealed secret of the fabric itself, or a secret field of another feature.
pub(crate) struct Secret {
    pub(crate) id: Uuid,
    pub(crate) rev: i64,
    pub(crate) sealed: Sealed,
}

pub(crate) async fn get(connection: &mut PgConnection, owner: &str, scope: &str, name: &str) -> Result<Option<Secret>, DbError> {
    let row = sqlx::query!(
        "SELECT id, encrypted_value, iv, kek_version, wrapped_dek, key_commit, rev FROM credentials.sealed_secrets
         WHERE owner = $1 AND scope = $2 AND name = $3",
        owner,
        scope,
        name
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Secret {
        id: row.id,
        rev: row.rev,
        sealed: Sealed {
            value: row.encrypted_value,
            iv: row.iv,
            kek_version: row.kek_version,
            wrapped_dek: row.wrapped_dek,
            key_commit: row.key_commit,
        },
    }))
}

/// Writes a secret: revision 1 makes it, any other replaces the one before.
pub(crate) async fn put(connection: &mut PgConnection, name: [&str; 3], secret: &Secret) -> Result<bool, DbError> {
    let [owner, scope, name] = name;
    let Sealed { value, iv, kek_version, wrapped_dek, key_commit } = &secret.sealed;
    let done = sqlx::query!(
        "INSERT INTO credentials.sealed_secrets AS s (id, owner, scope, name, encrypted_value, iv, kek_version, wrapped_dek, key_commit, rev)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (owner, scope, name) DO UPDATE
            SET encrypted_value = $5, iv = $6, kek_version = $7, wrapped_dek = $8, key_commit = $9, rev = $10
            WHERE s.id = $1 AND s.rev = $10 - 1",
        secret.id,
        owner,
        scope,
        name,
        value,
        iv,
        kek_version,
        wrapped_dek,
        key_commit,
        secret.rev
    );
    Ok(done.execute(connection).await?.rows_affected() == 1)
}

pub(crate) async fn remove(connection: &mut PgConnection, [owner, scope, name]: [&str; 3]) -> Result<(), DbError> {
    sqlx::query!("DELETE FROM credentials.sealed_secrets WHERE owner = $1 AND scope = $2 AND name = $3", owner, scope, name)
        .execute(connection)
        .await?;
    Ok(())
}

pub(crate) async fn remove_of(connection: &mut PgConnection, owner: &str, scope: &str) -> Result<(), DbError> {
    sqlx::query!("DELETE FROM credentials.sealed_secrets WHERE owner = $1 AND scope = $2", owner, scope).execute(connection).await?;
    Ok(())
}

pub(crate) async fn remove_before(connection: &mut PgConnection, scope: &str, before: DateTime<Utc>) -> Result<(), DbError> {
    sqlx::query!("DELETE FROM credentials.sealed_secrets WHERE scope = $1 AND updated_at < $2", scope, before).execute(connection).await?;
    Ok(())
}
