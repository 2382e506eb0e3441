//! Operations: their parameters, bodies and answers.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{METHODS, MOST_OPERATIONS, Reader, Schemas, Way, body, pointer, security};
use crate::{
    error::FactoryError,
    finding::Finding,
    names::{self, Names, capital, singular},
    parse::{Draft, Operation, annotations_of, arguments::Arguments, example::is_token, written_path},
    spec::{Action, Annotations, Http, Param, Place, Style, Tool},
    text,
};

const LONGEST_DESCRIPTION: usize = 1000;
/// How many findings of a document are kept, and how many parameters one operation has.
const MOST_FINDINGS: usize = 2000;
const MOST_PARAMETERS: usize = 200;
const LONGEST_PATH: usize = 2000;
/// What parameters are called that say how many entries a page has, and how many are asked for.
const PAGE_SIZES: [&str; 6] = ["limit", "per_page", "page_size", "pagesize", "perpage", "max_results"];
const USUAL_PAGE: i64 = 30;

/// Reads all operations, by path.
pub(super) fn read_all(reader: &Reader<'_>, draft: &mut Draft) -> Result<(), FactoryError> {
    let Some(paths) = reader.root.0["paths"].as_object() else {
        return Err(FactoryError::Unreadable("it has no `paths`: there is nothing to call".into()));
    };
    let mut names = Names::default();
    for (path, item) in paths.iter().filter(|(path, _)| path.starts_with('/')) {
        let item = match reader.root.follow(item) {
            Ok((item, _)) => item,
            Err(broken) => {
                draft.findings.push(Finding::warning(broken.id(), format!("/paths/{}", crate::finding::segment(path)), broken.message()));
                continue;
            }
        };
        for method in METHODS {
            let Some(operation) = item.get(method).filter(|operation| operation.is_object()) else { continue };
            if draft.operations.len() >= MOST_OPERATIONS {
                return Err(FactoryError::TooLarge(format!("it has more than {MOST_OPERATIONS} operations")));
            }
            let found = One { reader, path, item, method, operation, place: pointer(path, method) };
            if let Some(read) = found.read(draft, &mut names) {
                draft.operations.push(read);
            }
        }
    }
    if draft.operations.is_empty() {
        return Err(FactoryError::Unreadable("nothing in it can be called".into()));
    }
    Ok(())
}

/// One operation that is being read.
pub(super) struct One<'a> {
    pub(super) reader: &'a Reader<'a>,
    path: &'a str,
    item: &'a Value,
    method: &'a str,
    pub(super) operation: &'a Value,
    pub(super) place: String,
}

/// What an extension of several generators says of an operation.
struct Hints<'a> {
    is_off: bool,
    name: Option<&'a str>,
    description: Option<&'a str>,
    read_only: Option<bool>,
}

impl<'a> Hints<'a> {
    fn of(operation: &'a Value) -> Self {
        let of = ["x-mcp", "x-speakeasy-mcp", "x-gram"].into_iter().find_map(|name| operation.get(name)).unwrap_or(&Value::Null);
        Self {
            is_off: *of == Value::Bool(false) || of["enabled"] == false || of["disabled"] == true,
            name: of["name"].as_str(),
            description: of["description"].as_str(),
            read_only: of["read_only"].as_bool().or_else(|| of["readOnlyHint"].as_bool()),
        }
    }
}

impl One<'_> {
    fn read(&self, draft: &mut Draft, names: &mut Names) -> Option<Operation> {
        let hints = Hints::of(self.operation);
        if hints.is_off {
            return None;
        }
        let count = |node: &Value| node["parameters"].as_array().map_or(0, Vec::len);
        if count(self.item) + count(self.operation) > MOST_PARAMETERS || self.path.len() > LONGEST_PATH {
            let message =
                format!("it has more than {MOST_PARAMETERS} parameters, or a path of more than {LONGEST_PATH} bytes; it is left out");
            draft.findings.push(Finding::warning("not-callable", text::line(&self.place, 200), message));
            return None;
        }
        let method = self.method.to_ascii_uppercase();
        let (path, fixed) = self.path.split_once('?').unwrap_or((self.path, ""));
        let path = &written_path(path);
        let mut arguments = Arguments::default();
        let mut params = self.parameters(path, &mut arguments, draft);
        params.extend(fixed_query(fixed));
        let body = body::read(self, &mut arguments, draft);
        if method == "TRACE" || (body.is_some() && matches!(method.as_str(), "GET" | "HEAD")) {
            draft.findings.push(Finding::warning(
                "not-callable",
                &self.place,
                format!("{method} like this cannot be sent; it is left out"),
            ));
            return None;
        }
        let base = self.reader.base(self.item, self.operation, draft);
        let security = security::of_operation(self.reader, self.operation, draft, &self.place);
        let answer = self.answer();
        let id = self.operation["operationId"].as_str().filter(|id| !id.trim().is_empty());
        let words = match hints.name.or(id).map(names::words).filter(|words| !words.is_empty()) {
            Some(words) => words,
            None => route_words(self.method, path),
        };
        let title = self.operation["summary"].as_str().map(|text| text::line(text, 80)).filter(|title| !title.is_empty());
        let is_deprecated = self.operation["deprecated"] == true;
        let mut annotations = annotations_of(&method);
        if let Some(read_only) = hints.read_only {
            annotations = Annotations { read_only, destructive: !read_only, ..annotations };
        }
        let accept = answer.media.map_or_else(
            || "*/*".to_owned(),
            |media| if media.contains("json") { format!("{media}, */*;q=0.5") } else { media.to_owned() },
        );
        let tool = Tool {
            name: names.tool(&words),
            title: title.unwrap_or_else(|| capital(&words.join(" "))),
            description: self.description(hints.description, answer.said, is_deprecated, &method, path),
            annotations,
            input_schema: arguments.schema(),
            output_schema: answer.schema.and_then(|schema| self.output(schema)),
            action: Action::Http(Http { method: method.clone(), path: path.to_owned(), base, params, body, security, accept }),
        };
        let tags = self.operation["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        Some(Operation { tool, tags, id: id.map(str::to_owned), route: format!("{method} {}", self.path), is_deprecated })
    }

    /// The parameters of the path and of the operation, of which the latter wins.
    fn parameters(&self, path: &str, arguments: &mut Arguments, draft: &mut Draft) -> Vec<Param> {
        let mut all: BTreeMap<(usize, String), &Value> = BTreeMap::new();
        let mut order = Vec::new();
        for node in [self.item, self.operation].into_iter().flat_map(|node| node["parameters"].as_array().into_iter().flatten()) {
            let target = match self.reader.root.follow(node) {
                Ok((target, _)) => target,
                Err(broken) => {
                    draft.findings.push(Finding::warning(broken.id(), format!("{}/parameters", self.place), broken.message()));
                    continue;
                }
            };
            let (Some(name), Some(place)) = (target["name"].as_str(), place_of(target)) else { continue };
            let key = (place as usize, name.to_owned());
            if all.insert(key.clone(), target).is_none() {
                order.push(key);
            }
        }
        let declared: Vec<&Value> = order.iter().filter_map(|key| all.get(key).copied()).collect();
        let mut params: Vec<Param> = declared.iter().filter_map(|node| self.parameter(node, path, arguments, draft)).collect();
        for name in placeholders(path) {
            if params.iter().any(|param| param.r#in == Place::Path && param.name == name) {
                continue;
            }
            let message = format!("`{}` stands in the path and is not declared; it is taken to be text", text::line(name, 60));
            draft.findings.push(Finding::warning("path-parameter-undeclared", &self.place, message));
            let schema = json!({ "type": "string", "description": format!("The {} in the path", text::line(name, 60)) });
            let arg = arguments.add(name, "path", true, schema);
            let (r#in, style) = (Place::Path, Style::Simple);
            params.push(Param {
                arg: Some(arg),
                value: None,
                default: None,
                name: name.to_owned(),
                r#in,
                style,
                explode: false,
                reserved: false,
                content: None,
            });
        }
        params
    }

    fn parameter(&self, node: &Value, path: &str, arguments: &mut Arguments, draft: &mut Draft) -> Option<Param> {
        let (name, place) = (node["name"].as_str()?, place_of(node)?);
        let at = format!("{}/parameters", self.place);
        // What these say, other parts of the document say.
        let is_said_elsewhere =
            place == Place::Header && ["accept", "content-type", "authorization"].contains(&name.to_ascii_lowercase().as_str());
        if is_said_elsewhere {
            return None;
        }
        if place == Place::Header && (!is_token(name) || is_forbidden(name)) {
            let message = format!("`{}` is no header that a caller may set; it is left out", text::line(name, 60));
            draft.findings.push(Finding::warning("header-not-settable", at, message));
            return None;
        }
        if place == Place::Path && !path.contains(&format!("{{{name}}}")) {
            let message = format!("`{}` does not stand in the path; it is left out", text::line(name, 60));
            draft.findings.push(Finding::warning("path-parameter-unused", at, message));
            return None;
        }
        let media = node["content"].as_object().and_then(|content| content.iter().next());
        let schema = media.map_or(&node["schema"], |(_, media)| &media["schema"]);
        let mut written = self.schema(schema, Way::Sent, draft);
        let said = node["description"].as_str().map(|said| text::plain(said, 240)).filter(|said| !said.is_empty());
        if let Some(schema) = written.as_object_mut() {
            if let Some(said) = said {
                schema.insert("description".into(), said.into());
            } else if !schema.contains_key("description") {
                schema.insert("description".into(), capital(&names::words(name).join(" ")).into());
            }
        }
        // A path without one of its parts is another path.
        let is_required = place == Place::Path || node["required"] == true;
        let style = style_of(node, place);
        let default = if is_required { None } else { self.page_size(name, place, &mut written) };
        let arg = arguments.add(name, place.as_str(), is_required, written);
        Some(Param {
            arg: Some(arg),
            value: None,
            default,
            name: name.to_owned(),
            r#in: place,
            style,
            explode: node["explode"].as_bool().unwrap_or(style == Style::Form),
            reserved: node["allowReserved"] == true,
            content: media.map(|(media, _)| media.clone()),
        })
    }

    /// How many entries a list is asked for where nobody says: what an API gives by itself can be more than a model can read.
    fn page_size(&self, name: &str, place: Place, written: &mut Value) -> Option<Value> {
        let is_size = PAGE_SIZES.contains(&names::words(name).join("_").as_str());
        let is_of_list = self.method == "get" && place == Place::Query && written["type"] == "integer";
        if !is_size || !is_of_list || written.get("default").is_some() || written.get("enum").is_some() {
            return None;
        }
        let bound = |name: &str| written[name].as_i64();
        let size = bound("maximum").map_or(USUAL_PAGE, |most| most.min(USUAL_PAGE)).max(bound("minimum").unwrap_or(1));
        written["default"] = size.into();
        Some(size.into())
    }

    pub(super) fn schema(&self, node: &Value, way: Way, draft: &mut Draft) -> Value {
        if node.is_null() {
            return json!({});
        }
        let mut schemas = Schemas::new(self.reader.root, way);
        // The document lives as long as the reader; the borrow of one node is no shorter.
        let written = schemas.write(node);
        for broken in schemas.broken {
            let finding = Finding::warning(broken.id(), &self.place, broken.message());
            if draft.findings.len() < MOST_FINDINGS && draft.findings.last() != Some(&finding) {
                draft.findings.push(finding);
            }
        }
        written
    }

    /// What the operation answers when all is well.
    fn answer(&self) -> Answer<'_> {
        let responses = self.operation["responses"].as_object();
        let good = |code: &str| code.starts_with('2');
        let found =
            responses.and_then(|all| all.iter().find(|(code, _)| good(code)).or_else(|| all.iter().find(|(code, _)| *code == "default")));
        let Some(response) = found.and_then(|(_, response)| self.reader.root.follow(response).ok()).map(|(response, _)| response) else {
            return Answer::default();
        };
        let content = response["content"].as_object();
        let json = content.and_then(|content| content.iter().find(|(media, _)| is_json(media)));
        let media = json.or_else(|| content.and_then(|content| content.iter().next()));
        Answer {
            said: response["description"].as_str(),
            media: media.map(|(media, _)| media.as_str()),
            schema: json.map(|(_, media)| &media["schema"]).filter(|schema| schema.is_object()),
        }
    }

    /// What clients may expect of structured content: names and what they mean, and nothing that an answer could fail.
    fn output(&self, schema: &Value) -> Option<Map<String, Value>> {
        let Value::Object(written) = Schemas::new(self.reader.root, Way::Received).write(schema) else { return None };
        let properties = written.get("properties")?.as_object().filter(|all| (1..=12).contains(&all.len()))?;
        let described = properties.iter().map(|(name, property)| {
            let kind = property["type"].as_str().unwrap_or("value");
            let said =
                property["description"].as_str().map_or_else(|| kind.to_owned(), |said| format!("{kind}: {}", text::line(said, 100)));
            (name.clone(), json!({ "description": said }))
        });
        let properties: Map<String, Value> = described.collect();
        Some(Map::from_iter([("type".to_owned(), "object".into()), ("properties".to_owned(), properties.into())]))
    }

    fn description(&self, hint: Option<&str>, answer: Option<&str>, is_deprecated: bool, method: &str, path: &str) -> String {
        let mut parts: Vec<String> = Vec::new();
        if is_deprecated {
            parts.push("[DEPRECATED]".into());
        }
        if let Some(hint) = hint {
            parts.push(text::plain(hint, LONGEST_DESCRIPTION));
        } else {
            let summary = self.operation["summary"].as_str().map(|text| text::line(text, 200)).unwrap_or_default();
            let said = self.operation["description"].as_str().map(|text| text::plain(text, LONGEST_DESCRIPTION - 250)).unwrap_or_default();
            if !said.to_lowercase().starts_with(summary.to_lowercase().trim_end_matches('.')) && !summary.is_empty() {
                parts.push(if summary.ends_with(['.', '!', '?']) { summary } else { format!("{summary}.") });
            }
            parts.push(said);
            let answer = answer.map(|text| text::line(text, 120)).unwrap_or_default();
            let says_something = !["", "ok", "success", "successful operation", "response", "successful response"]
                .contains(&answer.to_lowercase().trim_end_matches('.'));
            if says_something {
                parts.push(format!("Returns: {answer}"));
            }
        }
        parts.retain(|part| !part.is_empty());
        if parts.iter().all(|part| part == "[DEPRECATED]") {
            parts.push(format!("{method} {}", text::line(path, 200)));
        }
        parts.join(" ")
    }
}

#[derive(Default)]
struct Answer<'a> {
    said: Option<&'a str>,
    media: Option<&'a str>,
    schema: Option<&'a Value>,
}

pub(super) fn is_json(media: &str) -> bool {
    let bare = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    bare == "application/json" || bare.ends_with("+json")
}

fn place_of(node: &Value) -> Option<Place> {
    match node["in"].as_str()? {
        "path" => Some(Place::Path),
        "query" => Some(Place::Query),
        "header" => Some(Place::Header),
        "cookie" => Some(Place::Cookie),
        _ => None,
    }
}

/// What the connection is made of is not the caller's.
fn is_forbidden(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let own =
        ["host", "connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer", "keep-alive", "expect", "cookie", "via"];
    own.contains(&name.as_str()) || name.starts_with("proxy-")
}

/// Styles that a place does not have are taken for its usual one.
fn style_of(node: &Value, place: Place) -> Style {
    match (place, node["style"].as_str()) {
        (Place::Path, Some("label")) => Style::Label,
        (Place::Path, Some("matrix")) => Style::Matrix,
        (Place::Path | Place::Header, _) => Style::Simple,
        (Place::Query, Some("spaceDelimited")) => Style::SpaceDelimited,
        (Place::Query, Some("pipeDelimited")) => Style::PipeDelimited,
        (Place::Query, Some("tabDelimited")) => Style::TabDelimited,
        (Place::Query, Some("deepObject")) => Style::DeepObject,
        (Place::Query | Place::Cookie, _) => Style::Form,
    }
}

/// The names in braces of a path.
fn placeholders(path: &str) -> Vec<&str> {
    let mut found: Vec<&str> = path.split('{').skip(1).filter_map(|rest| rest.split_once('}').map(|(name, _)| name)).collect();
    found.retain(|name| !name.is_empty());
    found
}

/// Some documents write a query into a path.
fn fixed_query(query: &str) -> Vec<Param> {
    let pairs = url::form_urlencoded::parse(query.as_bytes()).filter(|(_, value)| !value.contains('{'));
    let param = |(name, value): (std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>)| Param {
        arg: None,
        value: Some(value.into_owned().into()),
        default: None,
        name: name.into_owned(),
        r#in: Place::Query,
        style: Style::Form,
        explode: true,
        reserved: false,
        content: None,
    };
    pairs.map(param).collect()
}

/// `GET /pets/{id}` is `get_pet`, `GET /pets` is `list_pets`.
fn route_words(method: &str, path: &str) -> Vec<String> {
    let is_variable = |part: &&str| part.starts_with('{');
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let is_version = |part: &str| part.len() <= 3 && part.starts_with('v') && part[1..].bytes().all(|b| b.is_ascii_digit());
    let ends_in_variable = parts.last().is_some_and(is_variable);
    let mut nouns: Vec<String> =
        parts.iter().filter(|part| !is_variable(part) && !is_version(part)).flat_map(|part| names::words(part)).collect();
    if ends_in_variable && let Some(last) = nouns.last_mut() {
        *last = singular(last);
    }
    let verb = match (method, ends_in_variable) {
        ("get", false) => "list",
        ("get", true) => "get",
        ("post", _) => "create",
        ("put", _) => "replace",
        ("patch", _) => "update",
        (other, _) => other,
    };
    std::iter::once(verb.to_owned()).chain(nouns).collect()
}
