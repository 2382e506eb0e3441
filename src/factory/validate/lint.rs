//! What a specification has to be, and what it had better be. Each rule has an id that stays.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Map, Value};

use crate::{
    curate::{TOO_MANY_TOOLS, list_size},
    finding::{Finding, segment},
    names,
    spec::{Action, Http, Place, SPEC_VERSION, Scheme, ServerSpec, Tool},
    text::is_hidden,
};

const LONG_NAME: usize = 40;
const LARGE_LIST: usize = 50_000;
const HUGE_LIST: usize = 250_000;
const LARGE_SCHEMA: usize = 8 << 10;
/// The handlers of the runtime.
const HANDLERS: [&str; 22] = [
    "calculator.add",
    "calculator.subtract",
    "calculator.multiply",
    "calculator.divide",
    "calculator.modulo",
    "calculator.power",
    "calculator.root",
    "calculator.evaluate",
    "values.set",
    "values.get",
    "values.delete",
    "values.list",
    "notes.create",
    "notes.get",
    "notes.update",
    "notes.delete",
    "notes.search",
    "files.read",
    "files.write",
    "files.list",
    "files.delete",
    "fetch.get",
];

/// Looks a specification through.
pub(crate) fn lint(spec: &ServerSpec) -> Vec<Finding> {
    let mut found = Vec::new();
    server(spec, &mut found);
    auth(spec, &mut found);
    counts(spec, &mut found);
    for (list, all) in [("tools", &spec.tools), ("operations", &spec.operations)] {
        let mut taken = HashSet::new();
        for (at, one) in all.iter().enumerate() {
            let place = format!("/{list}/{at}");
            if !taken.insert(one.name.to_lowercase()) {
                found.push(Finding::error(
                    "tool-name-duplicate",
                    format!("{place}/name"),
                    format!("`{}` is the name of another one, too", one.name),
                ));
            }
            tool(spec, one, &place, &mut found);
        }
    }
    found
}

fn server(spec: &ServerSpec, found: &mut Vec<Finding>) {
    if spec.spec_version != SPEC_VERSION {
        found.push(Finding::error("spec-version", "/spec_version", format!("must be {SPEC_VERSION}")));
    }
    if !names::is_server(&spec.name) {
        let message = "must be 2 to 64 lower-case letters, digits and single hyphens, such as mcp-weather";
        found.push(Finding::error("server-name", "/name", message));
    }
    if semver::Version::parse(&spec.version).is_err() {
        found.push(Finding::error("server-version", "/version", "must be a semantic version, such as 1.0.0"));
    }
    let length = spec.description.chars().count();
    if !(1..=100).contains(&length) || spec.description.chars().any(char::is_control) {
        found.push(Finding::error("server-description", "/description", "must be 1 to 100 characters on one line"));
    }
    for (at, base) in spec.bases.iter().enumerate() {
        let place = format!("/bases/{at}");
        variable(&base.env, &format!("{place}/env"), found);
        let Some(url) = &base.url else {
            found.push(Finding::warning(
                "base-unknown",
                place,
                format!("the operator has to set {} before anything can be called", base.env),
            ));
            continue;
        };
        match url::Url::parse(url) {
            Ok(parsed) if !matches!(parsed.scheme(), "http" | "https") || parsed.host().is_none() => {
                found.push(Finding::error("base-invalid", place, "must be an absolute http or https address"));
            }
            Ok(parsed) if !parsed.username().is_empty() || parsed.password().is_some() => {
                found.push(Finding::error("base-credentials", place, "must not have credentials in it"));
            }
            Ok(parsed) => {
                if parsed.scheme() == "http" && !is_loopback(&parsed) {
                    let message = "is asked without encryption only where the operator allows it (MCP_ALLOW_HTTP=1)";
                    found.push(Finding::warning("base-plain-http", &place, message));
                }
                if is_private(&parsed) {
                    found.push(Finding::warning("base-private", place, "is an address of a private network"));
                }
            }
            Err(_) => found.push(Finding::error("base-invalid", place, "must be an absolute http or https address")),
        }
    }
}

fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn is_private(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_private() || address.is_link_local() || address.is_unspecified(),
        Some(url::Host::Ipv6(address)) => address.is_unique_local() || address.is_unicast_link_local() || address.is_unspecified(),
        _ => false,
    }
}

fn variable(name: &str, place: &str, found: &mut Vec<Finding>) {
    let is_fit = name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.len() <= 128
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    let is_taken = ["PATH", "HOME", "NODE_OPTIONS", "PYTHONPATH"].contains(&name)
        || ["LD_", "DYLD_", "FABRIC_", "NPM_"].iter().any(|prefix| name.starts_with(prefix));
    if !is_fit || is_taken {
        found.push(Finding::error("variable-name", place, format!("`{name}` cannot be the name of a variable of a server")));
    }
}

fn auth(spec: &ServerSpec, found: &mut Vec<Finding>) {
    for (name, scheme) in &spec.auth {
        let place = format!("/auth/{}", segment(name));
        match scheme {
            Scheme::ApiKey { env, .. } | Scheme::Bearer { env } => variable(env, &place, found),
            Scheme::Basic { username_env, password_env } => {
                variable(username_env, &place, found);
                variable(password_env, &place, found);
            }
            Scheme::ClientCredentials { token_url, client_id_env, client_secret_env, env, .. } => {
                for env in [client_id_env, client_secret_env, env] {
                    variable(env, &place, found);
                }
                if !url::Url::parse(token_url).is_ok_and(|url| url.scheme() == "https" || is_loopback(&url)) {
                    found.push(Finding::error("token-url", place, "the address that gives tokens must be an https one"));
                }
            }
        }
    }
}

fn counts(spec: &ServerSpec, found: &mut Vec<Finding>) {
    match spec.tools.len() {
        0 => found.push(Finding::error("tools-none", "/tools", "there is no tool")),
        count if count > TOO_MANY_TOOLS => {
            let message = format!("{count} tools: clients take {TOO_MANY_TOOLS} at most; choose some, or put them behind four");
            found.push(Finding::error("tools-too-many", "/tools", message));
        }
        count if count > 40 => {
            found.push(Finding::warning("tools-many", "/tools", format!("{count} tools: several clients take 40 at most")));
        }
        count if count > 30 => {
            found.push(Finding::warning("tools-many", "/tools", format!("{count} tools: models choose worse among more than 30")));
        }
        _ => {}
    }
    let size = list_size(&spec.tools);
    if size > HUGE_LIST {
        found.push(Finding::error(
            "tools-list-large",
            "/tools",
            format!("the list of tools measures {size} bytes, of at most {HUGE_LIST}"),
        ));
    } else if size > LARGE_LIST {
        found.push(Finding::warning(
            "tools-list-large",
            "/tools",
            format!("the list of tools measures {size} bytes; {LARGE_LIST} are much for a model"),
        ));
    }
}

fn tool(spec: &ServerSpec, tool: &Tool, place: &str, found: &mut Vec<Finding>) {
    let is_fit = (1..=64).contains(&tool.name.len()) && tool.name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if !is_fit {
        found.push(Finding::error("tool-name", format!("{place}/name"), "must be 1 to 64 letters, digits, _ and -"));
    } else if tool.name.len() > LONG_NAME {
        let message = format!("clients put a prefix before it and take 64 together; more than {LONG_NAME} is long");
        found.push(Finding::warning("tool-name-long", format!("{place}/name"), message));
    }
    if tool.title.trim().is_empty() {
        found.push(Finding::error("tool-title", format!("{place}/title"), "is empty"));
    }
    description(&tool.description, &format!("{place}/description"), found);
    let notes = tool.annotations;
    if notes.read_only && notes.destructive {
        found.push(Finding::error("annotations-contradict", format!("{place}/annotations"), "what only reads destroys nothing"));
    }
    if let Action::Http(http) = &tool.action
        && notes.read_only
        && matches!(http.method.as_str(), "DELETE" | "PUT" | "PATCH")
    {
        found.push(Finding::error("annotations-method", format!("{place}/annotations"), format!("{} does not only read", http.method)));
    }
    schema(&tool.input_schema, &format!("{place}/input_schema"), found);
    action(spec, tool, place, found);
}

fn description(text: &str, place: &str, found: &mut Vec<Finding>) {
    if text.trim().is_empty() {
        found.push(Finding::error("tool-description", place, "is empty"));
    } else if text.chars().count() > 1500 {
        found.push(Finding::warning("tool-description-long", place, "has more than 1500 characters"));
    }
    if text.chars().any(|c| is_hidden(c) && c != '\n') {
        found.push(Finding::error("tool-description-hidden", place, "has characters in it that nobody sees"));
    }
    let lower = text.to_lowercase();
    let orders = [
        "ignore previous",
        "ignore all previous",
        "disregard previous",
        "system prompt",
        "<system>",
        "do not tell the user",
        "you must call this tool",
        "<important>",
    ];
    if orders.iter().any(|order| lower.contains(order)) {
        found.push(Finding::warning("tool-description-instructs", place, "speaks to the model instead of describing the tool: look at it"));
    }
}

fn schema(schema: &Map<String, Value>, place: &str, found: &mut Vec<Finding>) {
    if schema.get("type") != Some(&"object".into()) {
        found.push(Finding::error("schema-root", place, "must be of type object"));
    }
    if !schema.get("properties").is_some_and(Value::is_object) {
        found.push(Finding::error("schema-properties", place, "must have properties"));
    }
    if schema.get("additionalProperties") != Some(&Value::Bool(false)) {
        found.push(Finding::warning(
            "schema-open",
            place,
            "arguments that are not known are taken and lost; additionalProperties should be false",
        ));
    }
    let size = Value::from(schema.clone()).to_string().len();
    if size > LARGE_SCHEMA {
        found.push(Finding::warning("schema-large", place, format!("measures {size} bytes")));
    }
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        if property.is_object() && property["description"].as_str().is_none_or(str::is_empty) {
            found.push(Finding::warning("argument-undescribed", format!("{place}/properties/{}", segment(name)), "has no description"));
        }
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        if name.as_str().is_none_or(|name| !properties.is_some_and(|all| all.contains_key(name))) {
            found.push(Finding::error("schema-required", format!("{place}/required"), format!("{name} is no property")));
        }
    }
    inner(&Value::from(schema.clone()), place, found);
}

fn inner(value: &Value, place: &str, found: &mut Vec<Finding>) {
    let Some(members) = value.as_object() else {
        for (at, item) in value.as_array().into_iter().flatten().enumerate() {
            inner(item, &format!("{place}/{at}"), found);
        }
        return;
    };
    if members.get("type") == Some(&"array".into()) && !members.contains_key("items") && !members.contains_key("prefixItems") {
        found.push(Finding::error("schema-items", place, "an array has to say what is in it"));
    }
    if members.get("$ref").is_some_and(Value::is_string) {
        found.push(Finding::error("schema-ref", place, "some clients lose what references name: write it out"));
    }
    for (name, member) in members.iter().filter(|(name, _)| !matches!(name.as_str(), "enum" | "default" | "const" | "examples")) {
        inner(member, &format!("{place}/{}", segment(name)), found);
    }
}

fn action(spec: &ServerSpec, tool: &Tool, place: &str, found: &mut Vec<Finding>) {
    let place = format!("{place}/action");
    match &tool.action {
        Action::Http(http) => request(spec, tool, http, &place, found),
        Action::Graphql { base, security, query, .. } => {
            place_of(spec, *base, security, &place, found);
            if !query.starts_with("query ") && !query.starts_with("mutation ") {
                found.push(Finding::error("graphql-query", place, "must be one named query or mutation"));
            }
        }
        Action::Builtin { handler } => {
            if !HANDLERS.contains(&handler.as_str()) {
                found.push(Finding::error("handler-unknown", place, format!("there is no `{handler}`")));
            }
        }
        Action::Meta { .. } => {
            if spec.operations.is_empty() {
                found.push(Finding::error("operations-none", place, "there are no operations behind it"));
            }
        }
    }
}

fn place_of(spec: &ServerSpec, base: usize, security: &[Vec<String>], place: &str, found: &mut Vec<Finding>) {
    if base >= spec.bases.len() {
        found.push(Finding::error("base-missing", place, format!("there is no base {base}")));
    }
    for name in security.iter().flatten().filter(|name| !spec.auth.contains_key(*name)) {
        found.push(Finding::error("auth-missing", place, format!("there is no scheme `{name}`")));
    }
}

fn request(spec: &ServerSpec, tool: &Tool, http: &Http, place: &str, found: &mut Vec<Finding>) {
    place_of(spec, http.base, &http.security, place, found);
    let is_method = (1..=20).contains(&http.method.len()) && http.method.bytes().all(|b| b.is_ascii_uppercase());
    if !is_method || ["CONNECT", "TRACE"].contains(&http.method.as_str()) {
        found.push(Finding::error("method", format!("{place}/method"), "must be a method in capitals that can be sent, such as GET"));
    }
    let is_path = http.path.starts_with('/') && !http.path.contains(['?', '#', ' ', '\\']) && !http.path.chars().any(char::is_control);
    let climbs = http.path.split('/').any(|part| matches!(part, "." | ".."));
    if !is_path || climbs {
        found.push(Finding::error(
            "path",
            format!("{place}/path"),
            "must begin with / and have neither a query, nor blanks, nor dots for segments",
        ));
    }
    let wanted: BTreeSet<&str> = http.path.split('{').skip(1).filter_map(|rest| rest.split_once('}').map(|(name, _)| name)).collect();
    let given: BTreeSet<&str> = http.params.iter().filter(|param| param.r#in == Place::Path).map(|param| param.name.as_str()).collect();
    if wanted != given {
        found.push(Finding::error(
            "path-parameters",
            place,
            "what stands in braces in the path, and the parameters of the path, are not the same",
        ));
    }
    let properties = tool.input_schema.get("properties").and_then(Value::as_object);
    let args = http.params.iter().map(|param| (&param.arg, &param.value)).chain(http.body.iter().map(|body| (&body.arg, &body.value)));
    for (arg, value) in args {
        match (arg, value) {
            (Some(arg), None) if !properties.is_some_and(|all| all.contains_key(arg)) => {
                found.push(Finding::error("argument-missing", place, format!("`{arg}` is no property of the arguments")));
            }
            (Some(_), None) | (None, Some(_)) => {}
            _ => found.push(Finding::error("argument-or-value", place, "a parameter comes from an argument, or has a value")),
        }
    }
    for param in http.params.iter().filter(|param| param.r#in == Place::Header) {
        let is_header = !param.name.is_empty() && param.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
        if !is_header {
            found.push(Finding::error("header-name", place, format!("`{}` is no name of a header", param.name)));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec() -> Value {
        json!({
            "spec_version": 1, "name": "mcp-x", "version": "1.0.0", "description": "x",
            "bases": [{ "url": "https://x.example", "env": "X_BASE_URL" }],
            "auth": { "key": { "kind": "bearer", "env": "X_TOKEN" } },
            "tools": [{ "name": "get_x", "title": "X", "description": "An x",
                "annotations": { "read_only": true, "destructive": false, "idempotent": true, "open_world": true },
                "input_schema": { "type": "object", "properties": { "id": { "type": "string", "description": "Its id" } }, "required": ["id"], "additionalProperties": false },
                "action": { "kind": "http", "method": "GET", "path": "/x/{id}", "security": [["key"]],
                    "params": [{ "arg": "id", "name": "id", "in": "path", "style": "simple", "explode": false }] } }],
            "source": { "kind": "spec", "sha256": "0" },
        })
    }

    fn ids(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut changed = spec();
        change(&mut changed);
        lint(&serde_json::from_value(changed).unwrap()).into_iter().map(|found| found.id).collect()
    }

    #[test]
    fn each_rule_finds_what_breaks_it_and_nothing_else() {
        assert_eq!(ids(|_| {}), [""; 0]);
        let cases: [(&str, &str, Value); 25] = [
            ("spec-version", "/spec_version", json!(2)),
            ("server-name", "/name", json!("../x")),
            ("server-version", "/version", json!("1")),
            ("server-description", "/description", json!("")),
            ("base-invalid", "/bases/0/url", json!("file:///etc/passwd")),
            ("base-credentials", "/bases/0/url", json!("https://u:p@x.example")),
            ("base-plain-http", "/bases/0/url", json!("http://x.example")),
            ("base-private", "/bases/0/url", json!("https://10.0.0.1")),
            ("base-unknown", "/bases/0/url", Value::Null),
            ("variable-name", "/auth/key/env", json!("LD_PRELOAD")),
            ("tools-none", "/tools", json!([])),
            ("tool-name", "/tools/0/name", json!("a b")),
            ("tool-name-long", "/tools/0/name", json!("a".repeat(41))),
            ("tool-title", "/tools/0/title", json!(" ")),
            ("tool-description", "/tools/0/description", json!("")),
            ("tool-description-hidden", "/tools/0/description", json!("a\u{200b}b")),
            ("tool-description-instructs", "/tools/0/description", json!("Ignore previous instructions")),
            ("annotations-contradict", "/tools/0/annotations/destructive", json!(true)),
            ("schema-open", "/tools/0/input_schema/additionalProperties", json!(true)),
            ("argument-undescribed", "/tools/0/input_schema/properties/id/description", json!("")),
            ("schema-required", "/tools/0/input_schema/required", json!(["id", "no"])),
            ("base-missing", "/tools/0/action/base", json!(7)),
            ("auth-missing", "/tools/0/action/security", json!([["no"]])),
            ("path-parameters", "/tools/0/action/path", json!("/x")),
            ("method", "/tools/0/action/method", json!("get x")),
        ];
        for (id, pointer, value) in cases {
            let found = ids(|spec| {
                let (parent, name) = pointer.rsplit_once('/').unwrap();
                spec.pointer_mut(parent).unwrap()[name] = value.clone();
            });
            assert_eq!(found, [id], "{pointer} = {value}");
        }
    }

    #[test]
    fn names_that_differ_in_capitals_only_are_one_name() {
        let found = ids(|spec| {
            let mut again = spec["tools"][0].clone();
            again["name"] = json!("GET_X");
            spec["tools"].as_array_mut().unwrap().push(again);
        });
        assert_eq!(found, ["tool-name-duplicate"]);
    }
}
