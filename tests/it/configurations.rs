//! What users want of servers: values against declared inputs, secrets in the vault, revisions, archive and restore.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Person, TestApp};

const PATH: &str = "/api/mcp/users/me/servers";

/// A server with an input of each kind.
fn weather() -> Value {
    json!({ "server": {
        "$schema": "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json",
        "name": "io.x/weather", "description": "Weather", "version": "1.0.0",
        "packages": [{ "registryType": "npm", "identifier": "weather", "version": "1.0.0", "transport": { "type": "stdio" },
            "environmentVariables": [
                { "name": "API_KEY", "description": "the key", "isRequired": true, "isSecret": true },
                { "name": "REGION", "description": "where", "isRequired": true, "choices": ["eu", "us"] },
                { "name": "PORT", "description": "port", "format": "number" },
                { "name": "DEBUG", "description": "chatty", "format": "boolean" },
                { "name": "LD_PRELOAD", "description": "never" }
            ] }],
        "remotes": [{ "type": "streamable-http", "url": "https://weather.example.com/mcp",
            "headers": [{ "name": "X-Api-Key", "description": "the same", "isSecret": true }] }]
    } })
}

/// Nothing of it is run here: what cannot start would be switched off.
async fn scene() -> (TestApp, Person, Person) {
    let app = TestApp::with(&[("FABRIC_MAX_INSTANCES", "0")]).await;
    app.person("root@example.com", "admin").await;
    app.import(&[weather()]).await;
    let (ada, bob) = (app.person("ada@example.com", "member").await, app.person("bob@example.com", "member").await);
    (app, ada, bob)
}

fn one(id: &str) -> String {
    format!("{PATH}/{}", id.replace('/', "%2F"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_is_made_changed_archived_and_restored() {
    let (app, ada, _) = scene().await;
    let given = json!({ "server_id": "io.x/weather", "enabled": true, "values": { "REGION": "eu", "PORT": "8080", "DEBUG": true } });
    let first = app.call(Method::POST, PATH, &ada.access, &given).await;
    let made = first.expect(201);
    assert_eq!((first.header("etag"), first.header("cache-control")), (Some("\"1\""), Some("no-store")));
    assert_eq!(made["values"], json!({ "REGION": "eu", "PORT": 8080, "DEBUG": true }));
    assert_eq!((&made["missing"], &made["enabled"], &made["status"]), (&json!(["API_KEY"]), &json!(true), &json!("active")));
    assert_eq!((&made["restart"], &made["lifecycle"], &made["sharing"]), (&json!("on_failure"), &json!("persistent"), &json!("per_user")));

    // What is not named stays; null takes a value away.
    let change =
        json!({ "serverId": "io.x/weather", "values": { "DEBUG": null }, "limits": { "memory_bytes": 134_217_728 }, "restart": "never" });
    let changed = app.call(Method::POST, PATH, &ada.access, &change).await.expect(200);
    assert_eq!((&changed["values"], &changed["revision"]), (&json!({ "REGION": "eu", "PORT": 8080 }), &json!(2)));
    assert_eq!(changed["limits"], json!({ "memory_bytes": 134_217_728, "cpu_millis": null, "processes": null }));
    let listed = app.call(Method::GET, PATH, &ada.access, &Value::Null).await.expect(200);
    assert_eq!((listed["servers"].as_array().unwrap().len(), &listed["servers"][0]["restart"]), (1, &json!("never")));

    assert_eq!(app.call(Method::DELETE, &one("io.x/weather"), &ada.access, &Value::Null).await.status, 204);
    app.call(Method::DELETE, &one("io.x/weather"), &ada.access, &Value::Null).await.expect_problem(404, "not_found");
    let listed = app.call(Method::GET, PATH, &ada.access, &Value::Null).await.expect(200);
    assert_eq!(listed["servers"], json!([]));
    let listed = app.call(Method::GET, &format!("{PATH}?status=archived"), &ada.access, &Value::Null).await.expect(200);
    assert_eq!((&listed["servers"][0]["status"], &listed["servers"][0]["enabled"]), (&json!("archived"), &json!(false)));
    let restored = app.call(Method::POST, &format!("{}/restore", one("io.x/weather")), &ada.access, &Value::Null).await.expect(200);
    assert_eq!((&restored["status"], &restored["enabled"], &restored["values"]["PORT"]), (&json!("active"), &json!(false), &json!(8080)));
    app.call(Method::POST, &format!("{}/restore", one("io.x/weather")), &ada.access, &Value::Null).await.expect_problem(404, "not_found");
    let actions: Vec<Value> = app.trail("&server_id=io.x%2Fweather").await.iter().map(|event| event["action"].clone()).collect();
    assert_eq!(
        actions[..4],
        ["configuration.restore", "configuration.archive", "configuration.put", "configuration.put"].map(|action| json!(action))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wanted_of_a_server_that_is_gone_can_be_removed_and_is_not_inherited() {
    let (app, ada, _) = scene().await;
    let given = json!({ "server_id": "io.x/weather", "enabled": true, "values": { "REGION": "eu" } });
    app.call(Method::POST, PATH, &ada.access, &given).await.expect(201);
    app.call(Method::POST, PATH, &ada.access, &json!({ "server_id": "everything" })).await.expect(201);
    let mut connection = app.database.connect().await;
    sqlx::raw_sql("UPDATE mcp_fabric.servers SET erased_at = now()").execute(&mut connection).await.unwrap();
    app.call(Method::POST, PATH, &ada.access, &given).await.expect_problem(404, "server_not_found");
    assert_eq!(app.call(Method::DELETE, &one("everything"), &ada.access, &Value::Null).await.status, 204);
    // The name comes back, and is another server.
    sqlx::raw_sql("UPDATE mcp_fabric.servers SET erased_at = NULL").execute(&mut connection).await.unwrap();
    app.call(Method::GET, &one("io.x/weather"), &ada.access, &Value::Null).await.expect_problem(404, "not_found");
    assert_eq!(app.call(Method::GET, PATH, &ada.access, &Value::Null).await.expect(200)["servers"], json!([]));
    let anew = app.call(Method::POST, PATH, &ada.access, &json!({ "server_id": "io.x/weather" })).await.expect(201);
    assert_eq!((&anew["values"], &anew["enabled"], &anew["revision"]), (&json!({}), &json!(false), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn secret_values_are_in_the_vault_alone() {
    let (app, ada, _) = scene().await;
    let given = json!({ "server_id": "io.x/weather", "values": { "API_KEY": "canary-7f3a", "X-Api-Key": "canary-91bb", "REGION": "us" } });
    let made = app.call(Method::POST, PATH, &ada.access, &given).await.expect(201);
    assert_eq!(made["values"], json!({ "REGION": "us", "API_KEY": "[secret]", "X-Api-Key": "[secret]" }));
    assert_eq!(made["missing"], json!([]));
    // What was read can be sent back as it is.
    let back = json!({ "server_id": "io.x/weather", "values": made["values"] });
    assert_eq!(app.call(Method::POST, PATH, &ada.access, &back).await.expect(200)["values"], made["values"]);
    let service = app.service(&["credentials:reveal"], Some(&["io.x/weather"])).await;
    let revealed =
        app.internal(&format!("/api/mcp/credentials/{}/io.x%2Fweather/decrypt", ada.id), Some(&service), &json!({})).await.expect(200);
    assert_eq!(revealed["env"], json!({ "API_KEY": "canary-7f3a", "X_Api_Key": "canary-91bb" }));
    let mut connection = app.database.connect().await;
    let rows: Vec<String> =
        sqlx::query_scalar("SELECT input_values::text FROM mcp_fabric.configurations").fetch_all(&mut connection).await.unwrap();
    assert_eq!(rows, [r#"{"REGION": "us"}"#]);
    let trail = json!(app.trail("").await).to_string();
    assert!(!trail.contains("canary"), "{trail}");
    let removal = json!({ "server_id": "io.x/weather", "values": { "API_KEY": null } });
    app.call(Method::POST, PATH, &ada.access, &removal).await.expect_problem(400, "invalid_field");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_a_secret_is_not_shown_and_not_kept() {
    let (app, ada, _) = scene().await;
    let given = json!({ "server_id": "io.x/weather", "values": { "REGION": "eu", "PORT": 8080 } });
    app.call(Method::POST, PATH, &ada.access, &given).await.expect(201);
    let mut newer = weather();
    newer["server"]["version"] = "1.1.0".into();
    newer["server"]["packages"][0]["environmentVariables"][2]["isSecret"] = true.into();
    app.import(&[newer]).await;
    let shown = app.call(Method::GET, &one("io.x/weather"), &ada.access, &Value::Null).await.expect(200);
    assert_eq!(shown["values"], json!({ "REGION": "eu" }));
    app.call(Method::POST, PATH, &ada.access, &json!({ "server_id": "io.x/weather", "enabled": true })).await.expect(200);
    let mut connection = app.database.connect().await;
    let rows: Vec<String> =
        sqlx::query_scalar("SELECT input_values::text FROM mcp_fabric.configurations").fetch_all(&mut connection).await.unwrap();
    assert_eq!(rows, [r#"{"REGION": "eu"}"#]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_and_changes_nothing() {
    let (app, ada, _) = scene().await;
    let with = |name: &str, value: Value| json!({ "server_id": "io.x/weather", "values": { name: value } });
    for (body, location) in [
        (with("REGION", json!("mars")), "body.values.REGION"),
        (with("PORT", json!("eighty")), "body.values.PORT"),
        (with("PORT", json!([80])), "body.values.PORT"),
        (with("DEBUG", json!("yes")), "body.values.DEBUG"),
        (with("REGION", json!("eu\0")), "body.values.REGION"),
        (with("LD_PRELOAD", json!("evil.so")), "body.values.LD_PRELOAD"),
        (with("OTHER", json!("x")), "body.values"),
        (with("'; DROP TABLE x; --", json!("x")), "body.values"),
        (with("X-Api-Key", json!("a\r\nHost: b")), "body.values.X-Api-Key"),
        (json!({ "server_id": "io.x/weather", "limits": { "memory_bytes": 1 } }), "body.limits.memory_bytes"),
        (json!({ "server_id": "io.x/weather", "limits": { "cpu_millis": 0 } }), "body.limits.cpu_millis"),
        (json!({ "server_id": "io.x/weather", "limits": { "processes": -1 } }), "body.limits.processes"),
    ] {
        let problem = app.call(Method::POST, PATH, &ada.access, &body).await.expect_problem(400, "invalid_field");
        assert_eq!(problem["errors"][0]["location"], location, "{body}: {problem}");
        assert!(!problem.to_string().contains("evil"), "{problem}");
    }
    for body in [
        json!({ "server_id": "io.x/weather", "surprise": 1 }),
        json!({ "server_id": "io.x/weather", "restart": "sometimes" }),
        json!({ "server_id": "io.x/weather", "values": [] }),
        json!({}),
    ] {
        assert_eq!(app.call(Method::POST, PATH, &ada.access, &body).await.status, 400, "{body}");
    }
    for unknown in ["no.such/server", "../../etc/passwd", "a b", "00000000-0000-7000-8000-000000000000"] {
        let answer = app.call(Method::POST, PATH, &ada.access, &json!({ "server_id": unknown })).await;
        assert_eq!(answer.status, 404, "{unknown}: {}", answer.text());
    }
    let shared = json!({ "server_id": "io.x/weather", "sharing": "shared" });
    app.call(Method::POST, PATH, &ada.access, &shared).await.expect_problem(403, "forbidden");
    app.call(Method::GET, &format!("{PATH}?status=gone"), &ada.access, &Value::Null).await.expect_problem(400, "invalid_query");
    assert_eq!(app.call(Method::GET, PATH, &ada.access, &Value::Null).await.expect(200)["servers"], json!([]));
    // The older path ignores what it does not know.
    let older = json!({ "serverId": "io.x/weather", "enabled": true, "surprise": 1 });
    app.call(Method::POST, "/api/users/me/servers", &ada.access, &older).await.expect(201);
    assert_eq!(app.call(Method::GET, "/api/users/me/servers", &ada.access, &Value::Null).await.expect(200)["servers"][0]["enabled"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_change_is_refused_and_parallel_ones_take_turns() {
    let (app, ada, _) = scene().await;
    let send = async |expected: &str, values: Value| {
        let body = json!({ "server_id": "io.x/weather", "values": values });
        app.send(app.request(Method::POST, PATH).bearer_auth(&ada.access).header("if-match", expected).json(&body)).await
    };
    send("\"1\"", json!({})).await.expect_problem(412, "stale_revision");
    send("\"0\"", json!({})).await.expect(201);
    send("seven", json!({})).await.expect_problem(400, "invalid_field");
    // A stale change stores no secret either.
    send("\"9\"", json!({ "API_KEY": "x" })).await.expect_problem(412, "stale_revision");
    assert_eq!(
        app.call(Method::GET, &one("io.x/weather"), &ada.access, &Value::Null).await.expect(200)["missing"],
        json!(["API_KEY", "REGION"])
    );
    let all = futures_util::future::join_all((0..12).map(|n| send("\"1\"", json!({ "PORT": n })))).await;
    let statuses: Vec<u16> = all.iter().map(|answer| answer.status).collect();
    assert_eq!((statuses.iter().filter(|s| **s == 200).count(), statuses.iter().filter(|s| **s == 412).count()), (1, 11), "{statuses:?}");
    let body = json!({ "server_id": "everything" });
    let all = futures_util::future::join_all((0..12).map(|_| app.call(Method::POST, PATH, &ada.access, &body))).await;
    let mut revisions: Vec<i64> = all.iter().map(|answer| answer.json()["revision"].as_i64().unwrap()).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=12).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sees_what_others_want() {
    let (app, ada, bob) = scene().await;
    let body = json!({ "server_id": "io.x/weather", "enabled": true, "values": { "API_KEY": "k", "REGION": "eu" } });
    app.call(Method::POST, PATH, &ada.access, &body).await.expect(201);
    let of_ada = app.call(Method::GET, &one("io.x/weather"), &bob.access, &Value::Null).await.expect_problem(404, "not_found");
    app.call(Method::DELETE, &one("io.x/weather"), &bob.access, &Value::Null).await.expect_problem(404, "not_found");
    assert_eq!(app.call(Method::GET, PATH, &bob.access, &Value::Null).await.expect(200)["servers"], json!([]));
    let absent = app.call(Method::GET, &one("everything"), &bob.access, &Value::Null).await.expect_problem(404, "not_found");
    assert_eq!((&of_ada["detail"], &of_ada["code"]), (&absent["detail"], &absent["code"]));
    assert_eq!(app.op_get(PATH).await.expect(200)["servers"], json!([]));
    let made = app.call(Method::POST, PATH, &bob.access, &json!({ "server_id": "io.x/weather" })).await.expect(201);
    assert_eq!((&made["missing"], &made["enabled"]), (&json!(["API_KEY", "REGION"]), &json!(false)));
    // The operator's own are the operator's, secrets included.
    let given = json!({ "server_id": "io.x/weather", "values": { "API_KEY": "o" } });
    assert_eq!(app.op_post_json(PATH, &given).await.expect(201)["values"], json!({ "API_KEY": "[secret]" }));
    assert_eq!(app.op_get(PATH).await.expect(200)["servers"].as_array().unwrap().len(), 1);
    // With the account goes what it wanted.
    assert_eq!(
        app.call(Method::DELETE, "/api/mcp/users/me", &ada.access, &json!({ "password": crate::support::PASSWORD })).await.status,
        204
    );
    let mut connection = app.database.connect().await;
    let owners: Vec<String> =
        sqlx::query_scalar("SELECT owner FROM mcp_fabric.configurations ORDER BY owner").fetch_all(&mut connection).await.unwrap();
    assert_eq!(owners, ["operator".to_owned(), format!("user:{}", bob.id)]);
}
