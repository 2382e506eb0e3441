//! Names of servers, tools, arguments and variables: what comes from a document becomes one that clients take, or none.

use std::collections::{HashMap, HashSet};

/// The most that clients take of a tool's name together with the server's prefix leaves so many.
const LONGEST_TOOL: usize = 40;
const LONGEST_SERVER: usize = 50;
const LONGEST_VARIABLE: usize = 40;

/// The words of a name of any style: `listPets`, `list_pets`, `GET /pets/{id}`.
pub(crate) fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let (mut word, mut before) = (String::new(), ' ');
    let chars: Vec<char> = text.chars().collect();
    for (at, &char) in chars.iter().enumerate() {
        if char.is_ascii_alphanumeric() {
            let ends_capitals = before.is_ascii_uppercase() && chars.get(at + 1).is_some_and(char::is_ascii_lowercase);
            if char.is_ascii_uppercase() && (before.is_ascii_lowercase() || before.is_ascii_digit() || ends_capitals) {
                push(&mut words, &mut word);
            }
            word.push(char.to_ascii_lowercase());
        } else {
            // A letter of another script is not taken for nothing: it stands for itself as a gap.
            push(&mut words, &mut word);
        }
        before = char;
    }
    push(&mut words, &mut word);
    words
}

fn push(words: &mut Vec<String>, word: &mut String) {
    if !word.is_empty() {
        words.push(std::mem::take(word));
    }
}

/// Words in `snake_case` of at most `longest` bytes: the last ones go first, and what was cut is told apart by a hash.
fn fitted(words: &[String], separator: &str, longest: usize) -> String {
    let whole = words.join(separator);
    if whole.len() <= longest {
        return whole;
    }
    let mark = &crate::digest::sha256_hex(whole.as_bytes())[..6];
    let room = longest - mark.len() - separator.len();
    let mut kept = String::new();
    for word in words {
        let more = if kept.is_empty() { word.len() } else { separator.len() + word.len() };
        if kept.len() + more > room {
            break;
        }
        if !kept.is_empty() {
            kept.push_str(separator);
        }
        kept.push_str(word);
    }
    if kept.is_empty() {
        kept = words.first().map_or_else(String::new, |word| word[..room].to_owned());
    }
    format!("{kept}{separator}{mark}")
}

/// The name of a server for what something is called: `mcp-petstore`. `None` where nothing of it can stand in a name.
pub(crate) fn server(text: &str) -> Option<String> {
    let noise = [
        "api",
        "apis",
        "the",
        "a",
        "an",
        "rest",
        "service",
        "server",
        "mcp",
        "openapi",
        "swagger",
        "v1",
        "v2",
        "v3",
        "http",
        "official",
        "spec",
        "specification",
        "documentation",
        "docs",
        "for",
        "of",
        "and",
    ];
    // What follows a dash, a colon or a bracket explains the name.
    let first = text.split([':', '(', '[', '+', '|', '–', '—']).next().filter(|first| !words(first).is_empty()).unwrap_or(text);
    let first = first.split(" - ").next().filter(|first| !words(first).is_empty()).unwrap_or(first);
    // Names that people write in one word stay one.
    let all = words(&first.to_lowercase().replace("'s ", " ").replace("’s ", " "));
    let mut kept: Vec<String> = all.iter().filter(|word| !noise.contains(&word.as_str())).take(4).cloned().collect();
    if kept.is_empty() {
        kept = all.into_iter().filter(|word| word != "mcp").take(2).collect();
    }
    let name = fitted(&kept, "-", LONGEST_SERVER);
    (!name.is_empty()).then(|| format!("mcp-{name}"))
}

/// Whether somebody may call a server so.
pub(crate) fn is_server(name: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (2..=64).contains(&name.len())
        && name.starts_with(edge)
        && name.ends_with(edge)
        && name.chars().all(|c| edge(c) || c == '-')
        && !name.contains("--")
        && !["custom", "rules", "node-modules", "favicon-ico", "con", "prn", "aux", "nul"].contains(&name)
}

/// The service that variables and base addresses are named after: `PETSTORE`.
pub(crate) fn service(server: &str) -> String {
    let bare = server.strip_prefix("mcp-").unwrap_or(server);
    let name = fitted(&words(bare), "_", LONGEST_VARIABLE).to_ascii_uppercase();
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("API_{name}") } else { name }
}

/// `PETSTORE_API_KEY`.
pub(crate) fn variable(service: &str, of: &str) -> String {
    let parts = words(of);
    let first: Vec<String> = words(service);
    // A scheme that is called after the service does not say its name twice.
    let rest = if parts.starts_with(&first) && parts.len() > first.len() { &parts[first.len()..] } else { &parts[..] };
    let rest = fitted(rest, "_", LONGEST_VARIABLE).to_ascii_uppercase();
    if rest.is_empty() { format!("{service}_KEY") } else { format!("{service}_{rest}") }
}

/// Gives names that nobody has yet.
#[derive(Default)]
pub(crate) struct Names {
    /// In lower case: clients tell names apart by more than that, people do not.
    taken: HashSet<String>,
    /// The last number that a name was given.
    numbers: HashMap<String, u32>,
}

impl Names {
    /// A tool's name of these words.
    pub(crate) fn tool(&mut self, words: &[String]) -> String {
        let name = fitted(words, "_", LONGEST_TOOL);
        let name = if name.is_empty() { "call".to_owned() } else { name };
        self.free(&name, LONGEST_TOOL)
    }

    /// An argument's name: that of the parameter where clients take it, and where it is free; else one with its place.
    pub(crate) fn argument(&mut self, name: &str, place: &str) -> String {
        let is_fit = (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
        let own = if is_fit { name.to_owned() } else { fitted(&words(name), "_", 64) };
        let own = if own.is_empty() { place.to_owned() } else { own };
        if self.taken.insert(own.to_lowercase()) {
            return own;
        }
        self.free(&format!("{place}_{own}"), 64)
    }

    fn free(&mut self, name: &str, longest: usize) -> String {
        let mut free = name.to_owned();
        let key = name.to_lowercase();
        while !self.taken.insert(free.to_lowercase()) {
            let number = self.numbers.entry(key.clone()).or_insert(1);
            *number += 1;
            let suffix = format!("_{number}");
            free = format!("{}{suffix}", &name[..name.len().min(longest - suffix.len())]);
        }
        free
    }
}

/// One of several things: `pets` is `pet`.
pub(crate) fn singular(word: &str) -> String {
    match word {
        _ if word.ends_with("ies") && word.len() > 4 => format!("{}y", &word[..word.len() - 3]),
        _ if word.ends_with("sses") || word.ends_with("xes") || word.ends_with("ches") || word.ends_with("shes") => {
            word[..word.len() - 2].to_owned()
        }
        _ if word.ends_with('s') && !word.ends_with("ss") && !word.ends_with("us") && word.len() > 3 => word[..word.len() - 1].to_owned(),
        _ => word.to_owned(),
    }
}

/// With a capital at its beginning.
pub(crate) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_style_have_the_same_words() {
        for text in ["listPetsByID", "list_pets_by_id", "list-pets-by-id", "List Pets by ID", "list.pets/{by}/id"] {
            assert_eq!(words(text).join(" "), "list pets by id", "{text}");
        }
        assert_eq!(words("HTTPServer2Go"), ["http", "server2", "go"]);
        assert_eq!(words("🦀 ../../etc"), ["etc"]);
        assert!(words("данные").is_empty());
    }

    #[test]
    fn servers_and_variables_are_named_after_what_they_are_for() {
        assert_eq!(server("Swagger Petstore - OpenAPI 3.0").as_deref(), Some("mcp-petstore"));
        assert_eq!(server("GitHub's official OpenAPI spec + Octokit").as_deref(), Some("mcp-github"));
        assert_eq!(server("The API").as_deref(), Some("mcp-the-api"));
        assert_eq!(server("../.."), None);
        assert_eq!(service("mcp-petstore"), "PETSTORE");
        assert_eq!(service("mcp-3d-models"), "API_3D_MODELS");
        assert_eq!(variable("PETSTORE", "petstore_auth"), "PETSTORE_AUTH");
        assert_eq!(variable("PETSTORE", "api_key"), "PETSTORE_API_KEY");
        for bad in ["", "a", "-a", "a-", "A", "a b", "../x", "a--b", "a/b", "ä"] {
            assert!(!is_server(bad), "{bad}");
        }
        assert!(is_server("mcp-weather") && is_server("w2"));
    }

    #[test]
    fn names_are_free_and_short_enough() {
        let mut names = Names::default();
        assert_eq!(names.tool(&words("listPets")), "list_pets");
        assert_eq!(names.tool(&words("list_pets")), "list_pets_2");
        let long = "apps/list-installation-requests-for-authenticated-app-and-then-some-more";
        let (first, second) = (names.tool(&words(long)), names.tool(&words(&format!("{long}-again"))));
        assert!(first.len() <= 40 && second.len() <= 40 && first != second && first.starts_with("apps_list_"), "{first} {second}");
        let mut names = Names::default();
        assert_eq!(names.argument("id", "path"), "id");
        assert_eq!(names.argument("id", "query"), "query_id");
        assert_eq!(names.argument("filter[name]", "query"), "filter_name");
        assert_eq!(names.argument("✓", "query"), "query");
    }
}
