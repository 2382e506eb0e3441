//! What may come in, what goes, and what is looked after.

use chrono::{Duration, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use super::{TARBALL, fabric, holding};
use crate::support::{Packages, TestApp, Trouble};

async fn add(app: &TestApp, identifier: &str, version: Option<&str>) -> Value {
    let body = json!({ "registry_type": "npm", "identifier": identifier, "version": version, "closure": false });
    let asked = app.op_post_json("/api/mcp/cache", &body).await.expect(202);
    app.job(asked["job_id"].as_str().unwrap()).await
}

async fn run(app: &TestApp, path: &str, body: &Value) -> Value {
    let asked = app.op_post_json(path, body).await.expect(202);
    let job = app.job(asked["job_id"].as_str().unwrap()).await;
    assert_eq!(job["status"], "complete", "{job}");
    job["result"].clone()
}

/// An npm package with versions that were published so many hours ago; `None`: nobody says when.
fn aged(packages: &Packages, name: &str, versions: &[(&str, Option<i64>)], latest: &str) {
    let mut all = json!({ "name": name, "dist-tags": { "latest": latest, "next": latest }, "time": {}, "versions": {} });
    for (version, hours) in versions {
        packages.npm(name, version, format!("{name} {version}").as_bytes(), |_| {});
        let one = packages.document(&format!("/npm/{name}"));
        all["versions"][*version] = one["versions"][*version].clone();
        if let Some(hours) = hours {
            all["time"][*version] = json!(Utc::now() - Duration::hours(*hours));
        }
    }
    packages.put(&format!("/npm/{name}"), "application/json", all.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_say_what_may_come_in_and_be_given() {
    let packages = Packages::start().await;
    for name in ["good", "bad", "other", "excused"] {
        packages.npm(name, "1.0.0", name.as_bytes(), |_| {});
    }
    let mut app = fabric(&packages, &[]).await;
    assert_eq!(add(&app, "bad", None).await["status"], "complete", "before there were rules");
    app.set("FABRIC_CACHE_ALLOW", "npm:good,npm:bad,pypi:*");
    app.set("FABRIC_CACHE_DENY", "*:bad,npm:excused");
    app.set("FABRIC_CACHE_EXCEPTIONS", "npm:excused=2999-12-31,npm:other=2020-01-01");
    app.restart().await;
    assert_eq!(add(&app, "good", None).await["status"], "complete");
    assert_eq!(add(&app, "excused", None).await["status"], "complete", "an exception counts more than any rule");
    let asked = packages.requests();
    for (name, rule) in [("bad", "FABRIC_CACHE_DENY"), ("other", "FABRIC_CACHE_ALLOW")] {
        app.get(&format!("/npm/{name}")).await.expect_problem(403, "policy_name");
        let body = json!({ "registry_type": "npm", "identifier": name });
        let problem = app.op_post_json("/api/mcp/cache", &body).await.expect_problem(403, "policy_name");
        assert!(problem["detail"].as_str().unwrap().contains(rule), "{problem}");
        app.get(&format!("/npm/{name}/-/{name}-1.0.0.tgz")).await.expect_problem(403, "policy_name");
    }
    assert_eq!(packages.requests(), asked, "nobody outside hears of such a name");
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_were_published_just_now_wait() {
    let packages = Packages::start().await;
    aged(&packages, "tool", &[("1.0.0", Some(500)), ("1.1.0", Some(100)), ("1.2.0-rc.1", Some(100)), ("2.0.0", Some(3))], "2.0.0");
    aged(&packages, "fresh", &[("1.0.0", Some(1))], "1.0.0");
    aged(&packages, "silent", &[("1.0.0", None)], "1.0.0");
    let app = fabric(&packages, &[("FABRIC_CACHE_MIN_AGE_HOURS", "48")]).await;
    let job = add(&app, "tool", None).await;
    assert_eq!(job["result"]["packages"][0]["version"], "1.1.0", "the newest stable one that is old enough: {job}");
    let shown = app.get("/npm/tool").await.expect(200);
    assert_eq!(shown["dist-tags"], json!({ "latest": "1.1.0" }));
    assert_eq!(shown["versions"].as_object().unwrap().keys().collect::<Vec<_>>(), ["1.0.0", "1.1.0", "1.2.0-rc.1"]);
    for (name, version) in [("tool", "2.0.0"), ("fresh", "1.0.0"), ("silent", "1.0.0")] {
        let job = add(&app, name, Some(version)).await;
        assert_eq!(job["error"]["code"], "policy_age", "{job}");
        app.get(&format!("/npm/{name}/-/{name}-{version}.tgz")).await.expect_problem(403, "policy_age");
        assert_eq!(holding(&app, format!("{name} {version}").as_bytes()), 0);
    }
    let image = packages.image("acme/tool", &[b"layer"], |_| {});
    packages.index("acme/tool", "1", &[("linux/amd64", &image)]);
    let host = packages.host();
    let app =
        TestApp::with(&[("FABRIC_ALLOWED_HOSTS", &host), ("FABRIC_CACHE_MIN_AGE_HOURS", "1"), ("FABRIC_CACHE_TARGETS", "linux/amd64")])
            .await;
    let body = json!({ "registry_type": "oci", "identifier": format!("{host}/acme/tool:1") });
    let first = app.op_post_json("/api/mcp/cache", &body).await.expect(202);
    assert_eq!(
        app.job(first["job_id"].as_str().unwrap()).await["error"]["code"],
        "policy_age",
        "images age from when they were first seen"
    );
    sqlx::query("UPDATE mcp_fabric.cache_artifacts SET seen_at = seen_at - interval '2 hours'")
        .execute(&mut app.database.connect().await)
        .await
        .unwrap();
    let again = app.op_post_json("/api/mcp/cache", &body).await.expect(202);
    assert_eq!(app.job(again["job_id"].as_str().unwrap()).await["status"], "complete");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_does_not_say_when_is_asked_where_it_does() {
    let packages = Packages::start().await;
    let sha256 = crate::support::digest(b"a wheel").replace("sha256:", "");
    for name in ["acme-old", "acme-silent"] {
        let file = format!("{}-1.0.0-py3-none-any.whl", name.replace('-', "_"));
        packages.put(&format!("/wheels/{file}"), "application/octet-stream", "a wheel");
        packages.put(&format!("/simple/{name}/"), "text/html", format!("<a href=\"../../wheels/{file}#sha256={sha256}\">{file}</a>"));
    }
    let stated = json!({ "releases": { "1.0.0": [{
        "filename": "acme_old-1.0.0-py3-none-any.whl", "digests": { "sha256": sha256 }, "size": 7,
        "upload_time_iso_8601": Utc::now() - Duration::hours(100),
    }] } });
    packages.put("/pypi/acme-old/json", "application/json", stated.to_string());
    let app = fabric(&packages, &[("FABRIC_CACHE_MIN_AGE_HOURS", "48")]).await;
    for (name, status) in [("acme-old", "complete"), ("acme-silent", "failed")] {
        let body = json!({ "registry_type": "pypi", "identifier": name, "version": "1.0.0", "closure": false });
        let asked = app.op_post_json("/api/mcp/cache", &body).await.expect(202);
        assert_eq!(app.job(asked["job_id"].as_str().unwrap()).await["status"], status, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_to_be_proved_has_to_be_proved() {
    let packages = Packages::start().await;
    packages.npm("plain", "1.0.0", TARBALL, |_| {});
    packages.npm("stated", "1.0.0", b"stated", |dist| {
        dist["signatures"] = json!([{ "keyid": "SHA256:nobody", "sig": "AAAA" }]);
        dist["attestations"] = json!({ "url": "https://x.example/" });
    });
    let app = fabric(&packages, &[("FABRIC_CACHE_REQUIRE", "npm:provenance")]).await;
    assert_eq!(add(&app, "plain", None).await["error"]["code"], "policy_proof");
    assert_eq!(add(&app, "stated", None).await["status"], "complete");
    let app = fabric(&packages, &[("FABRIC_CACHE_REQUIRE", "npm:signature")]).await;
    assert_eq!(add(&app, "stated", None).await["error"]["code"], "policy_proof", "a signature by nobody knows whom proves nothing");
    // A key of P-256 that did not sign this.
    let key =
        "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==";
    let keys =
        json!({ "keys": [{ "keyid": "SHA256:nobody", "keytype": "x", "scheme": "ecdsa-sha2-nistp256", "key": key, "expires": null }] });
    packages.put("/npm/-/npm/v1/keys", "application/json", keys.to_string());
    let app = fabric(&packages, &[]).await;
    let job = add(&app, "stated", None).await;
    assert_eq!(job["error"]["code"], "signature_invalid", "a wrong signature by a known key is refused without any rule: {job}");
    assert_eq!(holding(&app, b"stated"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_cache_loses_what_nobody_asked_for_and_was_not_used_for_longest() {
    let packages = Packages::start().await;
    let third = |letter: u8| vec![letter; 400_000];
    for name in ["a", "b", "c", "d"] {
        packages.npm(name, "1.0.0", &third(name.as_bytes()[0]), |_| {});
    }
    let app = fabric(&packages, &[("FABRIC_CACHE_QUOTA_MB", "1"), ("FABRIC_CACHE_LOW_WATER_PERCENT", "70")]).await;
    assert_eq!(add(&app, "a", None).await["status"], "complete", "asked for on purpose");
    let path = |name: &str| format!("/npm/{name}/-/{name}-1.0.0.tgz");
    assert_eq!(app.get(&path("b")).await.status, 200);
    assert_eq!(app.get(&path("c")).await.status, 200);
    assert_eq!(app.get(&path("d")).await.status, 200);
    let there = |name: &str| holding(&app, &third(name.as_bytes()[0])) == 1;
    assert!(there("a") && !there("b"), "what was asked for stays, what came in by itself goes");
    let stats = app.op_get("/api/mcp/cache/stats").await.expect(200);
    assert!(stats["total"]["evictions"].as_u64().unwrap() >= 1 && stats["total"]["bytes"].as_u64().unwrap() <= 1_300_000, "{stats}");
    let full = fabric(&packages, &[("FABRIC_CACHE_RESERVE_MB", "1000000")]).await;
    full.get(&path("a")).await.expect_problem(503, "cache_full");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_misses_at_once_do_not_empty_a_full_cache() {
    let packages = Packages::start().await;
    let bytes = |number: usize| vec![u8::try_from(number).unwrap(); 100_000];
    for number in 0..50 {
        packages.npm(&format!("p{number}"), "1.0.0", &bytes(number), |_| {});
    }
    let app =
        fabric(&packages, &[("FABRIC_CACHE_QUOTA_MB", "4"), ("FABRIC_CACHE_LOW_WATER_PERCENT", "80"), ("FABRIC_RATE_LIMIT", "0")]).await;
    let path = |number: usize| format!("/npm/p{number}/-/p{number}-1.0.0.tgz");
    for number in 0..40 {
        assert_eq!(app.get(&path(number)).await.status, 200);
    }
    let answers = futures_util::future::join_all((40..50).map(|number| {
        let path = path(number);
        let app = &app;
        async move { app.get(&path).await.status }
    }))
    .await;
    assert_eq!(answers, [200; 10]);
    let sums = app.op_get("/api/mcp/cache/stats").await.expect(200)["total"].clone();
    assert!(sums["bytes"].as_u64().unwrap() > 2_500_000 && sums["bytes"].as_u64().unwrap() <= 5_300_000, "{sums}");
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_are_listed_removed_pruned_and_verified() {
    let packages = Packages::start().await;
    for name in ["one", "two", "three"] {
        packages.npm(name, "1.0.0", name.as_bytes(), |_| {});
    }
    packages.npm("gone", "1.0.0", b"gone", |_| {});
    packages.trouble("/files/gone-1.0.0.tgz", Trouble::Status(404));
    let app = fabric(&packages, &[]).await;
    assert_eq!(add(&app, "one", None).await["status"], "complete");
    for name in ["two", "three", "gone"] {
        app.get(&format!("/npm/{name}/-/{name}-1.0.0.tgz")).await;
    }
    let page = app.op_get("/api/mcp/cache?limit=2").await.expect(200);
    let next = page["next_cursor"].as_str().unwrap();
    let rest = app.op_get(&format!("/api/mcp/cache?limit=2&cursor={next}")).await.expect(200);
    let names = |page: &Value| {
        page["packages"].as_array().unwrap().iter().map(|package| package["identifier"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!([names(&page), names(&rest)].concat(), ["gone", "one", "three", "two"]);
    assert_eq!((&page["packages"][1]["pinned"], &rest["packages"][0]["pinned"]), (&json!(true), &json!(false)));
    assert_eq!(names(&app.op_get("/api/mcp/cache?registry_type=npm&search=hre").await.expect(200)), ["three"]);
    app.op_get("/api/mcp/cache?registry_type=gem").await.expect_problem(422, "unsupported_registry_type");
    app.get("/api/mcp/cache").await.expect_problem(401, "unauthenticated");

    let remove = |query: &str| app.request(Method::DELETE, &format!("/api/mcp/cache?{query}")).bearer_auth(&app.token);
    let removed = app.send(remove("registry_type=npm&identifier=three&version=1.0.0")).await.expect(200);
    assert_eq!((removed["removed"].as_u64(), holding(&app, b"three")), (Some(1), 0));
    app.send(remove("registry_type=npm&identifier=three&version=1.0.0")).await.expect_problem(404, "not_cached");

    let dry = run(&app, "/api/mcp/cache/prune", &json!({ "unused": true, "failed": true, "dry_run": true })).await;
    assert_eq!(
        (&dry["packages"], &dry["failed_files"]),
        (&json!([{ "package": "npm gone 1.0.0", "bytes": 0 }, { "package": "npm two 1.0.0", "bytes": 3 }]), &json!(1))
    );
    assert_eq!(holding(&app, b"two"), 1, "nothing went yet");
    let pruned = run(&app, "/api/mcp/cache/prune", &json!({ "unused": true, "failed": true })).await;
    assert_eq!((&pruned["bytes"], holding(&app, b"two"), holding(&app, b"one")), (&json!(3), 0, 1), "{pruned}");
    let all = run(&app, "/api/mcp/cache/prune", &json!({ "older_than_days": 0, "pinned": true, "dry_run": true })).await;
    assert_eq!(all["packages"].as_array().unwrap().len(), 1);
    run(&app, "/api/mcp/cache/prune", &json!({ "older_than_days": u32::MAX, "dry_run": true })).await;
    app.op_post_json("/api/mcp/cache/prune", &json!({ "odd": 1 })).await.expect_problem(400, "invalid_body");

    let blob = super::blobs(&app).into_iter().find(|path| std::fs::read(path).unwrap() == b"one").unwrap();
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, b"eno").unwrap();
    let verified = run(&app, "/api/mcp/cache/verify", &json!({})).await;
    assert_eq!((&verified["bad"][0]["file"], &verified["fetched_again"]), (&json!("one-1.0.0.tgz"), &json!(1)), "{verified}");
    assert_eq!((holding(&app, b"one"), holding(&app, b"eno")), (1, 0));
    assert_eq!(std::fs::read_dir(app.cache().join(".quarantine")).unwrap().count(), 1, "set aside for somebody to look at");
    assert_eq!(app.get("/npm/one/-/one-1.0.0.tgz").await.body, b"one");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_come_in_are_shown() {
    let packages = Packages::start().await;
    packages.npm("slow", "1.0.0", TARBALL, |_| {});
    packages.trouble("/files/slow-1.0.0.tgz", Trouble::Wait(std::time::Duration::from_secs(3)));
    let app = fabric(&packages, &[]).await;
    app.get("/api/mcp/cache/downloads").await.expect_problem(401, "unauthenticated");
    let (answer, shown) = tokio::join!(app.get("/npm/slow/-/slow-1.0.0.tgz"), async {
        crate::support::eventually(3, "the file is shown", || async {
            let shown = app.op_get("/api/mcp/cache/downloads").await.expect(200)["downloads"].clone();
            shown.as_array().unwrap().first().cloned()
        })
        .await
    });
    assert_eq!((answer.status, &shown["identifier"], &shown["file"]), (200, &json!("slow"), &json!("slow-1.0.0.tgz")));
    assert_eq!(app.op_get("/api/mcp/cache/downloads").await.expect(200)["downloads"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_fails_again_and_again_is_left_alone() {
    let packages = Packages::start().await;
    let app = fabric(&packages, &[]).await;
    for number in 0..20 {
        let path = format!("/npm/p{number}");
        packages.put(&path, "application/json", "{}");
        packages.trouble(&path, Trouble::Status(503));
        let answer = app.get(&path).await;
        assert_eq!(answer.status, 502, "{}", answer.text());
    }
    assert_eq!(packages.requests(), 5, "then it rests");
    let other = fabric(&packages, &[]).await;
    for _ in 0..10 {
        packages.trouble("/npm/p19", Trouble::Status(503));
        other.get("/npm/p19").await;
    }
    packages.npm("good", "1.0.0", TARBALL, |_| {});
    assert_eq!(other.get("/npm/good").await.status, 200, "one bad package does not make a bad registry");
    app.get("/npm/p19").await.expect_problem(502, "upstream_resting");
}
