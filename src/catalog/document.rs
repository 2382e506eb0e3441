//! What a server that is made here says of itself: put together, and looked through for everything that is wrong.

use platform::{FieldError, secrets::is_named_secret};
use serde_json::{Map, Value, json};
use servers::{
    ServerId,
    validate::{self, CURRENT_SCHEMA, Issue, Severity},
};

use crate::{image::Image, model::Change};

/// The version of a server that says none.
const FIRST_VERSION: &str = "1.0.0";
/// Rules of the official registry about what may be published there, which a server of one's own need not keep.
const OF_PUBLISHING: [&str; 4] =
    ["unsupported-oci-registry", "registry-base-url-mismatch", "registry-base-url-not-allowed", "registry-base-url-not-compared"];
/// What metadata may measure, in bytes of JSON.
const LARGEST_METADATA: usize = 32 << 10;

/// The document of a server as a change wants it, of the one that it has; all that is wrong with it.
pub(crate) fn of_change(id: &ServerId, now: Option<&Value>, change: &Change) -> Result<Value, Vec<FieldError>> {
    let (document, is_whole) = match &change.document {
        Some(_) if change.has_parts() => {
            return Err(vec![FieldError::new("body.document", "says all of it; leave out image, title, description and version")]);
        }
        Some(Value::Object(given)) => (whole(id, given.clone(), now), true),
        Some(_) => return Err(vec![FieldError::new("body.document", "must be an object, as in a server.json")]),
        None => (in_parts(id, now, change).map_err(|wrong| vec![wrong])?, false),
    };
    let document = Value::Object(document);
    let mut wrong: Vec<FieldError> = problems(&document).map(|issue| named(&issue, is_whole)).collect();
    if let Some(name) = document["name"].as_str().filter(|name| ServerId::from_registry_name(name).ok().as_ref() != Some(id)) {
        let message = format!("names another server ({name}); a server keeps its name");
        wrong.push(FieldError::new("body.document.name", message));
    }
    hidden_secrets(&document, "body.document", &mut wrong);
    if wrong.is_empty() { Ok(document) } else { Err(wrong) }
}

/// A document as it was given, with what everybody would write there.
fn whole(id: &ServerId, mut given: Map<String, Value>, now: Option<&Value>) -> Map<String, Value> {
    given.entry("$schema").or_insert_with(|| CURRENT_SCHEMA.into());
    given.entry("name").or_insert_with(|| id.registry_name().into());
    given.entry("version").or_insert_with(|| now.map_or_else(|| FIRST_VERSION.into(), |now| now["version"].clone()));
    given
}

fn in_parts(id: &ServerId, now: Option<&Value>, change: &Change) -> Result<Map<String, Value>, FieldError> {
    let mut document = match now {
        Some(Value::Object(now)) => now.clone(),
        _ => whole(id, Map::new(), None),
    };
    for (name, value) in [("title", &change.title), ("description", &change.description), ("version", &change.version)] {
        if let Some(value) = value {
            document.insert(name.into(), value.as_str().into());
        }
    }
    match change.image.as_deref().map(Image::parse) {
        Some(Ok(image)) => {
            if change.version.is_none()
                && let Some(version) = image.version()
            {
                document.insert("version".into(), version.into());
            }
            document.insert("packages".into(), json!([with_inputs(image.package(), now)]));
            document.remove("remotes");
        }
        Some(Err(message)) => return Err(FieldError::new("body.image", message)),
        None if now.is_none() => return Err(FieldError::new("body.image", "is needed, unless the body has a whole `document`")),
        None => {}
    }
    Ok(document)
}

/// Another image of the same package wants to be told what the one before wanted.
fn with_inputs(mut package: Value, now: Option<&Value>) -> Value {
    let before = now.map(|now| &now["packages"][0]).filter(|before| before["registryType"] == package["registryType"]);
    for member in ["environmentVariables", "packageArguments", "runtimeArguments"] {
        if let Some(kept) = before.and_then(|before| before.get(member)) {
            package[member] = kept.clone();
        }
    }
    package
}

fn problems(document: &Value) -> impl Iterator<Item = Issue> {
    let report = validate::validate(document.to_string().as_bytes());
    let counts = |issue: &Issue| matches!(issue.severity, Severity::Error) && !OF_PUBLISHING.contains(&issue.reference.as_str());
    report.issues.into_iter().filter(counts)
}

/// Where in the body something is wrong: below the document, or in the part that became it.
fn named(issue: &Issue, is_whole: bool) -> FieldError {
    let location = match issue.path.as_str() {
        "" => "body.document".to_owned(),
        path if is_whole => format!("body.document.{path}"),
        path if path.starts_with("packages") => "body.image".to_owned(),
        path => format!("body.{path}"),
    };
    FieldError::new(location, issue.message.clone())
}

/// A value that stands where everybody reads it is no secret.
fn hidden_secrets(value: &Value, at: &str, wrong: &mut Vec<FieldError>) {
    match value {
        Value::Object(members) => {
            if members.get("isSecret") == Some(&Value::Bool(true)) {
                let given = ["value", "default"].into_iter().filter(|name| members.get(*name).is_some_and(|value| *value != Value::Null));
                // A template of other inputs gives nothing away.
                let is_template = |text: &str| {
                    let variables = members.get("variables").and_then(Value::as_object);
                    variables.is_some_and(|variables| variables.keys().any(|name| text.contains(&format!("{{{name}}}"))))
                };
                let plain = given.filter(|name| !members[*name].as_str().is_some_and(is_template));
                let message = "is a secret that everybody could read; give it with your configuration, and the vault keeps it";
                wrong.extend(plain.map(|name| FieldError::new(format!("{at}.{name}"), message)));
            }
            members.iter().for_each(|(name, member)| hidden_secrets(member, &format!("{at}.{name}"), wrong));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(place, item)| hidden_secrets(item, &format!("{at}[{place}]"), wrong));
        }
        _ => {}
    }
}

/// What is wrong with metadata.
pub(crate) fn unfit_metadata(metadata: &Map<String, Value>) -> Vec<FieldError> {
    let mut wrong = Vec::new();
    if serde_json::to_string(metadata).map_or(0, |text| text.len()) > LARGEST_METADATA {
        wrong.push(FieldError::new("body.metadata", "is larger than 32 KiB"));
    }
    named_secrets(metadata, "body.metadata", &mut wrong);
    wrong
}

fn named_secrets(members: &Map<String, Value>, at: &str, wrong: &mut Vec<FieldError>) {
    for (name, value) in members {
        match value {
            Value::Object(inner) => named_secrets(inner, &format!("{at}.{name}"), wrong),
            Value::Array(items) => {
                for (place, inner) in items.iter().enumerate().filter_map(|(place, item)| Some((place, item.as_object()?))) {
                    named_secrets(inner, &format!("{at}.{name}[{place}]"), wrong);
                }
            }
            Value::String(text) if !text.is_empty() && is_named_secret(name) => {
                wrong
                    .push(FieldError::new(format!("{at}.{name}"), "looks like a secret, and everybody reads metadata who sees the server"));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(parts: &[(&str, &str)]) -> Change {
        let part = |wanted: &str| parts.iter().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).to_owned());
        Change {
            image: part("image"),
            title: part("title"),
            description: part("description"),
            version: part("version"),
            ..Change::default()
        }
    }

    fn made(change: &Change, now: Option<&Value>) -> Result<Value, Vec<String>> {
        let id = ServerId::parse("weather").unwrap();
        of_change(&id, now, change).map_err(|wrong| wrong.into_iter().map(|one| one.location).collect())
    }

    #[test]
    fn parts_become_a_document_and_change_one() {
        let first = made(&change(&[("image", "npm:@acme/weather@1.2.0"), ("description", "Weather")]), None).unwrap();
        assert_eq!((first["name"].as_str(), first["version"].as_str()), (Some("local.fabric/weather"), Some("1.2.0")));
        assert_eq!(first["packages"][0]["identifier"], "@acme/weather");
        let mut asking = first.clone();
        asking["packages"][0]["environmentVariables"] = json!([{ "name": "KEY" }]);
        let next = made(&change(&[("image", "npm:@acme/weather@1.3.0")]), Some(&asking)).unwrap();
        assert_eq!((next["version"].as_str(), next["description"].as_str()), (Some("1.3.0"), Some("Weather")));
        assert_eq!(next["packages"][0]["environmentVariables"][0]["name"], "KEY");
        assert_eq!(made(&change(&[("title", "T")]), Some(&first)).unwrap()["title"], "T");
        // A registry of one's own is nobody else's business.
        assert!(made(&change(&[("image", "registry.acme.test:5000/weather:2"), ("description", "Weather")]), None).is_ok());
    }

    #[test]
    fn everything_that_is_wrong_is_named_where_it_stands() {
        assert_eq!(made(&change(&[("description", "x")]), None), Err(vec!["body.image".into()]));
        assert_eq!(made(&change(&[("image", "npm:x")]), None), Err(vec!["body.image".into()]));
        let wrong = made(&change(&[("image", "mcp/x:1"), ("version", "^1.0"), ("description", &"x".repeat(101))]), None).unwrap_err();
        assert!(wrong.contains(&"body.description".into()) && wrong.contains(&"body.version".into()), "{wrong:?}");
        let whole = |document: Value| made(&Change { document: Some(document), ..Change::default() }, None);
        assert_eq!(whole(json!("x")), Err(vec!["body.document".into()]));
        let secret = json!({ "name": "KEY", "isSecret": true, "value": "s3cret" });
        let package = json!({ "registryType": "npm", "identifier": "x", "version": "1.0.0", "transport": { "type": "stdio" },
                              "environmentVariables": [secret] });
        let wrong = whole(json!({ "name": "local.fabric/other", "description": "x", "packages": [package] })).unwrap_err();
        assert_eq!(wrong, ["body.document.name", "body.document.packages[0].environmentVariables[0].value"]);
        let both = Change { document: Some(json!({})), ..change(&[("title", "x")]) };
        assert_eq!(made(&both, None), Err(vec!["body.document".into()]));
    }

    #[test]
    fn metadata_is_small_and_has_no_secrets() {
        let of = |value: Value| unfit_metadata(value.as_object().unwrap()).into_iter().map(|one| one.location).collect::<Vec<_>>();
        assert!(of(json!({ "team": "weather", "labels": ["a"], "token_limit": 5 })).is_empty());
        assert_eq!(of(json!({ "deep": { "api_key": "x" } })), ["body.metadata.deep.api_key"]);
        assert_eq!(of(json!({ "list": [1, { "api_key": "x" }] })), ["body.metadata.list[1].api_key"]);
        assert_eq!(of(json!({ "text": "x".repeat(40_000) })), ["body.metadata"]);
    }
}
