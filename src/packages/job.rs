//! Installing as a job.

use jobs::{Context, Ended, Failure, Handler, LogLevel, Outcome, Policy};
use platform::{Coded as _, database::DbError};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use crate::{Packages, error::PackagesError, model::InstallationId};

/// Makes one installation runnable.
pub(crate) struct InstallJob {
    pub(crate) packages: Packages,
}

/// Which one.
#[derive(Serialize, Deserialize)]
pub(crate) struct Payload {
    pub(crate) installation: InstallationId,
}

impl Handler for InstallJob {
    const KIND: &'static str = "install";
    type Payload = Payload;

    fn policy(&self) -> Policy {
        // A start waits for it: what fails is told at once, and tried again by whoever asks again.
        Policy { max_attempts: 1, limit: 8, ..Policy::default() }
    }

    async fn run(&self, context: Context, payload: Payload) -> Result<Outcome, Failure> {
        let installation = match self.packages.get_by_id(payload.installation).await {
            Err(PackagesError::NotFound) => return Ok(Outcome::Complete(json!({ "uninstalled": true }))),
            found => found.map_err(|error| failure(&error))?,
        };
        let made = self.packages.make(&installation, &context).await.map_err(|error| failure(&error))?;
        context.log(LogLevel::Info, format!("{} {} is runnable", installation.package.identifier, made.version)).await;
        Ok(Outcome::Complete(json!({ "server_id": installation.server_id, "version": made.version })))
    }

    async fn ended(&self, transaction: &mut PgConnection, payload: Payload, ended: &Ended) -> Result<(), DbError> {
        self.packages.ended_in(transaction, payload.installation, ended).await
    }
}

fn failure(error: &PackagesError) -> Failure {
    // Offline, what is not in the cache cannot come.
    let code = match error.code() {
        "offline" => "not_cached",
        other => other,
    };
    Failure { code, ..Failure::last(error) }
}

impl Packages {
    /// What an installation runs, on this node: where another one installed it, its tree is made here from the cache.
    pub async fn restore(&self, installation: &crate::Installation, runnable: &crate::Runnable) -> Result<crate::Runnable, PackagesError> {
        let exactly = cache::Wanted { version: Some(runnable.version.clone()), ..installation.package.clone() };
        self.inner.trees.make(self.inner.cache.supply(&exactly, installation.cure.as_deref().unwrap_or_default(), None).await?).await
    }

    /// From the cache to a tree, a folder that leads to it, and a row that names it.
    async fn make(&self, installation: &crate::Installation, context: &Context) -> Result<crate::Runnable, PackagesError> {
        let supply =
            self.inner.cache.supply(&installation.package, installation.cure.as_deref().unwrap_or_default(), Some(context)).await?;
        let (registry, name) = (supply.registry, supply.name.clone());
        let made = self.inner.trees.make(supply).await?;
        self.inner.trees.show(&installation.folder, &name, registry, &made)?;
        self.finish(installation, &made).await?;
        Ok(made)
    }
}
