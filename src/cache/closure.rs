//! What an install of a package needs beside it.
//!
//! The ecosystem's own resolver decides, run against the fabric's own registries, so that what it is told
//! is what is cached: `npm install --package-lock-only`, and `uv pip compile` or pip's report. No script of
//! a package is run, and nothing is built. The result is kept as a lock: a second run takes the same bytes.

use std::{collections::BTreeMap, path::Path, process::Stdio, time::Duration};

use axum::{
    extract::Request,
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use platform::{config::sources::environment, files, random};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::task::JoinHandle;

use crate::{
    documents::Ask,
    error::CacheError,
    give::Trusted,
    names::{NpmName, NpmVersion, Package, PypiName, PypiVersion},
    npm::Packument,
    registries::registries,
    service::Cache,
};

/// Nothing listens there: requests to anything but ourselves end at once.
const DEAD_PROXY: [&str; 2] = ["--proxy=http://127.0.0.1:9", "--https-proxy=http://127.0.0.1:9"];
/// How long a resolver may take.
const LIMIT: Duration = Duration::from_mins(10);
/// How much of what a resolver said is told.
const SAID: usize = 600;

/// The packages of a closure, the one that was asked for among them, and which program chose them.
pub(crate) struct Closure {
    /// With the folders into which an install of npm puts each of them.
    pub(crate) packages: Members,
    pub(crate) resolver: &'static str,
}

type Members = BTreeMap<Member, Vec<String>>;

/// One package of a closure, ordered by name and version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) version: String,
}

impl Member {
    fn of(package: &Package) -> Self {
        Self { name: package.name().to_owned(), version: package.version().to_owned() }
    }
}

/// Asks the resolver of the package's ecosystem. `work` is an empty folder that is removed afterwards.
pub(crate) async fn resolve(cache: &Cache, package: &Package, constraints: &str, work: &Path) -> Result<Closure, CacheError> {
    if let Package::Npm(name, version) = package {
        let said = cache.packument(name, Ask::IfOld).await?;
        if let Some(exotic) = Packument::parse(name, &said.text)?.exotic_dependency(version) {
            return Err(CacheError::ExoticDependency(exotic.chars().filter(|c| !c.is_control()).take(120).collect()));
        }
    }
    let door = Door::open(cache).await?;
    let mut closure = match package {
        Package::Npm(name, version) => npm(&door, name, version, work).await?,
        Package::Pypi(name, version) => python(&door, name, version, constraints, work).await?,
        Package::Oci(..) | Package::Mcpb(..) => Closure { packages: Members::new(), resolver: "none" },
    };
    closure.packages.entry(Member::of(package)).or_default();
    Ok(closure)
}

/// The registries on a port of their own, for one resolver that knows the password.
struct Door {
    address: String,
    password: String,
    server: JoinHandle<()>,
}

impl Door {
    #[expect(clippy::disallowed_methods, reason = "ends with the resolver that it is for")]
    async fn open(cache: &Cache) -> Result<Self, CacheError> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let password = random::token();
        let (accepted, base) = (accepted(&password), format!("http://{address}"));
        let guard = move |mut request: Request, next: Next| {
            let is_known =
                request.headers().get(header::AUTHORIZATION).is_some_and(|sent| accepted.iter().any(|known| *known == sent.as_bytes()));
            request.headers_mut().remove(header::AUTHORIZATION);
            request.extensions_mut().insert(Trusted { base: base.clone() });
            async move { if is_known { next.run(request).await } else { refused() } }
        };
        let service = registries(cache.clone()).layer(middleware::from_fn(guard));
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, service).await {
                tracing::warn!(%error, "the registry for a resolver ended");
            }
        });
        Ok(Self { address, password, server })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn accepted(password: &str) -> [Vec<u8>; 2] {
    [format!("Bearer {password}").into_bytes(), format!("Basic {}", STANDARD.encode(format!("fabric:{password}"))).into_bytes()]
}

fn refused() -> Response {
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic realm=\"mcp-fabric\"")]).into_response()
}

async fn npm(door: &Door, name: &NpmName, version: &NpmVersion, work: &Path) -> Result<Closure, CacheError> {
    let project = serde_json::json!({ "name": "closure", "private": true, "dependencies": { name.as_str(): version.as_str() } });
    tokio::fs::write(work.join("package.json"), project.to_string()).await?;
    files::write_private(&work.join(".npmrc"), format!("//{}/npm/:_authToken={}\n", door.address, door.password).as_bytes())?;
    let registry = format!("--registry=http://{}/npm/", door.address);
    // A project's own settings come after these: it fetches nothing but from us, and starts no git.
    let userconfig = format!("--userconfig={}", work.join(".npmrc").display());
    let mut arguments = vec!["install", "--package-lock-only", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"];
    arguments.extend(["--git=/bin/false", "--allow-git=none", "--allow-remote=none", "--allow-file=none", "--allow-directory=none"]);
    arguments.extend(["--globalconfig=/dev/null", DEAD_PROXY[0], DEAD_PROXY[1], "--noproxy=127.0.0.1", &userconfig, &registry]);
    run("npm", &arguments, work).await?.ok_or(CacheError::NoResolver("npm"))?;
    let lock = tokio::fs::read(work.join("package-lock.json")).await?;
    Ok(Closure { packages: read_npm_lock(&lock, &format!("http://{}/npm/", door.address))?, resolver: "npm" })
}

#[derive(Deserialize)]
struct NpmLock {
    packages: BTreeMap<String, NpmLocked>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NpmLocked {
    name: Option<String>,
    version: Option<String>,
    resolved: Option<String>,
    #[serde(default)]
    link: bool,
    #[serde(default)]
    in_bundle: bool,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    os: Vec<String>,
    #[serde(default)]
    cpu: Vec<String>,
}

impl NpmLocked {
    /// Optional packages of other systems are never installed here.
    fn is_for_here(&self) -> bool {
        let cpu = match std::env::consts::ARCH {
            "x86_64" => "x64",
            "aarch64" => "arm64",
            other => other,
        };
        !self.optional || (admits(&self.os, std::env::consts::OS) && admits(&self.cpu, cpu))
    }
}

/// npm's rule: `!x` excludes, anything else has to name it.
fn admits(list: &[String], own: &str) -> bool {
    let excluded = list.iter().any(|entry| entry.strip_prefix('!') == Some(own));
    let mut named = list.iter().filter(|entry| !entry.starts_with('!')).peekable();
    !excluded && (named.peek().is_none() || named.any(|entry| entry == own || entry == "any"))
}

/// The packages of a `package-lock.json` (version 2 or 3) that an install here fetches. Whatever does not
/// come from our registry, such as a repository or a folder, is refused.
fn read_npm_lock(lock: &[u8], registry: &str) -> Result<Members, CacheError> {
    let lock: NpmLock = serde_json::from_slice(lock).map_err(|error| CacheError::Resolver("npm", error.to_string()))?;
    let mut members = Members::new();
    for (place, locked) in lock.packages {
        // The project itself, and what comes inside the tarball of another package.
        let Some((_, path)) = place.rsplit_once("node_modules/").filter(|_| !locked.in_bundle) else { continue };
        if !locked.is_for_here() {
            continue;
        }
        // The name under which it is looked for may be an alias.
        let name = locked.name.as_deref().unwrap_or(path);
        if !is_place(&place) {
            return Err(CacheError::Resolver("npm", "its lock names a folder outside".into()));
        }
        let is_ours = !locked.link && locked.resolved.as_deref().is_some_and(|resolved| resolved.starts_with(registry));
        let package = locked
            .version
            .as_deref()
            .filter(|_| is_ours)
            .and_then(|version| Some(Package::Npm(NpmName::parse(name).ok()?, NpmVersion::parse(version).ok()?)));
        let package = package.ok_or_else(|| CacheError::ExoticDependency(name.chars().filter(|c| !c.is_control()).take(120).collect()))?;
        members.entry(Member::of(&package)).or_default().push(place);
    }
    Ok(members)
}

/// Whether it is `node_modules/<name>`, any number of times: what npm's locks name folders by.
pub(crate) fn is_place(place: &str) -> bool {
    let mut parts = place.split("node_modules/");
    let is_name = |part: &str| NpmName::parse(part.strip_suffix('/').unwrap_or(part)).is_ok();
    parts.next() == Some("") && place.starts_with("node_modules/") && parts.all(is_name)
}

async fn python(door: &Door, name: &PypiName, version: &PypiVersion, constraints: &str, work: &Path) -> Result<Closure, CacheError> {
    let wanted = format!("{}=={}\n", name.as_str(), version.as_str());
    tokio::fs::write(work.join("wanted.in"), wanted).await?;
    tokio::fs::write(work.join("constraints.txt"), constraints).await?;
    let host = door.address.split(':').next().unwrap_or_default();
    files::write_private(&work.join(".netrc"), format!("machine {host} login fabric password {}\n", door.password).as_bytes())?;
    let index = format!("http://{}/pypi/simple/", door.address);
    let uv = ["pip", "compile", "--no-build", "--no-header", "--no-annotate", "--no-config", "--quiet", "--index-url", &index];
    let uv = [&uv[..], &["--constraint", "constraints.txt", "wanted.in"]].concat();
    if let Some(said) = run("uv", &uv, work).await? {
        return Ok(Closure { packages: read_requirements(&said)?, resolver: "uv" });
    }
    let report = [
        "install",
        "--dry-run",
        "--ignore-installed",
        "--quiet",
        "--only-binary",
        ":all:",
        "--report",
        "report.json",
        "--index-url",
        &index,
        "-c",
        "constraints.txt",
        "-r",
        "wanted.in",
    ];
    run("pip", &report, work).await?.ok_or(CacheError::NoResolver("uv or pip"))?;
    let report = tokio::fs::read(work.join("report.json")).await?;
    Ok(Closure { packages: read_pip_report(&report)?, resolver: "pip" })
}

/// `name==version` lines; anything else is a dependency that no index has.
fn read_requirements(text: &str) -> Result<Members, CacheError> {
    let lines = text.lines().map(|line| line.split(['#', ';']).next().unwrap_or_default().trim());
    lines
        .filter(|line| !line.is_empty())
        .map(|line| Ok((python_member(line.split_once("==").unwrap_or((line, "")))?, Vec::new())))
        .collect()
}

fn python_member((name, version): (&str, &str)) -> Result<Member, CacheError> {
    let bare = name.split('[').next().unwrap_or_default().trim();
    let package = PypiName::parse(bare).and_then(|name| Ok(Package::Pypi(name, PypiVersion::parse(version.trim())?)));
    let exotic = |_| CacheError::ExoticDependency(name.chars().filter(|c| !c.is_control()).take(120).collect());
    package.map(|package| Member::of(&package)).map_err(exotic)
}

#[derive(Deserialize)]
struct PipReport {
    install: Vec<PipInstall>,
}

#[derive(Deserialize)]
struct PipInstall {
    metadata: PipMetadata,
    #[serde(default)]
    is_direct: bool,
}

#[derive(Deserialize)]
struct PipMetadata {
    name: String,
    version: String,
}

fn read_pip_report(report: &[u8]) -> Result<Members, CacheError> {
    let report: PipReport = serde_json::from_slice(report).map_err(|error| CacheError::Resolver("pip", error.to_string()))?;
    let one = |found: PipInstall| {
        let version = if found.is_direct { "" } else { found.metadata.version.as_str() };
        Ok((python_member((&found.metadata.name, version))?, Vec::new()))
    };
    report.install.into_iter().map(one).collect()
}

/// Runs a resolver with an environment of its own; `None` where it is not installed.
#[expect(clippy::disallowed_methods, reason = "starts the ecosystems' own resolvers")]
async fn run(program: &'static str, arguments: &[&str], work: &Path) -> Result<Option<String>, CacheError> {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).current_dir(work).env_clear().env("HOME", work).env("PATH", environment("PATH").unwrap_or_default());
    command.env("NETRC", work.join(".netrc")).env("NO_COLOR", "1").env("UV_CACHE_DIR", work.join("uv")).env("PIP_NO_INPUT", "1");
    command.env("npm_config_cache", work.join("npm")).env("PIP_CACHE_DIR", work.join("pip")).env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
    command.env("PIP_CONFIG_FILE", "/dev/null").env("GIT_ALLOW_PROTOCOL", "none").env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        command.env(name, "http://127.0.0.1:9");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).process_group(0);
    let child = match command.spawn() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        child => child?,
    };
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let ended = tokio::time::timeout(LIMIT, child.wait_with_output()).await;
    if let (Err(_), Some(group)) = (&ended, group) {
        // What it started itself goes with it.
        kill_process_group(group, Signal::KILL).ok();
    }
    let output = ended.map_err(|_| CacheError::Resolver(program, format!("it took longer than {} s", LIMIT.as_secs())))??;
    if output.status.success() {
        return Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(CacheError::Resolver(program, lines.join("; ").chars().filter(|c| !c.is_control()).take(SAID).collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const REGISTRY: &str = "http://127.0.0.1:1/npm/";

    fn lock(packages: &Value) -> Result<Vec<String>, CacheError> {
        let members = read_npm_lock(json!({ "lockfileVersion": 3, "packages": packages }).to_string().as_bytes(), REGISTRY)?;
        Ok(members.into_iter().map(|(member, places)| format!("{} {} {}", member.name, member.version, places.join(" "))).collect())
    }

    #[test]
    fn a_lock_gives_what_an_install_here_fetches() {
        let at = |name: &str| format!("{REGISTRY}{name}/-/x.tgz");
        let found = lock(&json!({
            "": { "name": "closure" },
            "node_modules/@a/b": { "version": "1.0.0", "resolved": at("@a/b") },
            "node_modules/@a/b/node_modules/c": { "version": "2.0.0", "resolved": at("c") },
            "node_modules/c": { "version": "2.0.0", "resolved": at("c") },
            "node_modules/alias": { "name": "real", "version": "3.0.0", "resolved": at("real") },
            "node_modules/inside": { "version": "1.0.0", "inBundle": true },
            "node_modules/other-system": { "version": "1.0.0", "resolved": at("other-system"), "optional": true, "os": ["aix"] },
            "node_modules/this-system": { "version": "1.0.0", "resolved": at("this-system"), "optional": true, "os": ["linux", "aix"], "cpu": ["!mips"] },
        }));
        let places =
            ["@a/b 1.0.0 node_modules/@a/b", "c 2.0.0 node_modules/@a/b/node_modules/c node_modules/c", "real 3.0.0 node_modules/alias"];
        assert_eq!(found.unwrap(), [&places[..], &["this-system 1.0.0 node_modules/this-system"]].concat());
        for exotic in [
            json!({ "version": "1.0.0", "resolved": "git+ssh://git@host/x.git#abc" }),
            json!({ "version": "1.0.0", "resolved": "https://elsewhere.example/x.tgz" }),
            json!({ "version": "1.0.0", "resolved": "file:../x", "link": true }),
            json!({ "version": "file:../x", "resolved": at("x") }),
            json!({ "version": "1.0.0" }),
        ] {
            let refused = lock(&json!({ "node_modules/x": exotic }));
            assert!(matches!(refused, Err(CacheError::ExoticDependency(ref name)) if name == "x"), "{refused:?}");
        }
    }

    #[test]
    fn a_lock_leads_nowhere_outside() {
        let at = format!("{REGISTRY}x/-/x.tgz");
        for place in
            ["../node_modules/x", "node_modules/../x", "node_modules//x", "/node_modules/x", "x/node_modules/y", "node_modules/a/b/c"]
        {
            let found = lock(&json!({ place: { "name": "x", "version": "1.0.0", "resolved": at } }));
            assert!(found.is_err(), "{place}: {found:?}");
        }
    }

    #[test]
    fn what_python_resolvers_say_is_read() {
        let members = read_requirements("# comment\nMcp_Types==2.3.0\nhttpx[http2]==0.28.1 ; python_version > '3'\n").unwrap();
        let names: Vec<String> = members.into_keys().map(|member| format!("{} {}", member.name, member.version)).collect();
        assert_eq!(names, ["httpx 0.28.1", "mcp-types 2.3.0"]);
        for exotic in ["x @ git+https://host/x", "-e .", "x @ file:///etc", "x>=1"] {
            assert!(matches!(read_requirements(exotic), Err(CacheError::ExoticDependency(_))), "{exotic}");
        }
        let report = json!({ "install": [{ "metadata": { "name": "A", "version": "1.0" } }] });
        assert_eq!(read_pip_report(report.to_string().as_bytes()).unwrap().len(), 1);
        let direct = json!({ "install": [{ "metadata": { "name": "A", "version": "1.0" }, "is_direct": true }] });
        assert!(matches!(read_pip_report(direct.to_string().as_bytes()), Err(CacheError::ExoticDependency(_))));
    }
}
