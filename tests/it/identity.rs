//! Accounts, logins, refresh tokens, tokens: who gets in, and who does not any more.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{PASSWORD, TestApp, eventually};

const ME: &str = "/api/mcp/users/me";

#[tokio::test(flavor = "multi_thread")]
async fn the_first_account_needs_the_operator_and_is_an_admin() {
    let app = TestApp::start().await;
    let body = json!({ "email": " Ada@Example.com ", "password": PASSWORD });
    app.post("/api/mcp/auth/register", &body).await.expect_problem(403, "registration_refused");
    let ada = app.op_post_json("/api/mcp/auth/register", &body).await.expect(201);
    assert_eq!((&ada["email"], &ada["role"]), (&json!("ada@example.com"), &json!("admin")));
    assert!(["id", "created_at", "updated_at"].iter().all(|key| ada[key].is_string()));
    assert_eq!(ada.as_object().unwrap().len(), 5, "{ada}");
    let again = json!({ "email": "\u{ff21}da@example.com", "password": PASSWORD });
    app.op_post_json("/api/mcp/auth/register", &again).await.expect_problem(409, "email_taken");
    let tickets = app.post("/api/mcp/auth/login", &body).await.expect(200);
    assert_eq!((&tickets["token_type"], &tickets["expires_in"]), (&json!("Bearer"), &json!(900)));
    assert_eq!(tickets["user"], json!({ "id": ada["id"], "email": "ada@example.com", "role": "admin" }));
    assert_eq!(app.call(Method::GET, ME, tickets["access_token"].as_str().unwrap(), &Value::Null).await.expect(200)["id"], ada["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn registration_is_by_invitation_unless_it_is_open_or_closed() {
    let app = TestApp::start().await;
    let admin = app.person("ada@example.com", "admin").await;
    let register = |email: &str, invite: Option<&str>| json!({ "email": email, "password": PASSWORD, "invite": invite });
    app.post("/api/mcp/auth/register", &register("bob@example.com", None)).await.expect_problem(403, "registration_refused");
    let invited =
        app.call(Method::POST, "/api/mcp/invites", &admin.access, &json!({ "email": "bob@example.com", "role": "auditor" })).await;
    let invite = invited.expect(201)["invite"].as_str().unwrap().to_owned();
    app.post("/api/mcp/auth/register", &register("eve@example.com", Some(&invite))).await.expect_problem(403, "registration_refused");
    let bob = app.post("/api/mcp/auth/register", &register("bob@example.com", Some(&invite))).await.expect(201);
    assert_eq!(bob["role"], "auditor");
    app.post("/api/mcp/auth/register", &register("bob2@example.com", Some(&invite))).await.expect_problem(403, "registration_refused");
    let mut app = app;
    app.set("FABRIC_REGISTRATION", "open");
    app.restart().await;
    assert_eq!(app.post("/api/mcp/auth/register", &register("cy@example.com", None)).await.expect(201)["role"], "member");
    app.set("FABRIC_REGISTRATION", "closed");
    app.restart().await;
    app.post("/api/mcp/auth/register", &register("dan@example.com", None)).await.expect_problem(403, "registration_refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_first_accounts_at_once_are_one_admin() {
    let app = TestApp::start().await;
    let bodies =
        ["a@example.com", "b@example.com", "c@example.com", "d@example.com"].map(|email| json!({ "email": email, "password": PASSWORD }));
    let answers = join_all(bodies.iter().map(|body| app.op_post_json("/api/mcp/auth/register", body))).await;
    let roles: Vec<Value> = answers.iter().map(|answer| answer.expect(201)["role"].clone()).collect();
    assert_eq!(roles.iter().filter(|role| **role == "admin").count(), 1, "{roles:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_fields_are_named_and_never_quoted() {
    let app = TestApp::start().await;
    for (body, location) in [
        (json!({ "email": "not an address", "password": PASSWORD }), "body.email"),
        (json!({ "email": "ada\u{131}@example.com", "password": PASSWORD }), "body.email"),
        (json!({ "email": "\"a b\"@example.com", "password": PASSWORD }), "body.email"),
        (json!({ "email": "ada@example.com", "password": "hunter2" }), "body.password"),
        (json!({ "email": "ada@example.com", "password": "password1" }), "body.password"),
        (json!({ "email": "ada@example.com", "password": "ada@example.com" }), "body.password"),
    ] {
        let answer = app.op_post_json("/api/mcp/auth/register", &body).await;
        let problem = answer.expect_problem(400, "invalid_field");
        assert_eq!(problem["errors"][0]["location"], location);
        assert!(!answer.text().contains("hunter2"));
    }
    for body in [r#"{"email":"a@b.cd","password":["hunter2"]}"#, r#"{"email":"a@b.cd","password":"hunter2",}"#, r#"{"hunter2":1}"#] {
        let request = app.request(Method::POST, "/api/mcp/auth/login").header("content-type", "application/json").body(body);
        let answer = app.send(request).await;
        assert_eq!(answer.status, 400);
        assert!(!answer.text().contains("hunter2"), "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_login_tells_nothing() {
    let app = TestApp::start().await;
    let ada = app.person("ada@example.com", "admin").await;
    let bob = app.person("bob@example.com", "member").await;
    app.call(Method::PUT, &format!("/api/mcp/users/{}", bob.id), &ada.access, &json!({ "disabled": true })).await.expect(200);
    let mut bodies = Vec::new();
    for (email, password) in [
        ("ada@example.com", "wrong"),
        ("nobody@example.com", PASSWORD),
        ("bob@example.com", PASSWORD),
        ("not an address", PASSWORD),
        ("ada@example.com", ""),
    ] {
        let answer = app.post("/api/mcp/auth/login", &json!({ "email": email, "password": password })).await;
        let mut body = answer.expect_problem(401, "invalid_credentials");
        body["request_id"] = Value::Null;
        bodies.push(body);
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
}

/// Known and unknown accounts take the same work: the medians of both are close, however slow the machine is.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_account_takes_as_much_work_as_a_known_one() {
    let app = TestApp::start().await;
    app.person("ada@example.com", "admin").await;
    let mut times = [Vec::new(), Vec::new()];
    for n in 0..8 {
        for (which, email) in ["ada@example.com".to_owned(), format!("nobody{n}@example.com")].into_iter().enumerate() {
            let began = Instant::now();
            app.post("/api/mcp/auth/login", &json!({ "email": email, "password": "wrong password" }))
                .await
                .expect_problem(401, "invalid_credentials");
            times[which].push(began.elapsed());
        }
    }
    let [known, unknown] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2].as_secs_f64()
    });
    let ratio = unknown / known;
    assert!((0.3..3.0).contains(&ratio), "an order of magnitude would tell them apart: {ratio}");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_failures_lock_the_account_whoever_asks_and_an_admin_opens_it() {
    let app = TestApp::with(&[("FABRIC_TRUSTED_PROXIES", "127.0.0.1")]).await;
    let ada = app.person("ada@example.com", "admin").await;
    let bob = app.person("bob@example.com", "member").await;
    for (n, email) in
        ["bob@example.com", "BOB@example.com", " bob@example.com", "\u{ff42}ob@example.com", "bob@EXAMPLE.com"].iter().enumerate()
    {
        let wrong = app.request(Method::POST, "/api/mcp/auth/login").header("x-forwarded-for", format!("9.9.9.{n}"));
        app.send(wrong.json(&json!({ "email": email, "password": "wrong" }))).await.expect_problem(401, "invalid_credentials");
    }
    app.post("/api/mcp/auth/login", &json!({ "email": "bob@example.com", "password": PASSWORD }))
        .await
        .expect_problem(401, "invalid_credentials");
    app.call(Method::GET, ME, &bob.access, &Value::Null).await.expect(200);
    let reset = app.call(Method::POST, &format!("/api/mcp/users/{}/reset-password", bob.id), &ada.access, &Value::Null).await.expect(200);
    let fresh = json!({ "email": "bob@example.com", "password": reset["password"] });
    app.post("/api/mcp/auth/login", &fresh).await.expect(200);
    app.call(Method::GET, ME, &bob.access, &Value::Null).await.expect_problem(401, "unauthenticated");
    let locked = app.trail("&action=session.login&outcome=denied").await;
    assert_eq!(locked.iter().filter(|event| event["detail"]["locks"] == true).count(), 1);
    assert!(locked.iter().all(|event| event["owner"] == format!("user:{}", bob.id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_in_the_form_of_bcrypt_is_taken_and_replaced() {
    let app = TestApp::start().await;
    let ada = app.person("ada@example.com", "admin").await;
    let mut connection = app.database.connect().await;
    // What the requirements' own program wrote for this password.
    let bcrypt = "$2b$04$oWZSYBMAJTCX9yAQtvHvaOuPwQY.4Sa.RvRfvM7QEPXMaPpNvBi.W";
    sqlx::query("UPDATE identity.users SET hashed_password = $1").bind(bcrypt).execute(&mut connection).await.unwrap();
    let login = json!({ "email": "ada@example.com", "password": "bcrypt anvil 93" });
    app.post("/api/mcp/auth/login", &login).await.expect(200);
    let hash: String = sqlx::query_scalar("SELECT hashed_password FROM identity.users").fetch_one(&mut connection).await.unwrap();
    assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    app.post("/api/mcp/auth/login", &login).await.expect(200);
    assert_eq!(app.trail("&action=session.login&outcome=success").await[1]["detail"]["rehashed"], true);
    drop(ada);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_refreshes_at_once_leave_one_family_and_nobody_logged_out() {
    let app = TestApp::start().await;
    let ada = app.person("ada@example.com", "admin").await;
    let body = json!({ "refresh_token": ada.refresh });
    let answers = join_all((0..20).map(|_| app.post("/api/mcp/auth/refresh", &body))).await;
    let tokens: std::collections::BTreeSet<String> =
        answers.iter().map(|answer| answer.expect(200)["refresh_token"].as_str().unwrap().to_owned()).collect();
    assert_eq!(tokens.len(), 1, "one successor for all");
    for answer in &answers {
        app.call(Method::GET, ME, answer.json()["access_token"].as_str().unwrap(), &Value::Null).await.expect(200);
    }
    let next = json!({ "refresh_token": tokens.first().unwrap() });
    let newest = app.post("/api/mcp/auth/refresh", &next).await.expect(200);
    // The first token again, when its successor has been used: somebody else has it.
    app.post("/api/mcp/auth/refresh", &body).await.expect_problem(401, "invalid_refresh_token");
    app.post("/api/mcp/auth/refresh", &json!({ "refresh_token": newest["refresh_token"] }))
        .await
        .expect_problem(401, "invalid_refresh_token");
    app.call(Method::GET, ME, newest["access_token"].as_str().unwrap(), &Value::Null).await.expect_problem(401, "unauthenticated");
    let reuse = app.trail("&action=session.reuse").await;
    assert_eq!((reuse.len(), &reuse[0]["event_type"]), (1, &json!("warning")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_that_was_used_long_ago_ends_the_login() {
    let app = TestApp::start().await;
    let ada = app.person("ada@example.com", "admin").await;
    let body = json!({ "refresh_token": ada.refresh });
    app.post("/api/mcp/auth/refresh", &body).await.expect(200);
    let mut connection = app.database.connect().await;
    sqlx::query("UPDATE identity.refresh_tokens SET used_at = used_at - interval '11 seconds'").execute(&mut connection).await.unwrap();
    app.post("/api/mcp/auth/refresh", &body).await.expect_problem(401, "invalid_refresh_token");
    app.call(Method::GET, ME, &ada.access, &Value::Null).await.expect_problem(401, "unauthenticated");
    for rubbish in ["", "x", &ada.access] {
        app.post("/api/mcp/auth/refresh", &json!({ "refresh_token": rubbish })).await.expect_problem(401, "invalid_refresh_token");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_a_login_ends_it_at_once_here_and_soon_elsewhere() {
    let app = TestApp::start().await;
    let beside = TestApp::beside(&app).await;
    let admin = app.person("root@example.com", "admin").await;
    let ada = app.person("ada@example.com", "member").await;
    let path = format!("/api/mcp/users/{}", ada.id);
    let changed = json!({ "current_password": PASSWORD, "new_password": "another anvil 94 quince" });
    beside.call(Method::GET, ME, &ada.access, &Value::Null).await.expect(200);
    assert_eq!(app.call(Method::PUT, "/api/mcp/users/me/password", &ada.access, &changed).await.status, 204);
    app.call(Method::GET, ME, &ada.access, &Value::Null).await.expect_problem(401, "unauthenticated");
    eventually(5, "the other replica hears of it", || async {
        (beside.call(Method::GET, ME, &ada.access, &Value::Null).await.status == 401).then_some(())
    })
    .await;
    app.post("/api/mcp/auth/refresh", &json!({ "refresh_token": ada.refresh })).await.expect_problem(401, "invalid_refresh_token");
    let changed_login = json!({ "email": "ada@example.com", "password": "another anvil 94 quince" });
    let log_in = || app.post("/api/mcp/auth/login", &changed_login);
    for (method, path, body) in [
        (Method::POST, "/api/mcp/auth/logout".to_owned(), Value::Null),
        (Method::PUT, path.clone(), json!({ "role": "auditor" })),
        (Method::PUT, path.clone(), json!({ "disabled": true })),
    ] {
        let access = log_in().await.expect(200)["access_token"].as_str().unwrap().to_owned();
        app.call(Method::GET, ME, &access, &Value::Null).await.expect(200);
        let token = if body.is_null() { &access } else { &admin.access };
        assert!(app.call(method, &path, token, &body).await.status < 300, "{path} {body}");
        app.call(Method::GET, ME, &access, &Value::Null).await.expect_problem(401, "unauthenticated");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn access_tokens_end_by_themselves() {
    let app = TestApp::with(&[("FABRIC_JWT_TTL", "1s")]).await;
    let ada = app.person("ada@example.com", "admin").await;
    app.call(Method::GET, ME, &ada.access, &Value::Null).await.expect(200);
    // One second, and the five that clocks may be apart.
    eventually(9, "the token ends", || async { (app.call(Method::GET, ME, &ada.access, &Value::Null).await.status == 401).then_some(()) })
        .await;
    app.post("/api/mcp/auth/refresh", &json!({ "refresh_token": ada.refresh })).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_shown_once_limited_and_ended() {
    let app = TestApp::start().await;
    app.person("root@example.com", "admin").await;
    let ada = app.person("ada@example.com", "member").await;
    let make = async |body: Value| app.call(Method::POST, "/api/mcp/tokens", &ada.access, &body).await;
    let made = make(json!({ "name": "script", "scopes": ["catalogue:read"] })).await.expect(201);
    let token = made["token"].as_str().unwrap().to_owned();
    assert!(token.starts_with("fpt_") && token.len() == 54, "{token}");
    assert_eq!(app.call(Method::GET, ME, &token, &Value::Null).await.expect(200)["id"], ada.id);
    app.call(Method::POST, "/api/mcp/tokens", &token, &json!({ "name": "x", "scopes": ["admin"] })).await.expect_problem(403, "forbidden");
    app.call(Method::POST, "/api/mcp/servers/everything/cache", &token, &Value::Null).await.expect_problem(403, "forbidden");
    let listed = app.call(Method::GET, "/api/mcp/tokens", &ada.access, &Value::Null).await;
    assert_eq!(listed.expect(200)["tokens"][0]["name"], "script");
    assert!(!listed.text().contains(&token[..30]), "{}", listed.text());
    let ended = make(json!({ "name": "x", "scopes": ["admin"], "expires_at": "2020-01-01T00:00:00Z" })).await;
    ended.expect_problem(400, "invalid_field");
    let soon = platform::clock::now() + chrono::TimeDelta::milliseconds(1500);
    let short = make(json!({ "name": "x", "scopes": ["catalogue:read"], "expires_at": soon })).await.expect(201)["token"]
        .as_str()
        .unwrap()
        .to_owned();
    app.call(Method::GET, ME, &short, &Value::Null).await.expect(200);
    tokio::time::sleep(Duration::from_millis(1600)).await;
    app.call(Method::GET, ME, &short, &Value::Null).await.expect_problem(401, "unauthenticated");
    for body in [
        json!({ "name": "", "scopes": ["catalogue:read"] }),
        json!({ "name": "x", "scopes": [] }),
        json!({ "name": "x", "scopes": ["everything"] }),
        json!({ "name": "x", "scopes": ["catalogue:read"], "servers": [] }),
        json!({ "name": "x", "kind": "operator", "scopes": ["admin"] }),
    ] {
        let answer = make(body).await;
        assert!(matches!(answer.status, 400 | 403), "{}", answer.text());
    }
    make(json!({ "name": "x", "kind": "service", "scopes": ["admin"] })).await.expect_problem(403, "forbidden");
    let path = format!("/api/mcp/tokens/{}", made["id"].as_str().unwrap());
    let bob = app.person("bob@example.com", "member").await;
    app.call(Method::DELETE, &path, &bob.access, &Value::Null).await.expect_problem(404, "not_found");
    assert_eq!(app.call(Method::DELETE, &path, &ada.access, &Value::Null).await.status, 204);
    app.call(Method::GET, ME, &token, &Value::Null).await.expect_problem(401, "unauthenticated");
    app.call(Method::DELETE, &path, &ada.access, &Value::Null).await.expect_problem(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_operator_token_is_replaced_at_the_next_start() {
    let mut app = TestApp::start().await;
    let found = app.op_get("/api/mcp/tokens?service=true").await.expect(200);
    let operator = found["tokens"].as_array().unwrap().iter().find(|token| token["kind"] == "operator").unwrap().clone();
    let path = format!("/api/mcp/tokens/{}", operator["id"].as_str().unwrap());
    assert_eq!(app.call(Method::DELETE, &path, &app.token, &Value::Null).await.status, 204);
    app.op_get("/api/mcp/jobs").await.expect_problem(401, "unauthenticated");
    app.restart().await;
    app.op_get("/api/mcp/jobs").await.expect_problem(401, "unauthenticated");
    app.token = std::fs::read_to_string(app.data().join("operator.token")).unwrap().trim().to_owned();
    app.op_get("/api/mcp/jobs").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_always_an_admin() {
    let app = TestApp::start().await;
    let ada = app.person("ada@example.com", "admin").await;
    let path = format!("/api/mcp/users/{}", ada.id);
    for body in [json!({ "role": "member" }), json!({ "disabled": true })] {
        app.call(Method::PUT, &path, &ada.access, &body).await.expect_problem(409, "last_admin");
    }
    app.call(Method::DELETE, &path, &ada.access, &Value::Null).await.expect_problem(409, "last_admin");
    app.call(Method::DELETE, ME, &ada.access, &json!({ "password": PASSWORD })).await.expect_problem(409, "last_admin");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_takes_everything_along_and_the_trail_stays_whole() {
    let app = TestApp::start().await;
    app.person("root@example.com", "admin").await;
    let ada = app.person("ada@example.com", "member").await;
    let stored = json!({ "server_id": "everything", "env_var": "API_KEY", "value": "sk-1" });
    app.call(Method::POST, "/api/mcp/credentials", &ada.access, &stored).await.expect(201);
    let before = app.op_get("/api/mcp/audit/export").await.text();
    assert!(before.contains("ada@example.com") && before.contains("127.0.0.1"));
    app.call(Method::DELETE, ME, &ada.access, &json!({ "password": "wrong" })).await.expect_problem(401, "invalid_credentials");
    assert_eq!(app.call(Method::DELETE, ME, &ada.access, &json!({ "password": PASSWORD })).await.status, 204);
    app.call(Method::GET, ME, &ada.access, &Value::Null).await.expect_problem(401, "unauthenticated");
    app.post("/api/mcp/auth/login", &json!({ "email": "ada@example.com", "password": PASSWORD }))
        .await
        .expect_problem(401, "invalid_credentials");
    let mut connection = app.database.connect().await;
    let left: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM credentials.mcp_credentials) + (SELECT count(*) FROM audit.event_pii WHERE subject = $1)",
    )
    .bind(format!("user:{}", ada.id))
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(left, 0);
    let after = app.trail(&format!("&owner=user:{}", ada.id)).await;
    assert!(after.iter().any(|event| event["action"] == "user.erase") && after.iter().any(|event| event["action"] == "credential.delete"));
    assert!(after.iter().all(|event| event["personal"].is_null()), "{after:?}");
    assert_eq!(app.op_post("/api/mcp/audit/verify").await.expect(200)["ok"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_logins_at_once_take_turns_and_health_stays() {
    let app = TestApp::start().await;
    app.person("ada@example.com", "admin").await;
    let body = json!({ "email": "ada@example.com", "password": PASSWORD });
    let logins = join_all((0..200).map(|_| app.post("/api/mcp/auth/login", &body)));
    let health = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        app.get("/health/live").await.status
    };
    let (answers, health) = tokio::join!(logins, health);
    assert_eq!(health, 200);
    let count = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!(count(200) + count(429) + count(503), 200);
    assert!(count(200) > 0);
    assert!(answers.iter().filter(|answer| answer.status == 429).all(|answer| answer.header("retry-after").is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_refused_is_in_the_trail() {
    let app = TestApp::start().await;
    app.person("root@example.com", "admin").await;
    app.post("/api/mcp/auth/login", &json!({ "email": "not an address", "password": "x" }))
        .await
        .expect_problem(401, "invalid_credentials");
    app.post("/api/mcp/auth/refresh", &json!({ "refresh_token": "rubbish" })).await.expect_problem(401, "invalid_refresh_token");
    let stranger = json!({ "email": "eve@example.com", "password": PASSWORD });
    app.post("/api/mcp/auth/register", &stranger).await.expect_problem(403, "registration_refused");
    let told = eventually(10, "three refusals are recorded", || async {
        let told: Vec<Value> = app.trail("&outcome=denied").await.iter().map(|event| event["action"].clone()).collect();
        (told.len() >= 3).then_some(told)
    });
    let mut told = told.await;
    told.sort_by_key(ToString::to_string);
    assert_eq!(told, ["access.refuse", "session.login", "session.refresh"]);
}
