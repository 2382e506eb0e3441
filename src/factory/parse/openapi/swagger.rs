//! Swagger 2.0 in the words of OpenAPI 3.0.

use serde_json::{Map, Value, json};

/// More of one operation are looked at nowhere.
const MOST_PARAMETERS: usize = 200;

/// The document as it would be written today.
pub(super) fn converted(old: &Value) -> Value {
    let mut paths = Map::new();
    for (path, item) in old["paths"].as_object().into_iter().flatten() {
        paths.insert(path.clone(), path_item(old, item));
    }
    let mut schemes = Map::new();
    for (name, scheme) in old["securityDefinitions"].as_object().into_iter().flatten() {
        schemes.insert(name.clone(), security(scheme));
    }
    let mut new = json!({
        "openapi": "3.0.3",
        "info": old["info"],
        "servers": servers(old),
        "paths": paths,
        "components": { "securitySchemes": schemes },
        // References keep their names.
        "definitions": old["definitions"],
        "parameters": old["parameters"],
        "responses": responses(old, &old["responses"], old),
    });
    if let Some(security) = old.get("security") {
        new["security"] = security.clone();
    }
    new
}

fn servers(old: &Value) -> Value {
    let path = old["basePath"].as_str().unwrap_or("/");
    let Some(host) = old["host"].as_str().filter(|host| !host.is_empty()) else { return json!([{ "url": path }]) };
    let schemes = old["schemes"].as_array();
    let has = |wanted: &str| schemes.is_some_and(|all| all.iter().any(|scheme| scheme == wanted));
    let scheme = if has("http") && !has("https") { "http" } else { "https" };
    json!([{ "url": format!("{scheme}://{host}{path}") }])
}

fn security(old: &Value) -> Value {
    match old["type"].as_str() {
        Some("basic") => json!({ "type": "http", "scheme": "basic" }),
        Some("oauth2") => {
            let flow = match old["flow"].as_str() {
                Some("application") => "clientCredentials",
                Some("accessCode") => "authorizationCode",
                Some("password") => "password",
                _ => "implicit",
            };
            json!({ "type": "oauth2", "flows": { flow: { "tokenUrl": old["tokenUrl"], "scopes": old["scopes"] } } })
        }
        _ => old.clone(),
    }
}

fn path_item(document: &Value, item: &Value) -> Value {
    let Some(item) = item.as_object() else { return item.clone() };
    let of_path: Vec<&Value> = item.get("parameters").and_then(Value::as_array).into_iter().flatten().take(MOST_PARAMETERS).collect();
    let mut new = Map::new();
    for (name, value) in item {
        if !super::METHODS.contains(&name.as_str()) {
            if name != "parameters" {
                new.insert(name.clone(), value.clone());
            }
            continue;
        }
        if !value.is_object() {
            continue;
        }
        let own: Vec<&Value> = value["parameters"].as_array().into_iter().flatten().take(MOST_PARAMETERS).collect();
        let is_overridden = |one: &Value| {
            let one = target(document, one);
            own.iter().any(|other| {
                let other = target(document, other);
                other["name"] == one["name"] && other["in"] == one["in"]
            })
        };
        let all = of_path.iter().filter(|one| !is_overridden(one)).chain(&own).map(|one| target(document, one)).collect();
        new.insert(name.clone(), operation(document, value, &all));
    }
    Value::Object(new)
}

fn target<'a>(document: &'a Value, node: &'a Value) -> &'a Value {
    node["$ref"].as_str().and_then(|to| document.pointer(to.strip_prefix('#')?)).unwrap_or(node)
}

fn media_types<'a>(document: &'a Value, operation: &'a Value, which: &str) -> Vec<&'a str> {
    let list = operation[which].as_array().or_else(|| document[which].as_array());
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

fn operation(document: &Value, old: &Value, parameters: &Vec<&Value>) -> Value {
    let mut new = old.clone();
    let mut kept = Vec::new();
    let mut form: Vec<&Value> = Vec::new();
    for one in parameters {
        match one["in"].as_str() {
            Some("body") => {
                let consumes = media_types(document, old, "consumes");
                let consumes = if consumes.is_empty() { vec!["application/json"] } else { consumes };
                let content: Map<String, Value> =
                    consumes.into_iter().map(|kind| (kind.to_owned(), json!({ "schema": one["schema"] }))).collect();
                new["requestBody"] = json!({ "required": one["required"], "description": one["description"], "content": content });
            }
            Some("formData") => form.push(one),
            _ => kept.push(parameter(one)),
        }
    }
    if !form.is_empty() {
        new["requestBody"] = form_body(&media_types(document, old, "consumes"), &form);
    }
    new["parameters"] = kept.into();
    new["responses"] = responses(document, &old["responses"], old);
    new
}

/// What schemas and parameters of 2.0 have in common stands in a schema since.
fn schema_of(old: &Value) -> Value {
    let not_of_schemas = ["name", "in", "required", "collectionFormat", "allowEmptyValue", "description"];
    let members = old.as_object().into_iter().flatten().filter(|(name, _)| !not_of_schemas.contains(&name.as_str()));
    Value::Object(members.map(|(name, value)| (name.clone(), value.clone())).collect())
}

fn style_of(old: &Value) -> Map<String, Value> {
    let (style, explode) = match old["collectionFormat"].as_str() {
        Some("ssv") => ("spaceDelimited", false),
        Some("tsv") => ("tabDelimited", false),
        Some("pipes") => ("pipeDelimited", false),
        Some("multi") => ("form", true),
        _ => ("form", false),
    };
    Map::from_iter([("style".to_owned(), style.into()), ("explode".to_owned(), explode.into())])
}

fn parameter(old: &Value) -> Value {
    let mut new = Map::from_iter(["name", "in", "required", "description"].map(|name| (name.to_owned(), old[name].clone())));
    new.insert("schema".into(), schema_of(old));
    if old["type"] == "array" {
        let is_simple = matches!(old["in"].as_str(), Some("path" | "header"))
            && !matches!(old["collectionFormat"].as_str(), Some("ssv" | "tsv" | "pipes"));
        new.extend(if is_simple {
            Map::from_iter([("style".to_owned(), "simple".into()), ("explode".to_owned(), false.into())])
        } else {
            style_of(old)
        });
    }
    Value::Object(new)
}

fn form_body(consumes: &[&str], form: &[&Value]) -> Value {
    let has_file = form.iter().any(|one| one["type"] == "file");
    let kind = if has_file || (consumes.contains(&"multipart/form-data") && !consumes.contains(&"application/x-www-form-urlencoded")) {
        "multipart/form-data"
    } else {
        "application/x-www-form-urlencoded"
    };
    let (mut properties, mut required, mut encoding) = (Map::new(), Vec::new(), Map::new());
    for one in form {
        let Some(name) = one["name"].as_str() else { continue };
        let mut schema = schema_of(one);
        schema["description"] = one["description"].clone();
        properties.insert(name.to_owned(), schema);
        if one["required"] == true {
            required.push(name);
        }
        if one["type"] == "array" {
            encoding.insert(name.to_owned(), Value::Object(style_of(one)));
        }
    }
    let schema = json!({ "type": "object", "properties": properties, "required": required });
    json!({ "required": !required.is_empty(), "content": { kind: { "schema": schema, "encoding": encoding } } })
}

fn responses(document: &Value, old: &Value, operation: &Value) -> Value {
    let kinds = media_types(document, operation, "produces");
    let kind = kinds.iter().find(|kind| kind.contains("json")).or(kinds.first()).copied().unwrap_or("application/json");
    let one = |old: &Value| match old.get("schema") {
        Some(schema) => json!({ "description": old["description"], "content": { kind: { "schema": schema } } }),
        None => old.clone(),
    };
    Value::Object(old.as_object().into_iter().flatten().map(|(code, response)| (code.clone(), one(response))).collect())
}
