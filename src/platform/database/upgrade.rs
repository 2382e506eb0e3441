//! Moving the managed cluster to a newer PostgreSQL.
//!
//! The programs that read an old cluster are those of its own version, so nothing is converted in place:
//! an empty cluster of the new version is made beside the old one, migrated, and given every row of the
//! old one. The old cluster's files are kept.

use std::path::PathBuf;

use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection};

use super::{
    OpenError, Owner, binaries,
    managed::{Cluster, Options, STOP_AT_LEISURE},
    migrations,
};

/// What an upgrade did.
#[derive(Debug)]
pub struct Upgraded {
    /// The old major version.
    pub from: u32,
    /// The new one.
    pub to: u32,
    /// How many rows moved.
    pub rows: u64,
    /// Where the old cluster is kept.
    pub kept: PathBuf,
}

/// Moves the cluster of this data folder to the newest PostgreSQL there is; `None` when it is there.
pub async fn upgrade(options: Options) -> Result<Option<Upgraded>, OpenError> {
    let (data, sources) = (options.data.clone(), options.fetch.clone());
    let old = Cluster::start(options).await?;
    let moved = match binaries::newer(old.binaries().major, &data, &sources).await {
        Ok(Some(bin)) => move_to(&old, bin).await.map(Some),
        Ok(None) => Ok(None),
        Err(error) => Err(OpenError::Managed(error.into())),
    };
    old.stop(STOP_AT_LEISURE).await?;
    let Some((next, rows)) = moved? else { return Ok(None) };
    let kept = old.make_way(&next)?;
    Ok(Some(Upgraded { from: old.binaries().major, to: next.binaries().major, rows, kept }))
}

/// Makes the successor and gives it every row; it is stopped when this returns.
async fn move_to(old: &Cluster, bin: binaries::Binaries) -> Result<(Cluster, u64), OpenError> {
    migrations::migrate(&mut Owner::of_cluster(old).connect().await?).await?;
    let next = old.successor(bin).await?;
    let copied = async {
        migrations::migrate(&mut Owner::of_cluster(&next).connect().await?).await?;
        copy(old, &next).await
    };
    let copied = copied.await;
    next.stop(STOP_AT_LEISURE).await?;
    Ok((next, copied?))
}

async fn copy(old: &Cluster, next: &Cluster) -> Result<u64, OpenError> {
    let mut from = old.admin_of_database().connect().await?;
    let mut to = next.admin_of_database().connect().await?;
    // Rows come table by table, so references hold only at the end; row-level security is not for copies.
    sqlx::raw_sql("SET session_replication_role = replica").execute(&mut to).await?;
    for statement in partitions(&mut from).await? {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut to).await?;
    }
    // The owner of the tables, not the administrator who copies, is to drop them one day.
    let owned: Vec<String> = sqlx::query_scalar(
        "SELECT format('ALTER TABLE %s OWNER TO %I', i.inhrelid::regclass, pg_get_userbyid(p.relowner))
         FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent WHERE p.relkind = 'p'",
    )
    .fetch_all(&mut to)
    .await?;
    for statement in owned {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut to).await?;
    }
    let tables = tables(&mut from).await?;
    // Migrations may have put rows there.
    let names: Vec<&str> = tables.iter().map(|(name, _)| name.as_str()).collect();
    sqlx::raw_sql(AssertSqlSafe(format!("TRUNCATE {}", names.join(", ")))).execute(&mut to).await?;
    let mut rows = 0;
    for (name, columns) in &tables {
        rows += copy_table(&mut from, &mut to, name, columns).await?;
    }
    set_sequences(&mut to).await?;
    Ok(rows)
}

/// Every table of ours with the columns that hold what was put there; names are quoted by the database.
pub(super) async fn tables(connection: &mut PgConnection) -> Result<Vec<(String, String)>, sqlx::Error> {
    sqlx::query_as(
        "SELECT format('%I.%I', n.nspname, c.relname),
                (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '')
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'public') AND n.nspname NOT LIKE 'pg\\_%'
         ORDER BY 1",
    )
    .fetch_all(connection)
    .await
}

/// What makes the partitions that are there: migrations make tables with partitions, and the program the partitions,
/// which have to be there before their rows.
pub(super) async fn partitions(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT format('CREATE TABLE IF NOT EXISTS %I.%I PARTITION OF %s %s', n.nspname, c.relname, i.inhparent::regclass,
                       pg_get_expr(c.relpartbound, c.oid))
         FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relispartition AND c.relkind = 'r'",
    )
    .fetch_all(connection)
    .await
}

async fn copy_table(from: &mut PgConnection, to: &mut PgConnection, name: &str, columns: &str) -> Result<u64, OpenError> {
    let mut rows = from.copy_out_raw(&format!("COPY (SELECT {columns} FROM {name}) TO STDOUT (FORMAT binary)")).await?;
    let mut sink = to.copy_in_raw(&format!("COPY {name} ({columns}) FROM STDIN (FORMAT binary)")).await?;
    while let Some(chunk) = rows.try_next().await? {
        sink.send(&chunk[..]).await?;
    }
    Ok(sink.finish().await?)
}

/// Numbers go on where they were.
pub(super) async fn set_sequences(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let statements: Vec<String> = sqlx::query_scalar(
        "SELECT format('SELECT setval(%L, coalesce((SELECT max(%I) FROM %I.%I), 0) + 1, false)',
                       pg_get_serial_sequence(format('%I.%I', n.nspname, c.relname), a.attname), a.attname, n.nspname, c.relname)
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE a.attidentity <> '' AND c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')",
    )
    .fetch_all(&mut *connection)
    .await?;
    for statement in statements {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await?;
    }
    Ok(())
}
