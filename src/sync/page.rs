//! A page of a registry's list, in any of the shapes that lists have had.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use servers::{Entry, Origin, Skip, SkipReason, parse_entry};

/// Not a page.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// Cut off, or not JSON at all.
    #[error("it is not JSON (line {line}, column {column})")]
    NotJson {
        /// Where.
        line: usize,
        /// Where.
        column: usize,
    },
    /// JSON of another form.
    #[error("it has no list of servers")]
    NoServers,
    /// More entries than a page may have.
    #[error("it has more than {MAX_ENTRIES} entries")]
    TooMany,
    /// A cursor that cannot be sent back.
    #[error("its cursor is longer than {MAX_CURSOR} bytes or has control characters")]
    BadCursor,
}

/// The official registry sends a hundred entries; importers send a few hundred.
const MAX_ENTRIES: usize = 5_000;
const MAX_CURSOR: usize = 2_048;

/// What a page holds.
#[derive(Debug)]
pub struct Page {
    /// The entries that can be taken.
    pub entries: Vec<Entry>,
    /// Those that cannot.
    pub skipped: Vec<Skip>,
    /// Where the next page begins; `None` on the last one.
    pub next_cursor: Option<String>,
}

/// `{"servers": […], "metadata": {"nextCursor": …}}`, `{"data": {"servers": […]}}`, a bare list, or one entry.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire<'a> {
    #[serde(borrow)]
    servers: Option<Entries<'a>>,
    #[serde(borrow)]
    data: Option<Data<'a>>,
    metadata: Option<Metadata>,
    #[serde(borrow)]
    server: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    servers: Entries<'a>,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(alias = "next_cursor", rename = "nextCursor")]
    next_cursor: Option<String>,
}

/// The entries of a list, but for those that are too many: memory is not theirs to take.
struct Entries<'a> {
    kept: Vec<&'a RawValue>,
    too_many: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(EntriesVisitor(PhantomData))
    }
}

struct EntriesVisitor<'a>(PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for EntriesVisitor<'a> {
    type Value = Entries<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of servers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Entries<'a>, A::Error> {
        let mut kept = Vec::new();
        while kept.len() < MAX_ENTRIES {
            match list.next_element::<&'de RawValue>()? {
                Some(entry) => kept.push(entry),
                None => return Ok(Entries { kept, too_many: false }),
            }
        }
        let mut too_many = false;
        while list.next_element::<IgnoredAny>()?.is_some() {
            too_many = true;
        }
        Ok(Entries { kept, too_many })
    }
}

impl<'a> Entries<'a> {
    fn checked(self) -> Result<Vec<&'a RawValue>, PageError> {
        if self.too_many { Err(PageError::TooMany) } else { Ok(self.kept) }
    }
}

/// Reads a page; entries that cannot be taken are passed over, with the reason.
pub fn parse(body: &[u8]) -> Result<Page, PageError> {
    // One entry with broken characters must not hold up the others.
    let text = String::from_utf8_lossy(body);
    let is_broken = matches!(text, std::borrow::Cow::Owned(_));
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let (raw, next_cursor) = entries(text)?;
    let mut page = Page { entries: Vec::with_capacity(raw.len()), skipped: Vec::new(), next_cursor };
    for raw in raw {
        match parse_entry(raw, Origin::Upstream) {
            Ok(entry) if is_broken && entry.document.contains('\u{fffd}') => {
                page.skipped.push(Skip { name: Some(entry.id.to_string()), version: Some(entry.version), reason: SkipReason::InvalidUtf8 });
            }
            Ok(entry) => page.entries.push(entry),
            Err(skip) => page.skipped.push(skip),
        }
    }
    Ok(page)
}

fn entries(text: &str) -> Result<(Vec<&RawValue>, Option<String>), PageError> {
    if text.starts_with('[') {
        let list: Entries = serde_json::from_str(text).map_err(|error| problem(&error))?;
        return Ok((list.checked()?, None));
    }
    let wire: Wire = serde_json::from_str(text).map_err(|error| problem(&error))?;
    let next = wire.metadata.and_then(|metadata| metadata.next_cursor).filter(|cursor| !cursor.is_empty());
    if next.as_ref().is_some_and(|cursor| cursor.len() > MAX_CURSOR || cursor.contains(char::is_control)) {
        return Err(PageError::BadCursor);
    }
    if let Some(servers) = wire.servers.or(wire.data.map(|data| data.servers)) {
        return Ok((servers.checked()?, next));
    }
    if wire.server.is_some() || wire.name.is_some() {
        return Ok((vec![serde_json::from_str(text).map_err(|error| problem(&error))?], None));
    }
    Err(PageError::NoServers)
}

fn problem(error: &serde_json::Error) -> PageError {
    if error.is_data() { PageError::NoServers } else { PageError::NotJson { line: error.line(), column: error.column() } }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = r#"{"server":{"name":"a/b","version":"1"}}"#;

    #[test]
    fn lists_of_every_shape_are_read() {
        let flat = r#"{"name":"a/b","version":"1"}"#;
        for (page, cursor) in [
            (format!(r#"{{"servers":[{ENTRY}],"metadata":{{"nextCursor":"c","count":1}}}}"#), Some("c")),
            (format!(r#"{{"servers":[{flat}],"metadata":{{"next_cursor":"c"}}}}"#), Some("c")),
            (format!(r#"{{"servers":[{flat}],"metadata":{{"nextCursor":null}}}}"#), None),
            (format!(r#"{{"servers":[{flat}],"metadata":{{"nextCursor":""}}}}"#), None),
            (format!("\u{feff} [{flat}]"), None),
            (format!(r#"{{"$schema":"x","data":{{"servers":[{flat}],"groups":[]}}}}"#), None),
            (ENTRY.to_owned(), None),
            (flat.to_owned(), None),
        ] {
            let read = parse(page.as_bytes()).unwrap();
            assert_eq!((read.entries.len(), read.skipped.len(), read.next_cursor.as_deref()), (1, 0, cursor), "{page}");
        }
    }

    #[test]
    fn what_is_no_page_says_so() {
        for bad in ["", "<html>", r#"{"servers":[{"#] {
            assert!(matches!(parse(bad.as_bytes()), Err(PageError::NotJson { .. })), "{bad}");
        }
        for bad in ["{}", "7", r#"{"servers":7}"#, r#"{"error":"x"}"#] {
            assert!(matches!(parse(bad.as_bytes()), Err(PageError::NoServers)), "{bad}");
        }
    }

    #[test]
    fn lists_that_are_too_long_and_cursors_that_cannot_be_sent_are_refused() {
        let list = |count: usize| format!(r#"{{"servers":[{}]}}"#, vec!["7"; count].join(","));
        assert_eq!(parse(list(MAX_ENTRIES).as_bytes()).unwrap().skipped.len(), MAX_ENTRIES);
        assert!(matches!(parse(list(MAX_ENTRIES + 1).as_bytes()), Err(PageError::TooMany)));
        for cursor in [r"a\u0000b".to_owned(), "x".repeat(MAX_CURSOR + 1)] {
            let page = format!(r#"{{"servers":[],"metadata":{{"nextCursor":"{cursor}"}}}}"#);
            assert!(matches!(parse(page.as_bytes()), Err(PageError::BadCursor)));
        }
    }

    #[test]
    fn an_entry_with_broken_characters_does_not_hold_up_the_others() {
        let mut page = br#"{"servers":[{"server":{"name":"a/x","version":"1","description":"#.to_vec();
        page.extend(b"\"\xff\xfe\"}},");
        page.extend(ENTRY.as_bytes());
        page.extend(b"]}");
        let read = parse(&page).unwrap();
        assert_eq!(read.entries.len(), 1);
        assert_eq!(read.skipped[0].reason, SkipReason::InvalidUtf8);
        assert_eq!(read.skipped[0].name.as_deref(), Some("a/x"));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(mut bytes: Vec<u8>, cut in 0_usize..200) {
            parse(&bytes).ok();
            let page = format!(r#"{{"servers":[{ENTRY},{ENTRY}],"metadata":{{}}}}"#);
            let place = cut.min(page.len());
            bytes.splice(0..0, page.as_bytes()[..place].iter().copied());
            bytes.extend_from_slice(&page.as_bytes()[place..]);
            parse(&bytes).ok();
        }
    }
}
