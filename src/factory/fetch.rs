//! Documents that an order names by their address.

use std::time::Duration;

use futures_util::StreamExt as _;
use platform::client::Client;
use url::Url;

use crate::{error::FactoryError, parse::document::LARGEST};

const LIMIT: Duration = Duration::from_mins(1);

/// The document at an address, and where it was in the end.
pub(crate) async fn document(client: &Client, address: &[u8]) -> Result<(Vec<u8>, Url), FactoryError> {
    let wrong = |why: String| FactoryError::Unreadable(format!("it cannot be fetched: {why}"));
    let text = std::str::from_utf8(address).map_err(|_| FactoryError::field("body.url", "is not an address"))?;
    let url = Url::parse(text.trim())
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none());
    let url = url.ok_or_else(|| FactoryError::field("body.url", "must be an http or https address without credentials"))?;
    let request = client.get(url).map_err(|error| wrong(error.to_string()))?;
    let accept = "application/json, application/yaml, text/yaml, */*;q=0.5";
    let answer = request.header("accept", accept).timeout(LIMIT).send().await.map_err(|error| wrong(reason(&error)))?;
    if !answer.status().is_success() {
        return Err(wrong(format!("the server answered {}", answer.status().as_u16())));
    }
    let url = answer.url().clone();
    let (mut bytes, mut chunks) = (Vec::new(), answer.bytes_stream());
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| wrong(reason(&error)))?;
        if bytes.len() + chunk.len() > LARGEST {
            return Err(FactoryError::TooLarge(format!("more than {} MiB", LARGEST >> 20)));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok((bytes, url))
}

/// The innermost cause, which says most.
fn reason(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    crate::text::line(&cause.to_string(), 200)
}
