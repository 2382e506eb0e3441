use chrono::{DateTime, Utc};
use platform::database::DbError;
use serde_json::Value;
use sqlx::{FromRow, PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use super::chain::digest;
use crate::{
    model::{Body, Event, EventId, Link, Personal},
    service::Filter,
};

#[derive(FromRow)]
pub(crate) struct Row {
    seq: i64,
    id: Uuid,
    at: DateTime<Utc>,
    event_type: String,
    action: String,
    outcome: String,
    actor: String,
    owner: String,
    door: String,
    request_id: Option<String>,
    target_type: Option<String>,
    target_id: Option<String>,
    server_id: Option<String>,
    answers: Option<Uuid>,
    detail: String,
    pii_commitment: Option<Vec<u8>>,
    authentic: bool,
    prev: Vec<u8>,
    hash: Vec<u8>,
    subject: Option<String>,
    salt: Option<Vec<u8>>,
    content: Option<String>,
}

const COLUMNS: &str = "e.seq, e.id, e.at, e.event_type, e.action, e.outcome, e.actor, e.owner, e.door, e.request_id, e.target_type,
    e.target_id, e.server_id, e.answers, e.detail::text AS detail, e.pii_commitment, e.authentic, e.prev, e.hash, p.subject, p.salt,
    p.content::text AS content";

/// One event with its place in the chain and what is personal about it.
pub(crate) type Chained = (Link, Option<Personal>);

impl Row {
    pub(crate) fn into_chained(self) -> Result<Chained, DbError> {
        let row = self.id.to_string();
        let bad = |column| DbError::Inconsistent { table: "audit.events", column, row: row.clone() };
        let personal = match (self.salt, self.content) {
            (Some(salt), Some(content)) => {
                Some(Personal { subject: self.subject, salt: salt.try_into().map_err(|_| bad("salt"))?, content })
            }
            _ => None,
        };
        let body = Body {
            id: EventId(self.id),
            at: self.at,
            event_type: self.event_type.parse().map_err(|_| bad("event_type"))?,
            action: self.action,
            outcome: self.outcome.parse().map_err(|_| bad("outcome"))?,
            actor: self.actor,
            owner: self.owner,
            door: self.door,
            request_id: self.request_id,
            target_type: self.target_type,
            target_id: self.target_id,
            server_id: self.server_id,
            answers: self.answers.map(EventId),
            detail: self.detail,
            pii_commitment: self.pii_commitment.map(|bytes| digest(&bytes, "pii_commitment")).transpose()?,
        };
        let (prev, hash) = (digest(&self.prev, "prev")?, digest(&self.hash, "hash")?);
        Ok((Link { seq: self.seq, body, authentic: self.authentic, prev, hash }, personal))
    }
}

/// As people see it.
pub(crate) fn shown((link, personal): Chained) -> Event {
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    let body = link.body;
    Event {
        seq: link.seq,
        id: body.id,
        timestamp: body.at,
        event_type: body.event_type,
        action: body.action,
        outcome: body.outcome,
        actor: body.actor,
        owner: body.owner,
        source: body.door,
        request_id: body.request_id,
        target_type: body.target_type,
        target_id: body.target_id,
        server_id: body.server_id,
        answers: body.answers,
        detail: json(&body.detail),
        personal: personal.map(|personal| json(&personal.content)),
    }
}

/// Newest first, before `before`.
pub(crate) async fn list(connection: &mut PgConnection, filter: &Filter, before: Option<i64>, limit: i64) -> Result<Vec<Chained>, DbError> {
    let mut query = select(filter);
    if let Some(before) = before {
        query.push(" AND e.seq < ").push_bind(before);
    }
    query.push(" ORDER BY e.seq DESC LIMIT ").push_bind(limit);
    run(connection, query).await
}

/// Oldest first, after `after`.
pub(crate) async fn follow(connection: &mut PgConnection, filter: &Filter, after: i64, limit: i64) -> Result<Vec<Chained>, DbError> {
    let mut query = select(filter);
    query.push(" AND e.seq > ").push_bind(after).push(" ORDER BY e.seq LIMIT ").push_bind(limit);
    run(connection, query).await
}

/// Oldest first, of several actions.
pub(crate) async fn history(connection: &mut PgConnection, actions: &[&str], after: i64, limit: i64) -> Result<Vec<Chained>, DbError> {
    let mut query = select(&Filter::default());
    let actions: Vec<String> = actions.iter().map(|action| (*action).to_owned()).collect();
    query.push(" AND e.action = ANY (").push_bind(actions).push(") AND e.seq > ").push_bind(after);
    query.push(" ORDER BY e.seq LIMIT ").push_bind(limit);
    run(connection, query).await
}

async fn run(connection: &mut PgConnection, mut query: QueryBuilder<Postgres>) -> Result<Vec<Chained>, DbError> {
    let rows: Vec<Row> = query.build_query_as().fetch_all(connection).await?;
    rows.into_iter().map(Row::into_chained).collect()
}

fn select(filter: &Filter) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new(format!(
        "SELECT {COLUMNS} FROM audit.events e LEFT JOIN audit.event_pii p ON p.event_id = e.id AND p.day = e.day WHERE true"
    ));
    for (column, value) in [
        ("e.owner", filter.owner.as_deref()),
        ("e.actor", filter.actor.as_deref()),
        ("e.action", filter.action.as_deref()),
        ("e.server_id", filter.server_id.as_deref()),
        ("e.target_id", filter.target_id.as_deref()),
        ("e.event_type", filter.event_type.map(crate::EventType::as_str)),
        ("e.outcome", filter.outcome.map(crate::Outcome::as_str)),
    ] {
        if let Some(value) = value {
            query.push(format!(" AND {column} = ")).push_bind(value.to_owned());
        }
    }
    // An event is chained within seconds, and its partition is that of the day when it was.
    if let Some(from) = filter.from {
        query.push(" AND e.at >= ").push_bind(from).push(" AND e.day >= ").push_bind(from.date_naive());
    }
    if let Some(to) = filter.to {
        query.push(" AND e.at < ").push_bind(to);
    }
    query
}
