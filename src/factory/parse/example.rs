//! Requests that somebody has made or written down: what varies in them becomes arguments, what is secret becomes
//! variables of the environment (and is kept nowhere else), and the rest stays as it is.

use serde_json::{Map, Value, json};
use url::Url;

use super::{Draft, Operation, annotations_of, arguments::Arguments, written_path};
use crate::{
    names::{self, Names, capital, singular},
    spec::{Action, Body, Http, KeyPlace, Param, Part, Place, Scheme, Style, Tool},
    text,
};

/// One request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Example {
    /// What its maker calls it.
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) folder: Option<String>,
    pub(crate) method: String,
    /// Without query; variables stand in braces.
    pub(crate) path: String,
    pub(crate) base: Option<String>,
    pub(crate) query: Vec<Field>,
    pub(crate) headers: Vec<Field>,
    pub(crate) body: Option<Sent>,
    /// All of them together; of a request that is known to need none, [`Auth::None`].
    pub(crate) auth: Vec<Auth>,
    /// What is said of variables of the path.
    pub(crate) variables: Vec<Field>,
}

/// A name with an example of its value.
#[derive(Clone, Debug, Default)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) description: Option<String>,
    pub(crate) is_file: bool,
    pub(crate) is_required: bool,
    /// Text is said to be of another type.
    pub(crate) kind: Option<&'static str>,
}

impl Field {
    pub(crate) fn of(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into(), ..Self::default() }
    }
}

/// What a request sends.
#[derive(Clone, Debug)]
pub(crate) enum Sent {
    Json(Value),
    Text { media: String, example: String },
    Form(Vec<Field>),
    Parts(Vec<Field>),
    Bytes { media: String },
}

/// How a request says who it is from. Values are not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Auth {
    None,
    Bearer,
    Basic,
    Key { place: KeyPlace, name: String },
}

/// Splits an address into what is below what; `None` for the base where the address has a variable for it.
pub(crate) fn parted(address: &str) -> (Option<String>, String, Vec<Field>) {
    let (before, query) = address.split_once('?').unwrap_or((address, ""));
    let query = query.split('#').next().unwrap_or_default();
    let fields = url::form_urlencoded::parse(query.as_bytes()).map(|(name, value)| Field::of(name, value)).collect();
    let (base, path) = match before.find("://").map(|at| at + 3) {
        Some(host) => {
            let end = before[host..].find('/').map_or(before.len(), |at| host + at);
            (Some(&before[..end]), &before[end..])
        }
        None => before.find('/').map_or((None, ""), |at| (None, &before[at..])),
    };
    let base = base.and_then(|base| Url::parse(base).ok()).filter(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
    let base = base.map(|mut url| {
        let _ = (url.set_username(""), url.set_password(None));
        url.as_str().trim_end_matches('/').to_owned()
    });
    (base, if path.is_empty() { "/".to_owned() } else { path.to_owned() }, fields)
}

/// A token of RFC 9110: what names of headers are.
pub(crate) fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Whether a header or a query parameter of this name holds a secret.
pub(crate) fn is_secret(name: &str) -> bool {
    let words = names::words(name);
    let joined = words.concat();
    let of = [
        "token",
        "secret",
        "password",
        "passwd",
        "apikey",
        "appid",
        "authorization",
        "auth",
        "session",
        "signature",
        "sig",
        "credential",
        "jwt",
        "key",
        "cookie",
        "bearer",
    ];
    words.iter().any(|word| of.contains(&word.as_str()))
        || ["apikey", "appid", "accesskey", "authkey", "token", "secret"].iter().any(|secret| joined.ends_with(secret))
}

/// Whether a value looks as if nobody could remember it.
pub(crate) fn looks_secret(value: &str) -> bool {
    let bare = value.trim();
    let has = |test: fn(&u8) -> bool| bare.bytes().any(|b| test(&b));
    bare.len() >= 16
        && bare.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'=' | b'+' | b'/'))
        && has(u8::is_ascii_digit)
        && has(u8::is_ascii_alphabetic)
        && !bare.contains("://")
}

impl Example {
    /// Adds the operation of this request to a draft.
    pub(crate) fn add_to(self, draft: &mut Draft, taken: &mut Names) {
        let security = self.security(draft);
        let base = draft.base(self.base.clone());
        let (path, variables) = variables_of(&self.path);
        let mut arguments = Arguments::default();
        let mut params = Vec::new();
        for (name, example) in variables {
            let said = self.variables.iter().find(|field| field.name == name);
            let description = said.and_then(|said| said.description.clone()).unwrap_or_else(|| capital(&names::words(&name).join(" ")));
            let is_number = example.as_ref().is_some_and(|example| example.bytes().all(|b| b.is_ascii_digit()) && example.len() < 16);
            let kind = said.and_then(|said| said.kind).unwrap_or(if is_number { "integer" } else { "string" });
            let arg = arguments.add(&name, "path", true, json!({ "type": kind, "description": description }));
            params.push(param(Some(arg), None, &name, Place::Path));
        }
        let is_key = |place: KeyPlace, field: &Field| {
            let is_it =
                |auth: &Auth| matches!(auth, Auth::Key { place: own, name } if *own == place && name.eq_ignore_ascii_case(&field.name));
            self.auth.iter().any(is_it)
        };
        for field in self.query.iter().filter(|field| !is_key(KeyPlace::Query, field) && !field.name.is_empty()) {
            let arg = arguments.add(&field.name, "query", field.is_required, field.schema());
            params.push(param(Some(arg), None, &field.name, Place::Query));
        }
        let is_own = |name: &str| {
            ["accept", "content-type", "authorization", "host", "content-length", "user-agent", "cookie", "connection"].contains(&name)
        };
        for field in &self.headers {
            let lower = field.name.to_ascii_lowercase();
            let is_usable =
                is_token(&field.name) && field.value.chars().all(|c| c == '\t' || (' '..='\u{ff}').contains(&c) && c != '\u{7f}');
            if !is_usable || is_own(&lower) || is_key(KeyPlace::Header, field) {
                continue;
            }
            params.push(param(None, Some(field.value.clone().into()), &field.name, Place::Header));
        }
        let method = self.method.to_ascii_uppercase();
        let body = self.body.as_ref().filter(|_| !matches!(method.as_str(), "GET" | "HEAD")).map(|sent| sent.read(&mut arguments));
        let words = self.name.as_deref().map(names::words).filter(|words| !words.is_empty()).unwrap_or_else(|| words_of(&method, &path));
        let title = self.name.as_deref().map(|name| text::line(name, 80)).filter(|name| !name.is_empty());
        let description = self.description.as_deref().map(|said| text::plain(said, 800)).filter(|said| !said.is_empty());
        let tool = Tool {
            name: taken.tool(&words),
            title: title.clone().unwrap_or_else(|| capital(&words.join(" "))),
            description: description
                .or_else(|| title.map(|title| format!("{title} ({method} {path})")))
                .unwrap_or_else(|| format!("{method} {path}")),
            annotations: annotations_of(&method),
            input_schema: arguments.schema(),
            output_schema: None,
            action: Action::Http(Http {
                method: method.clone(),
                path: path.clone(),
                base,
                params,
                body,
                security,
                accept: "application/json, */*;q=0.5".into(),
            }),
        };
        let route = format!("{method} {path}");
        draft.operations.push(Operation { tool, tags: self.folder.into_iter().collect(), id: None, route, is_deprecated: false });
    }

    /// The schemes of this request, made where there are none like them yet.
    fn security(&self, draft: &mut Draft) -> Vec<Vec<String>> {
        let service = draft.service();
        let mut set = Vec::new();
        for (at, auth) in self.auth.iter().enumerate() {
            let (name, scheme) = match auth {
                Auth::None => return Vec::new(),
                Auth::Bearer => ("bearer".to_owned(), Scheme::Bearer { env: names::variable(&service, "token") }),
                Auth::Basic => (
                    "basic".to_owned(),
                    Scheme::Basic {
                        username_env: names::variable(&service, "username"),
                        password_env: names::variable(&service, "password"),
                    },
                ),
                Auth::Key { place, name } => {
                    // The first one is the key; others are told apart by their names.
                    let of = if at == 0 { "api_key" } else { name };
                    (
                        format!("key_{}", name.to_lowercase()),
                        Scheme::ApiKey { r#in: *place, name: name.clone(), env: names::variable(&service, of) },
                    )
                }
            };
            draft.auth.entry(name.clone()).or_insert(scheme);
            set.push(name);
        }
        if set.is_empty() { Vec::new() } else { vec![set] }
    }
}

fn param(arg: Option<String>, value: Option<Value>, name: &str, place: Place) -> Param {
    let style = if matches!(place, Place::Path | Place::Header) { Style::Simple } else { Style::Form };
    Param {
        arg,
        value,
        default: None,
        name: name.to_owned(),
        r#in: place,
        style,
        explode: style == Style::Form,
        reserved: false,
        content: None,
    }
}

impl Field {
    fn schema(&self) -> Value {
        let is_variable = self.value.is_empty() || self.value.contains('{') || self.value.starts_with('$');
        let kind = self.kind.unwrap_or_else(|| kind_of(&self.value));
        let mut schema = json!({ "type": kind });
        let description = self.description.as_deref().map(|said| text::plain(said, 240)).filter(|said| !said.is_empty());
        let example = (!is_variable && !is_secret(&self.name) && !looks_secret(&self.value))
            .then(|| format!("for example {}", text::line(&self.value, 60)));
        let said = description.unwrap_or_else(|| capital(&names::words(&self.name).join(" ")));
        schema["description"] = example.map_or_else(|| said.clone(), |example| format!("{said}; {example}")).into();
        schema
    }
}

fn kind_of(value: &str) -> &'static str {
    match value {
        "true" | "false" => "boolean",
        _ if value.parse::<i64>().is_ok() => "integer",
        _ if value.parse::<f64>().is_ok_and(f64::is_finite) => "number",
        _ => "string",
    }
}

impl Sent {
    fn read(&self, arguments: &mut Arguments) -> Body {
        let (schema, content_type, parts) = match self {
            Self::Json(example) => (inferred(example, 0), "application/json".to_owned(), Vec::new()),
            Self::Text { media, example } => {
                let said = format!("What is sent; for example {}", text::line(example, 120));
                (json!({ "type": "string", "description": said }), media.clone(), Vec::new())
            }
            Self::Form(fields) => (fields_schema(fields), "application/x-www-form-urlencoded".into(), Vec::new()),
            Self::Parts(fields) => {
                let files =
                    fields.iter().filter(|field| field.is_file).map(|field| (field.name.clone(), Part { binary: true, ..Part::default() }));
                (fields_schema(fields), "multipart/form-data".into(), files.collect())
            }
            Self::Bytes { media } => (
                json!({ "type": "string", "contentEncoding": "base64", "description": format!("The {media} to send, as base64") }),
                media.clone(),
                Vec::new(),
            ),
        };
        let mut schema = schema;
        if schema.get("description").is_none() {
            schema["description"] = "What is sent".into();
        }
        let arg = arguments.add("body", "request", true, schema);
        Body { arg: Some(arg), value: None, content_type, parts: parts.into_iter().collect() }
    }
}

fn fields_schema(fields: &[Field]) -> Value {
    let property = |field: &Field| {
        let schema = if field.is_file {
            let said = field.description.clone().unwrap_or_else(|| capital(&names::words(&field.name).join(" ")));
            json!({ "type": "string", "contentEncoding": "base64", "description": format!("{said} (as base64)") })
        } else {
            field.schema()
        };
        (field.name.clone(), schema)
    };
    json!({ "type": "object", "properties": fields.iter().map(property).collect::<Map<_, _>>() })
}

/// A schema that an example fits, as do others of its kind.
pub(crate) fn inferred(example: &Value, depth: usize) -> Value {
    match example {
        Value::Null => json!({}),
        Value::Bool(_) => json!({ "type": "boolean" }),
        Value::Number(number) if number.is_f64() => json!({ "type": "number" }),
        Value::Number(_) => json!({ "type": "integer" }),
        Value::String(text) if text.is_empty() || text.contains("{{") => json!({ "type": "string" }),
        Value::String(example) => json!({ "type": "string", "description": format!("For example {}", text::line(example, 60)) }),
        Value::Array(_) | Value::Object(_) if depth >= 8 => json!({}),
        Value::Array(items) => {
            json!({ "type": "array", "items": items.first().map_or_else(|| json!({}), |item| inferred(item, depth + 1)) })
        }
        Value::Object(members) => {
            let hidden = |name: &str, schema: Value| if is_secret(name) { json!({ "type": schema["type"] }) } else { schema };
            let properties: Map<String, Value> =
                members.iter().map(|(name, value)| (name.clone(), hidden(name, inferred(value, depth + 1)))).collect();
            json!({ "type": "object", "properties": properties })
        }
    }
}

/// A variable, and an example of it.
type Named = (String, Option<String>);

/// The name of a variable that a whole segment is.
fn whole(part: &str) -> Option<String> {
    let inner = [("{{", "}}"), ("{", "}"), ("${", "}"), ("<", ">"), ("$", ""), (":", "")]
        .into_iter()
        .find_map(|(first, last)| part.strip_prefix(first)?.strip_suffix(last))
        .filter(|inner| !inner.contains(['{', '}']))?;
    let name = names::words(inner).join("_");
    (!name.is_empty()).then_some(name)
}

fn add(variables: &mut Vec<Named>, taken: &mut Names, name: &str, example: Option<&str>) -> String {
    let name = taken.argument(name, "path");
    variables.push((name.clone(), example.map(str::to_owned)));
    format!("{{{name}}}")
}

/// A segment with variables in the middle of it (`report-{id}.json`); braces that hold no name go.
fn pieces(part: &str, variables: &mut Vec<Named>, taken: &mut Names) -> String {
    let (mut written, mut rest) = (String::new(), part);
    while let Some((before, after)) = rest.split_once('{') {
        let (inner, behind) = after.split_once('}').unwrap_or((after, ""));
        written.push_str(&before.replace('}', ""));
        let name = names::words(inner).join("_");
        if !name.is_empty() {
            written.push_str(&add(variables, taken, &name, None));
        }
        rest = behind.trim_start_matches('}');
    }
    written + &rest.replace('}', "")
}

/// The path with variables in single braces, and the variables with examples: `:id`, `{{id}}`, `$ID`, and segments that
/// look like identifiers.
fn variables_of(path: &str) -> (String, Vec<Named>) {
    let mut parts: Vec<String> = Vec::new();
    let mut variables = Vec::new();
    let mut taken = Names::default();
    for part in path.split('/') {
        let before = parts.last().map(String::as_str).unwrap_or_default();
        let written = match whole(part) {
            Some(name) => add(&mut variables, &mut taken, &name, None),
            None if looks_like_id(part) => {
                let before = singular(&names::words(before).join("_"));
                let name = if before.is_empty() { "id".to_owned() } else { format!("{before}_id") };
                add(&mut variables, &mut taken, &name, Some(part))
            }
            None => pieces(part, &mut variables, &mut taken),
        };
        parts.push(written);
    }
    (written_path(&parts.join("/")), variables)
}

fn looks_like_id(part: &str) -> bool {
    let is_number = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let is_long_hex =
        part.len() >= 16 && part.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') && part.bytes().any(|b| b.is_ascii_digit());
    is_number || is_long_hex
}

fn words_of(method: &str, path: &str) -> Vec<String> {
    let verb = match (method, path.ends_with('}')) {
        ("GET", false) => "list",
        ("GET", true) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "replace",
        ("PATCH", _) => "update",
        ("DELETE", _) => "delete",
        _ => "call",
    };
    let is_version = |part: &&str| part.len() <= 3 && part.starts_with('v') && part[1..].bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> =
        path.split('/').filter(|part| !part.is_empty() && !part.starts_with('{') && !is_version(part) && *part != "api").collect();
    let mut nouns: Vec<String> = parts.iter().flat_map(|part| names::words(part)).collect();
    if path.ends_with('}')
        && let Some(last) = nouns.last_mut()
    {
        *last = singular(last);
    }
    std::iter::once(verb.to_owned()).chain(nouns).collect()
}
