use clap::Subcommand;
use platform::{
    database::{
        Owner,
        managed::{Cluster, Options},
        migrations,
        roles::Roles,
        upgrade,
    },
    files,
};
use serde_json::json;

use super::{CliError, Context, output};
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
    /// Make the roles that the service works as, or print the SQL for an administrator
    Setup,
}

pub(super) async fn run(context: Context, command: DbCommand) -> Result<(), CliError> {
    if let DbCommand::New { name } = &command {
        for file in migrations::create(name)? {
            output::say(file.display());
        }
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
        (Some(running), DbCommand::Stop | DbCommand::Upgrade | DbCommand::Revert) => {
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
            output::say("it is not running");
            return Ok(());
        }
        DbCommand::Stop => return Ok(Cluster::start(Options::of(&context.config)).await?.stop().await?),
        _ => {}
    }
    let cluster = Cluster::start(Options::of(&context.config)).await?;
    let done = on(context, &Owner::of_cluster(&cluster), command).await;
    if !cluster.was_running() {
        cluster.stop().await?;
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
            output::say("the database is up to date");
        }
        DbCommand::Revert => match migrations::revert(&mut connection).await? {
            Some(version) => output::say(format!("undid migration {version}")),
            None => output::say("no migration is applied"),
        },
        DbCommand::Setup => setup(context, &mut connection).await?,
        DbCommand::Upgrade => output::say("nothing to upgrade here: DATABASE_URL names a server that somebody else looks after"),
        DbCommand::Stop => output::say("nothing to stop here: DATABASE_URL names a server that somebody else looks after"),
        DbCommand::New { .. } => {}
    }
    Ok(())
}

async fn upgrade(context: &Context) -> Result<(), CliError> {
    match upgrade::upgrade(Options::of(&context.config)).await? {
        Some(done) => {
            output::say(format!("moved {} rows from PostgreSQL {} to {}", done.rows, done.from, done.to));
            output::say(format!("the old cluster is kept in {}; remove it when all is well", done.kept.display()));
        }
        None => output::say("the managed database runs on the newest PostgreSQL there is"),
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
        Ok(()) => output::say("the roles are set up"),
        Err(error) if error.is_not_allowed() => {
            output::say("-- The owner of the database may not make roles. Run this as an administrator, then `mcp-fabric db setup` again:");
            output::say(roles.setup_sql(connection).await?);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
