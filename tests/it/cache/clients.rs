//! Real package clients.

use serde_json::json;

use crate::support::TestApp;

/// Real clients and the registries that the machine's own clients use: online, then without any upstream.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm, pip, uv and the public npm and PyPI registries"]
async fn real_clients_install_from_the_fabric_and_then_offline() {
    let hosts = file_hosts().await;
    let mut app = TestApp::with(&[("FABRIC_ALLOWED_HOSTS", &hosts), ("FABRIC_RATE_LIMIT", "0")]).await;
    for server in ["everything", "time"] {
        let asked = app.op_post(&format!("/api/mcp/servers/{server}/cache")).await.expect(202);
        let job = app.job(asked["job_id"].as_str().unwrap()).await;
        assert_eq!(job["status"], "complete", "{job}");
        assert_eq!(app.op_post(&format!("/api/mcp/servers/{server}/cache")).await.expect(200)["status"], "cached");
    }
    app.set("FABRIC_OFFLINE", "true");
    app.restart().await;
    let work = tempfile::tempdir().unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new(program);
        command.args(arguments).current_dir(work.path()).env("HOME", work.path()).env("npm_config_cache", work.path().join("npm"));
        command.env("UV_CACHE_DIR", work.path().join("uv")).env("PIP_NO_CACHE_DIR", "1").env_remove("PIP_FIND_LINKS");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let (npm, pypi) = (format!("{}/npm/", app.url), format!("{}/pypi/simple/", app.url));
    let package = "@modelcontextprotocol/server-everything";
    run("npm", &["install", "--no-audit", "--no-fund", "--registry", &npm, package]);
    run("python3", &["-m", "venv", "by-pip"]);
    run("by-pip/bin/pip", &["install", "--quiet", "--index-url", &pypi, "mcp-server-time"]);
    run("uv", &["venv", "--quiet", "by-uv"]);
    run("uv", &["pip", "install", "--quiet", "--python", "by-uv/bin/python", "--index-url", &pypi, "mcp-server-time"]);
    let everything = work.path().join(format!("node_modules/{package}/dist/index.js"));
    for (program, arguments) in [
        ("node".into(), vec![everything.to_str().unwrap().to_owned()]),
        (work.path().join("by-pip/bin/mcp-server-time"), vec![]),
        (work.path().join("by-uv/bin/mcp-server-time"), vec![]),
    ] {
        let said = initialize(&program, &arguments);
        assert!(said.contains("protocolVersion"), "{}: {said}", program.display());
    }
}

/// The hosts from which the configured index gives files: here they may have private addresses.
async fn file_hosts() -> String {
    let ask = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)";
    let answer = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned()).filter(|said| !said.is_empty())
    };
    let index = answer("pip", &["config", "get", "global.index-url"]).or_else(|| answer("python3", &["-c", ask])).unwrap();
    let page = crate::support::get(&format!("{}/mcp-server-time/", index.trim_end_matches('/'))).await;
    let base = page.url().clone();
    let text = page.text().await.unwrap();
    let href = text.split("href=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    base.join(href).unwrap().host_str().unwrap().to_owned()
}

/// Starts an MCP server and gives what it says to `initialize`.
fn initialize(program: &std::path::Path, arguments: &[String]) -> String {
    use std::io::{BufRead as _, Write as _};
    let mut child = std::process::Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let hello = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } } });
    writeln!(child.stdin.as_mut().unwrap(), "{hello}").unwrap();
    let mut said = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    said
}
