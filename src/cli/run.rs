//! Servers that run: starting, watching, calling, stopping.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use serde_json::{Map, Value, json};

use super::{
    CliError, Context, cache,
    client::{ClientError, Fabric, encoded},
    jobs, output,
};

const POLL: Duration = Duration::from_millis(100);

/// Install what is missing, start a server, and wait until it answers
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(super) struct Run {
    /// A server's id, or a package (`mcp-server-time`, `npm:@scope/name`)
    what: String,
    /// Give the server this id of your own
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
    /// This version of the package
    #[arg(long)]
    version: Option<String>,
    /// A value that the server declares (`--value NAME=VALUE`); may be given several times. Secrets are asked for by
    /// `credentials set`, which reads them from standard input
    #[arg(long = "value", value_name = "NAME=VALUE")]
    values: Vec<String>,
    /// Memory that it may use, in MiB
    #[arg(long, value_name = "MIB")]
    memory: Option<i64>,
    /// Arguments instead of those that the catalogue says; needs `--as`
    #[arg(last = true)]
    args: Vec<String>,
}

/// List servers that run, or did
#[derive(Debug, Args)]
pub(super) struct Ps {
    /// How many to show (1 to 200)
    #[arg(long, default_value_t = 50)]
    limit: u32,
}

/// Show what a server said
#[derive(Debug, Args)]
pub(super) struct Logs {
    /// A server's id, or an instance's
    what: String,
    /// Go on with every line that comes
    #[arg(short, long)]
    follow: bool,
    /// How many of the newest lines (1 to 5000)
    #[arg(short = 'n', long, default_value_t = 200)]
    lines: u32,
}

/// Stop a server, and wait until it has ended
#[derive(Debug, Args)]
pub(super) struct Stop {
    /// A server's id; without one, `--all` stops every one of yours
    #[arg(required_unless_present = "all")]
    server: Option<String>,
    /// Every server of yours that runs
    #[arg(long, conflicts_with = "server")]
    all: bool,
}

/// List the tools of a server that runs
#[derive(Debug, Args)]
pub(super) struct Tools {
    /// A server's id, or an instance's
    what: String,
}

/// Call a tool of a server that runs
#[derive(Debug, Args)]
pub(super) struct Call {
    /// A server's id, or an instance's
    what: String,
    /// The tool
    tool: String,
    /// Its arguments: `NAME=VALUE`, where a value that is JSON is taken as such, or one JSON object; `@FILE` reads one
    arguments: Vec<String>,
}

/// A package, as `cache add` takes one: with its type, or scoped.
fn order(what: &str) -> Map<String, Value> {
    let mut order = Map::new();
    let (kind, name) = cache::package(what).map_or((None, what), |(kind, name)| (Some(kind), name));
    order.insert("name".into(), name.into());
    if let Some(kind) = kind {
        order.insert("registry_type".into(), kind.into());
    }
    order
}

pub(super) async fn run(context: Context, asked: Run) -> Result<(), CliError> {
    let fabric = Fabric::reach_running(&context).await?;
    let done = start(&fabric, &context, asked).await;
    fabric.leave().await;
    done
}

async fn start(fabric: &Fabric, context: &Context, asked: Run) -> Result<(), CliError> {
    let server = install(fabric, context, &asked).await?;
    if !asked.values.is_empty() || asked.memory.is_some() {
        let mut wanted = json!({ "server_id": server, "values": pairs(&asked.values)? });
        if let Some(memory) = asked.memory {
            wanted["limits"] = json!({ "memory_bytes": memory.saturating_mul(1 << 20) });
        }
        fabric.post_json("/api/mcp/users/me/servers", wanted.to_string().into_bytes()).await?;
    }
    let begun = fabric.post(&format!("/api/mcp/servers/{}/start", encoded(&server))).await?;
    let instance = settle(fabric, &output::text(&begun, "id"), &["RUNNING", "FAILED", "STOPPED"]).await?;
    if instance["state"] != "RUNNING" {
        return Err(CliError::Found(format!(
            "{server} is {}: {}",
            output::text(&instance, "state"),
            output::text(&instance["reason"], "message")
        )));
    }
    let sentence = format!(
        "{server} runs (pid {}, {} tools); `mcp-fabric tools {server}` lists them",
        output::text(&instance, "pid"),
        output::text(&instance, "tools")
    );
    output::done(context.json, sentence, &instance);
    Ok(())
}

/// Installs a server of the catalogue, starts it and waits until it answers.
pub(super) async fn start_server(fabric: &Fabric, context: &Context, server: &str) -> Result<(), CliError> {
    let asked = Run { what: server.to_owned(), name: None, version: None, values: Vec::new(), memory: None, args: Vec::new() };
    start(fabric, context, asked).await
}

/// Has what is meant installed, where it is not; gives the server's id.
async fn install(fabric: &Fabric, context: &Context, asked: &Run) -> Result<String, CliError> {
    let known = asked.name.as_ref().unwrap_or(&asked.what);
    if asked.version.is_none() && asked.args.is_empty() {
        match fabric.get(&format!("/api/mcp/packages/by-name/{}", encoded(known))).await {
            Ok(found) if found["status"] == "installed" => return Ok(output::text(&found, "server_id")),
            Ok(_) => {}
            Err(ClientError::Refused { code, .. }) if code == "not_installed" => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut order = order(&asked.what);
    order.insert("enabled".into(), false.into());
    if let Some(name) = &asked.name {
        order.insert("server_name".into(), name.clone().into());
    }
    if let Some(version) = &asked.version {
        order.insert("version".into(), version.clone().into());
    }
    if !asked.args.is_empty() {
        order.insert("args".into(), asked.args.clone().into());
    }
    let begun = match fabric.post_json("/api/mcp/packages/install", Value::Object(order).to_string().into_bytes()).await {
        // It runs elsewhere.
        Err(ClientError::Refused { code, .. }) if code == "no_packages" && asked.name.is_none() => return Ok(asked.what.clone()),
        begun => begun?,
    };
    jobs::wait_for(fabric, &output::text(&begun, "job_id"), context.json).await?;
    Ok(output::text(&begun["package"], "server_id"))
}

/// Waits until an instance is in one of these states.
async fn settle(fabric: &Fabric, id: &str, states: &[&str]) -> Result<Value, CliError> {
    loop {
        let instance = fabric.get(&format!("/api/mcp/instances/{}", encoded(id))).await?;
        if states.iter().any(|state| instance["state"] == **state) {
            return Ok(instance);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// `NAME=VALUE`, where a value that is JSON is taken as such.
fn pairs(given: &[String]) -> Result<Map<String, Value>, CliError> {
    let pair = |text: &String| {
        let (name, value) =
            text.split_once('=').ok_or_else(|| CliError::Found(format!("`{}` is not of the form NAME=VALUE", text.escape_debug())))?;
        Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.into())))
    };
    given.iter().map(pair).collect()
}

/// The instance that is meant: by its own id, or the newest of a server.
async fn instance(fabric: &Fabric, what: &str) -> Result<String, CliError> {
    let is_id = what.len() == 36 && what.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if is_id {
        return Ok(what.to_owned());
    }
    let found = fabric.get(&format!("/api/mcp/instances?server_id={}", encoded(what))).await?;
    let instances = found["instances"].as_array().cloned().unwrap_or_default();
    let running = instances.iter().find(|instance| instance["state"] == "RUNNING").or(instances.last());
    let none = || CliError::Found(format!("no instance of `{}`; `mcp-fabric ps` lists those there are", what.escape_debug()));
    running.map(|instance| output::text(instance, "id")).ok_or_else(none)
}

pub(super) async fn ps(context: Context, Ps { limit }: Ps) -> Result<(), CliError> {
    let fabric = Fabric::reach_running(&context).await?;
    let found = fabric.get(&format!("/api/mcp/instances?limit={limit}")).await;
    fabric.leave().await;
    let found = found?;
    if context.json {
        output::json(&found);
        return Ok(());
    }
    let row = |instance: &Value| {
        let [server, state, pid, restarts, tools, since, id] =
            ["server_id", "state", "pid", "restarts", "tools", "since", "id"].map(|key| output::text(instance, key));
        [server, state, pid, restarts, tools, since, id, output::text(&instance["reason"], "message")]
    };
    let rows: Vec<[String; 8]> = found["instances"].as_array().into_iter().flatten().map(row).collect();
    output::table(["SERVER", "STATE", "PID", "RESTARTS", "TOOLS", "SINCE", "INSTANCE", "REASON"], &rows);
    Ok(())
}

pub(super) async fn logs(context: Context, Logs { what, follow, lines }: Logs) -> Result<(), CliError> {
    let fabric = Fabric::reach_running(&context).await?;
    let show = |entry: &Value| {
        if context.json {
            output::say(entry);
        } else {
            output::say(format!("{}  {:6} {}", output::text(entry, "at"), output::text(entry, "stream"), output::text(entry, "text")));
        }
    };
    let read = async {
        let path = format!("/api/mcp/instances/{}/logs?lines={lines}", encoded(&instance(&fabric, &what).await?));
        if follow {
            fabric.follow(&format!("{path}&follow=true"), show).await?;
        } else {
            fabric.get(&path).await?["lines"].as_array().into_iter().flatten().for_each(show);
        }
        Ok(())
    };
    let done = read.await;
    fabric.leave().await;
    done
}

pub(super) async fn stop(context: Context, Stop { server, all: _ }: Stop) -> Result<(), CliError> {
    let fabric = Fabric::reach_running(&context).await?;
    let stopped = stop_all(&fabric, server).await;
    fabric.leave().await;
    let stopped = stopped?;
    let names: Vec<String> = stopped.iter().map(|instance| output::text(instance, "server_id")).collect();
    let sentence = if names.is_empty() { "nothing ran".to_owned() } else { format!("stopped: {}", names.join(", ")) };
    output::done(context.json, sentence, &json!({ "instances": stopped }));
    Ok(())
}

async fn stop_all(fabric: &Fabric, server: Option<String>) -> Result<Vec<Value>, CliError> {
    let servers = if let Some(server) = server {
        vec![server]
    } else {
        let wanted = fabric.get("/api/mcp/users/me/servers?limit=200").await?;
        let enabled = wanted["servers"].as_array().into_iter().flatten().filter(|wanted| wanted["enabled"] == true);
        enabled.map(|wanted| output::text(wanted, "server_id")).collect()
    };
    let mut stopped = Vec::new();
    for server in servers {
        let ending = fabric.post(&format!("/api/mcp/servers/{}/stop", encoded(&server))).await?;
        stopped.push(settle(fabric, &output::text(&ending, "id"), &["STOPPED", "FAILED"]).await?);
    }
    Ok(stopped)
}

pub(super) async fn tools(context: Context, Tools { what }: Tools) -> Result<(), CliError> {
    let fabric = Fabric::reach_running(&context).await?;
    let found = async {
        let id = instance(&fabric, &what).await?;
        Ok::<_, CliError>(fabric.get(&format!("/api/mcp/instances/{}/tools", encoded(&id))).await?)
    };
    let found = found.await;
    fabric.leave().await;
    let found = found?;
    if context.json {
        output::json(&found);
        return Ok(());
    }
    let row = |tool: &Value| {
        let inputs = tool["inputSchema"]["properties"].as_object().map(|inputs| inputs.keys().cloned().collect::<Vec<_>>().join(", "));
        [output::text(tool, "name"), inputs.unwrap_or_default(), output::text(tool, "description")]
    };
    let rows: Vec<[String; 3]> = found["tools"].as_array().into_iter().flatten().map(row).collect();
    output::table(["TOOL", "ARGUMENTS", "DESCRIPTION"], &rows);
    Ok(())
}

fn arguments(given: &[String]) -> Result<Map<String, Value>, CliError> {
    let object =
        |text: &str| serde_json::from_str(text).map_err(|error| CliError::Found(format!("the arguments are not a JSON object: {error}")));
    match given {
        [file] if file.starts_with('@') => {
            let path = PathBuf::from(&file[1..]);
            let text =
                platform::files::read_if_present(&path)?.ok_or_else(|| CliError::Found(format!("{} is not there", path.display())))?;
            object(&text)
        }
        [text] if text.trim_start().starts_with('{') => object(text),
        pairs_given => pairs(pairs_given),
    }
}

pub(super) async fn call(context: Context, asked: Call) -> Result<(), CliError> {
    let body = json!({ "arguments": arguments(&asked.arguments)? }).to_string().into_bytes();
    let fabric = Fabric::reach_running(&context).await?;
    let called = async {
        let id = instance(&fabric, &asked.what).await?;
        Ok::<_, CliError>(
            fabric.post_json(&format!("/api/mcp/instances/{}/tools/{}/call", encoded(&id), encoded(&asked.tool)), body).await?,
        )
    };
    let called = called.await;
    fabric.leave().await;
    let result = called?;
    if context.json {
        output::json(&result);
    } else {
        for part in result["content"].as_array().into_iter().flatten() {
            // What is no text is named, and printed with `--json`.
            match part["text"].as_str() {
                Some(text) => text.lines().for_each(|line| output::say(output::text(&json!({ "line": line }), "line"))),
                None => output::say(format!("[{}]", output::text(part, "type"))),
            }
        }
    }
    if result["isError"] == true { Err(CliError::Found(format!("`{}` ended with an error", asked.tool.escape_debug()))) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_pairs_or_an_object() {
        let given = |texts: &[&str]| arguments(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).map(Value::Object);
        assert_eq!(given(&["a=1", "b=x=y", "c={\"d\":true}"]).unwrap(), json!({ "a": 1, "b": "x=y", "c": { "d": true } }));
        assert_eq!(given(&[" {\"a\":\"1\"}"]).unwrap(), json!({ "a": "1" }));
        assert_eq!(given(&[]).unwrap(), json!({}));
        assert!(given(&["nothing"]).is_err());
        assert!(given(&["{"]).is_err());
    }
}
