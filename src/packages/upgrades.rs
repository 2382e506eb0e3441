//! Newer versions of what is installed.

use audit::NewEvent;
use jobs::JobId;
use platform::{Action, Actor};

use crate::{
    Packages,
    error::PackagesError,
    job::Version,
    model::{Installation, Stage},
    store,
};

/// What there is newer of what is installed.
#[derive(Default)]
pub struct Updates {
    /// An installation, and the newest version.
    pub newer: Vec<(Installation, String)>,
    /// Those whose registry could not be asked, and why.
    pub unknown: Vec<(Installation, PackagesError)>,
}

impl Packages {
    /// Asks that an installation gets the newest version, or the one that is named.
    pub async fn upgrade(&self, actor: &Actor, name: &str, version: Option<String>) -> Result<(Installation, JobId), PackagesError> {
        actor.require(Action::PackagesInstall)?;
        let found = self.named(actor, name).await?;
        Self::require_own(actor, &found)?;
        let changed = Installation { package: cache::Wanted { version, ..found.package.clone() }, ..found };
        let mut transaction = self.inner.database.begin_system().await?;
        store::put(&mut transaction, &changed, true).await?.ok_or(PackagesError::NotFound)?;
        let told = NewEvent::change("package.upgrade").on("installation", changed.id).server(&changed.server_id);
        self.inner.audit.record_in(&mut transaction, actor, told).await?;
        self.tell_in(&mut transaction, &changed.server_id, Stage::Installing.as_str()).await?;
        transaction.commit().await?;
        let job = self.enqueue_or_join(actor, changed.id, Version::Renew).await?;
        Ok((self.get_by_id(changed.id).await?, job))
    }

    /// The newest version of each installation that has an older one. A registry that cannot be asked hides nothing of the
    /// others.
    pub async fn updates(&self, actor: &Actor) -> Result<Updates, PackagesError> {
        let mut updates = Updates::default();
        for found in self.all(actor).await? {
            let Some(runnable) = &found.runnable else { continue };
            match self.inner.cache.newest(&cache::Wanted { version: None, ..found.package.clone() }).await {
                Ok(newest) if newest != runnable.version => updates.newer.push((found, newest)),
                Ok(_) => {}
                Err(error) => updates.unknown.push((found, error.into())),
            }
        }
        Ok(updates)
    }

    /// Asks for the newest version of everything that the actor may upgrade.
    pub async fn upgrade_all(&self, actor: &Actor) -> Result<Vec<(Installation, JobId)>, PackagesError> {
        actor.require(Action::PackagesInstall)?;
        let mut begun = Vec::new();
        for (found, _) in self.updates(actor).await?.newer {
            if Self::require_own(actor, &found).is_ok() {
                begun.push(self.upgrade(actor, &found.server_id, None).await?);
            }
        }
        Ok(begun)
    }

    async fn all(&self, actor: &Actor) -> Result<Vec<Installation>, PackagesError> {
        self.list(actor, "", u32::from(u16::MAX)).await
    }
}
