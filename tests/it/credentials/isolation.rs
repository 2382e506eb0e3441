//! Rights and rows, as roles and other users see them.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::{PATH, credential, execute, scene, store};
use crate::support::{TestApp, eventually};

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
