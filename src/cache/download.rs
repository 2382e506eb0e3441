//! Bringing bytes in: bounded, resumed where they broke off, and good for nothing until they are verified.

use std::time::Duration;

use platform::{
    client::{Client, ClientError},
    random,
};
use reqwest::{
    RequestBuilder, Response, StatusCode,
    header::{self, HeaderMap, HeaderValue},
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use crate::{
    blobs::{Blobs, Draft},
    digest::{BlobId, Digest, Hasher},
};

/// How often one file is asked for.
const TRIES: u32 = 3;
const BACKOFF: Duration = Duration::from_millis(250);
/// Fewer bytes a second than this, for as long as [`Order::patience`], are given up.
const SLOWEST: u64 = 1024;

/// How a registry knows us. It is sent to the registry's own host and, by the client's rule, to no other
/// that a redirect leads to.
#[derive(Clone, Debug)]
pub(crate) enum Auth {
    Bearer(SecretString),
    Basic(String, SecretString),
}

impl Auth {
    pub(crate) fn on(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Bearer(token) => request.bearer_auth(token.expose_secret()),
            Self::Basic(user, password) => request.basic_auth(user, Some(password.expose_secret())),
        }
    }
}

/// Bytes that were not had.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// An answer without the bytes.
    #[error("the registry answered {0}")]
    Status(StatusCode),
    /// No answer, or one that broke off.
    #[error("the registry could not be reached, or broke off: {0}")]
    Unreachable(String),
    /// It leads from one place to the next.
    #[error("the registry leads from one address to the next without an end")]
    Redirects,
    /// It failed too often just now.
    #[error("{0} failed several times in a row and is not asked for half a minute")]
    Rests(String),
    /// Too little came.
    #[error("the registry sends less than {SLOWEST} bytes a second")]
    TooSlow,
    /// More than is allowed.
    #[error("the file is larger than the {0} bytes that are allowed")]
    TooLarge(u64),
    /// Other bytes than the registry stated.
    #[error("the bytes are not those that the registry states: expected {expected}, got {got}")]
    Mismatch {
        /// The stated digest or size.
        expected: String,
        /// What came.
        got: String,
    },
    /// The request may not be made.
    #[error(transparent)]
    Refused(#[from] ClientError),
    /// The cache folder failed.
    #[error("the cache folder failed: {0}")]
    Io(#[from] std::io::Error),
}

impl DownloadError {
    fn is_passing(&self) -> bool {
        match self {
            Self::Status(status) => {
                status.is_server_error() || matches!(*status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
            }
            Self::Unreachable(_) => true,
            Self::Redirects
            | Self::Rests(_)
            | Self::TooSlow
            | Self::TooLarge(_)
            | Self::Mismatch { .. }
            | Self::Refused(_)
            | Self::Io(_) => false,
        }
    }
}

impl From<reqwest::Error> for DownloadError {
    fn from(error: reqwest::Error) -> Self {
        let mut source: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(&error);
        let mut reason = error.to_string();
        while let Some(inner) = source {
            // A redirect to an address inside is a refusal, not a failure.
            if let Some(ClientError::Private(host)) = inner.downcast_ref::<ClientError>() {
                return Self::Refused(ClientError::Private(host.clone()));
            }
            reason = inner.to_string();
            source = inner.source();
        }
        if error.is_redirect() {
            return Self::Redirects;
        }
        Self::Unreachable(if error.url().is_some() && reason.contains("://") { "a network error".into() } else { reason })
    }
}

/// What is asked for, and what it has to be.
pub(crate) struct Order<'a> {
    pub(crate) url: &'a Url,
    pub(crate) auth: Option<&'a Auth>,
    /// What the request accepts, where that makes a difference.
    pub(crate) accept: Option<&'static str>,
    pub(crate) digest: &'a Digest,
    pub(crate) size: Option<u64>,
    /// The most that is taken, in bytes.
    pub(crate) cap: u64,
    /// How long nothing, or next to nothing, may come.
    pub(crate) patience: Duration,
}

/// Verified bytes, stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    pub(crate) blob: BlobId,
    pub(crate) size: u64,
}

/// Brings the bytes in, verifies and stores them. `tell` hears how many are there and how many there will be.
pub(crate) async fn download(
    client: &Client,
    blobs: &Blobs,
    order: &Order<'_>,
    tell: &(dyn Fn(u64, Option<u64>) + Send + Sync),
) -> Result<Arrived, DownloadError> {
    let mut transfer =
        Transfer { draft: blobs.draft().await?, hasher: Hasher::new(order.digest.algorithm()), got: 0, etag: None, was_resumed: false };
    let mut tries = 0;
    loop {
        tries += 1;
        let failed = match transfer.go_on(client, order, tell).await {
            Ok(()) => match transfer.verified(order) {
                Ok(blob) => {
                    blobs.keep(transfer.draft, &blob).await?;
                    return Ok(Arrived { blob, size: transfer.got });
                }
                // Two halves of two different files: the whole one may still be right.
                Err(_) if transfer.was_resumed && tries < TRIES => {
                    transfer.restart(order).await?;
                    continue;
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        if tries == TRIES || !failed.is_passing() {
            return Err(failed);
        }
        sleep(random::jitter(BACKOFF * 2_u32.pow(tries))).await;
    }
}

struct Transfer {
    draft: Draft,
    hasher: Hasher,
    got: u64,
    etag: Option<HeaderValue>,
    was_resumed: bool,
}

impl Transfer {
    async fn go_on(
        &mut self,
        client: &Client,
        order: &Order<'_>,
        tell: &(dyn Fn(u64, Option<u64>) + Send + Sync),
    ) -> Result<(), DownloadError> {
        let mut response = self.ask(client, order).await?;
        let total = response.content_length().map(|rest| self.got + rest);
        self.check_size(order, total)?;
        let (began, had) = (Instant::now(), self.got);
        loop {
            let chunk = timeout(order.patience, response.chunk()).await.map_err(|_| DownloadError::TooSlow)??;
            let Some(chunk) = chunk else { break };
            self.got += chunk.len() as u64;
            self.check_size(order, Some(self.got).filter(|got| order.size.is_none_or(|size| *got > size)))?;
            self.hasher.update(&chunk);
            self.draft.write(&chunk).await?;
            tell(self.got, total.or(order.size));
            let seconds = began.elapsed().as_secs();
            if began.elapsed() >= order.patience && (self.got - had) / seconds.max(1) < SLOWEST {
                return Err(DownloadError::TooSlow);
            }
        }
        match total {
            Some(total) if self.got < total => Err(DownloadError::Unreachable("the answer ended early".into())),
            _ => Ok(()),
        }
    }

    /// Asks for what is missing; an answer with the whole begins anew.
    async fn ask(&mut self, client: &Client, order: &Order<'_>) -> Result<Response, DownloadError> {
        let mut request = client.get(order.url.clone())?;
        if let Some(auth) = order.auth {
            request = auth.on(request);
        }
        if let Some(accept) = order.accept {
            request = request.header(header::ACCEPT, accept);
        }
        if self.got > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", self.got));
            if let Some(etag) = &self.etag {
                request = request.header(header::IF_RANGE, etag);
            }
        }
        let response = timeout(order.patience, request.send()).await.map_err(|_| DownloadError::TooSlow)??;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if self.got > 0 && begins_at(response.headers(), self.got) => self.was_resumed = true,
            StatusCode::OK => {
                self.restart(order).await?;
                let strong = response.headers().get(header::ETAG).filter(|etag| !etag.as_bytes().starts_with(b"W/"));
                self.etag = strong.cloned();
            }
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                self.restart(order).await?;
                return Err(DownloadError::Unreachable("it sent another part than the one that was asked for".into()));
            }
            status => return Err(DownloadError::Status(status)),
        }
        Ok(response)
    }

    async fn restart(&mut self, order: &Order<'_>) -> Result<(), DownloadError> {
        self.draft.restart().await?;
        self.hasher = Hasher::new(order.digest.algorithm());
        (self.got, self.etag, self.was_resumed) = (0, None, false);
        Ok(())
    }

    #[expect(clippy::unused_self, reason = "reads as a step of the transfer")]
    fn check_size(&self, order: &Order<'_>, size: Option<u64>) -> Result<(), DownloadError> {
        match (size, order.size) {
            (Some(size), _) if size > order.cap => Err(DownloadError::TooLarge(order.cap)),
            (Some(size), Some(stated)) if size != stated => {
                Err(DownloadError::Mismatch { expected: format!("{stated} bytes"), got: format!("{size} bytes") })
            }
            _ => Ok(()),
        }
    }

    fn verified(&self, order: &Order<'_>) -> Result<BlobId, DownloadError> {
        let (blob, digest) = self.hasher.clone().finish();
        if digest == *order.digest {
            return Ok(blob);
        }
        Err(DownloadError::Mismatch { expected: order.digest.to_string(), got: digest.to_string() })
    }
}

fn begins_at(headers: &HeaderMap, at: u64) -> bool {
    let range = headers.get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {at}-")))
}
