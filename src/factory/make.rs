//! One server from its input to what is packed: everything that needs no database.

use serde_json::Value;

use crate::{
    curate::curate,
    error::FactoryError,
    finding::Finding,
    generate::{Language, entry, project},
    model::{InputKind, Options, Wanted},
    names,
    output::unpacked,
    pack::{Packed, Places, pack},
    parse::{Draft, Input, Said, document, read, text::Question},
    spec::ServerSpec,
    validate::{Subject, lint::lint},
};
use packages::Toolchain;

/// A specification that can be built, or what has to be known first.
pub(crate) enum Understood {
    Spec(Box<ServerSpec>, Vec<Finding>),
    Questions(String, Vec<Question>),
}

/// What an order's document is.
pub(crate) fn input(kind: InputKind, bytes: &[u8]) -> Result<Input, FactoryError> {
    let text = std::str::from_utf8(bytes).map_err(|_| FactoryError::Unreadable("it is not UTF-8".into()))?;
    Ok(match kind {
        InputKind::Description => Input::Description(text.to_owned()),
        InputKind::Curl => Input::Curl(text.to_owned()),
        InputKind::Openapi | InputKind::Url | InputKind::Spec => Input::Document(document::read(text)?),
        InputKind::Postman => Input::Postman(document::read(text)?),
        InputKind::Graphql => Input::Graphql(document::read(text)?),
    })
}

/// Reads an input by rules.
pub(crate) fn understand(wanted: &Wanted, bytes: &[u8], document_url: Option<url::Url>) -> Result<Understood, FactoryError> {
    let input = input(wanted.kind, bytes)?;
    if let Input::Document(document) = &input
        && (wanted.kind == InputKind::Spec || document.get("spec_version").is_some())
    {
        let mut spec = spec_of(document)?;
        if let Some(name) = &wanted.name {
            spec.name.clone_from(name);
        }
        return Ok(Understood::Spec(Box::new(spec), Vec::new()));
    }
    let said = Said { name: wanted.name.clone(), base_url: wanted.options.base_url.clone(), document_url };
    settle(read(&input, &said)?, bytes, &wanted.options)
}

/// A draft as a specification, with what clients are to be shown.
pub(crate) fn settle(draft: Draft, bytes: &[u8], options: &Options) -> Result<Understood, FactoryError> {
    if !draft.questions.is_empty() {
        return Ok(Understood::Questions(draft.name, draft.questions));
    }
    let (mut spec, operations, mut findings) = draft.whole(bytes);
    curate(&mut spec, operations, &options.choice, &mut findings)?;
    Ok(Understood::Spec(Box::new(spec), findings))
}

/// A specification of ours, read strictly.
pub(crate) fn spec_of(document: &Value) -> Result<ServerSpec, FactoryError> {
    serde_json::from_value(document.clone())
        .map_err(|error| FactoryError::Invalid(vec![Finding::error("spec-shape", "", crate::text::line(&error.to_string(), 300))]))
}

/// The address of a server's bundle in the cache and in documents.
pub(crate) fn bundle_address(spec: &ServerSpec) -> String {
    address_of(&spec.name, &spec.version)
}

/// The same by name and version.
pub(crate) fn address_of(name: &str, version: &str) -> String {
    format!("https://{}/generated/{name}/{version}/{name}-{version}.mcpb", cache::MADE_HERE)
}

/// What registry documents call a server that was made.
pub(crate) fn registry_name(name: &str) -> String {
    format!("{}/{name}", servers::LOCAL_NAMESPACE)
}

/// Of a specification without its version: the same one is not made twice.
pub(crate) fn content_digest(spec: &ServerSpec, language: Language) -> String {
    let unversioned = ServerSpec { version: "0.0.0".into(), ..spec.clone() };
    let parts = serde_json::to_vec(&(unversioned, language, env!("CARGO_PKG_VERSION"))).unwrap_or_default();
    crate::digest::sha256_hex(&parts)
}

/// Builds and packs. Fails where the specification has errors, which code must not meet.
pub(crate) fn build(spec: &ServerSpec, language: Language, archive: &str) -> Result<Packed, FactoryError> {
    let wrong: Vec<Finding> = lint(spec).into_iter().filter(|one| one.severity == crate::finding::Severity::Error).collect();
    if !wrong.is_empty() {
        return Err(FactoryError::Invalid(wrong));
    }
    let places = Places { archive, bundle_url: &bundle_address(spec) };
    Ok(pack(spec, project(spec, language), language, places)?)
}

/// What is looked at of a server that was packed: the archive, unpacked anew.
pub(crate) fn subject(spec: &ServerSpec, language: Language, packed: &Packed) -> Result<Subject, FactoryError> {
    let toolchain = match language {
        Language::Node => Toolchain::Node,
        Language::Python => Toolchain::Python,
    };
    Ok(Subject {
        spec: Some(spec.clone()),
        files: packed.files.clone(),
        packed: unpacked(&packed.archive)?,
        starts: Some((toolchain, entry(language).to_owned())),
    })
}

/// The next version after those that there are.
pub(crate) fn next_version(versions: impl Iterator<Item = String>) -> String {
    let newest = versions.filter_map(|version| semver::Version::parse(&version).ok()).max();
    newest.map_or_else(|| "1.0.0".to_owned(), |newest| semver::Version::new(newest.major, newest.minor + 1, 0).to_string())
}

/// The name as it was said, if it can be one.
pub(crate) fn checked_name(name: &str) -> Result<String, FactoryError> {
    if names::is_server(name) {
        Ok(name.to_owned())
    } else {
        Err(FactoryError::field("body.name", "must be 2 to 64 lower-case letters, digits and single hyphens, such as mcp-weather"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> ServerSpec {
        let wanted = Wanted { kind: InputKind::Description, name: None, runtime: Language::Node, options: Options::default() };
        match understand(&wanted, text.as_bytes(), None).unwrap() {
            Understood::Spec(spec, _) => *spec,
            Understood::Questions(_, questions) => panic!("{questions:?}"),
        }
    }

    #[test]
    fn the_same_specification_gives_the_same_bytes() {
        let spec = spec("A weather API that fetches current conditions and forecasts");
        let (first, second) = (build(&spec, Language::Node, "/a.tgz").unwrap(), build(&spec, Language::Node, "/a.tgz").unwrap());
        assert_eq!(first.archive, second.archive);
        assert_eq!(first.bundle, second.bundle);
        assert_eq!(first.files, second.files);
        assert_eq!(lint(&spec), []);
    }

    #[test]
    fn versions_go_up() {
        assert_eq!(next_version(std::iter::empty()), "1.0.0");
        assert_eq!(next_version(["1.0.0", "1.9.3", "1.10.0", "x"].map(str::to_owned).into_iter()), "1.11.0");
    }
}
