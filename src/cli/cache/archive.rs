use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use crate::cli::{
    CliError, Context,
    client::{Fabric, encoded},
    output,
};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ArchiveCommand {
    /// Write packages into an archive, for a fabric without internet
    Export {
        /// The archive
        file: PathBuf,
        /// The packages of this server with all that they need; may be given several times
        #[arg(long = "server", required_unless_present = "all")]
        servers: Vec<String>,
        /// Everything that is cached
        #[arg(long, conflicts_with = "servers")]
        all: bool,
    },
    /// Take an archive in; all of it is verified before any of it counts
    Import {
        /// The archive
        file: PathBuf,
        /// The key of the fabric that made it: what `cache key` prints there
        #[arg(long)]
        key: Option<String>,
    },
    /// Show the key that archives of this fabric are signed with
    Key,
}

pub(super) async fn run(fabric: &Fabric, context: &Context, command: ArchiveCommand) -> Result<(), CliError> {
    match command {
        ArchiveCommand::Export { file, servers, all } => {
            let order = json!({ "servers": servers, "all": all }).to_string();
            let bytes = fabric.download("/api/mcp/cache/export", order.into_bytes(), &file).await?;
            let members = json!({ "file": file, "bytes": bytes });
            output::done(context.json, format!("wrote {}, {bytes} bytes", file.display()), &members);
        }
        ArchiveCommand::Import { file, key } => {
            let key = key.map(|key| format!("?key={}", encoded(&key))).unwrap_or_default();
            let brought = fabric.upload(&format!("/api/mcp/cache/import{key}"), &file).await?;
            let sentence =
                format!("verified and took in {} packages, {} files, {} bytes", brought["packages"], brought["files"], brought["bytes"]);
            output::done(context.json, sentence, &brought);
        }
        ArchiveCommand::Key => {
            let key = fabric.get("/api/mcp/cache/key").await?;
            output::done(context.json, output::text(&key, "key"), &key);
        }
    }
    Ok(())
}
