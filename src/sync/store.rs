use chrono::{DateTime, Utc};
use platform::database::DbError;
use serde_json::Value;
use servers::{Applied, Skip};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::history::{Kind, Phase, Run, RunId, RunStatus};

/// How many skipped entries a run lists.
const SKIPPED_LISTED: i32 = 500;

struct Row {
    id: Uuid,
    job_id: Option<Uuid>,
    kind: String,
    status: String,
    phase: String,
    started_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    updated_since: Option<DateTime<Utc>>,
    cursor: Option<String>,
    pages: i32,
    seen: i32,
    inserted: i32,
    updated: i32,
    deleted: i32,
    skipped: i32,
    skipped_entries: Value,
    error: Option<Value>,
}

impl TryFrom<Row> for Run {
    type Error = DbError;

    fn try_from(row: Row) -> Result<Self, DbError> {
        let inconsistent = |column| DbError::Inconsistent { table: "sync_history", column, row: row.id.to_string() };
        Ok(Self {
            id: RunId(row.id),
            job_id: row.job_id,
            kind: row.kind.parse().map_err(|_| inconsistent("kind"))?,
            status: row.status.parse().map_err(|_| inconsistent("status"))?,
            phase: row.phase.parse().map_err(|_| inconsistent("phase"))?,
            started_at: row.started_at,
            finished_at: row.finished_at,
            updated_since: row.updated_since,
            cursor: row.cursor,
            pages: row.pages,
            seen: row.seen,
            inserted: row.inserted,
            updated: row.updated,
            deleted: row.deleted,
            skipped: row.skipped,
            skipped_entries: row.skipped_entries,
            error: row.error,
        })
    }
}

/// The columns of [`Row`] under different conditions; `query_as!` wants one literal for each.
macro_rules! runs {
    ($rest:literal $(, $bind:expr)*) => {
        sqlx::query_as!(
            Row,
            "SELECT id, job_id, kind, status, phase, started_at, finished_at, updated_since, cursor, pages, seen, inserted, updated,
                    deleted, skipped, skipped_entries, error
             FROM mcp_fabric.sync_history " + $rest
            $(, $bind)*
        )
    };
}

/// Writes a new run, and ends those that no job stands behind any more. What an earlier reconcile had met
/// is forgotten, so it would have to read everything again.
pub(crate) async fn start(connection: &mut PgConnection, run: &Run, upstream: &str, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    if run.job_id.is_some() {
        sqlx::query!(
            "UPDATE mcp_fabric.sync_history SET status = 'cancelled', finished_at = $1 WHERE status = 'running' AND kind <> 'import'",
            now
        )
        .execute(&mut *connection)
        .await?;
        sqlx::query!("UPDATE mcp_fabric.sync_history SET phase = 'all', cursor = NULL WHERE kind = 'reconcile' AND status <> 'complete'")
            .execute(&mut *connection)
            .await?;
        sqlx::query!("DELETE FROM mcp_fabric.sync_seen").execute(&mut *connection).await?;
    }
    sqlx::query!(
        "INSERT INTO mcp_fabric.sync_history (id, job_id, kind, status, phase, upstream, started_at, updated_since, fence)
         VALUES ($1, $2, $3, 'running', $4, $5, $6, $7, $1)",
        run.id.0,
        run.job_id,
        run.kind.as_str(),
        run.phase.as_str(),
        upstream,
        run.started_at,
        run.updated_since,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether pages can be added to this import.
pub(crate) async fn is_open_import(connection: &mut PgConnection, run: RunId) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM mcp_fabric.sync_history WHERE id = $1 AND kind = 'import' AND status = 'running') AS "open!""#,
        run.0
    )
    .fetch_one(connection)
    .await
}

/// Makes this attempt the one whose pages are saved; a cursor of one upstream means nothing to another.
pub(crate) async fn take(pool: &PgPool, run: RunId, fence: Uuid, upstream: &str) -> Result<Option<Run>, DbError> {
    let taken = sqlx::query!(
        "UPDATE mcp_fabric.sync_history SET fence = $2, status = 'running', error = NULL, finished_at = NULL WHERE id = $1 AND status <> 'complete' AND upstream = $3",
        run.0,
        fence,
        upstream,
    );
    if taken.execute(pool).await?.rows_affected() == 0 {
        return Ok(None);
    }
    get(pool, run).await
}

pub(crate) async fn get(pool: &PgPool, run: RunId) -> Result<Option<Run>, DbError> {
    runs!("WHERE id = $1", run.0).fetch_optional(pool).await?.map(Run::try_from).transpose()
}

/// Newest first; `before` is the last one of the page before.
pub(crate) async fn list(pool: &PgPool, before: Option<RunId>, limit: i64) -> Result<Vec<Run>, DbError> {
    let rows = runs!("WHERE ($1::uuid IS NULL OR id < $1) ORDER BY id DESC LIMIT $2", before.map(|run| run.0), limit);
    rows.fetch_all(pool).await?.into_iter().map(Run::try_from).collect()
}

pub(crate) async fn running(pool: &PgPool) -> Result<Option<Run>, DbError> {
    let row = runs!("WHERE status = 'running' AND kind <> 'import' ORDER BY id DESC LIMIT 1");
    row.fetch_optional(pool).await?.map(Run::try_from).transpose()
}

/// The run that a job does.
pub(crate) async fn of_job(pool: &PgPool, job: Uuid) -> Result<Option<Run>, DbError> {
    let row = runs!("WHERE job_id = $1", job);
    row.fetch_optional(pool).await?.map(Run::try_from).transpose()
}

pub(crate) async fn last_ended(pool: &PgPool) -> Result<Option<Run>, DbError> {
    let row = runs!("WHERE finished_at IS NOT NULL ORDER BY finished_at DESC LIMIT 1");
    row.fetch_optional(pool).await?.map(Run::try_from).transpose()
}

/// The newest run of these kinds that read all it was to read from this upstream.
pub(crate) async fn last_success(pool: &PgPool, upstream: &str, kinds: &[&str]) -> Result<Option<Run>, DbError> {
    let kinds: Vec<String> = kinds.iter().map(|&kind| kind.to_owned()).collect();
    let row = runs!(
        "WHERE (status = 'complete' OR error ->> 'code' = 'erase_refused') AND upstream = $1 AND kind = ANY($2) ORDER BY started_at DESC LIMIT 1",
        upstream,
        &kinds
    );
    row.fetch_optional(pool).await?.map(Run::try_from).transpose()
}

/// What one page did, to be added to its run.
pub(crate) struct PageDone<'a> {
    pub(crate) seen: usize,
    pub(crate) applied: &'a Applied,
    pub(crate) skipped: &'a [Skip],
    pub(crate) phase: Phase,
    pub(crate) cursor: Option<&'a str>,
}

/// Adds what a page did and moves the cursor; false when another attempt has taken the run over.
pub(crate) async fn save_page(connection: &mut PgConnection, run: RunId, fence: Uuid, done: &PageDone<'_>) -> Result<bool, sqlx::Error> {
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let saved = sqlx::query!(
        "UPDATE mcp_fabric.sync_history SET
            pages = pages + 1, seen = seen + $3, inserted = inserted + $4, updated = updated + $5, deleted = deleted + $6,
            skipped = skipped + $7, phase = $9, cursor = $10,
            skipped_entries = CASE WHEN jsonb_array_length(skipped_entries) < $11 THEN skipped_entries || $8::jsonb ELSE skipped_entries END
         WHERE id = $1 AND fence = $2 AND status = 'running'",
        run.0,
        fence,
        count(done.seen),
        i32::try_from(done.applied.inserted).unwrap_or(i32::MAX),
        i32::try_from(done.applied.updated).unwrap_or(i32::MAX),
        i32::try_from(done.applied.deleted).unwrap_or(i32::MAX),
        count(done.skipped.len()),
        serde_json::json!(done.skipped),
        done.phase.as_str(),
        done.cursor,
        SKIPPED_LISTED,
    );
    Ok(saved.execute(connection).await?.rows_affected() == 1)
}

/// How a run ends, or ends for now; gives its kind.
pub(crate) async fn end(
    connection: &mut PgConnection,
    run: RunId,
    status: RunStatus,
    error: Option<&Value>,
    finished_at: DateTime<Utc>,
) -> Result<Option<Kind>, DbError> {
    let kind = sqlx::query_scalar!(
        "UPDATE mcp_fabric.sync_history SET status = $2, error = $3, finished_at = $4, phase = CASE WHEN $2 = 'complete' THEN 'done' ELSE phase END
         WHERE id = $1 AND status <> 'complete' RETURNING kind",
        run.0,
        status.as_str(),
        error,
        finished_at,
    );
    let kind = kind.fetch_optional(connection).await?;
    kind.map(|kind| kind.parse().map_err(|_| DbError::Inconsistent { table: "sync_history", column: "kind", row: run.0.to_string() }))
        .transpose()
}

/// This transaction may be lost in a crash of the machine: the page and its cursor go together, and the
/// next run reads it again.
pub(crate) async fn relax_durability(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT set_config('synchronous_commit', 'off', true)").fetch_one(connection).await?;
    Ok(())
}

/// One run at a time over all replicas, until the connection closes.
pub(crate) async fn try_lock(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT pg_try_advisory_lock(hashtext('mcp_fabric.sync')) AS "locked!""#).fetch_one(connection).await
}

pub(crate) async fn remember_seen(connection: &mut PgConnection, run: RunId, met: &[(String, String)]) -> Result<(), sqlx::Error> {
    let (servers, versions): (Vec<String>, Vec<String>) = met.iter().cloned().unzip();
    sqlx::query!(
        "INSERT INTO mcp_fabric.sync_seen (run_id, server_id, version) SELECT $1, * FROM unnest($2::text[], $3::text[]) ON CONFLICT DO NOTHING",
        run.0,
        &servers,
        &versions,
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn has_seen(pool: &PgPool, run: RunId, version: &(String, String)) -> Result<bool, DbError> {
    let seen = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM mcp_fabric.sync_seen WHERE run_id = $1 AND server_id = $2 AND version = $3) AS "seen!""#,
        run.0,
        version.0,
        version.1,
    );
    Ok(seen.fetch_one(pool).await?)
}

/// Those of these versions that the run has not met.
pub(crate) async fn unseen(pool: &PgPool, run: RunId, versions: &[(String, String)]) -> Result<Vec<(String, String)>, DbError> {
    let (servers, versions): (Vec<String>, Vec<String>) = versions.iter().cloned().unzip();
    let rows = sqlx::query!(
        r#"SELECT known.server_id AS "server_id!", known.version AS "version!" FROM unnest($2::text[], $3::text[]) AS known(server_id, version)
         WHERE NOT EXISTS (
            SELECT FROM mcp_fabric.sync_seen s WHERE s.run_id = $1 AND s.server_id = known.server_id AND s.version = known.version)"#,
        run.0,
        &servers,
        &versions,
    );
    Ok(rows.fetch_all(pool).await?.into_iter().map(|row| (row.server_id, row.version)).collect())
}

pub(crate) async fn forget_seen(connection: &mut PgConnection, run: RunId) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM mcp_fabric.sync_seen WHERE run_id = $1", run.0).execute(connection).await?;
    Ok(())
}
