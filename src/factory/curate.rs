//! What clients are shown of all that can be called. A model chooses badly among hundreds of tools, and clients cut their
//! lists; so there is a limit, beyond which four tools find, describe and call everything.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::{
    error::FactoryError,
    finding::Finding,
    parse::Operation,
    spec::{Action, Annotations, Meta, Provenance, ServerSpec, Tool},
    text,
};

/// How many tools are shown one by one, and how large their list may be, in bytes of JSON.
const MOST_TOOLS: usize = 40;
const LARGEST_LIST: usize = 50_000;
/// What no client takes.
pub(crate) const TOO_MANY_TOOLS: usize = 128;
const LONGEST_BEHIND: usize = 300;

/// Which operations become tools, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Shown {
    /// Each one by itself where they are few, else behind four tools.
    #[default]
    Auto,
    /// Each one by itself.
    All,
    /// All of them behind four tools.
    Dynamic,
}

/// Which operations are meant: names, ids, routes (`GET /pets*`) or tags (`tag:pets`); `*` stands for anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Choice {
    /// As tools of their own, or behind four.
    #[serde(default)]
    pub(crate) tools: Shown,
    /// Only these.
    #[serde(default)]
    pub(crate) include: Vec<String>,
    /// All but these.
    #[serde(default)]
    pub(crate) exclude: Vec<String>,
}

/// Puts the chosen operations into a specification.
pub(crate) fn curate(
    spec: &mut ServerSpec,
    operations: Vec<Operation>,
    choice: &Choice,
    findings: &mut Vec<Finding>,
) -> Result<(), FactoryError> {
    let all = operations.len();
    let mut kept: Vec<Operation> = operations
        .into_iter()
        .filter(|one| choice.include.is_empty() || choice.include.iter().any(|pattern| is_meant(one, pattern)))
        .filter(|one| !choice.exclude.iter().any(|pattern| is_meant(one, pattern)))
        .collect();
    if kept.is_empty() && all > 0 {
        return Err(FactoryError::field("body.options", "of what `include` and `exclude` leave, nothing can be called"));
    }
    // What is on its way out comes last.
    kept.sort_by_key(|one| one.is_deprecated);
    let tools: Vec<Tool> = kept.into_iter().map(|one| one.tool).collect();
    let size = list_size(&tools);
    let is_large = tools.len() > MOST_TOOLS || size > LARGEST_LIST;
    let is_dynamic = match choice.tools {
        Shown::Auto => is_large,
        Shown::All => false,
        Shown::Dynamic => true,
    };
    if !is_dynamic {
        spec.tools = tools;
        return Ok(());
    }
    if choice.tools == Shown::Auto {
        let message = format!(
            "{} operations ({size} bytes of tools) are more than a model can be shown: four tools find, describe and call them. \
             `include` and `exclude` choose some, `tools: all` shows all",
            tools.len()
        );
        findings.push(Finding::info("tools-dynamic", "/tools", message));
    }
    spec.operations = tools.into_iter().map(behind).collect();
    spec.tools = meta_tools(spec);
    spec.provenance.insert("/tools".into(), Provenance::Rule);
    if spec.instructions.is_none() {
        spec.instructions = Some("Find an operation with find_operations, see what it takes with describe_operation, then call it.".into());
    }
    Ok(())
}

/// What a list of tools measures, in bytes of JSON.
pub(crate) fn list_size(tools: &[Tool]) -> usize {
    tools
        .iter()
        .map(|tool| {
            tool.name.len()
                + tool.title.len()
                + tool.description.len()
                + 150
                + json!([tool.input_schema, tool.output_schema]).to_string().len()
        })
        .sum()
}

/// Nobody reads all of them at once: they are described more briefly.
fn behind(mut tool: Tool) -> Tool {
    tool.description = text::plain(&tool.description, LONGEST_BEHIND);
    tool.output_schema = None;
    tool
}

fn is_meant(one: &Operation, pattern: &str) -> bool {
    if let Some(tag) = pattern.strip_prefix("tag:") {
        return one.tags.iter().any(|own| matches(own, tag));
    }
    matches(&one.tool.name, pattern) || matches(&one.route, pattern) || one.id.as_deref().is_some_and(|id| matches(id, pattern))
}

/// Whether a text is as a pattern says, without regard to capitals.
fn matches(text: &str, pattern: &str) -> bool {
    let (text, pattern) = (text.to_lowercase(), pattern.to_lowercase());
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

fn meta_tools(spec: &ServerSpec) -> Vec<Tool> {
    let of = spec.title.as_deref().unwrap_or(&spec.name);
    let count = spec.operations.len();
    let operation = json!({ "type": "string", "description": "Its name, as find_operations gives it" });
    let arguments = json!({ "type": "object", "description": "What it takes, as describe_operation says" });
    let reads = Annotations { read_only: true, destructive: false, idempotent: true, open_world: false };
    let tool = |name: &str, title: &str, description: String, annotations, properties: Value, required: Value, does| {
        let schema = json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false });
        let input_schema = schema.as_object().cloned().unwrap_or_else(Map::new);
        Tool {
            name: name.into(),
            title: title.into(),
            description,
            annotations,
            input_schema,
            output_schema: None,
            action: Action::Meta { does },
        }
    };
    vec![
        tool(
            "find_operations",
            "Find operations",
            format!("Finds among the {count} operations of {of} by words. Returns: names, titles, and whether each only reads."),
            reads,
            json!({
                "query": { "type": "string", "description": "Words of what is to be done; without them, the first ones" },
                "limit": { "type": "integer", "minimum": 1, "maximum": 50, "default": 20, "description": "How many at most" },
            }),
            json!([]),
            Meta::Find,
        ),
        tool(
            "describe_operation",
            "Describe an operation",
            "What one operation does and takes. Returns: its description and the JSON Schema of its arguments.".into(),
            reads,
            json!({ "operation": operation }),
            json!(["operation"]),
            Meta::Describe,
        ),
        tool(
            "call_read_operation",
            "Call an operation that reads",
            format!("Calls one operation of {of} that changes nothing."),
            Annotations { open_world: true, ..reads },
            json!({ "operation": operation, "arguments": arguments }),
            json!(["operation"]),
            Meta::Read,
        ),
        tool(
            "call_write_operation",
            "Call an operation that changes things",
            format!("Calls one operation of {of} that creates, changes or deletes something."),
            Annotations { read_only: false, destructive: true, idempotent: false, open_world: true },
            json!({ "operation": operation, "arguments": arguments }),
            json!(["operation"]),
            Meta::Write,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_people_expect() {
        for (text, pattern) in [("GET /pets/{id}", "get /pets*"), ("listPets", "*pets"), ("a", "*"), ("abcabc", "a*c"), ("x", "x")] {
            assert!(matches(text, pattern), "{text} {pattern}");
        }
        for (text, pattern) in [("listPets", "pets"), ("abc", "a*d"), ("", "x*"), ("ab", "ab*b")] {
            assert!(!matches(text, pattern), "{text} {pattern}");
        }
    }
}
