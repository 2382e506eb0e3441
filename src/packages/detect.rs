//! What there is to start in a package.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
};

use serde_json::Value;

use crate::{
    error::{PackagesError, at},
    manifest::{Manifest, beneath},
    model::Entry,
};

/// By `bin`, else by `main`, else `index.js`. Paths are checked: they stay in the package's own folder.
pub(crate) fn npm(tree: &Path, name: &str) -> Result<Entry, PackagesError> {
    let folder = format!("node_modules/{name}");
    let none = |why| PackagesError::NoEntry(name.to_owned(), why);
    let manifest = Manifest::read(&tree.join(&folder)).map_err(none)?;
    let base = name.rsplit('/').next().unwrap_or_default();
    let found = script_of(&manifest.bin, base)
        .map(str::to_owned)
        .or(manifest.main.as_ref().and_then(Value::as_str).map(str::to_owned))
        .unwrap_or_else(|| "index.js".into());
    let own = beneath(&found).ok_or_else(|| none("the script that its package.json names is not in it"))?;
    let candidates = [own.clone(), format!("{own}.js"), format!("{own}/index.js")];
    let is_file = |path: &&String| tree.join(&folder).join(path).is_file();
    let own = candidates.iter().find(is_file).ok_or_else(|| none("the script that its package.json names is not in it"))?;
    let path = format!("{folder}/{own}");
    Ok(if is_for_node(&tree.join(&path))? { Entry::Node { path } } else { Entry::Program { path } })
}

/// The one that is called like the package, else the only one, else one that speaks of MCP, else the first.
fn script_of<'a>(bin: &'a Value, base: &str) -> Option<&'a str> {
    match bin {
        Value::String(path) => Some(path),
        Value::Object(bins) => {
            let named = |wanted: &dyn Fn(&str) -> bool| bins.iter().find(|(name, _)| wanted(name)).and_then(|(_, path)| path.as_str());
            named(&|name| name == base).or_else(|| named(&|name| name.contains("mcp"))).or_else(|| named(&|_| true))
        }
        _ => None,
    }
}

/// Scripts are for Node, whatever they are called; what begins otherwise is a program.
fn is_for_node(path: &Path) -> Result<bool, PackagesError> {
    let mut line = Vec::new();
    let file = fs::File::open(path).map_err(at(path))?;
    BufReader::new(file.take(256)).read_until(b'\n', &mut line).map_err(at(path))?;
    Ok(match line.strip_prefix(b"#!") {
        Some(program) => String::from_utf8_lossy(program).contains("node"),
        None => !line.starts_with(b"\x7fELF"),
    })
}

/// By the console scripts of the project, else as a module. `tree` has the environment in `venv`.
pub(crate) fn python(tree: &Path, name: &str) -> Result<Entry, PackagesError> {
    let none = |why| PackagesError::NoEntry(name.to_owned(), why);
    let site = site_packages(tree).ok_or_else(|| none("its environment has no packages"))?;
    let scripts = console_scripts(&site, name)?;
    let chosen = scripts.iter().find(|script| normal(script) == normal(name));
    let chosen = chosen.or_else(|| scripts.iter().find(|script| script.contains("mcp"))).or(scripts.first());
    if let Some(script) = chosen {
        return Ok(Entry::Script { path: format!("venv/bin/{script}") });
    }
    let module = normal(name).replace('-', "_");
    if site.join(&module).join("__main__.py").is_file() {
        return Ok(Entry::Module { name: module });
    }
    Err(none("it has no console script, and no module that can be run"))
}

fn site_packages(tree: &Path) -> Option<std::path::PathBuf> {
    let versions = fs::read_dir(tree.join("venv/lib")).ok()?;
    versions.flatten().map(|entry| entry.path().join("site-packages")).find(|path| path.is_dir())
}

/// The form in which names of projects are compared (PEP 503).
fn normal(name: &str) -> String {
    name.to_ascii_lowercase().split(['-', '_', '.']).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

/// The names below `[console_scripts]` in the `entry_points.txt` of a project.
fn console_scripts(site: &Path, name: &str) -> Result<Vec<String>, PackagesError> {
    let is_own = |folder: &str| {
        folder.strip_suffix(".dist-info").and_then(|rest| rest.rsplit_once('-')).is_some_and(|(own, _)| normal(own) == normal(name))
    };
    for entry in fs::read_dir(site).map_err(at(site))? {
        let entry = entry.map_err(at(site))?;
        if entry.file_name().to_str().is_some_and(is_own) {
            let text = fs::read_to_string(entry.path().join("entry_points.txt")).unwrap_or_default();
            return Ok(scripts_in(&text));
        }
    }
    Ok(Vec::new())
}

/// Names of files, never of anything else.
pub(crate) fn scripts_in(text: &str) -> Vec<String> {
    let lines =
        text.lines().map(str::trim).skip_while(|line| *line != "[console_scripts]").skip(1).take_while(|line| !line.starts_with('['));
    let names = lines.filter_map(|line| Some(line.split_once('=')?.0.trim()));
    let is_plain = |name: &&str| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) && !name.starts_with('.')
    };
    names.filter(is_plain).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(manifest: &Value, files: &[(&str, &str)]) -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        let folder = tree.path().join("node_modules/@a/b");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("package.json"), manifest.to_string()).unwrap();
        for (path, text) in files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        tree
    }

    #[test]
    fn the_script_of_a_package_is_found() {
        let node = |path: &str| Entry::Node { path: format!("node_modules/@a/b/{path}") };
        for (manifest, entry) in [
            (json!({ "bin": "./dist/cli.js" }), node("dist/cli.js")),
            (json!({ "bin": { "x": "x.js", "b": "dist/cli.js" } }), node("dist/cli.js")),
            (json!({ "bin": { "other": "x.js", "b-mcp": "dist/cli.js" } }), node("dist/cli.js")),
            (json!({ "main": "dist/cli" }), node("dist/cli.js")),
            (json!({ "main": "lib" }), node("lib/index.js")),
            (json!({}), node("index.js")),
            (json!({ "bin": "native" }), Entry::Program { path: "node_modules/@a/b/native".into() }),
        ] {
            let files =
                [("dist/cli.js", "#!/usr/bin/env node\n"), ("x.js", ""), ("lib/index.js", ""), ("index.js", ""), ("native", "#!/bin/sh\n")];
            let tree = package(&manifest, &files);
            assert_eq!(npm(tree.path(), "@a/b").unwrap(), entry, "{manifest}");
        }
    }

    #[test]
    fn nothing_outside_of_a_package_is_its_script() {
        for manifest in
            [json!({ "bin": "../../../x.js" }), json!({ "main": "/etc/passwd" }), json!({ "bin": "missing.js" }), json!({ "bin": "" })]
        {
            let tree = package(&manifest, &[]);
            assert!(matches!(npm(tree.path(), "@a/b"), Err(PackagesError::NoEntry(..))), "{manifest}");
        }
    }

    #[test]
    fn console_scripts_are_read() {
        let text = "[gui_scripts]\nno = a:b\n[console_scripts]\nmcp-server-time = mcp_server_time:main\n../x = y:z\n[other]\nz = y:x\n";
        assert_eq!(scripts_in(text), ["mcp-server-time"]);
    }
}
