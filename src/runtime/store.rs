use std::collections::HashSet;

use chrono::{DateTime, Utc};
use events::Prepared;
use platform::database::DbError;
use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::model::{Backend, Era, Instance, InstanceId, Reason, State};

struct Row {
    id: Uuid,
    configuration_id: Uuid,
    session: String,
    owner: String,
    server_id: String,
    node_id: String,
    lease_until: DateTime<Utc>,
    backend: String,
    state: String,
    reason_code: Option<String>,
    reason: Option<String>,
    since: DateTime<Utc>,
    attempt: i32,
    next_try_at: Option<DateTime<Utc>>,
    restarts: i64,
    pid: Option<i32>,
    container: Option<String>,
    version: Option<String>,
    era: Option<String>,
    tools: Option<i32>,
    limits: Option<Value>,
    created_at: DateTime<Utc>,
}

impl TryFrom<Row> for Instance {
    type Error = DbError;

    fn try_from(row: Row) -> Result<Self, DbError> {
        let wrong = |column| DbError::Inconsistent { table: "instances", column, row: row.id.to_string() };
        Ok(Self {
            id: InstanceId(row.id),
            configuration: row.configuration_id,
            backend: row.backend.parse().map_err(|_| wrong("backend"))?,
            state: row.state.parse().map_err(|_| wrong("state"))?,
            era: row.era.as_deref().map(str::parse).transpose().map_err(|_| wrong("era"))?,
            limits: row.limits.clone().map(serde_json::from_value).transpose().map_err(|_| wrong("limits"))?,
            session: row.session,
            owner: row.owner,
            server_id: row.server_id,
            node: row.node_id,
            lease_until: row.lease_until,
            reason: row.reason_code.zip(row.reason),
            since: row.since,
            attempt: row.attempt,
            next_try_at: row.next_try_at,
            restarts: row.restarts,
            pid: row.pid,
            container: row.container,
            version: row.version,
            tools: row.tools,
            created_at: row.created_at,
        })
    }
}

/// Who takes an instance, and until when it is believed to have it.
pub(crate) struct Claim<'a> {
    pub(crate) configuration: Uuid,
    pub(crate) session: &'a str,
    pub(crate) owner: &'a str,
    pub(crate) server_id: &'a str,
    pub(crate) backend: Backend,
    pub(crate) node: &'a str,
    pub(crate) lease_until: DateTime<Utc>,
}

/// Makes the instance of a configuration under an id, or takes up the one of that id that is over, and tells of it; `None` while
/// somebody has it.
pub(crate) async fn claim(
    connection: &mut PgConnection,
    id: InstanceId,
    claim: &Claim<'_>,
    told: &Prepared,
) -> Result<Option<Instance>, DbError> {
    let row = sqlx::query_as!(
        Row,
        r#"WITH claimed AS (
               INSERT INTO mcp_fabric.instances AS i
                   (id, configuration_id, session, owner, server_id, node_id, lease_until, backend, state, since, created_at)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'PENDING', $9, $9)
               ON CONFLICT (configuration_id, session) DO UPDATE
                  SET node_id = excluded.node_id, lease_until = excluded.lease_until, backend = excluded.backend, state = 'PENDING',
                      reason_code = NULL, reason = NULL, since = excluded.since, attempt = 0, next_try_at = NULL, pid = NULL,
                      container = NULL, era = NULL, tools = NULL
                  WHERE i.id = excluded.id AND i.state IN ('STOPPED', 'FAILED')
               RETURNING i.*),
           told AS (SELECT mcp_fabric.publish_event($10, $11, $12, $13, $14, $9) FROM claimed)
           SELECT c.id AS "id!", c.configuration_id AS "configuration_id!", c.session AS "session!", c.owner AS "owner!",
                  c.server_id AS "server_id!", c.node_id AS "node_id!", c.lease_until AS "lease_until!", c.backend AS "backend!",
                  c.state AS "state!", c.reason_code, c.reason, c.since AS "since!", c.attempt AS "attempt!", c.next_try_at,
                  c.restarts AS "restarts!", c.pid, c.container, c.version, c.era, c.tools, c.limits, c.created_at AS "created_at!"
           FROM claimed c, told"#,
        id.0,
        claim.configuration,
        claim.session,
        claim.owner,
        claim.server_id,
        claim.node,
        claim.lease_until,
        claim.backend.as_str(),
        told.at,
        told.kind,
        told.channel,
        told.owner,
        told.server,
        told.payload,
    );
    row.fetch_optional(connection).await?.map(Instance::try_from).transpose()
}

/// Makes a step and tells of it, if the instance stands where the caller believes and is still its own.
pub(crate) async fn step(
    connection: &mut PgConnection,
    instance: &Instance,
    to: State,
    reason: Option<&Reason>,
    told: &Prepared,
) -> Result<bool, DbError> {
    let done = sqlx::query!(
        "WITH stepped AS (
             UPDATE mcp_fabric.instances
             SET state = $4, reason_code = $5, reason = $6, since = $7, attempt = $8, next_try_at = $9, restarts = $10, pid = $11, version = $12,
                 era = $13, tools = $14, limits = $15, container = $16
             WHERE id = $1 AND state = $2 AND node_id = $3 RETURNING 1)
         SELECT mcp_fabric.publish_event($17, $18, $19, $20, $21, $7) FROM stepped",
        instance.id.0,
        instance.state.as_str(),
        instance.node,
        to.as_str(),
        reason.map(|reason| &*reason.code),
        reason.map(|reason| reason.text.as_str()),
        told.at,
        instance.attempt,
        instance.next_try_at,
        instance.restarts,
        instance.pid,
        instance.version,
        instance.era.map(Era::as_str),
        instance.tools,
        instance.limits.map(|limits| serde_json::json!(limits)),
        instance.container,
        told.kind,
        told.channel,
        told.owner,
        told.server,
        told.payload,
    );
    Ok(done.execute(connection).await?.rows_affected() == 1)
}

/// Notes that a start that goes on is tried again.
pub(crate) async fn note_try(connection: &mut PgConnection, instance: &Instance, reason: &Reason) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "UPDATE mcp_fabric.instances SET attempt = $4, next_try_at = $5, reason_code = $6, reason = $7, pid = NULL, container = NULL
         WHERE id = $1 AND state = $2 AND node_id = $3",
        instance.id.0,
        instance.state.as_str(),
        instance.node,
        instance.attempt,
        instance.next_try_at,
        &*reason.code,
        reason.text,
    );
    Ok(done.execute(connection).await?.rows_affected() == 1)
}

/// Notes the process or the container of a start that goes on; gives how this version of the server speaks, where that was
/// learned.
pub(crate) async fn note_start(connection: &mut PgConnection, instance: &Instance) -> Result<Option<Era>, DbError> {
    let learned = sqlx::query_scalar!(
        "UPDATE mcp_fabric.instances i SET pid = $4, next_try_at = NULL, version = $5, limits = $6, container = $7
         WHERE id = $1 AND state = $2 AND node_id = $3
         RETURNING (SELECT era FROM mcp_fabric.server_eras e WHERE e.server_id = i.server_id AND e.version = $5)",
        instance.id.0,
        instance.state.as_str(),
        instance.node,
        instance.pid,
        instance.version,
        instance.limits.map(|limits| serde_json::json!(limits)),
        instance.container,
    );
    Ok(learned.fetch_optional(connection).await?.flatten().and_then(|era| era.parse().ok()))
}

/// Notes what an instance may use from now on.
pub(crate) async fn note_limits(connection: &mut PgConnection, instance: &Instance) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE mcp_fabric.instances SET limits = $3 WHERE id = $1 AND node_id = $2",
        instance.id.0,
        instance.node,
        instance.limits.map(|limits| serde_json::json!(limits)),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Prolongs the leases of what a node runs; gives the instances that it still has. A row that nobody here runs is left
/// to end with its lease.
pub(crate) async fn renew(
    connection: &mut PgConnection,
    node: &str,
    running: &[InstanceId],
    until: DateTime<Utc>,
) -> Result<Vec<InstanceId>, sqlx::Error> {
    let running: Vec<Uuid> = running.iter().map(|id| id.0).collect();
    let ids = sqlx::query_scalar!(
        "UPDATE mcp_fabric.instances SET lease_until = $3
         WHERE node_id = $1 AND id = ANY ($2) AND state NOT IN ('STOPPED', 'FAILED') RETURNING id",
        node,
        &running,
        until
    );
    Ok(ids.fetch_all(connection).await?.into_iter().map(InstanceId).collect())
}

/// An instance whose fabric is gone.
pub(crate) struct Lost {
    pub(crate) id: InstanceId,
    pub(crate) owner: String,
    pub(crate) server_id: String,
    pub(crate) session: String,
    /// Where it stood.
    pub(crate) from: State,
}

/// Fails what nobody has any more: of nodes whose lease is over, or of a node that has just begun.
pub(crate) async fn abandon(
    connection: &mut PgConnection,
    beginning: Option<&str>,
    reason: &Reason,
    now: DateTime<Utc>,
) -> Result<Vec<Lost>, DbError> {
    let rows = sqlx::query!(
        r#"UPDATE mcp_fabric.instances i SET state = 'FAILED', reason_code = $3, reason = $4, since = $2, pid = NULL, container = NULL, next_try_at = NULL
           FROM (SELECT id, state FROM mcp_fabric.instances
                 WHERE state NOT IN ('STOPPED', 'FAILED') AND (lease_until < $2 OR node_id = $1) FOR UPDATE SKIP LOCKED) AS before
           WHERE i.id = before.id RETURNING i.id, i.owner, i.server_id, i.session, before.state AS "state!""#,
        beginning,
        now,
        &*reason.code,
        reason.text
    );
    let rows = rows.fetch_all(connection).await?;
    let lost = rows.into_iter().map(|row| {
        let from = row.state.parse().map_err(|_| DbError::Inconsistent { table: "instances", column: "state", row: row.id.to_string() })?;
        Ok(Lost { id: InstanceId(row.id), owner: row.owner, server_id: row.server_id, session: row.session, from })
    });
    lost.collect()
}

pub(crate) async fn get(connection: &mut PgConnection, id: InstanceId) -> Result<Option<Instance>, DbError> {
    let row = sqlx::query_as!(
        Row,
        "SELECT id, configuration_id, session, owner, server_id, node_id, lease_until, backend, state, reason_code, reason, since, attempt,
                next_try_at, restarts, pid, container, version, era, tools, limits, created_at
         FROM mcp_fabric.instances WHERE id = $1",
        id.0
    );
    row.fetch_optional(connection).await?.map(Instance::try_from).transpose()
}

pub(crate) async fn of_configuration(
    connection: &mut PgConnection,
    configuration: Uuid,
    session: &str,
) -> Result<Option<Instance>, DbError> {
    let row = sqlx::query_as!(
        Row,
        "SELECT id, configuration_id, session, owner, server_id, node_id, lease_until, backend, state, reason_code, reason, since, attempt,
                next_try_at, restarts, pid, container, version, era, tools, limits, created_at
         FROM mcp_fabric.instances WHERE configuration_id = $1 AND session = $2",
        configuration,
        session
    );
    row.fetch_optional(connection).await?.map(Instance::try_from).transpose()
}

/// What lists are narrowed to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) server_id: Option<String>,
    pub(crate) state: Option<State>,
    /// Without those of sessions.
    pub(crate) is_main: bool,
}

/// Instances that the transaction may see, after an id, by it: of an owner and of shared configurations alone where those
/// are given.
pub(crate) async fn list(
    connection: &mut PgConnection,
    servers: Option<&[String]>,
    of: Option<(&str, &[Uuid])>,
    filter: &Filter,
    after: Option<InstanceId>,
    limit: i64,
) -> Result<Vec<Instance>, DbError> {
    let (owner, shared) = of.unzip();
    let rows = sqlx::query_as!(
        Row,
        "SELECT id, configuration_id, session, owner, server_id, node_id, lease_until, backend, state, reason_code, reason, since, attempt,
                next_try_at, restarts, pid, container, version, era, tools, limits, created_at
         FROM mcp_fabric.instances
         WHERE ($1::uuid IS NULL OR id > $1) AND ($2::text[] IS NULL OR server_id = ANY ($2)) AND ($3::text IS NULL OR server_id = $3)
           AND ($4::text IS NULL OR state = $4) AND (NOT $8 OR session = '')
           AND ($6::text IS NULL OR owner = $6 OR (configuration_id = ANY ($7) AND session = ''))
         ORDER BY id LIMIT $5",
        after.map(|after| after.0),
        servers,
        filter.server_id,
        filter.state.map(State::as_str),
        limit,
        owner,
        shared,
        filter.is_main,
    );
    rows.fetch_all(connection).await?.into_iter().map(Instance::try_from).collect()
}

/// How many instances of an owner, and how many of a node, have a place; and what the latter may use together.
pub(crate) struct Load {
    pub(crate) of_owner: i64,
    pub(crate) of_node: i64,
    pub(crate) memory_bytes: i64,
    pub(crate) cpu_millis: i64,
}

/// Counts all but the instance of a configuration and a session.
pub(crate) async fn load(connection: &mut PgConnection, owner: &str, node: &str, except: Option<(Uuid, &str)>) -> Result<Load, DbError> {
    let (configuration, session) = except.unzip();
    let row = sqlx::query!(
        r#"SELECT count(*) FILTER (WHERE owner = $1) AS "of_owner!", count(*) FILTER (WHERE node_id = $2) AS "of_node!",
                  coalesce(sum((limits ->> 'memory_bytes')::bigint) FILTER (WHERE node_id = $2), 0)::bigint AS "memory!",
                  coalesce(sum((limits ->> 'cpu_millis')::bigint) FILTER (WHERE node_id = $2), 0)::bigint AS "cpu!"
           FROM mcp_fabric.instances WHERE state NOT IN ('PENDING', 'STOPPED', 'FAILED') 
             AND (configuration_id IS DISTINCT FROM $3 OR session IS DISTINCT FROM $4)"#,
        owner,
        node,
        configuration,
        session
    );
    let row = row.fetch_one(connection).await?;
    Ok(Load { of_owner: row.of_owner, of_node: row.of_node, memory_bytes: row.memory, cpu_millis: row.cpu })
}

/// Removes instances of sessions that were over before a time; gives how many.
pub(crate) async fn remove_sessions(connection: &mut PgConnection, before: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let gone =
        sqlx::query!("DELETE FROM mcp_fabric.instances WHERE session <> '' AND state IN ('STOPPED', 'FAILED') AND since < $1", before);
    Ok(gone.execute(connection).await?.rows_affected())
}

/// Which of these instances there are.
pub(crate) async fn known(connection: &mut PgConnection, ids: &[InstanceId]) -> Result<HashSet<InstanceId>, DbError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let known = sqlx::query_scalar!("SELECT id FROM mcp_fabric.instances WHERE id = ANY ($1)", &ids);
    Ok(known.fetch_all(connection).await?.into_iter().map(InstanceId).collect())
}

/// Removes an instance that is over; gives whether there was one.
pub(crate) async fn remove(connection: &mut PgConnection, id: InstanceId) -> Result<bool, sqlx::Error> {
    let gone = sqlx::query!("DELETE FROM mcp_fabric.instances WHERE id = $1 AND state IN ('STOPPED', 'FAILED')", id.0);
    Ok(gone.execute(connection).await?.rows_affected() > 0)
}

/// Removes all of an owner; gives the servers that they were of.
pub(crate) async fn erase(connection: &mut PgConnection, owner: &str) -> Result<Vec<String>, sqlx::Error> {
    let gone = sqlx::query_scalar!("DELETE FROM mcp_fabric.instances WHERE owner = $1 RETURNING server_id", owner);
    gone.fetch_all(connection).await
}

/// Keeps how a version of a server speaks; `None` forgets it.
pub(crate) async fn learn(pool: &PgPool, server: &str, version: &str, era: Option<Era>, now: DateTime<Utc>) -> Result<(), DbError> {
    match era {
        Some(era) => {
            sqlx::query!(
                "INSERT INTO mcp_fabric.server_eras (server_id, version, era, learned_at) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (server_id, version) DO UPDATE SET era = excluded.era, learned_at = excluded.learned_at",
                server,
                version,
                era.as_str(),
                now
            )
            .execute(pool)
            .await?
        }
        None => {
            sqlx::query!("DELETE FROM mcp_fabric.server_eras WHERE server_id = $1 AND version = $2", server, version).execute(pool).await?
        }
    };
    Ok(())
}
