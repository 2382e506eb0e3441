//! `/packages/*`, as earlier systems had it: it answers when the work is done, with their keys and their sentences.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Router,
    extract::State as Held,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use chrono::{DateTime, TimeDelta, Utc};
use jobs::{JobId, JobStatus, Jobs, JobsError};
use packages::{BUNDLE_FOLDER, BundleProgram, Entry, Installation, Order, Packages, PackagesError, Stage};
use platform::{
    Action, Actor, Class, Problem, clock,
    http::{Json, Path},
    page,
};
use serde::Deserialize;
use serde_json::{Value, json};
use servers::ServerRef;

use crate::{
    Runtime, RuntimeError,
    model::{Instance, State},
    store::Filter,
};

/// How often a job and an instance are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long an answer waits for the server to run, beyond the install.
const PATIENCE: TimeDelta = TimeDelta::seconds(90);

/// What these paths work with.
#[derive(Clone)]
struct Older {
    packages: Packages,
    runtime: Runtime,
    jobs: Jobs,
}

/// The older paths of installed packages.
pub fn older(packages: Packages, runtime: Runtime, jobs: Jobs) -> Router {
    Router::new()
        .route("/packages", get(list))
        .route("/packages/install", post(install))
        .route("/packages/by-name/{name}", get(by_name))
        .route("/packages/by-id/{name}", get(by_id))
        .route("/packages/{name}", delete(uninstall))
        .route("/packages/{name}/enable", put(enable))
        .route("/packages/{name}/disable", put(disable))
        .with_state(Older { packages, runtime, jobs })
}

/// `{success: false, error}` with the status of the problem.
struct Failed(Problem);

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<PackagesError> for Failed {
    fn from(error: PackagesError) -> Self {
        Self(error.into())
    }
}

impl From<RuntimeError> for Failed {
    fn from(error: RuntimeError) -> Self {
        Self(error.into())
    }
}

impl From<JobsError> for Failed {
    fn from(error: JobsError) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let status = match self.0.class {
            Class::BadRequest | Class::Unprocessable | Class::UnsupportedMedia => StatusCode::BAD_REQUEST,
            class => class.status(),
        };
        if let Some(cause) = self.0.cause.filter(|_| self.0.class == Class::Internal) {
            tracing::error!(cause, "an older path failed");
        }
        (status, Json(json!({ "success": false, "error": self.0.detail }))).into_response()
    }
}

type Answer = Result<Json<Value>, Failed>;

/// What is not known is ignored.
#[derive(Deserialize)]
struct InstallIn {
    name: String,
    version: Option<String>,
    #[serde(rename = "serverName", alias = "server_name")]
    server_name: Option<String>,
    #[serde(alias = "registryType")]
    registry_type: Option<String>,
    command: Option<String>,
    args: Option<Vec<String>>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    enabled: Option<bool>,
}

/// `/^[@a-z0-9-_\/\.]+$/`, as the requirements have it.
fn is_name(name: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'@' | b'-' | b'_' | b'/' | b'.');
    !name.is_empty() && name.bytes().all(is_fit)
}

async fn install(Held(paths): Held<Older>, actor: Result<Actor, Problem>, body: Result<Json<InstallIn>, Problem>) -> Answer {
    let (actor, Json(body)) = (actor?, body?);
    if !is_name(&body.name) {
        let shown: String = body.name.chars().filter(|c| !c.is_control()).take(214).collect();
        let sentence = format!("Invalid package name: {shown}. Package names must match npm naming conventions.");
        return Err(Problem::new(Class::BadRequest, "invalid_package", sentence).into());
    }
    let enabled = body.enabled.unwrap_or(true);
    let order = Order {
        name: body.name,
        version: body.version.filter(|version| version != "latest"),
        server_name: body.server_name,
        registry_type: body.registry_type.or(Some("npm".into())),
        command: body.command,
        args: body.args.filter(|args| !args.is_empty()),
        env: body.env,
        enabled,
    };
    let since = clock::now();
    let (installation, job) = paths.packages.install(&actor, order).await?;
    paths.finished(&actor, job).await?;
    let server: ServerRef = installation.server_id.parse().map_err(|_| PackagesError::NotFound)?;
    let installation = paths.packages.of_server(&actor, &server).await?;
    if enabled {
        paths.settled(&actor, &installation.server_id, since).await?;
    }
    paths.both(&actor, &installation).await
}

async fn list(Held(paths): Held<Older>, actor: Result<Actor, Problem>) -> Answer {
    let actor = actor?;
    let found = paths.packages.list(&actor, "", page::MAX_LIMIT * 50).await?;
    let enabled = paths.packages.enabled_among(&actor, &found).await?;
    let all: Vec<Value> = found.iter().map(|found| shown(found, enabled.contains(&found.server_id))).collect();
    Ok(Json(json!({ "success": true, "packages": all })))
}

async fn by_name(Held(paths): Held<Older>, actor: Result<Actor, Problem>, Path(name): Path<String>) -> Answer {
    let actor = actor?;
    let found = paths.packages.named(&actor, &name).await?;
    paths.one(&actor, &found).await
}

async fn by_id(Held(paths): Held<Older>, actor: Result<Actor, Problem>, Path(name): Path<String>) -> Answer {
    let actor = actor?;
    let server: ServerRef = name.parse().map_err(|_| PackagesError::NotFound)?;
    let found = paths.packages.of_server(&actor, &server).await?;
    paths.one(&actor, &found).await
}

async fn uninstall(Held(paths): Held<Older>, actor: Result<Actor, Problem>, Path(name): Path<String>) -> Answer {
    paths.packages.uninstall(&actor?, &name).await?;
    Ok(Json(json!({ "success": true })))
}

async fn enable(Held(paths): Held<Older>, actor: Result<Actor, Problem>, Path(name): Path<String>) -> Answer {
    paths.turn(&actor?, &name, true).await
}

async fn disable(Held(paths): Held<Older>, actor: Result<Actor, Problem>, Path(name): Path<String>) -> Answer {
    paths.turn(&actor?, &name, false).await
}

impl Older {
    /// Waits for the end of a job; what it failed for is the answer.
    async fn finished(&self, actor: &Actor, job: JobId) -> Result<(), Failed> {
        loop {
            let (found, _) = self.jobs.get(actor, job).await?;
            match found.status {
                JobStatus::Pending | JobStatus::Processing => tokio::time::sleep(LOOK).await,
                JobStatus::Complete | JobStatus::NeedsInput => return Ok(()),
                JobStatus::Failed | JobStatus::Cancelled => {
                    let text = |key: &str| found.error.as_ref().and_then(|error| error[key].as_str()).unwrap_or("cancelled").to_owned();
                    let is_missing = matches!(text("code").as_str(), "package_not_found" | "version_not_found" | "not_cached");
                    let class = if is_missing { Class::NotFound } else { Class::BadGateway };
                    return Err(Problem::new(class, "install_failed", text("message")).into());
                }
            }
        }
    }

    /// Waits until the actor's instance of a server runs, or has failed since a moment.
    async fn settled(&self, actor: &Actor, server_id: &str, since: DateTime<Utc>) -> Result<(), Failed> {
        while clock::now() < since + PATIENCE {
            match self.instance(actor, server_id).await? {
                Some(found) if found.state == State::Running || (found.state == State::Failed && found.since >= since) => return Ok(()),
                _ => tokio::time::sleep(LOOK).await,
            }
        }
        Ok(())
    }

    async fn instance(&self, actor: &Actor, server_id: &str) -> Result<Option<Instance>, Failed> {
        if !actor.may(Action::InstancesRead) {
            return Ok(None);
        }
        let filter = Filter { server_id: Some(server_id.to_owned()), ..Filter::default() };
        let found = self.runtime.list(actor, &filter, None, page::MAX_LIMIT).await?;
        Ok(found.into_iter().find(|instance| instance.owner == actor.to_string()))
    }

    async fn turn(&self, actor: &Actor, name: &str, enabled: bool) -> Answer {
        let since = clock::now();
        let found = self.packages.enable(actor, name, enabled).await?;
        if enabled {
            self.settled(actor, &found.server_id, since).await?;
        }
        self.both(actor, &found).await
    }

    async fn one(&self, actor: &Actor, found: &Installation) -> Answer {
        let enabled = self.packages.enabled_among(actor, std::slice::from_ref(found)).await?;
        Ok(Json(json!({ "success": true, "package": shown(found, enabled.contains(&found.server_id)) })))
    }

    async fn both(&self, actor: &Actor, found: &Installation) -> Answer {
        let enabled = self.packages.enabled_among(actor, std::slice::from_ref(found)).await?.contains(&found.server_id);
        let status = match self.instance(actor, &found.server_id).await?.map(|instance| instance.state) {
            Some(State::Running) => "connected",
            Some(State::Failed) => "error",
            _ => "disconnected",
        };
        let (command, args) = command(actor, found);
        let server = json!({
            "name": found.server_id, "command": command, "args": args, "env": found.shown_env(actor).unwrap_or_default(),
            "status": status, "enabled": enabled,
        });
        Ok(Json(json!({ "success": true, "package": shown(found, enabled), "server": server })))
    }
}

fn shown(found: &Installation, enabled: bool) -> Value {
    let mut package = json!({
        "name": found.package.identifier,
        "version": found.package.version.as_deref().unwrap_or("latest"),
        "resolvedVersion": found.runnable.as_ref().map(|runnable| &runnable.version),
        "installPath": found.install_path(),
        "status": found.stage,
        "installed": clock::rfc3339(found.created_at),
        "mcpServerId": found.server_id,
        "enabled": enabled,
    });
    if found.stage == Stage::Error {
        package["error"] = found.error.as_ref().map(|(_, message)| message.as_str()).into();
    }
    package
}

/// What is run, as people would write it beside the data folder.
fn command(actor: &Actor, found: &Installation) -> (String, Vec<String>) {
    let further = found.shown_args(actor).map(<[String]>::to_vec).unwrap_or_default();
    let place = |path: &str| format!("./{}/{path}", found.install_path());
    let (command, mut args) = match (&found.command, found.runnable.as_ref().map(|runnable| &runnable.entry)) {
        (Some(command), _) => (command.clone(), Vec::new()),
        (None, Some(Entry::Node { path })) => ("node".into(), vec![place(path)]),
        (None, Some(Entry::Program { path })) => (place(path), Vec::new()),
        (None, Some(Entry::Script { path })) => (place("venv/bin/python"), vec![place(path)]),
        (None, Some(Entry::Module { name })) => (place("venv/bin/python"), vec!["-m".into(), name.clone()]),
        (None, Some(Entry::Bundle(bundle))) => match &bundle.program {
            BundleProgram::Node => ("node".into(), bundle.args.clone()),
            BundleProgram::Python => ("python3".into(), bundle.args.clone()),
            BundleProgram::Own(path) => (place(&format!("{BUNDLE_FOLDER}/{path}")), bundle.args.clone()),
        },
        (None, Some(Entry::Image { name, digest })) => ("docker".into(), vec!["run".into(), "-i".into(), format!("{name}@{digest}")]),
        (None, None) => (String::new(), Vec::new()),
    };
    args.extend(further);
    (command, args)
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names_are_those_of_the_requirements() {
        assert!(["@missionsquad/mcp-github", "mcp.server_time", "a"].iter().all(|name| is_name(name)));
        assert!(!["", "A", "a b", "x;y", "$(id)", "é", "a\n"].iter().any(|name| is_name(name)));
    }
}
