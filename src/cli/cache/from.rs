//! Packages that files of other programs name.

use std::path::Path;

use platform::files::IoContext as _;
use serde::Serialize;
use serde_json::Value;

use crate::cli::CliError;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct PackageIn {
    pub(super) registry_type: Option<String>,
    pub(super) identifier: String,
    pub(super) version: Option<String>,
}

/// What a file names.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) packages: Vec<PackageIn>,
    /// It names everything that is needed, by exact versions.
    pub(super) is_lock: bool,
}

pub(super) fn read(file: &Path) -> Result<Found, CliError> {
    let text = std::fs::read_to_string(file).about("read", file)?;
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let told = |what: &str| CliError::Found(format!("{}: {what}", file.display()));
    let found = if Path::new(&name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt")) {
        requirements(&text).map_err(|line| told(&format!("cannot read `{line}`; name==version, or a name alone, is understood")))?
    } else {
        let document: Value = serde_json::from_str(&text).map_err(|error| told(&format!("is not JSON: {error}")))?;
        if document["lockfileVersion"].is_number() { package_lock(&document) } else { client_configuration(&document) }
    };
    if found.packages.is_empty() { Err(told("names no package that can be cached")) } else { Ok(found) }
}

fn package(kind: &str, identifier: &str, version: Option<&str>) -> PackageIn {
    PackageIn { registry_type: Some(kind.to_owned()), identifier: identifier.to_owned(), version: version.map(str::to_owned) }
}

/// `name==1.2.3`, with extras, markers, hashes and comments; what points elsewhere than to an index, or leaves the
/// version open in another way than by naming none, is refused.
fn requirements(text: &str) -> Result<Found, String> {
    let joined = text.replace("\\\n", " ");
    let (mut packages, mut is_lock) = (Vec::new(), true);
    for line in joined.lines() {
        let plain = line.split(" #").next().unwrap_or_default().trim();
        if plain.is_empty() || plain.starts_with('#') || plain.starts_with("--") {
            continue;
        }
        let refused = || plain.chars().take(60).collect::<String>();
        // Options (`--hash=…`) and markers stand behind the requirement itself.
        let wanted = plain.split(';').next().unwrap_or_default().split(" --").next().unwrap_or_default();
        let wanted: String = wanted.split_whitespace().collect();
        let (name, version) = wanted.split_once("==").map_or((wanted.as_str(), None), |(name, version)| (name, Some(version)));
        let (name, extras) = name.split_once('[').map_or((name, ""), |(name, extras)| (name, extras));
        let is_word = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+' | b'!'))
        };
        let is_fine =
            is_word(name) && !name.starts_with('-') && version.is_none_or(is_word) && (extras.is_empty() || extras.ends_with(']'));
        if !is_fine || plain.contains(" @ ") {
            return Err(refused());
        }
        is_lock &= version.is_some();
        packages.push(package("pypi", name, version));
    }
    Ok(Found { packages, is_lock })
}

/// Every package of a lock file of npm 7 and later that comes from a registry; what is bundled in another one, or
/// comes from a repository or an address, is not.
fn package_lock(document: &Value) -> Found {
    let entries = document["packages"].as_object().into_iter().flatten();
    let read = |(place, entry): (&String, &Value)| {
        let (_, folder) = place.rsplit_once("node_modules/")?;
        let name = entry["name"].as_str().unwrap_or(folder);
        let base = name.rsplit('/').next()?;
        let is_from_registry = entry["resolved"].as_str().is_none_or(|url| url.starts_with("http") && url.contains(&format!("/-/{base}-")));
        let is_own = entry["link"] != true && entry["inBundle"] != true && is_from_registry;
        is_own.then(|| Some(package("npm", name, Some(entry["version"].as_str()?))))?
    };
    let mut packages: Vec<PackageIn> = Vec::new();
    for package in entries.filter_map(read) {
        if !packages.contains(&package) {
            packages.push(package);
        }
    }
    Found { packages, is_lock: true }
}

/// What the servers of an MCP client's configuration are started from: `npx`, `uvx`, `docker run`.
fn client_configuration(document: &Value) -> Found {
    let servers = ["mcpServers", "servers"].iter().filter_map(|key| document[key].as_object()).flatten();
    let packages = servers.filter_map(|(_, server)| {
        let arguments: Vec<&str> = server["args"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        started(server["command"].as_str()?, &arguments)
    });
    Found { packages: packages.collect(), is_lock: false }
}

fn started(command: &str, arguments: &[&str]) -> Option<PackageIn> {
    /// Options of npx and uvx that another argument belongs to.
    const WITH_VALUE: &[&str] = &[
        "--python",
        "-p",
        "--with",
        "--index-url",
        "--index",
        "--default-index",
        "-w",
        "--workspace",
        "-c",
        "--call",
        "--registry",
        "--node-arg",
    ];
    let program = Path::new(command).file_stem()?.to_str()?;
    match program {
        "npx" | "bunx" => {
            let wanted = option(arguments, &["-p", "--package"]).or_else(|| first(arguments, |option| WITH_VALUE.contains(&option)))?;
            let at = wanted.char_indices().skip(1).find(|(_, c)| *c == '@').map(|(at, _)| at);
            Some(package("npm", &wanted[..at.unwrap_or(wanted.len())], at.map(|at| &wanted[at + 1..])))
        }
        "uvx" | "pipx" => {
            let arguments = arguments.strip_prefix(&["run"][..]).unwrap_or(arguments);
            let wanted = option(arguments, &["--from", "--spec"]).or_else(|| first(arguments, |option| WITH_VALUE.contains(&option)))?;
            let (name, version) =
                wanted.split_once("==").or_else(|| wanted.split_once('@')).map_or((wanted, None), |(name, version)| (name, Some(version)));
            Some(package("pypi", name.split('[').next()?, version.filter(|version| *version != "latest")))
        }
        "docker" | "podman" => Some(package("oci", image(arguments)?, None)),
        _ => None,
    }
}

/// The value of an option: `--option value` or `--option=value`.
fn option<'a>(arguments: &[&'a str], names: &[&str]) -> Option<&'a str> {
    let joined = arguments.iter().find_map(|argument| argument.split_once('=').filter(|(name, _)| names.contains(name)));
    let apart = arguments.iter().position(|argument| names.contains(argument)).and_then(|at| arguments.get(at + 1).copied());
    joined.map(|(_, value)| value).or(apart)
}

/// The first argument that is neither an option nor the value of one.
fn first<'a>(arguments: &[&'a str], has_value: impl Fn(&str) -> bool) -> Option<&'a str> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if has_value(argument) {
            rest.next();
        } else if !argument.starts_with('-') {
            return Some(argument);
        }
    }
    None
}

/// The image of `docker run`.
fn image<'a>(arguments: &[&'a str]) -> Option<&'a str> {
    /// Options of `docker run` that stand alone; all others have a value, beside them or behind a `=`.
    const ALONE: &[&str] = &[
        "-i",
        "-t",
        "-d",
        "-it",
        "-ti",
        "--rm",
        "--init",
        "--interactive",
        "--tty",
        "--detach",
        "--privileged",
        "--read-only",
        "-P",
        "--publish-all",
        "--no-healthcheck",
        "-q",
        "--quiet",
        "--oom-kill-disable",
    ];
    let at = arguments.iter().position(|argument| *argument == "run")?;
    first(&arguments[at + 1..], |option| option.starts_with('-') && !option.contains('=') && !ALONE.contains(&option))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requirements_name_projects() {
        let found =
            requirements("# top\nmcp==1.2.3 \\\n    --hash=sha256:00\nhttpx[http2]==0.28.1 ; python_version > '3.9'\n-r\n").unwrap_err();
        assert_eq!(found, "-r");
        let found =
            requirements("mcp==1.2.3 \\\n    --hash=sha256:00\nhttpx[http2]==0.28.1 ; python_version > '3.9' # why\n\n--index-url x\n")
                .unwrap();
        assert_eq!(found.packages, [package("pypi", "mcp", Some("1.2.3")), package("pypi", "httpx", Some("0.28.1"))]);
        assert!(found.is_lock && !requirements("mcp").unwrap().is_lock);
        let spaced = requirements("mcp == 1.2.3 --hash=sha256:00").unwrap();
        assert_eq!(spaced.packages, [package("pypi", "mcp", Some("1.2.3"))]);
        for bad in ["git+https://x/y", "x @ https://x/y.whl", "./x", "mcp>=1", "mcp >= 1", "mcp==1.*", "mcp[x", "mcp~=1.0"] {
            assert!(requirements(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_lock_file_names_each_package_once() {
        let found = package_lock(&json!({ "lockfileVersion": 3, "packages": {
            "": { "name": "mine", "version": "1.0.0" },
            "node_modules/a": { "version": "1.0.0" },
            "node_modules/@s/b": { "version": "2.0.0" },
            "node_modules/@s/b/node_modules/a": { "version": "1.0.0" },
            "node_modules/alias": { "name": "real", "version": "3.0.0" },
            "node_modules/local": { "link": true },
            "node_modules/a/node_modules/inside": { "version": "1.0.0", "inBundle": true },
            "node_modules/forge": { "version": "1.0.0", "resolved": "git+ssh://git@host/x.git#0" },
            "node_modules/far": { "version": "1.0.0", "resolved": "https://host/far.tgz" },
            "node_modules/near": { "version": "1.0.0", "resolved": "https://registry.example/near/-/near-1.0.0.tgz" },
        } }));
        let mut names: Vec<_> = found.packages.iter().map(|package| package.identifier.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["@s/b", "a", "near", "real"]);
    }

    #[test]
    fn a_clients_configuration_names_what_it_starts() {
        let found = client_configuration(&json!({ "mcpServers": {
            "a": { "command": "npx", "args": ["-y", "@modelcontextprotocol/server-everything@2026.1.1", "stdio"] },
            "b": { "command": "/usr/bin/uvx", "args": ["--from", "mcp-server-time==1.0", "mcp-server-time"] },
            "c": { "command": "docker", "args": ["run", "-i", "--rm", "-e", "TOKEN", "ghcr.io/acme/tool:1", "serve"] },
            "d": { "url": "https://x.example/mcp" },
            "e": { "command": "npx", "args": ["tool"] },
            "f": { "command": "npx", "args": ["--package=@acme/cli", "cli"] },
            "g": { "command": "uvx", "args": ["--python", "3.12", "other-server"] },
            "h": { "command": "pipx", "args": ["run", "third-server"] },
            "i": { "command": "docker", "args": ["run", "--security-opt", "no-new-privileges", "--init", "ghcr.io/acme/safe:2"] },
        } }));
        let mut names: Vec<_> = found.packages.iter().map(|package| (package.identifier.as_str(), package.version.as_deref())).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                ("@acme/cli", None),
                ("@modelcontextprotocol/server-everything", Some("2026.1.1")),
                ("ghcr.io/acme/safe:2", None),
                ("ghcr.io/acme/tool:1", None),
                ("mcp-server-time", Some("1.0")),
                ("other-server", None),
                ("third-server", None),
                ("tool", None)
            ]
        );
    }
}
