//! Servers that are made here.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};
use tokio::io::AsyncReadExt as _;

use super::{
    CliError, Context,
    client::{Fabric, encoded},
    jobs, output, run,
};

/// Make a server from a description or an API document
#[derive(Debug, Args)]
pub(super) struct Generate {
    /// What the server is to do, in English; `-` reads it from standard input
    #[arg(required_unless_present_any = ["openapi", "from_url", "postman", "graphql", "curl", "spec"])]
    description: Option<String>,
    /// An OpenAPI or Swagger document (JSON or YAML)
    #[arg(long, value_name = "FILE")]
    openapi: Option<PathBuf>,
    /// Where such a document is
    #[arg(long, value_name = "URL")]
    from_url: Option<String>,
    /// A Postman collection
    #[arg(long, value_name = "FILE")]
    postman: Option<PathBuf>,
    /// The answer to GraphQL's introspection
    #[arg(long, value_name = "FILE")]
    graphql: Option<PathBuf>,
    /// A file with commands of curl
    #[arg(long, value_name = "FILE")]
    curl: Option<PathBuf>,
    /// A specification, as `factory get --json` shows it
    #[arg(long, value_name = "FILE")]
    spec: Option<PathBuf>,
    /// The server's name; without one, it is named after the input
    #[arg(long)]
    name: Option<String>,
    /// What runs it
    #[arg(long, value_name = "LANGUAGE", default_value = "node")]
    runtime: String,
    /// Where the API is, in place of what the document says
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// Which operations become tools
    #[arg(long, value_enum, default_value_t = Tools::Auto)]
    tools: Tools,
    /// Only these operations (`GET /pets*`, `tag:pets`, `list*`); may be given several times
    #[arg(long)]
    include: Vec<String>,
    /// All but these operations; may be given several times
    #[arg(long)]
    exclude: Vec<String>,
    /// Also an image for containers, on this one, which has to have Node.js or Python
    #[arg(long, value_name = "BASE")]
    image: Option<String>,
    /// Start it when it is made
    #[arg(long)]
    run: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Tools {
    /// Each one by itself where they are few, else behind four tools
    Auto,
    /// Each one by itself
    All,
    /// All of them behind four tools
    Dynamic,
}

#[derive(Debug, Subcommand)]
pub(super) enum FactoryCommand {
    /// Register a server by its manifest.json
    Register {
        /// The manifest
        manifest: PathBuf,
    },
    /// List servers that were made here
    List {
        /// How many to show (1 to 1000)
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Words to find
        #[arg(long)]
        search: Option<String>,
    },
    /// Show a server
    #[command(disable_version_flag = true)]
    Get {
        /// Its name
        name: String,
        /// This version instead of the latest
        #[arg(long)]
        version: Option<String>,
    },
    /// Remove a server with all its versions
    Remove {
        /// Its name
        name: String,
        /// Its files, too
        #[arg(long)]
        files: bool,
    },
    /// Look at a specification (`.json`), or at a folder or an archive with a server in it
    Validate {
        /// Where it is
        path: PathBuf,
    },
}

impl Generate {
    async fn order(&self) -> Result<Value, CliError> {
        let mut order = Map::new();
        if let Some(description) = &self.description {
            let text = if description == "-" { standard_input().await? } else { description.clone() };
            order.insert("description".into(), text.into());
        }
        let files = [
            ("openapi", &self.openapi),
            ("postman", &self.postman),
            ("graphql", &self.graphql),
            ("curl", &self.curl),
            ("spec", &self.spec),
        ];
        for (name, file) in files {
            if let Some(file) = file {
                order.insert(name.into(), read(file)?.into());
            }
        }
        if let Some(url) = &self.from_url {
            order.insert("url".into(), url.clone().into());
        }
        if let Some(name) = &self.name {
            order.insert("name".into(), name.clone().into());
        }
        let tools = match self.tools {
            Tools::Auto => "auto",
            Tools::All => "all",
            Tools::Dynamic => "dynamic",
        };
        order.insert("runtime".into(), self.runtime.clone().into());
        order.insert(
            "options".into(),
            json!({ "tools": tools, "include": self.include, "exclude": self.exclude, "base_url": self.base_url, "image": self.image }),
        );
        Ok(Value::Object(order))
    }
}

async fn standard_input() -> Result<String, CliError> {
    let mut text = String::new();
    tokio::io::stdin().read_to_string(&mut text).await.map_err(CliError::Input)?;
    Ok(text)
}

fn read(file: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(file).map_err(|error| CliError::Found(format!("{}: {error}", file.display())))
}

pub(super) async fn generate(context: Context, asked: Generate) -> Result<(), CliError> {
    // What is to run goes on running.
    let fabric = if asked.run { Fabric::reach_running(&context).await? } else { Fabric::reach(&context).await? };
    let done = make(&fabric, &context, &asked).await;
    fabric.leave().await;
    done
}

async fn make(fabric: &Fabric, context: &Context, asked: &Generate) -> Result<(), CliError> {
    let order = asked.order().await?.to_string().into_bytes();
    let begun = fabric.post_json("/api/mcp/generate", order).await?;
    let mut told = 0;
    let bar = jobs::bar(context.json);
    let lines = bar.clone();
    let job = jobs::wait_beside(fabric, &output::text(&begun, "job_id"), bar, async |job: &Value| {
        let log = job["log"].as_array().cloned().unwrap_or_default();
        for line in log.iter().skip(told) {
            lines.suspend(|| output::note(context.json, output::text(line, "message")));
        }
        told = log.len();
        Ok(())
    })
    .await?;
    if job["status"] == "needs_input" {
        return ask(context, &job["result"]);
    }
    let result = jobs::complete(job)?["result"].clone();
    let (name, version) = (output::text(&result, "name"), output::text(&result, "version"));
    let sentence = format!("made {name} {version}: {}", output::text(&result, "package"));
    if asked.run {
        output::note(context.json, sentence);
        return run::start_server(fabric, context, &name).await;
    }
    output::done(context.json, sentence, &result);
    Ok(())
}

/// Says what has to be known first.
fn ask(context: &Context, result: &Value) -> Result<(), CliError> {
    if context.json {
        output::json(&json!({ "status": "needs_input", "result": result }));
        return Err(CliError::Found("it has questions".into()));
    }
    let questions: Vec<String> = result["questions"].as_array().into_iter().flatten().map(|one| output::text(one, "question")).collect();
    Err(CliError::Found(questions.join("\n")))
}

pub(super) async fn factory(context: Context, command: FactoryCommand) -> Result<(), CliError> {
    let fabric = Fabric::reach(&context).await?;
    let done = match command {
        FactoryCommand::Register { manifest } => register(&fabric, &context, &manifest).await,
        FactoryCommand::List { limit, search } => list(&fabric, &context, limit, search).await,
        FactoryCommand::Get { name, version } => get(&fabric, &context, &name, version).await,
        FactoryCommand::Remove { name, files } => remove(&fabric, &context, &name, files).await,
        FactoryCommand::Validate { path } => validate(&fabric, &context, &path).await,
    };
    fabric.leave().await;
    done
}

async fn register(fabric: &Fabric, context: &Context, manifest: &Path) -> Result<(), CliError> {
    let stored = fabric.post_json("/api/mcp/generated", read(manifest)?.into_bytes()).await?;
    let sentence = format!("registered {} {}", output::text(&stored, "name"), output::text(&stored, "version"));
    output::done(context.json, sentence, &stored);
    Ok(())
}

async fn list(fabric: &Fabric, context: &Context, limit: u32, search: Option<String>) -> Result<(), CliError> {
    let search = search.map(|search| format!("&search={}", encoded(&search))).unwrap_or_default();
    let found = fabric.get(&format!("/api/mcp/generated?limit={limit}{search}")).await?;
    if context.json {
        output::json(&found);
        return Ok(());
    }
    let row = |server: &Value| ["name", "version", "description"].map(|key| output::text(server, key));
    let rows: Vec<[String; 3]> = found["servers"].as_array().into_iter().flatten().map(row).collect();
    output::table(["SERVER", "VERSION", "DESCRIPTION"], &rows);
    Ok(())
}

async fn get(fabric: &Fabric, context: &Context, name: &str, version: Option<String>) -> Result<(), CliError> {
    let version = version.map(|version| format!("?version={}", encoded(&version))).unwrap_or_default();
    let found = fabric.get(&format!("/api/mcp/generated/{}{version}", encoded(name))).await?;
    if context.json {
        output::json(&found);
        return Ok(());
    }
    for key in ["name", "version", "description", "package_path", "docker_image", "created_at", "updated_at"] {
        let text = output::text(&found, key);
        if !text.is_empty() {
            output::say(format!("{key:13} {text}"));
        }
    }
    output::say(format!("{:#}", found["claude_config"]));
    Ok(())
}

async fn remove(fabric: &Fabric, context: &Context, name: &str, files: bool) -> Result<(), CliError> {
    fabric.delete(&format!("/api/mcp/generated/{}?files={files}", encoded(name))).await?;
    output::done(context.json, format!("{name} is removed"), &json!({ "name": name }));
    Ok(())
}

async fn validate(fabric: &Fabric, context: &Context, path: &Path) -> Result<(), CliError> {
    let is_spec = path.extension().is_some_and(|extension| extension == "json");
    let wanted = if is_spec {
        let spec: Value = serde_json::from_str(&read(path)?).map_err(|error| CliError::Found(format!("{}: {error}", path.display())))?;
        json!({ "spec": spec })
    } else {
        let place = std::path::absolute(path).map_err(|error| CliError::Found(format!("{}: {error}", path.display())))?;
        json!({ "path": place })
    };
    let report = fabric.post_json("/api/mcp/validate", wanted.to_string().into_bytes()).await?;
    if context.json {
        output::json(&report);
    } else {
        let row = |level: &Value| ["level", "about", "verdict", "note"].map(|key| output::text(level, key));
        let rows: Vec<[String; 4]> = report["levels"].as_array().into_iter().flatten().map(row).collect();
        output::table(["LEVEL", "ABOUT", "VERDICT", ""], &rows);
        for found in report["findings"].as_array().into_iter().flatten().filter(|found| found["id"] != "skipped") {
            let [id, severity, path, message] = ["id", "severity", "path", "message"].map(|key| output::text(found, key));
            output::say(format!("{severity:8} {id}  {path}: {message}"));
        }
    }
    if report["valid"] == true { Ok(()) } else { Err(CliError::Found("it is not valid".into())) }
}
