//! `/api/mcp/servers` and what belongs to it.

use serde_json::{Value, json};

use crate::support::{TestApp, data};

fn ids(list: &Value) -> Vec<&str> {
    list["servers"].as_array().unwrap().iter().map(|server| server["id"].as_str().unwrap()).collect()
}

/// Values that differ from run to run stand as what they are.
fn settled(mut value: Value) -> Value {
    fn walk(value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (key, inner) in map.iter_mut() {
                    let is_time = key.ends_with("_at") && inner.is_string();
                    if is_time {
                        *inner = "[time]".into();
                    }
                    walk(inner);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(walk),
            _ => {}
        }
    }
    walk(&mut value);
    value
}

#[tokio::test(flavor = "multi_thread")]
async fn predefined_servers_are_there_from_the_first_start() {
    let app = TestApp::start().await;
    let list = app.get("/api/mcp/servers").await.expect(200);
    assert_eq!(ids(&list), ["everything", "fetch", "filesystem", "git", "memory", "sequential-thinking", "time"]);
    assert_eq!((&list["total"], &list["next_cursor"]), (&json!(7), &json!(null)));
    insta::assert_json_snapshot!("list_item", settled(list["servers"][3].clone()));
    insta::assert_json_snapshot!("detail_predefined", settled(app.get("/api/mcp/servers/filesystem").await.expect(200)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_predefined_server_goes_when_its_file_no_longer_has_it() {
    let mut app = TestApp::start().await;
    let document = |id: &str| json!({ "server": { "name": format!("local.fabric/{id}"), "description": "ours", "version": "1.0.0" } });
    for names in [&["one", "two"][..], &["two"]] {
        let file = json!({ "servers": names.iter().map(|id| document(id)).collect::<Vec<_>>() });
        std::fs::write(app.data().join("config/predefined.json"), file.to_string()).unwrap();
        app.restart().await;
        let listed = app.get("/api/mcp/servers?origin=predefined").await.expect(200);
        let ids: Vec<&str> = listed["servers"].as_array().unwrap().iter().map(|server| server["id"].as_str().unwrap()).collect();
        assert_eq!(ids, names);
    }
    app.get("/v0.1/servers/local.fabric%2Fone/versions/latest").await.expect_problem(404, "server_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_shows_its_packages_remotes_needs_and_versions() {
    let app = TestApp::start().await;
    app.import(&[
        data::entry_with("io.x/y", "1.0.0", json!({}), json!({ "isLatest": false })),
        data::entry_with(
            "io.x/y",
            "2.0.0",
            json!({
                "title": "Why",
                "packages": [
                    { "registryType": "npm", "identifier": "@x/y", "version": "2.0.0", "transport": { "type": "stdio" },
                      "environmentVariables": [{ "name": "Y_KEY", "description": "the key", "isRequired": true, "isSecret": true }] },
                    { "registryType": "npm", "identifier": "@x/y", "version": "2.0.0", "transport": { "type": "sse", "url": "http://127.0.0.1:3000" } },
                ],
                "remotes": [{ "type": "streamable-http", "url": "https://y.example.com/mcp", "headers": [{ "name": "X-Key", "choices": ["a"], "default": "a" }] }],
            }),
            json!({}),
        ),
    ])
    .await;
    let detail = app.get("/api/mcp/servers/io.x%2Fy").await.expect(200);
    insta::assert_json_snapshot!("detail", settled(detail.clone()));
    insta::assert_json_snapshot!("credentials", app.get("/api/mcp/servers/io.x%2Fy/credentials").await.expect(200));
    let by_uuid = app.get(&format!("/api/mcp/servers/{}", detail["uuid"].as_str().unwrap())).await.expect(200);
    assert_eq!(by_uuid, detail);
    let local = app.get("/api/mcp/servers/local.fabric%2Fgit").await.expect(200);
    assert_eq!(local["id"], "git");
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_searches_and_sorts() {
    let app = TestApp::start().await;
    app.import(&[
        data::entry_with("io.github.acme/postgres-tools", "1.0.0", json!({ "description": "Query a database" }), json!({})),
        data::entry_with(
            "com.acme/remote-only",
            "1.0.0",
            json!({ "packages": [], "remotes": [{ "type": "sse", "url": "https://x.example.com/sse" }] }),
            json!({ "updatedAt": "2026-06-01T00:00:00Z" }),
        ),
        data::entry_with(
            "com.acme/old",
            "1.0.0",
            json!({ "description": "Tools for repositories" }),
            json!({ "status": "deprecated", "updatedAt": "2025-01-01T00:00:00Z" }),
        ),
        data::entry_with("com.acme/gone", "1.0.0", json!({}), json!({ "status": "deleted" })),
    ])
    .await;
    for (query, expected) in [
        ("q=postgres", vec!["io.github.acme/postgres-tools"]),
        ("search=POSTGRES", vec!["io.github.acme/postgres-tools"]),
        ("q=databases", vec!["io.github.acme/postgres-tools"]),
        ("q=ostgr", vec!["io.github.acme/postgres-tools"]),
        ("q=github", vec![]),
        ("q=git&limit=1", vec!["git"]),
        ("q=io.github.acme/postgres-tools", vec!["io.github.acme/postgres-tools"]),
        ("q=postgres tool", vec!["io.github.acme/postgres-tools"]),
        ("q=100%25", vec![]),
        ("category=databases", vec!["io.github.acme/postgres-tools"]),
        ("transport=sse", vec!["com.acme/remote-only"]),
        ("has_remote=true", vec!["com.acme/remote-only"]),
        ("origin=upstream&registry_type=npm", vec!["com.acme/old", "io.github.acme/postgres-tools"]),
        ("registry_type=pypi", vec!["fetch", "git", "time"]),
        ("status=deprecated", vec!["com.acme/old"]),
        ("status=deleted", vec!["com.acme/gone"]),
        ("origin=upstream&updated_since=2026-03-01T00:00:00Z", vec!["com.acme/remote-only"]),
        ("origin=upstream&sort=updated", vec!["com.acme/remote-only", "io.github.acme/postgres-tools", "com.acme/old"]),
        ("q=&origin=generated", vec![]),
    ] {
        let list = app.get(&format!("/api/mcp/servers?{query}")).await.expect(200);
        assert_eq!(ids(&list), expected, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_cover_everything_once_in_every_order() {
    let app = TestApp::start().await;
    app.import(&data::many(23, 1)).await;
    for query in ["sort=name", "sort=updated", "q=server", "q=server&sort=updated"] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = app.get(&format!("/api/mcp/servers?origin=upstream&{query}&limit=5{cursor}")).await.expect(200);
            assert_eq!(page["total"], 23, "{query}");
            seen.extend(ids(&page).iter().map(ToString::to_string));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let unique: std::collections::BTreeSet<_> = seen.iter().collect();
        assert_eq!((seen.len(), unique.len()), (23, 23), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_parameters_are_told_exactly() {
    let app = TestApp::start().await;
    for (query, code, location) in [
        ("limit=0", "invalid_limit", "query.limit"),
        ("limit=-1", "invalid_limit", "query.limit"),
        ("limit=201", "invalid_limit", "query.limit"),
        ("limit=abc", "invalid_limit", "query.limit"),
        ("cursor=zzz", "invalid_cursor", "query.cursor"),
        ("cursor=7b7d", "invalid_cursor", "query.cursor"),
        ("sort=best", "invalid_sort", "query.sort"),
        ("origin=mars", "invalid_origin", "query.origin"),
        ("status=fine", "invalid_status", "query.status"),
        ("has_remote=maybe", "invalid_has_remote", "query.has_remote"),
        ("updated_since=yesterday", "invalid_updated_since", "query.updated_since"),
        ("q=a&search=b", "invalid_search", "query.search"),
    ] {
        let problem = app.get(&format!("/api/mcp/servers?{query}")).await.expect_problem(400, code);
        assert_eq!(problem["errors"][0]["location"], location, "{query}");
    }
    app.get(&format!("/api/mcp/servers?q={}", "x".repeat(201))).await.expect_problem(400, "invalid_search");
    app.get("/api/mcp/servers?q=a%00b").await.expect_problem(400, "invalid_character");
    app.get("/api/mcp/servers?updated_since=-9999-12-31T23:59:59Z").await.expect_problem(400, "value_out_of_range");
    app.get("/api/mcp/servers?limit=1&limit=2").await.expect_problem(400, "invalid_query");
}

#[tokio::test(flavor = "multi_thread")]
async fn strange_ids_are_answered_safely() {
    let app = TestApp::start().await;
    app.import(&[data::entry("io.github.Upper/Case", "1.0.0")]).await;
    app.get("/api/mcp/servers/io.github.Upper%2FCase").await.expect(200);
    app.get("/api/mcp/servers/io.github.upper%2Fcase").await.expect_problem(404, "server_not_found");
    app.get("/api/mcp/servers/nobody").await.expect_problem(404, "server_not_found");
    app.get("/api/mcp/servers/nobody/credentials").await.expect_problem(404, "server_not_found");
    app.get("/api/mcp/servers/nobody/versions").await.expect_problem(404, "server_not_found");
    app.get(&format!("/api/mcp/servers/{}", uuid::Uuid::nil())).await.expect_problem(404, "server_not_found");
    for id in ["a%00b", "%2e%2e%2fetc", "a%2Fb%2Fc", "a%20b", &"x".repeat(10_000), "%C3%A9"] {
        app.get(&format!("/api/mcp/servers/{id}")).await.expect_problem(400, "invalid_server_id");
    }
    app.get("/api/mcp/servers/%ff").await.expect_problem(400, "invalid_path");
}

#[tokio::test(flavor = "multi_thread")]
async fn categories_follow_the_rules_and_their_changes() {
    let mut app = TestApp::start().await;
    app.import(&[data::entry_with("io.x/one", "1.0.0", json!({ "description": "zebra things" }), json!({}))]).await;
    assert_eq!(app.get("/api/mcp/servers/io.x%2Fone").await.expect(200)["categories"], json!(["other"]));
    let config = app.data().join("config");
    std::fs::write(config.join("categories.toml"), "[[category]]\nname = 'animals'\nkeywords = ['zebra']\n").unwrap();
    app.restart().await;
    crate::support::eventually(10, "the catalogue is sorted anew", || async {
        let server = app.get("/api/mcp/servers/io.x%2Fone").await.expect(200);
        (server["categories"] == json!(["animals"])).then_some(())
    })
    .await;
    let categories = app.get("/api/mcp/categories").await.expect(200);
    assert_eq!(categories, json!({ "categories": [{ "name": "other", "count": 7 }, { "name": "animals", "count": 1 }] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_listed_newest_first_in_pages() {
    let app = TestApp::start().await;
    let entries: Vec<Value> = (1..=7)
        .map(|n| {
            data::entry_with(
                "io.x/y",
                &format!("1.{n}.0"),
                json!({}),
                json!({ "isLatest": n == 7, "publishedAt": format!("2026-01-0{n}T00:00:00Z") }),
            )
        })
        .collect();
    app.import(&entries).await;
    let first = app.get("/api/mcp/servers/io.x%2Fy/versions?limit=4").await.expect(200);
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = app.get(&format!("/api/mcp/servers/io.x%2Fy/versions?limit=4&cursor={cursor}")).await.expect(200);
    let versions =
        |page: &Value| page["versions"].as_array().unwrap().iter().map(|v| v["version"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(versions(&first), ["1.7.0", "1.6.0", "1.5.0", "1.4.0"]);
    assert_eq!(versions(&second), ["1.3.0", "1.2.0", "1.1.0"]);
    assert_eq!((&first["versions"][0]["is_latest"], &second["next_cursor"]), (&json!(true), &json!(null)));
}
