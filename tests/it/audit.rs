//! The audit trail: that everything is in it, that nothing happens without it, and that no change of it goes unnoticed.

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
async fn every_edit_of_the_chain_is_named() {
    let (app, mut connection) = scene().await;
    execute(&mut connection, "CREATE TABLE kept AS SELECT * FROM audit.events; CREATE TABLE kept_head AS SELECT * FROM audit.head; CREATE TABLE kept_points AS SELECT * FROM audit.checkpoints; CREATE TABLE kept_pii AS SELECT * FROM audit.event_pii").await;
    let last: i64 = sqlx::query_scalar("SELECT max(seq) FROM kept").fetch_one(&mut connection).await.unwrap();
    let cases = [
        ("UPDATE audit.events SET action = 'other' WHERE seq = 5", "content", Some(5)),
        ("UPDATE audit.events SET actor = 'user:x' WHERE seq = 5", "content", Some(5)),
        ("UPDATE audit.events SET outcome = 'denied' WHERE seq = 7", "content", Some(7)),
        ("UPDATE audit.events SET at = at + interval '1 microsecond' WHERE seq = 3", "content", Some(3)),
        ("UPDATE audit.events SET detail = '{}' WHERE seq = 5", "content", Some(5)),
        ("UPDATE audit.events SET hash = decode(repeat('ab', 32), 'hex') WHERE seq = 5", "content", Some(5)),
        ("UPDATE audit.events SET prev = decode(repeat('ab', 32), 'hex') WHERE seq = 5", "linkage", Some(5)),
        ("DELETE FROM audit.events WHERE seq = 5", "gap", Some(5)),
        ("DELETE FROM audit.events WHERE seq BETWEEN 4 AND 6", "gap", Some(4)),
        ("DELETE FROM audit.events WHERE seq <= 3", "head_truncation", Some(1)),
        ("DELETE FROM audit.events WHERE seq > 10", "tail_truncation", Some(11)),
        ("DELETE FROM audit.events", "tail_truncation", Some(1)),
        (
            "DELETE FROM audit.events WHERE seq > 10; UPDATE audit.head SET seq = 10, hash = (SELECT hash FROM kept WHERE seq = 10)",
            "tail_truncation",
            Some(11),
        ),
        (
            "UPDATE audit.events SET seq = 999 WHERE seq = 5; UPDATE audit.events SET seq = 5 WHERE seq = 6; UPDATE audit.events SET seq = 6 WHERE seq = 999",
            "linkage",
            Some(5),
        ),
        ("UPDATE audit.event_pii SET content = '{}' WHERE event_id = (SELECT id FROM kept WHERE seq = 8)", "personal", Some(8)),
        ("UPDATE audit.checkpoints SET body = replace(body, 'seq', 'seq ')", "bad_signature", Some(-1)),
        ("UPDATE audit.checkpoints SET signature = decode(repeat('00', 64), 'hex')", "bad_signature", Some(-1)),
        ("UPDATE audit.head SET hash = decode(repeat('ab', 32), 'hex')", "bad_signature", Some(last)),
    ];
    for (edit, kind, seq) in cases {
        execute(&mut connection, edit).await;
        let report = verify(&app).await;
        assert_eq!((&report["ok"], &report["damage"]["kind"]), (&json!(false), &json!(kind)), "{edit}: {report}");
        if let Some(seq) = seq.filter(|seq| *seq > 0) {
            assert_eq!(report["damage"]["seq"], seq, "{edit}: {report}");
        }
        execute(
            &mut connection,
            "DELETE FROM audit.events; INSERT INTO audit.events SELECT * FROM kept; DELETE FROM audit.head; INSERT INTO audit.head SELECT * FROM kept_head;
             DELETE FROM audit.checkpoints; INSERT INTO audit.checkpoints OVERRIDING SYSTEM VALUE SELECT * FROM kept_points;
             DELETE FROM audit.event_pii; INSERT INTO audit.event_pii SELECT * FROM kept_pii",
        )
        .await;
        assert_eq!(verify(&app).await["ok"], true, "after {edit}");
    }
}

/// Whoever owns the database can hash the whole chain anew; what was signed before says that it was another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_was_hashed_anew_is_not_the_one_that_was_signed() {
    let (app, mut connection) = scene().await;
    execute(&mut connection, "DELETE FROM audit.events WHERE seq > 1").await;
    let report = verify(&app).await;
    assert_eq!(report["damage"]["kind"], "tail_truncation", "{report}");
    // With another first event, the signed checkpoint names the place.
    let signed: i64 = sqlx::query_scalar("SELECT min(seq) FROM audit.checkpoints").fetch_one(&mut connection).await.unwrap();
    assert!(signed >= 1);
    execute(&mut connection, "DELETE FROM audit.checkpoints").await;
    let report = verify(&app).await;
    assert_eq!(report["ok"], false, "without checkpoints, the end that the writer left says it: {report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_wait_are_authenticated_and_never_lost() {
    let (app, mut connection) = scene().await;
    // The writer of the chain is held up.
    let mut holding = app.database.connect().await;
    execute(&mut holding, "BEGIN; SELECT * FROM audit.head FOR UPDATE").await;
    app.op_post_json("/api/mcp/invites", &json!({ "email": "late@example.com" })).await.expect(201);
    let waiting: i64 = sqlx::query_scalar("SELECT count(*) FROM audit.pending").fetch_one(&mut connection).await.unwrap();
    assert!(waiting >= 1);
    execute(&mut connection, "UPDATE audit.pending SET at = at - interval '11 seconds'").await;
    assert_eq!(verify(&app).await["damage"]["kind"], "unsealed");
    execute(&mut connection, "UPDATE audit.pending SET event = replace(event, 'invite.create', 'invite.delete')").await;
    execute(&mut holding, "COMMIT").await;
    let report = eventually(10, "the event is chained", || async {
        let report = verify(&app).await;
        (report["damage"]["kind"] != "unsealed").then_some(report)
    })
    .await;
    assert_eq!(report["damage"]["kind"], "unauthentic", "{report}");
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
async fn a_missing_partition_is_made_again() {
    let (app, mut connection) = scene().await;
    let day = platform::clock::now().format("%Y%m%d").to_string();
    execute(&mut connection, &format!("DROP TABLE audit.events_{day}; DROP TABLE audit.event_pii_{day}")).await;
    app.op_post_json("/api/mcp/invites", &json!({})).await.expect(201);
    eventually(5, "the event is chained", || async {
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM audit.events").fetch_one(&mut app.database.connect().await).await.unwrap();
        (rows >= 1).then_some(())
    })
    .await;
    assert_eq!(verify(&app).await["damage"]["kind"], "head_truncation");
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
async fn whole_days_go_at_the_boundary_and_the_chain_still_verifies() {
    let (app, mut connection) = scene().await;
    // The first events were those of days ago: the chain does not cover the day, only the order.
    let days_ago = |days: i64| (platform::clock::now().date_naive() - chrono::TimeDelta::days(days)).to_string();
    for (days, seqs) in [(32, "1, 2"), (31, "3, 4"), (30, "5"), (29, "6")] {
        let day = days_ago(days);
        execute(&mut connection, &format!("SELECT audit.ensure_day('{day}')")).await;
        execute(&mut connection, &format!("UPDATE audit.events SET day = '{day}' WHERE seq IN ({seqs})")).await;
    }
    assert_eq!(verify(&app).await["ok"], true);
    let mut app = app;
    app.restart().await;
    let purges = eventually(10, "old days go", || async {
        let purges = app.trail("&action=audit.purge").await;
        (purges.len() >= 2).then_some(purges)
    })
    .await;
    let days: Vec<&str> = purges.iter().rev().map(|event| event["detail"]["day"].as_str().unwrap()).collect();
    assert_eq!(days, [days_ago(32), days_ago(31)], "30 days ago ended less than 30 days ago");
    let report = verify(&app).await;
    assert_eq!((&report["ok"], &report["first_seq"]), (&json!(true), &json!(5)), "{report}");
    let left: i64 = sqlx::query_scalar("SELECT min(seq) FROM audit.events").fetch_one(&mut connection).await.unwrap();
    assert_eq!(left, 5);
    app.restart().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(app.trail("&action=audit.purge").await.len(), 2, "a second cleaner finds nothing");
    // Deleting more of the beginning is not retention.
    execute(&mut connection, "ALTER TABLE audit.events DISABLE TRIGGER ALL").await;
    let day = days_ago(30);
    execute(&mut connection, &format!("DROP TABLE audit.events_{}", day.replace('-', ""))).await;
    assert_eq!(verify(&app).await["damage"]["kind"], "head_truncation");
    let dropped = sqlx::query(AssertSqlSafe(format!("SELECT audit.drop_day('{}')", days_ago(29)))).execute(&mut connection).await;
    assert!(dropped.unwrap_err().to_string().contains("no checkpoint covers the purge"));
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

/// Every call of the API document that changes something leaves exactly one event, and one more for what came of it.
#[tokio::test(flavor = "multi_thread")]
async fn every_change_leaves_exactly_one_event() {
    let app = TestApp::with(&[("FABRIC_REGISTRATION", "open")]).await;
    let root = app.person("root@example.com", "admin").await;
    let document = app.get("/openapi.json").await.expect(200);
    let mut left = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys().filter(|method| *method != "get") {
            left.push(format!("{} {path}", method.to_uppercase()));
        }
    }
    left.retain(|call| !EXEMPT.iter().any(|(exempt, _)| exempt == call));
    for call in left {
        let (method, path, body, token) = prepare(&app, &root, &call).await;
        let archive = app.op_post_json("/api/mcp/cache/export", &json!({ "all": true })).await.body;
        let newest = app.trail("").await[0]["seq"].as_i64().unwrap();
        let answer = if call.ends_with("/cache/import") {
            app.send(app.request(Method::POST, &path).bearer_auth(&token).header("content-type", "application/x-tar").body(archive)).await
        } else {
            app.call(method.parse().unwrap(), &path, &token, &body).await
        };
        // There is nothing to remove, which is known only after it was tried.
        let is_nothing = call == "DELETE /api/mcp/cache" && answer.status == 404;
        assert!(answer.status < 300 || is_nothing, "{call}: {}", answer.text());
        let events: Vec<Value> = app.trail("").await.into_iter().filter(|event| event["seq"].as_i64().unwrap() > newest).collect();
        // What the program then does by itself is the system's.
        let own: Vec<&Value> =
            events.iter().filter(|event| !event["actor"].as_str().unwrap().starts_with("system:") && event["answers"].is_null()).collect();
        assert_eq!(own.len(), 1, "{call}: {events:#?}");
    }
}

/// Calls that change nothing that is kept.
const EXEMPT: &[(&str, &str)] = &[
    ("POST /v0.1/validate", "looks at a document and keeps nothing"),
    ("POST /api/mcp/audit/verify", "looks at the trail and changes nothing"),
];

/// What a call needs to do something.
async fn prepare(app: &TestApp, root: &crate::support::Person, call: &str) -> (String, String, Value, String) {
    let (method, path) = call.split_once(' ').unwrap();
    let given = |path: String, body: Value, token: &str| (method.to_owned(), path, body, token.to_owned());
    let fresh = || format!("p{}@example.com", platform::ids::fresh().simple());
    let admin = &root.access;
    let password = crate::support::PASSWORD;
    match call {
        "POST /api/mcp/auth/register" => given(path.into(), json!({ "email": fresh(), "password": password }), admin),
        "POST /api/mcp/auth/login" => given(path.into(), json!({ "email": root.email, "password": password }), admin),
        "POST /api/mcp/auth/refresh" => {
            let person = app.log_in(&root.email).await;
            given(path.into(), json!({ "refresh_token": person.refresh }), admin)
        }
        "POST /api/mcp/auth/logout" => given(path.into(), Value::Null, &app.log_in(&root.email).await.access),
        "PUT /api/mcp/users/me/password" => {
            let person = app.person(&fresh(), "member").await;
            given(path.into(), json!({ "current_password": password, "new_password": "another anvil 94 quince" }), &person.access)
        }
        "DELETE /api/mcp/users/me" => {
            let person = app.person(&fresh(), "member").await;
            given(path.into(), json!({ "password": password }), &person.access)
        }
        "PUT /api/mcp/users/{id}" | "DELETE /api/mcp/users/{id}" | "POST /api/mcp/users/{id}/reset-password" => {
            let person = app.person(&fresh(), "member").await;
            given(path.replace("{id}", &person.id), if method == "PUT" { json!({ "role": "auditor" }) } else { Value::Null }, admin)
        }
        "POST /api/mcp/invites" => given(path.into(), json!({}), admin),
        "DELETE /api/mcp/invites/{id}" => {
            let invite = app.op_post_json("/api/mcp/invites", &json!({})).await.expect(201);
            given(path.replace("{id}", invite["id"].as_str().unwrap()), Value::Null, admin)
        }
        "POST /api/mcp/tokens" => given(path.into(), json!({ "name": "x", "scopes": ["catalogue:read"] }), admin),
        "DELETE /api/mcp/tokens/{id}" => {
            let made =
                app.call(Method::POST, "/api/mcp/tokens", admin, &json!({ "name": "x", "scopes": ["catalogue:read"] })).await.expect(201);
            given(path.replace("{id}", made["id"].as_str().unwrap()), Value::Null, admin)
        }
        "POST /api/mcp/credentials" => given(path.into(), json!({ "server_id": "everything", "env_var": "A", "value": "x" }), admin),
        "PUT /api/mcp/credentials/{user_id}/{server_id}" => {
            let path = path.replace("{user_id}", &root.id).replace("{server_id}", "everything");
            given(path, json!({ "credentials": [{ "env_var": "A", "value": "y" }] }), admin)
        }
        "DELETE /api/mcp/credentials/{user_id}/{server_id}/{env_var}" => {
            app.call(Method::POST, "/api/mcp/credentials", admin, &json!({ "server_id": "everything", "env_var": "B", "value": "x" }))
                .await
                .expect(201);
            let path = path.replace("{user_id}", &root.id).replace("{server_id}", "everything").replace("{env_var}", "B");
            given(path, Value::Null, admin)
        }
        "POST /api/mcp/credentials/rotations" => given(path.into(), json!({ "dry_run": true }), admin),
        "POST /api/mcp/credentials/rotations/{id}/pause"
        | "POST /api/mcp/credentials/rotations/{id}/resume"
        | "POST /api/mcp/credentials/rotations/{id}/cancel" => {
            let id = waiting_rotation(app, if call.ends_with("resume") { "paused" } else { "running" }).await;
            given(path.replace("{id}", &id), Value::Null, admin)
        }
        "POST /api/mcp/credentials/verify" | "POST /api/mcp/credentials/migrate" => given(path.into(), Value::Null, admin),
        "POST /api/mcp/jobs/{id}/cancel" | "POST /api/mcp/jobs/{id}/retry" => {
            let id = stopped_job(app, call.ends_with("retry")).await;
            given(path.replace("{id}", &id), Value::Null, admin)
        }
        "POST /api/mcp/sync/trigger" => given(path.into(), Value::Null, admin),
        "POST /api/mcp/sync/import" => given(format!("{path}?last=true"), json!({ "servers": [] }), admin),
        "POST /api/mcp/servers/{id}/cache" | "DELETE /api/mcp/servers/{id}/cache" => {
            given(path.replace("{id}", "everything"), Value::Null, admin)
        }
        "POST /api/mcp/cache" => {
            given(path.into(), json!({ "packages": [{ "registry_type": "npm", "identifier": "zod", "version": "1.0.0" }] }), admin)
        }
        "DELETE /api/mcp/cache" => given(format!("{path}?registry_type=npm&identifier=zod&version=1.0.0"), Value::Null, admin),
        "POST /api/mcp/cache/import" => given(path.into(), Value::Null, admin),
        "POST /api/mcp/cache/verify" | "POST /api/mcp/cache/prune" => given(path.into(), json!({}), admin),
        "POST /api/mcp/cache/export" => given(path.into(), json!({ "all": true }), admin),
        _ => panic!("{call} has no case here: what does it leave in the audit trail?"),
    }
}

/// A rotation that stands there, whose job is over.
async fn waiting_rotation(app: &TestApp, state: &str) -> String {
    let mut connection = app.database.connect().await;
    let id = platform::ids::fresh();
    execute(
        &mut connection,
        "UPDATE credentials.key_rotations SET state = 'cancelled', finished_at = now() WHERE state IN ('running', 'paused')",
    )
    .await;
    sqlx::query("INSERT INTO credentials.key_rotations (id, to_version, state, total, started_by) VALUES ($1, 1, $2, 0, 'test')")
        .bind(id)
        .bind(state)
        .execute(&mut connection)
        .await
        .unwrap();
    id.to_string()
}

/// A job that waits, or one that was cancelled.
async fn stopped_job(app: &TestApp, cancelled: bool) -> String {
    let mut connection = app.database.connect().await;
    let id = platform::ids::fresh();
    sqlx::query("INSERT INTO mcp_fabric.jobs (id, kind, status, payload, run_at, created_by, created_at, completed_at) VALUES ($1, 'nobody_does_this', $2, '{}', now() + interval '1 day', 'operator', now(), $3)")
        .bind(id)
        .bind(if cancelled { "cancelled" } else { "pending" })
        .bind(cancelled.then(platform::clock::now))
        .execute(&mut connection)
        .await
        .unwrap();
    id.to_string()
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
