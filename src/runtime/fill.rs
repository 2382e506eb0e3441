//! The arguments and the environment of a launch: what the catalogue's document declares, filled with what
//! configurations and the vault have.

use std::collections::BTreeMap;

use credentials::{EnvVar, input_credential};
use platform::client::encoded;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};

/// What there is to fill with.
pub(crate) struct Given<'a> {
    /// Of the configuration, by the name of the input.
    pub(crate) values: &'a Map<String, Value>,
    /// Of the vault, by the name of the credential.
    pub(crate) secrets: &'a BTreeMap<String, SecretString>,
    /// Of the installation: arguments instead of the document's.
    pub(crate) args: Option<&'a [String]>,
    /// Of the installation: further variables.
    pub(crate) env: &'a BTreeMap<String, String>,
}

/// What a launch is given.
#[derive(Debug, Default)]
pub(crate) struct Filled {
    pub(crate) args: Vec<String>,
    /// Values may be secrets.
    pub(crate) env: BTreeMap<String, SecretString>,
    /// What the owner of the configuration gave as files or folders.
    pub(crate) paths: Vec<String>,
    /// What they gave otherwise, and arguments hold: it may name a path, or anything else.
    pub(crate) named: Vec<String>,
}

/// Why a launch cannot be filled.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unfilled {
    /// Inputs that the server needs and was not given.
    Missing(Vec<String>),
    /// The document wants a secret among the arguments, where others could read it.
    SecretArgument(String),
    /// The document names a variable that would change which program runs.
    Variable(String),
}

/// Fills what the entry of a package declares; without one, there is only what was given.
pub(crate) fn fill(entry: &Value, given: &Given) -> Result<Filled, Unfilled> {
    let mut filler = Filler { given, missing: Vec::new(), out: Filled::default() };
    filler.environment(entry)?;
    match given.args {
        Some(args) => filler.out.args = args.to_vec(),
        None => filler.arguments(entry)?,
    }
    if filler.missing.is_empty() { Ok(filler.out) } else { Err(Unfilled::Missing(filler.missing)) }
}

/// The address and the headers of a server elsewhere.
pub(crate) fn remote(entry: &Value, given: &Given) -> Result<(String, BTreeMap<String, SecretString>), Unfilled> {
    let mut filler = Filler { given, missing: Vec::new(), out: Filled::default() };
    let mut url = entry["url"].as_str().unwrap_or_default().to_owned();
    for (variable, declared) in entry["variables"].as_object().into_iter().flatten() {
        let place = format!("{{{variable}}}");
        if !url.contains(&place) {
            continue;
        }
        let fixed = declared["value"].as_str().map(Found::fixed);
        let Some(found) = fixed.or_else(|| filler.find(variable, declared)) else { continue };
        if found.is_secret || is(declared, "isSecret") {
            return Err(Unfilled::SecretArgument(variable.clone()));
        }
        url = url.replace(&place, &encoded(found.text.expose_secret()));
    }
    let mut headers = BTreeMap::new();
    for input in list(entry, "headers") {
        let Some(name) = input["name"].as_str() else { continue };
        if let Some(found) = filler.value(name, input) {
            headers.insert(name.to_ascii_lowercase(), found.text);
        }
    }
    if filler.missing.is_empty() { Ok((url, headers)) } else { Err(Unfilled::Missing(filler.missing)) }
}

struct Filler<'a> {
    given: &'a Given<'a>,
    missing: Vec<String>,
    out: Filled,
}

/// A value.
struct Found {
    text: SecretString,
    is_secret: bool,
    /// What of it the owner of the configuration gave.
    given: Vec<String>,
}

impl Found {
    /// Of the document.
    fn fixed(text: &str) -> Self {
        Self { text: text.into(), is_secret: false, given: Vec::new() }
    }
}

fn list<'a>(entry: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    entry[key].as_array().into_iter().flatten()
}

fn is(input: &Value, key: &str) -> bool {
    input[key].as_bool().unwrap_or(false)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl Filler<'_> {
    /// The value of an input by its name: configured, from the vault, or its default.
    fn find(&mut self, name: &str, input: &Value) -> Option<Found> {
        // A value that was given before its input became a secret is not used any more.
        let configured = self.given.values.get(name).filter(|_| !is(input, "isSecret")).map(text);
        let configured = configured.map(|text| Found { given: text.lines().map(str::to_owned).collect(), ..Found::fixed(&text) });
        let kept = || self.given.secrets.get(name).or_else(|| self.given.secrets.get(&input_credential(name)));
        let found = configured.or_else(|| kept().map(|text| Found { text: text.clone(), is_secret: true, given: Vec::new() }));
        let found = found.or_else(|| input["default"].as_str().map(Found::fixed));
        match &found {
            None if is(input, "isRequired") => self.missing.push(name.to_owned()),
            Some(found) if input["format"] == "filepath" => self.out.paths.extend_from_slice(&found.given),
            _ => {}
        }
        found
    }

    /// A fixed value with its variables, or the value of the input itself.
    fn value(&mut self, name: &str, input: &Value) -> Option<Found> {
        let Some(template) = input["value"].as_str().filter(|value| !value.is_empty()) else { return self.find(name, input) };
        let (mut text, mut is_secret, mut given) = (template.to_owned(), false, Vec::new());
        for (variable, declared) in input["variables"].as_object().into_iter().flatten() {
            let place = format!("{{{variable}}}");
            if !template.contains(&place) {
                continue;
            }
            let found = match declared["value"].as_str() {
                Some(fixed) => Found::fixed(fixed),
                // An optional part that is not given takes the whole with it.
                None => self.find(variable, declared)?,
            };
            is_secret |= found.is_secret;
            text = text.replace(&place, found.text.expose_secret());
            given.extend(found.given);
        }
        Some(Found { text: text.into(), is_secret, given })
    }

    fn environment(&mut self, entry: &Value) -> Result<(), Unfilled> {
        for (name, value) in self.given.secrets {
            if EnvVar::parse(name).is_ok() {
                self.out.env.insert(name.clone(), value.clone());
            }
        }
        for (name, value) in self.given.env {
            self.out.env.insert(name.clone(), value.clone().into());
        }
        for input in list(entry, "environmentVariables") {
            let Some(name) = input["name"].as_str() else { continue };
            if self.given.env.contains_key(name) {
                continue;
            }
            EnvVar::parse(name).map_err(|_| Unfilled::Variable(name.chars().filter(|c| !c.is_control()).take(80).collect()))?;
            if let Some(found) = self.value(name, input) {
                self.out.env.insert(name.to_owned(), found.text);
            }
        }
        Ok(())
    }

    fn arguments(&mut self, entry: &Value) -> Result<(), Unfilled> {
        // Those of `npx` and `uvx` are for programs that do not run here.
        let is_direct = matches!(entry["runtimeHint"].as_str(), Some("node" | "python" | "python3"));
        let runtime = list(entry, "runtimeArguments").filter(|_| is_direct);
        for argument in runtime.chain(list(entry, "packageArguments")) {
            let is_named = argument["type"] == "named";
            let own = argument["name"].as_str();
            let name = own.or_else(|| argument["valueHint"].as_str()).unwrap_or("argument");
            if is(argument, "isSecret") && argument["value"].as_str().is_none() {
                return Err(Unfilled::SecretArgument(name.to_owned()));
            }
            let Some(found) = self.value(name, argument) else { continue };
            if found.is_secret {
                return Err(Unfilled::SecretArgument(name.to_owned()));
            }
            self.out.named.extend(found.given);
            let value = found.text.expose_secret();
            let is_switch = is_named && argument["format"] == "boolean";
            let values: Vec<&str> = if is(argument, "isRepeated") { value.lines().collect() } else { vec![value] };
            for value in values {
                match (is_named.then_some(own).flatten(), is_switch) {
                    (Some(name), true) if value == "true" => self.out.args.push(name.to_owned()),
                    (Some(_), true) => {}
                    (Some(name), false) => self.out.args.extend([name.to_owned(), value.to_owned()]),
                    (None, _) => self.out.args.push(value.to_owned()),
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filled(entry: &Value, values: &Value, secrets: &[(&str, &str)]) -> Result<(Vec<String>, Vec<String>), Unfilled> {
        let secrets = secrets.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        let env = BTreeMap::from([("FROM".to_owned(), "installation".to_owned())]);
        let values = values.as_object().unwrap();
        let filled = fill(entry, &Given { values, secrets: &secrets, args: None, env: &env })?;
        let env = filled.env.iter().map(|(name, value)| format!("{name}={}", value.expose_secret())).collect();
        Ok((filled.args, env))
    }

    #[test]
    fn what_a_document_declares_is_filled() {
        let entry = json!({
            "runtimeHint": "npx", "runtimeArguments": [{ "type": "named", "name": "-y" }],
            "packageArguments": [
                { "type": "positional", "value": "run" },
                { "type": "named", "name": "--dir", "value": "{base}/x", "variables": { "base": { "isRequired": true } } },
                { "type": "named", "name": "--level", "default": "3" },
                { "type": "named", "name": "--quiet", "format": "boolean" },
                { "type": "named", "name": "--unset" },
                { "type": "positional", "valueHint": "folders", "isRepeated": true, "format": "filepath" },
            ],
            "environmentVariables": [
                { "name": "FIXED", "value": "1" }, { "name": "PORT", "default": "80" }, { "name": "UNSET" },
                { "name": "HEADER", "value": "Bearer {key}", "variables": { "key": { "isSecret": true } } },
            ],
        });
        let values = json!({ "base": "/b", "folders": "/one\n/two words", "--quiet": true, "PORT": 8080 });
        let (args, env) = filled(&entry, &values, &[("key", "s3"), ("OTHER", "o")]).unwrap();
        assert_eq!(args, ["run", "--dir", "/b/x", "--level", "3", "--quiet", "/one", "/two words"]);
        assert_eq!(env, ["FIXED=1", "FROM=installation", "HEADER=Bearer s3", "OTHER=o", "PORT=8080", "key=s3"]);
    }

    #[test]
    fn the_address_and_the_headers_of_a_remote_are_filled() {
        let entry = json!({
            "url": "https://{tenant}.example/mcp", "variables": { "tenant": { "isRequired": true } },
            "headers": [{ "name": "Authorization", "value": "Bearer {key}", "variables": { "key": { "isSecret": true, "isRequired": true } } }],
        });
        let (values, env) = (json!({ "tenant": "a/b" }), BTreeMap::new());
        let given = |secrets: &BTreeMap<String, SecretString>| {
            remote(&entry, &Given { values: values.as_object().unwrap(), secrets, args: None, env: &env })
        };
        let (url, headers) = given(&BTreeMap::from([("key".to_owned(), "s3".into())])).unwrap();
        assert_eq!((url.as_str(), headers["authorization"].expose_secret()), ("https://a%2Fb.example/mcp", "Bearer s3"));
        assert_eq!(given(&BTreeMap::new()).unwrap_err(), Unfilled::Missing(vec!["key".into()]));
    }

    #[test]
    fn only_what_its_owner_gave_opens_paths() {
        let entry = json!({ "packageArguments": [
            { "type": "positional", "value": "/fixed" },
            { "type": "positional", "valueHint": "socket", "default": "/default", "format": "filepath" },
            { "type": "positional", "valueHint": "folder", "format": "filepath" },
            { "type": "named", "name": "--in", "value": "{base}/../x", "variables": { "base": {}, "also": { "value": "/also" } } },
        ], "environmentVariables": [{ "name": "PREFIX" }, { "name": "HOME_OF_IT", "format": "filepath" }] });
        let values = json!({ "folder": "/one\n/two", "base": "/b", "PREFIX": "/", "HOME_OF_IT": "/three" });
        let given = Given { values: values.as_object().unwrap(), secrets: &BTreeMap::new(), args: None, env: &BTreeMap::new() };
        let filled = fill(&entry, &given).unwrap();
        assert_eq!(filled.paths, ["/three", "/one", "/two"]);
        assert_eq!(filled.named, ["/one", "/two", "/b"]);
    }

    #[test]
    fn a_value_from_before_its_input_was_a_secret_is_not_used() {
        let entry = json!({ "environmentVariables": [{ "name": "KEY", "isSecret": true }] });
        assert_eq!(filled(&entry, &json!({ "KEY": "old" }), &[("KEY", "new")]).unwrap().1, ["FROM=installation", "KEY=new"]);
    }

    #[test]
    fn what_is_missing_is_listed_and_secrets_are_no_arguments() {
        let entry = json!({
            "packageArguments": [{ "type": "positional", "valueHint": "dir", "isRequired": true }],
            "environmentVariables": [{ "name": "TOKEN", "isRequired": true, "isSecret": true }],
        });
        assert_eq!(filled(&entry, &json!({}), &[]).unwrap_err(), Unfilled::Missing(vec!["TOKEN".into(), "dir".into()]));
        let secret = json!({ "packageArguments": [{ "type": "named", "name": "--key", "isSecret": true }] });
        assert_eq!(filled(&secret, &json!({}), &[]).unwrap_err(), Unfilled::SecretArgument("--key".into()));
        let inside = json!({ "packageArguments": [{ "type": "positional", "value": "k={k}", "variables": { "k": {} } }] });
        assert!(matches!(filled(&inside, &json!({}), &[("k", "s")]), Err(Unfilled::SecretArgument(_))));
        let hijack = json!({ "environmentVariables": [{ "name": "LD_PRELOAD", "value": "/x.so" }] });
        assert_eq!(filled(&hijack, &json!({}), &[]).unwrap_err(), Unfilled::Variable("LD_PRELOAD".into()));
    }
}
