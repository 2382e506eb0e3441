//! Caching packages as a job.

use std::sync::Arc;

use jobs::{Context, Failure, Handler, LogLevel, Outcome, Policy, Progress};
use platform::Coded as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{error::CacheError, model::Wanted, service::Cache};

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
}

impl Handler for CacheJob {
    const KIND: &'static str = "cache";
    type Payload = Payload;

    fn policy(&self) -> Policy {
        Policy { limit: 8, ..Policy::default() }
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
            match self.bring(wanted, payload.closure, &context).await {
                Ok(result) => done.push(result),
                Err(error) => {
                    context.log(LogLevel::Error, format!("{} {}: {error}", wanted.registry_type, wanted.identifier)).await;
                    first_error.get_or_insert(error);
                }
            }
        }
        match first_error {
            None => Ok(Outcome::Complete(json!({ "packages": done }))),
            Some(error) if is_passing(&error) => Err(Failure::passing(&error)),
            Some(error) => Err(Failure::last(&error)),
        }
    }
}

impl CacheJob {
    async fn bring(&self, wanted: &Wanted, closure: bool, context: &Context) -> Result<Value, CacheError> {
        let package = self.cache.exact(wanted).await?;
        let own = self.cache.bring(&package).await?;
        context.log(LogLevel::Info, format!("{package} is cached and verified, {} files", own.files.len())).await;
        let mut result = json!({
            "registry_type": package.registry(), "identifier": package.name(), "version": package.version(), "files": own.files,
        });
        if closure {
            let lock = self.cache.bring_closure(&package, context).await?;
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
    matches!(error.code(), "upstream_error" | "upstream_unreachable" | "upstream_too_slow" | "stopping")
        || matches!(error, CacheError::Database(_))
}
