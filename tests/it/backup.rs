//! Backups: taken from a running program, put into an empty folder, and all is there: rows, keys, the trail.

use std::{
    io::Write as _,
    path::Path,
    process::{Output, Stdio},
};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Binary, TestApp, binary_command, cluster};

fn run(data: &Path, settings: &[(&str, &str)], arguments: &[&str], input: &str) -> Output {
    let mut command = binary_command(data, settings, arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_brings_everything_back() {
    let folder = tempfile::tempdir().unwrap();
    // PostgreSQL's own user passes through here.
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let program = Binary::serve(&first, &[]);
    let http = reqwest::Client::new();
    let token = std::fs::read_to_string(first.join("operator.token")).unwrap().trim().to_owned();
    let call = async |url: &str, method: Method, path: &str, body: Value| -> Value {
        let request = http.request(method, format!("{url}{path}")).bearer_auth(&token).json(&body);
        request.send().await.unwrap().json().await.unwrap()
    };
    let stored = json!({ "user_id": "ada", "server_id": "everything", "env_var": "KEY", "value": "kept" });
    assert_eq!(call(&program.url, Method::POST, "/api/mcp/credentials", stored).await["revision"], 1);
    let service = json!({ "name": "x", "kind": "service", "scopes": ["credentials:reveal"], "servers": ["everything"] });
    let service = call(&program.url, Method::POST, "/api/mcp/tokens", service).await["token"].as_str().unwrap().to_owned();
    let file = folder.path().join("backup.tar");
    let name = file.to_str().unwrap();
    let output = run(&first, &[], &["db", "backup", name], "violet anvil harbour\n");
    assert!(output.status.success(), "{}", said(&output));
    let refused = run(&first, &[], &["db", "restore", name], "violet anvil harbour\n");
    assert!(!refused.status.success() && said(&refused).contains("stop the program first"), "{}", said(&refused));
    program.terminate();
    let bytes = std::fs::read(&file).unwrap();
    let master = std::fs::read_to_string(first.join("master.key")).unwrap();
    assert!(!bytes.windows(20).any(|window| window == &master.as_bytes()[..20]), "keys are under the passphrase");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions()) & 0o777, 0o600);
    let wrong = run(&second, &[], &["db", "restore", name], "another anvil harbour\n");
    assert!(!wrong.status.success() && said(&wrong).contains("nothing was changed"), "{}", said(&wrong));
    let output = run(&second, &[], &["db", "restore", name], "violet anvil harbour\n");
    assert!(output.status.success(), "{}", said(&output));
    let again = run(&second, &[], &["db", "restore", name], "violet anvil harbour\n");
    assert!(!again.status.success() && said(&again).contains("--replace"), "{}", said(&again));
    let program = Binary::serve(&second, &[]);
    let inside = reqwest::Client::builder().unix_socket(second.join("internal.sock")).build().unwrap();
    let revealed = inside.post("http://localhost/api/mcp/credentials/ada/everything/decrypt").bearer_auth(&service).send().await.unwrap();
    assert_eq!(revealed.json::<Value>().await.unwrap()["env"], json!({ "KEY": "kept" }));
    let report = call(&program.url, Method::POST, "/api/mcp/audit/verify", json!({})).await;
    assert_eq!(report["ok"], true, "{report}");
    assert!(report["events"].as_i64().unwrap() >= 3);
    program.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_ones_own_is_restored_by_its_owner() {
    let app = TestApp::start().await;
    let stored = json!({ "user_id": "ada", "server_id": "everything", "env_var": "KEY", "value": "kept" });
    app.op_post_json("/api/mcp/credentials", &stored).await.expect(201);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup.tar");
    let url = app.database.url();
    let output = run(&app.data(), &[("DATABASE_URL", &url)], &["db", "backup", file.to_str().unwrap()], "violet anvil harbour\n");
    assert!(output.status.success(), "{}", said(&output));
    let other = cluster::database().await;
    let data = folder.path().join("data");
    cluster::share_roles(&data).await;
    let url = other.url();
    let output = run(&data, &[("DATABASE_URL", &url)], &["db", "restore", file.to_str().unwrap()], "violet anvil harbour\n");
    assert!(output.status.success(), "{}", said(&output));
    assert!(data.join("restored-master.key").is_file() && data.join("restored-jwt.key").is_file());
    let restored = TestApp::on(other, &[]).await;
    let listed = restored.op_get("/api/mcp/credentials?user_id=ada").await.expect(200);
    assert_eq!(listed["credentials"][0]["env_var"], "KEY");
    assert_eq!(restored.op_post("/api/mcp/audit/verify").await.expect(200)["ok"], true);
    for rubbish in ["", "rubbish"] {
        let broken = folder.path().join("broken.tar");
        std::fs::write(&broken, rubbish).unwrap();
        let output =
            run(&data, &[("DATABASE_URL", &url)], &["db", "restore", "--replace", broken.to_str().unwrap()], "violet anvil harbour\n");
        assert!(!output.status.success() && said(&output).contains("no backup that can be restored"), "{}", said(&output));
    }
}
