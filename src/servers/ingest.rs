//! Taking entries into the catalogue: what is new, what changed, which version is the latest, and what
//! lists and searches say of it. Everything of one call happens in the caller's transaction.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use platform::database::DbError;
use sqlx::PgConnection;

use crate::{
    categories::Rules,
    credentials,
    document::{Digest, Entry, Skip, SkipReason},
    latest,
    model::{Origin, Status},
    store::ingest as store,
};

/// What taking entries did.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// Versions that were not there before.
    pub inserted: u32,
    /// Versions whose body or standing changed.
    pub updated: u32,
    /// Versions that changed to `deleted`, among the above.
    pub deleted: u32,
    /// Entries that could not be taken.
    pub skipped: Vec<Skip>,
    /// Whether clients can see a difference.
    pub changed: bool,
}

impl Applied {
    /// Adds what taking further entries did.
    pub(crate) fn add(&mut self, other: Self) {
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.deleted += other.deleted;
        self.skipped.extend(other.skipped);
        self.changed |= other.changed;
    }
}

/// Takes `entries`. The same ones again change nothing, and an older copy never replaces a newer one.
pub(crate) async fn apply(
    connection: &mut PgConnection,
    entries: Vec<Entry>,
    origin: Origin,
    rules: &Rules,
    now: DateTime<Utc>,
) -> Result<Applied, DbError> {
    let mut applied = Applied::default();
    let entries = without_duplicates(entries, &mut applied.skipped);
    let entries = claim_names(connection, entries, origin, now, &mut applied.skipped).await?;
    if entries.is_empty() {
        return Ok(applied);
    }

    let known = store::standing(connection, &entries).await?;
    let (mut written, mut edited): (Vec<&Entry>, Vec<&Entry>) = (Vec::new(), Vec::new());
    let mut touched: BTreeSet<&str> = BTreeSet::new();
    for entry in &entries {
        let before = known.get(&(entry.id.as_str().to_owned(), entry.version.clone()));
        match before {
            None => applied.inserted += 1,
            Some(before) if before.is_newer_than(entry) => continue,
            Some(before) if before.is_same(entry) => {
                if entry.is_latest.is_some_and(|latest| latest != before.is_latest) {
                    touched.insert(entry.id.as_str());
                }
                continue;
            }
            Some(before) => {
                applied.updated += 1;
                applied.deleted += u32::from(entry.status == Status::Deleted && before.status != Status::Deleted);
                if before.content_hash != entry.content_hash {
                    edited.push(entry);
                }
            }
        }
        written.push(entry);
        touched.insert(entry.id.as_str());
    }
    store::keep_history(connection, &edited, now).await?;
    store::write_versions(connection, &written, now).await?;
    let is_new = |entry: &&&Entry| !known.contains_key(&(entry.id.as_str().to_owned(), entry.version.clone()));
    let bodies: Vec<&Entry> = written.iter().filter(is_new).chain(&edited).copied().collect();
    store::write_packages(connection, &bodies).await?;

    let touched: Vec<String> = touched.into_iter().map(ToOwned::to_owned).collect();
    applied.changed = !touched.is_empty();
    settle_latest(connection, &touched, &entries).await?;
    refresh(connection, &touched, rules).await?;
    Ok(applied)
}

/// The last one of each version stays.
fn without_duplicates(entries: Vec<Entry>, skipped: &mut Vec<Skip>) -> Vec<Entry> {
    let mut places: HashMap<(String, String), usize> = HashMap::new();
    let mut kept: Vec<Entry> = Vec::with_capacity(entries.len());
    for entry in entries {
        let key = (entry.id.as_str().to_owned(), entry.version.clone());
        if let Some(&place) = places.get(&key) {
            skipped.push(entry.skip(SkipReason::Duplicate));
            kept[place] = entry;
        } else {
            places.insert(key, kept.len());
            kept.push(entry);
        }
    }
    kept
}

/// Makes the rows of servers that are new; entries whose name belongs to another origin are passed over.
async fn claim_names(
    connection: &mut PgConnection,
    entries: Vec<Entry>,
    origin: Origin,
    now: DateTime<Utc>,
    skipped: &mut Vec<Skip>,
) -> Result<Vec<Entry>, DbError> {
    let ids: BTreeMap<&str, &Entry> = entries.iter().map(|entry| (entry.id.as_str(), entry)).collect();
    let ids: Vec<_> = ids.into_values().map(|entry| entry.id.clone()).collect();
    let taken = store::claim_names(connection, &ids, origin, now).await?;
    if taken.is_empty() {
        return Ok(entries);
    }
    let (refused, kept): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|entry| taken.contains(entry.id.as_str()));
    skipped.extend(refused.iter().map(|entry| entry.skip(SkipReason::NameTaken)));
    Ok(kept)
}

/// Makes exactly one version of each server the latest: the one that the registry names, else the one
/// that the publisher's rule picks. The registry does not send the former latest again when it names
/// another, and a take-down can leave a server without one.
pub(crate) async fn settle_latest(connection: &mut PgConnection, servers: &[String], entries: &[Entry]) -> Result<(), DbError> {
    let mut named: HashMap<&str, Vec<latest::Candidate>> = HashMap::new();
    for entry in entries.iter().filter(|entry| entry.is_latest == Some(true) && entry.status != Status::Deleted) {
        let candidate = latest::Candidate { version: entry.version.clone(), status: entry.status, published_at: entry.published_at };
        named.entry(entry.id.as_str()).or_default().push(candidate);
    }
    let unnamed: Vec<String> = servers.iter().filter(|server| !named.contains_key(server.as_str())).cloned().collect();
    let silent: BTreeSet<&str> = entries.iter().filter(|entry| entry.is_latest.is_none()).map(|entry| entry.id.as_str()).collect();
    let (open, settled): (Vec<String>, Vec<String>) = unnamed.into_iter().partition(|server| silent.contains(server.as_str()));
    let derived = store::candidates(connection, &open, &settled).await?;

    let picked = |candidates: &[latest::Candidate]| latest::pick(candidates).map(|candidate| candidate.version.clone());
    let wanted = servers.iter().filter_map(|server| {
        let version =
            named.get(server.as_str()).and_then(|list| picked(list)).or_else(|| derived.get(server).and_then(|list| picked(list)))?;
        Some((server.clone(), version))
    });
    let (servers, versions): (Vec<String>, Vec<String>) = wanted.unzip();
    store::set_latest(connection, &servers, &versions).await?;
    Ok(())
}

/// Brings what `servers` says in line with each server's latest version.
pub(crate) async fn refresh(connection: &mut PgConnection, servers: &[String], rules: &Rules) -> Result<(), DbError> {
    let stale = store::stale(connection, servers).await?;
    let refreshed: Vec<store::Refreshed> = stale
        .into_iter()
        .map(|row| {
            let digest = Digest::of(&row.document);
            let categories = rules.sort(&row.server_id, digest.title.as_deref(), &digest.description);
            let credentials = credentials::wanted(&digest);
            store::Refreshed { row, digest, categories, credentials }
        })
        .collect();
    store::write_refreshed(connection, &refreshed, &rules.hash).await?;
    Ok(())
}
