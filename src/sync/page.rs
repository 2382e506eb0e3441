//! A page of a registry's list, in any of the shapes that lists have had.

use serde::Deserialize;
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
}

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
    servers: Option<Vec<&'a RawValue>>,
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
    servers: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(alias = "next_cursor", rename = "nextCursor")]
    next_cursor: Option<String>,
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
        return Ok((serde_json::from_str(text).map_err(|error| problem(&error))?, None));
    }
    let wire: Wire = serde_json::from_str(text).map_err(|error| problem(&error))?;
    let next = wire.metadata.and_then(|metadata| metadata.next_cursor).filter(|cursor| !cursor.is_empty());
    if let Some(servers) = wire.servers.or(wire.data.map(|data| data.servers)) {
        return Ok((servers, next));
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
