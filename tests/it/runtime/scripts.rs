//! Install scripts of npm: whose run, and what they can do.

use serde_json::{Value, json};

use crate::support::{Packages, TestApp, subject::tarball};

/// Writes down what it can reach: what lies outside, the network, its environment.
const SETUP: &str = r"
const fs = require('fs'), net = require('net'), path = require('path');
const tried = (what) => { try { what(); return 'done'; } catch (error) { return error.code; } };
const report = {
  event: process.env.npm_lifecycle_event, cwd: process.cwd(), uid: process.getuid(), names: Object.keys(process.env).sort(),
  token: tried(() => fs.readFileSync(process.env.npm_package_json.split('/trees/')[0] + '/operator.token')),
  outside: tried(() => fs.writeFileSync(path.join(path.sep, 'tmp', 'script-was-here'), 'x')),
  sibling: tried(() => fs.writeFileSync('../tool/cli.js', 'x')),
  own: tried(() => { fs.unlinkSync('made.txt'); fs.writeFileSync('made.txt', 'anew'); fs.writeFileSync('run', '#!/bin/sh\n', { mode: 0o777 }); }),
};
require('child_process').spawn(process.execPath, ['-e', 'setTimeout(() => {}, 600000)'], { detached: true, stdio: 'ignore' }).unref();
const socket = net.connect(Number(fs.readFileSync('port', 'utf8')), '127.0.0.1');
const end = (said) => { report.network = said; fs.writeFileSync('report.json', JSON.stringify(report)); process.exit(0); };
socket.on('connect', () => end('connected')).on('error', (error) => end(error.code));
";

/// `@acme/scripted`, which needs `@acme/tool`.
fn put(packages: &Packages, scripts: &Value, port: u16) {
    let manifest = json!({ "name": "@acme/scripted", "version": "1.0.0", "bin": "setup.js", "scripts": scripts }).to_string();
    let files =
        [("package/package.json", &*manifest), ("package/setup.js", SETUP), ("package/made.txt", ""), ("package/port", &port.to_string())];
    packages.npm("@acme/scripted", "1.0.0", &tarball(&files), |_| {});
    let mut document = packages.document("/npm/@acme%2Fscripted");
    document["versions"]["1.0.0"]["dependencies"] = json!({ "@acme/tool": "1.0.0" });
    packages.put("/npm/@acme%2Fscripted", "application/json", document.to_string());
    let manifest =
        json!({ "name": "@acme/tool", "version": "1.0.0", "bin": { "acme-tool": "cli.js" }, "scripts": { "install": "touch ran" } });
    let cli = "#!/usr/bin/env node\nrequire('fs').writeFileSync('tooled', process.env.npm_package_name);\n";
    packages.npm("@acme/tool", "1.0.0", &tarball(&[("package/package.json", &manifest.to_string()), ("package/cli.js", cli)]), |_| {});
}

async fn fabric(packages: &Packages, further: &[(&str, &str)]) -> TestApp {
    let own = packages.settings();
    let settings: Vec<(&str, &str)> = own.iter().map(|(key, value)| (*key, &**value)).chain(further.iter().copied()).collect();
    TestApp::with(&settings).await
}

/// The job of the install, when it has ended.
async fn install(app: &TestApp) -> Value {
    let order = json!({ "name": "@acme/scripted", "serverName": "scripted", "enabled": false });
    let begun = app.op_post_json("/api/mcp/packages/install", &order).await.expect(202);
    app.job(begun["job_id"].as_str().unwrap()).await
}

const SCRIPTS: &str = "FABRIC_INSTALL_SCRIPTS";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm and bubblewrap"]
async fn scripts_of_named_packages_run_and_reach_nothing_but_their_own() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for closer in ["landlock", "bubblewrap"] {
        let packages = Packages::start().await;
        put(&packages, &json!({ "preinstall": "echo hidden > .first", "install": "node setup.js", "postinstall": "acme-tool" }), port);
        let app = fabric(&packages, &[(SCRIPTS, "@acme/scripted,esbuild"), ("FABRIC_SANDBOX", closer)]).await;
        let done = install(&app).await;
        assert_eq!(done["status"], "complete", "{closer}: {done}");
        let folder = app.data().join("packages/acme-scripted/node_modules/@acme");
        let read = |path: &str| std::fs::read_to_string(folder.join("scripted").join(path)).unwrap();
        let report: Value = serde_json::from_str(&read("report.json")).unwrap();
        let is_root = rustix::process::geteuid().is_root();
        assert_eq!((report["event"].as_str(), report["own"].as_str()), (Some("install"), Some("done")), "{closer}: {report}");
        assert!(!is_root || report["uid"] == 65519, "{report}");
        for refused in ["token", "outside", "sibling", "network"] {
            let codes = ["EACCES", "EPERM", "EROFS", "ENOENT", "ENETUNREACH", "ECONNREFUSED"];
            assert!(codes.contains(&report[refused].as_str().unwrap()), "{closer}, {refused}: {report}");
        }
        assert!(!report["names"].as_array().unwrap().iter().any(|name| name.as_str().unwrap().contains("FABRIC_CACHE")), "{report}");
        assert_eq!((&*read(".first"), &*read("made.txt"), &*read("tooled")), ("hidden\n", "anew", "@acme/scripted"));
        assert!(!folder.join("tool/ran").exists(), "nobody named that one");
        sealed(&folder.join("scripted"), is_root);
        let left_out = done["log"].to_string();
        assert!(left_out.contains("FABRIC_INSTALL_SCRIPTS does not name them: @acme/tool"), "{left_out}");
        assert!(!app.data().join("scripts").exists());
        app.stop().await;
    }
}

/// Nothing of the scripts runs any more, and nobody can change what they left.
fn sealed(folder: &std::path::Path, is_root: bool) {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    for (file, mode) in [("report.json", 0o444), ("run", 0o555), ("made.txt", 0o444)] {
        let found = folder.join(file).metadata().unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, mode, "{file}");
        assert!(!is_root || found.uid() == 0, "{file}");
    }
    let real = std::fs::canonicalize(folder).unwrap();
    let left = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| std::fs::read_link(entry.path().join("cwd")).ok());
    assert!(!left.into_iter().any(|cwd| cwd == real), "what a script had started goes on");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn without_being_named_no_script_runs() {
    let packages = Packages::start().await;
    put(&packages, &json!({ "install": "touch ran" }), 1);
    let app = fabric(&packages, &[]).await;
    assert_eq!(install(&app).await["status"], "complete");
    let folder = app.data().join("packages/acme-scripted/node_modules");
    assert!(!folder.join("@acme/scripted/ran").exists() && !folder.join(".bin").exists());
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn a_script_that_fails_or_misbehaves_fails_its_install_and_leaves_nothing() {
    let flood = "node -e \"for (let n = 0; ; n++) fs.writeFileSync('f' + n, Buffer.alloc(1 << 20)), Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20)\"";
    for (script, code, said) in [
        (
            "echo it is broken >&2; exit 3",
            "script_failed",
            "the install script of @acme/scripted failed: it ended with exit code 3: it is broken",
        ),
        ("ln -s /etc/passwd away", "script_failed", "it made a link that leads nowhere, or out of what is installed"),
        ("mkfifo pipe", "script_failed", "neither a file nor a folder"),
        (flood, "script_failed", "it wrote more than 8 MiB, and was ended"),
        ("kill -9 $$", "script_failed", "it was ended by signal 9: it said nothing"),
    ] {
        let packages = Packages::start().await;
        put(&packages, &json!({ "install": script }), 1);
        let app = fabric(&packages, &[(SCRIPTS, "@acme/scripted"), ("FABRIC_SERVER_DISK_MB", "8")]).await;
        let failed = install(&app).await;
        assert_eq!((failed["status"].as_str(), failed["error"]["code"].as_str()), (Some("failed"), Some(code)), "{script}: {failed}");
        assert!(failed["error"].to_string().contains(said), "{script}: {failed}");
        assert_eq!(std::fs::read_dir(app.data().join("trees")).unwrap().count(), 0);
        app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn without_a_sandbox_no_script_runs() {
    let packages = Packages::start().await;
    put(&packages, &json!({ "install": "touch ran" }), 1);
    let app = fabric(&packages, &[(SCRIPTS, "@acme/scripted"), ("FABRIC_SANDBOX", "off")]).await;
    let failed = install(&app).await;
    assert_eq!(failed["error"]["code"], "sandbox_missing", "{failed}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm, g++ and make"]
async fn what_is_compiled_is_compiled_with_what_this_machine_has() {
    let packages = Packages::start().await;
    let manifest = json!({ "name": "@acme/scripted", "version": "1.0.0", "main": "index.js" }).to_string();
    let gyp = r#"{ "targets": [{ "target_name": "answer", "sources": ["answer.c"] }] }"#;
    let source = "#include <node_api.h>\nNAPI_MODULE_INIT() { napi_value v; napi_create_int32(env, 42, &v); return v; }\n";
    let script = "console.log(require('./build/Release/answer.node'));\n";
    let files =
        [("package/package.json", &*manifest), ("package/binding.gyp", gyp), ("package/answer.c", source), ("package/index.js", script)];
    packages.npm("@acme/scripted", "1.0.0", &tarball(&files), |_| {});
    let app = fabric(&packages, &[(SCRIPTS, "@acme/scripted")]).await;
    let done = install(&app).await;
    assert_eq!(done["status"], "complete", "{done}");
    let folder = app.data().join("packages/acme-scripted/node_modules/@acme/scripted");
    let said = std::process::Command::new("node").arg(folder.join("index.js")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "42\n", "{said:?}");
    app.stop().await;
}
