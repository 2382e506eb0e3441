//! Files in which MCP clients keep their servers, read as what is wanted of servers here: those of Claude and Cursor
//! (`mcpServers`) and of VS Code (`servers`).

use serde::Deserialize;
use serde_json::{Map, Value};
use servers::{ServerRef, Servers};

use crate::{error::ConfigurationsError, model::Change, transfer::Given};

/// One server of such a file; what else stands there is passed over.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Entry {
    #[serde(default)]
    command: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Map<String, Value>,
    url: Option<String>,
    #[serde(default)]
    disabled: bool,
}

/// What a command line of a client runs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Runs {
    /// A package, by the type of its registry and its name there.
    Package(&'static str, String),
    /// A server of a fabric, by its id.
    Server(String),
    /// Something that says nothing of where it came from.
    Unknown,
}

/// Options of `docker run` that take the next word along.
const WITH_VALUE: [&str; 14] =
    ["-e", "--env", "-v", "--volume", "--mount", "--name", "--network", "-p", "--publish", "-w", "--workdir", "-u", "--user", "--env-file"];

impl Entry {
    pub(crate) fn runs(&self) -> Runs {
        if let Some(url) = &self.url {
            let id = url.split_once("/mcp/s/").map(|(_, id)| id.split(['?', '#', '/']).next().unwrap_or_default().replace("%2F", "/"));
            return id.filter(|id| !id.is_empty()).map_or(Runs::Unknown, Runs::Server);
        }
        let program = self.command.rsplit(['/', '\\']).next().unwrap_or_default();
        let program = program.strip_suffix(".cmd").or_else(|| program.strip_suffix(".exe")).unwrap_or(program);
        let words: Vec<&str> = self.args.iter().map(String::as_str).collect();
        match (program, &words[..]) {
            ("npx" | "bunx", words) => {
                package(words, &["-p", "--package"]).map_or(Runs::Unknown, |spec| Runs::Package("npm", npm_name(spec)))
            }
            ("npm", ["exec", words @ ..]) | ("pnpm", ["dlx", words @ ..]) => {
                package(words, &["-p", "--package"]).map_or(Runs::Unknown, |spec| Runs::Package("npm", npm_name(spec)))
            }
            ("uvx", words) | ("uv", ["tool", "run", words @ ..]) | ("pipx", ["run", words @ ..]) => {
                package(words, &["--from", "--spec"]).map_or(Runs::Unknown, |spec| Runs::Package("pypi", pypi_name(spec)))
            }
            ("docker" | "podman", ["run", words @ ..]) => {
                image(words).map_or(Runs::Unknown, |image| Runs::Package("oci", image.to_owned()))
            }
            ("mcp-fabric", ["connect", id, ..]) => Runs::Server((*id).to_owned()),
            _ => Runs::Unknown,
        }
    }

    /// As what is wanted of a server of the catalogue.
    pub(crate) async fn given(self, name: &str, place: String, servers: &Servers) -> Result<Given, ConfigurationsError> {
        let server = match self.runs() {
            Runs::Package(kind, identifier) => servers.server_of_package(kind, &identifier).await?,
            Runs::Server(id) => Some(id),
            Runs::Unknown => None,
        };
        let mut notes = Vec::new();
        // Its own name may be that of a server here.
        let named = name.parse::<ServerRef>().is_ok();
        let server = server.unwrap_or_else(|| if named { name.to_owned() } else { String::new() });
        let mut values = Map::new();
        for (key, value) in self.env {
            if value.as_str().is_some_and(|text| text.contains("${")) {
                notes.push(format!("`{key}` is asked for by the client, and has to be given here"));
            } else {
                values.insert(key, value);
            }
        }
        Ok(Given { place, server, change: Change { enabled: Some(!self.disabled), values, ..Change::default() }, notes })
    }
}

/// The package among the words of a command that runs one: the one that an option names, else the first that is no option.
fn package<'a>(words: &[&'a str], options: &[&str]) -> Option<&'a str> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if options.contains(word) {
            return words.next().copied();
        }
        if let Some((_, spec)) = word.split_once('=').filter(|(option, _)| options.contains(option)) {
            return Some(spec);
        }
        if !word.starts_with('-') {
            return Some(word);
        }
    }
    None
}

/// The image that `docker run` is told to run, without tag and digest.
fn image<'a>(words: &[&'a str]) -> Option<&'a str> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if WITH_VALUE.contains(word) {
            words.next();
        } else if !word.starts_with('-') {
            return Some(word);
        }
    }
    None
}

/// `@scope/name@1.2` without its version.
fn npm_name(spec: &str) -> String {
    let at = spec.char_indices().skip(1).find(|(_, c)| *c == '@').map_or(spec.len(), |(at, _)| at);
    spec[..at].to_owned()
}

/// `name[extra]==1.2`, `name@1.2` without what follows the name.
fn pypi_name(spec: &str) -> String {
    spec.split(['[', '=', '<', '>', '~', '!', '@', ' ']).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_clients_run_is_found_in_their_command_lines() {
        let npm = |name: &str| Runs::Package("npm", name.into());
        let pypi = |name: &str| Runs::Package("pypi", name.into());
        for (entry, runs) in [
            (json!({ "command": "npx", "args": ["-y", "@acme/weather@1.2.3", "--port", "1"] }), npm("@acme/weather")),
            (json!({ "command": "C:\\node\\npx.cmd", "args": ["--yes", "weather"] }), npm("weather")),
            (json!({ "command": "npx", "args": ["--package=@acme/weather", "run-it"] }), npm("@acme/weather")),
            (json!({ "command": "uvx", "args": ["mcp-server-git==1.0", "--repository", "x"] }), pypi("mcp-server-git")),
            (json!({ "command": "uvx", "args": ["--from", "git-tools[x]>=2", "serve"] }), pypi("git-tools")),
            (json!({ "command": "uv", "args": ["tool", "run", "mcp-server-git"] }), pypi("mcp-server-git")),
            (
                json!({ "command": "docker", "args": ["run", "-i", "--rm", "-e", "KEY", "ghcr.io/acme/weather:1", "x"] }),
                Runs::Package("oci", "ghcr.io/acme/weather:1".into()),
            ),
            (json!({ "command": "/usr/bin/mcp-fabric", "args": ["connect", "io.x/git"] }), Runs::Server("io.x/git".into())),
            (json!({ "url": "https://fabric.example/mcp/s/io.x%2Fgit" }), Runs::Server("io.x/git".into())),
            (json!({ "url": "https://api.example/mcp" }), Runs::Unknown),
            (json!({ "command": "node", "args": ["index.js"] }), Runs::Unknown),
            (json!({ "command": "npx", "args": ["-y"] }), Runs::Unknown),
            (json!({}), Runs::Unknown),
        ] {
            assert_eq!(serde_json::from_value::<Entry>(entry.clone()).unwrap().runs(), runs, "{entry}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_command_line_makes_the_reader_panic(command in "\\PC*", args in proptest::collection::vec("\\PC*", 0..6)) {
            serde_json::from_value::<Entry>(json!({ "command": command, "args": args })).unwrap().runs();
        }
    }
}
