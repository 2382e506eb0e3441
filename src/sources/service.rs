use std::sync::Arc;

use audit::{Audit, NewEvent};
use credentials::Credentials;
use events::Events;
use futures_util::{FutureExt as _, future::BoxFuture};
use platform::{Action, Actor, Database, clock, secrets::SECRET};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};
use sqlx::PgConnection;
use users::{Belongings, UserId};
use uuid::Uuid;

use crate::{
    error::SourcesError,
    model::{Source, SourceId, part},
    store,
};

/// The event that says that a source is another one, or gone.
pub static SOURCE_CHANGED: events::Kind = events::Kind {
    name: "SOURCE_CHANGED",
    channel: "virtual_servers",
    told: "When a data source is made, changed or deleted.",
    heard_by: "Whose it is, and the operator.",
    payload: &[("sourceId", "the source"), ("revision", "of it, for `If-Match`"), ("deleted", "whether it is gone")],
};

/// Where the vault has secrets of sources.
const SCOPE: &str = "source";
const DELETED: &str = "source.delete";
const LONGEST_TYPE: usize = 255;

/// Data sources; cheap to clone.
#[derive(Clone)]
pub struct Sources {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    audit: Audit,
    events: Events,
    credentials: Credentials,
}

fn fit_type(kind: &str) -> Result<String, SourcesError> {
    let kind = kind.trim();
    let is_fit = !kind.is_empty() && kind.len() <= LONGEST_TYPE && !kind.chars().any(char::is_control);
    if is_fit { Ok(kind.to_owned()) } else { Err(SourcesError::Field("body.type", "must be 1 to 255 characters on one line")) }
}

impl Sources {
    /// The service.
    pub fn new(database: Database, audit: Audit, events: Events, credentials: Credentials) -> Self {
        Self { inner: Arc::new(Inner { database, audit, events, credentials }) }
    }

    /// Makes a source of the actor's own.
    pub(crate) async fn create(&self, actor: &Actor, kind: &str, mut metadata: Map<String, Value>) -> Result<Source, SourcesError> {
        actor.require(Action::SourcesWrite)?;
        let secrets = parted(&mut metadata)?;
        let (id, now) = (SourceId::fresh(), clock::now());
        let owner = actor.to_string();
        let source = Source { id, owner, kind: fit_type(kind)?, metadata, revision: 1, created_at: now, updated_at: now };
        let mut transaction = self.inner.database.begin(actor).await?;
        store::create(&mut transaction, &source, actor.user()).await?;
        self.tell_in(&mut transaction, actor, "source.create", &source).await?;
        // Last, and on another connection: what cannot be kept leaves no secret behind.
        self.seal(&source, &secrets).await?;
        transaction.commit().await?;
        Ok(source)
    }

    /// The actor's own, by id.
    pub(crate) async fn list(&self, actor: &Actor, after: Option<SourceId>, limit: u32) -> Result<Vec<Source>, SourcesError> {
        actor.require(Action::SourcesRead)?;
        let mut transaction = self.inner.database.begin(actor).await?;
        Ok(store::list(&mut transaction, &actor.to_string(), after.map(|after| after.0), limit.into()).await?)
    }

    /// One of the actor's own.
    pub(crate) async fn get(&self, actor: &Actor, id: SourceId) -> Result<Source, SourcesError> {
        actor.require(Action::SourcesRead)?;
        let mut transaction = self.inner.database.begin(actor).await?;
        store::get(&mut transaction, &actor.to_string(), id.0).await?.ok_or(SourcesError::NotFound)
    }

    /// Changes one of the actor's own; what is not named stays. `[secret]` in its place leaves a secret as it is.
    pub(crate) async fn update(
        &self,
        actor: &Actor,
        id: SourceId,
        kind: Option<&str>,
        metadata: Option<Map<String, Value>>,
        expected: Option<i64>,
    ) -> Result<Source, SourcesError> {
        actor.require(Action::SourcesWrite)?;
        let kind = kind.map(fit_type).transpose()?;
        let mut transaction = self.inner.database.begin(actor).await?;
        let held = store::hold(&mut transaction, &actor.to_string(), id.0).await?;
        let mut source = held.ok_or(SourcesError::NotFound)?;
        if expected.is_some_and(|expected| expected != source.revision) {
            return Err(SourcesError::Stale(source.revision));
        }
        let mut sealed = None;
        if let Some(mut metadata) = metadata {
            let mut secrets = self.secrets(&source).await?;
            secrets.append(&mut parted(&mut metadata)?);
            let given = Value::Object(metadata.clone());
            secrets.retain(|place, _| given.pointer(place).is_some_and(|there| there == SECRET));
            source.metadata = metadata;
            sealed = Some(secrets);
        }
        source.kind = kind.unwrap_or(source.kind);
        source.revision += 1;
        source.updated_at = clock::now();
        store::write(&mut transaction, &source).await?;
        self.tell_in(&mut transaction, actor, "source.update", &source).await?;
        if let Some(secrets) = sealed {
            self.seal(&source, &secrets).await?;
        }
        transaction.commit().await?;
        Ok(source)
    }

    /// Removes one of the actor's own; virtual servers forget it.
    pub(crate) async fn remove(&self, actor: &Actor, id: SourceId, expected: Option<i64>) -> Result<(), SourcesError> {
        actor.require(Action::SourcesWrite)?;
        let mut transaction = self.inner.database.begin(actor).await?;
        let source = store::hold(&mut transaction, &actor.to_string(), id.0).await?.ok_or(SourcesError::NotFound)?;
        if expected.is_some_and(|expected| expected != source.revision) {
            return Err(SourcesError::Stale(source.revision));
        }
        store::remove(&mut transaction, id.0).await?;
        self.tell_in(&mut transaction, actor, DELETED, &source).await?;
        transaction.commit().await?;
        Ok(self.inner.credentials.forget_secret(name(&source, &id.to_string())).await?)
    }

    /// The types of those of these sources that an owner has, by their ids.
    pub async fn kinds(&self, owner: &str, ids: &[String]) -> Result<Vec<(String, String)>, SourcesError> {
        let ids: Vec<Uuid> = ids.iter().filter_map(|id| id.parse().ok()).collect();
        let mut connection = self.inner.database.for_all().await?;
        let found = store::kinds(&mut connection, owner, &ids).await?;
        Ok(found.into_iter().map(|(id, kind)| (id.to_string(), kind)).collect())
    }

    async fn secrets(&self, source: &Source) -> Result<Map<String, Value>, SourcesError> {
        let sealed = self.inner.credentials.open_secret(name(source, &source.id.to_string())).await?;
        Ok(sealed.and_then(|sealed| serde_json::from_str(sealed.expose_secret()).ok()).unwrap_or_default())
    }

    async fn seal(&self, source: &Source, secrets: &Map<String, Value>) -> Result<(), SourcesError> {
        let id = source.id.to_string();
        if secrets.is_empty() {
            return Ok(self.inner.credentials.forget_secret(name(source, &id)).await?);
        }
        let text = SecretString::from(serde_json::to_string(secrets).unwrap_or_default());
        Ok(self.inner.credentials.seal_secret(name(source, &id), &text).await?)
    }

    async fn tell_in(
        &self,
        transaction: &mut PgConnection,
        actor: &Actor,
        action: &'static str,
        source: &Source,
    ) -> Result<(), SourcesError> {
        let told = NewEvent::change(action).on("source", source.id).with("type", source.kind.clone()).with("revision", source.revision);
        self.inner.audit.record_in(transaction, actor, told.of(&source.owner)).await?;
        let payload = json!({ "sourceId": source.id, "revision": source.revision, "deleted": action == DELETED });
        Ok(self.inner.events.publish_in(transaction, events::NewEvent::of(&source.owner, &SOURCE_CHANGED, payload)).await?)
    }
}

fn name<'a>(source: &'a Source, id: &'a str) -> [&'a str; 3] {
    [&source.owner, SCOPE, id]
}

fn parted(metadata: &mut Map<String, Value>) -> Result<Map<String, Value>, SourcesError> {
    let unfit = "values of keys that look like secrets must be texts, and objects lie at most 16 deep";
    part(metadata).ok_or(SourcesError::Field("body.metadata", unfit))
}

impl Belongings for Sources {
    fn erase<'a>(&'a self, transaction: &'a mut PgConnection, user: UserId) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let owner = format!("user:{user}");
            let count = store::erase(transaction, &owner).await.map_err(|error| error.to_string())?;
            self.inner.credentials.forget_secrets_of(&owner, SCOPE).await.map_err(|error| error.to_string())?;
            if count > 0 {
                let event = NewEvent::change("source.erase").with("count", count).of(owner);
                let recorded = self.inner.audit.record_in(transaction, &Actor::system("erase"), event).await;
                recorded.map_err(|error| error.to_string())?;
            }
            Ok(())
        }
        .boxed()
    }
}
