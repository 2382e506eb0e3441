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
    #[serde(default)]
    pub(crate) version: Version,
}

/// Which version is made runnable.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Version {
    /// What is asked for; without a version, the newest.
    #[default]
    Renew,
    /// What is there already: whoever joins somebody else's installation does not change it.
    Keep,
}

impl Handler for InstallJob {
    const KIND: &'static str = "install";
    type Payload = Payload;

    fn policy(&self) -> Policy {
        // A start waits for it: what fails is told at once, and tried again by whoever asks again.
        Policy { max_attempts: 1, limit: 8, ..Policy::default() }
    }

    async fn run(&self, context: Context, payload: Payload) -> Result<Outcome, Failure> {
        loop {
            let installation = match self.packages.get_by_id(payload.installation).await {
                Err(PackagesError::NotFound) => return Ok(Outcome::Complete(json!({ "uninstalled": true }))),
                found => found.map_err(|error| failure(&error))?,
            };
            match self.packages.make(&installation, payload.version, &context).await {
                Ok(Some(made)) => {
                    context.log(LogLevel::Info, format!("{} {} is runnable", installation.package.identifier, made.version)).await;
                    return Ok(Outcome::Complete(json!({ "server_id": installation.server_id, "version": made.version })));
                }
                Err(error) if self.packages.is_asked_for(&installation).await => return Err(failure(&error)),
                Ok(None) | Err(_) => {}
            }
            context.log(LogLevel::Info, "something else is asked for by now; that is made instead".to_owned()).await;
        }
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

    /// Whether an installation still asks for what it asked for.
    async fn is_asked_for(&self, installation: &crate::Installation) -> bool {
        let now = self.get_by_id(installation.id).await;
        now.is_ok_and(|now| now.package == installation.package && now.cure == installation.cure)
    }

    /// From the cache to a tree, a folder that leads to it, and a row that names it; `None` where that asks for something
    /// else by now.
    async fn make(
        &self,
        installation: &crate::Installation,
        version: Version,
        context: &Context,
    ) -> Result<Option<crate::Runnable>, PackagesError> {
        if let Some(there) = installation.runnable.as_ref().filter(|_| version == Version::Keep) {
            return if self.has_tree(there) { Ok(Some(there.clone())) } else { self.restore(installation, there).await.map(Some) };
        }
        let supply =
            self.inner.cache.supply(&installation.package, installation.cure.as_deref().unwrap_or_default(), Some(context)).await?;
        let (registry, name) = (supply.registry, supply.name.clone());
        let made = self.inner.trees.make(supply).await?;
        let left_out = self.inner.trees.scripts_left_out(&made.tree);
        if !left_out.is_empty() {
            let text =
                format!("install scripts that are not run, since FABRIC_INSTALL_SCRIPTS does not name them: {}", left_out.join(", "));
            context.log(LogLevel::Info, text).await;
        }
        self.inner.trees.show(&installation.folder, &name, registry, &made)?;
        Ok(self.finish(installation, &made).await?.then_some(made))
    }
}
