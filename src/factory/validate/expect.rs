//! The request that a document demands for some arguments, written by other rules than the runtimes' (the expansions of
//! RFC 6570, which OpenAPI's styles stand for), and what differs from it in one that came.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use super::echo::Asked;
use crate::spec::{Body, Http, KeyPlace, Param, Part, Place, Scheme, ServerSpec, Style};

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// What may stay where a parameter says so, but for what would end it.
const RESERVED: &AsciiSet = &UNRESERVED
    .remove(b':')
    .remove(b'/')
    .remove(b'?')
    .remove(b'@')
    .remove(b'!')
    .remove(b'$')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b',')
    .remove(b';');

/// A request as it has to be.
pub(crate) struct Expected {
    method: String,
    path: String,
    query: Vec<String>,
    headers: BTreeMap<String, String>,
    cookies: Vec<String>,
    body: Sent,
}

enum Sent {
    Nothing,
    Json(Value, String),
    Bytes(Vec<u8>, String),
    Parts(Vec<(String, Option<String>, Vec<u8>)>),
}

/// How a style is expanded: what begins it, what parts its pieces, and whether they bear the name.
struct Expansion {
    first: &'static str,
    between: &'static str,
    is_named: bool,
}

fn expansion(style: Style) -> Expansion {
    let (first, between, is_named) = match style {
        Style::Simple => ("", ",", false),
        Style::Label => (".", ".", false),
        Style::Matrix => (";", ";", true),
        _ => ("", "&", true),
    };
    Expansion { first, between, is_named }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The pieces of a value, each `name=value`, `key=value` or `value`.
fn pieces(name: &str, value: &Value, style: Style, explode: bool, encode: &dyn Fn(&str) -> String) -> Vec<String> {
    let Expansion { is_named, .. } = expansion(style);
    let name = encode_name(name);
    let named = |text: String| match (is_named, text.is_empty() && style == Style::Matrix) {
        (false, _) => text,
        (true, true) => name.clone(),
        (true, false) => format!("{name}={text}"),
    };
    let comma = match style {
        Style::SpaceDelimited => "%20",
        Style::PipeDelimited => "%7C",
        Style::TabDelimited => "%09",
        _ => ",",
    };
    match value {
        Value::Array(items) if explode => items.iter().map(|item| named(encode(&plain(item)))).collect(),
        Value::Array(items) => vec![named(items.iter().map(|item| encode(&plain(item))).collect::<Vec<_>>().join(comma))],
        Value::Object(members) if explode => {
            members.iter().map(|(key, member)| format!("{}={}", encode(key), encode(&plain(member)))).collect()
        }
        Value::Object(members) => {
            let flat: Vec<String> = members.iter().flat_map(|(key, member)| [encode(key), encode(&plain(member))]).collect();
            vec![named(flat.join(comma))]
        }
        single => vec![named(encode(&plain(single)))],
    }
}

fn encode_name(name: &str) -> String {
    utf8_percent_encode(name, UNRESERVED).to_string()
}

fn brackets(name: &str, value: &Value, encode: &dyn Fn(&str) -> String) -> Vec<String> {
    match value {
        Value::Object(members) => {
            members.iter().flat_map(|(key, member)| brackets(&format!("{name}%5B{}%5D", encode(key)), member, encode)).collect()
        }
        Value::Array(items) => items.iter().flat_map(|item| brackets(name, item, encode)).collect(),
        single => vec![format!("{name}={}", encode(&plain(single)))],
    }
}

fn query_of(name: &str, value: &Value, (style, explode, reserved): (Style, bool, bool), content: Option<&str>) -> Vec<String> {
    let encode = |text: &str| utf8_percent_encode(text, if reserved { RESERVED } else { UNRESERVED }).to_string();
    match content {
        Some(media) => {
            let text = if media.contains("json") { value.to_string() } else { plain(value) };
            vec![format!("{}={}", encode_name(name), encode(&text))]
        }
        None if style == Style::DeepObject && (value.is_object() || value.is_array()) => brackets(&encode_name(name), value, &encode),
        None => pieces(name, value, style, explode, &encode),
    }
}

impl Expected {
    /// For these arguments of an operation whose base has this path.
    pub(crate) fn of(http: &Http, args: &Map<String, Value>, base_path: &str) -> Self {
        let mut expected = Self {
            method: http.method.clone(),
            path: http.path.clone(),
            query: Vec::new(),
            headers: BTreeMap::new(),
            cookies: Vec::new(),
            body: Sent::Nothing,
        };
        for param in &http.params {
            let value = param.value.as_ref().or_else(|| param.arg.as_ref().and_then(|arg| args.get(arg))).or(param.default.as_ref());
            if let Some(value) = value {
                expected.add(param, value);
            }
        }
        expected.path.insert_str(0, base_path);
        if let Some(body) = &http.body {
            let value = body.value.as_ref().or_else(|| body.arg.as_ref().and_then(|arg| args.get(arg)));
            expected.body = value.map_or(Sent::Nothing, |value| sent(body, value));
        }
        expected
    }

    /// Adds what the first way to say who asks demands, with this value for every secret.
    pub(crate) fn with_credentials(mut self, spec: &ServerSpec, security: &[Vec<String>], secret: &str) -> Self {
        let chosen = security.iter().find(|set| !set.is_empty());
        for scheme in chosen.into_iter().flatten().filter_map(|name| spec.auth.get(name)) {
            let mut header = |name: &str, value: String| drop(self.headers.insert(name.to_ascii_lowercase(), value));
            match scheme {
                Scheme::ApiKey { r#in: KeyPlace::Header, name, .. } => header(name, secret.to_owned()),
                Scheme::ApiKey { r#in: place, name, .. } => {
                    let pair = format!("{}={secret}", encode_name(name));
                    if *place == KeyPlace::Query { self.query.push(pair) } else { self.cookies.push(pair) }
                }
                Scheme::Bearer { .. } | Scheme::ClientCredentials { .. } => header("authorization", format!("Bearer {secret}")),
                Scheme::Basic { .. } => header("authorization", format!("Basic {}", BASE64_STANDARD.encode(format!("{secret}:{secret}")))),
            }
        }
        self
    }

    fn add(&mut self, param: &Param, value: &Value) {
        let content = param.content.as_deref();
        let manner = (param.style, param.explode, param.reserved);
        match param.r#in {
            Place::Query => self.query.extend(query_of(&param.name, value, manner, content)),
            Place::Cookie => self.cookies.extend(query_of(&param.name, value, (Style::Form, param.explode, param.reserved), content)),
            Place::Path => {
                // A question mark would end the path.
                let reserved = |text: &str| utf8_percent_encode(text, RESERVED).to_string().replace('?', "%3F");
                let plainly = |text: &str| utf8_percent_encode(text, UNRESERVED).to_string();
                let encode: &dyn Fn(&str) -> String = if param.reserved { &reserved } else { &plainly };
                let written = if content.is_some() {
                    encode(&value.to_string())
                } else {
                    let Expansion { first, between, .. } = expansion(param.style);
                    let between = if param.style == Style::Simple { "," } else { between };
                    format!("{first}{}", pieces(&param.name, value, param.style, param.explode, encode).join(between))
                };
                self.path = self.path.replace(&format!("{{{}}}", param.name), &written);
            }
            Place::Header => {
                let written = if content.is_some() {
                    value.to_string()
                } else {
                    pieces(&param.name, value, Style::Simple, param.explode, &str::to_owned).join(",")
                };
                self.headers.insert(param.name.to_ascii_lowercase(), written);
            }
        }
    }

    /// What differs in a request that came; nothing when it is as it has to be.
    pub(crate) fn differences(&self, asked: &Asked) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |what: &str, wanted: &str, came: &str| {
            if wanted != came {
                found.push(format!("{what}: wanted {}, came {}", crate::text::line(wanted, 200), crate::text::line(came, 200)));
            }
        };
        compare("method", &self.method, &asked.method);
        compare("path", &self.path, &asked.path);
        compare("query", &self.query.join("&"), &asked.query);
        for (name, wanted) in &self.headers {
            let came = asked.headers.get(name).map(|value| value.as_bytes().iter().map(|byte| char::from(*byte)).collect::<String>());
            compare(&format!("header {name}"), wanted.trim(), came.as_deref().unwrap_or("nothing"));
        }
        let cookie = asked.headers.get("cookie").and_then(|value| value.to_str().ok()).unwrap_or_default();
        compare("cookie", &self.cookies.join("; "), cookie);
        let media = asked.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        match &self.body {
            Sent::Nothing => compare("body", "", &String::from_utf8_lossy(&asked.body)),
            Sent::Json(wanted, kind) => {
                compare("content-type", kind, media);
                let came = serde_json::from_slice::<Value>(&asked.body).unwrap_or_default();
                if came != *wanted {
                    compare("body", &wanted.to_string(), &String::from_utf8_lossy(&asked.body));
                }
            }
            Sent::Bytes(wanted, kind) => {
                compare("content-type", kind, media);
                if *wanted != asked.body {
                    compare("body", &String::from_utf8_lossy(wanted), &String::from_utf8_lossy(&asked.body));
                }
            }
            Sent::Parts(wanted) => {
                let came = media.split_once("boundary=").map(|(_, boundary)| parts_in(&asked.body, boundary)).unwrap_or_default();
                if came != *wanted {
                    compare("parts", &format!("{wanted:?}"), &format!("{came:?}"));
                }
            }
        }
        found
    }
}

fn bytes_of(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_default();
    BASE64_STANDARD.decode(text).or_else(|_| BASE64_URL_SAFE.decode(text)).unwrap_or_default()
}

fn sent(body: &Body, value: &Value) -> Sent {
    let kind = body.content_type.clone();
    let bare = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match bare.as_str() {
        "multipart/form-data" => Sent::Parts(parts(body, value)),
        "application/x-www-form-urlencoded" => {
            let pairs: Vec<String> =
                value.as_object().into_iter().flatten().flat_map(|(name, member)| form_pairs(body.parts.get(name), name, member)).collect();
            Sent::Bytes(pairs.join("&").replace("%20", "+").into_bytes(), kind)
        }
        json if json == "application/json" || json.ends_with("+json") => Sent::Json(value.clone(), kind),
        lines if lines.contains("ndjson") || lines.contains("jsonl") => {
            let lines =
                value.as_array().map_or_else(|| plain(value), |all| all.iter().map(Value::to_string).collect::<Vec<_>>().join("\n"));
            Sent::Bytes(lines.into_bytes(), kind)
        }
        text if text.starts_with("text/") || text.ends_with("/xml") || text.ends_with("+xml") => {
            Sent::Bytes(plain(value).into_bytes(), kind)
        }
        _ => Sent::Bytes(bytes_of(value), kind),
    }
}

fn form_pairs(part: Option<&Part>, name: &str, member: &Value) -> Vec<String> {
    let usual = Part::default();
    let part = part.unwrap_or(&usual);
    let is_nested = member.is_object()
        || member.as_array().is_some_and(|items| items.iter().any(|item| item.is_object() || item.is_array() || item.is_null()));
    let content = part.content_type.clone().or_else(|| (is_nested && part.style.is_none()).then(|| "application/json".to_owned()));
    let manner = (part.style.unwrap_or(Style::Form), part.explode.unwrap_or(true), part.reserved);
    query_of(name, member, manner, content.as_deref().filter(|media| media.contains("json")))
}

fn parts(body: &Body, value: &Value) -> Vec<(String, Option<String>, Vec<u8>)> {
    let mut all = Vec::new();
    for (name, member) in value.as_object().into_iter().flatten() {
        let usual = Part::default();
        let part = body.parts.get(name).unwrap_or(&usual);
        let items: Vec<&Value> = match member {
            Value::Array(items) if part.content_type.is_none() => items.iter().collect(),
            single => vec![single],
        };
        for item in items {
            let usual = if part.binary { Some("application/octet-stream") } else { item.is_object().then_some("application/json") };
            let kind = part.content_type.as_deref().or(usual).map(str::to_owned);
            all.push((name.clone(), kind, if part.binary { bytes_of(item) } else { plain(item).into_bytes() }));
        }
    }
    all
}

/// The parts of a form (RFC 7578): name, media type and bytes of each.
fn parts_in(bytes: &[u8], boundary: &str) -> Vec<(String, Option<String>, Vec<u8>)> {
    let mark = format!("--{boundary}").into_bytes();
    let find = |hay: &[u8], needle: &[u8]| hay.windows(needle.len()).position(|window| window == needle);
    let (mut rest, mut all) = (bytes, Vec::new());
    while let Some(start) = find(rest, &mark) {
        rest = &rest[start + mark.len()..];
        if rest.starts_with(b"--") {
            break;
        }
        let Some(head_end) = find(rest, b"\r\n\r\n") else { break };
        let head = String::from_utf8_lossy(&rest[..head_end]).into_owned();
        rest = &rest[head_end + 4..];
        let Some(end) = find(rest, &[b"\r\n", &mark[..]].concat()) else { break };
        let name =
            head.split_once("name=\"").and_then(|(_, rest)| rest.split_once('"')).map(|(name, _)| name.to_owned()).unwrap_or_default();
        let kind = head.lines().find_map(|line| line.strip_prefix("Content-Type: ")).map(str::to_owned);
        all.push((name, kind, rest[..end].to_vec()));
        rest = &rest[end..];
    }
    all
}
