//! Many configurations at once: given, exported, imported.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{TestApp, data};

/// A catalogue with servers of npm, PyPI and OCI, one of which wants a region and a key.
async fn catalogue() -> TestApp {
    // Nothing of it is run here.
    let app = TestApp::with(&[("FABRIC_MAX_INSTANCES", "0")]).await;
    let package = |kind: &str, identifier: &str| {
        json!({ "packages": [{ "registryType": kind, "identifier": identifier, "version": "1.0.0", "transport": { "type": "stdio" },
            "environmentVariables": [{ "name": "REGION", "choices": ["eu", "us"] }, { "name": "PORT", "format": "number" }, { "name": "KEY", "isSecret": true }] }] })
    };
    let image = json!({ "packages": [{ "registryType": "oci", "identifier": "ghcr.io/acme/boxed:1", "transport": { "type": "stdio" } }] });
    app.import(&[
        data::entry_with("a.x/weather", "1.0.0", package("npm", "@acme/weather"), json!({})),
        data::entry_with("a.x/git", "1.0.0", package("pypi", "acme-git"), json!({})),
        data::entry_with("a.x/boxed", "1.0.0", image, json!({})),
    ])
    .await;
    app
}

const SERVERS: &str = "/api/mcp/users/me/servers";

impl TestApp {
    async fn many(&self, order: &Value) -> Value {
        self.op_post_json(&format!("{SERVERS}/bulk"), order).await.expect(200)
    }

    async fn take_in(&self, query: &str, file: &Value) -> Value {
        self.op_post_json(&format!("{SERVERS}/import{query}"), file).await.expect(200)
    }

    async fn own(&self) -> Vec<String> {
        let list = self.op_get(SERVERS).await.expect(200);
        list["servers"].as_array().unwrap().iter().map(|own| own["server_id"].as_str().unwrap().to_owned()).collect()
    }
}

fn outcomes(done: &Value) -> Vec<(&str, &str)> {
    let servers = done["servers"].as_array().unwrap();
    let mut outcomes: Vec<_> = servers.iter().map(|one| (one["server_id"].as_str().unwrap(), one["outcome"].as_str().unwrap())).collect();
    outcomes.sort_unstable();
    outcomes
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_given_and_what_cannot_be_used_changes_nothing() {
    let app = catalogue().await;
    let wrong = json!({ "servers": [
        { "server_id": "a.x/weather", "values": { "REGION": "mars" } },
        { "server_id": "a.x/gone" },
        { "server_id": "a.x/git", "values": { "PORT": "no", "NOPE": "1" } },
        { "server_id": "../x" },
        { "server_id": "a.x/git", "limits": { "processes": 0 } },
        { "server_id": "a.x/boxed" }, { "server_id": "a.x/boxed" },
    ] });
    let problem = app.op_post_json(&format!("{SERVERS}/bulk"), &wrong).await.expect_problem(400, "invalid_field");
    let mut places: Vec<&str> = problem["errors"].as_array().unwrap().iter().map(|error| error["location"].as_str().unwrap()).collect();
    places.sort_unstable();
    assert_eq!(places[0], "body.servers[0].values.REGION");
    assert!(places.contains(&"body.servers[1].server_id") && places.contains(&"body.servers[3].server_id"), "{places:?}");
    assert!(places.contains(&"body.servers[4].limits.processes") && places.contains(&"body.servers[6]"), "{places:?}");
    assert!(places.iter().any(|place| place.starts_with("body.servers[2].values")), "{places:?}");
    assert!(app.own().await.is_empty());
    app.op_post_json(&format!("{SERVERS}/bulk"), &json!({ "servers": [{ "colour": 1 }] })).await.expect_problem(400, "invalid_body");
    let key = "s3cret-key-of-nobody";
    let good = json!({ "servers": [{ "server_id": "a.x/weather", "values": { "REGION": "eu", "KEY": key } }, { "server_id": "a.x/git" }] });
    let mut rehearsed = good.clone();
    rehearsed["dry_run"] = json!(true);
    assert_eq!(outcomes(&app.many(&rehearsed).await), [("a.x/git", "created"), ("a.x/weather", "created")]);
    assert!(app.own().await.is_empty());
    assert_eq!(outcomes(&app.many(&good).await), [("a.x/git", "created"), ("a.x/weather", "created")]);
    let again =
        json!({ "servers": [{ "server_id": "a.x/weather", "values": { "REGION": "us" } }, { "server_id": "a.x/git", "enabled": false }] });
    let done = app.many(&again).await;
    assert_eq!(outcomes(&done), [("a.x/git", "unchanged"), ("a.x/weather", "changed")]);
    assert_eq!(done["servers"][0]["fields"], json!(["values.REGION"]));
    assert!(!json!(app.trail("").await).to_string().contains(key));
    // The older path.
    app.op_post_json("/api/users/me/servers/bulk", &again).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_comes_back_and_has_no_secrets() {
    let app = catalogue().await;
    let key = "s3cret-key-of-nobody";
    app.many(&json!({ "servers": [
        { "server_id": "a.x/weather", "values": { "REGION": "eu", "KEY": key }, "limits": { "processes": 7 }, "restart": "always" },
        { "server_id": "a.x/git", "values": { "PORT": 80 } },
    ] }))
    .await;
    let answer = app.op_get(&format!("{SERVERS}/export")).await;
    assert!(answer.header("content-disposition").unwrap().contains("attachment") && !answer.text().contains(key));
    let file = answer.expect(200);
    assert_eq!(file["servers"][1]["values"], json!({ "REGION": "eu", "KEY": "[secret]" }));
    assert_eq!(outcomes(&app.take_in("", &file).await), [("a.x/git", "unchanged"), ("a.x/weather", "unchanged")]);
    // Each strategy, over something else.
    let change = json!({ "servers": [{ "server_id": "a.x/weather", "values": { "REGION": "us" }, "restart": "never" }, { "server_id": "a.x/boxed" }] });
    app.many(&change).await;
    let kept = app.take_in("?strategy=append&dry_run=true", &file).await;
    assert_eq!(outcomes(&kept), [("a.x/git", "kept"), ("a.x/weather", "kept")]);
    let less = json!({ "servers": [{ "server_id": "a.x/weather", "values": { "PORT": 1 } }] });
    let replaced = app.take_in("?strategy=replace&dry_run=true", &less).await;
    assert_eq!(outcomes(&replaced), [("a.x/boxed", "archived"), ("a.x/git", "archived"), ("a.x/weather", "changed")]);
    assert_eq!(replaced["servers"][0]["fields"], json!(["limits", "restart", "values.PORT", "values.REGION"]));
    assert_eq!(app.own().await.len(), 3, "nothing was changed by looking");
    app.take_in("?strategy=replace", &less).await;
    assert_eq!(app.own().await, ["a.x/weather"]);
    let own = app.op_get(&format!("{SERVERS}/a.x%2Fweather")).await.expect(200);
    assert_eq!(
        (&own["values"], &own["restart"]),
        (&json!({ "PORT": 1, "KEY": "[secret]" }), &json!("on_failure")),
        "what the vault has stays there"
    );
    let restored = app.take_in("?strategy=overlay", &file).await;
    assert_eq!(outcomes(&restored), [("a.x/git", "created"), ("a.x/weather", "changed")]);
    // Somebody else has none of it.
    app.person("root@example.com", "admin").await;
    let bob = app.person("bob@example.com", "member").await;
    let empty = app.send(app.request(Method::GET, &format!("{SERVERS}/export")).bearer_auth(&bob.access)).await.expect(200);
    assert_eq!(empty["servers"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_clients_are_understood() {
    let app = catalogue().await;
    let key = "s3cret-key-of-nobody";
    let claude = json!({ "globalShortcut": "", "mcpServers": {
        "weather": { "command": "npx", "args": ["-y", "@acme/weather@1.0.0"], "env": { "REGION": "eu", "KEY": key } },
        "a.x/git": { "command": "node", "args": ["somewhere.js"], "disabled": true },
    } });
    let done = app.take_in("", &claude).await;
    assert_eq!(outcomes(&done), [("a.x/git", "created"), ("a.x/weather", "created")], "{done}");
    let own = app.op_get(&format!("{SERVERS}/a.x%2Fweather")).await.expect(200);
    assert_eq!(
        (&own["enabled"], &own["values"]),
        (&json!(true), &json!({ "REGION": "eu", "KEY": "[secret]" })),
        "a secret goes into the vault"
    );
    let code = json!({ "inputs": [{ "id": "key" }], "servers": {
        "box": { "type": "stdio", "command": "docker", "args": ["run", "-i", "--rm", "ghcr.io/acme/boxed:1"] },
        "weather": { "command": "npx", "args": ["@acme/weather"], "env": { "KEY": "${input:key}" } },
    } });
    let done = app.take_in("?dry_run=true", &code).await;
    let weather = done["servers"].as_array().unwrap().iter().find(|one| one["server_id"] == "a.x/weather").unwrap();
    assert!(weather["notes"][0].as_str().unwrap().contains("KEY"), "{done}");
    for (file, place) in [
        (json!({}), "body"),
        (json!({ "mcpServers": {}, "servers": [] }), "body"),
        (json!({ "servers": 7 }), "body.servers"),
        (json!({ "format": "other@2", "servers": [] }), "body.format"),
        (json!({ "servers": [{ "server_id": 7 }] }), "body.servers[0]"),
        (json!({ "mcpServers": { "x": [] } }), "body.mcpServers.x"),
        (json!({ "mcpServers": { "stranger": { "command": "npx", "args": ["@who/knows"] } } }), "body.mcpServers.stranger.server_id"),
        (
            json!({ "mcpServers": { "weather": { "command": "npx", "args": ["@acme/weather"], "env": { "TOKEN": key } } } }),
            "body.mcpServers.weather.values",
        ),
    ] {
        let answer = app.op_post_json(&format!("{SERVERS}/import"), &file).await;
        assert!(!answer.text().contains(key));
        let problem = answer.expect_problem(400, "invalid_field");
        assert_eq!(problem["errors"][0]["location"], place, "{problem}");
    }
    app.op_post_json(&format!("{SERVERS}/import?strategy=guess"), &json!({ "servers": [] })).await.expect_problem(400, "invalid_query");
}
