//! Installing packages: what is made, what is refused, and what is left when it fails.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Packages, TestApp, Trouble, eventually, tarball};

async fn with(packages: &Packages, further: &[(&str, &str)]) -> TestApp {
    let settings = packages.settings();
    let mut all: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    all.extend(further);
    TestApp::with(&all).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn a_package_becomes_runnable_under_the_id_of_a_server() {
    let packages = Packages::start().await;
    packages.subject("@acme/subject", "1.0.0");
    let app = with(&packages, &[("FABRIC_CACHE_METADATA_SECONDS", "1")]).await;
    let order = json!({ "name": "@acme/subject", "serverName": "mine", "enabled": false, "args": ["a b"],
        "env": { "NODE_ENV": "production", "ACME_TOKEN": "s3cret-value" } });
    let made = app.install(&order).await;
    assert_eq!(made["status"], "installed", "{made}");
    assert_eq!(
        (made["name"].as_str(), made["resolved_version"].as_str(), made["install_path"].as_str()),
        (Some("@acme/subject"), Some("1.0.0"), Some("packages/acme-subject"))
    );
    assert_eq!(made["env"], json!({ "NODE_ENV": "production", "ACME_TOKEN": "[secret]" }));
    let script = app.data().join("packages/acme-subject/node_modules/@acme/subject/server.js");
    assert!(std::fs::metadata(&script).unwrap().permissions().readonly());
    let project: Value = serde_json::from_slice(&std::fs::read(app.data().join("packages/acme-subject/package.json")).unwrap()).unwrap();
    assert_eq!(project["dependencies"], json!({ "@acme/subject": "1.0.0" }));
    app.get("/api/mcp/servers/mine").await.expect(200);
    // By the package's name, too, while one server alone has it.
    let by_name = "/api/mcp/packages/by-name/%40acme%2Fsubject";
    assert_eq!(app.op_get(by_name).await.expect(200)["server_id"], "mine");
    app.install(&json!({ "name": "@acme/subject", "serverName": "other", "enabled": false })).await;
    app.op_get(by_name).await.expect_problem(409, "package_ambiguous");
    app.op_get("/api/mcp/packages/by-name/missing").await.expect_problem(404, "not_installed");
    // The vault has the secret, and nobody is shown it.
    let told = format!("{} {}", app.op_get("/api/mcp/packages").await.text(), app.op_get("/api/mcp/jobs").await.text());
    assert!(!told.contains("s3cret-value"), "{told}");

    packages.subject("@acme/subject", "1.1.0");
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    assert_eq!(app.op_get("/api/mcp/packages/updates").await.expect(200)["updates"][0]["newest"], "1.1.0");
    let begun = app.op_post("/api/mcp/packages/mine/upgrade").await.expect(202);
    app.job(begun["job_id"].as_str().unwrap()).await;
    assert_eq!(app.op_get("/api/mcp/packages/by-id/mine").await.expect(200)["resolved_version"], "1.1.0");

    for (server, is_there) in [("other", true), ("mine", false)] {
        let path = format!("/api/mcp/packages/{server}");
        assert_eq!(app.call(Method::DELETE, &path, &app.token, &Value::Null).await.status, 204);
        assert_eq!(app.data().join("packages/acme-subject").exists(), is_there, "{server}");
        app.get(&format!("/api/mcp/servers/{server}")).await.expect_problem(404, "server_not_found");
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_installed_is_refused_at_once() {
    let app = TestApp::start().await;
    let refused = async |order: Value, status: u16, code: &str| {
        app.op_post_json("/api/mcp/packages/install", &order).await.expect_problem(status, code);
    };
    for name in ["x; rm -rf /", "$(id)", "../../etc", "a b", "-rf", "`id`", "", "a\u{0}b", "NODE_MODULES/x"] {
        refused(json!({ "name": name, "registry_type": "npm" }), 400, "invalid_package").await;
    }
    for server in ["../x", "a/b/c", "", "x;y", "é", "-x"] {
        refused(json!({ "name": "left-pad", "serverName": server }), 400, "invalid_server_id").await;
    }
    for name in ["LD_PRELOAD", "NODE_OPTIONS", "PYTHONPATH", "PATH", "A=B", "1A", ""] {
        refused(json!({ "name": "left-pad", "env": { name: "x" } }), 400, "invalid_field").await;
    }
    refused(json!({ "name": "left-pad", "args": ["a\u{0}b"] }), 400, "invalid_field").await;
    refused(json!({ "name": "left-pad", "surprise": 1 }), 400, "invalid_body").await;
    refused(json!({ "name": "left-pad", "registry_type": "nuget" }), 422, "unsupported_registry_type").await;
    refused(json!({ "name": "left-pad", "serverName": "everything" }), 409, "server_name_taken").await;
    refused(json!({ "name": "everything", "args": ["stdio"] }), 409, "server_name_needed").await;
    // Members install what the catalogue names.
    app.person("root@example.com", "admin").await;
    let member = app.person("m@example.com", "member").await;
    let install = async |order: Value| app.call(Method::POST, "/api/mcp/packages/install", &member.access, &order).await;
    install(json!({ "name": "left-pad" })).await.expect_problem(403, "forbidden");
    install(json!({ "name": "everything", "serverName": "mine", "command": "/bin/sh" })).await.expect_problem(403, "forbidden");
    install(json!({ "name": "everything", "serverName": "mine", "enabled": false })).await.expect(202);
    app.op_post_json("/api/mcp/packages/install", &json!({ "name": "everything", "enabled": false })).await.expect(202);
    // What somebody installed is theirs: others may run it, and no more.
    let other = app.person("n@example.com", "member").await;
    let asks = async |order: Value| app.call(Method::POST, "/api/mcp/packages/install", &other.access, &order).await;
    asks(json!({ "name": "everything", "serverName": "mine", "args": ["x"] })).await.expect_problem(403, "forbidden");
    asks(json!({ "name": "everything", "serverName": "mine", "env": { "A": "b" } })).await.expect_problem(403, "forbidden");
    asks(json!({ "name": "everything", "serverName": "mine", "version": "0.1.0" })).await.expect_problem(403, "forbidden");
    app.call(Method::GET, "/api/mcp/users/me/servers/mine", &other.access, &Value::Null).await.expect_problem(404, "not_found");
    asks(json!({ "name": "everything", "serverName": "mine", "enabled": false })).await.expect(202);
    install(json!({ "name": "everything", "serverName": "mine", "enabled": false, "args": ["own", "words"] })).await.expect(202);
    let shown = async |token: &str| {
        let found = app.call(Method::GET, "/api/mcp/packages/by-id/mine", token, &Value::Null).await.expect(200);
        (found["args"].clone(), found["installed_by"].clone())
    };
    let installer = json!(format!("user:{}", member.id));
    assert_eq!(shown(&member.access).await, (json!(["own", "words"]), installer.clone()));
    assert_eq!(shown(&other.access).await, (Value::Null, installer), "arguments may hold anything");
    // And remove what they installed.
    app.call(Method::DELETE, "/api/mcp/packages/everything", &member.access, &Value::Null).await.expect_problem(403, "forbidden");
    assert_eq!(app.call(Method::DELETE, "/api/mcp/packages/mine", &member.access, &Value::Null).await.status, 204);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn a_package_that_is_gone_hides_no_updates_of_others() {
    let packages = Packages::start().await;
    let mut app = with(&packages, &[]).await;
    for name in ["@acme/subject", "@acme/other"] {
        packages.subject(name, "1.0.0");
        app.install(&json!({ "name": name, "serverName": name.rsplit('/').next().unwrap(), "enabled": false })).await;
    }
    packages.subject("@acme/subject", "1.1.0");
    packages.put("/npm/@acme%2Fother", "application/json", "no document");
    app.halt().await;
    let mut connection = app.database.connect().await;
    sqlx::raw_sql("DELETE FROM mcp_fabric.cache_documents").execute(&mut connection).await.unwrap();
    app.begin_again().await;
    let found = app.op_get("/api/mcp/packages/updates").await.expect(200);
    assert_eq!((&found["updates"][0]["server_id"], &found["updates"][0]["newest"]), (&json!("subject"), &json!("1.1.0")), "{found}");
    assert_eq!((&found["unknown"][0]["server_id"], found["updates"].as_array().unwrap().len()), (&json!("other"), 1), "{found}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn what_is_asked_for_during_an_install_is_made_after_it() {
    let packages = Packages::start().await;
    packages.subject("@acme/subject", "1.0.0");
    let app = with(&packages, &[("FABRIC_CACHE_METADATA_SECONDS", "1")]).await;
    packages.trouble("/files/subject-1.0.0.tgz", Trouble::Wait(std::time::Duration::from_secs(4)));
    let order = json!({ "name": "@acme/subject", "serverName": "mine", "enabled": false });
    let first = app.op_post_json("/api/mcp/packages/install", &order).await.expect(202);
    eventually(20, "its file is fetched", || async { (packages.asked("/files/subject-1.0.0.tgz") > 0).then_some(()) }).await;
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    packages.subject("@acme/subject", "1.1.0");
    let second = app.op_post_json("/api/mcp/packages/mine/upgrade", &json!({ "version": "1.1.0" })).await.expect(202);
    assert_eq!(first["job_id"], second["job_id"], "one job is at it");
    assert_eq!(app.job(first["job_id"].as_str().unwrap()).await["status"], "complete");
    let made = app.op_get("/api/mcp/packages/by-id/mine").await.expect(200);
    assert_eq!((made["status"].as_str(), made["resolved_version"].as_str()), (Some("installed"), Some("1.1.0")), "{made}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn a_failed_install_leaves_nothing_half_made() {
    let packages = Packages::start().await;
    let manifest = json!({ "name": "evil", "version": "1.0.0", "bin": "x.js" }).to_string();
    packages.npm("evil", "1.0.0", &tarball(&[("package/package.json", &manifest), ("package/../../../x.js", "x")]), |_| {});
    packages.npm("empty", "1.0.0", &tarball(&[("package/package.json", "{}")]), |_| {});
    packages.subject("@acme/subject", "1.0.0");
    let app = with(&packages, &[]).await;
    for (name, code) in [("evil", "package_malformed"), ("empty", "no_entry_point"), ("missing", "package_not_found")] {
        let begun = app.op_post_json("/api/mcp/packages/install", &json!({ "name": name, "enabled": false })).await.expect(202);
        let job = begun["job_id"].as_str().unwrap().to_owned();
        let failed = eventually(60, "the job ends", || async {
            let job = app.op_get(&format!("/api/mcp/jobs/{job}")).await.expect(200);
            (job["status"] == "failed").then_some(job)
        });
        assert_eq!(failed.await["error"]["code"], code, "{name}");
        let found = app.op_get(&format!("/api/mcp/packages/by-id/{name}")).await.expect(200);
        assert_eq!((found["status"].as_str(), found["error"]["code"].as_str()), (Some("error"), Some(code)));
        assert!(!app.data().join("packages").join(name).exists());
    }
    let trees: Vec<_> =
        std::fs::read_dir(app.data().join("trees")).unwrap().map(|entry| entry.unwrap().path().join("tree.json").exists()).collect();
    assert!(trees.iter().all(|whole| *whole), "a tree is there in part");
    // Two at once: one works, the other gets its job.
    let order = json!({ "name": "@acme/subject", "serverName": "twice", "enabled": false });
    let (one, other) =
        tokio::join!(app.op_post_json("/api/mcp/packages/install", &order), app.op_post_json("/api/mcp/packages/install", &order));
    for answer in [one.expect(202), other.expect(202)] {
        assert_eq!(app.job(answer["job_id"].as_str().unwrap()).await["status"], "complete");
    }
    // Another package of the same folder.
    packages.subject("acme-subject", "1.0.0");
    app.op_post_json("/api/mcp/packages/install", &json!({ "name": "acme-subject", "serverName": "third" }))
        .await
        .expect_problem(409, "folder_taken");
    app.get("/api/mcp/servers/third").await.expect_problem(404, "server_not_found");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_install_that_fails_at_once_has_failed() {
    let app = TestApp::with(&[("FABRIC_OFFLINE", "true"), ("INSTALL_ON_START", "")]).await;
    for _ in 0..5 {
        let begun = app.op_post_json("/api/mcp/packages/install", &json!({ "name": "everything", "enabled": false })).await.expect(202);
        let job = format!("/api/mcp/jobs/{}", begun["job_id"].as_str().unwrap());
        eventually(20, "the job ends", || async { (app.op_get(&job).await.expect(200)["status"] == "failed").then_some(()) }).await;
        let found = app.op_get("/api/mcp/packages/by-id/everything").await.expect(200);
        assert_eq!((found["status"].as_str(), found["error"]["code"].as_str()), (Some("error"), Some("not_cached")));
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn the_set_of_the_first_run_is_installed_once() {
    let packages = Packages::start().await;
    packages.subject("@acme/subject", "1.0.0");
    let mut app = with(&packages, &[("INSTALL_ON_START", "@acme/subject|first, @acme/missing|lacking")]).await;
    let status =
        async |app: &TestApp, server: &str| app.op_get(&format!("/api/mcp/packages/by-id/{server}")).await.json()["status"].clone();
    eventually(60, "both are through", || async {
        (status(&app, "first").await == "installed" && status(&app, "lacking").await == "error").then_some(())
    })
    .await;
    assert_eq!(app.call(Method::DELETE, "/api/mcp/packages/first", &app.token, &Value::Null).await.status, 204);
    app.restart().await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    app.op_get("/api/mcp/packages/by-id/first").await.expect_problem(404, "not_installed");
    assert_eq!(status(&app, "lacking").await, "error");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn the_older_paths_answer_as_they_did_when_the_work_is_done() {
    let packages = Packages::start().await;
    packages.subject("@acme/subject", "1.0.0");
    let app = with(&packages, &[]).await;
    let order =
        json!({ "name": "@acme/subject", "serverName": "github", "env": { "NODE_ENV": "production", "ACME_TOKEN": "s3cret" }, "other": 1 });
    let made = app.op_post_json("/packages/install", &order).await.expect(200);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        keys(&made["package"]),
        ["enabled", "installPath", "installed", "mcpServerId", "name", "resolvedVersion", "status", "version"]
    );
    let package = &made["package"];
    assert_eq!(
        [
            &package["name"],
            &package["version"],
            &package["resolvedVersion"],
            &package["installPath"],
            &package["status"],
            &package["mcpServerId"]
        ],
        ["@acme/subject", "latest", "1.0.0", "packages/acme-subject", "installed", "github"]
    );
    assert_eq!(
        made["server"],
        json!({ "name": "github", "command": "node", "args": ["./packages/acme-subject/node_modules/@acme/subject/server.js"],
            "env": { "NODE_ENV": "production", "ACME_TOKEN": "[secret]" }, "status": "connected", "enabled": true })
    );
    assert_eq!(app.op_get("/packages").await.expect(200), json!({ "success": true, "packages": [package] }));
    for path in ["/packages/by-name/github", "/packages/by-id/github", "/packages/by-name/%40acme%2Fsubject"] {
        assert_eq!(app.op_get(path).await.expect(200), json!({ "success": true, "package": package }));
    }
    let turn = async |what: &str| app.call(Method::PUT, &format!("/packages/github/{what}"), &app.token, &Value::Null).await.expect(200);
    let off = turn("disable").await;
    assert_eq!((&off["package"]["enabled"], &off["server"]["enabled"]), (&json!(false), &json!(false)));
    assert_eq!(turn("enable").await["server"]["status"], "connected");
    // What cannot be done says so in their way.
    let failed = async |order: Value, status: u16, error: &str| {
        let answer = app.op_post_json("/packages/install", &order).await.expect(status);
        assert_eq!((&answer["success"], answer["error"].as_str().unwrap()), (&json!(false), error), "{order}");
    };
    let sentence = "Invalid package name: x; rm -rf /. Package names must match npm naming conventions.";
    failed(json!({ "name": "x; rm -rf /", "serverName": "x" }), 400, sentence).await;
    failed(json!({ "name": "missing", "serverName": "missing" }), 404, "the registry has no such package").await;
    packages.subject("acme-subject", "1.0.0");
    failed(
        json!({ "name": "acme-subject", "serverName": "y" }),
        409,
        "the folder packages/acme-subject is taken by another package; remove that one first",
    )
    .await;
    app.op_get("/packages/by-id/none").await.expect(404);
    let gone = app.call(Method::DELETE, "/packages/github", &app.token, &Value::Null).await.expect(200);
    assert_eq!(gone, json!({ "success": true }));
    assert_eq!(app.get("/packages").await.status, 401);
    app.stop().await;
}
