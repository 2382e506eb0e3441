//! From an input of any kind to what a server is made of.

pub(crate) mod arguments;
pub(crate) mod curl;
pub(crate) mod document;
pub(crate) mod example;
mod graphql;
pub(crate) mod openapi;
mod postman;
pub(crate) mod text;

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::{
    digest::sha256_hex,
    error::FactoryError,
    finding::Finding,
    names,
    spec::{Annotations, Base, Provenance, SPEC_VERSION, Scheme, ServerSpec, Source, SourceKind, Tool},
};

/// What was found in an input, before it is decided what clients are shown.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) title: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) instructions: Option<String>,
    pub(crate) name: String,
    pub(crate) bases: Vec<Base>,
    pub(crate) auth: BTreeMap<String, Scheme>,
    pub(crate) operations: Vec<Operation>,
    pub(crate) kind: SourceKind,
    pub(crate) findings: Vec<Finding>,
    pub(crate) provenance: BTreeMap<String, Provenance>,
    /// What has to be known before anything can be made.
    pub(crate) questions: Vec<text::Question>,
}

/// Something that can be called.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) tool: Tool,
    pub(crate) tags: Vec<String>,
    /// What the document calls it.
    pub(crate) id: Option<String>,
    /// `GET /pets`; for filters.
    pub(crate) route: String,
    pub(crate) is_deprecated: bool,
}

impl Draft {
    pub(crate) fn new(kind: SourceKind, name: String) -> Self {
        Self {
            title: None,
            version: None,
            description: None,
            instructions: None,
            name,
            bases: Vec::new(),
            auth: BTreeMap::new(),
            operations: Vec::new(),
            kind,
            findings: Vec::new(),
            provenance: BTreeMap::new(),
            questions: Vec::new(),
        }
    }

    /// The service that variables are named after.
    pub(crate) fn service(&self) -> String {
        names::service(&self.name)
    }

    /// The base of this address; it is added where it is new.
    pub(crate) fn base(&mut self, url: Option<String>) -> usize {
        if let Some(at) = self.bases.iter().position(|base| base.url == url) {
            return at;
        }
        let number = self.bases.len();
        let suffix = if number == 0 { String::new() } else { format!("_{}", number + 1) };
        self.bases.push(Base { url, env: format!("{}_BASE_URL{suffix}", self.service()) });
        number
    }

    /// All of it as a specification, none of it left out. `input` is what it was read from.
    pub(crate) fn whole(self, input: &[u8]) -> (ServerSpec, Vec<Operation>, Vec<Finding>) {
        let title = self.title.as_deref().map(|title| crate::text::line(title, 100)).filter(|title| !title.is_empty());
        let said = self.description.as_deref().map(|said| crate::text::line(said, 100)).filter(|said| !said.is_empty());
        let description =
            said.or_else(|| title.as_ref().map(|title| format!("Tools for {title}"))).unwrap_or_else(|| "Tools for an API".into());
        let spec = ServerSpec {
            spec_version: SPEC_VERSION,
            name: self.name,
            version: "1.0.0".into(),
            title: title.clone(),
            description: crate::text::line(&description, 100),
            instructions: self.instructions,
            bases: self.bases,
            auth: self.auth,
            tools: Vec::new(),
            operations: Vec::new(),
            source: Source {
                kind: self.kind,
                title,
                version: self.version.as_deref().map(|version| crate::text::line(version, 50)),
                sha256: sha256_hex(input),
            },
            provenance: self.provenance,
        };
        (spec, self.operations, self.findings)
    }
}

/// What may stand in a path as it is (RFC 3986, section 3.3), with the braces of parameters.
const IN_PATHS: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@')
    .remove(b'/')
    .remove(b'%');

/// A path as it is sent: what cannot stand in one is encoded, but for what is in braces,
/// and dots for segments go.
pub(crate) fn written_path(path: &str) -> String {
    let mut written = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, behind)) = after.split_once('}') else { break };
        written.extend(utf8_percent_encode(before, IN_PATHS));
        written.extend(["{", name, "}"]);
        rest = behind;
    }
    written.extend(utf8_percent_encode(rest, IN_PATHS));
    // Dots for segments would name another path than the one that is written.
    let parts: Vec<&str> = written.split('/').filter(|part| !matches!(*part, "." | "..")).collect();
    let path = parts.join("/");
    if path.starts_with('/') { path } else { format!("/{path}") }
}

/// What the method says that a request does (RFC 9110, section 9.2).
pub(crate) fn annotations_of(method: &str) -> Annotations {
    let read_only = matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE");
    let idempotent = read_only || matches!(method, "PUT" | "DELETE");
    Annotations { read_only, destructive: !read_only, idempotent, open_world: true }
}

/// What is to be read.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    Description(String),
    /// OpenAPI, Swagger, Postman, GraphQL or a specification of our own, as the document says.
    Document(Value),
    Curl(String),
    Postman(Value),
    Graphql(Value),
}

/// What is said beside the input.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    /// The server's name.
    pub(crate) name: Option<String>,
    /// Where the API is.
    pub(crate) base_url: Option<String>,
    /// Where the document came from: relative addresses are below.
    pub(crate) document_url: Option<url::Url>,
}

/// Reads an input that needs no language model.
pub(crate) fn read(input: &Input, said: &Said) -> Result<Draft, FactoryError> {
    match input {
        Input::Document(document) => {
            if document.get("openapi").is_some() || document.get("swagger").is_some() {
                openapi::read(document, said)
            } else if document.pointer("/info/schema").is_some() || document.pointer("/collection/info").is_some() {
                postman::read(document, said)
            } else if graphql::schema_of(document).is_some() {
                graphql::read(document, said)
            } else {
                let known = "OpenAPI has `openapi`, Swagger `swagger`, a Postman collection `info.schema`, and the answer to GraphQL's introspection `__schema`";
                Err(FactoryError::Unreadable(format!("it is of no kind that is known: {known}")))
            }
        }
        Input::Postman(document) => postman::read(document, said),
        Input::Graphql(document) => graphql::read(document, said),
        Input::Curl(commands) => curl::read(commands, said),
        Input::Description(description) => text::read(description, said),
    }
}
