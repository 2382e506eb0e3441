//! All the SQL of the trail.

pub(crate) mod chain;
pub(crate) mod read;
pub(crate) mod upkeep;

use platform::database::DbError;
use sqlx::{PgConnection, PgPool};

/// Puts an event where it waits to be chained.
pub(crate) async fn put(connection: &mut PgConnection, event: &str, pii: Option<&str>, mac: &[u8]) -> Result<(), sqlx::Error> {
    sqlx::query!("INSERT INTO audit.pending (event, pii, mac) VALUES ($1, $2, $3)", event, pii, mac).execute(connection).await?;
    Ok(())
}

/// The same for many, in one commit.
pub(crate) async fn put_all(pool: &PgPool, events: &[String], pii: &[Option<String>], macs: &[Vec<u8>]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO audit.pending (event, pii, mac) SELECT * FROM UNNEST($1::text[], $2::text[], $3::bytea[])",
        events,
        pii as &[Option<String>],
        macs,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Erases who a person is; gives how many events it was kept for.
pub(crate) async fn erase(pool: &PgPool, subject: &str) -> Result<u64, DbError> {
    Ok(sqlx::query!("DELETE FROM audit.event_pii WHERE subject = $1", subject).execute(pool).await?.rows_affected())
}
