use std::{num::NonZeroU32, sync::Arc, time::Duration};

use audit::{Audit, EventType, NewEvent};
use futures_util::{FutureExt as _, future::BoxFuture};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use jobs::{Handlers, Jobs};
use platform::{Action, Actor, Config, Database, Identity, Shutdown, database::DbError};
use secrecy::SecretString;
use servers::{ServerRef, Servers, Viewer};
use sqlx::{PgConnection, Postgres, Transaction};
use users::{Belongings, UserId};
use uuid::Uuid;

use crate::{
    Ring,
    error::CredentialsError,
    keeper,
    model::{EnvVar, Kind, Metadata, UserRef},
    rotation,
    store::rows,
};

/// How often the count of wraps is saved.
const SAVE_EVERY: Duration = Duration::from_mins(1);

/// The vault; cheap to clone.
#[derive(Clone)]
pub struct Credentials {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) database: Database,
    pub(crate) audit: Audit,
    pub(crate) jobs: Jobs,
    pub(crate) servers: Servers,
    pub(crate) ring: Ring,
    pub(crate) limiter: Option<DefaultKeyedRateLimiter<Uuid>>,
}

/// What somebody stores.
pub(crate) struct Value {
    pub(crate) env_var: EnvVar,
    pub(crate) plaintext: SecretString,
    pub(crate) kind: Kind,
    pub(crate) expires_at: Option<chrono::DateTime<chrono::Utc>>,
}

/// What there is for one server.
pub(crate) struct OfServer {
    pub(crate) user: UserRef,
    pub(crate) server_id: String,
    pub(crate) credentials: Vec<Metadata>,
    /// What the server needs and nobody stored.
    pub(crate) missing: Vec<String>,
}

impl Credentials {
    /// With keys that are those of the database.
    pub fn start(config: &Config, ring: Ring, database: Database, audit: Audit, jobs: Jobs, servers: Servers, shutdown: &Shutdown) -> Self {
        let limiter = NonZeroU32::new(config.vault.reveal_rate).map(|rate| RateLimiter::keyed(Quota::per_second(rate)));
        let vault = Self { inner: Arc::new(Inner { database, audit, jobs, servers, ring, limiter }) };
        shutdown.spawn(vault.clone().keep(shutdown.clone()));
        vault
    }

    /// Adds the vault's jobs.
    pub fn handlers(&self, handlers: Handlers) -> Handlers {
        handlers.with(rotation::Rotate(self.clone())).with(keeper::Keep(self.clone()))
    }

    async fn keep(self, shutdown: Shutdown) {
        while tokio::time::timeout(SAVE_EVERY, shutdown.begun()).await.is_err() {
            if let Err(error) = self.inner.ring.save_wraps(&self.inner.database).await {
                tracing::debug!(%error, "the count of wraps was not saved");
            }
            keeper::when_due(&self).await;
        }
        self.inner.ring.save_wraps(&self.inner.database).await.ok();
    }

    /// Whose credentials the actor means: their own, or for services and the operator, those of anybody.
    pub(crate) fn user_of(actor: &Actor, named: Option<&str>) -> Result<UserRef, CredentialsError> {
        let wrong = |unfit: crate::model::Unfit| CredentialsError::field("body.user_id", unfit.0);
        match (&actor.identity, named) {
            (Identity::User { id, .. }, None) => UserRef::parse(&id.to_string()).map_err(wrong),
            (Identity::User { id, .. }, Some(named)) if named == id.to_string() => UserRef::parse(named).map_err(wrong),
            (Identity::User { .. }, Some(_)) => Err(CredentialsError::field("body.user_id", "must be your own id, or left out")),
            (_, Some(named)) => UserRef::parse(named).map_err(wrong),
            (_, None) => Err(CredentialsError::field("body.user_id", "is needed: this token belongs to no account")),
        }
    }

    /// The same where it is named in a path: what is not the actor's own answers like what is not there.
    pub(crate) fn user_in_path(actor: &Actor, named: &str) -> Result<UserRef, CredentialsError> {
        Self::user_of(actor, Some(named)).map_err(|_| CredentialsError::NotFound("credential"))
    }

    /// The id of a server that the actor's token may be used for.
    pub(crate) async fn server(&self, actor: &Actor, action: Action, server: &ServerRef) -> Result<String, CredentialsError> {
        let id = self.inner.servers.id_of(server).await?;
        actor.require_server(action, &id)?;
        Ok(id)
    }

    /// What there is of one user for one server, without values.
    pub(crate) async fn of_server(&self, actor: &Actor, user: &str, server: &ServerRef) -> Result<OfServer, CredentialsError> {
        actor.require(Action::CredentialsRead)?;
        let user = Self::user_in_path(actor, user)?;
        let server_id = self.server(actor, Action::CredentialsRead, server).await?;
        let credentials = rows::list(self.inner.database.public(), &acting(actor), &user, &server_id).await?;
        let required = self.inner.servers.required_env_vars(&Viewer::of(actor), &server_id, server).await?;
        let is_missing = |name: &&String| credentials.iter().all(|credential| credential.env_var != **name);
        let missing = required.iter().filter(is_missing).cloned().collect();
        Ok(OfServer { user, server_id, credentials, missing })
    }

    /// What there is of one user, by server and name.
    pub(crate) async fn all(
        &self,
        actor: &Actor,
        user: Option<&str>,
        after: Option<(&str, &str)>,
        limit: u32,
    ) -> Result<(UserRef, Vec<(String, Metadata)>), CredentialsError> {
        actor.require(Action::CredentialsRead)?;
        let user = Self::user_of(actor, user)?;
        let mut transaction = self.begin(actor).await?;
        let rows = rows::list_all(&mut transaction, &user, actor.servers(), after, limit.into()).await?;
        Ok((user, rows))
    }

    /// A transaction on the actor's own rows; services and the operator act for all.
    pub(crate) async fn begin(&self, actor: &Actor) -> Result<Transaction<'static, Postgres>, DbError> {
        match actor.user() {
            Some(_) => self.inner.database.begin(actor).await,
            None => self.inner.database.begin_for_all().await,
        }
    }

    /// Removes one.
    pub(crate) async fn delete(&self, actor: &Actor, user: &str, server: &ServerRef, env_var: &str) -> Result<(), CredentialsError> {
        actor.require(Action::CredentialsWrite)?;
        let user = Self::user_in_path(actor, user)?;
        let env_var = EnvVar::parse(env_var).map_err(|_| CredentialsError::NotFound("credential"))?;
        let server_id = self.server(actor, Action::CredentialsWrite, server).await.map_err(hidden)?;
        let mut transaction = self.begin(actor).await?;
        let id = rows::delete(&mut transaction, &user, &server_id, &env_var).await?.ok_or(CredentialsError::NotFound("credential"))?;
        let event = self.event("credential.delete", &user, &server_id).on("credential", id).with("env_var", env_var.as_str());
        self.inner.audit.record_in(&mut transaction, actor, event).await?;
        Ok(transaction.commit().await?)
    }

    /// An event about a credential of `user`. Who an outside user is stands beside the chain.
    pub(crate) fn event(&self, action: &'static str, user: &UserRef, server_id: &str) -> NewEvent {
        self.event_of(EventType::DataChange, action, user, server_id)
    }

    pub(crate) fn event_of(&self, event_type: EventType, action: &'static str, user: &UserRef, server_id: &str) -> NewEvent {
        let event = NewEvent::new(event_type, action).server(server_id);
        match user.as_str().parse::<Uuid>() {
            Ok(id) => event.of(format!("user:{id}")),
            Err(_) => event.of(outside(&self.inner.ring, user)).personal("user_id", user.as_str()),
        }
    }
}

/// A name for a user without an account that says nothing to those who do not know the user.
fn outside(ring: &Ring, user: &UserRef) -> String {
    let digest = <sha2::Sha256 as sha2::Digest>::digest([ring.fabric().as_bytes(), user.as_str().as_bytes()].concat());
    format!("external:{}", platform::random::hex(&digest[..12]))
}

/// As row-level security is to compare the actor: services and the operator act for all.
pub(crate) fn acting(actor: &Actor) -> String {
    match actor.user() {
        Some(_) => actor.to_string(),
        None => "system:request".into(),
    }
}

/// A server that is not there has no credential either.
pub(crate) fn hidden(error: CredentialsError) -> CredentialsError {
    match error {
        CredentialsError::Servers(error) if platform::Coded::class(&*error) == platform::Class::NotFound => {
            CredentialsError::NotFound("credential")
        }
        error => error,
    }
}

impl Belongings for Credentials {
    fn erase<'a>(&'a self, transaction: &'a mut PgConnection, user: UserId) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let gone = rows::delete_all(transaction, &user.to_string()).await.map_err(|error| error.to_string())?;
            for id in gone {
                let event = NewEvent::change("credential.delete").of(format!("user:{user}")).on("credential", id);
                let recorded = self.inner.audit.record_in(transaction, &Actor::system("erase"), event).await;
                recorded.map_err(|error| error.to_string())?;
            }
            Ok(())
        }
        .boxed()
    }
}
