//! Secrets that are not people's credentials: those of the fabric itself, and secret fields of other features.

use chrono::{DateTime, Utc};
use platform::{Database, keys::SecretKey};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;

use crate::{
    Credentials, Ring,
    envelope::{self, Identity, Sealed},
    error::CredentialsError,
    store::{
        keys,
        secrets::{self, Secret},
    },
};

/// How often a secret that others change at the same time is tried again.
const MOST_TRIES: u32 = 3;
const DOMAIN: &str = "mcp-secret/1";
/// The name of the fabric's own secret: owner, scope, name.
const INSTANCE: [&str; 3] = ["system:fabric", "fabric", "instance"];

pub(crate) fn identity(id: uuid::Uuid, name: [&str; 3], rev: i64) -> Identity<'_> {
    Identity { domain: DOMAIN, id, parts: name, rev }
}

fn sealed(ring: &Ring, name: [&str; 3], id: uuid::Uuid, rev: i64, value: &SecretString) -> Result<Secret, CredentialsError> {
    let (version, kek) = ring.active()?;
    let sealed: Sealed = envelope::seal(&kek, version, &identity(id, name, rev), value.expose_secret().as_bytes());
    Ok(Secret { id, rev, sealed })
}

fn opened(ring: &Ring, name: [&str; 3], secret: &Secret) -> Result<SecretString, CredentialsError> {
    let kek = ring.kek(secret.sealed.kek_version)?;
    envelope::open(&kek, &identity(secret.id, name, secret.rev), &secret.sealed).map_err(|_| CredentialsError::Integrity)
}

/// The secret that this fabric drew at its first start, and which stays when master keys change: what the audit trail
/// is signed with is derived from it.
pub async fn instance_secret(ring: &Ring, database: &Database) -> Result<SecretKey, CredentialsError> {
    let mut transaction = database.begin_reveal("keys").await?;
    keys::lock(&mut transaction).await?;
    let [owner, scope, name] = INSTANCE;
    let secret = if let Some(secret) = secrets::get(&mut transaction, owner, scope, name).await? {
        opened(ring, INSTANCE, &secret)?
    } else {
        let value: SecretString = platform::random::token().into();
        let secret = sealed(ring, INSTANCE, platform::ids::fresh(), 1, &value)?;
        secrets::put(&mut transaction, INSTANCE, &secret).await?;
        value
    };
    transaction.commit().await?;
    Ok(SecretKey::from_bytes(Sha256::digest(secret.expose_secret()).into()))
}

impl Credentials {
    /// Seals a secret field of another feature, in its transaction on the reveal connection: `owner` is as actors are
    /// written, `scope` the feature's own.
    pub async fn seal_secret_in(
        &self,
        connection: &mut PgConnection,
        name: [&str; 3],
        value: &SecretString,
    ) -> Result<(), CredentialsError> {
        let before = secrets::get(connection, name[0], name[1], name[2]).await?;
        let (id, rev) = before.map_or((platform::ids::fresh(), 1), |secret| (secret.id, secret.rev + 1));
        let secret = sealed(&self.inner.ring, name, id, rev, value)?;
        if !keys::hold(connection, secret.sealed.kek_version).await? {
            return Err(CredentialsError::Contended);
        }
        if secrets::put(connection, name, &secret).await? { Ok(()) } else { Err(CredentialsError::Contended) }
    }

    /// Seals a secret field of another feature in a transaction of its own; one that is changed at the same time is tried
    /// again.
    pub async fn seal_secret(&self, name: [&str; 3], value: &SecretString) -> Result<(), CredentialsError> {
        let mut tries = 0;
        loop {
            let mut transaction = self.inner.database.begin_reveal("secrets").await?;
            match self.seal_secret_in(&mut transaction, name, value).await {
                Err(CredentialsError::Contended) if tries < MOST_TRIES => tries += 1,
                other => {
                    other?;
                    return Ok(transaction.commit().await?);
                }
            }
        }
    }

    /// Opens a secret field of another feature.
    pub async fn open_secret(&self, name: [&str; 3]) -> Result<Option<SecretString>, CredentialsError> {
        let mut transaction = self.inner.database.begin_reveal("secrets").await?;
        self.open_secret_in(&mut transaction, name).await
    }

    /// Removes a secret field of another feature, if there is one.
    pub async fn forget_secret(&self, name: [&str; 3]) -> Result<(), CredentialsError> {
        let mut transaction = self.inner.database.begin_reveal("secrets").await?;
        secrets::remove(&mut transaction, name).await?;
        Ok(transaction.commit().await?)
    }

    /// Removes all secret fields of an owner in a scope of another feature.
    pub async fn forget_secrets_of(&self, owner: &str, scope: &str) -> Result<(), CredentialsError> {
        let mut transaction = self.inner.database.begin_reveal("secrets").await?;
        secrets::remove_of(&mut transaction, owner, scope).await?;
        Ok(transaction.commit().await?)
    }

    /// Removes secret fields in a scope of another feature that have not changed since a time.
    pub async fn forget_secrets_before(&self, scope: &str, before: DateTime<Utc>) -> Result<(), CredentialsError> {
        let mut transaction = self.inner.database.begin_reveal("secrets").await?;
        secrets::remove_before(&mut transaction, scope, before).await?;
        Ok(transaction.commit().await?)
    }

    /// The same, in the caller's transaction on the reveal connection.
    pub async fn open_secret_in(&self, connection: &mut PgConnection, name: [&str; 3]) -> Result<Option<SecretString>, CredentialsError> {
        let secret = secrets::get(connection, name[0], name[1], name[2]).await?;
        secret.map(|secret| opened(&self.inner.ring, name, &secret)).transpose()
    }
}
