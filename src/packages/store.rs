use std::collections::{BTreeMap, HashMap};

use cache::Wanted;
use chrono::{DateTime, Utc};
use platform::database::DbError;
use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::model::{Installation, InstallationId, Runnable};

struct Row {
    id: Uuid,
    server_id: String,
    based_on: Option<String>,
    registry_type: String,
    name: String,
    asked: Option<String>,
    sha256: Option<String>,
    folder: String,
    command: Option<String>,
    args: Option<Vec<String>>,
    env: Value,
    secret_env: Vec<String>,
    stage: String,
    version: Option<String>,
    tree: Option<String>,
    entry: Option<Value>,
    cure: Option<String>,
    error_code: Option<String>,
    error: Option<String>,
    job_id: Option<Uuid>,
    installed_by: String,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<Row> for Installation {
    type Error = DbError;

    fn try_from(row: Row) -> Result<Self, DbError> {
        let wrong = |column| DbError::Inconsistent { table: "installations", column, row: row.id.to_string() };
        let env: BTreeMap<String, String> = serde_json::from_value(row.env).map_err(|_| wrong("env"))?;
        let runnable = match (row.version, row.tree, row.entry) {
            (Some(version), Some(tree), Some(entry)) => {
                Some(Runnable { version, tree, entry: serde_json::from_value(entry).map_err(|_| wrong("entry"))? })
            }
            _ => None,
        };
        Ok(Self {
            id: InstallationId(row.id),
            stage: row.stage.parse().map_err(|_| wrong("stage"))?,
            server_id: row.server_id,
            based_on: row.based_on,
            package: Wanted { registry_type: row.registry_type, identifier: row.name, version: row.asked, sha256: row.sha256 },
            folder: row.folder,
            command: row.command,
            args: row.args,
            env,
            secret_env: row.secret_env,
            runnable,
            cure: row.cure,
            error: row.error_code.zip(row.error),
            job: row.job_id,
            installed_by: row.installed_by,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// Claims a folder for a package; whether another one has it, the installation's row finds out.
pub(crate) async fn claim_folder(connection: &mut PgConnection, folder: &str, package: &Wanted) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO mcp_fabric.package_folders (folder, registry_type, name) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        folder,
        package.registry_type,
        package.identifier
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Makes the row of a server, or changes the one that is there and is of the same package; `None` when it is of
/// another one, or somebody else's where only one's own may be changed.
pub(crate) async fn put(connection: &mut PgConnection, new: &Installation, anybodys: bool) -> Result<Option<InstallationId>, sqlx::Error> {
    let id = sqlx::query_scalar!(
        "INSERT INTO mcp_fabric.installations AS i
             (id, server_id, based_on, registry_type, name, asked, sha256, folder, command, args, env, secret_env, stage, installed_by, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 'installing', $13, $14, $14)
         ON CONFLICT (server_id) DO UPDATE
            SET cure = CASE WHEN i.asked IS DISTINCT FROM excluded.asked THEN NULL ELSE i.cure END, asked = excluded.asked, sha256 = excluded.sha256, based_on = excluded.based_on, command = excluded.command, args = excluded.args,
                env = excluded.env, secret_env = excluded.secret_env, stage = 'installing', error_code = NULL, error = NULL,
                installed_by = excluded.installed_by, updated_at = excluded.updated_at
            WHERE i.registry_type = excluded.registry_type AND i.name = excluded.name AND (i.installed_by = excluded.installed_by OR $15)
         RETURNING id",
        new.id.0,
        new.server_id,
        new.based_on,
        new.package.registry_type,
        new.package.identifier,
        new.package.version,
        new.package.sha256,
        new.folder,
        new.command,
        new.args.as_deref(),
        serde_json::json!(new.env),
        &new.secret_env,
        new.installed_by,
        new.created_at,
        anybodys
    );
    Ok(id.fetch_optional(connection).await?.map(InstallationId))
}

/// Notes that a job works on an installation, unless the job has ended since it was asked for.
pub(crate) async fn begin(connection: &mut PgConnection, id: InstallationId, job: Uuid, asked: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE mcp_fabric.installations SET
             job_id = $2,
             stage = CASE WHEN updated_at > $3 THEN stage ELSE 'installing' END,
             error_code = CASE WHEN updated_at > $3 THEN error_code END,
             error = CASE WHEN updated_at > $3 THEN error END,
             updated_at = GREATEST(updated_at, $3)
         WHERE id = $1",
        id.0,
        job,
        asked
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes the constraint under which an installation is to be made anew; gives it, unless it has one already.
pub(crate) async fn cure(
    connection: &mut PgConnection,
    server: &str,
    cure: &str,
    now: DateTime<Utc>,
) -> Result<Option<InstallationId>, sqlx::Error> {
    let id = sqlx::query_scalar!(
        "UPDATE mcp_fabric.installations SET cure = $2, stage = 'installing', version = NULL, tree = NULL, entry = NULL, updated_at = $3
         WHERE server_id = $1 AND cure IS NULL RETURNING id",
        server,
        cure,
        now
    );
    Ok(id.fetch_optional(connection).await?.map(InstallationId))
}

/// Notes what an install made; false when it was uninstalled meanwhile, or something else is asked for.
pub(crate) async fn finish(
    connection: &mut PgConnection,
    of: &Installation,
    made: &Runnable,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "UPDATE mcp_fabric.installations
         SET stage = 'installed', error_code = NULL, error = NULL, version = $2, tree = $3, entry = $4, updated_at = $5
         WHERE id = $1 AND asked IS NOT DISTINCT FROM $6 AND sha256 IS NOT DISTINCT FROM $7 AND cure IS NOT DISTINCT FROM $8",
        of.id.0,
        made.version,
        made.tree,
        serde_json::json!(made.entry),
        now,
        of.package.version,
        of.package.sha256,
        of.cure
    );
    Ok(done.execute(connection).await?.rows_affected() == 1)
}

/// Notes why an install failed; what could be started before still can.
pub(crate) async fn fail(
    connection: &mut PgConnection,
    id: InstallationId,
    code: &str,
    error: &str,
    now: DateTime<Utc>,
) -> Result<Option<String>, sqlx::Error> {
    let server = sqlx::query_scalar!(
        "UPDATE mcp_fabric.installations SET stage = 'error', error_code = $2, error = $3, updated_at = $4
         WHERE id = $1 AND stage = 'installing' RETURNING server_id",
        id.0,
        code,
        error,
        now
    );
    server.fetch_optional(connection).await
}

/// Removes a row, and its folder's where no other installation is in that; gives whether it was the last one.
pub(crate) async fn remove(connection: &mut PgConnection, installation: &Installation) -> Result<bool, sqlx::Error> {
    sqlx::query!("DELETE FROM mcp_fabric.installations WHERE id = $1", installation.id.0).execute(&mut *connection).await?;
    let last = sqlx::query!(
        "DELETE FROM mcp_fabric.package_folders f
         WHERE f.folder = $1 AND NOT EXISTS (SELECT FROM mcp_fabric.installations i WHERE i.folder = f.folder)",
        installation.folder
    );
    Ok(last.execute(connection).await?.rows_affected() > 0)
}

pub(crate) async fn by_id(pool: &PgPool, id: InstallationId) -> Result<Option<Installation>, DbError> {
    let row = sqlx::query_as!(
        Row,
        "SELECT id, server_id, based_on, registry_type, name, asked, sha256, folder, command, args, env, secret_env, stage, version, tree, entry, cure,
                error_code, error, job_id, installed_by, created_at, updated_at
         FROM mcp_fabric.installations WHERE id = $1",
        id.0
    );
    row.fetch_optional(pool).await?.map(Installation::try_from).transpose()
}

/// Whether a server has an installation.
pub(crate) async fn is_installed(connection: &mut PgConnection, server_id: &str) -> Result<bool, DbError> {
    let found = sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM mcp_fabric.installations WHERE server_id = $1) AS "found!""#, server_id);
    Ok(found.fetch_one(connection).await?)
}

pub(crate) async fn by_server(pool: &PgPool, server: &str) -> Result<Option<Installation>, DbError> {
    let row = sqlx::query_as!(
        Row,
        "SELECT id, server_id, based_on, registry_type, name, asked, sha256, folder, command, args, env, secret_env, stage, version, tree, entry, cure,
                error_code, error, job_id, installed_by, created_at, updated_at
         FROM mcp_fabric.installations WHERE server_id = $1",
        server
    );
    row.fetch_optional(pool).await?.map(Installation::try_from).transpose()
}

/// Those of a package, whatever their servers are called.
pub(crate) async fn by_package(pool: &PgPool, name: &str) -> Result<Vec<Installation>, DbError> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT id, server_id, based_on, registry_type, name, asked, sha256, folder, command, args, env, secret_env, stage, version, tree, entry, cure,
                error_code, error, job_id, installed_by, created_at, updated_at
         FROM mcp_fabric.installations WHERE name = $1 ORDER BY server_id",
        name
    );
    rows.fetch_all(pool).await?.into_iter().map(Installation::try_from).collect()
}

/// Those after a server's id, by it; of some servers alone where they are named.
pub(crate) async fn list(pool: &PgPool, servers: Option<&[String]>, after: &str, limit: i64) -> Result<Vec<Installation>, DbError> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT id, server_id, based_on, registry_type, name, asked, sha256, folder, command, args, env, secret_env, stage, version, tree, entry, cure,
                  error_code, error, job_id, installed_by, created_at, updated_at
           FROM mcp_fabric.installations WHERE server_id COLLATE "C" > $1 AND ($2::text[] IS NULL OR server_id = ANY ($2))
           ORDER BY server_id COLLATE "C" LIMIT $3"#,
        after,
        servers,
        limit
    );
    rows.fetch_all(pool).await?.into_iter().map(Installation::try_from).collect()
}

/// Installations that a job works on, or should.
pub(crate) async fn unfinished(pool: &PgPool) -> Result<Vec<InstallationId>, DbError> {
    let ids = sqlx::query_scalar!("SELECT id FROM mcp_fabric.installations WHERE stage = 'installing'");
    Ok(ids.fetch_all(pool).await?.into_iter().map(InstallationId).collect())
}

/// The trees of all installations.
pub(crate) async fn trees(pool: &PgPool) -> Result<Vec<String>, DbError> {
    let trees = sqlx::query_scalar!(r#"SELECT DISTINCT tree AS "tree!" FROM mcp_fabric.installations WHERE tree IS NOT NULL"#);
    Ok(trees.fetch_all(pool).await?)
}

/// The trees of the installations of servers, by their ids.
pub(crate) async fn trees_of(pool: &PgPool, servers: &[String]) -> Result<HashMap<String, String>, DbError> {
    let trees = sqlx::query!(
        r#"SELECT server_id, tree AS "tree!" FROM mcp_fabric.installations WHERE server_id = ANY($1) AND tree IS NOT NULL"#,
        servers
    );
    Ok(trees.fetch_all(pool).await?.into_iter().map(|row| (row.server_id, row.tree)).collect())
}

/// Whether the set of the first run was taken up before, for the name of a server; notes that it was.
pub(crate) async fn first_time(connection: &mut PgConnection, server: &str, now: DateTime<Utc>) -> Result<bool, sqlx::Error> {
    let noted = sqlx::query!("INSERT INTO mcp_fabric.first_runs (server_id, at) VALUES ($1, $2) ON CONFLICT DO NOTHING", server, now);
    Ok(noted.execute(connection).await?.rows_affected() > 0)
}
