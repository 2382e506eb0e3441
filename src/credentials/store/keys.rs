use platform::database::DbError;
use sqlx::PgConnection;
use uuid::Uuid;

platform::words! {
    /// What a version of the master key is for.
    pub enum KeyState {
        /// New values are sealed with it.
        Active = "active",
        /// Older values are still sealed with it.
        Previous = "previous",
        /// Nothing is sealed with it any more.
        Retired = "retired",
    }
}

/// What is known of a version of the master key; never the key.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) number: i32,
    pub(crate) kid: String,
    pub(crate) kcv: Vec<u8>,
    pub(crate) state: KeyState,
    pub(crate) wraps: i64,
}

/// Who this fabric is.
pub(crate) async fn fabric_id(connection: &mut PgConnection) -> Result<Uuid, DbError> {
    Ok(sqlx::query_scalar!("SELECT id FROM credentials.fabric").fetch_one(connection).await?)
}

/// Whether a fabric has worked on this database.
pub async fn is_in_use(connection: &mut PgConnection) -> Result<bool, DbError> {
    Ok(sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM credentials.key_versions) AS "used!""#).fetch_one(connection).await?)
}

/// Makes replicas that open their keys take turns until the transaction ends.
pub(crate) async fn lock(connection: &mut PgConnection) -> Result<(), DbError> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('credentials.keys'))").execute(connection).await?;
    Ok(())
}

pub(crate) async fn versions(connection: &mut PgConnection) -> Result<Vec<Version>, DbError> {
    let rows =
        sqlx::query!("SELECT version, kid, kcv, state, wraps FROM credentials.key_versions ORDER BY version").fetch_all(connection).await?;
    rows.into_iter()
        .map(|row| {
            let bad = |_| DbError::Inconsistent { table: "key_versions", column: "state", row: row.version.to_string() };
            Ok(Version { number: row.version, kid: row.kid, kcv: row.kcv, state: row.state.parse().map_err(bad)?, wraps: row.wraps })
        })
        .collect()
}

/// Makes a key the active one; the one before stays for what is sealed with it.
pub(crate) async fn activate(connection: &mut PgConnection, version: i32, kid: &str, kcv: &[u8]) -> Result<(), DbError> {
    sqlx::query!("UPDATE credentials.key_versions SET state = 'previous' WHERE state = 'active' AND version <> $1", version)
        .execute(&mut *connection)
        .await?;
    sqlx::query!("INSERT INTO credentials.key_versions (version, kid, kcv, state) VALUES ($1, $2, $3, 'active')", version, kid, kcv)
        .execute(connection)
        .await?;
    Ok(())
}

/// Waits for everybody who seals with an older key, and keeps others from beginning to.
pub(crate) async fn lock_previous(connection: &mut PgConnection) -> Result<(), DbError> {
    sqlx::query!("SELECT version FROM credentials.key_versions WHERE state = 'previous' FOR UPDATE").fetch_all(connection).await?;
    Ok(())
}

/// Holds a version until the transaction ends, so that it is not retired under what was sealed with it; `false` when it
/// does not seal any more.
pub(crate) async fn hold(connection: &mut PgConnection, version: i32) -> Result<bool, DbError> {
    let held = sqlx::query!("SELECT version FROM credentials.key_versions WHERE version = $1 AND state = 'active' FOR KEY SHARE", version);
    Ok(held.fetch_optional(connection).await?.is_some())
}

/// Retires every version that nothing is sealed with, but the active one; gives those.
pub(crate) async fn retire_unused(connection: &mut PgConnection) -> Result<Vec<i32>, DbError> {
    let retired = sqlx::query_scalar!(
        "UPDATE credentials.key_versions k SET state = 'retired', retired_at = now()
         WHERE k.state = 'previous'
           AND NOT EXISTS (SELECT FROM credentials.mcp_credentials c WHERE c.kek_version = k.version)
           AND NOT EXISTS (SELECT FROM credentials.sealed_secrets s WHERE s.kek_version = k.version)
           -- Rows in the requirements' plain form may be under any key, and are moved by `credentials migrate`.
           AND NOT EXISTS (SELECT FROM credentials.mcp_credentials c WHERE c.alg = 0)
         RETURNING k.version"
    );
    Ok(retired.fetch_all(connection).await?)
}

pub(crate) async fn add_wraps(connection: &mut PgConnection, version: i32, wraps: i64) -> Result<(), DbError> {
    sqlx::query!("UPDATE credentials.key_versions SET wraps = wraps + $2 WHERE version = $1", version, wraps).execute(connection).await?;
    Ok(())
}
