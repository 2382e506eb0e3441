//! The vault: storing, telling, revealing, and what an attacker with the database can do.

mod isolation;
mod keys;
mod mutual_tls;
mod tampering;

use std::collections::BTreeSet;

use futures_util::future::join_all;
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
    // What became of a reveal is written down once it is over: somewhere behind it.
    let place = format!("&owner=user:{}", ada.id);
    let trail = eventually(10, "two reveals with what became of them", || async {
        let trail = app.trail(&place).await;
        (trail.iter().filter(|event| !event["answers"].is_null()).count() == 2).then_some(trail)
    })
    .await;
    let begun = trail.iter().rev().filter(|event| event["answers"].is_null());
    let actions: Vec<&str> = begun.map(|event| event["action"].as_str().unwrap()).collect();
    let expected = [
        "user.register",
        "session.login",
        "credential.store",
        "credential.store",
        "credential.reveal",
        "credential.delete",
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
    app.internal(&path, Some(&app.token), &json!({})).await.expect_problem(403, "forbidden");
    let everything = app.service(&["admin"], None).await;
    app.internal(&path, Some(&everything), &json!({})).await.expect_problem(403, "forbidden");
    let elsewhere = app.service(&["credentials:reveal"], Some(&["fetch"])).await;
    app.internal(&path, Some(&elsewhere), &json!({})).await.expect_problem(403, "forbidden");
    app.internal("/api/mcp/credentials", Some(&service), &json!({})).await.expect_problem(404, "route_not_found");
    app.internal("/api/mcp/jobs", Some(&app.token), &json!({})).await.expect_problem(404, "route_not_found");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(app.data().join("internal.sock")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let denied = app.trail("&outcome=denied").await;
    let on_the_inside = denied.iter().filter(|event| event["source"] == "internal").count();
    assert_eq!(on_the_inside, 7, "{denied:?}");
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
    let twice = json!({ "credentials": [{ "env_var": "C", "value": "3" }, { "env_var": "C", "value": "4" }] });
    app.call(Method::PUT, &path, &ada.access, &twice).await.expect_problem(400, "invalid_field");
    let replaced = json!({ "credentials": [{ "env_var": "B", "value": "5" }], "replace": true });
    app.call(Method::PUT, &path, &ada.access, &replaced).await.expect(200);
    assert_eq!(revealed(&app, &service, &ada.id).await, json!({ "B": "5" }));
    assert_eq!(
        app.internal(&decrypt(&ada.id), Some(&service), &json!({ "env_vars": ["B"] })).await.expect(200)["env"],
        json!({ "B": "5" })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_come_from_files_and_go_into_encrypted_ones() {
    let (app, ada, service) = scene().await;
    store(&app, &ada, "KEPT", "old").await;
    store(&app, &ada, "BOTH", "old").await;
    let import = async |body: Value| app.call(Method::POST, "/api/mcp/credentials/import", &ada.access, &body).await;
    let env =
        |strategy: &str, content: &str| json!({ "server_id": "everything", "format": "env", "content": content, "strategy": strategy });
    let done = import(env("append", "BOTH=new\nexport NEW=\"a b\" # c\n")).await.expect(200);
    assert_eq!(done, json!({ "servers": 1, "stored": 1, "kept": 1 }));
    assert_eq!(revealed(&app, &service, &ada.id).await, json!({ "BOTH": "old", "KEPT": "old", "NEW": "a b" }));
    import(env("overlay", "BOTH=$HOME")).await.expect(200);
    assert_eq!(revealed(&app, &service, &ada.id).await, json!({ "BOTH": "$HOME", "KEPT": "old", "NEW": "a b" }));
    let json_file = json!({ "format": "json", "content": json!({ "everything": { "ONLY": "this" }, "fetch": { "X": "y" } }).to_string(), "strategy": "replace" });
    assert_eq!(import(json_file).await.expect(200)["servers"], 2);
    assert_eq!(revealed(&app, &service, &ada.id).await, json!({ "ONLY": "this" }));
    for (body, code) in [
        (env("overlay", "hunter2"), "invalid_field"),
        (env("overlay", "PATH=hunter2"), "invalid_field"),
        (env("overlay", "A=1\nA=hunter2"), "invalid_field"),
        (env("sometimes", "A=hunter2"), "invalid_field"),
        (json!({ "format": "env", "content": "A=hunter2" }), "invalid_field"),
        (json!({ "format": "json", "content": "{\"A\":[\"hunter2\"]}", "server_id": "everything" }), "invalid_field"),
        (json!({ "format": "age", "content": "hunter2", "passphrase": "hunter2" }), "invalid_field"),
        (json!({ "format": "json", "content": "{\"no-such-server\":{\"A\":\"hunter2\"}}" }), "server_not_found"),
    ] {
        let answer = import(body).await;
        assert_eq!(answer.json()["code"], code, "{}", answer.text());
        assert!(!answer.text().contains("hunter2"), "{}", answer.text());
    }
    let both = app.service(&["credentials:reveal"], Some(&["everything", "fetch"])).await;
    let path = format!("{PATH}/{}/export", ada.id);
    app.call(Method::POST, &path, &both, &json!({ "passphrase": "violet anvil harbour" })).await.expect_problem(405, "method_not_allowed");
    app.internal(&path, Some(&ada.access), &json!({ "passphrase": "violet anvil harbour" })).await.expect_problem(403, "forbidden");
    app.internal(&path, Some(&both), &json!({ "passphrase": "short" })).await.expect_problem(400, "invalid_field");
    app.internal(&path, Some(&both), &json!({ "recipient": "age1nothing" })).await.expect_problem(400, "invalid_field");
    let file = app.internal(&path, Some(&both), &json!({ "passphrase": "violet anvil harbour" })).await;
    assert!(file.status == 200 && file.text().starts_with("-----BEGIN AGE ENCRYPTED FILE-----"), "{}", file.text());
    assert!(!file.text().contains("this"));
    let bob = app.person("bob@example.com", "member").await;
    let opened = |passphrase: &str| json!({ "format": "age", "content": file.text(), "passphrase": passphrase });
    app.call(Method::POST, "/api/mcp/credentials/import", &bob.access, &opened("violet anvil harbours"))
        .await
        .expect_problem(400, "invalid_field");
    app.call(Method::POST, "/api/mcp/credentials/import", &bob.access, &opened("violet anvil harbour")).await.expect(200);
    assert_eq!(revealed(&app, &service, &bob.id).await, json!({ "ONLY": "this" }));
    assert_eq!(app.trail("&action=credential.export").await.len(), 1);
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
