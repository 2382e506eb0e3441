//! The rules about packages that hold for every kind of registry.

use std::collections::BTreeSet;

use super::{address, place::Place, report::Issues, version};

/// Checks one package.
pub(super) fn check(package: &Place, issues: &mut Issues) {
    if package.text_or_empty("identifier").contains(' ') {
        issues.semantic(&package.path_of("identifier"), "package-name-has-spaces", "package name cannot contain spaces");
    }
    version::check(package, issues);
    for argument in arguments(package) {
        check_argument(&argument, issues);
    }
    if let Some(transport) = package.member("transport") {
        check_transport(&transport, &variables(package), issues);
    }
}

fn arguments<'a>(package: &Place<'a>) -> Vec<Place<'a>> {
    let mut all = package.list("runtimeArguments");
    all.extend(package.list("packageArguments"));
    all
}

fn check_argument(argument: &Place, issues: &mut Issues) {
    if argument.text("type") != Some("named") {
        return;
    }
    let name = argument.text_or_empty("name");
    check_argument_name(argument, name, issues);
    if argument.text("valueHint").is_some_and(|hint| !hint.is_empty()) {
        let message = "valueHint is only valid for positional arguments, not named arguments";
        issues.semantic(&argument.path_of("valueHint"), "value-hint-on-named-argument", message);
    }
    let starts_with_name = |text: &str| !name.is_empty() && text.starts_with(name);
    let value = argument.text_or_empty("value");
    if starts_with_name(value) {
        let message = format!("argument value cannot start with the argument name: value starts with argument name '{name}': {value}");
        issues.semantic(&argument.path_of("value"), "argument-value-starts-with-name", message);
    }
    let default = argument.text_or_empty("default");
    if starts_with_name(default) {
        let message =
            format!("argument default cannot start with the argument name: default starts with argument name '{name}': {default}");
        issues.semantic(&argument.path_of("default"), "argument-default-starts-with-name", message);
    }
}

/// A name like `--port 8080` or `--dir <path>` has something in it that belongs elsewhere.
fn check_argument_name(argument: &Place, name: &str, issues: &mut Issues) {
    let path = argument.path_of("name");
    if name.is_empty() {
        issues.semantic(&path, "named-argument-name-required", "named argument name is required");
    } else if name.contains(['<', '>', ' ', '$']) {
        issues.semantic(&path, "invalid-named-argument-name", format!("invalid named argument name format: {name}"));
    }
}

/// What `{variables}` in the URL of the package's transport may refer to.
fn variables<'a>(package: &Place<'a>) -> BTreeSet<&'a str> {
    let environment = package.list("environmentVariables");
    let names = environment.iter().filter_map(|variable| variable.text("name"));
    let arguments = arguments(package);
    let arguments = arguments.iter().flat_map(|argument| [argument.text("name"), argument.text("valueHint")]).flatten();
    names.chain(arguments).filter(|name| !name.is_empty()).collect()
}

fn check_transport(transport: &Place, variables: &BTreeSet<&str>, issues: &mut Issues) {
    let Some(kind) = transport.text("type") else { return };
    match kind {
        "stdio" => {
            let url = transport.text_or_empty("url");
            if !url.is_empty() {
                let message = format!("url must be empty for {kind} transport type, got: {url}");
                issues.semantic(&transport.path_of("url"), "stdio-transport-url-not-empty", message);
            }
        }
        "streamable-http" | "sse" => check_transport_url(transport, kind, variables, issues),
        _ => {
            let message = format!("unsupported transport type: {kind}");
            issues.semantic(&transport.path_of("type"), "unsupported-transport-type", message);
        }
    }
}

/// Packages run on the user's machine, so http and local hosts are fine here.
fn check_transport_url(transport: &Place, kind: &str, variables: &BTreeSet<&str>, issues: &mut Issues) {
    let url = transport.text_or_empty("url");
    let path = transport.path_of("url");
    if url.is_empty() {
        issues.semantic(&path, "streamable-transport-url-required", format!("url is required for {kind} transport type"));
    } else if !address::is_http(url) {
        issues.semantic(&path, "invalid-templated-url", format!("invalid package transport URL: {url}"));
    } else if !address::has_only_variables(url, variables) {
        let message = format!("invalid package transport URL: {}", undefined_variables(url, variables));
        issues.semantic(&path, "invalid-templated-url", message);
    }
}

/// The sentence about a URL that refers to something that is not there.
pub(super) fn undefined_variables(url: &str, known: &BTreeSet<&str>) -> String {
    let known: Vec<&str> = known.iter().copied().collect();
    format!("template variables in URL {url} reference undefined variables. Available variables: [{}]", known.join(" "))
}
