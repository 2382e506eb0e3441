//! From what a request carries to who sent it.

use std::{sync::Arc, time::Duration};

use audit::{EventType, NewEvent, Outcome};
use futures_util::{FutureExt as _, future::BoxFuture};
use moka::future::Cache;
use platform::{
    Identity, Origin, Problem, Role,
    actor::{Entry, Grant},
    clock,
    database::DbError,
    http::access::{Audience, Authenticator, Refusal},
};
use uuid::Uuid;

use crate::{
    Users,
    model::{SessionId, TokenKind, UserId},
    service::nobody,
    store::{self, tokens::Stored},
    token::Token,
};

/// How long an end that another replica made may go unnoticed here.
const MEMORY: Duration = Duration::from_secs(2);
const REMEMBERED: u64 = 20_000;

/// Sessions and tokens that were looked up a moment ago.
pub(crate) struct Known {
    sessions: Cache<Uuid, Option<(UserId, Role)>>,
    tokens: Cache<String, Option<Arc<Stored>>>,
    /// By their names at the external issuer.
    pub(crate) external: Cache<String, Option<(UserId, Role)>>,
}

impl Default for Known {
    fn default() -> Self {
        let sessions = Cache::builder().max_capacity(REMEMBERED).time_to_live(MEMORY).build();
        let tokens = Cache::builder().max_capacity(REMEMBERED).time_to_live(MEMORY).build();
        let external = Cache::builder().max_capacity(REMEMBERED).time_to_live(MEMORY).build();
        Self { sessions, tokens, external }
    }
}

impl Known {
    /// Something has ended, or has other rights: whatever is remembered may be wrong.
    pub(crate) fn forget(&self) {
        self.sessions.invalidate_all();
        self.tokens.invalidate_all();
        self.external.invalidate_all();
    }
}

impl Users {
    async fn identify(&self, text: &str) -> Result<Option<Identity>, Arc<DbError>> {
        if self.inner.jwt.is_meant(text) {
            return self.session(text).await;
        }
        match Token::parse(text) {
            Some(token) => self.token(token).await,
            None => Ok(None),
        }
    }

    async fn session(&self, text: &str) -> Result<Option<Identity>, Arc<DbError>> {
        let Some(claims) = self.inner.jwt.read(text, clock::now()) else { return Ok(None) };
        let load = async {
            let mut connection = self.inner.database.for_all().await?;
            let open = store::sessions::open(&mut connection, SessionId(claims.sid), clock::now()).await?;
            Ok::<_, DbError>(open.map(|open| (open.user, open.role)))
        };
        let open = self.inner.known.sessions.try_get_with(claims.sid, load).await?;
        Ok(open.filter(|(user, _)| user.0 == claims.sub).map(|(user, role)| Identity::User {
            id: user.0,
            role,
            entry: Entry::Session(claims.sid),
        }))
    }

    async fn token(&self, token: Token) -> Result<Option<Identity>, Arc<DbError>> {
        let load = async {
            let mut connection = self.inner.database.for_all().await?;
            let stored = store::tokens::look_up(&mut connection, &token.handle).await?;
            Ok::<_, DbError>(stored.map(Arc::new))
        };
        let stored = self.inner.known.tokens.try_get_with(token.handle.clone(), load).await?;
        Ok(stored.filter(|stored| is_open(stored, &token)).and_then(|stored| identity(&stored)))
    }
}

impl Users {
    /// Tells the trail of somebody unknown who was refused. A flood from one address is counted, so that it does not
    /// push the rest of the trail out.
    pub(crate) fn refuse(&self, origin: Arc<Origin>, event: NewEvent) {
        if origin.address.is_some_and(|address| self.inner.refusals.check_key(&address).is_err()) {
            return self.inner.audit.count(event.action());
        }
        self.inner.audit.note(&nobody(origin), event.outcome(Outcome::Denied));
    }
}

fn is_open(stored: &Stored, token: &Token) -> bool {
    token.matches(&stored.hash)
        && stored.kind == token.kind
        && !stored.revoked
        && stored.expires_at.is_none_or(|expires_at| expires_at > clock::now())
}

pub(crate) fn identity(stored: &Stored) -> Option<Identity> {
    let grant = || Grant {
        token: stored.id.0,
        scopes: stored.scopes.as_slice().into(),
        servers: stored.servers.as_deref().map(Into::into),
        tools: stored.tools.as_deref().map(Into::into),
    };
    match stored.kind {
        TokenKind::Operator => Some(Identity::Operator),
        TokenKind::Service => Some(Identity::Service(grant())),
        TokenKind::Personal => stored.user.map(|(id, role)| Identity::User { id: id.0, role, entry: Entry::Token(grant()) }),
    }
}

impl Authenticator for Users {
    fn authenticate<'a>(
        &'a self,
        token: &'a str,
        origin: &'a Origin,
        audience: Option<&'a Audience>,
    ) -> BoxFuture<'a, Result<Option<Identity>, Problem>> {
        let own = async move { self.identify(token).await.map_err(|error| Problem::of(error.as_ref())) };
        async move {
            match (own.await?, audience) {
                (None, Some(audience)) => self.external(token, audience, origin).await,
                (own, _) => Ok(own),
            }
        }
        .boxed()
    }

    fn refused(&self, refusal: Refusal) {
        let Some(denial) = refusal.denial else {
            return self.refuse(refusal.origin, NewEvent::new(EventType::Authentication, "access.refuse").with("call", refusal.call));
        };
        let event = NewEvent::new(EventType::Authorization, "access.deny").acted_by(denial.actor).with("action", denial.action);
        self.inner.audit.note(&nobody(refusal.origin), event.outcome(Outcome::Denied).with("call", refusal.call));
    }
}
