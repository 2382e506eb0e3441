use std::path::PathBuf;

use clap::Subcommand;
use platform::files::IoContext as _;
use serde_json::{Value, json};

use super::{
    CliError, Context,
    client::{Fabric, encoded},
    output,
};

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// List events, newest first
    List {
        /// Who acted: user:<id>, service:<id>, operator
        #[arg(long)]
        actor: Option<String>,
        /// Exactly this action, such as credential.store
        #[arg(long)]
        action: Option<String>,
        /// intent, success, denied, failure or timeout
        #[arg(long)]
        outcome: Option<String>,
        /// About which server
        #[arg(long)]
        server: Option<String>,
        /// Not before this moment (RFC 3339)
        #[arg(long)]
        from: Option<String>,
        /// Before this moment
        #[arg(long)]
        to: Option<String>,
        /// How many to show (1 to 1000)
        #[arg(long, default_value_t = 30)]
        limit: u32,
    },
    /// Look whether the trail is whole; fails and names the first thing that is wrong when it is not
    Verify {
        /// An exported file to look at instead, without a fabric
        #[arg(long, value_name = "FILE")]
        export: Option<PathBuf>,
        /// The key that has to have signed it (hexadecimal), as an earlier `audit verify` printed it
        #[arg(long, requires = "export")]
        key: Option<String>,
    },
    /// Write the trail into a file: an event a line and a signed last line, or CSV
    Export {
        /// The file
        file: PathBuf,
        /// jsonl or csv
        #[arg(long, default_value = "jsonl")]
        format: String,
    },
}

pub(super) async fn run(context: Context, command: AuditCommand) -> Result<(), CliError> {
    if let AuditCommand::Verify { export: Some(file), key } = &command {
        return verify_file(&context, file, key.as_deref());
    }
    let fabric = Fabric::reach(&context).await?;
    let done = match command {
        AuditCommand::List { actor, action, outcome, server, from, to, limit } => {
            let filters = [("actor", actor), ("action", action), ("outcome", outcome), ("server_id", server), ("from", from), ("to", to)];
            list(&fabric, &context, &filters, limit).await
        }
        AuditCommand::Verify { .. } => verify(&fabric, &context).await,
        AuditCommand::Export { file, format } => export(&fabric, &context, &file, &format).await,
    };
    fabric.leave().await;
    done
}

async fn list(fabric: &Fabric, context: &Context, filters: &[(&str, Option<String>)], limit: u32) -> Result<(), CliError> {
    let filters = filters.iter().filter_map(|(key, value)| Some(format!("&{key}={}", encoded(value.as_deref()?)))).collect::<String>();
    let found = fabric.get(&format!("/api/mcp/audit?limit={limit}{filters}")).await?;
    if context.json {
        output::json(&found);
        return Ok(());
    }
    let cells = |event: &Value| {
        let [seq, at, action, outcome, actor, server, target] =
            ["seq", "timestamp", "action", "outcome", "actor", "server_id", "target_id"].map(|key| output::text(event, key));
        [seq, at, action, outcome, actor, if server.is_empty() { target } else { server }]
    };
    let rows: Vec<[String; 6]> = found["events"].as_array().into_iter().flatten().map(cells).collect();
    output::table(["SEQ", "AT", "ACTION", "OUTCOME", "ACTOR", "ABOUT"], &rows);
    Ok(())
}

fn told(context: &Context, report: &Value) -> Result<(), CliError> {
    if context.json {
        output::json(report);
    }
    if report["ok"] == true {
        if !context.json {
            let [events, checkpoints, key] = ["events", "checkpoints", "public_key"].map(|key| output::text(report, key));
            output::say(format!("ok: {events} events, {checkpoints} signed checkpoints, key {key}"));
        }
        return Ok(());
    }
    let damage = &report["damage"];
    let place = damage["seq"].as_i64().map(|seq| format!(" at event {seq}")).unwrap_or_default();
    Err(CliError::Found(format!("the trail is damaged: {}{place}: {}", output::text(damage, "kind"), output::text(damage, "detail"))))
}

async fn verify(fabric: &Fabric, context: &Context) -> Result<(), CliError> {
    told(context, &fabric.post_patiently("/api/mcp/audit/verify").await?)
}

fn verify_file(context: &Context, file: &std::path::Path, key: Option<&str>) -> Result<(), CliError> {
    let text = std::fs::read_to_string(file).about("read", file)?;
    let key = match key {
        Some(key) => Some(audit::parse_key(key).ok_or_else(|| CliError::Found("--key is not 64 hexadecimal digits".into()))?),
        None => None,
    };
    let report = audit::verify_export(&text, key);
    told(context, &serde_json::to_value(report).unwrap_or_default())
}

async fn export(fabric: &Fabric, context: &Context, file: &std::path::Path, format: &str) -> Result<(), CliError> {
    let bytes = fabric.save(&format!("/api/mcp/audit/export?format={}", encoded(format)), file).await?;
    output::done(context.json, format!("{bytes} bytes in {}", file.display()), &json!({ "bytes": bytes }));
    Ok(())
}
