//! Canaries: secrets that go in through every door, and are then looked for everywhere else.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{binary_command, cluster, eventually};

const CANARIES: [&str; 7] = [
    "canary-value-7f3a91",
    "canary-bulk-7f3a92",
    "canary-password-93 7f3a93 anvil",
    "canary-newword-94 7f3a94 anvil",
    "canary-garbage-7f3a95",
    "canary-refresh-7f3a96",
    "canary-wrap-7f3a97",
];

#[tokio::test(flavor = "multi_thread")]
async fn secrets_stay_where_they_belong() {
    let database = cluster::database().await;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    cluster::share_roles(&data).await;
    let url = database.url();
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let settings = [("DATABASE_URL", url.as_str()), ("FABRIC_LOG", "trace"), ("FABRIC_RATE_LIMIT", "0")];
    let mut program = binary_command(&data, &settings, &[]).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let serving = eventually(60, "it serves", || async { std::fs::read_to_string(data.join("serve.json")).ok() }).await;
    let base = serde_json::from_str::<Value>(&serving).unwrap()["url"].as_str().unwrap().to_owned();
    let operator = std::fs::read_to_string(data.join("operator.token")).unwrap().trim().to_owned();
    let http = reqwest::Client::new();
    let inside = reqwest::Client::builder().unix_socket(data.join("internal.sock")).build().unwrap();
    let mut said = Vec::new();
    let mut secrets: Vec<String> = CANARIES.iter().map(|canary| (*canary).to_owned()).collect();
    secrets.extend([operator.clone(), crate::support::keys()[0].to_owned(), crate::support::keys()[1].to_owned()]);
    let call = async |method: Method, path: &str, token: &str, body: Value| {
        let request = http.request(method, format!("{base}{path}")).bearer_auth(token);
        let answer = if body.is_null() { request } else { request.json(&body) }.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let [value, bulk, password, new_password, garbage, refresh, wrap] = CANARIES;
    let registered =
        call(Method::POST, "/api/mcp/auth/register", &operator, json!({ "email": "ada@example.com", "password": password })).await;
    assert_eq!(registered.0, 201, "{}", registered.1);
    let id = serde_json::from_str::<Value>(&registered.1).unwrap()["id"].as_str().unwrap().to_owned();
    let login: Value = serde_json::from_str(
        &call(Method::POST, "/api/mcp/auth/login", "", json!({ "email": "ada@example.com", "password": password })).await.1,
    )
    .unwrap();
    let access = login["access_token"].as_str().unwrap().to_owned();
    secrets.extend([access.clone(), login["refresh_token"].as_str().unwrap().to_owned()]);
    let server = "everything";
    for body in [
        json!({ "server_id": server, "env_var": "KEY", "value": value }),
        json!({ "server_id": server, "env_var": garbage, "value": garbage }),
        json!({ "server_id": garbage, "env_var": "KEY", "value": garbage }),
        json!({ "server_id": server, "env_var": "KEY", "value": [garbage] }),
        json!({ "server_id": server, "env_var": "KEY", "value": garbage, "kind": garbage, "expires_at": garbage }),
    ] {
        said.push(call(Method::POST, "/api/mcp/credentials", &access, body).await.1);
    }
    let many = json!({ "credentials": [{ "env_var": "OTHER", "value": bulk }] });
    said.push(call(Method::PUT, &format!("/api/mcp/credentials/{id}/{server}"), &access, many).await.1);
    let raw = http.post(format!("{base}/api/mcp/credentials")).bearer_auth(&access).header("content-type", "application/json");
    said.push(raw.body(format!("{{\"value\":\"{garbage}\",,}}")).send().await.unwrap().text().await.unwrap());
    said.push(call(Method::POST, "/api/mcp/auth/login", "", json!({ "email": "ada@example.com", "password": garbage })).await.1);
    said.push(call(Method::POST, "/api/mcp/auth/refresh", "", json!({ "refresh_token": refresh })).await.1);
    said.push(call(Method::GET, "/api/mcp/jobs", garbage, Value::Null).await.1);
    said.push(call(Method::GET, &format!("/api/mcp/credentials/{id}/{server}"), &access, Value::Null).await.1);
    let made = call(
        Method::POST,
        "/api/mcp/tokens",
        &operator,
        json!({ "name": "x", "kind": "service", "scopes": ["credentials:reveal"], "servers": [server] }),
    )
    .await
    .1;
    let service = serde_json::from_str::<Value>(&made).unwrap()["token"].as_str().unwrap().to_owned();
    secrets.push(service.clone());
    let reveal = |path: String, body: Value| inside.post(format!("http://localhost{path}")).bearer_auth(&service).json(&body).send();
    let revealed = reveal(format!("/api/mcp/credentials/{id}/{server}/decrypt"), json!({})).await.unwrap().text().await.unwrap();
    assert!(revealed.contains(value) && revealed.contains(bulk), "{revealed}");
    let wrapped: Value = reveal(format!("/api/mcp/credentials/{id}/{server}/wrap"), json!({})).await.unwrap().json().await.unwrap();
    secrets.push(wrapped["wrap_token"].as_str().unwrap().to_owned());
    said.push(reveal("/api/mcp/credentials/unwrap".into(), json!({ "wrap_token": wrap })).await.unwrap().text().await.unwrap());
    assert_eq!(reveal("/api/mcp/credentials/unwrap".into(), json!({ "wrap_token": wrapped["wrap_token"] })).await.unwrap().status(), 200);
    let changed =
        call(Method::PUT, "/api/mcp/users/me/password", &access, json!({ "current_password": password, "new_password": new_password }))
            .await;
    assert_eq!(changed.0, 204, "{}", changed.1);
    for job in ["verify", "migrate"] {
        said.push(call(Method::POST, &format!("/api/mcp/credentials/{job}"), &operator, Value::Null).await.1);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for path in [
        "/metrics",
        "/openapi.json",
        "/api/mcp/audit?limit=1000",
        "/api/mcp/audit/export",
        "/api/mcp/audit/export?format=csv",
        "/api/mcp/jobs?limit=200",
        "/api/mcp/tokens?service=true",
        "/health/ready",
    ] {
        said.push(call(Method::GET, path, &operator, Value::Null).await.1);
    }
    let environment = std::fs::read(format!("/proc/{}/cmdline", program.id())).unwrap();
    said.push(String::from_utf8_lossy(&environment).into_owned());
    program.kill().unwrap();
    program.wait().unwrap();
    said.push(std::fs::read_to_string(folder.path().join("log")).unwrap());
    said.push(dump(&database).await);
    for (n, text) in said.iter().enumerate() {
        for secret in &secrets {
            assert!(
                !text.contains(secret.as_str()),
                "{secret} is in text {n}: {}",
                text.lines().find(|line| line.contains(secret.as_str())).unwrap()
            );
        }
    }
}

/// Everything in the database, row by row, as a dump would have it.
async fn dump(database: &cluster::TestDatabase) -> String {
    let mut connection = database.connect().await;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let mut text = String::new();
    for table in tables {
        let rows: Vec<String> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT t::text FROM {table} t"))).fetch_all(&mut connection).await.unwrap();
        text += &[table, rows.join("\n"), String::new()].join("\n");
    }
    assert!(text.contains("ada@example.com") && text.contains("credentials.mcp_credentials"));
    text
}
