//! What a server must not be able to do.

use serde_json::{Value, json};

use super::{is_alive, with};
use crate::support::{TestApp, eventually, skip};

/// How this machine keeps servers.
async fn kept(app: &TestApp) -> Value {
    app.run_server("subject").await["limits"].clone()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm and bubblewrap"]
async fn a_server_reads_and_writes_only_its_own() {
    for closer in ["auto", "bubblewrap"] {
        reads_and_writes_only_its_own(closer).await;
    }
}

async fn reads_and_writes_only_its_own(closer: &str) {
    let (app, _packages) = with(&[("FABRIC_SANDBOX", closer)], &json!({})).await;
    let limits = kept(&app).await;
    if limits["files_closed"] != true && !rustix::process::geteuid().is_root() {
        return skip("nothing closes the file system here: neither Landlock nor user ids of their own");
    }
    let running = app.instance_in(&app.token, "subject", "RUNNING").await;
    let own: Value = serde_json::from_str(&app.tool(&running, "self", json!({})).await).unwrap();
    assert!(!rustix::process::geteuid().is_root() || own["uid"].as_u64().unwrap() >= 61184);
    let script = app.data().join("packages/acme-subject/node_modules/@acme/subject/server.js");
    for secret in [
        app.data().join("operator.token"),
        app.data().join("role-secrets.json"),
        app.data(),
        "/root/.bashrc".into(),
        format!("/proc/{}/environ", std::process::id()).into(),
    ] {
        let said = app.tool(&running, "read", json!({ "path": secret })).await;
        // Bubblewrap shows a folder with nothing in it but what leads to the server's own.
        let is_bare = closer == "bubblewrap" && secret == app.data() && said == "EISDIR";
        assert!(is_bare || ["EACCES", "ENOENT", "EPERM"].contains(&said.as_str()), "{closer}, {}: {said}", secret.display());
    }
    let outside = std::env::temp_dir().join(format!("outside-{}", std::process::id()));
    for path in [&outside, &script, &app.data().join("x"), &app.data().join("packages/x")] {
        let said = app.tool(&running, "write", json!({ "path": path })).await;
        assert!(["EACCES", "EPERM", "EROFS", "ENOENT"].contains(&said.as_str()), "{closer}, {}: {said}", path.display());
    }
    assert!(!outside.exists());
    let real = std::fs::canonicalize(&script).unwrap();
    assert!(app.tool(&running, "read", json!({ "path": real })).await.starts_with("// A server for tests"), "it reads what it runs");
    let work = format!("{}/mine", own["cwd"].as_str().unwrap());
    assert_eq!(app.tool(&running, "write", json!({ "path": work })).await, "written");
    let own_tmp = std::path::Path::new(own["cwd"].as_str().unwrap()).join("tmp").join("mine");
    assert_eq!(app.tool(&running, "write", json!({ "path": own_tmp })).await, "written");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn only_its_own_owner_opens_paths_to_a_server() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let file = folder.path().join("notes");
    std::fs::write(&file, "words").unwrap();
    let (app, _packages) = with(&[], &json!({ "args": [folder.path()] })).await;
    if kept(&app).await["files_closed"] != true {
        return skip("nothing closes the file system here");
    }
    let own = app.instance_in(&app.token, "subject", "RUNNING").await;
    assert_eq!(app.tool(&own, "read", json!({ "path": file })).await, "words");
    let root = app.person("root@example.com", "admin").await;
    let order = json!({ "name": "@acme/subject", "serverName": "theirs", "enabled": false, "args": [folder.path()] });
    let begun = app.call(reqwest::Method::POST, "/api/mcp/packages/install", &root.access, &order).await.expect(202);
    app.job(begun["job_id"].as_str().unwrap()).await;
    let theirs = app.run_server("theirs").await;
    assert_eq!(app.tool(&theirs, "read", json!({ "path": file })).await, "EACCES");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn a_server_that_takes_too_much_is_ended_and_the_rest_goes_on() {
    let further = [("FABRIC_SERVER_FILE_MB", "1"), ("FABRIC_SERVER_DISK_MB", "4"), ("FABRIC_SERVER_PROCESSES", "40")];
    let (app, _packages) = with(&further, &json!({})).await;
    let wanted = json!({ "server_id": "subject", "enabled": true, "limits": { "memory_bytes": 201_326_592 } });
    app.op_post_json("/api/mcp/users/me/servers", &wanted).await.expect(201);
    let running = app.instance_in(&app.token, "subject", "RUNNING").await;
    // A file that is too large, and a flood on the protocol's own channel.
    let own: Value = serde_json::from_str(&app.tool(&running, "self", json!({})).await).unwrap();
    let large = json!({ "path": format!("{}/large", own["cwd"].as_str().unwrap()), "bytes": 2 << 20 });
    assert_eq!(app.tool(&running, "write", large).await, "EFBIG");
    assert_eq!(app.tool(&running, "flood", json!({})).await, "flooded");
    assert_eq!(app.tool(&running, "echo", json!({ "message": "still here" })).await, "still here");
    // More processes than it may have.
    let made: u32 = app.tool(&running, "forks", json!({ "count": 60 })).await.parse().unwrap();
    assert!(made < 60, "{made}");
    app.op_post("/api/mcp/servers/subject/restart").await.expect(202);
    let again = eventually(15, "it is back", || async {
        let now = app.instance(&running["id"]).await;
        (now["state"] == "RUNNING" && now["pid"] != running["pid"]).then_some(now)
    })
    .await;
    // More memory than it may have.
    let path = format!("/api/mcp/instances/{}/tools/leak/call", running["id"].as_str().unwrap());
    app.op_post_json(&path, &json!({})).await.expect_problem(502, "server_ended");
    eventually(30, "it is back after its end", || async {
        let now = app.instance(&running["id"]).await;
        (now["state"] == "RUNNING" && now["pid"] != again["pid"]).then_some(now)
    })
    .await;
    let log = app.op_get(&format!("/api/mcp/instances/{}/logs", running["id"].as_str().unwrap())).await.text();
    assert!(log.contains("it used more memory than it may") || log.contains("MiB of memory and may use"), "{log}");
    assert!(!is_alive(&again["pid"].to_string()));
    // More on the disk than it may keep.
    let running = app.instance(&running["id"]).await;
    for n in 0..6 {
        let piece = json!({ "path": format!("{}/piece{n}", own["cwd"].as_str().unwrap()), "bytes": 1 << 20 });
        app.tool(&running, "write", piece).await;
    }
    eventually(20, "the watchdog has seen it", || async {
        let log = app.op_get(&format!("/api/mcp/instances/{}/logs", running["id"].as_str().unwrap())).await.text();
        log.contains("in its folder and may keep").then_some(())
    })
    .await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm and bubblewrap"]
async fn the_network_can_be_closed() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let cases = [
        ("true", "auto", "connected"),
        ("false", "auto", "refused"),
        ("true", "bubblewrap", "connected"),
        ("false", "bubblewrap", "refused"),
    ];
    for (network, closer, said) in cases {
        let (app, _packages) = with(&[("FABRIC_SERVER_NETWORK", network), ("FABRIC_SANDBOX", closer)], &json!({})).await;
        let running = app.run_server("subject").await;
        let answer = app.tool(&running, "connect", json!({ "port": port })).await;
        if said == "connected" {
            assert_eq!(answer, said);
        } else {
            assert!(["ENETUNREACH", "ECONNREFUSED", "EACCES", "EPERM"].contains(&answer.as_str()), "{answer}");
        }
        app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn without_a_sandbox_a_server_has_a_copy_of_what_it_runs() {
    let (app, _packages) = with(&[("FABRIC_SANDBOX", "off")], &json!({})).await;
    let running = app.run_server("subject").await;
    assert_eq!((running["limits"]["limits"].as_str(), running["limits"]["files_closed"].as_bool()), (Some("best_effort"), Some(false)));
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", running["pid"])).unwrap();
    assert!(line.contains(&format!("instances/{}/tree/", running["id"].as_str().unwrap())), "{line}");
    // What it starts in a session of its own ends with it, too.
    let child = app.tool(&running, "detach", json!({})).await;
    assert!(is_alive(&child));
    app.op_post("/api/mcp/servers/subject/stop").await.expect(202);
    app.instance_in(&app.token, "subject", "STOPPED").await;
    assert!(!is_alive(&child));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn a_link_in_the_place_of_a_folder_gives_nothing_away() {
    use std::os::unix::fs::{MetadataExt as _, chown, symlink};
    let (app, _packages) = with(&[], &json!({})).await;
    let running = app.run_server("subject").await;
    app.op_post("/api/mcp/servers/subject/stop").await.expect(202);
    app.instance_in(&app.token, "subject", "STOPPED").await;
    if !rustix::process::geteuid().is_root() {
        return skip("only root hands folders over to user ids of their own");
    }
    let work = app.data().join("instances").join(running["id"].as_str().unwrap()).join("work");
    let victim = tempfile::tempdir().unwrap();
    std::fs::remove_dir_all(work.join("tmp")).unwrap();
    symlink(victim.path(), work.join("tmp")).unwrap();
    // As after the loss of its own user id: the folder is handed over anew.
    chown(&work, Some(0), Some(0)).unwrap();
    app.run_server("subject").await;
    assert_eq!(victim.path().metadata().unwrap().uid(), 0);
    assert!(std::fs::symlink_metadata(work.join("tmp")).unwrap().is_dir());
    app.stop().await;
}
