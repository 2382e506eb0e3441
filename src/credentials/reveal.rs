//! Plaintext, for a process that is about to start a server.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering},
};

use audit::{EventId, EventType, NewEvent, Outcome};
use chrono::TimeDelta;
use platform::{Action, Actor, Identity, clock};
use secrecy::{ExposeSecret as _, SecretString};
use servers::ServerRef;
use sha2::{Digest as _, Sha256};

use crate::{
    Credentials,
    changes::{DOMAIN, unwritten},
    envelope::{self, Identity as RowIdentity},
    error::CredentialsError,
    model::{EnvVar, UserRef},
    store::reveal::{self, Row, Wanted, Wrap},
};

/// How long a hand-off is good, unless it is asked for otherwise.
pub(crate) const WRAP_TTL: TimeDelta = TimeDelta::seconds(60);
const LONGEST_WRAP_TTL: TimeDelta = TimeDelta::seconds(300);
const MOST_NAMES: usize = 200;
/// After so many checks, tokens that have been quiet are forgotten.
const FORGET_EVERY: u32 = 8192;

/// The environment of a launch.
pub(crate) struct Revealed {
    pub(crate) user: UserRef,
    pub(crate) server_id: String,
    pub(crate) env: BTreeMap<String, SecretString>,
    /// What there is and is not given out any more.
    pub(crate) expired: Vec<String>,
}

fn parse_names(names: Option<Vec<String>>) -> Result<Option<Vec<String>>, CredentialsError> {
    let Some(names) = names else { return Ok(None) };
    if names.is_empty() || names.len() > MOST_NAMES {
        return Err(CredentialsError::field("body.env_vars", "must name 1 to 200 variables, or be left out for all"));
    }
    for name in &names {
        EnvVar::parse(name).map_err(|unfit| CredentialsError::field("body.env_vars", unfit.0))?;
    }
    Ok(Some(names))
}

impl Credentials {
    /// Gives out what one user stored for one server. The event is on disk before anything is opened; what came of it
    /// is a second one.
    pub(crate) async fn reveal(
        &self,
        actor: &Actor,
        user: &str,
        server: &ServerRef,
        names: Option<Vec<String>>,
    ) -> Result<Revealed, CredentialsError> {
        actor.require(Action::CredentialsReveal)?;
        let names = parse_names(names)?;
        let user = UserRef::parse(user).map_err(|_| CredentialsError::NotFound("credential"))?;
        let server_id = self.server(actor, Action::CredentialsReveal, server).await.map_err(crate::service::hidden)?;
        self.count(actor)?;
        self.open_all(actor, user, server_id, names).await
    }

    pub(crate) async fn open_all(
        &self,
        actor: &Actor,
        user: UserRef,
        server_id: String,
        names: Option<Vec<String>>,
    ) -> Result<Revealed, CredentialsError> {
        let mut event = self.event_of(EventType::DataAccess, "credential.reveal", &user, &server_id).outcome(Outcome::Intent);
        event = event.with("env_vars", names.as_ref().map_or_else(|| "all".to_owned(), |names| names.join(" ")));
        let (intent, prepared) = self.inner.audit.prepare(actor, event);
        let by = actor.to_string();
        let wanted = Wanted { user: &user, server: &server_id, env_vars: names.as_deref(), by: &by, event: prepared };
        let rows = reveal::reveal(self.inner.database.reveal(), &wanted).await.map_err(unwritten)?;
        let opened = self.open_rows(rows, &user, &server_id, names.as_deref()).await;
        self.tell(actor, intent, &user, &server_id, opened.as_ref());
        let (env, expired) = opened?;
        Ok(Revealed { user, server_id, env, expired })
    }

    async fn open_rows(
        &self,
        rows: Vec<Row>,
        user: &UserRef,
        server_id: &str,
        names: Option<&[String]>,
    ) -> Result<(BTreeMap<String, SecretString>, Vec<String>), CredentialsError> {
        if let Some(names) = names
            && names.iter().any(|name| rows.iter().all(|row| row.env_var != *name))
        {
            return Err(CredentialsError::NotFound("credential"));
        }
        let (mut env, mut expired) = (BTreeMap::new(), Vec::new());
        for row in rows {
            if row.expires_at.is_some_and(|at| at <= clock::now()) {
                expired.push(row.env_var);
                continue;
            }
            let value = self.open_row(&row, user, server_id).await?;
            env.insert(row.env_var, value);
        }
        Ok((env, expired))
    }

    /// Opens a row with the key of its version: none other is tried.
    pub(crate) async fn open_row(&self, row: &Row, user: &UserRef, server_id: &str) -> Result<SecretString, CredentialsError> {
        if row.alg != 1 {
            // Its form is not bound to a row; `credentials migrate` seals it properly first.
            tracing::error!(credential = %row.id, "a credential is in the plain form and is not given out; run `mcp-fabric credentials migrate`");
            return Err(CredentialsError::Integrity);
        }
        let kek = match self.inner.ring.kek(row.sealed.kek_version) {
            Ok(kek) => kek,
            Err(unavailable) => {
                // Another replica may have gone on to a key that lies in our file by now.
                self.inner.ring.reload(&self.inner.database).await.map_err(|error| {
                    tracing::warn!(%error, "the keys were read again, and do not fit");
                    unavailable
                })?;
                self.inner.ring.kek(row.sealed.kek_version)?
            }
        };
        let identity = RowIdentity { domain: DOMAIN, id: row.id, parts: [user.as_str(), server_id, &row.env_var], rev: row.rev };
        envelope::open(&kek, &identity, &row.sealed).map_err(|_| {
            tracing::error!(credential = %row.id, "a credential does not open: its row was changed");
            CredentialsError::Integrity
        })
    }

    fn tell(
        &self,
        actor: &Actor,
        intent: EventId,
        user: &UserRef,
        server_id: &str,
        opened: Result<&(BTreeMap<String, SecretString>, Vec<String>), &CredentialsError>,
    ) {
        let event = self.event_of(EventType::DataAccess, "credential.reveal", user, server_id).answers(intent);
        let event = match opened {
            Ok((env, _)) => event.with("revealed", env.len()),
            Err(error) => event.outcome(Outcome::Failure).with("code", platform::Coded::code(error)),
        };
        self.inner.audit.note(actor, event);
    }

    fn count(&self, actor: &Actor) -> Result<(), CredentialsError> {
        static CHECKS: AtomicU32 = AtomicU32::new(0);
        let (Some(limiter), Identity::Service(grant)) = (&self.inner.limiter, &actor.identity) else { return Ok(()) };
        if CHECKS.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            limiter.retain_recent();
        }
        limiter.check_key(&grant.token).map_err(|_| CredentialsError::TooMany)
    }

    /// Makes a hand-off: whoever has it reveals once, within a minute, what is named here.
    pub(crate) async fn wrap(
        &self,
        actor: &Actor,
        user: &str,
        server: &ServerRef,
        names: Option<Vec<String>>,
        ttl: Option<TimeDelta>,
    ) -> Result<(SecretString, TimeDelta), CredentialsError> {
        actor.require(Action::CredentialsReveal)?;
        let names = parse_names(names)?;
        let ttl = ttl.unwrap_or(WRAP_TTL);
        if ttl < TimeDelta::seconds(1) || ttl > LONGEST_WRAP_TTL {
            return Err(CredentialsError::field("body.ttl_seconds", "must be from 1 to 300"));
        }
        let user = UserRef::parse(user).map_err(|_| CredentialsError::NotFound("credential"))?;
        let server_id = self.server(actor, Action::CredentialsReveal, server).await.map_err(crate::service::hidden)?;
        self.count(actor)?;
        let secret: SecretString = format!("fwt_{}", platform::random::token()).into();
        let mut transaction = self.inner.database.begin_reveal("reveal").await?;
        let wrap = Wrap { user: user.as_str().to_owned(), server: server_id.clone(), env_vars: names };
        reveal::add_wrap(&mut transaction, &hash(&secret), &wrap, &actor.to_string(), clock::now() + ttl).await?;
        let event = self.event_of(EventType::DataAccess, "credential.wrap", &user, &server_id);
        self.inner.audit.record_in(&mut transaction, actor, event.with("seconds", ttl.num_seconds())).await?;
        transaction.commit().await?;
        Ok((secret, ttl))
    }

    /// Reveals by a hand-off, once. A second use is an alarm.
    pub(crate) async fn unwrap(&self, actor: &Actor, token: &SecretString) -> Result<Revealed, CredentialsError> {
        let mut transaction = self.inner.database.begin_reveal("reveal").await?;
        let Some(wrap) = reveal::take_wrap(&mut transaction, &hash(token), clock::now()).await? else {
            let used = reveal::used_wrap(&mut transaction, &hash(token)).await?;
            let mut event =
                NewEvent::new(EventType::Warning, "credential.unwrap").outcome(Outcome::Denied).with("used_before", used.is_some());
            if let Some((user, server)) = &used
                && let Ok(user) = UserRef::parse(user)
            {
                tracing::warn!(server, "a hand-off was used a second time: somebody else may have read it");
                event = self
                    .event_of(EventType::Warning, "credential.unwrap", &user, server)
                    .outcome(Outcome::Denied)
                    .with("used_before", true);
            }
            self.inner.audit.record_in(&mut transaction, actor, event).await?;
            transaction.commit().await?;
            return Err(if used.is_some() { CredentialsError::Gone } else { CredentialsError::NotFound("hand-off") });
        };
        transaction.commit().await?;
        let user = UserRef::parse(&wrap.user).map_err(|_| CredentialsError::Integrity)?;
        self.open_all(actor, user, wrap.server, wrap.env_vars).await
    }
}

fn hash(secret: &SecretString) -> [u8; 32] {
    Sha256::digest(secret.expose_secret().as_bytes()).into()
}
