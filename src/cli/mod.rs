//! The command line: a client of the running fabric, with `serve`, `db` and `doctor` for the rest.

mod audit;
mod authorize;
mod backup;
mod cache;
mod client;
mod client_files;
mod connect;
mod credentials;
mod db;
mod doctor;
mod factory;
mod jobs;
mod ordered;
mod output;
mod packages;
mod registry;
mod run;
mod serve;
mod servers;
mod sync;
mod users;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use platform::{
    Config,
    config::{ConfigError, Layers, SETTINGS, Source},
    database::{OpenError, managed::ManagedError, migrations::MigrateError, roles::RolesError},
};
use secrecy::SecretString;

use crate::app::StartError;

/// The exit code for a wrong configuration (`EX_CONFIG` of sysexits.h): starting again will not mend it.
const EXIT_CONFIGURATION: u8 = 78;

/// One self-hosted program for MCP servers: registry mirror, package cache, vault, runtime, gateway and factory.
///
/// Without a command it serves. Every setting has a name in the environment (`mcp-fabric doctor` lists
/// them) and can be given as `--set NAME=VALUE`.
#[derive(Debug, Parser)]
#[command(name = "mcp-fabric", version, propagate_version = true)]
pub struct Cli {
    /// Where HTTP is served [`FABRIC_LISTEN`]
    #[arg(long, global = true, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where state is kept [`FABRIC_DATA_DIR`]
    #[arg(long, global = true, value_name = "FOLDER")]
    data_dir: Option<String>,
    /// Any other setting, by its name in the environment; not for secrets, which others could see
    #[arg(long, global = true, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// The fabric to talk to; without it, the one of the data folder
    #[arg(long, global = true, env = "FABRIC_URL", value_name = "URL")]
    url: Option<String>,
    /// The token to send it; without it, the operator's of the data folder
    #[arg(long, global = true, env = "FABRIC_TOKEN", value_name = "TOKEN", hide_env_values = true, hide = true, value_parser = secret)]
    token: Option<SecretString>,
    /// Print JSON for programs
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve (what happens without a command)
    Serve,
    /// The mirror of the upstream registry
    #[command(subcommand)]
    Sync(sync::SyncCommand),
    /// The catalogue
    #[command(subcommand)]
    Servers(servers::ServersCommand),
    /// The package cache
    #[command(subcommand)]
    Cache(cache::CacheCommand),
    /// Packages that are installed
    #[command(subcommand)]
    Packages(packages::PackagesCommand),
    #[command(name = "run")]
    Run(run::Run),
    Ps(run::Ps),
    Logs(run::Logs),
    Stop(run::Stop),
    Tools(run::Tools),
    Call(run::Call),
    Authorize(authorize::Authorize),
    Generate(factory::Generate),
    /// Servers that are made here
    #[command(subcommand)]
    Factory(factory::FactoryCommand),
    Connect(connect::Connect),
    /// Files of MCP clients: Claude, VS Code, Cursor
    #[command(subcommand)]
    Client(client_files::ClientCommand),
    /// Accounts
    #[command(subcommand)]
    Users(users::UsersCommand),
    /// Service tokens
    #[command(subcommand)]
    Tokens(users::TokensCommand),
    /// The credential vault and its keys
    #[command(subcommand)]
    Credentials(credentials::CredentialsCommand),
    /// The audit trail
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Long work
    #[command(subcommand)]
    Jobs(jobs::JobsCommand),
    /// Registry documents
    #[command(subcommand)]
    Registry(registry::RegistryCommand),
    /// The database
    #[command(subcommand)]
    Db(db::DbCommand),
    /// Show every setting in force and what is wrong
    Doctor,
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// A command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The system gave no threads.
    #[error("could not start: {0}")]
    Runtime(#[source] std::io::Error),
    /// A setting cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `--set` takes names of settings.
    #[error("--set {0}: is not of the form NAME=VALUE with the name of a setting; `mcp-fabric doctor` lists them")]
    UnknownSetting(String),
    /// The fabric cannot start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The fabric cannot be reached.
    #[error(transparent)]
    Client(#[from] client::ClientError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] platform::files::FileError),
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// Standard input cannot be read.
    #[error("could not read standard input: {0}")]
    Input(#[source] std::io::Error),
    /// The vault refused.
    #[error(transparent)]
    Vault(#[from] ::credentials::CredentialsError),
    /// A command found what it was to look for.
    #[error("{0}")]
    Found(String),
}

impl From<ManagedError> for CliError {
    fn from(error: ManagedError) -> Self {
        Self::Database(error.into())
    }
}

impl From<MigrateError> for CliError {
    fn from(error: MigrateError) -> Self {
        Self::Database(error.into())
    }
}

impl From<RolesError> for CliError {
    fn from(error: RolesError) -> Self {
        Self::Database(error.into())
    }
}

impl CliError {
    fn is_configuration(&self) -> bool {
        match self {
            Self::Config(_) | Self::UnknownSetting(_) => true,
            Self::Start(error) => error.is_configuration(),
            Self::Database(error) => error.is_configuration(),
            _ => false,
        }
    }
}

/// Says why a server could not be started, where its log is kept; the exit code is what shells use for this.
pub fn not_launched(why: &str) -> ExitCode {
    output::complain(why);
    ExitCode::from(126)
}

/// Says what went wrong, on standard error, and gives the exit code.
pub fn fail(error: &CliError) -> ExitCode {
    output::complain(error);
    ExitCode::from(if error.is_configuration() { EXIT_CONFIGURATION } else { 1 })
}

/// What every command is given.
struct Context {
    layers: Layers,
    config: Config,
    url: Option<String>,
    token: Option<SecretString>,
    json: bool,
}

#[expect(clippy::unnecessary_wraps, reason = "what clap takes")]
fn secret(text: &str) -> Result<SecretString, std::convert::Infallible> {
    Ok(text.into())
}

/// Runs one command.
pub async fn run(cli: Cli) -> Result<(), CliError> {
    let command = cli.command.unwrap_or(Command::Serve);
    if let Command::Completions { shell } = command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "mcp-fabric", &mut script);
        output::say(String::from_utf8_lossy(&script).trim_end());
        return Ok(());
    }
    let layers = Layers::load(&flags(cli.listen, cli.data_dir, cli.set)?)?;
    if matches!(command, Command::Doctor) {
        return doctor::run(&layers, cli.json).await;
    }
    if matches!(command, Command::Credentials(credentials::CredentialsCommand::NewKey)) {
        credentials::new_key(cli.json);
        return Ok(());
    }
    let config = Config::from_layers(&layers)?;
    let context = Context { layers, config, url: cli.url, token: cli.token, json: cli.json };
    match command {
        Command::Serve => Box::pin(serve::run(context)).await,
        Command::Sync(command) => sync::run(context, command).await,
        Command::Servers(command) => servers::run(context, command).await,
        Command::Cache(command) => cache::run(context, command).await,
        Command::Packages(command) => packages::run(context, command).await,
        Command::Run(asked) => run::run(context, asked).await,
        Command::Ps(asked) => run::ps(context, asked).await,
        Command::Logs(asked) => run::logs(context, asked).await,
        Command::Stop(asked) => run::stop(context, asked).await,
        Command::Tools(asked) => run::tools(context, asked).await,
        Command::Call(asked) => run::call(context, asked).await,
        Command::Authorize(asked) => authorize::authorize(context, asked).await,
        Command::Generate(asked) => factory::generate(context, asked).await,
        Command::Factory(command) => factory::factory(context, command).await,
        Command::Connect(asked) => connect::connect(context, asked).await,
        Command::Client(command) => client_files::run(context, command).await,
        Command::Users(command) => users::run(context, command).await,
        Command::Tokens(command) => users::run_tokens(context, command).await,
        Command::Credentials(command) => credentials::run(context, command).await,
        Command::Audit(command) => audit::run(context, command).await,
        Command::Jobs(command) => jobs::run(context, command).await,
        Command::Registry(command) => registry::run(context, command).await,
        Command::Db(command) => db::run(context, command).await,
        Command::Doctor | Command::Completions { .. } => Ok(()),
    }
}

/// The settings that the command line gives.
fn flags(listen: Option<String>, data_dir: Option<String>, set: Vec<String>) -> Result<Vec<(&'static str, String)>, CliError> {
    let named = [("FABRIC_LISTEN", listen), ("FABRIC_DATA_DIR", data_dir)];
    let mut flags: Vec<(&'static str, String)> = named.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    for pair in set {
        let found = pair.split_once('=').and_then(|(key, value)| Some((SETTINGS.iter().find(|setting| setting.key == key)?, value)));
        let Some((setting, value)) = found else {
            // What was given may be a secret with a misspelt name.
            return Err(CliError::UnknownSetting(pair.split('=').next().unwrap_or_default().to_owned()));
        };
        flags.push((setting.key, value.to_owned()));
    }
    Ok(flags)
}

/// The settings of a fabric that serves one command and nobody else.
fn private_layers(layers: &Layers) -> Layers {
    let mut private = layers.clone();
    for (key, value) in [
        ("FABRIC_LISTEN", "127.0.0.1:0"),
        ("FABRIC_SYNC_ON_START", "false"),
        ("FABRIC_SYNC_CRON", "off"),
        ("INSTALL_ON_START", "off"),
        ("FABRIC_TLS_CERT", ""),
        ("FABRIC_TLS_KEY", ""),
        ("FABRIC_INTERNAL_LISTEN", "off"),
        ("MCP_FACTORY_PORT", ""),
    ] {
        private.set(key, value, Source::Flag);
    }
    private
}
