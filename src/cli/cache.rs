use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    CliError, Context,
    client::{ClientError, Fabric, encoded},
    jobs, output,
};

#[derive(Debug, Subcommand)]
pub(super) enum CacheCommand {
    /// Cache a server's packages with everything that they need, verified, and wait for it
    #[command(disable_version_flag = true)]
    Add {
        /// A server's id (`io.github.acme/weather`) or a package (`mcp-server-time`, `npm:@scope/name`, `pypi:name`)
        what: String,
        /// This version of the server, or of the package
        #[arg(long)]
        version: Option<String>,
        /// The packages alone, without what an install of them needs
        #[arg(long)]
        alone: bool,
    },
    /// Show what is cached of a server
    Status {
        /// Its id
        server: String,
    },
    /// Remove what is cached of a server
    Rm {
        /// Its id
        server: String,
    },
    /// Show what is in the cache
    Stats,
}

pub(super) async fn run(context: Context, command: CacheCommand) -> Result<(), CliError> {
    let fabric = Fabric::reach(&context).await?;
    let done = match command {
        CacheCommand::Add { what, version, alone } => add(&fabric, &context, &what, version, !alone).await,
        CacheCommand::Status { server } => status(&fabric, &context, &server).await,
        CacheCommand::Rm { server } => remove(&fabric, &context, &server).await,
        CacheCommand::Stats => stats(&fabric, &context).await,
    };
    fabric.leave().await;
    done
}

/// A server of that id goes before a package of that name; `npm:`, `pypi:` and `@scope/` mean a package.
async fn add(fabric: &Fabric, context: &Context, what: &str, version: Option<String>, closure: bool) -> Result<(), CliError> {
    let package = ["npm", "pypi"].into_iter().find_map(|kind| Some((kind, what.strip_prefix(kind)?.strip_prefix(':')?)));
    let begun = if let Some((kind, identifier)) = package {
        add_package(fabric, Some(kind), identifier, version, closure).await?
    } else if what.starts_with('@') {
        add_package(fabric, Some("npm"), what, version, closure).await?
    } else {
        let body = json!({ "version": version, "closure": closure }).to_string();
        match fabric.post_json(&format!("/api/mcp/servers/{}/cache", encoded(what)), body.into_bytes()).await {
            Err(ClientError::Refused { code, .. }) if code == "server_not_found" => {
                add_package(fabric, None, what, version, closure).await?
            }
            begun => begun?,
        }
    };
    let Some(job) = begun["job_id"].as_str() else {
        output::done(context.json, "it is cached already", &begun);
        return Ok(());
    };
    let job = jobs::wait(fabric, job, context.json).await?;
    if job["status"] != "complete" {
        return Err(CliError::Found(format!("it is {}: {}", output::text(&job, "status"), output::text(&job["error"], "message"))));
    }
    if context.json {
        output::json(&job);
        return Ok(());
    }
    for package in job["result"]["packages"].as_array().into_iter().flatten() {
        let [kind, name, version] = ["registry_type", "identifier", "version"].map(|key| output::text(package, key));
        let files = package["files"].as_array().map_or(0, Vec::len);
        let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
        output::say(format!("verified {kind} {name} {version}, {files}"));
        if let Some(closure) = package["closure"].as_object() {
            output::say(format!(
                "  with what it needs: {} packages, {} bytes, chosen by {}",
                closure["packages"],
                closure["bytes"],
                output::text(&package["closure"], "resolver")
            ));
        }
    }
    Ok(())
}

async fn add_package(
    fabric: &Fabric,
    kind: Option<&str>,
    identifier: &str,
    version: Option<String>,
    closure: bool,
) -> Result<Value, CliError> {
    let body = json!({ "registry_type": kind, "identifier": identifier, "version": version, "closure": closure }).to_string();
    Ok(fabric.post_json("/api/mcp/cache", body.into_bytes()).await?)
}

async fn status(fabric: &Fabric, context: &Context, server: &str) -> Result<(), CliError> {
    let status = fabric.get(&format!("/api/mcp/servers/{}/cache/status", encoded(server))).await?;
    if context.json {
        output::json(&status);
        return Ok(());
    }
    let rows: Vec<[String; 5]> = status["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|package| {
            let closure = package["closure"].as_object().map_or_else(String::new, |closure| {
                format!("{} packages, {} files missing", closure["packages"].as_array().map_or(0, Vec::len), closure["missing"])
            });
            let name = format!(
                "{}:{} {}",
                output::text(package, "registry_type"),
                output::text(package, "identifier"),
                output::text(package, "version")
            );
            [
                name,
                output::text(package, "status"),
                output::text(package, "cache_size_bytes"),
                closure,
                output::text(&package["error"], "message"),
            ]
        })
        .collect();
    output::table(["PACKAGE", "STATUS", "BYTES", "NEEDS", "ERROR"], &rows);
    Ok(())
}

async fn remove(fabric: &Fabric, context: &Context, server: &str) -> Result<(), CliError> {
    let removed = fabric.delete(&format!("/api/mcp/servers/{}/cache", encoded(server))).await?;
    let sentence = format!("removed {} files, {} bytes are free again", removed["removed"], removed["freed_bytes"]);
    output::done(context.json, sentence, &removed);
    Ok(())
}

async fn stats(fabric: &Fabric, context: &Context) -> Result<(), CliError> {
    let stats = fabric.get("/api/mcp/cache/stats").await?;
    if context.json {
        output::json(&stats);
        return Ok(());
    }
    let row = |name: &str, sums: &Value| -> [String; 6] {
        let cell = |key: &str| output::text(sums, key);
        [name.to_owned(), cell("packages"), cell("versions"), cell("files"), cell("bytes"), cell("hits")]
    };
    let mut rows: Vec<[String; 6]> = stats["by_type"].as_object().into_iter().flatten().map(|(kind, sums)| row(kind, sums)).collect();
    rows.push(row("total", &stats["total"]));
    output::table(["TYPE", "PACKAGES", "VERSIONS", "FILES", "BYTES", "HITS"], &rows);
    Ok(())
}
