//! The vault: storing, telling, revealing, and what an attacker with the database can do.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use mcp_fabric::app::StartError;
use platform::keys::SecretKey;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::support::{Person, TestApp, cluster, eventually};

const PATH: &str = "/api/mcp/credentials";

fn credential(env_var: &str, value: &str) -> Value {
    json!({ "server_id": "everything", "env_var": env_var, "value": value })
}

async fn store(app: &TestApp, person: &Person, env_var: &str, value: &str) -> Value {
    let answer = app.call(Method::POST, PATH, &person.access, &credential(env_var, value)).await;
    assert!(answer.status < 300, "{}", answer.text());
    answer.json()
}

fn decrypt(user: &str) -> String {
    format!("{PATH}/{user}/everything/decrypt")
}

/// An admin and a member, and a service that may reveal what is stored for `everything`.
async fn scene() -> (TestApp, Person, String) {
    let app = TestApp::start().await;
    app.person("root@example.com", "admin").await;
    let ada = app.person("ada@example.com", "member").await;
    let service = app.service(&["credentials:reveal"], Some(&["everything"])).await;
    (app, ada, service)
}

async fn revealed(app: &TestApp, service: &str, user: &str) -> Value {
    app.internal(&decrypt(user), Some(service), &json!({})).await.expect(200)["env"].clone()
}

async fn execute(connection: &mut PgConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(connection).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_is_stored_told_revealed_and_deleted() {
    let (app, ada, service) = scene().await;
    let first = app.call(Method::POST, PATH, &ada.access, &credential("API_KEY", "sk-\u{e9}\u{1f511} 1")).await;
    let stored = first.expect(201);
    assert_eq!((first.header("etag"), first.header("cache-control")), (Some("\"1\""), Some("no-store")));
    assert_eq!(app.call(Method::POST, PATH, &ada.access, &credential("API_KEY", "sk-2\n")).await.expect(200)["revision"], 2);
    let metadata = app.call(Method::GET, &format!("{PATH}/{}/everything", ada.id), &ada.access, &Value::Null).await;
    let listed = metadata.expect(200);
    assert_eq!((&listed["user_id"], &listed["server_id"], &listed["missing"]), (&json!(ada.id), &json!("everything"), &json!([])));
    let one = &listed["credentials"][0];
    for key in ["env_var", "kind", "created_at", "updated_at", "last_used_at", "expires_at", "key_version"] {
        assert!(one.get(key).is_some(), "{key}");
    }
    assert_eq!((&one["last_used_at"], &one["created_at"]), (&Value::Null, &stored["created_at"]));
    assert!(!metadata.text().contains("sk-"));
    let answer = app.internal(&decrypt(&ada.id), Some(&service), &Value::Null).await;
    assert_eq!(answer.expect(200), json!({ "user_id": ada.id, "server_id": "everything", "env": { "API_KEY": "sk-2\n" } }));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let used = app.call(Method::GET, PATH, &ada.access, &Value::Null).await.expect(200);
    assert!(used["credentials"][0]["last_used_at"].is_string());
    let path = format!("{PATH}/{}/everything/API_KEY", ada.id);
    assert_eq!(app.call(Method::DELETE, &path, &ada.access, &Value::Null).await.status, 204);
    app.call(Method::DELETE, &path, &ada.access, &Value::Null).await.expect_problem(404, "not_found");
    assert_eq!(revealed(&app, &service, &ada.id).await, json!({}));
    let actions: Vec<Value> =
        app.trail(&format!("&owner=user:{}", ada.id)).await.iter().rev().map(|event| event["action"].clone()).collect();
    let expected = [
        "user.register",
        "session.login",
        "credential.store",
        "credential.store",
        "credential.reveal",
        "credential.reveal",
        "credential.delete",
        "credential.reveal",
        "credential.reveal",
    ];
    assert_eq!(actions, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_is_on_the_internal_listener_alone() {
    let (app, ada, service) = scene().await;
    store(&app, &ada, "API_KEY", "sk-1").await;
    let path = decrypt(&ada.id);
    for method in [Method::POST, Method::GET, Method::PUT] {
        let answer = app.call(method.clone(), &path, &service, &Value::Null).await;
        assert!(matches!(answer.status, 404 | 405), "{method} {}", answer.status);
        assert!(!answer.text().contains("sk-1"));
    }
    app.call(Method::POST, &path, &service, &json!({})).await.expect_problem(404, "route_not_found");
    for odd in ["/internal/v1/launches/x/env", "//internal", "/%69nternal", "/x/../internal", "/internal;a", "/api/mcp/credentials/unwrap"]
    {
        let answer = app.call(Method::POST, odd, &service, &json!({})).await;
        assert!(matches!(answer.status, 404 | 405), "{odd}: {}", answer.status);
    }
    app.internal(&path, None, &json!({})).await.expect_problem(401, "unauthenticated");
    app.internal(&path, Some("fst_wrong"), &json!({})).await.expect_problem(401, "unauthenticated");
    app.internal(&path, Some(&ada.access), &json!({})).await.expect_problem(403, "forbidden");
    let writer = app.service(&["credentials:write"], None).await;
    app.internal(&path, Some(&writer), &json!({})).await.expect_problem(403, "forbidden");
    let elsewhere = app.service(&["credentials:reveal"], Some(&["fetch"])).await;
    app.internal(&path, Some(&elsewhere), &json!({})).await.expect_problem(403, "forbidden");
    app.internal("/api/mcp/credentials", Some(&service), &json!({})).await.expect_problem(404, "route_not_found");
    app.internal("/api/mcp/jobs", Some(&app.token), &json!({})).await.expect_problem(404, "route_not_found");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(app.data().join("internal.sock")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let denied = app.trail("&outcome=denied").await;
    let on_the_inside = denied.iter().filter(|event| event["source"] == "internal").count();
    assert_eq!(on_the_inside, 5, "{denied:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_internal_listener_can_be_a_port_or_need_certificates() {
    let app = TestApp::with(&[("FABRIC_INTERNAL_LISTEN", "127.0.0.1:0")]).await;
    assert!(!app.data().join("internal.sock").exists());
    let database = cluster::database().await;
    for (value, says) in [("0.0.0.0:9", "FABRIC_INTERNAL_TLS_CERT"), ("nonsense", "nor the path of a socket")] {
        let mut layers = platform::config::Layers::defaults().unwrap();
        layers.set("FABRIC_INTERNAL_LISTEN", value, platform::config::Source::Flag);
        let refused = platform::Config::from_layers(&layers).unwrap_err().to_string();
        assert!(refused.contains(says), "{refused}");
    }
    drop(database);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reaches_what_is_others() {
    let (app, ada, _) = scene().await;
    let bob = app.person("bob@example.com", "member").await;
    store(&app, &ada, "API_KEY", "sk-1").await;
    let as_bob = |method: Method, path: String, body: Value| {
        let (app, bob) = (&app, &bob);
        async move {
            let mut answer = app.call(method, &path, &bob.access, &body).await.json();
            answer["request_id"] = Value::Null;
            answer
        }
    };
    let nobody = "00000000-0000-7000-8000-000000000000";
    for (method, tail) in [(Method::GET, "everything"), (Method::DELETE, "everything/API_KEY"), (Method::PUT, "everything")] {
        let body = if method == Method::PUT { json!({ "credentials": [] }) } else { Value::Null };
        let theirs = as_bob(method.clone(), format!("{PATH}/{}/{tail}", ada.id), body.clone()).await;
        let absent = as_bob(method.clone(), format!("{PATH}/{nobody}/{tail}"), body).await;
        assert_eq!((&theirs["status"], &theirs["code"]), (&json!(404), &json!("not_found")));
        assert_eq!(theirs, absent, "{method} {tail}");
    }
    let mut body = credential("API_KEY", "sk-2");
    body["user_id"] = json!(ada.id);
    app.call(Method::POST, PATH, &bob.access, &body).await.expect_problem(400, "invalid_field");
    app.call(Method::GET, &format!("{PATH}?user_id={}", ada.id), &bob.access, &Value::Null).await.expect_problem(400, "invalid_field");
    let mine = app.request(Method::GET, PATH).bearer_auth(&bob.access).header("x-user-id", &ada.id).header("x-forwarded-user", &ada.id);
    assert_eq!(app.send(mine).await.expect(200)["credentials"], json!([]));
    store(&app, &bob, "API_KEY", "sk-bob").await;
    assert_eq!(app.call(Method::GET, PATH, &ada.access, &Value::Null).await.expect(200)["credentials"][0]["revision"], 1);
    let root = app.log_in("root@example.com").await;
    app.call(Method::GET, &format!("{PATH}/{}/everything", ada.id), &root.access, &Value::Null).await.expect_problem(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn services_store_for_users_without_accounts() {
    let app = TestApp::start().await;
    let writer = app.service(&["credentials:write"], Some(&["everything"])).await;
    let reader = app.service(&["credentials:reveal"], Some(&["everything"])).await;
    let mut body = credential("API_KEY", "sk-1");
    app.call(Method::POST, PATH, &writer, &body).await.expect_problem(400, "invalid_field");
    for user in ["swarm|42", "ada@example.com", "\u{6f22}\u{5b57}", "a/b c"] {
        body["user_id"] = json!(user);
        app.call(Method::POST, PATH, &writer, &body).await.expect(201);
        let encoded: String = user.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let listed = app.call(Method::GET, &format!("{PATH}/{encoded}/everything"), &writer, &Value::Null).await.expect(200);
        assert_eq!((&listed["user_id"], &listed["credentials"][0]["env_var"]), (&json!(user), &json!("API_KEY")));
        assert_eq!(revealed(&app, &reader, &encoded).await, json!({ "API_KEY": "sk-1" }));
    }
    body["server_id"] = json!("fetch");
    app.call(Method::POST, PATH, &writer, &body).await.expect_problem(403, "forbidden");
    for user in ["", "a\u{0}b", "a\nb", "\u{202e}ada", &"x".repeat(256)] {
        body["user_id"] = json!(user);
        body["server_id"] = json!("everything");
        app.call(Method::POST, PATH, &writer, &body).await.expect_problem(400, "invalid_field");
    }
    let trail = app.op_get("/api/mcp/audit/export").await.text();
    let chained: Vec<Value> = trail.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let stored: Vec<&Value> = chained.iter().filter(|event| event["action"] == "credential.store").collect();
    assert_eq!(stored.len(), 4);
    assert!(stored.iter().all(|event| event["owner"].as_str().unwrap().starts_with("external:")), "{stored:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_without_an_echo() {
    let (app, ada, service) = scene().await;
    let hijacking = ["LD_PRELOAD", "PATH", "NODE_OPTIONS", "A=B", "a b", "1X", "A\n", "", "FABRIC_TOKEN", "E\u{301}", "K\u{1f511}"];
    for name in hijacking.into_iter().chain([&*"x".repeat(129)]) {
        let answer = app.call(Method::POST, PATH, &ada.access, &credential(name, "hunter2")).await;
        let problem = answer.expect_problem(400, "invalid_field");
        assert_eq!(problem["errors"][0]["location"], "body.env_var");
        assert!(!answer.text().contains("hunter2"));
    }
    for (value, says) in [("", "is empty"), ("hunter2\0", "U+0000"), (&*"x".repeat((64 << 10) + 1), "64 KiB")] {
        let answer = app.call(Method::POST, PATH, &ada.access, &credential("API_KEY", value)).await;
        assert!(answer.expect_problem(400, "invalid_field")["detail"].as_str().unwrap().contains(says));
        assert!(!answer.text().contains("hunter2"));
    }
    let mut body = credential("API_KEY", "hunter2");
    body["kind"] = json!("hunter2");
    app.call(Method::POST, PATH, &ada.access, &body).await.expect_problem(400, "invalid_field");
    body = credential("API_KEY", "hunter2");
    body["expires_at"] = json!("2020-01-01T00:00:00Z");
    app.call(Method::POST, PATH, &ada.access, &body).await.expect_problem(400, "invalid_field");
    for server in ["no-such-server", "' OR 1=1 --", "", "00000000-0000-7000-8000-000000000000"] {
        body = credential("API_KEY", "hunter2");
        body["server_id"] = json!(server);
        app.call(Method::POST, PATH, &ada.access, &body).await.expect_problem(404, "server_not_found");
    }
    for raw in [
        r#"{"server_id":"everything","env_var":"A","value":["hunter2"]}"#,
        r#"{"server_id":"everything","env_var":"A","value":"hunter2",}"#,
        r#"{"server_id":"everything","env_var":"A","value":"hunter2","value":"x"}"#,
        r#"{"server_id":"everything","env_var":"A","value":"hunter2","hunter2":1}"#,
        r#"{"server_id":"everything","env_var":"A","value":"hunter2","expires_at":"hunter2"}"#,
        "{\"value\":\"hunter2\\ud800\"}",
        "hunter2",
        "\u{feff}{\"value\":\"hunter2\"}",
    ] {
        let request = app.request(Method::POST, PATH).bearer_auth(&ada.access).header("content-type", "application/json").body(raw);
        let answer = app.send(request).await;
        assert_eq!(answer.status, 400, "{raw}");
        assert!(!answer.text().contains("hunter2"), "{}", answer.text());
    }
    for names in [json!([]), json!(["A=B"]), json!(["NO_SUCH"])] {
        let answer = app.internal(&decrypt(&ada.id), Some(&service), &json!({ "env_vars": names })).await;
        assert!(matches!(answer.status, 400 | 404), "{}", answer.text());
    }
    assert_eq!(app.call(Method::GET, PATH, &ada.access, &Value::Null).await.expect(200)["credentials"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_are_stored_at_once_or_not_at_all() {
    let (app, ada, service) = scene().await;
    let path = format!("{PATH}/{}/everything", ada.id);
    let many = json!({ "credentials": [{ "env_var": "A", "value": "1" }, { "env_var": "B", "value": "2", "kind": "api_key" }] });
    assert_eq!(app.call(Method::PUT, &path, &ada.access, &many).await.expect(200)["credentials"].as_array().unwrap().len(), 2);
    let broken = json!({ "credentials": [{ "env_var": "C", "value": "3" }, { "env_var": "PATH", "value": "4" }] });
    let problem = app.call(Method::PUT, &path, &ada.access, &broken).await.expect_problem(400, "invalid_field");
    assert_eq!(problem["errors"][0]["location"], "body.credentials[1].env_var");
    let replaced = json!({ "credentials": [{ "env_var": "B", "value": "5" }], "replace": true });
    app.call(Method::PUT, &path, &ada.access, &replaced).await.expect(200);
    assert_eq!(revealed(&app, &service, &ada.id).await, json!({ "B": "5" }));
    assert_eq!(
        app.internal(&decrypt(&ada.id), Some(&service), &json!({ "env_vars": ["B"] })).await.expect(200)["env"],
        json!({ "B": "5" })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_is_not_given_out() {
    let (app, ada, service) = scene().await;
    let mut body = credential("SHORT", "1");
    body["expires_at"] = json!(platform::clock::now() + chrono::TimeDelta::milliseconds(900));
    app.call(Method::POST, PATH, &ada.access, &body).await.expect(201);
    assert_eq!(revealed(&app, &service, &ada.id).await, json!({ "SHORT": "1" }));
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let answer = app.internal(&decrypt(&ada.id), Some(&service), &json!({})).await.expect(200);
    assert_eq!((&answer["env"], &answer["expired"]), (&json!({}), &json!(["SHORT"])));
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_of_one_credential_take_turns() {
    let (app, ada, service) = scene().await;
    let values: Vec<String> = (0..20).map(|n| format!("value {n}")).collect();
    let bodies: Vec<Value> = values.iter().map(|value| credential("API_KEY", value)).collect();
    let answers = join_all(bodies.iter().map(|body| app.call(Method::POST, PATH, &ada.access, body))).await;
    let revisions: BTreeSet<i64> =
        answers.iter().filter(|answer| answer.status < 300).map(|answer| answer.json()["revision"].as_i64().unwrap()).collect();
    let done = answers.iter().filter(|answer| answer.status < 300).count();
    assert_eq!(revisions.len(), done, "no two writers have one revision");
    assert!(answers.iter().all(|answer| answer.status < 300 || answer.json()["code"] == "contended"));
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    assert!(values.contains(&revealed(&app, &service, &ada.id).await["API_KEY"].as_str().unwrap().to_owned()));
    let newest = *revisions.last().unwrap();
    let matching = |revision: String| {
        app.request(Method::POST, PATH).bearer_auth(&ada.access).header("if-match", revision).json(&credential("API_KEY", "last"))
    };
    app.send(matching(format!("\"{}\"", newest - 1))).await.expect_problem(412, "stale_revision");
    app.send(matching("rubbish".into())).await.expect_problem(400, "invalid_field");
    app.send(matching(format!("\"{newest}\""))).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_off_is_good_once() {
    let (app, ada, service) = scene().await;
    store(&app, &ada, "API_KEY", "sk-1").await;
    let wrap = format!("{PATH}/{}/everything/wrap", ada.id);
    let unwrap = "/api/mcp/credentials/unwrap";
    let made = app.internal(&wrap, Some(&service), &json!({})).await.expect(200);
    assert_eq!(made["expires_in"], 60);
    let token = json!({ "wrap_token": made["wrap_token"] });
    let answers = join_all((0..50).map(|_| app.internal(unwrap, None, &token))).await;
    let won: Vec<Value> = answers.iter().filter(|answer| answer.status == 200).map(crate::support::Answer::json).collect();
    assert_eq!(won.len(), 1);
    assert_eq!(won[0]["env"], json!({ "API_KEY": "sk-1" }));
    assert!(answers.iter().filter(|answer| answer.status != 200).all(|answer| answer.json()["code"] == "gone"));
    app.internal(unwrap, None, &json!({ "wrap_token": "fwt_nothing" })).await.expect_problem(404, "not_found");
    app.internal(&wrap, Some(&service), &json!({ "ttl_seconds": 301 })).await.expect_problem(400, "invalid_field");
    app.internal(&wrap, Some(&ada.access), &json!({})).await.expect_problem(403, "forbidden");
    let short = app.internal(&wrap, Some(&service), &json!({ "ttl_seconds": 1 })).await.expect(200);
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    app.internal(unwrap, None, &json!({ "wrap_token": short["wrap_token"] })).await.expect_problem(404, "not_found");
    let alarms = app.trail("&action=credential.unwrap&event_type=warning").await;
    assert!(alarms.iter().filter(|event| event["detail"]["used_before"] == true).count() == 49, "{}", alarms.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn reveals_with_one_token_are_limited() {
    let app = TestApp::with(&[("FABRIC_REVEAL_RATE", "5")]).await;
    let service = app.service(&["credentials:reveal"], Some(&["everything"])).await;
    let answers =
        join_all((0..20).map(|_| app.internal("/api/mcp/credentials/ada/everything/decrypt", Some(&service), &Value::Null))).await;
    assert!(answers.iter().filter(|answer| answer.status == 429).count() >= 10);
    answers.iter().find(|answer| answer.status == 429).unwrap().expect_problem(429, "too_many_requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_under_an_old_name_inherits_nothing() {
    let (app, ada, service) = scene().await;
    store(&app, &ada, "API_KEY", "sk-1").await;
    let mut connection = app.database.connect().await;
    execute(&mut connection, "UPDATE mcp_fabric.servers SET erased_at = now() WHERE id = 'everything'").await;
    app.call(Method::POST, PATH, &ada.access, &credential("API_KEY", "sk-2")).await.expect_problem(404, "server_not_found");
    execute(&mut connection, "UPDATE mcp_fabric.servers SET erased_at = NULL WHERE id = 'everything'").await;
    assert_eq!(revealed(&app, &service, &ada.id).await, json!({}));
    assert_eq!(app.call(Method::GET, PATH, &ada.access, &Value::Null).await.expect(200)["credentials"], json!([]));
    app.call(Method::POST, PATH, &ada.access, &credential("API_KEY", "sk-3")).await.expect(201);
    assert_eq!(revealed(&app, &service, &ada.id).await, json!({ "API_KEY": "sk-3" }));
}

/// Whoever has the database can do all this; none of it gives a value that is not the row's own.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_changed_do_not_open() {
    let (app, ada, service) = scene().await;
    let bob = app.person("bob@example.com", "member").await;
    let id = store(&app, &ada, "API_KEY", "of ada").await["id"].as_str().unwrap().to_owned();
    store(&app, &bob, "API_KEY", "of bob").await;
    let mut connection = app.database.connect().await;
    execute(
        &mut connection,
        "CREATE TABLE kept AS SELECT * FROM credentials.mcp_credentials; ALTER TABLE credentials.mcp_credentials DISABLE TRIGGER ALL",
    )
    .await;
    const BACK: &str = "UPDATE credentials.mcp_credentials c SET user_id = k.user_id, encrypted_value = k.encrypted_value, iv = k.iv, wrapped_dek = k.wrapped_dek, key_commit = k.key_commit, rev = k.rev, kek_version = k.kek_version, alg = k.alg, env_var = k.env_var, server_id = k.server_id FROM kept k WHERE k.id = c.id";
    for damage in [
        "encrypted_value = translate(encrypted_value, 'ABCDEFabcdef012345', 'BCDEFAbcdefa123450')",
        "encrypted_value = left(encrypted_value, 40)",
        "encrypted_value = ''",
        "iv = 'AAAAAAAAAAAAAAAA'",
        "wrapped_dek = set_byte(wrapped_dek, 20, get_byte(wrapped_dek, 20) # 1)",
        "key_commit = set_byte(key_commit, 0, get_byte(key_commit, 0) # 128)",
        "rev = rev + 1",
        "rev = 0",
        "alg = 0",
        "env_var = 'OTHER_KEY'",
        "server_id = 'everything', id = gen_random_uuid()",
        "encrypted_value = (SELECT k.encrypted_value FROM kept k WHERE k.id <> c.id), iv = (SELECT k.iv FROM kept k WHERE k.id <> c.id)",
        "encrypted_value = (SELECT k.encrypted_value FROM kept k WHERE k.id <> c.id), iv = (SELECT k.iv FROM kept k WHERE k.id <> c.id), wrapped_dek = (SELECT k.wrapped_dek FROM kept k WHERE k.id <> c.id), key_commit = (SELECT k.key_commit FROM kept k WHERE k.id <> c.id)",
    ] {
        let damaged =
            sqlx::raw_sql(sqlx::AssertSqlSafe(format!("UPDATE credentials.mcp_credentials c SET {damage} WHERE user_id = '{}'", ada.id)))
                .execute(&mut connection)
                .await
                .unwrap();
        assert_eq!(damaged.rows_affected(), 1);
        let answer = app.internal(&decrypt(&ada.id), Some(&service), &json!({})).await;
        answer.expect_problem(500, "integrity_error");
        assert!(!answer.text().contains("of bob") && !answer.text().contains("of ada"));
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("UPDATE credentials.mcp_credentials SET id = '{id}' WHERE user_id = '{}'", ada.id)))
            .execute(&mut connection)
            .await
            .unwrap();
        execute(&mut connection, BACK).await;
        assert_eq!(revealed(&app, &service, &ada.id).await, json!({ "API_KEY": "of ada" }), "{damage}");
    }
    // The rows change places.
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "UPDATE credentials.mcp_credentials SET user_id = 'x' WHERE user_id = '{a}'; UPDATE credentials.mcp_credentials SET user_id = '{a}' WHERE user_id = '{b}'; UPDATE credentials.mcp_credentials SET user_id = '{b}' WHERE user_id = 'x'",
        a = ada.id,
        b = bob.id
    )))
    .execute(&mut connection)
    .await
    .unwrap();
    app.internal(&decrypt(&ada.id), Some(&service), &json!({})).await.expect_problem(500, "integrity_error");
    sqlx::raw_sql("UPDATE credentials.mcp_credentials SET kek_version = NULL, alg = 0").execute(&mut connection).await.unwrap();
    app.internal(&decrypt(&bob.id), Some(&service), &json!({})).await.expect_problem(500, "integrity_error");
    let failures = app.trail("&action=credential.reveal&outcome=failure").await;
    assert_eq!(failures.len(), 15);
    assert!(failures.iter().all(|event| event["detail"]["code"] == "integrity_error" && event["answers"].is_string()));
}

/// A whole row that is put back as it was opens, since it is what once was right. The trail knows better.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_put_back_or_taken_away_are_found() {
    let (app, ada, service) = scene().await;
    for name in ["ROLLED", "SWAPPED", "DELETED", "MISSING", "FINE", "FORGED"] {
        store(&app, &ada, name, "first").await;
    }
    let mut connection = app.database.connect().await;
    execute(
        &mut connection,
        "CREATE TABLE kept AS SELECT * FROM credentials.mcp_credentials; ALTER TABLE credentials.mcp_credentials DISABLE TRIGGER ALL",
    )
    .await;
    store(&app, &ada, "ROLLED", "second").await;
    app.call(Method::DELETE, &format!("{PATH}/{}/everything/DELETED", ada.id), &ada.access, &Value::Null).await;
    execute(&mut connection, "
        UPDATE credentials.mcp_credentials c SET encrypted_value = k.encrypted_value, iv = k.iv, wrapped_dek = k.wrapped_dek, key_commit = k.key_commit, rev = k.rev
            FROM kept k WHERE k.id = c.id AND c.env_var = 'ROLLED';
        UPDATE credentials.mcp_credentials SET env_var = 'SWAPPED2' WHERE env_var = 'SWAPPED';
        INSERT INTO credentials.mcp_credentials SELECT * FROM kept WHERE env_var = 'DELETED';
        DELETE FROM credentials.mcp_credentials WHERE env_var = 'MISSING';
        INSERT INTO credentials.mcp_credentials (user_id, server_id, env_var, encrypted_value, iv) VALUES ('eve', 'everything', 'PLAIN', 'AAAA', 'AAAA')").await;
    let answer = app.internal(&decrypt(&ada.id), Some(&service), &json!({ "env_vars": ["ROLLED"] })).await;
    assert_eq!(answer.expect(200)["env"]["ROLLED"], "first", "sealing alone cannot tell");
    let ordered = app.op_post("/api/mcp/credentials/verify").await.expect(202);
    let job = app.job(ordered["job_id"].as_str().unwrap()).await;
    let found: BTreeSet<(String, String)> = job["result"]["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| (finding["fault"].as_str().unwrap().to_owned(), finding["env_var"].as_str().unwrap_or_default().to_owned()))
        .collect();
    let expected = [("missing", ""), ("plain", "PLAIN"), ("resurrected", "DELETED"), ("rolled_back", "ROLLED"), ("unopenable", "SWAPPED2")];
    assert_eq!(found, expected.map(|(fault, name)| (fault.to_owned(), name.to_owned())).into(), "{job}");
    assert_eq!(job["result"]["ok"], false);
    assert_eq!(app.trail("&action=credentials.faults").await.len(), 1);
}

/// The requirements' own form: value and tag in one text, the iv in another, under the master key itself.
#[tokio::test(flavor = "multi_thread")]
async fn values_in_the_plain_form_are_sealed() {
    use aes_gcm::{Aes256Gcm, KeyInit as _, aead::Aead as _};
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let (app, ada, service) = scene().await;
    let key: [u8; 32] = STANDARD.decode(crate::support::keys()[0]).unwrap().try_into().unwrap();
    let raw = Aes256Gcm::new(&key.into()).encrypt(&[7; 12].into(), b"from before".as_slice()).unwrap();
    let mut connection = app.database.connect().await;
    for (user, name, value) in [(&ada.id, "OLD_KEY", STANDARD.encode(&raw)), (&ada.id, "WRONG_KEY", STANDARD.encode([1; 40]))] {
        sqlx::query("INSERT INTO credentials.mcp_credentials (user_id, server_id, env_var, encrypted_value, iv) VALUES ($1, 'everything', $2, $3, $4)")
            .bind(user)
            .bind(name)
            .bind(value)
            .bind(STANDARD.encode([7; 12]))
            .execute(&mut connection)
            .await
            .unwrap();
    }
    let ordered = app.op_post("/api/mcp/credentials/migrate").await.expect(202);
    let job = app.job(ordered["job_id"].as_str().unwrap()).await;
    assert_eq!((&job["result"]["migrated"], job["result"]["failed"].as_array().unwrap().len()), (&json!(1), 1));
    let answer = app.internal(&decrypt(&ada.id), Some(&service), &json!({ "env_vars": ["OLD_KEY"] })).await;
    assert_eq!(answer.expect(200)["env"], json!({ "OLD_KEY": "from before" }));
    app.internal(&decrypt(&ada.id), Some(&service), &json!({ "env_vars": ["WRONG_KEY"] })).await.expect_problem(500, "integrity_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_missing_and_renamed_keys_end_the_start() {
    let app = TestApp::start().await;
    let first = crate::support::keys()[0];
    let other = SecretKey::generate().to_base64().to_string();
    let third = SecretKey::generate().to_base64().to_string();
    let refused = async |given: &[(&str, &str)]| match TestApp::refused(&app.database, given).await {
        error @ (StartError::Keys(_) | StartError::Config(_)) => {
            assert!(error.is_configuration());
            let text = error.to_string();
            assert!(!text.contains(first) && !text.contains(&other), "{text}");
            assert!(text.contains("mcp-fabric credentials new-key"), "{text}");
            text
        }
        error => panic!("{error}"),
    };
    let wrong = refused(&[("CREDENTIAL_ENCRYPTION_KEY", &other)]).await;
    let kid = platform::keys::KeyInput::parse(first).unwrap().resolve(&[0; 16]).id();
    assert!(wrong.contains(&format!("expected the key {kid} (version 1)")), "{wrong}");
    assert!(refused(&[("CREDENTIAL_ENCRYPTION_KEY", "")]).await.contains("is not set"));
    assert!(refused(&[("JWT_SECRET_KEY", "")]).await.contains("new-key"));
    let ring = |text: String| [("CREDENTIAL_ENCRYPTION_KEY", String::new()), ("CREDENTIAL_ENCRYPTION_KEYS", text)];
    let with = async |text: String| {
        let ring = ring(text);
        refused(&ring.each_ref().map(|(key, value)| (*key, value.as_str()))).await
    };
    assert!(with(format!("2:{first}")).await.contains("as version 2, and it is version 1"));
    assert!(with(format!("2:{other},3:{third}")).await.contains("expected the key"));
    drop(app.get("/health/live").await);
    let mut app = app;
    // The new key first: it seals from now on. Then the old one first again: that is not the order any more.
    app.set("CREDENTIAL_ENCRYPTION_KEY", "");
    app.set("CREDENTIAL_ENCRYPTION_KEYS", &format!("2:{other},1:{first}"));
    app.restart().await;
    let turned = TestApp::refused(
        &app.database,
        &[("CREDENTIAL_ENCRYPTION_KEY", ""), ("CREDENTIAL_ENCRYPTION_KEYS", &format!("1:{first},2:{other}"))],
    )
    .await;
    assert!(turned.to_string().contains("is given first, and newer values are sealed with version 2"), "{turned}");
}

#[tokio::test(flavor = "multi_thread")]
async fn weak_keys_and_placeholders_are_refused_before_anything_starts() {
    let hexadecimal = |byte: u8| format!("{byte:02x}").repeat(32);
    for (key, value) in [
        ("CREDENTIAL_ENCRYPTION_KEY", hexadecimal(0)),
        ("CREDENTIAL_ENCRYPTION_KEY", "short".into()),
        ("CREDENTIAL_ENCRYPTION_KEY", "changeme".into()),
        ("CREDENTIAL_ENCRYPTION_KEY", "passphrase:too short".into()),
        ("CREDENTIAL_ENCRYPTION_KEYS", "1:short".into()),
        ("CREDENTIAL_ENCRYPTION_KEY_FILE", "/no/such/file".into()),
        ("CREDENTIAL_ENCRYPTION_KEY_PREVIOUS", crate::support::keys()[0].to_owned()),
        ("JWT_SECRET_KEY", "your-super-secure-secret-key-change-in-production".into()),
        ("JWT_SECRET_KEY", hexadecimal(7)),
        ("JWT_SECRET_KEY", crate::support::keys()[1].to_owned()),
        ("FABRIC_JWT_TTL", "0".into()),
        ("FABRIC_JWT_TTL", "never".into()),
        ("FABRIC_AUDIT_RETENTION_DAYS", "0".into()),
        ("FABRIC_AUDIT_RETENTION_DAYS", "-1".into()),
        ("FABRIC_AUDIT_RETENTION_DAYS", "NaN".into()),
        ("FABRIC_REGISTRATION", "maybe".into()),
    ] {
        let mut layers = platform::config::Layers::defaults().unwrap();
        if value == crate::support::keys()[1] {
            // One key for two purposes.
            layers.set("CREDENTIAL_ENCRYPTION_KEY", value.clone(), platform::config::Source::Environment);
        }
        layers.set(key, value.clone(), platform::config::Source::Environment);
        let refused = platform::Config::from_layers(&layers).unwrap_err().to_string();
        assert!(refused.starts_with("CREDENTIAL_") || refused.starts_with("JWT_") || refused.starts_with("FABRIC_"), "{refused}");
        assert!(value.len() < 3 || !refused.contains(&value) || value.starts_with('/'), "{refused}");
    }
}

/// Row-level security and rights, as the roles themselves see them.
#[tokio::test(flavor = "multi_thread")]
async fn the_public_side_cannot_read_ciphertext_nor_others() {
    let (app, ada, _) = scene().await;
    store(&app, &ada, "API_KEY", "sk-1").await;
    let config = app.config();
    let owner = platform::database::Owner::from_url(config.database.url.as_ref().unwrap()).unwrap();
    let database = platform::Database::open(&owner, &config).await.unwrap();
    let denied = async |pool: &sqlx::PgPool, sql: &'static str| {
        let error = sqlx::query(sql).execute(pool).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("42501"), "{sql}: {error}");
    };
    for column in ["encrypted_value", "iv", "wrapped_dek", "key_commit", "*"] {
        let sql = sqlx::AssertSqlSafe(format!("SELECT {column} FROM credentials.mcp_credentials"));
        let error = sqlx::query(sql).execute(database.public()).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("42501"), "{column}");
    }
    for sql in [
        "SELECT * FROM credentials.sealed_secrets",
        "UPDATE audit.events SET action = 'x'",
        "DELETE FROM audit.events",
        "TRUNCATE audit.events",
        "ALTER TABLE audit.events DISABLE TRIGGER ALL",
        "INSERT INTO audit.events SELECT * FROM audit.events",
        "SELECT * FROM audit.pending",
        "DELETE FROM audit.pending",
        "DELETE FROM audit.checkpoints",
        "SELECT audit.drop_day('2020-01-01')",
    ] {
        denied(database.public(), sql).await;
    }
    denied(database.audit(), "UPDATE audit.events SET action = 'x'").await;
    denied(database.audit(), "DELETE FROM audit.events").await;
    denied(database.audit(), "SELECT * FROM credentials.mcp_credentials").await;
    let seen: i64 = sqlx::query_scalar("SELECT count(id) FROM credentials.mcp_credentials").fetch_one(database.public()).await.unwrap();
    assert_eq!(seen, 0, "who acts for nobody sees nobody's rows");
    let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM identity.users").fetch_one(database.public()).await.unwrap();
    assert_eq!(seen, 0);
    database.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_rows_are_open_to_all_ends_the_start() {
    let (app, ada, _) = scene().await;
    store(&app, &ada, "API_KEY", "sk-1").await;
    let mut connection = app.database.connect().await;
    execute(&mut connection, "ALTER TABLE credentials.mcp_credentials DISABLE ROW LEVEL SECURITY").await;
    let refused = TestApp::refused(&app.database, &[]).await;
    assert!(
        refused.is_configuration() && refused.to_string().contains("row-level security of credentials.mcp_credentials is switched off"),
        "{refused}"
    );
    execute(
        &mut connection,
        "ALTER TABLE credentials.mcp_credentials ENABLE ROW LEVEL SECURITY; CREATE POLICY open ON credentials.mcp_credentials USING (true)",
    )
    .await;
    let folder = app.data();
    let roles = folder.join("database-roles.json");
    let data = tempfile::tempdir().unwrap();
    std::fs::copy(roles, data.path().join("database-roles.json")).unwrap();
    let refused = TestApp::refused(&app.database, &[("FABRIC_DATA_DIR", data.path().to_str().unwrap())]).await;
    assert!(refused.is_configuration() && refused.to_string().contains("are seen by a connection that acts for nobody"), "{refused}");
}

/// A thousand clients hang up while their transactions are open; nobody sees anything of theirs afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_hang_up_leave_nothing_on_the_connections() {
    let (app, ada, _) = scene().await;
    let bob = app.person("bob@example.com", "member").await;
    for n in 0..20 {
        store(&app, &ada, &format!("KEY_{n}"), "sk-1").await;
    }
    for round in 0..20_u64 {
        let storm = (0..50_u64).map(|n| {
            let path = if n % 2 == 0 { PATH.to_owned() } else { "/api/mcp/audit?limit=1000".to_owned() };
            let request = app.call(Method::GET, Box::leak(path.into_boxed_str()), &ada.access, &Value::Null);
            tokio::time::timeout(std::time::Duration::from_micros(300 + 137 * (n + round)), request)
        });
        join_all(storm).await;
    }
    for _ in 0..20 {
        let listed = app.call(Method::GET, PATH, &bob.access, &Value::Null).await.expect(200);
        assert_eq!(listed["credentials"], json!([]));
        let trail = app.call(Method::GET, "/api/mcp/audit?limit=1000", &bob.access, &Value::Null).await.expect(200);
        assert!(trail["events"].as_array().unwrap().iter().all(|event| event["owner"] == format!("user:{}", bob.id)));
    }
    eventually(10, "the pool is healthy", || async { (app.get("/health/ready").await.status == 200).then_some(()) }).await;
    store(&app, &bob, "KEY", "sk-2").await;
}
