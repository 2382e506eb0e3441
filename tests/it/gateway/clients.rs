//! Clients as people have them, before servers of every era: what they need is more than what the protocol says.

use std::{
    fs::File,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::process::Command;

use super::{Gateway, NODE, installed};
use crate::support::Mcp;

/// Pinned: what they do when they come is another thing in each version.
const NPM: [&str; 4] =
    [NODE, "@modelcontextprotocol/sdk@1.32.2", "@modelcontextprotocol/client@2.4.0", "@modelcontextprotocol/inspector@2.12.0"];
const PYPI: [&str; 1] = ["mcp==2.3.0"];

/// The newest revision of each era.
const LEGACY: &str = "2025-11-25";
const MODERN: &str = "2026-07-28";

/// A server that speaks both eras, and one of each.
async fn of_every_era() -> Gateway {
    let gateway = Gateway::with(&[]).await;
    for (server, env) in [("dual", json!({})), ("old", json!({ "FIXTURE_ERA": "legacy" })), ("new", json!({ "FIXTURE_ERA": "modern" }))] {
        gateway.run(server, &env).await;
    }
    gateway
}

/// The endpoints of each of them, where names stand for themselves.
fn alone(gateway: &Gateway) -> [(String, &'static str); 3] {
    ["dual", "old", "new"].map(|server| (gateway.endpoint(server), ""))
}

/// A script beside this file that drives a client.
struct Client {
    script: &'static str,
    /// Whether it can hear of progress and answer what it is asked.
    can_be_asked: bool,
    /// What it says of a tool that there is not.
    unknown: Value,
}

impl Client {
    /// One of the SDKs, which can do everything.
    fn sdk(script: &'static str) -> Self {
        Self { script, can_be_asked: true, unknown: json!(-32602) }
    }

    /// Connects, does one thing of each kind, and gives what the client saw.
    async fn drive(&self, (url, prefix, mode): (&str, &str, &str), token: &str) -> Value {
        let folder = installed("clients", &NPM, &PYPI);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/gateway/clients").join(self.script);
        let is_python = script.extension().is_some_and(|extension| extension == "py");
        let mut command = Command::new(folder.join(if is_python { "venv/bin/python" } else { "node_modules/.bin/node" }));
        // Both take a script from standard input; Node then looks for packages where it was started.
        command.args(if is_python { vec!["-"] } else { vec!["--input-type=module", "-"] }).args([url, prefix, mode]);
        command.stdin(File::open(&script).unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.current_dir(&folder).env("MCP_TOKEN", token).kill_on_drop(true);
        let output = tokio::time::timeout(Duration::from_mins(2), command.output()).await.unwrap().unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr);
        // An SDK that goes on after something went wrong says so there.
        assert!(output.status.success() && complaints.is_empty(), "{} at {url} {prefix} {mode}: {complaints}", self.script);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// At every endpoint, in each of these modes; what has to be seen is the same.
    async fn sees_everything(&self, modes: &[(&str, &'static str)]) {
        let gateway = of_every_era().await;
        let all = format!("{}/mcp", gateway.app.url);
        let places: Vec<(String, &str)> = alone(&gateway).into_iter().chain([(all.clone(), "old__"), (all, "new__")]).collect();
        for (mode, revision) in modes {
            for (url, prefix) in &places {
                let label = format!("{} {mode} at {} {prefix}", self.script, url.replace(&gateway.app.url, ""));
                let began = Instant::now();
                let saw = self.drive((url, prefix, mode), &gateway.app.token).await;
                println!("{label}: {:?}", began.elapsed());
                let listed = Mcp::connect(url, &gateway.app.token, revision).await.names("tools/list").await;
                self.check(&saw, prefix, revision, &json!(listed), &label);
            }
        }
        gateway.app.stop().await;
    }

    fn check(&self, saw: &Value, prefix: &str, revision: &str, listed: &Value, label: &str) {
        assert_eq!(saw["revision"], revision, "{label}");
        assert_eq!(saw["server"], if prefix.is_empty() { "mcp-fixture" } else { "mcp-fabric" }, "{label}");
        assert_eq!(&saw["tools"], listed, "{label}");
        assert_eq!(saw["echo"], json!({ "text": "Echo: héllo", "structured": { "message": "héllo" } }), "{label}");
        assert_eq!(saw["resource"], "This is the content of the static text resource.", "{label}");
        assert_eq!(saw["prompt"], "Prompt with arguments: arg1='one', arg2='two'", "{label}");
        assert_eq!(saw["unknown"], self.unknown, "{label}");
        let elicited = saw["elicited"].as_str().unwrap();
        if self.can_be_asked {
            let progress: Vec<f64> = saw["progress"].as_array().unwrap().iter().map(|now| now.as_f64().unwrap()).collect();
            assert_eq!(progress, [0.0, 50.0, 100.0], "{label}");
            assert_eq!(saw["asked"], json!(["who?"]), "{label}");
            assert!(elicited.contains("action=accept") && elicited.contains("ada@example.org"), "{label}: {elicited}");
            assert_eq!(saw["faults"], json!([]), "{label}");
        } else {
            assert_eq!(saw["progress"], "Made progress", "{label}");
            // The server is told so, or by a server of the other era it is found out.
            assert!(elicited.to_lowercase().contains("client"), "{label}: {elicited}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm, uv and their public registries"]
async fn the_first_typescript_sdk_sees_everything() {
    Client::sdk("typescript_v1.mjs").sees_everything(&[("", LEGACY)]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm, uv and their public registries"]
async fn the_second_typescript_sdk_sees_everything() {
    Client::sdk("typescript_v2.mjs").sees_everything(&[("default", LEGACY), ("auto", MODERN), (MODERN, MODERN)]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm, uv and their public registries"]
async fn the_python_sdk_sees_everything() {
    Client::sdk("python_v2.py").sees_everything(&[("auto", MODERN), ("legacy", LEGACY)]).await;
}

/// Its command line can be asked nothing, and looks itself whether there is a tool.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm, uv and their public registries"]
async fn the_inspector_sees_everything_but_questions() {
    let inspector = Client { script: "inspector.mjs", can_be_asked: false, unknown: json!("tool_not_found") };
    inspector.sees_everything(&[("legacy", LEGACY), ("modern", MODERN)]).await;
}

/// Of a resource that they watch and of a list, once each, and of nothing that their revision does not have.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm, uv and their public registries"]
async fn the_sdks_hear_of_changes_as_their_revision_has_it() {
    let gateway = of_every_era().await;
    // The first of all that list a resource is whose it is.
    let places: Vec<(String, &str)> = alone(&gateway).into_iter().chain([(format!("{}/mcp", gateway.app.url), "dual__")]).collect();
    let mut wrong = Vec::new();
    for (script, mode, revision) in [
        ("typescript_v1.mjs", "", LEGACY),
        ("typescript_v2.mjs", "default", LEGACY),
        ("typescript_v2.mjs", "auto", MODERN),
        ("python_v2.py", "legacy", LEGACY),
        ("python_v2.py", "auto", MODERN),
    ] {
        for (url, prefix) in &places {
            let saw = Client::sdk(script).drive((url, prefix, mode), &gateway.app.token).await;
            let heard = saw["heard"].as_array().unwrap();
            let mut methods: Vec<&str> = heard.iter().map(|said| said["method"].as_str().unwrap()).collect();
            methods.sort_unstable();
            let is_all = methods == ["notifications/prompts/list_changed", "notifications/resources/updated"];
            // There are numbers of subscriptions where there are such subscriptions.
            let is_numbered = |said: &Value| said["params"]["_meta"].get("io.modelcontextprotocol/subscriptionId").is_some();
            if !is_all || heard.iter().any(|said| is_numbered(said) != (revision == MODERN)) {
                wrong.push(format!("{script} {mode} at {} {prefix}: {}", url.replace(&gateway.app.url, ""), saw["heard"]));
            }
        }
    }
    gateway.app.stop().await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
