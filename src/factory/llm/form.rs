//! The form that a model fills in: flat, since no model is held to more than that.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    model::Wanted,
    names::{self, Names},
    parse::{Draft, Operation, annotations_of, arguments::Arguments},
    spec::{Action, Body, Http, KeyPlace, Param, Place, Provenance, Scheme, SourceKind, Style, Tool},
    text,
};

const MOST_TOOLS: usize = 300;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Form {
    pub(super) understood: bool,
    pub(super) questions: Vec<String>,
    name: String,
    title: String,
    description: String,
    base_url: String,
    auth: Vec<AuthOf>,
    tools: Vec<ToolOf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthOf {
    name: String,
    kind: String,
    parameter: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolOf {
    name: String,
    title: String,
    description: String,
    method: String,
    path: String,
    read_only: bool,
    auth: Vec<String>,
    params: Vec<ParamOf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ParamOf {
    name: String,
    r#in: String,
    r#type: String,
    required: bool,
    description: String,
    r#enum: Vec<String>,
    default_json: String,
}

/// The schema that the model is held to: every object closed, nothing recursive, no bounds.
pub(super) fn schema() -> Value {
    let text = json!({ "type": "string" });
    let object = |properties: Value| {
        let required: Vec<&String> = properties.as_object().into_iter().flatten().map(|(name, _)| name).collect();
        json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
    };
    let list = |items: Value| json!({ "type": "array", "items": items });
    let param = object(json!({
        "name": text,
        "in": { "type": "string", "enum": ["path", "query", "header", "body"] },
        "type": { "type": "string", "enum": ["string", "integer", "number", "boolean", "string_array", "integer_array", "number_array", "object"] },
        "required": { "type": "boolean" },
        "description": text,
        "enum": list(text.clone()),
        "default_json": { "type": "string", "description": "The default as JSON, or an empty text" },
    }));
    let tool = object(json!({
        "name": text,
        "title": text,
        "description": text,
        "method": { "type": "string", "enum": ["GET", "POST", "PUT", "PATCH", "DELETE"] },
        "path": text,
        "read_only": { "type": "boolean" },
        "auth": list(text.clone()),
        "params": list(param),
    }));
    let auth = object(json!({
        "name": text,
        "kind": { "type": "string", "enum": ["api_key_header", "api_key_query", "bearer", "basic"] },
        "parameter": { "type": "string", "description": "The name of the header or query parameter, or an empty text" },
    }));
    object(json!({
        "understood": { "type": "boolean" },
        "questions": list(text.clone()),
        "name": text,
        "title": text,
        "description": text,
        "base_url": text,
        "auth": list(auth),
        "tools": list(tool),
    }))
}

impl Form {
    /// Reads a filled form strictly.
    pub(super) fn read(value: &Value) -> Result<Self, Vec<String>> {
        Self::deserialize(value).map_err(|error| vec![format!("the form has another shape: {}", text::line(&error.to_string(), 200))])
    }

    /// What it says, or all that is wrong with it.
    pub(super) fn draft(&self, wanted: &Wanted) -> Result<Draft, Vec<String>> {
        let mut wrong = Vec::new();
        let name = wanted.name.clone().or_else(|| names::server(&self.name)).or_else(|| names::server(&self.title));
        let mut draft = Draft::new(SourceKind::Description, name.unwrap_or_else(|| "mcp-api".into()));
        draft.title = Some(self.title.clone());
        draft.description = Some(self.description.clone());
        draft.provenance.insert(String::new(), Provenance::Model);
        for (pointer, is_said) in [("/name", wanted.name.is_some()), ("/bases/0/url", wanted.options.base_url.is_some())] {
            if is_said {
                draft.provenance.insert(pointer.into(), Provenance::Option);
            }
        }
        let base = wanted.options.base_url.as_ref().unwrap_or(&self.base_url);
        match url::Url::parse(base) {
            Ok(url)
                if matches!(url.scheme(), "http" | "https")
                    && url.host().is_some()
                    && url.username().is_empty()
                    && url.password().is_none() =>
            {
                draft.base(Some(base.trim_end_matches('/').to_owned()));
            }
            _ => wrong.push("base_url is not an absolute http or https address".into()),
        }
        self.schemes(&mut draft, &mut wrong);
        if self.tools.is_empty() || self.tools.len() > MOST_TOOLS {
            wrong.push(format!("there have to be 1 to {MOST_TOOLS} tools"));
        }
        let mut taken = Names::default();
        for (at, tool) in self.tools.iter().take(MOST_TOOLS).enumerate() {
            match tool.operation(&draft, &mut taken) {
                Ok(operation) => draft.operations.push(operation),
                Err(found) => wrong.extend(found.into_iter().map(|found| format!("tools[{at}]: {found}"))),
            }
        }
        if wrong.is_empty() { Ok(draft) } else { Err(wrong) }
    }

    fn schemes(&self, draft: &mut Draft, wrong: &mut Vec<String>) {
        let service = draft.service();
        for auth in &self.auth {
            let env = |of: &str| names::variable(&service, of);
            let scheme = match auth.kind.as_str() {
                "api_key_header" | "api_key_query"
                    if auth.parameter.is_empty() || !auth.parameter.bytes().all(|b| b.is_ascii_graphic()) =>
                {
                    wrong.push(format!("auth `{}` has to name its header or query parameter", text::line(&auth.name, 60)));
                    continue;
                }
                "api_key_header" => Scheme::ApiKey { r#in: KeyPlace::Header, name: auth.parameter.clone(), env: env("api_key") },
                "api_key_query" => Scheme::ApiKey { r#in: KeyPlace::Query, name: auth.parameter.clone(), env: env("api_key") },
                "bearer" => Scheme::Bearer { env: env("token") },
                "basic" => Scheme::Basic { username_env: env("username"), password_env: env("password") },
                other => {
                    wrong.push(format!("auth kind `{}` is not known", text::line(other, 40)));
                    continue;
                }
            };
            draft.auth.insert(auth.name.clone(), scheme);
        }
    }
}

impl ToolOf {
    fn operation(&self, draft: &Draft, taken: &mut Names) -> Result<Operation, Vec<String>> {
        let mut wrong = Vec::new();
        if !["GET", "POST", "PUT", "PATCH", "DELETE"].contains(&self.method.as_str()) {
            wrong.push("method is not one of GET, POST, PUT, PATCH, DELETE".into());
        }
        for name in self.auth.iter().filter(|name| !draft.auth.contains_key(*name)) {
            wrong.push(format!("auth `{}` is not in the form's list", text::line(name, 60)));
        }
        let in_path: BTreeSet<&str> = self.path.split('{').skip(1).filter_map(|rest| rest.split_once('}').map(|(name, _)| name)).collect();
        let given: BTreeSet<&str> = self.params.iter().filter(|param| param.r#in == "path").map(|param| param.name.as_str()).collect();
        if in_path != given {
            wrong.push(format!("the names in braces of path are {in_path:?}, and the parameters with in = path {given:?}"));
        }
        let mut arguments = Arguments::default();
        let (mut params, mut members, mut required) = (Vec::new(), Map::new(), Vec::new());
        for param in &self.params {
            let schema = match param.schema() {
                Ok(schema) => schema,
                Err(why) => {
                    wrong.push(format!("parameter `{}`: {why}", text::line(&param.name, 60)));
                    continue;
                }
            };
            let (place, style, explode) = match param.r#in.as_str() {
                "path" => (Place::Path, Style::Simple, false),
                "header" => (Place::Header, Style::Simple, false),
                "query" => (Place::Query, Style::Form, true),
                _ => {
                    members.insert(param.name.clone(), schema);
                    if param.required {
                        required.push(param.name.clone());
                    }
                    continue;
                }
            };
            let arg = arguments.add(&param.name, place.as_str(), param.required || place == Place::Path, schema);
            params.push(Param {
                arg: Some(arg),
                value: None,
                default: None,
                name: param.name.clone(),
                r#in: place,
                style,
                explode,
                reserved: false,
                content: None,
            });
        }
        let body = (!members.is_empty()).then(|| {
            let mut schema =
                json!({ "type": "object", "properties": members, "additionalProperties": false, "description": "What is sent" });
            if !required.is_empty() {
                schema["required"] = json!(required);
            }
            let arg = arguments.add("body", "request", !required.is_empty(), schema);
            Body { arg: Some(arg), value: None, content_type: "application/json".into(), parts: std::collections::BTreeMap::new() }
        });
        if body.is_some() && self.method == "GET" {
            wrong.push("a GET has no parameters with in = body".into());
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let annotations = if self.read_only && self.method == "POST" { annotations_of("GET") } else { annotations_of(&self.method) };
        let security = if self.auth.is_empty() { Vec::new() } else { vec![self.auth.clone()] };
        let tool = Tool {
            name: taken.tool(&names::words(&self.name)),
            title: text::line(&self.title, 80),
            description: text::plain(&self.description, 1000),
            annotations,
            input_schema: arguments.schema(),
            output_schema: None,
            action: Action::Http(Http {
                method: self.method.clone(),
                path: self.path.clone(),
                base: 0,
                params,
                body,
                security,
                accept: "application/json, */*;q=0.5".into(),
            }),
        };
        let route = format!("{} {}", self.method, self.path);
        Ok(Operation { tool, tags: Vec::new(), id: Some(self.name.clone()), route, is_deprecated: false })
    }
}

impl ParamOf {
    fn schema(&self) -> Result<Value, String> {
        let mut schema = match self.r#type.as_str() {
            kind @ ("string" | "integer" | "number" | "boolean" | "object") => json!({ "type": kind }),
            "string_array" => json!({ "type": "array", "items": { "type": "string" } }),
            "integer_array" => json!({ "type": "array", "items": { "type": "integer" } }),
            "number_array" => json!({ "type": "array", "items": { "type": "number" } }),
            other => return Err(format!("type `{}` is not known", text::line(other, 40))),
        };
        if self.name.is_empty() || self.name.chars().any(char::is_control) {
            return Err("has no name that can be used".into());
        }
        let said = text::plain(&self.description, 240);
        schema["description"] = if said.is_empty() { names::capital(&names::words(&self.name).join(" ")).into() } else { said.into() };
        if !self.r#enum.is_empty() && self.r#type == "string" {
            schema["enum"] = json!(self.r#enum);
        }
        if !self.default_json.is_empty() {
            let default: Value = serde_json::from_str(&self.default_json).map_err(|_| "default_json is not JSON".to_owned())?;
            schema["default"] = default;
        }
        Ok(schema)
    }
}
