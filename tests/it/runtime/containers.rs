//! Servers in containers: with a real engine, and with a double of its API that can be away.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Binary, Engine, Packages, TestApp, eventually, skip};

/// Whether an engine answers.
fn has_engine() -> bool {
    Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]).output().is_ok_and(|output| output.status.success())
}

fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Containers of an instance, running or not.
fn containers(instance: &Value) -> Vec<String> {
    let label = format!("label=io.github.mcp-fabric.instance={}", instance["id"].as_str().unwrap());
    docker(&["ps", "-a", "-q", "--no-trunc", "--filter", &label]).lines().map(str::to_owned).collect()
}

pub(super) async fn with(further: &[(&str, &str)]) -> (TestApp, Packages) {
    let packages = Packages::start().await;
    let image = packages.container_subject("1.0");
    let host = packages.host();
    let mut settings = vec![("FABRIC_ALLOWED_HOSTS", host.as_str()), ("FABRIC_RATE_LIMIT", "0")];
    settings.extend(further);
    let app = TestApp::with(&settings).await;
    let made = app.install(&json!({ "name": image, "registry_type": "oci", "serverName": "boxed", "enabled": false })).await;
    assert_eq!(made["status"], "installed", "{made}");
    assert!(made["resolved_version"].as_str().unwrap().starts_with("sha256:"));
    (app, packages)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a container engine"]
async fn a_container_follows_its_configuration_within_its_limits() {
    if !has_engine() {
        return skip("no container engine answers; start dockerd");
    }
    let (app, _packages) = with(&[]).await;
    app.op_post_json(
        "/api/mcp/credentials",
        &json!({ "user_id": "operator", "server_id": "boxed", "env_var": "BOX_TOKEN", "value": "s3cret-value" }),
    )
    .await
    .expect(201);
    let wanted =
        json!({ "server_id": "boxed", "enabled": true, "limits": { "memory_bytes": 134_217_728, "cpu_millis": 500, "processes": 32 } });
    app.op_post_json("/api/mcp/users/me/servers", &wanted).await.expect(201);
    let running = app.instance_in(&app.token, "boxed", "RUNNING").await;
    assert_eq!(
        (running["backend"].as_str(), running["limits"]["limits"].as_str(), running["pid"].is_null()),
        (Some("container"), Some("engine"), true)
    );
    assert_eq!(app.tool(&running, "echo", json!({ "message": "from a box" })).await, "from a box");
    let env = app.tool(&running, "env", json!({})).await;
    assert!(env.contains("BOX_TOKEN=s3cret-value") && env.contains("FROM_IMAGE=yes"), "{env}");
    let status = app.tool(&running, "status", json!({})).await;
    for line in ["Uid:\t65532", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    assert_ne!(app.tool(&running, "write", json!({ "path": "/x" })).await, "written", "its root cannot be written to");
    assert_eq!(app.tool(&running, "write", json!({ "path": std::path::Path::new("/tmp").join("x") })).await, "written");
    let [container] = &containers(&running)[..] else { panic!("one container") };
    let inspected: Value = serde_json::from_str(&docker(&["inspect", container])).unwrap();
    let host = &inspected[0]["HostConfig"];
    assert_eq!([&host["Memory"], &host["NanoCpus"], &host["PidsLimit"]], [134_217_728_i64, 500_000_000, 32]);
    assert_eq!(
        (host["ReadonlyRootfs"].as_bool(), host["CapDrop"][0].as_str(), host["Privileged"].as_bool()),
        (Some(true), Some("ALL"), Some(false))
    );
    let image = inspected[0]["Config"]["Image"].as_str().unwrap().to_owned();
    assert!(image.starts_with("127.0.0.1:") && image.contains("@sha256:"), "from the fabric's own registry, by digest: {image}");
    let used = app.instance(&running["id"]).await["usage"].clone();
    assert!(used["memory_bytes"].as_i64().unwrap() > 0 && used["processes"] == 1, "{used}");
    let log = app.op_get(&format!("/api/mcp/instances/{}/logs", running["id"].as_str().unwrap())).await.text();
    assert!(log.contains("container subject: here"), "{log}");

    // More memory than it may have, and its own end: it comes back as another container.
    for tool in ["leak", "die"] {
        let before = app.instance(&running["id"]).await;
        let path = format!("/api/mcp/instances/{}/tools/{tool}/call", running["id"].as_str().unwrap());
        app.op_post_json(&path, &json!({})).await.expect_problem(502, "server_ended");
        eventually(30, "it is back", || async {
            let now = app.instance(&running["id"]).await;
            (now["state"] == "RUNNING" && now["restarts"].as_i64() > before["restarts"].as_i64()).then_some(())
        })
        .await;
    }
    let log = app.op_get(&format!("/api/mcp/instances/{}/logs", running["id"].as_str().unwrap())).await.text();
    assert!(log.contains("it used more memory than it may") && log.contains("exit code 3"), "{log}");
    assert_eq!(containers(&running).len(), 1);

    app.op_post_json("/api/mcp/users/me/servers", &json!({ "server_id": "boxed", "enabled": false })).await.expect(200);
    app.instance_in(&app.token, "boxed", "STOPPED").await;
    assert_eq!(containers(&running), [""; 0], "nothing is left of it");
    let metrics = app.op_get("/metrics").await.text();
    for op in ["create", "start", "stop", "remove", "pull"] {
        assert!(metrics.contains(&format!("container_operations_total{{op=\"{op}\",outcome=\"ok\"}}")), "{op}: {metrics}");
    }
    docker(&["image", "rm", "-f", &image]);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a container engine"]
async fn a_container_has_no_network_where_there_is_to_be_none() {
    if !has_engine() {
        return skip("no container engine answers; start dockerd");
    }
    let (app, _packages) = with(&[("FABRIC_SERVER_NETWORK", "false")]).await;
    let running = app.run_server("boxed").await;
    assert_ne!(app.tool(&running, "connect", json!({ "to": "172.17.0.1:1" })).await, "ConnectionRefused", "the machine is out of reach");
    app.op_post("/api/mcp/servers/boxed/stop").await.expect(202);
    app.instance_in(&app.token, "boxed", "STOPPED").await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a container engine"]
async fn a_container_outlives_its_fabric_and_is_attached_to_again() {
    if !has_engine() {
        return skip("no container engine answers; start dockerd");
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let data = folder.path().join("data");
    let packages = Packages::start().await;
    let image = packages.container_subject("1.0");
    let database = crate::support::cluster::database().await;
    crate::support::cluster::share_roles(&data).await;
    let (url, host) = (database.url(), packages.host());
    let settings = [("DATABASE_URL", url.as_str()), ("FABRIC_ALLOWED_HOSTS", host.as_str()), ("FABRIC_JOB_LEASE_SECONDS", "3")];
    let run = |words: &[&str]| {
        let output = Binary::run(&data, &settings, words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let program = Binary::serve(&data, &settings);
    for name in ["kept", "dropped"] {
        run(&["run", &format!("oci:{image}"), "--as", name]);
    }
    let instances = || -> Vec<Value> {
        let found: Value = serde_json::from_str(&run(&["ps", "--json"])).unwrap();
        found["instances"].as_array().unwrap().clone()
    };
    let before = instances();
    let of = |name: &str| before.iter().find(|instance| instance["server_id"] == name).unwrap().clone();
    let (kept, dropped) = (containers(&of("kept")), containers(&of("dropped")));
    program.kill();
    let mut connection = database.connect().await;
    // Meanwhile, somebody does not want one of them any more.
    sqlx::query("UPDATE mcp_fabric.configurations SET enabled = false WHERE server_id = 'dropped'").execute(&mut connection).await.unwrap();
    assert_eq!(docker(&["inspect", "-f", "{{.State.Running}}", &kept[0]]), "true");
    let program = Binary::serve(&data, &settings);
    eventually(20, "it is attached to", || async {
        let now = instances();
        now.iter().any(|instance| instance["server_id"] == "kept" && instance["state"] == "RUNNING").then_some(())
    })
    .await;
    assert_eq!(containers(&of("kept")), kept, "the same container");
    assert_eq!(run(&["call", "kept", "echo", "message=again"]), "again\n");
    eventually(10, "what nobody wants is gone", || async { containers(&of("dropped")).is_empty().then_some(()) }).await;
    assert!(!dropped.is_empty());
    run(&["stop", "--all"]);
    assert_eq!(containers(&of("kept")), [""; 0]);
    assert!(program.terminate().1);
}

/// A fabric with the double for an engine, and an image.
async fn with_double(further: &[(&str, &str)]) -> (TestApp, Packages, Engine) {
    let (packages, engine) = (Packages::start().await, Engine::start().await);
    let layer = b"nothing is run of it";
    let made = packages.image("acme/box", &[layer], |_| {});
    let platform = if std::env::consts::ARCH == "aarch64" { "linux/arm64" } else { "linux/amd64" };
    packages.index("acme/box", "1.0", &[(platform, &made)]);
    let (host, url) = (packages.host(), engine.url.clone());
    let mut settings = vec![("FABRIC_ALLOWED_HOSTS", host.as_str()), ("FABRIC_CONTAINER_ENGINE", url.as_str()), ("FABRIC_RATE_LIMIT", "0")];
    settings.extend(further);
    let app = TestApp::with(&settings).await;
    (app, packages, engine)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_away_is_waited_for() {
    let (app, packages, engine) = with_double(&[]).await;
    let image = format!("{}/acme/box:1.0", packages.host());
    assert_eq!(
        app.install(&json!({ "name": image, "registry_type": "oci", "serverName": "boxed", "enabled": false })).await["status"],
        "installed"
    );
    engine.set_away(true);
    app.op_post("/api/mcp/servers/boxed/start").await.expect(202);
    let waiting = async || {
        eventually(20, "it waits for the engine", || async {
            let found = app.op_get("/api/mcp/instances?server_id=boxed").await.expect(200)["instances"][0].clone();
            (found["state"] == "STARTING" && found["reason"]["code"] == "engine_unavailable").then_some(found)
        })
        .await
    };
    assert_eq!(waiting().await["attempt"], 0, "it is nobody's failure");
    engine.set_away(false);
    let running = app.instance_in(&app.token, "boxed", "RUNNING").await;
    assert_eq!(app.tool(&running, "echo", json!({})).await, "from the double");
    // It goes away under a server that runs, and comes back without the container.
    engine.set_away(true);
    waiting().await;
    engine.set_away(false);
    let again = app.instance_in(&app.token, "boxed", "RUNNING").await;
    assert_eq!(app.tool(&again, "echo", json!({})).await, "from the double");
    let made = engine.made();
    assert_eq!(made.len(), 1);
    let body = &made.values().next().unwrap().body;
    assert_eq!(
        (body["User"].as_str(), body["HostConfig"]["ReadonlyRootfs"].as_bool(), body["OpenStdin"].as_bool()),
        (Some("65532:65532"), Some(true), Some(true))
    );
    // A refusal is told with its sentence, and given up.
    app.op_post("/api/mcp/servers/boxed/stop").await.expect(202);
    app.instance_in(&app.token, "boxed", "STOPPED").await;
    assert!(engine.made().is_empty());
    engine.refuse(400, "the memory is \u{1b}[31mtoo small");
    app.op_post("/api/mcp/servers/boxed/start").await.expect(202);
    let failed = app.instance_in(&app.token, "boxed", "FAILED").await;
    assert_eq!(failed["reason"]["code"], "engine_refused");
    assert_eq!(failed["reason"]["message"], "the container engine refused: the memory is  [31mtoo small (400)");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_is_asked_eight_questions_at_once() {
    let (app, packages, engine) = with_double(&[]).await;
    let image = format!("{}/acme/box:1.0", packages.host());
    for number in 0..20 {
        let name = format!("box-{number}");
        assert_eq!(
            app.install(&json!({ "name": image, "registry_type": "oci", "serverName": name, "enabled": true })).await["status"],
            "installed"
        );
    }
    eventually(60, "all of them run", || async {
        let found = app.op_get("/api/mcp/instances?state=RUNNING").await.expect(200);
        (found["instances"].as_array().unwrap().len() == 20).then_some(())
    })
    .await;
    assert_eq!(engine.made().values().filter(|made| made.runs).count(), 20);
    assert!(engine.most_at_once() <= 8, "{}", engine.most_at_once());
    app.stop().await;
}
