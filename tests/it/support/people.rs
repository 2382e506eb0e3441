use reqwest::Method;
use serde_json::{Value, json};

use super::TestApp;

/// The password of everybody in these tests.
pub(crate) const PASSWORD: &str = "tundra anvil 93 quince";

/// Somebody with an account, logged in.
pub(crate) struct Person {
    pub(crate) id: String,
    pub(crate) email: String,
    pub(crate) access: String,
    pub(crate) refresh: String,
}

impl TestApp {
    /// Logs in.
    pub(crate) async fn log_in(&self, email: &str) -> Person {
        let tickets = self.post("/api/mcp/auth/login", &json!({ "email": email, "password": PASSWORD })).await.expect(200);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Person {
            id: text(&tickets["user"]["id"]),
            email: email.to_owned(),
            access: text(&tickets["access_token"]),
            refresh: text(&tickets["refresh_token"]),
        }
    }

    /// Registers somebody as the operator, gives the role, and logs in. The first is an admin.
    pub(crate) async fn person(&self, email: &str, role: &str) -> Person {
        let user = self.op_post_json("/api/mcp/auth/register", &json!({ "email": email, "password": PASSWORD })).await.expect(201);
        if user["role"] != role {
            let path = format!("/api/mcp/users/{}", user["id"].as_str().unwrap());
            self.call(Method::PUT, &path, &self.token, &json!({ "role": role })).await.expect(200);
        }
        self.log_in(email).await
    }

    /// As nobody in particular, with a JSON body.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> super::Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// A service token.
    pub(crate) async fn service(&self, scopes: &[&str], servers: Option<&[&str]>) -> String {
        let body = json!({ "name": "a service", "kind": "service", "scopes": scopes, "servers": servers });
        self.op_post_json("/api/mcp/tokens", &body).await.expect(201)["token"].as_str().unwrap().to_owned()
    }
}
