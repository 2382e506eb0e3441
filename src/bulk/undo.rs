//! What is undone of one server.

use platform::Actor;

use crate::{
    Bulk,
    error::BulkError,
    model::{Before, Item, ItemStatus, Operation},
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
        let was_enabled = before.configuration.is_some_and(|own| own.enabled);
        match operation {
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
            Operation::Restart | Operation::Cache => return Err(BulkError::Irreversible(operation)),
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
        _ => {
            let counts = |at: &Before| at.configuration.filter(|own| !own.archived).map(|own| own.enabled);
            counts(now) == counts(before)
        }
    }
}

/// Whether a server is as the operation left it.
fn is_as_left(operation: Operation, now: &Before, item: &Item) -> bool {
    let enabled = now.configuration.is_some_and(|own| own.enabled);
    let result = |name: &str| item.result.as_ref().and_then(|result| result[name].as_str());
    match operation {
        Operation::Enable | Operation::Start => enabled,
        Operation::Disable | Operation::Stop => !enabled,
        Operation::Delete => now.configuration.is_none_or(|own| own.archived),
        Operation::Install => now.installed.is_some() && result("version") == now.installed.as_deref(),
        Operation::Upgrade => now.installed.is_some() && result("to") == now.installed.as_deref(),
        Operation::Restart | Operation::Cache => false,
    }
}
