//! Files in which MCP clients keep their servers: one of this fabric is put there, or taken away.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use platform::{
    config::sources::environment,
    files::{self, IoContext as _},
};
use serde_json::{Value, json};

use super::{
    CliError, Context,
    client::{Fabric, encoded},
    ordered::Ordered,
    output,
};

/// What is done with clients' files.
#[derive(Debug, Subcommand)]
pub(super) enum ClientCommand {
    /// Write a server, or without one everything at `/mcp`, into a client's file; the file as it was is kept beside it
    Install(Install),
    /// Show which servers of a fabric the clients of this machine know
    List,
    /// Take a server out of a client's file
    Remove(Remove),
}

/// A client that keeps its servers in a file
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    ClaudeDesktop,
    ClaudeCode,
    Vscode,
    Cursor,
}

#[derive(Debug, Args)]
pub(super) struct Install {
    client: Kind,
    /// A server's id; without one, everything that you may use
    server: Option<String>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(super) struct Remove {
    client: Kind,
    /// The server's name in the file, as `client list` shows it
    name: String,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct Place {
    /// The file of the project in this folder, and not that of the user
    #[arg(long)]
    project: bool,
    /// This file
    #[arg(long, value_name = "FILE", conflicts_with = "project")]
    file: Option<PathBuf>,
}

impl Kind {
    const ALL: [Self; 4] = [Self::ClaudeDesktop, Self::ClaudeCode, Self::Vscode, Self::Cursor];

    fn name(self) -> &'static str {
        match self {
            Self::ClaudeDesktop => "claude-desktop",
            Self::ClaudeCode => "claude-code",
            Self::Vscode => "vscode",
            Self::Cursor => "cursor",
        }
    }

    /// The member of its file that has the servers.
    fn member(self) -> &'static str {
        if self == Self::Vscode { "servers" } else { "mcpServers" }
    }

    /// The file of a user, below the home folder.
    fn of_user(self) -> &'static str {
        let is_mac = cfg!(target_os = "macos");
        match self {
            Self::ClaudeDesktop if is_mac => "Library/Application Support/Claude/claude_desktop_config.json",
            Self::ClaudeDesktop => ".config/Claude/claude_desktop_config.json",
            Self::ClaudeCode => ".claude.json",
            Self::Vscode if is_mac => "Library/Application Support/Code/User/mcp.json",
            Self::Vscode => ".config/Code/User/mcp.json",
            Self::Cursor => ".cursor/mcp.json",
        }
    }

    /// The file of a project, below its folder.
    fn of_project(self) -> Option<&'static str> {
        match self {
            Self::ClaudeDesktop => None,
            Self::ClaudeCode => Some(".mcp.json"),
            Self::Vscode => Some(".vscode/mcp.json"),
            Self::Cursor => Some(".cursor/mcp.json"),
        }
    }

    fn file(self, place: &Place) -> Result<PathBuf, CliError> {
        if let Some(file) = &place.file {
            return Ok(file.clone());
        }
        if place.project {
            let file = self.of_project().ok_or_else(|| CliError::Found(format!("{} has no files of projects", self.name())))?;
            return Ok(file.into());
        }
        let home = environment("HOME").ok_or_else(|| CliError::Found("HOME is not set; `--file` says which file is meant".into()))?;
        Ok(Path::new(&home).join(self.of_user()))
    }
}

pub(super) async fn run(context: Context, command: ClientCommand) -> Result<(), CliError> {
    match command {
        ClientCommand::Install(asked) => {
            let fabric = Fabric::reach(&context).await?;
            let wanted = wanted(&fabric, &context, &asked).await;
            fabric.leave().await;
            install(&context, &asked, &wanted?)
        }
        ClientCommand::List => {
            list(&context);
            Ok(())
        }
        ClientCommand::Remove(asked) => remove(&context, &asked),
    }
}

/// What the fabric says that belongs into the file.
async fn wanted(fabric: &Fabric, context: &Context, asked: &Install) -> Result<Value, CliError> {
    let client = asked.client.name();
    let path = match &asked.server {
        Some(server) => format!("/api/mcp/servers/{}/client-config?client={client}", encoded(server)),
        None => format!("/api/mcp/client-config?client={client}"),
    };
    let mut wanted = fabric.get(&path).await?;
    if asked.client == Kind::ClaudeDesktop && context.url.is_none() {
        // On this machine, the data folder says where the fabric is and holds the token.
        let data = std::path::absolute(&context.config.data_dir).about("find", &context.config.data_dir)?;
        let servers = wanted[asked.client.member()].as_object_mut().into_iter().flat_map(|servers| servers.values_mut());
        for server in servers {
            server["env"] = json!({ "FABRIC_DATA_DIR": data });
            server["command"] = json!(this_program());
        }
    }
    Ok(wanted)
}

/// Clients are started with paths of their own.
fn this_program() -> String {
    std::env::current_exe().map_or_else(|_| "mcp-fabric".into(), |program| program.display().to_string())
}

/// A client's file; an empty one where there is none.
fn read(file: &Path) -> Result<Ordered, CliError> {
    let Some(text) = files::read_if_present(file)?.filter(|text| !text.trim().is_empty()) else { return Ok(Ordered::default()) };
    let unfit = |error: serde_json::Error| {
        CliError::Found(format!(
            "{} is not plain JSON ({error}), perhaps for its comments; nothing was changed: `client-config` of the API gives what belongs there",
            file.display()
        ))
    };
    let read: Ordered = serde_json::from_str(&text).map_err(unfit)?;
    if read.is_object() { Ok(read) } else { Err(CliError::Found(format!("{} holds no JSON object; nothing was changed", file.display()))) }
}

/// Writes a client's file; what it was stays beside it.
fn write(file: &Path, written: &Ordered) -> Result<Option<PathBuf>, CliError> {
    let mut text = serde_json::to_string_pretty(written).unwrap_or_default();
    text.push('\n');
    let mut backup = None;
    if file.exists() {
        let beside = PathBuf::from(format!("{}.{}.bak", file.display(), platform::clock::now().format("%Y%m%d%H%M%S%3f")));
        std::fs::copy(file, &beside).about("copy", file)?;
        backup = Some(beside);
    } else if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).about("create", folder)?;
    }
    // Behind a link lies what the owner wants to be changed.
    let real = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    files::replace(&real, text.as_bytes())?;
    Ok(backup)
}

fn install(context: &Context, asked: &Install, wanted: &Value) -> Result<(), CliError> {
    let file = asked.client.file(&asked.place)?;
    let mut written = read(&file)?;
    let servers = written.object_at(asked.client.member());
    let mut names = Vec::new();
    for (name, server) in wanted[asked.client.member()].as_object().into_iter().flatten() {
        servers.set(name, Ordered::from(server));
        names.push(name.clone());
    }
    for input in wanted["inputs"].as_array().into_iter().flatten() {
        written.list_at("inputs").put(Ordered::from(input), "id");
    }
    let backup = write(&file, &written)?;
    let kept = backup.as_ref().map(|backup| format!(" (as it was: {})", backup.display())).unwrap_or_default();
    let sentence = format!("{} is in {}{kept}; start {} anew", names.join(", "), file.display(), asked.client.name());
    output::done(context.json, sentence, &json!({ "client": asked.client.name(), "file": file, "names": names, "backup": backup }));
    if asked.client != Kind::ClaudeDesktop {
        let how = "it asks for FABRIC_TOKEN: a personal access token with the scope mcp:call, which POST /api/mcp/tokens makes";
        output::note(context.json, how);
    }
    Ok(())
}

fn remove(context: &Context, asked: &Remove) -> Result<(), CliError> {
    let file = asked.client.file(&asked.place)?;
    let mut written = read(&file)?;
    if !written.object_at(asked.client.member()).remove(&asked.name) {
        return Err(CliError::Found(format!("{} has no server `{}`", file.display(), asked.name)));
    }
    let backup = write(&file, &written)?;
    let members = json!({ "client": asked.client.name(), "file": file, "name": asked.name, "backup": backup });
    output::done(context.json, format!("{} is not in {} any more", asked.name, file.display()), &members);
    Ok(())
}

/// Whether an entry leads to a fabric: it runs `mcp-fabric connect`, or goes to a gateway.
fn is_ours(server: &Value) -> bool {
    let runs = server["args"].as_array().is_some_and(|args| args.first().is_some_and(|first| first == "connect"))
        && server["command"].as_str().is_some_and(|command| command.ends_with("mcp-fabric"));
    let goes = server["url"].as_str().is_some_and(|url| url.ends_with("/mcp") || url.contains("/mcp/s/") || url.contains("/mcp/v/"));
    runs || goes
}

fn list(context: &Context) {
    let mut found = Vec::new();
    for kind in Kind::ALL {
        for project in [false, true] {
            let place = Place { project, file: None };
            let Ok(file) = kind.file(&place) else { continue };
            // What cannot be read is no list of ours.
            let Ok(written) = read(&file) else { continue };
            let written = Value::from(&written);
            for (name, server) in written[kind.member()].as_object().into_iter().flatten().filter(|(_, server)| is_ours(server)) {
                found.push(json!({ "client": kind.name(), "name": name, "file": file, "server": server }));
            }
        }
    }
    if context.json {
        return output::json(&json!({ "clients": found }));
    }
    let rows: Vec<[String; 3]> =
        found.iter().map(|one| [output::text(one, "client"), output::text(one, "name"), output::text(one, "file")]).collect();
    output::table(["CLIENT", "NAME", "FILE"], &rows);
}
