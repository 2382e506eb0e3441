//! The answer to GraphQL's introspection: each query and each mutation is a tool.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::{Draft, Operation, Said};
use crate::{
    error::FactoryError,
    finding::{Finding, segment},
    names::{self, Names, capital},
    spec::{Action, Annotations, Provenance, SourceKind, Tool},
    text,
};

/// How deep a selection goes, and how many fields it has.
const DEEPEST: usize = 3;
const MOST_FIELDS: usize = 60;
const DEEPEST_INPUT: usize = 6;
/// How many schemas stand in the arguments of one operation before the rest of them is open.
const MOST_INPUTS: usize = 300;

/// The schema, whether it is wrapped as an answer or not.
pub(super) fn schema_of(document: &Value) -> Option<&Value> {
    [document.get("__schema"), document.pointer("/data/__schema")].into_iter().flatten().find(|schema| schema["types"].is_array())
}

/// Reads a schema.
pub(super) fn read(document: &Value, said: &Said) -> Result<Draft, FactoryError> {
    let schema = schema_of(document)
        .ok_or_else(|| FactoryError::Unreadable("it is no answer to GraphQL's introspection: it has no `__schema` with `types`".into()))?;
    let types = schema["types"].as_array().into_iter().flatten();
    let types: HashMap<&str, &Value> = types.filter_map(|one| Some((one["name"].as_str()?, one))).collect();
    let host = said.base_url.as_deref().and_then(super::curl::host_name);
    let name = said.name.clone().or_else(|| names::server(host.as_deref()?)).unwrap_or_else(|| "mcp-graphql".into());
    let mut draft = Draft::new(SourceKind::Graphql, name);
    draft.title = host;
    draft.provenance.insert(String::new(), Provenance::Document);
    draft.base(said.base_url.clone());
    // No document says how a GraphQL service wants to know who asks; nearly all take a token.
    let env = names::variable(&draft.service(), "token");
    draft.auth.insert("token".into(), crate::spec::Scheme::Bearer { env });
    draft.provenance.insert("/auth".into(), Provenance::Rule);
    let reader = Reader { types };
    let mut taken = Names::default();
    for (kind, root) in [("query", "queryType"), ("mutation", "mutationType")] {
        let fields = schema[root]["name"].as_str().and_then(|name| reader.types.get(name)).and_then(|root| root["fields"].as_array());
        for field in fields.into_iter().flatten() {
            let place = format!("/{root}/{}", segment(field["name"].as_str().unwrap_or_default()));
            match reader.operation(kind, field, &mut taken) {
                Some(operation) => draft.operations.push(operation),
                None => {
                    draft.findings.push(Finding::warning("not-callable", place, "its name or its types cannot be written; it is left out"));
                }
            }
        }
    }
    if draft.operations.is_empty() {
        return Err(FactoryError::Unreadable("the schema has neither queries nor mutations".into()));
    }
    Ok(draft)
}

struct Reader<'a> {
    types: HashMap<&'a str, &'a Value>,
}

/// A name of GraphQL's: what is not one could end the query and begin another.
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && name.len() <= 200
}

/// A type as a query writes it: `[ID!]!`.
fn written(kind: &Value) -> Option<String> {
    match kind["kind"].as_str()? {
        "NON_NULL" => Some(format!("{}!", written(&kind["ofType"])?)),
        "LIST" => Some(format!("[{}]", written(&kind["ofType"])?)),
        _ => kind["name"].as_str().filter(|name| is_name(name)).map(str::to_owned),
    }
}

fn named(kind: &Value) -> &Value {
    let mut at = kind;
    for _ in 0..16 {
        if !matches!(at["kind"].as_str(), Some("NON_NULL" | "LIST")) {
            break;
        }
        at = &at["ofType"];
    }
    at
}

impl Reader<'_> {
    fn operation(&self, kind: &str, field: &Value, taken: &mut Names) -> Option<Operation> {
        let name = field["name"].as_str().filter(|name| is_name(name))?;
        let (mut properties, mut required, mut declared, mut passed) = (Map::new(), Vec::new(), Vec::new(), Vec::new());
        let mut inputs = MOST_INPUTS;
        for arg in field["args"].as_array().into_iter().flatten() {
            let arg_name = arg["name"].as_str().filter(|name| is_name(name))?;
            declared.push(format!("${arg_name}: {}", written(&arg["type"])?));
            passed.push(format!("{arg_name}: ${arg_name}"));
            let mut schema = self.input(&arg["type"], 0, &mut inputs);
            if let Some(said) = arg["description"].as_str().map(|said| text::plain(said, 240)).filter(|said| !said.is_empty()) {
                schema["description"] = said.into();
            } else if schema.get("description").is_none() {
                schema["description"] = capital(&names::words(arg_name).join(" ")).into();
            }
            properties.insert(arg_name.to_owned(), schema);
            if arg["type"]["kind"] == "NON_NULL" && arg["defaultValue"].is_null() {
                required.push(arg_name);
            }
        }
        let mut left = MOST_FIELDS;
        let selection = self.selection(&field["type"], 0, &mut left);
        let declared = if declared.is_empty() { String::new() } else { format!("({})", declared.join(", ")) };
        let passed = if passed.is_empty() { String::new() } else { format!("({})", passed.join(", ")) };
        let query = format!("{kind} {name}{declared} {{ {name}{passed}{selection} }}");
        let mut input = json!({ "type": "object", "properties": properties, "additionalProperties": false });
        if !required.is_empty() {
            input["required"] = json!(required);
        }
        let words = names::words(name);
        let title = capital(&words.join(" "));
        let said = field["description"].as_str().map(|said| text::plain(said, 800)).filter(|said| !said.is_empty());
        let read_only = kind == "query";
        let tool = Tool {
            name: taken.tool(&words),
            description: said.unwrap_or_else(|| format!("The GraphQL {kind} `{name}`")),
            title,
            annotations: Annotations { read_only, destructive: !read_only, idempotent: read_only, open_world: true },
            input_schema: input.as_object().cloned()?,
            output_schema: None,
            action: Action::Graphql { path: String::new(), base: 0, query, security: vec![vec!["token".into()], Vec::new()] },
        };
        let is_deprecated = field["isDeprecated"] == true;
        Some(Operation { tool, tags: vec![kind.to_owned()], id: Some(name.to_owned()), route: format!("{kind} {name}"), is_deprecated })
    }

    fn input(&self, kind: &Value, depth: usize, left: &mut usize) -> Value {
        match kind["kind"].as_str() {
            Some("NON_NULL") if depth < 32 => self.input(&kind["ofType"], depth, left),
            Some("LIST") if depth < 32 => json!({ "type": "array", "items": self.input(&kind["ofType"], depth, left) }),
            _ => self.input_of(kind["name"].as_str().unwrap_or_default(), depth, left),
        }
    }

    fn input_of(&self, name: &str, depth: usize, left: &mut usize) -> Value {
        match name {
            "Int" => return json!({ "type": "integer" }),
            "Float" => return json!({ "type": "number" }),
            "Boolean" => return json!({ "type": "boolean" }),
            "String" => return json!({ "type": "string" }),
            "ID" => return json!({ "type": ["string", "integer"] }),
            _ => {}
        }
        let Some(described) = self.types.get(name) else { return json!({}) };
        match described["kind"].as_str() {
            Some("ENUM") => {
                let values: Vec<&Value> = described["enumValues"].as_array().into_iter().flatten().map(|value| &value["name"]).collect();
                json!({ "type": "string", "enum": values })
            }
            Some("INPUT_OBJECT") if depth < DEEPEST_INPUT && *left > 0 => {
                let all = described["inputFields"].as_array().into_iter().flatten();
                let fields: Vec<&Value> = all.take(*left).collect();
                *left -= fields.len();
                let mut property = |field: &&Value| {
                    let mut schema = self.input(&field["type"], depth + 1, left);
                    if let Some(said) = field["description"].as_str() {
                        schema["description"] = text::plain(said, 160).into();
                    }
                    (field["name"].as_str().unwrap_or_default().to_owned(), schema)
                };
                let properties: Map<String, Value> = fields.iter().map(&mut property).collect();
                let required: Vec<&Value> = fields
                    .iter()
                    .filter(|field| field["type"]["kind"] == "NON_NULL" && field["defaultValue"].is_null())
                    .map(|field| &field["name"])
                    .collect();
                json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
            }
            Some("INPUT_OBJECT") => {
                json!({ "type": "object", "description": format!("{}; its members are not listed.", text::line(name, 80)) })
            }
            // A scalar of the service's own.
            _ => json!({ "description": format!("A value of the scalar {}", text::line(name, 80)) }),
        }
    }

    /// The fields that need no argument, some levels deep.
    fn selection(&self, kind: &Value, depth: usize, left: &mut usize) -> String {
        let Some(described) = named(kind)["name"].as_str().and_then(|name| self.types.get(name)) else { return String::new() };
        match described["kind"].as_str() {
            Some("OBJECT" | "INTERFACE") => {}
            Some("UNION") => return " { __typename }".into(),
            _ => return String::new(),
        }
        let mut fields = Vec::new();
        for field in described["fields"].as_array().into_iter().flatten() {
            let needs = field["args"]
                .as_array()
                .is_some_and(|args| args.iter().any(|arg| arg["type"]["kind"] == "NON_NULL" && arg["defaultValue"].is_null()));
            let Some(name) = field["name"].as_str().filter(|name| is_name(name) && !needs && field["isDeprecated"] != true) else {
                continue;
            };
            if *left == 0 {
                break;
            }
            let inner =
                named(&field["type"])["name"].as_str().and_then(|name| self.types.get(name)).and_then(|inner| inner["kind"].as_str());
            let is_leaf = !matches!(inner, Some("OBJECT" | "INTERFACE" | "UNION"));
            if !is_leaf && depth + 1 >= DEEPEST {
                continue;
            }
            *left -= 1;
            let below = if is_leaf { String::new() } else { self.selection(&field["type"], depth + 1, left) };
            fields.push(format!("{name}{below}"));
        }
        if fields.is_empty() { " { __typename }".into() } else { format!(" {{ {} }}", fields.join(" ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_and_mutations_are_written_out() {
        let string = json!({ "kind": "SCALAR", "name": "String" });
        let needed = |of: Value| json!({ "kind": "NON_NULL", "ofType": of });
        let field = |name: &str, kind: Value| json!({ "name": name, "args": [], "type": kind });
        let document = json!({ "data": { "__schema": {
            "queryType": { "name": "Query" }, "mutationType": { "name": "Mutation" },
            "types": [
                { "kind": "OBJECT", "name": "Query", "fields": [
                    { "name": "user", "args": [{ "name": "id", "type": needed(json!({ "kind": "SCALAR", "name": "ID" })) }], "type": { "kind": "OBJECT", "name": "User" } },
                    { "name": "x } evil", "args": [], "type": string } ] },
                { "kind": "OBJECT", "name": "Mutation", "fields": [
                    { "name": "rename", "args": [{ "name": "input", "type": needed(json!({ "kind": "INPUT_OBJECT", "name": "Rename" })) }], "type": { "kind": "OBJECT", "name": "User" } } ] },
                { "kind": "OBJECT", "name": "User", "fields": [field("name", string.clone()), field("friends", json!({ "kind": "LIST", "ofType": { "kind": "OBJECT", "name": "User" } }))] },
                { "kind": "INPUT_OBJECT", "name": "Rename", "inputFields": [{ "name": "to", "type": needed(string.clone()) }] },
            ] } } });
        let draft = read(&document, &Said::default()).unwrap();
        let queries: Vec<&str> = draft
            .operations
            .iter()
            .filter_map(|one| if let Action::Graphql { query, .. } = &one.tool.action { Some(query.as_str()) } else { None })
            .collect();
        assert_eq!(queries[0], "query user($id: ID!) { user(id: $id) { name friends { name friends { name } } } }");
        assert_eq!(queries[1], "mutation rename($input: Rename!) { rename(input: $input) { name friends { name friends { name } } } }");
        assert_eq!(draft.operations[1].tool.input_schema["properties"]["input"]["required"], json!(["to"]));
        assert_eq!(draft.findings.len(), 1);
    }
}
