//! Documents that lie beside a server: what clients, registries and auditors read of it.

use serde_json::{Map, Value, json};
use servers::validate::CURRENT_SCHEMA;

use super::{archive_name, bundle_name};
use crate::{
    generate::{Language, entry},
    make,
    spec::{ServerSpec, Variable},
};

/// What an MCP client's file has of a server: how to start it from its archive, and the variables that it reads.
pub(crate) fn claude_config(spec: &ServerSpec, language: Language, archive: &str) -> Value {
    let (command, args) = match language {
        Language::Node => ("npx", json!(["-y", archive])),
        Language::Python => ("uvx", json!(["--from", archive, spec.name])),
    };
    let wanted = spec.variables().into_iter().filter(|variable| variable.is_needed || variable.is_secret);
    let env: Map<String, Value> =
        wanted.map(|variable| (variable.name.clone(), format!("<{}>", variable.name.to_lowercase()).into())).collect();
    json!({ "mcpServers": { spec.name.clone(): { "command": command, "args": args, "env": env } } })
}

/// `manifest.json`. Where it is inside of the archive, neither the place nor the digests of that are known.
pub(super) fn manifest(spec: &ServerSpec, language: Language, archive: Option<&str>, digests: Option<(&str, &str)>) -> Value {
    let name = archive_name(spec);
    let mut manifest = json!({
        "name": spec.name,
        "version": spec.version,
        "description": spec.description,
        "runtime": language.as_str(),
        "package": archive.unwrap_or(&name),
        "tools": spec.tools.iter().map(|tool| json!({ "name": tool.name, "title": tool.title })).collect::<Vec<_>>(),
        "claude_config": claude_config(spec, language, archive.unwrap_or(&name)),
        "spec_sha256": spec_digest(spec),
    });
    if let Some((archive, bundle)) = digests {
        manifest["sha256"] = json!({ name: archive, bundle_name(spec): bundle });
    }
    manifest
}

/// The digest of a specification, in the order of its members.
pub(crate) fn spec_digest(spec: &ServerSpec) -> String {
    crate::digest::sha256_hex(&serde_json::to_vec(spec).unwrap_or_default())
}

fn user_config(variables: &[Variable]) -> Map<String, Value> {
    let one = |variable: &Variable| {
        let title = crate::names::capital(&variable.name.to_lowercase().replace('_', " "));
        let mut described = json!({
            "type": "string",
            "title": title,
            "description": variable.description,
            "sensitive": variable.is_secret,
            "required": variable.is_needed,
        });
        if !variable.is_needed {
            described["default"] = "".into();
        }
        (variable.name.to_lowercase(), described)
    };
    variables.iter().map(one).collect()
}

/// The manifest of a bundle (MCPB 0.3), which has nothing in it that its schema does not know.
pub(super) fn bundle_manifest(spec: &ServerSpec, language: Language) -> Value {
    let program = entry(language);
    let variables = spec.variables();
    let env: Map<String, Value> = variables
        .iter()
        .map(|variable| (variable.name.clone(), format!("${{user_config.{}}}", variable.name.to_lowercase()).into()))
        .collect();
    let (kind, command, runtimes) = match language {
        Language::Node => ("node", "node", json!({ "node": ">=20.3" })),
        Language::Python => ("python", "python3", json!({ "python": ">=3.10" })),
    };
    let mut manifest = json!({
        "manifest_version": "0.3",
        "name": spec.name,
        "display_name": spec.title.as_deref().unwrap_or(&spec.name),
        "version": spec.version,
        "description": spec.description,
        "author": { "name": "MCP Fabric" },
        "server": {
            "type": kind,
            "entry_point": program,
            "mcp_config": { "command": command, "args": [format!("${{__dirname}}/{program}")], "env": env },
        },
        "tools": spec.tools.iter().map(|tool| json!({ "name": tool.name, "description": crate::text::line(&tool.description, 200) })).collect::<Vec<_>>(),
        "compatibility": { "platforms": ["darwin", "win32", "linux"], "runtimes": runtimes },
        "license": "MIT",
    });
    if !variables.is_empty() {
        manifest["user_config"] = user_config(&variables).into();
    }
    manifest
}

/// A `server.json` of the present schema, whose package is the bundle.
pub(super) fn server_json(spec: &ServerSpec, bundle_url: &str, bundle_sha256: &str) -> Value {
    let variables: Vec<Value> = spec
        .variables()
        .iter()
        .map(|variable| json!({ "name": variable.name, "description": variable.description, "isRequired": variable.is_needed, "isSecret": variable.is_secret }))
        .collect();
    let mut package = json!({
        "registryType": "mcpb",
        "identifier": bundle_url,
        "fileSha256": bundle_sha256,
        "transport": { "type": "stdio" },
    });
    if !variables.is_empty() {
        package["environmentVariables"] = variables.into();
    }
    let mut document = json!({
        "$schema": CURRENT_SCHEMA,
        "name": make::registry_name(&spec.name),
        "description": spec.description,
        "version": spec.version,
        "packages": [package],
    });
    if let Some(title) = &spec.title {
        document["title"] = title.clone().into();
    }
    document
}

/// What it consists of (`CycloneDX` 1.6). Nothing of it depends on when it was made.
pub(super) fn sbom(spec: &ServerSpec, language: Language) -> Value {
    let runtime = match language {
        Language::Node => ("mcp-fabric-runtime-node", crate::digest::sha256_hex(crate::generate::NODE_BUNDLE.as_bytes())),
        Language::Python => ("mcp-fabric-runtime-python", crate::digest::sha256_hex(crate::generate::PYTHON_RUNTIME.as_bytes())),
    };
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": { "type": "application", "bom-ref": spec.name, "name": spec.name, "version": spec.version, "description": spec.description },
            "tools": { "components": [{ "type": "application", "name": "mcp-fabric", "version": env!("CARGO_PKG_VERSION") }] },
        },
        "components": [{
            "type": "library",
            "bom-ref": runtime.0,
            "name": runtime.0,
            "version": env!("CARGO_PKG_VERSION"),
            "hashes": [{ "alg": "SHA-256", "content": runtime.1 }],
            "licenses": [{ "license": { "id": "MIT" } }],
        }],
        "dependencies": [{ "ref": spec.name, "dependsOn": [runtime.0] }, { "ref": runtime.0, "dependsOn": [] }],
    })
}
