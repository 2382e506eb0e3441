//! The arguments of a tool.

use serde_json::{Map, Value};

use crate::names::Names;

/// The arguments of a tool while they are put together.
#[derive(Default)]
pub(crate) struct Arguments {
    pub(crate) names: Names,
    pub(crate) properties: Map<String, Value>,
    pub(crate) required: Vec<String>,
}

impl Arguments {
    pub(crate) fn add(&mut self, name: &str, place: &str, is_required: bool, schema: Value) -> String {
        let arg = self.names.argument(name, place);
        self.properties.insert(arg.clone(), schema);
        if is_required {
            self.required.push(arg.clone());
        }
        arg
    }

    pub(crate) fn schema(self) -> Map<String, Value> {
        let mut schema = Map::new();
        schema.insert("type".into(), "object".into());
        schema.insert("properties".into(), self.properties.into());
        if !self.required.is_empty() {
            schema.insert("required".into(), self.required.into());
        }
        schema.insert("additionalProperties".into(), false.into());
        schema
    }
}
