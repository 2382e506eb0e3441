use std::time::Duration;

use chrono::{DateTime, Utc};
use platform::database::DbError;
use serde_json::Value;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use uuid::Uuid;

use crate::{
    error::JobsError,
    model::{Job, JobId, JobStatus, LogLevel, LogLine, NewJob, Progress},
};

struct Row {
    id: Uuid,
    kind: String,
    status: String,
    priority: i16,
    payload: Value,
    progress: Option<Value>,
    result: Option<Value>,
    error: Option<Value>,
    attempt: i32,
    cancel_requested: bool,
    run_at: DateTime<Utc>,
    created_by: String,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    completed_at: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for Job {
    type Error = DbError;

    fn try_from(row: Row) -> Result<Self, DbError> {
        let inconsistent = |column| DbError::Inconsistent { table: "jobs", column, row: row.id.to_string() };
        let progress: Option<Progress> =
            row.progress.map(|progress| serde_json::from_value(progress).map_err(|_| inconsistent("progress"))).transpose()?;
        Ok(Self {
            id: JobId(row.id),
            status: row.status.parse().map_err(|_| inconsistent("status"))?,
            kind: row.kind,
            priority: row.priority,
            payload: row.payload,
            progress,
            result: row.result,
            error: row.error,
            attempt: row.attempt,
            cancel_requested: row.cancel_requested,
            run_at: row.run_at,
            created_by: row.created_by,
            created_at: row.created_at,
            started_at: row.started_at,
            completed_at: row.completed_at,
        })
    }
}

pub(crate) async fn insert(
    connection: &mut PgConnection,
    id: JobId,
    job: &NewJob,
    created_by: &str,
    now: DateTime<Utc>,
) -> Result<bool, JobsError> {
    let inserted = sqlx::query!(
        "INSERT INTO mcp_fabric.jobs (id, kind, payload, priority, singleton_key, run_at, created_by, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $6)
         ON CONFLICT (singleton_key) WHERE status IN ('pending', 'processing') DO NOTHING",
        id.0,
        job.kind,
        job.payload,
        job.priority,
        job.singleton,
        now,
        created_by,
    )
    .execute(&mut *connection)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// Tells the workers of every replica that there is something to do.
pub(crate) async fn wake(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT pg_notify('fabric_jobs', '')").execute(connection).await?;
    Ok(())
}

pub(crate) async fn unfinished_singleton(connection: &mut PgConnection, key: &str) -> Result<Option<JobId>, sqlx::Error> {
    let id = sqlx::query_scalar!("SELECT id FROM mcp_fabric.jobs WHERE singleton_key = $1 AND status IN ('pending', 'processing')", key);
    Ok(id.fetch_optional(connection).await?.map(JobId))
}

/// The unfinished job that holds the singleton key of this one.
pub(crate) async fn rival(connection: &mut PgConnection, id: JobId) -> Result<Option<JobId>, sqlx::Error> {
    let rival = sqlx::query_scalar!(
        "SELECT id FROM mcp_fabric.jobs
         WHERE status IN ('pending', 'processing') AND singleton_key = (SELECT singleton_key FROM mcp_fabric.jobs WHERE id = $1)",
        id.0
    );
    Ok(rival.fetch_optional(connection).await?.map(JobId))
}

pub(crate) async fn get(connection: &mut PgConnection, id: JobId) -> Result<Option<Job>, DbError> {
    let row = sqlx::query_as!(
        Row,
        "SELECT id, kind, status, priority, payload, progress, result, error, attempt, cancel_requested, run_at,
                created_by, created_at, started_at, completed_at
         FROM mcp_fabric.jobs WHERE id = $1",
        id.0
    );
    row.fetch_optional(connection).await?.map(Job::try_from).transpose()
}

/// The attempt and whether a stop was asked for; held so until the transaction ends.
pub(crate) async fn lock(connection: &mut PgConnection, id: JobId) -> Result<Option<(i32, bool)>, sqlx::Error> {
    let row = sqlx::query!("SELECT attempt, cancel_requested FROM mcp_fabric.jobs WHERE id = $1 FOR UPDATE", id.0);
    Ok(row.fetch_optional(connection).await?.map(|row| (row.attempt, row.cancel_requested)))
}

/// Newest first; `before` is the last id of the page before.
pub(crate) async fn list(
    connection: &mut PgConnection,
    kind: Option<&str>,
    status: Option<JobStatus>,
    before: Option<JobId>,
    limit: i64,
) -> Result<Vec<Job>, DbError> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT id, kind, status, priority, payload, progress, result, error, attempt, cancel_requested, run_at,
                created_by, created_at, started_at, completed_at
         FROM mcp_fabric.jobs
         WHERE ($1::text IS NULL OR kind = $1) AND ($2::text IS NULL OR status = $2) AND ($3::uuid IS NULL OR id < $3)
         ORDER BY id DESC LIMIT $4",
        kind,
        status.map(JobStatus::as_str),
        before.map(|id| id.0),
        limit,
    );
    rows.fetch_all(connection).await?.into_iter().map(Job::try_from).collect()
}

pub(crate) async fn log(connection: &mut PgConnection, id: JobId) -> Result<Vec<LogLine>, sqlx::Error> {
    sqlx::query_as!(LogLine, "SELECT at, level, message FROM mcp_fabric.job_log WHERE job_id = $1 ORDER BY seq", id.0)
        .fetch_all(connection)
        .await
}

/// Keeps the newest `keep` lines of the job.
pub(crate) async fn append_log(
    pool: &PgPool,
    id: JobId,
    level: LogLevel,
    message: &str,
    now: DateTime<Utc>,
    keep: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "WITH old AS (
            DELETE FROM mcp_fabric.job_log
            WHERE job_id = $1 AND seq <= (SELECT seq FROM mcp_fabric.job_log WHERE job_id = $1 ORDER BY seq DESC OFFSET $5 LIMIT 1)
         )
         INSERT INTO mcp_fabric.job_log (job_id, at, level, message)
         SELECT id, $2, $3, $4 FROM mcp_fabric.jobs WHERE id = $1",
        id.0,
        now,
        level.as_str(),
        message,
        keep - 1,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// A kind that this process can take a job of, and how many of it may run over all replicas.
pub(crate) struct Takes {
    pub(crate) kinds: Vec<String>,
    pub(crate) limits: Vec<i32>,
}

/// The hold of one worker on one job. Leases are reckoned by the database's clock, which all replicas share.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) job: JobId,
    pub(crate) token: Uuid,
    pub(crate) lasts: Duration,
}

/// Takes the next job, if there is one. Claims of all replicas take turns, so that limits are exact. A job
/// that nobody put off is due whatever the clock says: it may have been put in while this claim waited for
/// its turn, or before a clock was set back.
pub(crate) async fn claim(
    mut transaction: Transaction<'_, Postgres>,
    takes: &Takes,
    owner: &str,
    token: Uuid,
    lasts: Duration,
    now: DateTime<Utc>,
) -> Result<Option<Job>, DbError> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('mcp_fabric.jobs.claim'))").execute(&mut *transaction).await?;
    let row = sqlx::query_as!(
        Row,
        "UPDATE mcp_fabric.jobs
         SET status = 'processing', attempt = attempt + 1, lease_owner = $3, lease_token = $4, leased_until = now() + make_interval(secs => $6),
             started_at = coalesce(started_at, $5), error = NULL
         WHERE id = (
            SELECT job.id FROM mcp_fabric.jobs job
            JOIN unnest($1::text[], $2::int[]) AS takes(kind, max_running) ON takes.kind = job.kind
            WHERE job.status = 'pending' AND job.run_at <= greatest($5, job.created_at)
              AND (SELECT count(*) FROM mcp_fabric.jobs running WHERE running.status = 'processing' AND running.kind = job.kind) < takes.max_running
            ORDER BY job.priority DESC, job.run_at, job.id
            LIMIT 1
            FOR UPDATE OF job SKIP LOCKED
         )
         RETURNING id, kind, status, priority, payload, progress, result, error, attempt, cancel_requested, run_at,
                   created_by, created_at, started_at, completed_at",
        &takes.kinds,
        &takes.limits,
        owner,
        token,
        now,
        lasts.as_secs_f64(),
    )
    .fetch_optional(&mut *transaction)
    .await?;
    transaction.commit().await?;
    row.map(Job::try_from).transpose()
}

/// Gives back jobs whose worker is gone: those of this owner from before it started, or with an expired lease.
/// A job that took its worker down too often without getting anywhere is given up.
pub(crate) async fn release_lost(
    connection: &mut PgConnection,
    owner: Option<&str>,
    now: DateTime<Utc>,
    max_attempts: i32,
) -> Result<Vec<Job>, DbError> {
    let released = sqlx::query_as!(
        Row,
        r#"UPDATE mcp_fabric.jobs
         SET lease_owner = NULL, lease_token = NULL, leased_until = NULL, run_at = $2,
             status = CASE WHEN cancel_requested THEN 'cancelled' WHEN attempt >= $3 THEN 'failed' ELSE 'pending' END,
             completed_at = CASE WHEN cancel_requested OR attempt >= $3 THEN $2::timestamptz END,
             error = CASE WHEN NOT cancel_requested AND attempt >= $3
                     THEN '{"code": "worker_lost", "message": "the program ended each time while it worked on this job"}'::jsonb END
         WHERE status = 'processing' AND CASE WHEN $1::text IS NULL THEN leased_until < now() ELSE lease_owner = $1 END
         RETURNING id, kind, status, priority, payload, progress, result, error, attempt, cancel_requested, run_at,
                   created_by, created_at, started_at, completed_at"#,
        owner,
        now,
        max_attempts,
    );
    released.fetch_all(connection).await?.into_iter().map(Job::try_from).collect()
}

/// Keeps the lease; `None` when it is lost, else whether the job was asked to stop.
pub(crate) async fn heartbeat(pool: &PgPool, lease: &Lease, progress: Option<&Progress>) -> Result<Option<bool>, sqlx::Error> {
    let progress = progress.and_then(|progress| serde_json::to_value(progress).ok());
    sqlx::query_scalar!(
        "UPDATE mcp_fabric.jobs SET leased_until = now() + make_interval(secs => $3), progress = coalesce($4, progress)
         WHERE id = $1 AND lease_token = $2 RETURNING cancel_requested",
        lease.job.0,
        lease.token,
        lease.lasts.as_secs_f64(),
        progress,
    )
    .fetch_optional(pool)
    .await
}

/// Whether the job is this worker's still; it stays so until the transaction ends.
pub(crate) async fn holds(connection: &mut PgConnection, lease: &Lease) -> Result<bool, sqlx::Error> {
    let held = sqlx::query_scalar!(r#"SELECT mcp_fabric.holds_job($1, $2) AS "holds!""#, lease.job.0, lease.token);
    held.fetch_one(connection).await
}

/// The job got somewhere that a restart will not lose: earlier failures no longer count.
pub(crate) async fn reset_attempts(connection: &mut PgConnection, lease: &Lease) -> Result<bool, sqlx::Error> {
    let reset = sqlx::query!("UPDATE mcp_fabric.jobs SET attempt = 1 WHERE id = $1 AND lease_token = $2", lease.job.0, lease.token);
    Ok(reset.execute(connection).await?.rows_affected() == 1)
}

pub(crate) struct Ending<'a> {
    pub(crate) status: JobStatus,
    pub(crate) result: Option<&'a Value>,
    pub(crate) error: Option<Value>,
    pub(crate) progress: Option<Value>,
    /// When it may start again, for a job that goes back to `pending`.
    pub(crate) run_at: DateTime<Utc>,
    /// The start that was interrupted does not count.
    pub(crate) uncounted: bool,
}

/// Ends this hold on the job; false when the lease was lost.
pub(crate) async fn finish(
    connection: &mut PgConnection,
    lease: &Lease,
    ending: &Ending<'_>,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let finished = sqlx::query!(
        "UPDATE mcp_fabric.jobs
         SET status = $3, result = $4, error = $5, run_at = $6, completed_at = $7, progress = coalesce($8, progress),
             lease_owner = NULL, lease_token = NULL, leased_until = NULL, attempt = attempt - $9
         WHERE id = $1 AND lease_token = $2",
        lease.job.0,
        lease.token,
        ending.status.as_str(),
        ending.result,
        ending.error,
        ending.run_at,
        ending.status.is_finished().then_some(now),
        ending.progress,
        i32::from(ending.uncounted),
    )
    .execute(connection)
    .await?;
    Ok(finished.rows_affected() == 1)
}

/// Cancels a waiting job at once and asks a running one to stop.
pub(crate) async fn cancel(connection: &mut PgConnection, id: JobId, now: DateTime<Utc>) -> Result<bool, sqlx::Error> {
    let cancelled = sqlx::query!(
        "UPDATE mcp_fabric.jobs
         SET cancel_requested = true,
             status = CASE WHEN status = 'pending' THEN 'cancelled' ELSE status END,
             completed_at = CASE WHEN status = 'pending' THEN $2::timestamptz END
         WHERE id = $1 AND status IN ('pending', 'processing')",
        id.0,
        now,
    );
    Ok(cancelled.execute(connection).await?.rows_affected() == 1)
}

/// Puts a job that ended without success back in the queue; its finished steps stay finished.
pub(crate) async fn retry(connection: &mut PgConnection, id: JobId, now: DateTime<Utc>) -> Result<bool, sqlx::Error> {
    let retried = sqlx::query!(
        "UPDATE mcp_fabric.jobs
         SET status = 'pending', attempt = 0, cancel_requested = false, error = NULL, result = NULL, completed_at = NULL, run_at = $2
         WHERE id = $1 AND status IN ('failed', 'cancelled', 'needs_input')",
        id.0,
        now,
    );
    Ok(retried.execute(connection).await?.rows_affected() == 1)
}

pub(crate) async fn step(pool: &PgPool, id: JobId, name: &str) -> Result<Option<Value>, sqlx::Error> {
    sqlx::query_scalar!("SELECT output FROM mcp_fabric.job_steps WHERE job_id = $1 AND name = $2", id.0, name).fetch_optional(pool).await
}

pub(crate) async fn save_step(
    connection: &mut PgConnection,
    id: JobId,
    name: &str,
    output: &Value,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO mcp_fabric.job_steps (job_id, name, output, finished_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (job_id, name) DO UPDATE SET output = excluded.output, finished_at = excluded.finished_at",
        id.0,
        name,
        output,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn delete_finished(pool: &PgPool, before: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    Ok(sqlx::query!("DELETE FROM mcp_fabric.jobs WHERE completed_at < $1", before).execute(pool).await?.rows_affected())
}

/// How many jobs wait and how many run, by kind.
pub(crate) async fn counts(pool: &PgPool) -> Result<Vec<(String, String, i64)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT kind, status, count(*) AS "count!" FROM mcp_fabric.jobs WHERE status IN ('pending', 'processing') GROUP BY kind, status"#
    );
    Ok(rows.fetch_all(pool).await?.into_iter().map(|row| (row.kind, row.status, row.count)).collect())
}
