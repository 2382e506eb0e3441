use super::*;

/// The sound document with this as its only package.
fn package(value: &Value) -> Value {
    with("/packages", json!([value]))
}

#[test]
fn rules_about_packages() {
    let argument = "packages[0].packageArguments[0]";
    for (member, value, reference, path) in [
        ("identifier", json!("a b"), "package-name-has-spaces", "packages[0].identifier"),
        ("version", json!("latest"), "reserved-version-string", "packages[0].version"),
        ("version", json!("1.x"), "version-looks-like-range", "packages[0].version"),
        ("packageArguments/0/name", json!(""), "named-argument-name-required", &format!("{argument}.name")),
        ("packageArguments/0/name", json!("--port <n>"), "invalid-named-argument-name", &format!("{argument}.name")),
        ("packageArguments/0/value", json!("--port=1"), "argument-value-starts-with-name", &format!("{argument}.value")),
        ("packageArguments/0/default", json!("--port 1"), "argument-default-starts-with-name", &format!("{argument}.default")),
        ("packageArguments/0/valueHint", json!("port"), "value-hint-on-named-argument", &format!("{argument}.valueHint")),
        ("transport/type", json!("stdio"), "stdio-transport-url-not-empty", "packages[0].transport.url"),
        ("transport/type", json!("http"), "unsupported-transport-type", "packages[0].transport.type"),
        ("transport/url", json!(""), "streamable-transport-url-required", "packages[0].transport.url"),
        ("transport/url", json!("http://localhost:{nothing}"), "invalid-templated-url", "packages[0].transport.url"),
        ("transport/url", json!("localhost/mcp"), "invalid-templated-url", "packages[0].transport.url"),
        ("registryType", json!("smithery"), "unsupported-registry-type", "packages[0].registryType"),
        ("identifier", json!(""), "package-identifier-required", "packages[0].identifier"),
        ("fileSha256", json!("a".repeat(64)), "file-sha256-not-allowed", "packages[0].fileSha256"),
    ] {
        assert_found(&with(&format!("/packages/0/{member}"), value), reference, path);
    }
    assert_found(&without("/packages/0/version"), "package-version-required", "packages[0].version");
    assert_sound(&with("/packages/0/transport", json!({ "type": "stdio" })));
    assert_sound(&with("/packages/0/transport/url", json!("http://127.0.0.1:3000/{API_KEY}")));
}

#[test]
fn base_urls() {
    let mirror = "https://packages.example.com";
    let document = |registry: &str, url: &str| {
        package(
            &json!({ "registryType": registry, "registryBaseUrl": url, "identifier": "x", "version": "1", "transport": { "type": "stdio" } }),
        )
    };
    let path = "packages[0].registryBaseUrl";
    for registry in ["npm", "pypi"] {
        let document = document(registry, mirror);
        assert_found(&document, "registry-base-url-not-compared", path);
        assert!(validate(document.to_string().as_bytes()).valid);
        let expecting = |url: &str| {
            let expected = ExpectedRegistries { npm: Some(url.to_owned()), pypi: Some(url.to_owned()) };
            validate_with(document.to_string().as_bytes(), &expected)
        };
        assert!(expecting(mirror).issues.is_empty());
        let message = format!(
            "registry type and base URL do not match: '{mirror}' is not valid for registry type '{registry}'. Expected: https://other.example.com"
        );
        assert_eq!(expecting("https://other.example.com").issues[0].message, message);
    }
    for (registry, url) in [("nuget", "https://api.nuget.org"), ("nuget", "https://api.nuget.org/v3/index.json")] {
        assert_sound(&document(registry, url));
        assert_found(&document(registry, mirror), "registry-base-url-mismatch", path);
    }
    assert_found(&document("oci", mirror), "registry-base-url-not-allowed", path);
    assert_found(&document("mcpb", mirror), "registry-base-url-not-allowed", path);
}

#[test]
fn rules_about_images() {
    let image = |identifier: &str| package(&json!({ "registryType": "oci", "identifier": identifier, "transport": { "type": "stdio" } }));
    for identifier in
        ["docker.io/a/b:1", "ghcr.io/a/b:v1", "user/image:1", "eu-docker.pkg.dev/a/b/c:1", "x.azurecr.io/aa:1", "mcr.microsoft.com/a/b:1"]
    {
        assert_sound(&image(identifier));
    }
    for (identifier, reference) in [
        ("quay.io/a/b:1", "unsupported-oci-registry"),
        ("localhost:5000/a/b:1", "unsupported-oci-registry"),
        ("ghcr.io/A/b:1", "invalid-oci-reference"),
        ("ghcr.io/a/b", "oci-version-not-fixed"),
        ("ghcr.io/a/b:latest", "oci-version-not-fixed"),
    ] {
        assert_found(&image(identifier), reference, "packages[0].identifier");
    }
    let mut document = image("ghcr.io/a/b:1");
    document["packages"][0]["version"] = json!("1");
    document["packages"][0]["fileSha256"] = json!("a".repeat(64));
    assert_found(&document, "oci-version-not-allowed", "packages[0].version");
    assert_found(&document, "file-sha256-not-allowed", "packages[0].fileSha256");
}

#[test]
fn rules_about_bundles() {
    let bundle = |identifier: &str| {
        package(
            &json!({ "registryType": "mcpb", "identifier": identifier, "fileSha256": "a".repeat(64), "transport": { "type": "stdio" } }),
        )
    };
    for identifier in [
        "https://github.com/o/r/releases/download/v1/x.mcpb",
        "https://www.github.com/o/mcp/releases/download/v1/x.zip",
        "https://gitlab.com/g/s/r/-/releases/v1/downloads/x.mcpb",
        "https://gitlab.com/o/mcp/-/package_files/12/download",
    ] {
        assert_sound(&bundle(identifier));
    }
    for identifier in [
        "https://github.com/o/r/releases/download/v1/x.zip",
        "https://github.com/o/r/raw/main/x.mcpb",
        "https://github.com/-o/r/releases/download/v1/x.mcpb",
        "https://github.com:8443/o/r/releases/download/v1/x.mcpb",
        "http://github.com/o/r/releases/download/v1/x.mcpb",
        "https://gitlab.com/-/releases/v1/downloads/x.mcpb",
        "https://gitlab.com/o/mcp/-/package_files/x/download",
        "https://example.com/x.mcpb",
        "x.mcpb",
    ] {
        assert_found(&bundle(identifier), "invalid-mcpb-url", "packages[0].identifier");
    }
    let mut document = bundle("https://github.com/o/r/releases/download/v1/x.mcpb");
    document["packages"][0].as_object_mut().unwrap().remove("fileSha256");
    assert_found(&document, "file-sha256-required", "packages[0].fileSha256");
}

#[test]
fn rules_about_remotes() {
    for (member, value, reference, path) in [
        ("type", json!("stdio"), "unsupported-remote-transport-type", "remotes[0].type"),
        ("url", json!(""), "remote-transport-url-required", "remotes[0].url"),
        ("url", json!("http://example.com"), "invalid-remote-url", "remotes[0].url"),
        ("url", json!("https://localhost/mcp"), "invalid-remote-url", "remotes[0].url"),
        ("url", json!("https://192.168.1.1/mcp"), "invalid-remote-url", "remotes[0].url"),
        ("url", json!("https://{unknown}.example.com"), "invalid-templated-url", "remotes[0].url"),
    ] {
        assert_found(&with(&format!("/remotes/0/{member}"), value), reference, path);
    }
    assert_found(&without("/remotes/0/url"), "remote-transport-url-required", "remotes[0].url");
    assert_sound(&with("/remotes/0/url", json!("https://example.com:{tenant}/mcp")));
}
