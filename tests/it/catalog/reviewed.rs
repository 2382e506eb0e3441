//! Ways around what the catalogue promises, each of which was open once.

use reqwest::Method;
use serde_json::json;

use super::{CATALOG, RULES, catalogue, names};
use crate::{
    gateway::Gateway,
    support::{Mcp, PASSWORD, eventually},
};

const OWN: &str = "/api/mcp/users/me/servers";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_denied_does_not_start_by_an_old_instance_and_can_be_switched_off() {
    let gateway = Gateway::with(&[]).await;
    let app = &gateway.app;
    gateway.install("alpha", &json!({})).await;
    let wanted = json!({ "server_id": "alpha", "enabled": true, "lifecycle": "on_demand" });
    app.op_post_json(OWN, &wanted).await.expect(201);
    let client = Mcp::connect(&format!("{}/mcp/s/alpha", app.url), &app.token, "2025-11-25").await;
    assert_eq!(client.tool("echo", json!({ "message": "x" })).await.text(), "Echo: x");
    let list = app.op_get("/api/mcp/instances?server_id=alpha").await.expect(200);
    let id = list["instances"][0]["id"].as_str().unwrap().to_owned();
    app.op_post_json(RULES, &json!({ "effect": "deny", "pattern": "alpha" })).await.expect(201);
    eventually(15, "it is stopped", || async { (app.instance(&json!(id)).await["state"] == "STOPPED").then_some(()) }).await;
    let call = app.op_post_json(&format!("/api/mcp/instances/{id}/tools/echo/call"), &json!({ "arguments": { "message": "x" } })).await;
    call.expect_problem(403, "server_denied");
    assert_eq!(app.instance(&json!(id)).await["state"], "STOPPED");
    let bulk = app.op_post_json("/api/mcp/bulk", &json!({ "action": "disable", "filter": { "enabled": true } })).await.expect(202);
    assert_eq!(bulk["total"], 1);
    eventually(10, "it is switched off", || async {
        let own = app.op_get(OWN).await.expect(200);
        (own["servers"][0]["enabled"] == false).then_some(())
    })
    .await;
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_left_behind_is_vouched_for_by_nobody() {
    let (app, ada, bob) = catalogue().await;
    app.make(&ada.access, &json!({ "name": "handy", "image": "npm:anything@1.0.0", "description": "x", "visibility": "shared" }))
        .await
        .expect(201);
    let leave = app.call(Method::DELETE, "/api/mcp/users/me", &ada.access, &json!({ "password": PASSWORD })).await;
    assert_eq!(leave.status, 204, "{}", leave.text());
    let install = app.call(Method::POST, "/api/mcp/packages/install", &bob.access, &json!({ "name": "handy" })).await;
    install.expect_problem(403, "forbidden");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_hears_of_the_installation_of_a_private_server() {
    let (app, ada, bob) = catalogue().await;
    let before = app.op_get("/api/mcp/catalog?type=custom").await.expect(200)["total"].clone();
    app.make(&app.token, &json!({ "name": "diary", "image": "npm:diary@1.0.0", "description": "x" })).await.expect(201);
    let begun = app.op_post_json("/api/mcp/packages/install", &json!({ "name": "diary" })).await.expect(202);
    app.job(begun["job_id"].as_str().unwrap()).await;
    let all = app.op_get("/api/mcp/packages").await.text();
    assert!(all.contains("diary"), "{all} {before}");
    for person in [&ada, &bob] {
        assert!(!app.look(&person.access, "/api/mcp/packages").await.text().contains("diary"));
        app.look(&person.access, "/api/mcp/packages/by-name/diary").await.expect_problem(404, "not_installed");
        app.look(&person.access, "/api/mcp/packages/updates").await.expect(200);
    }
    let told: i64 = sqlx::query_scalar("SELECT count(*) FROM mcp_fabric.events WHERE server_id = 'diary' AND owner IS NULL")
        .fetch_one(&mut app.database.connect().await)
        .await
        .unwrap();
    assert_eq!(told, 0);
    // The name of what is installed is nobody else's, though its server goes.
    app.make(&ada.access, &json!({ "name": "diary", "image": "npm:x@1.0.0", "description": "x" }))
        .await
        .expect_problem(409, "server_name_taken");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_for_one_address_do_not_go_to_another() {
    let (app, ada, bob) = catalogue().await;
    let remote = |url: &str| {
        let header = json!([{ "name": "Authorization", "value": "Bearer {pat}", "variables": { "pat": { "isSecret": true } } }]);
        json!({ "description": "x", "remotes": [{ "type": "streamable-http", "url": url, "headers": header }] })
    };
    let body = json!({ "name": "hub", "visibility": "shared", "document": remote("https://git.example.com/mcp") });
    app.make(&ada.access, &body).await.expect(201);
    let given = json!({ "server_id": "hub", "values": { "pat": "bobs-secret" } });
    app.call(Method::POST, OWN, &bob.access, &given).await.expect(201);
    let path = format!("{CATALOG}/hub");
    app.put(&ada.access, &path, &json!({ "title": "Git" })).await.expect(200);
    let own = app.look(&bob.access, &format!("{OWN}/hub")).await.expect(200);
    assert_eq!(own["values"]["pat"], "[secret]", "another title changes nothing");
    app.put(&ada.access, &path, &json!({ "document": remote("https://elsewhere.example.net/mcp") })).await.expect(200);
    app.look(&bob.access, &format!("{OWN}/hub")).await.expect_problem(404, "not_found");
    app.call(Method::POST, OWN, &bob.access, &json!({ "server_id": "hub" })).await.expect(201);
    let own = app.look(&bob.access, &format!("{OWN}/hub")).await.expect(200);
    assert!(own["values"].get("pat").is_none(), "{own}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_says_nothing_of_its_own_standing() {
    let (app, ada, _) = catalogue().await;
    let official = json!({ "io.modelcontextprotocol.registry/official": { "publishedAt": "2030-01-01T00:00:00Z", "updatedAt": "2030-01-01T00:00:00Z" } });
    let document = |title: &str| json!({ "description": title, "_meta": official, "remotes": [{ "type": "sse", "url": "https://x.example.com/sse" }] });
    app.make(&ada.access, &json!({ "name": "frozen", "document": document("first") })).await.expect(201);
    let changed = app.put(&ada.access, &format!("{CATALOG}/frozen"), &json!({ "document": document("second") })).await.expect(200);
    assert_eq!((&changed["description"], &changed["document"]["description"]), (&json!("second"), &json!("second")));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_private_is_not_among_the_versions_of_what_is_public() {
    let (app, _, _) = catalogue().await;
    app.make(&app.token, &json!({ "name": "plain", "image": "npm:internal-name@1.0.0", "description": "Secret plans" })).await.expect(201);
    let path = format!("{CATALOG}/plain");
    app.put(&app.token, &path, &json!({ "image": "npm:plain@2.0.0", "description": "Fine" })).await.expect(200);
    app.put(&app.token, &path, &json!({ "visibility": "public" })).await.expect(200);
    let versions = app.get("/v0.1/servers/local.fabric%2Fplain/versions").await.expect(200);
    assert_eq!(versions["metadata"]["count"], 1, "{versions}");
    assert!(!versions.to_string().contains("internal-name"));
    app.get("/v0.1/servers/local.fabric%2Fplain/versions/1.0.0").await.expect_problem(404, "server_not_found");
    let owners = app.op_get(&format!("{path}/diff?to=-9223372036854775808")).await;
    owners.expect_problem(404, "revision_not_found");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_server_takes_no_virtual_server_down() {
    let gateway = Gateway::with(&[]).await;
    let app = &gateway.app;
    for name in ["alpha", "beta"] {
        gateway.run(name, &json!({})).await;
    }
    let source = app.op_post_json("/api/mcp/sources", &json!({ "type": "alpha" })).await.expect(201);
    let both = json!({ "name": "both", "server_ids": ["beta"], "source_ids": [source["id"]] });
    let made = app.op_post_json("/api/mcp/virtual-servers", &both).await.expect(201);
    app.person("root@example.org", "admin").await;
    app.op_post_json(RULES, &json!({ "effect": "deny", "pattern": "alpha" })).await.expect(201);
    let client = Mcp::connect(made["url"].as_str().unwrap(), &app.token, "2025-11-25").await;
    let offered = eventually(10, "it offers what is left", || async {
        let names = client.names("tools/list").await;
        (!names.iter().any(|name| name.starts_with("alpha"))).then_some(names)
    })
    .await;
    assert!(offered.contains(&"beta__echo".to_owned()));
    let path = format!("/api/mcp/virtual-servers/{}", made["id"].as_str().unwrap());
    app.call(Method::PUT, &path, &app.token, &json!({ "name": "one" })).await.expect(200);
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_install_does_not_hang_on_private_documents() {
    let (app, ada, _) = catalogue().await;
    app.make(&ada.access, &json!({ "name": "trap", "image": "pypi:good-weather@1.0.0", "description": "x" })).await.expect(201);
    // The name is of npm alone in the catalogue, and stays so.
    let install = app.op_post_json("/api/mcp/packages/install", &json!({ "name": "good-weather" })).await;
    assert_eq!(install.status, 202, "{}", install.text());
    for reserved in ["rules", "custom"] {
        let body = json!({ "name": reserved, "image": "npm:x@1.0.0", "description": "x" });
        app.make(&ada.access, &body).await.expect_problem(422, "invalid_server");
    }
    // A hidden one is removed by administrators: else it would come back shown.
    app.make(&ada.access, &json!({ "name": "noise", "image": "npm:x@1.0.0", "description": "x", "visibility": "shared" }))
        .await
        .expect(201);
    app.put(&app.token, &format!("{CATALOG}/noise"), &json!({ "hidden": true })).await.expect(200);
    app.remove(&ada.access, "/api/mcp/catalog/custom/noise").await.expect_problem(403, "forbidden");
    assert!(names(&app.look(&ada.access, "/api/mcp/catalog?own=true").await.expect(200)).contains(&"trap"));
    app.stop().await;
}
