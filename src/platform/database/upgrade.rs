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

struct Table {
    name: String,
    columns: String,
}

async fn copy(old: &Cluster, next: &Cluster) -> Result<u64, OpenError> {
    let mut from = old.admin_of_database().connect().await?;
    let mut to = next.admin_of_database().connect().await?;
    // Rows come table by table, so references hold only at the end; row-level security is not for copies.
    sqlx::raw_sql("SET session_replication_role = replica").execute(&mut to).await?;
    let tables = tables(&mut from).await?;
    // Migrations may have put rows there.
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    sqlx::raw_sql(AssertSqlSafe(format!("TRUNCATE {}", names.join(", ")))).execute(&mut to).await?;
    let mut rows = 0;
    for table in &tables {
        rows += copy_table(&mut from, &mut to, table).await?;
    }
    set_sequences(&mut to).await?;
    Ok(rows)
}

/// Every table of ours with the columns that hold what was put there; names are quoted by the database.
async fn tables(connection: &mut PgConnection) -> Result<Vec<Table>, sqlx::Error> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT format('%I.%I', n.nspname, c.relname),
                (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '')
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'public') AND n.nspname NOT LIKE 'pg\\_%'
         ORDER BY 1",
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(name, columns)| Table { name, columns }).collect())
}

async fn copy_table(from: &mut PgConnection, to: &mut PgConnection, table: &Table) -> Result<u64, OpenError> {
    let Table { name, columns } = table;
    let mut rows = from.copy_out_raw(&format!("COPY (SELECT {columns} FROM {name}) TO STDOUT (FORMAT binary)")).await?;
    let mut sink = to.copy_in_raw(&format!("COPY {name} ({columns}) FROM STDIN (FORMAT binary)")).await?;
    while let Some(chunk) = rows.try_next().await? {
        sink.send(&chunk[..]).await?;
    }
    Ok(sink.finish().await?)
}

/// Numbers go on where they were.
async fn set_sequences(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
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
