//! Descriptions read by a language model: a double of the Messages API that refuses what the real one refuses.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::post,
};
use serde_json::{Value, json};

use crate::support::TestApp;

/// What the double answers, in order; the last one again and again.
#[derive(Clone)]
enum Says {
    Form(Box<Value>),
    Busy(u16),
    CutOff,
    Refuses,
    Rubbish,
}

#[derive(Clone, Default)]
struct Double {
    says: Arc<Mutex<Vec<Says>>>,
    asked: Arc<Mutex<Vec<Value>>>,
}

fn problem(status: u16, kind: &str, message: &str) -> Response {
    let body = json!({ "type": "error", "error": { "type": kind, "message": message }, "request_id": "req_1" }).to_string();
    (StatusCode::from_u16(status).unwrap(), [("content-type", "application/json"), ("retry-after", "0")], body).into_response()
}

/// Features of JSON Schema that structured outputs do not have.
fn unfit(schema: &Value) -> Option<String> {
    let members = schema.as_object()?;
    for name in ["minimum", "maximum", "minLength", "maxLength", "pattern", "multipleOf", "$ref", "maxItems", "oneOf"] {
        if members.contains_key(name) {
            return Some(name.to_owned());
        }
    }
    if members.get("type") == Some(&json!("object")) && members.get("additionalProperties") != Some(&json!(false)) {
        return Some("additionalProperties".into());
    }
    let below = members.get("properties").and_then(Value::as_object).into_iter().flat_map(|all| all.values()).chain(members.get("items"));
    below.into_iter().find_map(unfit)
}

async fn messages(State(double): State<Double>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let body: Value = serde_json::from_slice(&axum::body::to_bytes(body, 4 << 20).await.unwrap()).unwrap();
    if header("authorization") != "Bearer test-key-of-nobody" {
        return problem(401, "authentication_error", "invalid x-api-key");
    }
    if header("anthropic-version") != "2026-10-21" {
        return problem(400, "invalid_request_error", "anthropic-version: header is required");
    }
    for sampling in ["temperature", "top_p", "top_k", "tool_choice"] {
        if body.get(sampling).is_some() {
            return problem(400, "invalid_request_error", &format!("{sampling}: is not taken"));
        }
    }
    if !body["max_tokens"].is_u64() || !body["model"].is_string() || body["messages"].as_array().is_none_or(Vec::is_empty) {
        return problem(400, "invalid_request_error", "model, max_tokens and messages are required");
    }
    if body["messages"].as_array().unwrap().last().unwrap()["role"] != "user" {
        return problem(400, "invalid_request_error", "there is no prefill");
    }
    if let Some(feature) = unfit(&body["output_config"]["format"]["schema"]) {
        return problem(400, "invalid_request_error", &format!("output_config.format.schema: {feature} is not supported"));
    }
    double.asked.lock().unwrap().push(body);
    let mut says = double.says.lock().unwrap();
    let next = if says.len() > 1 { says.remove(0) } else { says[0].clone() };
    drop(says);
    let (text, reason) = match next {
        Says::Busy(status) => return problem(status, "overloaded_error", "Overloaded"),
        Says::Form(form) => (form.to_string(), "end_turn"),
        Says::CutOff => ("{\"understood\": tr".into(), "max_tokens"),
        Says::Refuses => (String::new(), "refusal"),
        Says::Rubbish => ("Sure! Here it is:".into(), "end_turn"),
    };
    let content = json!([{ "type": "thinking", "thinking": "hm", "signature": "x" }, { "type": "text", "text": text }]);
    let answer = json!({ "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-5-5", "content": content,
        "stop_reason": reason, "usage": { "input_tokens": 1, "output_tokens": 1 } });
    axum::Json(answer).into_response()
}

impl Double {
    async fn start(says: &[Says]) -> (Self, TestApp) {
        let double = Self { says: Arc::new(Mutex::new(says.to_vec())), asked: Arc::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().route("/v1/messages", post(messages)).with_state(double.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let app = TestApp::with(&[("ANTHROPIC_BASE_URL", &url), ("ANTHROPIC_API_KEY", "test-key-of-nobody")]).await;
        (double, app)
    }

    fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }
}

fn form() -> Value {
    json!({ "understood": true, "questions": [], "name": "Pizza", "title": "Pizza", "description": "Orders pizza", "base_url": "https://pizza.example/v1",
        "auth": [{ "name": "token", "kind": "bearer", "parameter": "" }],
        "tools": [{ "name": "order_pizza", "title": "Order a pizza", "description": "Orders a pizza. Returns: its number.", "method": "POST", "path": "/orders/{shop}",
            "read_only": false, "auth": ["token"], "params": [
                { "name": "shop", "in": "path", "type": "string", "required": true, "description": "Which shop", "enum": [], "default_json": "" },
                { "name": "size", "in": "body", "type": "string", "required": true, "description": "How large", "enum": ["small", "large"], "default_json": "" }] }] })
}

const ORDER: &str = "An API for ordering pizza at https://pizza.example/v1";

#[tokio::test(flavor = "multi_thread")]
async fn a_model_fills_in_the_form() {
    let (double, app) = Double::start(&[Says::Busy(529), Says::Busy(429), Says::CutOff, Says::Form(Box::new(form()))]).await;
    let job = app.generated(&app.token, &json!({ "description": ORDER })).await;
    assert_eq!((&job["status"], &job["result"]["name"]), (&json!("complete"), &json!("mcp-pizza")), "{job:#}");
    let asked = double.asked();
    // What was cut off was asked again with more room.
    assert!(asked[3]["max_tokens"].as_u64() > asked[2]["max_tokens"].as_u64(), "{asked:#?}");
    assert!(!asked[0].to_string().contains("test-key-of-nobody"));
    let spec = app.op_get("/api/mcp/generated/mcp-pizza").await.expect(200)["spec"].take();
    assert_eq!(spec["provenance"][""], "model");
    assert_eq!(spec["tools"][0]["input_schema"]["required"], json!(["shop", "body"]));
    assert_eq!(spec["auth"]["token"], json!({ "kind": "bearer", "env": "PIZZA_TOKEN" }));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_mended_once() {
    let mut wrong = form();
    wrong["tools"][0]["path"] = json!("/orders/{other}");
    let (double, app) = Double::start(&[Says::Form(Box::new(wrong.clone())), Says::Form(Box::new(form()))]).await;
    let job = app.generated(&app.token, &json!({ "description": ORDER })).await;
    assert_eq!(job["status"], "complete", "{job:#}");
    let repair = double.asked()[1]["messages"].clone();
    assert_eq!(repair.as_array().unwrap().len(), 3);
    assert!(repair[2]["content"].as_str().unwrap().contains("the names in braces"), "{repair}");
    app.stop().await;
    let (double, app) = Double::start(&[Says::Form(Box::new(wrong))]).await;
    let job = app.generated(&app.token, &json!({ "description": ORDER })).await;
    assert_eq!((&job["status"], &job["error"]["code"]), (&json!("failed"), &json!("model_failed")), "{job:#}");
    assert_eq!(double.asked().len(), 2);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_fails_leaves_the_rules() {
    for says in [Says::Refuses, Says::Rubbish] {
        let (_double, app) = Double::start(&[says]).await;
        let job = app.generated(&app.token, &json!({ "description": ORDER })).await;
        assert_eq!((&job["status"], &job["error"]["code"]), (&json!("failed"), &json!("model_failed")), "{job:#}");
        let known = app.generated(&app.token, &json!({ "description": "A calculator API with add" })).await;
        assert_eq!((&known["status"], &known["result"]["name"]), (&json!("complete"), &json!("mcp-calculator")), "{known:#}");
        app.stop().await;
    }
    let mut asks = form();
    asks["understood"] = json!(false);
    asks["questions"] = json!(["Which shop?"]);
    let (_double, app) = Double::start(&[Says::Form(Box::new(asks))]).await;
    let job = app.generated(&app.token, &json!({ "description": ORDER })).await;
    assert_eq!((&job["status"], &job["result"]["questions"][0]["question"]), (&json!("needs_input"), &json!("Which shop?")), "{job:#}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_said_and_not_shown() {
    let (double, app) = Double::start(&[Says::Refuses]).await;
    drop(double);
    let url = app.config().factory.model.unwrap().base;
    app.stop().await;
    let app = TestApp::with(&[("ANTHROPIC_BASE_URL", url.as_str()), ("ANTHROPIC_API_KEY", "another-key-that-is-wrong")]).await;
    let job = app.generated(&app.token, &json!({ "description": ORDER })).await;
    assert_eq!((&job["status"], &job["error"]["code"]), (&json!("failed"), &json!("model_failed")), "{job:#}");
    assert!(job["error"]["message"].as_str().unwrap().contains("401") && !job.to_string().contains("another-key-that-is-wrong"), "{job:#}");
    app.stop().await;
}
