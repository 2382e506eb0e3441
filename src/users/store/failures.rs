use chrono::{DateTime, Utc};
use platform::database::DbError;
use sqlx::PgConnection;

/// Whether any of these keys is locked now.
pub(crate) async fn is_locked(connection: &mut PgConnection, keys: &[Vec<u8>], now: DateTime<Utc>) -> Result<bool, DbError> {
    let locked = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM identity.login_failures WHERE key = ANY($1) AND locked_until > $2) AS "locked!""#,
        keys,
        now
    );
    Ok(locked.fetch_one(connection).await?)
}

/// Counts a failure; gives how many there are since the count began, or nothing while the key is locked: guesses that
/// were under way when it was do not prolong that. The count begins anew after `window_start`.
pub(crate) async fn count(
    connection: &mut PgConnection,
    key: &[u8],
    now: DateTime<Utc>,
    window_start: DateTime<Utc>,
) -> Result<Option<i32>, DbError> {
    let row = sqlx::query_scalar!(
        "INSERT INTO identity.login_failures AS f (key, failures, first_at) VALUES ($1, 1, $2)
         ON CONFLICT (key) DO UPDATE SET
            failures = CASE WHEN greatest(f.first_at, coalesce(f.locked_until, f.first_at)) < $3 THEN 1 ELSE f.failures + 1 END,
            first_at = CASE WHEN greatest(f.first_at, coalesce(f.locked_until, f.first_at)) < $3 THEN $2 ELSE f.first_at END
         WHERE f.locked_until IS NULL OR f.locked_until <= $2
         RETURNING failures",
        key,
        now,
        window_start
    );
    Ok(row.fetch_optional(connection).await?)
}

pub(crate) async fn lock(connection: &mut PgConnection, key: &[u8], until: DateTime<Utc>) -> Result<(), DbError> {
    sqlx::query!("UPDATE identity.login_failures SET locked_until = $2 WHERE key = $1", key, until).execute(connection).await?;
    Ok(())
}

pub(crate) async fn clear(connection: &mut PgConnection, key: &[u8]) -> Result<(), DbError> {
    sqlx::query!("DELETE FROM identity.login_failures WHERE key = $1", key).execute(connection).await?;
    Ok(())
}

/// Forgets what is over.
pub(crate) async fn forget(connection: &mut PgConnection, before: DateTime<Utc>) -> Result<(), DbError> {
    sqlx::query!("DELETE FROM identity.login_failures WHERE first_at < $1 AND (locked_until IS NULL OR locked_until < $1)", before)
        .execute(connection)
        .await?;
    Ok(())
}
