//! What a server is made of: the one form into which every input is read, and from which code is written.
//!
//! The JSON form is public (`GET /api/mcp/generate/schema`), and read strictly: a field that is not known is refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{PartialSchema as _, ToSchema};

/// The version of the form.
pub(crate) const SPEC_VERSION: u32 = 1;

/// The JSON Schema of a specification.
pub(crate) fn schema() -> Value {
    let mut all = vec![(ServerSpec::name().into_owned(), ServerSpec::schema())];
    ServerSpec::schemas(&mut all);
    let defs: Map<String, Value> = all.into_iter().map(|(name, schema)| (name, serde_json::to_value(schema).unwrap_or_default())).collect();
    let defs = Value::Object(defs).to_string().replace("#/components/schemas/", "#/$defs/");
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ServerSpec",
        "description": "What an MCP server is made of, as the factory of MCP Fabric reads and writes it",
        "$ref": "#/$defs/ServerSpec",
        "$defs": serde_json::from_str::<Value>(&defs).unwrap_or_default(),
    })
}

/// A server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerSpec {
    /// Always 1.
    pub(crate) spec_version: u32,
    /// `mcp-…`: lower-case letters, digits and hyphens.
    pub(crate) name: String,
    /// Semantic version.
    pub(crate) version: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) title: Option<String>,
    /// One line; at most 100 characters, as the registry has them.
    pub(crate) description: String,
    /// What a model is told of the server as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) instructions: Option<String>,
    /// Where requests go.
    #[serde(default)]
    pub(crate) bases: Vec<Base>,
    /// How requests say who they are from, by the name of the scheme.
    #[serde(default)]
    pub(crate) auth: BTreeMap<String, Scheme>,
    /// What clients are shown, in order.
    pub(crate) tools: Vec<Tool>,
    /// What four tools find, describe and call, where there are more than can be shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) operations: Vec<Tool>,
    /// What the server was made from.
    pub(crate) source: Source,
    /// Where each field came from, by JSON pointer; the longest pointer that fits counts.
    #[serde(default)]
    pub(crate) provenance: BTreeMap<String, Provenance>,
}

/// An address that requests go below.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Base {
    /// Absolute; null where the operator has to say it.
    pub(crate) url: Option<String>,
    /// The variable that says another one.
    pub(crate) env: String,
}

/// How a request says who it is from. Secrets come from the environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Scheme {
    /// A key in a header, in the query or in a cookie.
    ApiKey {
        /// Where.
        r#in: KeyPlace,
        /// Under which name.
        name: String,
        /// The variable that has it.
        env: String,
    },
    /// `Authorization: Bearer`.
    Bearer {
        /// The variable that has it.
        env: String,
    },
    /// `Authorization: Basic` (RFC 7617).
    Basic {
        /// The variable that has the name.
        username_env: String,
        /// The variable that has the password.
        password_env: String,
    },
    /// A token of the client credentials grant (RFC 6749, section 4.4).
    ClientCredentials {
        /// Where it is asked for.
        token_url: String,
        /// The variable that has the client's id.
        client_id_env: String,
        /// The variable that has the client's secret.
        client_secret_env: String,
        /// What it is asked for.
        scopes: Vec<String>,
        /// The variable that has a token which is used as it is.
        env: String,
    },
}

/// Where a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum KeyPlace {
    /// In a header.
    Header,
    /// In the query.
    Query,
    /// In a cookie.
    Cookie,
}

/// A tool, or an operation that is called through one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tool {
    /// `[A-Za-z0-9_-]{1,64}`.
    pub(crate) name: String,
    /// For people.
    pub(crate) title: String,
    /// For models.
    pub(crate) description: String,
    /// What it does to the world.
    pub(crate) annotations: Annotations,
    /// JSON Schema (2020-12) of its arguments; an object.
    #[schema(value_type = Object)]
    pub(crate) input_schema: Map<String, Value>,
    /// JSON Schema of what it gives; an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub(crate) output_schema: Option<Map<String, Value>>,
    /// What is done.
    pub(crate) action: Action,
}

/// What a tool does to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "the annotations of the protocol are four of them")]
pub(crate) struct Annotations {
    /// It changes nothing.
    pub(crate) read_only: bool,
    /// What it changes may be lost.
    pub(crate) destructive: bool,
    /// Twice is as once.
    pub(crate) idempotent: bool,
    /// It speaks to others.
    pub(crate) open_world: bool,
}

/// What a tool does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Action {
    /// One HTTP request.
    Http(Http),
    /// One GraphQL operation, whose variables are the arguments.
    Graphql {
        /// Below the base.
        path: String,
        /// Which base.
        #[serde(default)]
        base: usize,
        /// The operation.
        query: String,
        /// Sets of schemes of which one has to be satisfied.
        #[serde(default)]
        security: Vec<Vec<String>>,
    },
    /// One of the runtime's own.
    Builtin {
        /// Which.
        handler: String,
    },
    /// One of the four that stand for all operations.
    Meta {
        /// Which.
        does: Meta,
    },
}

/// The four tools that stand for all operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Meta {
    /// Finds operations.
    Find,
    /// Describes one.
    Describe,
    /// Calls one that only reads.
    Read,
    /// Calls one that changes things.
    Write,
}

/// One HTTP request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Http {
    /// `GET`, `POST`, …
    pub(crate) method: String,
    /// Below the base, with `{name}` where a path parameter stands.
    pub(crate) path: String,
    /// Which base.
    #[serde(default)]
    pub(crate) base: usize,
    /// What stands in the path, the query, headers and cookies.
    #[serde(default)]
    pub(crate) params: Vec<Param>,
    /// What is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) body: Option<Body>,
    /// Sets of schemes of which one has to be satisfied; an empty set asks for nothing.
    #[serde(default)]
    pub(crate) security: Vec<Vec<String>>,
    /// What is asked for.
    #[serde(default = "any")]
    pub(crate) accept: String,
}

fn any() -> String {
    "application/json, */*;q=0.5".into()
}

/// A parameter of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Param {
    /// The argument that it comes from; absent where `value` is sent each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) arg: Option<String>,
    /// What is sent each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<Value>,
    /// What is sent where no argument is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) default: Option<Value>,
    /// Its name in the request.
    pub(crate) name: String,
    /// Where it stands.
    pub(crate) r#in: Place,
    /// How it is written (OpenAPI 3.1, "Style Values").
    pub(crate) style: Style,
    /// Whether members and items stand each for itself.
    pub(crate) explode: bool,
    /// Whether reserved characters (RFC 3986) stay as they are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) reserved: bool,
    /// Written in this media type instead of a style.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<String>,
}

/// Where a parameter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Place {
    /// In the path.
    Path,
    /// In the query.
    Query,
    /// In a header.
    Header,
    /// In a cookie.
    Cookie,
}

impl Place {
    /// As documents write it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Query => "query",
            Self::Header => "header",
            Self::Cookie => "cookie",
        }
    }
}

/// How a parameter is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of OpenAPI; `tabDelimited` is Swagger's `tsv`")]
pub(crate) enum Style {
    Simple,
    Label,
    Matrix,
    Form,
    SpaceDelimited,
    PipeDelimited,
    TabDelimited,
    DeepObject,
}

/// What is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Body {
    /// The argument that it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) arg: Option<String>,
    /// What is sent each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<Value>,
    /// Its media type.
    pub(crate) content_type: String,
    /// How the properties of a form are written, where it is not the usual way.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) parts: BTreeMap<String, Part>,
}

/// How one property of a form is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Part {
    /// Its media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) content_type: Option<String>,
    /// As that of a query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) style: Option<Style>,
    /// As that of a query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) explode: Option<bool>,
    /// As that of a query.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) reserved: bool,
    /// The argument is base64 of what is sent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) binary: bool,
}

/// What a server was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    /// Which kind of input.
    pub(crate) kind: SourceKind,
    /// Its own title.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) title: Option<String>,
    /// Its own version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<String>,
    /// SHA-256 of it, hexadecimal.
    pub sha256: String,
}

/// The kinds of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub(crate) enum SourceKind {
    Openapi,
    Swagger,
    Postman,
    Curl,
    Graphql,
    Description,
    Spec,
}

/// Where a field came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Provenance {
    /// The document says it.
    Document,
    /// Whoever asked said it.
    Option,
    /// A rule of the factory says it.
    Rule,
    /// A language model said it.
    Model,
}

impl ServerSpec {
    /// All that can be called: tools, and operations behind tools.
    pub(crate) fn callable(&self) -> impl Iterator<Item = &Tool> {
        self.tools.iter().filter(|tool| !matches!(tool.action, Action::Meta { .. })).chain(&self.operations)
    }

    /// The variables that a server reads: name, whether it is a secret, whether nothing works without it, what it is.
    pub(crate) fn variables(&self) -> Vec<Variable> {
        let mut all = Vec::new();
        for base in &self.bases {
            let (is_needed, of) = (base.url.is_none(), base.url.as_deref().map_or(String::new(), |url| format!(" instead of {url}")));
            all.push(Variable { name: base.env.clone(), is_secret: false, is_needed, description: format!("The address of the API{of}") });
        }
        let secret = |name: &String, description: String| Variable { name: name.clone(), is_secret: true, is_needed: false, description };
        for scheme in self.auth.values() {
            match scheme {
                Scheme::ApiKey { env, name, .. } => all.push(secret(env, format!("The API key, sent as {name}"))),
                Scheme::Bearer { env } => all.push(secret(env, "The access token".into())),
                Scheme::Basic { username_env, password_env } => {
                    all.push(Variable { is_secret: false, ..secret(username_env, "The user's name".into()) });
                    all.push(secret(password_env, "The user's password".into()));
                }
                Scheme::ClientCredentials { client_id_env, client_secret_env, env, .. } => {
                    all.push(Variable { is_secret: false, ..secret(client_id_env, "The id of the OAuth client".into()) });
                    all.push(secret(client_secret_env, "The secret of the OAuth client".into()));
                    all.push(secret(env, "An access token that is used instead of asking for one".into()));
                }
            }
        }
        if self.callable().any(|tool| matches!(&tool.action, Action::Builtin { handler } if keeps_files(handler))) {
            let description = "The folder in which things are kept".into();
            all.push(Variable { name: "MCP_DATA_DIR".into(), is_secret: false, is_needed: false, description });
        }
        all.dedup_by(|a, b| a.name == b.name);
        all
    }
}

fn keeps_files(handler: &str) -> bool {
    ["values.", "notes.", "files."].iter().any(|kind| handler.starts_with(kind))
}

/// A variable that a server reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Variable {
    /// Its name.
    pub(crate) name: String,
    /// It is kept from everybody's eyes.
    pub(crate) is_secret: bool,
    /// Nothing works without it.
    pub(crate) is_needed: bool,
    /// For people.
    pub(crate) description: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_stands_by_itself() {
        let schema = schema();
        let text = schema.to_string();
        assert!(!text.contains("#/components/"), "{text}");
        for part in text.split("\"$ref\":\"#/$defs/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(schema["$defs"][name].is_object(), "{name}");
        }
        let server = &schema["$defs"]["ServerSpec"];
        assert_eq!(server["additionalProperties"], false);
        let required: Vec<&str> = server["required"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert!(
            ["spec_version", "name", "version", "description", "tools", "source"].iter().all(|name| required.contains(name)),
            "{required:?}"
        );
    }
}
