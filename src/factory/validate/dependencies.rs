//! What a project depends on: exact versions, no scripts that run at an install, and what it names is there.

use serde_json::Value;

use crate::{finding::Finding, generate::Files};

const INSTALL_SCRIPTS: [&str; 4] = ["preinstall", "install", "postinstall", "prepare"];
const LOCKS: [&str; 3] = ["package-lock.json", "npm-shrinkwrap.json", "pnpm-lock.yaml"];

/// Looks at `package.json`, or else at `pyproject.toml`; nothing where there is neither.
pub(crate) fn check(files: &Files) -> Option<Vec<Finding>> {
    if let Some(bytes) = files.get("package.json") {
        return Some(match serde_json::from_slice(bytes) {
            Ok(package) => of_node(&package, files),
            Err(error) => vec![Finding::error("package-json", "package.json", format!("is not JSON: {error}"))],
        });
    }
    files.get("pyproject.toml").map(|bytes| of_python(&String::from_utf8_lossy(bytes), files))
}

/// Of a project in Python, only one without dependencies is looked at closely: requirements of others are for `pip` to settle.
fn of_python(project: &str, files: &Files) -> Vec<Finding> {
    let mut found = Vec::new();
    let of = |name: &str| {
        let line = project.lines().find(|line| line.split('=').next().is_some_and(|key| key.trim() == name));
        line.and_then(|line| line.split_once('=')).map(|(_, value)| value.trim().to_owned())
    };
    for name in ["name", "version"] {
        if of(name).is_none() {
            found.push(Finding::error("pyproject", "pyproject.toml", format!("has no {name}")));
        }
    }
    let needs = of("dependencies").is_some_and(|list| list != "[]");
    let lines = project.lines().map(str::trim).filter(|line| line.starts_with('"') && !line.contains("=="));
    if needs {
        for line in lines {
            found.push(Finding::error(
                "dependency-unpinned",
                "pyproject.toml",
                format!("{} is not pinned by ==", crate::text::line(line, 80)),
            ));
        }
    }
    if !files.contains_key("server.py") && of("dependencies").is_none() && !project.contains("[project.scripts]") {
        found.push(Finding::warning("program-missing", "pyproject.toml", "names no program"));
    }
    found
}

fn of_node(package: &Value, files: &Files) -> Vec<Finding> {
    let mut found = Vec::new();
    for name in ["name", "version"] {
        if package[name].as_str().is_none_or(str::is_empty) {
            found.push(Finding::error("package-json", "package.json", format!("has no {name}")));
        }
    }
    for event in INSTALL_SCRIPTS {
        if package["scripts"].get(event).is_some() {
            found.push(Finding::error("install-script", "package.json", format!("its script `{event}` would run at an install")));
        }
    }
    let mut count = 0;
    for group in ["dependencies", "optionalDependencies"] {
        for (name, range) in package[group].as_object().into_iter().flatten() {
            count += 1;
            let range = range.as_str().unwrap_or_default();
            if semver::Version::parse(range).is_err() {
                found.push(Finding::error(
                    "dependency-unpinned",
                    "package.json",
                    format!("`{name}` has the range `{range}`, not an exact version"),
                ));
            }
        }
    }
    if count > 0 && !LOCKS.iter().any(|lock| files.contains_key(*lock)) && package["bundleDependencies"].is_null() {
        found.push(Finding::warning("lock-missing", "package.json", "there is no lock file: what its dependencies need is not fixed"));
    }
    if let Some(lock) = files.get("package-lock.json").and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok()) {
        for (place, entry) in lock["packages"].as_object().into_iter().flatten().filter(|(place, _)| !place.is_empty()) {
            if entry["link"] != true && entry["integrity"].as_str().is_none_or(|digest| !digest.starts_with("sha512-")) {
                found.push(Finding::error("lock-integrity", "package-lock.json", format!("`{place}` has no SHA-512 digest")));
            }
        }
    }
    let bins: Vec<&str> = match &package["bin"] {
        Value::String(path) => vec![path],
        Value::Object(all) => all.values().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    for path in bins.iter().copied().chain(package["main"].as_str()) {
        if !files.contains_key(path.trim_start_matches("./")) {
            found.push(Finding::error("program-missing", "package.json", format!("names `{path}`, which is not there")));
        }
    }
    if package["license"].as_str().is_none_or(str::is_empty) {
        found.push(Finding::warning("license-missing", "package.json", "says no license"));
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ids(package: &Value) -> Vec<String> {
        let files = Files::from([("package.json".to_owned(), package.to_string().into_bytes()), ("x.js".to_owned(), Vec::new())]);
        check(&files).unwrap().into_iter().map(|found| found.id).collect()
    }

    #[test]
    fn what_could_change_or_run_by_itself_is_found() {
        assert_eq!(ids(&json!({ "name": "a", "version": "1.0.0", "license": "MIT", "bin": "./x.js" })), [""; 0]);
        let bad = json!({ "name": "a", "version": "1.0.0", "bin": { "a": "no.js" }, "scripts": { "postinstall": "x" }, "dependencies": { "b": "^1.0.0" } });
        assert_eq!(ids(&bad), ["install-script", "dependency-unpinned", "lock-missing", "program-missing", "license-missing"]);
    }
}
