use std::{os::unix::fs::PermissionsExt as _, path::Path};

use packages::Toolchain;
use platform::{
    Config,
    config::{Layers, SETTINGS},
    database::{
        Owner, binaries,
        managed::{Cluster, Options},
    },
    files,
};
use serde_json::{Value, json};

use super::{CliError, output};
use crate::app;

/// Shows every setting and looks at what the program needs; fails when something is wrong.
pub(super) async fn run(layers: &Layers, as_json: bool) -> Result<(), CliError> {
    let settings: Vec<[String; 3]> = SETTINGS
        .iter()
        .map(|setting| {
            let (source, value) = layers.describe(setting);
            [setting.key.to_owned(), value, source.map_or_else(String::new, |source| source.to_string())]
        })
        .collect();
    let (findings, wrong) = match Config::from_layers(layers) {
        Ok(config) => examine(layers, &config).await,
        Err(error) => (vec![finding("settings", Err(error.to_string()))], 1),
    };
    if as_json {
        let settings: Vec<Value> =
            settings.iter().map(|[key, value, source]| json!({ "name": key, "value": value, "source": source })).collect();
        let findings: Vec<Value> =
            findings.iter().map(|[what, state, detail]| json!({ "check": what, "state": state, "detail": detail })).collect();
        output::json(&json!({ "settings": settings, "checks": findings }));
    } else {
        output::table(["SETTING", "VALUE", "FROM"], &settings);
        output::say("");
        output::table(["CHECK", "STATE", "DETAIL"], &findings);
    }
    if wrong == 0 { Ok(()) } else { Err(CliError::Found(format!("{wrong} of these checks failed"))) }
}

fn finding(what: &str, result: Result<String, String>) -> [String; 3] {
    match result {
        Ok(detail) => [what.into(), "ok".into(), detail],
        Err(detail) => [what.into(), "wrong".into(), detail],
    }
}

async fn examine(layers: &Layers, config: &Config) -> (Vec<[String; 3]>, usize) {
    let running = app::running(&config.data_dir);
    let token = files::operator_token_file(&config.data_dir);
    let token_state = if token.is_file() { "is there" } else { "is made at the first start" };
    let serving = running.as_ref().map_or_else(|| "not running".to_owned(), |running| format!("{} (pid {})", running.url, running.pid));
    let port = match running {
        Some(_) => Ok(config.listen.to_string()),
        None => std::net::TcpListener::bind(config.listen)
            .map(|_| format!("{} is free", config.listen))
            .map_err(|error| format!("{}: {error}", config.listen)),
    };
    let mut findings = vec![
        finding("settings", spelling(layers)),
        finding("data folder", privacy(&config.data_dir)),
        finding("fabric", Ok(serving)),
        finding("address", port),
        finding("operator token", Ok(format!("{} {token_state}", token.display()))),
        finding("database", database(config).await),
    ];
    for toolchain in Toolchain::ALL {
        findings.push(program(toolchain).await);
    }
    findings.push(match runtime::engine_version(config.runtime.engine.as_deref()).await {
        Ok(version) => finding("container engine", Ok(version)),
        Err(reason) => ["container engine".into(), "missing".into(), format!("servers from images need one: {reason}")],
    });
    let wrong = findings.iter().filter(|[_, state, _]| state == "wrong").count();
    (findings, wrong)
}

/// A program that is missing is no fault: not every fabric runs servers of every kind.
async fn program(toolchain: Toolchain) -> [String; 3] {
    match toolchain.find().await {
        Ok(found) => finding(toolchain.program(), Ok(format!("{} in {}", found.version, found.program.display()))),
        Err(error) => [toolchain.program().into(), "missing".into(), error.to_string()],
    }
}

/// A misspelt name would otherwise be a setting that does nothing.
fn spelling(layers: &Layers) -> Result<String, String> {
    let names: Vec<&str> = layers.misspelt.iter().map(String::as_str).collect();
    if names.is_empty() { Ok("every setting can be used".into()) } else { Err(format!("there is no setting {}", names.join(", "))) }
}

/// Whether others on this machine can read our secrets or put files of theirs in their place.
fn privacy(folder: &Path) -> Result<String, String> {
    let mode = |path: &Path| std::fs::metadata(path).ok().map(|found| found.permissions().mode());
    let Some(own) = mode(folder) else { return Ok(format!("{} is made at the first start", folder.display())) };
    if own & 0o022 != 0 {
        return Err(format!("others may write in {}; chmod go-w puts it right", folder.display()));
    }
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file()) {
        let is_secret = path.extension().is_some_and(|extension| extension == "json" || extension == "token");
        if is_secret && mode(&path).is_some_and(|mode| mode & 0o077 != 0) {
            return Err(format!("others may read {}; chmod 600 puts it right", path.display()));
        }
    }
    Ok(format!("{} is for its owner alone", folder.display()))
}

/// Looks without changing anything: a managed cluster that is not up is not started.
async fn database(config: &Config) -> Result<String, String> {
    if let Some(url) = &config.database.url {
        let owner = Owner::from_url(url).map_err(|error| error.to_string())?;
        let mut connection = owner.connect().await.map_err(|error| error.to_string())?;
        let version = owner.server_version(&mut connection).await.map_err(|error| error.to_string())?;
        return Ok(format!("PostgreSQL {version}"));
    }
    let programs = match (&config.database.pg_bin_dir, binaries::installed().first()) {
        (Some(folder), _) => format!("with the programs in {}", folder.display()),
        (None, Some(found)) => format!("with PostgreSQL {} in {}", found.major, found.folder.display()),
        (None, None) => "with a build that is fetched at the first start".into(),
    };
    let place = Cluster::place(&Options::of(config)).map_err(|error| error.to_string())?;
    let state = if place.join("PG_VERSION").is_file() { "managed" } else { "to be made at the first start" };
    Ok(format!("{state} in {}, {programs}", place.display()))
}
