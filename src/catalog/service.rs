use std::sync::Arc;

use audit::{Audit, NewEvent};
use configurations::Configurations;
use futures_util::{FutureExt as _, future::BoxFuture};
use packages::Packages;
use platform::{Action, Actor, Database, FieldError, clock};
use serde_json::{Value, json};
use servers::{Access, Filter, ListKey, Origin, Places, ServerId, ServerRef, Servers, ServersError, Sort, Summary, Viewer, Visibility};
use sqlx::PgConnection;
use users::{Belongings, UserId};

use crate::{
    document,
    error::CatalogError,
    model::{Change, Revision},
    store,
};

/// How many servers one actor may keep here.
pub(crate) const MOST: i64 = 1000;
const LONGEST_NOTE: usize = 500;
/// How many revisions of a server are kept.
const MOST_REVISIONS: i64 = 200;
/// Names that stand in the place of an id below `/api/mcp/catalog`.
const RESERVED: [&str; 2] = ["custom", "rules"];
/// The owner of what somebody left behind.
const ERASED: &str = "erased";

/// What the catalogue's editor is built on.
pub struct Neighbours {
    /// The database.
    pub database: Database,
    /// The trail.
    pub audit: Audit,
    /// The catalogue.
    pub servers: Servers,
    /// What people want of servers.
    pub configurations: Configurations,
    /// What is installed.
    pub packages: Packages,
}

/// The catalogue, as people change it; cheap to clone.
#[derive(Clone)]
pub struct Catalog {
    pub(crate) inner: Arc<Neighbours>,
}

/// A server with all that is shown of it.
pub(crate) struct Shown {
    pub(crate) summary: Summary,
    pub(crate) places: Places,
    /// What its latest version says.
    pub(crate) document: Value,
}

impl Catalog {
    /// The service.
    pub fn new(neighbours: Neighbours) -> Self {
        Self { inner: Arc::new(neighbours) }
    }

    /// One page of servers, one more where there is another page, and how many there are.
    pub(crate) async fn list(
        &self,
        actor: &Actor,
        filter: &Filter,
        sort: Sort,
        after: Option<&ListKey>,
        limit: u32,
    ) -> Result<(Vec<Summary>, i64, Places), CatalogError> {
        if filter.with_unlisted {
            actor.require(Action::CatalogManage)?;
        }
        let (found, total) = self.inner.servers.list(filter, sort, after, limit).await?;
        let ids: Vec<String> = found.iter().map(|found| found.id.clone()).collect();
        Ok((found, total, self.inner.servers.first_places(&ids).await?))
    }

    /// One server. Administrators see what they deny.
    pub(crate) async fn get(&self, actor: &Actor, server: &ServerRef) -> Result<Shown, CatalogError> {
        let summary = self.found(actor, server).await?;
        let described = self.inner.servers.document(&Viewer::All, server).await?;
        let places = self.inner.servers.first_places(std::slice::from_ref(&summary.id)).await?;
        Ok(Shown { summary, places, document: described.document })
    }

    /// A server that the actor may know of.
    pub(crate) async fn found(&self, actor: &Actor, server: &ServerRef) -> Result<Summary, CatalogError> {
        let viewer = Viewer::of(actor);
        if !actor.may(Action::CatalogManage) {
            return Ok(self.inner.servers.summary(&viewer, server).await?);
        }
        let found = self.inner.servers.summary(&Viewer::All, server).await?;
        if found.access.shows_to(&viewer) { Ok(found) } else { Err(ServersError::NotFound.into()) }
    }

    /// Makes a server of the actor's own.
    pub(crate) async fn create(&self, actor: &Actor, change: &Change) -> Result<Shown, CatalogError> {
        actor.require(Action::CatalogWrite)?;
        let id = Self::new_id(actor, change)?;
        let access = Access {
            owner: Some(actor.to_string()),
            created_by: actor.user(),
            visibility: change.visibility.unwrap_or(Visibility::Private),
            is_hidden: change.is_hidden.unwrap_or(false),
            is_denied: false,
            metadata: change.metadata.clone().map_or_else(|| json!({}), Value::Object),
            revision: 1,
        };
        Self::require_managed(actor, &access, change)?;
        let document = checked(&id, None, change)?;

        let (_turn, mut transaction) = self.inner.servers.begin_alone().await?;
        // An installation that outlived its server keeps the name.
        let is_installed = self.inner.packages.is_installed_in(&mut transaction, id.as_str()).await?;
        if is_installed || self.inner.servers.is_there_in(&mut transaction, &id).await? {
            return Err(ServersError::NameTaken.into());
        }
        if store::denies(&mut transaction, id.as_str()).await? {
            return Err(ServersError::Denied.into());
        }
        let own = self.inner.servers.owned_in(&mut transaction, &actor.to_string()).await?;
        if i64::try_from(own.len()).unwrap_or(i64::MAX) >= MOST {
            return Err(CatalogError::TooMany(MOST));
        }
        self.inner.servers.put_custom_in(&mut transaction, &id, &document).await?;
        // What was kept of an earlier server of this name is not this one's.
        store::forget(&mut transaction, id.as_str()).await?;
        self.write_in(&mut transaction, actor, "catalog.create", &id, &access, Some(document), change.note.clone()).await?;
        let private = (access.visibility == Visibility::Private).then(|| actor.to_string());
        self.inner.servers.announce_access_in(&mut transaction, private.as_deref()).await?;
        transaction.commit().await?;
        self.inner.servers.forget();
        self.get(actor, &ServerRef::Id(id)).await
    }

    fn new_id(actor: &Actor, change: &Change) -> Result<ServerId, CatalogError> {
        let name = change.name.as_deref().or_else(|| change.document.as_ref().and_then(|document| document["name"].as_str()));
        let name = name.ok_or_else(|| CatalogError::field("body.name", "is needed"))?;
        let id = ServerId::from_registry_name(name).map_err(|error| CatalogError::field("body.name", error.to_string()))?;
        if RESERVED.contains(&id.as_str()) {
            return Err(CatalogError::field("body.name", "is a path of this API; take another one"));
        }
        // What a name with a namespace says of its maker, the registry has looked at; and its names come by the mirror.
        if id.as_str().contains('/') && !actor.may(Action::CatalogManage) {
            let reason = "names with a namespace are given by administrators; take a plain name, such as `weather`".to_owned();
            return Err(actor.denied(Action::CatalogManage, reason).into());
        }
        actor.require_server(Action::CatalogWrite, id.as_str())?;
        Ok(id)
    }

    /// What everybody sees, and what nobody does, is a matter of administrators.
    fn require_managed(actor: &Actor, access: &Access, change: &Change) -> Result<(), CatalogError> {
        if access.visibility == Visibility::Public && !actor.may(Action::CatalogManage) {
            let reason = "servers that everybody sees are made and changed by administrators; `shared` ones are seen by all who sign in";
            return Err(actor.denied(Action::CatalogManage, reason.to_owned()).into());
        }
        if change.is_hidden.is_some() {
            actor.require(Action::CatalogManage)?;
        }
        Ok(())
    }

    /// Changes a server: one's own, or what administrators say of the others.
    pub(crate) async fn change(
        &self,
        actor: &Actor,
        server: &ServerRef,
        change: &Change,
        expected: Option<i64>,
    ) -> Result<Shown, CatalogError> {
        self.write(actor, "catalog.update", server, change, expected).await
    }

    pub(crate) async fn write(
        &self,
        actor: &Actor,
        action: &'static str,
        server: &ServerRef,
        change: &Change,
        expected: Option<i64>,
    ) -> Result<Shown, CatalogError> {
        actor.require(Action::CatalogWrite)?;
        let id = ServerId::parse(&self.found(actor, server).await?.id).map_err(ServersError::from)?;
        actor.require_server(Action::CatalogWrite, id.as_str())?;
        let (_turn, mut transaction) = self.inner.servers.begin_alone().await?;
        let now = self.get(actor, &ServerRef::Id(id.clone())).await?;
        Self::require_right(actor, &now.summary, change)?;
        let before = &now.summary.access;
        if expected.is_some_and(|expected| expected != before.revision) {
            return Err(CatalogError::Stale(before.revision));
        }
        let mut access = before.clone();
        access.revision += 1;
        access.visibility = change.visibility.unwrap_or(access.visibility);
        access.is_hidden = change.is_hidden.unwrap_or(access.is_hidden);
        if let Some(metadata) = &change.metadata {
            access.metadata = Value::Object(metadata.clone());
        }
        if change.is_of_document() && now.summary.origin == Origin::Generated {
            return Err(CatalogError::NotEditable(origin_of(&now.summary)));
        }
        let kept = before.owner.is_some().then_some(now.document);
        let document = if change.is_of_document() {
            let document = checked(&id, kept.as_ref(), change)?;
            if !actor.may(Action::CatalogManage) && self.inner.packages.is_installed_in(&mut transaction, id.as_str()).await? {
                let reason = "this server is installed, and what is installed is changed by administrators".to_owned();
                return Err(actor.denied(Action::CatalogManage, reason).into());
            }
            self.inner.servers.put_custom_in(&mut transaction, &id, &document).await?;
            if kept.as_ref().is_some_and(|kept| addresses(kept) != addresses(&document)) {
                // Secrets that were given for one address do not go to another one.
                self.inner.servers.renew_in(&mut transaction, &id).await?;
            }
            Some(document)
        } else {
            checked_beside(change)?;
            kept.clone()
        };
        if before.owner.is_none() {
            // How it was before anybody said anything of it.
            store::keep(&mut transaction, id.as_str(), &revision_of(before, None, "nobody", None)).await?;
        }
        self.write_in(&mut transaction, actor, action, &id, &access, document, change.note.clone()).await?;
        if access.visibility > before.visibility {
            // What it was while fewer saw it is not for those who see it now.
            self.inner.servers.keep_latest_in(&mut transaction, &id).await?;
        }
        let is_private = before.visibility == Visibility::Private && access.visibility == Visibility::Private;
        let private = before.owner.as_deref().filter(|_| is_private);
        self.inner.servers.announce_access_in(&mut transaction, private).await?;
        transaction.commit().await?;
        self.inner.servers.forget();
        self.get(actor, &ServerRef::Id(id)).await
    }

    /// Fails unless the actor may change this of a server.
    fn require_right(actor: &Actor, summary: &Summary, change: &Change) -> Result<(), CatalogError> {
        let access = &summary.access;
        if change
            .name
            .as_ref()
            .is_some_and(|name| ServerId::from_registry_name(name).map(|id| id.to_string()).ok() != Some(summary.id.clone()))
        {
            return Err(CatalogError::field("body.name", "cannot be changed: a server keeps its name"));
        }
        let is_of_document = change.is_of_document() || change.visibility.is_some();
        let Some(owner) = &access.owner else {
            if is_of_document {
                return Err(CatalogError::NotEditable(origin_of(summary)));
            }
            actor.require(Action::CatalogManage)?;
            return Ok(());
        };
        if !is_own(actor, owner) {
            let reason =
                if is_of_document { "this server is somebody else's" } else { "what is said of this server is its owner's matter" };
            if is_of_document || !actor.may(Action::CatalogManage) {
                return Err(actor.denied(Action::CatalogManage, reason.to_owned()).into());
            }
            return Ok(());
        }
        let mut after = access.clone();
        if access.visibility != Visibility::Public {
            after.visibility = change.visibility.unwrap_or(access.visibility);
        }
        Self::require_managed(actor, &after, change)
    }

    #[expect(clippy::too_many_arguments, reason = "all that a revision is made of")]
    pub(crate) async fn write_in(
        &self,
        transaction: &mut PgConnection,
        actor: &Actor,
        action: &'static str,
        id: &ServerId,
        access: &Access,
        document: Option<Value>,
        note: Option<String>,
    ) -> Result<(), CatalogError> {
        self.inner.servers.set_access_in(transaction, id, access).await?;
        store::keep(transaction, id.as_str(), &revision_of(access, document, &actor.to_string(), note)).await?;
        store::prune(transaction, id.as_str(), MOST_REVISIONS).await?;
        let told = NewEvent::change(action).on("server", id).server(id.as_str()).with("revision", access.revision);
        let told = told.with("visibility", access.visibility.as_str()).with("hidden", access.is_hidden);
        self.inner.audit.record_in(transaction, actor, told.of(access.owner.clone().unwrap_or_else(|| actor.to_string()))).await?;
        Ok(())
    }

    /// Removes a server that was made here; who has it configured is told that it is switched off.
    pub async fn remove(&self, actor: &Actor, server: &ServerRef, expected: Option<i64>) -> Result<(), CatalogError> {
        actor.require(Action::CatalogWrite)?;
        let (_turn, mut transaction) = self.inner.servers.begin_alone().await?;
        let found = self.found(actor, server).await?;
        actor.require_server(Action::CatalogWrite, &found.id)?;
        let Some(owner) = &found.access.owner else {
            if found.origin == Origin::Custom {
                return Err(CatalogError::Installed(found.id));
            }
            return Err(CatalogError::NotEditable(origin_of(&found)));
        };
        let is_managed = found.access.visibility == Visibility::Public || found.access.is_hidden || !is_own(actor, owner);
        if is_managed && !actor.may(Action::CatalogManage) {
            let reason = "this server is somebody else's, or public, or hidden: administrators remove it";
            return Err(actor.denied(Action::CatalogManage, reason.to_owned()).into());
        }
        if expected.is_some_and(|expected| expected != found.access.revision) {
            return Err(CatalogError::Stale(found.access.revision));
        }
        if self.inner.packages.is_installed_in(&mut transaction, &found.id).await? {
            return Err(CatalogError::Installed(found.id));
        }
        // What is wanted of it ends with it.
        for wanted in self.inner.configurations.enabled_for(&found.id).await? {
            self.inner.configurations.give_up_in(&mut transaction, &Actor::system("catalog"), &wanted, "server_removed").await?;
        }
        let id = ServerId::parse(&found.id).map_err(ServersError::from)?;
        if !self.erase_in(&mut transaction, &id).await? {
            return Err(ServersError::NotFound.into());
        }
        let told = NewEvent::change("catalog.delete").on("server", &id).server(id.as_str()).of(owner);
        self.inner.audit.record_in(&mut transaction, actor, told).await?;
        let private = (found.access.visibility == Visibility::Private).then_some(owner.as_str());
        self.inner.servers.announce_access_in(&mut transaction, private).await?;
        transaction.commit().await?;
        self.inner.servers.forget();
        Ok(())
    }

    /// Removes all that is kept of a server that was made here, but for its name.
    async fn erase_in(&self, transaction: &mut PgConnection, id: &ServerId) -> Result<bool, CatalogError> {
        let was_there = self.inner.servers.erase_custom_in(transaction, id, true).await?;
        store::forget(transaction, id.as_str()).await?;
        let nobodys = Access {
            owner: None,
            created_by: None,
            visibility: Visibility::Public,
            is_hidden: false,
            is_denied: false,
            metadata: json!({}),
            revision: 1,
        };
        self.inner.servers.set_access_in(transaction, id, &nobodys).await?;
        Ok(was_there)
    }

    /// What is private goes with its owner; what others may use stays, in the operator's hands. Nobody stands behind it for that.
    async fn erase_person_in(&self, transaction: &mut PgConnection, owner: &str) -> Result<usize, CatalogError> {
        self.inner.servers.lock_in(transaction).await?;
        let own = self.inner.servers.owned_in(transaction, owner).await?;
        for (id, is_private) in &own {
            if *is_private {
                self.erase_in(transaction, id).await?;
            } else {
                self.inner.servers.hand_over_in(transaction, id, ERASED).await?;
            }
        }
        store::forget_person(transaction, owner).await?;
        if !own.is_empty() {
            self.inner.servers.announce_access_in(transaction, None).await?;
        }
        Ok(own.len())
    }
}

/// The operator may what every owner may.
pub(crate) fn is_own(actor: &Actor, owner: &str) -> bool {
    Viewer::of(actor) == Viewer::All || actor.to_string() == owner
}

/// Where a server is, by its document: addresses with variables are theirs with all that these may be.
fn addresses(document: &Value) -> Vec<Value> {
    let remotes = document["remotes"].as_array().cloned().unwrap_or_default();
    let address = |remote: Value| match remote["url"].as_str() {
        Some(url) if !url.contains('{') => json!([remote["type"], url]),
        _ => remote,
    };
    remotes.into_iter().map(address).collect()
}

fn origin_of(summary: &Summary) -> &'static str {
    match summary.origin {
        Origin::Upstream => "the mirrored registry",
        Origin::Predefined => "this program",
        Origin::Custom => "an installed package",
        Origin::Generated => "the factory",
    }
}

fn checked(id: &ServerId, now: Option<&Value>, change: &Change) -> Result<Value, CatalogError> {
    let beside = wrong_beside(change);
    match document::of_change(id, now, change) {
        Ok(document) if beside.is_empty() => Ok(document),
        Ok(_) => Err(CatalogError::Fields(beside)),
        Err(wrong) => Err(CatalogError::Fields(wrong.into_iter().chain(beside).collect())),
    }
}

fn checked_beside(change: &Change) -> Result<(), CatalogError> {
    let wrong = wrong_beside(change);
    if wrong.is_empty() { Ok(()) } else { Err(CatalogError::Fields(wrong)) }
}

/// What is wrong beside the document.
fn wrong_beside(change: &Change) -> Vec<FieldError> {
    let mut wrong = change.metadata.as_ref().map(document::unfit_metadata).unwrap_or_default();
    if change.note.as_ref().is_some_and(|note| note.chars().count() > LONGEST_NOTE || note.chars().any(char::is_control)) {
        wrong.push(FieldError::new("body.note", format!("must be at most {LONGEST_NOTE} characters on one line")));
    }
    wrong
}

fn revision_of(access: &Access, document: Option<Value>, changed_by: &str, note: Option<String>) -> Revision {
    Revision {
        number: access.revision,
        document,
        metadata: access.metadata.clone(),
        visibility: access.visibility,
        is_hidden: access.is_hidden,
        changed_by: changed_by.to_owned(),
        changed_at: clock::now(),
        note,
    }
}

impl Belongings for Catalog {
    fn erase<'a>(&'a self, transaction: &'a mut PgConnection, user: UserId) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let owner = format!("user:{user}");
            let count = self.erase_person_in(transaction, &owner).await.map_err(|error| error.to_string())?;
            if count > 0 {
                let event = NewEvent::change("catalog.erase").with("count", count).of(owner);
                let recorded = self.inner.audit.record_in(transaction, &Actor::system("erase"), event).await;
                recorded.map_err(|error| error.to_string())?;
            }
            Ok(())
        }
        .boxed()
    }
}
