//! Errors as HTTP answers: one shape for all of them, `application/problem+json` (RFC 9457).
//!
//! A feature's error enum implements [`Coded`]; [`Problem`] is made from it at the edge. The front
//! layer ([`crate::http::front`]) writes the body, adds the request id and logs it once.

use std::{fmt, time::Duration};

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value};

/// What kind of failure it is, which decides the HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// 400: the request itself is malformed or breaks a rule.
    BadRequest,
    /// 401: nobody in particular is asking.
    Unauthenticated,
    /// 403: the actor is known and may not.
    Forbidden,
    /// 404: nothing there, or nothing that this actor may see.
    NotFound,
    /// 405: the path exists, with other methods.
    MethodNotAllowed,
    /// 409: the present state does not allow it.
    Conflict,
    /// 410: it was there, and is used up.
    Gone,
    /// 412: the caller's copy is stale.
    Stale,
    /// 413: the body is larger than the route takes.
    TooLarge,
    /// 415: the body is of a type that the route does not take.
    UnsupportedMedia,
    /// 422: well-formed, but not acceptable.
    Unprocessable,
    /// 429: too many requests.
    TooMany,
    /// 500: a bug or inconsistent data.
    Internal,
    /// 501: this fabric does not offer that part of the API.
    NotImplemented,
    /// 502: a service that we depend on failed.
    BadGateway,
    /// 503: we cannot serve now.
    Unavailable,
    /// 504: it took too long.
    Timeout,
}

impl Class {
    /// The HTTP status of this class.
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict => StatusCode::CONFLICT,
            Self::Gone => StatusCode::GONE,
            Self::Stale => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMedia => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Self::BadGateway => StatusCode::BAD_GATEWAY,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

/// One field of a request that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Where: `query.limit`, `body.name`.
    pub location: String,
    /// What is wrong with it.
    pub message: String,
}

impl FieldError {
    /// A field error at `location` (`query.limit`, `body.name`).
    pub fn new(location: impl Into<String>, message: impl Into<String>) -> Self {
        Self { location: location.into(), message: message.into() }
    }
}

/// A refusal that the audit trail keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Who was refused, as actors are written.
    pub actor: String,
    /// What they wanted to do.
    pub action: &'static str,
}

/// An error with a stable code: what each feature's error enum implements.
pub trait Coded: std::error::Error {
    /// Stable, `snake_case`; clients compare it.
    fn code(&self) -> &'static str;
    /// Decides the HTTP status.
    fn class(&self) -> Class;
    /// The fields that are wrong, when it is about fields.
    fn fields(&self) -> Vec<FieldError> {
        Vec::new()
    }
    /// How long a client should wait before it tries again.
    fn retry_after(&self) -> Option<Duration> {
        None
    }
    /// Who was refused what, when it is a matter of rights.
    fn denial(&self) -> Option<Denial> {
        None
    }
    /// Further members of the answer.
    fn extra(&self) -> Map<String, Value> {
        Map::new()
    }
}

/// Any error on its way out. `detail` is for the caller; `cause` goes only to the log.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Decides the status.
    pub class: Class,
    /// Stable, `snake_case`.
    pub code: &'static str,
    /// One sentence for the caller.
    pub detail: String,
    /// The fields that are wrong.
    pub fields: Vec<FieldError>,
    /// Sent as `Retry-After`, in whole seconds.
    pub retry_after: Option<Duration>,
    /// Further members of the answer.
    pub extra: Map<String, Value>,
    /// The chain of causes, for the log alone.
    pub cause: Option<String>,
    /// Who was refused what, for the audit trail.
    pub denial: Option<Denial>,
}

/// What the caller of a 5xx is told: nothing about the inside.
const INTERNAL_DETAIL: &str = "something went wrong on our side; the request id finds it in the log";

impl Problem {
    /// A problem without fields.
    pub fn new(class: Class, code: &'static str, detail: impl Into<String>) -> Self {
        Self { class, code, detail: detail.into(), fields: Vec::new(), retry_after: None, extra: Map::new(), cause: None, denial: None }
    }

    /// A 400 about one field.
    pub fn field(code: &'static str, location: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let mut problem = Self::new(Class::BadRequest, code, format!("{location}: {message}"));
        problem.fields.push(FieldError::new(location, message));
        problem
    }

    /// The body, with the id of the request that it answers.
    pub fn body(&self, request_id: &str) -> Value {
        let status = self.class.status();
        let mut body = self.extra.clone();
        body.insert("type".into(), format!("/problems/{}", self.code).into());
        body.insert("title".into(), status.canonical_reason().unwrap_or("Error").into());
        body.insert("status".into(), status.as_u16().into());
        body.insert("detail".into(), self.detail.clone().into());
        body.insert("error".into(), self.detail.clone().into());
        body.insert("code".into(), self.code.into());
        body.insert("request_id".into(), request_id.into());
        if !self.fields.is_empty() {
            body.insert("errors".into(), serde_json::json!(self.fields));
        }
        Value::Object(body)
    }
}

impl Problem {
    /// The problem that an error is to the caller; its chain of causes goes to the log alone.
    pub fn of(error: &(impl Coded + ?Sized)) -> Self {
        let class = error.class();
        let mut cause = error.to_string();
        let mut source = error.source();
        while let Some(next) = source {
            cause = format!("{cause}: {next}");
            source = next.source();
        }
        Self {
            class,
            code: error.code(),
            detail: if class == Class::Internal { INTERNAL_DETAIL.into() } else { error.to_string() },
            fields: error.fields(),
            retry_after: error.retry_after(),
            extra: error.extra(),
            cause: Some(cause),
            denial: error.denial(),
        }
    }
}

/// What people are told of an error outside of an answer; what is of the inside is for the log, and the caller's to log.
pub fn public_message(error: &impl Coded) -> String {
    match error.class() {
        Class::Internal => "something went wrong on our side; the log says more".into(),
        _ => error.to_string(),
    }
}

impl<E: Coded> From<E> for Problem {
    fn from(error: E) -> Self {
        Self::of(&error)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail, self.code)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.class.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}
