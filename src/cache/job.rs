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
            match self.bring(wanted, &context).await {
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
    async fn bring(&self, wanted: &Wanted, context: &Context) -> Result<Value, CacheError> {
        let keys = self.cache.choose(wanted).await?;
        let mut files = Vec::with_capacity(keys.len());
        for key in &keys {
            let held = self.cache.file(key, true).await?;
            files.push(json!({ "name": key.1.as_str(), "size": held.size, "sha256": held.blob.hex() }));
        }
        let package = &keys[0].0;
        context.log(LogLevel::Info, format!("{package} is cached and verified, {} files", files.len())).await;
        Ok(json!({ "registry_type": package.registry(), "identifier": package.name(), "version": package.version(), "files": files }))
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
