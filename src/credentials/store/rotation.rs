use chrono::{DateTime, TimeDelta, Utc};
use platform::database::DbError;
use serde::Serialize;
use sqlx::{PgConnection, postgres::types::PgInterval};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{envelope::Sealed, model::RotationId};

platform::words! {
    /// Where a rotation stands.
    pub enum RotationState {
        /// Values are being wrapped anew.
        Running = "running",
        /// It waits to be resumed.
        Paused = "paused",
        /// It was given up; what was done stays done.
        Cancelled = "cancelled",
        /// Everything is under the new key, and the old one is retired.
        Completed = "completed",
        /// Some rows do not open; they and the old key stay.
        CompletedWithErrors = "completed_with_errors",
    }
}

/// A rotation as people see it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Rotation {
    /// Its id.
    pub id: RotationId,
    /// The version that everything goes to.
    pub to_version: i32,
    /// Where it stands.
    pub state: RotationState,
    /// Whether it only opens everything and writes nothing.
    pub dry_run: bool,
    /// Rows under other keys when it began.
    pub total: i64,
    /// Of those, how many are done.
    pub done: i64,
    /// How many do not open.
    pub failed: i64,
    /// Rows a second, while it works.
    pub rows_per_second: i64,
    /// About how long it still takes, in seconds.
    pub eta_seconds: Option<i64>,
    /// Who began it.
    pub started_by: String,
    /// When.
    pub started_at: DateTime<Utc>,
    /// When it last got somewhere.
    pub heartbeat_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

struct Row {
    id: Uuid,
    to_version: i32,
    state: String,
    dry_run: bool,
    total: i64,
    done: i64,
    failed: i64,
    started_by: String,
    started_at: DateTime<Utc>,
    heartbeat_at: DateTime<Utc>,
    worked: PgInterval,
    finished_at: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for Rotation {
    type Error = DbError;

    fn try_from(row: Row) -> Result<Self, DbError> {
        let bad = |_| DbError::Inconsistent { table: "key_rotations", column: "state", row: row.id.to_string() };
        let state: RotationState = row.state.parse().map_err(bad)?;
        let rows_per_second = row.done.saturating_mul(1_000_000) / row.worked.microseconds.max(1);
        let left = (row.total - row.done - row.failed).max(0);
        let is_running = state == RotationState::Running && rows_per_second > 0;
        Ok(Self {
            id: RotationId(row.id),
            to_version: row.to_version,
            state,
            dry_run: row.dry_run,
            total: row.total,
            done: row.done,
            failed: row.failed,
            rows_per_second,
            eta_seconds: is_running.then(|| left / rows_per_second),
            started_by: row.started_by,
            started_at: row.started_at,
            heartbeat_at: row.heartbeat_at,
            finished_at: row.finished_at,
        })
    }
}

/// How many rows are under other keys.
pub(crate) async fn left(connection: &mut PgConnection, to: i32) -> Result<i64, DbError> {
    let count = sqlx::query_scalar!(
        r#"SELECT (SELECT count(*) FROM credentials.mcp_credentials WHERE alg = 1 AND kek_version <> $1)
                + (SELECT count(*) FROM credentials.sealed_secrets WHERE kek_version <> $1) AS "count!""#,
        to
    );
    Ok(count.fetch_one(connection).await?)
}

/// Whether one runs or is paused.
pub(crate) async fn is_unfinished(connection: &mut PgConnection) -> Result<bool, DbError> {
    let found =
        sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM credentials.key_rotations WHERE state IN ('running', 'paused')) AS "found!""#);
    Ok(found.fetch_one(connection).await?)
}

/// Keeps others from steering it until the transaction ends.
pub(crate) async fn lock(connection: &mut PgConnection, id: RotationId) -> Result<(), DbError> {
    sqlx::query!("SELECT id FROM credentials.key_rotations WHERE id = $1 FOR UPDATE", id.0).fetch_optional(connection).await?;
    Ok(())
}

/// Begins one; `None` while another is under way.
pub(crate) async fn create(
    connection: &mut PgConnection,
    to: i32,
    dry_run: bool,
    total: i64,
    by: &str,
) -> Result<Option<RotationId>, DbError> {
    let id = RotationId::fresh();
    let row = sqlx::query_scalar!(
        "INSERT INTO credentials.key_rotations (id, to_version, state, dry_run, total, started_by) VALUES ($1, $2, 'running', $3, $4, $5)
         ON CONFLICT DO NOTHING RETURNING id",
        id.0,
        to,
        dry_run,
        total,
        by
    );
    Ok(row.fetch_optional(connection).await?.map(RotationId))
}

pub(crate) async fn get(connection: &mut PgConnection, id: RotationId) -> Result<Option<Rotation>, DbError> {
    let row = sqlx::query_as!(
        Row,
        "SELECT id, to_version, state, dry_run, total, done, failed, started_by, started_at, heartbeat_at, worked, finished_at
         FROM credentials.key_rotations WHERE id = $1",
        id.0
    );
    row.fetch_optional(connection).await?.map(TryInto::try_into).transpose()
}

/// Newest first.
pub(crate) async fn list(connection: &mut PgConnection, before: Option<RotationId>, limit: i64) -> Result<Vec<Rotation>, DbError> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT id, to_version, state, dry_run, total, done, failed, started_by, started_at, heartbeat_at, worked, finished_at
         FROM credentials.key_rotations WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2",
        before.map(|id| id.0),
        limit
    );
    rows.fetch_all(connection).await?.into_iter().map(TryInto::try_into).collect()
}

/// Moves from one state to another; `false` when it stands elsewhere.
pub(crate) async fn set_state(
    connection: &mut PgConnection,
    id: RotationId,
    from: &[RotationState],
    to: RotationState,
) -> Result<bool, DbError> {
    let from: Vec<String> = from.iter().map(|state| state.as_str().to_owned()).collect();
    let is_end = !matches!(to, RotationState::Running | RotationState::Paused);
    let done = sqlx::query!(
        "UPDATE credentials.key_rotations SET state = $3, finished_at = CASE WHEN $4 THEN now() END WHERE id = $1 AND state = ANY ($2)",
        id.0,
        &from,
        to.as_str(),
        is_end
    );
    Ok(done.execute(connection).await?.rows_affected() == 1)
}

/// Counts a batch.
pub(crate) async fn advance(connection: &mut PgConnection, id: RotationId, done: i64, failed: i64, took: TimeDelta) -> Result<(), DbError> {
    let worked = PgInterval { months: 0, days: 0, microseconds: took.num_microseconds().unwrap_or_default() };
    sqlx::query!(
        "UPDATE credentials.key_rotations SET done = done + $2, failed = failed + $3, worked = worked + $4, heartbeat_at = now() WHERE id = $1",
        id.0,
        done,
        failed,
        worked
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Says how many rows do not open: those that are left when all were tried.
pub(crate) async fn set_failed(connection: &mut PgConnection, id: RotationId, failed: i64) -> Result<(), DbError> {
    sqlx::query!("UPDATE credentials.key_rotations SET failed = $2 WHERE id = $1", id.0, failed).execute(connection).await?;
    Ok(())
}

/// A row that is to be wrapped anew: its identity and what it is sealed in.
pub(crate) struct Wrapped {
    pub(crate) id: Uuid,
    pub(crate) parts: [String; 3],
    pub(crate) rev: i64,
    pub(crate) sealed: Sealed,
}

impl Wrapped {
    /// The value itself stays where it is.
    fn new(id: Uuid, parts: [String; 3], rev: i64, (kek_version, wrapped_dek, key_commit): (i32, Vec<u8>, Vec<u8>)) -> Self {
        Self { id, parts, rev, sealed: Sealed { value: String::new(), iv: String::new(), kek_version, wrapped_dek, key_commit } }
    }
}

/// The next credentials under other keys, after `after`, locked.
pub(crate) async fn credentials(connection: &mut PgConnection, to: i32, after: Uuid, limit: i64) -> Result<Vec<Wrapped>, DbError> {
    let rows = sqlx::query!(
        r#"SELECT id, user_id, server_id, env_var, kek_version AS "kek_version!", wrapped_dek AS "wrapped_dek!", key_commit AS "key_commit!", rev
           FROM credentials.mcp_credentials WHERE alg = 1 AND kek_version <> $1 AND id > $2 ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED"#,
        to,
        after,
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            Wrapped::new(row.id, [row.user_id, row.server_id, row.env_var], row.rev, (row.kek_version, row.wrapped_dek, row.key_commit))
        })
        .collect())
}

/// The same of other secrets.
pub(crate) async fn secrets(connection: &mut PgConnection, to: i32, after: Uuid, limit: i64) -> Result<Vec<Wrapped>, DbError> {
    let rows = sqlx::query!(
        "SELECT id, owner, scope, name, kek_version, wrapped_dek, key_commit, rev
         FROM credentials.sealed_secrets WHERE kek_version <> $1 AND id > $2 ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED",
        to,
        after,
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Wrapped::new(row.id, [row.owner, row.scope, row.name], row.rev, (row.kek_version, row.wrapped_dek, row.key_commit)))
        .collect())
}

/// What was wrapped anew.
#[derive(Default)]
pub(crate) struct Rewrapped {
    pub(crate) ids: Vec<Uuid>,
    pub(crate) revs: Vec<i64>,
    pub(crate) wrapped: Vec<Vec<u8>>,
}

pub(crate) async fn save_credentials(connection: &mut PgConnection, to: i32, rows: &Rewrapped) -> Result<u64, DbError> {
    let done = sqlx::query!(
        "UPDATE credentials.mcp_credentials c SET wrapped_dek = t.wrapped, kek_version = $1
         FROM UNNEST($2::uuid[], $3::bigint[], $4::bytea[]) AS t(id, rev, wrapped) WHERE c.id = t.id AND c.rev = t.rev AND c.kek_version <> $1",
        to,
        &rows.ids,
        &rows.revs,
        &rows.wrapped
    );
    Ok(done.execute(connection).await?.rows_affected())
}

pub(crate) async fn save_secrets(connection: &mut PgConnection, to: i32, rows: &Rewrapped) -> Result<u64, DbError> {
    let done = sqlx::query!(
        "UPDATE credentials.sealed_secrets s SET wrapped_dek = t.wrapped, kek_version = $1
         FROM UNNEST($2::uuid[], $3::bigint[], $4::bytea[]) AS t(id, rev, wrapped) WHERE s.id = t.id AND s.rev = t.rev AND s.kek_version <> $1",
        to,
        &rows.ids,
        &rows.revs,
        &rows.wrapped
    );
    Ok(done.execute(connection).await?.rows_affected())
}
