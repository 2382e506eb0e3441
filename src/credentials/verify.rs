//! Whether every stored value is the one that was last stored: it has to open in its own row, and to be what the audit
//! trail says was written there. Sealing alone cannot tell that a whole row was put back as it was before; the trail
//! can.

use std::collections::{BTreeMap, HashMap};

use audit::{EventType, NewEvent, Outcome};
use chrono::TimeDelta;
use jobs::{Context, Progress};
use platform::{Actor, clock};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    Credentials,
    changes::{DOMAIN, digest},
    envelope::{self, Identity},
    error::CredentialsError,
    store::check::{self, Whole},
};

const PAGE: i64 = 1000;
/// How many findings are told one by one.
const TOLD: usize = 100;
/// The trail hears of a value again after so long, so that it still knows it when the first event is purged.
const ATTEST_AFTER: TimeDelta = TimeDelta::hours(12);

platform::words! {
    /// What is wrong with a stored value.
    pub enum Fault {
        /// It does not open in its row: it was changed, or belongs to another one.
        Unopenable = "unopenable",
        /// An earlier value was put back.
        RolledBack = "rolled_back",
        /// It is another value than the one that was recorded.
        Changed = "changed",
        /// No event tells of it.
        Unrecorded = "unrecorded",
        /// It had been deleted.
        Resurrected = "resurrected",
        /// It is gone, and nobody deleted it.
        Missing = "missing",
        /// It is in the requirements' plain form, which binds it to no row (`credentials migrate`).
        Plain = "plain",
    }
}

#[derive(Clone, Debug, Serialize)]
struct Finding {
    credential: Uuid,
    fault: Fault,
    server_id: Option<String>,
    env_var: Option<String>,
}

/// What the trail last said of a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fact {
    pub(crate) rev: i64,
    pub(crate) digest: String,
}

/// The trail's knowledge: `None` for what was deleted.
#[derive(Default)]
struct Facts {
    by_id: HashMap<Uuid, Option<Fact>>,
    /// Up to which event it was read.
    seq: i64,
    /// Whether the trail still has its first event, and so every event there was.
    complete: bool,
}

const ACTIONS: &[&str] = &["credential.store", "credential.store_all", "credential.delete", "credential.attest"];

impl Credentials {
    async fn read_facts(&self, actor: &Actor, facts: &mut Facts) -> Result<(), CredentialsError> {
        self.inner.audit.seal().await?;
        facts.complete = self.inner.audit.begins_at(actor).await?.is_none_or(|first| first == 1);
        loop {
            let page = self.inner.audit.history(actor, ACTIONS, facts.seq, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            facts.seq = last.seq;
            for event in page {
                facts.learn(&event.action, event.target_id.as_deref(), &event.detail);
            }
        }
    }

    /// Looks at every value. With `attest`, tells the trail anew of those that are right.
    pub(crate) async fn verify_all(&self, context: &Context, attest: bool) -> Result<Option<Value>, CredentialsError> {
        let actor = context.actor();
        self.inner.ring.reload(&self.inner.database).await.map_err(|error| {
            tracing::error!(%error, "the keys do not fit the database");
            CredentialsError::KeyUnavailable(0)
        })?;
        let mut facts = Facts::default();
        self.read_facts(&actor, &mut facts).await?;
        let (mut after, mut checked) = (Uuid::nil(), 0_u64);
        let mut suspects: BTreeMap<Uuid, Fault> = BTreeMap::new();
        let mut seen: std::collections::HashSet<Uuid> = std::collections::HashSet::new();
        loop {
            if context.is_stopping() {
                return Ok(None);
            }
            let page = self.page(after).await?;
            let Some(last) = page.last() else { break };
            after = last.row.id;
            let mut right = BTreeMap::new();
            for whole in &page {
                seen.insert(whole.row.id);
                match self.fault(whole, &facts) {
                    Some(fault) => {
                        suspects.insert(whole.row.id, fault);
                    }
                    None => {
                        right.insert(whole.row.id, Fact::of(whole));
                    }
                }
            }
            checked += page.len() as u64;
            if attest {
                self.attest(&actor, right).await?;
            }
            context.progress(Progress { done: checked, total: None, unit: "values".into(), message: "opening every value".into() });
        }
        let gone: Vec<Uuid> = facts.by_id.iter().filter(|(id, fact)| fact.is_some() && !seen.contains(id)).map(|(id, _)| *id).collect();
        suspects.extend(gone.into_iter().map(|id| (id, Fault::Missing)));
        let findings = self.look_again(&actor, suspects, &mut facts).await?;
        self.report(&actor, checked, &findings).await.map(Some)
    }

    async fn page(&self, after: Uuid) -> Result<Vec<Whole>, CredentialsError> {
        let mut transaction = self.inner.database.begin_reveal("verify").await?;
        Ok(check::rows(&mut transaction, after, false, PAGE).await?)
    }

    /// What somebody changed meanwhile looked wrong only because the trail had not been read so far.
    async fn look_again(
        &self,
        actor: &Actor,
        suspects: BTreeMap<Uuid, Fault>,
        facts: &mut Facts,
    ) -> Result<Vec<Finding>, CredentialsError> {
        if suspects.is_empty() {
            return Ok(Vec::new());
        }
        let mut findings = Vec::new();
        self.read_facts(actor, facts).await?;
        let known: HashMap<Uuid, Option<Fact>> = suspects.keys().filter_map(|id| Some((*id, facts.by_id.get(id)?.clone()))).collect();
        let mut rows: HashMap<Uuid, Whole> = HashMap::new();
        for id in suspects.keys() {
            let mut transaction = self.inner.database.begin_reveal("verify").await?;
            let before = Uuid::from_u128(id.as_u128() - 1);
            let found = check::rows(&mut transaction, before, false, 1).await?;
            rows.extend(found.into_iter().filter(|whole| whole.row.id == *id).map(|whole| (whole.row.id, whole)));
        }
        self.read_facts(actor, facts).await?;
        for id in suspects.into_keys() {
            let whole = rows.get(&id);
            // A row is older than what was known before it was read, or newer than what is known now: else it was
            // written between the two.
            let was = known.get(&id).and_then(Option::as_ref).map_or(0, |fact| fact.rev);
            let is = facts.by_id.get(&id).and_then(Option::as_ref).map_or(0, |fact| fact.rev);
            let fault = match whole {
                Some(whole) if was < is && (was..is).contains(&whole.row.rev) => None,
                Some(whole) => self.fault(whole, facts),
                None => {
                    (matches!(known.get(&id), Some(Some(_))) && matches!(facts.by_id.get(&id), Some(Some(_)))).then_some(Fault::Missing)
                }
            };
            if let Some(fault) = fault {
                let (server_id, env_var) = (whole.map(|whole| whole.server.clone()), whole.map(|whole| whole.row.env_var.clone()));
                findings.push(Finding { credential: id, fault, server_id, env_var });
            }
        }
        Ok(findings)
    }

    fn fault(&self, whole: &Whole, facts: &Facts) -> Option<Fault> {
        let row = &whole.row;
        if row.alg != 1 {
            return Some(Fault::Plain);
        }
        let fault = facts.fault(row.id, &Fact::of(whole));
        if matches!(fault, Some(Fault::RolledBack | Fault::Resurrected)) {
            return fault;
        }
        // The keys were read anew when the look began: a version that is not among them is no row's.
        let Ok(kek) = self.inner.ring.kek(row.sealed.kek_version) else { return Some(Fault::Unopenable) };
        let identity = Identity { domain: DOMAIN, id: row.id, parts: [&whole.user, &whole.server, &row.env_var], rev: row.rev };
        if envelope::open(&kek, &identity, &row.sealed).is_err() { Some(Fault::Unopenable) } else { fault }
    }

    /// Tells the trail of values that are right and that it was not told of for a while, many in one event.
    async fn attest(&self, actor: &Actor, right: BTreeMap<Uuid, Fact>) -> Result<(), CredentialsError> {
        let ids: Vec<Uuid> = right.keys().copied().collect();
        let mut transaction = self.inner.database.begin_reveal("verify").await?;
        let due = check::unattested(&mut transaction, &ids, clock::now() - ATTEST_AFTER).await?;
        if due.is_empty() {
            return Ok(());
        }
        let facts: BTreeMap<String, &Fact> = due.iter().filter_map(|id| Some((id.to_string(), right.get(id)?))).collect();
        check::set_attested(&mut transaction, &due).await?;
        self.inner
            .audit
            .record_in(&mut transaction, actor, NewEvent::new(EventType::System, "credential.attest").with("values", json!(facts)))
            .await?;
        Ok(transaction.commit().await?)
    }

    async fn report(&self, actor: &Actor, checked: u64, findings: &[Finding]) -> Result<Value, CredentialsError> {
        let result = json!({ "ok": findings.is_empty(), "checked": checked, "faults": findings.len(), "findings": &findings[..findings.len().min(TOLD)] });
        if !findings.is_empty() {
            tracing::error!(faults = findings.len(), "stored credentials are not what was stored");
            let event = NewEvent::new(EventType::Warning, "credentials.faults").outcome(Outcome::Failure).with("faults", findings.len());
            self.inner.audit.record(actor, event).await?;
        }
        Ok(result)
    }
}

impl Fact {
    fn of(whole: &Whole) -> Self {
        Self { rev: whole.row.rev, digest: digest(&whole.row.sealed.value, &whole.row.sealed.iv) }
    }
}

/// The values that an event about many tells of.
fn values(detail: &Value) -> BTreeMap<Uuid, Fact> {
    serde_json::from_value(detail["values"].clone()).unwrap_or_default()
}

impl Facts {
    fn learn(&mut self, action: &str, target: Option<&str>, detail: &Value) {
        let id = target.and_then(|target| target.parse::<Uuid>().ok());
        match (action, id) {
            ("credential.store", Some(id)) => {
                let fact = serde_json::from_value::<Fact>(json!({ "rev": detail["rev"], "digest": detail["digest"] })).ok();
                self.by_id.insert(id, fact);
            }
            ("credential.delete", Some(id)) => {
                self.by_id.insert(id, None);
            }
            ("credential.store_all", _) => {
                let removed: BTreeMap<Uuid, String> = serde_json::from_value(detail["removed"].clone()).unwrap_or_default();
                self.by_id.extend(removed.into_keys().map(|id| (id, None)));
                self.by_id.extend(values(detail).into_iter().map(|(id, fact)| (id, Some(fact))));
            }
            ("credential.attest", _) => {
                // An attestation says what was there when it was made; a write in between is newer.
                for (id, fact) in values(detail) {
                    let known = self.by_id.get(&id).and_then(Option::as_ref).is_some_and(|known| known.rev >= fact.rev);
                    if !known && !matches!(self.by_id.get(&id), Some(None)) {
                        self.by_id.insert(id, Some(fact));
                    }
                }
            }
            _ => {}
        }
    }

    fn fault(&self, id: Uuid, row: &Fact) -> Option<Fault> {
        match self.by_id.get(&id) {
            Some(Some(fact)) if row.rev < fact.rev => Some(Fault::RolledBack),
            Some(Some(fact)) if row.rev > fact.rev => Some(Fault::Unrecorded),
            Some(Some(fact)) if row.digest != fact.digest => Some(Fault::Changed),
            Some(Some(_)) => None,
            Some(None) => Some(Fault::Resurrected),
            // What the trail forgot with its oldest days is attested again; what it never knew is not.
            None => self.complete.then_some(Fault::Unrecorded),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(rev: i64, digest: &str) -> Fact {
        Fact { rev, digest: digest.into() }
    }

    #[test]
    fn the_trail_decides_which_value_is_the_newest() {
        let (id, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut facts = Facts { complete: true, ..Facts::default() };
        let stored = |rev: i64, digest: &str| json!({ "rev": rev, "digest": digest });
        facts.learn("credential.store", Some(&id.to_string()), &stored(1, "a"));
        facts.learn("credential.store", Some(&id.to_string()), &stored(2, "b"));
        assert_eq!(facts.fault(id, &fact(2, "b")), None);
        assert_eq!(facts.fault(id, &fact(1, "a")), Some(Fault::RolledBack));
        assert_eq!(facts.fault(id, &fact(2, "a")), Some(Fault::Changed));
        assert_eq!(facts.fault(id, &fact(3, "c")), Some(Fault::Unrecorded));
        assert_eq!(facts.fault(other, &fact(1, "a")), Some(Fault::Unrecorded));
        facts.learn("credential.attest", None, &json!({ "values": { id.to_string(): { "rev": 1, "digest": "a" } } }));
        assert_eq!(facts.fault(id, &fact(2, "b")), None, "an attestation does not undo a write");
        facts.learn("credential.delete", Some(&id.to_string()), &json!({}));
        assert_eq!(facts.fault(id, &fact(2, "b")), Some(Fault::Resurrected));
        let many =
            json!({ "values": { other.to_string(): { "env_var": "A", "rev": 4, "digest": "d" } }, "removed": { id.to_string(): "B" } });
        facts.learn("credential.store_all", None, &many);
        assert_eq!((facts.fault(other, &fact(4, "d")), facts.fault(other, &fact(3, "c"))), (None, Some(Fault::RolledBack)));
        assert_eq!(facts.fault(id, &fact(2, "b")), Some(Fault::Resurrected));
        facts.by_id.remove(&other);
        facts.complete = false;
        assert_eq!(facts.fault(other, &fact(1, "a")), None);
    }
}
