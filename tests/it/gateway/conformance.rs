//! The official conformance suite, against the fixture alone and against the fixture behind the gateway.

use std::{path::PathBuf, process::Stdio};

use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use super::{Gateway, NODE, installed};

/// Pinned: what is required by a revision does not change, but the suite does.
const SUITE: &str = "@modelcontextprotocol/conformance@0.2.0-alpha.12";

/// Runs what a revision requires; fails the test unless all of it passes.
async fn passes(url: &str, revision: &str) {
    let folder = installed("conformance", &[NODE, SUITE], &[]);
    let results = tempfile::tempdir().unwrap();
    let mut suite = Command::new(folder.join("node_modules/.bin/node"));
    suite.arg(folder.join("node_modules/@modelcontextprotocol/conformance/dist/index.js"));
    suite.args(["server", "--url", url, "--requirements", revision, "-o"]).arg(results.path()).current_dir(&folder).kill_on_drop(true);
    let output = tokio::time::timeout(std::time::Duration::from_mins(4), suite.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{revision} at {url}:\n{said}\n{}\n{}",
        String::from_utf8_lossy(&output.stderr),
        failures(results.path())
    );
    println!("{}", said.lines().filter(|line| line.contains("Total")).collect::<Vec<_>>().join("\n"));
}

/// What failed, and why.
fn failures(results: &std::path::Path) -> String {
    let checks = std::fs::read_dir(results).unwrap().flatten().filter_map(|entry| std::fs::read(entry.path().join("checks.json")).ok());
    let all = checks.filter_map(|checks| serde_json::from_slice::<Vec<serde_json::Value>>(&checks).ok()).flatten();
    all.filter(|check| check["status"] == "FAILURE").map(|check| format!("{check:#}\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm and its public registry"]
async fn the_fixture_alone_passes() {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_mcp-fabric")).with_file_name("examples/mcp-fixture");
    let mut fixture = Command::new(program);
    let mut fixture = fixture.args(["--http", "127.0.0.1:0"]).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(fixture.stdout.take().unwrap()).lines();
    let url = format!("http://{}/mcp", lines.next_line().await.unwrap().unwrap());
    passes(&url, "2025-11-25").await;
    passes(&url, "2026-07-28").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm and its public registry"]
async fn the_fixture_behind_the_gateway_passes_the_last_revision_with_sessions() {
    let gateway = Gateway::with(&[("FABRIC_TRUST_LOOPBACK", "true")]).await;
    gateway.run("fixture", &json!({})).await;
    passes(&format!("{}/mcp/s/fixture", gateway.app.url), "2025-11-25").await;
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm and its public registry"]
async fn the_fixture_behind_the_gateway_passes_the_revision_without_sessions() {
    let gateway = Gateway::with(&[("FABRIC_TRUST_LOOPBACK", "true")]).await;
    gateway.run("fixture", &json!({})).await;
    passes(&format!("{}/mcp/s/fixture", gateway.app.url), "2026-07-28").await;
    gateway.app.stop().await;
}
