//! The trail as a file: one line for each event and a signed last one, or CSV for spreadsheets.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use platform::{Action, Actor, clock, random};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sqlx::Connection as _;

use crate::{
    Audit, AuditError,
    chain::unhex,
    keys::is_signed,
    model::{Body, EventType, Link, NewEvent, Personal},
    service::{Filter, visible},
    store::{
        self,
        read::{Chained, shown},
    },
};

const PAGE: i64 = 2000;

platform::words! {
    /// How an export is written.
    pub enum Format {
        /// An event a line, and a signed last line: `audit verify --export` reads it.
        Jsonl = "jsonl",
        /// For spreadsheets (RFC 4180); no cell begins like a formula.
        Csv = "csv",
    }
}

/// One line of an export.
#[derive(Serialize, Deserialize)]
pub(crate) struct Line {
    seq: i64,
    prev: String,
    hash: String,
    authentic: bool,
    #[serde(flatten)]
    body: Body,
    personal: Option<Personal>,
}

impl Line {
    fn of((link, personal): Chained) -> Self {
        Self {
            seq: link.seq,
            prev: random::hex(&link.prev),
            hash: random::hex(&link.hash),
            authentic: link.authentic,
            body: link.body,
            personal,
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Chained> {
        let line: Self = serde_json::from_str(text).ok()?;
        let (prev, hash) = (unhex(&line.prev)?, unhex(&line.hash)?);
        Some((Link { seq: line.seq, body: line.body, authentic: line.authentic, prev, hash }, line.personal))
    }
}

/// The last line of an export.
#[derive(Serialize, Deserialize)]
pub(crate) struct Seal {
    export: u8,
    /// Whether no event between the first and the last was left out.
    pub(crate) complete: bool,
    rows: u64,
    at: String,
    /// SHA-256 of all lines above.
    sha256: String,
    pub(crate) public_key: String,
    signature: String,
}

impl Seal {
    fn text(&self) -> String {
        format!(
            "mcp-fabric audit export {}\ncomplete {}\nrows {}\nat {}\nsha256 {}\n",
            self.export, self.complete, self.rows, self.at, self.sha256
        )
    }

    /// Whether this line is about `lines` and signed, with `public` if that is given.
    pub(crate) fn is_valid_for(&self, lines: &str, public: Option<[u8; 32]>) -> bool {
        let is_them = random::hex(&Sha256::digest(lines.as_bytes())) == self.sha256 && lines.lines().count() as u64 == self.rows;
        let key = unhex(&self.public_key).filter(|key| public.is_none_or(|expected| expected == *key));
        is_them
            && key.zip(random::unhex(&self.signature)).is_some_and(|(key, signature)| is_signed(&key, self.text().as_bytes(), &signature))
    }
}

/// The lines of events, and the signed last one.
pub(crate) fn split(text: &str) -> Option<(&str, Seal)> {
    let whole = text.strip_suffix('\n').unwrap_or(text);
    let at = whole.rfind('\n').map_or(0, |at| at + 1);
    Some((&text[..at], serde_json::from_str(&whole[at..]).ok()?))
}

impl Audit {
    /// The part of the trail that this actor may see, oldest first, as it is at one moment.
    pub async fn export(
        &self,
        actor: &Actor,
        filter: Filter,
        format: Format,
    ) -> Result<impl Stream<Item = Result<Bytes, AuditError>> + use<>, AuditError> {
        let complete = actor.may(Action::AuditReadAll) && is_everything(&filter);
        let filter = visible(actor, filter)?;
        let place = Arc::clone(&self.inner.exports).try_acquire_owned().map_err(|_| AuditError::Exporting)?;
        let event = NewEvent::new(EventType::DataAccess, "audit.export").with("format", format.as_str()).with("complete", complete);
        self.record(actor, event).await?;
        self.seal().await?;
        let audit = self.clone();
        Ok(async_stream::try_stream! {
            let _place = place;
            let mut connection = audit.inner.database.audit().acquire().await?;
            let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            let (mut after, mut rows, mut digest) = (0, 0_u64, Sha256::new());
            if format == Format::Csv {
                yield Bytes::from_static(CSV_HEADER.as_bytes());
            }
            loop {
                let page = store::read::follow(&mut transaction, &filter, after, PAGE).await?;
                let Some((last, _)) = page.last() else { break };
                after = last.seq;
                rows += page.len() as u64;
                let text = match format {
                    Format::Jsonl => jsonl(page),
                    Format::Csv => csv(page),
                };
                digest.update(text.as_bytes());
                yield Bytes::from(text);
            }
            transaction.rollback().await?;
            if format == Format::Jsonl {
                let mut out = String::new();
                push_json(&mut out, &audit.sealed(complete, rows, &digest.finalize()));
                yield Bytes::from(out);
            }
        })
    }

    fn sealed(&self, complete: bool, rows: u64, digest: &[u8]) -> Seal {
        let mut seal = Seal {
            export: 1,
            complete,
            rows,
            at: clock::rfc3339(clock::now()),
            sha256: random::hex(digest),
            public_key: random::hex(&self.inner.keys.public()),
            signature: String::new(),
        };
        seal.signature = random::hex(&self.inner.keys.sign(seal.text().as_bytes()));
        seal
    }
}

/// Whether nothing between the first and the last event is left out. (Times may stand out of order.)
fn is_everything(filter: &Filter) -> bool {
    let Filter { owner, actor, action, event_type, outcome, server_id, target_id, from, to } = filter;
    let texts = [owner, actor, action, server_id, target_id].iter().all(|text| text.is_none());
    texts && event_type.is_none() && outcome.is_none() && from.is_none() && to.is_none()
}

/// A line for each event.
pub(crate) fn jsonl(events: Vec<Chained>) -> String {
    events.into_iter().fold(String::new(), |mut out, event| {
        push_json(&mut out, &Line::of(event));
        out
    })
}

fn push_json(out: &mut String, value: &impl Serialize) {
    // Structs of texts and numbers always serialize.
    out.push_str(&serde_json::to_string(value).unwrap_or_default());
    out.push('\n');
}

const CSV_HEADER: &str =
    "seq,timestamp,event_type,action,outcome,actor,owner,source,request_id,target_type,target_id,server_id,answers,detail,personal,id\r\n";

fn csv(events: Vec<Chained>) -> String {
    events.into_iter().fold(String::new(), |mut out, event| {
        push_csv(&mut out, event);
        out
    })
}

fn push_csv(out: &mut String, event: Chained) {
    let event = shown(event);
    let id = |id: Option<crate::EventId>| id.map(|id| id.to_string()).unwrap_or_default();
    let json = |value: &Value| if value.is_null() { String::new() } else { value.to_string() };
    let cells = [
        event.seq.to_string(),
        clock::rfc3339(event.timestamp),
        event.event_type.to_string(),
        event.action,
        event.outcome.to_string(),
        event.actor,
        event.owner,
        event.source,
        event.request_id.unwrap_or_default(),
        event.target_type.unwrap_or_default(),
        event.target_id.unwrap_or_default(),
        event.server_id.unwrap_or_default(),
        id(event.answers),
        json(&event.detail),
        event.personal.as_ref().map(json).unwrap_or_default(),
        event.id.to_string(),
    ];
    for (n, cell) in cells.iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        push_cell(out, cell);
    }
    out.push_str("\r\n");
}

/// Quoted where RFC 4180 wants it; what a spreadsheet would take for a formula gets an apostrophe first.
fn push_cell(out: &mut String, cell: &str) {
    let is_formula = cell.trim_start_matches(' ').starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
    let prefix = if is_formula { "'" } else { "" };
    if cell.contains(['"', ',', '\r', '\n']) || cell.starts_with(' ') || cell.ends_with(' ') {
        out.push('"');
        out.push_str(prefix);
        out.push_str(&cell.replace('"', "\"\""));
        out.push('"');
    } else {
        out.push_str(prefix);
        out.push_str(cell);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_begins_like_a_formula() {
        for (cell, written) in [
            ("plain", "plain"),
            ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@x", "'@x"),
            (" =1", "\"' =1\""),
            ("\t=1", "'\t=1"),
            ("\rx", "\"'\rx\""),
            ("a,b", "\"a,b\""),
            ("a\"b", "\"a\"\"b\""),
            ("a\nb", "\"a\nb\""),
            ("", ""),
        ] {
            let mut out = String::new();
            push_cell(&mut out, cell);
            assert_eq!(out, written, "{cell:?}");
        }
    }
}
