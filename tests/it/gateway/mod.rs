//! The endpoints of MCP clients: real servers behind them, clients of every revision before them.

mod bad_input;
mod conformance;
mod faults;
mod matrix;
mod sessions;
mod shared;

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{Packages, TestApp};

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
        std::fs::copy(built, &program).unwrap();
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
