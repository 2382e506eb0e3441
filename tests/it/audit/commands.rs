//! The command line changes nothing that the trail does not know: every command is run against a fabric.

use std::{io::Write as _, path::Path, process::Stdio};

use clap::CommandFactory as _;
use serde_json::{Value, json};

use super::completeness::{stopped_job, waiting_rotation};
use crate::support::{PASSWORD, Person, TestApp, Upstream, binary_command, data};

/// What a command does to a fabric.
enum Does {
    /// It changes something, and leaves one event.
    Change,
    /// It orders a change and waits for it: both leave an event.
    Order,
    /// It reads.
    Read,
    /// It never talks to a fabric, for this reason.
    Aside(&'static str),
}

const BENEATH: &str = "works on the database itself, beneath the trail";

/// How a command is called, what it reads from standard input, and what it does.
async fn call(app: &TestApp, root: &Person, folder: &Path, command: &str) -> (Vec<String>, String, Does) {
    let person = || format!("p{}@example.com", platform::ids::fresh().simple());
    let file = |name: &str, content: &str| {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let place = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (change, read) = (Does::Change, Does::Read);
    let given = |arguments: &[&str], does: Does| (arguments.iter().map(|text| (*text).to_owned()).collect(), String::new(), does);
    let told =
        |arguments: &[&str], input: &str| (arguments.iter().map(|text| (*text).to_owned()).collect(), format!("{input}\n"), Does::Change);
    match command {
        "serve" | "doctor" | "completions" | "credentials new-key" => given(&[], Does::Aside("asks no fabric to do anything")),
        command if command.starts_with("db ") => given(&[], Does::Aside(BENEATH)),
        "registry validate" => given(&[&file("server.json", "{}")], Does::Aside("keeps nothing, and refuses this document")),
        "sync run" => given(&["--no-wait"], change),
        "sync import" => {
            let page = json!({ "servers": [data::entry("a.x/one", "1.0.0")] });
            given(&[&file("pages.json", &page.to_string())], change)
        }
        "sync status"
        | "sync history"
        | "servers search"
        | "cache list"
        | "cache stats"
        | "cache key"
        | "users list"
        | "tokens list"
        | "credentials rotations"
        | "audit list"
        | "audit verify"
        | "jobs list" => given(&[], read),
        "ps" | "packages list" | "packages updates" => given(&[], read),
        "logs" | "stop" | "tools" | "call" => given(&[], Does::Aside("needs a server that runs: see runtime::trail")),
        "connect" => given(&[], Does::Aside("carries what a client says: see gateway::command_line")),
        "client list" => given(&[], Does::Aside("reads the files of this machine's clients")),
        "client install" => given(&["cursor", "--file", &place("mcp.json")], read),
        "client remove" => {
            given(&["cursor", "x", "--file", &file("old.json", r#"{"mcpServers":{"x":{}}}"#)], Does::Aside("changes a client's own file"))
        }
        "authorize" => given(&[], Does::Aside("needs an authorization server: see runtime::oauth")),
        "run" => given(&["everything"], change),
        "generate" => given(&["calculator", "--name", "mcp-sums"], Does::Order),
        "factory register" => given(&[&file("manifest.json", r#"{"name":"mcp-told","version":"1.0.0"}"#)], change),
        "factory list" => given(&[], read),
        "factory get" => given(&["mcp-told"], read),
        "factory remove" => given(&["mcp-told"], change),
        "factory validate" => given(&[&file("spec.json", "{}")], Does::Aside("keeps nothing, and refuses this specification")),
        "packages upgrade" | "packages rm" => {
            let begun = app.op_post_json("/api/mcp/packages/install", &json!({ "name": "everything", "enabled": false })).await.expect(202);
            app.job(begun["job_id"].as_str().unwrap()).await;
            given(&["everything"], change)
        }
        "servers show" | "cache status" => given(&["everything"], read),
        "cache add" => given(&["npm:zod", "--version", "1.0.0"], change),
        "cache rm" => given(&["npm:zod", "--version", "1.0.0"], change),
        "cache verify" | "cache prune" | "credentials rotate-key" | "credentials verify" | "credentials migrate" => {
            given(if command.ends_with("rotate-key") { &["--dry-run"] } else { &[] }, change)
        }
        "cache export" => given(&[&place("cache.tar"), "--all"], change),
        "cache import" => {
            let archive = app.op_post_json("/api/mcp/cache/export", &json!({ "all": true })).await.body;
            std::fs::write(folder.join("in.tar"), archive).unwrap();
            given(&[&place("in.tar")], change)
        }
        "users register" => told(&[&person()], PASSWORD),
        "users invite" => given(&[], change),
        "users reset-password" | "users disable" | "users enable" | "users delete" => {
            given(&[&app.person(&person(), "member").await.email], change)
        }
        "users role" => given(&[&app.person(&person(), "member").await.email, "auditor"], change),
        "tokens create" => given(&["x", "--scope", "catalogue:read"], change),
        "tokens revoke" => {
            let made = json!({ "name": "x", "kind": "service", "scopes": ["catalogue:read"] });
            let made = app.op_post_json("/api/mcp/tokens", &made).await.expect(201);
            given(&[made["id"].as_str().unwrap()], change)
        }
        "credentials set" => told(&[&root.id, "everything", "API_KEY"], "sk-1"),
        "credentials list" => given(&[&root.id], read),
        "credentials delete" => {
            let body = json!({ "user_id": root.id, "server_id": "everything", "env_var": "OTHER", "value": "x" });
            app.op_post_json("/api/mcp/credentials", &body).await.expect(201);
            given(&[&root.id, "everything", "OTHER"], change)
        }
        "credentials import" => given(&[&root.id, &file("some.env", "A=1\nB=2\n"), "--server", "everything"], change),
        "credentials export" => told(&[&root.id, &place("all.age")], "a long passphrase for it"),
        "credentials pause" => given(&[&waiting_rotation(app, "running").await], change),
        "credentials resume" => given(&[&waiting_rotation(app, "paused").await], change),
        "credentials cancel" => given(&[&waiting_rotation(app, "running").await], change),
        "audit export" => given(&[&place("audit.jsonl")], read),
        "jobs show" => given(&[&stopped_job(app, false).await], read),
        "jobs cancel" => given(&[&stopped_job(app, false).await], change),
        "jobs retry" => given(&[&stopped_job(app, true).await], change),
        _ => panic!("{command} has no case here: what does it leave in the audit trail?"),
    }
}

fn leaves(command: &clap::Command, path: &str, found: &mut Vec<String>) {
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let name = format!("{path} {}", sub.get_name()).trim().to_owned();
        if sub.has_subcommands() { leaves(sub, &name, found) } else { found.push(name) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_that_changes_something_leaves_its_events_and_no_more() {
    let upstream = Upstream::start(Vec::new()).await;
    let app = TestApp::with(&[("FABRIC_UPSTREAM_URL", &upstream.url)]).await;
    let root = app.person("root@example.com", "admin").await;
    let folder = tempfile::tempdir().unwrap();
    let mut commands = Vec::new();
    leaves(&mcp_fabric::cli::Cli::command(), "", &mut commands);
    for name in commands {
        let (arguments, input, does) = call(&app, &root, folder.path(), &name).await;
        let expected = match does {
            Does::Change => 1,
            Does::Order => 2,
            Does::Read => 0,
            Does::Aside(reason) => {
                println!("not run: {name}: {reason}");
                continue;
            }
        };
        let newest = app.trail("").await[0]["seq"].as_i64().unwrap();
        let words: Vec<&str> = name.split(' ').chain(arguments.iter().map(String::as_str)).collect();
        let mut child = binary_command(&app.data(), &[("FABRIC_URL", &app.url), ("FABRIC_TOKEN", &app.token)], &words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // No registry answers here, so there is nothing to cache, to remove or to install.
        assert!(output.status.success() || matches!(&*name, "cache add" | "cache rm" | "run" | "packages upgrade"), "{name}: {said}");
        let events: Vec<Value> = app.trail("").await.into_iter().filter(|event| event["seq"].as_i64().unwrap() > newest).collect();
        let own = events.iter().filter(|event| {
            !event["actor"].as_str().unwrap().starts_with("system:") && event["answers"].is_null() && event["event_type"] != "data_access"
        });
        assert_eq!(own.count(), expected, "{name}: {events:#?}");
    }
}
