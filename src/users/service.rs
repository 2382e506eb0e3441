use std::{
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, OnceLock},
};

use audit::{Audit, NewEvent};
use chrono::TimeDelta;
use futures_util::future::BoxFuture;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use platform::{Actor, Config, Database, Identity, Origin, Shutdown, actor::Entry, clock, config::Registration, keys::SecretKey};
use sqlx::PgConnection;

use crate::{
    authenticate::Known,
    error::UsersError,
    jwt::Jwt,
    model::{SessionId, UserId},
    oidc::Issuer,
    operator,
    password::Passwords,
    store,
};

const REFUSALS_A_MINUTE: NonZeroU32 = NonZeroU32::new(30).unwrap();
const REFUSALS_AT_ONCE: NonZeroU32 = NonZeroU32::new(500).unwrap();

/// Accounts, sessions and tokens; cheap to clone.
#[derive(Clone)]
pub struct Users {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) database: Database,
    pub(crate) audit: Audit,
    pub(crate) jwt: Jwt,
    /// Whose tokens count, too.
    pub(crate) issuer: Option<Issuer>,
    /// Makes the successors of refresh tokens and the keys of failed logins.
    pub(crate) secret: SecretKey,
    pub(crate) passwords: Passwords,
    pub(crate) known: Known,
    /// Refusals without a token that are recorded one by one, by address.
    pub(crate) refusals: DefaultKeyedRateLimiter<IpAddr>,
    pub(crate) registration: Registration,
    pub(crate) access_ttl: TimeDelta,
    pub(crate) session_ttl: TimeDelta,
    belongings: OnceLock<Vec<Arc<dyn Belongings>>>,
}

/// What a feature keeps for accounts, and erases with them.
pub trait Belongings: Send + Sync + 'static {
    /// Erases all that is the user's, in the transaction in which the account goes.
    fn erase<'a>(&'a self, transaction: &'a mut PgConnection, user: UserId) -> BoxFuture<'a, Result<(), String>>;
}

impl Users {
    /// Makes the operator's token where there is none, and starts what forgets old sessions.
    pub async fn start(
        config: &Config,
        database: Database,
        audit: Audit,
        jwt_key: SecretKey,
        shutdown: &Shutdown,
    ) -> Result<Self, UsersError> {
        let secret = jwt_key.derive(b"mcp-fabric", "identity");
        let users = Self {
            inner: Arc::new(Inner {
                database,
                audit,
                jwt: Jwt::new(jwt_key),
                issuer: Issuer::new(config)?,
                secret,
                passwords: Passwords::new()?,
                known: Known::default(),
                refusals: RateLimiter::keyed(Quota::per_minute(REFUSALS_A_MINUTE).allow_burst(REFUSALS_AT_ONCE)),
                registration: config.identity.registration,
                access_ttl: TimeDelta::from_std(config.identity.access_ttl).unwrap_or_default(),
                session_ttl: TimeDelta::from_std(config.identity.session_ttl).unwrap_or_default(),
                belongings: OnceLock::new(),
            }),
        };
        operator::ensure_token(&users, &config.data_dir).await?;
        shutdown.spawn(users.clone().forget(shutdown.clone()));
        Ok(users)
    }

    /// What else goes with an account; said once, when every feature stands.
    pub fn set_belongings(&self, belongings: Vec<Arc<dyn Belongings>>) {
        self.inner.belongings.set(belongings).ok();
    }

    pub(crate) async fn erase_belongings(&self, transaction: &mut PgConnection, user: UserId) -> Result<(), UsersError> {
        for belongings in self.inner.belongings.get().into_iter().flatten() {
            belongings.erase(transaction, user).await.map_err(UsersError::Belongings)?;
        }
        Ok(())
    }

    /// The account of a person who acts.
    pub(crate) fn own(actor: &Actor) -> Result<UserId, UsersError> {
        actor.user().map(UserId).ok_or(UsersError::NoAccount)
    }

    pub(crate) async fn note_in(&self, connection: &mut PgConnection, actor: &Actor, event: NewEvent) -> Result<(), UsersError> {
        self.inner.audit.record_in(connection, actor, event).await?;
        Ok(())
    }

    async fn forget(self, shutdown: Shutdown) {
        loop {
            let forgotten = async {
                let mut transaction = self.inner.database.begin_for_all().await?;
                store::sessions::forget(&mut transaction, clock::now()).await?;
                store::invites::forget(&mut transaction, clock::now() - TimeDelta::days(30)).await?;
                self.inner.refusals.retain_recent();
                store::failures::forget(&mut transaction, clock::now() - TimeDelta::days(2)).await?;
                transaction.commit().await.map_err(platform::database::DbError::from)
            };
            if let Err(error) = forgotten.await {
                tracing::debug!(%error, "old sessions were not forgotten; it is tried again");
            }
            tokio::select! {
                () = tokio::time::sleep(std::time::Duration::from_hours(1)) => {}
                () = shutdown.begun() => return,
            }
        }
    }
}

/// Somebody who is not known yet.
pub(crate) fn nobody(origin: Arc<Origin>) -> Actor {
    Actor::new(Identity::Nobody, origin)
}

/// A person who has just logged in.
pub(crate) fn person(user: UserId, role: platform::Role, session: SessionId, origin: &Arc<Origin>) -> Actor {
    Actor::new(Identity::User { id: user.0, role, entry: Entry::Session(session.0) }, Arc::clone(origin))
}
