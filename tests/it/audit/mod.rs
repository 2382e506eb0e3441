//! The audit trail: that everything is in it, that nothing happens without it, and that no change of it goes unnoticed.

mod commands;
mod completeness;
mod damage;

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::support::{Binary, TestApp, cluster, eventually};

async fn execute(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn verify(app: &TestApp) -> Value {
    app.op_post("/api/mcp/audit/verify").await.expect(200)
}

/// A program with a trail of some length, and a connection that may do everything.
async fn scene() -> (TestApp, PgConnection) {
    let app = TestApp::start().await;
    for n in 0..12 {
        app.op_post_json("/api/mcp/invites", &json!({ "email": format!("a{n}@example.com") })).await.expect(201);
    }
    assert_eq!(verify(&app).await["ok"], true);
    // Its state is signed when the program ends.
    let mut app = app;
    app.restart().await;
    let mut connection = app.database.connect().await;
    for table in ["events", "checkpoints"] {
        execute(&mut connection, &format!("ALTER TABLE audit.{table} DISABLE TRIGGER ALL")).await;
    }
    let partitions: Vec<String> =
        sqlx::query_scalar("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'audit.events'::regclass")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    for partition in partitions {
        execute(&mut connection, &format!("ALTER TABLE {partition} DISABLE TRIGGER ALL")).await;
    }
    (app, connection)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_the_trail_does_not_happen_without_it() {
    let app = TestApp::start().await;
    app.person("root@example.com", "admin").await;
    let ada = app.person("ada@example.com", "member").await;
    let service = app.service(&["credentials:reveal"], Some(&["everything"])).await;
    let body = json!({ "server_id": "everything", "env_var": "API_KEY", "value": "sk-1" });
    app.call(Method::POST, "/api/mcp/credentials", &ada.access, &body).await.expect(201);
    let decrypt = format!("/api/mcp/credentials/{}/everything/decrypt", ada.id);
    app.internal(&decrypt, Some(&service), &Value::Null).await.expect(200);
    let mut connection = app.database.connect().await;
    execute(&mut connection, "CREATE FUNCTION audit.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'pending is read-only'; END $$; CREATE TRIGGER no BEFORE INSERT ON audit.pending FOR EACH ROW EXECUTE FUNCTION audit.no()").await;
    let refused = app
        .call(
            Method::POST,
            "/api/mcp/credentials",
            &ada.access,
            &json!({ "server_id": "everything", "env_var": "API_KEY", "value": "sk-2" }),
        )
        .await;
    refused.expect_problem(503, "audit_unavailable");
    let refused = app.internal(&decrypt, Some(&service), &Value::Null).await;
    refused.expect_problem(503, "audit_unavailable");
    assert!(!refused.text().contains("sk-"));
    app.op_post_json("/api/mcp/invites", &json!({})).await.expect_problem(503, "audit_unavailable");
    app.post("/api/mcp/auth/login", &json!({ "email": ada.email, "password": crate::support::PASSWORD }))
        .await
        .expect_problem(503, "audit_unavailable");
    app.op_post("/api/mcp/sync/trigger").await.expect_problem(503, "audit_unavailable");
    execute(&mut connection, "DROP TRIGGER no ON audit.pending").await;
    let answer = app.internal(&decrypt, Some(&service), &Value::Null).await;
    assert_eq!(answer.expect(200)["env"], json!({ "API_KEY": "sk-1" }), "nothing was changed");
    let invites: i64 = sqlx::query_scalar("SELECT count(*) FROM identity.invites").fetch_one(&mut connection).await.unwrap();
    assert_eq!(invites, 0);
    // Somebody holds the table: the answer comes within the two seconds, and nothing happens later either.
    let mut holding = app.database.connect().await;
    execute(&mut holding, "BEGIN; LOCK TABLE audit.pending IN ACCESS EXCLUSIVE MODE").await;
    let began = std::time::Instant::now();
    app.op_post_json("/api/mcp/invites", &json!({})).await.expect_problem(503, "audit_unavailable");
    let took = began.elapsed();
    execute(&mut holding, "ROLLBACK").await;
    assert!(took < Duration::from_secs(10), "{took:?}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let invites: i64 = sqlx::query_scalar("SELECT count(*) FROM identity.invites").fetch_one(&mut connection).await.unwrap();
    assert_eq!(invites, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_that_nobody_answered_times_out() {
    let (app, mut connection) = scene().await;
    let service = app.service(&["credentials:reveal"], Some(&["everything"])).await;
    app.internal("/api/mcp/credentials/ada/everything/decrypt", Some(&service), &Value::Null).await.expect(200);
    let events = app.trail("&action=credential.reveal").await;
    assert_eq!(events.iter().map(|event| event["outcome"].as_str().unwrap()).collect::<Vec<_>>(), ["success", "intent"]);
    assert_eq!(events[0]["answers"], events[1]["id"]);
    // As if the program had died in between, two minutes ago.
    execute(&mut connection, "DELETE FROM audit.events WHERE answers IS NOT NULL; UPDATE audit.events SET at = at - interval '2 minutes' WHERE outcome = 'intent'").await;
    let mut app = app;
    app.restart().await;
    let timed_out = eventually(10, "it times out", || async { app.trail("&outcome=timeout").await.into_iter().next() }).await;
    assert_eq!((&timed_out["answers"], &timed_out["detail"]["of"]), (&events[1]["id"], &json!("credential.reveal")));
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_pages_and_ownership() {
    let app = TestApp::start().await;
    app.person("root@example.com", "admin").await;
    let (ada, bob) = (app.person("ada@example.com", "member").await, app.person("bob@example.com", "member").await);
    let auditor = app.person("cy@example.com", "auditor").await;
    for person in [&ada, &bob] {
        let body = json!({ "server_id": "everything", "env_var": "K", "value": "v" });
        app.call(Method::POST, "/api/mcp/credentials", &person.access, &body).await.expect(201);
    }
    let all = app.trail("").await;
    let list = async |token: &str, query: &str| app.call(Method::GET, &format!("/api/mcp/audit?{query}"), token, &Value::Null).await;
    let own = list(&ada.access, "limit=1000").await.expect(200);
    assert!(own["events"].as_array().unwrap().iter().all(|event| event["owner"] == format!("user:{}", ada.id)));
    assert_eq!(
        list(&ada.access, &format!("owner=user:{}", bob.id)).await.expect(200)["events"].as_array().unwrap().len(),
        own["events"].as_array().unwrap().len()
    );
    assert_eq!(list(&auditor.access, "limit=1000").await.expect(200)["events"].as_array().unwrap().len(), all.len());
    assert_eq!(
        list(&auditor.access, "action=credential.store&server_id=everything").await.expect(200)["events"].as_array().unwrap().len(),
        2
    );
    let first = list(&auditor.access, "limit=3").await.expect(200);
    let second = list(&auditor.access, &format!("limit=3&cursor={}", first["next_cursor"].as_str().unwrap())).await.expect(200);
    let seqs: Vec<i64> = [first, second]
        .iter()
        .flat_map(|page| page["events"].as_array().unwrap().clone())
        .map(|event| event["seq"].as_i64().unwrap())
        .collect();
    assert!(seqs.windows(2).all(|pair| pair[0] == pair[1] + 1), "{seqs:?}");
    for query in [
        "limit=0",
        "limit=-1",
        "limit=1001",
        "limit=x",
        "cursor=zz",
        "cursor=7b7d",
        "event_type=x",
        "outcome=x",
        "from=yesterday",
        "from=9999-12-31T00:00:00Z",
        "to=-0001-01-01T00:00:00Z",
        "from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z",
    ] {
        assert_eq!(list(&auditor.access, query).await.status, 400, "{query}");
    }
    for query in
        ["action=x' OR '1'='1", "actor=%25", "server_id=_", "owner=operator'; SELECT set_config('fabric.actor', 'operator', false) --"]
    {
        let found = list(&auditor.access, query).await.expect(200);
        assert_eq!(found["events"], json!([]), "{query}");
    }
    assert!(list(&ada.access, "limit=1").await.header("cache-control") == Some("no-store"));
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_are_whole_signed_and_safe_in_spreadsheets() {
    let app = TestApp::start().await;
    let folder = tempfile::tempdir().unwrap();
    let odd = app.request(Method::POST, "/api/mcp/invites").bearer_auth(&app.token).header("user-agent", "=cmd|' /C calc'!A0\u{9b},\"x\"");
    assert_eq!(app.send(odd.json(&json!({}))).await.status, 201);
    let long = app.request(Method::POST, "/api/mcp/invites").bearer_auth(&app.token).header("user-agent", "x".repeat(5000));
    assert_eq!(app.send(long.json(&json!({}))).await.status, 201);
    let csv = app.op_get("/api/mcp/audit/export?format=csv").await;
    assert_eq!(csv.header("content-disposition"), Some("attachment; filename=\"audit.csv\""));
    let text = csv.text();
    assert!(text.starts_with("seq,timestamp,event_type,") && text.lines().count() >= 4, "{text}");
    let export = app.op_get("/api/mcp/audit/export").await.text();
    let file = folder.path().join("audit.jsonl");
    let key = verify(&app).await["public_key"].as_str().unwrap().to_owned();
    let check = |text: &str, arguments: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let given = [&["audit", "verify", "--export", file.to_str().unwrap()], arguments].concat();
        let output = Binary::run(&folder.path().join("data"), &[], &given);
        (output.status.success(), format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
    };
    let (ok, said) = check(&export, &["--key", &key]);
    assert!(ok && said.starts_with("ok: "), "{said}");
    let longest = export.lines().filter(|line| line.contains("xxxxxxxx")).count();
    assert_eq!(longest, 1);
    assert!(export.len() < 20_000, "user agents are cut");
    let lines: Vec<&str> = export.lines().collect();
    let without =
        |n: usize| lines.iter().enumerate().filter(|(line, _)| *line != n).map(|(_, line)| format!("{line}\n")).collect::<String>();
    for (broken, arguments) in [
        (export.replacen("invite.create", "invite.delete", 1), vec![]),
        (without(1), vec![]),
        (without(lines.len() - 1), vec![]),
        (export[..export.len() / 2].to_owned(), vec![]),
        (String::new(), vec![]),
        ("rubbish\n".to_owned(), vec![]),
        (export.clone(), vec!["--key", "0000000000000000000000000000000000000000000000000000000000000000"]),
    ] {
        let (ok, said) = check(&broken, &arguments);
        assert!(!ok && said.contains("damaged"), "{said}");
    }
    let ada = app.person("ada@example.com", "admin").await;
    let exports = app.trail("&action=audit.export").await;
    assert_eq!(exports.len(), 2);
    drop(ada);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_outside_have_every_event_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("copy.jsonl");
    let receiver = wiremock::MockServer::start().await;
    wiremock::Mock::given(wiremock::matchers::method("POST")).respond_with(wiremock::ResponseTemplate::new(204)).mount(&receiver).await;
    let mut app = TestApp::with(&[
        ("FABRIC_AUDIT_COPY_FILE", file.to_str().unwrap()),
        ("FABRIC_AUDIT_COPY_URL", &receiver.uri()),
        ("FABRIC_ALLOWED_HOSTS", "127.0.0.1"),
    ])
    .await;
    app.op_post_json("/api/mcp/invites", &json!({})).await.expect(201);
    app.restart().await;
    app.op_post_json("/api/mcp/invites", &json!({})).await.expect(201);
    let seqs = |text: &str| -> Vec<i64> {
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].as_i64().unwrap()).collect()
    };
    eventually(10, "the copies are whole", || async {
        let newest = app.trail("").await[0]["seq"].as_i64().unwrap();
        let copied = std::fs::read_to_string(&file).unwrap_or_default();
        let received: String =
            receiver.received_requests().await.unwrap().iter().map(|request| String::from_utf8_lossy(&request.body).into_owned()).collect();
        let all: Vec<i64> = (1..=newest).collect();
        (seqs(&copied) == all && seqs(&received) == all).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_in_the_trail_and_a_flood_does_not_stop_anything() {
    let app = TestApp::start().await;
    let calls = (0..300).map(|_| app.get("/api/mcp/jobs"));
    let answers = futures_util::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| answer.status == 401));
    let refused = eventually(10, "all are told", || async {
        let refused = app.trail("&action=access.refuse").await;
        (refused.len() == 300).then_some(refused)
    })
    .await;
    assert_eq!((&refused[0]["detail"]["call"], &refused[0]["personal"]["address"]), (&json!("GET /api/mcp/jobs"), &json!("127.0.0.1")));
    assert_eq!(verify(&app).await["ok"], true);
}

/// Beyond a measure, refusals of one address are counted instead of written one by one.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_refusals_is_counted() {
    let app = TestApp::with(&[("FABRIC_RATE_LIMIT", "0")]).await;
    for _ in 0..7 {
        futures_util::future::join_all((0..100).map(|_| app.get("/api/mcp/jobs"))).await;
    }
    // The count is told with the next event that nobody waits for.
    app.send(app.request(Method::GET, "/api/mcp/users").bearer_auth(app.person("root@example.com", "admin").await.access))
        .await
        .expect(200);
    let ada = app.person("ada@example.com", "member").await;
    app.call(Method::GET, "/api/mcp/users", &ada.access, &Value::Null).await.expect_problem(403, "forbidden");
    eventually(10, "each of the 700 is told, singly or as one of many", || async {
        let single = app.trail("&action=access.refuse").await.len();
        let floods = app.trail("&action=audit.flood").await;
        let counted: i64 = floods.iter().map(|flood| flood["detail"]["not_recorded_singly"].as_i64().unwrap()).sum();
        ((500..600).contains(&single) && single + usize::try_from(counted).unwrap() == 700).then_some(())
    })
    .await;
}

/// The database goes away in the middle: whoever asks is told, and the trail is whole when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_away_is_an_error_and_no_gap() {
    let app = TestApp::start().await;
    let path = "/api/mcp/invites";
    let mut admin = cluster::admin().await;
    for _ in 0..5 {
        app.op_post_json(path, &json!({})).await.expect(201);
        let kill = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}' AND pid <> pg_backend_pid()",
            app.database.name
        );
        let killed = sqlx::raw_sql(AssertSqlSafe(kill)).execute(&mut admin);
        let nothing = json!({});
        let asked = futures_util::future::join_all((0..8).map(|_| app.op_post_json(path, &nothing)));
        let (_, answers) = tokio::join!(killed, asked);
        assert!(
            answers.iter().all(|answer| matches!(answer.status, 201 | 500 | 503)),
            "{:?}",
            answers.iter().map(|answer| answer.status).collect::<Vec<_>>()
        );
    }
    let report = eventually(15, "the trail is whole", || async {
        let answer = app.op_post("/api/mcp/audit/verify").await;
        (answer.status == 200).then(|| answer.json())
    })
    .await;
    assert_eq!(report["ok"], true, "{report}");
    let invites = app.op_get("/api/mcp/invites?limit=200").await.expect(200)["invites"].as_array().unwrap().len();
    let told = app.trail("&action=invite.create").await.len();
    assert_eq!(invites, told, "each change and its event are one transaction");
}
