//! The `package.json` of a package of npm that was unpacked.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Component, Path},
};

use serde::Deserialize;
use serde_json::{Map, Value};

/// What it may measure.
const LARGEST: u64 = 4 << 20;

/// What is read of it.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Manifest {
    #[serde(default)]
    pub(crate) bin: Value,
    pub(crate) main: Option<Value>,
    #[serde(default)]
    scripts: Value,
    #[serde(default)]
    gypfile: Value,
}

impl Manifest {
    /// Reads the one in a folder; says why it cannot.
    pub(crate) fn read(folder: &Path) -> Result<Self, &'static str> {
        let mut text = String::new();
        let file = fs::File::open(folder.join("package.json")).map_err(|_| "it has no package.json")?;
        file.take(LARGEST).read_to_string(&mut text).map_err(|_| "its package.json is not text")?;
        serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|_| "its package.json is not JSON")
    }

    /// The scripts of an install, in their order: names and command lines. As with npm, a package with a `binding.gyp` is
    /// compiled where it says nothing else.
    pub(crate) fn install_scripts(&self, folder: &Path) -> Vec<(&'static str, String)> {
        let of = |name: &str| self.scripts.get(name).and_then(Value::as_str).map(str::to_owned);
        let says_nothing = of("preinstall").is_none() && of("install").is_none();
        let is_compiled = says_nothing && self.gypfile != Value::Bool(false) && folder.join("binding.gyp").is_file();
        let install = of("install").or_else(|| is_compiled.then(|| "node-gyp rebuild".to_owned()));
        let all = [("preinstall", of("preinstall")), ("install", install), ("postinstall", of("postinstall"))];
        all.into_iter().filter_map(|(name, script)| Some((name, script.filter(|script| !script.trim().is_empty())?))).collect()
    }

    /// The commands that it has for others, and their files in its folder.
    pub(crate) fn commands(&self, name: &str) -> BTreeMap<String, String> {
        let base = name.rsplit('/').next().unwrap_or_default();
        let all = match &self.bin {
            Value::String(path) => Map::from_iter([(base.to_owned(), Value::from(path.as_str()))]),
            Value::Object(bins) => bins.clone(),
            _ => Map::new(),
        };
        let is_name = |name: &String| beneath(name).is_some_and(|plain| plain == *name && !plain.contains('/'));
        all.into_iter().filter(|(name, _)| is_name(name)).filter_map(|(name, path)| Some((name, beneath(path.as_str()?)?))).collect()
    }
}

/// A relative path without `..`, in its plain form.
pub(crate) fn beneath(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::CurDir => {}
            Component::Normal(part) => parts.push(part.to_str()?),
            _ => return None,
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(manifest: &Value) -> Manifest {
        serde_json::from_value(manifest.clone()).unwrap()
    }

    #[test]
    fn the_scripts_of_an_install_are_those_of_npm() {
        let (plain, native) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(native.path().join("binding.gyp"), "{}").unwrap();
        let names =
            |manifest: &Value, folder: &Path| of(manifest).install_scripts(folder).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        let all = json!({ "scripts": { "postinstall": "c", "install": "b", "preinstall": "a", "prepare": "d", "test": "e" } });
        assert_eq!(names(&all, plain.path()), ["preinstall", "install", "postinstall"]);
        assert_eq!(names(&json!({}), native.path()), ["install"], "it is compiled");
        for said in [json!({ "gypfile": false }), json!({ "scripts": { "install": " " } })] {
            assert!(names(&said, native.path()).is_empty(), "{said}");
        }
        assert_eq!(names(&json!({ "scripts": { "preinstall": "x" } }), native.path()), ["preinstall"]);
        for odd in [json!({}), json!({ "scripts": [] }), json!({ "scripts": { "install": 1 } })] {
            assert!(names(&odd, plain.path()).is_empty(), "{odd}");
        }
    }

    #[test]
    fn commands_are_names_and_stay_inside() {
        let commands = |bin: Value| of(&json!({ "bin": bin })).commands("@a/b");
        assert_eq!(commands(json!("./cli.js")), BTreeMap::from([("b".into(), "cli.js".into())]));
        assert_eq!(commands(json!({ "x": "a/x.js", "../y": "y.js", "a/z": "z.js", "w": "../w.js", "v": 1 })).len(), 1);
        assert!(commands(json!(null)).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn no_path_of_a_manifest_leads_out(path in "\\PC*") {
            if let Some(own) = beneath(&path) {
                proptest::prop_assert!(!own.split('/').any(|part| part == ".." || part.is_empty()));
            }
        }
    }
}
