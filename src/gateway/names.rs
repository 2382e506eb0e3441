//! What tools and prompts are called where several servers offer theirs.
//!
//! `<server>__<tool>`, and never otherwise, whatever other servers there are. Names stay within 64 of
//! `[A-Za-z0-9_-]`, which every client takes.

use platform::random::hex;
use sha2::{Digest as _, Sha256};
use virtual_servers::Prefix;

/// What parts a server from its tool.
const BETWEEN: &str = "__";
/// What clients take.
const LONGEST: usize = 64;
/// How much of it the server may have.
const LONGEST_SERVER: usize = 20;

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}

/// So many hexadecimal digits of what a text is.
fn mark(text: &str, digits: usize) -> String {
    hex(&Sha256::digest(text.as_bytes()))[..digits].to_owned()
}

fn plain(text: &str, most: usize) -> String {
    text.chars().map(|c| if is_plain(c) { c } else { '_' }).take(most).collect()
}

/// What stands for a server: its id where that is short and plain, else the last part of it with a mark of the whole.
pub(crate) fn server(id: &str) -> String {
    let is_fit = id.len() <= LONGEST_SERVER && id.chars().all(is_plain) && !id.contains(BETWEEN) && !id.ends_with('_') && !id.is_empty();
    if is_fit {
        return id.to_owned();
    }
    let last = id.rsplit('/').next().unwrap_or(id);
    let mut short = plain(last, LONGEST_SERVER - 9);
    while short.contains(BETWEEN) {
        short = short.replace(BETWEEN, "_");
    }
    format!("{}-{}", short.trim_matches('_'), mark(id, 8))
}

/// What a server's tool is called behind the server's own name; the same where it is short and plain.
pub(crate) fn own(prefix: &str, name: &str) -> String {
    let most = LONGEST - prefix.len() - BETWEEN.len();
    if name.len() <= most && name.chars().all(is_plain) {
        return name.to_owned();
    }
    format!("{}-{}", plain(name, most - 7), mark(name, 6))
}

/// The whole name.
pub(crate) fn whole(prefix: &str, name: &str) -> String {
    format!("{prefix}{BETWEEN}{}", own(prefix, name))
}

/// What a server's thing is called at an endpoint of several, before anything is renamed.
pub(crate) fn at(prefix: Prefix, server: &str, name: &str) -> String {
    match prefix {
        Prefix::Server => whole(server, name),
        Prefix::None => own("", name),
    }
}

/// The server and the rest of a whole name.
pub(crate) fn part(whole: &str) -> Option<(&str, &str)> {
    whole.split_once(BETWEEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_plain_names_are_kept() {
        assert_eq!(whole("mcp-time", "get_time"), "mcp-time__get_time");
        assert_eq!(part("mcp-time__get__time"), Some(("mcp-time", "get__time")));
        assert_eq!(part("alone"), None);
    }

    #[test]
    fn names_of_one_end_are_told_apart() {
        let (one, other) = (server("io.github.acme/weather"), server("com.example/weather"));
        assert!(one.starts_with("weather-") && other.starts_with("weather-") && one != other, "{one} {other}");
        assert_ne!(server("a__b"), "a__b");
        assert_ne!(server("a/x"), server("b/x"));
        let long = "x".repeat(200);
        assert_ne!(own("s", &format!("{long}1")), own("s", &format!("{long}2")));
        assert_ne!(own("s", "a.b"), own("s", "a_b"));
    }

    proptest::proptest! {
        #[test]
        fn every_name_is_taken_by_every_client(id in "\\PC{1,200}", name in "\\PC{1,200}") {
            let prefix = server(&id);
            let whole = whole(&prefix, &name);
            proptest::prop_assert!(whole.len() <= LONGEST && whole.chars().all(is_plain), "{}", whole);
            proptest::prop_assert_eq!(part(&whole).unwrap().0, prefix);
        }
    }
}
