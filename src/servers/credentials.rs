//! What a server wants to be told before it starts: environment variables, headers, arguments.

use serde_json::{Map, Value};

use crate::{
    document::{Digest, storable},
    model::DeclaredInput,
};

/// One list from all packages and remotes of a document; the same name at the same place counts once.
pub(crate) fn wanted(digest: &Digest) -> Vec<DeclaredInput> {
    let mut list = List::default();
    for package in objects(digest.document.get("packages")) {
        for input in objects(any(package, &["environmentVariables", "environment_variables"])) {
            list.key_value("env", input);
        }
        if let Some(transport) = package.get("transport").and_then(Value::as_object) {
            list.headers(transport);
        }
        for key in [["runtimeArguments", "runtime_arguments"], ["packageArguments", "package_arguments"]] {
            for argument in objects(any(package, &key)) {
                list.argument(argument);
            }
        }
    }
    for remote in objects(digest.document.get("remotes")) {
        list.headers(remote);
        list.variables("argument", remote);
    }
    list.rows
}

#[derive(Default)]
struct List {
    rows: Vec<DeclaredInput>,
}

impl List {
    fn headers(&mut self, transport: &Map<String, Value>) {
        for header in objects(transport.get("headers")) {
            self.key_value("header", header);
        }
    }

    /// A fixed value is nobody's to give; its variables are.
    fn key_value(&mut self, location: &str, input: &Map<String, Value>) {
        self.variables(location, input);
        let Some(name) = text(input, "name") else { return };
        if text(input, "value").is_none_or(str::is_empty) {
            self.add(location, name, input);
        }
    }

    /// Of arguments, those that are secret or have to be given.
    fn argument(&mut self, argument: &Map<String, Value>) {
        self.variables("argument", argument);
        let name = text(argument, "name").or_else(|| text(argument, "valueHint")).or_else(|| text(argument, "value_hint"));
        let asked = flag(argument, &["isSecret", "is_secret"]) || flag(argument, &["isRequired", "is_required"]);
        if let (Some(name), true, None) = (name, asked, text(argument, "value")) {
            self.add("argument", name, argument);
        }
    }

    fn variables(&mut self, location: &str, input: &Map<String, Value>) {
        for (name, variable) in input.get("variables").and_then(Value::as_object).into_iter().flatten() {
            if let Some(variable) = variable.as_object().filter(|variable| text(variable, "value").is_none()) {
                self.add(location, name, variable);
            }
        }
    }

    fn add(&mut self, location: &str, name: &str, input: &Map<String, Value>) {
        let required = flag(input, &["isRequired", "is_required"]);
        let secret = flag(input, &["isSecret", "is_secret"]);
        let name = storable(name);
        if let Some(known) = self.rows.iter_mut().find(|row| row.location == location && row.env_var == name) {
            known.required |= required;
            known.secret |= secret;
            return;
        }
        let choices = input.get("choices").and_then(Value::as_array);
        self.rows.push(DeclaredInput {
            location: location.to_owned(),
            env_var: name,
            description: text(input, "description").map(storable),
            required,
            secret,
            format: text(input, "format").map_or_else(|| "string".into(), storable),
            choices: choices.map(|list| list.iter().filter_map(Value::as_str).map(storable).collect()),
            default_value: text(input, "default").map(storable),
        });
    }
}

fn objects(value: Option<&Value>) -> impl Iterator<Item = &Map<String, Value>> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object)
}

fn any<'a>(map: &'a Map<String, Value>, keys: &[&str]) -> Option<&'a Value> {
    keys.iter().find_map(|key| map.get(*key))
}

fn text<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    map.get(key).and_then(Value::as_str)
}

fn flag(map: &Map<String, Value>, keys: &[&str]) -> bool {
    any(map, keys).and_then(Value::as_bool).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_of_all_places_are_listed_once() {
        let document = serde_json::json!({
            "packages": [
                { "environmentVariables": [
                    { "name": "TOKEN", "isSecret": true, "description": "the token" },
                    { "name": "MODE", "choices": ["a", "b"], "default": "a" },
                    { "name": "FIXED", "value": "1" } ],
                  "packageArguments": [
                    { "type": "named", "name": "--key", "isRequired": true },
                    { "type": "positional", "value": "run" },
                    { "type": "named", "name": "--dir", "value": "{dir}", "variables": { "dir": { "isRequired": true, "format": "filepath" } } } ] },
                { "environmentVariables": [{ "name": "TOKEN", "isRequired": true }],
                  "transport": { "type": "sse", "headers": [{ "name": "X-Key" }] } },
            ],
            "remotes": [{ "type": "sse", "url": "https://x/{tenant}", "variables": { "tenant": {} },
                "headers": [{ "name": "Authorization", "value": "Bearer {key}", "variables": { "key": { "isSecret": true } } }] }],
        });
        let rows = wanted(&Digest::of(&document.to_string()));
        let shown: Vec<String> = rows
            .iter()
            .map(|row| format!("{} {} {}{} {}", row.location, row.env_var, u8::from(row.required), u8::from(row.secret), row.format))
            .collect();
        assert_eq!(
            shown,
            [
                "env TOKEN 11 string",
                "env MODE 00 string",
                "argument --key 10 string",
                "argument dir 10 filepath",
                "header X-Key 00 string",
                "header key 01 string",
                "argument tenant 00 string",
            ]
        );
    }
}
