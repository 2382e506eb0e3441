//! Bundles: run as their manifest says, with what it asks of its user.

use std::io::Write as _;

use serde_json::{Value, json};
use zip::{ZipWriter, write::SimpleFileOptions};

use crate::support::{Packages, SUBJECT, TestApp, data, digest};

fn bundle(manifest: &Value, files: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let manifest = manifest.to_string();
    for (name, text) in [("manifest.json", manifest.as_str())].iter().chain(files) {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(text.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A fabric whose catalogue has servers of these names, each with one bundle.
async fn with(bundles: &[(&str, Vec<u8>)]) -> (TestApp, Packages) {
    let packages = Packages::start().await;
    let host = packages.host();
    let app = TestApp::with(&[("FABRIC_ALLOWED_HOSTS", &host)]).await;
    let entries: Vec<Value> = bundles
        .iter()
        .map(|(name, bytes)| {
            let path = format!("/acme/{name}/releases/download/v1.0.0/{name}-mcp.mcpb");
            packages.put(&path, "application/octet-stream", bytes.clone());
            let sha256 = digest(bytes).replace("sha256:", "");
            let package = json!([{ "registryType": "mcpb", "identifier": format!("{}{path}", packages.url), "fileSha256": sha256,
                "transport": { "type": "stdio" } }]);
            data::entry_with(&format!("a.x/{name}"), "1.0.0", json!({ "packages": package }), json!({}))
        })
        .collect();
    app.import(&entries).await;
    (app, packages)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_runs_with_what_its_manifest_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let manifest = json!({
        "manifest_version": "0.3", "name": "box", "version": "1.0.0", "description": "x", "author": { "name": "x" },
        "server": { "type": "node", "entry_point": "server/index.js", "mcp_config": {
            "command": "node", "args": ["${__dirname}/server/index.js", "--level=${user_config.level}", "${user_config.folders}"],
            "env": { "API_KEY": "${user_config.api_key}" },
        } },
        "user_config": {
            "folders": { "type": "directory", "title": "Folders", "multiple": true },
            "api_key": { "type": "string", "title": "Key", "sensitive": true, "required": true },
            "level": { "type": "number", "title": "Level", "default": 3 },
        },
    });
    let (app, _packages) = with(&[("box", bundle(&manifest, &[("server/index.js", SUBJECT)]))]).await;
    assert_eq!(app.install(&json!({ "name": "a.x/box", "enabled": false })).await["status"], "installed");
    let refused = app.op_post("/api/mcp/servers/a.x%2Fbox/start").await.expect_problem(422, "missing_inputs");
    assert_eq!(refused["missing"], json!(["api_key"]));
    let values = json!({ "api_key": "s3cret-value", "folders": folder.path(), "level": 7 });
    let stored = app.op_post_json("/api/mcp/users/me/servers", &json!({ "server_id": "a.x/box", "values": values })).await.expect(201);
    assert_eq!((&stored["values"]["api_key"], &stored["missing"]), (&json!("[secret]"), &json!([])));
    let running = app.run_server("a.x/box").await;
    let own: Value = serde_json::from_str(&app.tool(&running, "self", json!({})).await).unwrap();
    assert_eq!(own["argv"], json!(["--level=7", folder.path()]));
    assert!(app.tool(&running, "env", json!({})).await.contains("\"API_KEY\":\"s3cret-value\""));
    let list = app.op_get("/api/mcp/packages/by-id/a.x%2Fbox").await.expect(200);
    assert_eq!((list["registry_type"].as_str(), list["status"].as_str()), (Some("mcpb"), Some("installed")));
    // What is uninstalled asks for nothing any more.
    assert_eq!(app.call(reqwest::Method::DELETE, "/api/mcp/packages/a.x%2Fbox", &app.token, &Value::Null).await.status, 204);
    let values = json!({ "server_id": "a.x/box", "values": { "level": 1 } });
    app.op_post_json("/api/mcp/users/me/servers", &values).await.expect_problem(400, "invalid_field");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_cannot_run_here_says_why() {
    let server = |server: Value| bundle(&json!({ "server": server }), &[]);
    let python = json!({ "server": { "type": "python", "entry_point": "server/main.py", "mcp_config": {
        "command": "python", "args": ["${__dirname}/server/main.py"], "env": { "PYTHONPATH": "${__dirname}/lib" } } } });
    let main = "import words, json, sys\nfor line in sys.stdin:\n    asked = json.loads(line)\n    if 'id' in asked:\n        print(json.dumps(words.answer(asked)), flush=True)\n";
    let words = "def answer(asked):\n    result = {'protocolVersion': '2025-11-25', 'capabilities': {}, 'serverInfo': {'name': 'p', 'version': '1'}}\n    if asked['method'] == 'tools/list':\n        result = {'tools': [{'name': 'one', 'inputSchema': {'type': 'object'}}]}\n    known = asked['method'] in ('initialize', 'ping', 'tools/list')\n    return {'jsonrpc': '2.0', 'id': asked['id'], **({'result': result} if known else {'error': {'code': -32601, 'message': 'no'}})}\n";
    let (app, _packages) = with(&[
        ("shell", server(json!({ "type": "binary", "entry_point": "x", "mcp_config": { "command": "/bin/sh", "args": ["-c", "id"] } }))),
        ("absent", server(json!({ "type": "binary", "entry_point": "bin/x" }))),
        ("broken", b"no archive".to_vec()),
        ("python", bundle(&python, &[("server/main.py", main), ("lib/words.py", words)])),
    ])
    .await;
    for (name, code, why) in [
        ("shell", "no_entry_point", "its command is neither node nor python"),
        ("absent", "no_entry_point", "is not in it"),
        ("broken", "package_malformed", "not an archive"),
    ] {
        let begun = app.op_post_json("/api/mcp/packages/install", &json!({ "name": format!("a.x/{name}"), "enabled": false })).await;
        let failed = app.job(begun.expect(202)["job_id"].as_str().unwrap()).await;
        assert_eq!(failed["error"]["code"], code, "{name}: {failed}");
        assert!(failed["error"]["message"].as_str().unwrap().contains(why), "{failed}");
    }
    assert_eq!(app.install(&json!({ "name": "a.x/python", "enabled": false })).await["status"], "installed");
    assert_eq!(app.run_server("a.x/python").await["tools"], 1);
    app.stop().await;
}
