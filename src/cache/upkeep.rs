//! Jobs that look after what is there: reading everything again, and removing what nobody needs.

use chrono::TimeDelta;
use jobs::{Context, Failure, Handler, LogLevel, Outcome, Policy, Progress};
use platform::clock;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::{
    error::CacheError,
    file_names::FileName,
    model::Listed,
    names::Package,
    service::Cache,
    store::{self, Stored},
};

/// Bytes of the store that no row knows are left alone for so long: their row may be about to be written.
pub(crate) const ORPHAN_AGE: std::time::Duration = std::time::Duration::from_hours(1);

/// How a job ends that gives nothing when it was stopped.
fn ended(done: Result<Option<Value>, CacheError>) -> Result<Outcome, Failure> {
    match done {
        Ok(Some(result)) => Ok(Outcome::Complete(result)),
        Ok(None) => Ok(Outcome::Stopped),
        Err(error) => Err(Failure::passing(&error)),
    }
}

/// Reads every file again and fetches those that are not what they were.
pub(crate) struct VerifyJob {
    pub(crate) cache: Cache,
}

/// Nothing has to be said.
#[derive(Serialize, Deserialize)]
pub(crate) struct VerifyOrder {}

impl Handler for VerifyJob {
    const KIND: &'static str = "cache_verify";
    type Payload = VerifyOrder;

    fn policy(&self) -> Policy {
        Policy { limit: 1, ..Policy::default() }
    }

    async fn run(&self, context: Context, _: VerifyOrder) -> Result<Outcome, Failure> {
        ended(self.verify(&context).await)
    }
}

impl VerifyJob {
    async fn verify(&self, context: &Context) -> Result<Option<Value>, CacheError> {
        let pool = self.cache.database().system();
        let stored = store::stored(pool).await?;
        let total: u64 = stored.iter().map(|stored| stored.size).sum();
        let (mut done, mut bad, mut fetched) = (0, Vec::new(), 0_u64);
        for Stored { blob, size } in &stored {
            if context.is_stopping() {
                return Ok(None);
            }
            let message = "reading the cache again".to_owned();
            context.progress(Progress { done, total: Some(total), unit: "bytes".into(), message });
            done += size;
            if self.cache.artifacts().is_intact(blob).await? {
                continue;
            }
            for (package, file) in store::files_of_blob(pool, blob).await? {
                context.log(LogLevel::Error, format!("{file} of {package} is not what it was")).await;
                let again = self.fetch_again(&package, &file).await;
                if let Err(error) = &again {
                    context.log(LogLevel::Error, format!("{file} of {package} could not be fetched again: {error}")).await;
                }
                fetched += u64::from(again.is_ok());
                bad.push(json!({ "package": package.to_string(), "file": file, "fetched_again": again.is_ok() }));
            }
        }
        Ok(Some(json!({ "checked": stored.len(), "bytes": total, "bad": bad, "fetched_again": fetched })))
    }

    async fn fetch_again(&self, package: &Package, file: &str) -> Result<(), CacheError> {
        let key = (package.clone(), FileName::parse(package, file)?);
        self.cache.artifacts().forget(&key).await;
        self.cache.file(&key, true).await.map(drop)
    }
}

/// What is to be removed: each condition that is given chooses more, `max_bytes` the least recently used.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a condition of its own")]
pub(crate) struct PruneOrder {
    /// Packages that were not used for so many days.
    pub(crate) older_than_days: Option<u32>,
    /// As many packages as leave so many bytes.
    pub(crate) max_bytes: Option<u64>,
    /// Files that could not be had.
    #[serde(default)]
    pub(crate) failed: bool,
    /// Packages that no server names and that no other package needs.
    #[serde(default)]
    pub(crate) unused: bool,
    /// Also packages that somebody asked for on purpose.
    #[serde(default)]
    pub(crate) pinned: bool,
    /// Only tell what would go.
    #[serde(default)]
    pub(crate) dry_run: bool,
}

/// Removes what nobody needs.
pub(crate) struct PruneJob {
    pub(crate) cache: Cache,
}

impl Handler for PruneJob {
    const KIND: &'static str = "cache_prune";
    type Payload = PruneOrder;

    fn policy(&self) -> Policy {
        Policy { limit: 1, ..Policy::default() }
    }

    async fn run(&self, context: Context, order: PruneOrder) -> Result<Outcome, Failure> {
        ended(self.prune(&context, &order).await)
    }
}

impl PruneJob {
    async fn prune(&self, context: &Context, order: &PruneOrder) -> Result<Option<Value>, CacheError> {
        let pool = self.cache.database().system();
        let artifacts = self.cache.artifacts();
        let chosen = self.choose(order).await?;
        let mut freed = 0;
        for (position, listed) in chosen.iter().enumerate() {
            if context.is_stopping() {
                return Ok(None);
            }
            let total = Some(chosen.len() as u64);
            context.progress(Progress { done: position as u64, total, unit: "packages".into(), message: "removing".into() });
            if !order.dry_run
                && let Some(package) = listed.package()
            {
                freed += artifacts.remove(&package).await?.1;
            }
        }
        let failed = if order.failed { store::forget_failed(pool, order.dry_run).await? } else { 0 };
        let orphans = if order.dry_run { 0 } else { artifacts.sweep_orphans().await? };
        let names: Vec<Value> = chosen.iter().map(|listed| json!({ "package": listed.to_string(), "bytes": listed.size_bytes })).collect();
        let bytes = if order.dry_run { chosen.iter().map(|listed| listed.size_bytes).sum() } else { freed };
        Ok(Some(json!({ "dry_run": order.dry_run, "packages": names, "bytes": bytes, "failed_files": failed, "orphans": orphans })))
    }

    async fn choose(&self, order: &PruneOrder) -> Result<Vec<Listed>, CacheError> {
        let pool = self.cache.database().system();
        let before = order.older_than_days.and_then(|days| clock::now().checked_sub_signed(TimeDelta::days(days.into())));
        let mut left = store::bytes_stored(pool).await?;
        let mut chosen = Vec::new();
        for listed in store::by_use(pool, order.pinned).await? {
            let is_old = before.is_some_and(|before| listed.last_used_at.is_none_or(|used| used < before));
            let is_unused = order.unused && !listed.is_named && !listed.is_needed && !self.cache.is_in_catalogue(&listed).await?;
            let is_too_much = order.max_bytes.is_some_and(|max| left > i64::try_from(max).unwrap_or(i64::MAX));
            if is_old || is_unused || is_too_much {
                left -= listed.size_bytes;
                chosen.push(listed);
            }
        }
        Ok(chosen)
    }
}
