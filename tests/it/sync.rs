//! The mirror against a loopback registry.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Fault, TestApp, Upstream, data, eventually};

const OFFICIAL: &str = "io.modelcontextprotocol.registry/official";

async fn mirror_of(upstream: &Upstream, further: &[(&str, &str)]) -> TestApp {
    let mut settings = vec![("FABRIC_UPSTREAM_URL", upstream.url.as_str())];
    settings.extend_from_slice(further);
    TestApp::with(&settings).await
}

/// The mirrored part of the catalogue.
async fn mirrored(app: &TestApp) -> Vec<Value> {
    let is_mirrored = |entry: &Value| !entry["server"]["name"].as_str().unwrap().starts_with("local.fabric/");
    app.catalogue().await.into_iter().filter(is_mirrored).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_sync_mirrors_every_version_latest_first() {
    let upstream = Upstream::start(data::real_entries()).await;
    let app = mirror_of(&upstream, &[]).await;
    let job = app.sync("full").await;
    assert_eq!(job["status"], "complete", "{job}");
    assert_eq!(mirrored(&app).await, upstream.entries());
    let asked = upstream.requests();
    assert!(asked[0].contains("version=latest"));
    assert!(asked.iter().any(|query| query.contains("include_deleted=true")));
    assert!(asked.last().unwrap().contains("updated_since="));
    let status = app.get("/api/mcp/sync/status").await.expect(200);
    assert_eq!((&status["running"], &status["current"], &status["last"]["status"]), (&json!(false), &json!(null), &json!("complete")));
    assert_eq!(status["versions"], upstream.entries().len() + 7);
    assert_eq!(status["upstream"]["stale"], false);
    let nothing_new = app.sync("incremental").await;
    assert_eq!((&nothing_new["result"]["inserted"], &nothing_new["result"]["updated"]), (&json!(0), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn older_and_newer_shapes_are_taken_entry_by_entry() {
    let app = TestApp::start().await;
    for (name, taken) in [("servers-2025-05-shape.json", 464), ("servers-2025-12-schema.json", 12)] {
        let Some(text) = data::real_file(name) else {
            println!("skipped: ../shared/data/registry/{name} is not there");
            continue;
        };
        let import = app.request(Method::POST, "/api/mcp/sync/import?last=true").bearer_auth(&app.token);
        let run = app.send(import.header("content-type", "application/json").body(text)).await.expect(200);
        assert_eq!(run["inserted"], taken, "{name}");
        assert_eq!(run["skipped"], run["skipped_entries"].as_array().unwrap().len());
    }
    let old = json!({ "id": "1", "name": "io.old/shape", "description": "d", "version_detail": { "version": "0.0.1", "release_date": "2025-05-16T18:56:49Z", "is_latest": true },
        "packages": [{ "registry_name": "npm", "name": "old", "version": "1.2.3", "environment_variables": [{ "name": "K", "is_required": true }] }] });
    app.import(&[old]).await;
    let served = app.get("/v0.1/servers/io.old%2Fshape/versions/latest").await.expect(200);
    assert_eq!(served["server"]["packages"][0]["registryType"], "npm");
    assert_eq!(app.get("/api/mcp/servers/io.old%2Fshape/credentials").await.expect(200)["credentials"][0]["env_var"], "K");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_latest_version_takes_over_although_the_old_one_is_not_sent_again() {
    let upstream = Upstream::start(vec![data::entry("a.x/one", "1.0.0")]).await;
    let app = mirror_of(&upstream, &[]).await;
    app.sync("full").await;
    // Upstream clears the old flag without touching `updatedAt`.
    upstream.put(vec![
        data::entry_with("a.x/one", "1.0.0", json!({}), json!({ "isLatest": false })),
        data::entry_with("a.x/one", "2.0.0", json!({}), json!({ "updatedAt": "2999-01-01T00:00:00Z" })),
    ]);
    app.sync("incremental").await;
    assert_eq!(mirrored(&app).await, upstream.entries());
    assert_eq!(app.get("/api/mcp/servers/a.x%2Fone").await.expect(200)["version"], "2.0.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_take_down_moves_latest_to_the_highest_that_stands() {
    let versions = ["1.9.0", "1.10.0", "2.0.0"];
    let upstream =
        Upstream::start(versions.iter().map(|v| data::entry_with("a.x/one", v, json!({}), json!({ "isLatest": *v == "2.0.0" }))).collect())
            .await;
    let app = mirror_of(&upstream, &[]).await;
    app.sync("full").await;
    let gone = json!({ "status": "deleted", "isLatest": false, "updatedAt": "2999-01-01T00:00:00Z" });
    upstream.put(vec![data::entry_with("a.x/one", "2.0.0", json!({}), gone)]);
    let job = app.sync("incremental").await;
    assert_eq!(job["result"]["deleted"], 1);
    assert_eq!(app.get("/v0.1/servers/a.x%2Fone/versions/latest").await.expect(200)["server"]["version"], "1.10.0");
    upstream.put(vec![data::entry_with("a.x/one", "2.0.0", json!({}), json!({ "updatedAt": "2999-01-02T00:00:00Z" }))]);
    app.sync("incremental").await;
    assert_eq!(app.get("/v0.1/servers/a.x%2Fone/versions/latest").await.expect(200)["server"]["version"], "2.0.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_body_replaces_the_old_one_which_history_keeps() {
    let upstream = Upstream::start(vec![data::entry("a.x/one", "1.0.0")]).await;
    let app = mirror_of(&upstream, &[]).await;
    app.sync("full").await;
    let edited = data::entry_with("a.x/one", "1.0.0", json!({ "description": "edited" }), json!({ "updatedAt": "2999-01-01T00:00:00Z" }));
    upstream.put(vec![edited]);
    assert_eq!(app.sync("incremental").await["result"]["updated"], 1);
    assert_eq!(app.get("/api/mcp/servers/a.x%2Fone").await.expect(200)["description"], "edited");
    let mut connection = app.database.connect().await;
    let kept: Vec<String> =
        sqlx::query_scalar("SELECT document FROM mcp_fabric.server_version_history").fetch_all(&mut connection).await.unwrap();
    assert_eq!(kept.len(), 1);
    assert!(kept[0].contains("What a.x/one does"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconcile_removes_what_upstream_erased_within_its_guard() {
    let upstream = Upstream::start(data::many(20, 2)).await;
    let app = mirror_of(&upstream, &[]).await;
    app.sync("full").await;
    let gone = upstream.entries()[0]["server"]["name"].as_str().unwrap().to_owned();
    upstream.erase(&gone, "1.0.0");
    upstream.erase(&gone, "1.1.0");
    let job = app.sync("reconcile").await;
    assert_eq!((&job["status"], &job["result"]["deleted"]), (&json!("complete"), &json!(2)), "{job}");
    assert_eq!(mirrored(&app).await, upstream.entries());
    app.get(&format!("/api/mcp/servers/{}", gone.replace('/', "%2F"))).await.expect_problem(404, "server_not_found");
    let mut connection = app.database.connect().await;
    let tombs: i64 =
        sqlx::query_scalar("SELECT count(*) FROM mcp_fabric.servers WHERE erased_at IS NOT NULL").fetch_one(&mut connection).await.unwrap();
    assert_eq!(tombs, 1);

    let before = mirrored(&app).await;
    for entry in upstream.entries().iter().take(10) {
        upstream.erase(entry["server"]["name"].as_str().unwrap(), entry["server"]["version"].as_str().unwrap());
    }
    let job = app.sync("reconcile").await;
    assert_eq!((&job["status"], &job["error"]["code"]), (&json!("failed"), &json!("erase_refused")), "{job}");
    assert_eq!(mirrored(&app).await, before);
    assert_eq!(
        app.op_post("/api/mcp/sync/trigger").await.expect(202)["kind"],
        "incremental",
        "the refusal does not hold up the daily runs"
    );
    eventually(10, "it ends", || async {
        (app.get("/api/mcp/sync/status").await.expect(200)["last"]["kind"] == "incremental").then_some(())
    })
    .await;
    upstream.put(vec![data::entry(&gone, "1.0.0")]);
    app.sync("incremental").await;
    app.sync("full").await;
    app.get(&format!("/api/mcp/servers/{}", gone.replace('/', "%2F"))).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_changes_behind_the_crawl_is_not_missed() {
    let upstream = Upstream::start(data::many(300, 1)).await;
    let app = mirror_of(&upstream, &[]).await;
    upstream.slow_down(Duration::from_millis(150));
    let run = app.op_post("/api/mcp/sync/trigger?mode=full").await.expect(202);
    eventually(10, "the crawl of all versions is under way", || async {
        upstream.requests().iter().any(|query| query.contains("include_deleted") && query.contains("cursor=")).then_some(())
    })
    .await;
    upstream.put(vec![data::entry_with("aaa.x/new", "1.0.0", json!({}), json!({ "updatedAt": "2999-01-01T00:00:00Z" }))]);
    app.job(run["job_id"].as_str().unwrap()).await;
    assert_eq!(mirrored(&app).await, upstream.entries());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_sync_at_a_time() {
    let upstream = Upstream::start(data::many(50, 1)).await;
    upstream.slow_down(Duration::from_millis(1500));
    let app = mirror_of(&upstream, &[]).await;
    let run = app.op_post("/api/mcp/sync/trigger").await.expect(202);
    assert_eq!((&run["kind"], &run["status"]), (&json!("full"), &json!("pending")));
    let problem = app.op_post("/api/mcp/sync/trigger?mode=incremental").await.expect_problem(409, "sync_already_running");
    assert_eq!((&problem["run_id"], &problem["job_id"], &problem["kind"]), (&run["run_id"], &run["job_id"], &run["kind"]));
    let status = app.get("/api/mcp/sync/status").await.expect(200);
    assert_eq!((&status["running"], &status["current"]["run_id"]), (&json!(true), &run["run_id"]));
    let cancelled = app.op_post(&format!("/api/mcp/jobs/{}/cancel", run["job_id"].as_str().unwrap())).await;
    cancelled.expect(200);
    assert_eq!(app.job(run["job_id"].as_str().unwrap()).await["status"], "cancelled");
    let last = &app.get("/api/mcp/sync/status").await.expect(200)["last"];
    assert_eq!((&last["run_id"], &last["status"]), (&run["run_id"], &json!("cancelled")));
    app.op_post("/api/mcp/sync/trigger?mode=sideways").await.expect_problem(400, "invalid_mode");
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_nothing_is_asked_and_import_still_works() {
    let app = TestApp::with(&[("FABRIC_OFFLINE", "true")]).await;
    app.op_post("/api/mcp/sync/trigger").await.expect_problem(409, "offline");
    assert_eq!(app.import(&[data::entry("a.x/one", "1.0.0")]).await["inserted"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_in_parts_is_one_run() {
    let app = TestApp::start().await;
    let part = |entries: Vec<Value>| json!({ "servers": entries });
    let first = app.op_post_json("/api/mcp/sync/import", &part(data::many(3, 1))).await.expect(200);
    assert_eq!(first["status"], "running");
    let path = format!("/api/mcp/sync/import?run_id={}&last=true", first["run_id"].as_str().unwrap());
    let mut rest = vec![
        data::entry("b.x/two", "1.0.0"),
        data::entry("b.x/two", "1.0.0"),
        json!({ "server": { "name": "x" } }),
        data::entry("local.fabric/git", "1.0.0"),
    ];
    rest.extend(data::many(3, 1));
    let second = app.op_post_json(&path, &part(rest)).await.expect(200);
    assert_eq!((&second["status"], &second["inserted"], &second["skipped"]), (&json!("complete"), &json!(4), &json!(3)), "{second}");
    let reasons: Vec<&str> = second["skipped_entries"].as_array().unwrap().iter().map(|skip| skip["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["invalid_name", "reserved_name", "duplicate"]);
    app.op_post_json(&path, &part(vec![])).await.expect_problem(404, "run_not_found");
    app.op_post_json("/api/mcp/sync/import", &json!({ "nothing": 1 })).await.expect_problem(400, "invalid_page");
    let mirror = app.op_post("/api/mcp/sync/trigger").await.expect(202);
    let foreign = format!("/api/mcp/sync/import?run_id={}&last=true", mirror["run_id"].as_str().unwrap());
    app.op_post_json(&foreign, &part(vec![])).await.expect_problem(404, "run_not_found");
    let history = app.op_get("/api/mcp/sync/history?limit=2").await.expect(200);
    assert_eq!(history["runs"][1]["run_id"], first["run_id"]);
}

/// Pages from last month do not undo what the mirror has learnt since.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_never_replaces_a_newer_one() {
    let app = TestApp::start().await;
    let at = |time: &str, status: &str| json!({ "updatedAt": time, "status": status, "isLatest": status == "active" });
    let new = [
        data::entry_with("a.x/one", "1.0.0", json!({ "description": "new" }), at("2026-05-01T00:00:00Z", "deleted")),
        data::entry_with("a.x/one", "2.0.0", json!({}), at("2026-05-01T00:00:00Z", "active")),
    ];
    app.import(&new).await;
    let before = app.catalogue().await;
    app.import(&[data::entry_with("a.x/one", "1.0.0", json!({ "description": "old" }), at("2026-01-01T00:00:00Z", "active"))]).await;
    app.import(&[new[0]["server"].clone()]).await;
    assert_eq!(app.catalogue().await, before);
}

/// A flat document of the present shape is a document, byte for byte.
#[tokio::test(flavor = "multi_thread")]
async fn flat_documents_of_the_present_shape_stay_as_they_are() {
    let app = TestApp::start().await;
    let document = r#"{"version":"1.0.0","name":"a.x/flat","description":"d","_meta":{"io.modelcontextprotocol.registry/publisher-provided":{"k":1}},"packages":[{"registryType":"npm","identifier":"f","version":"1","transport":{"type":"stdio"},"runtimeArguments":[{"type":"named","name":"--d","value":"{source_path}","variables":{"source_path":{}}}]}]}"#;
    let import =
        app.request(Method::POST, "/api/mcp/sync/import?last=true").bearer_auth(&app.token).header("content-type", "application/json");
    app.send(import.body(format!("[{document}]"))).await.expect(200);
    assert!(app.get("/v0.1/servers/a.x%2Fflat/versions/latest").await.text().starts_with(&format!(r#"{{"server":{document},"#)));
    assert_eq!(app.get("/api/mcp/servers/a.x%2Fflat/credentials").await.expect(200)["credentials"][0]["env_var"], "source_path");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_one_catalogue_and_hear_of_its_changes() {
    let upstream = Upstream::start(data::many(10, 1)).await;
    let first = mirror_of(&upstream, &[]).await;
    let second = TestApp::beside(&first).await;
    assert_eq!(second.get("/v0.1/servers?search=io.test").await.expect(200)["metadata"]["count"], 0);
    assert_eq!(first.sync("full").await["status"], "complete");
    eventually(5, "the other replica forgets what it had rendered", || async {
        (second.get("/v0.1/servers?search=io.test").await.expect(200)["metadata"]["count"] == 10).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cron_starts_runs_by_itself() {
    let upstream = Upstream::start(data::many(3, 1)).await;
    let app = mirror_of(&upstream, &[("FABRIC_SYNC_CRON", "* * * * * *")]).await;
    eventually(10, "cron starts a sync", || async {
        (app.get("/api/mcp/sync/status").await.expect(200)["last"]["status"] == "complete").then_some(())
    })
    .await;
    assert!(app.get("/api/mcp/sync/status").await.expect(200)["next_run_at"].is_string());
    assert_eq!(mirrored(&app).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_an_old_catalogue_begins_a_sync() {
    let upstream = Upstream::start(data::many(3, 1)).await;
    let mut app = mirror_of(&upstream, &[("FABRIC_SYNC_ON_START", "true")]).await;
    let done = || async { (app.get("/api/mcp/sync/status").await.expect(200)["last"]["status"] == "complete").then_some(()) };
    eventually(10, "the first start syncs", done).await;
    let asked = upstream.requests().len();
    app.restart().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(upstream.requests().len(), asked, "a fresh catalogue is not read again");
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_is_asked_no_faster_than_allowed() {
    let upstream = Upstream::start(data::many(250, 1)).await;
    let app = mirror_of(&upstream, &[("FABRIC_UPSTREAM_RPS", "10")]).await;
    let began = std::time::Instant::now();
    app.sync("full").await;
    let gaps = u32::try_from(upstream.requests().len()).unwrap() - 1;
    assert!(began.elapsed() >= Duration::from_millis(100) * gaps, "{gaps} gaps in {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_keeps_what_upstream_says_of_it() {
    let upstream = Upstream::start(vec![data::entry_with(
        "a.x/one",
        "1.0.0",
        json!({}),
        json!({ "status": "deprecated", "statusMessage": "use two" }),
    )])
    .await;
    let app = mirror_of(&upstream, &[]).await;
    app.sync("full").await;
    let served = app.get("/v0.1/servers/a.x%2Fone/versions/latest").await.expect(200);
    assert_eq!(served["_meta"], upstream.entries()[0]["_meta"]);
    assert_eq!(served["_meta"][OFFICIAL]["statusMessage"], "use two");
    upstream.fault(Fault::Status(503, None));
    app.sync("incremental").await;
    assert_eq!(app.get("/api/mcp/servers/a.x%2Fone").await.expect(200)["status"], "deprecated");
}
