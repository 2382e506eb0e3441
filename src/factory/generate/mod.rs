//! From a specification to the files of a project that people can read, check and change.
//!
//! What comes from a document enters code as JSON literals only; everything else is fixed and part of this program.

mod node;
mod python;
mod words;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

pub(crate) use self::{node::BUNDLE as NODE_BUNDLE, python::RUNTIME as PYTHON_RUNTIME};
use crate::spec::{Action, Annotations, ServerSpec, Tool};

/// What runs a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Language {
    /// TypeScript, run by Node.js 20 or newer.
    #[default]
    Node,
    /// Python 3.10 or newer.
    Python,
}

impl Language {
    /// As requests write it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Python => "python",
        }
    }
}

/// The files of a project, by path below its folder; the order is that of the names.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Writes the project of a server.
pub(crate) fn project(spec: &ServerSpec, language: Language) -> Files {
    match language {
        Language::Node => node::project(spec),
        Language::Python => python::project(spec),
    }
}

/// The file that runs.
pub(crate) fn entry(language: Language) -> &'static str {
    match language {
        Language::Node => "dist/server.mjs",
        Language::Python => "server.py",
    }
}

/// A server as its runtime reads it.
pub(crate) fn table(spec: &ServerSpec) -> Value {
    let mut table = json!({
        "name": spec.name,
        "version": spec.version,
        "bases": spec.bases,
        "auth": spec.auth,
        "tools": spec.tools.iter().map(tool).collect::<Vec<_>>(),
    });
    if let Some(title) = &spec.title {
        table["title"] = title.clone().into();
    }
    if let Some(instructions) = &spec.instructions {
        table["instructions"] = instructions.clone().into();
    }
    if !spec.operations.is_empty() {
        table["operations"] = spec.operations.iter().map(tool).collect();
    }
    table
}

fn tool(tool: &Tool) -> Value {
    let Annotations { read_only, destructive, idempotent, open_world } = tool.annotations;
    let mut written = Map::new();
    written.insert("name".into(), tool.name.clone().into());
    written.insert("title".into(), tool.title.clone().into());
    written.insert("description".into(), tool.description.clone().into());
    let annotations =
        json!({ "readOnlyHint": read_only, "destructiveHint": destructive, "idempotentHint": idempotent, "openWorldHint": open_world });
    written.insert("annotations".into(), annotations);
    written.insert("inputSchema".into(), tool.input_schema.clone().into());
    if let Some(schema) = &tool.output_schema {
        written.insert("outputSchema".into(), schema.clone().into());
    }
    written.insert("action".into(), action(&tool.action));
    Value::Object(written)
}

fn action(action: &Action) -> Value {
    let mut written = json!(action);
    // Runtimes want no field to be missing that is always used.
    if let Some(members) = written.as_object_mut() {
        if matches!(action, Action::Http(_) | Action::Graphql { .. }) {
            members.entry("base").or_insert_with(|| 0.into());
            members.entry("security").or_insert_with(|| json!([]));
        }
        if matches!(action, Action::Http(_)) {
            members.entry("params").or_insert_with(|| json!([]));
        }
    }
    written
}

/// JSON in the middle of code: what ends a line in older JavaScript, or a script in HTML, is escaped.
pub(crate) fn literal(value: &Value, is_pretty: bool) -> String {
    let text = if is_pretty { format!("{value:#}") } else { value.to_string() };
    text.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029").replace("</", "<\\/").replace("<!--", "<\\u0021--")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_documents_cannot_end_its_literal() {
        let evil = json!({ "d": "`${process.exit(1)}` \" \\ \u{2028} </script> */ <!--" });
        let written = literal(&evil, false);
        assert!(!written.contains(['\u{2028}', '\n']) && !written.contains("</") && !written.contains("<!--"));
        assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), evil);
    }
}
