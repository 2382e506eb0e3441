//! The registry API as MCP clients read it.

use std::io::Read as _;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{TestApp, data};

fn names(page: &Value) -> Vec<String> {
    page["servers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| format!("{}@{}", entry["server"]["name"].as_str().unwrap(), entry["server"]["version"].as_str().unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_come_back_byte_for_byte() {
    let app = TestApp::start().await;
    let document = r#"{ "version":"1.0.0+b.1",  "name" : "io.x/y", "description":"a \u00e9 é", "unknown": [1.0,  2e3] }"#;
    let body = format!(r#"{{"servers":[{{"server":{document},"_meta":{{"com.other/x":{{"k":1}}}}}}]}}"#);
    let import = app.request(Method::POST, "/api/mcp/sync/import?last=true").bearer_auth(&app.token);
    app.send(import.header("content-type", "application/json").body(body)).await.expect(200);
    let answer = app.get("/v0.1/servers/io.x%2Fy/versions/1.0.0%2Bb.1").await;
    answer.expect(200);
    assert!(answer.text().starts_with(&format!(r#"{{"server":{document},"_meta":"#)), "{}", answer.text());
    assert_eq!(answer.json()["_meta"]["com.other/x"], json!({ "k": 1 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_name_our_own_registries_where_that_is_asked_for() {
    let app = TestApp::start().await;
    let packages = json!([
        { "registryType": "npm", "identifier": "a", "version": "1.0.0", "registryBaseUrl": "https://elsewhere.example" },
        { "registryType": "pypi", "identifier": "b", "version": "1.0.0" },
        { "registryType": "oci", "identifier": "ghcr.io/a/b:1" },
    ]);
    app.import(&[data::entry_with("a.x/one", "1.0.0", json!({ "packages": packages }), json!({}))]).await;
    for path in ["/v0.1/servers?search=a.x/one&rewrite=local", "/v0/servers/a.x%2Fone/versions?rewrite=local"] {
        let page = app.get(path).await;
        let package = |at: usize| page.json()["servers"][0]["server"]["packages"][at]["registryBaseUrl"].clone();
        assert_eq!(
            [package(0), package(1), package(2)],
            [json!(format!("{}/npm", app.url)), json!(format!("{}/pypi", app.url)), Value::Null]
        );
    }
    let path = "/v0.1/servers/a.x%2Fone/versions/latest?rewrite=local";
    let one = app.get(path).await;
    assert_eq!(one.expect(200)["server"]["packages"][0]["registryBaseUrl"], format!("{}/npm", app.url));
    let again = app.request(Method::GET, path).header("if-none-match", one.header("etag").unwrap());
    assert_eq!(app.send(again).await.status, 304);
    let plain = app.get("/v0.1/servers/a.x%2Fone/versions/latest").await;
    assert_eq!(plain.json()["server"]["packages"][0]["registryBaseUrl"], "https://elsewhere.example");
    let untouched = app.get("/v0.1/ping?rewrite=local").await.expect(200);
    assert_eq!(untouched, json!({ "status": "ok" }), "what names no package stays as it is");
    let remotes = json!({ "packages": null, "remotes": [{ "type": "sse", "url": "https://x.example" }] });
    app.import(&[data::entry_with("a.x/remote", "1.0.0", remotes, json!({}))]).await;
    let remote = app.get("/v0.1/servers/a.x%2Fremote/versions/latest?rewrite=local").await;
    assert_eq!(remote.expect(200)["server"], app.get("/v0.1/servers/a.x%2Fremote/versions/latest").await.json()["server"]);
    app.get("/v0.1/servers?rewrite=remote").await.expect_problem(400, "invalid_rewrite");
}

#[tokio::test(flavor = "multi_thread")]
async fn real_entries_are_served_as_they_came() {
    let app = TestApp::start().await;
    let mut sent = data::real_entries();
    app.import(&sent).await;
    let mut served: Vec<Value> =
        app.catalogue().await.into_iter().filter(|entry| !entry["server"]["name"].as_str().unwrap().starts_with("local.fabric/")).collect();
    let key = |entry: &Value| (entry["server"]["name"].to_string(), entry["server"]["version"].to_string());
    sent.sort_by_key(key);
    served.sort_by_key(key);
    assert_eq!(served, sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_have_the_parameters_of_the_official_registry() {
    let app = TestApp::start().await;
    app.import(&[
        data::entry_with("a.x/one", "1.0.0", json!({}), json!({ "isLatest": false })),
        data::entry_with("a.x/one", "1.1.0", json!({}), json!({ "updatedAt": "2026-06-01T00:00:00Z" })),
        data::entry_with("b.x/two", "1.0.0", json!({ "description": "percent 100% _ signs" }), json!({})),
        data::entry_with("c.x/gone", "1.0.0", json!({}), json!({ "status": "deleted" })),
    ])
    .await;
    for (query, expected) in [
        ("limit=3", vec!["a.x/one@1.0.0", "a.x/one@1.1.0", "b.x/two@1.0.0"]),
        ("version=latest&limit=2", vec!["a.x/one@1.1.0", "b.x/two@1.0.0"]),
        ("version=1.0.0&limit=2", vec!["a.x/one@1.0.0", "b.x/two@1.0.0"]),
        ("search=A.X/ONE", vec!["a.x/one@1.0.0", "a.x/one@1.1.0"]),
        ("search=100%25", vec!["b.x/two@1.0.0"]),
        ("search=%25%25", vec![]),
        ("search=gone&include_deleted=true", vec!["c.x/gone@1.0.0"]),
        ("search=gone", vec![]),
        ("search=%E4%B8%AD", vec![]),
        ("updated_since=2026-05-01T00:00:00Z&search=x/", vec!["a.x/one@1.1.0"]),
        ("updated_since=2026-01-01T00:00:00%2B00:00&search=gone", vec!["c.x/gone@1.0.0"]),
        ("updated_since=2030-01-01T00:00:00Z", vec![]),
        ("cursor=a.x/one:1.0.0&limit=1", vec!["a.x/one@1.1.0"]),
        ("cursor=a.x/one&limit=1", vec!["b.x/two@1.0.0"]),
        ("cursor=zzzz", vec![]),
    ] {
        for prefix in ["/v0.1", "/v0", ""] {
            let page = app.get(&format!("{prefix}/servers?{query}")).await.expect(200);
            assert_eq!(names(&page), expected, "{prefix} {query}");
            assert_eq!(page["metadata"]["count"], expected.len());
        }
    }
    let full = app.get("/v0.1/servers?search=a.x&limit=2").await.expect(200);
    assert_eq!(full["metadata"]["nextCursor"], "a.x/one:1.1.0");
    let empty = app.get("/v0.1/servers?search=a.x&limit=2&cursor=a.x%2Fone%3A1.1.0").await.expect(200);
    assert_eq!(empty, json!({ "servers": [], "metadata": { "count": 0 } }));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_parameters_have_the_official_answers() {
    let app = TestApp::start().await;
    for query in ["limit=0", "limit=-1", "limit=101", "limit=abc", "limit=", "include_deleted=maybe"] {
        let problem = app.get(&format!("/v0.1/servers?{query}")).await.expect_problem(422, "validation_failed");
        assert_eq!(problem["detail"], "validation failed", "{query}");
    }
    let problem = app.get("/v0.1/servers?updated_since=yesterday").await.expect_problem(400, "invalid_updated_since");
    assert_eq!(problem["detail"], "Invalid updated_since format: expected RFC3339 timestamp (e.g., 2025-08-07T13:15:04.280Z)");
    let problem = app
        .get("/v0.1/servers?updated_since=2026-01-01T00:00:00Z&include_deleted=false")
        .await
        .expect_problem(400, "include_deleted_required");
    assert_eq!(problem["detail"], "Cannot set include_deleted=false when using updated_since (incremental sync requires deleted servers)");
    app.get("/v0.1/servers?search=a%00b").await.expect_problem(400, "invalid_character");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_version_and_all_versions() {
    let app = TestApp::start().await;
    app.import(&[
        data::entry_with("a.x/one", "1.0.0", json!({}), json!({ "isLatest": false, "publishedAt": "2026-01-01T00:00:00Z" })),
        data::entry_with("a.x/one", "1.1.0", json!({}), json!({ "publishedAt": "2026-02-01T00:00:00Z" })),
        data::entry_with(
            "a.x/one",
            "1.2.0",
            json!({}),
            json!({ "isLatest": false, "status": "deleted", "statusMessage": "malware", "publishedAt": "2026-03-01T00:00:00Z" }),
        ),
    ])
    .await;
    let latest = app.get("/v0.1/servers/a.x%2Fone/versions/latest").await.expect(200);
    assert_eq!(latest["server"]["version"], "1.1.0");
    assert_eq!(latest["_meta"]["io.modelcontextprotocol.registry/official"]["isLatest"], true);
    assert_eq!(app.get("/v0.1/servers/a.x%2Fone").await.expect(200), latest);
    assert_eq!(names(&app.get("/v0.1/servers/a.x%2Fone/versions").await.expect(200)), ["a.x/one@1.1.0", "a.x/one@1.0.0"]);
    let all = app.get("/v0.1/servers/a.x%2Fone/versions?include_deleted=true").await.expect(200);
    assert_eq!(names(&all), ["a.x/one@1.2.0", "a.x/one@1.1.0", "a.x/one@1.0.0"]);
    assert_eq!(all["metadata"], json!({ "count": 3 }));
    let deleted = app.get("/v0.1/servers/a.x%2Fone/versions/1.2.0?include_deleted=true").await.expect(200);
    assert_eq!(deleted["_meta"]["io.modelcontextprotocol.registry/official"]["statusMessage"], "malware");
    let local = app.get("/v0.1/servers/git/versions/latest").await.expect(200);
    assert_eq!(local["server"]["name"], "local.fabric/git");
    assert_eq!(app.get("/v0.1/servers/local.fabric%2Fgit/versions/latest").await.expect(200), local);
    for path in [
        "a.x%2Fone/versions/1.2.0",
        "a.x%2Fone/versions/9",
        "a.x%2Fnone/versions/latest",
        "a.x%2Fnone/versions",
        "..%2F..%2Fetc/versions/latest",
        "A.X%2Fone/versions/latest",
    ] {
        let problem = app.get(&format!("/v0.1/servers/{path}")).await.expect_problem(404, "server_not_found");
        assert_eq!(problem["detail"], "Server not found", "{path}");
    }
    for (path, what) in [("%zz/versions", "server name"), ("%ff/versions/latest", "server name"), ("a.x%2Fone/versions/%2", "version")] {
        let problem = app.get(&format!("/v0.1/servers/{path}")).await.expect_problem(400, "invalid_encoding");
        assert_eq!(problem["detail"], format!("Invalid {what} encoding"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_cached_by_etag_compressed_and_renewed() {
    let app = TestApp::start().await;
    app.import(&data::many(20, 1)).await;
    let first = app.get("/v0.1/servers?limit=20").await;
    let etag = first.header("etag").unwrap().to_owned();
    assert_eq!(first.header("cache-control"), Some("no-cache"));
    let known = app.send(app.request(Method::GET, "/v0.1/servers?limit=20").header("if-none-match", &etag)).await;
    assert_eq!((known.status, known.body.len(), known.header("etag")), (304, 0, Some(etag.as_str())));
    let packed = app.send(app.request(Method::GET, "/v0.1/servers?limit=20").header("accept-encoding", "gzip")).await;
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&packed.body[..]).read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, first.body);

    app.import(&[data::entry("aaa.first/one", "1.0.0")]).await;
    crate::support::eventually(5, "the page is renewed", || async {
        let page = app.get("/v0.1/servers?limit=20").await;
        (page.json()["servers"][0]["server"]["name"] == "aaa.first/one" && page.header("etag") != Some(etag.as_str())).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_origin_may_read_and_nobody_publishes() {
    let app = TestApp::start().await;
    for path in
        ["/v0.1/servers", "/v0/servers", "/servers", "/v0.1/servers/local.fabric%2Fgit/versions/latest", "/v0.1/servers/none/versions"]
    {
        for method in [Method::GET, Method::OPTIONS] {
            let answer = app.send(app.request(method.clone(), path).header("origin", "https://evil.example")).await;
            assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{method} {path}");
            assert_eq!(answer.header("access-control-allow-methods"), Some("GET, OPTIONS"));
            assert_eq!(answer.header("access-control-allow-headers"), Some("Authorization, Content-Type"));
            assert_eq!(answer.header("access-control-allow-credentials"), None);
        }
    }
    for (method, path) in [
        (Method::POST, "/v0.1/publish"),
        (Method::POST, "/v0/publish"),
        (Method::PUT, "/v0.1/servers/a%2Fb/versions/1"),
        (Method::DELETE, "/v0.1/servers/a%2Fb/versions/1"),
        (Method::PATCH, "/v0.1/servers/a%2Fb/versions/1/status"),
        (Method::PATCH, "/v0.1/servers/a%2Fb/status"),
        (Method::POST, "/v0.1/auth/github-at"),
    ] {
        app.send(app.request(method, path)).await.expect_problem(501, "publishing_not_supported");
    }
    for path in ["/v0.1/health", "/v0.1/ping", "/v0/health"] {
        assert_eq!(app.get(path).await.expect(200), json!({ "status": "ok" }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_validated_by_the_official_rules() {
    let app = TestApp::start().await;
    let good = &data::entry("io.github.acme/weather", "1.0.0")["server"];
    let send = |body: Vec<u8>| app.send(app.request(Method::POST, "/v0.1/validate").header("content-type", "application/json").body(body));
    assert_eq!(send(good.to_string().into_bytes()).await.expect(200)["valid"], true);
    let mut bad = good.clone();
    bad["version"] = "^1.0".into();
    bad["repository"] = json!({});
    let report = send(bad.to_string().into_bytes()).await.expect(200);
    assert_eq!(report["valid"], false);
    let rules: Vec<&str> = report["issues"].as_array().unwrap().iter().map(|issue| issue["reference"].as_str().unwrap()).collect();
    assert!(rules.contains(&"version-looks-like-range"), "{report}");
    let broken = send(b"{".to_vec()).await.expect(200);
    assert_eq!((&broken["valid"], &broken["issues"][0]["type"]), (&json!(false), &json!("json")));
    send(vec![b' '; (1 << 20) + 1]).await.expect_problem(413, "body_too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_own_namespace_can_be_searched_for() {
    let app = TestApp::start().await;
    for search in ["local.fabric", "LOCAL.fabric%2Fmem"] {
        let page = app.get(&format!("/v0.1/servers?search={search}")).await.expect(200);
        assert!(page["servers"].as_array().unwrap().iter().any(|entry| entry["server"]["name"] == "local.fabric/memory"), "{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_large_documents_is_cut_and_goes_on() {
    let app = TestApp::start().await;
    let large =
        |n: usize| data::entry_with(&format!("big.x/n{n:02}"), "1.0.0", json!({ "_meta": { "x": "y".repeat(900_000) } }), json!({}));
    let entries: Vec<Value> = (0..20).map(large).collect();
    app.import(&entries).await;
    let first = app.get("/v0.1/servers?limit=100").await;
    assert!(first.body.len() < 9 << 20, "{}", first.body.len());
    let first = first.expect(200);
    assert!(first["servers"].as_array().unwrap().len() < 20);
    assert!(first["metadata"]["nextCursor"].is_string());
    let names = app.catalogue().await.iter().filter(|entry| entry["server"]["name"].as_str().unwrap().starts_with("big.x/")).count();
    assert_eq!(names, 20);
}

/// What ToolHive looks for before it takes a URL for a registry.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_document_says_that_this_is_a_registry() {
    let app = TestApp::start().await;
    let answer = app.get("/openapi.yaml").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/yaml")));
    let text = answer.text();
    assert!(text.starts_with("openapi: 3.1.0"), "{}", &text[..60]);
    assert!(text.contains("https://github.com/modelcontextprotocol/registry"));
    assert!(text.contains("\n  version: 1.0.0\n"), "{text}");
    assert!(text.contains("/v0.1/servers/{name}/versions/{version}:"));
    assert!(!text.contains("/api/mcp/"));
}
