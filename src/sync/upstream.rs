//! The upstream registry over HTTP: politely, patiently, and not at all while it is down.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use platform::{
    Config,
    client::{self, Client, ClientError},
    clock,
    config::UpstreamConfig,
    random,
    telemetry::Metrics,
};
use prometheus::{IntCounterVec, IntGauge};
use reqwest::{StatusCode, header};
use tokio::time::Instant;
use url::Url;

use crate::page::{self, Page, PageError};

/// Entries asked for in one request: what the official registry gives at most.
const PAGE_SIZE: &str = "100";
/// A page of a hundred entries of the largest size, and then some.
const MAX_BODY: usize = 64 << 20;
/// How often one request is tried.
const TRIES: u32 = 5;
const MAX_BACKOFF: Duration = Duration::from_mins(1);
/// A longer `Retry-After` is waited for by the job, not by the request.
const MAX_WAIT: Duration = Duration::from_mins(2);
/// What upstream may ask us to wait at most.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);
/// After so many failures in a row nothing is asked for a while.
const BREAKER_FAILURES: u32 = 10;
const BREAKER_REST: TimeDelta = TimeDelta::minutes(5);

/// A page that could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error("upstream answered {0}")]
    Status(StatusCode, Option<Duration>),
    #[error("upstream did not answer in time")]
    Timeout,
    #[error("could not reach upstream: {0}")]
    Unreachable(String),
    #[error("upstream sent a page that is larger than {MAX_BODY} bytes")]
    TooLarge,
    #[error("what upstream sent is not a page: {0}")]
    Page(#[from] PageError),
    #[error("upstream has failed {BREAKER_FAILURES} times in a row; nothing is asked of it until {0}")]
    Resting(DateTime<Utc>),
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl UpstreamError {
    /// Stable code for status and history.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Status(StatusCode::TOO_MANY_REQUESTS, _) => "upstream_rate_limited",
            Self::Status(..) => "upstream_error",
            Self::Timeout => "upstream_timeout",
            Self::Unreachable(_) => "upstream_unreachable",
            Self::TooLarge | Self::Page(_) => "upstream_page_invalid",
            Self::Resting(_) => "upstream_resting",
            Self::Client(_) => "upstream_refused",
        }
    }

    /// Whether the same request can succeed later.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Status(status, _) => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS || *status == StatusCode::REQUEST_TIMEOUT
            }
            Self::Page(PageError::TooMany | PageError::BadCursor) | Self::TooLarge | Self::Client(_) => false,
            Self::Timeout | Self::Unreachable(_) | Self::Page(_) | Self::Resting(_) => true,
        }
    }

    /// When to try again, where upstream or the breaker says so.
    pub(crate) fn not_before(&self) -> Option<DateTime<Utc>> {
        match self {
            Self::Status(_, Some(wait)) => Some(clock::now() + *wait),
            Self::Resting(until) => Some(*until),
            _ => None,
        }
    }
}

impl From<reqwest::Error> for UpstreamError {
    fn from(error: reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::Timeout;
        }
        let error = error.without_url();
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(next) = source {
            reason = next.to_string();
            source = next.source();
        }
        Self::Unreachable(reason)
    }
}

/// Which page.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Latest,
    All,
    Changes(DateTime<Utc>),
}

/// The upstream registry.
#[derive(Clone)]
pub struct Upstream {
    client: Client,
    config: UpstreamConfig,
    shown_url: String,
    pace: Arc<tokio::sync::Mutex<Instant>>,
    breaker: Arc<Mutex<Breaker>>,
    requests: IntCounterVec,
    resting: IntGauge,
}

#[derive(Debug, Default)]
struct Breaker {
    failures: u32,
    rest_until: Option<DateTime<Utc>>,
}

impl Upstream {
    /// The registry that the configuration names; its host may have any address.
    pub fn new(config: &Config, metrics: &Metrics) -> Result<Self, ClientError> {
        let own_host = client::own_host(&config.upstream.url);
        let mut shown = config.upstream.url.clone();
        // Neither can fail for an http URL.
        let _ = (shown.set_username(""), shown.set_password(None));
        Ok(Self {
            client: Client::new(config.allowed_hosts.iter().cloned().chain(own_host), config.offline)?,
            config: config.upstream.clone(),
            shown_url: shown.into(),
            pace: Arc::new(tokio::sync::Mutex::new(Instant::now())),
            breaker: Arc::default(),
            requests: metrics.counters("fabric_upstream_requests_total", "Requests to the upstream registry by outcome", &["outcome"]),
            resting: metrics.gauge("fabric_upstream_resting", "Whether upstream is left alone after failing too often"),
        })
    }

    /// Its address without user name and password.
    pub fn shown_url(&self) -> &str {
        &self.shown_url
    }

    /// How many requests failed in a row, and until when it is left alone.
    pub(crate) fn failures(&self) -> (u32, Option<DateTime<Utc>>) {
        let breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        (breaker.failures, breaker.rest_until.filter(|until| *until > clock::now()))
    }

    /// One page, tried again while that can help.
    pub(crate) async fn page(&self, ask: &Ask, cursor: Option<&str>) -> Result<Page, UpstreamError> {
        let mut backoff = self.config.backoff;
        for attempt in 1.. {
            self.may_ask()?;
            self.wait_for_turn().await;
            let asked = self.ask(ask, cursor).await;
            self.count(asked.as_ref().err());
            let error = match asked {
                Ok(page) => return Ok(page),
                Err(error) => error,
            };
            let told = if let UpstreamError::Status(_, wait) = &error { *wait } else { None };
            if !error.is_passing() || attempt == TRIES || told.is_some_and(|wait| wait > MAX_WAIT) {
                return Err(error);
            }
            let wait = told.unwrap_or_else(|| random::jitter(backoff));
            tracing::warn!(%error, attempt, wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX), "upstream failed; trying again");
            tokio::time::sleep(wait).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
        Err(UpstreamError::Timeout)
    }

    fn may_ask(&self) -> Result<(), UpstreamError> {
        match self.failures() {
            (_, Some(until)) => Err(UpstreamError::Resting(until)),
            (_, None) => Ok(()),
        }
    }

    fn count(&self, error: Option<&UpstreamError>) {
        self.requests.with_label_values(&[error.map_or("ok", UpstreamError::code)]).inc();
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        if error.is_none() {
            *breaker = Breaker::default();
        } else {
            breaker.failures += 1;
            if breaker.failures >= BREAKER_FAILURES {
                breaker.rest_until = Some(clock::now() + BREAKER_REST);
            }
        }
        self.resting.set(i64::from(breaker.rest_until.is_some()));
    }

    /// Requests leave no faster than the configuration allows, whoever makes them.
    async fn wait_for_turn(&self) {
        let mut next = self.pace.lock().await;
        tokio::time::sleep_until(*next).await;
        *next = Instant::now() + Duration::from_secs_f64(1.0 / self.config.requests_per_second);
    }

    async fn ask(&self, ask: &Ask, cursor: Option<&str>) -> Result<Page, UpstreamError> {
        let request = self.client.get(self.list_url(ask, cursor))?;
        let mut response = request.header(header::ACCEPT, "application/json").timeout(self.config.timeout).send().await?;
        if !response.status().is_success() {
            return Err(UpstreamError::Status(response.status(), retry_after(response.headers())));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(UpstreamError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        parsed(body).await
    }

    fn list_url(&self, ask: &Ask, cursor: Option<&str>) -> Url {
        let mut url = self.config.url.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        let prefix = if base.ends_with("/v0.1") || base.ends_with("/v0") { "" } else { "/v0.1" };
        url.set_path(&format!("{base}{prefix}/servers"));
        let mut query = url.query_pairs_mut();
        query.append_pair("limit", PAGE_SIZE);
        match ask {
            Ask::Latest => query.append_pair("version", "latest"),
            Ask::All => query.append_pair("include_deleted", "true"),
            Ask::Changes(since) => query.append_pair("updated_since", &clock::rfc3339(*since)),
        };
        if let Some(cursor) = cursor {
            query.append_pair("cursor", cursor);
        }
        drop(query);
        url
    }
}

/// Reading a large page takes its time, which the runtime's threads do not have.
async fn parsed(body: Vec<u8>) -> Result<Page, UpstreamError> {
    match tokio::task::spawn_blocking(move || page::parse(&body)).await {
        Ok(page) => Ok(page?),
        Err(error) => Err(UpstreamError::Unreachable(error.to_string())),
    }
}

/// Seconds, or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &header::HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => (DateTime::parse_from_rfc2822(text).ok()?.with_timezone(&Utc) - clock::now()).to_std().unwrap_or_default(),
    };
    Some(wait.min(MAX_RETRY_AFTER))
}
