use chrono::{DateTime, Utc};
use platform::secrets::{SECRET, is_named_secret};
use serde_json::{Map, Value};

platform::id! {
    /// A data source.
    pub struct SourceId;
}

/// A data source of somebody.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its row.
    pub id: SourceId,
    /// Whose it is, as actors are written.
    pub owner: String,
    /// What it is: `snowflake`, `outlook`, or the id of a server.
    pub kind: String,
    /// How it is reached, with `[secret]` for what the vault has.
    pub metadata: Map<String, Value>,
    /// Counts changes; for `If-Match`.
    pub revision: i64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// How deep objects may lie in each other.
const DEEPEST: usize = 16;

/// Puts `[secret]` in the place of each secret; gives them by their places (JSON Pointer, RFC 6901). `None` for what lies
/// too deep, and for a secret that is no text.
pub(crate) fn part(metadata: &mut Map<String, Value>) -> Option<Map<String, Value>> {
    let mut found = Map::new();
    for (key, value) in metadata {
        walk(value, &format!("/{}", step(key)), is_named_secret(key), 0, &mut found)?;
    }
    Some(found)
}

/// A key as a part of a pointer.
fn step(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Everything below a secret is one.
fn walk(value: &mut Value, at: &str, is_hidden: bool, depth: usize, found: &mut Map<String, Value>) -> Option<()> {
    if depth > DEEPEST {
        return None;
    }
    match value {
        Value::Object(members) => {
            for (key, inner) in members {
                walk(inner, &format!("{at}/{}", step(key)), is_hidden || is_named_secret(key), depth + 1, found)?;
            }
        }
        Value::Array(list) => {
            for (number, inner) in list.iter_mut().enumerate() {
                walk(inner, &format!("{at}/{number}"), is_hidden, depth + 1, found)?;
            }
        }
        Value::String(text) if is_hidden => {
            if text != SECRET {
                found.insert(at.to_owned(), Value::String(std::mem::replace(text, SECRET.to_owned())));
            }
        }
        Value::Bool(_) | Value::Number(_) if is_hidden => return None,
        Value::Null | Value::String(_) | Value::Bool(_) | Value::Number(_) => {}
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn secrets_are_found_wherever_they_lie() {
        let mut metadata = object(&json!({
            "host": "db.example", "Password": "p", "nested": { "api-key": "k", "port": 5432 },
            "list": [{ "client_secret": "c" }, "plain"], "refreshToken": "[secret]", "token": null,
        }));
        let found = part(&mut metadata).unwrap();
        assert_eq!(Value::Object(found), json!({ "/Password": "p", "/nested/api-key": "k", "/list/0/client_secret": "c" }));
        let text = Value::Object(metadata).to_string();
        assert_eq!(text.matches("[secret]").count(), 4);
        assert!(!text.contains("\"p\"") && text.contains("5432"));
    }

    #[test]
    fn what_lies_below_a_secret_is_one() {
        let mut metadata = object(&json!({
            "tokens": { "prod": "a1" }, "secret": { "value": "b2" }, "keys": [[{ "password": "c3" }]], "apiTokens": [{ "value": "d4" }, "e5"],
            "connection_string": "f6", "pwd": "g7",
        }));
        assert_eq!(part(&mut metadata).unwrap().len(), 7);
        let text = Value::Object(metadata).to_string();
        assert!(["a1", "b2", "c3", "d4", "e5", "f6", "g7"].iter().all(|secret| !text.contains(secret)), "{text}");
    }

    #[test]
    fn a_secret_that_is_no_text_is_refused() {
        for unfit in [json!({ "pin_token": 7 }), json!({ "secrets": [1] }), json!({ "secret": { "deep": true } })] {
            assert!(part(&mut object(&unfit)).is_none(), "{unfit}");
        }
    }
}
