//! Tickets: what a browser opens a stream with, since it cannot send a token there.
//!
//! A ticket is a secret of 256 bits. The database knows it by one hash, and has the token that it stands for sealed with
//! another one, so that neither a ticket nor a token can be read from there.

use aes_gcm::{Aes256Gcm, Key, KeyInit as _, aead::Aead as _};
use axum::http::{HeaderMap, header};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use platform::{clock, database::DbError, random};
use sha2::{Digest as _, Sha256};

use crate::{
    Events,
    store::{self, Ticket},
};

/// How long a ticket counts.
const LIFE: TimeDelta = TimeDelta::seconds(30);
const BYTES: usize = 32;

/// A ticket, to be shown once.
pub(crate) struct Issued {
    pub(crate) ticket: String,
    pub(crate) expires_at: DateTime<Utc>,
}

struct Secret([u8; BYTES]);

impl Secret {
    fn derive(&self, purpose: &[u8]) -> [u8; 32] {
        Sha256::new().chain_update(purpose).chain_update(self.0).finalize().into()
    }

    fn id(&self) -> [u8; 32] {
        self.derive(b"mcp-fabric event ticket id")
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new(&Key::<Aes256Gcm>::from(self.derive(b"mcp-fabric event ticket key")))
    }
}

/// The key is used once, for one message: any nonce will do.
const NONCE: [u8; 12] = [0; 12];

impl Events {
    /// Gives a ticket for a token to the page at `origin`, or to what is no page.
    pub(crate) async fn issue_ticket(&self, authorization: &[u8], origin: Option<String>) -> Result<Issued, DbError> {
        let (secret, expires_at) = (Secret(random::bytes()), clock::now() + LIFE);
        // It cannot fail: a token is far smaller than what one key may seal.
        let sealed = secret.cipher().encrypt(&NONCE.into(), authorization).unwrap_or_default();
        let mut connection = self.database().for_all().await?;
        store::put_ticket(&mut connection, &secret.id(), &Ticket { sealed, origin }, expires_at).await?;
        Ok(Issued { ticket: URL_SAFE_NO_PAD.encode(secret.0), expires_at })
    }

    /// The token that a ticket stands for, if it comes from where it was given to. Whatever comes of it, it is used up.
    pub(crate) async fn redeem_ticket(&self, ticket: &str, headers: &HeaderMap) -> Result<Option<Vec<u8>>, DbError> {
        let bytes = URL_SAFE_NO_PAD.decode(ticket).ok().and_then(|bytes| bytes.try_into().ok());
        let Some(secret) = bytes.map(Secret) else { return Ok(None) };
        let mut connection = self.database().for_all().await?;
        let taken = store::take_ticket(&mut connection, &secret.id(), clock::now()).await?;
        let taken = taken.filter(|ticket| is_from(ticket.origin.as_deref(), headers));
        Ok(taken.and_then(|ticket| secret.cipher().decrypt(&NONCE.into(), ticket.sealed.as_slice()).ok()))
    }
}

/// The page that a request comes from.
pub(crate) fn origin_of(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or("null"))
}

/// Whether `origin` is the address that the request itself was sent to.
pub(crate) fn is_own(origin: &str, headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).filter(|host| !host.is_empty());
    let address = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    host.is_some() && address == host
}

fn is_from(issued_to: Option<&str>, headers: &HeaderMap) -> bool {
    match (issued_to, origin_of(headers)) {
        (None, None) => true,
        (Some(issued_to), Some(origin)) => issued_to == origin,
        // Browsers leave it out where a page reads from its own address.
        (Some(issued_to), None) => headers.get("sec-fetch-site").is_some_and(|site| site == "same-origin") && is_own(issued_to, headers),
        (None, Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_ticket_is_for_one_page() {
        let page = "http://a.example:3000";
        assert!(is_from(Some(page), &headers(&[("origin", "http://a.example:3000")])));
        assert!(is_from(None, &headers(&[])));
        assert!(is_from(Some(page), &headers(&[("host", "a.example:3000"), ("sec-fetch-site", "same-origin")])));
        for bad in [
            &[("origin", "http://b.example")][..],
            &[("origin", "null")],
            &[("host", "a.example:3000")],
            &[("host", "a.example:3000"), ("sec-fetch-site", "cross-site")],
            &[("host", "b.example"), ("sec-fetch-site", "same-origin")],
        ] {
            assert!(!is_from(Some(page), &headers(bad)), "{bad:?}");
        }
        assert!(!is_from(None, &headers(&[("origin", "http://a.example:3000")])));
    }
}
