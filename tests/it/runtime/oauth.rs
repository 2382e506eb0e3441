//! Logging in to servers elsewhere: a server that wants tokens, and an authorization server, both on loopback.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Method, Url};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::remote::answer;
use crate::support::{Answer, TestApp, data, eventually};

#[derive(Default)]
struct Inner {
    url: String,
    /// Tokens that count now.
    tokens: HashSet<String>,
    refresh: String,
    issued: usize,
    registered: usize,
    revoked: Vec<String>,
    /// What a code was given for: the challenge, and where it goes.
    challenge: String,
    redirect_uri: String,
    refuses: Option<&'static str>,
    is_away: bool,
    asked: usize,
    /// Tokens that came, whether they count or not.
    heard: Vec<String>,
    methods: Vec<&'static str>,
}

#[derive(Clone, Default)]
struct Elsewhere(Arc<Mutex<Inner>>);

impl Elsewhere {
    async fn start() -> (Self, String) {
        let elsewhere = Self::default();
        let service = Router::new()
            .route("/mcp", post(speak))
            .route("/.well-known/oauth-protected-resource/mcp", get(resource))
            .route("/.well-known/oauth-authorization-server/login", get(metadata))
            .route("/register", post(register))
            .route("/token", post(token))
            .route("/revoke", post(revoke))
            .with_state(elsewhere.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        elsewhere.inner().url.clone_from(&url);
        elsewhere.inner().methods = vec!["S256"];
        tokio::spawn(async move { axum::serve(listener, service).await });
        (elsewhere, url)
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// What a person does who logs in: the address that the browser is sent back to.
    fn log_in(&self, address: &str) -> String {
        let asked: Url = address.parse().unwrap();
        let asked: HashMap<String, String> = asked.query_pairs().into_owned().collect();
        assert_eq!((asked["response_type"].as_str(), asked["code_challenge_method"].as_str()), ("code", "S256"));
        assert_eq!((asked["client_id"].as_str(), asked["scope"].as_str()), ("fabric-1", "files:read offline_access"));
        let mut inner = self.inner();
        assert_eq!(asked["resource"], format!("{}/mcp", inner.url));
        inner.challenge.clone_from(&asked["code_challenge"]);
        inner.redirect_uri.clone_from(&asked["redirect_uri"]);
        format!(
            "{}?code=the-code&state={}&iss={}%2Flogin",
            asked["redirect_uri"],
            asked["state"],
            inner.url.replace(':', "%3A").replace('/', "%2F")
        )
    }
}

async fn speak(State(elsewhere): State<Elsewhere>, headers: HeaderMap, Json(message): Json<Value>) -> Response {
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer ").map(str::to_owned));
    let mut inner = elsewhere.inner();
    inner.asked += 1;
    inner.heard.extend(token.clone());
    if !token.is_some_and(|token| inner.tokens.contains(&token)) {
        let challenge =
            format!("Bearer resource_metadata=\"{}/.well-known/oauth-protected-resource/mcp\", scope=\"files:read\"", inner.url);
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response();
    }
    if message.get("id").is_none() {
        return StatusCode::ACCEPTED.into_response();
    }
    Json(answer(&message)).into_response()
}

async fn resource(State(elsewhere): State<Elsewhere>) -> Json<Value> {
    let url = elsewhere.inner().url.clone();
    Json(json!({ "resource": format!("{url}/mcp"), "authorization_servers": [format!("{url}/login")], "scopes_supported": ["other"] }))
}

async fn metadata(State(elsewhere): State<Elsewhere>) -> Json<Value> {
    let inner = elsewhere.inner();
    let at = |path: &str| format!("{}/{path}", inner.url);
    Json(json!({
        "issuer": at("login"), "authorization_endpoint": at("authorize"), "token_endpoint": at("token"), "registration_endpoint": at("register"),
        "revocation_endpoint": at("revoke"), "code_challenge_methods_supported": inner.methods, "scopes_supported": ["files:read", "offline_access"],
        "authorization_response_iss_parameter_supported": true,
    }))
}

async fn register(State(elsewhere): State<Elsewhere>, Json(asked): Json<Value>) -> (StatusCode, Json<Value>) {
    assert_eq!(asked["token_endpoint_auth_method"], "none");
    let mut inner = elsewhere.inner();
    inner.registered += 1;
    (StatusCode::CREATED, Json(json!({ "client_id": format!("fabric-{}", inner.registered), "redirect_uris": asked["redirect_uris"] })))
}

fn fields(body: &str) -> HashMap<String, String> {
    format!("http://x/?{body}").parse::<Url>().unwrap().query_pairs().into_owned().collect()
}

async fn token(State(elsewhere): State<Elsewhere>, body: String) -> Response {
    let (asked, mut inner) = (fields(&body), elsewhere.inner());
    let refuse = |code: &str| (StatusCode::BAD_REQUEST, Json(json!({ "error": code, "error_description": "no" }))).into_response();
    if inner.is_away {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if let Some(code) = inner.refuses {
        return refuse(code);
    }
    let is_good = asked["client_id"] == "fabric-1"
        && asked["resource"] == format!("{}/mcp", inner.url)
        && match asked["grant_type"].as_str() {
            "authorization_code" => {
                let shown = URL_SAFE_NO_PAD.encode(Sha256::digest(asked["code_verifier"].as_bytes()));
                asked["code"] == "the-code" && shown == inner.challenge && asked["redirect_uri"] == inner.redirect_uri
            }
            _ => asked["refresh_token"] == inner.refresh,
        };
    if !is_good {
        return refuse("invalid_grant");
    }
    inner.issued += 1;
    let access = format!("canary-access-{}", inner.issued);
    inner.tokens = HashSet::from([access.clone()]);
    inner.refresh = format!("canary-refresh-{}", inner.issued);
    let answer = json!({ "access_token": access, "token_type": "bearer", "expires_in": 3600, "refresh_token": inner.refresh, "scope": "files:read" });
    Json(answer).into_response()
}

async fn revoke(State(elsewhere): State<Elsewhere>, body: String) -> StatusCode {
    elsewhere.inner().revoked.push(fields(&body)["token"].clone());
    StatusCode::OK
}

const PATH: &str = "/api/mcp/servers/a.x%2Ffiles/authorization";

async fn scene() -> (Elsewhere, TestApp) {
    let (elsewhere, url) = Elsewhere::start().await;
    let app = TestApp::with(&[("FABRIC_ALLOWED_HOSTS", "127.0.0.1")]).await;
    let remote = json!({ "packages": [], "remotes": [{ "type": "streamable-http", "url": format!("{url}/mcp") }] });
    app.import(&[data::entry_with("a.x/files", "1.0.0", remote, json!({}))]).await;
    (elsewhere, app)
}

/// As a browser, which has no token of ours.
async fn browser(app: &TestApp, method: Method, address: &str) -> Answer {
    let address: Url = address.parse().unwrap();
    let path = format!("{}?{}", address.path(), address.query().unwrap_or_default());
    app.send(app.request(method, &path)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_logs_in_and_their_tokens_are_renewed() {
    let (elsewhere, app) = scene().await;
    app.op_post("/api/mcp/servers/a.x%2Ffiles/start").await.expect(202);
    let failed = app.instance_in(&app.token, "a.x/files", "FAILED").await;
    assert_eq!(failed["reason"]["code"], "authorization_needed", "{failed}");
    app.op_get(PATH).await.expect_problem(404, "not_logged_in");

    let begun = app.op_post(PATH).await.expect(201);
    let back = elsewhere.log_in(begun["authorization_url"].as_str().unwrap());
    let page = browser(&app, Method::GET, &back).await;
    assert_eq!((page.status, page.header("cache-control")), (200, Some("no-store")));
    assert!(page.text().contains("<b>operator</b>") && page.text().contains("<b>a.x/files</b>"), "{}", page.text());
    assert!(page.header("content-security-policy").unwrap().contains("frame-ancestors 'none'"));
    assert_eq!(elsewhere.inner().issued, 0, "nothing happens before somebody goes on");
    assert_eq!(browser(&app, Method::POST, &back).await.status, 200);
    let replayed = browser(&app, Method::POST, &back).await;
    assert!(replayed.status == 400 && replayed.text().contains("begin it again"), "{}", replayed.text());

    let grant = app.op_get(PATH).await.expect(200);
    assert_eq!((grant["scope"].as_str(), grant["is_over"].as_bool()), (Some("files:read"), Some(false)));
    app.op_post("/api/mcp/servers/a.x%2Ffiles/start").await.expect(202);
    let running = app.instance_in(&app.token, "a.x/files", "RUNNING").await;
    assert_eq!(app.tool(&running, "echo", json!({ "message": "in" })).await, "in");
    // A token that ends before its time: another one is brought for the same call.
    elsewhere.inner().tokens.clear();
    assert_eq!(app.tool(&running, "echo", json!({ "message": "still in" })).await, "still in");
    assert_eq!(elsewhere.inner().issued, 2);
    assert_eq!(app.instance(&running["id"]).await["restarts"], 0);
    // Many at once bring one.
    elsewhere.inner().tokens.clear();
    let calls = (0..8).map(|_| app.tool(&running, "echo", json!({ "message": "all" })));
    assert_eq!(futures_util::future::join_all(calls).await, ["all"; 8]);
    assert_eq!(elsewhere.inner().issued, 3);
    // The next login needs no new client.
    app.op_post(PATH).await.expect(201);
    assert_eq!(elsewhere.inner().registered, 1);

    // Nobody is shown a token.
    let log = app.op_get(&format!("/api/mcp/instances/{}/logs", running["id"].as_str().unwrap())).await.text();
    let told = format!("{grant} {log} {}", json!(app.trail("").await));
    assert!(!told.contains("canary"), "{told}");
    assert!(told.contains("oauth.login"), "{told}");

    // A refresh token that counts no more: only a person can help.
    elsewhere.inner().tokens.clear();
    elsewhere.inner().refuses = Some("invalid_grant");
    app.op_post_json(&format!("/api/mcp/instances/{}/tools/echo/call", running["id"].as_str().unwrap()), &json!({})).await;
    let failed = app.instance_in(&app.token, "a.x/files", "FAILED").await;
    assert_eq!(failed["reason"]["code"], "authorization_needed", "{failed}");
    assert_eq!(app.op_get(PATH).await.expect(200)["is_over"], true);
    assert_eq!(app.call(Method::DELETE, PATH, &app.token, &Value::Null).await.status, 204);
    assert_eq!(elsewhere.inner().revoked, ["canary-refresh-3", "canary-access-3"]);
    app.op_get(PATH).await.expect_problem(404, "not_logged_in");
    // Each leaves one event: two logins were begun, one of them was finished and ended.
    let trail = app.trail("").await;
    let mut left: Vec<&str> =
        trail.iter().filter_map(|event| event["action"].as_str().filter(|action| action.starts_with("oauth."))).collect();
    left.sort_unstable();
    assert_eq!(left, ["oauth.begin", "oauth.begin", "oauth.login", "oauth.logout"]);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_go_to_the_server_that_they_are_for_and_no_longer_than_their_login() {
    let (elsewhere, app) = scene().await;
    let begun = app.op_post(PATH).await.expect(201);
    let back = elsewhere.log_in(begun["authorization_url"].as_str().unwrap());
    assert_eq!(browser(&app, Method::POST, &back).await.status, 200);
    app.op_post("/api/mcp/servers/a.x%2Ffiles/start").await.expect(202);
    let running = app.instance_in(&app.token, "a.x/files", "RUNNING").await;
    // An authorization server that is away for a while is nobody's failure.
    elsewhere.inner().tokens.clear();
    elsewhere.inner().is_away = true;
    let path = format!("/api/mcp/instances/{}/tools/echo/call", running["id"].as_str().unwrap());
    app.op_post_json(&path, &json!({})).await;
    let waiting = eventually(20, "it waits", || async {
        Some(app.instance(&running["id"]).await).filter(|now| now["state"] == "STARTING" && now["reason"]["code"] == "remote_unreachable")
    })
    .await;
    assert!(waiting["reason"]["message"].as_str().unwrap().contains("503"), "{waiting}");
    elsewhere.inner().is_away = false;
    app.instance_in(&app.token, "a.x/files", "RUNNING").await;
    // Whoever logs out is not acted for any more.
    assert_eq!(app.call(Method::DELETE, PATH, &app.token, &Value::Null).await.status, 204);
    app.op_post_json(&path, &json!({})).await;
    let failed = app.instance_in(&app.token, "a.x/files", "FAILED").await;
    assert_eq!(failed["reason"]["code"], "authorization_needed", "{failed}");
    // The next version of the document names another address: what is for this one does not go there.
    let begun = app.op_post(PATH).await.expect(201);
    let back = elsewhere.log_in(begun["authorization_url"].as_str().unwrap());
    assert_eq!(browser(&app, Method::POST, &back).await.status, 200);
    let (evil, url) = Elsewhere::start().await;
    let remote = json!({ "packages": [], "remotes": [{ "type": "streamable-http", "url": format!("{url}/mcp") }] });
    app.import(&[data::entry_with("a.x/files", "2.0.0", remote, json!({}))]).await;
    app.op_post("/api/mcp/servers/a.x%2Ffiles/start").await.expect(202);
    let failed = app.instance_in(&app.token, "a.x/files", "FAILED").await;
    assert_eq!(failed["reason"]["code"], "authorization_needed", "{failed}");
    assert!(evil.inner().asked > 0, "it was asked");
    assert!(evil.inner().heard.is_empty(), "{:?}", evil.inner().heard);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_its_own_users_alone() {
    let (elsewhere, app) = scene().await;
    app.person("root@example.com", "admin").await;
    let ada = app.person("ada@example.com", "member").await;
    let bob = app.person("bob@example.com", "member").await;
    let begun = app.call(Method::POST, PATH, &ada.access, &json!({})).await.expect(201);
    let back = elsewhere.log_in(begun["authorization_url"].as_str().unwrap());
    assert_eq!(browser(&app, Method::POST, &back).await.status, 200);
    app.call(Method::GET, PATH, &ada.access, &Value::Null).await.expect(200);
    app.call(Method::GET, PATH, &bob.access, &Value::Null).await.expect_problem(404, "not_logged_in");
    app.call(Method::DELETE, PATH, &bob.access, &Value::Null).await.expect_problem(404, "not_logged_in");
    app.call(Method::POST, "/api/mcp/servers/a.x%2Ffiles/start", &bob.access, &Value::Null).await.expect(202);
    let failed = app.instance_in(&bob.access, "a.x/files", "FAILED").await;
    assert_eq!(failed["reason"]["code"], "authorization_needed");
    app.get(PATH).await.expect_problem(401, "unauthenticated");
    // Whoever leaves takes it along.
    let gone = app.call(Method::DELETE, "/api/mcp/users/me", &ada.access, &json!({ "password": crate::support::PASSWORD })).await;
    assert_eq!(gone.status, 204, "{}", gone.text());
    let mut connection = app.database.connect().await;
    let left: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM mcp_fabric.oauth_grants) + (SELECT count(*) FROM credentials.sealed_secrets WHERE scope LIKE 'oauth%' AND owner LIKE 'user:%')",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(left, 0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_do_not_belong_are_refused() {
    let (elsewhere, app) = scene().await;
    let callback = |query: &str| format!("http://x/api/mcp/oauth/callback/0123456789abcdef?{query}");
    for (query, words) in [
        ("", "lacks"),
        ("code=x", "lacks"),
        ("code=x&state=unknown", "not known"),
        ("error=access_denied&error_description=%3Cscript%3E", "&lt;script&gt;"),
    ] {
        for method in [Method::GET, Method::POST] {
            let page = browser(&app, method, &callback(query)).await;
            assert!(page.status == 400 && page.text().contains(words), "{query}: {}", page.text());
        }
    }
    let begin = async || {
        let begun = app.op_post(PATH).await.expect(201);
        elsewhere.log_in(begun["authorization_url"].as_str().unwrap())
    };
    // An answer of another issuer, or of none although ours names itself: the login is over.
    for change in ["&iss=http%3A%2F%2Fevil.example", ""] {
        let back = begin().await;
        let (without, _) = back.split_once("&iss=").unwrap();
        let page = browser(&app, Method::POST, &format!("{without}{change}")).await;
        assert!(page.status == 400 && page.text().contains("does not come from"), "{}", page.text());
        assert_eq!(browser(&app, Method::POST, &back).await.status, 400, "its state is used up");
    }
    // An answer at the address of another authorization server: it takes nothing.
    let back = begin().await;
    let (before, query) = back.split_once('?').unwrap();
    let elsewhere_place = format!("{}/0123456789abcdef?{query}", before.rsplit_once('/').unwrap().0);
    let page = browser(&app, Method::POST, &elsewhere_place).await;
    assert!(page.status == 400 && page.text().contains("does not come from"), "{}", page.text());
    // A code that the authorization server does not take.
    let back = begin().await;
    let page = browser(&app, Method::POST, &back.replace("the-code", "another")).await;
    assert!(page.status == 502 && page.text().contains("invalid_grant"), "{}", page.text());
    assert_eq!(elsewhere.inner().issued, 0);
    // One that nobody finishes is forgotten.
    begin().await;
    let mut connection = app.database.connect().await;
    sqlx::raw_sql(
        "UPDATE mcp_fabric.oauth_logins SET expires_at = now() - interval '1 s'; ALTER TABLE credentials.sealed_secrets DISABLE TRIGGER ALL;
         UPDATE credentials.sealed_secrets SET updated_at = now() - interval '1 h' WHERE scope = 'oauth-login';
         ALTER TABLE credentials.sealed_secrets ENABLE TRIGGER ALL",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    begin().await;
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM credentials.sealed_secrets WHERE scope = 'oauth-login'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(left, 1);
    elsewhere.inner().methods = vec!["plain"];
    app.op_post(PATH).await.expect_problem(422, "authorization_unusable");
    app.op_post("/api/mcp/servers/everything/authorization").await.expect_problem(422, "not_elsewhere");
    app.op_post_json(PATH, &json!({ "surprise": 1 })).await.expect_problem(400, "invalid_body");
    app.stop().await;
}
