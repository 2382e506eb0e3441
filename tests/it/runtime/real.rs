//! Real servers of npm and PyPI, online and then without any network.

use serde_json::json;

use crate::support::{TestApp, data, eventually};

/// The same server over both transports of HTTP.
async fn over_http(app: &TestApp) {
    let script = app
        .data()
        .join("packages/modelcontextprotocol-server-everything/node_modules/@modelcontextprotocol/server-everything/dist/index.js");
    for (mode, kind, path) in [("streamableHttp", "streamable-http", "/mcp"), ("sse", "sse", "/sse")] {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut child = std::process::Command::new("node").arg(&script).arg(mode).env("PORT", port.to_string()).spawn().unwrap();
        let address = format!("127.0.0.1:{port}");
        eventually(20, "it listens", || async { tokio::net::TcpStream::connect(&address).await.ok() }).await;
        let remote = json!({ "packages": [], "remotes": [{ "type": kind, "url": format!("http://{address}{path}") }] });
        app.import(&[data::entry_with(&format!("a.x/{kind}"), "1.0.0", remote, json!({}))]).await;
        app.op_post(&format!("/api/mcp/servers/a.x%2F{kind}/start")).await.expect(202);
        let running = app.instance_in(&app.token, &format!("a.x/{kind}"), "RUNNING").await;
        assert_eq!(app.tool(&running, "echo", json!({ "message": mode })).await, format!("Echo: {mode}"));
        app.op_post(&format!("/api/mcp/servers/a.x%2F{kind}/stop")).await.expect(202);
        app.instance_in(&app.token, &format!("a.x/{kind}"), "STOPPED").await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm, uv and the public npm and PyPI registries"]
async fn real_servers_are_installed_run_and_run_again_offline() {
    let hosts = format!("{},127.0.0.1", crate::cache::clients::file_hosts().await);
    let settings = [("FABRIC_ALLOWED_HOSTS", hosts.as_str()), ("FABRIC_NPM_REGISTRY", ""), ("FABRIC_PYPI_INDEX", "")];
    let mut app = TestApp::with(&settings).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let given = folder.path().to_str().unwrap();
    // By the package, by the catalogue, and one that needs a cure.
    let sqlite = json!({ "name": "mcp-server-sqlite", "registry_type": "pypi", "serverName": "sqlite", "enabled": false });
    for order in [
        json!({ "name": "@modelcontextprotocol/server-everything", "enabled": false }),
        json!({ "name": "@modelcontextprotocol/server-sequential-thinking", "enabled": false }),
        json!({ "name": "memory", "enabled": false }),
        json!({ "name": "filesystem", "enabled": false }),
        json!({ "name": "mcp-server-time", "enabled": false }),
        json!({ "name": "git", "enabled": false }),
        json!({ "name": "fetch", "enabled": false }),
        sqlite,
    ] {
        assert_eq!(app.install(&order).await["status"], "installed", "{order}");
    }
    let values = json!({ "server_id": "filesystem", "values": { "allowed_directory": given } });
    app.op_post_json("/api/mcp/users/me/servers", &values).await.expect(201);
    let expected = [
        ("everything", "legacy"),
        ("sequential-thinking", "legacy"),
        ("memory", "legacy"),
        ("filesystem", "legacy"),
        ("time", "modern"),
        ("git", "modern"),
        ("fetch", "modern"),
        ("sqlite", "legacy"),
    ];
    for (server, era) in expected {
        app.op_post(&format!("/api/mcp/servers/{server}/start")).await.expect(202);
        let running = app.instance_in(&app.token, server, "RUNNING").await;
        assert_eq!((running["era"].as_str(), running["tools"].as_i64() > Some(0)), (Some(era), true), "{running}");
    }
    let cured = app.op_get("/api/mcp/packages/by-id/sqlite").await.expect(200);
    assert_eq!((cured["cure"].as_str(), cured["status"].as_str()), (Some("mcp<2"), Some("installed")));
    over_http(&app).await;
    app.set("FABRIC_OFFLINE", "true");
    app.restart().await;
    for (server, era) in expected {
        let running = app.instance_in(&app.token, server, "RUNNING").await;
        assert_eq!(running["era"], era, "it is not asked again");
    }
    let everything = app.instance_in(&app.token, "everything", "RUNNING").await;
    assert_eq!(app.tool(&everything, "echo", json!({ "message": "hi" })).await, "Echo: hi");
    let files = app.instance_in(&app.token, "filesystem", "RUNNING").await;
    app.tool(&files, "write_file", json!({ "path": format!("{given}/note"), "content": "by a server" })).await;
    assert_eq!(std::fs::read_to_string(folder.path().join("note")).unwrap(), "by a server");
    // Everything again from the cache alone: what is installed was removed with its trees.
    for server in ["everything", "time"] {
        assert_eq!(
            app.call(reqwest::Method::DELETE, &format!("/api/mcp/packages/{server}"), &app.token, &serde_json::Value::Null).await.status,
            204
        );
        app.instance_in(&app.token, server, "STOPPED").await;
    }
    std::fs::remove_dir_all(app.data().join("trees")).unwrap();
    std::fs::create_dir(app.data().join("trees")).unwrap();
    for server in ["everything", "time"] {
        app.run_server(server).await;
    }
    // What is not in the cache is not brought by a start.
    app.op_post_json("/api/mcp/packages/install", &json!({ "name": "is-odd", "serverName": "odd", "enabled": true })).await.expect(202);
    let failed = app.instance_in(&app.token, "odd", "FAILED").await;
    assert_eq!(failed["reason"]["code"], "not_cached", "{failed}");
    app.stop().await;
}
