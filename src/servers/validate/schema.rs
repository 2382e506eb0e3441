//! Is the document of the form that the schema asks for?

use serde_json::Value;

use super::{
    IssueType, address,
    definitions::{CURRENT_SCHEMA, Form, Layers, Member, Rule, SERVER, Text, Variant},
    place::Place,
    report::Issues,
};

/// Checks the whole document.
pub(super) fn check(document: &Place, issues: &mut Issues) {
    if document.value.is_object() {
        check_version(document, issues);
    }
    check_rule(document, &SERVER, issues);
}

/// Which schema the document says that it follows.
fn check_version(document: &Place, issues: &mut Issues) {
    let path = "$schema";
    match document.value.get(path) {
        None => issues.schema(path, "schema-missing-error", format!("$schema is required; the current one is {CURRENT_SCHEMA}")),
        Some(Value::String(schema)) if schema.is_empty() => {
            issues.schema(path, "schema-empty-error", format!("$schema must not be empty; the current one is {CURRENT_SCHEMA}"));
        }
        Some(Value::String(schema)) if address::parse(schema).is_err() => {
            issues.schema(path, "schema-format-error", format!("not an absolute URI: {schema}"));
        }
        Some(Value::String(schema)) if schema != CURRENT_SCHEMA => {
            let message = format!("not the current schema: {schema}; the current one is {CURRENT_SCHEMA}");
            issues.warning(IssueType::Schema, path, "schema-version-not-current", message);
        }
        // That it is a string at all is checked with the other members.
        Some(_) => {}
    }
}

fn check_rule(place: &Place, rule: &'static Rule, issues: &mut Issues) {
    if issues.is_settled() {
        return;
    }
    match (rule, place.value) {
        (Rule::Text(text), Value::String(value)) => check_text(place, value, text, issues),
        (Rule::List(rule), Value::Array(_)) => place.items().for_each(|item| check_rule(&item, rule, issues)),
        (Rule::Map(rule), Value::Object(_)) => place.members().for_each(|(_, member)| check_rule(&member, rule, issues)),
        (Rule::Object(layers), Value::Object(_)) => {
            check_members(place, layers, issues);
            check_unexpected(place, layers, issues);
        }
        (Rule::OpenObject(layers), Value::Object(_)) => {
            check_members(place, layers, issues);
            check_dropped(place, layers, issues);
        }
        (Rule::Variants(variants), Value::Object(_)) => check_variants(place, variants, issues),
        (Rule::Flag, Value::Bool(_)) | (Rule::AnyObject, Value::Object(_)) => {}
        _ => issues.schema(&place.path, "schema-type-error", format!("expected {}, got {}", wanted(rule), kind_of(place.value))),
    }
}

fn check_members(place: &Place, layers: Layers, issues: &mut Issues) {
    for member in layers.iter().copied().flatten() {
        match place.member(member.name) {
            Some(value) => check_rule(&value, &member.rule, issues),
            None if member.is_required => require(place, member.name, issues),
            None => {}
        }
    }
}

fn require(place: &Place, name: &str, issues: &mut Issues) {
    issues.schema(&place.path_of(name), "schema-required-error", format!("missing required member: {name}"));
}

/// The schema itself is open, but the official registry's API refuses what it does not know.
fn check_unexpected(place: &Place, layers: Layers, issues: &mut Issues) {
    for (_, member) in unknown_members(place, layers) {
        issues.schema(&member.path, "schema-unexpected-property-error", "unexpected property");
    }
}

fn check_dropped(place: &Place, layers: Layers, issues: &mut Issues) {
    for (_, member) in unknown_members(place, layers) {
        issues.warning(IssueType::Linter, &member.path, "meta-not-kept", "the official registry refuses or drops this member");
    }
}

fn unknown_members<'a>(place: &Place<'a>, layers: Layers) -> impl Iterator<Item = (&'a str, Place<'a>)> {
    let is_known = |name: &str| layers.iter().copied().flatten().any(|known: &Member| known.name == name);
    place.members().filter(move |(name, _)| !is_known(name))
}

fn check_variants(place: &Place, variants: &'static [Variant], issues: &mut Issues) {
    let Some(kind) = place.member("type") else { return require(place, "type", issues) };
    let Some(named) = kind.value.as_str() else {
        return issues.schema(&kind.path, "schema-type-error", format!("expected a string, got {}", kind_of(kind.value)));
    };
    let Some(variant) = variants.iter().find(|variant| variant.kind == named) else {
        let kinds: Vec<&str> = variants.iter().map(|variant| variant.kind).collect();
        return issues.schema(&kind.path, "schema-enum-error", one_of(&kinds, named));
    };
    check_members(place, variant.layers, issues);
    check_unexpected(place, variant.layers, issues);
    let is_complete = variant.any_of.is_empty() || variant.any_of.iter().any(|name| place.value.get(name).is_some());
    if !is_complete {
        let message = format!("a {} argument needs at least one of: {}", variant.kind, variant.any_of.join(", "));
        issues.schema(&place.path, "schema-argument-error", message);
    }
}

fn check_text(place: &Place, value: &str, text: &Text, issues: &mut Issues) {
    let length = value.chars().count();
    if length < text.min {
        issues.schema(&place.path, "schema-length-error", format!("expected at least {} characters, got {length}", text.min));
    }
    if length > text.max {
        issues.schema(&place.path, "schema-length-error", format!("expected at most {} characters, got {length}", text.max));
    }
    match text.form {
        Form::Uri if address::parse(value).is_err() => {
            issues.schema(&place.path, "schema-format-error", format!("not an absolute URI: {value}"));
        }
        Form::OneOf(values) if !values.contains(&value) => issues.schema(&place.path, "schema-enum-error", one_of(values, value)),
        Form::Any | Form::Uri | Form::OneOf(_) => {}
        Form::ServerName | Form::Sha256 | Form::IconSize | Form::HttpUrl => check_pattern(place, value, &text.form, issues),
    }
}

fn check_pattern(place: &Place, value: &str, form: &Form, issues: &mut Issues) {
    let (is_match, pattern) = match form {
        Form::ServerName => (is_server_name(value), "^[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+$"),
        Form::Sha256 => (is_sha256(value), "^[a-f0-9]{64}$"),
        Form::IconSize => (is_icon_size(value), r"^(\d+x\d+|any)$"),
        Form::HttpUrl => (is_http_url(value), r"^https?://[^\s]+$"),
        Form::Any | Form::Uri | Form::OneOf(_) => return,
    };
    if !is_match {
        issues.schema(&place.path, "schema-pattern-error", format!("does not match the pattern {pattern}: {value}"));
    }
}

fn is_server_name(value: &str) -> bool {
    let has_only = |part: &str, others: &[char]| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(&c));
    value.split_once('/').is_some_and(|(namespace, name)| has_only(namespace, &['.', '-']) && has_only(name, &['.', '_', '-']))
}

fn is_sha256(value: &str) -> bool {
    value.len() == 64 && value.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_icon_size(value: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    value == "any" || value.split_once('x').is_some_and(|(width, height)| is_number(width) && is_number(height))
}

fn is_http_url(value: &str) -> bool {
    let rest = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(char::is_whitespace))
}

fn one_of(values: &[&str], got: &str) -> String {
    format!("expected one of {}, got: {got}", values.join(", "))
}

fn wanted(rule: &Rule) -> &'static str {
    match rule {
        Rule::Text(_) => "a string",
        Rule::Flag => "a boolean",
        Rule::List(_) => "an array",
        Rule::AnyObject | Rule::Map(_) | Rule::Object(_) | Rule::OpenObject(_) | Rule::Variants(_) => "an object",
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
