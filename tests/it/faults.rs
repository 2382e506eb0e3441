//! What goes wrong: upstream, the database, the process.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Binary, Fault, TestApp, Upstream, cluster, data, eventually, get};

async fn mirror_of(upstream: &Upstream) -> TestApp {
    TestApp::with(&[("FABRIC_UPSTREAM_URL", upstream.url.as_str())]).await
}

async fn mirrored(app: &TestApp) -> Vec<Value> {
    let is_mirrored = |entry: &Value| !entry["server"]["name"].as_str().unwrap().starts_with("local.fabric/");
    app.catalogue().await.into_iter().filter(is_mirrored).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_failures_of_upstream_are_ridden_out() {
    for fault in [
        Fault::Status(429, Some("0")),
        Fault::Status(429, Some("Wed, 21 Oct 2015 07:28:00 GMT")),
        Fault::Status(500, None),
        Fault::Status(503, None),
        Fault::Delay(Duration::from_secs(20)),
        Fault::Truncated,
        Fault::Html,
        Fault::Reset,
    ] {
        let upstream = Upstream::start(data::many(150, 1)).await;
        let app = mirror_of(&upstream).await;
        upstream.fault(fault.clone());
        upstream.fault_at("cursor=", fault.clone());
        let job = app.sync("full").await;
        assert_eq!(job["status"], "complete", "{fault:?}: {job}");
        assert_eq!(mirrored(&app).await, upstream.entries(), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_stays_down_leaves_the_catalogue_as_it_was_and_shows() {
    let upstream = Upstream::start(data::many(120, 1)).await;
    let app = mirror_of(&upstream).await;
    app.sync("full").await;
    let before = mirrored(&app).await;
    for _ in 0..6 {
        upstream.fault(Fault::Status(500, None));
    }
    let run = app.op_post("/api/mcp/sync/trigger?mode=full").await.expect(202);
    let status = eventually(20, "the failure shows", || async {
        let status = app.get("/api/mcp/sync/status").await.expect(200);
        (status["last"]["status"] == "failed").then_some(status)
    })
    .await;
    assert_eq!(status["last"]["error"]["code"], "upstream_error");
    assert_eq!(status["upstream"]["failures"], 5);
    assert_eq!(mirrored(&app).await, before);
    let ready = app.get("/health/ready").await.expect(200);
    assert_eq!((&ready["status"], &ready["database"], &ready["upstream"]["status"]), (&json!("warn"), &json!("ok"), &json!("warn")));
    assert!(app.op_get("/metrics").await.text().contains(r#"fabric_upstream_requests_total{outcome="upstream_error"} 5"#));
    let path = format!("/api/mcp/jobs/{}", run["job_id"].as_str().unwrap());
    eventually(10, "the job waits for its next try", || async {
        (app.op_get(&path).await.expect(200)["status"] == "pending").then_some(())
    })
    .await;
    // Until then no other run begins.
    app.op_post("/api/mcp/sync/trigger").await.expect_problem(409, "sync_already_running");
    app.op_post(&format!("/api/mcp/jobs/{}/cancel", run["job_id"].as_str().unwrap())).await.expect(200);
    app.op_post("/api/mcp/sync/trigger?mode=incremental").await.expect(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_without_an_end_are_given_up() {
    for cursors in [vec!["x:1"; 3], vec!["x:1", "x:2", "x:1"]] {
        let upstream = Upstream::start(data::many(3, 1)).await;
        for cursor in cursors {
            upstream.fault(Fault::Cursor(cursor.into()));
        }
        let app = mirror_of(&upstream).await;
        let job = app.sync("full").await;
        assert_eq!((&job["status"], &job["error"]["code"]), (&json!("failed"), &json!("upstream_cursor_loop")), "{job}");
        assert_eq!(mirrored(&app).await.len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_entries_are_skipped_counted_and_listed() {
    let upstream = Upstream::start(data::many(3, 1)).await;
    let app = mirror_of(&upstream).await;
    let huge = data::entry_with("a.x/huge", "1.0.0", json!({ "description": "x".repeat(5 << 20) }), json!({}));
    let twice = format!("{},{}", data::entry("a.x/twice", "1.0.0"), data::entry("a.x/twice", "1.0.0"));
    let broken: &[u8] = b"{\"server\":{\"name\":\"a.x/broken\",\"version\":\"1\",\"description\":\"\xff\"}}";
    let raw = [huge.to_string().as_bytes(), twice.as_bytes(), broken, br#"{"server":{"name":"no version/x"}}"#, b"7"].join(&b',');
    upstream.fault_at("include_deleted", Fault::Raw(raw));
    let job = app.sync("full").await;
    assert_eq!(job["status"], "complete", "{job}");
    let run = app.op_get("/api/mcp/sync/history").await.expect(200)["runs"][0].clone();
    let mut reasons: Vec<String> =
        run["skipped_entries"].as_array().unwrap().iter().map(|skip| format!("{} {}", skip["name"], skip["reason"])).collect();
    reasons.sort();
    assert_eq!(
        reasons,
        [
            r#""a.x/broken" "invalid_utf8""#,
            r#""a.x/huge" "too_large""#,
            r#""a.x/twice" "duplicate""#,
            r#""no version/x" "invalid_name""#,
            r#"null "not_an_object""#,
        ]
    );
    assert_eq!(run["skipped"], 5);
    app.get("/api/mcp/servers/a.x%2Ftwice").await.expect(200);
    app.get("/api/mcp/servers/a.x%2Fhuge").await.expect_problem(404, "server_not_found");
    assert!(job["log"].as_array().unwrap().len() >= 2);
}

/// A version that upstream still has, in a form that cannot be read any more, is kept as it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_reconcile_does_not_remove_what_went_bad() {
    for (bad, is_named) in [(r#"{"server":{"name":"io.test.n00/server-0000","version":"1.0.0","description":"BAD"}}"#, true), ("7", false)]
    {
        let upstream = Upstream::start(data::many(40, 1)).await;
        let app = mirror_of(&upstream).await;
        app.sync("full").await;
        let before = mirrored(&app).await;
        upstream.erase("io.test.n00/server-0000", "1.0.0");
        let bad = bad.as_bytes().to_vec();
        let broken = bad.windows(3).position(|part| part == b"BAD").map(|place| [&bad[..place], b"\xff", &bad[place + 3..]].concat());
        assert_eq!(broken.is_some(), is_named);
        upstream.fault_at("include_deleted", Fault::Raw(broken.unwrap_or(bad)));
        let job = app.sync("reconcile").await;
        assert_eq!((&job["status"], &job["result"]["deleted"]), (&json!("complete"), &json!(0)), "{job}");
        assert_eq!(mirrored(&app).await, before);
    }
}

/// What the database refuses of one entry does not keep the others out.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_cannot_be_stored_is_skipped_alone() {
    let words = (0..110_000).map(|n| format!("w{n:x}")).collect::<Vec<_>>().join(" ");
    let mut entries = data::many(5, 1);
    entries.push(data::entry_with("a.x/wordy", "1.0.0", json!({ "description": words }), json!({})));
    entries.push(data::entry_with("a.x/nul", "1.0.0", json!({ "title": "a\u{0}b" }), json!({ "statusMessage": "c\u{0}d" })));
    let upstream = Upstream::start(entries).await;
    let app = mirror_of(&upstream).await;
    let job = app.sync("full").await;
    assert_eq!(job["status"], "complete", "{job}");
    assert_eq!(mirrored(&app).await.len(), 6);
    let run = app.op_get("/api/mcp/sync/history").await.expect(200)["runs"][0].clone();
    assert_eq!(run["skipped_entries"], json!([{ "name": "a.x/wordy", "version": "1.0.0", "reason": "not_storable" }]));
    assert_eq!(app.get("/api/mcp/servers/a.x%2Fnul").await.expect(200)["title"], "ab");
}

/// A `Retry-After` of for ever does not park the mirror.
#[tokio::test(flavor = "multi_thread")]
async fn upstream_cannot_ask_for_more_than_an_hour() {
    for wait in ["18446744073709551615", "315360000"] {
        let upstream = Upstream::start(data::many(3, 1)).await;
        let app = mirror_of(&upstream).await;
        upstream.fault(Fault::Status(503, Some(wait)));
        let run = app.op_post("/api/mcp/sync/trigger").await.expect(202);
        let path = format!("/api/mcp/jobs/{}", run["job_id"].as_str().unwrap());
        eventually(10, "the job waits", || async {
            (app.op_get(&path).await.expect(200)["error"]["code"] == "upstream_error").then_some(())
        })
        .await;
        let run_at: bool = sqlx::query_scalar(
            "SELECT run_at BETWEEN now() + interval '50 minutes' AND now() + interval '61 minutes' FROM mcp_fabric.jobs",
        )
        .fetch_one(&mut app.database.connect().await)
        .await
        .unwrap();
        assert!(run_at, "{wait}");
    }
}

/// Killed between the last page and the end of the run: the next start ends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_cut_off_at_its_very_end_ends() {
    let upstream = Upstream::start(data::many(3, 1)).await;
    let mut app = mirror_of(&upstream).await;
    let run = app.sync("full").await;
    sqlx::raw_sql(
        "UPDATE mcp_fabric.sync_history SET status = 'running', finished_at = NULL;
         UPDATE mcp_fabric.jobs SET status = 'pending', completed_at = NULL, run_at = now()",
    )
    .execute(&mut app.database.connect().await)
    .await
    .unwrap();
    app.restart().await;
    app.job(run["job_id"].as_str().unwrap()).await;
    assert_eq!(app.get("/api/mcp/sync/status").await.expect(200)["last"]["status"], "complete");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_may_drop_every_connection_in_the_middle() {
    let upstream = Upstream::start(data::many(600, 1)).await;
    upstream.slow_down(Duration::from_millis(30));
    let app = mirror_of(&upstream).await;
    let run = app.op_post("/api/mcp/sync/trigger?mode=full").await.expect(202);
    let mut admin = cluster::admin().await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(120)).await;
        sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1")
            .bind(&app.database.name)
            .execute(&mut admin)
            .await
            .unwrap();
    }
    let job = run["job_id"].as_str().unwrap().to_owned();
    // Its next try is a minute away; a retry by hand is not needed, a look at the queue is.
    let mut connection = app.database.connect().await;
    let ended = eventually(60, "the sync ends", || async {
        let answer = app.op_get(&format!("/api/mcp/jobs/{job}")).await;
        (answer.status == 200 && answer.json()["status"] != "processing").then(|| answer.json())
    })
    .await;
    if ended["status"] == "pending" {
        sqlx::query("UPDATE mcp_fabric.jobs SET run_at = now()").execute(&mut connection).await.unwrap();
    }
    assert_eq!(app.job(&job).await["status"], "complete");
    assert_eq!(mirrored(&app).await, upstream.entries());
}

/// Each kill comes at another point of the run; the run goes on each time, and in the end the catalogue is
/// what an undisturbed run makes of the same registry.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_in_a_full_sync_change_nothing_of_its_end() {
    let upstream = Upstream::start(data::many(2400, 3)).await;
    let undisturbed = mirror_of(&upstream).await;
    undisturbed.sync("full").await;

    upstream.slow_down(Duration::from_millis(30));
    let database = cluster::database().await;
    let folder = tempfile::tempdir().unwrap();
    let data_folder = folder.path().join("data");
    cluster::share_roles(&data_folder).await;
    let database_url = database.url();
    let settings = [
        ("DATABASE_URL", database_url.as_str()),
        ("FABRIC_UPSTREAM_URL", upstream.url.as_str()),
        ("FABRIC_UPSTREAM_RPS", "100000"),
        ("FABRIC_UPSTREAM_BACKOFF_MS", "5"),
        ("FABRIC_SYNC_ON_START", "true"),
    ];
    for _ in 0..20 {
        let running = Binary::serve(&data_folder, &settings);
        let asked = upstream.requests().len() + 1 + usize::from(platform::random::bytes::<1>()[0] % 3);
        eventually(30, "the run goes on", || async { (upstream.requests().len() >= asked).then_some(()) }).await;
        tokio::time::sleep(platform::random::jitter(Duration::from_millis(80))).await;
        running.kill();
    }
    let (status, pages): (String, i32) =
        sqlx::query_as("SELECT status, pages FROM mcp_fabric.sync_history").fetch_one(&mut database.connect().await).await.unwrap();
    assert!(status == "running" && pages >= 3, "the last kill still came in the middle: {status} after {pages} pages");
    upstream.slow_down(Duration::ZERO);
    let last = Binary::serve(&data_folder, &settings);
    eventually(60, "the last start ends the run", || async {
        let status: Value = get(&format!("{}/api/mcp/sync/status", last.url)).await.json().await.unwrap();
        (status["running"] == false && status["last"]["status"] == "complete").then_some(())
    })
    .await;
    let dump = "SELECT md5(string_agg(row::text, E'\\n' ORDER BY row::text)) FROM (
        SELECT server_id, version, document, status, is_latest, updated_at FROM mcp_fabric.server_versions WHERE server_id LIKE 'io.test%'
        UNION ALL SELECT id, version, title, status, has_remote, updated_at FROM mcp_fabric.servers WHERE id LIKE 'io.test%') AS row";
    let after_kills: String = sqlx::query_scalar(dump).fetch_one(&mut database.connect().await).await.unwrap();
    let expected: String = sqlx::query_scalar(dump).fetch_one(&mut undisturbed.database.connect().await).await.unwrap();
    assert_eq!(after_kills, expected);
    let runs: i64 =
        sqlx::query_scalar("SELECT count(*) FROM mcp_fabric.sync_history").fetch_one(&mut database.connect().await).await.unwrap();
    assert_eq!(runs, 1, "every start went on with the same run");
    last.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_in_a_sync_ends_soon_and_the_next_start_goes_on() {
    let upstream = Upstream::start(data::many(400, 1)).await;
    upstream.slow_down(Duration::from_millis(100));
    let database = cluster::database().await;
    let folder = tempfile::tempdir().unwrap();
    let data_folder = folder.path().join("data");
    cluster::share_roles(&data_folder).await;
    let database_url = database.url();
    let settings = [
        ("DATABASE_URL", database_url.as_str()),
        ("FABRIC_UPSTREAM_URL", upstream.url.as_str()),
        ("FABRIC_UPSTREAM_RPS", "100000"),
        ("FABRIC_SYNC_ON_START", "true"),
    ];
    let running = Binary::serve(&data_folder, &settings);
    eventually(30, "the run is on its third page", || async { (upstream.requests().len() >= 3).then_some(()) }).await;
    let (took, well) = running.terminate();
    assert!(well);
    assert!(took < Duration::from_secs(10), "{took:?}");
    let mut connection = database.connect().await;
    let (status, pages): (String, i32) =
        sqlx::query_as("SELECT j.status, h.pages FROM mcp_fabric.jobs j JOIN mcp_fabric.sync_history h ON h.job_id = j.id")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert_eq!(status, "pending");
    assert!((1..9).contains(&pages), "{pages}");
    upstream.slow_down(Duration::ZERO);
    let last = Binary::serve(&data_folder, &settings);
    eventually(30, "the run goes on", || async {
        let status: Value = get(&format!("{}/api/mcp/sync/status", last.url)).await.json().await.unwrap();
        (status["last"]["status"] == "complete").then_some(())
    })
    .await;
    let asked = upstream.requests();
    let starts = asked.iter().filter(|query| query.contains("version=latest") && !query.contains("cursor=")).count();
    assert_eq!(starts, 1, "it does not begin again");
}

/// The program's own client keeps a connection or two.
#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_closed_at_once() {
    let app = TestApp::with(&[("FABRIC_MAX_CONNECTIONS", "8")]).await;
    let address = app.url.trim_start_matches("http://").to_owned();
    let ask = || {
        let address = address.clone();
        async move {
            let mut stream = TcpStream::connect(&address).await.unwrap();
            stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").await.ok();
            let mut first = [0; 8];
            stream.read_exact(&mut first).await.is_ok().then_some(stream)
        }
    };
    let mut open = Vec::new();
    while let Some(stream) = ask().await {
        open.push(stream);
        assert!(open.len() <= 8, "there is no limit");
    }
    assert!(open.len() >= 6, "{}", open.len());
    open.pop();
    eventually(5, "a place becomes free", || async { ask().await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_is_cut_off() {
    let app = TestApp::with(&[("FABRIC_WRITE_TIMEOUT_SECONDS", "1")]).await;
    let entries: Vec<Value> = (0..8)
        .map(|n| data::entry_with(&format!("big.x/n{n}"), "1.0.0", json!({ "_meta": { "x": "y".repeat(900_000) } }), json!({})))
        .collect();
    app.import(&entries).await;
    let mut stream = TcpStream::connect(app.url.trim_start_matches("http://")).await.unwrap();
    let asked = 10;
    stream.write_all("GET /v0.1/servers?limit=100 HTTP/1.1\r\nhost: x\r\n\r\n".repeat(asked).as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let mut answered = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answered)).await.expect("it is cut off").ok();
    assert!(answered.len() < asked * 7_000_000, "{}", answered.len());
}
