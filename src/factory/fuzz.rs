//! The parsers of what servers are made from, for the fuzzer: whatever they are given, they end, and what they give can be
//! written as code and is found valid or named as not.

use crate::{
    finding::Severity,
    generate::Language,
    make::{self, Understood},
    model::{InputKind, Options, Wanted},
    validate::lint::lint,
};

fn all(kind: InputKind, data: &[u8]) {
    let wanted = Wanted { kind, name: None, runtime: Language::Node, options: Options::default() };
    let Ok(Understood::Spec(spec, _)) = make::understand(&wanted, data, None) else { return };
    let errors: Vec<_> = lint(&spec).into_iter().filter(|found| found.severity == Severity::Error).collect();
    // What parsers give has no errors but those that are about the whole of it.
    let of_whole = ["tools-too-many", "tools-list-large", "tools-none"];
    assert!(kind == InputKind::Spec || errors.iter().all(|found| of_whole.contains(&found.id.as_str())), "{errors:?}");
    for language in [Language::Node, Language::Python] {
        if let Ok(packed) = make::build(&spec, language, "/x.tgz") {
            assert!(crate::output::unpacked(&packed.archive).is_ok());
        }
    }
}

/// Documents of every kind.
///
/// # Panics
/// When something is read that cannot be written.
pub fn document(data: &[u8]) {
    for kind in [InputKind::Openapi, InputKind::Postman, InputKind::Graphql, InputKind::Spec] {
        all(kind, data);
    }
}

/// Commands and descriptions.
///
/// # Panics
/// When something is read that cannot be written.
pub fn text(data: &[u8]) {
    for kind in [InputKind::Curl, InputKind::Description] {
        all(kind, data);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn any_json() -> impl Strategy<Value = Value> {
        const WORDS: &[&str] = &[
            "$ref",
            "#/a",
            "type",
            "object",
            "array",
            "string",
            "properties",
            "items",
            "in",
            "query",
            "path",
            "name",
            "{id}",
            "get",
            "post",
            "/a/{id}",
            "schema",
            "requestBody",
            "content",
            "application/json",
            "multipart/form-data",
            "required",
            "enum",
            "allOf",
            "oneOf",
            "security",
            "servers",
            "url",
            "https://x.dev",
            "../..",
            "`${1}`",
            "\u{202e}x",
            "",
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            prop::sample::select(WORDS).prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from)
        ];
        leaf.prop_recursive(5, 60, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((prop::sample::select(WORDS), inner), 0..6)
                    .prop_map(|all| Value::Object(all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()))
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(120))]
        #[test]
        fn documents_are_read_or_refused(paths in any_json(), components in any_json(), info in any_json()) {
            for version in [json!({ "openapi": "3.1.0" }), json!({ "swagger": "2.0" })] {
                let mut document = version;
                document["info"] = info.clone();
                document["components"] = components.clone();
                document["definitions"] = components.clone();
                document["paths"] = json!({ "/a/{id}": { "get": paths.clone(), "post": { "requestBody": paths.clone(), "parameters": [paths.clone(), components.clone()] }, "parameters": [paths.clone()] }, "/b": paths.clone() });
                super::document(document.to_string().as_bytes());
            }
            super::document(json!({ "info": { "schema": "x" }, "item": [paths.clone(), { "request": components.clone() }, { "item": [{ "request": { "url": info.clone() } }] }] }).to_string().as_bytes());
            super::document(json!({ "__schema": { "queryType": { "name": "Q" }, "types": [{ "name": "Q", "kind": "OBJECT", "fields": [paths, { "name": "f", "args": [components], "type": info }] }] } }).to_string().as_bytes());
        }

        #[test]
        fn texts_are_read_or_refused(text in "(curl |GET |POST |-X |-d |-H |https://x\\.dev/|/a/\\{id\\}|'|\"|\\\\|\n|list |pets |\\PC){0,24}") {
            super::text(text.as_bytes());
            super::text(format!("base url https://x.dev\n{text}").as_bytes());
        }
    }
}
