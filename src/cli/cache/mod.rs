mod archive;
mod bars;
mod from;
mod upkeep;

use clap::Subcommand;
use serde_json::{Value, json};

use self::{archive::ArchiveCommand, from::PackageIn, upkeep::Prune};
use super::{
    CliError, Context,
    client::{ClientError, Fabric, encoded},
    output,
};

#[derive(Debug, Subcommand)]
pub(super) enum CacheCommand {
    /// Cache a server's packages with everything that they need, verified, and wait for it
    #[command(disable_version_flag = true)]
    Add(Add),
    /// Show what is cached of a server
    Status {
        /// Its id
        server: String,
    },
    /// List packages that are cached
    List {
        /// Only of this type: npm, pypi, oci, mcpb
        #[arg(long = "type")]
        kind: Option<String>,
        /// Only with this text in their names
        #[arg(long)]
        search: Option<String>,
        /// How many to show (1 to 200)
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Remove what is cached of a server, or one package
    #[command(disable_version_flag = true)]
    Rm {
        /// A server's id, or a package with its type (`npm:@scope/name`)
        what: String,
        /// Of this version of the package
        #[arg(long)]
        version: Option<String>,
    },
    /// Read everything again; what was changed is set aside and fetched anew
    Verify,
    /// Remove what nobody needs
    Prune(Prune),
    /// Show what is in the cache
    Stats,
    #[command(flatten)]
    Archive(ArchiveCommand),
}

#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// A server's id (`io.github.acme/weather`) or a package (`mcp-server-time`, `npm:@scope/name`, `pypi:name`,
    /// `oci:ghcr.io/owner/image:tag`)
    #[arg(required_unless_present = "from")]
    what: Option<String>,
    /// Everything that a file names: the configuration of an MCP client, a package-lock.json, a requirements.txt
    #[arg(long, conflicts_with_all = ["what", "version"])]
    from: Option<std::path::PathBuf>,
    /// This version of the server, or of the package
    #[arg(long)]
    version: Option<String>,
    /// The packages alone, without what an install of them needs
    #[arg(long)]
    alone: bool,
    /// For this platform (`linux/arm64`) instead of the configured ones; may be given several times
    #[arg(long = "target")]
    targets: Vec<String>,
}

pub(super) async fn run(context: Context, command: CacheCommand) -> Result<(), CliError> {
    let fabric = Fabric::reach(&context).await?;
    let done = match command {
        CacheCommand::Add(what) => add(&fabric, &context, what).await,
        CacheCommand::Status { server } => status(&fabric, &context, &server).await,
        CacheCommand::List { kind, search, limit } => upkeep::list(&fabric, &context, kind, search, limit).await,
        CacheCommand::Rm { what, version } => remove(&fabric, &context, &what, version).await,
        CacheCommand::Verify => upkeep::verify(&fabric, &context).await,
        CacheCommand::Prune(order) => upkeep::prune(&fabric, &context, &order).await,
        CacheCommand::Stats => stats(&fabric, &context).await,
        CacheCommand::Archive(command) => archive::run(&fabric, &context, command).await,
    };
    fabric.leave().await;
    done
}

/// `npm:`, `pypi:`, `oci:`, `docker:`, `mcpb:` and `@scope/` mean a package.
pub(super) fn package(what: &str) -> Option<(&str, &str)> {
    let typed = ["npm", "pypi", "oci", "docker", "mcpb"];
    let typed = typed.into_iter().find_map(|kind| Some((kind, what.strip_prefix(kind)?.strip_prefix(':')?)));
    typed.or_else(|| what.starts_with('@').then_some(("npm", what)))
}

/// A server of that id goes before a package of that name.
async fn add(fabric: &Fabric, context: &Context, asked: Add) -> Result<(), CliError> {
    let Add { what, from, version, alone, targets } = asked;
    let (closure, what) = (!alone, what.unwrap_or_default());
    let post = async |packages: Vec<PackageIn>, closure: bool| {
        let body = json!({ "packages": packages, "closure": closure, "targets": targets }).to_string();
        fabric.post_json("/api/mcp/cache", body.into_bytes()).await
    };
    let one = |kind: Option<&str>, identifier: &str| {
        vec![PackageIn { registry_type: kind.map(str::to_owned), identifier: identifier.to_owned(), version: version.clone() }]
    };
    let begun = if let Some(file) = from {
        let found = from::read(&file)?;
        output::note(context.json, format!("{} names {} packages", file.display(), found.packages.len()));
        // What a lock names is all that it needs.
        post(found.packages, closure && !found.is_lock).await?
    } else if let Some((kind, identifier)) = package(&what) {
        post(one(Some(kind), identifier), closure).await?
    } else {
        let body = json!({ "version": version, "closure": closure, "targets": targets }).to_string();
        match fabric.post_json(&format!("/api/mcp/servers/{}/cache", encoded(&what)), body.into_bytes()).await {
            Err(ClientError::Refused { code, .. }) if code == "server_not_found" => post(one(None, &what), closure).await?,
            begun => begun?,
        }
    };
    let Some(job) = begun["job_id"].as_str() else {
        output::done(context.json, "it is cached already", &begun);
        return Ok(());
    };
    let job = bars::wait(fabric, job, context.json).await?;
    if context.json {
        output::json(&job);
        return Ok(());
    }
    for package in job["result"]["packages"].as_array().into_iter().flatten() {
        tell(package);
    }
    Ok(())
}

fn tell(package: &Value) {
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

async fn remove(fabric: &Fabric, context: &Context, what: &str, version: Option<String>) -> Result<(), CliError> {
    let path = match package(what) {
        Some((kind, identifier)) => {
            let version = version.map(|version| format!("&version={}", encoded(&version))).unwrap_or_default();
            format!("/api/mcp/cache?registry_type={kind}&identifier={}{version}", encoded(identifier))
        }
        None => format!("/api/mcp/servers/{}/cache", encoded(what)),
    };
    let removed = fabric.delete(&path).await?;
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
