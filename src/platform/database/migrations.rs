//! The schema's history: apply, undo, compare.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use sqlx::{
    PgConnection, Row as _,
    migrate::{Migrate as _, Migrator},
};

static MIGRATOR: Migrator = sqlx::migrate!("../../migrations");

/// The schema could not be brought where it should be.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database was migrated by a newer program.
    #[error(
        "the database has migration {0}, which this program does not know: it was used by a newer version; install that version, or restore a backup"
    )]
    Newer(i64),
    /// An applied migration is not what this program has under that number.
    #[error("migration {0} was changed after it was applied")]
    Changed(i64),
    /// The database refused.
    #[error("could not migrate the database: {0}")]
    Failed(#[source] sqlx::migrate::MigrateError),
    /// The database refused.
    #[error("could not read the state of the migrations: {0}")]
    Database(#[from] sqlx::Error),
    /// `db new` works in a source checkout.
    #[error("there is no folder `migrations` here; `db new` works in a source checkout")]
    NoFolder,
    /// `db new` takes names like `servers_add_stars`.
    #[error("`{0}` is not a name of lowercase letters, digits and underscores")]
    BadName(String),
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] crate::files::FileError),
}

impl From<sqlx::migrate::MigrateError> for MigrateError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        use sqlx::migrate::MigrateError as E;
        match error {
            E::VersionMissing(version) | E::VersionTooNew(version, _) | E::VersionNotPresent(version) => Self::Newer(version),
            E::VersionMismatch(version) => Self::Changed(version),
            other => Self::Failed(other),
        }
    }
}

/// One migration and whether the database has it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The UTC timestamp that orders it.
    pub version: i64,
    /// `servers create`.
    pub description: Cow<'static, str>,
    /// When it was applied, as the database writes it.
    pub applied_at: Option<String>,
}

/// Applies what is missing, under a lock that all replicas share.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), MigrateError> {
    Ok(MIGRATOR.run(connection).await?)
}

/// Undoes the newest migration; gives its version, or `None` where none is applied.
pub async fn revert(connection: &mut PgConnection) -> Result<Option<i64>, MigrateError> {
    let applied: Vec<i64> =
        history(connection).await?.iter().filter(|entry| entry.applied_at.is_some()).map(|entry| entry.version).collect();
    let Some(newest) = applied.last().copied() else { return Ok(None) };
    let target = applied.iter().rev().nth(1).copied().unwrap_or(0);
    MIGRATOR.undo(connection, target).await?;
    Ok(Some(newest))
}

/// Every migration of this program, oldest first; also those that only the database knows.
pub async fn history(connection: &mut PgConnection) -> Result<Vec<Entry>, MigrateError> {
    connection.ensure_migrations_table("_sqlx_migrations").await?;
    let rows = sqlx::query("SELECT version, description, installed_on::text AS at FROM _sqlx_migrations ORDER BY version")
        .fetch_all(connection)
        .await?;
    let mut entries: Vec<Entry> = MIGRATOR
        .iter()
        .filter(|migration| migration.migration_type.is_up_migration())
        .map(|migration| Entry { version: migration.version, description: migration.description.clone(), applied_at: None })
        .collect();
    for row in rows {
        let version: i64 = row.try_get("version")?;
        let applied_at = Some(row.try_get("at")?);
        match entries.iter_mut().find(|entry| entry.version == version) {
            Some(entry) => entry.applied_at = applied_at,
            None => entries.push(Entry { version, description: row.try_get::<String, _>("description")?.into(), applied_at }),
        }
    }
    entries.sort_by_key(|entry| entry.version);
    Ok(entries)
}

/// Writes the two files of a new migration; gives their paths.
pub fn create(name: &str) -> Result<[PathBuf; 2], MigrateError> {
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
        return Err(MigrateError::BadName(name.to_owned()));
    }
    let folder = Path::new("migrations");
    if !folder.is_dir() {
        return Err(MigrateError::NoFolder);
    }
    let stem = format!("{}_{name}", crate::clock::now().format("%Y%m%d%H%M%S"));
    let files = [folder.join(format!("{stem}.up.sql")), folder.join(format!("{stem}.down.sql"))];
    let texts = ["-- Owner: <feature>. <what this is for, in a sentence>\n", "-- Undoes the above.\n"];
    for (file, text) in files.iter().zip(texts) {
        crate::files::IoContext::about(std::fs::write(file, text), "write", file)?;
    }
    Ok(files)
}
