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
                if was_enabled != now.configuration.is_some_and(|own| own.enabled) {
                    self.inner.configurations.enable(actor, &server, was_enabled).await?;
                }
                // There was none, and there is to be none.
                if before.configuration.is_none_or(|own| own.archived) {
                    self.inner.configurations.archive(actor, &server, None).await?;
                }
            }
            Operation::Delete => {
                self.inner.configurations.restore(actor, &server, None).await?;
                if was_enabled {
                    self.inner.configurations.enable(actor, &server, true).await?;
                }
            }
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
    match operation {
        Operation::Enable | Operation::Start => enabled,
        Operation::Disable | Operation::Stop => !enabled,
        Operation::Delete => now.configuration.is_none_or(|own| own.archived),
        Operation::Install => now.installed.is_some(),
        Operation::Upgrade => item.result.as_ref().is_some_and(|result| result["to"].as_str() == now.installed.as_deref()),
        Operation::Restart | Operation::Cache => false,
    }
}
