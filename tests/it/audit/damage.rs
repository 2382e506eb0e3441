//! Edits of the trail, and days that go: what `verify` says of each.

use std::time::Duration;

use serde_json::json;
use sqlx::AssertSqlSafe;

use super::{execute, scene, verify};
use crate::support::eventually;

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
    let report = eventually(40, "the event is chained", || async {
        let report = verify(&app).await;
        (report["damage"]["kind"] != "unsealed").then_some(report)
    })
    .await;
    assert_eq!(report["damage"]["kind"], "unauthentic", "{report}");
}

/// An end that was altered is not made right by what comes after it.
#[tokio::test(flavor = "multi_thread")]
async fn an_altered_end_stays_told() {
    let (app, mut connection) = scene().await;
    execute(&mut connection, "DELETE FROM audit.checkpoints; DELETE FROM audit.events WHERE seq > 8; UPDATE audit.head SET seq = 8, hash = (SELECT hash FROM audit.events WHERE seq = 8)").await;
    app.op_post_json("/api/mcp/invites", &json!({})).await.expect(201);
    let report = verify(&app).await;
    assert_eq!((&report["damage"]["kind"], &report["damage"]["seq"]), (&json!("bad_signature"), &json!(9)), "{report}");
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
    let purges = eventually(40, "old days go", || async {
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
async fn a_trail_that_is_too_large_warns_and_lets_its_oldest_day_go() {
    let (mut app, mut connection) = scene().await;
    let day = (platform::clock::now().date_naive() - chrono::TimeDelta::days(3)).to_string();
    execute(&mut connection, &format!("SELECT audit.ensure_day('{day}')")).await;
    execute(&mut connection, &format!("UPDATE audit.events SET day = '{day}' WHERE seq IN (1, 2)")).await;
    // Row versions that nobody sees take room like others.
    let grow = format!("UPDATE audit.events SET server_id = server_id WHERE day = '{day}'");
    execute(&mut connection, &format!("DO $$ BEGIN FOR n IN 1..6000 LOOP {grow}; END LOOP; END $$")).await;
    app.set("FABRIC_AUDIT_MAX_MB", "3");
    app.restart().await;
    let purge = eventually(40, "the oldest day goes", || async { app.trail("&action=audit.purge").await.into_iter().next() }).await;
    assert_eq!((&purge["detail"]["day"], &purge["detail"]["because"]), (&json!(day), &json!("size")));
    let warning = &app.trail("&action=audit.size").await[0];
    assert_eq!(warning["event_type"], "warning");
    assert!(warning["seq"].as_i64() < purge["seq"].as_i64(), "the warning comes first");
    assert!(warning["detail"]["percent"].as_i64().unwrap() > 100);
    let report = verify(&app).await;
    assert_eq!((&report["ok"], &report["first_seq"]), (&json!(true), &json!(3)), "{report}");
    assert_eq!(app.trail("&action=audit.purge").await.len(), 1, "what fits stays");
}
