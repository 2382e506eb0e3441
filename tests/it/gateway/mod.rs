//! The endpoints of MCP clients: real servers behind them, clients of every revision before them.

mod bad_input;
mod clients;
mod command_line;
mod conformance;
mod external;
mod faults;
mod matrix;
mod param_headers;
mod reviewed;
mod sessions;
mod shared;
mod tool_scopes;
mod traces;
mod virtual_servers;

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Command,
};

use serde_json::{Value, json};

use crate::support::{Packages, TestApp};

/// What newer clients need; the package brings the program itself.
pub(crate) const NODE: &str = "node@22";

/// A folder of the build's own with these packages of npm, and of PyPI below `venv`. The usual clients install them, once
/// for each list of them.
pub(crate) fn installed(name: &str, npm: &[&str], pypi: &[&str]) -> PathBuf {
    let below = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    // Other tests, and other processes of tests, want the same.
    let lock = File::options().create(true).truncate(false).write(true).open(below.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    let (folder, wanted) = (below.join(name), [npm, pypi].concat().join("\n"));
    // Written last: what an installation left that did not come to its end is not taken for one.
    let note = folder.join("installed");
    if fs::read_to_string(&note).is_ok_and(|there| there == wanted) {
        return folder;
    }
    fs::remove_dir_all(&folder).ok();
    fs::create_dir_all(&folder).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(&folder).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run("npm", &[&["install", "--no-save", "--no-audit", "--no-fund", "--prefix", "."], npm].concat());
    if !pypi.is_empty() {
        run("uv", &["venv", "--quiet", "--no-project", "venv"]);
        run("uv", &[&["pip", "install", "--quiet", "--python", "venv/bin/python"], pypi].concat());
    }
    fs::write(note, wanted).unwrap();
    folder
}

/// A fabric, and the registry that it installs the fixture from.
pub(crate) struct Gateway {
    pub(crate) app: TestApp,
    _packages: Packages,
    program: PathBuf,
}

impl Gateway {
    /// Without servers.
    pub(crate) async fn with(further: &[(&str, &str)]) -> Self {
        let packages = Packages::start().await;
        packages.subject("@acme/subject", "1.0.0");
        let settings = packages.settings();
        let mut all: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
        all.extend(further);
        let app = TestApp::with(&all).await;
        // Where servers under other user ids can reach it.
        let program = app.data().parent().unwrap().join("mcp-fixture");
        let built = PathBuf::from(env!("CARGO_BIN_EXE_mcp-fabric")).with_file_name("examples/mcp-fixture");
        fs::copy(built, &program).unwrap();
        Self { app, _packages: packages, program }
    }

    /// Where clients of one server connect.
    pub(crate) fn endpoint(&self, server: &str) -> String {
        format!("{}/mcp/s/{}", self.app.url, server.replace('/', "%2F"))
    }

    /// Installs the fixture under a name.
    pub(crate) async fn install(&self, name: &str, env: &Value) {
        let command = self.program.to_str().unwrap();
        let order = json!({ "name": "@acme/subject", "serverName": name, "enabled": false, "command": command, "args": [], "env": env });
        assert_eq!(self.app.install(&order).await["status"], "installed");
    }

    /// Installs and starts it as the operator; gives the instance.
    pub(crate) async fn run(&self, name: &str, env: &Value) -> Value {
        self.install(name, env).await;
        self.app.run_server(name).await
    }
}
