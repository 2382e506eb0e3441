//! The registry: every entry rendered once, and the list that it answers.

use std::{ops::Range, sync::Arc};

use axum::{
    Json,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Deserialize;
use serde_json::json;

use crate::{
    documents::{Document, Entry, Official, Outer},
    servers::Server,
    words::Random,
};

/// First publication of all, and how long there is to publish: long over, so that a mirror which asks for
/// what changed of late is told of nothing.
pub(crate) const EPOCH: i64 = 1_752_000_000_000_000;
pub(crate) const SPAN: usize = 14_000_000_000_000;

/// Every entry by name and version, rendered end to end with commas between, so that a page of
/// neighbours is one piece of the text.
pub(crate) struct Registry {
    pub(crate) text: String,
    pub(crate) entries: Vec<Place>,
    pub(crate) mean_document: usize,
}

pub(crate) struct Place {
    /// `name:version`, which is the cursor after this entry.
    pub(crate) name_length: usize,
    pub(crate) key: Box<str>,
    pub(crate) bytes: Range<usize>,
    pub(crate) updated_at: i64,
    pub(crate) is_latest: bool,
    pub(crate) is_deleted: bool,
}

impl Place {
    pub(crate) fn key(&self) -> (&str, &str) {
        (&self.key[..self.name_length], &self.key[self.name_length + 1..])
    }
}

impl Registry {
    pub(crate) fn render(random: &mut Random, servers: &[Server]) -> Self {
        let mut registry = Self { text: String::new(), entries: Vec::new(), mean_document: 0 };
        let mut documents = 0;
        for server in servers {
            documents += registry.add(random, server);
        }
        registry.mean_document = documents / registry.entries.len().max(1);
        registry
    }

    /// Adds all versions of a server; gives the size of its documents.
    pub(crate) fn add(&mut self, random: &mut Random, server: &Server) -> usize {
        let numbers = server.numbers(random);
        let newest = numbers.len() - 1;
        let is_taken_down = random.chance(5);
        let first = random.below(SPAN);
        let step = (SPAN - first) / (numbers.len() + 1);
        let mut order: Vec<usize> = (0..numbers.len()).collect();
        order.sort_by(|a, b| numbers[*a].cmp(&numbers[*b]));
        let mut documents = 0;
        for number in order {
            let published = EPOCH + i64::try_from(first + number * step + random.below(step.max(1))).unwrap_or(0);
            let is_latest = number == newest;
            let is_deleted = is_taken_down || (!is_latest && random.chance(3));
            let status = if is_deleted {
                "deleted"
            } else if random.chance(8) {
                "deprecated"
            } else {
                "active"
            };
            let document = Document::of(random, server, &numbers[number]);
            let official = Official {
                status,
                status_changed_at: rfc3339(published),
                published_at: rfc3339(published),
                updated_at: rfc3339(published),
                is_latest,
            };
            let entry = serde_json::to_string(&Entry { server: document, meta: Outer { official } }).unwrap_or_default();
            documents +=
                entry.find(r#","_meta":{"io.modelcontextprotocol.registry/official""#).unwrap_or(entry.len()) - r#"{"server":"#.len();
            let begin = self.text.len();
            self.text.push_str(&entry);
            self.entries.push(Place {
                name_length: server.name.len(),
                key: format!("{}:{}", server.name, numbers[number]).into(),
                bytes: begin..self.text.len(),
                updated_at: published,
                is_latest,
                is_deleted,
            });
            self.text.push(',');
        }
        documents
    }

    pub(crate) fn page(&self, filter: &Filter) -> String {
        let start =
            self.entries.partition_point(|entry| filter.after.as_ref().is_some_and(|(name, version)| entry.key() <= (name, version)));
        let found: Vec<&Place> = self.entries[start..].iter().filter(|entry| filter.takes(entry)).take(filter.limit).collect();
        let texts: Vec<&str> = found.iter().map(|entry| &self.text[entry.bytes.clone()]).collect();
        let mut metadata = json!({ "count": found.len() });
        // As upstream does it: a full page has a cursor even where nothing follows.
        if let Some(last) = found.last().filter(|_| found.len() == filter.limit) {
            metadata["nextCursor"] = json!(last.key);
        }
        format!(r#"{{"servers":[{}],"metadata":{metadata}}}"#, texts.join(","))
    }
}

pub(crate) fn rfc3339(micros: i64) -> String {
    DateTime::from_timestamp_micros(micros).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Micros, true)
}

#[derive(Deserialize)]
pub(crate) struct Asked {
    pub(crate) cursor: Option<String>,
    pub(crate) limit: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) updated_since: Option<String>,
    pub(crate) include_deleted: Option<bool>,
}

pub(crate) struct Filter {
    pub(crate) after: Option<(String, String)>,
    pub(crate) limit: usize,
    pub(crate) version: Option<String>,
    pub(crate) since: Option<i64>,
    pub(crate) include_deleted: bool,
}

impl Filter {
    pub(crate) fn takes(&self, entry: &Place) -> bool {
        let is_version = match self.version.as_deref() {
            None => true,
            Some("latest") => entry.is_latest,
            Some(version) => entry.key().1 == version,
        };
        is_version && self.since.is_none_or(|since| entry.updated_at > since) && (self.include_deleted || !entry.is_deleted)
    }
}

impl Asked {
    pub(crate) fn filter(self) -> Result<Filter, (StatusCode, &'static str)> {
        let Ok(limit @ 1..=100) = self.limit.as_deref().map_or(Ok(30), str::parse) else {
            return Err((StatusCode::UNPROCESSABLE_ENTITY, "validation failed"));
        };
        let since = self.updated_since.map(|text| text.parse::<DateTime<Utc>>()).transpose();
        let since = since.map_err(|_| (StatusCode::BAD_REQUEST, "Invalid updated_since format: expected RFC3339 timestamp"))?;
        if since.is_some() && self.include_deleted == Some(false) {
            return Err((StatusCode::BAD_REQUEST, "Cannot set include_deleted=false when using updated_since"));
        }
        let after = self.cursor.filter(|cursor| !cursor.is_empty()).map(|cursor| match cursor.split_once(':') {
            Some((name, version)) => (name.to_owned(), version.to_owned()),
            None => (cursor, String::from(char::MAX)),
        });
        Ok(Filter {
            after,
            limit,
            version: self.version,
            since: since.map(|since| since.timestamp_micros()),
            include_deleted: since.is_some() || self.include_deleted == Some(true),
        })
    }
}

pub(crate) async fn list(State(registry): State<Arc<Registry>>, Query(asked): Query<Asked>) -> Response {
    match asked.filter() {
        Ok(filter) => ([(header::CONTENT_TYPE, "application/json")], registry.page(&filter)).into_response(),
        Err((status, detail)) => (status, Json(json!({ "status": status.as_u16(), "detail": detail }))).into_response(),
    }
}
