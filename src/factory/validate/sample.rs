//! Arguments that fit a schema: the fewest, and all of them. The same schema gives the same arguments.

use serde_json::{Map, Value, json};

const DEEPEST: usize = 8;
/// How many schemas are looked at for one set of arguments.
const MOST_STEPS: u32 = 5000;

/// How much is filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    /// What is required.
    Least,
    /// Everything.
    All,
}

/// Arguments for a tool; `None` where none can be made up.
pub(crate) fn arguments(schema: &Map<String, Value>, amount: Amount) -> Option<Map<String, Value>> {
    match (Sampler { amount, left: MOST_STEPS }).value(&Value::Object(schema.clone()), 0)? {
        Value::Object(members) => Some(members),
        _ => None,
    }
}

/// Makes values up, as long as its steps last.
struct Sampler {
    amount: Amount,
    left: u32,
}

impl Sampler {
    fn value(&mut self, schema: &Value, depth: usize) -> Option<Value> {
        let Some(members) = schema.as_object() else { return if *schema == Value::Bool(false) { None } else { Some("x".into()) } };
        self.left = self.left.saturating_sub(1);
        if depth > DEEPEST || self.left == 0 {
            return None;
        }
        if let Some(only) = members.get("const") {
            return Some(only.clone());
        }
        if let Some(choices) = members.get("enum").and_then(Value::as_array) {
            return choices.iter().find(|choice| !choice.is_null()).cloned();
        }
        if let Some(default) = members.get("default").filter(|default| !default.is_null() && fits_type(default, members)) {
            return Some(default.clone());
        }
        let merged = self.alternatives(members, depth);
        if let Some(found) = merged {
            return found;
        }
        match kind(members) {
            "object" => self.object(members, depth),
            "array" => self.array(members, depth),
            "integer" => Some(number(members, true)?.into()),
            "number" => Some(json!(number(members, false)?)),
            "boolean" => Some(true.into()),
            "null" => Some(Value::Null),
            "string" => text(members, self.amount).map(Value::from),
            _ => Some("x".into()),
        }
    }

    /// Of alternatives the first that something can be made up for, together with what stands beside them.
    #[expect(clippy::option_option, reason = "no alternatives, none that can be made up, or one")]
    fn alternatives(&mut self, members: &Map<String, Value>, depth: usize) -> Option<Option<Value>> {
        let list = |name: &str| members.get(name).and_then(Value::as_array);
        let beside = || {
            let mut own = members.clone();
            for name in ["anyOf", "oneOf", "allOf"] {
                own.remove(name);
            }
            own
        };
        if let Some(all) = list("allOf") {
            let mut whole = beside();
            for part in all {
                for (name, member) in part.as_object()? {
                    // Parts that contradict each other let nothing pass.
                    if name == "type" && whole.get(name).is_some_and(|own| own != member) {
                        return Some(None);
                    }
                    match (whole.get_mut(name), member) {
                        (Some(Value::Object(own)), Value::Object(more)) => own.extend(more.clone()),
                        (Some(Value::Array(own)), Value::Array(more)) => own.extend(more.iter().cloned()),
                        (Some(_), _) => {}
                        (None, member) => drop(whole.insert(name.clone(), member.clone())),
                    }
                }
            }
            return Some(self.value(&Value::Object(whole), depth + 1));
        }
        let all = list("oneOf").or_else(|| list("anyOf"))?;
        let own = beside();
        let has_own = own.contains_key("properties") || own.contains_key("required");
        Some(all.iter().filter(|one| one["type"] != "null").find_map(|one| {
            let mut whole = if has_own { own.clone() } else { Map::new() };
            for (name, member) in one.as_object()? {
                match (whole.get_mut(name), member) {
                    (Some(Value::Object(own)), Value::Object(more)) => own.extend(more.clone()),
                    (Some(Value::Array(own)), Value::Array(more)) => own.extend(more.iter().cloned()),
                    (_, member) => drop(whole.insert(name.clone(), member.clone())),
                }
            }
            self.value(&Value::Object(whole), depth + 1)
        }))
    }

    fn object(&mut self, members: &Map<String, Value>, depth: usize) -> Option<Value> {
        let required: Vec<&str> =
            members.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let mut made = Map::new();
        let properties = members.get("properties").and_then(Value::as_object);
        for (name, schema) in properties.into_iter().flatten() {
            let is_required = required.contains(&name.as_str());
            if !is_required && (self.amount == Amount::Least || depth > 3) {
                continue;
            }
            match self.value(schema, depth + 1) {
                Some(value) => drop(made.insert(name.clone(), value)),
                None if is_required => return None,
                None => {}
            }
        }
        for name in required {
            if !made.contains_key(name) {
                if properties.is_some_and(|all| all.contains_key(name)) {
                    return None;
                }
                made.insert(name.to_owned(), "x".into());
            }
        }
        let fewest = members.get("minProperties").and_then(Value::as_u64).map_or(0, size);
        if let Some(additional) = members.get("additionalProperties").filter(|additional| additional.is_object()) {
            let wanted = fewest.max(usize::from(self.amount == Amount::All && properties.is_none()));
            for number in made.len()..wanted {
                made.insert(format!("key{number}"), self.value(additional, depth + 1)?);
            }
        } else if made.is_empty() && properties.is_none() && members.get("additionalProperties") != Some(&Value::Bool(false)) {
            // Nothing at all would leave nothing to see.
            made.insert("key".into(), "x1".into());
        }
        (made.len() >= fewest).then_some(Value::Object(made))
    }

    fn array(&mut self, members: &Map<String, Value>, depth: usize) -> Option<Value> {
        let fewest = members.get("minItems").and_then(Value::as_u64).unwrap_or(0);
        let most = members.get("maxItems").and_then(Value::as_u64).unwrap_or(u64::MAX);
        let is_unique = members.get("uniqueItems") == Some(&Value::Bool(true));
        let usual = if self.amount == Amount::All { 2 } else { 1 };
        let count = size(usual.max(fewest).min(most).min(50));
        let item = members.get("items").cloned().unwrap_or_else(|| json!({}));
        let mut items: Vec<Value> = Vec::new();
        for number in 0..count {
            let made = self.value(&item, depth + 1)?;
            let made = match (&made, number) {
                (_, 0) => made,
                // Two items tell a list from one value.
                (Value::String(text), _)
                    if item.get("enum").is_none()
                        && item.get("pattern").is_none()
                        && item.get("format").is_none()
                        && item.get("maxLength").is_none()
                        && item.get("contentEncoding").is_none() =>
                {
                    format!("{text}{number}").into()
                }
                (Value::Number(n), _) if item.get("maximum").is_none() && item.get("enum").is_none() => {
                    n.as_i64().map_or(made.clone(), |n| n.saturating_add(i64::try_from(number).unwrap_or(1)).into())
                }
                _ => match item.get("enum").and_then(Value::as_array) {
                    Some(choices) => choices.get(number).filter(|choice| !choice.is_null()).cloned().unwrap_or(made),
                    None => made,
                },
            };
            if is_unique && items.contains(&made) {
                break;
            }
            items.push(made);
        }
        (items.len() as u64 >= fewest).then_some(items.into())
    }
}

fn kind(members: &Map<String, Value>) -> &str {
    match members.get("type") {
        Some(Value::String(kind)) => kind,
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("null"),
        _ if members.contains_key("properties") => "object",
        _ => "",
    }
}

fn fits_type(value: &Value, members: &Map<String, Value>) -> bool {
    match kind(members) {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        _ => true,
    }
}

fn number(members: &Map<String, Value>, is_whole: bool) -> Option<i64> {
    let bound = |name: &str| members.get(name).and_then(Value::as_f64);
    let low = bound("minimum").or_else(|| bound("exclusiveMinimum").map(|low| low + if is_whole { 1.0 } else { 0.5 }));
    let high = bound("maximum").or_else(|| bound("exclusiveMaximum").map(|high| high - 1.0));
    let step = bound("multipleOf").filter(|step| *step > 0.0).unwrap_or(1.0);
    let first = low.unwrap_or_else(|| high.map_or(7.0, |high| high.min(7.0)));
    let found = (first / step).ceil() * step;
    #[expect(clippy::cast_possible_truncation, reason = "bounds of documents that are beyond integers are not met")]
    let whole = found as i64;
    (high.is_none_or(|high| found <= high) && found.fract() == 0.0).then_some(whole)
}

/// Bounds beyond what there can be are met by nothing.
fn size(bound: u64) -> usize {
    usize::try_from(bound).unwrap_or(usize::MAX)
}

/// Texts that patterns often ask for.
const TRIED: [&str; 20] = [
    "x",
    "abc",
    "ABC",
    "1",
    "123",
    "a1",
    "A1",
    "12345",
    "2026-01-31",
    "0123456789abcdef",
    "a/b",
    "1.0.0",
    "a@b.example",
    "https://x.example/",
    "en",
    "en-US",
    "US",
    "USD",
    "+12025550123",
    "7f2c1a9e-4d6b-4b8e-9a3f-0c5d2e1f6a7b",
];

fn text(members: &Map<String, Value>, amount: Amount) -> Option<String> {
    let fewest = members.get("minLength").and_then(Value::as_u64).map_or(0, size);
    let most = members.get("maxLength").and_then(Value::as_u64).map_or(usize::MAX, size);
    if members.get("contentEncoding").is_some_and(|encoding| encoding == "base64") {
        return Some("AAEC/w==".into());
    }
    if let Some(pattern) = members.get("pattern").and_then(Value::as_str) {
        let Ok(expression) = regex_lite::Regex::new(pattern) else { return None };
        let fits = |text: &&str| (fewest..=most).contains(&text.chars().count()) && expression.is_match(text);
        let repeated: Vec<String> =
            ["a", "A", "0", "f"].iter().flat_map(|part| [fewest.min(200), 8, 24, 32, 40, 64].map(|count| part.repeat(count))).collect();
        return TRIED.iter().copied().chain(repeated.iter().map(String::as_str)).find(fits).map(str::to_owned);
    }
    let by_format = match members.get("format").and_then(Value::as_str) {
        Some("date-time") => Some("2026-01-31T12:00:00Z"),
        Some("date") => Some("2026-01-31"),
        Some("time") => Some("12:00:00Z"),
        Some("duration") => Some("PT1H"),
        Some("email") => Some("a@b.example"),
        Some("hostname") => Some("x.example"),
        Some("ipv4") => Some("192.0.2.1"),
        Some("ipv6") => Some("2001:db8::1"),
        Some("uri" | "uri-reference") => Some("https://x.example/a?b=c"),
        Some("uuid") => Some("7f2c1a9e-4d6b-4b8e-9a3f-0c5d2e1f6a7b"),
        Some("byte" | "binary") => Some("AAEC/w=="),
        _ => None,
    };
    // What has to be encoded is told apart from what has not.
    let usual = if amount == Amount::All { "a b/c&d=é?" } else { "x1" };
    let mut text: String = by_format.unwrap_or(usual).chars().take(most).collect();
    while text.chars().count() < fewest.min(5000) {
        text.push('x');
    }
    (text.chars().count() >= fewest).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_up_fits() {
        let schema = json!({ "type": "object", "required": ["a", "c"], "properties": {
            "a": { "type": "integer", "minimum": 3, "multipleOf": 2 }, "b": { "type": "array", "items": { "type": "string" } },
            "c": { "type": ["null", "string"], "pattern": "^[A-Z]{3}$" }, "d": { "oneOf": [{ "type": "null" }, { "type": "boolean" }] },
            "e": { "type": "string", "maxLength": 3 } } });
        let least = arguments(schema.as_object().unwrap(), Amount::Least).unwrap();
        assert_eq!(Value::Object(least), json!({ "a": 4, "c": "ABC" }));
        let all = arguments(schema.as_object().unwrap(), Amount::All).unwrap();
        assert_eq!(Value::Object(all), json!({ "a": 4, "b": ["a b/c&d=é?", "a b/c&d=é?1"], "c": "ABC", "d": true, "e": "a b" }));
        let none = json!({ "type": "object", "required": ["a"], "properties": { "a": { "type": "string", "pattern": "^(x|y){1000}!$" } } });
        assert_eq!(arguments(none.as_object().unwrap(), Amount::Least), None);
    }
}
