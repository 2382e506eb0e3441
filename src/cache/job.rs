//! Caching packages as a job.

use std::sync::Arc;

use chrono::TimeDelta;
use jobs::{Context, Failure, Handler, LogLevel, Outcome, PROGRESS_MEMBERS, Policy, Progress, ProgressEvent, Retry};
use platform::{Coded as _, clock, config::Target};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{error::CacheError, hosts::REST, model::Wanted, names::Package, service::Cache};

/// Brings packages into the cache.
pub(crate) struct CacheJob {
    pub(crate) cache: Cache,
}

/// Which ones.
#[derive(Serialize, Deserialize)]
pub(crate) struct Payload {
    pub(crate) packages: Vec<Wanted>,
    /// With everything that an install of them needs.
    pub(crate) closure: bool,
    /// For these platforms.
    #[serde(default)]
    pub(crate) targets: Vec<String>,
}

/// The event that says how far a download into the cache is.
pub static CACHE_PROGRESS: events::Kind = events::Kind {
    name: "CACHE_PROGRESS",
    channel: "cache",
    told: "While packages are brought into the cache, and when that ends.",
    heard_by: "Whoever asked for them, and the operator.",
    payload: PROGRESS_MEMBERS,
};

impl Handler for CacheJob {
    const KIND: &'static str = "cache";
    type Payload = Payload;

    fn policy(&self) -> Policy {
        Policy { limit: 8, progress: Some(ProgressEvent { kind: &CACHE_PROGRESS, is_public: false }), ..Policy::default() }
    }

    async fn run(&self, context: Context, payload: Payload) -> Result<Outcome, Failure> {
        let (mut done, mut first_error) = (Vec::new(), None);
        for (position, wanted) in payload.packages.iter().enumerate() {
            if context.is_stopping() {
                return Ok(Outcome::Stopped);
            }
            let message = format!("{} {}", wanted.registry_type, wanted.identifier);
            let total = u64::try_from(payload.packages.len()).ok();
            context.progress(Progress { done: position as u64, total, unit: "packages".into(), message });
            match self.bring(wanted, &payload, &context).await {
                Ok(results) => done.extend(results),
                Err(error) => {
                    context.log(LogLevel::Error, format!("{} {}: {error}", wanted.registry_type, wanted.identifier)).await;
                    first_error.get_or_insert(error);
                }
            }
        }
        match first_error {
            None => Ok(Outcome::Complete(json!({ "packages": done }))),
            Some(error) if error.code() == "upstream_resting" => {
                let again = clock::now() + TimeDelta::from_std(2 * REST).unwrap_or_default();
                Err(Failure { retry: Retry::At(again), ..Failure::passing(&error) })
            }
            Some(error) if is_passing(&error) => Err(Failure::passing(&error)),
            Some(error) => Err(Failure::last(&error)),
        }
    }
}

impl CacheJob {
    async fn bring(&self, wanted: &Wanted, payload: &Payload, context: &Context) -> Result<Vec<Value>, CacheError> {
        let mut targets: Vec<Target> = payload.targets.iter().filter_map(|target| Target::parse(target)).collect();
        if targets.is_empty() {
            targets.clone_from(&self.cache.config().targets);
        }
        let mut results = Vec::new();
        for package in self.cache.exact(wanted, &targets).await? {
            results.push(self.bring_package(&package, payload.closure, &targets, context).await?);
        }
        Ok(results)
    }

    async fn bring_package(&self, package: &Package, closure: bool, targets: &[Target], context: &Context) -> Result<Value, CacheError> {
        let own = self.cache.bring(package, targets).await?;
        context.log(LogLevel::Info, format!("{package} is cached and verified, {} files", own.files.len())).await;
        let mut result = json!({
            "registry_type": package.registry(), "identifier": package.name(), "version": package.version(), "files": own.files,
        });
        if closure && package.registry().has_closure() {
            let lock = self.cache.bring_closure(package, "", targets, Some(context)).await?;
            let bytes: u64 = lock.packages.iter().flat_map(|locked| &locked.files).map(|file| file.size).sum();
            let count = lock.packages.len();
            let said = format!("what it needs is cached and verified, too: {count} packages, {bytes} bytes, chosen by {}", lock.resolver);
            context.log(LogLevel::Info, said).await;
            result["closure"] = json!({ "packages": count, "bytes": bytes, "resolver": lock.resolver });
        }
        Ok(result)
    }
}

/// Whether the same request can end well later.
fn is_passing(error: &CacheError) -> bool {
    let error = match error {
        CacheError::Shared(error) => Arc::as_ref(error),
        error => error,
    };
    matches!(error.code(), "upstream_error" | "upstream_unreachable" | "upstream_too_slow" | "upstream_resting" | "stopping")
        || matches!(error, CacheError::Database(_))
}
