use chrono::{DateTime, Utc};
use jobs::JobId;
use platform::database::DbError;
use serde_json::Value;
use sqlx::PgConnection;
use users::Asker;
use uuid::Uuid;

use crate::{
    model::{Before, BulkId, BulkOperation, Counts, Direction, Item, ItemStatus, Status},
    plan::Planned,
};

struct Row {
    id: Uuid,
    owner: String,
    token: Option<Uuid>,
    operation: String,
    direction: String,
    atomic: bool,
    status: String,
    job_id: Option<Uuid>,
    generation: i32,
    created_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    total: i64,
    pending: i64,
    running: i64,
    done: i64,
    unchanged: i64,
    failed: i64,
    cancelled: i64,
    rolled_back: i64,
    kept: i64,
}

impl TryFrom<Row> for BulkOperation {
    type Error = DbError;

    fn try_from(row: Row) -> Result<Self, DbError> {
        let wrong = |column| DbError::Inconsistent { table: "bulk_operations", column, row: row.id.to_string() };
        let Row { total, pending, running, done, unchanged, failed, cancelled, rolled_back, kept, .. } = row;
        Ok(Self {
            id: BulkId(row.id),
            operation: row.operation.parse().map_err(|_| wrong("operation"))?,
            direction: row.direction.parse().map_err(|_| wrong("direction"))?,
            atomic: row.atomic,
            status: row.status.parse().map_err(|_| wrong("status"))?,
            job: row.job_id.map(JobId),
            generation: row.generation,
            created_at: row.created_at,
            finished_at: row.finished_at,
            counts: Counts { total, pending, running, done, unchanged, failed, cancelled, rolled_back, kept },
            asker: Asker { owner: row.owner, token: row.token },
        })
    }
}

struct ItemRow {
    bulk_id: Uuid,
    n: i32,
    server_id: String,
    wanted: Option<Value>,
    status: String,
    before: Option<Value>,
    error_code: Option<String>,
    error: Option<String>,
    result: Option<Value>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
}

impl TryFrom<ItemRow> for Item {
    type Error = DbError;

    fn try_from(row: ItemRow) -> Result<Self, DbError> {
        let wrong = |column| DbError::Inconsistent { table: "bulk_items", column, row: format!("{}/{}", row.bulk_id, row.n) };
        Ok(Self {
            n: row.n,
            status: row.status.parse().map_err(|_| wrong("status"))?,
            wanted: row.wanted.map(serde_json::from_value).transpose().map_err(|_| wrong("wanted"))?,
            before: row.before.map(serde_json::from_value).transpose().map_err(|_| wrong("before"))?,
            error: row.error_code.zip(row.error),
            result: row.result,
            started_at: row.started_at,
            finished_at: row.finished_at,
            server_id: row.server_id,
        })
    }
}

/// Writes an operation with its servers, which are all to be done.
pub(crate) async fn create(connection: &mut PgConnection, new: &BulkOperation, servers: &[Planned]) -> Result<(), DbError> {
    let (ids, wanted): (Vec<String>, Vec<Option<Value>>) = servers
        .iter()
        .map(|planned| (planned.server_id.clone(), planned.wanted.as_ref().and_then(|wanted| serde_json::to_value(wanted).ok())))
        .unzip();
    sqlx::query!(
        "INSERT INTO mcp_fabric.bulk_operations (id, owner, token, operation, atomic, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
        new.id.0,
        new.asker.owner,
        new.asker.token,
        new.operation.as_str(),
        new.atomic,
        new.created_at
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "INSERT INTO mcp_fabric.bulk_items (bulk_id, n, owner, server_id, wanted)
         SELECT $1, n::int, $2, server_id, wanted FROM unnest($3::text[], $4::jsonb[]) WITH ORDINALITY AS given (server_id, wanted, n)",
        new.id.0,
        new.asker.owner,
        &ids,
        &wanted as &[Option<Value>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Those of an owner before an id, newest first; or one. With `servers`, only what is about these and no others.
pub(crate) async fn list(
    connection: &mut PgConnection,
    owner: &str,
    servers: Option<&[String]>,
    (only, before): (Option<BulkId>, Option<BulkId>),
    limit: i64,
) -> Result<Vec<BulkOperation>, DbError> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT o.id, o.owner, o.token, o.operation, o.direction, o.atomic, o.status, o.job_id, o.generation, o.created_at, o.finished_at,
                  c.total AS "total!", c.pending AS "pending!", c.running AS "running!", c.done AS "done!", c.unchanged AS "unchanged!",
                  c.failed AS "failed!", c.cancelled AS "cancelled!", c.rolled_back AS "rolled_back!", c.kept AS "kept!"
           FROM mcp_fabric.bulk_operations o, LATERAL (
               SELECT count(*) AS total, count(*) FILTER (WHERE i.status = 'pending') AS pending, count(*) FILTER (WHERE i.status = 'running') AS running,
                      count(*) FILTER (WHERE i.status = 'done') AS done, count(*) FILTER (WHERE i.status = 'unchanged') AS unchanged,
                      count(*) FILTER (WHERE i.status = 'failed') AS failed, count(*) FILTER (WHERE i.status = 'cancelled') AS cancelled,
                      count(*) FILTER (WHERE i.status = 'rolled_back') AS rolled_back, count(*) FILTER (WHERE i.status = 'kept') AS kept
               FROM mcp_fabric.bulk_items i WHERE i.bulk_id = o.id) c
           WHERE o.owner = $1 AND ($2::uuid IS NULL OR o.id = $2) AND ($3::uuid IS NULL OR o.id < $3)
             AND ($5::text[] IS NULL OR NOT EXISTS (SELECT FROM mcp_fabric.bulk_items i WHERE i.bulk_id = o.id AND i.server_id <> ALL ($5)))
           ORDER BY o.id DESC LIMIT $4"#,
        owner,
        only.map(|id| id.0),
        before.map(|id| id.0),
        limit,
        servers
    );
    rows.fetch_all(connection).await?.into_iter().map(BulkOperation::try_from).collect()
}

/// One, whosever it is, held until the transaction ends.
pub(crate) async fn hold(connection: &mut PgConnection, id: BulkId) -> Result<Option<BulkOperation>, DbError> {
    let owner = sqlx::query_scalar!("SELECT owner FROM mcp_fabric.bulk_operations WHERE id = $1 FOR UPDATE", id.0);
    let Some(owner) = owner.fetch_optional(&mut *connection).await? else { return Ok(None) };
    Ok(list(connection, &owner, None, (Some(id), None), 1).await?.pop())
}

/// How many of an owner have not ended. Those that are asked for at once take turns here.
pub(crate) async fn unfinished(connection: &mut PgConnection, owner: &str) -> Result<i64, DbError> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('mcp_fabric.bulk:' || $1, 0))", owner).execute(&mut *connection).await?;
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM mcp_fabric.bulk_operations WHERE owner = $1 AND status IN ('pending', 'running')"#,
        owner
    );
    Ok(count.fetch_one(connection).await?)
}

/// The items of an operation, in order.
pub(crate) async fn items(connection: &mut PgConnection, id: BulkId) -> Result<Vec<Item>, DbError> {
    let rows = sqlx::query_as!(
        ItemRow,
        "SELECT bulk_id, n, server_id, wanted, status, before, error_code, error, result, started_at, finished_at
         FROM mcp_fabric.bulk_items WHERE bulk_id = $1 ORDER BY n",
        id.0
    );
    rows.fetch_all(connection).await?.into_iter().map(Item::try_from).collect()
}

/// Where an operation stands, and which way it goes.
pub(crate) async fn set(
    connection: &mut PgConnection,
    id: BulkId,
    status: Status,
    direction: Direction,
    finished_at: Option<DateTime<Utc>>,
) -> Result<(), DbError> {
    sqlx::query!(
        "UPDATE mcp_fabric.bulk_operations SET status = $2, direction = $3, finished_at = $4 WHERE id = $1",
        id.0,
        status.as_str(),
        direction.as_str(),
        finished_at
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Gives an operation to a job, and to whoever asks now.
pub(crate) async fn give(connection: &mut PgConnection, operation: &BulkOperation) -> Result<(), DbError> {
    sqlx::query!(
        "UPDATE mcp_fabric.bulk_operations SET status = 'pending', direction = $2, job_id = $3, generation = $4, token = $5, finished_at = NULL
         WHERE id = $1",
        operation.id.0,
        operation.direction.as_str(),
        operation.job.map(|job| job.0),
        operation.generation,
        operation.asker.token
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets what an owner's operations came to that ended before a moment.
pub(crate) async fn prune(connection: &mut PgConnection, owner: &str, before: DateTime<Utc>) -> Result<(), DbError> {
    sqlx::query!("DELETE FROM mcp_fabric.bulk_operations WHERE owner = $1 AND finished_at < $2", owner, before).execute(connection).await?;
    Ok(())
}

/// Says that something is about to be done; what there was before is kept from the first time. False when the worker does
/// not have the job any more.
pub(crate) async fn begin_item(
    connection: &mut PgConnection,
    (job, token): (Uuid, Uuid),
    (id, n): (BulkId, i32),
    before: &Before,
    now: DateTime<Utc>,
) -> Result<bool, DbError> {
    let before = serde_json::to_value(before).unwrap_or_default();
    let begun = sqlx::query!(
        "UPDATE mcp_fabric.bulk_items SET status = 'running', before = $3, started_at = coalesce(started_at, $4),
                error_code = NULL, error = NULL
         WHERE bulk_id = $1 AND n = $2 AND mcp_fabric.holds_job($5, $6)",
        id.0,
        n,
        before,
        now,
        job,
        token
    );
    Ok(begun.execute(connection).await?.rows_affected() == 1)
}

/// What came of an item.
pub(crate) struct Came {
    pub(crate) status: ItemStatus,
    pub(crate) error: Option<(String, String)>,
    pub(crate) result: Option<Value>,
}

/// Says what came of an item; false when the worker does not have the job any more.
pub(crate) async fn end_item(
    connection: &mut PgConnection,
    (job, token): (Uuid, Uuid),
    (id, n): (BulkId, i32),
    came: &Came,
    now: DateTime<Utc>,
) -> Result<bool, DbError> {
    let ended = sqlx::query!(
        "UPDATE mcp_fabric.bulk_items SET status = $3, error_code = $4, error = $5, result = coalesce($6, result), finished_at = $7
         WHERE bulk_id = $1 AND n = $2 AND mcp_fabric.holds_job($8, $9)",
        id.0,
        n,
        came.status.as_str(),
        came.error.as_ref().map(|(code, _)| code.as_str()),
        came.error.as_ref().map(|(_, message)| message.as_str()),
        came.result,
        now,
        job,
        token
    );
    Ok(ended.execute(connection).await?.rows_affected() == 1)
}

/// Turns every item that stands in one of `from` into another one; gives how many there were.
pub(crate) async fn turn_items(
    connection: &mut PgConnection,
    id: BulkId,
    from: &[ItemStatus],
    to: ItemStatus,
    error: Option<(&str, &str)>,
) -> Result<u64, DbError> {
    let from: Vec<String> = from.iter().map(|status| status.as_str().to_owned()).collect();
    let turned = sqlx::query!(
        "UPDATE mcp_fabric.bulk_items SET status = $3, error_code = $4, error = $5, finished_at = NULL WHERE bulk_id = $1 AND status = ANY ($2)",
        id.0,
        &from,
        to.as_str(),
        error.map(|(code, _)| code),
        error.map(|(_, message)| message)
    );
    Ok(turned.execute(connection).await?.rows_affected())
}

/// Removes all of an owner.
pub(crate) async fn erase(connection: &mut PgConnection, owner: &str) -> Result<u64, DbError> {
    Ok(sqlx::query!("DELETE FROM mcp_fabric.bulk_operations WHERE owner = $1", owner).execute(connection).await?.rows_affected())
}
