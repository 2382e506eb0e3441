//! Every row of ours, out of a database at one moment and into another one, in files of PostgreSQL's own binary form.
//! It needs no rights but the owner's, and no program of PostgreSQL's.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{OpenError, upgrade};
use crate::files::IoContext as _;

const CHUNK: usize = 256 << 10;

/// What a backup holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Contents {
    /// The newest migration of the database that it is of.
    pub migration: i64,
    /// What makes partitions that their rows need.
    partitions: Vec<String>,
    /// The tables, those first that others refer to.
    pub tables: Vec<Table>,
}

/// A table in a backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Table {
    /// As the database quotes it.
    pub name: String,
    columns: String,
    /// The file with its rows.
    pub file: String,
    /// How many there are.
    pub rows: u64,
}

/// Writes the rows of every table into files of `folder`, all of one moment.
pub async fn save(connection: &mut PgConnection, folder: &Path) -> Result<Contents, OpenError> {
    let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    sqlx::query("SELECT set_config('fabric.actor', 'system:backup', true)").execute(&mut *transaction).await?;
    let migration: i64 = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success").fetch_one(&mut *transaction).await?;
    let partitions = upgrade::partitions(&mut transaction).await?;
    let mut tables = Vec::new();
    for (name, columns) in upgrade::tables(&mut transaction).await? {
        let file = format!("{:03}.copy", tables.len());
        let path = folder.join(&file);
        let mut out = tokio::fs::File::create(&path).await.about("create", &path).map_err(OpenError::File)?;
        let statement = format!("COPY (SELECT {columns} FROM {name}) TO STDOUT (FORMAT binary)");
        let mut rows = transaction.copy_out_raw(&statement).await?;
        while let Some(chunk) = rows.try_next().await? {
            out.write_all(&chunk).await.about("write", &path).map_err(OpenError::File)?;
        }
        out.sync_all().await.about("write", &path).map_err(OpenError::File)?;
        drop(rows);
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {name}"))).fetch_one(&mut *transaction).await?;
        tables.push(Table { name, columns, file, rows: u64::try_from(count).unwrap_or(0) });
    }
    let references: Vec<(String, String)> = sqlx::query_as(
        "SELECT conrelid::regclass::text, confrelid::regclass::text FROM pg_constraint WHERE contype = 'f' AND conrelid <> confrelid",
    )
    .fetch_all(&mut *transaction)
    .await?;
    Ok(Contents { migration, partitions, tables: ordered(tables, &references) })
}

/// Those first that others refer to.
fn ordered(tables: Vec<Table>, references: &[(String, String)]) -> Vec<Table> {
    let mut left: BTreeMap<String, Table> = tables.into_iter().map(|table| (table.name.clone(), table)).collect();
    let mut done = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let waits = |name: &String| references.iter().any(|(from, to)| from == name && left.contains_key(to));
        let mut free: BTreeSet<String> = left.keys().filter(|name| !waits(name)).cloned().collect();
        if free.is_empty() {
            // Tables that refer to each other in a circle: there are none, and the database would say so.
            free.extend(left.keys().cloned());
        }
        done.extend(free.iter().filter_map(|name| left.remove(name)));
    }
    done
}

/// Puts the rows of a backup in the place of those that are there, all or none.
pub async fn load(connection: &mut PgConnection, folder: &Path, contents: &Contents) -> Result<u64, OpenError> {
    let mut transaction = connection.begin().await?;
    let forced: Vec<String> =
        sqlx::query_scalar("SELECT oid::regclass::text FROM pg_class WHERE relforcerowsecurity").fetch_all(&mut *transaction).await?;
    for statement in &contents.partitions {
        sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(&mut *transaction).await?;
    }
    let every: Vec<String> = upgrade::tables(&mut transaction).await?.into_iter().map(|(name, _)| name).collect();
    let parents: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT inhparent::regclass::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhparent WHERE c.relkind = 'p'",
    )
    .fetch_all(&mut *transaction)
    .await?;
    // Triggers that keep the audit trail as it is, and row-level security, are not for what was there before.
    for table in every.iter().chain(&parents) {
        execute(&mut transaction, format!("ALTER TABLE {table} DISABLE TRIGGER USER")).await?;
    }
    for table in &forced {
        execute(&mut transaction, format!("ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")).await?;
    }
    execute(&mut transaction, format!("TRUNCATE {}", every.join(", "))).await?;
    let mut rows = 0;
    for table in &contents.tables {
        rows += load_table(&mut transaction, folder, table).await?;
    }
    for table in &forced {
        execute(&mut transaction, format!("ALTER TABLE {table} FORCE ROW LEVEL SECURITY")).await?;
    }
    for table in every.iter().chain(&parents) {
        execute(&mut transaction, format!("ALTER TABLE {table} ENABLE TRIGGER USER")).await?;
    }
    upgrade::set_sequences(&mut transaction).await?;
    transaction.commit().await?;
    Ok(rows)
}

async fn load_table(connection: &mut PgConnection, folder: &Path, table: &Table) -> Result<u64, OpenError> {
    let Table { name, columns, file, .. } = table;
    let path = folder.join(file);
    let mut from = tokio::fs::File::open(&path).await.about("read", &path).map_err(OpenError::File)?;
    let mut sink = connection.copy_in_raw(&format!("COPY {name} ({columns}) FROM STDIN (FORMAT binary)")).await?;
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = from.read(&mut buffer).await.about("read", &path).map_err(OpenError::File)?;
        if read == 0 {
            return Ok(sink.finish().await?);
        }
        sink.send(&buffer[..read]).await?;
    }
}

async fn execute(connection: &mut PgConnection, statement: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_come_after_those_that_they_refer_to() {
        let table = |name: &str| Table { name: name.into(), columns: String::new(), file: String::new(), rows: 0 };
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        let tables = ["a", "b", "c", "d"].map(table).into();
        let names: Vec<String> =
            ordered(tables, &[pair("a", "c"), pair("c", "d"), pair("b", "d")]).into_iter().map(|table| table.name).collect();
        assert_eq!(names, ["d", "b", "c", "a"]);
    }
}
