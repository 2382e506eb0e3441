//! Storing values.

use std::collections::{BTreeMap, BTreeSet};

use audit::{EventType, NewEvent};
use chrono::{DateTime, Utc};
use platform::{Action, Actor, clock};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::json;
use servers::ServerRef;
use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    Credentials,
    envelope::{self, Identity, Sealed},
    error::CredentialsError,
    model::{CredentialId, EnvVar, Metadata, UserRef},
    service::{Value, acting},
    store::rows::{self, Before, New},
    verify::Fact,
};

pub(crate) const DOMAIN: &str = "mcp-cred/1";
const LONGEST_VALUE: usize = 64 << 10;
/// How often a write that met another one is tried again.
const ATTEMPTS: usize = 8;
/// Values in one request.
const MOST: usize = 200;

/// A value that was stored.
pub(crate) struct Stored {
    pub(crate) id: CredentialId,
    pub(crate) is_new: bool,
    pub(crate) metadata: Metadata,
}

/// A sealed value, for a row and a revision of it.
struct SealedRow {
    id: Uuid,
    rev: i64,
    sealed: Sealed,
}

impl SealedRow {
    fn record(&self, value: &Value) -> Record {
        Record {
            env_var: value.env_var.as_str().to_owned(),
            fact: Fact { rev: self.rev, digest: digest(&self.sealed.value, &self.sealed.iv) },
        }
    }
}

/// What the trail is told of a value.
#[derive(Serialize)]
struct Record {
    env_var: String,
    #[serde(flatten)]
    fact: Fact,
}

/// Where a value goes.
struct Place<'a> {
    actor: &'a Actor,
    user: &'a UserRef,
    server: &'a str,
}

fn check(location: &str, value: &SecretString, expires_at: Option<DateTime<Utc>>) -> Result<(), CredentialsError> {
    let text = value.expose_secret();
    let wrong = |message| Err(CredentialsError::field(location, message));
    if text.is_empty() {
        wrong("is empty; delete the credential instead")
    } else if text.len() > LONGEST_VALUE {
        wrong("is longer than 64 KiB")
    } else if text.contains('\0') {
        wrong("contains U+0000, which no environment variable can hold")
    } else if expires_at.is_some_and(|at| at <= clock::now()) {
        Err(CredentialsError::field("body.expires_at", "is not in the future"))
    } else {
        Ok(())
    }
}

/// What the trail remembers of a ciphertext, so that an older one in its place is found.
pub(crate) fn digest(value: &str, iv: &str) -> String {
    platform::random::hex(&Sha256::digest([value.as_bytes(), b"|", iv.as_bytes()].concat()))
}

impl Credentials {
    /// Stores one value: anew, or in the place of the one before. With `expected`, only over that revision.
    pub(crate) async fn store(
        &self,
        actor: &Actor,
        user: Option<&str>,
        server: &ServerRef,
        value: Value,
        expected: Option<i64>,
    ) -> Result<(UserRef, String, Stored), CredentialsError> {
        actor.require(Action::CredentialsWrite)?;
        let user = Self::user_of(actor, user)?;
        check("body.value", &value.plaintext, value.expires_at)?;
        let server_id = self.server(actor, Action::CredentialsWrite, server).await?;
        let place = Place { actor, user: &user, server: &server_id };
        for _ in 0..ATTEMPTS {
            let mut connection = self.inner.database.public().acquire().await?;
            let before = before(&mut connection, &place, &value.env_var).await?;
            if let Some(expected) = expected {
                let present = before.row.filter(|_| before.is_present).map_or(0, |(_, rev)| rev);
                if present != expected {
                    return Err(CredentialsError::Stale(present));
                }
            }
            let sealed = self.seal(&place, &before, &value)?;
            let (_, event) = self.inner.audit.prepare(actor, self.stored_event(&place, &sealed, &value));
            if let Some(stored) = self.put(&mut connection, &place, &before, &value, sealed, Some(event)).await? {
                return Ok((user, server_id, stored));
            }
            drop(connection);
            self.catch_up().await;
        }
        Err(CredentialsError::Contended)
    }

    /// Another replica may have gone on to a new key.
    async fn catch_up(&self) {
        if let Err(error) = self.inner.ring.reload(&self.inner.database).await {
            tracing::warn!(%error, "the keys were read again, and do not fit");
        }
    }

    /// Stores many values of one server at once, all or none; with `replace`, removes the others.
    pub(crate) async fn store_all(
        &self,
        actor: &Actor,
        user: &str,
        server: &ServerRef,
        values: Vec<Value>,
        replace: bool,
    ) -> Result<(), CredentialsError> {
        actor.require(Action::CredentialsWrite)?;
        let user = Self::user_in_path(actor, user)?;
        if values.len() > MOST {
            return Err(CredentialsError::field("body.credentials", "holds more than 200 values"));
        }
        let mut names = BTreeSet::new();
        for (n, value) in values.iter().enumerate() {
            check(&format!("body.credentials[{n}].value"), &value.plaintext, value.expires_at)?;
            if !names.insert(&value.env_var) {
                return Err(CredentialsError::field(format!("body.credentials[{n}].env_var"), "is named twice"));
            }
        }
        let server_id = self.server(actor, Action::CredentialsWrite, server).await?;
        let place = Place { actor, user: &user, server: &server_id };
        for _ in 0..ATTEMPTS {
            if self.put_all(&place, &values, replace).await? {
                return Ok(());
            }
            self.catch_up().await;
        }
        Err(CredentialsError::Contended)
    }

    /// All in one transaction; `false` when somebody else was faster with one of them.
    async fn put_all(&self, place: &Place<'_>, values: &[Value], replace: bool) -> Result<bool, CredentialsError> {
        let mut transaction = self.begin(place.actor).await?;
        // In one order, so that two of these do not wait for each other.
        let mut in_order: Vec<&Value> = values.iter().collect();
        in_order.sort_by(|a, b| a.env_var.cmp(&b.env_var));
        let (mut written, mut removed) = (BTreeMap::new(), BTreeMap::new());
        for value in in_order {
            let before = before(&mut transaction, place, &value.env_var).await?;
            let sealed = self.seal(place, &before, value)?;
            let record = sealed.record(value);
            let id = sealed.id;
            if self.put(&mut transaction, place, &before, value, sealed, None).await?.is_none() {
                return Ok(false);
            }
            written.insert(id, record);
        }
        if replace {
            let kept: Vec<String> = values.iter().map(|value| value.env_var.as_str().to_owned()).collect();
            removed.extend(rows::delete_others(&mut transaction, place.user, place.server, &kept).await?);
        }
        let event = self.event_of(EventType::BulkOperation, "credential.store_all", place.user, place.server);
        let event = event.with("values", json!(written)).with("removed", json!(removed));
        self.inner.audit.record_in(&mut transaction, place.actor, event).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Seals a value for the row that it goes to, and the revision that it makes of it.
    fn seal(&self, place: &Place<'_>, before: &Before, value: &Value) -> Result<SealedRow, CredentialsError> {
        let (id, rev) = before.row.map_or_else(|| (platform::ids::fresh(), 1), |(id, rev)| (id, rev + 1));
        let (version, kek) = self.inner.ring.active()?;
        let identity = Identity { domain: DOMAIN, id, parts: [place.user.as_str(), place.server, value.env_var.as_str()], rev };
        Ok(SealedRow { id, rev, sealed: envelope::seal(&kek, version, &identity, value.plaintext.expose_secret().as_bytes()) })
    }

    /// Writes it, with its event where it has one of its own; `None` when somebody else was faster.
    async fn put(
        &self,
        connection: &mut PgConnection,
        place: &Place<'_>,
        before: &Before,
        value: &Value,
        SealedRow { id, rev, sealed }: SealedRow,
        event: Option<audit::Prepared>,
    ) -> Result<Option<Stored>, CredentialsError> {
        let key_version = sealed.kek_version;
        let actor = acting(place.actor);
        let new = New {
            actor: &actor,
            id,
            user: place.user,
            server: place.server,
            env_var: &value.env_var,
            sealed,
            rev,
            kind: value.kind,
            expires_at: value.expires_at,
            incarnation: before.incarnation,
            event,
        };
        let written = rows::put(connection, &new).await.map_err(unwritten)?;
        Ok(written.map(|(created_at, updated_at)| Stored {
            id: CredentialId(id),
            is_new: !before.is_present,
            metadata: Metadata {
                env_var: value.env_var.as_str().to_owned(),
                kind: value.kind,
                created_at,
                updated_at,
                last_used_at: None,
                expires_at: value.expires_at,
                key_version: Some(key_version),
                revision: rev,
            },
        }))
    }

    fn stored_event(&self, place: &Place<'_>, sealed: &SealedRow, value: &Value) -> NewEvent {
        let Record { env_var, fact } = sealed.record(value);
        self.event("credential.store", place.user, place.server)
            .on("credential", sealed.id)
            .with("env_var", env_var)
            .with("rev", fact.rev)
            .with("digest", fact.digest)
    }
}

async fn before(connection: &mut PgConnection, place: &Place<'_>, env_var: &EnvVar) -> Result<Before, CredentialsError> {
    let before = rows::peek(connection, &acting(place.actor), place.user, place.server, env_var).await?;
    before.ok_or_else(|| servers::ServersError::NotFound.into())
}

/// A write that failed for want of the trail says so.
pub(crate) fn unwritten(error: sqlx::Error) -> CredentialsError {
    // The functions that write both wait for locks of the trail no longer than this.
    let is_trail =
        error.as_database_error().is_some_and(|error| error.message().contains("pending") || error.code().as_deref() == Some("55P03"));
    if is_trail { audit::AuditError::Unavailable(Some(error)).into() } else { CredentialsError::from(error) }
}
