mod packages;

use serde_json::{Value, json};

use super::*;

const OLD_SCHEMA: &str = "https://static.modelcontextprotocol.io/schemas/2025-10-17/server.schema.json";
const PROVIDED: &str = "io.modelcontextprotocol.registry/publisher-provided";

/// A document that nothing can be said against.
fn sound() -> Value {
    json!({
        "$schema": definitions::CURRENT_SCHEMA,
        "name": "io.github.user/weather",
        "title": "Weather",
        "description": "Tells the weather.",
        "version": "1.0.0",
        "websiteUrl": "https://example.com",
        "repository": { "url": "https://github.com/user/weather", "source": "github", "subfolder": "src/server" },
        "icons": [{ "src": "https://example.com/i.png", "mimeType": "image/png", "sizes": ["48x48", "any"], "theme": "dark" }],
        "packages": [{
            "registryType": "npm",
            "identifier": "@user/weather",
            "version": "1.0.0",
            "runtimeArguments": [{ "type": "positional", "valueHint": "place", "isRepeated": true }],
            "packageArguments": [{ "type": "named", "name": "--port", "value": "{port}", "variables": { "port": { "format": "number" } } }],
            "environmentVariables": [{ "name": "API_KEY", "isSecret": true, "choices": ["a"] }],
            "transport": { "type": "streamable-http", "url": "http://localhost:{--port}/{place}" },
        }],
        "remotes": [{
            "type": "sse",
            "url": "https://{tenant}.example.com/sse",
            "headers": [{ "name": "X-Key" }],
            "variables": { "tenant": { "isRequired": true } },
        }],
        "_meta": { PROVIDED: { "tool": "by-hand" } },
    })
}

/// The sound document with one member set; `pointer` is a JSON pointer whose last part may be new.
fn with(pointer: &str, value: Value) -> Value {
    let mut document = sound();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = document.pointer_mut(parent).unwrap();
    match name.parse::<usize>() {
        Ok(index) => parent[index] = value,
        Err(_) => parent[name.replace("~1", "/")] = value,
    }
    document
}

/// The sound document without one member.
fn without(pointer: &str) -> Value {
    let mut document = sound();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    document.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name).unwrap();
    document
}

fn found(document: &Value) -> Vec<(String, String)> {
    let report = validate(document.to_string().as_bytes());
    assert_eq!(report.valid, report.issues.iter().all(|issue| issue.severity != Severity::Error));
    report.issues.into_iter().map(|issue| (issue.reference, issue.path)).collect()
}

#[track_caller]
fn assert_found(document: &Value, reference: &str, path: &str) {
    let found = found(document);
    assert!(found.contains(&(reference.to_owned(), path.to_owned())), "{reference} at {path} is not among {found:?}");
}

#[track_caller]
fn assert_sound(document: &Value) {
    assert_eq!(found(document), [], "{document}");
}

#[test]
fn a_sound_document_is_sound() {
    assert_sound(&sound());
    for member in ["title", "websiteUrl", "repository", "icons", "packages", "remotes", "_meta"] {
        assert_sound(&without(&format!("/{member}")));
    }
}

#[test]
fn malformed_json_is_placed_and_not_quoted() {
    for (text, message) in [
        ("{\"secret\": hunter2}", "malformed JSON at line 1 column 12"),
        ("{\n\"a\"", "JSON ends too early at line 2 column 3"),
        ("", "JSON ends too early at line 1 column 0"),
    ] {
        let report = validate(text.as_bytes());
        let [issue] = report.issues.as_slice() else { panic!("{report:?}") };
        assert_eq!((report.valid, issue.r#type, issue.severity), (false, IssueType::Json, Severity::Error));
        assert_eq!((issue.path.as_str(), issue.reference.as_str(), issue.message.as_str()), ("", "json-syntax-error", message));
    }
    assert!(!validate(b"{\"a\": \"\xff\"}").valid);
}

#[test]
fn reports_are_written_as_the_official_ones() {
    let report = serde_json::to_value(validate(b"[]")).unwrap();
    let issue = json!({ "type": "schema", "path": "", "message": "expected an object, got an array", "severity": "error", "reference": "schema-type-error" });
    assert_eq!(report, json!({ "valid": false, "issues": [issue] }));
}

#[test]
fn the_schema_version_is_looked_at() {
    assert_found(&without("/$schema"), "schema-missing-error", "$schema");
    assert_found(&with("/$schema", json!("")), "schema-empty-error", "$schema");
    assert_found(&with("/$schema", json!("x")), "schema-format-error", "$schema");
    assert_found(&with("/$schema", json!(1)), "schema-type-error", "$schema");
    let report = validate(with("/$schema", json!(OLD_SCHEMA)).to_string().as_bytes());
    assert!(report.valid);
    assert_eq!(report.issues[0].severity, Severity::Warning);
}

#[test]
fn required_members() {
    for (pointer, path) in [
        ("/name", "name"),
        ("/description", "description"),
        ("/version", "version"),
        ("/repository/url", "repository.url"),
        ("/repository/source", "repository.source"),
        ("/icons/0/src", "icons[0].src"),
        ("/packages/0/registryType", "packages[0].registryType"),
        ("/packages/0/identifier", "packages[0].identifier"),
        ("/packages/0/transport", "packages[0].transport"),
        ("/packages/0/transport/type", "packages[0].transport.type"),
        ("/packages/0/transport/url", "packages[0].transport.url"),
        ("/packages/0/packageArguments/0/name", "packages[0].packageArguments[0].name"),
        ("/packages/0/environmentVariables/0/name", "packages[0].environmentVariables[0].name"),
        ("/remotes/0/type", "remotes[0].type"),
        ("/remotes/0/url", "remotes[0].url"),
        ("/remotes/0/headers/0/name", "remotes[0].headers[0].name"),
    ] {
        assert_found(&without(pointer), "schema-required-error", path);
    }
    let empty = with("/repository", json!({}));
    assert_eq!(found(&empty), ["repository.url", "repository.source"].map(|path| ("schema-required-error".to_owned(), path.to_owned())));
}

#[test]
fn schema_rules() {
    let argument = "/packages/0/packageArguments/0";
    for (pointer, value, reference, path) in [
        ("/name", json!("a/"), "schema-length-error", "name"),
        ("/name", json!(format!("aa/{}", "b".repeat(198))), "schema-length-error", "name"),
        ("/name", json!("a b/c"), "schema-pattern-error", "name"),
        ("/description", json!(""), "schema-length-error", "description"),
        ("/description", json!("é".repeat(101)), "schema-length-error", "description"),
        ("/description", Value::Null, "schema-type-error", "description"),
        ("/title", json!("t".repeat(101)), "schema-length-error", "title"),
        ("/version", json!("1".repeat(256)), "schema-length-error", "version"),
        ("/version", json!(1), "schema-type-error", "version"),
        ("/websiteUrl", json!("example.com"), "schema-format-error", "websiteUrl"),
        ("/repository/url", json!("not a url"), "schema-format-error", "repository.url"),
        ("/icons/0/src", json!(format!("https://example.com/{}", "i".repeat(255))), "schema-length-error", "icons[0].src"),
        ("/icons/0/mimeType", json!("image/gif"), "schema-enum-error", "icons[0].mimeType"),
        ("/icons/0/theme", json!("blue"), "schema-enum-error", "icons[0].theme"),
        ("/icons/0/sizes/0", json!("48"), "schema-pattern-error", "icons[0].sizes[0]"),
        ("/packages/0", json!(true), "schema-type-error", "packages[0]"),
        ("/packages/0/version", json!(""), "schema-length-error", "packages[0].version"),
        ("/packages/0/fileSha256", json!("ABC"), "schema-pattern-error", "packages[0].fileSha256"),
        ("/packages/0/runtimeArguments", json!(["--yes"]), "schema-type-error", "packages[0].runtimeArguments[0]"),
        ("/packages/0/runtimeArguments/0", json!({ "type": "positional" }), "schema-argument-error", "packages[0].runtimeArguments[0]"),
        ("/packages/0/transport/url", json!("ws://x"), "schema-pattern-error", "packages[0].transport.url"),
        ("/packages/0/transport/type", json!(1), "schema-type-error", "packages[0].transport.type"),
        (&format!("{argument}/type"), json!("flag"), "schema-enum-error", "packages[0].packageArguments[0].type"),
        (&format!("{argument}/isRequired"), json!("yes"), "schema-type-error", "packages[0].packageArguments[0].isRequired"),
        (
            &format!("{argument}/variables/port/format"),
            json!("x"),
            "schema-enum-error",
            "packages[0].packageArguments[0].variables.port.format",
        ),
        ("/remotes/0/type", json!("stdio"), "schema-enum-error", "remotes[0].type"),
        ("/remotes/0/variables", json!([]), "schema-type-error", "remotes[0].variables"),
        ("/license", json!("MIT"), "schema-unexpected-property-error", "license"),
        ("/packages/0/registry_type", json!("npm"), "schema-unexpected-property-error", "packages[0].registry_type"),
    ] {
        assert_found(&with(pointer, value), reference, path);
    }
    assert_sound(&with("/description", json!("é".repeat(100))));
}

#[test]
fn server_names() {
    let names = [
        ("", "server name is required and must be a string"),
        ("weather", "server name must be in format 'dns-namespace/name' (e.g., 'com.example.api/server')"),
        ("a/b/c", "server name cannot contain multiple slashes"),
        ("aa/", "server name must be in format 'dns-namespace/name' with non-empty namespace and name parts"),
        (".aa/bb", "server name format is invalid: namespace '.aa' is invalid."),
        ("a/bb", "server name format is invalid: namespace 'a' is invalid."),
        ("aa/b_", "server name format is invalid: name 'b_' is invalid."),
        ("aa/é", "server name format is invalid: name 'é' is invalid."),
    ];
    for (name, message) in names {
        let report = validate(with("/name", json!(name)).to_string().as_bytes());
        let issue = report.issues.iter().find(|issue| issue.reference == "invalid-server-name").unwrap();
        assert!(issue.message.starts_with(message), "{}", issue.message);
    }
    assert_found(&without("/name"), "invalid-server-name", "name");
    assert_sound(&with("/name", json!("io.github.User-1/a_b.c")));
}

#[test]
fn rules_about_the_server() {
    for (pointer, value, reference, path) in [
        ("/version", json!("latest"), "reserved-version-string", "version"),
        ("/version", json!("^1.2.3"), "version-looks-like-range", "version"),
        ("/repository/url", json!("https://gitlab.com/user/weather"), "invalid-repository-url", "repository.url"),
        ("/repository/url", json!("https://github.com/user"), "invalid-repository-url", "repository.url"),
        ("/repository/url", json!("https://github.com/a/b/c"), "invalid-repository-url", "repository.url"),
        ("/repository/source", json!("bitbucket"), "invalid-repository-url", "repository.url"),
        ("/repository/subfolder", json!("/src"), "invalid-subfolder-path", "repository.subfolder"),
        ("/repository/subfolder", json!("src/"), "invalid-subfolder-path", "repository.subfolder"),
        ("/repository/subfolder", json!("a/../b"), "invalid-subfolder-path", "repository.subfolder"),
        ("/repository/subfolder", json!("a b"), "invalid-subfolder-path", "repository.subfolder"),
        ("/websiteUrl", json!("https://a b"), "invalid-website-url", "websiteUrl"),
        ("/websiteUrl", json!("example.com"), "website-url-must-be-absolute", "websiteUrl"),
        ("/websiteUrl", json!("http://example.com"), "website-url-invalid-scheme", "websiteUrl"),
        ("/title", json!(" \t"), "title-whitespace-only", "title"),
        ("/icons/0/src", json!("https://%zz"), "icon-src-invalid-url", "icons[0].src"),
        ("/icons/0/src", json!("/i.png"), "icon-src-not-absolute", "icons[0].src"),
        ("/icons/0/src", json!("data:image/png;base64,AA=="), "icon-src-invalid-scheme", "icons[0].src"),
        ("/_meta/tools", json!([]), "meta-not-kept", "_meta.tools"),
    ] {
        assert_found(&with(pointer, value), reference, path);
    }
    for (pointer, value) in [
        ("/version", json!("2025-06-18")),
        ("/version", json!("1.0.1º")),
        ("/repository", json!({ "url": "http://www.gitlab.com/a.b/c_d/", "source": "gitlab" })),
    ] {
        assert_sound(&with(pointer, value));
    }
}

#[test]
fn publisher_provided_is_limited() {
    let pointer = format!("/_meta/{}", PROVIDED.replace('/', "~1"));
    let of_size = |size: usize| with(&pointer, json!({ "x": "y".repeat(size - r#"{"x":""}"#.len()) }));
    assert_sound(&of_size(4096));
    assert_found(&of_size(4097), "publisher-provided-too-large", &format!("_meta.{PROVIDED}"));
}

#[test]
fn a_server_should_be_of_some_use() {
    let mut document = without("/packages");
    document["remotes"] = json!([]);
    assert_found(&document, "nothing-to-run", "");
    assert!(validate(document.to_string().as_bytes()).valid);
}

#[test]
fn endless_issues_are_cut_off() {
    let report = validate(with("/packages", json!(vec![0; 10_000])).to_string().as_bytes());
    assert_eq!(report.issues.len(), 501);
    assert_eq!(report.issues[500].reference, "too-many-issues");
    let report = validate(with("/remotes/0/url", json!("é".repeat(100_000))).to_string().as_bytes());
    assert!(report.issues.iter().all(|issue| issue.message.chars().count() <= 601));
}

#[test]
fn odd_characters_are_survived_anywhere() {
    let text = sound().to_string();
    for (index, _) in text.char_indices() {
        for odd in ["é", "{", "%"] {
            let (before, behind) = text.split_at(index);
            validate(format!("{before}{odd}{}", &behind[1..]).as_bytes());
        }
        validate(&text.as_bytes()[..index]);
    }
}
