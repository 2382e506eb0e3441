//! Servers that the factory made: kept like servers of one's own, but their documents are the factory's.

use platform::{Action, Actor};
use serde_json::{Value, json};
use servers::{Access, Origin, ServerId, ServerRef, ServersError, Summary, Viewer, Visibility};
use sqlx::PgConnection;

use crate::{
    Catalog,
    error::CatalogError,
    service::{MOST, is_own},
    store,
};

impl Catalog {
    /// Whether the actor may give a generated server this name: nobody has it, or it is a generated server of theirs.
    pub async fn may_name(&self, actor: &Actor, id: &ServerId) -> Result<bool, CatalogError> {
        match self.inner.servers.summary(&Viewer::All, &ServerRef::Id(id.clone())).await {
            Ok(found) => Ok(is_generated_by(actor, &found)),
            Err(ServersError::NotFound) => {
                let mut connection = self.inner.database.for_all().await?;
                Ok(!self.inner.packages.is_installed_in(&mut connection, id.as_str()).await?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Fails unless the actor may make servers of this visibility.
    pub fn require_generated_visibility(actor: &Actor, visibility: Visibility) -> Result<(), CatalogError> {
        if visibility == Visibility::Public && !actor.may(Action::CatalogManage) {
            let reason = "servers that everybody sees are made by administrators; `shared` ones are seen by all who sign in";
            return Err(actor.denied(Action::CatalogManage, reason.to_owned()).into());
        }
        Ok(())
    }

    /// Keeps a version of a server that the factory made, as the actor's own. The caller has the turn of whoever writes the
    /// catalogue, and forgets what is in memory once the transaction is committed. `replaces`: whether it is a version that is there already.
    pub async fn put_generated_in(
        &self,
        transaction: &mut PgConnection,
        actor: &Actor,
        id: &ServerId,
        document: &Value,
        visibility: Option<Visibility>,
        replaces: bool,
    ) -> Result<(), CatalogError> {
        actor.require(Action::CatalogWrite)?;
        actor.require_server(Action::CatalogWrite, id.as_str())?;
        let before = match self.inner.servers.summary(&Viewer::All, &ServerRef::Id(id.clone())).await {
            Ok(found) if is_generated_by(actor, &found) => Some(found.access),
            Ok(_) => return Err(ServersError::NameTaken.into()),
            Err(ServersError::NotFound) => None,
            Err(error) => return Err(error.into()),
        };
        if replaces && !actor.may(Action::CatalogManage) && self.inner.packages.is_installed_in(transaction, id.as_str()).await? {
            let reason = "this server is installed, and what is installed is changed by administrators; make a new version".to_owned();
            return Err(actor.denied(Action::CatalogManage, reason).into());
        }
        if before.is_none() {
            if self.inner.packages.is_installed_in(transaction, id.as_str()).await? {
                return Err(ServersError::NameTaken.into());
            }
            if store::denies(transaction, id.as_str()).await? {
                return Err(ServersError::Denied.into());
            }
            let own = self.inner.servers.owned_in(transaction, &actor.to_string()).await?;
            if i64::try_from(own.len()).unwrap_or(i64::MAX) >= MOST {
                return Err(CatalogError::TooMany(MOST));
            }
            store::forget(transaction, id.as_str()).await?;
        }
        let earlier = before.as_ref().map(|before| before.visibility);
        let was_private = before.as_ref().is_none_or(|before| before.visibility == Visibility::Private);
        let mut access = before.unwrap_or_else(|| Access {
            owner: Some(actor.to_string()),
            created_by: actor.user(),
            visibility: Visibility::Private,
            is_hidden: false,
            is_denied: false,
            metadata: json!({}),
            revision: 0,
        });
        access.revision += 1;
        access.visibility = visibility.unwrap_or(access.visibility);
        if earlier != Some(access.visibility) {
            Self::require_generated_visibility(actor, access.visibility)?;
        }
        self.inner.servers.put_generated_in(transaction, id, document).await?;
        self.write_in(transaction, actor, "catalog.generate", id, &access, Some(document.clone()), None).await?;
        if earlier.is_some_and(|earlier| access.visibility > earlier) {
            // What it was while fewer saw it is not for those who see it now.
            self.inner.servers.keep_latest_in(transaction, id).await?;
        }
        let private = (was_private && access.visibility == Visibility::Private).then(|| actor.to_string());
        Ok(self.inner.servers.announce_access_in(transaction, private.as_deref()).await?)
    }
}

fn is_generated_by(actor: &Actor, found: &Summary) -> bool {
    found.origin == Origin::Generated && found.access.owner.as_deref().is_some_and(|owner| is_own(actor, owner))
}
