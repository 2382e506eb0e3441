//! Operations that a description writes down: `GET /pets/{id} - one pet`, with lines for their parameters, or verbs over
//! things (`list, create and delete customers`) of an API whose address is said.

use serde_json::Value;

use super::Question;
use crate::{
    finding::Finding,
    names::{self, Names, capital, singular},
    parse::{
        Draft, Said,
        example::{Auth, Example, Field, Sent, parted},
    },
    spec::{KeyPlace, SourceKind},
};

const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"];
const MOST_ROUTES: usize = 500;

/// `None` where the text has neither routes nor verbs of an API.
pub(super) fn read(text: &str, said: &Said) -> Option<Draft> {
    let base = said.base_url.clone().or_else(|| base_of(text));
    let (mut examples, mut is_assumed) = (written(text), false);
    if examples.is_empty() {
        base.as_ref()?;
        examples = over_things(text);
        is_assumed = true;
    }
    if examples.is_empty() {
        return None;
    }
    let host = base.as_deref().and_then(crate::parse::curl::host_name);
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && route_of(line).is_none()).filter(|line| !line.contains("://"));
    let name =
        said.name.clone().or_else(|| names::server(host.as_deref()?)).or_else(|| names::server(first?)).unwrap_or_else(|| "mcp-api".into());
    let mut draft = Draft::new(SourceKind::Description, name);
    draft.title = host.or_else(|| first.map(str::to_owned));
    draft.description = first.map(str::to_owned);
    let has_base = base.is_some() || examples.iter().all(|example| example.base.is_some());
    if !has_base {
        draft.questions.push(Question::new(
            "base_url_unknown",
            "Where is the API? Say its address as `base_url`, such as https://api.example.com.",
            "the address of the API",
        ));
        return Some(draft);
    }
    if is_assumed {
        let message = "the paths are those that such an API usually has; the description does not say them";
        draft.findings.push(Finding::warning("paths-assumed", "/tools", message));
    }
    let auth = auth_of(text);
    let mut taken = Names::default();
    for mut example in examples {
        example.base = said.base_url.clone().or(example.base).or_else(|| base.clone());
        example.auth = auth.iter().cloned().collect();
        example.add_to(&mut draft, &mut taken);
    }
    Some(draft)
}

/// The address that is said to be the API's: of `base url: …`, else the first that is no operation's.
fn base_of(text: &str) -> Option<String> {
    let addresses = |line: &str| -> Option<String> {
        let start = line.find("https://").or_else(|| line.find("http://"))?;
        let end = line[start..]
            .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | ',' | ')' | '>' | ';'))
            .map_or(line.len(), |at| start + at);
        let address = line[start..end].trim_end_matches(['.', '/', ':']);
        url::Url::parse(address)
            .ok()
            .filter(|url| url.host().is_some())
            .map(|_| address.split(['?', '#']).next().unwrap_or(address).to_owned())
    };
    let lines = || text.lines().filter(|line| route_of(line).is_none());
    lines().filter(|line| line.to_lowercase().contains("base")).find_map(addresses).or_else(|| lines().find_map(addresses))
}

/// The method, the path and what is said of it, of a line that begins with a method.
fn route_of(line: &str) -> Option<(&'static str, &str, &str)> {
    let bare = line
        .trim()
        .trim_start_matches(['-', '*', '•', ' ', '`'])
        .trim_start_matches(|c: char| c.is_ascii_digit())
        .trim_start_matches(['.', ')', ' ']);
    let (method, rest) = bare.split_once(char::is_whitespace)?;
    let method = METHODS.into_iter().find(|known| *known == method.trim_end_matches(':'))?;
    let rest = rest.trim_start();
    let end = rest.find(|c: char| c.is_whitespace() || c == '`').unwrap_or(rest.len());
    let path = rest[..end].trim_end_matches([':', ',']);
    let is_path = path.starts_with('/') || path.starts_with("https://") || path.starts_with("http://");
    is_path.then(|| (method, path, rest[end..].trim().trim_start_matches(['-', '–', '—', ':', '`', ' ']).trim()))
}

fn written(text: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    for line in text.lines() {
        if let Some((method, path, about)) = route_of(line) {
            let (base, path, mut query) = parted(path);
            for field in &mut query {
                field.value.clear();
            }
            let description = (!about.is_empty()).then(|| about.to_owned());
            examples.push(Example { method: method.into(), path, base, query, description, ..Example::default() });
        } else if let (Some(example), Some(field)) = (examples.last_mut(), parameter_of(line)) {
            place(example, field);
        }
        if examples.len() == MOST_ROUTES {
            break;
        }
    }
    examples
}

/// `- limit (integer, required): how many`.
fn parameter_of(line: &str) -> Option<(Field, Option<&'static str>)> {
    let bare = line.trim().strip_prefix(['-', '*', '•'])?.trim().trim_start_matches('`');
    let end = bare.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '[' | ']'))).unwrap_or(bare.len());
    let (name, rest) = bare.split_at(end);
    let rest = rest.trim_start_matches('`').trim();
    let (kinds, said) = match rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        Some((kinds, said)) => (kinds.to_lowercase(), said),
        None => (String::new(), rest),
    };
    let has = |word: &str| kinds.split(|c: char| !c.is_alphanumeric()).any(|own| own == word);
    if name.is_empty() || (kinds.is_empty() && !rest.starts_with(':')) {
        return None;
    }
    let kind = [
        ("integer", "integer"),
        ("int", "integer"),
        ("number", "number"),
        ("float", "number"),
        ("boolean", "boolean"),
        ("bool", "boolean"),
        ("array", "array"),
        ("list", "array"),
        ("object", "object"),
        ("string", "string"),
        ("text", "string"),
    ]
    .into_iter()
    .find(|(word, _)| has(word))
    .map(|(_, kind)| kind);
    let place = ["query", "header", "body", "path"].into_iter().find(|place| has(place));
    let said = said.trim_start_matches([':', '-', '–', ' ']).trim();
    let description = (!said.is_empty()).then(|| said.to_owned());
    Some((Field { name: name.to_owned(), description, kind, is_required: has("required"), ..Field::default() }, place))
}

fn place(example: &mut Example, (field, place): (Field, Option<&'static str>)) {
    let in_path = example.path.split('/').any(|part| part.trim_matches(['{', '}', ':', '<', '>']) == field.name);
    let sends = matches!(example.method.as_str(), "POST" | "PUT" | "PATCH");
    match place {
        _ if in_path => example.variables.push(field),
        Some("query") => example.query.push(field),
        Some("header") => example.headers.push(field),
        Some("body") => in_body(example, &field),
        _ if sends => in_body(example, &field),
        _ => {
            example.query.retain(|other| other.name != field.name);
            example.query.push(field);
        }
    }
}

fn in_body(example: &mut Example, field: &Field) {
    let value: Value = match field.kind {
        Some("integer") => 0.into(),
        Some("number") => serde_json::json!(0.5),
        Some("boolean") => false.into(),
        Some("array") => serde_json::json!([]),
        Some("object") => serde_json::json!({}),
        _ => "".into(),
    };
    if let Sent::Json(Value::Object(members)) = example.body.get_or_insert_with(|| Sent::Json(serde_json::json!({}))) {
        members.insert(field.name.clone(), value);
    }
}

/// `list, create and delete customers`: what a REST API usually has for that.
fn over_things(text: &str) -> Vec<Example> {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let verb = |word: &str| match word.trim_end_matches('s') {
        "list" | "search" | "find" | "browse" => Some("list"),
        "get" | "show" | "read" | "retrieve" | "view" | "fetch" => Some("get"),
        "create" | "add" | "make" => Some("create"),
        "update" | "edit" | "change" | "modify" => Some("update"),
        "delete" | "remove" => Some("delete"),
        _ => None,
    };
    let passes = ["a", "an", "the", "and", "or", "all", "new", "its", "their", "to", "one", "of", "my", "our", "existing", "single"];
    let (mut verbs, mut examples): (Vec<&'static str>, Vec<Example>) = (Vec::new(), Vec::new());
    for word in words {
        if let Some(verb) = verb(word) {
            verbs.push(verb);
        } else if !verbs.is_empty() && !passes.contains(&word) {
            let things = if word.ends_with('s') { word.to_owned() } else { format!("{word}s") };
            for verb in std::mem::take(&mut verbs) {
                examples.push(usual(verb, &things));
            }
        }
    }
    examples.truncate(MOST_ROUTES);
    examples
}

fn usual(verb: &str, things: &str) -> Example {
    let one = singular(things);
    let (method, path, name) = match verb {
        "list" => ("GET", format!("/{things}"), format!("list {things}")),
        "get" => ("GET", format!("/{things}/{{id}}"), format!("get {one}")),
        "create" => ("POST", format!("/{things}"), format!("create {one}")),
        "update" => ("PATCH", format!("/{things}/{{id}}"), format!("update {one}")),
        _ => ("DELETE", format!("/{things}/{{id}}"), format!("delete {one}")),
    };
    let body = matches!(method, "POST" | "PATCH").then(|| Sent::Json(serde_json::json!({})));
    Example { name: Some(capital(&name)), method: method.into(), path, body, ..Example::default() }
}

/// How the text says that requests say who they are from.
fn auth_of(text: &str) -> Option<Auth> {
    let lower = text.to_lowercase();
    if lower.contains("basic auth") {
        return Some(Auth::Basic);
    }
    let key_at = ["api key", "api-key", "apikey"].into_iter().find_map(|word| lower.find(word));
    if let Some(at) = key_at {
        let rest = &text[at..];
        let after = |word: &str| {
            let start = rest.to_lowercase().find(word)? + word.len();
            let name = rest.get(start..)?.trim_start_matches([' ', '`', '"', '\'', ':']);
            let end = name.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))).unwrap_or(name.len());
            (end > 0).then(|| name[..end].to_owned())
        };
        if let Some(name) = after("header") {
            return Some(Auth::Key { place: KeyPlace::Header, name });
        }
        if let Some(name) = after("query parameter").or_else(|| after("parameter")) {
            return Some(Auth::Key { place: KeyPlace::Query, name });
        }
        return Some(Auth::Key { place: KeyPlace::Header, name: "X-API-Key".into() });
    }
    (lower.contains("bearer") || lower.contains("access token")).then_some(Auth::Bearer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Action, Scheme};

    #[test]
    fn routes_with_parameters_are_read() {
        let text = "A pet shop.\nBase URL: https://pets.example/v2\nAPI key in header X-Pet-Key\n\nGET /pets - the pets\n- limit (integer): how many\n- kind: which kind\nPOST /pets: a new one\n- name (string, required): what it is called\nGET /pets/{petId}";
        let draft = read(text, &Said::default()).unwrap();
        assert_eq!(draft.bases[0].url.as_deref(), Some("https://pets.example/v2"));
        let names: Vec<&str> = draft.operations.iter().map(|one| one.tool.name.as_str()).collect();
        assert_eq!(names, ["list_pets", "create_pets", "get_pet"]);
        assert!(matches!(&draft.auth["key_x-pet-key"], Scheme::ApiKey { name, .. } if name == "X-Pet-Key"));
        let list = &draft.operations[0].tool;
        assert_eq!(list.input_schema["properties"]["limit"]["type"], "integer");
        let Action::Http(http) = &draft.operations[1].tool.action else { panic!() };
        assert!(http.body.is_some());
    }

    #[test]
    fn an_address_that_is_missing_is_asked_for() {
        let draft = read("GET /pets - all pets", &Said::default()).unwrap();
        assert_eq!(draft.questions[0].id, "base_url_unknown");
        let said = Said { base_url: Some("https://pets.example".into()), ..Said::default() };
        assert_eq!(read("GET /pets - all pets", &said).unwrap().operations.len(), 1);
    }

    #[test]
    fn verbs_over_things_are_what_such_an_api_usually_has() {
        let draft =
            read("An API at https://crm.example to list, create and delete customers, and to update an invoice", &Said::default()).unwrap();
        let routes: Vec<&str> = draft.operations.iter().map(|one| one.route.as_str()).collect();
        assert_eq!(routes, ["GET /customers", "POST /customers", "DELETE /customers/{id}", "PATCH /invoices/{id}"]);
        assert_eq!(draft.findings[0].id, "paths-assumed");
        assert!(read("list the customers", &Said::default()).is_none());
    }
}
