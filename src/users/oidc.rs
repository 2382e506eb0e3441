//! Access tokens of an external issuer (`OpenID` Connect), at the endpoints of MCP clients and nowhere else: JSON Web
//! Tokens (RFC 9068) that its published keys signed, for the very endpoint that they are sent to (RFC 8707).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use audit::NewEvent;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use moka::future::Cache;
use platform::{
    Class, Config, Identity, Origin, Problem, Role, Scope,
    actor::{Entry, Grant},
    client::{Client, own_host},
    clock,
    config::{OidcConfig, Registration},
    database::DbError,
    http::access::Audience,
    random::hex,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;
use url::Url;

use crate::{
    Users,
    email::Email,
    error::UsersError,
    jwk::{Header, KeySet, Verdict},
    model::UserId,
    service::nobody,
    store::{self, external::Linked},
};

/// Longer ones are not read.
const LONGEST: usize = 16 << 10;
const LONGEST_SUBJECT: usize = 255;
const LONGEST_DOCUMENT: usize = 1 << 20;
/// How far the issuer's clock may be from ours, in seconds.
const LEEWAY: i64 = 30;
/// How long its keys are used without asking again, and how often an unknown key makes us ask.
const KEYS_FOR: Duration = Duration::from_mins(10);
const KEYS_AGAIN: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a signature that was good is remembered.
const REMEMBERED_FOR: Duration = Duration::from_mins(1);
const REMEMBERED: u64 = 10_000;
/// What accounts have for a password that nobody knows: it is the hash of none.
const NO_PASSWORD: &str = "!";

/// The issuer, as far as it is known.
pub(crate) struct Issuer {
    config: OidcConfig,
    client: Client,
    keys: Mutex<Option<(Arc<KeySet>, Instant)>>,
    good: Cache<[u8; 32], Arc<Claims>>,
}

/// What is read of a token.
#[derive(Clone, Debug, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Value,
    exp: i64,
    nbf: Option<i64>,
    #[serde(default)]
    scope: Value,
    #[serde(default)]
    scp: Value,
    email: Option<String>,
    #[serde(default)]
    email_verified: Value,
}

/// The part of an issuer's description that counts (`OpenID` Connect Discovery, section 3).
#[derive(Deserialize)]
struct Description {
    issuer: String,
    jwks_uri: Url,
}

impl Issuer {
    pub(crate) fn new(config: &Config) -> Result<Option<Self>, UsersError> {
        let Some(oidc) = config.identity.oidc.clone() else { return Ok(None) };
        let hosts = config.allowed_hosts.iter().cloned().chain(own_host(&oidc.issuer));
        Ok(Some(Self {
            client: Client::direct(hosts, config.offline)?,
            config: oidc,
            keys: Mutex::default(),
            good: Cache::builder().max_capacity(REMEMBERED).time_to_live(REMEMBERED_FOR).build(),
        }))
    }

    /// What a token says that the issuer signed, for one of these audiences, and that is valid now.
    async fn read(&self, token: &str, audience: &Audience) -> Result<Option<Arc<Claims>>, Problem> {
        if token.len() > LONGEST {
            return Ok(None);
        }
        let key: [u8; 32] = Sha256::digest(token).into();
        let claims = match self.good.get(&key).await {
            Some(claims) => claims,
            None => match self.verified(token).await? {
                Some(claims) => {
                    let claims = Arc::new(claims);
                    self.good.insert(key, Arc::clone(&claims)).await;
                    claims
                }
                None => return Ok(None),
            },
        };
        let now = clock::now().timestamp();
        let is_valid = claims.iss == self.config.issuer_text
            && claims.exp.saturating_add(LEEWAY) > now
            && claims.nbf.is_none_or(|nbf| nbf.saturating_sub(LEEWAY) <= now)
            && (1..=LONGEST_SUBJECT).contains(&claims.sub.len())
            && texts(&claims.aud).any(|aud| audience.0.iter().any(|own| own == aud));
        Ok(is_valid.then_some(claims))
    }

    async fn verified(&self, token: &str) -> Result<Option<Claims>, Problem> {
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Ok(None);
        };
        let Some(read) = part::<Header>(header) else { return Ok(None) };
        // Texts of other kinds that the issuer signs, such as logouts, say what they are.
        let typ = read.typ.as_deref().map(|typ| typ.trim_start_matches("application/").to_ascii_lowercase());
        if read.crit.is_some() || !matches!(typ.as_deref(), None | Some("at+jwt" | "jwt")) {
            return Ok(None);
        }
        let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return Ok(None) };
        let message = &token.as_bytes()[..header.len() + 1 + claims.len()];
        let mut verdict = self.keys(KEYS_FOR).await?.verify(&read, message, &signature);
        if verdict == Verdict::NoKey {
            verdict = self.keys(KEYS_AGAIN).await?.verify(&read, message, &signature);
        }
        Ok(if verdict == Verdict::Good { part(claims) } else { None })
    }

    /// The keys, not older than this where the issuer answers. While it does not, those that it had are used.
    async fn keys(&self, not_older: Duration) -> Result<Arc<KeySet>, Problem> {
        let mut held = self.keys.lock().await;
        if let Some((keys, _)) = held.as_ref().filter(|(_, since)| since.elapsed() < not_older) {
            return Ok(Arc::clone(keys));
        }
        match (self.fetch().await, held.as_mut()) {
            (Ok(keys), _) => {
                let keys = Arc::new(keys);
                *held = Some((Arc::clone(&keys), Instant::now()));
                Ok(keys)
            }
            (Err(why), Some((keys, since))) => {
                tracing::warn!(issuer = self.config.issuer_text, why, "the issuer of tokens does not answer; its keys of before are used");
                *since = Instant::now();
                Ok(Arc::clone(keys))
            }
            (Err(why), None) => {
                tracing::error!(issuer = self.config.issuer_text, why, "the issuer of tokens does not answer");
                Err(Problem::new(Class::Unavailable, "issuer_unavailable", "the issuer of this token cannot be asked for its keys now"))
            }
        }
    }

    async fn fetch(&self) -> Result<KeySet, String> {
        let place = format!("{}/.well-known/openid-configuration", self.config.issuer_text.trim_end_matches('/'));
        let described: Description = self.document(Url::parse(&place).map_err(|error| error.to_string())?).await?;
        if described.issuer != self.config.issuer_text {
            return Err(format!("it calls itself {}", described.issuer));
        }
        if described.jwks_uri.scheme() != self.config.issuer.scheme() && described.jwks_uri.scheme() != "https" {
            return Err("its keys lie at an address without TLS".into());
        }
        self.document(described.jwks_uri).await
    }

    async fn document<T: DeserializeOwned>(&self, url: Url) -> Result<T, String> {
        let ask = async {
            let mut answer = self.client.get(url).map_err(|error| error.to_string())?.send().await.map_err(|error| error.to_string())?;
            if !answer.status().is_success() {
                return Err(format!("it answers {}", answer.status()));
            }
            let mut body = Vec::new();
            while let Some(chunk) = answer.chunk().await.map_err(|error| error.to_string())? {
                body.extend_from_slice(&chunk);
                if body.len() > LONGEST_DOCUMENT {
                    return Err("its answer is too long".into());
                }
            }
            serde_json::from_slice(&body).map_err(|error| error.to_string())
        };
        tokio::time::timeout(PATIENCE, ask).await.map_err(|_| "it takes too long".to_owned())?
    }
}

impl Claims {
    fn has_scope(&self, wanted: &str) -> bool {
        texts(&self.scope).chain(texts(&self.scp)).flat_map(str::split_whitespace).any(|scope| scope == wanted)
    }

    /// An address that the issuer says is theirs; one that nobody looked at is anybody's.
    fn verified_email(&self) -> Option<Email> {
        let is_verified = matches!(&self.email_verified, Value::Bool(true)) || self.email_verified == "true";
        self.email.as_deref().filter(|_| is_verified).and_then(|email| Email::parse(email).ok())
    }
}

fn part<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

/// A text, or several.
fn texts(value: &Value) -> impl Iterator<Item = &str> {
    let many = value.as_array().map(Vec::as_slice).unwrap_or_default();
    value.as_str().into_iter().chain(many.iter().filter_map(Value::as_str))
}

impl Users {
    /// Who holds a token of the external issuer, if there is such a one and the token is for one of these audiences.
    pub(crate) async fn external(&self, token: &str, audience: &Audience, origin: &Origin) -> Result<Option<Identity>, Problem> {
        let Some(issuer) = &self.inner.issuer else { return Ok(None) };
        let Some(claims) = issuer.read(token, audience).await? else { return Ok(None) };
        if let Some(scope) = issuer.config.scope.as_deref().filter(|scope| !claims.has_scope(scope)) {
            return Err(Problem::new(Class::Forbidden, "insufficient_scope", format!("this needs a token with the scope `{scope}`")));
        }
        let account = self.inner.known.external.try_get_with(claims.sub.clone(), self.account_of(&claims, origin)).await;
        let account = account.map_err(|error: Arc<UsersError>| Problem::of(error.as_ref()))?;
        Ok(account.map(|(id, role)| {
            let grant = Grant { token: id.0, scopes: [Scope::McpCall].as_slice().into(), servers: None, tools: None };
            Identity::User { id: id.0, role, entry: Entry::Token(grant) }
        }))
    }

    /// The account that a subject stands for. The first time it is the one of its address, else a new one, unless
    /// registration is closed.
    async fn account_of(&self, claims: &Claims, origin: &Origin) -> Result<Option<(UserId, Role)>, UsersError> {
        let mut transaction = self.inner.database.begin_for_all().await?;
        match store::external::linked(&mut transaction, &claims.iss, &claims.sub).await? {
            Linked::Open(id, role) => return Ok(Some((id, role))),
            Linked::Disabled => return Ok(None),
            Linked::No => {}
        }
        store::users::lock_registration(&mut transaction).await?;
        // Somebody may have been faster.
        if let Linked::Open(id, role) = store::external::linked(&mut transaction, &claims.iss, &claims.sub).await? {
            return Ok(Some((id, role)));
        }
        let email = claims.verified_email();
        let known = match &email {
            Some(email) => store::users::get_user_by_email(&mut transaction, email).await?.map(|(user, _)| user),
            None => None,
        };
        let is_new = known.is_none();
        let user = match known {
            Some(user) if user.disabled_at.is_some() => return Ok(None),
            Some(user) => user,
            None if self.inner.registration == Registration::Closed => return Ok(None),
            None => {
                let email = email.map_or_else(|| made_up(claims), Ok)?;
                store::users::create_user(&mut transaction, UserId::fresh(), &email, NO_PASSWORD, Role::Member).await?
            }
        };
        store::external::link(&mut transaction, &claims.iss, &claims.sub, user.id).await?;
        let event =
            NewEvent::change("user.link").of(user.owner()).on("user", user.id).with("issuer", claims.iss.as_str()).with("is_new", is_new);
        let actor = nobody(Arc::new(origin.clone()));
        self.note_in(&mut transaction, &actor, event.personal("subject", claims.sub.as_str())).await?;
        transaction.commit().await.map_err(DbError::from)?;
        Ok(Some((user.id, user.role)))
    }
}

/// What an account is called whose issuer states no address.
fn made_up(claims: &Claims) -> Result<Email, UsersError> {
    let hash = hex(&Sha256::digest(format!("{}\0{}", claims.iss, claims.sub))[..8]);
    let host = Url::parse(&claims.iss).ok().and_then(|url| url.host_str().filter(|host| host.contains('.')).map(str::to_owned));
    let email = format!("oidc-{hash}@{}", host.as_deref().unwrap_or("issuer.invalid"));
    Email::parse(&email).or_else(|_| Email::parse(&format!("oidc-{hash}@issuer.invalid"))).map_err(|_| UsersError::NoAccount)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(more: &Value) -> Claims {
        let mut all = json!({ "iss": "https://issuer.example", "sub": "s", "aud": "a", "exp": 1 });
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn scopes_are_words_of_either_claim() {
        for given in [json!({ "scope": "openid mcp:call" }), json!({ "scp": ["openid", "mcp:call"] }), json!({ "scp": "mcp:call" })] {
            assert!(claims(&given).has_scope("mcp:call"), "{given}");
        }
        for given in [json!({}), json!({ "scope": "mcp:callers" }), json!({ "scope": 7 }), json!({ "scope": "mcp: call" })] {
            assert!(!claims(&given).has_scope("mcp:call"), "{given}");
        }
    }

    #[test]
    fn an_address_counts_only_when_somebody_looked_at_it() {
        let email = |verified: Value| claims(&json!({ "email": "ada@example.com", "email_verified": verified })).verified_email().is_some();
        assert!(email(json!(true)) && email(json!("true")));
        assert!(!email(json!(false)) && !email(json!("false")) && !email(json!(null)) && !email(json!(1)));
        assert!(claims(&json!({ "email": "no address", "email_verified": true })).verified_email().is_none());
    }

    #[test]
    fn subjects_without_an_address_have_names_of_their_own() {
        let name = |more: Value| made_up(&claims(&more)).unwrap().as_str().to_owned();
        assert_ne!(name(json!({ "sub": "a" })), name(json!({ "sub": "b" })));
        assert!(name(json!({})).ends_with("@issuer.example"));
        for issuer in ["http://127.0.0.1:1", "http://localhost:9", "https://[::1]/x", "https://ä.example"] {
            name(json!({ "iss": issuer }));
        }
    }
}
