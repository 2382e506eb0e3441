//! Packages that are installed.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    CliError, Context,
    client::{Fabric, encoded},
    jobs, output,
};

#[derive(Debug, Subcommand)]
pub(super) enum PackagesCommand {
    /// List what is installed
    List {
        /// How many to show (1 to 200)
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// List what is installed and of which there is a newer version
    Updates,
    /// Bring an installation to the newest version, or all of yours
    #[command(disable_version_flag = true)]
    Upgrade {
        /// A server's id; without one, `--all`
        #[arg(required_unless_present = "all")]
        name: Option<String>,
        /// This version
        #[arg(long, conflicts_with = "all")]
        version: Option<String>,
        /// All of yours
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Uninstall; the server stops
    Rm {
        /// A server's id
        name: String,
    },
}

pub(super) async fn run(context: Context, command: PackagesCommand) -> Result<(), CliError> {
    let fabric = Fabric::reach(&context).await?;
    let done = match command {
        PackagesCommand::List { limit } => list(&fabric, &context, limit).await,
        PackagesCommand::Updates => updates(&fabric, &context).await,
        PackagesCommand::Upgrade { name, version, all: _ } => upgrade(&fabric, &context, name, version).await,
        PackagesCommand::Rm { name } => remove(&fabric, &context, &name).await,
    };
    fabric.leave().await;
    done
}

async fn list(fabric: &Fabric, context: &Context, limit: u32) -> Result<(), CliError> {
    let found = fabric.get(&format!("/api/mcp/packages?limit={limit}")).await?;
    if context.json {
        output::json(&found);
        return Ok(());
    }
    let row = |package: &Value| {
        let mut cells = ["server_id", "status", "registry_type", "name", "resolved_version"].map(|key| output::text(package, key));
        let error = output::text(&package["error"], "message");
        if !error.is_empty() {
            cells[1] = format!("{}: {error}", cells[1]);
        }
        cells
    };
    let rows: Vec<[String; 5]> = found["packages"].as_array().into_iter().flatten().map(row).collect();
    output::table(["SERVER", "STATUS", "TYPE", "PACKAGE", "VERSION"], &rows);
    Ok(())
}

async fn updates(fabric: &Fabric, context: &Context) -> Result<(), CliError> {
    let found = fabric.get("/api/mcp/packages/updates").await?;
    if context.json {
        output::json(&found);
        return Ok(());
    }
    let row = |update: &Value| ["server_id", "name", "installed", "newest"].map(|key| output::text(update, key));
    let rows: Vec<[String; 4]> = found["updates"].as_array().into_iter().flatten().map(row).collect();
    output::table(["SERVER", "PACKAGE", "INSTALLED", "NEWEST"], &rows);
    for one in found["unknown"].as_array().into_iter().flatten() {
        output::note(context.json, format!("{}: {}", output::text(one, "server_id"), output::text(&one["error"], "message")));
    }
    Ok(())
}

async fn upgrade(fabric: &Fabric, context: &Context, name: Option<String>, version: Option<String>) -> Result<(), CliError> {
    let begun: Vec<Value> = if let Some(name) = name {
        let body = json!({ "version": version }).to_string().into_bytes();
        vec![fabric.post_json(&format!("/api/mcp/packages/{}/upgrade", encoded(&name)), body).await?]
    } else {
        fabric.post("/api/mcp/packages/upgrade").await?["packages"].as_array().cloned().unwrap_or_default()
    };
    let mut done = Vec::new();
    for one in &begun {
        done.push(jobs::wait_for(fabric, &output::text(one, "job_id"), context.json).await?["result"].clone());
    }
    let names: Vec<String> =
        done.iter().map(|one| format!("{} {}", output::text(one, "server_id"), output::text(one, "version"))).collect();
    let sentence =
        if names.is_empty() { "nothing is older than it could be".to_owned() } else { format!("installed: {}", names.join(", ")) };
    output::done(context.json, sentence, &json!({ "packages": done }));
    Ok(())
}

async fn remove(fabric: &Fabric, context: &Context, name: &str) -> Result<(), CliError> {
    fabric.delete(&format!("/api/mcp/packages/{}", encoded(name))).await?;
    output::done(context.json, format!("{name} is uninstalled"), &json!({ "server_id": name }));
    Ok(())
}
