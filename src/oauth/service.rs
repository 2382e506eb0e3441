use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use audit::{Audit, NewEvent};
use chrono::{DateTime, TimeDelta, Utc};
use credentials::{Credentials, CredentialsError};
use futures_util::{FutureExt as _, future::BoxFuture};
use platform::{Action, Actor, Config, Database, client::Client, clock, random};
use secrecy::{ExposeSecret as _, SecretString};
use servers::{ServerRef, Servers, Viewer, first_remote};
use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;
use tokio::sync::Semaphore;
use url::Url;
use users::{Belongings, UserId};

use crate::{
    discovery::{self, Metadata, endpoint},
    error::OauthError,
    exchange::{self, ClientId, Issued, Tokens},
    store::{self, Grant, Login},
};

/// Where secrets of this feature lie in the vault.
pub(crate) const GRANTS: &str = "oauth";
const LOGINS: &str = "oauth-login";
const CLIENTS: &str = "oauth-client";
const FABRIC: &str = "system:fabric";
/// How many tokens are renewed at once.
const RENEWALS: usize = 4;
/// How long a login may take.
const LOGIN: TimeDelta = TimeDelta::minutes(10);
/// Where browsers come back to.
pub(crate) const CALLBACK: &str = "/api/mcp/oauth/callback";

/// Logins at servers elsewhere; cheap to clone.
#[derive(Clone)]
pub struct Oauth {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) database: Database,
    pub(crate) audit: Audit,
    pub(crate) servers: Servers,
    pub(crate) credentials: Credentials,
    /// Redirects are not followed: what is sent is for one host alone.
    pub(crate) client: Client,
    /// Renewals hold a connection of the database while an authorization server thinks: one for each of them, and so many
    /// in all.
    pub(crate) renewals: Semaphore,
    pub(crate) renewing: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// Counts logins and their ends: what is known of tokens is looked at anew after each.
    pub(crate) changes: AtomicU64,
    public: Option<Url>,
    local: OnceLock<String>,
}

/// What logins work with.
pub struct Neighbours {
    /// The database.
    pub database: Database,
    /// The audit trail.
    pub audit: Audit,
    /// Where servers are.
    pub servers: Servers,
    /// Where tokens are kept.
    pub credentials: Credentials,
}

/// How a login is to be begun.
#[derive(Debug, Default)]
pub(crate) struct Begin {
    /// A client that somebody registered by hand, where the authorization server wants that.
    pub(crate) client: Option<(String, Option<SecretString>)>,
    pub(crate) scope: Option<String>,
}

/// A login that was begun: what a browser is to open, and until when.
pub(crate) struct Begun {
    pub(crate) address: Url,
    pub(crate) redirect_uri: String,
    pub(crate) expires_at: DateTime<Utc>,
}

/// What a browser brought back.
#[derive(Debug)]
pub(crate) struct Brought {
    /// The part of the address that stands for the issuer.
    pub(crate) place: String,
    pub(crate) state: String,
    pub(crate) code: String,
    pub(crate) iss: Option<String>,
}

fn hash(state: &str) -> Vec<u8> {
    Sha256::digest(state.as_bytes()).to_vec()
}

/// What stands for an issuer in the address that its browsers come back to. One address for all would let one
/// authorization server be taken for another (RFC 9700, section 4.4).
fn place_of(issuer: &str) -> String {
    random::hex(&Sha256::digest(issuer.trim_end_matches('/').as_bytes())[..8])
}

impl Oauth {
    /// The service.
    pub fn new(config: &Config, neighbours: Neighbours) -> Result<Self, OauthError> {
        let Neighbours { database, audit, servers, credentials } = neighbours;
        let client = Client::direct(config.allowed_hosts.iter().cloned(), config.offline)?;
        let inner = Inner {
            database,
            audit,
            servers,
            credentials,
            client,
            renewals: Semaphore::new(RENEWALS),
            renewing: Mutex::default(),
            changes: AtomicU64::new(0),
            public: config.public_url.clone(),
            local: OnceLock::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Says where this fabric is reached from this machine; browsers come back there unless `FABRIC_PUBLIC_URL` is set.
    pub fn start(&self, local: &str) {
        self.inner.local.set(local.to_owned()).ok();
    }

    fn redirect_uri(&self, issuer: &str) -> String {
        let local = || self.inner.local.get().cloned().unwrap_or_default();
        let base = self.inner.public.as_ref().map_or_else(local, Url::to_string);
        format!("{}{CALLBACK}/{}", base.trim_end_matches('/'), place_of(issuer))
    }

    /// The server that is meant, if the actor's token is for it.
    async fn server(&self, actor: &Actor, action: Action, server: &ServerRef) -> Result<String, OauthError> {
        actor.require(action)?;
        let id = self.inner.servers.id_of(server).await?;
        actor.require_server(action, &id)?;
        Ok(id)
    }

    /// The address of a server elsewhere: the one that a start would use. Tokens do not go there without TLS.
    async fn address(&self, viewer: &Viewer, server: &ServerRef) -> Result<Url, OauthError> {
        let document = self.inner.servers.document(viewer, server).await?.document;
        let remote = first_remote(&document).ok_or(OauthError::NotElsewhere)?;
        let text = remote["url"].as_str().unwrap_or_default();
        if text.contains(['{', '}']) {
            return Err(OauthError::Unfit("its address has variables, and could be of any server"));
        }
        endpoint(text)
    }

    /// Begins a login of the actor: discovery, a client, and an address for a browser.
    pub(crate) async fn begin(&self, actor: &Actor, server: &ServerRef, begin: Begin) -> Result<Begun, OauthError> {
        let id = self.server(actor, Action::CredentialsWrite, server).await?;
        let found = discovery::discover(&self.inner.client, &self.address(&Viewer::of(actor), server).await?).await?;
        let redirect_uri = self.redirect_uri(&found.metadata.issuer);
        let (client_id, client_secret) = match begin.client {
            Some(client) => client,
            None => self.registered(&found.metadata, &redirect_uri).await?,
        };
        let (verifier, challenge) = exchange::pkce();
        let state = random::token();
        let login = Login {
            owner: actor.to_string(),
            server_id: id,
            issuer: found.metadata.issuer.clone(),
            names_issuer: found.metadata.names_issuer,
            resource: found.resource.clone(),
            token_endpoint: found.metadata.token_endpoint.clone(),
            revocation_endpoint: found.metadata.revocation_endpoint.clone(),
            client_id: client_id.clone(),
            redirect_uri: redirect_uri.clone(),
            expires_at: clock::now() + LOGIN,
        };
        let secrets = Tokens { access: verifier, refresh: None, client_secret, token_endpoint: login.token_endpoint.clone() };
        let name = random::hex(&hash(&state));
        self.write(actor, &state, &login).await?;
        self.inner.credentials.seal_secret([&login.owner, LOGINS, &name], &secrets.to_secret()).await?;
        let mut address = endpoint(&found.metadata.authorization_endpoint)?;
        address.query_pairs_mut().extend_pairs([
            ("response_type", "code"),
            ("client_id", &client_id),
            ("redirect_uri", &redirect_uri),
            ("state", &state),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("resource", &found.resource),
        ]);
        if let Some(scope) = begin.scope.or(found.scope) {
            address.query_pairs_mut().append_pair("scope", &scope);
        }
        Ok(Begun { address, redirect_uri, expires_at: login.expires_at })
    }

    async fn write(&self, actor: &Actor, state: &str, login: &Login) -> Result<(), OauthError> {
        let mut transaction = self.inner.database.begin_for_all().await?;
        store::expire(&mut transaction, clock::now()).await?;
        store::begin(&mut transaction, &hash(state), login).await?;
        let told = NewEvent::change("oauth.begin").server(&login.server_id).with("issuer", login.issuer.as_str());
        self.inner.audit.record_in(&mut transaction, actor, told.of(&login.owner)).await?;
        transaction.commit().await?;
        Ok(self.inner.credentials.forget_secrets_before(LOGINS, clock::now() - LOGIN).await?)
    }

    /// What the authorization server calls this fabric; it is registered there where it is not yet.
    async fn registered(&self, metadata: &Metadata, redirect_uri: &str) -> Result<(String, Option<SecretString>), OauthError> {
        let name = format!("{} {redirect_uri}", metadata.issuer);
        let name = [FABRIC, CLIENTS, name.as_str()];
        let known = {
            let mut connection = self.inner.database.for_all().await?;
            store::client(&mut connection, &metadata.issuer, redirect_uri).await?
        };
        if let Some(id) = known {
            let secret = self.inner.credentials.open_secret(name).await?;
            return Ok((id, secret.filter(|secret| !secret.expose_secret().is_empty())));
        }
        let place = metadata.registration_endpoint.as_deref();
        let place = place.ok_or(OauthError::Unfit("clients do not register themselves there: register one, and give client_id"))?;
        let (id, secret) = exchange::register(&self.inner.client, place, redirect_uri).await?;
        self.inner.credentials.seal_secret(name, &secret.clone().unwrap_or_default()).await?;
        let mut connection = self.inner.database.for_all().await?;
        store::put_client(&mut connection, &metadata.issuer, redirect_uri, &id, clock::now()).await?;
        Ok((id, secret))
    }

    /// Whose login an answer belongs to, and for which server: for the page that asks whether to go on.
    pub(crate) async fn asked(&self, brought: &Brought) -> Result<Login, OauthError> {
        let mut transaction = self.inner.database.begin_for_all().await?;
        let login = store::login(&mut transaction, &hash(&brought.state), clock::now()).await?.ok_or(OauthError::Unknown)?;
        if brought.place == place_of(&login.issuer) { Ok(login) } else { Err(OauthError::OtherIssuer) }
    }

    /// Finishes a login: its state counts once, whatever comes of it.
    pub(crate) async fn finish(&self, brought: &Brought) -> Result<Login, OauthError> {
        let login = self.asked(brought).await?;
        let mut transaction = self.inner.database.begin_for_all().await?;
        if !store::take(&mut transaction, &hash(&brought.state)).await? {
            return Err(OauthError::Unknown);
        }
        transaction.commit().await?;
        let name = random::hex(&hash(&brought.state));
        let name = [login.owner.as_str(), LOGINS, &name];
        let secrets = self.inner.credentials.open_secret(name).await?.as_ref().and_then(Tokens::from_secret);
        self.inner.credentials.forget_secret(name).await?;
        let secrets = secrets.ok_or(OauthError::Unknown)?;
        let is_other = brought.iss.as_ref().map_or(login.names_issuer, |iss| *iss != login.issuer);
        if is_other {
            return Err(OauthError::OtherIssuer);
        }
        let issued = self.exchanged(&login, &brought.code, &secrets).await?;
        self.keep(&login, issued, secrets.client_secret).await?;
        Ok(login)
    }

    async fn exchanged(&self, login: &Login, code: &str, secrets: &Tokens) -> Result<Issued, OauthError> {
        let who = ClientId { id: &login.client_id, secret: secrets.client_secret.as_ref() };
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &login.redirect_uri),
            ("code_verifier", secrets.access.expose_secret()),
            ("resource", &login.resource),
        ];
        let issued = exchange::token(&self.inner.client, &login.token_endpoint, &who, &fields).await;
        if matches!(&issued, Err(OauthError::Refused(why)) if why.starts_with("invalid_client")) {
            self.forget_client(&login.issuer, &login.client_id).await?;
        }
        issued
    }

    /// The authorization server does not know this fabric any more: the next login registers it anew.
    pub(crate) async fn forget_client(&self, issuer: &str, client_id: &str) -> Result<(), OauthError> {
        let mut connection = self.inner.database.for_all().await?;
        store::forget_client(&mut connection, issuer, client_id).await?;
        Ok(())
    }

    /// The place that renewals at one authorization server take turns in.
    pub(crate) fn turn_of(&self, token_endpoint: &str) -> Arc<Semaphore> {
        let mut renewing = self.inner.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(renewing.entry(token_endpoint.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(1))))
    }

    async fn keep(&self, login: &Login, issued: Issued, client_secret: Option<SecretString>) -> Result<(), OauthError> {
        let now = clock::now();
        let grant = Grant {
            owner: login.owner.clone(),
            server_id: login.server_id.clone(),
            issuer: login.issuer.clone(),
            resource: login.resource.clone(),
            token_endpoint: login.token_endpoint.clone(),
            revocation_endpoint: login.revocation_endpoint.clone(),
            client_id: login.client_id.clone(),
            scope: issued.scope,
            expires_at: issued.expires_in.map(|seconds| now + TimeDelta::seconds(seconds)),
            is_over: false,
            updated_at: now,
        };
        let tokens = Tokens { access: issued.access, refresh: issued.refresh, client_secret, token_endpoint: grant.token_endpoint.clone() };
        let mut transaction = self.inner.database.begin_for_all().await?;
        // The row first: it is held until both are there, also against a renewal of the login before.
        store::put(&mut transaction, &grant).await?;
        self.inner.credentials.seal_secret([&grant.owner, GRANTS, &grant.server_id], &tokens.to_secret()).await?;
        let told = NewEvent::change("oauth.login").server(&grant.server_id).with("issuer", grant.issuer.as_str()).of(&grant.owner);
        self.inner.audit.record_in(&mut transaction, &Actor::system("oauth"), told).await?;
        transaction.commit().await?;
        self.inner.changes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// The actor's own login at a server.
    pub(crate) async fn grant(&self, actor: &Actor, server: &ServerRef) -> Result<Grant, OauthError> {
        let id = self.server(actor, Action::CredentialsRead, server).await?;
        let mut transaction = self.inner.database.begin(actor).await?;
        store::grant(&mut transaction, &actor.to_string(), &id).await?.ok_or(OauthError::NotFound)
    }

    /// Ends the actor's own login at a server, here and, where it takes that, there.
    pub(crate) async fn revoke(&self, actor: &Actor, server: &ServerRef) -> Result<(), OauthError> {
        let id = self.server(actor, Action::CredentialsWrite, server).await?;
        let mut transaction = self.inner.database.begin(actor).await?;
        let grant = store::grant(&mut transaction, &actor.to_string(), &id).await?.ok_or(OauthError::NotFound)?;
        store::remove(&mut transaction, &grant.owner, &grant.server_id).await?;
        let told = NewEvent::change("oauth.logout").server(&grant.server_id).with("issuer", grant.issuer.as_str());
        self.inner.audit.record_in(&mut transaction, actor, told.of(&grant.owner)).await?;
        transaction.commit().await?;
        self.inner.changes.fetch_add(1, Ordering::Relaxed);
        let name = [grant.owner.as_str(), GRANTS, &grant.server_id];
        let tokens = self.inner.credentials.open_secret(name).await?.as_ref().and_then(Tokens::from_secret);
        self.inner.credentials.forget_secret(name).await?;
        if let (Some(place), Some(tokens)) = (&grant.revocation_endpoint, tokens) {
            let who = ClientId { id: &grant.client_id, secret: tokens.client_secret.as_ref() };
            for token in tokens.refresh.iter().chain([&tokens.access]) {
                if let Err(error) = exchange::revoke(&self.inner.client, place, &who, token).await {
                    tracing::warn!(%error, server_id = grant.server_id, "a token could not be revoked where it came from");
                }
            }
        }
        Ok(())
    }
}

impl Belongings for Oauth {
    fn erase<'a>(&'a self, transaction: &'a mut PgConnection, user: UserId) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let owner = format!("user:{user}");
            let words = |error: CredentialsError| error.to_string();
            let servers = store::erase(transaction, &owner).await.map_err(|error| error.to_string())?;
            // On another connection: where this transaction comes to nothing, their owner logs in again.
            for scope in [GRANTS, LOGINS] {
                self.inner.credentials.forget_secrets_of(&owner, scope).await.map_err(words)?;
            }
            self.inner.changes.fetch_add(1, Ordering::Relaxed);
            for server in servers {
                let event = NewEvent::change("oauth.erase").server(server).of(owner.clone());
                let recorded = self.inner.audit.record_in(transaction, &Actor::system("erase"), event).await;
                recorded.map_err(|error| error.to_string())?;
            }
            Ok(())
        }
        .boxed()
    }
}
