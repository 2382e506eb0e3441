//! Both runtimes, by what they answer: alike, and as a model can work with.

use serde_json::{Value, json};
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{any, body_string_contains, header, method, path, query_param},
};

use crate::support::TestApp;

const BOTH: [&str; 2] = ["node", "python"];

struct Server {
    instance: String,
}

impl TestApp {
    /// Makes a server of an order in a language, and runs it.
    async fn made(&self, order: &Value, language: &str, name: &str) -> Server {
        let mut order = order.clone();
        order["runtime"] = language.into();
        order["name"] = name.into();
        let job = self.generated(&self.token, &order).await;
        assert_eq!(job["status"], "complete", "{language}: {job:#}");
        Server { instance: self.running(name).await }
    }

    /// What a tool answers: whether it is an error, and its text.
    async fn answer(&self, server: &Server, tool: &str, args: &Value) -> (bool, String) {
        let path = format!("/api/mcp/instances/{}/tools/{tool}/call", server.instance);
        let answer = self.op_post_json(&path, &json!({ "arguments": args })).await.expect(200);
        let result = answer.get("result").unwrap_or(&answer);
        (result["isError"] == true, result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer:#}")).to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs node and python3"]
async fn calculations_are_right_and_what_has_no_result_is_said() {
    let app = TestApp::start().await;
    for language in BOTH {
        let server = app.made(&json!({ "description": "calculator" }), language, &format!("calc-{language}")).await;
        for (tool, args, wanted) in [
            ("add", json!({ "a": 0.1, "b": 0.2 }), Ok("0.3")),
            ("subtract", json!({ "a": 5, "b": 7 }), Ok("-2")),
            ("multiply", json!({ "a": -1, "b": 0 }), Ok("0")),
            ("divide", json!({ "a": 1, "b": 8 }), Ok("0.125")),
            ("divide", json!({ "a": 1, "b": 0 }), Err("Nothing is divided by zero.")),
            ("modulo", json!({ "a": -7, "b": 3 }), Ok("-1")),
            ("power", json!({ "a": 2, "b": 10 }), Ok("1024")),
            ("power", json!({ "a": 10, "b": 400 }), Err("The result is not a number that can be written.")),
            ("square_root", json!({ "value": 144 }), Ok("12")),
            ("square_root", json!({ "value": -1 }), Err("value must be at least 0")),
            ("evaluate", json!({ "expression": "(1 + 2) * 3 ^ 2 - 10 / 4" }), Ok("24.5")),
            ("evaluate", json!({ "expression": "2 ^ 3 ^ 2" }), Ok("512")),
            ("evaluate", json!({ "expression": "-2 ^ 2" }), Ok("-4")),
            ("evaluate", json!({ "expression": "1 +" }), Err("The expression ends too early.")),
            ("evaluate", json!({ "expression": "process.exit(1)" }), Err("\"p\" is not part of a calculation.")),
            ("add", json!({ "a": "1", "b": 2 }), Err("a must be number, not string")),
            ("add", json!({ "a": 1 }), Err("arguments must have \"b\"")),
        ] {
            let (failed, text) = app.answer(&server, tool, &args).await;
            assert_eq!((failed, text.as_str()), wanted.map_or_else(|text| (true, text), |text| (false, text)), "{language} {tool} {args}");
        }
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs node and python3"]
async fn what_is_kept_is_found_again_and_stays_in_its_folder() {
    let app = TestApp::start().await;
    for language in BOTH {
        let notes = app.made(&json!({ "description": "notes" }), language, &format!("notes-{language}")).await;
        app.answer(&notes, "create_note", &json!({ "title": "Milk", "text": "two liters", "tags": ["shop"] })).await;
        app.answer(&notes, "create_note", &json!({ "title": "Bread" })).await;
        let (_, found) = app.answer(&notes, "search_notes", &json!({ "query": "LITERS" })).await;
        let found: Value = serde_json::from_str(&found).unwrap();
        assert_eq!(
            (&found["total"], &found["notes"][0]["id"], &found["notes"][0]["title"]),
            (&json!(1), &json!("1"), &json!("Milk")),
            "{language}"
        );
        app.answer(&notes, "update_note", &json!({ "id": "1", "title": "Oat milk" })).await;
        let (_, note) = app.answer(&notes, "get_note", &json!({ "id": "1" })).await;
        let note: Value = serde_json::from_str(&note).unwrap();
        assert_eq!((&note["title"], &note["text"]), (&json!("Oat milk"), &json!("two liters")));
        assert_eq!(app.answer(&notes, "get_note", &json!({ "id": "9" })).await, (true, "There is no note \"9\".".into()));
        let values = app.made(&json!({ "description": "a key-value store" }), language, &format!("values-{language}")).await;
        for key in ["__proto__", "constructor", "a"] {
            let set = json!({ "key": key, "value": { "x": [1, null] } });
            assert!(!app.answer(&values, "set_value", &set).await.0, "{language} {key}");
        }
        assert_eq!(app.answer(&values, "get_value", &json!({ "key": "a" })).await.1, "{\"key\":\"a\",\"value\":{\"x\":[1,null]}}");
        let (_, keys) = app.answer(&values, "list_keys", &json!({ "limit": 2 })).await;
        assert_eq!(keys, "{\"keys\":[\"__proto__\",\"a\"],\"total\":3,\"next_offset\":2}", "{language}");
        let files = app.made(&json!({ "description": "a file store" }), language, &format!("files-{language}")).await;
        assert_eq!(
            app.answer(&files, "write_file", &json!({ "path": "a/b.txt", "text": "é" })).await,
            (false, "{\"path\":\"a/b.txt\",\"bytes\":2}".into())
        );
        assert_eq!(app.answer(&files, "read_file", &json!({ "path": "a/b.txt" })).await, (false, "é".into()));
        for climbing in ["../x", "/etc/passwd", "a/../../x", "a/../../../../../../etc/passwd"] {
            let (failed, text) = app.answer(&files, "read_file", &json!({ "path": climbing })).await;
            assert!(failed && text.contains("is not below the folder"), "{language} {climbing}: {text}");
            assert!(app.answer(&files, "write_file", &json!({ "path": climbing, "text": "x" })).await.0);
        }
        assert_eq!(app.answer(&files, "read_file", &json!({ "path": "none" })).await, (true, "There is no \"none\".".into()));
        let fetch = app.made(&json!({ "description": "fetch web pages" }), language, &format!("fetch-{language}")).await;
        for inside in ["http://127.0.0.1:1/", "http://169.254.169.254/latest", "http://[::1]/", "http://localhost:1/", "http://10.0.0.1/"] {
            let (failed, text) = app.answer(&fetch, "fetch", &json!({ "url": inside })).await;
            assert!(failed && text.contains("private network"), "{language} {inside}: {text}");
        }
        assert!(app.answer(&fetch, "fetch", &json!({ "url": "file:///etc/passwd" })).await.0);
    }
    app.stop().await;
}

fn document(api: &MockServer) -> Value {
    let get = |id: &str| json!({ "get": { "operationId": id, "security": [], "responses": {} } });
    json!({ "openapi": "3.1.0", "info": { "title": "Moods", "version": "1" }, "servers": [{ "url": api.uri() }],
        "components": { "securitySchemes": { "machine": { "type": "oauth2", "flows": { "clientCredentials": { "tokenUrl": "https://login.example/token", "scopes": {} } } },
            "key": { "type": "apiKey", "in": "query", "name": "key" } } },
        "paths": { "/flaky": get("flaky"), "/long": get("long"), "/away": get("away"), "/nothing": get("nothing"), "/bytes": get("bytes"),
            "/list": { "get": { "operationId": "list", "security": [], "responses": { "200": { "description": "x", "content": { "application/json": {
                "schema": { "type": "object", "properties": { "a": { "type": "integer" } } } } } } } } },
            "/pages": { "get": { "operationId": "pages", "security": [], "responses": {},
                "parameters": [{ "name": "per_page", "in": "query", "schema": { "type": "integer", "maximum": 100 } }] } },
            "/keyed": { "get": { "operationId": "keyed", "security": [{ "key": [] }], "responses": {} } } } })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs node and python3"]
async fn moods_of_an_api_are_told() {
    let app = TestApp::start().await;
    for language in BOTH {
        let api = MockServer::start().await;
        let on = |place: &str| Mock::given(method("GET")).and(path(place));
        let plain = |status: u16, text: &str| ResponseTemplate::new(status).set_body_raw(text.to_owned(), "text/plain");
        on("/flaky").respond_with(ResponseTemplate::new(503).insert_header("retry-after", "0")).up_to_n_times(2).mount(&api).await;
        on("/flaky").respond_with(plain(200, "at last")).mount(&api).await;
        on("/long").respond_with(plain(200, &"x".repeat(30_000))).mount(&api).await;
        // Nobody says how many there are to be on a page.
        on("/pages")
            .and(query_param("per_page", "30"))
            .respond_with(ResponseTemplate::new(200).set_body_json(json!([1])).insert_header("link", "</pages?page=2>; rel=\"next\""))
            .mount(&api)
            .await;
        on("/pages").and(query_param("per_page", "5")).respond_with(plain(200, "five")).mount(&api).await;
        on("/away").respond_with(ResponseTemplate::new(302).insert_header("location", "http://192.0.2.1/")).mount(&api).await;
        on("/nothing").respond_with(ResponseTemplate::new(204)).mount(&api).await;
        on("/bytes").respond_with(ResponseTemplate::new(200).set_body_raw(vec![0u8; 10], "image/png")).mount(&api).await;
        on("/list").respond_with(ResponseTemplate::new(200).set_body_json(json!([1, 2]))).mount(&api).await;
        let server = app.made(&json!({ "openapi": document(&api) }), language, &format!("moods-{language}")).await;
        let none = json!({});
        assert_eq!(app.answer(&server, "flaky", &none).await, (false, "at last".into()), "{language}");
        let (failed, long) = app.answer(&server, "long", &none).await;
        assert!(!failed && long.len() < 25_200 && long.contains("[truncated; ask for less"), "{language}: {}", long.len());
        assert_eq!(
            app.answer(&server, "pages", &none).await,
            (false, "[1]\n[there is more: the next page has page=2]".into()),
            "{language}"
        );
        assert_eq!(app.answer(&server, "pages", &json!({ "per_page": 5 })).await, (false, "five".into()), "{language}");
        let (failed, away) = app.answer(&server, "away", &none).await;
        assert!(failed && away.starts_with("The API sends this request on to http://192.0.2.1"), "{language}: {away}");
        assert_eq!(app.answer(&server, "nothing", &none).await, (false, "Done (204).".into()), "{language}");
        assert_eq!(app.answer(&server, "bytes", &none).await, (false, "10 bytes of image/png.".into()), "{language}");
        // A tool that says what it gives gives an object, whatever the API does.
        let place = format!("/api/mcp/instances/{}/tools/list/call", server.instance);
        let listed = app.op_post_json(&place, &json!({ "arguments": {} })).await.expect(200);
        assert_eq!(listed.get("result").unwrap_or(&listed)["structuredContent"], json!({ "result": [1, 2] }), "{language}: {listed}");
        let (failed, keyed) = app.answer(&server, "keyed", &none).await;
        let variable = format!("MOODS_{}_KEY", language.to_uppercase());
        assert!(failed && keyed.contains(&format!("Set {variable} in the environment")), "{language}: {keyed}");
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs node and python3"]
async fn a_token_is_asked_for_once_and_a_key_is_never_told() {
    let mut app = TestApp::start().await;
    // Credentials are people's.
    app.token = app.person("ada@example.org", "admin").await.access;
    for language in BOTH {
        let api = MockServer::start().await;
        let token = json!({ "access_token": "t-1", "expires_in": 3600, "token_type": "bearer" });
        let grant = Mock::given(method("POST")).and(path("/token")).and(body_string_contains("grant_type=client_credentials"));
        grant
            .and(header("authorization", "Basic aWQ6cyUyQmNyZXQ="))
            .respond_with(ResponseTemplate::new(200).set_body_json(token))
            .expect(1)
            .mount(&api)
            .await;
        Mock::given(path("/with"))
            .and(header("authorization", "Bearer t-1"))
            .respond_with(ResponseTemplate::new(200).set_body_raw("in", "text/plain"))
            .mount(&api)
            .await;
        let refusal = "the key k-very-secret is not known";
        Mock::given(path("/keyed")).respond_with(ResponseTemplate::new(401).set_body_raw(refusal, "text/plain")).mount(&api).await;
        Mock::given(any()).respond_with(ResponseTemplate::new(400)).mount(&api).await;
        let name = format!("tokens-{language}");
        let variable = |of: &str| format!("TOKENS_{}_{of}", language.to_uppercase());
        let (id, secret, key) = (variable("CLIENT_ID"), variable("CLIENT_SECRET"), variable("KEY"));
        // Loopback addresses of tokens are for tests alone; a document could not name one.
        let get = |at: &str, scheme: &str| {
            json!({ "name": at, "title": at, "description": at, "annotations": { "read_only": true, "destructive": false, "idempotent": true, "open_world": true },
            "input_schema": { "type": "object", "properties": {}, "additionalProperties": false },
            "action": { "kind": "http", "method": "GET", "path": format!("/{at}"), "security": [[scheme]] } })
        };
        let spec = json!({ "spec_version": 1, "name": name, "version": "1.0.0", "description": "x", "bases": [{ "url": api.uri(), "env": variable("BASE_URL") }],
            "auth": { "machine": { "kind": "client_credentials", "token_url": format!("{}/token", api.uri()), "client_id_env": id, "client_secret_env": secret, "scopes": [], "env": variable("TOKEN") },
                      "key": { "kind": "api_key", "in": "query", "name": "key", "env": key } },
            "tools": [get("with", "machine"), get("keyed", "key")], "source": { "kind": "spec", "sha256": "0" } });
        let job = app.generated(&app.token, &json!({ "spec": spec, "runtime": language })).await;
        assert_eq!(job["status"], "complete", "{job:#}");
        for (variable, value) in [(&id, "id"), (&secret, "s+cret"), (&key, "k-very-secret")] {
            let credential = json!({ "server_id": name, "env_var": variable, "value": value });
            app.op_post_json("/api/mcp/credentials", &credential).await.expect(201);
        }
        let server = Server { instance: app.running(&name).await };
        for _ in 0..3 {
            assert_eq!(app.answer(&server, "with", &json!({})).await, (false, "in".into()), "{language}");
        }
        let (failed, text) = app.answer(&server, "keyed", &json!({})).await;
        assert!(failed && text.contains(&format!("the key [{key}] is not known")) && !text.contains("k-very-secret"), "{language}: {text}");
        api.verify().await;
    }
    app.stop().await;
}
