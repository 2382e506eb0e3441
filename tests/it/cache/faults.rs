//! What goes wrong with packages: registries that tamper, lie, drip and break off, files that were changed,
//! and a process that is killed.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{TARBALL, blobs, fabric, holding};
use crate::support::{Packages, TestApp, Trouble};

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_what_was_stated_are_neither_given_nor_kept() {
    let packages = Packages::start().await;
    packages.npm("tool", "1.0.0", TARBALL, |_| {});
    packages.pypi("acme-tool", "2.0.0", b"a wheel");
    let app = fabric(&packages, &[]).await;
    let wheel = "/pypi/files/acme-tool/2.0.0/acme_tool-2.0.0-py3-none-any.whl";
    for (path, source, trouble) in [
        ("/npm/tool/-/tool-1.0.0.tgz", "/files/tool-1.0.0.tgz", Trouble::Tampered),
        ("/npm/tool/-/tool-1.0.0.tgz", "/files/tool-1.0.0.tgz", Trouble::Short),
        (wheel, "/wheels/acme_tool-2.0.0-py3-none-any.whl", Trouble::Tampered),
        (wheel, "/wheels/acme_tool-2.0.0-py3-none-any.whl", Trouble::Short),
        (wheel, "/wheels/acme_tool-2.0.0-py3-none-any.whl", Trouble::Endless),
    ] {
        packages.trouble(source, trouble.clone());
        let answer = app.get(path).await;
        answer.expect_problem(502, "integrity_mismatch");
        assert_eq!(blobs(&app).iter().filter(|path| path.to_string_lossy().contains(".drafts")).count(), 0, "{trouble:?}");
    }
    let metrics = app.op_get("/metrics").await.text();
    assert!(metrics.contains(r#"fabric_cache_integrity_failures_total{registry_type="npm"} 2"#), "{metrics}");
    assert_eq!(&app.get("/npm/tool/-/tool-1.0.0.tgz").await.body[..], TARBALL);
    assert_eq!(&app.get(wheel).await.body[..], b"a wheel");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_file_that_was_changed_is_fetched_again() {
    let packages = Packages::start().await;
    packages.npm("tool", "1.0.0", TARBALL, |_| {});
    let mut app = fabric(&packages, &[]).await;
    assert_eq!(app.get("/npm/tool/-/tool-1.0.0.tgz").await.status, 200);
    let blob = blobs(&app).into_iter().find(|path| std::fs::read(path).unwrap() == TARBALL).unwrap();
    std::fs::write(&blob, b"something else").unwrap();
    app.restart().await;
    assert_eq!(&app.get("/npm/tool/-/tool-1.0.0.tgz").await.body[..], TARBALL);
    assert_eq!(packages.asked("/files/tool-1.0.0.tgz"), 2);
    std::fs::remove_file(&blob).unwrap();
    app.restart().await;
    assert_eq!(&app.get("/npm/tool/-/tool-1.0.0.tgz").await.body[..], TARBALL);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_breaks_off_goes_on_where_it_stopped() {
    let packages = Packages::start().await;
    packages.npm("tool", "1.0.0", TARBALL, |_| {});
    packages.trouble("/files/tool-1.0.0.tgz", Trouble::Status(503));
    packages.trouble("/files/tool-1.0.0.tgz", Trouble::BrokenAt(30));
    let app = fabric(&packages, &[]).await;
    assert_eq!(&app.get("/npm/tool/-/tool-1.0.0.tgz").await.body[..], TARBALL);
    assert_eq!(packages.ranges("/files/tool-1.0.0.tgz"), [None, None, Some("bytes=30-".into())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_registry_answers_decides_the_answer() {
    let packages = Packages::start().await;
    let app = fabric(&packages, &[("FABRIC_CACHE_MAX_FILE_MB", "1")]).await;
    app.get("/npm/none").await.expect_problem(404, "package_not_found");
    app.get("/npm/none").await.expect_problem(404, "package_not_found");
    assert_eq!(packages.asked("/npm/none"), 1, "that there is none is believed for a while");
    packages.npm("tool", "1.0.0", TARBALL, |_| {});
    app.get("/npm/tool/-/tool-2.0.0.tgz").await.expect_problem(404, "version_not_found");
    for (status, code) in [(401, "upstream_error"), (403, "upstream_error"), (404, "upstream_error")] {
        packages.trouble("/files/tool-1.0.0.tgz", Trouble::Status(status));
        app.get("/npm/tool/-/tool-1.0.0.tgz").await.expect_problem(502, code);
    }
    packages.npm("large", "1.0.0", &vec![7; (1 << 20) + 1], |_| {});
    app.get("/npm/large/-/large-1.0.0.tgz").await.expect_problem(422, "file_too_large");
    packages.npm("endless", "1.0.0", TARBALL, |_| {});
    packages.trouble("/files/endless-1.0.0.tgz", Trouble::Endless);
    app.get("/npm/endless/-/endless-1.0.0.tgz").await.expect_problem(422, "file_too_large");
    packages.put("/npm/page", "text/html", "<html>");
    app.get("/npm/page").await.expect_problem(502, "upstream_document_invalid");
    packages.put("/npm/liar", "application/json", r#"{"name":"other","versions":{}}"#);
    app.get("/npm/liar").await.expect_problem(502, "upstream_document_invalid");
    packages.npm("weak", "1.0.0", TARBALL, |dist| *dist = json!({ "tarball": dist["tarball"], "shasum": "0".repeat(40) }));
    app.get("/npm/weak/-/weak-1.0.0.tgz").await.expect_problem(422, "digest_missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_point_inside_or_elsewhere_are_not_followed() {
    let packages = Packages::start().await;
    let app = fabric(&packages, &[]).await;
    for (position, (url, code)) in [
        ("https://elsewhere.example/x.tgz", "upstream_host_refused"),
        ("http://169.254.169.254/latest/meta-data", "upstream_host_refused"),
        ("http://127.0.0.1:1/x.tgz", "upstream_host_refused"),
        ("file:///etc/passwd", "upstream_document_invalid"),
        ("not a url", "upstream_document_invalid"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("tool{position}x");
        packages.npm(&name, "1.0.0", TARBALL, |dist| dist["tarball"] = json!(url));
        app.get(&format!("/npm/{name}/-/{name}-1.0.0.tgz")).await.expect_problem(502, code);
    }
    packages.npm("tool", "1.0.0", TARBALL, |_| {});
    for target in ["http://169.254.169.254/", "http://127.0.0.1:1/", "http://[::1]:1/", "http://2130706433:1/"] {
        packages.trouble("/files/tool-1.0.0.tgz", Trouble::Redirect(target.into()));
        app.get("/npm/tool/-/tool-1.0.0.tgz").await.expect_problem(502, "upstream_host_refused");
    }
    for _ in 0..12 {
        packages.trouble("/files/tool-1.0.0.tgz", Trouble::Redirect(format!("{}/files/tool-1.0.0.tgz", packages.url)));
    }
    app.get("/npm/tool/-/tool-1.0.0.tgz").await.expect_problem(502, "upstream_redirects");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_drips_is_given_up() {
    let packages = Packages::start().await;
    packages.npm("tool", "1.0.0", TARBALL, |_| {});
    packages.trouble("/files/tool-1.0.0.tgz", Trouble::Drip);
    let app = fabric(&packages, &[("FABRIC_CACHE_PATIENCE_SECONDS", "3")]).await;
    app.get("/npm/tool/-/tool-1.0.0.tgz").await.expect_problem(504, "upstream_too_slow");
    assert_eq!(holding(&app, TARBALL), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_down_leaves_what_it_said_before() {
    let packages = Packages::start().await;
    packages.npm("tool", "1.0.0", TARBALL, |_| {});
    let app = fabric(&packages, &[("FABRIC_CACHE_METADATA_SECONDS", "1")]).await;
    assert_eq!(app.get("/npm/tool").await.header("warning"), None);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    packages.trouble("/npm/tool", Trouble::Status(500));
    let stale = app.get("/npm/tool").await;
    assert_eq!((stale.status, stale.header("warning")), (200, Some("110 - \"Response is Stale\"")));
    assert_eq!(app.get("/npm/tool").await.header("warning"), None, "it is up again");
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_only_what_is_here_is_given() {
    let packages = Packages::start().await;
    packages.npm("tool", "1.0.0", TARBALL, |_| {});
    packages.npm("other", "1.0.0", TARBALL, |_| {});
    let mut app = fabric(&packages, &[("FABRIC_CACHE_METADATA_SECONDS", "1")]).await;
    app.get("/npm/tool/-/tool-1.0.0.tgz").await;
    app.set("FABRIC_OFFLINE", "true");
    app.restart().await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let before = packages.asked("/npm/tool") + packages.asked("/files/tool-1.0.0.tgz");
    assert_eq!(app.get("/npm/tool").await.header("warning"), Some("110 - \"Response is Stale\""));
    assert_eq!(&app.get("/npm/tool/-/tool-1.0.0.tgz").await.body[..], TARBALL);
    app.get("/npm/other").await.expect_problem(404, "offline");
    app.get("/npm/other/-/other-1.0.0.tgz").await.expect_problem(404, "offline");
    assert_eq!(packages.asked("/npm/tool") + packages.asked("/files/tool-1.0.0.tgz"), before);
    assert_eq!(packages.asked("/npm/other"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_have_a_miss_fetched_is_a_setting() {
    let packages = Packages::start().await;
    packages.npm("tool", "1.0.0", TARBALL, |_| {});
    let app = fabric(&packages, &[("FABRIC_ANONYMOUS_FILL", "never")]).await;
    let path = "/npm/tool/-/tool-1.0.0.tgz";
    for path in ["/npm/tool", path, "/pypi/simple/tool/"] {
        app.get(path).await.expect_problem(404, "not_cached");
    }
    app.send(app.request(Method::GET, path).bearer_auth("wrong")).await.expect_problem(401, "unauthenticated");
    assert_eq!(packages.asked("/npm/tool"), 0);
    assert_eq!(app.op_get(path).await.status, StatusCode::OK.as_u16());
    assert_eq!(&app.get(path).await.body[..], TARBALL, "what is here is for everybody");
    let other = "/pypi/simple/acme-tool/";
    packages.pypi("acme-tool", "2.0.0", b"a wheel");
    app.send(app.request(Method::GET, other).basic_auth("anybody", Some("wrong"))).await.expect_problem(401, "unauthenticated");
    assert_eq!(
        app.send(app.request(Method::GET, other).basic_auth("anybody", Some(&app.token))).await.status,
        200,
        "as pip and uv send it"
    );
    let local = fabric(&packages, &[]).await;
    for (name, value) in
        [("x-forwarded-for", "9.9.9.9"), ("origin", "https://evil.example"), ("sec-fetch-site", "cross-site"), ("host", "rebound.example")]
    {
        local.send(local.request(Method::GET, path).header(name, value)).await.expect_problem(404, "not_cached");
    }
}

/// A registry's credentials are for its own address: not for another port, and not for where a redirect leads.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_stay_with_their_registry() {
    let (packages, elsewhere) = (Packages::start().await, Packages::start().await);
    packages.npm("tool", "1.0.0", TARBALL, |_| {});
    packages.npm("moved", "1.0.0", TARBALL, |_| {});
    elsewhere.put("/there.tgz", "application/octet-stream", TARBALL);
    let with_password = packages.url.replace("http://", "http://someone:pass-word@");
    let npm = format!("{with_password}/npm/");
    let app = TestApp::with(&[("FABRIC_NPM_REGISTRY", &npm), ("FABRIC_ALLOWED_HOSTS", "127.0.0.1")]).await;
    assert_eq!(app.get("/npm/tool/-/tool-1.0.0.tgz").await.status, 200);
    packages.trouble("/files/moved-1.0.0.tgz", Trouble::Redirect(format!("{}/there.tgz", elsewhere.url)));
    assert_eq!(app.get("/npm/moved/-/moved-1.0.0.tgz").await.status, 200);
    assert!(packages.authorized("/files/tool-1.0.0.tgz") && packages.authorized("/npm/tool"));
    assert!(!elsewhere.authorized("/there.tgz"));
    let rows: Vec<String> =
        sqlx::query_scalar("SELECT source FROM mcp_fabric.cache_artifacts UNION SELECT source FROM mcp_fabric.cache_documents")
            .fetch_all(&mut app.database.connect().await)
            .await
            .unwrap();
    assert!(!rows.is_empty() && rows.iter().all(|source| !source.contains("pass-word")), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_since_the_registry_was_asked_is_found() {
    let packages = Packages::start().await;
    packages.npm("tool", "1.0.0", TARBALL, |_| {});
    let app = fabric(&packages, &[]).await;
    app.get("/npm/tool").await.expect(200);
    packages.npm("tool", "1.1.0", TARBALL, |_| {});
    app.get("/npm/tool/-/tool-1.1.0.tgz").await.expect_problem(404, "version_not_found");
    // An answer of a moment ago is believed; one of longer ago is asked for again, although it is not old.
    sqlx::query("UPDATE mcp_fabric.cache_documents SET checked_at = checked_at - interval '1 minute', etag = NULL")
        .execute(&mut app.database.connect().await)
        .await
        .unwrap();
    let mut app = app;
    app.restart().await;
    assert_eq!(&app.get("/npm/tool/-/tool-1.1.0.tgz").await.body[..], TARBALL);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_inside_is_refused_where_the_connection_is_made() {
    let packages = Packages::start().await;
    packages.put("/tool.mcpb", "application/octet-stream", TARBALL);
    let port = packages.host().split(':').nth(1).unwrap().to_owned();
    let app = TestApp::with(&[("FABRIC_MCPB_HOSTS", "localhost")]).await;
    let sha256 = crate::support::digest(TARBALL).replace("sha256:", "");
    let body = json!({ "registry_type": "mcpb", "identifier": format!("http://localhost:{port}/tool.mcpb"), "file_sha256": sha256 });
    let asked = app.op_post_json("/api/mcp/cache", &body).await.expect(202);
    let job = app.job(asked["job_id"].as_str().unwrap()).await;
    assert_eq!((&job["error"]["code"], packages.requests()), (&json!("upstream_host_refused"), 0), "{job}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_back_makes_nothing_young_for_ever() {
    let packages = Packages::start().await;
    packages.npm("tool", "1.0.0", TARBALL, |_| {});
    let mut app = fabric(&packages, &[]).await;
    app.get("/npm/tool").await.expect(200);
    sqlx::query("UPDATE mcp_fabric.cache_documents SET checked_at = checked_at + interval '1 year'")
        .execute(&mut app.database.connect().await)
        .await
        .unwrap();
    app.restart().await;
    app.get("/npm/tool").await.expect(200);
    app.get("/npm/tool").await.expect(200);
    assert_eq!(packages.asked("/npm/tool"), 2, "it is asked again, once");
}
