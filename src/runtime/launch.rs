//! What a start needs: a package that is there, a program, its arguments, its environment.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use configurations::{Configuration, Sharing};
use packages::{BUNDLE_FOLDER, BundleProgram, Entry, Installation, NoToolchain, Runnable, Stage, Toolchain};
use platform::{Class, Coded, public_message};
use secrecy::SecretString;
use serde_json::Value;
use servers::{Described, ServerRef, ServersError, Viewer, first_remote};

use crate::{
    body::Body,
    containers::{self, Container, EngineError},
    error::RuntimeError,
    fill::{self, Given, Unfilled},
    live::Live,
    log::Log,
    model::{Instance, InstanceId, Kept, Reason},
    process, remote,
    service::Inner,
    wire::Wire,
};

/// How long an install may take that a start waits for.
const INSTALL: Duration = Duration::from_mins(15);
const LOOK: Duration = Duration::from_millis(200);

/// A server: what its document says, and what of it is installed.
pub(crate) struct Known {
    pub(crate) described: Described,
    pub(crate) installation: Option<Installation>,
}

impl Known {
    /// Where it is, when nothing of it is run here.
    pub(crate) fn remote(&self) -> Option<&Value> {
        let document = &self.described.document;
        let has_packages = document["packages"].as_array().is_some_and(|packages| !packages.is_empty());
        first_remote(document).filter(|_| self.installation.is_none() && !has_packages)
    }
}

impl Inner {
    /// A server, for somebody who may use it.
    pub(crate) async fn known(&self, viewer: &Viewer, server: &ServerRef) -> Result<Known, RuntimeError> {
        let described = self.servers.usable_document(viewer, server).await?;
        let installation = self.packages.of(&described.id).await?;
        Ok(Known { described, installation })
    }

    /// The server of a configuration. Fails where whose it is may not use it any more.
    pub(crate) async fn server_of(&self, configuration: &Configuration) -> Result<Known, RuntimeError> {
        let server: ServerRef = configuration.server_id.parse().map_err(ServersError::from)?;
        self.known(&Viewer::owner(&configuration.owner), &server).await
    }
}

/// What is started.
enum What {
    /// A program, with what it may read.
    Program(PathBuf, Vec<PathBuf>),
    /// An image by its name and its digest.
    Image(String, String),
    /// A server elsewhere.
    Remote(remote::Order),
}

/// Everything for a start but what is started then.
pub(crate) struct Launch {
    what: What,
    args: Vec<String>,
    env: BTreeMap<String, SecretString>,
    /// Folders that it may write to.
    write: Vec<PathBuf>,
    /// None for what runs elsewhere.
    pub(crate) limits: Option<Kept>,
    pub(crate) version: String,
    /// Whether it is of PyPI.
    pub(crate) is_python: bool,
    /// Whether it may ask its client for anything: what several users share cannot tell whom it asks.
    pub(crate) asks: bool,
    /// The digest of what is run.
    pub(crate) tree: String,
    /// The digest that its installation names: on another node, another interpreter makes another tree of the same.
    pub(crate) installed: Option<String>,
}

impl Launch {
    /// Starts it; gives the ends of its pipes with it.
    pub(crate) async fn start(&self, inner: &Inner, instance: &Instance, live: &Live) -> Result<(Body, Arc<Wire>), Reason> {
        let (log, outside) = (&live.log, live.outside.clone());
        match &self.what {
            What::Remote(order) => {
                let (remote, input, output) = remote::open(&inner.client, order.clone(), Arc::clone(log));
                Ok((Body::Remote(remote), Wire::open(input, output, Arc::clone(log), outside)))
            }
            What::Program(program, read) => {
                let limits = self.limits.unwrap_or_else(|| inner.starter.limits(&configurations::Limits::default()));
                let order = process::Order {
                    id: instance.id,
                    program: program.clone(),
                    args: self.args.clone(),
                    env: &self.env,
                    read: read.clone(),
                    write: self.write.clone(),
                    limits,
                };
                let started = inner.starter.start(order);
                let (own, pipes) = started.map_err(|error| Reason::new("not_started", format!("it cannot be started: {error}")))?;
                inner.shutdown.spawn(process::drain(pipes.errors, Arc::clone(log)));
                Ok((Body::Process(Box::new(own)), Wire::open(pipes.input, pipes.output, Arc::clone(log), outside)))
            }
            What::Image(name, digest) => {
                let limits = self.limits.unwrap_or_else(|| inner.limits(&configurations::Limits::default(), true));
                let image = inner.engine.reference(name, digest);
                let order = containers::Order {
                    id: instance.id,
                    owner: &instance.owner,
                    server_id: &instance.server_id,
                    image: &image,
                    args: &self.args,
                    env: &self.env,
                    folders: &self.write,
                    network: inner.config.network,
                    open_files: inner.config.open_files,
                    limits,
                };
                let (container, pipes) = Container::start(&inner.engine, &order, log).await.map_err(|error| engine_reason(&error))?;
                Ok((Body::Container(container), Wire::open(pipes.input, pipes.output, Arc::clone(log), outside)))
            }
        }
    }
}

/// The code of a server that only a person can help, by logging in.
pub(crate) const AUTHORIZATION_NEEDED: &str = "authorization_needed";
/// The code of a start that waits for the container engine.
pub(crate) const ENGINE_UNAVAILABLE: &str = "engine_unavailable";

fn engine_reason(error: &EngineError) -> Reason {
    Reason::new(if error.is_away() { ENGINE_UNAVAILABLE } else { "engine_refused" }, error.to_string())
}

pub(crate) fn reason_of(error: &impl Coded) -> Reason {
    if error.class() == Class::Internal {
        tracing::error!(code = error.code(), %error, "a server cannot be started");
    }
    Reason { is_passing: error.class() == Class::Unavailable, ..Reason::new(error.code(), public_message(error)) }
}

/// Brings together what a start needs; what is missing becomes an install, which is waited for. `server` is what is known of it
/// already.
pub(crate) async fn prepare(
    inner: &Arc<Inner>,
    id: InstanceId,
    configuration: &Configuration,
    server: Option<Known>,
    log: &Log,
) -> Result<Launch, Reason> {
    let server = match server {
        Some(server) => server,
        None => inner.server_of(configuration).await.map_err(|error| reason_of(&error))?,
    };
    if let Some(entry) = server.remote() {
        return elsewhere(inner, configuration, entry, &server.described.version, log).await;
    }
    let Known { described, installation } = server;
    let (installation, runnable) = installed(inner, &described.id, installation, log).await?;
    let installed = installation.runnable.as_ref().map(|there| there.tree.clone());
    let is_image = matches!(runnable.entry, Entry::Image { .. });
    let tree = tree_of(inner, id, &runnable, is_image).await?;
    let entry = inner.packages.entry(&described.document, &installation, Some(&tree));
    let secrets = revealed(inner, configuration, log).await?;
    let given = Given { values: &configuration.values, secrets: &secrets, args: installation.args_instead(), env: &installation.env };
    let filled = fill::fill(&entry, &given).map_err(unfilled)?;
    let (what, mut args) = match &runnable.entry {
        Entry::Image { name, digest } => (What::Image(name.clone(), digest.clone()), Vec::new()),
        entry => {
            let (program, args) = program(inner, &installation, entry, &tree).await?;
            (What::Program(program, vec![tree.clone()]), args)
        }
    };
    // As the requirements write paths of what is installed.
    let own = |arg: String| {
        arg.strip_prefix("./packages/").map_or(arg.clone(), |rest| inner.packages.place().join("packages").join(rest).display().to_string())
    };
    args.extend(filled.args.into_iter().map(own));
    let mut env = BTreeMap::new();
    let is_python = matches!(runnable.entry, Entry::Script { .. } | Entry::Module { .. });
    if let Entry::Bundle(bundle) = &runnable.entry
        && let Some(folders) = bundle.python_path_in(&tree)
    {
        env.insert("PYTHONPATH".to_owned(), folders.into());
    }
    if is_python || matches!(&runnable.entry, Entry::Bundle(bundle) if bundle.program == BundleProgram::Python) {
        // What is written is ours to write, and lines are to come when they are said.
        env.insert("PYTHONDONTWRITEBYTECODE".to_owned(), SecretString::from("1"));
        env.insert("PYTHONUNBUFFERED".to_owned(), SecretString::from("1"));
    }
    env.extend(filled.env);
    // Neither the document nor anybody else's installation says what of this machine a server is given.
    let own_args = if installation.installed_by == configuration.owner { installation.args.unwrap_or_default() } else { Vec::new() };
    let named = filled.named.into_iter().chain(own_args);
    let write = granted(inner, configuration, filled.paths, named)?;
    let limits = Some(inner.limits(&configuration.limits, is_image));
    let asks = configuration.sharing != Sharing::Shared;
    Ok(Launch { what, args, env, write, limits, version: runnable.version, is_python, asks, tree: runnable.tree, installed })
}

/// The tree of what is run, where servers cannot change it; else a copy for this instance.
async fn tree_of(inner: &Arc<Inner>, id: InstanceId, runnable: &Runnable, is_image: bool) -> Result<PathBuf, Reason> {
    let tree = inner.packages.tree(&runnable.tree);
    if is_image || inner.starter.protects_trees() {
        return Ok(tree);
    }
    let inner = Arc::clone(inner);
    let copied = tokio::task::spawn_blocking(move || inner.starter.private_copy(id, &tree)).await;
    let copied = copied.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    copied.map_err(|error| Reason::new("data_folder_unusable", format!("the package cannot be copied: {error}")))
}

/// What a start of a server elsewhere needs: its address, and headers with what the vault has.
async fn elsewhere(inner: &Inner, configuration: &Configuration, entry: &Value, version: &str, log: &Log) -> Result<Launch, Reason> {
    let secrets = revealed(inner, configuration, log).await?;
    let given = Given { values: &configuration.values, secrets: &secrets, args: None, env: &BTreeMap::new() };
    let (url, headers) = fill::remote(entry, &given).map_err(unfilled)?;
    let unfit = |why: &str| Reason::new("document_unusable", format!("its document names no address that can be used: {why}"));
    let url: reqwest::Url = url.parse().map_err(|_| unfit("it is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(unfit("it is not HTTP"));
    }
    let transport = if entry["type"] == "sse" { remote::Transport::Sse } else { remote::Transport::StreamableHttp };
    let tree = format!("{transport} {url}");
    let bearer = inner.oauth.bearer(&configuration.owner, &configuration.server_id, &url).await.map_err(|error| reason_of(&error))?;
    let what = What::Remote(remote::Order { transport, url, headers, bearer });
    Ok(Launch {
        what,
        args: Vec::new(),
        env: BTreeMap::new(),
        write: Vec::new(),
        limits: None,
        version: version.to_owned(),
        is_python: false,
        asks: configuration.sharing != Sharing::Shared,
        tree,
        installed: None,
    })
}

/// The secrets that a start is given; its log hides them from now on.
async fn revealed(inner: &Inner, configuration: &Configuration, log: &Log) -> Result<BTreeMap<String, SecretString>, Reason> {
    let secrets = inner.credentials.for_launch(&configuration.owner, &configuration.server_id).await;
    let secrets = secrets.map_err(|error| reason_of(&error))?;
    log.hide(secrets.values());
    Ok(secrets)
}

/// Why a launch cannot be filled, for people.
pub(crate) fn unfilled(unfilled: Unfilled) -> Reason {
    match unfilled {
        Unfilled::Missing(names) => Reason::new("missing_inputs", format!("it needs values that it was not given: {}", names.join(", "))),
        Unfilled::SecretArgument(name) => {
            let text = format!("it takes the secret `{name}` as an argument or in its address, where others could read it");
            Reason::new("secret_argument", text)
        }
        Unfilled::Variable(name) => {
            Reason::new("variable_refused", format!("its document sets `{name}`, which would change which program runs"))
        }
    }
}

/// The installation of a server, once it can be started here. Where nothing is there, one install is made.
async fn installed(inner: &Inner, server_id: &str, mut found: Option<Installation>, log: &Log) -> Result<(Installation, Runnable), Reason> {
    let began = Instant::now();
    let mut is_mended = false;
    loop {
        match found {
            Some(Installation { runnable: Some(ref runnable), .. }) => {
                let runnable = runnable.clone();
                let Some(installation) = found else { continue };
                if inner.packages.has_tree(&runnable) {
                    return Ok((installation, runnable));
                }
                log.note("what it runs is not on this node; it is unpacked from the cache");
                return restored(inner, installation, &runnable).await;
            }
            // A job is at it.
            Some(Installation { stage: Stage::Installing, .. }) => is_mended = true,
            Some(Installation { error: Some((code, text)), .. }) if is_mended => return Err(Reason::new(code, text)),
            _ if is_mended => return Err(Reason::new("not_installed", "it was uninstalled")),
            _ => {
                log.note("it is not installed; that is done first");
                inner.packages.mend(server_id).await.map_err(|error| reason_of(&error))?;
                is_mended = true;
            }
        }
        if began.elapsed() > INSTALL {
            return Err(Reason::new("install_timeout", "its install took too long"));
        }
        tokio::time::sleep(LOOK).await;
        found = inner.packages.of(server_id).await.map_err(|error| reason_of(&error))?;
    }
}

async fn restored(inner: &Inner, installation: Installation, runnable: &Runnable) -> Result<(Installation, Runnable), Reason> {
    let made = inner.packages.restore(&installation, runnable).await.map_err(|error| match error.code() {
        "offline" => Reason::new("not_cached", error.to_string()),
        _ => reason_of(&error),
    })?;
    Ok((installation, made))
}

/// The program of an entry, and the arguments that make it run the package.
async fn program(inner: &Inner, installation: &Installation, entry: &Entry, tree: &Path) -> Result<(PathBuf, Vec<String>), Reason> {
    let missing = |error: NoToolchain| Reason::new("toolchain_missing", error.to_string());
    if let Some(command) = &installation.command {
        return Ok((inner.program(command).await.map_err(missing)?, Vec::new()));
    }
    let below = |path: &str| tree.join(path).display().to_string();
    Ok(match entry {
        Entry::Node { path } => (inner.program(Toolchain::Node.program()).await.map_err(missing)?, vec![below(path)]),
        Entry::Program { path } => (tree.join(path), Vec::new()),
        Entry::Script { path } => (tree.join("venv/bin/python"), vec![below(path)]),
        Entry::Module { name } => (tree.join("venv/bin/python"), vec!["-m".into(), name.clone()]),
        Entry::Bundle(bundle) => match &bundle.program {
            BundleProgram::Node => (inner.program(Toolchain::Node.program()).await.map_err(missing)?, Vec::new()),
            BundleProgram::Python => (inner.program("python3").await.map_err(missing)?, Vec::new()),
            BundleProgram::Own(path) => (below(&format!("{BUNDLE_FOLDER}/{path}")).into(), Vec::new()),
        },
        Entry::Image { .. } => return Err(Reason::new("unsupported_registry_type", "an image is started by a container engine")),
    })
}

/// What of this machine a server is given: inputs that are paths, and what else its owner named among its arguments
/// and is there. The operator may give any of it but the fabric's own, users what `FABRIC_SERVER_PATHS` allows.
fn granted(
    inner: &Inner,
    configuration: &Configuration,
    inputs: Vec<String>,
    named: impl Iterator<Item = String>,
) -> Result<Vec<PathBuf>, Reason> {
    let mut all = BTreeSet::new();
    let is_operator = configuration.owner == "operator";
    for (path, is_input) in inputs.into_iter().map(|path| (path, true)).chain(named.map(|path| (path, false))) {
        if !path.starts_with('/') {
            continue;
        }
        let Ok(real) = std::fs::canonicalize(path) else { continue };
        let is_ours = inner.own_folders.iter().any(|own| real.starts_with(own) || own.starts_with(&real));
        let is_allowed = is_operator || inner.config.paths.iter().any(|allowed| real.starts_with(allowed));
        if is_allowed && !is_ours {
            all.insert(real);
        } else if is_input && is_ours {
            return Err(Reason::new("path_refused", "it is given a path with the fabric's own files, which servers never have"));
        } else if is_input {
            let text = "it is given a path that servers may not have; FABRIC_SERVER_PATHS says which they may";
            return Err(Reason::new("path_refused", text));
        }
    }
    Ok(outermost(all))
}

/// Without those that lie in others. Paths come in the order of their parts: what lies in a folder follows it.
fn outermost(paths: BTreeSet<PathBuf>) -> Vec<PathBuf> {
    paths.into_iter().fold(Vec::new(), |mut all: Vec<PathBuf>, path| {
        if !all.last().is_some_and(|last| path.starts_with(last)) {
            all.push(path);
        }
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_another_one_is_given_with_it() {
        let paths = ["/a/b", "/a", "/a-b", "/c/d/e", "/c/d"].map(PathBuf::from);
        assert_eq!(outermost(BTreeSet::from(paths)), ["/a", "/a-b", "/c/d"].map(PathBuf::from));
    }
}
