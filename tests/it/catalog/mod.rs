//! Servers that people make in the catalogue, who sees them, what was before, and which ones administrators allow.

mod reviewed;

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    gateway::Gateway,
    support::{Answer, Mcp, Person, TestApp, data, eventually},
};

const CATALOG: &str = "/api/mcp/catalog";
const CUSTOM: &str = "/api/mcp/catalog/custom";
const RULES: &str = "/api/mcp/catalog/rules";

async fn catalogue() -> (TestApp, Person, Person) {
    let app = TestApp::start().await;
    let package = |name: &str| json!({ "packages": [{ "registryType": "npm", "identifier": name, "version": "1.0.0", "transport": { "type": "stdio" } }] });
    app.import(&[
        data::entry_with("io.good/weather", "1.0.0", package("good-weather"), json!({})),
        data::entry_with("io.evil/weather", "1.0.0", package("evil-weather"), json!({})),
    ])
    .await;
    app.person("root@example.org", "admin").await;
    let ada = app.person("ada@example.org", "member").await;
    let bob = app.person("bob@example.org", "member").await;
    (app, ada, bob)
}

impl TestApp {
    async fn make(&self, token: &str, body: &Value) -> Answer {
        self.call(Method::POST, CUSTOM, token, body).await
    }

    async fn put(&self, token: &str, path: &str, body: &Value) -> Answer {
        self.call(Method::PUT, path, token, body).await
    }

    async fn look(&self, token: &str, path: &str) -> Answer {
        self.send(self.request(Method::GET, path).bearer_auth(token)).await
    }

    async fn remove(&self, token: &str, path: &str) -> Answer {
        self.call(Method::DELETE, path, token, &Value::Null).await
    }
}

fn names(list: &Value) -> Vec<&str> {
    let servers = list["servers"].as_array().unwrap();
    servers.iter().map(|one| one["name"].as_str().or(one["server"]["name"].as_str()).unwrap()).collect()
}

fn locations(problem: &Value) -> Vec<&str> {
    problem["errors"].as_array().unwrap().iter().map(|one| one["location"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_made_changed_and_removed_in_the_old_shape() {
    let (app, ada, _) = catalogue().await;
    let body = json!({ "name": "forecast", "image": "ghcr.io/acme/forecast:1.2.0", "description": "Weather of tomorrow", "metadata": { "team": "sky" } });
    let answer = app.call(Method::POST, "/api/catalog/custom", &ada.access, &body).await;
    let made = answer.expect(201);
    assert_eq!(answer.header("etag"), Some("\"1\""));
    for (member, value) in [
        ("name", "forecast"),
        ("image", "ghcr.io/acme/forecast:1.2.0"),
        ("description", "Weather of tomorrow"),
        ("catalog_type", "custom"),
        ("visibility", "private"),
        ("version", "1.2.0"),
        ("created_by", &ada.id),
    ] {
        assert_eq!(made[member], value, "{member}");
    }
    assert_eq!((&made["metadata"], &made["own"], &made["denied"]), (&json!({ "team": "sky" }), &json!(true), &json!(false)));
    assert_eq!(made["document"]["name"], "local.fabric/forecast");
    let id = made["id"].as_str().unwrap();
    // By its UUID as by its name, at both paths.
    for path in [format!("/api/catalog/{id}"), format!("{CATALOG}/forecast"), format!("{CATALOG}/local.fabric%2Fforecast")] {
        assert_eq!(app.look(&ada.access, &path).await.expect(200)["id"], id);
    }
    let list = app.look(&ada.access, "/api/catalog?type=custom").await.expect(200);
    assert_eq!((names(&list), &list["total"]), (vec!["forecast"], &json!(1)));
    let path = format!("/api/catalog/{id}");
    let changed = app.put(&ada.access, &path, &json!({ "image": "ghcr.io/acme/forecast:2.0.0", "visibility": "shared" })).await.expect(200);
    assert_eq!(
        (&changed["version"], &changed["description"], &changed["revision"]),
        (&json!("2.0.0"), &json!("Weather of tomorrow"), &json!(2))
    );
    let stale = app.request(Method::PUT, &path).bearer_auth(&ada.access).header("if-match", "\"1\"").json(&json!({ "title": "x" }));
    app.send(stale).await.expect_problem(412, "stale_revision");
    assert_eq!(app.remove(&ada.access, &format!("/api/catalog/custom/{id}")).await.status, 204);
    app.look(&ada.access, &path).await.expect_problem(404, "server_not_found");
    app.remove(&ada.access, &format!("{CUSTOM}/forecast")).await.expect_problem(404, "server_not_found");
    let told: Vec<Value> = app.trail("&server_id=forecast").await;
    let mut actions: Vec<&str> = told.iter().map(|event| event["action"].as_str().unwrap()).collect();
    actions.sort_unstable();
    assert_eq!(actions, ["catalog.create", "catalog.delete", "catalog.update"]);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_wrong_is_named_and_changes_nothing() {
    let (app, ada, _) = catalogue().await;
    let long = "x".repeat(101);
    for (body, places) in [
        (json!({ "image": "mcp/x:1" }), vec!["body.name"]),
        (json!({ "name": "../x", "image": "mcp/x:1" }), vec!["body.name"]),
        (json!({ "name": "x" }), vec!["body.image"]),
        (json!({ "name": "x", "image": "npm:left-pad" }), vec!["body.image"]),
        (json!({ "name": "x", "image": "two words" }), vec!["body.image"]),
        (
            json!({ "name": "x", "image": "mcp/x:1", "description": long, "version": "^1", "note": "a\nb", "metadata": { "api_key": "k" } }),
            vec!["body.description", "body.version", "body.metadata.api_key", "body.note"],
        ),
        (json!({ "name": "x", "image": "mcp/x:1", "document": {} }), vec!["body.document"]),
        (
            json!({ "name": "x", "document": { "description": "x" , "packages": [{ "registryType": "npm", "identifier": "x" }] } }),
            vec!["body.document.packages[0].transport"],
        ),
        (
            json!({ "name": "x", "document": { "description": "x", "remotes": [{ "type": "carrier-pigeon", "url": "https://x.example/" }] } }),
            vec![],
        ),
        (json!({ "name": "x", "image": "mcp/x:1", "catalog_type": "predefined" }), vec!["body.catalog_type"]),
    ] {
        let problem = app.make(&ada.access, &body).await.expect_problem(422, "invalid_server");
        let found = locations(&problem);
        assert!(!found.is_empty() && places.iter().all(|place| found.contains(place)), "{body}: {problem}");
    }
    for body in
        [json!({ "name": "x", "image": "mcp/x:1", "visibility": "secret" }), json!({ "name": "x", "imagine": "mcp/x:1" }), json!([])]
    {
        app.make(&ada.access, &body).await.expect_problem(400, "invalid_body");
    }
    // What is for administrators.
    for body in [
        json!({ "name": "io.acme/x", "image": "mcp/x:1", "description": "x" }),
        json!({ "name": "x", "image": "mcp/x:1", "description": "x", "visibility": "public" }),
        json!({ "name": "x", "image": "mcp/x:1", "description": "x", "hidden": true }),
    ] {
        app.make(&ada.access, &body).await.expect_problem(403, "forbidden");
    }
    app.make(&app.token, &json!({ "name": "io.good/weather", "image": "mcp/x:1", "description": "x" }))
        .await
        .expect_problem(409, "server_name_taken");
    app.call(Method::POST, CUSTOM, "", &json!({ "name": "x" })).await.expect_problem(401, "unauthenticated");
    assert_eq!(app.look(&ada.access, &format!("{CATALOG}?type=custom")).await.expect(200)["total"], 0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_see_a_server_finds_nothing_of_it() {
    let (app, ada, bob) = catalogue().await;
    let counted = app.get("/api/mcp/servers").await.expect(200)["total"].clone();
    app.make(&ada.access, &json!({ "name": "diary", "image": "npm:diary@1.0.0", "description": "Private pages" })).await.expect(201);
    let uuid = app.look(&ada.access, &format!("{CATALOG}/diary")).await.expect(200)["id"].clone();
    let uuid = uuid.as_str().unwrap();
    let sees = async |token: Option<&str>, path: &str| {
        let request = app.request(Method::GET, path);
        app.send(token.map_or(request.try_clone().unwrap(), |token| request.bearer_auth(token))).await
    };
    // For the owner it is there everywhere but in the registry API, which everybody reads.
    for path in ["/api/mcp/catalog?q=diary", "/api/mcp/servers?q=diary"] {
        assert_eq!(sees(Some(&ada.access), path).await.expect(200)["total"], 1, "{path}");
        for other in [None, Some(bob.access.as_str())] {
            assert_eq!(sees(other, path).await.expect(200)["total"], 0, "{path}");
        }
    }
    assert_eq!(app.get("/api/mcp/servers").await.expect(200)["total"], counted);
    for path in [
        "/api/mcp/catalog/diary",
        "/api/mcp/servers/diary",
        "/api/mcp/servers/diary/versions",
        "/api/mcp/servers/diary/credentials",
        "/api/mcp/servers/diary/client-config?client=vscode",
        &format!("/api/mcp/servers/{uuid}"),
    ] {
        sees(Some(&ada.access), path).await.expect(200);
        for other in [None, Some(bob.access.as_str())] {
            sees(other, path).await.expect_problem(404, "server_not_found");
        }
    }
    for path in ["/v0.1/servers/local.fabric%2Fdiary/versions", "/v0.1/servers/local.fabric%2Fdiary/versions/latest"] {
        sees(Some(&ada.access), path).await.expect_problem(404, "server_not_found");
    }
    assert!(!names(&app.get("/v0.1/servers?limit=100").await.expect(200)).contains(&"local.fabric/diary"));
    // Nor can it be used, changed, or asked for.
    for (method, path, body) in [
        (Method::POST, "/api/mcp/users/me/servers", json!({ "server_id": "diary" })),
        (Method::POST, "/api/mcp/servers/diary/start", Value::Null),
        (Method::POST, "/api/mcp/servers/diary/cache", json!({})),
        (Method::PUT, "/api/mcp/catalog/diary", json!({ "title": "Mine" })),
        (Method::DELETE, "/api/mcp/catalog/custom/diary", Value::Null),
        (Method::POST, "/api/mcp/catalog/diary/restore", json!({ "revision": 1 })),
    ] {
        app.call(method, path, &bob.access, &body).await.expect_problem(404, "server_not_found");
    }
    app.call(Method::POST, "/api/mcp/users/me/servers", &ada.access, &json!({ "server_id": "diary" })).await.expect(201);
    // Shared, whoever signs in sees it; only its owner changes it.
    app.put(&ada.access, "/api/mcp/catalog/diary", &json!({ "visibility": "shared" })).await.expect(200);
    assert_eq!(sees(Some(&bob.access), "/api/mcp/catalog/diary").await.expect(200)["own"], false);
    sees(None, "/api/mcp/catalog/diary").await.expect_problem(404, "server_not_found");
    app.put(&bob.access, "/api/mcp/catalog/diary", &json!({ "title": "Mine" })).await.expect_problem(403, "forbidden");
    app.look(&bob.access, "/api/mcp/catalog/diary/history").await.expect_problem(403, "forbidden");
    app.call(Method::POST, "/api/mcp/users/me/servers", &bob.access, &json!({ "server_id": "diary" })).await.expect(201);
    // Public, by an administrator: everybody does, and the registry API lists it; from then on only administrators change it.
    app.put(&ada.access, "/api/mcp/catalog/diary", &json!({ "visibility": "public" })).await.expect_problem(403, "forbidden");
    app.put(&app.token, "/api/mcp/catalog/diary", &json!({ "visibility": "public" })).await.expect(200);
    assert_eq!(sees(None, "/api/mcp/catalog/diary").await.expect(200)["name"], "diary");
    sees(None, "/v0.1/servers/local.fabric%2Fdiary/versions/latest").await.expect(200);
    app.put(&ada.access, "/api/mcp/catalog/diary", &json!({ "image": "npm:other@1.0.0" })).await.expect_problem(403, "forbidden");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_before_is_kept_compared_and_brought_back() {
    let (app, ada, _) = catalogue().await;
    let path = "/api/mcp/catalog/forecast";
    app.make(&ada.access, &json!({ "name": "forecast", "image": "npm:forecast@1.0.0", "description": "First" })).await.expect(201);
    app.put(&ada.access, path, &json!({ "description": "Second", "metadata": { "team": "sky" }, "note": "clearer" })).await.expect(200);
    app.put(&ada.access, path, &json!({ "image": "npm:forecast@2.0.0" })).await.expect(200);
    let history = app.look(&ada.access, &format!("{path}/history")).await.expect(200);
    let kept: Vec<_> =
        history["revisions"].as_array().unwrap().iter().map(|one| (one["revision"].as_i64().unwrap(), one["note"].as_str())).collect();
    assert_eq!(kept, [(3, None), (2, Some("clearer")), (1, None)]);
    let page = app.look(&ada.access, &format!("{path}/history?limit=2")).await.expect(200);
    let rest = app.look(&ada.access, &format!("{path}/history?limit=2&cursor={}", page["next_cursor"].as_str().unwrap())).await.expect(200);
    assert_eq!(rest["revisions"][0]["revision"], 1);
    assert_eq!(app.look(&ada.access, &format!("{path}/history/1")).await.expect(200)["document"]["description"], "First");
    let difference = app.look(&ada.access, &format!("{path}/diff")).await.expect(200);
    assert_eq!((&difference["from"], &difference["to"]), (&json!(2), &json!(3)));
    let patched: Vec<&str> = difference["patch"].as_array().unwrap().iter().map(|one| one["path"].as_str().unwrap()).collect();
    assert_eq!(patched, ["/document/packages/0/version", "/document/version"]);
    app.look(&ada.access, &format!("{path}/diff?from=9")).await.expect_problem(404, "revision_not_found");
    app.look(&ada.access, &format!("{path}/diff?from=x")).await.expect_problem(400, "invalid_query");
    let restored = app.call(Method::POST, &format!("{path}/restore"), &ada.access, &json!({ "revision": 1 })).await.expect(200);
    assert_eq!((&restored["description"], &restored["version"], &restored["revision"]), (&json!("First"), &json!("1.0.0"), &json!(4)));
    assert_eq!(restored["metadata"], json!({}));
    app.call(Method::POST, &format!("{path}/restore"), &ada.access, &json!({ "revision": 7 }))
        .await
        .expect_problem(404, "revision_not_found");
    // The versions that it had are listed as every server's.
    let versions = app.look(&ada.access, "/api/mcp/servers/forecast/versions").await.expect(200);
    assert_eq!(versions["versions"].as_array().unwrap().len(), 2);
    // Whoever takes the name later finds nothing of it.
    assert_eq!(app.remove(&ada.access, "/api/mcp/catalog/custom/forecast").await.status, 204);
    app.make(&app.token, &json!({ "name": "forecast", "image": "npm:new@1.0.0", "description": "New" })).await.expect(201);
    assert_eq!(app.op_get(&format!("{path}/history")).await.expect(200)["revisions"].as_array().unwrap().len(), 1);
    app.look(&ada.access, path).await.expect_problem(404, "server_not_found");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_from_elsewhere_is_annotated_and_hidden_but_never_edited() {
    let (app, ada, _) = catalogue().await;
    let path = "/api/mcp/catalog/io.good%2Fweather";
    for body in [
        json!({ "description": "Better" }),
        json!({ "image": "npm:x@1.0.0" }),
        json!({ "document": {} }),
        json!({ "visibility": "private" }),
    ] {
        app.put(&app.token, path, &body).await.expect_problem(409, "not_editable");
        app.put(&ada.access, path, &body).await.expect_problem(409, "not_editable");
    }
    app.remove(&app.token, "/api/mcp/catalog/custom/io.good%2Fweather").await.expect_problem(409, "not_editable");
    app.put(&ada.access, path, &json!({ "metadata": { "team": "sky" } })).await.expect_problem(403, "forbidden");
    let annotated = app.put(&app.token, path, &json!({ "metadata": { "reviewed": "2026-11" }, "note": "looked at" })).await.expect(200);
    assert_eq!((&annotated["metadata"], &annotated["catalog_type"]), (&json!({ "reviewed": "2026-11" }), &json!("predefined")));
    assert!(annotated.get("created_by").is_none());
    // The registry API has the document as it came.
    assert!(app.get("/v0.1/servers/io.good%2Fweather/versions/latest").await.expect(200)["server"].get("metadata").is_none());
    app.put(&app.token, path, &json!({ "hidden": true })).await.expect(200);
    for list in ["/api/mcp/servers?q=good", "/api/mcp/catalog?q=good"] {
        assert_eq!(app.get(list).await.expect(200)["total"], 0, "{list}");
        assert_eq!(app.op_get(list).await.expect(200)["total"], 0, "{list}");
    }
    assert!(!names(&app.get("/v0.1/servers?search=good").await.expect(200)).contains(&"io.good/weather"));
    assert_eq!(app.op_get("/api/mcp/catalog?q=good&include_hidden=true").await.expect(200)["servers"][0]["hidden"], true);
    app.look(&ada.access, "/api/mcp/catalog?include_hidden=true").await.expect_problem(403, "forbidden");
    // By its name it is found and used.
    app.call(Method::POST, "/api/mcp/users/me/servers", &ada.access, &json!({ "server_id": "io.good/weather" })).await.expect(201);
    let restored = app.op_post_json(&format!("{path}/restore"), &json!({ "revision": 1 })).await.expect(200);
    assert_eq!((&restored["metadata"], &restored["hidden"]), (&json!({}), &json!(true)));
    // A sync changes nothing of that.
    app.import(&[data::entry_with("io.good/weather", "1.1.0", json!({}), json!({}))]).await;
    assert_eq!(app.op_get(path).await.expect(200)["hidden"], true);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_say_which_servers_may_be_used() {
    let (app, ada, _) = catalogue().await;
    let deny = json!({ "effect": "deny", "pattern": "IO.EVIL/*", "note": "taken over" });
    app.call(Method::POST, RULES, &ada.access, &deny).await.expect_problem(403, "forbidden");
    app.look(&ada.access, RULES).await.expect_problem(403, "forbidden");
    for (body, code) in [
        (json!({ "effect": "deny", "pattern": "a b" }), 422),
        (json!({ "effect": "deny", "pattern": "" }), 422),
        (json!({ "effect": "forbid", "pattern": "x" }), 400),
        (json!({ "effect": "deny" }), 400),
    ] {
        assert_eq!(app.op_post_json(RULES, &body).await.status, code, "{body}");
    }
    let tried = app.op_post_json(RULES, &json!({ "effect": "deny", "pattern": "io.evil/*", "dry_run": true })).await.expect(200);
    assert_eq!(tried["effects"]["denied"], json!({ "count": 1, "servers": ["io.evil/weather"] }));
    app.get("/api/mcp/servers/io.evil%2Fweather").await.expect(200);
    app.call(Method::POST, "/api/mcp/users/me/servers", &ada.access, &json!({ "server_id": "io.evil/weather" })).await.expect(201);
    let added = app.op_post_json(RULES, &deny).await.expect(201);
    app.op_post_json(RULES, &deny).await.expect_problem(409, "rule_exists");
    // Nobody finds it; who has it is told why it is not to be used.
    app.get("/api/mcp/servers/io.evil%2Fweather").await.expect_problem(404, "server_not_found");
    app.get("/v0.1/servers/io.evil%2Fweather/versions/latest").await.expect_problem(404, "server_not_found");
    app.look(&ada.access, "/api/mcp/servers/io.evil%2Fweather").await.expect_problem(403, "server_denied");
    app.call(Method::POST, "/api/mcp/servers/io.evil%2Fweather/start", &ada.access, &Value::Null)
        .await
        .expect_problem(403, "server_denied");
    app.op_post("/api/mcp/servers/io.evil%2Fweather/start").await.expect_problem(403, "server_denied");
    assert_eq!(app.op_get("/api/mcp/catalog/io.evil%2Fweather").await.expect(200)["denied"], true);
    // One that comes later is denied from the first moment.
    app.import(&[data::entry("io.evil/new", "1.0.0"), data::entry("io.good/new", "1.0.0")]).await;
    assert_eq!(app.get("/api/mcp/servers?q=new").await.expect(200)["total"], 1);
    app.make(&app.token, &json!({ "name": "io.evil/own", "image": "npm:x@1.0.0", "description": "x" }))
        .await
        .expect_problem(403, "server_denied");
    // Where some are allowed, all others are denied, and what is denied stays so.
    let allowed = app.op_post_json(RULES, &json!({ "effect": "allow", "pattern": "io.*" })).await.expect(201);
    assert!(allowed["effects"]["denied"]["count"].as_u64().unwrap() > 0, "the predefined ones: {allowed}");
    app.get("/api/mcp/servers/io.good%2Fweather").await.expect(200);
    app.get("/api/mcp/servers/io.evil%2Fweather").await.expect_problem(404, "server_not_found");
    let remove = async |rule: &Value| app.remove(&app.token, &format!("{RULES}/{}", rule["id"].as_str().unwrap())).await;
    remove(&allowed).await.expect(200);
    let lifted = remove(&added).await.expect(200);
    assert_eq!(lifted["allowed"]["servers"], json!(["io.evil/new", "io.evil/weather"]));
    remove(&added).await.expect_problem(404, "rule_not_found");
    app.get("/api/mcp/servers/io.evil%2Fweather").await.expect(200);
    assert_eq!(app.op_get(RULES).await.expect(200)["rules"], json!([]));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_denied_stops_and_the_gateway_does_not_have_it() {
    let gateway = Gateway::with(&[]).await;
    let app = &gateway.app;
    let running = gateway.run("alpha", &json!({})).await;
    gateway.run("beta", &json!({})).await;
    let client = Mcp::connect(&format!("{}/mcp", app.url), &app.token, "2025-11-25").await;
    assert!(client.names("tools/list").await.contains(&"alpha__echo".to_owned()));
    let mut events = client.listen(None).await;
    let rule = app.op_post_json(RULES, &json!({ "effect": "deny", "pattern": "alpha" })).await.expect(201);
    events.of_method("notifications/tools/list_changed").await;
    eventually(10, "it is not offered", || async {
        let names = client.names("tools/list").await;
        (!names.iter().any(|name| name.starts_with("alpha__")) && names.contains(&"beta__echo".to_owned())).then_some(())
    })
    .await;
    assert_eq!(client.tool("alpha__echo", json!({ "message": "x" })).await.code(), -32602);
    eventually(10, "it is stopped", || async { (app.instance(&running["id"]).await["state"] == "STOPPED").then_some(()) }).await;
    app.remove(&app.token, &format!("{RULES}/{}", rule["id"].as_str().unwrap())).await.expect(200);
    app.instance_in(&app.token, "alpha", "RUNNING").await;
    eventually(10, "it is offered again", || async { client.names("tools/list").await.contains(&"alpha__echo".to_owned()).then_some(()) })
        .await;
    gateway.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_members_server_is_no_way_around_the_rights_to_install() {
    let (app, ada, bob) = catalogue().await;
    app.make(&ada.access, &json!({ "name": "mine", "image": "npm:anything-at-all@1.0.0", "description": "x" })).await.expect(201);
    let install = async |token: &str, body: Value| app.call(Method::POST, "/api/mcp/packages/install", token, &body).await;
    install(&ada.access, json!({ "name": "mine" })).await.expect_problem(403, "forbidden");
    app.call(Method::POST, "/api/mcp/servers/mine/start", &ada.access, &Value::Null).await.expect_problem(403, "forbidden");
    // Nor does saying that it is to run.
    let wanted = json!({ "server_id": "mine", "enabled": true });
    app.call(Method::POST, "/api/mcp/users/me/servers", &ada.access, &wanted).await.expect(201);
    app.instance_in(&ada.access, "mine", "FAILED").await;
    assert_eq!(app.op_get("/api/mcp/packages").await.expect(200)["packages"], json!([]));
    // Nor does its name lead to it.
    install(&bob.access, json!({ "name": "good-weather", "registryType": "npm", "serverName": "mine" }))
        .await
        .expect_problem(409, "server_name_taken");
    // What an administrator stands behind is installed as from the registry, and keeps its document.
    app.make(&app.token, &json!({ "name": "ours", "image": "npm:anything-at-all@1.0.0", "description": "Kept", "visibility": "shared" }))
        .await
        .expect(201);
    install(&ada.access, json!({ "name": "ours" })).await.expect(202);
    assert_eq!(app.op_get("/api/mcp/catalog/ours").await.expect(200)["description"], "Kept");
    app.remove(&app.token, "/api/mcp/catalog/custom/ours").await.expect_problem(409, "server_installed");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_server_switches_off_what_is_wanted_of_it_and_people_who_leave_take_what_is_private() {
    let (app, ada, bob) = catalogue().await;
    let make = async |name: &str, visibility: &str| {
        let remote = json!([{ "type": "streamable-http", "url": "https://tools.example.com/mcp" }]);
        let document = json!({ "description": "x", "remotes": remote });
        app.make(&ada.access, &json!({ "name": name, "document": document, "visibility": visibility })).await.expect(201)
    };
    for (name, visibility) in [("gone", "shared"), ("left", "shared"), ("diary", "private")] {
        make(name, visibility).await;
    }
    assert_eq!(app.look(&ada.access, "/api/mcp/catalog/left").await.expect(200)["image"], "https://tools.example.com/mcp");
    let wanted = json!({ "server_id": "gone", "enabled": true });
    app.call(Method::POST, "/api/mcp/users/me/servers", &bob.access, &wanted).await.expect(201);
    assert_eq!(app.remove(&ada.access, "/api/mcp/catalog/custom/gone").await.status, 204);
    let own = app.look(&bob.access, "/api/mcp/users/me/servers").await.expect(200);
    assert!(own["servers"].as_array().unwrap().iter().all(|one| one["enabled"] == false), "{own}");
    let leave = app.call(Method::DELETE, "/api/mcp/users/me", &ada.access, &json!({ "password": crate::support::PASSWORD })).await;
    assert_eq!(leave.status, 204, "{}", leave.text());
    app.op_get("/api/mcp/catalog/diary").await.expect_problem(404, "server_not_found");
    let left = app.op_get("/api/mcp/catalog/left").await.expect(200);
    assert!(left.get("created_by").is_none() && left["own"] == true, "{left}");
    assert_eq!(app.op_get("/api/mcp/catalog/left/history").await.expect(200)["revisions"][0]["changed_by"], "erased");
    app.look(&bob.access, "/api/mcp/catalog/left").await.expect(200);
    app.stop().await;
}
