//! The API document: made from the routes, served, and held to by a snapshot test.

use utoipa::{
    Modify, OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};

/// What stands around the routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "MCP Fabric",
        description = "Registry mirror, package cache, credential vault, runtime and gateway for MCP servers. \
            The paths under /v0.1 are the MCP registry API (https://github.com/modelcontextprotocol/registry), read-only. \
            Errors are application/problem+json with a stable `code`.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    tags(
        (name = "catalogue", description = "Servers, their versions, and what they need"),
        (name = "registry", description = "The MCP registry API for MCP clients"),
        (name = "sync", description = "The mirror of the upstream registry"),
        (name = "cache", description = "Verified packages"),
        (name = "jobs", description = "Long work"),
        (name = "events", description = "What changes, as it changes"),
        (name = "system", description = "Health and metrics"),
    ),
    modifiers(&Token)
)]
pub(crate) struct Document;

struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

/// The version of the registry API, which ToolHive compares.
const REGISTRY_API_VERSION: &str = "1.0.0";

/// The part of the document that a registry client looks for.
pub(crate) fn registry_only(document: &utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    let mut registry = document.clone();
    REGISTRY_API_VERSION.clone_into(&mut registry.info.version);
    registry.paths.paths.retain(|path, _| path.starts_with("/v0.1/"));
    registry
}
