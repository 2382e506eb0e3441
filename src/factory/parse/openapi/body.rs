//! What an operation sends.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Way,
    operation::{One, is_json},
};
use crate::{
    finding::Finding,
    parse::{Draft, arguments::Arguments},
    spec::{Body, Part, Style},
    text,
};

/// Reads the body of an operation, in the media type that fits arguments best.
pub(super) fn read(one: &One<'_>, arguments: &mut Arguments, draft: &mut Draft) -> Option<Body> {
    let node = one.operation.get("requestBody")?;
    let body = match one.reader.root.follow(node) {
        Ok((body, _)) => body,
        Err(broken) => {
            draft.findings.push(Finding::warning(broken.id(), format!("{}/requestBody", one.place), broken.message()));
            return None;
        }
    };
    let content = body["content"].as_object()?;
    let (media, described) = content.iter().min_by_key(|(media, _)| rank(media))?;
    let mut schema = one.schema(&described["schema"], Way::Sent, draft);
    let bare = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let (content_type, is_binary) = settle(&bare, media, &schema);
    let mut parts = BTreeMap::new();
    if matches!(bare.as_str(), "multipart/form-data" | "application/x-www-form-urlencoded") {
        parts = parts_of(one, described, &mut schema);
    }
    if let Some(schema) = schema.as_object_mut() {
        if is_binary {
            schema.clear();
            schema.insert("type".into(), "string".into());
            schema.insert("contentEncoding".into(), "base64".into());
        } else if !schema.contains_key("type") && !is_json(&content_type) && bare.starts_with("text/") {
            schema.insert("type".into(), "string".into());
        }
        let said = body["description"].as_str().map(|said| text::plain(said, 240)).filter(|said| !said.is_empty());
        let own = schema.get("description").and_then(Value::as_str).map(str::to_owned);
        let said = said
            .or(own)
            .unwrap_or_else(|| if is_binary { format!("The {content_type} to send, as base64") } else { "What is sent".into() });
        schema.insert("description".into(), said.into());
    }
    let arg = arguments.add("body", "request", body["required"] == true, schema);
    Some(Body { arg: Some(arg), value: None, content_type, parts })
}

fn rank(media: &str) -> u8 {
    let bare = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match bare.as_str() {
        "application/json" => 0,
        // A patch is written in a form of its own, which is right where there is nothing else.
        "application/json-patch+json" | "application/merge-patch+json" => 2,
        other if other.ends_with("+json") => 1,
        "application/x-www-form-urlencoded" => 3,
        "multipart/form-data" => 4,
        "*/*" | "application/*" => 5,
        other if other.starts_with("text/") => 6,
        other if other.contains("json") => 6,
        other if other.ends_with("xml") => 8,
        _ => 7,
    }
}

/// The media type that is sent, and whether the argument is base64.
fn settle(bare: &str, media: &str, schema: &Value) -> (String, bool) {
    let is_structured = schema["type"] == "object" || schema["type"] == "array" || schema.get("properties").is_some();
    if bare.ends_with("/*") {
        let is_text = bare == "text/*";
        return match (is_text, is_structured) {
            (true, _) => ("text/plain".into(), false),
            (_, true) => ("application/json".into(), false),
            _ => ("application/octet-stream".into(), true),
        };
    }
    let is_written = is_json(bare)
        || bare.contains("json")
        || bare.starts_with("text/")
        || bare.ends_with("/xml")
        || bare.ends_with("+xml")
        || matches!(bare, "multipart/form-data" | "application/x-www-form-urlencoded");
    (media.to_owned(), !is_written)
}

fn parts_of(one: &One<'_>, described: &Value, schema: &mut Value) -> BTreeMap<String, Part> {
    let mut parts: BTreeMap<String, Part> = BTreeMap::new();
    let encoding = described["encoding"].as_object();
    for (name, node) in encoding.into_iter().flatten() {
        let Ok((node, _)) = one.reader.root.follow(node) else { continue };
        let style = match node["style"].as_str() {
            Some("spaceDelimited") => Some(Style::SpaceDelimited),
            Some("pipeDelimited") => Some(Style::PipeDelimited),
            Some("tabDelimited") => Some(Style::TabDelimited),
            Some("deepObject") => Some(Style::DeepObject),
            Some("form") => Some(Style::Form),
            _ => None,
        };
        let content_type = node["contentType"].as_str().and_then(|all| all.split(',').next()).map(|first| first.trim().to_owned());
        let part = Part {
            content_type: content_type.filter(|media| !media.contains('*')),
            style,
            explode: node["explode"].as_bool(),
            reserved: node["allowReserved"] == true,
            binary: false,
        };
        if part != Part::default() {
            parts.insert(name.clone(), part);
        }
    }
    for (name, property) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        let is_list = property["type"] == "array";
        let own = if is_list { property.get_mut("items") } else { Some(property) };
        let Some(own) = own.and_then(Value::as_object_mut) else { continue };
        if own.get("format").is_some_and(|format| format == "binary") {
            own.remove("format");
            own.insert("contentEncoding".into(), "base64".into());
            let said = own.get("description").and_then(Value::as_str).unwrap_or("The file").to_owned();
            own.insert("description".into(), format!("{said} (as base64)").into());
            parts.entry(name.clone()).or_default().binary = true;
        }
    }
    parts
}
