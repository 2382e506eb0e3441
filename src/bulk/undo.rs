//! What is undone of one server.

use configurations::Standing;
use platform::Actor;

use crate::{
    Bulk,
    error::BulkError,
    model::{Before, Item, ItemStatus, Operation, Wanted},
    plan::by_id,
};

impl Bulk {
    /// Brings a server back to where it stood before; kept where it is another one by now.
    pub(crate) async fn undo(&self, actor: &Actor, operation: Operation, item: &Item) -> Result<ItemStatus, BulkError> {
        let before = item.before.clone().unwrap_or_default();
        let now = self.look(actor, &item.server_id).await?;
        if stands_as(operation, &now, &before) {
            return Ok(ItemStatus::RolledBack);
        }
        // Somebody did something else meanwhile, and means it.
        if !is_as_left(operation, &now, item) {
            return Ok(ItemStatus::Kept);
        }
        let server = by_id(&item.server_id)?;
        let was_enabled = before.configuration.as_ref().is_some_and(|own| own.enabled);
        match operation {
            Operation::ApplyTemplate | Operation::Import => {
                let seen = now.configuration.as_ref().map(|own| own.revision);
                match before.configuration {
                    Some(own) => {
                        let status = if own.archived { Standing::Archived } else { Standing::Active };
                        self.inner.configurations.set_back(actor, &server, own.settings, status, seen).await?;
                    }
                    None => self.inner.configurations.archive(actor, &server, seen).await?,
                }
            }
            Operation::Enable | Operation::Start | Operation::Stop | Operation::Disable => {
                if before.configuration.is_none_or(|own| own.archived) {
                    // There was none, and there is to be none.
                    self.inner.configurations.archive(actor, &server, None).await?;
                } else {
                    self.inner.configurations.enable(actor, &server, was_enabled).await?;
                }
            }
            Operation::Delete => {
                // It counts again with that.
                self.inner.configurations.enable(actor, &server, was_enabled).await?;
            }
            Operation::Install if self.is_wanted_by_others(actor, &item.server_id).await? => return Ok(ItemStatus::Kept),
            Operation::Install => {
                self.inner.packages.uninstall(actor, &item.server_id).await?;
            }
            Operation::Upgrade => {
                let (_, job) = self.inner.packages.upgrade(actor, &item.server_id, before.installed).await?;
                self.await_job(actor, job).await?;
            }
            Operation::Restart | Operation::Cache | Operation::Export => return Err(BulkError::Irreversible(operation)),
        }
        Ok(ItemStatus::RolledBack)
    }

    async fn is_wanted_by_others(&self, actor: &Actor, server_id: &str) -> Result<bool, BulkError> {
        let own = actor.to_string();
        let enabled = self.inner.configurations.enabled_for(server_id).await?;
        Ok(enabled.iter().any(|wanted| wanted.owner != own))
    }
}

/// Whether a server stands as it did, as far as the operation changes it.
fn stands_as(operation: Operation, now: &Before, before: &Before) -> bool {
    match operation {
        Operation::Install | Operation::Upgrade => now.installed == before.installed,
        Operation::ApplyTemplate | Operation::Import => {
            let settings = |at: &Before| at.configuration.clone().filter(|own| !own.archived).map(|own| own.settings);
            settings(now) == settings(before)
        }
        _ => {
            let counts = |at: &Before| at.configuration.as_ref().filter(|own| !own.archived).map(|own| own.enabled);
            counts(now) == counts(before)
        }
    }
}

/// Whether a server is as the operation left it.
fn is_as_left(operation: Operation, now: &Before, item: &Item) -> bool {
    let own = now.configuration.as_ref();
    let enabled = own.is_some_and(|own| own.enabled);
    let result = |name: &str| item.result.as_ref().and_then(|result| result[name].as_str());
    match operation {
        Operation::Enable | Operation::Start => enabled,
        Operation::Disable | Operation::Stop => !enabled,
        Operation::Delete => own.is_none_or(|own| own.archived),
        Operation::ApplyTemplate | Operation::Import => match item.wanted {
            Some(Wanted::Settings(_)) => {
                let left = item.result.as_ref().and_then(|result| result["revision"].as_i64());
                own.is_some_and(|own| !own.archived && Some(own.revision) == left)
            }
            Some(Wanted::Archive) | None => own.is_none_or(|own| own.archived),
        },
        Operation::Install => now.installed.is_some() && result("version") == now.installed.as_deref(),
        Operation::Upgrade => now.installed.is_some() && result("to") == now.installed.as_deref(),
        Operation::Restart | Operation::Cache | Operation::Export => false,
    }
}
