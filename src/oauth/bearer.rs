//! Tokens for requests to one server: fresh ones, without asking anybody each time.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use platform::clock;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Mutex;

use crate::{
    Oauth,
    error::OauthError,
    exchange::{self, ClientId, Tokens},
    service::GRANTS,
    store::{self, Grant},
};

/// A token that ends within this time is not used any more.
const MARGIN: TimeDelta = TimeDelta::seconds(60);

/// The tokens of a user for a server; clones share them.
#[derive(Clone)]
pub struct Bearer {
    oauth: Oauth,
    owner: String,
    server_id: String,
    /// What was last used, and until when it counts.
    known: Arc<Mutex<Option<Known>>>,
}

#[derive(Clone)]
struct Known {
    token: SecretString,
    until: Option<DateTime<Utc>>,
}

impl Known {
    fn is_fresh(&self) -> bool {
        self.until.is_none_or(|until| until > clock::now() + MARGIN)
    }
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bearer").field("server_id", &self.server_id).finish_non_exhaustive()
    }
}

impl Oauth {
    /// The tokens of an owner, as actors are written, for a server; `None` where there was no login.
    pub async fn bearer(&self, owner: &str, server_id: &str) -> Result<Option<Bearer>, OauthError> {
        let mut transaction = self.inner.database.begin_for_all().await?;
        let grant = store::grant(&mut transaction, owner, server_id).await?;
        Ok(grant.map(|grant| Bearer { oauth: self.clone(), owner: grant.owner, server_id: grant.server_id, known: Arc::default() }))
    }
}

impl Bearer {
    /// A token that counts. `refused` is one that the server did not take: another one is brought, if there is one.
    pub async fn token(&self, refused: Option<&SecretString>) -> Result<SecretString, OauthError> {
        let mut known = self.known.lock().await;
        let is_refused = |token: &SecretString| refused.is_some_and(|refused| refused.expose_secret() == token.expose_secret());
        if let Some(known) = known.as_ref().filter(|known| known.is_fresh() && !is_refused(&known.token)) {
            return Ok(known.token.clone());
        }
        // Another node may have brought one.
        let (grant, tokens) = self.kept().await?;
        let found = Known { token: tokens.access, until: grant.expires_at };
        let found = if found.is_fresh() && !is_refused(&found.token) { found } else { self.refreshed(&found.token).await? };
        *known = Some(found.clone());
        Ok(found.token)
    }

    async fn kept(&self) -> Result<(Grant, Tokens), OauthError> {
        let mut transaction = self.oauth.inner.database.begin_for_all().await?;
        let grant = store::grant(&mut transaction, &self.owner, &self.server_id).await?.filter(|grant| !grant.is_over);
        drop(transaction);
        let grant = grant.ok_or(OauthError::Over)?;
        Ok((grant, self.tokens().await?))
    }

    async fn tokens(&self) -> Result<Tokens, OauthError> {
        let kept = self.oauth.inner.credentials.open_secret([&self.owner, GRANTS, &self.server_id]).await?;
        kept.as_ref().and_then(Tokens::from_secret).ok_or(OauthError::Over)
    }

    /// Brings a new token in the place of an old one. Refresh tokens may count once: one at a time does it, on one node.
    async fn refreshed(&self, old: &SecretString) -> Result<Known, OauthError> {
        let inner = &self.oauth.inner;
        let mut transaction = inner.database.begin_for_all().await?;
        let held = store::hold(&mut transaction, &self.owner, &self.server_id).await?.filter(|grant| !grant.is_over);
        let mut grant = held.ok_or(OauthError::Over)?;
        let tokens = self.tokens().await?;
        if tokens.access.expose_secret() != old.expose_secret() {
            return Ok(Known { token: tokens.access, until: grant.expires_at });
        }
        let refresh = tokens.refresh.as_ref().ok_or(OauthError::Over)?;
        let who = ClientId { id: &grant.client_id, secret: tokens.client_secret.as_ref() };
        let fields = [("grant_type", "refresh_token"), ("refresh_token", refresh.expose_secret()), ("resource", grant.resource.as_str())];
        let now = clock::now();
        let issued = match exchange::token(&inner.client, &grant.token_endpoint, &who, &fields).await {
            Err(OauthError::Refused(why)) if why.starts_with("invalid_grant") => {
                grant.is_over = true;
                grant.updated_at = now;
                store::put(&mut transaction, &grant).await?;
                transaction.commit().await?;
                return Err(OauthError::Over);
            }
            other => other?,
        };
        grant.expires_at = issued.expires_in.map(|seconds| now + TimeDelta::seconds(seconds));
        grant.scope = issued.scope.or(grant.scope);
        grant.updated_at = now;
        let tokens = Tokens { access: issued.access, refresh: issued.refresh.or(tokens.refresh), ..tokens };
        inner.credentials.seal_secret([&self.owner, GRANTS, &self.server_id], &tokens.to_secret()).await?;
        store::put(&mut transaction, &grant).await?;
        transaction.commit().await?;
        Ok(Known { token: tokens.access, until: grant.expires_at })
    }
}
