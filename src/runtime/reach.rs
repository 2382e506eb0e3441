//! Who sees, steers and uses which instances.

use configurations::{Configuration, Sharing};
use platform::{Action, Actor, database::DbError};
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use crate::{
    Runtime,
    error::RuntimeError,
    model::{Instance, InstanceId},
    service::Inner,
    store::{self, Filter},
};

impl Inner {
    /// The configurations whose instances everybody uses who may reach their servers.
    async fn shared(&self) -> Result<Vec<Uuid>, RuntimeError> {
        let enabled = self.configurations.enabled().await?;
        Ok(enabled.into_iter().filter(|wanted| wanted.sharing == Sharing::Shared).map(|wanted| wanted.id.0).collect())
    }

    /// Whether everybody may use an instance who may reach its server.
    pub(crate) async fn is_shared(&self, instance: &Instance) -> Result<bool, RuntimeError> {
        let found = self.configurations.of(&instance.owner, &instance.server_id).await?;
        let is_it = |wanted: Configuration| wanted.id.0 == instance.configuration && wanted.enabled && wanted.sharing == Sharing::Shared;
        Ok(instance.session.is_empty() && found.is_some_and(is_it))
    }
}

impl Runtime {
    /// Admins see and steer all instances, others their own.
    async fn begin(&self, actor: &Actor) -> Result<Transaction<'static, Postgres>, DbError> {
        if actor.may(Action::InstancesAll) { self.inner.database.begin_for_all().await } else { self.inner.database.begin(actor).await }
    }

    /// Instances of the actor and those that are shared, or everybody's for those who may see them.
    pub(crate) async fn list(
        &self,
        actor: &Actor,
        filter: &Filter,
        after: Option<InstanceId>,
        limit: u32,
    ) -> Result<Vec<Instance>, RuntimeError> {
        actor.require(Action::InstancesRead)?;
        let (owner, sees_all) = (actor.to_string(), actor.may(Action::InstancesAll));
        let shared = if sees_all { Vec::new() } else { self.inner.shared().await? };
        let of = (!sees_all).then_some((owner.as_str(), &shared[..]));
        let mut transaction = self.inner.database.begin_for_all().await?;
        Ok(store::list(&mut transaction, actor.servers(), of, filter, after, limit.into()).await?)
    }

    /// One instance that the actor may see.
    pub async fn get(&self, actor: &Actor, id: InstanceId, action: Action) -> Result<Instance, RuntimeError> {
        actor.require(action)?;
        let mut transaction = self.begin(actor).await?;
        let found = store::get(&mut transaction, id).await?.ok_or(RuntimeError::NotFound)?;
        actor.require_server(action, &found.server_id).map_err(|_| RuntimeError::NotFound)?;
        Ok(found)
    }

    /// One instance that the actor may use: their own, or one that is shared.
    pub(crate) async fn usable(&self, actor: &Actor, id: InstanceId, action: Action) -> Result<Instance, RuntimeError> {
        match self.get(actor, id, action).await {
            Err(RuntimeError::NotFound) => {}
            found => return found,
        }
        let mut transaction = self.inner.database.begin_for_all().await?;
        let found = store::get(&mut transaction, id).await?.ok_or(RuntimeError::NotFound)?;
        drop(transaction);
        actor.require_server(action, &found.server_id).map_err(|_| RuntimeError::NotFound)?;
        if self.inner.is_shared(&found).await? { Ok(found) } else { Err(RuntimeError::NotFound) }
    }
}
