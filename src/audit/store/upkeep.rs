use chrono::{DateTime, NaiveDate, Utc};
use platform::database::DbError;
use sqlx::{PgConnection, PgPool};

use super::chain::digest;
use crate::model::EventId;

/// A signed statement about the chain.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    pub(crate) seq: i64,
    pub(crate) at: DateTime<Utc>,
    pub(crate) purged_to: Option<i64>,
    pub(crate) body: String,
    pub(crate) signature: Vec<u8>,
}

pub(crate) async fn add_checkpoint(connection: &mut PgConnection, checkpoint: &Checkpoint) -> Result<(), DbError> {
    sqlx::query!(
        "INSERT INTO audit.checkpoints (seq, at, purged_to, body, signature) VALUES ($1, $2, $3, $4, $5)",
        checkpoint.seq,
        checkpoint.at,
        checkpoint.purged_to,
        checkpoint.body,
        checkpoint.signature
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn last_checkpoint(connection: &mut PgConnection) -> Result<Option<Checkpoint>, DbError> {
    let row = sqlx::query_as!(Checkpoint, "SELECT seq, at, purged_to, body, signature FROM audit.checkpoints ORDER BY n DESC LIMIT 1");
    Ok(row.fetch_optional(connection).await?)
}

pub(crate) async fn checkpoints(connection: &mut PgConnection) -> Result<Vec<Checkpoint>, DbError> {
    let rows = sqlx::query_as!(Checkpoint, "SELECT seq, at, purged_to, body, signature FROM audit.checkpoints ORDER BY n");
    Ok(rows.fetch_all(connection).await?)
}

/// A day partition.
pub(crate) struct Day {
    pub(crate) day: NaiveDate,
    pub(crate) bytes: i64,
}

/// The days there are, oldest first.
pub(crate) async fn days(pool: &PgPool) -> Result<Vec<Day>, DbError> {
    Ok(sqlx::query_as!(Day, r#"SELECT day AS "day!", bytes AS "bytes!" FROM audit.days()"#).fetch_all(pool).await?)
}

/// The last event of a day, and how many there are.
pub(crate) async fn end_of(connection: &mut PgConnection, day: NaiveDate) -> Result<Option<(i64, [u8; 32], i64)>, DbError> {
    let row = sqlx::query!(
        r#"SELECT seq, hash, (SELECT count(*) FROM audit.events WHERE day = $1) AS "count!"
           FROM audit.events WHERE day = $1 ORDER BY seq DESC LIMIT 1"#,
        day
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| Ok((row.seq, digest(&row.hash, "hash")?, row.count))).transpose()
}

pub(crate) async fn drop_day(connection: &mut PgConnection, day: NaiveDate) -> Result<bool, DbError> {
    Ok(sqlx::query_scalar!(r#"SELECT audit.drop_day($1) AS "dropped!""#, day).fetch_one(connection).await?)
}

/// Takes the lock of the cleaner until the transaction ends; `false` while another one has it.
pub(crate) async fn lock_upkeep(connection: &mut PgConnection) -> Result<bool, DbError> {
    let taken = sqlx::query_scalar!(r#"SELECT pg_try_advisory_xact_lock(hashtext('audit.upkeep')) AS "taken!""#);
    Ok(taken.fetch_one(connection).await?)
}

/// Waits for no lock longer than a second, until the transaction ends.
pub(crate) async fn limit_waiting(connection: &mut PgConnection) -> Result<(), DbError> {
    sqlx::query!("SET LOCAL lock_timeout = '1s'").execute(connection).await?;
    Ok(())
}

/// What the database's own clock says.
pub(crate) async fn database_time(connection: &mut PgConnection) -> Result<DateTime<Utc>, DbError> {
    Ok(sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#).fetch_one(connection).await?)
}

/// Intents of the last day that nothing has answered since `before`, with whose they are and what they are about.
pub(crate) async fn unanswered(
    connection: &mut PgConnection,
    before: DateTime<Utc>,
) -> Result<Vec<(EventId, String, String, Option<String>)>, DbError> {
    let rows = sqlx::query!(
        "SELECT id, owner, action, server_id FROM audit.events e
         WHERE outcome = 'intent' AND at < $1 AND at > $1 - interval '1 day'
           AND NOT EXISTS (SELECT FROM audit.events a WHERE a.answers = e.id)
         ORDER BY seq LIMIT 1000",
        before
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (EventId(row.id), row.owner, row.action, row.server_id)).collect())
}

pub(crate) async fn copied_to(pool: &PgPool, name: &str) -> Result<i64, DbError> {
    Ok(sqlx::query_scalar!("SELECT seq FROM audit.copies WHERE name = $1", name).fetch_optional(pool).await?.unwrap_or(0))
}

pub(crate) async fn set_copied(pool: &PgPool, name: &str, seq: i64) -> Result<(), DbError> {
    sqlx::query!("INSERT INTO audit.copies (name, seq) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET seq = $2", name, seq)
        .execute(pool)
        .await?;
    Ok(())
}
