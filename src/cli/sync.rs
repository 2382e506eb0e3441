use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use platform::files::IoContext as _;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{CliError, Context, client::Fabric, jobs, output};

/// Entries sent to the fabric in one request.
const IMPORT_BATCH: usize = 500;
/// Bytes of a request, but for a single entry that is larger.
const IMPORT_BYTES: usize = 16 << 20;

#[derive(Debug, Subcommand)]
pub(super) enum SyncCommand {
    /// Mirror the upstream registry now, and wait for it
    Run {
        /// What to read; without it, what is due
        #[arg(long)]
        mode: Option<Mode>,
        /// Start it and do not wait
        #[arg(long)]
        no_wait: bool,
    },
    /// Show how the mirror stands
    Status,
    /// List past runs
    History {
        /// How many to show (1 to 200)
        #[arg(long, default_value_t = 10)]
        limit: u32,
    },
    /// Take pages of a registry from a file or from every .json file of a folder
    Import {
        /// What `GET /v0.1/servers` of a registry answered
        path: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Mode {
    /// Everything
    Full,
    /// What changed since the last run
    Incremental,
    /// Everything, removing what upstream erased
    Reconcile,
}

pub(super) async fn run(context: Context, command: SyncCommand) -> Result<(), CliError> {
    let fabric = Fabric::reach(&context).await?;
    let done = match command {
        SyncCommand::Run { mode, no_wait } => run_now(&fabric, &context, mode, no_wait).await,
        SyncCommand::Status => status(&fabric, &context).await,
        SyncCommand::History { limit } => history(&fabric, &context, limit).await,
        SyncCommand::Import { path } => import(&fabric, &context, &path).await,
    };
    fabric.leave().await;
    done
}

async fn run_now(fabric: &Fabric, context: &Context, mode: Option<Mode>, no_wait: bool) -> Result<(), CliError> {
    let mode = mode.and_then(|mode| mode.to_possible_value()).map(|mode| format!("?mode={}", mode.get_name())).unwrap_or_default();
    let run = fabric.post(&format!("/api/mcp/sync/trigger{mode}")).await?;
    if no_wait {
        output::json(&run);
        return Ok(());
    }
    let job = output::text(&run, "job_id");
    let job = jobs::wait(fabric, &job, context.json).await?;
    if context.json {
        output::json(&job);
    } else if let Some(result) = job["result"].as_object() {
        let count = |key: &str| result.get(key).map(ToString::to_string).unwrap_or_default();
        output::say(format!(
            "{} sync: {} entries on {} pages; {} new, {} changed, {} removed, {} skipped",
            output::text(&run, "kind"),
            count("seen"),
            count("pages"),
            count("inserted"),
            count("updated"),
            count("deleted"),
            count("skipped")
        ));
    }
    if job["status"] == "complete" {
        Ok(())
    } else {
        Err(CliError::Found(format!("the sync is {}: {}", output::text(&job, "status"), output::text(&job["error"], "message"))))
    }
}

async fn status(fabric: &Fabric, context: &Context) -> Result<(), CliError> {
    let status = fabric.get("/api/mcp/sync/status").await?;
    if context.json {
        output::json(&status);
        return Ok(());
    }
    output::say(format!("upstream   {}", output::text(&status["upstream"], "url")));
    output::say(format!("catalogue  {} servers, {} versions", status["servers"], status["versions"]));
    for (label, key) in [("running", "current"), ("last", "last")] {
        let run = &status[key];
        if run.is_object() {
            output::say(format!(
                "{label:10} {} {} since {}, {} pages",
                output::text(run, "kind"),
                output::text(run, "status"),
                output::text(run, "started_at"),
                run["pages"]
            ));
            if let Some(error) = run["error"]["message"].as_str() {
                output::say(format!("           {error}"));
            }
        }
    }
    output::say(format!("next run   {}", output::text(&status, "next_run_at")));
    Ok(())
}

async fn history(fabric: &Fabric, context: &Context, limit: u32) -> Result<(), CliError> {
    let found = fabric.get(&format!("/api/mcp/sync/history?limit={limit}")).await?;
    if context.json {
        output::json(&found);
        return Ok(());
    }
    let keys = ["kind", "status", "started_at", "finished_at", "pages", "inserted", "updated", "deleted", "skipped"];
    let runs = found["runs"].as_array().into_iter().flatten();
    let rows: Vec<[String; 9]> = runs.map(|run| keys.map(|key| output::text(run, key))).collect();
    output::table(["KIND", "STATUS", "STARTED", "FINISHED", "PAGES", "NEW", "CHANGED", "REMOVED", "SKIPPED"], &rows);
    Ok(())
}

async fn import(fabric: &Fabric, context: &Context, path: &Path) -> Result<(), CliError> {
    let batches = batches(&files(path)?)?;
    let Some(last) = batches.len().checked_sub(1) else {
        return Err(CliError::Found(format!("{} holds no entries of a registry", path.display())));
    };
    let bar = jobs::bar(context.json);
    bar.set_prefix("pages");
    bar.set_length(batches.len() as u64);
    let mut run = Value::Null;
    for (number, batch) in batches.into_iter().enumerate() {
        let named = run["run_id"].as_str().map(|id| format!("run_id={id}&")).unwrap_or_default();
        run = fabric.post_json(&format!("/api/mcp/sync/import?{named}last={}", number == last), batch).await?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    if context.json {
        output::json(&run);
        return Ok(());
    }
    output::say(format!("{} entries: {} new, {} changed, {} skipped", run["seen"], run["inserted"], run["updated"], run["skipped"]));
    for skipped in run["skipped_entries"].as_array().into_iter().flatten() {
        output::say(format!(
            "  skipped {} {}: {}",
            output::text(skipped, "name"),
            output::text(skipped, "version"),
            output::text(skipped, "reason")
        ));
    }
    Ok(())
}

/// The file, or the `.json` files of the folder by name.
fn files(path: &Path) -> Result<Vec<PathBuf>, CliError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).about("read", path)?;
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    files.sort();
    Ok(files)
}

/// The entries of all files, in request bodies of a bearable size.
fn batches(files: &[PathBuf]) -> Result<Vec<Vec<u8>>, CliError> {
    let mut batches = Vec::new();
    for file in files {
        let bytes = std::fs::read(file).about("read", file)?;
        // The fabric passes over an entry with broken characters; the others count.
        let text = String::from_utf8_lossy(&bytes);
        let entries = entries(text.trim_start_matches('\u{feff}'))
            .map_err(|error| CliError::Found(format!("{} is not a page of a registry: {error}", file.display())))?;
        let mut batch: Vec<&str> = Vec::new();
        for entry in entries {
            let bytes: usize = batch.iter().map(|entry| entry.len()).sum();
            if batch.len() == IMPORT_BATCH || bytes + entry.get().len() > IMPORT_BYTES {
                batches.push(body(&std::mem::take(&mut batch)));
            }
            batch.push(entry.get());
        }
        if !batch.is_empty() {
            batches.push(body(&batch));
        }
    }
    Ok(batches)
}

fn body(entries: &[&str]) -> Vec<u8> {
    format!(r#"{{"servers":[{}]}}"#, entries.join(",")).into_bytes()
}

/// Each entry byte for byte: of a page, of a bare list, of a list under `data`, or the one entry.
fn entries(text: &str) -> serde_json::Result<Vec<&RawValue>> {
    #[derive(Deserialize)]
    struct Page<'a> {
        #[serde(borrow)]
        servers: Option<Vec<&'a RawValue>>,
        #[serde(borrow)]
        data: Option<Box<Page<'a>>>,
    }
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text);
    }
    let page: Page = serde_json::from_str(text)?;
    match page.servers.or(page.data.and_then(|data| data.servers)) {
        Some(entries) => Ok(entries),
        None => Ok(vec![serde_json::from_str(text)?]),
    }
}
