use std::path::PathBuf;

use clap::Subcommand;
use platform::{
    database::{
        Owner,
        managed::{Cluster, Options, STOP_AT_LEISURE},
        migrations,
        roles::Roles,
        upgrade,
    },
    files,
};
use serde_json::json;

use super::{CliError, Context, backup, output};
use crate::app;

#[derive(Debug, Subcommand)]
pub(super) enum DbCommand {
    /// Show the database and which migrations it lacks
    Status,
    /// Apply the migrations that the database lacks (`serve` does that by itself)
    Migrate,
    /// Undo the newest migration
    Revert,
    /// List every migration
    History,
    /// Write the two files of a new migration
    New {
        /// Such as `servers_add_stars`
        name: String,
    },
    /// Move the managed database to the newest PostgreSQL there is
    Upgrade,
    /// Stop the managed database, should a killed program have left it up
    Stop,
    /// Write the database, the keys (under a passphrase that is read from standard input) and, if asked for, the package
    /// cache into a file; the program may go on meanwhile
    Backup {
        /// The file
        file: PathBuf,
        /// Also the package cache
        #[arg(long)]
        cache: bool,
    },
    /// Put a backup into an empty data folder or database
    Restore {
        /// The file
        file: PathBuf,
        /// In the place of what is there
        #[arg(long)]
        replace: bool,
    },
    /// Make the roles that the service works as, or print the SQL for an administrator
    Setup,
}

pub(super) async fn run(context: Context, command: DbCommand) -> Result<(), CliError> {
    if let DbCommand::New { name } = &command {
        let files: Vec<String> = migrations::create(name)?.iter().map(|file| file.display().to_string()).collect();
        output::done(context.json, files.join("\n"), &json!({ "files": files }));
        return Ok(());
    }
    let Some(url) = &context.config.database.url else {
        return managed(&context, command).await;
    };
    on(&context, &Owner::from_url(url)?, command).await
}

/// Beside a running program its database is only connected to; otherwise nothing else may start it meanwhile.
async fn managed(context: &Context, command: DbCommand) -> Result<(), CliError> {
    let data = &context.config.data_dir;
    let running = app::running(data);
    let _lock = match (&running, &command) {
        (Some(running), DbCommand::Stop | DbCommand::Upgrade | DbCommand::Revert | DbCommand::Restore { .. }) => {
            return Err(CliError::Found(format!("stop the program first (pid {})", running.pid)));
        }
        (Some(_), _) => None,
        (None, _) => {
            files::private_folder(data)?;
            Some(app::lock(data)?)
        }
    };
    match command {
        DbCommand::Upgrade => return upgrade(context).await,
        DbCommand::Stop if !Cluster::place(&Options::of(&context.config))?.join("postmaster.pid").is_file() => {
            output::done(context.json, "it is not running", &json!({ "stopped": false }));
            return Ok(());
        }
        DbCommand::Stop => {
            Cluster::start(Options::of(&context.config)).await?.stop(STOP_AT_LEISURE).await?;
            output::done(context.json, "the managed database is stopped", &json!({ "stopped": true }));
            return Ok(());
        }
        _ => {}
    }
    let cluster = Cluster::start(Options::of(&context.config)).await?;
    let done = on(context, &Owner::of_cluster(&cluster), command).await;
    if !cluster.was_running() {
        cluster.stop(STOP_AT_LEISURE).await?;
    }
    done
}

async fn on(context: &Context, owner: &Owner, command: DbCommand) -> Result<(), CliError> {
    let mut connection = owner.connect().await?;
    match command {
        DbCommand::Status => {
            let history = migrations::history(&mut connection).await?;
            let missing = history.iter().filter(|entry| entry.applied_at.is_none()).count();
            let newest = history.iter().rev().find(|entry| entry.applied_at.is_some()).map(|entry| entry.version);
            let server = owner.server_version(&mut connection).await?;
            if context.json {
                output::json(
                    &json!({ "server_version": server, "applied": history.len() - missing, "missing": missing, "newest": newest }),
                );
            } else {
                output::say(format!("PostgreSQL {server}; {} migrations applied, {missing} missing", history.len() - missing));
            }
        }
        DbCommand::History => show_history(context, &migrations::history(&mut connection).await?),
        DbCommand::Migrate => {
            migrations::migrate(&mut connection).await?;
            output::done(context.json, "the database is up to date", &json!({ "missing": 0 }));
        }
        DbCommand::Revert => {
            let version = migrations::revert(&mut connection).await?;
            let sentence = version.map_or_else(|| "no migration is applied".to_owned(), |version| format!("undid migration {version}"));
            output::done(context.json, sentence, &json!({ "undone": version }));
        }
        DbCommand::Setup => setup(context, &mut connection).await?,
        DbCommand::Backup { file, cache } => backup::save(context, &mut connection, &file, cache).await?,
        DbCommand::Restore { file, replace } => backup::restore(context, &mut connection, &file, replace).await?,
        DbCommand::Upgrade | DbCommand::Stop => {
            let sentence = "nothing to do here: DATABASE_URL names a server that somebody else looks after";
            output::done(context.json, sentence, &json!({ "managed": false }));
        }
        DbCommand::New { .. } => {}
    }
    Ok(())
}

async fn upgrade(context: &Context) -> Result<(), CliError> {
    match upgrade::upgrade(Options::of(&context.config)).await? {
        Some(done) => {
            let kept = done.kept.display();
            let sentence = format!(
                "moved {} rows from PostgreSQL {} to {}\nthe old cluster is kept in {kept}; remove it when all is well",
                done.rows, done.from, done.to
            );
            let members = json!({ "rows": done.rows, "from": done.from, "to": done.to, "kept": kept.to_string() });
            output::done(context.json, sentence, &members);
        }
        None => output::done(context.json, "the managed database runs on the newest PostgreSQL there is", &json!({ "rows": null })),
    }
    Ok(())
}

fn show_history(context: &Context, history: &[migrations::Entry]) {
    if context.json {
        let entries: Vec<_> = history
            .iter()
            .map(|entry| json!({ "version": entry.version, "description": entry.description, "applied_at": entry.applied_at }))
            .collect();
        output::json(&json!({ "migrations": entries }));
        return;
    }
    let rows: Vec<[String; 3]> = history
        .iter()
        .map(|entry| {
            [entry.version.to_string(), entry.description.to_string(), entry.applied_at.clone().unwrap_or_else(|| "not applied".into())]
        })
        .collect();
    output::table(["VERSION", "MIGRATION", "APPLIED"], &rows);
}

/// Sets the roles up where the owner of the database may; else says what an administrator has to run.
async fn setup(context: &Context, connection: &mut sqlx::PgConnection) -> Result<(), CliError> {
    migrations::migrate(connection).await?;
    let roles = Roles::load(&context.config.data_dir, &context.config.database.role_prefix)?;
    match roles.reset(connection).await {
        Ok(()) => output::done(context.json, "the roles are set up", &json!({ "set_up": true })),
        Err(error) if error.is_not_allowed() => {
            let sql = roles.setup_sql(connection).await?;
            let hint = "-- The owner of the database may not make roles. Run this as an administrator, then `mcp-fabric db setup` again:";
            output::done(context.json, format!("{hint}\n{sql}"), &json!({ "set_up": false, "sql": sql }));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
