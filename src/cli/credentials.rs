use std::path::{Path, PathBuf};

use clap::Subcommand;
use platform::{files::IoContext as _, keys::SecretKey};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::{
    CliError, Context,
    client::{Fabric, encoded},
    jobs, output,
    users::read_secret,
};

#[derive(Debug, Subcommand)]
pub(super) enum CredentialsCommand {
    /// Print a fresh key, for credentials or for logins
    NewKey,
    /// Store a credential for a user; its value is read from standard input
    Set {
        /// Whose: the id of an account, or any other text
        user: String,
        /// For which server
        server: String,
        /// The name of the variable
        env_var: String,
    },
    /// Show which credentials a user has, never their values
    List {
        /// Whose
        user: String,
        /// Only those for this server
        server: Option<String>,
    },
    /// Delete a credential
    Delete {
        /// Whose
        user: String,
        /// For which server
        server: String,
        /// The name of the variable
        env_var: String,
    },
    /// Take credentials from a file: .env, JSON, or an encrypted export (whose passphrase is read from standard input)
    Import {
        /// Whose they become
        user: String,
        /// The file
        file: PathBuf,
        /// env, json or age; by the file's ending unless given
        #[arg(long)]
        format: Option<String>,
        /// For which server, where the file does not say
        #[arg(long)]
        server: Option<String>,
        /// What becomes of what is there: overlay, append or replace
        #[arg(long, default_value = "overlay")]
        strategy: String,
    },
    /// Write all credentials of a user into a file, encrypted with age: to a recipient, or with a passphrase that is
    /// read from standard input
    Export {
        /// Whose
        user: String,
        /// The file
        file: PathBuf,
        /// Who can read it: age1…
        #[arg(long)]
        recipient: Option<String>,
    },
    /// Go on to a new master key while everything goes on
    RotateKey {
        /// Open everything and write nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// List rotations of the master key
    Rotations,
    /// Pause the rotation that runs
    Pause {
        /// Its id
        id: String,
    },
    /// Resume a rotation
    Resume {
        /// Its id
        id: String,
    },
    /// Give a rotation up
    Cancel {
        /// Its id
        id: String,
    },
    /// Look whether every value opens and is the one that was last stored
    Verify,
    /// Seal values that were written in the plain form (value and iv under the master key)
    Migrate,
}

pub(super) async fn run(context: Context, command: CredentialsCommand) -> Result<(), CliError> {
    let fabric = Fabric::reach(&context).await?;
    let done = credentials(&fabric, &context, command).await;
    fabric.leave().await;
    done
}

/// A fresh key needs no fabric.
pub(super) fn new_key(as_json: bool) {
    let key = SecretKey::generate();
    output::done(as_json, key.to_base64().as_str(), &json!({ "key": key.to_base64().as_str(), "key_id": key.id() }));
}

async fn credentials(fabric: &Fabric, context: &Context, command: CredentialsCommand) -> Result<(), CliError> {
    match command {
        CredentialsCommand::NewKey => {}
        CredentialsCommand::Set { user, server, env_var } => {
            let value = read_secret("value: ")?;
            let body = json!({ "user_id": user, "server_id": server, "env_var": env_var, "value": value.expose_secret() });
            let stored = fabric.post_json("/api/mcp/credentials", body.to_string().into_bytes()).await?;
            output::done(context.json, format!("stored, revision {}", output::text(&stored, "revision")), &stored);
        }
        CredentialsCommand::List { user, server } => list(fabric, context, &user, server).await?,
        CredentialsCommand::Delete { user, server, env_var } => {
            let path = format!("/api/mcp/credentials/{}/{}/{}", encoded(&user), encoded(&server), encoded(&env_var));
            fabric.delete(&path).await?;
            output::done(context.json, "deleted", &json!({ "deleted": env_var }));
        }
        CredentialsCommand::Import { user, file, format, server, strategy } => {
            import(fabric, context, &user, &file, format, server, &strategy).await?;
        }
        CredentialsCommand::Export { user, file, recipient } => export(fabric, context, &user, &file, recipient).await?,
        CredentialsCommand::RotateKey { dry_run } => rotate(fabric, context, dry_run).await?,
        CredentialsCommand::Rotations => rotations(fabric, context).await?,
        CredentialsCommand::Pause { id } => steer(fabric, context, &id, "pause").await?,
        CredentialsCommand::Resume { id } => steer(fabric, context, &id, "resume").await?,
        CredentialsCommand::Cancel { id } => steer(fabric, context, &id, "cancel").await?,
        CredentialsCommand::Verify => chore(fabric, context, "verify").await?,
        CredentialsCommand::Migrate => chore(fabric, context, "migrate").await?,
    }
    Ok(())
}

async fn list(fabric: &Fabric, context: &Context, user: &str, server: Option<String>) -> Result<(), CliError> {
    let found = match &server {
        Some(server) => fabric.get(&format!("/api/mcp/credentials/{}/{}", encoded(user), encoded(server))).await?,
        None => fabric.get(&format!("/api/mcp/credentials?limit=200&user_id={}", encoded(user))).await?,
    };
    if context.json {
        output::json(&found);
        return Ok(());
    }
    let cells = |credential: &Value| {
        let mut cells =
            ["server_id", "env_var", "kind", "updated_at", "last_used_at", "key_version"].map(|key| output::text(credential, key));
        if cells[0].is_empty() {
            cells[0] = server.clone().unwrap_or_default();
        }
        cells
    };
    let rows: Vec<[String; 6]> = found["credentials"].as_array().into_iter().flatten().map(cells).collect();
    output::table(["SERVER", "VARIABLE", "KIND", "CHANGED", "LAST USED", "KEY"], &rows);
    for missing in found["missing"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        output::say(format!("missing: {missing}"));
    }
    Ok(())
}

async fn import(
    fabric: &Fabric,
    context: &Context,
    user: &str,
    file: &Path,
    format: Option<String>,
    server: Option<String>,
    strategy: &str,
) -> Result<(), CliError> {
    let text = zeroize::Zeroizing::new(std::fs::read_to_string(file).about("read", file)?);
    let format = format.unwrap_or_else(|| match file.extension().and_then(|extension| extension.to_str()) {
        Some("json") => "json".into(),
        Some("age") => "age".into(),
        _ => "env".into(),
    });
    let passphrase = if format == "age" { Some(read_secret("passphrase or identity: ")?) } else { None };
    let body = json!({
        "user_id": user, "server_id": server, "format": format, "content": text.as_str(), "strategy": strategy,
        "passphrase": passphrase.as_ref().map(ExposeSecret::expose_secret),
    });
    let done = fabric.post_json("/api/mcp/credentials/import", body.to_string().into_bytes()).await?;
    let [new, old, count] = ["stored", "kept", "servers"].map(|key| output::text(&done, key));
    output::done(context.json, format!("stored {new}, left {old} as they were, for {count} servers"), &done);
    Ok(())
}

async fn export(fabric: &Fabric, context: &Context, user: &str, file: &Path, recipient: Option<String>) -> Result<(), CliError> {
    let body = match recipient {
        Some(recipient) => json!({ "recipient": recipient }),
        None => json!({ "passphrase": read_secret("passphrase: ")?.expose_secret() }),
    };
    let path = format!("/api/mcp/credentials/{}/export", encoded(user));
    let text = fabric.internal(&context.config, &path, body.to_string().into_bytes()).await?;
    platform::files::write_private(file, text.as_bytes())?;
    output::done(context.json, format!("encrypted into {}", file.display()), &json!({ "file": file.display().to_string() }));
    Ok(())
}

async fn rotate(fabric: &Fabric, context: &Context, dry_run: bool) -> Result<(), CliError> {
    let began = fabric.post_json("/api/mcp/credentials/rotations", json!({ "dry_run": dry_run }).to_string().into_bytes()).await?;
    let job = jobs::wait_for(fabric, &output::text(&began, "job_id"), context.json).await?;
    let rotation = fabric.get(&format!("/api/mcp/credentials/rotations/{}", output::text(&began, "id"))).await?;
    let sentence = format!(
        "{}: {} values under key {}, {} failed",
        output::text(&rotation, "state"),
        output::text(&rotation, "done"),
        output::text(&rotation, "to_version"),
        output::text(&rotation, "failed")
    );
    output::done(context.json, sentence, &rotation);
    match job["result"]["failed"].as_i64() {
        Some(failed) if failed > 0 => {
            Err(CliError::Found(format!("{failed} values do not open; `mcp-fabric credentials verify` names them")))
        }
        _ => Ok(()),
    }
}

async fn rotations(fabric: &Fabric, context: &Context) -> Result<(), CliError> {
    let found = fabric.get("/api/mcp/credentials/rotations").await?;
    if context.json {
        output::json(&found);
        return Ok(());
    }
    let cells =
        |rotation: &Value| ["id", "to_version", "state", "done", "total", "failed", "started_at"].map(|key| output::text(rotation, key));
    let rows: Vec<[String; 7]> = found["rotations"].as_array().into_iter().flatten().map(cells).collect();
    output::table(["ROTATION", "TO KEY", "STATE", "DONE", "TOTAL", "FAILED", "STARTED"], &rows);
    Ok(())
}

async fn steer(fabric: &Fabric, context: &Context, id: &str, to: &str) -> Result<(), CliError> {
    let rotation = fabric.post(&format!("/api/mcp/credentials/rotations/{}/{to}", encoded(id))).await?;
    output::done(context.json, output::text(&rotation, "state"), &rotation);
    Ok(())
}

/// Has something done with every value, and says what came of it.
async fn chore(fabric: &Fabric, context: &Context, what: &str) -> Result<(), CliError> {
    let ordered = fabric.post(&format!("/api/mcp/credentials/{what}")).await?;
    let job = jobs::wait_for(fabric, &output::text(&ordered, "job_id"), context.json).await?;
    let result = &job["result"];
    let count = output::text(result, if what == "verify" { "checked" } else { "migrated" });
    output::done(context.json, format!("{count} values {}", if what == "verify" { "looked at" } else { "sealed" }), result);
    if result["ok"] == true {
        return Ok(());
    }
    for finding in result["findings"].as_array().into_iter().flatten() {
        let [id, fault, server, name] = ["credential", "fault", "server_id", "env_var"].map(|key| output::text(finding, key));
        output::note(context.json, format!("{fault}: credential {id} ({name} of {server})"));
    }
    for id in result["failed"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        output::note(context.json, format!("does not open: credential {id}"));
    }
    Err(CliError::Found("some values are not what they should be".into()))
}
