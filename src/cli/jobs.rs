use std::{io::IsTerminal as _, time::Duration};

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::{
    CliError, Context,
    client::{Fabric, encoded},
    output,
};

/// How often a job is looked at: at first often, since much is done in a moment.
const FIRST_POLL: Duration = Duration::from_millis(15);
const LAST_POLL: Duration = Duration::from_millis(300);

#[derive(Debug, Subcommand)]
pub(super) enum JobsCommand {
    /// List jobs, newest first
    List {
        /// Only jobs with this status
        #[arg(long)]
        status: Option<String>,
        /// How many to show (1 to 200)
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// Show one job with its log
    Show {
        /// Its id
        id: String,
    },
    /// Stop a job
    Cancel {
        /// Its id
        id: String,
    },
    /// Put a job that ended without success back in the queue
    Retry {
        /// Its id
        id: String,
    },
}

pub(super) async fn run(context: Context, command: JobsCommand) -> Result<(), CliError> {
    let fabric = Fabric::reach(&context).await?;
    let done = match command {
        JobsCommand::List { status, limit } => list(&fabric, &context, status, limit).await,
        JobsCommand::Show { id } => one(fabric.get(&format!("/api/mcp/jobs/{}", encoded(&id))).await, &context),
        JobsCommand::Cancel { id } => one(fabric.post(&format!("/api/mcp/jobs/{}/cancel", encoded(&id))).await, &context),
        JobsCommand::Retry { id } => one(fabric.post(&format!("/api/mcp/jobs/{}/retry", encoded(&id))).await, &context),
    };
    fabric.leave().await;
    done
}

async fn list(fabric: &Fabric, context: &Context, status: Option<String>, limit: u32) -> Result<(), CliError> {
    let status = status.map(|status| format!("&status={}", encoded(&status))).unwrap_or_default();
    let found = fabric.get(&format!("/api/mcp/jobs?limit={limit}{status}")).await?;
    if context.json {
        output::json(&found);
        return Ok(());
    }
    let rows: Vec<[String; 5]> = found["jobs"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|job| ["job_id", "kind", "status", "created_at", "completed_at"].map(|key| output::text(job, key)))
        .collect();
    output::table(["JOB", "KIND", "STATUS", "CREATED", "COMPLETED"], &rows);
    Ok(())
}

fn one(job: Result<Value, super::client::ClientError>, context: &Context) -> Result<(), CliError> {
    let job = job?;
    if context.json {
        output::json(&job);
        return Ok(());
    }
    for key in
        ["job_id", "kind", "status", "attempt", "created_by", "created_at", "started_at", "completed_at", "progress", "result", "error"]
    {
        let text = output::text(&job, key);
        if !text.is_empty() {
            output::say(format!("{key:13} {text}"));
        }
    }
    for line in job["log"].as_array().into_iter().flatten() {
        output::say(format!("{}  {:5} {}", output::text(line, "at"), output::text(line, "level"), output::text(line, "message")));
    }
    Ok(())
}

/// Waits for the end of a job, with a bar on a terminal; tells what holds it up.
pub(super) async fn wait(fabric: &Fabric, id: &str, is_quiet: bool) -> Result<Value, CliError> {
    wait_beside(fabric, id, bar(is_quiet), async |_| Ok(())).await
}

/// The same, with something else to be looked at whenever the job is; it hears how the job stands.
pub(super) async fn wait_beside(
    fabric: &Fabric,
    id: &str,
    bar: ProgressBar,
    mut beside: impl AsyncFnMut(&Value) -> Result<(), CliError>,
) -> Result<Value, CliError> {
    let (mut told, mut pause) = (String::new(), FIRST_POLL);
    loop {
        let job = fabric.get(&format!("/api/mcp/jobs/{}", encoded(id))).await?;
        show_progress(&bar, &job["progress"]);
        beside(&job).await?;
        let trouble = output::text(&job["error"], "message");
        if job["status"] == "pending" && !trouble.is_empty() && trouble != told {
            bar.suspend(|| output::complain(format!("{trouble}; it is tried again by itself, and `mcp-fabric jobs cancel` ends it")));
            told = trouble;
        }
        if !matches!(job["status"].as_str(), Some("pending" | "processing")) {
            bar.finish_and_clear();
            return Ok(job);
        }
        tokio::time::sleep(pause).await;
        pause = LAST_POLL.min(pause * 3 / 2);
    }
}

/// Waits for a job that has to end well.
pub(super) async fn wait_for(fabric: &Fabric, id: &str, is_quiet: bool) -> Result<Value, CliError> {
    complete(wait(fabric, id, is_quiet).await?)
}

/// The job, if it ended well.
pub(super) fn complete(job: Value) -> Result<Value, CliError> {
    if job["status"] == "complete" {
        return Ok(job);
    }
    Err(CliError::Found(format!("it is {}: {}", output::text(&job, "status"), output::text(&job["error"], "message"))))
}

/// A bar on a terminal, nothing elsewhere.
pub(super) fn bar(is_quiet: bool) -> ProgressBar {
    if is_quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {msg}: {pos} {prefix}, {elapsed} gone");
    ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
}

fn show_progress(bar: &ProgressBar, progress: &Value) {
    let Some(done) = progress["done"].as_u64() else { return };
    if let Some(total) = progress["total"].as_u64() {
        if bar.length().is_none() {
            let style = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} {prefix}, {elapsed} gone, {eta} to go");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        }
        bar.set_length(total);
    }
    bar.set_prefix(output::text(progress, "unit"));
    bar.set_message(output::text(progress, "message"));
    bar.set_position(done);
}
