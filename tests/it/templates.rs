//! Templates of configurations, and what is done with many of them: applied, exported, imported, undone.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, TestApp, data};

const TEMPLATES: &str = "/api/mcp/templates";
const SERVERS: &str = "/api/mcp/users/me/servers";

/// A catalogue with three servers that want a region, a port and a key, and one that wants nothing.
async fn catalogue() -> TestApp {
    let app = TestApp::with(&[("FABRIC_MAX_INSTANCES", "0")]).await;
    let inputs =
        json!([{ "name": "REGION", "choices": ["eu", "us"] }, { "name": "PORT", "format": "number" }, { "name": "KEY", "isSecret": true }]);
    let package = |inputs: &Value| json!({ "packages": [{ "registryType": "npm", "identifier": "x", "version": "1.0.0", "transport": { "type": "stdio" }, "environmentVariables": inputs }] });
    let mut entries: Vec<Value> =
        ["a.x/one", "a.x/two", "a.x/three"].iter().map(|name| data::entry_with(name, "1.0.0", package(&inputs), json!({}))).collect();
    entries.push(data::entry_with("a.x/bare", "1.0.0", package(&json!([])), json!({})));
    app.import(&entries).await;
    app
}

impl TestApp {
    async fn over(&self, order: &Value) -> Value {
        let begun = self.op_post_json("/api/mcp/bulk", order).await.expect(202);
        self.ended(begun["bulk_id"].as_str().unwrap()).await
    }

    async fn ended(&self, id: &str) -> Value {
        crate::support::eventually(30, "the operation ends", || async {
            let now = self.op_get(&format!("/api/mcp/bulk/{id}")).await.expect(200);
            (!matches!(now["status"].as_str(), Some("pending" | "running"))).then_some(now)
        })
        .await
    }

    async fn wanted(&self, server: &str) -> Value {
        self.op_get(&format!("{SERVERS}/{}", server.replace('/', "%2F"))).await.expect(200)
    }

    async fn template(&self, token: &str, body: &Value) -> Answer {
        self.call(Method::POST, TEMPLATES, token, body).await
    }
}

fn statuses(done: &Value) -> Vec<(&str, &str)> {
    done["items"].as_array().unwrap().iter().map(|item| (item["server_id"].as_str().unwrap(), item["status"].as_str().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_is_laid_over_many_and_taken_off_again() {
    let app = catalogue().await;
    let body = json!({ "name": "European", "description": "Near", "values": { "REGION": "eu", "PORT": 8080 }, "limits": { "processes": 20 }, "restart": "never" });
    let made = app.template(&app.token, &body).await.expect(201);
    assert_eq!(
        (&made["values"]["REGION"], &made["own"], &made["revision"], &made["enabled"]),
        (&json!("eu"), &json!(true), &json!(1), &Value::Null)
    );
    // One is as it is to be, one is another one, one is not there yet.
    let before = json!({ "server_id": "a.x/one", "values": { "REGION": "us", "KEY": "k-1" }, "restart": "always" });
    app.op_post_json(SERVERS, &before).await.expect(201);
    let same =
        json!({ "server_id": "a.x/two", "values": { "REGION": "eu", "PORT": 8080 }, "limits": { "processes": 20 }, "restart": "never" });
    app.op_post_json(SERVERS, &same).await.expect(201);
    let order = json!({ "action": "apply_template", "template_id": made["id"], "server_ids": ["a.x/one", "a.x/two", "a.x/three"] });
    let mut rehearsal = order.clone();
    rehearsal["dry_run"] = json!(true);
    let rehearsed = app.op_post_json("/api/mcp/bulk", &rehearsal).await.expect(200);
    let outcomes: Vec<&str> = rehearsed["items"].as_array().unwrap().iter().map(|item| item["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["change", "unchanged", "change"]);
    let done = app.over(&order).await;
    assert_eq!(
        (done["status"].as_str(), statuses(&done)),
        (Some("complete"), vec![("a.x/one", "done"), ("a.x/two", "unchanged"), ("a.x/three", "done")])
    );
    for server in ["a.x/one", "a.x/two", "a.x/three"] {
        let now = app.wanted(server).await;
        assert_eq!(
            (&now["values"]["REGION"], &now["values"]["PORT"], &now["restart"]),
            (&json!("eu"), &json!(8080), &json!("never")),
            "{server}"
        );
    }
    assert_eq!(app.wanted("a.x/one").await["values"]["KEY"], "[secret]", "what the template does not say stays");
    // What somebody changes meanwhile is theirs; the rest is as it was.
    app.op_post_json(SERVERS, &json!({ "server_id": "a.x/three", "values": { "PORT": 9090 } })).await.expect(200);
    let id = done["bulk_id"].as_str().unwrap();
    app.op_post(&format!("/api/mcp/bulk/{id}/rollback")).await.expect(202);
    let back = app.ended(id).await;
    assert_eq!(statuses(&back), [("a.x/one", "rolled_back"), ("a.x/two", "unchanged"), ("a.x/three", "kept")]);
    let one = app.wanted("a.x/one").await;
    assert_eq!(
        (&one["values"], &one["restart"], &one["limits"]["processes"]),
        (&json!({ "REGION": "us", "KEY": "[secret]" }), &json!("always"), &Value::Null)
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_named_and_changes_nothing() {
    let app = catalogue().await;
    for (body, places) in [
        (json!({ "name": "" , "enabled": true }), vec!["body.name"]),
        (json!({ "name": "x" }), vec!["body"]),
        (
            json!({ "name": "a\nb", "description": "x".repeat(501), "values": { "DB_PASSWORD": "p", "LIST": [1] }, "limits": { "processes": 0 } }),
            vec!["body.name", "body.description", "body.values.DB_PASSWORD", "body.values.LIST", "body.limits.processes"],
        ),
    ] {
        let problem = app.template(&app.token, &body).await.expect_problem(400, "invalid_field");
        let found: Vec<&str> = problem["errors"].as_array().unwrap().iter().map(|one| one["location"].as_str().unwrap()).collect();
        assert!(places.iter().all(|place| found.contains(place)), "{body}: {problem}");
    }
    app.template(&app.token, &json!({ "name": "x", "colour": "red" })).await.expect_problem(400, "invalid_body");
    let made = app.template(&app.token, &json!({ "name": "x", "values": { "REGION": "mars", "NOPE": 1 } })).await.expect(201);
    app.template(&app.token, &json!({ "name": "x", "enabled": true })).await.expect_problem(400, "invalid_field");
    // Against the servers that it is applied to, each of them.
    let order = json!({ "action": "apply_template", "template_id": made["id"], "server_ids": ["a.x/one", "a.x/bare"] });
    let problem = app.op_post_json("/api/mcp/bulk", &order).await.expect_problem(400, "invalid_field");
    let messages = problem["errors"].to_string();
    assert!(messages.contains("a.x/one: ") && messages.contains("a.x/bare: "), "{messages}");
    for (order, location) in [
        (json!({ "action": "apply_template", "server_ids": ["a.x/one"] }), "body.template_id"),
        (json!({ "action": "enable", "template_id": made["id"], "server_ids": ["a.x/one"] }), "body.template_id"),
        (json!({ "action": "import", "server_ids": ["a.x/one"] }), "body.document"),
        (json!({ "action": "enable", "document": { "servers": [] } }), "body.document"),
        (json!({ "action": "import", "document": { "servers": [] }, "server_ids": ["a.x/one"] }), "body.server_ids"),
        (json!({ "action": "import", "document": { "nothing": [] } }), "body.document"),
        (json!({ "action": "import", "document": { "servers": [{ "server_id": "a.x/gone" }] } }), "body.document.servers[0].server_id"),
        (
            json!({ "action": "import", "document": { "servers": [{ "server_id": "a.x/one", "values": { "KEY": "s3cret" } }] } }),
            "body.document.KEY",
        ),
    ] {
        let answer = app.op_post_json("/api/mcp/bulk", &order).await;
        assert!(!answer.text().contains("s3cret"));
        assert_eq!(answer.expect_problem(400, "invalid_field")["errors"][0]["location"], location, "{order}");
    }
    let unknown = json!({ "action": "apply_template", "template_id": "01a21fc2-7a34-73a1-b6b5-80a15012df64", "server_ids": ["a.x/one"] });
    app.op_post_json("/api/mcp/bulk", &unknown).await.expect_problem(404, "template_not_found");
    app.op_post_json("/api/mcp/bulk", &json!({ "action": "export", "server_ids": ["a.x/one"], "atomic": true }))
        .await
        .expect_problem(400, "not_reversible");
    assert_eq!(app.op_get(SERVERS).await.expect(200)["servers"], json!([]));
    assert_eq!(app.op_get("/api/mcp/bulk").await.expect(200)["operations"], json!([]));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_are_their_owners_unless_they_are_shared() {
    let app = catalogue().await;
    app.person("root@example.org", "admin").await;
    let (ada, bob) = (app.person("ada@example.org", "member").await, app.person("bob@example.org", "member").await);
    let own = app.template(&ada.access, &json!({ "name": "mine", "enabled": false })).await.expect(201);
    app.template(&bob.access, &json!({ "name": "mine", "enabled": false })).await.expect(201);
    app.template(&ada.access, &json!({ "name": "all", "enabled": false, "shared": true })).await.expect_problem(403, "forbidden");
    let shared = app.template(&app.token, &json!({ "name": "all", "restart": "never", "shared": true })).await.expect(201);
    let list = app.send(app.request(Method::GET, TEMPLATES).bearer_auth(&bob.access)).await.expect(200);
    let names: Vec<_> =
        list["templates"].as_array().unwrap().iter().map(|one| (one["name"].as_str().unwrap(), one["own"].as_bool().unwrap())).collect();
    assert_eq!(names, [("mine", true), ("all", false)]);
    let path = |template: &Value| format!("{TEMPLATES}/{}", template["id"].as_str().unwrap());
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        app.call(method, &path(&own), &bob.access, &json!({})).await.expect_problem(404, "template_not_found");
    }
    for method in [Method::PUT, Method::DELETE] {
        app.call(method, &path(&shared), &bob.access, &json!({ "name": "Bob's" })).await.expect_problem(403, "forbidden");
    }
    let order = |template: &Value| json!({ "action": "apply_template", "template_id": template["id"], "server_ids": ["a.x/one"] });
    app.call(Method::POST, "/api/mcp/bulk", &bob.access, &order(&own)).await.expect_problem(404, "template_not_found");
    app.call(Method::POST, "/api/mcp/bulk", &bob.access, &order(&shared)).await.expect(202);
    // Its owner changes it, with the revision that they saw.
    let stale = app.request(Method::PUT, &path(&own)).bearer_auth(&ada.access).header("if-match", "\"7\"").json(&json!({ "name": "x" }));
    app.send(stale).await.expect_problem(412, "stale_revision");
    let changed = app.call(Method::PUT, &path(&own), &ada.access, &json!({ "values": { "REGION": "eu" } })).await.expect(200);
    assert_eq!(
        (&changed["name"], &changed["enabled"], &changed["values"], &changed["revision"]),
        (&json!("mine"), &json!(false), &json!({ "REGION": "eu" }), &json!(2))
    );
    assert_eq!(app.call(Method::DELETE, &path(&own), &ada.access, &Value::Null).await.status, 204);
    app.call(Method::GET, &path(&own), &ada.access, &Value::Null).await.expect_problem(404, "template_not_found");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_taken_in_and_given_out_by_a_job() {
    let app = catalogue().await;
    app.op_post_json(SERVERS, &json!({ "server_id": "a.x/one", "values": { "REGION": "us", "KEY": "k-1" } })).await.expect(201);
    app.op_post_json(SERVERS, &json!({ "server_id": "a.x/bare", "restart": "always" })).await.expect(201);
    let exported = app.over(&json!({ "action": "export", "filter": {} })).await;
    assert_eq!(exported["status"], "complete");
    let servers: Vec<Value> = exported["items"].as_array().unwrap().iter().map(|item| item["result"].clone()).collect();
    assert_eq!(servers.len(), 2);
    let one = servers.iter().find(|one| one["server_id"] == "a.x/one").unwrap();
    assert_eq!(one["values"], json!({ "REGION": "us", "KEY": "[secret]" }));
    // The same file changes nothing; another one does, and can be undone.
    let again = app.over(&json!({ "action": "import", "document": { "servers": servers } })).await;
    assert!(statuses(&again).iter().all(|(_, status)| *status == "unchanged"), "{again}");
    let file = json!({ "servers": [{ "server_id": "a.x/one", "values": { "REGION": "eu" } }, { "server_id": "a.x/two", "values": { "PORT": 1 } }] });
    let done = app.over(&json!({ "action": "import", "strategy": "replace", "document": file })).await;
    let mut came = statuses(&done);
    came.sort_unstable();
    assert_eq!(came, [("a.x/bare", "done"), ("a.x/one", "done"), ("a.x/two", "done")]);
    assert_eq!(app.wanted("a.x/one").await["values"], json!({ "REGION": "eu", "KEY": "[secret]" }));
    assert_eq!(app.wanted("a.x/bare").await["status"], "archived");
    let id = done["bulk_id"].as_str().unwrap();
    app.op_post(&format!("/api/mcp/bulk/{id}/rollback")).await.expect(202);
    assert_eq!(app.ended(id).await["status"], "rolled_back");
    assert_eq!(app.wanted("a.x/one").await["values"], json!({ "REGION": "us", "KEY": "[secret]" }));
    let bare = app.wanted("a.x/bare").await;
    assert_eq!((&bare["status"], &bare["restart"]), (&json!("active"), &json!("always")));
    assert_eq!(app.wanted("a.x/two").await["status"], "archived");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_waits_outside_the_vault() {
    let app = catalogue().await;
    for values in [json!({ "DB_PASSWORD": 12345 }), json!({ "NOTE": "sk-0123456789abcdef0123" })] {
        app.template(&app.token, &json!({ "name": "x", "values": values })).await.expect_problem(400, "invalid_field");
    }
    // By its name it is none; by the servers it is.
    let made = app.template(&app.token, &json!({ "name": "x", "values": { "KEY": "quiet" } })).await.expect(201);
    let order = json!({ "action": "apply_template", "template_id": made["id"], "server_ids": ["a.x/one"] });
    let problem = app.op_post_json("/api/mcp/bulk", &order).await.expect_problem(400, "invalid_field");
    assert_eq!(problem["errors"][0]["location"], "body.template_id.values.KEY");
    let file = json!({ "servers": [{ "server_id": "a.x/one", "values": { "KEY": 12345 } }] });
    app.op_post_json("/api/mcp/bulk", &json!({ "action": "import", "document": file })).await.expect_problem(400, "invalid_field");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn undoing_gives_back_what_was_wanted_when_it_was_done() {
    let app = catalogue().await;
    // An archived one: what it was is there again when it is restored.
    app.op_post_json(SERVERS, &json!({ "server_id": "a.x/one", "values": { "REGION": "us" }, "restart": "always" })).await.expect(201);
    let path = format!("{SERVERS}/a.x%2Fone");
    assert_eq!(app.call(Method::DELETE, &path, &app.token, &Value::Null).await.status, 204);
    // One whose server does not know a value any more.
    app.op_post_json(SERVERS, &json!({ "server_id": "a.x/two", "values": { "REGION": "us", "PORT": 1 } })).await.expect(201);
    let made = app.template(&app.token, &json!({ "name": "x", "restart": "never" })).await.expect(201);
    let done = app.over(&json!({ "action": "apply_template", "template_id": made["id"], "server_ids": ["a.x/one", "a.x/two"] })).await;
    assert_eq!(done["status"], "complete");
    let inputs = json!([{ "name": "REGION", "choices": ["eu", "us"] }]);
    let newer = json!({ "packages": [{ "registryType": "npm", "identifier": "x", "version": "2.0.0", "transport": { "type": "stdio" }, "environmentVariables": inputs }] });
    app.import(&[data::entry_with("a.x/two", "2.0.0", newer, json!({}))]).await;
    let id = done["bulk_id"].as_str().unwrap();
    app.op_post(&format!("/api/mcp/bulk/{id}/rollback")).await.expect(202);
    assert_eq!(statuses(&app.ended(id).await), [("a.x/one", "rolled_back"), ("a.x/two", "rolled_back")]);
    assert_eq!(app.wanted("a.x/one").await["status"], "archived");
    app.op_post(&format!("{path}/restore")).await.expect(200);
    let one = app.wanted("a.x/one").await;
    assert_eq!((&one["restart"], &one["values"]["REGION"]), (&json!("always"), &json!("us")));
    assert_eq!(app.wanted("a.x/two").await["values"]["REGION"], "us");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_takes_the_place_of_what_is_gone() {
    let app = catalogue().await;
    for server in ["a.x/one", "a.x/two"] {
        app.op_post_json(SERVERS, &json!({ "server_id": server })).await.expect(201);
    }
    app.op_post_json("/api/mcp/catalog/rules", &json!({ "effect": "deny", "pattern": "a.x/one" })).await.expect(201);
    let file = json!({ "servers": [{ "server_id": "a.x/two", "restart": "never" }] });
    let done = app.over(&json!({ "action": "import", "strategy": "replace", "document": file })).await;
    assert_eq!(done["status"], "complete", "{done}");
    app.stop().await;
}
