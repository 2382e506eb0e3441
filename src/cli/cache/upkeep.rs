use serde_json::{Value, json};

use crate::cli::{
    CliError, Context,
    client::{Fabric, encoded},
    jobs, output,
};

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a condition of its own")]
pub(in crate::cli) struct Prune {
    /// Packages that were not used for so many days
    #[arg(long)]
    older_than_days: Option<u32>,
    /// The least recently used packages, until the rest measures so many bytes
    #[arg(long)]
    max_bytes: Option<u64>,
    /// Downloads that failed
    #[arg(long)]
    failed: bool,
    /// Packages that no server names and no other package needs
    #[arg(long)]
    unused: bool,
    /// Also packages that were asked for on purpose
    #[arg(long)]
    pinned: bool,
    /// Only tell what would go
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn list(
    fabric: &Fabric,
    context: &Context,
    kind: Option<String>,
    search: Option<String>,
    limit: u32,
) -> Result<(), CliError> {
    let filter = |key: &str, value: Option<String>| value.map(|value| format!("&{key}={}", encoded(&value))).unwrap_or_default();
    let path = format!("/api/mcp/cache?limit={limit}{}{}", filter("registry_type", kind), filter("search", search));
    let found = fabric.get(&path).await?;
    if context.json {
        output::json(&found);
        return Ok(());
    }
    let cells = |package: &Value| {
        let pinned = if package["pinned"] == true { "pinned" } else { "" };
        let [kind, name, version, files, bytes, used] =
            ["registry_type", "identifier", "version", "files", "cache_size_bytes", "last_used_at"].map(|key| output::text(package, key));
        [kind, name, version, files, bytes, used, pinned.to_owned()]
    };
    let rows: Vec<[String; 7]> = found["packages"].as_array().into_iter().flatten().map(cells).collect();
    output::table(["TYPE", "PACKAGE", "VERSION", "FILES", "BYTES", "LAST USED", ""], &rows);
    if found["next_cursor"].is_string() {
        output::say("there are more; --limit, --type and --search choose");
    }
    Ok(())
}

pub(super) async fn verify(fabric: &Fabric, context: &Context) -> Result<(), CliError> {
    let begun = fabric.post("/api/mcp/cache/verify").await?;
    let job = jobs::wait_for(fabric, &output::text(&begun, "job_id"), context.json).await?;
    let result = &job["result"];
    let bad = result["bad"].as_array().map_or(0, Vec::len);
    if context.json {
        output::json(&job);
    } else {
        for file in result["bad"].as_array().into_iter().flatten() {
            let fate = if file["fetched_again"] == true { "fetched again" } else { "set aside" };
            output::say(format!("{} of {} was changed: {fate}", output::text(file, "file"), output::text(file, "package")));
        }
        output::say(format!("read {} files again, {} bytes; {bad} were not what they were", result["checked"], result["bytes"]));
    }
    if result["fetched_again"].as_u64().unwrap_or(0) < bad as u64 {
        return Err(CliError::Found("some files could not be fetched again".into()));
    }
    Ok(())
}

pub(super) async fn prune(fabric: &Fabric, context: &Context, order: &Prune) -> Result<(), CliError> {
    let body = json!({
        "older_than_days": order.older_than_days, "max_bytes": order.max_bytes, "failed": order.failed, "unused": order.unused,
        "pinned": order.pinned, "dry_run": order.dry_run,
    });
    let begun = fabric.post_json("/api/mcp/cache/prune", body.to_string().into_bytes()).await?;
    let job = jobs::wait_for(fabric, &output::text(&begun, "job_id"), context.json).await?;
    if context.json {
        output::json(&job);
        return Ok(());
    }
    let result = &job["result"];
    let packages = result["packages"].as_array().into_iter().flatten();
    let count = packages.clone().count();
    for package in packages {
        output::say(format!("{}, {} bytes", output::text(package, "package"), package["bytes"]));
    }
    let done = if order.dry_run { "would go" } else { "are gone" };
    output::say(format!("{count} packages {done}, {} bytes, and {} failed downloads", result["bytes"], result["failed_files"]));
    Ok(())
}
