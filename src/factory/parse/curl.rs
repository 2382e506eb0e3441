//! Commands of curl, as they stand in every API's documentation.

use serde_json::Value;

use super::{
    Draft, Said,
    example::{Auth, Example, Field, Sent, is_secret, is_token, looks_secret, parted},
};
use crate::{
    error::FactoryError,
    names::{self, Names},
    spec::{KeyPlace, Provenance, SourceKind},
};

const MOST_COMMANDS: usize = 500;

/// Reads one or more commands.
pub(super) fn read(text: &str, said: &Said) -> Result<Draft, FactoryError> {
    let commands = commands(text)?;
    if commands.is_empty() {
        return Err(FactoryError::Unreadable("there is no curl command in it: each begins with `curl`".into()));
    }
    if commands.len() > MOST_COMMANDS {
        return Err(FactoryError::TooLarge(format!("it has more than {MOST_COMMANDS} commands")));
    }
    let mut examples: Vec<Example> = commands.into_iter().map(example).collect::<Result<_, _>>()?;
    for example in &mut examples {
        example.base = said.base_url.clone().or(example.base.take());
    }
    let host = examples.iter().find_map(|example| example.base.as_deref()).and_then(host_name);
    let name = said.name.clone().or_else(|| names::server(host.as_deref().unwrap_or_default())).unwrap_or_else(|| "mcp-api".into());
    let mut draft = Draft::new(SourceKind::Curl, name);
    draft.title = host;
    draft.provenance.insert(String::new(), Provenance::Document);
    draft.provenance.insert("/name".into(), if said.name.is_some() { Provenance::Option } else { Provenance::Rule });
    draft.provenance.insert("/tools".into(), Provenance::Rule);
    let mut taken = Names::default();
    for example in examples {
        example.add_to(&mut draft, &mut taken);
    }
    Ok(draft)
}

/// The name that a host has beside `api.` and its top-level domain.
pub(super) fn host_name(base: &str) -> Option<String> {
    let url = url::Url::parse(base).ok()?;
    let url::Host::Domain(domain) = url.host()? else { return None };
    let labels: Vec<&str> = domain.split('.').collect();
    let kept: Vec<&str> = labels[..labels.len().saturating_sub(1).max(1)]
        .iter()
        .copied()
        .filter(|label| !["www", "api", "co", "com"].contains(label))
        .collect();
    (!kept.is_empty()).then(|| kept.join(" "))
}

/// The words of each command, as a shell reads them; nothing is expanded.
fn commands(text: &str) -> Result<Vec<Vec<String>>, FactoryError> {
    let (mut all, mut words, mut word): (Vec<Vec<String>>, Vec<String>, Option<String>) = (Vec::new(), Vec::new(), None);
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\'' => {
                let quoted = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(inner) => quoted.push(inner),
                        None => return Err(FactoryError::Unreadable("a quote of a command is not closed".into())),
                    }
                }
            }
            '"' => {
                let quoted = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some('\n') | None => {}
                            Some(next @ ('"' | '\\' | '$' | '`')) => quoted.push(next),
                            Some(next) => quoted.extend(['\\', next]),
                        },
                        Some(inner) => quoted.push(inner),
                        None => return Err(FactoryError::Unreadable("a quote of a command is not closed".into())),
                    }
                }
            }
            '\\' => match chars.next() {
                Some('\n') | None => {}
                Some('\r') => drop(chars.next_if_eq(&'\n')),
                Some(next) => word.get_or_insert_default().push(next),
            },
            '$' if chars.peek() == Some(&'\'') && word.is_none() => {}
            '#' if word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
            '\n' | ';' | '|' | '&' if !(char == '&' && word.is_some()) => {
                words.extend(word.take());
                all.push(std::mem::take(&mut words));
            }
            blank if blank.is_whitespace() => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    all.push(words);
    let is_curl = |words: &[String]| words.iter().position(|word| word == "curl" || word.ends_with("/curl"));
    Ok(all.into_iter().filter_map(|words| is_curl(&words).filter(|at| *at <= 2).map(|at| words[at + 1..].to_vec())).collect())
}

/// Options of curl that take a value, beside those that are read.
const WITH_VALUE: &str = "AbcCDeEFHKmoPQrTtuUwxXyYz";
const LONG_WITH_VALUE: [&str; 22] = [
    "--user-agent",
    "--cookie-jar",
    "--connect-timeout",
    "--max-time",
    "--output",
    "--proxy",
    "--cacert",
    "--cert",
    "--key",
    "--retry",
    "--resolve",
    "--write-out",
    "--referer",
    "--interface",
    "--range",
    "--limit-rate",
    "--ciphers",
    "--retry-delay",
    "--max-redirs",
    "--config",
    "--dump-header",
    "--upload-file",
];

#[derive(Default)]
struct Read {
    method: Option<String>,
    url: Option<String>,
    headers: Vec<Field>,
    data: Vec<String>,
    parts: Vec<Field>,
    is_json: bool,
    in_query: bool,
    has_user: bool,
}

fn example(words: Vec<String>) -> Result<Example, FactoryError> {
    let mut read = Read::default();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let (name, attached) = match word.strip_prefix("--") {
            Some(_) => word.split_once('=').map_or((word.clone(), None), |(name, value)| (name.to_owned(), Some(value.to_owned()))),
            None if word.starts_with('-') && word.len() > 2 && word.is_char_boundary(2) => split_short(&word),
            None => (word.clone(), None),
        };
        let takes = name.starts_with("--") || name.chars().nth(1).is_some_and(|short| WITH_VALUE.contains(short) || short == 'd');
        let mut value = || attached.clone().or_else(|| words.next()).unwrap_or_default();
        match name.as_str() {
            "-X" | "--request" => read.method = Some(value()),
            "-H" | "--header" => {
                if let Some((name, value)) = value().split_once(':') {
                    read.headers.push(Field::of(name.trim(), value.trim()));
                }
            }
            "-d" | "--data" | "--data-raw" | "--data-binary" | "--data-ascii" | "--data-urlencode" => read.data.push(value()),
            "--json" => {
                read.is_json = true;
                read.data.push(value());
            }
            "-F" | "--form" | "--form-string" => {
                let value = value();
                let (name, value) = value.split_once('=').unwrap_or((&value, ""));
                let is_file = value.starts_with(['@', '<']);
                read.parts.push(Field { is_file, ..Field::of(name, if is_file { "" } else { value }) });
            }
            "-u" | "--user" => {
                let _ = value();
                read.has_user = true;
            }
            "-b" | "--cookie" => drop(value()),
            "-G" | "--get" => read.in_query = true,
            "-I" | "--head" => read.method = Some("HEAD".into()),
            "--url" => read.url = Some(value()),
            "--oauth2-bearer" => {
                let _ = value();
                read.headers.push(Field::of("Authorization", "Bearer"));
            }
            other if LONG_WITH_VALUE.contains(&other) => drop(value()),
            other if other.starts_with("--") => {}
            other if other.starts_with('-') && other.len() > 1 => {
                if takes {
                    drop(value());
                }
            }
            _ => read.url = read.url.or(Some(word)),
        }
    }
    read.example()
}

/// `-XPOST` is `-X POST`, `-sSL` is three options without values.
fn split_short(word: &str) -> (String, Option<String>) {
    let short = word.chars().nth(1).unwrap_or_default();
    if WITH_VALUE.contains(short) || short == 'd' { (word[..2].to_owned(), Some(word[2..].to_owned())) } else { ("-s".to_owned(), None) }
}

impl Read {
    fn example(self) -> Result<Example, FactoryError> {
        let url = self.url.as_deref().ok_or_else(|| FactoryError::Unreadable("a command has no address".into()))?;
        let url = if url.contains("://") || url.starts_with(['/', '$', '{']) { url.to_owned() } else { format!("https://{url}") };
        let (base, path, mut query) = parted(&url);
        if self.in_query {
            for data in &self.data {
                query.extend(url::form_urlencoded::parse(data.as_bytes()).map(|(name, value)| Field::of(name, value)));
            }
        }
        let auth = auth_of(&self.headers, &query, self.has_user);
        let usual = if self.data.is_empty() && self.parts.is_empty() || self.in_query { "GET" } else { "POST" };
        let body = if self.in_query { None } else { self.body() };
        let method = self.method.clone().unwrap_or_else(|| usual.into());
        if !method.bytes().all(|b| b.is_ascii_alphabetic()) || method.is_empty() {
            return Err(FactoryError::Unreadable("a command has a method that is none".into()));
        }
        Ok(Example { method, path, base, query, headers: self.headers, body, auth, ..Example::default() })
    }

    fn body(&self) -> Option<Sent> {
        if !self.parts.is_empty() {
            return Some(Sent::Parts(self.parts.clone()));
        }
        let data = self.data.join("&");
        if self.data.is_empty() {
            return None;
        }
        let media =
            self.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-type")).map(|field| field.value.to_ascii_lowercase());
        if data.starts_with('@') {
            return Some(Sent::Bytes { media: media.unwrap_or_else(|| "application/octet-stream".into()) });
        }
        if let Ok(example) = serde_json::from_str::<Value>(&data)
            && (self.is_json || example.is_object() || example.is_array())
        {
            return Some(Sent::Json(example));
        }
        match media {
            Some(media) if !media.contains("x-www-form-urlencoded") => Some(Sent::Text { media, example: data }),
            _ => Some(Sent::Form(url::form_urlencoded::parse(data.as_bytes()).map(|(name, value)| Field::of(name, value)).collect())),
        }
    }
}

/// By which headers and query parameters a request says who it is from: all that look like it.
pub(super) fn auth_of(headers: &[Field], query: &[Field], has_user: bool) -> Vec<Auth> {
    let mut all = Vec::new();
    let authorization = headers.iter().find(|field| field.name.eq_ignore_ascii_case("authorization"));
    if has_user || authorization.is_some_and(|field| field.value.to_ascii_lowercase().starts_with("basic")) {
        all.push(Auth::Basic);
    } else if let Some(field) = authorization {
        let is_bearer = field.value.to_ascii_lowercase().starts_with("bearer");
        all.push(if is_bearer { Auth::Bearer } else { Auth::Key { place: KeyPlace::Header, name: "Authorization".into() } });
    }
    let usual = ["authorization", "user-agent", "accept", "content-type", "host", "cookie", "referer", "origin"];
    let of_headers = headers.iter().filter(|field| {
        let is_usual = usual.contains(&field.name.to_ascii_lowercase().as_str());
        !is_usual && is_token(&field.name) && (is_secret(&field.name) || looks_secret(&field.value))
    });
    all.extend(of_headers.map(|field| Auth::Key { place: KeyPlace::Header, name: field.name.clone() }));
    let of_query = query.iter().filter(|field| is_secret(&field.name) || looks_secret(&field.value));
    all.extend(of_query.map(|field| Auth::Key { place: KeyPlace::Query, name: field.name.clone() }));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Action, Scheme};

    #[test]
    fn commands_become_operations_and_secrets_stay_out() {
        let text = "# make one\ncurl -X POST 'https://api.acme.dev/v1/orders?notify=true' \\\n  -H 'Authorization: Bearer s3cr3t-t0ken' -H \"X-Trace: on\" \\\n  -d '{\"item\": \"x\", \"count\": 2}'\n\ncurl -s https://api.acme.dev/v1/orders/42";
        let draft = read(text, &Said::default()).unwrap();
        assert_eq!(draft.name, "mcp-acme");
        assert_eq!(draft.bases[0].url.as_deref(), Some("https://api.acme.dev"));
        let names: Vec<&str> = draft.operations.iter().map(|one| one.tool.name.as_str()).collect();
        assert_eq!(names, ["create_orders", "get_order"]);
        assert_eq!(draft.auth["bearer"], Scheme::Bearer { env: "ACME_TOKEN".into() });
        assert!(!format!("{draft:?}").contains("s3cr3t"));
        let Action::Http(http) = &draft.operations[1].tool.action else { panic!() };
        assert_eq!(http.path, "/v1/orders/{order_id}");
        assert_eq!(draft.operations[1].tool.input_schema["properties"]["order_id"]["type"], "integer");
    }

    #[test]
    fn every_secret_of_a_command_becomes_a_variable() {
        let text = "curl https://x.dev/y?sig=abc -H 'Authorization: Bearer aaaa' -H 'apikey: s3cr3t' -H 'DD-APPLICATION-KEY: 0ther' -H 'X-Odd: 9f8e7d6c5b4a39281706' -H 'X-Plain: yes'";
        let draft = read(text, &Said::default()).unwrap();
        let shown = format!("{draft:?}");
        for secret in ["aaaa", "s3cr3t", "0ther", "9f8e7d6c5b4a39281706", "\"abc\""] {
            assert!(!shown.contains(secret), "{secret}");
        }
        assert_eq!(draft.auth.len(), 5, "{:?}", draft.auth);
        let Action::Http(http) = &draft.operations[0].tool.action else { panic!() };
        assert_eq!((http.security[0].len(), http.params.len()), (5, 1));
    }

    #[test]
    fn what_is_no_command_is_refused() {
        for bad in ["", "wget https://x.dev", "curl", "curl 'https://x.dev", "curl -X 'P T' https://x.dev"] {
            assert!(read(bad, &Said::default()).is_err(), "{bad:?}");
        }
    }
}
