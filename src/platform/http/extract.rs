//! Extractors whose refusals are [`Problem`]s and never quote what the caller sent.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::problem::{Class, Problem};

/// A JSON body, in and out. An empty body without Content-Type is `{}`.
#[derive(Clone, Debug)]
pub struct Json<T>(pub T);

/// The query string.
#[derive(Clone, Debug)]
pub struct Query<T>(pub T);

/// The variable parts of the path, percent-decoded.
#[derive(Clone, Debug)]
pub struct Path<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let content_type = request.headers().get(header::CONTENT_TYPE).cloned();
        let body = body(request, state).await?;
        if body.is_empty() && content_type.is_none() {
            return parse_json(b"{}").map(Json);
        }
        if !content_type.and_then(|value| value.to_str().map(is_json).ok()).unwrap_or(false) {
            return Err(Problem::new(
                Class::UnsupportedMedia,
                "unsupported_media_type",
                "the body must be JSON, with `Content-Type: application/json`",
            ));
        }
        parse_json(&body).map(Json)
    }
}

/// A revision as `If-Match` names it: `"7"`, or `"0"` for none yet (RFC 9110 section 13.1.1).
pub fn if_match(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let revision = value.to_str().ok().and_then(|text| text.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok());
    let unfit = || Problem::field("invalid_field", "header.if-match", "must be one revision in quotes, as ETag gives it");
    revision.map(Some).ok_or_else(unfit)
}

/// A revision as `ETag` gives it; what [`if_match`] reads.
pub fn etag(revision: i64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{revision}\"")).unwrap_or(HeaderValue::from_static("\"0\""))
}

/// The whole body, within the route's limit.
pub async fn body<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    Bytes::from_request(request, state).await.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            Problem::new(Class::TooLarge, "body_too_large", "the body is larger than this endpoint takes")
        } else {
            Problem::new(Class::BadRequest, "body_incomplete", "the body could not be read to its end")
        }
    })
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// Parses JSON; the refusal says what is wrong and where, without the text itself.
pub fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        if error.is_data() {
            Problem::field("invalid_body", "body", format!("{} ({place})", without_input(&error.to_string())))
        } else {
            Problem::field("invalid_json", "body", format!("is not valid JSON ({place})"))
        }
    })
}

/// serde's sentence without the part that quotes the input.
fn without_input(message: &str) -> String {
    let message = message.split(" at line ").next().unwrap_or_default();
    if message.starts_with("missing field") || message.starts_with("duplicate field") {
        return message.to_owned();
    }
    let expected = message.rsplit_once("expected ").map_or("another value", |(_, expected)| expected);
    if message.starts_with("unknown field") {
        return format!("has an unknown field; expected {expected}");
    }
    format!("has a wrong value; expected {expected}")
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = axum::extract::Query::from_request_parts(parts, state).await;
        query.map(|query| Self(query.0)).map_err(|rejection| {
            let text = rejection.body_text();
            let reason = text.split_once(": ").map_or(text.as_str(), |(_, reason)| reason);
            Problem::field("invalid_query", "query", without_input(reason))
        })
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|path| Self(path.0))
            .map_err(|_| Problem::field("invalid_path", "path", "has a part that is not of the form this endpoint takes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        #[serde(rename = "value")]
        _value: u8,
    }

    #[test]
    fn refusals_do_not_quote_the_body() {
        for (body, code) in [
            (r#"{"value":"hunter2"}"#, "invalid_body"),
            (r#"{"hunter2":1}"#, "invalid_body"),
            (r#"{"value":1,"hunter2":1}"#, "invalid_body"),
            (r#"{"value":1,}hunter2"#, "invalid_json"),
            (r#""hunter2 expected hunter2""#, "invalid_body"),
            ("", "invalid_json"),
        ] {
            let problem = parse_json::<Body>(body.as_bytes()).unwrap_err();
            assert_eq!(problem.code, code, "{body}");
            assert!(!problem.detail.contains("hunter2"), "{}", problem.detail);
        }
    }
}
