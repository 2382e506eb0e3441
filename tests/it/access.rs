//! Who may do what, from where, and the shape of every refusal.

use reqwest::Method;
use serde_json::json;

use crate::support::TestApp;

#[tokio::test(flavor = "multi_thread")]
async fn only_the_token_in_one_well_formed_header_opens() {
    let app = TestApp::start().await;
    let path = "/api/mcp/jobs";
    app.op_get(path).await.expect(200);
    let mut bodies = Vec::new();
    for value in [
        "",
        "Bearer",
        "Bearer x",
        &app.token,
        &format!("bearer {}", app.token),
        &format!("Bearer  {}", app.token),
        &format!("Bearer {}x", app.token),
        "Basic b3A6b3A=",
    ] {
        let answer = app.send(app.request(Method::GET, path).header("authorization", value)).await;
        let mut body = answer.expect_problem(401, "unauthenticated");
        assert_eq!(answer.header("www-authenticate"), Some(r#"Bearer realm="mcp-fabric""#));
        body["request_id"] = json!(null);
        bodies.push(body);
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]));
    let twice = app.request(Method::GET, path).bearer_auth(&app.token).header("authorization", format!("Bearer {}", app.token));
    app.send(twice).await.expect_problem(401, "unauthenticated");
    app.get(&format!("{path}?token={0}&access_token={0}", app.token)).await.expect_problem(401, "unauthenticated");
    app.send(app.request(Method::GET, path).header("cookie", format!("token={}", app.token))).await.expect_problem(401, "unauthenticated");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(app.data().join("operator.token")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn trust_in_this_machine_is_off_unless_asked_for() {
    let plain = TestApp::start().await;
    plain.get("/api/mcp/jobs").await.expect_problem(401, "unauthenticated");
    let trusting = TestApp::with(&[("FABRIC_TRUST_LOOPBACK", "true")]).await;
    trusting.get("/api/mcp/jobs").await.expect(200);
    for (name, value) in [
        ("origin", "http://localhost:3000"),
        ("sec-fetch-site", "none"),
        ("x-forwarded-for", "127.0.0.1"),
        ("forwarded", "for=1"),
        ("host", "evil.example"),
        ("authorization", "Bearer wrong"),
    ] {
        let answer = trusting.send(trusting.request(Method::GET, "/api/mcp/jobs").header(name, value)).await;
        answer.expect_problem(401, "unauthenticated");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_cannot_read_the_api() {
    let app = TestApp::start().await;
    for origin in ["http://localhost:3000", "http://127.0.0.1:5173", "http://localhost"] {
        let answer = app.send(app.request(Method::GET, "/api/mcp/servers").header("origin", origin)).await;
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        assert_eq!(answer.header("access-control-allow-credentials"), None);
        assert!(answer.header("access-control-expose-headers").unwrap().contains("x-request-id"));
    }
    for origin in [
        "null",
        "http://evil.example",
        "http://localhost.evil.example",
        "http://evil.example:3000",
        "https://localhost:3000",
        "http://localhost:3000.evil.example",
    ] {
        let answer = app.send(app.request(Method::GET, "/api/mcp/servers").header("origin", origin)).await;
        assert_eq!(answer.header("access-control-allow-origin"), None, "{origin}");
    }
    // The preflight of a write comes before authentication.
    let preflight = app
        .request(Method::OPTIONS, "/api/mcp/sync/trigger")
        .header("origin", "http://localhost:3000")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type,idempotency-key,if-match,last-event-id");
    let answer = app.send(preflight).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("http://localhost:3000")));
    let allowed = answer.header("access-control-allow-headers").unwrap();
    assert!(
        ["authorization", "content-type", "idempotency-key", "if-match", "last-event-id"].iter().all(|name| allowed.contains(name)),
        "{allowed}"
    );
    assert_eq!(answer.header("access-control-allow-methods"), Some("GET,POST,PUT,PATCH,DELETE"));
    let refusal = app.send(app.request(Method::GET, "/api/mcp/jobs").header("origin", "http://localhost:3000")).await;
    refusal.expect_problem(401, "unauthenticated");
    assert_eq!(refusal.header("access-control-allow-origin"), Some("http://localhost:3000"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_one_shape() {
    let app = TestApp::start().await;
    app.get("/nowhere").await.expect_problem(404, "route_not_found");
    app.get("/api/mcp/nowhere").await.expect_problem(404, "route_not_found");
    app.send(app.request(Method::DELETE, "/api/mcp/servers")).await.expect_problem(405, "method_not_allowed");
    app.send(app.request(Method::POST, "/health/live")).await.expect_problem(405, "method_not_allowed");
    let post = |body: Vec<u8>, kind: &str| app.request(Method::POST, "/v0.1/validate").header("content-type", kind.to_owned()).body(body);
    app.send(post(vec![b'x'; (1 << 20) + 1], "application/json")).await.expect_problem(413, "body_too_large");
    let moved = app.get("/api/mcp/servers/?q=git").await;
    assert_eq!((moved.status, moved.header("location")), (308, Some("/api/mcp/servers?q=git")));
    assert_eq!(app.get("//evil.example/").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn harmless_request_ids_are_kept() {
    let app = TestApp::start().await;
    let sent = |id: &'static str| app.request(Method::GET, "/health/live").header("x-request-id", id);
    assert_eq!(app.send(sent("abc-1.2_3")).await.header("x-request-id"), Some("abc-1.2_3"));
    for bad in ["", "a b", "a\"b", "<script>", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"] {
        let answer = app.send(sent(bad)).await;
        assert_eq!(answer.header("x-request-id").unwrap().len(), 36, "{bad:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_requests_are_told_to_wait() {
    let app = TestApp::with(&[("FABRIC_RATE_LIMIT", "5")]).await;
    let mut statuses = Vec::new();
    for _ in 0..40 {
        statuses.push(app.get("/health/live").await);
    }
    let refused: Vec<_> = statuses.iter().filter(|answer| answer.status == 429).collect();
    assert!(refused.len() >= 15, "{}", refused.len());
    refused[0].expect_problem(429, "too_many_requests");
    assert_eq!(refused[0].header("retry-after"), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarded_addresses_count_only_from_trusted_proxies() {
    let trusting = TestApp::with(&[("FABRIC_RATE_LIMIT", "5"), ("FABRIC_TRUSTED_PROXIES", "127.0.0.1")]).await;
    for n in 0..40 {
        let answer = trusting.send(trusting.request(Method::GET, "/health/live").header("x-forwarded-for", format!("9.9.9.{n}"))).await;
        assert_eq!(answer.status, 200);
    }
    let plain = TestApp::with(&[("FABRIC_RATE_LIMIT", "5")]).await;
    let mut refused = 0;
    for n in 0..40 {
        let answer = plain.send(plain.request(Method::GET, "/health/live").header("x-forwarded-for", format!("9.9.9.{n}"))).await;
        refused += u32::from(answer.status == 429);
    }
    assert!(refused >= 15, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_for_this_machine_or_a_token() {
    let app = TestApp::start().await;
    app.get("/api/mcp/servers").await.expect(200);
    let metrics = app.get("/metrics").await.text();
    assert!(metrics.contains(r#"fabric_http_responses_total{method="GET",route="/api/mcp/servers",status="200"} 1"#), "{metrics}");
    let through_a_proxy = app.request(Method::GET, "/metrics").header("x-forwarded-for", "9.9.9.9");
    app.send(through_a_proxy).await.expect_problem(401, "unauthenticated");
    let with_token = app.request(Method::GET, "/metrics").header("x-forwarded-for", "9.9.9.9").bearer_auth(&app.token);
    assert_eq!(app.send(with_token).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_documentation_answer_anybody() {
    let app = TestApp::start().await;
    assert_eq!(app.get("/health/live").await.expect(200), json!({ "status": "ok" }));
    let ready = app.get("/health/ready").await.expect(200);
    assert_eq!((&ready["database"], &ready["disk"]), (&json!("ok"), &json!("ok")));
    assert_eq!(app.get("/docs").await.header("location"), Some("/docs/index.html"));
    let page = app.get("/docs/index.html").await;
    assert!(page.text().contains("swagger-ui"));
    assert!(!page.text().contains("https://"), "every asset comes from the program itself");
    app.get("/docs/../../etc/passwd").await.expect_problem(404, "route_not_found");
    app.get("/docs/nothing.js").await.expect_problem(404, "route_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_document_names_the_address_that_clients_use() {
    let app = TestApp::with(&[("FABRIC_PUBLIC_URL", "https://fabric.example/")]).await;
    assert_eq!(app.get("/openapi.json").await.expect(200)["servers"], json!([{ "url": "https://fabric.example" }]));
}

/// A change of the API is a change of this file.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_document_is_as_reviewed() {
    let app = TestApp::start().await;
    insta::assert_json_snapshot!("openapi", app.get("/openapi.json").await.expect(200));
}
