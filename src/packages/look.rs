//! What is installed, as actors may see it, and what is known of an installation's package.

use platform::{Action, Actor};
use serde_json::Value;
use servers::{Described, ServerRef, Viewer};
use sqlx::PgConnection;

use crate::{
    Packages,
    error::PackagesError,
    model::{Entry, Installation, Runnable},
    plan, store,
};

impl Packages {
    /// Those after a server's id, by it.
    pub async fn list(&self, actor: &Actor, after: &str, limit: u32) -> Result<Vec<Installation>, PackagesError> {
        actor.require(Action::PackagesRead)?;
        let (mut kept, mut after) = (Vec::new(), after.to_owned());
        loop {
            let page = store::list(self.inner.database.system(), actor.servers(), &after, limit.into()).await?;
            let is_last = page.len() < limit as usize;
            after = page.last().map_or(after, |last| last.server_id.clone());
            kept.extend(self.shown_to(actor, page).await?);
            if is_last || kept.len() >= limit as usize {
                kept.truncate(limit as usize);
                return Ok(kept);
            }
        }
    }

    /// Without those of servers that are private to somebody else.
    async fn shown_to(&self, actor: &Actor, mut found: Vec<Installation>) -> Result<Vec<Installation>, PackagesError> {
        let viewer = Viewer::of(actor);
        if viewer != Viewer::All {
            let ids: Vec<String> = found.iter().map(|found| found.server_id.clone()).collect();
            let private = self.inner.servers.private_among(&ids).await?;
            found.retain(|found| private.get(&found.server_id).is_none_or(|owner| viewer == Viewer::Somebody(owner.clone())));
        }
        Ok(found)
    }

    /// The installation of a server.
    pub async fn of_server(&self, actor: &Actor, server: &ServerRef) -> Result<Installation, PackagesError> {
        actor.require(Action::PackagesRead)?;
        let id = self.inner.servers.id_of(server).await.map_err(|_| PackagesError::NotFound)?;
        actor.require_server(Action::PackagesRead, &id)?;
        let found = store::by_server(self.inner.database.system(), &id).await?.into_iter().collect();
        self.shown_to(actor, found).await?.pop().ok_or(PackagesError::NotFound)
    }

    /// An installation by the server's name, or by the package's where one server alone has it.
    pub async fn named(&self, actor: &Actor, name: &str) -> Result<Installation, PackagesError> {
        if let Ok(server) = name.parse::<ServerRef>() {
            match self.of_server(actor, &server).await {
                Err(PackagesError::NotFound) => {}
                found => return found,
            }
        }
        actor.require(Action::PackagesRead)?;
        let found = store::by_package(self.inner.database.system(), name).await?;
        let mut found = self.shown_to(actor, found).await?;
        found.retain(|found| actor.require_server(Action::PackagesRead, &found.server_id).is_ok());
        match found.len() {
            0 => Err(PackagesError::NotFound),
            1 => found.pop().ok_or(PackagesError::NotFound),
            _ => Err(PackagesError::Ambiguous(found.iter().map(|found| found.server_id.as_str()).collect::<Vec<_>>().join(", "))),
        }
    }

    /// The installation of a server, whoever asks.
    pub async fn of(&self, server_id: &str) -> Result<Option<Installation>, PackagesError> {
        Ok(store::by_server(self.inner.database.system(), server_id).await?)
    }

    /// Whether a server is installed, within the caller's transaction.
    pub async fn is_installed_in(&self, transaction: &mut PgConnection, server_id: &str) -> Result<bool, PackagesError> {
        Ok(store::is_installed(transaction, server_id).await?)
    }

    /// What a server's document says of the package of its installation; null where it says nothing. The arguments of
    /// a bundle are what its manifest says, for the tree in which it lies.
    pub fn entry(&self, document: &Value, installation: &Installation, tree: Option<&std::path::Path>) -> Value {
        let declared = plan::entry(document, &installation.package).cloned().unwrap_or_default();
        let Some(Runnable { entry: Entry::Bundle(bundle), tree: own, .. }) = &installation.runnable else { return declared };
        let own = self.inner.trees.path(own);
        let mut entry = bundle.entry(tree.unwrap_or(&own), installation.args.as_deref().unwrap_or_default());
        let known = |variable: &&Value| !bundle.env.keys().any(|name| variable["name"] == *name);
        let further = declared["environmentVariables"].as_array().into_iter().flatten().filter(known).cloned();
        if let Some(Value::Array(variables)) = entry.get_mut("environmentVariables") {
            variables.extend(further);
        }
        Value::Object(entry)
    }

    /// The same for a server that is not installed yet, of the package that would be.
    pub fn entry_to_be(&self, actor: &Actor, described: &Described) -> Result<Value, PackagesError> {
        if !actor.may(Action::PackagesManage) {
            plan::require_vouched(actor, Some(described))?;
        }
        let package = plan::first_package(&described.document).ok_or(PackagesError::NothingToInstall)?;
        Ok(plan::entry(&described.document, &package).cloned().unwrap_or_default())
    }
}
