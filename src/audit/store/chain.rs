use chrono::{DateTime, NaiveDate, Utc};
use platform::database::DbError;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::model::{Link, Personal};

/// The end of the chain.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) seq: i64,
    pub(crate) day: NaiveDate,
    pub(crate) hash: [u8; 32],
    pub(crate) mac: Option<Vec<u8>>,
}

/// An event that waits to be chained.
pub(crate) struct Waiting {
    pub(crate) n: i64,
    pub(crate) event: String,
    pub(crate) pii: Option<String>,
    pub(crate) mac: Vec<u8>,
}

pub(crate) fn digest(bytes: &[u8], column: &'static str) -> Result<[u8; 32], DbError> {
    bytes.try_into().map_err(|_| DbError::Inconsistent { table: "audit", column, row: "?".into() })
}

/// Whether anything waits.
pub(crate) async fn is_waiting(pool: &PgPool) -> Result<bool, DbError> {
    Ok(sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM audit.pending) AS "waits!""#).fetch_one(pool).await?)
}

/// How many events wait for longer than ten seconds, and since when the first does.
pub(crate) async fn overdue(connection: &mut PgConnection) -> Result<i64, DbError> {
    let count =
        sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM audit.pending WHERE at < clock_timestamp() - interval '10 seconds'"#);
    Ok(count.fetch_one(connection).await?)
}

/// The first event that there is.
pub(crate) async fn first(connection: &mut PgConnection) -> Result<Option<i64>, DbError> {
    Ok(sqlx::query_scalar!("SELECT seq FROM audit.events ORDER BY seq LIMIT 1").fetch_optional(connection).await?)
}

/// The end of the chain, locked; `None` while another writer has it.
pub(crate) async fn lock_head(connection: &mut PgConnection) -> Result<Option<Head>, DbError> {
    let row = sqlx::query!("SELECT seq, day, hash, mac FROM audit.head FOR UPDATE SKIP LOCKED").fetch_optional(connection).await?;
    row.map(|row| Ok(Head { seq: row.seq, day: row.day, hash: digest(&row.hash, "hash")?, mac: row.mac })).transpose()
}

/// The same, once another writer is done.
pub(crate) async fn wait_for_head(connection: &mut PgConnection, limit: &str) -> Result<Head, DbError> {
    sqlx::query!("SELECT set_config('lock_timeout', $1, true)", limit).fetch_one(&mut *connection).await?;
    let row = sqlx::query!("SELECT seq, day, hash, mac FROM audit.head FOR UPDATE").fetch_one(connection).await?;
    Ok(Head { seq: row.seq, day: row.day, hash: digest(&row.hash, "hash")?, mac: row.mac })
}

/// The end of the chain, as it is.
pub(crate) async fn head(connection: &mut PgConnection) -> Result<Head, DbError> {
    let row = sqlx::query!("SELECT seq, day, hash, mac FROM audit.head").fetch_one(connection).await?;
    Ok(Head { seq: row.seq, day: row.day, hash: digest(&row.hash, "hash")?, mac: row.mac })
}

pub(crate) async fn set_head(connection: &mut PgConnection, head: &Head) -> Result<(), DbError> {
    sqlx::query!("UPDATE audit.head SET seq = $1, day = $2, hash = $3, mac = $4", head.seq, head.day, &head.hash, head.mac)
        .execute(connection)
        .await?;
    Ok(())
}

/// Takes what waits, oldest first.
pub(crate) async fn take(connection: &mut PgConnection, limit: i64) -> Result<Vec<Waiting>, DbError> {
    let mut rows = sqlx::query_as!(
        Waiting,
        "DELETE FROM audit.pending WHERE n IN (SELECT n FROM audit.pending ORDER BY n LIMIT $1) RETURNING n, event, pii, mac",
        limit
    )
    .fetch_all(connection)
    .await?;
    rows.sort_unstable_by_key(|row| row.n);
    Ok(rows)
}

pub(crate) async fn ensure_day(connection: &mut PgConnection, day: NaiveDate) -> Result<(), DbError> {
    sqlx::query!("SELECT audit.ensure_day($1)", day).execute(connection).await?;
    Ok(())
}

/// Appends to the chain.
pub(crate) async fn append(connection: &mut PgConnection, day: NaiveDate, links: &[Link]) -> Result<(), DbError> {
    let texts = |member: fn(&Link) -> &str| links.iter().map(|link| member(link).to_owned()).collect::<Vec<String>>();
    let maybe =
        |member: fn(&Link) -> Option<&str>| links.iter().map(|link| member(link).map(str::to_owned)).collect::<Vec<Option<String>>>();
    let seqs: Vec<i64> = links.iter().map(|link| link.seq).collect();
    let ids: Vec<Uuid> = links.iter().map(|link| link.body.id.0).collect();
    let times: Vec<DateTime<Utc>> = links.iter().map(|link| link.body.at).collect();
    let answers: Vec<Option<Uuid>> = links.iter().map(|link| link.body.answers.map(|id| id.0)).collect();
    let commitments: Vec<Option<Vec<u8>>> = links.iter().map(|link| link.body.pii_commitment.map(Into::into)).collect();
    let authentic: Vec<bool> = links.iter().map(|link| link.authentic).collect();
    let prevs: Vec<Vec<u8>> = links.iter().map(|link| link.prev.to_vec()).collect();
    let hashes: Vec<Vec<u8>> = links.iter().map(|link| link.hash.to_vec()).collect();
    sqlx::query!(
        "INSERT INTO audit.events (day, seq, id, at, event_type, action, outcome, actor, owner, door, request_id, target_type, target_id,
                                   server_id, answers, detail, pii_commitment, authentic, prev, hash)
         SELECT $1, seq, id, at, event_type, action, outcome, actor, owner, door, request_id, target_type, target_id,
                server_id, answers, detail::json, commitment, authentic, prev, hash
         FROM UNNEST($2::bigint[], $3::uuid[], $4::timestamptz[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[],
                     $11::text[], $12::text[], $13::text[], $14::text[], $15::uuid[], $16::text[], $17::bytea[], $18::bool[], $19::bytea[],
                     $20::bytea[])
              AS t(seq, id, at, event_type, action, outcome, actor, owner, door, request_id, target_type, target_id, server_id, answers,
                   detail, commitment, authentic, prev, hash)",
        day,
        &seqs,
        &ids,
        &times,
        &texts(|link| link.body.event_type.as_str()),
        &texts(|link| &link.body.action),
        &texts(|link| link.body.outcome.as_str()),
        &texts(|link| &link.body.actor),
        &texts(|link| &link.body.owner),
        &texts(|link| &link.body.door),
        &maybe(|link| link.body.request_id.as_deref()) as &[Option<String>],
        &maybe(|link| link.body.target_type.as_deref()) as &[Option<String>],
        &maybe(|link| link.body.target_id.as_deref()) as &[Option<String>],
        &maybe(|link| link.body.server_id.as_deref()) as &[Option<String>],
        &answers as &[Option<Uuid>],
        &texts(|link| &link.body.detail),
        &commitments as &[Option<Vec<u8>>],
        &authentic,
        &prevs,
        &hashes,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Keeps what is personal beside the chain.
pub(crate) async fn append_personal(connection: &mut PgConnection, day: NaiveDate, rows: &[(Uuid, Personal)]) -> Result<(), DbError> {
    if rows.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = rows.iter().map(|(id, _)| *id).collect();
    let subjects: Vec<Option<String>> = rows.iter().map(|(_, personal)| personal.subject.clone()).collect();
    let salts: Vec<Vec<u8>> = rows.iter().map(|(_, personal)| personal.salt.to_vec()).collect();
    let contents: Vec<String> = rows.iter().map(|(_, personal)| personal.content.clone()).collect();
    sqlx::query!(
        "INSERT INTO audit.event_pii (day, event_id, subject, salt, content)
         SELECT $1, id, subject, salt, content::json FROM UNNEST($2::uuid[], $3::text[], $4::bytea[], $5::text[]) AS t(id, subject, salt, content)",
        day,
        &ids,
        &subjects as &[Option<String>],
        &salts,
        &contents,
    )
    .execute(connection)
    .await?;
    Ok(())
}
