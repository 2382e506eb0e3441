//! Clients that start programs, and the files that clients keep.

use std::{path::Path, process::Stdio};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::Gateway;

/// A client's end of `mcp-fabric connect`.
pub(super) struct Pipe {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    /// What came before what was waited for.
    early: Vec<Value>,
}

impl Pipe {
    pub(super) fn open(gateway: &Gateway, server: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-fabric"));
        command.arg("connect").args(server).env_clear().env("FABRIC_URL", &gateway.app.url).env("FABRIC_TOKEN", &gateway.app.token);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()).lines());
        Self { child, input, output, early: Vec::new() }
    }

    async fn say(&mut self, message: &Value) {
        self.input.as_mut().unwrap().write_all(format!("{message}\n").as_bytes()).await.unwrap();
    }

    /// The next message that fits.
    async fn hear(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        if let Some(place) = self.early.iter().position(&fits) {
            return self.early.remove(place);
        }
        let heard = async {
            loop {
                let line = self.output.next_line().await.unwrap().expect("it goes on");
                let message: Value = serde_json::from_str(&line).unwrap();
                if fits(&message) {
                    return message;
                }
                self.early.push(message);
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(15), heard).await.unwrap()
    }

    pub(super) async fn ask(&mut self, id: i64, method: &str, params: Value) -> Value {
        self.say(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })).await;
        self.hear(|message| message["id"] == id && message.get("method").is_none()).await
    }

    async fn greet(&mut self) -> Value {
        let capabilities = json!({ "elicitation": {} });
        let params =
            json!({ "protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": { "name": "t", "version": "1" } });
        let greeting = self.ask(0, "initialize", params).await;
        self.say(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await;
        greeting
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_speaks_over_pipes_reaches_every_server() {
    let gateway = Gateway::with(&[]).await;
    gateway.run("old", &json!({ "FIXTURE_ERA": "legacy" })).await;
    gateway.run("new", &json!({ "FIXTURE_ERA": "modern" })).await;
    for server in ["old", "new"] {
        let mut pipe = Pipe::open(&gateway, &[server]);
        assert_eq!(pipe.greet().await["result"]["serverInfo"]["name"], "mcp-fixture");
        let called = pipe.ask(1, "tools/call", json!({ "name": "echo", "arguments": { "message": "hi" } })).await;
        assert_eq!(called["result"]["content"][0]["text"], "Echo: hi");
        // It asks, and is answered; what changes is heard.
        pipe.say(&json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": { "name": "test_elicitation", "arguments": { "message": "?" } } })).await;
        let question = pipe.hear(|message| message["method"] == "elicitation/create").await;
        pipe.say(&json!({ "jsonrpc": "2.0", "id": question["id"], "result": { "action": "decline" } })).await;
        let answer = pipe.hear(|message| message["id"] == 2 && message.get("method").is_none()).await;
        assert!(answer["result"]["content"][0]["text"].as_str().unwrap().contains("action=decline"), "{answer}");
        pipe.ask(3, "tools/call", json!({ "name": "test_trigger_tool_change", "arguments": {} })).await;
        pipe.hear(|message| message["method"] == "notifications/tools/list_changed").await;
        pipe.input.take();
        let ended = tokio::time::timeout(std::time::Duration::from_secs(8), pipe.child.wait()).await.unwrap().unwrap();
        assert!(ended.success());
    }
    // A modern client, and everything at once.
    let mut pipe = Pipe::open(&gateway, &[]);
    let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} });
    let params = json!({ "name": "new__echo", "arguments": { "message": "ä" }, "_meta": meta });
    assert_eq!(pipe.ask(1, "tools/call", params).await["result"]["content"][0]["text"], "Echo: ä");
    let params = json!({ "name": "old__sleep", "arguments": { "ms": 9000 }, "_meta": meta });
    pipe.say(&json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params })).await;
    pipe.say(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 2 } })).await;
    assert_eq!(pipe.ask(3, "server/discover", json!({ "_meta": meta })).await["result"]["resultType"], "complete");
    // A server that one has not is said to be none, to the client.
    let mut pipe = Pipe::open(&gateway, &["nowhere"]);
    let refused = pipe.greet().await;
    assert!(refused["error"]["message"].as_str().unwrap().contains("no server of that name"), "{refused}");
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fabric_that_is_started_anew_is_nothing_to_its_clients() {
    let mut gateway = Gateway::with(&[("FABRIC_LISTEN", "127.0.0.1:0")]).await;
    gateway.run("dual", &json!({})).await;
    // The same address again: clients know no other.
    let address = gateway.app.url.trim_start_matches("http://").to_owned();
    gateway.app.set("FABRIC_LISTEN", &address);
    let mut pipe = Pipe::open(&gateway, &["dual"]);
    pipe.greet().await;
    gateway.app.restart().await;
    gateway.app.instance_in(&gateway.app.token, "dual", "RUNNING").await;
    let called = pipe.ask(1, "tools/call", json!({ "name": "echo", "arguments": { "message": "again" } })).await;
    assert_eq!(called["result"]["content"][0]["text"], "Echo: again", "{called}");
    gateway.app.stop().await;
}

/// Runs a command against the fabric, with a home folder of its own.
async fn run(gateway: &Gateway, home: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-fabric"));
    command.args(arguments).env_clear().env("HOME", home).env("FABRIC_URL", &gateway.app.url).env("FABRIC_TOKEN", &gateway.app.token);
    let output = command.current_dir(home).output().await.unwrap();
    (output.status.success(), format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_file_is_written_with_care() {
    let gateway = Gateway::with(&[]).await;
    gateway.install("dual", &json!({})).await;
    let home = tempfile::tempdir().unwrap();
    let of = |path: &str| home.path().join(path);
    let (done, said) = run(&gateway, home.path(), &["client", "install", "claude-code", "dual"]).await;
    assert!(done, "{said}");
    let file: Value = serde_json::from_slice(&std::fs::read(of(".claude.json")).unwrap()).unwrap();
    assert_eq!(file["mcpServers"]["dual"]["url"], format!("{}/mcp/s/dual", gateway.app.url));
    assert!(!file.to_string().contains(&gateway.app.token));
    // What else is in a file stays, in its order, and the file as it was is kept.
    let before =
        "{\n  \"zeta\": 1,\n  \"servers\": {\n    \"other\": {\n      \"url\": \"x\"\n    }\n  },\n  \"alpha\": [\n    1.5\n  ]\n}\n";
    std::fs::create_dir(of(".vscode")).unwrap();
    std::fs::write(of(".vscode/mcp.json"), before).unwrap();
    assert!(run(&gateway, home.path(), &["client", "install", "vscode", "--project"]).await.0);
    let after = std::fs::read_to_string(of(".vscode/mcp.json")).unwrap();
    let written: Value = serde_json::from_str(&after).unwrap();
    assert_eq!(written["servers"]["mcp-fabric"]["url"], format!("{}/mcp", gateway.app.url));
    assert_eq!((&written["servers"]["other"]["url"], &written["inputs"][0]["password"]), (&json!("x"), &json!(true)));
    assert!(after.find("zeta") < after.find("alpha"));
    let kept: Vec<_> = std::fs::read_dir(of(".vscode")).unwrap().flatten().filter(|entry| entry.file_name() != "mcp.json").collect();
    assert_eq!(std::fs::read_to_string(kept[0].path()).unwrap(), before);
    // Again is the same; and both are found.
    assert!(run(&gateway, home.path(), &["client", "install", "vscode", "--project"]).await.0);
    assert_eq!(std::fs::read_to_string(of(".vscode/mcp.json")).unwrap(), after);
    let (_, listed) = run(&gateway, home.path(), &["--json", "client", "list"]).await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let names: Vec<&str> = listed["clients"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dual", "mcp-fabric"]);
    assert!(run(&gateway, home.path(), &["client", "remove", "claude-code", "dual"]).await.0);
    let (done, said) = run(&gateway, home.path(), &["client", "remove", "claude-code", "dual"]).await;
    assert!(!done && said.contains("has no server `dual`"), "{said}");
    // A file with comments is somebody's work.
    std::fs::create_dir(of(".cursor")).unwrap();
    std::fs::write(of(".cursor/mcp.json"), "// mine\n{}").unwrap();
    let (done, said) = run(&gateway, home.path(), &["client", "install", "cursor", "dual"]).await;
    assert!(!done && said.contains("nothing was changed"), "{said}");
    assert_eq!(std::fs::read_to_string(of(".cursor/mcp.json")).unwrap(), "// mine\n{}");
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_client_is_given_its_own_json() {
    let gateway = Gateway::with(&[]).await;
    gateway.install("dual", &json!({})).await;
    let app = &gateway.app;
    let get = async |path: &str| app.call(Method::GET, path, &app.token, &Value::Null).await;
    for (client, key) in [("claude-desktop", "mcpServers"), ("claude-code", "mcpServers"), ("vscode", "servers"), ("cursor", "mcpServers")]
    {
        let file = get(&format!("/api/mcp/servers/dual/client-config?client={client}")).await.expect(200);
        assert!(file[key]["dual"].is_object(), "{file}");
        let direct = get(&format!("/api/mcp/servers/dual/client-config?client={client}&via=direct")).await.expect(200);
        assert_eq!(direct[key]["dual"]["command"], "npx", "{direct}");
        assert!(get(&format!("/api/mcp/client-config?client={client}")).await.expect(200)[key]["mcp-fabric"].is_object());
    }
    get("/api/mcp/servers/nowhere/client-config?client=cursor").await.expect_problem(404, "server_not_found");
    get("/api/mcp/servers/dual/client-config?client=emacs").await.expect_problem(400, "invalid_query");
    get("/api/mcp/servers/dual/client-config").await.expect_problem(400, "invalid_query");
    gateway.app.stop().await;
}
