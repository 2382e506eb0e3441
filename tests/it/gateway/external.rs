//! Access tokens of an external issuer: whose count, for what, and what is told to those that have none.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use axum::{Json, Router, http::StatusCode, response::IntoResponse as _, routing::get};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Method, RequestBuilder};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::{Value, json};

use crate::support::TestApp;

const PUBLIC: &str = "https://fabric.example";

/// An issuer on this machine, which publishes its description and its keys.
struct Issuer {
    url: String,
    key: EcdsaKeyPair,
    keys: Arc<std::sync::Mutex<Vec<Value>>>,
    asked: Arc<AtomicUsize>,
    is_away: Arc<AtomicBool>,
}

fn pair() -> EcdsaKeyPair {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap()
}

fn jwk(key: &EcdsaKeyPair, kid: &str) -> Value {
    let point = key.public_key().as_ref();
    let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
    json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid, "x": x, "y": y })
}

impl Issuer {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let key = pair();
        let keys = Arc::new(std::sync::Mutex::new(vec![jwk(&key, "one")]));
        let (asked, is_away) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let described = json!({ "issuer": url, "jwks_uri": format!("{url}/keys"), "authorization_endpoint": format!("{url}/authorize") });
        let (published, count, away) = (Arc::clone(&keys), Arc::clone(&asked), Arc::clone(&is_away));
        let service = Router::new().route("/.well-known/openid-configuration", get(async move || Json(described))).route(
            "/keys",
            get(async move || {
                count.fetch_add(1, Ordering::Relaxed);
                if away.load(Ordering::Relaxed) {
                    return StatusCode::BAD_GATEWAY.into_response();
                }
                Json(json!({ "keys": *published.lock().unwrap() })).into_response()
            }),
        );
        tokio::spawn(async move { axum::serve(listener, service).await });
        Self { url, key, keys, asked, is_away }
    }

    fn claims(&self, more: &Value) -> Value {
        let now = chrono_now();
        let mut claims =
            json!({ "iss": self.url, "sub": "ada", "aud": format!("{PUBLIC}/mcp"), "exp": now + 300, "iat": now, "scope": "mcp" });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claims
    }

    fn token(&self, more: &Value) -> String {
        signed(&self.key, &json!({ "alg": "ES256", "typ": "at+jwt", "kid": "one" }), &self.claims(more))
    }

    async fn fabric(&self, further: &[(&str, &str)]) -> TestApp {
        let own = [("FABRIC_OIDC_ISSUER", &*self.url), ("FABRIC_PUBLIC_URL", PUBLIC), ("FABRIC_REGISTRATION", "invite")];
        TestApp::with(&[&own[..], further].concat()).await
    }
}

fn chrono_now() -> i64 {
    platform::clock::now().timestamp()
}

fn signed(key: &EcdsaKeyPair, header: &Value, claims: &Value) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}

fn greeting(app: &TestApp, path: &str, token: &str) -> RequestBuilder {
    let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } });
    let body = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
    app.request(Method::POST, path).bearer_auth(token).header("accept", "application/json, text/event-stream").json(&body)
}

async fn greets(app: &TestApp, token: &str) -> u16 {
    app.send(greeting(app, "/mcp", token)).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_the_issuer_is_somebody_at_the_endpoints_and_nobody_elsewhere() {
    let issuer = Issuer::start().await;
    let app = issuer.fabric(&[]).await;
    let token = issuer.token(&json!({ "email": "ada@example.com", "email_verified": true }));
    assert_eq!(greets(&app, &token).await, 200);
    app.call(Method::GET, "/api/mcp/jobs", &token, &Value::Null).await.expect_problem(401, "unauthenticated");
    // The account is there once, and is the same with each token.
    assert_eq!(greets(&app, &issuer.token(&json!({ "email": "other@example.com", "email_verified": true }))).await, 200);
    let users = app.op_get("/api/mcp/users").await.expect(200);
    assert_eq!(users["users"].as_array().unwrap().len(), 1, "{users}");
    assert_eq!((users["users"][0]["email"].as_str(), users["users"][0]["role"].as_str()), (Some("ada@example.com"), Some("member")));
    let linked = app.trail("&action=user.link").await;
    assert_eq!(linked.len(), 1);
    assert_eq!(linked[0]["detail"]["is_new"], true, "{linked:?}");
    // One that nobody looked at is no way to somebody else's account.
    assert_eq!(greets(&app, &issuer.token(&json!({ "sub": "eve", "email": "ada@example.com" }))).await, 200);
    let users = app.op_get("/api/mcp/users").await.expect(200);
    let eve = users["users"].as_array().unwrap().iter().find(|user| user["email"].as_str().unwrap().starts_with("oidc-")).unwrap().clone();
    assert_eq!(users["users"].as_array().unwrap().len(), 2, "{users}");
    // Whoever is disabled here is nobody, whatever the issuer says.
    let path = format!("/api/mcp/users/{}", eve["id"].as_str().unwrap());
    app.call(Method::PUT, &path, &app.token, &json!({ "disabled": true })).await.expect(200);
    assert_eq!(greets(&app, &issuer.token(&json!({ "sub": "eve" }))).await, 401);
    // A password was never there.
    let body = json!({ "email": "ada@example.com", "password": "!" });
    app.post("/api/mcp/auth/login", &body).await.expect_problem(401, "invalid_credentials");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_issuer_did_not_sign_for_this_endpoint_is_worth_nothing() {
    let issuer = Issuer::start().await;
    let app = issuer.fabric(&[]).await;
    let (now, header) = (chrono_now(), json!({ "alg": "ES256", "typ": "at+jwt", "kid": "one" }));
    assert_eq!(greets(&app, &issuer.token(&json!({ "aud": ["x", format!("{PUBLIC}/mcp")], "nbf": now }))).await, 200);
    for wrong in [
        json!({ "aud": "https://elsewhere.example/mcp" }),
        json!({ "aud": PUBLIC }),
        json!({ "aud": format!("{PUBLIC}/mcp/") }),
        json!({ "aud": format!("{PUBLIC}/mcp/s/other") }),
        json!({ "aud": null }),
        json!({ "iss": "https://issuer.example" }),
        json!({ "exp": now - 31 }),
        json!({ "exp": "soon" }),
        json!({ "nbf": now + 60 }),
        json!({ "sub": "" }),
        json!({ "sub": "x".repeat(256) }),
    ] {
        assert_eq!(greets(&app, &issuer.token(&wrong)).await, 401, "{wrong}");
    }
    let claims = issuer.claims(&json!({}));
    for other in [
        json!({ "alg": "none" }),
        json!({ "alg": "HS256", "kid": "one" }),
        json!({ "alg": "ES256", "kid": "two" }),
        json!({ "alg": "ES256", "kid": "one", "crit": ["b64"], "b64": false }),
        json!({ "alg": "ES256", "kid": "one", "typ": "logout+jwt" }),
        json!({ "alg": "ES256", "kid": "one", "jwk": jwk(&pair(), "one"), "typ": "dpop+jwt" }),
    ] {
        assert_eq!(greets(&app, &signed(&issuer.key, &other, &claims)).await, 401, "{other}");
    }
    assert_eq!(greets(&app, &signed(&pair(), &header, &claims)).await, 401, "somebody else's key");
    let whole = issuer.token(&json!({}));
    let (unsigned, signature) = whole.rsplit_once('.').unwrap();
    for broken in
        [format!("{unsigned}."), format!("{unsigned}.{}", &signature[4..]), format!("{whole}.x"), "a.b.c".into(), format!("{whole}{whole}")]
    {
        assert_eq!(greets(&app, &broken).await, 401, "{broken}");
    }
    // A token for one endpoint opens that one only.
    let own = issuer.token(&json!({ "aud": format!("{PUBLIC}/mcp/s/acme%2Fone") }));
    app.send(greeting(&app, "/mcp/s/acme%2Fone", &own)).await.expect_problem(404, "server_not_available");
    assert_eq!(greets(&app, &own).await, 401);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_renewed_and_an_issuer_that_is_away_is_no_matter_of_known_keys() {
    let issuer = Issuer::start().await;
    issuer.is_away.store(true, Ordering::Relaxed);
    let app = issuer.fabric(&[]).await;
    app.send(greeting(&app, "/mcp", &issuer.token(&json!({})))).await.expect_problem(503, "issuer_unavailable");
    issuer.is_away.store(false, Ordering::Relaxed);
    assert_eq!(greets(&app, &issuer.token(&json!({}))).await, 200);
    // Strangers' keys do not make us ask again and again.
    let asked = issuer.asked.load(Ordering::Relaxed);
    for n in 0..20 {
        let header = json!({ "alg": "ES256", "kid": format!("unknown {n}") });
        assert_eq!(greets(&app, &signed(&issuer.key, &header, &issuer.claims(&json!({})))).await, 401);
    }
    assert_eq!(issuer.asked.load(Ordering::Relaxed), asked);
    issuer.is_away.store(true, Ordering::Relaxed);
    issuer.keys.lock().unwrap().clear();
    assert_eq!(greets(&app, &issuer.token(&json!({ "jti": "another" }))).await, 200);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_can_be_asked_for_and_rsa_keys_count() {
    let issuer = Issuer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let openssl = |arguments: &[&str]| {
        let done = std::process::Command::new("openssl").args(arguments).current_dir(folder.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    };
    openssl(&["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "key.pem"]);
    let modulus = String::from_utf8(openssl(&["rsa", "-in", "key.pem", "-modulus", "-noout"])).unwrap();
    let modulus = platform::random::unhex(&modulus.trim().strip_prefix("Modulus=").unwrap().to_lowercase()).unwrap();
    *issuer.keys.lock().unwrap() = vec![json!({ "kty": "RSA", "kid": "r", "n": URL_SAFE_NO_PAD.encode(modulus), "e": "AQAB" })];
    let token = |scope: &str| {
        let (header, claims) = (json!({ "alg": "RS256", "kid": "r", "typ": "JWT" }), issuer.claims(&json!({ "scope": scope })));
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        std::fs::write(folder.path().join("message"), &message).unwrap();
        let signature = openssl(&["dgst", "-sha256", "-sign", "key.pem", "message"]);
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    let app = issuer.fabric(&[("FABRIC_OIDC_SCOPE", "mcp:use")]).await;
    assert_eq!(greets(&app, &token("openid mcp:use")).await, 200);
    let refused = app.send(greeting(&app, "/mcp", &token("openid"))).await;
    let challenge = refused.header("www-authenticate").unwrap().to_owned();
    refused.expect_problem(403, "insufficient_scope");
    assert!(challenge.contains("error=\"insufficient_scope\", scope=\"mcp:use\""), "{challenge}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_token_is_told_where_to_get_one() {
    let issuer = Issuer::start().await;
    let app = issuer.fabric(&[("FABRIC_REGISTRATION", "closed")]).await;
    for path in ["/mcp", "/mcp/s/io.example%2Fone", "/mcp/v/0193b3a0-0000-7000-8000-000000000000"] {
        let refused = app.send(greeting(&app, path, "nothing")).await;
        let challenge = refused.header("www-authenticate").unwrap().to_owned();
        refused.expect_problem(401, "unauthenticated");
        let place = format!("{PUBLIC}/.well-known/oauth-protected-resource{path}");
        assert_eq!(challenge, format!("Bearer realm=\"mcp-fabric\", resource_metadata=\"{place}\""));
        let described = app.get(&format!("/.well-known/oauth-protected-resource{path}")).await.expect(200);
        assert_eq!(
            (described["resource"].as_str(), &described["authorization_servers"]),
            (Some(&*format!("{PUBLIC}{path}")), &json!([issuer.url]))
        );
    }
    let root = app.get("/.well-known/oauth-protected-resource").await.expect(200);
    assert_eq!(root["resource"], format!("{PUBLIC}/mcp"));
    for path in ["/api/mcp", "/mcp/s/", "/mcp/x/y", "/mcp/v/one", "/mcp/s/a/b"] {
        app.get(&format!("/.well-known/oauth-protected-resource{path}/x")).await.expect_problem(404, "route_not_found");
    }
    // Registration is closed: only who has an account already comes in.
    assert_eq!(greets(&app, &issuer.token(&json!({}))).await, 401);
    let known = app.person("ada@example.com", "admin").await;
    assert_eq!(greets(&app, &issuer.token(&json!({ "sub": "a", "email": known.email, "email_verified": true }))).await, 200);
    app.stop().await;
    // Without an issuer there is nothing of it.
    let app = TestApp::start().await;
    app.get("/.well-known/oauth-protected-resource").await.expect_problem(404, "route_not_found");
    let refused = app.send(greeting(&app, "/mcp", &issuer.token(&json!({})))).await;
    assert_eq!(refused.header("www-authenticate"), Some("Bearer realm=\"mcp-fabric\""));
    app.stop().await;
}
