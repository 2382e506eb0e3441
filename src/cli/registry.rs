use std::path::PathBuf;

use clap::Subcommand;
use platform::files::IoContext as _;

use super::{CliError, Context, client::Fabric, output};

#[derive(Debug, Subcommand)]
pub(super) enum RegistryCommand {
    /// Would the official registry accept this server.json?
    Validate {
        /// The document
        file: PathBuf,
    },
}

pub(super) async fn run(context: Context, command: RegistryCommand) -> Result<(), CliError> {
    let RegistryCommand::Validate { file } = command;
    let document = std::fs::read(&file).about("read", &file)?;
    let fabric = Fabric::reach(&context).await?;
    let report = fabric.post_json("/v0.1/validate", document).await;
    fabric.leave().await;
    let report = report?;
    if context.json {
        output::json(&report);
    } else {
        for issue in report["issues"].as_array().into_iter().flatten() {
            let [severity, path, message, rule] = ["severity", "path", "message", "reference"].map(|key| output::text(issue, key));
            let path = if path.is_empty() { "document".into() } else { path };
            output::say(format!("{severity}: {path}: {message} [{rule}]"));
        }
    }
    if report["valid"] == true {
        if !context.json {
            output::say(format!("{} is valid", file.display()));
        }
        return Ok(());
    }
    Err(CliError::Found(format!("{} is not valid", file.display())))
}
