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

/// `name==1.2.3`, with extras, markers, hashes and comments; what points elsewhere than to an index is refused.
fn requirements(text: &str) -> Result<Found, String> {
    let joined = text.replace("\\\n", " ");
    let (mut packages, mut is_lock) = (Vec::new(), true);
    for line in joined.lines() {
        let plain = line.split(" #").next().unwrap_or_default().trim();
        if plain.is_empty() || plain.starts_with('#') || plain.starts_with("--") {
            continue;
        }
        let wanted = plain.split([';', ' ']).next().unwrap_or_default();
        let (name, version) = wanted.split_once("==").map_or((wanted, None), |(name, version)| (name, Some(version)));
        let name = name.split('[').next().unwrap_or_default();
        let is_name = !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
            && !name.starts_with('-');
        if !is_name || plain.contains(" @ ") {
            return Err(plain.chars().take(60).collect());
        }
        is_lock &= version.is_some();
        packages.push(package("pypi", name, version));
    }
    Ok(Found { packages, is_lock })
}

/// Every package of a lock file of npm 7 and later.
fn package_lock(document: &Value) -> Found {
    let entries = document["packages"].as_object().into_iter().flatten();
    let read = |(place, entry): (&String, &Value)| {
        let (_, folder) = place.rsplit_once("node_modules/")?;
        let name = entry["name"].as_str().unwrap_or(folder);
        (entry["link"] != true).then(|| Some(package("npm", name, Some(entry["version"].as_str()?))))?
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
    let program = Path::new(command).file_stem()?.to_str()?;
    let after = |option: &[&str]| {
        let named = arguments.iter().position(|argument| option.contains(argument)).and_then(|at| arguments.get(at + 1));
        named.or_else(|| arguments.iter().find(|argument| !argument.starts_with('-'))).copied()
    };
    match program {
        "npx" | "bunx" => {
            let wanted = after(&["-p", "--package"])?;
            let at = wanted.char_indices().skip(1).find(|(_, c)| *c == '@').map(|(at, _)| at);
            Some(package("npm", &wanted[..at.unwrap_or(wanted.len())], at.map(|at| &wanted[at + 1..])))
        }
        "uvx" | "pipx" => {
            let wanted = after(&["--from", "--spec"])?;
            let (name, version) =
                wanted.split_once("==").or_else(|| wanted.split_once('@')).map_or((wanted, None), |(name, version)| (name, Some(version)));
            Some(package("pypi", name.split('[').next()?, version.filter(|version| *version != "latest")))
        }
        "docker" | "podman" => Some(package("oci", image(arguments)?, None)),
        _ => None,
    }
}

/// The image of `docker run`: the first argument that is neither an option nor the value of one.
fn image<'a>(arguments: &[&'a str]) -> Option<&'a str> {
    const WITH_VALUE: &[&str] = &[
        "-e",
        "--env",
        "-v",
        "--volume",
        "--mount",
        "--name",
        "--network",
        "-p",
        "--publish",
        "-u",
        "--user",
        "-w",
        "--workdir",
        "--entrypoint",
        "--env-file",
        "--platform",
        "-m",
        "--memory",
        "--cpus",
        "-l",
        "--label",
        "--pull",
    ];
    let mut rest = arguments.iter().skip_while(|argument| **argument != "run").skip(1);
    while let Some(argument) = rest.next() {
        if WITH_VALUE.contains(argument) {
            rest.next();
        } else if !argument.starts_with('-') {
            return Some(argument);
        }
    }
    None
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
        for bad in ["git+https://x/y", "x @ https://x/y.whl", "./x", "mcp>=1"] {
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
        } }));
        let mut names: Vec<_> = found.packages.iter().map(|package| package.identifier.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["@s/b", "a", "real"]);
    }

    #[test]
    fn a_clients_configuration_names_what_it_starts() {
        let found = client_configuration(&json!({ "mcpServers": {
            "a": { "command": "npx", "args": ["-y", "@modelcontextprotocol/server-everything@2026.1.1", "stdio"] },
            "b": { "command": "/usr/bin/uvx", "args": ["--from", "mcp-server-time==1.0", "mcp-server-time"] },
            "c": { "command": "docker", "args": ["run", "-i", "--rm", "-e", "TOKEN", "ghcr.io/acme/tool:1", "serve"] },
            "d": { "url": "https://x.example/mcp" },
            "e": { "command": "npx", "args": ["tool"] },
        } }));
        let mut names: Vec<_> = found.packages.iter().map(|package| (package.identifier.as_str(), package.version.as_deref())).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                ("@modelcontextprotocol/server-everything", Some("2026.1.1")),
                ("ghcr.io/acme/tool:1", None),
                ("mcp-server-time", Some("1.0")),
                ("tool", None)
            ]
        );
    }
}
