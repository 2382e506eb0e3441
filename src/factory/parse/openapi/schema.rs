//! Schemas of a document, as JSON Schema (2020-12) that stands by itself: every reference is replaced by what it names,
//! since clients lose `$defs`; what goes on without end is cut and described.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::reference::{Broken, Root};
use crate::text;

/// How deep a schema goes before the rest of it is open: as deep as the first of these with which it is not too large.
const DEPTHS: [usize; 5] = [9, 6, 4, 3, 2];
/// What the schema of one argument may measure, in bytes.
const LARGE: usize = 8 << 10;
/// How many schemas stand in one before the rest of it is open.
const MOST_NODES: usize = 2000;
const LONGEST_DESCRIPTION: usize = 240;
const MOST_CHOICES: usize = 200;
/// How many references that lead nowhere are told of.
const MOST_BROKEN: usize = 20;

/// For which way of the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// What is sent: nothing that is `readOnly`.
    Sent,
    /// What is received: nothing that is `writeOnly`.
    Received,
}

/// Writes schemas of one document.
pub(crate) struct Schemas<'a> {
    root: Root<'a>,
    way: Way,
    left: usize,
    deepest: usize,
    /// The references that are being followed.
    open: Vec<&'a str>,
    /// What could not be followed.
    pub(crate) broken: Vec<Broken>,
}

impl<'a> Schemas<'a> {
    pub(crate) fn new(root: Root<'a>, way: Way) -> Self {
        Self { root, way, left: MOST_NODES, deepest: DEPTHS[0], open: Vec::new(), broken: Vec::new() }
    }

    /// One schema by itself.
    pub(crate) fn write(&mut self, node: &'a Value) -> Value {
        let mut written = Value::Null;
        for deepest in DEPTHS {
            (self.left, self.deepest) = (MOST_NODES, deepest);
            self.open.clear();
            self.broken.clear();
            written = self.at(node, 0);
            let size = written.to_string().len();
            if self.left > 0 && size <= LARGE {
                break;
            }
            if deepest == DEPTHS[DEPTHS.len() - 1] && size > 2 * LARGE {
                let kind = written["type"].as_str().filter(|kind| *kind != "array").unwrap_or("object").to_owned();
                written =
                    json!({ "type": kind, "description": "It has more members than are listed here; the API's documentation has them." });
            }
        }
        written
    }

    fn at(&mut self, node: &'a Value, depth: usize) -> Value {
        if node.is_boolean() {
            return node.clone();
        }
        let (target, reference) = match self.root.follow(node) {
            Ok(found) => found,
            Err(broken) => {
                self.left = self.left.saturating_sub(1);
                if self.broken.len() < MOST_BROKEN && !self.broken.contains(&broken) {
                    self.broken.push(broken);
                }
                return json!({});
            }
        };
        let Some(schema) = target.as_object() else { return if target.is_boolean() { target.clone() } else { json!({}) } };
        let is_again = reference.is_some_and(|reference| self.open.contains(&reference));
        let is_over = self.left == 0;
        self.left = self.left.saturating_sub(1);
        if is_again || depth >= self.deepest || is_over {
            return cut_off(schema, reference);
        }
        self.open.extend(reference);
        let mut written = self.members(schema, depth);
        if reference.is_some() {
            self.open.pop();
            // In 3.1, what stands beside a reference counts, too.
            if let Some(own) = node.get("description").and_then(Value::as_str) {
                written.insert("description".into(), text::plain(own, LONGEST_DESCRIPTION).into());
            }
        }
        Value::Object(written)
    }

    fn members(&mut self, schema: &'a Map<String, Value>, depth: usize) -> Map<String, Value> {
        let mut written = Map::new();
        for (name, value) in schema {
            match name.as_str() {
                "description" => {
                    if let Some(said) = value.as_str().map(|said| text::plain(said, LONGEST_DESCRIPTION)).filter(|said| !said.is_empty()) {
                        written.insert(name.clone(), said.into());
                    }
                }
                "type" | "default" | "const" | "pattern" | "minLength" | "maxLength" | "minimum" | "maximum" | "multipleOf"
                | "minItems" | "maxItems" | "uniqueItems" | "minProperties" | "maxProperties" => {
                    written.insert(name.clone(), value.clone());
                }
                "format" if is_kept_format(value) => {
                    written.insert(name.clone(), value.clone());
                }
                "enum" => {
                    if let Some(choices) = value.as_array().filter(|choices| !choices.is_empty() && choices.len() <= MOST_CHOICES) {
                        written.insert(name.clone(), choices.clone().into());
                    }
                }
                "exclusiveMinimum" | "exclusiveMaximum" if value.is_number() => {
                    written.insert(name.clone(), value.clone());
                }
                "items" | "additionalProperties" | "not" if value.is_object() || value.is_boolean() => {
                    written.insert(name.clone(), self.at(value, depth + 1));
                }
                "prefixItems" | "oneOf" | "anyOf" => {
                    if let Some(list) = value.as_array().filter(|list| !list.is_empty()) {
                        let list: Vec<Value> = list.iter().take(self.left).map(|one| self.at(one, depth + 1)).collect();
                        written.insert(name.clone(), list.into());
                    }
                }
                "patternProperties" => {
                    if let Some(all) = value.as_object() {
                        let all = all.iter().take(self.left).map(|(pattern, one)| (pattern.clone(), self.at(one, depth + 1))).collect();
                        written.insert(name.clone(), Value::Object(all));
                    }
                }
                _ => {}
            }
        }
        self.properties(schema, &mut written, depth);
        self.all_of(schema, &mut written, depth);
        settle_numbers(schema, &mut written);
        settle_type(&mut written);
        settle_choices(&mut written);
        settle_null(schema, &mut written);
        written
    }

    fn properties(&mut self, schema: &'a Map<String, Value>, written: &mut Map<String, Value>, depth: usize) {
        let required: BTreeSet<&str> = list_of(schema, "required").filter_map(Value::as_str).collect();
        let mut kept = Map::new();
        let mut dropped = BTreeSet::new();
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            if self.left == 0 {
                break;
            }
            let hides = match self.way {
                Way::Sent => "readOnly",
                Way::Received => "writeOnly",
            };
            let target = self.root.follow(property).map_or(property, |(target, _)| target);
            if property.get(hides) == Some(&Value::Bool(true)) || target.get(hides) == Some(&Value::Bool(true)) {
                dropped.insert(name.as_str());
                continue;
            }
            kept.insert(name.clone(), self.at(property, depth + 1));
        }
        if schema.get("properties").is_some_and(Value::is_object) {
            written.insert("properties".into(), Value::Object(kept));
        }
        let required: Vec<Value> = required.into_iter().filter(|name| !dropped.contains(name)).take(MOST_NODES).map(Into::into).collect();
        if !required.is_empty() {
            written.insert("required".into(), required.into());
        }
    }

    /// Parts that add to each other become one object where they can.
    fn all_of(&mut self, schema: &'a Map<String, Value>, written: &mut Map<String, Value>, depth: usize) {
        let parts: Vec<Value> = list_of(schema, "allOf").take(self.left).map(|part| self.at(part, depth + 1)).collect();
        let mut left = Vec::new();
        for part in parts {
            match part {
                Value::Object(part) if can_join(written, &part) => join(written, part),
                part => left.push(part),
            }
        }
        if !left.is_empty() {
            written.insert("allOf".into(), left.into());
        }
    }
}

fn list_of<'a>(schema: &'a Map<String, Value>, name: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    schema.get(name).and_then(Value::as_array).into_iter().flatten()
}

/// What stands where a schema goes on without end, or further than is shown.
fn cut_off(schema: &Map<String, Value>, reference: Option<&str>) -> Value {
    let name = reference.and_then(|reference| reference.rsplit('/').next()).map(|name| text::line(name, 80));
    let kind = match schema.get("type").and_then(Value::as_str) {
        Some(kind @ ("string" | "integer" | "number" | "boolean")) => return json!({ "type": kind }),
        Some("array") => "array",
        _ => "object",
    };
    let said =
        name.map_or_else(|| "Further members are not listed.".to_owned(), |name| format!("Again {name}; its members are not listed."));
    if kind == "array" {
        json!({ "type": "array", "items": {}, "description": said })
    } else {
        json!({ "type": "object", "description": said })
    }
}

/// Formats that tell something to whoever fills in a value; sizes of numbers do not.
fn is_kept_format(format: &Value) -> bool {
    let kept = [
        "date-time",
        "date",
        "time",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "uri",
        "uri-reference",
        "uuid",
        "byte",
        "binary",
        "password",
    ];
    format.as_str().is_some_and(|format| kept.contains(&format))
}

/// Whether a part can become one with what there is: both are objects, and none says of a member what the other contradicts.
fn can_join(whole: &Map<String, Value>, part: &Map<String, Value>) -> bool {
    part.iter().all(|(name, value)| match name.as_str() {
        "properties" | "required" | "description" | "additionalProperties" => true,
        _ => whole.get(name).is_none_or(|own| own == value),
    }) && properties(part).all(|(name, property)| {
        properties(whole)
            .find(|(own, _)| *own == name)
            .is_none_or(|(_, own)| own == property || property == &json!({}) || own == &json!({}))
    })
}

fn properties(schema: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flatten()
}

fn join(whole: &mut Map<String, Value>, part: Map<String, Value>) {
    for (name, value) in part {
        match (name.as_str(), value) {
            ("properties", Value::Object(more)) => {
                if let Some(own) = whole.entry("properties").or_insert_with(|| json!({})).as_object_mut() {
                    for (name, property) in more {
                        if own.get(&name).is_none_or(|own| *own == json!({})) {
                            own.insert(name, property);
                        }
                    }
                }
            }
            ("required", Value::Array(more)) => {
                if let Some(own) = whole.entry("required").or_insert_with(|| json!([])).as_array_mut() {
                    for name in more {
                        if !own.contains(&name) {
                            own.push(name);
                        }
                    }
                }
            }
            // Of parts, each of which would forbid what the others have.
            ("additionalProperties", Value::Bool(_)) => {}
            (_, value) => {
                whole.entry(name).or_insert(value);
            }
        }
    }
}

/// Before 3.1, `exclusiveMinimum: true` said it of `minimum`.
fn settle_numbers(schema: &Map<String, Value>, written: &mut Map<String, Value>) {
    for (exclusive, bound) in [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")] {
        if schema.get(exclusive) == Some(&Value::Bool(true))
            && let Some(value) = written.remove(bound)
        {
            written.insert(exclusive.into(), value);
        }
    }
}

/// Every schema that can says its type, and every array what is in it.
fn settle_type(written: &mut Map<String, Value>) {
    match written.get("type") {
        // Files of Swagger 2.0.
        Some(Value::String(kind)) if kind == "file" => {
            written.insert("type".into(), "string".into());
            written.insert("format".into(), "binary".into());
        }
        Some(Value::String(kind)) if !["string", "number", "integer", "boolean", "array", "object", "null"].contains(&kind.as_str()) => {
            written.remove("type");
        }
        Some(Value::String(_) | Value::Array(_)) => {}
        _ => {
            written.remove("type");
            if written.contains_key("properties") || written.contains_key("additionalProperties") {
                written.insert("type".into(), "object".into());
            } else if written.contains_key("items") || written.contains_key("prefixItems") {
                written.insert("type".into(), "array".into());
            } else if let Some(choices) = written.get("enum").and_then(Value::as_array)
                && choices.iter().all(Value::is_string)
            {
                written.insert("type".into(), "string".into());
            }
        }
    }
    let is_array =
        written.get("type").is_some_and(|kind| kind == "array" || kind.as_array().is_some_and(|kinds| kinds.contains(&"array".into())));
    if is_array && !written.contains_key("items") && !written.contains_key("prefixItems") {
        written.insert("items".into(), json!({}));
    }
}

/// A type that none of the choices has would let nothing pass: the choices are what the document is precise about.
fn settle_choices(written: &mut Map<String, Value>) {
    let of = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let fits = |kind: &Value, value: &Value| kind == of(value) || (kind == "number" && value.is_number());
    let any_fits = |value: &Value| match written.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| fits(kind, value)),
        Some(kind) => fits(kind, value),
        None => true,
    };
    let choices = written.get("enum").and_then(Value::as_array);
    if choices.is_some_and(|choices| !choices.iter().any(any_fits)) || written.get("const").is_some_and(|only| !any_fits(only)) {
        written.remove("type");
    }
}

/// Before 3.1, `nullable: true`.
fn settle_null(schema: &Map<String, Value>, written: &mut Map<String, Value>) {
    if schema.get("nullable") != Some(&Value::Bool(true)) && schema.get("x-nullable") != Some(&Value::Bool(true)) {
        return;
    }
    match written.get("type") {
        Some(Value::String(kind)) if kind != "null" => {
            let both = json!([kind, "null"]);
            written.insert("type".into(), both);
        }
        Some(_) => return,
        None => {
            for name in ["anyOf", "oneOf"] {
                if let Some(list) = written.get_mut(name).and_then(Value::as_array_mut) {
                    list.push(json!({ "type": "null" }));
                }
            }
        }
    }
    if let Some(choices) = written.get_mut("enum").and_then(Value::as_array_mut)
        && !choices.contains(&Value::Null)
    {
        choices.push(Value::Null);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(document: &Value, pointer: &str) -> Value {
        Schemas::new(Root(document), Way::Sent).write(document.pointer(pointer).unwrap())
    }

    #[test]
    fn older_spellings_become_the_present_ones() {
        let document = json!({ "a": { "type": "object", "required": ["id", "name"], "properties": {
            "id": { "type": "integer", "format": "int64", "readOnly": true },
            "name": { "type": "string", "nullable": true, "enum": ["x"], "example": "x" },
            "age": { "type": "integer", "minimum": 0, "exclusiveMinimum": true },
            "tags": { "type": "array" },
            "file": { "type": "file" },
        }}});
        let wanted = json!({ "type": "object", "required": ["name"], "properties": {
            "name": { "type": ["string", "null"], "enum": ["x", null] },
            "age": { "type": "integer", "exclusiveMinimum": 0 },
            "tags": { "type": "array", "items": {} },
            "file": { "type": "string", "format": "binary" },
        }});
        assert_eq!(sent(&document, "/a"), wanted);
    }

    #[test]
    fn circles_end_and_are_described() {
        let document =
            json!({ "a": { "$ref": "#/node" }, "node": { "properties": { "next": { "$ref": "#/node" }, "v": { "type": "string" } } } });
        let written = sent(&document, "/a");
        assert_eq!(written["properties"]["next"]["description"], "Again node; its members are not listed.");
        assert_eq!(written["properties"]["v"], json!({ "type": "string" }));
        let itself = json!({ "a": { "$ref": "#/a" } });
        assert_eq!(sent(&itself, "/a"), json!({}));
    }

    #[test]
    fn wide_and_deep_schemas_stay_small() {
        // Each of 40 levels names the next one ten times.
        let mut document = json!({});
        for n in 0..40 {
            let next = json!({ "$ref": format!("#/l{}", n + 1) });
            let all: Map<String, Value> = (0..10).map(|m| (format!("p{m}"), next.clone())).collect();
            document[format!("l{n}")] = json!({ "type": "object", "properties": all });
        }
        document["l40"] = json!({ "type": "string" });
        assert!(sent(&document, "/l0").to_string().len() < 12_000);
    }

    #[test]
    fn parts_become_one_object() {
        let document = json!({ "a": { "allOf": [{ "$ref": "#/b" }, { "type": "object", "required": ["y"], "properties": { "y": { "type": "integer" } } }] },
            "b": { "type": "object", "additionalProperties": false, "required": ["x"], "properties": { "x": { "type": "string" } } } });
        let wanted =
            json!({ "type": "object", "required": ["x", "y"], "properties": { "x": { "type": "string" }, "y": { "type": "integer" } } });
        assert_eq!(sent(&document, "/a"), wanted);
    }

    #[test]
    fn nothing_outside_is_read() {
        for to in ["file:///etc/passwd", "http://169.254.169.254/x", "../other.yaml#/a", "#/nothing"] {
            let document = json!({ "a": { "$ref": to } });
            let mut schemas = Schemas::new(Root(&document), Way::Sent);
            assert_eq!(schemas.write(&document["a"]), json!({}));
            assert_eq!(schemas.broken.len(), 1, "{to}");
        }
    }
}
