//! Arguments of tools that a call repeats in headers (`x-mcp-header`, revision 2026-07-28).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use platform::http::header_text;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

/// How deep a schema is looked into.
const DEEPEST: usize = 16;
/// What schemas write it as.
const MARK: &str = "x-mcp-header";

/// One of them: where it stands among the arguments, and its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repeated {
    /// The names that lead to it.
    pub path: Vec<String>,
    /// In lower case: `mcp-param-region`.
    pub header: String,
}

impl Repeated {
    /// What the header has to say; nothing where the argument is not given.
    pub fn value(&self, arguments: &Value) -> Option<String> {
        match self.path.iter().fold(arguments, |value, step| &value[step]) {
            Value::String(text) => Some(text.clone()),
            value @ (Value::Number(_) | Value::Bool(_)) => Some(value.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }
}

/// What a tool, as its server describes it, says of headers.
pub fn repeated(described: &RawValue) -> Vec<Repeated> {
    fn within(schema: &Value, path: &mut Vec<String>, found: &mut Vec<Repeated>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            path.push(name.clone());
            if let Some(header) = property[MARK].as_str() {
                found.push(Repeated { path: path.clone(), header: format!("mcp-param-{}", header.to_ascii_lowercase()) });
            }
            if path.len() < DEEPEST {
                within(property, path, found);
            }
            path.pop();
        }
    }
    let mut found = Vec::new();
    if described.get().contains(MARK)
        && let Ok(tool) = serde_json::from_str::<Value>(described.get())
    {
        within(&tool["inputSchema"], &mut Vec::new(), &mut found);
    }
    found
}

/// What the lists of tools that went by say of headers, for the calls that follow them.
#[derive(Default)]
pub struct ParamHeaders(Mutex<HashMap<String, Vec<Repeated>>>);

#[derive(Deserialize)]
struct Listed<'a> {
    #[serde(borrow)]
    result: Option<Tools<'a>>,
}

#[derive(Deserialize)]
struct Tools<'a> {
    #[serde(borrow, default)]
    tools: Vec<&'a RawValue>,
}

impl ParamHeaders {
    /// Reads an answer to `tools/list`.
    pub fn learn(&self, answer: &str) {
        #[derive(Deserialize)]
        struct Named {
            name: String,
        }
        let Some(Listed { result: Some(list) }) = serde_json::from_str(answer).ok() else { return };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for tool in list.tools {
            let Ok(Named { name }) = serde_json::from_str(tool.get()) else { continue };
            match repeated(tool) {
                headers if headers.is_empty() => known.remove(&name),
                headers => known.insert(name, headers),
            };
        }
    }

    /// The headers of a call that is a line still.
    pub(crate) fn of_line(&self, line: &str) -> Vec<(String, String)> {
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return Vec::new();
        }
        serde_json::from_str::<Value>(line).map(|message| self.of(&message["params"])).unwrap_or_default()
    }

    /// The headers of a call, with their values as they are sent.
    pub fn of(&self, params: &Value) -> Vec<(String, String)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let headers = params["name"].as_str().and_then(|name| known.get(name)).into_iter().flatten();
        let said = headers.filter_map(|one| Some((one.header.clone(), one.value(&params["arguments"])?)));
        said.map(|(header, value)| (header, header_text::encode(&value).into_owned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_lists_say_is_what_calls_repeat() {
        let headers = ParamHeaders::default();
        let schema = json!({ "type": "object", "properties": {
            "region": { "type": "string", "x-mcp-header": "Region" },
            "deep": { "type": "object", "properties": { "size": { "type": "number", "x-mcp-header": "Size" } } },
            "plain": { "type": "string" },
        } });
        let answer = json!({ "jsonrpc": "2.0", "id": 1, "result": { "tools": [{ "name": "t", "inputSchema": schema }, { "name": "u" }] } });
        headers.learn(&answer.to_string());
        let call = |name: &str, arguments: Value| headers.of(&json!({ "name": name, "arguments": arguments }));
        assert_eq!(call("t", json!({ "region": "eu-1", "plain": "x" })), [("mcp-param-region".to_owned(), "eu-1".to_owned())]);
        assert_eq!(call("t", json!({ "deep": { "size": 3 } })), [("mcp-param-size".to_owned(), "3".to_owned())]);
        assert!(call("t", json!({ "region": null })).is_empty() && call("u", json!({})).is_empty());
        assert!(call("t", json!({ "region": "Zürich\r\n" }))[0].1.starts_with("=?base64?"));
        // A tool that is another one by now.
        headers.learn(&json!({ "result": { "tools": [{ "name": "t", "inputSchema": {} }] } }).to_string());
        assert!(call("t", json!({ "region": "eu-1" })).is_empty());
        headers.learn("not JSON");
    }
}
