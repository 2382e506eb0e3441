//! How an API wants to know who asks.

use serde_json::{Map, Value};

use super::Reader;
use crate::{
    finding::{Finding, segment},
    names,
    parse::{Draft, example::is_token},
    spec::{KeyPlace, Provenance, Scheme},
    text,
};

/// The scheme of documents that have none. No document calls one of its own so.
const UNDECLARED: &str = "(token)";

/// How many scopes are asked for.
const MOST_SCOPES: usize = 50;

/// Reads the schemes that can be used.
pub(super) fn read(reader: &Reader<'_>, draft: &mut Draft) {
    let schemes = reader.root.0.pointer("/components/securitySchemes").and_then(Value::as_object);
    if schemes.is_none_or(Map::is_empty) {
        // Most APIs want to know who asks, also those whose documents do not say it.
        draft.auth.insert(UNDECLARED.into(), Scheme::Bearer { env: names::variable(&draft.service(), "token") });
        draft.provenance.insert("/auth".into(), Provenance::Rule);
        let message = "the document says no way in which the API wants to know who asks; a token is sent where one is set";
        draft.findings.push(Finding::info("auth-undeclared", "/components/securitySchemes", message));
        return;
    }
    for (name, node) in schemes.into_iter().flatten() {
        let place = format!("/components/securitySchemes/{}", segment(name));
        let Ok((scheme, _)) = reader.root.follow(node) else { continue };
        match of(&draft.service(), name, scheme) {
            Ok(found) => {
                if scheme["type"] == "oauth2" && matches!(found, Scheme::Bearer { .. }) {
                    let message = "only a token that the operator gives is used: this flow asks a person";
                    draft.findings.push(Finding::info("auth-token-only", &place, message));
                }
                draft.auth.insert(name.clone(), found);
            }
            Err(why) => draft.findings.push(Finding::warning("auth-unsupported", place, why)),
        }
    }
}

fn of(service: &str, name: &str, scheme: &Value) -> Result<Scheme, String> {
    let env = |of: &str| names::variable(service, of);
    match scheme["type"].as_str().unwrap_or_default() {
        "apiKey" => {
            let place = match scheme["in"].as_str() {
                Some("header") => KeyPlace::Header,
                Some("query") => KeyPlace::Query,
                Some("cookie") => KeyPlace::Cookie,
                _ => return Err("a key has to be in a header, in the query or in a cookie".into()),
            };
            let key = scheme["name"].as_str().filter(|key| !key.is_empty()).ok_or("a key has to have a name")?;
            if place == KeyPlace::Header && !is_token(key) {
                return Err("its name cannot be that of a header".into());
            }
            Ok(Scheme::ApiKey { r#in: place, name: key.to_owned(), env: env(name) })
        }
        "http" => match scheme["scheme"].as_str().unwrap_or_default().to_ascii_lowercase().as_str() {
            "bearer" => Ok(Scheme::Bearer { env: env(&with(name, "token")) }),
            "basic" => Ok(Scheme::Basic { username_env: env("username"), password_env: env("password") }),
            other => Err(format!("the HTTP scheme `{}` is not known", text::line(other, 40))),
        },
        "oauth2" => {
            let flow = &scheme["flows"]["clientCredentials"];
            let token_url = flow["tokenUrl"].as_str().and_then(|url| url::Url::parse(url).ok()).filter(|url| url.scheme() == "https");
            let Some(token_url) = token_url else { return Ok(Scheme::Bearer { env: env(&with(name, "token")) }) };
            // Scopes are asked for as the operations need them; of the document's, there can be hundreds.
            Ok(Scheme::ClientCredentials {
                token_url: token_url.into(),
                client_id_env: env("client_id"),
                client_secret_env: env("client_secret"),
                scopes: Vec::new(),
                env: env(&with(name, "token")),
            })
        }
        "openIdConnect" => Ok(Scheme::Bearer { env: env(&with(name, "token")) }),
        "mutualTLS" => Err("certificates of clients are not supported".into()),
        other => Err(format!("the type `{}` is not known", text::line(other, 40))),
    }
}

fn with(name: &str, last: &str) -> String {
    if names::words(name).last().is_some_and(|word| word == last) { name.to_owned() } else { format!("{name}_{last}") }
}

/// The sets of schemes of which an operation wants one. Sets that cannot be satisfied are left out.
pub(super) fn of_operation(reader: &Reader<'_>, operation: &Value, draft: &mut Draft, place: &str) -> Vec<Vec<String>> {
    if draft.auth.contains_key(UNDECLARED) {
        return vec![vec![UNDECLARED.into()], Vec::new()];
    }
    let asked = operation.get("security").or_else(|| reader.root.0.get("security")).and_then(Value::as_array);
    let Some(asked) = asked.filter(|asked| !asked.is_empty()) else { return Vec::new() };
    let names = |set: &Value| set.as_object().map(|set| set.keys().cloned().collect::<Vec<String>>()).unwrap_or_default();
    for (name, scopes) in asked.iter().filter_map(Value::as_object).flatten() {
        if let Some(Scheme::ClientCredentials { scopes: own, .. }) = draft.auth.get_mut(name) {
            for scope in scopes.as_array().into_iter().flatten().filter_map(Value::as_str) {
                if own.len() < MOST_SCOPES && !own.iter().any(|known| known == scope) {
                    own.push(scope.to_owned());
                }
            }
        }
    }
    let sets: Vec<Vec<String>> = asked.iter().map(names).filter(|set| set.iter().all(|name| draft.auth.contains_key(name))).collect();
    if sets.is_empty() {
        let message = "none of the ways in which it wants to know who asks can be used; it is asked without";
        draft.findings.push(Finding::warning("auth-unusable", place, message));
    }
    sets
}
