use chrono::{DateTime, Utc};
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

/// What stands in the place of a secret.
pub(crate) const SECRET: &str = "[secret]";
/// How deep objects may lie in each other.
const DEEPEST: usize = 16;

/// Whether a value under this key is kept as a secret.
fn is_secret(key: &str) -> bool {
    let key: String = key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    ["password", "passwd", "passphrase", "secret", "token", "apikey", "accesskey", "privatekey", "credential", "authorization"]
        .iter()
        .any(|word| key.contains(word))
}

/// Puts `[secret]` in the place of each secret; gives them by their places (JSON Pointer, RFC 6901). `None` for what lies
/// too deep, and for a secret that is no text.
pub(crate) fn part(metadata: &mut Map<String, Value>) -> Option<Map<String, Value>> {
    let mut found = Map::new();
    walk(metadata, "", 0, &mut found)?;
    Some(found)
}

fn walk(members: &mut Map<String, Value>, at: &str, depth: usize, found: &mut Map<String, Value>) -> Option<()> {
    if depth > DEEPEST {
        return None;
    }
    for (key, value) in members {
        let place = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
        match value {
            Value::Object(inner) => walk(inner, &place, depth + 1, found)?,
            Value::Array(list) => {
                for (number, one) in list.iter_mut().enumerate() {
                    if let Value::Object(inner) = one {
                        walk(inner, &format!("{place}/{number}"), depth + 1, found)?;
                    } else if is_secret(key) && !one.is_null() {
                        return None;
                    }
                }
            }
            Value::String(text) if is_secret(key) => {
                if text != SECRET {
                    found.insert(place, Value::String(std::mem::replace(text, SECRET.to_owned())));
                }
            }
            Value::Bool(_) | Value::Number(_) if is_secret(key) => return None,
            Value::Null | Value::String(_) | Value::Bool(_) | Value::Number(_) => {}
        }
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
    fn a_secret_that_is_no_text_is_refused() {
        for unfit in [json!({ "pin_token": 7 }), json!({ "secrets": ["a"] }), json!({ "secret": true })] {
            assert!(part(&mut object(&unfit)).is_none(), "{unfit}");
        }
    }
}
