//! Servers that were made here, and who may see and use which.

use std::{collections::HashMap, sync::Arc};

use events::NewEvent;
use platform::database::DbError;
use serde_json::json;
use sqlx::{PgConnection, Postgres, Transaction};
use tokio::sync::OwnedMutexGuard;

use crate::{
    Servers,
    document::{Entry, SkipReason, parse_entry},
    error::ServersError,
    model::{Access, Described, Origin, ServerId, ServerPackage, ServerRef, Status, Summary, Viewer},
    service::CATALOG_CHANGED,
    store::{access, read, upkeep},
};

impl Servers {
    /// What lists say of a server, if `viewer` may know of it and it is not denied.
    pub async fn summary(&self, viewer: &Viewer, server: &ServerRef) -> Result<Summary, ServersError> {
        let found = read::get(self.inner.database.public(), server).await?.ok_or(ServersError::NotFound)?;
        require_shown(&found.access, viewer)?;
        Ok(found)
    }

    /// What the latest version of a server says of itself, to who may know of it.
    pub async fn document(&self, viewer: &Viewer, server: &ServerRef) -> Result<Described, ServersError> {
        let found = read::described(self.inner.database.public(), server).await?.ok_or(ServersError::NotFound)?;
        require_shown(&found.access, viewer)?;
        Ok(found)
    }

    /// The id of a server that somebody may use. Fails where it is not shown to them, or the rules of administrators deny it,
    /// which binds administrators, too.
    pub async fn require_usable(&self, viewer: &Viewer, server: &ServerRef) -> Result<String, ServersError> {
        let found = self.summary(viewer, server).await?;
        if found.access.is_denied { Err(ServersError::Denied) } else { Ok(found.id) }
    }

    /// The same, with what its latest version says of itself.
    pub async fn usable_document(&self, viewer: &Viewer, server: &ServerRef) -> Result<Described, ServersError> {
        let found = self.document(viewer, server).await?;
        if found.access.is_denied { Err(ServersError::Denied) } else { Ok(found) }
    }

    /// Those of these servers that are private to somebody, and to whom.
    pub async fn private_among(&self, servers: &[String]) -> Result<HashMap<String, String>, DbError> {
        Ok(access::private_among(self.inner.database.public(), servers).await?.into_iter().collect())
    }

    /// Makes a server another one for whatever was kept for it: configurations and secrets of it do not count any more.
    pub async fn renew_in(&self, transaction: &mut PgConnection, id: &ServerId) -> Result<(), ServersError> {
        Ok(access::renew(transaction, id).await?)
    }

    /// Removes all versions of a server that was made here but its latest.
    pub async fn keep_latest_in(&self, transaction: &mut PgConnection, id: &ServerId) -> Result<(), ServersError> {
        Ok(access::keep_latest(transaction, id).await?)
    }

    /// Lets nobody else write the catalogue until the transaction ends.
    pub async fn lock_in(&self, transaction: &mut PgConnection) -> Result<(), ServersError> {
        Ok(upkeep::lock(transaction).await?)
    }

    /// A transaction in which nobody else writes the catalogue, and the turn that it has until it ends.
    pub async fn begin_alone(&self) -> Result<(OwnedMutexGuard<()>, Transaction<'static, Postgres>), ServersError> {
        let turn = Arc::clone(&self.inner.turn).lock_owned().await;
        let mut transaction = self.inner.database.begin_system().await?;
        upkeep::lock(&mut transaction).await?;
        Ok((turn, transaction))
    }

    /// Whether a server of this id is there, whoever may know of it.
    pub async fn is_there_in(&self, transaction: &mut PgConnection, id: &ServerId) -> Result<bool, ServersError> {
        Ok(access::is_there(transaction, id).await?)
    }

    /// Says whose a server is, who may see it, and what is said of it. The caller says who may, and announces it.
    pub async fn set_access_in(&self, transaction: &mut PgConnection, id: &ServerId, to: &Access) -> Result<(), ServersError> {
        Ok(access::set_access(transaction, id, to).await?)
    }

    /// Gives a server that somebody made here to another one.
    pub async fn hand_over_in(&self, transaction: &mut PgConnection, id: &ServerId, owner: &str) -> Result<(), ServersError> {
        Ok(access::hand_over(transaction, id, owner).await?)
    }

    /// The servers of an owner, and whether each is private.
    pub async fn owned_in(&self, transaction: &mut PgConnection, owner: &str) -> Result<Vec<(ServerId, bool)>, ServersError> {
        let found = access::owned_by(transaction, owner).await?.into_iter();
        found.map(|(id, is_private)| Ok((ServerId::parse(&id)?, is_private))).collect()
    }

    /// Tells that it is another matter now who may see and use which servers: everybody, or the owner of a private one alone.
    pub async fn announce_access_in(&self, transaction: &mut PgConnection, private: Option<&str>) -> Result<(), DbError> {
        upkeep::settle_searches(transaction).await?;
        let told = json!({ "access": true });
        let event = match private {
            Some(owner) => NewEvent::of(owner, &CATALOG_CHANGED, told),
            None => NewEvent::for_everyone(&CATALOG_CHANGED, told),
        };
        self.inner.events.publish_in(transaction, event).await
    }

    /// The first package of the latest version of each of these servers, and the first address, by server.
    pub async fn first_places(&self, servers: &[String]) -> Result<Places, ServersError> {
        let pool = self.inner.database.public();
        let (packages, remotes) = tokio::join!(read::first_packages(pool, servers), read::first_remotes(pool, servers));
        Ok(Places { packages: packages?.into_iter().collect(), remotes: remotes?.into_iter().collect() })
    }

    /// Makes a server of somebody's own, or replaces its document. The caller says who may, and announces it.
    pub async fn put_custom_in(
        &self,
        transaction: &mut PgConnection,
        id: &ServerId,
        document: &serde_json::Value,
    ) -> Result<(), ServersError> {
        self.put_own_in(transaction, id, document, Origin::Custom).await
    }

    /// The same for a server that the factory made.
    pub async fn put_generated_in(
        &self,
        transaction: &mut PgConnection,
        id: &ServerId,
        document: &serde_json::Value,
    ) -> Result<(), ServersError> {
        self.put_own_in(transaction, id, document, Origin::Generated).await
    }

    async fn put_own_in(
        &self,
        transaction: &mut PgConnection,
        id: &ServerId,
        document: &serde_json::Value,
        origin: Origin,
    ) -> Result<(), ServersError> {
        let raw = serde_json::value::to_raw_value(document).map_err(|_| ServersError::Unusable("it is not JSON"))?;
        let entry = parse_entry(&raw, origin).map_err(|_| ServersError::Unusable("it names no server or no version"))?;
        if entry.id != *id {
            return Err(ServersError::Unusable("it is of another server"));
        }
        upkeep::lock(transaction).await?;
        // What a registry says of its entries, a document made here cannot say of itself.
        let entry = Entry {
            is_latest: Some(true),
            status: Status::Active,
            status_message: None,
            status_changed_at: None,
            published_at: None,
            updated_at: None,
            ..entry
        };
        let applied = self.apply_together(transaction, vec![entry], origin).await?;
        match applied.skipped.first() {
            Some(skip) if skip.reason == SkipReason::NameTaken => Err(ServersError::NameTaken),
            Some(_) => Err(ServersError::Unusable("the database cannot keep it")),
            None => Ok(()),
        }
    }

    /// Removes a server that an installation has made, or one that was made in the catalogue; gives whether there was one. The
    /// caller says who may, and announces it.
    pub async fn erase_custom_in(
        &self,
        transaction: &mut PgConnection,
        id: &ServerId,
        is_of_catalogue: bool,
    ) -> Result<bool, ServersError> {
        upkeep::lock(transaction).await?;
        let versions = access::custom_versions(transaction, id, is_of_catalogue).await?;
        Ok(!versions.is_empty() && self.erase_versions(transaction, &versions).await? > 0)
    }
}

/// Where servers run, by their ids.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The packages that make them.
    pub packages: HashMap<String, ServerPackage>,
    /// Where they are, elsewhere.
    pub remotes: HashMap<String, String>,
}

/// Fails where somebody may not know of a server, or it is denied to them.
fn require_shown(access: &Access, viewer: &Viewer) -> Result<(), ServersError> {
    match viewer {
        _ if !access.shows_to(viewer) => Err(ServersError::NotFound),
        Viewer::Nobody if access.is_denied => Err(ServersError::NotFound),
        Viewer::Somebody(_) if access.is_denied => Err(ServersError::Denied),
        Viewer::Nobody | Viewer::Somebody(_) | Viewer::All => Ok(()),
    }
}
