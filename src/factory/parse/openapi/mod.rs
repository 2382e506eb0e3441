//! OpenAPI 3.0 to 3.2, and Swagger 2.0. Documents of the wild are loose: what is missing is supplied where a rule can
//! supply it, and said; what cannot be called is left out, and said.

mod body;
mod operation;
mod reference;
mod schema;
mod security;
mod swagger;

use serde_json::Value;
use url::Url;

pub(crate) use self::{
    reference::Root,
    schema::{Schemas, Way},
};
use super::{Draft, Said};
use crate::{
    error::FactoryError,
    finding::{Finding, segment},
    names,
    spec::{Provenance, SourceKind},
    text,
};

const METHODS: [&str; 9] = ["get", "put", "post", "delete", "options", "head", "patch", "trace", "query"];
/// How many operations one document has at most.
const MOST_OPERATIONS: usize = 10_000;

/// Reads a document.
pub(crate) fn read(document: &Value, said: &Said) -> Result<Draft, FactoryError> {
    let version = |name: &str| document.get(name).map(|version| version.as_str().map_or_else(|| version.to_string(), str::to_owned));
    let is_swagger = match (version("openapi"), version("swagger")) {
        (Some(version), _) if version.starts_with("3.") => false,
        (None, Some(version)) if version.starts_with('2') => true,
        (Some(version), _) | (None, Some(version)) => {
            return Err(FactoryError::Unreadable(format!(
                "version {} of OpenAPI is not known: 2.0 and 3.0 to 3.2 are",
                text::line(&version, 20)
            )));
        }
        (None, None) => return Err(FactoryError::Unreadable("it says neither `openapi` nor `swagger`".into())),
    };
    let converted;
    let document = if is_swagger {
        converted = swagger::converted(document);
        &converted
    } else {
        document
    };
    let info = &document["info"];
    let title = info["title"].as_str().unwrap_or_default();
    let name = said.name.clone().or_else(|| names::server(title)).unwrap_or_else(|| "mcp-api".into());
    let mut draft = Draft::new(if is_swagger { SourceKind::Swagger } else { SourceKind::Openapi }, name);
    draft.title = Some(title.to_owned());
    draft.version = info["version"].as_str().map(str::to_owned);
    let summary = info["summary"].as_str().or_else(|| info["description"].as_str());
    draft.description = summary.map(|text| first_line(text).to_owned());
    let name_from = if said.name.is_some() { Provenance::Option } else { Provenance::Document };
    for (pointer, from) in [("", Provenance::Document), ("/version", Provenance::Rule), ("/name", name_from)] {
        draft.provenance.insert(pointer.into(), from);
    }
    let reader = Reader { root: Root(document), said };
    let main = reader.address(document, &mut draft);
    draft.base(main);
    security::read(&reader, &mut draft);
    operation::read_all(&reader, &mut draft)?;
    Ok(draft)
}

fn first_line(text: &str) -> &str {
    text.trim().lines().map(|line| line.trim_start_matches(['#', '*', ' ']).trim()).find(|line| !line.is_empty()).unwrap_or_default()
}

/// A document that is being read.
struct Reader<'a> {
    root: Root<'a>,
    said: &'a Said,
}

impl<'a> Reader<'a> {
    /// Where the API is, by the first of a node's `servers`; what the user says wins.
    fn address(&self, node: &'a Value, draft: &mut Draft) -> Option<String> {
        if let Some(said) = &self.said.base_url {
            draft.provenance.insert("/bases/0/url".into(), Provenance::Option);
            return Some(said.trim_end_matches('/').to_owned());
        }
        let server = node["servers"].as_array().and_then(|servers| servers.first());
        let template = server.and_then(|server| server["url"].as_str()).unwrap_or("/");
        let mut url = template.trim().to_owned();
        for (name, variable) in server.and_then(|server| server["variables"].as_object()).into_iter().flatten() {
            let default = variable["default"].as_str().or_else(|| variable["enum"].get(0).and_then(Value::as_str));
            if let Some(default) = default {
                url = url.replace(&format!("{{{name}}}"), default);
            }
        }
        let resolved = match Url::parse(&url) {
            Ok(absolute) => Some(absolute),
            Err(_) => self.said.document_url.as_ref().and_then(|document| document.join(&url).ok()),
        };
        let usable = resolved.filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.host().is_some()
                && !url.as_str().contains(['{', '}'])
                && !url.as_str().contains("%7B")
        });
        let Some(mut usable) = usable else {
            let shown = text::line(&url, 100);
            let message =
                format!("`{shown}` does not say where the API is; the operator says it by a variable, or say it now as `base_url`");
            draft.findings.push(Finding::warning("base-url-unknown", "/servers", message));
            return None;
        };
        usable.set_fragment(None);
        // Credentials have no place in an address.
        let _ = (usable.set_username(""), usable.set_password(None));
        Some(usable.as_str().trim_end_matches('/').to_owned())
    }

    /// The base of an operation, which may have servers of its own.
    fn base(&self, path_item: &'a Value, operation: &'a Value, draft: &mut Draft) -> usize {
        let own = [operation, path_item].into_iter().find(|node| node["servers"].as_array().is_some_and(|all| !all.is_empty()));
        match own {
            Some(node) if self.said.base_url.is_none() => {
                let address = self.address(node, draft);
                draft.base(address)
            }
            _ => 0,
        }
    }
}

fn pointer(path: &str, method: &str) -> String {
    format!("/paths/{}/{method}", segment(path))
}
