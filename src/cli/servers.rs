use clap::Subcommand;
use serde_json::Value;

use super::{
    CliError, Context,
    client::{Fabric, encoded},
    output,
};

#[derive(Debug, Subcommand)]
pub(super) enum ServersCommand {
    /// Search the catalogue by name, title and description
    Search {
        /// What to look for; without it, everything by name
        words: Vec<String>,
        /// How many to show (1 to 200)
        #[arg(long, default_value_t = 20)]
        limit: u32,
        /// Only servers of this category
        #[arg(long)]
        category: Option<String>,
    },
    /// Show one server: what it is, its packages, and what it needs
    Show {
        /// Its id, such as io.github.acme/weather
        id: String,
    },
}

pub(super) async fn run(context: Context, command: ServersCommand) -> Result<(), CliError> {
    let fabric = Fabric::reach(&context).await?;
    let done = match command {
        ServersCommand::Search { words, limit, category } => search(&fabric, &context, &words.join(" "), limit, category).await,
        ServersCommand::Show { id } => show(&fabric, &context, &id).await,
    };
    fabric.leave().await;
    done
}

async fn search(fabric: &Fabric, context: &Context, words: &str, limit: u32, category: Option<String>) -> Result<(), CliError> {
    let category = category.map(|category| format!("&category={}", encoded(&category))).unwrap_or_default();
    let found = fabric.get(&format!("/api/mcp/servers?q={}&limit={limit}{category}", encoded(words))).await?;
    if context.json {
        output::json(&found);
        return Ok(());
    }
    let servers = found["servers"].as_array().cloned().unwrap_or_default();
    let rows: Vec<[String; 4]> = servers
        .iter()
        .map(|server| {
            let types = server["registry_types"].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(",");
            [output::text(server, "id"), output::text(server, "version"), types, output::clipped(&output::text(server, "description"), 70)]
        })
        .collect();
    output::table(["ID", "VERSION", "PACKAGES", "DESCRIPTION"], &rows);
    output::say(format!("{} of {}", rows.len(), found["total"]));
    Ok(())
}

async fn show(fabric: &Fabric, context: &Context, id: &str) -> Result<(), CliError> {
    let server = fabric.get(&format!("/api/mcp/servers/{}", encoded(id))).await?;
    let needs = fabric.get(&format!("/api/mcp/servers/{}/credentials", encoded(id))).await?;
    if context.json {
        let mut server = server;
        server["credentials"] = needs["credentials"].clone();
        output::json(&server);
        return Ok(());
    }
    for (label, key) in [
        ("id", "id"),
        ("uuid", "uuid"),
        ("title", "title"),
        ("version", "version"),
        ("status", "status"),
        ("origin", "origin"),
        ("about", "description"),
    ] {
        output::say(format!("{label:8} {}", output::clipped(&output::text(&server, key), 400)));
    }
    for package in server["packages"].as_array().into_iter().flatten() {
        let version = package["version"].as_str().map(|version| format!(" {version}")).unwrap_or_default();
        output::say(format!(
            "package  {} {}{version} ({})",
            output::text(package, "registry_type"),
            output::text(package, "identifier"),
            output::text(package, "transport")
        ));
    }
    for remote in server["remotes"].as_array().into_iter().flatten() {
        output::say(format!("remote   {} {}", output::text(remote, "type"), output::text(remote, "url")));
    }
    for need in needs["credentials"].as_array().into_iter().flatten() {
        let marks: Vec<&str> =
            [("required", "required"), ("secret", "secret")].iter().filter(|(key, _)| need[*key] == true).map(|(_, mark)| *mark).collect();
        output::say(format!(
            "needs    {} {} {} {}",
            output::text(need, "in"),
            output::text(need, "env_var"),
            marks.join(","),
            output::text(need, "description")
        ));
    }
    Ok(())
}
