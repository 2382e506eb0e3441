//! Documents of the sizes and shapes that real ones have.

use serde::Serialize;
use serde_json::json;

use crate::{
    servers::Server,
    words::{OBJECTS, Random, SCHEMAS, VARIABLES, VERBS, capital},
};

#[derive(Serialize)]
pub(crate) struct Entry<'a> {
    pub(crate) server: Document<'a>,
    #[serde(rename = "_meta")]
    pub(crate) meta: Outer<'a>,
}

#[derive(Serialize)]
pub(crate) struct Outer<'a> {
    #[serde(rename = "io.modelcontextprotocol.registry/official")]
    pub(crate) official: Official<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Official<'a> {
    pub(crate) status: &'a str,
    pub(crate) status_changed_at: String,
    pub(crate) published_at: String,
    pub(crate) updated_at: String,
    pub(crate) is_latest: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document<'a> {
    #[serde(rename = "$schema")]
    pub(crate) schema: String,
    pub(crate) name: &'a str,
    pub(crate) description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) title: Option<String>,
    pub(crate) repository: serde_json::Value,
    pub(crate) version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) website_url: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) icons: Vec<serde_json::Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) packages: Vec<serde_json::Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) remotes: Vec<serde_json::Value>,
}

impl<'a> Document<'a> {
    pub(crate) fn of(random: &mut Random, server: &'a Server, version: &'a str) -> Self {
        let (namespace, own) = server.name.split_once('/').unwrap_or_default();
        let owner = namespace.split('.').next_back().unwrap_or_default();
        let shape = server.shape;
        let icon = || json!({ "src": format!("https://{owner}.example.com/icons/{own}.png"), "mimeType": "image/png", "sizes": ["96x96"] });
        Self {
            schema: format!("https://static.modelcontextprotocol.io/schemas/{}/server.schema.json", random.pick(SCHEMAS)),
            name: &server.name,
            description: &server.description,
            title: random.chance(500).then(|| format!("{} {}", server.brand, capital(server.topic))),
            repository: match random.below(8) {
                0 => json!({}),
                _ => json!({ "url": format!("https://github.com/{owner}/{own}"), "source": "github" }),
            },
            version,
            website_url: random.chance(180).then(|| format!("https://{owner}.example.com/docs/{own}")),
            icons: shape.icons.then(icon).into_iter().collect(),
            packages: (0..shape.packages).map(|number| package(random, server, owner, own, version, number)).collect(),
            remotes: (0..shape.remotes).map(|number| remote(owner, own, number, shape.variables)).collect(),
        }
    }
}

pub(crate) fn package(random: &mut Random, server: &Server, owner: &str, own: &str, version: &str, number: usize) -> serde_json::Value {
    let variables: Vec<_> = (0..server.shape.variables).map(|nth| variable(random, server, nth)).collect();
    let mut package = match (own.len() + number) % 8 {
        0..4 => {
            json!({ "registryType": "npm", "identifier": format!("@{}/{own}", owner.to_lowercase()), "version": version, "runtimeHint": "npx" })
        }
        4 | 5 => json!({ "registryType": "oci", "identifier": format!("ghcr.io/{}/{own}:{version}", owner.to_lowercase()) }),
        6 => json!({ "registryType": "pypi", "identifier": own, "version": version, "runtimeHint": "uvx" }),
        _ => json!({
            "registryType": "mcpb",
            "identifier": format!("https://github.com/{owner}/{own}/releases/download/v{version}/{own}.mcpb"),
            "fileSha256": random.hex(64),
        }),
    };
    package["transport"] = json!({ "type": "stdio" });
    if !variables.is_empty() {
        package["environmentVariables"] = variables.into();
    }
    package
}

pub(crate) fn variable(random: &mut Random, server: &Server, number: usize) -> serde_json::Value {
    let own = VARIABLES[number % VARIABLES.len()];
    let is_secret = own.ends_with("KEY") || own.ends_with("TOKEN") || own.ends_with("SECRET") || own.ends_with("PASSWORD");
    let prefix = server.brand.to_uppercase();
    let described = format!(
        "{} of your {} account, to {} {}",
        capital(&own.to_lowercase().replace('_', " ")),
        server.brand,
        random.pick(VERBS),
        random.pick(OBJECTS)
    );
    json!({ "name": format!("{prefix}_{own}"), "description": described, "isRequired": number == 0, "isSecret": is_secret, "format": "string" })
}

pub(crate) fn remote(owner: &str, own: &str, number: usize, headers: usize) -> serde_json::Value {
    let kind = if number.is_multiple_of(2) { "streamable-http" } else { "sse" };
    let mut remote = json!({ "type": kind, "url": format!("https://mcp-{number}.{owner}.example.com/{own}") });
    if headers > 0 {
        remote["headers"] =
            json!([{ "name": "Authorization", "description": "Bearer token for the API", "isRequired": true, "isSecret": true }]);
    }
    remote
}
