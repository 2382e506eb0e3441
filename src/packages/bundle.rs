//! Bundles: what their `manifest.json` says of how they are run and what their user is asked (MCPB manifest 0.1 to 0.4).
//!
//! A bundle is run by the same rules as a package of the catalogue: its `mcp_config` is turned into the arguments and
//! variables that a document would declare, with `user_config` for inputs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read as _,
    path::Path,
};

use credentials::EnvVar;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use servers::DeclaredInput;

use crate::{
    error::PackagesError,
    manifest::beneath,
    model::{Bundle, BundleInput, BundleProgram},
};

/// The folder of a tree in which a bundle lies.
pub const FOLDER: &str = "bundle";
const MAX_MANIFEST: u64 = 4 << 20;
const MOST: usize = 200;
const LONGEST: usize = 8 << 10;
const OWN_FOLDER: &str = "${__dirname}";

#[derive(Deserialize)]
struct Manifest {
    server: Server,
    #[serde(default)]
    user_config: BTreeMap<String, Asked>,
    #[serde(default)]
    compatibility: Compatibility,
}

#[derive(Deserialize)]
struct Server {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    entry_point: String,
    mcp_config: Option<Config>,
}

#[derive(Clone, Default, Deserialize)]
struct Config {
    command: Option<String>,
    args: Option<Vec<String>>,
    env: Option<BTreeMap<String, String>>,
    #[serde(default)]
    platform_overrides: BTreeMap<String, Config>,
}

#[derive(Deserialize)]
struct Asked {
    #[serde(rename = "type")]
    kind: String,
    title: Option<String>,
    description: Option<String>,
    #[serde(default)]
    required: bool,
    #[serde(default)]
    multiple: bool,
    #[serde(default)]
    sensitive: bool,
    #[serde(default)]
    default: Value,
}

#[derive(Default, Deserialize)]
struct Compatibility {
    platforms: Option<Vec<String>>,
}

/// Reads the manifest of a bundle that was unpacked into `folder`.
pub(crate) fn read(folder: &Path, name: &str) -> Result<Bundle, PackagesError> {
    let mut text = String::new();
    let none = |why| PackagesError::NoEntry(name.to_owned(), why);
    let file = fs::File::open(folder.join("manifest.json")).map_err(|_| none("it has no manifest.json"))?;
    file.take(MAX_MANIFEST).read_to_string(&mut text).map_err(|_| none("its manifest.json is not text"))?;
    let bundle = understand(&text).map_err(none)?;
    match &bundle.program {
        BundleProgram::Own(path) if !folder.join(path).is_file() => Err(none("the program that its manifest names is not in it")),
        _ => Ok(bundle),
    }
}

pub(crate) fn understand(text: &str) -> Result<Bundle, &'static str> {
    let manifest: Manifest = serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|_| "its manifest.json is not one")?;
    if manifest.compatibility.platforms.is_some_and(|platforms| !platforms.iter().any(|platform| platform == "linux")) {
        return Err("it is not for Linux");
    }
    let inputs = manifest.user_config.into_iter().map(input).collect::<Result<Vec<_>, _>>()?;
    let usual = usual(&manifest.server)?;
    let Config { command, args, env, mut platform_overrides } = manifest.server.mcp_config.unwrap_or_default();
    let own = platform_overrides.remove("linux").unwrap_or_default();
    let command = own.command.or(command).or(usual.command).ok_or("its manifest names no command")?;
    let args = own.args.or(args).or(usual.args).unwrap_or_default();
    let mut env = env.unwrap_or_default();
    env.extend(own.env.unwrap_or_default());
    if args.len() > MOST || env.len() > MOST || args.iter().chain(env.values()).any(|text| text.len() > LONGEST || text.contains('\0')) {
        return Err("its manifest has more arguments or variables than a program is given");
    }
    let program = match command.as_str() {
        "node" => BundleProgram::Node,
        "python" | "python3" => BundleProgram::Python,
        other => {
            let path = other.strip_prefix(OWN_FOLDER).and_then(|path| beneath(path.trim_start_matches('/')));
            BundleProgram::Own(path.ok_or("its command is neither node nor python nor a program of its own")?)
        }
    };
    let python_path = env.remove("PYTHONPATH").map(|list| folders(&list)).transpose()?.unwrap_or_default();
    if env.keys().any(|name| EnvVar::parse(name).is_err()) {
        return Err("its manifest sets a variable that would change which program runs");
    }
    let known: BTreeSet<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
    for text in args.iter().chain(env.values()) {
        for place in places(text) {
            let is_known = place == "__dirname" || place == "/" || place == "pathSeparator";
            if !is_known && !place.strip_prefix("user_config.").is_some_and(|name| known.contains(name)) {
                return Err("its manifest uses something that there is not on a server, such as a person's folders");
            }
        }
    }
    Ok(Bundle { program, args, env, python_path, inputs })
}

/// How a bundle is run whose manifest does not say it.
fn usual(server: &Server) -> Result<Config, &'static str> {
    let entry = format!("{OWN_FOLDER}/{}", server.entry_point);
    let (command, args) = match server.kind.as_str() {
        "node" => ("node".to_owned(), vec![entry]),
        "python" => ("python3".to_owned(), vec![entry]),
        "binary" => (entry, Vec::new()),
        "uv" => return Err("bundles of type uv fetch what they need when they start, which is not done here"),
        _ => return Err("its server is neither of Node, nor of Python, nor a program"),
    };
    Ok(Config { command: Some(command), args: Some(args), ..Config::default() })
}

/// A list of folders, all of which are the bundle's own.
fn folders(list: &str) -> Result<Vec<String>, &'static str> {
    let own = |folder: &str| {
        let below = with_slashes(folder.strip_prefix(OWN_FOLDER)?);
        let below = below.trim_matches('/');
        if below.is_empty() { Some(String::new()) } else { beneath(below) }
    };
    let all = list.split(':').filter(|folder| !folder.is_empty()).map(own).collect::<Option<Vec<_>>>();
    all.ok_or("its manifest has Python look for modules outside of it")
}

fn input((name, asked): (String, Asked)) -> Result<BundleInput, &'static str> {
    let is_name = (1..=64).contains(&name.len()) && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.'));
    if !is_name {
        return Err("its manifest asks for something without a plain name");
    }
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    };
    let default = match &asked.default {
        Value::Array(all) => Some(all.iter().filter_map(text).collect::<Vec<_>>().join("\n")),
        one => text(one),
    };
    let format = match asked.kind.as_str() {
        "number" => "number",
        "boolean" => "boolean",
        "file" | "directory" => "filepath",
        _ => "string",
    };
    Ok(BundleInput {
        name,
        description: asked.description.or(asked.title),
        format: format.into(),
        required: asked.required,
        secret: asked.sensitive,
        multiple: asked.multiple,
        // A person's own folders are not there.
        default: default.filter(|default| !default.is_empty() && !default.contains("${")),
    })
}

/// With what parts folders on this machine.
fn with_slashes(text: &str) -> String {
    text.replace("${/}", "/").replace("${pathSeparator}", "/")
}

/// What stands in `${…}`.
fn places(text: &str) -> impl Iterator<Item = &str> {
    text.split("${").skip(1).map(|rest| rest.split_once('}').map_or(rest, |(place, _)| place))
}

impl Bundle {
    /// What a document would declare of it, when it lies in `tree`. `further` arguments follow its own.
    pub(crate) fn entry(&self, tree: &Path, further: &[String]) -> Map<String, Value> {
        let folder = tree.join(FOLDER).display().to_string();
        let own = self.args.iter().map(|arg| {
            let mut argument = self.template(arg, &folder);
            let is_list = |input: &&BundleInput| input.multiple && *arg == format!("${{user_config.{}}}", input.name);
            argument["isRepeated"] = self.inputs.iter().any(|input| is_list(&input)).into();
            argument["type"] = "positional".into();
            argument
        });
        let further = further.iter().map(|arg| json!({ "type": "positional", "value": arg }));
        let env = self.env.iter().map(|(name, value)| {
            let mut variable = self.template(value, &folder);
            variable["name"] = name.as_str().into();
            variable
        });
        Map::from_iter([("packageArguments".to_owned(), own.chain(further).collect()), ("environmentVariables".to_owned(), env.collect())])
    }

    /// Where Python looks for modules when it lies in `tree`; `None` where the manifest does not say it.
    pub fn python_path_in(&self, tree: &Path) -> Option<String> {
        let folders = self.python_path.iter().map(|folder| tree.join(FOLDER).join(folder).display().to_string());
        (!self.python_path.is_empty()).then(|| folders.collect::<Vec<_>>().join(":"))
    }

    /// A text of the manifest, as documents write it: `{name}` for an input.
    fn template(&self, text: &str, folder: &str) -> Value {
        let mut value = with_slashes(&text.replace(OWN_FOLDER, folder));
        let mut variables = Map::new();
        for input in &self.inputs {
            let place = format!("${{user_config.{}}}", input.name);
            if !value.contains(&place) {
                continue;
            }
            value = value.replace(&place, &format!("{{{}}}", input.name));
            let declared =
                json!({ "isRequired": input.required, "isSecret": input.secret, "format": input.format, "default": input.default });
            variables.insert(input.name.clone(), declared);
        }
        json!({ "value": value, "variables": variables })
    }

    /// What its user is asked, for configurations.
    pub(crate) fn declared(&self) -> Vec<DeclaredInput> {
        let declared = |input: &BundleInput| DeclaredInput {
            location: "argument".into(),
            env_var: input.name.clone(),
            description: input.description.clone(),
            required: input.required,
            secret: input.secret,
            format: if input.multiple && input.format != "filepath" { "string".into() } else { input.format.clone() },
            choices: None,
            default_value: input.default.clone(),
        };
        self.inputs.iter().map(declared).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_becomes_what_a_document_would_declare() {
        let manifest = json!({
            "manifest_version": "0.3", "name": "files", "version": "1.0.0", "description": "x", "author": { "name": "x" },
            "server": { "type": "node", "entry_point": "server/index.js", "mcp_config": {
                "command": "node", "args": ["${__dirname}/server/index.js", "--level=${user_config.level}", "${user_config.folders}"],
                "env": { "API_KEY": "${user_config.api_key}", "MODE": "plain" },
                "platform_overrides": { "win32": { "command": "node.exe" }, "linux": { "env": { "MODE": "linux" } } },
            } },
            "user_config": {
                "folders": { "type": "directory", "title": "Folders", "multiple": true, "required": true, "default": ["${HOME}/Desktop"] },
                "api_key": { "type": "string", "title": "Key", "description": "the key", "sensitive": true },
                "level": { "type": "number", "title": "Level", "default": 3 },
            },
        });
        let bundle = understand(&manifest.to_string()).unwrap();
        assert_eq!((&bundle.program, bundle.env["MODE"].as_str()), (&BundleProgram::Node, "linux"));
        let entry = Value::Object(bundle.entry(Path::new("/t"), &["more".into()]));
        let arguments = &entry["packageArguments"];
        assert_eq!(arguments[0]["value"], "/t/bundle/server/index.js");
        assert_eq!((&arguments[1]["value"], &arguments[1]["variables"]["level"]["default"]), (&json!("--level={level}"), &json!("3")));
        assert_eq!((&arguments[2]["value"], &arguments[2]["isRepeated"]), (&json!("{folders}"), &json!(true)));
        assert_eq!((&arguments[2]["variables"]["folders"]["default"], &arguments[3]["value"]), (&Value::Null, &json!("more")));
        assert_eq!(entry["environmentVariables"][0]["variables"]["api_key"]["isSecret"], true);
        let declared: Vec<_> =
            bundle.declared().into_iter().map(|input| (input.env_var, input.format, input.secret, input.required)).collect();
        let wanted = [("api_key", "string", true, false), ("folders", "filepath", false, true), ("level", "number", false, false)];
        assert_eq!(declared, wanted.map(|(name, format, secret, required)| (name.into(), format.into(), secret, required)));
    }

    #[test]
    fn python_finds_the_modules_of_its_bundle_alone() {
        let python = |path: &str| {
            let config = json!({ "command": "python", "args": ["-m", "server"], "env": { "PYTHONPATH": path } });
            understand(&json!({ "server": { "type": "python", "entry_point": "server/main.py", "mcp_config": config } }).to_string())
        };
        assert_eq!(python("${__dirname}/server/lib:${__dirname}").unwrap().python_path, ["server/lib", ""]);
        for path in ["/usr/lib/evil", "${__dirname}/../x", "${HOME}/x", "server/lib"] {
            assert!(python(path).is_err(), "{path}");
        }
    }

    #[test]
    fn what_cannot_run_here_says_why() {
        let server = |server: Value| understand(&json!({ "server": server }).to_string()).unwrap_err();
        assert!(server(json!({ "type": "uv", "entry_point": "x.py" })).contains("fetch"));
        assert!(server(json!({ "type": "ruby", "entry_point": "x.rb" })).contains("neither"));
        let with = |config: Value| server(json!({ "type": "node", "entry_point": "x.js", "mcp_config": config }));
        for command in ["/bin/sh", "npx", "../x", "${__dirname}/../../bin/sh", "${HOME}/x", ""] {
            assert!(with(json!({ "command": command })).contains("its command"), "{command}");
        }
        assert!(with(json!({ "command": "node", "env": { "NODE_OPTIONS": "--require=/x" } })).contains("which program runs"));
        assert!(with(json!({ "command": "node", "args": ["${HOME}/x"] })).contains("not on a server"));
        assert!(with(json!({ "command": "node", "args": ["${user_config.none}"] })).contains("not on a server"));
        let elsewhere = json!({ "server": { "type": "binary", "entry_point": "x" }, "compatibility": { "platforms": ["darwin"] } });
        assert_eq!(understand(&elsewhere.to_string()), Err("it is not for Linux"));
        assert!(understand("[]").is_err() && understand("{}").is_err());
        let own = understand(&json!({ "server": { "type": "binary", "entry_point": "bin/x" } }).to_string()).unwrap();
        assert_eq!(own.program, BundleProgram::Own("bin/x".into()));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC*", arg in "\\PC*") {
            understand(&text).ok();
            let manifest = json!({ "server": { "type": "node", "entry_point": arg, "mcp_config": { "args": [arg] } } });
            if let Ok(bundle) = understand(&manifest.to_string()) {
                bundle.entry(Path::new("/t"), &[]);
            }
        }
    }
}
