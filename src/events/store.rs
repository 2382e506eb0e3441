use std::sync::OnceLock;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{PgConnection, PgPool};

use crate::model::{Audience, Event, Prepared};

/// An event, as the table has it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) id: i64,
    kind: String,
    channel: String,
    owner: Option<String>,
    server: Option<String>,
    payload: Value,
    created_at: DateTime<Utc>,
}

impl From<&Event> for Row {
    fn from(event: &Event) -> Self {
        Self {
            id: event.id,
            kind: event.kind.clone(),
            channel: event.channel.clone(),
            owner: event.audience.stored().map(str::to_owned),
            server: event.server.clone(),
            payload: event.payload.clone(),
            created_at: event.created_at,
        }
    }
}

impl From<Row> for Event {
    fn from(row: Row) -> Self {
        let Row { id, kind, channel, owner, server, payload, created_at } = row;
        Self { id, kind, channel, audience: Audience::of_stored(owner), server, payload, created_at, text: OnceLock::new() }
    }
}

pub(crate) async fn insert(connection: &mut PgConnection, event: &Prepared) -> sqlx::Result<()> {
    let Prepared { kind, channel, owner, server, payload, at } = event;
    sqlx::query!(
        "SELECT mcp_fabric.publish_event($1, $2, $3, $4, $5, $6)",
        kind,
        channel,
        owner.as_deref(),
        server.as_deref(),
        payload,
        at
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn after(pool: &PgPool, id: i64, limit: i64) -> sqlx::Result<Vec<Event>> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT id, type AS kind, channel, owner, server_id AS server, payload, created_at
         FROM mcp_fabric.events WHERE id > $1 ORDER BY id LIMIT $2",
        id,
        limit,
    );
    Ok(rows.fetch_all(pool).await?.into_iter().map(Event::from).collect())
}

/// Those of some channels after `from` and up to `to`.
pub(crate) async fn between(pool: &PgPool, (from, to): (i64, i64), channels: &[String], limit: i64) -> sqlx::Result<Vec<Event>> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT id, type AS kind, channel, owner, server_id AS server, payload, created_at
         FROM mcp_fabric.events WHERE id > $1 AND id <= $2 AND channel = ANY ($3) ORDER BY id LIMIT $4",
        from,
        to,
        channels,
        limit,
    );
    Ok(rows.fetch_all(pool).await?.into_iter().map(Event::from).collect())
}

/// Whether whoever asks is the one who tells the others: as long as this connection stands.
pub(crate) async fn is_teller(connection: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"SELECT pg_try_advisory_lock(hashtext('mcp_fabric.events.teller')) AS "is_teller!""#).fetch_one(connection).await
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

/// A ticket that was given out.
pub(crate) struct Ticket {
    pub(crate) sealed: Vec<u8>,
    pub(crate) origin: Option<String>,
}

pub(crate) async fn put_ticket(connection: &mut PgConnection, id: &[u8], ticket: &Ticket, expires_at: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query!(
        "INSERT INTO mcp_fabric.event_tickets (id, sealed, origin, expires_at) VALUES ($1, $2, $3, $4)",
        id,
        ticket.sealed,
        ticket.origin,
        expires_at
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes a ticket, which is then gone.
pub(crate) async fn take_ticket(connection: &mut PgConnection, id: &[u8], now: DateTime<Utc>) -> sqlx::Result<Option<Ticket>> {
    let taken = sqlx::query!("DELETE FROM mcp_fabric.event_tickets WHERE id = $1 RETURNING sealed, origin, expires_at", id);
    let taken = taken.fetch_optional(connection).await?;
    Ok(taken.filter(|row| row.expires_at > now).map(|row| Ticket { sealed: row.sealed, origin: row.origin }))
}

pub(crate) async fn drop_tickets(connection: &mut PgConnection, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query!("DELETE FROM mcp_fabric.event_tickets WHERE expires_at <= $1", now).execute(connection).await?;
    Ok(())
}
