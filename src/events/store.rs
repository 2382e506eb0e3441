use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use crate::model::{Event, NewEvent};

/// The lock makes ids grow in commit order, so that no reader skips one that commits late. It is held
/// from here to the end of the transaction, which is why events are published last.
pub(crate) async fn insert(connection: &mut PgConnection, event: &NewEvent, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('mcp_fabric.events'))").execute(&mut *connection).await?;
    sqlx::query!(
        "INSERT INTO mcp_fabric.events (type, channel, owner, payload, created_at) VALUES ($1, $2, $3, $4, $5)",
        event.kind,
        event.channel,
        event.owner,
        event.payload,
        now,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!("SELECT pg_notify('fabric_events', '')").execute(connection).await?;
    Ok(())
}

pub(crate) async fn after(pool: &PgPool, id: i64, limit: i64) -> sqlx::Result<Vec<Event>> {
    sqlx::query_as!(
        Event,
        "SELECT id, type AS kind, channel, owner, payload, created_at FROM mcp_fabric.events WHERE id > $1 ORDER BY id LIMIT $2",
        id,
        limit,
    )
    .fetch_all(pool)
    .await
}

/// The ids of the oldest and the newest event that are kept.
pub(crate) async fn bounds(pool: &PgPool) -> sqlx::Result<Option<(i64, i64)>> {
    let row = sqlx::query!("SELECT min(id) AS oldest, max(id) AS newest FROM mcp_fabric.events").fetch_one(pool).await?;
    Ok(row.oldest.zip(row.newest))
}

/// Keeps the newest `keep` events.
pub(crate) async fn prune(pool: &PgPool, keep: i64) -> sqlx::Result<u64> {
    let pruned = sqlx::query!("DELETE FROM mcp_fabric.events WHERE id <= (SELECT max(id) FROM mcp_fabric.events) - $1", keep);
    Ok(pruned.execute(pool).await?.rows_affected())
}
