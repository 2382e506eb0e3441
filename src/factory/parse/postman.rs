//! Collections of Postman, format 2.0 and 2.1.

use serde_json::Value;

use super::{
    Draft, Said,
    example::{Auth, Example, Field, Sent, is_token, parted},
};
use crate::{
    error::FactoryError,
    finding::Finding,
    names::{self, Names},
    spec::{KeyPlace, Provenance, SourceKind},
    text,
};

const MOST_REQUESTS: usize = 5000;
const DEEPEST_FOLDER: usize = 20;

/// Reads a collection.
pub(super) fn read(document: &Value, said: &Said) -> Result<Draft, FactoryError> {
    let collection = document.get("collection").unwrap_or(document);
    if !collection["item"].is_array() {
        return Err(FactoryError::Unreadable("it is no Postman collection: it has no `item`".into()));
    }
    let title = collection["info"]["name"].as_str().unwrap_or_default();
    let name = said.name.clone().or_else(|| names::server(title)).unwrap_or_else(|| "mcp-api".into());
    let mut draft = Draft::new(SourceKind::Postman, name);
    draft.title = Some(title.to_owned());
    draft.description = text_of(&collection["info"]["description"]);
    draft.provenance.insert(String::new(), Provenance::Document);
    draft.provenance.insert("/name".into(), if said.name.is_some() { Provenance::Option } else { Provenance::Document });
    let walk = Walk { variables: &collection["variable"], said };
    let mut examples = Vec::new();
    walk.folder(&collection["item"], None, auth_of(&collection["auth"]).as_ref(), 0, &mut examples, &mut draft)?;
    if examples.is_empty() {
        return Err(FactoryError::Unreadable("the collection has no request in it".into()));
    }
    let mut taken = Names::default();
    for example in examples {
        example.add_to(&mut draft, &mut taken);
    }
    Ok(draft)
}

fn text_of(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned)
}

struct Walk<'a> {
    variables: &'a Value,
    said: &'a Said,
}

impl Walk<'_> {
    fn folder(
        &self,
        items: &Value,
        folder: Option<&str>,
        auth: Option<&Auth>,
        depth: usize,
        into: &mut Vec<Example>,
        draft: &mut Draft,
    ) -> Result<(), FactoryError> {
        if depth > DEEPEST_FOLDER {
            return Err(FactoryError::TooLarge("its folders are nested too deeply".into()));
        }
        for item in items.as_array().into_iter().flatten() {
            let own = item.get("auth").or_else(|| item["request"].get("auth")).and_then(auth_of);
            let auth = own.as_ref().or(auth);
            if item["item"].is_array() {
                self.folder(&item["item"], item["name"].as_str().or(folder), auth, depth + 1, into, draft)?;
                continue;
            }
            if into.len() >= MOST_REQUESTS {
                return Err(FactoryError::TooLarge(format!("it has more than {MOST_REQUESTS} requests")));
            }
            match self.request(item, folder, auth) {
                Some(example) => into.push(example),
                None if item.get("request").is_some() => {
                    let shown = text::line(item["name"].as_str().unwrap_or_default(), 60);
                    draft.findings.push(Finding::warning(
                        "not-callable",
                        "/item",
                        format!("the request `{shown}` has no address; it is left out"),
                    ));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Puts in what the collection says of variables; others stay.
    fn filled(&self, text: &str) -> String {
        let mut filled = text.to_owned();
        for variable in self.variables.as_array().into_iter().flatten() {
            let (Some(key), Some(value)) = (variable["key"].as_str().or_else(|| variable["id"].as_str()), variable["value"].as_str())
            else {
                continue;
            };
            if !value.is_empty() && !value.contains(&format!("{{{{{key}}}}}")) {
                filled = filled.replace(&format!("{{{{{key}}}}}"), value);
            }
            if filled.len() > 10_000 {
                break;
            }
        }
        filled
    }

    fn request(&self, item: &Value, folder: Option<&str>, inherited: Option<&Auth>) -> Option<Example> {
        let request = item.get("request")?;
        let url = request.as_str().or_else(|| request["url"].as_str()).or_else(|| request["url"]["raw"].as_str())?;
        let filled = self.filled(url);
        let (base, path, from_raw) = parted(&filled);
        let described = request["url"]["query"].as_array();
        let query = match described {
            Some(all) => all.iter().filter(|one| one["disabled"] != true).filter_map(|one| self.field(one)).collect(),
            None => from_raw,
        };
        let headers: Vec<Field> = request["header"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|one| one["disabled"] != true)
            .filter_map(|one| self.field(one))
            .collect();
        let by_header = super::curl::auth_of(&headers, &query, false);
        let auth = if by_header.is_empty() { inherited.cloned().into_iter().collect() } else { by_header };
        Some(Example {
            name: item["name"].as_str().map(str::to_owned),
            description: text_of(&request["description"]).or_else(|| text_of(&item["description"])),
            folder: folder.map(str::to_owned),
            method: request["method"]
                .as_str()
                .filter(|method| method.bytes().all(|b| b.is_ascii_alphabetic()) && !method.is_empty())
                .unwrap_or("GET")
                .to_owned(),
            path,
            base: self.said.base_url.clone().or(base),
            query,
            headers: headers.into_iter().filter(|field| !field.value.contains("{{")).collect(),
            body: self.body(&request["body"]),
            auth,
            variables: request["url"]["variable"].as_array().into_iter().flatten().filter_map(|one| self.field(one)).collect(),
        })
    }

    fn field(&self, node: &Value) -> Option<Field> {
        let value = node["value"].as_str().map(|value| self.filled(value)).unwrap_or_default();
        Some(Field {
            name: node["key"].as_str()?.to_owned(),
            value,
            description: text_of(&node["description"]),
            is_file: node["type"] == "file",
            ..Field::default()
        })
    }

    fn body(&self, body: &Value) -> Option<Sent> {
        let fields = |list: &Value| {
            list.as_array().into_iter().flatten().filter(|one| one["disabled"] != true).filter_map(|one| self.field(one)).collect()
        };
        match body["mode"].as_str()? {
            "raw" => {
                let raw = self.filled(body["raw"].as_str().unwrap_or_default());
                let language = body["options"]["raw"]["language"].as_str().unwrap_or_default();
                // Variables of a template stand without quotes where a number is meant.
                let unquoted = raw.replace("{{", "\"{{").replace("}}", "}}\"").replace("\"\"{{", "\"{{").replace("}}\"\"", "}}\"");
                match serde_json::from_str(&raw).or_else(|_| serde_json::from_str(&unquoted)) {
                    Ok(example) => Some(Sent::Json(example)),
                    Err(_) if raw.trim().is_empty() => None,
                    Err(_) => {
                        let media = match language {
                            "json" => "application/json",
                            "xml" => "application/xml",
                            "html" => "text/html",
                            _ => "text/plain",
                        };
                        Some(Sent::Text { media: media.into(), example: raw })
                    }
                }
            }
            "urlencoded" => Some(Sent::Form(fields(&body["urlencoded"]))),
            "formdata" => Some(Sent::Parts(fields(&body["formdata"]))),
            "file" => Some(Sent::Bytes { media: "application/octet-stream".into() }),
            "graphql" => Some(Sent::Json(serde_json::json!({ "query": body["graphql"]["query"], "variables": {} }))),
            _ => None,
        }
    }
}

fn auth_of(auth: &Value) -> Option<Auth> {
    let kind = auth["type"].as_str()?;
    // In 2.0, an object; in 2.1, a list of names and values.
    let of = |name: &str| {
        let list = auth[kind].as_array().and_then(|list| list.iter().find(|one| one["key"] == name)).map(|one| &one["value"]);
        list.or_else(|| auth[kind].get(name)).and_then(Value::as_str)
    };
    Some(match kind {
        "noauth" => Auth::None,
        "basic" => Auth::Basic,
        "apikey" => Auth::Key {
            place: if of("in") == Some("query") { KeyPlace::Query } else { KeyPlace::Header },
            name: of("key").filter(|name| is_token(name)).unwrap_or("X-API-Key").to_owned(),
        },
        _ => Auth::Bearer,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::spec::{Action, Place};

    #[test]
    fn folders_variables_and_auth_are_understood() {
        let collection = json!({
            "info": { "name": "Shop API", "schema": "https://schema.getpostman.com/json/collection/v2.1.0/collection.json" },
            "variable": [{ "key": "host", "value": "https://shop.example/api" }],
            "auth": { "type": "apikey", "apikey": [{ "key": "key", "value": "X-Shop-Key" }, { "key": "value", "value": "hunter2" }] },
            "item": [{ "name": "Orders", "item": [
                { "name": "Find orders", "request": { "method": "GET", "url": { "raw": "{{host}}/orders?state=open",
                    "query": [{ "key": "state", "value": "open", "description": "In which state" }, { "key": "x", "disabled": true }] } } },
                { "name": "Change order", "request": { "method": "PATCH", "url": "{{host}}/orders/:orderId",
                    "body": { "mode": "raw", "raw": "{\"count\": {{count}}, \"note\": \"x\"}" } } },
            ] }],
        });
        let draft = read(&collection, &Said::default()).unwrap();
        assert_eq!((draft.name.as_str(), draft.bases[0].url.as_deref()), ("mcp-shop", Some("https://shop.example")));
        assert!(!format!("{draft:?}").contains("hunter2"));
        let [find, change] = &draft.operations[..] else { panic!() };
        assert_eq!((find.tool.name.as_str(), change.tool.name.as_str()), ("find_orders", "change_order"));
        assert_eq!(find.tags, ["Orders"]);
        let Action::Http(http) = &find.tool.action else { panic!() };
        assert_eq!((http.path.as_str(), http.params.len(), http.params[0].r#in), ("/api/orders", 1, Place::Query));
        assert_eq!(http.security, [["key_x-shop-key"]]);
        let Action::Http(http) = &change.tool.action else { panic!() };
        assert_eq!(http.path, "/api/orders/{order_id}");
        assert_eq!(change.tool.input_schema["properties"]["body"]["properties"]["count"]["type"], "string");
    }
}
