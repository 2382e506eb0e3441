//! Keyset pages: `limit` (default 50, 1..=200) and an opaque `cursor`.

use axum::{extract::FromRequestParts, http::request::Parts};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    http::extract::Query,
    problem::Problem,
    random::{hex, unhex},
};

/// How many rows a page holds when the caller does not say.
pub const DEFAULT_LIMIT: u32 = 50;
/// The most rows that a page holds, where a list does not say otherwise.
pub const MAX_LIMIT: u32 = 200;

/// Which page is asked for. `K` is the key of the last row of the page before.
#[derive(Clone, Debug)]
pub struct PageRequest<K, const MAX: u32 = MAX_LIMIT> {
    /// How many rows, 1..=`MAX`.
    pub limit: u32,
    /// Rows after this key.
    pub after: Option<K>,
}

#[derive(Deserialize)]
struct Raw {
    limit: Option<String>,
    cursor: Option<String>,
}

/// The parameters of [`PageRequest`] for the API document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it documents what PageRequest reads")]
pub struct PageParams {
    /// How many (1 to 200, default 50).
    limit: Option<u32>,
    /// From the page before.
    cursor: Option<String>,
}

impl<K: DeserializeOwned, S: Send + Sync, const MAX: u32> FromRequestParts<S> for PageRequest<K, MAX> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(raw) = Query::<Raw>::from_request_parts(parts, state).await?;
        Ok(Self { limit: parse_limit(raw.limit.as_deref(), MAX)?, after: raw.cursor.as_deref().map(decode_cursor).transpose()? })
    }
}

fn parse_limit(raw: Option<&str>, most: u32) -> Result<u32, Problem> {
    let Some(raw) = raw else { return Ok(DEFAULT_LIMIT) };
    match raw.parse() {
        Ok(limit) if (1..=most).contains(&limit) => Ok(limit),
        _ => Err(Problem::field("invalid_limit", "query.limit", format!("must be a whole number from 1 to {most}"))),
    }
}

/// The opaque form of a key: its JSON in hexadecimal.
pub fn encode_cursor<K: Serialize>(key: &K) -> String {
    hex(&serde_json::to_vec(key).unwrap_or_default())
}

fn decode_cursor<K: DeserializeOwned>(cursor: &str) -> Result<K, Problem> {
    unhex(cursor)
        .and_then(|json| serde_json::from_slice(&json).ok())
        .ok_or_else(|| Problem::field("invalid_cursor", "query.cursor", "is not a cursor that this list gave out"))
}

/// Cuts one row more than the page holds down to the page, and tells the cursor of the next one.
pub fn cut<T, K: Serialize>(mut rows: Vec<T>, limit: u32, key: impl Fn(&T) -> K) -> (Vec<T>, Option<String>) {
    let limit = limit as usize;
    if rows.len() <= limit {
        return (rows, None);
    }
    rows.truncate(limit);
    let next = rows.last().map(|row| encode_cursor(&key(row)));
    (rows, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went() {
        let key = ("io.x/é".to_owned(), 7_i64);
        assert_eq!(decode_cursor::<(String, i64)>(&encode_cursor(&key)).unwrap(), key);
        for bad in ["zz", "7", "7b7d", "+1", "é"] {
            assert_eq!(decode_cursor::<(String, i64)>(bad).unwrap_err().code, "invalid_cursor");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_cursor_reader_panic(text in "\\PC*") {
            decode_cursor::<(String, i64)>(&text).ok();
        }

        #[test]
        fn every_key_survives_its_cursor(name in "\\PC*", number: i64) {
            proptest::prop_assert_eq!(decode_cursor::<(String, i64)>(&encode_cursor(&(&name, number))).unwrap(), (name.clone(), number));
        }
    }
}
