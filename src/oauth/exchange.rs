//! Speaking with the token, registration and revocation endpoints (RFC 6749, 7591 and 7009).

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use platform::{
    client::{Client, encoded},
    random,
};
use reqwest::{
    StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use url::form_urlencoded;

use crate::{
    discovery::{body, endpoint, send},
    error::OauthError,
};

/// What is kept in the vault for a grant.
#[derive(Clone, Debug)]
pub(crate) struct Tokens {
    pub(crate) access: SecretString,
    pub(crate) refresh: Option<SecretString>,
    /// Of the client, where it has one.
    pub(crate) client_secret: Option<SecretString>,
    /// Where they came from: they go nowhere else.
    pub(crate) token_endpoint: String,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    access: String,
    refresh: Option<String>,
    client_secret: Option<String>,
    token_endpoint: String,
}

impl Tokens {
    /// As the vault keeps them.
    pub(crate) fn to_secret(&self) -> SecretString {
        let plain = |secret: &SecretString| secret.expose_secret().to_owned();
        let kept = Kept {
            access: plain(&self.access),
            refresh: self.refresh.as_ref().map(plain),
            client_secret: self.client_secret.as_ref().map(plain),
            token_endpoint: self.token_endpoint.clone(),
        };
        serde_json::to_string(&kept).unwrap_or_default().into()
    }

    pub(crate) fn from_secret(secret: &SecretString) -> Option<Self> {
        let kept: Kept = serde_json::from_str(secret.expose_secret()).ok()?;
        Some(Self {
            access: kept.access.into(),
            refresh: kept.refresh.map(Into::into),
            client_secret: kept.client_secret.map(Into::into),
            token_endpoint: kept.token_endpoint,
        })
    }
}

/// Who asks.
pub(crate) struct ClientId<'a> {
    pub(crate) id: &'a str,
    pub(crate) secret: Option<&'a SecretString>,
}

/// What a token endpoint answers (RFC 6749, section 5.1).
pub(crate) struct Issued {
    pub(crate) access: SecretString,
    pub(crate) refresh: Option<SecretString>,
    /// Seconds.
    pub(crate) expires_in: Option<i64>,
    pub(crate) scope: Option<String>,
}

#[derive(Deserialize)]
struct IssuedWire {
    access_token: SecretString,
    token_type: String,
    refresh_token: Option<SecretString>,
    expires_in: Option<i64>,
    scope: Option<String>,
}

/// A verifier, and what is shown of it before (RFC 7636, S256).
pub(crate) fn pkce() -> (SecretString, String) {
    let verifier = URL_SAFE_NO_PAD.encode(random::bytes::<32>());
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
    (verifier.into(), challenge)
}

/// Exchanges what a grant gave: a code, or a refresh token.
pub(crate) async fn token(client: &Client, place: &str, who: &ClientId<'_>, fields: &[(&str, &str)]) -> Result<Issued, OauthError> {
    let answer = form(client, place, who, fields).await?;
    let issued: IssuedWire =
        serde_json::from_slice(&answer).map_err(|_| OauthError::Unfit("it gave no token in the form that is stated"))?;
    if !issued.token_type.eq_ignore_ascii_case("bearer") || HeaderValue::from_str(issued.access_token.expose_secret()).is_err() {
        return Err(OauthError::Unfit("it gave a token of a kind that is not used here"));
    }
    let IssuedWire { access_token, refresh_token, expires_in, scope, .. } = issued;
    Ok(Issued { access: access_token, refresh: refresh_token, expires_in: expires_in.filter(|seconds| *seconds > 0), scope })
}

/// Tells that a token counts no more.
pub(crate) async fn revoke(client: &Client, place: &str, who: &ClientId<'_>, token: &SecretString) -> Result<(), OauthError> {
    form(client, place, who, &[("token", token.expose_secret())]).await.map(drop)
}

async fn form(client: &Client, place: &str, who: &ClientId<'_>, fields: &[(&str, &str)]) -> Result<Vec<u8>, OauthError> {
    let url = endpoint(place)?;
    let text = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).append_pair("client_id", who.id).finish();
    let mut request =
        client.post(url.clone())?.header(CONTENT_TYPE, "application/x-www-form-urlencoded").header(ACCEPT, "application/json");
    if let Some(secret) = who.secret {
        // Both parts are encoded before they are joined (RFC 6749, section 2.3.1).
        let pair = STANDARD.encode(format!("{}:{}", encoded(who.id), encoded(secret.expose_secret())));
        let mut value =
            HeaderValue::from_str(&format!("Basic {pair}")).map_err(|_| OauthError::Unfit("its client has no usable secret"))?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    let answer = send(request.body(text), &url).await?;
    let status = answer.status();
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return Err(OauthError::Unreachable(url.origin().ascii_serialization(), format!("it answers {}", status.as_u16())));
    }
    let answer = body(answer, &url).await?;
    if status.is_success() { Ok(answer) } else { Err(OauthError::Refused(refusal(status.as_u16(), &answer))) }
}

/// The error of an answer, for people: its code and its sentence, and never what else it holds.
pub(crate) fn refusal(status: u16, answer: &[u8]) -> String {
    let answer: serde_json::Value = serde_json::from_slice(answer).unwrap_or_default();
    let text = |key: &str| answer[key].as_str().map(|text| text.chars().filter(|c| !c.is_control()).take(200).collect::<String>());
    match (text("error"), text("error_description")) {
        (Some(code), Some(sentence)) => format!("{code}: {sentence}"),
        (Some(code), None) => code,
        _ => format!("HTTP {status}"),
    }
}

#[derive(Deserialize)]
struct RegisteredWire {
    client_id: String,
    client_secret: Option<SecretString>,
}

/// Registers this fabric as a public client (RFC 7591); gives its id, and a secret where it was given one all the same.
pub(crate) async fn register(client: &Client, place: &str, redirect_uri: &str) -> Result<(String, Option<SecretString>), OauthError> {
    let url = endpoint(place)?;
    let wanted = json!({
        "client_name": "MCP Fabric", "redirect_uris": [redirect_uri], "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"], "token_endpoint_auth_method": "none",
    });
    let answer = send(client.post(url.clone())?.header(ACCEPT, "application/json").json(&wanted), &url).await?;
    let status = answer.status();
    let answer = body(answer, &url).await?;
    if !status.is_success() {
        return Err(OauthError::Refused(refusal(status.as_u16(), &answer)));
    }
    let registered: RegisteredWire = serde_json::from_slice(&answer).map_err(|_| OauthError::Unfit("it registered no client"))?;
    Ok((registered.client_id, registered.client_secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_the_digest_of_its_verifier() {
        let (verifier, challenge) = pkce();
        assert_eq!(verifier.expose_secret().len(), 43);
        assert_eq!(challenge, URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.expose_secret().as_bytes())));
        assert_ne!(pkce().1, challenge);
    }

    #[test]
    fn a_refusal_says_no_more_than_its_error() {
        let answer = json!({ "error": "invalid_grant", "error_description": "too\u{7} old", "access_token": "canary" });
        assert_eq!(refusal(400, answer.to_string().as_bytes()), "invalid_grant: too old");
        assert_eq!(refusal(502, b"<html>"), "HTTP 502");
    }

    #[test]
    fn tokens_come_back_from_the_vault_as_they_were() {
        let tokens =
            Tokens { access: "a".into(), refresh: Some("r".into()), client_secret: None, token_endpoint: "https://a.example/t".into() };
        let back = Tokens::from_secret(&tokens.to_secret()).unwrap();
        assert_eq!(back.token_endpoint, tokens.token_endpoint);
        assert_eq!((back.access.expose_secret(), back.refresh.unwrap().expose_secret(), back.client_secret.is_none()), ("a", "r", true));
        assert!(Tokens::from_secret(&"rubbish".into()).is_none());
    }
}
