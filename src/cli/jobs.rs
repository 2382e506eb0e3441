use clap::Subcommand;

use super::{
    CliError, Context,
    client::{Fabric, encoded},
    output,
};

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

fn one(job: Result<serde_json::Value, super::client::ClientError>, context: &Context) -> Result<(), CliError> {
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
