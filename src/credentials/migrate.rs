//! From the requirements' plain form (value and iv under the master key) to the sealed one.

use audit::NewEvent;
use jobs::{Context, LogLevel, Progress};
use platform::Actor;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    Credentials,
    changes::{DOMAIN, digest},
    envelope::{self, Identity},
    error::CredentialsError,
    model::UserRef,
    store::{
        check::{self, Whole},
        keys,
    },
};

const PAGE: i64 = 200;

impl Credentials {
    /// Seals every row of the plain form; those that open with no master key stay and are told.
    pub(crate) async fn migrate_all(&self, context: &Context) -> Result<Option<Value>, CredentialsError> {
        let (mut after, mut done, mut failed) = (Uuid::nil(), 0_u64, Vec::new());
        loop {
            if context.is_stopping() {
                return Ok(None);
            }
            let mut transaction = self.inner.database.begin_reveal("migrate").await?;
            let page = check::rows(&mut transaction, after, true, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.row.id;
            for whole in &page {
                let Some((rev, sealed)) = self.sealed_anew(whole)? else {
                    context.log(LogLevel::Error, format!("{} opens with no master key and stays as it is", whole.row.id)).await;
                    failed.push(whole.row.id);
                    continue;
                };
                if !keys::hold(&mut transaction, sealed.kek_version).await? {
                    return Err(CredentialsError::Contended);
                }
                if check::seal_plain(&mut transaction, whole, rev, &sealed).await? {
                    let event = self.migrated_event(whole, rev, &sealed);
                    self.inner.audit.record_in(&mut transaction, &Actor::system("credentials_migrate"), event).await?;
                    done += 1;
                }
            }
            transaction.commit().await?;
            context.progress(Progress { done, total: None, unit: "values".into(), message: "sealing plain values".into() });
        }
        Ok(Some(json!({ "ok": failed.is_empty(), "migrated": done, "failed": failed })))
    }

    fn sealed_anew(&self, whole: &Whole) -> Result<Option<(i64, envelope::Sealed)>, CredentialsError> {
        let row = &whole.row;
        // The plain form does not say its key; a wrong one does not pass the tag.
        let opened =
            self.inner.ring.masters().iter().find_map(|master| envelope::open_plain(master, &row.sealed.value, &row.sealed.iv).ok());
        let Some(value) = opened else { return Ok(None) };
        let (version, kek) = self.inner.ring.active()?;
        let rev = row.rev + 1;
        let identity = Identity { domain: DOMAIN, id: row.id, parts: [&whole.user, &whole.server, &row.env_var], rev };
        Ok(Some((rev, envelope::seal(&kek, version, &identity, value.expose_secret().as_bytes()))))
    }

    fn migrated_event(&self, whole: &Whole, rev: i64, sealed: &envelope::Sealed) -> NewEvent {
        let event = match UserRef::parse(&whole.user) {
            Ok(user) => self.event("credential.store", &user, &whole.server),
            Err(_) => NewEvent::change("credential.store").server(whole.server.clone()),
        };
        event
            .on("credential", whole.row.id)
            .with("env_var", whole.row.env_var.clone())
            .with("rev", rev)
            .with("digest", digest(&sealed.value, &sealed.iv))
    }
}
