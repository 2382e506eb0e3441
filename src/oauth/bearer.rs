//! Tokens for requests to one server: fresh ones, without asking anybody each time.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use platform::clock;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Mutex;
use url::Url;

use crate::{
    Oauth,
    discovery::{endpoint, is_of},
    error::OauthError,
    exchange::{self, ClientId, Tokens},
    service::GRANTS,
    store::{self, Grant},
};

/// How long a token is used without a look at whether its login still stands: other nodes end logins, too.
const LOOK: Duration = Duration::from_mins(1);
/// Refusals that no other try changes.
const FINAL: [&str; 3] = ["invalid_grant", "invalid_client", "unauthorized_client"];
const MOST_TRIES: u32 = 5;
const RETRY: Duration = Duration::from_secs(1);
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
    /// When it was looked at, and how many logins there had been by then.
    looked: (Instant, u64),
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
    /// The tokens of an owner, as actors are written, for a server at an address; `None` where there was no login for that.
    pub async fn bearer(&self, owner: &str, server_id: &str, server: &Url) -> Result<Option<Bearer>, OauthError> {
        let mut connection = self.inner.database.for_all().await?;
        let grant = store::grant(&mut connection, owner, server_id).await?;
        // Its document may name another address by now, which the tokens are not for.
        let grant = grant.filter(|grant| is_of(&grant.resource, server) && endpoint(server.as_str()).is_ok());
        Ok(grant.map(|grant| Bearer { oauth: self.clone(), owner: grant.owner, server_id: grant.server_id, known: Arc::default() }))
    }
}

impl Bearer {
    /// A token that counts. `refused` is one that the server did not take: another one is brought, if there is one.
    pub async fn token(&self, refused: Option<&SecretString>) -> Result<SecretString, OauthError> {
        let looked = (Instant::now(), self.oauth.inner.changes.load(Ordering::Relaxed));
        let mut known = self.known.lock().await;
        let is_refused = |token: &SecretString| refused.is_some_and(|refused| refused.expose_secret() == token.expose_secret());
        let counts = |known: &&Known| known.is_fresh() && known.looked.1 == looked.1 && known.looked.0.elapsed() < LOOK;
        if let Some(known) = known.as_ref().filter(counts).filter(|known| !is_refused(&known.token)) {
            return Ok(known.token.clone());
        }
        // Another node may have brought one.
        let (grant, tokens) = self.kept().await?;
        let found = Known { token: tokens.access, until: grant.expires_at, looked };
        let found = if found.is_fresh() && !is_refused(&found.token) { found } else { self.renewed(grant, found).await? };
        *known = Some(found.clone());
        Ok(found.token)
    }

    /// Brings a new token, and sees that through although whoever waits for it may go: a refresh token may count once.
    #[expect(clippy::disallowed_methods, reason = "it is bounded by the time limits of its requests")]
    async fn renewed(&self, grant: Grant, old: Known) -> Result<Known, OauthError> {
        let own = self.clone();
        tokio::spawn(async move { own.refreshed(&grant.token_endpoint, &old).await }).await.unwrap_or(Err(OauthError::Over))
    }

    async fn kept(&self) -> Result<(Grant, Tokens), OauthError> {
        let mut connection = self.oauth.inner.database.for_all().await?;
        let grant = store::grant(&mut connection, &self.owner, &self.server_id).await?.filter(|grant| !grant.is_over);
        drop(connection);
        let grant = grant.ok_or(OauthError::Over)?;
        Ok((grant, self.tokens().await?))
    }

    async fn tokens(&self) -> Result<Tokens, OauthError> {
        let kept = self.oauth.inner.credentials.open_secret([&self.owner, GRANTS, &self.server_id]).await?;
        kept.as_ref().and_then(Tokens::from_secret).ok_or(OauthError::Over)
    }

    /// Keeps new tokens: the old ones may be worth nothing by now.
    async fn keep(&self, tokens: &Tokens) -> Result<(), OauthError> {
        let (name, mut tries) = ([self.owner.as_str(), GRANTS, &self.server_id], 0);
        loop {
            match self.oauth.inner.credentials.seal_secret(name, &tokens.to_secret()).await {
                Err(error) if tries < MOST_TRIES => {
                    tracing::warn!(%error, server_id = self.server_id, "new tokens could not be kept yet");
                    tries += 1;
                    tokio::time::sleep(RETRY).await;
                }
                kept => return Ok(kept?),
            }
        }
    }

    /// Brings a new token in the place of an old one. Refresh tokens may count once: one at a time does it, on one node.
    async fn refreshed(&self, token_endpoint: &str, old: &Known) -> Result<Known, OauthError> {
        let inner = &self.oauth.inner;
        let turn = self.oauth.turn_of(token_endpoint);
        let (Ok(_turn), Ok(_place)) = (turn.acquire().await, inner.renewals.acquire().await) else { return Err(OauthError::Over) };
        let mut transaction = inner.database.begin_for_all().await?;
        let held = store::hold(&mut transaction, &self.owner, &self.server_id).await?.filter(|grant| !grant.is_over);
        let mut grant = held.ok_or(OauthError::Over)?;
        let tokens = self.tokens().await?;
        if tokens.token_endpoint != grant.token_endpoint {
            return Err(OauthError::Over);
        }
        if tokens.access.expose_secret() != old.token.expose_secret() {
            return Ok(Known { token: tokens.access, until: grant.expires_at, looked: old.looked });
        }
        let refresh = tokens.refresh.as_ref().ok_or(OauthError::Over)?;
        let who = ClientId { id: &grant.client_id, secret: tokens.client_secret.as_ref() };
        let fields = [("grant_type", "refresh_token"), ("refresh_token", refresh.expose_secret()), ("resource", grant.resource.as_str())];
        let now = clock::now();
        let issued = match exchange::token(&inner.client, &grant.token_endpoint, &who, &fields).await {
            Err(OauthError::Refused(why)) if FINAL.iter().any(|code| why.starts_with(code)) => {
                grant.is_over = true;
                grant.updated_at = now;
                store::put(&mut transaction, &grant).await?;
                transaction.commit().await?;
                if !why.starts_with("invalid_grant") {
                    self.oauth.forget_client(&grant.issuer, &grant.client_id).await?;
                }
                return Err(OauthError::Over);
            }
            other => other?,
        };
        grant.expires_at = issued.expires_in.map(|seconds| now + TimeDelta::seconds(seconds));
        grant.scope = issued.scope.or(grant.scope);
        grant.updated_at = now;
        let tokens = Tokens { access: issued.access, refresh: issued.refresh.or(tokens.refresh), ..tokens };
        self.keep(&tokens).await?;
        store::put(&mut transaction, &grant).await?;
        transaction.commit().await?;
        Ok(Known { token: tokens.access, until: grant.expires_at, looked: old.looked })
    }
}
