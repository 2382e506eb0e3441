use std::io::IsTerminal as _;

use platform::{shutdown::Signals, telemetry};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

use super::{CliError, Context, output::say};
use crate::app::App;

pub(super) async fn run(context: Context) -> Result<(), CliError> {
    telemetry::start_logging(&context.config.log);
    for name in &context.layers.misspelt {
        tracing::warn!("there is no setting {name}; `mcp-fabric doctor` lists those there are");
    }
    raise_file_limit();
    keep_memory_private();
    // A start that is interrupted half-way would leave its database behind, so it is ended in order.
    let mut signals = Signals::listen().map_err(CliError::Runtime)?;
    let app = App::start(context.config).await?;
    let (url, token) = (&app.url, app.token_file.display());
    say(format!("MCP Fabric {} listens on {url}", env!("CARGO_PKG_VERSION")));
    if std::io::stdout().is_terminal() {
        say(format!("  catalogue       {url}/api/mcp/servers?q=git"));
        say(format!("  registry        {url}/v0.1/servers"));
        say(format!("  documentation   {url}/docs"));
    }
    say(format!("  operator token  {token}"));
    let signal = signals.received().await;
    tracing::info!(signal, "stopping");
    app.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// Keys and values are in our memory: no core dump holds them, and no debugger of our own user reads them.
fn keep_memory_private() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none).and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable)) {
        tracing::warn!(%error, "core dumps could not be switched off");
    }
}

/// Shells allow 1024 open files unless asked for more: too few for the connections that we allow.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::debug!(%error, "could not raise the limit of open files");
    }
}
