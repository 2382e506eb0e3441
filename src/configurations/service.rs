use std::{collections::BTreeSet, sync::Arc};

use audit::{Audit, NewEvent};
use credentials::Credentials;
use events::Kind;
use futures_util::{FutureExt as _, future::BoxFuture};
use platform::{Action, Actor, Database, clock, ids, secrets::SECRET};
use serde_json::{Value, json};
use servers::{DeclaredInput, ServerRef, Servers, Viewer, uuid_of};
use sqlx::PgConnection;
use users::{Belongings, UserId};

use crate::{
    error::ConfigurationsError,
    inputs,
    model::{Change, Configuration, Limits, Sharing, Standing},
    store, templates,
};

/// The event that says that somebody wants something else of a server.
pub static CONFIGURATION_CHANGED: Kind = Kind {
    name: "CONFIGURATION_CHANGED",
    channel: "configurations",
    told: "When somebody wants something else of a server.",
    heard_by: "Whose configuration it is, and the operator.",
    payload: &[
        ("serverId", "the server's UUID"),
        ("configurationId", "the configuration"),
        ("enabled", "whether it is to run"),
        ("status", "`active` or `archived`"),
        ("revision", "of the configuration, for `If-Match`"),
    ],
};

/// What users want of servers; cheap to clone.
#[derive(Clone)]
pub struct Configurations {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) database: Database,
    pub(crate) audit: Audit,
    pub(crate) servers: Servers,
    credentials: Credentials,
}

/// A configuration as its owner sees it.
pub struct Shown {
    /// With `[secret]` for what the vault has.
    pub configuration: Configuration,
    /// What the server needs and was not given.
    pub missing: Vec<String>,
}

impl Configurations {
    /// The service.
    pub fn new(database: Database, audit: Audit, servers: Servers, credentials: Credentials) -> Self {
        Self { inner: Arc::new(Inner { database, audit, servers, credentials }) }
    }

    /// The catalogue.
    pub(crate) fn servers(&self) -> &Servers {
        &self.inner.servers
    }

    /// Tells the trail.
    pub(crate) async fn record(&self, actor: &Actor, told: NewEvent) -> Result<(), ConfigurationsError> {
        Ok(self.inner.audit.record(actor, told.of(actor.to_string())).await.map(drop)?)
    }

    /// The server that is meant, if the actor's token is for it.
    pub(crate) async fn server(
        &self,
        actor: &Actor,
        action: Action,
        server: &ServerRef,
    ) -> Result<(String, Vec<DeclaredInput>), ConfigurationsError> {
        actor.require(action)?;
        let (id, inputs) = self.inner.servers.inputs(&Viewer::of(actor), server).await?;
        actor.require_server(action, &id)?;
        Ok((id, inputs))
    }

    /// The actor's own, by server.
    pub(crate) async fn list(
        &self,
        actor: &Actor,
        status: Standing,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Configuration>, ConfigurationsError> {
        actor.require(Action::ConfigurationsRead)?;
        let mut transaction = self.inner.database.begin(actor).await?;
        Ok(store::list(&mut transaction, &actor.to_string(), actor.servers(), status, after, limit.into()).await?)
    }

    /// All of the actor's own that count, so many at most.
    pub async fn all_of(&self, actor: &Actor, limit: usize) -> Result<Vec<Configuration>, ConfigurationsError> {
        self.list(actor, Standing::Active, "", u32::try_from(limit).unwrap_or(u32::MAX)).await
    }

    /// The actor's own for one server.
    pub(crate) async fn get(&self, actor: &Actor, server: &ServerRef) -> Result<Shown, ConfigurationsError> {
        let (id, inputs) = self.server(actor, Action::ConfigurationsRead, server).await?;
        let mut transaction = self.inner.database.begin(actor).await?;
        let found = store::get(&mut transaction, &actor.to_string(), &id).await?;
        drop(transaction);
        self.show(actor, found.ok_or(ConfigurationsError::NotFound)?, &inputs).await
    }

    /// Says of a configuration what the vault has for it, and what is missing.
    async fn show(&self, actor: &Actor, mut configuration: Configuration, inputs: &[DeclaredInput]) -> Result<Shown, ConfigurationsError> {
        let held = self.inner.credentials.held(actor, &configuration.server_id).await?;
        let mut missing = Vec::new();
        for input in inputs {
            let is_held = inputs::credential_of(input).is_ok_and(|name| held.contains(name.as_str()));
            if input.secret {
                // Also one from before the input was a secret.
                configuration.values.remove(&input.env_var);
            }
            if input.secret && is_held {
                configuration.values.insert(input.env_var.clone(), SECRET.into());
            }
            let is_given = is_held || configuration.values.contains_key(&input.env_var);
            if input.required && input.default_value.is_none() && !is_given {
                missing.push(input.env_var.clone());
            }
        }
        Ok(Shown { configuration, missing })
    }

    /// Makes or changes the actor's own for a server; one that was archived counts again. With `expected`, only over
    /// that revision. Secret values go into the vault first.
    pub(crate) async fn put(
        &self,
        actor: &Actor,
        server: &ServerRef,
        change: Change,
        expected: Option<i64>,
    ) -> Result<Shown, ConfigurationsError> {
        let (id, inputs) = self.server(actor, Action::ConfigurationsWrite, server).await?;
        if change.sharing == Some(Sharing::Shared) {
            actor.require(Action::ConfigurationsShare)?;
        }
        if let Some((limit, message)) = change.limits.as_ref().and_then(Limits::unfit) {
            return Err(ConfigurationsError::Field(format!("body.limits.{limit}"), message));
        }
        let parted = inputs::part(&inputs, change.values)?;
        if !parted.secret.is_empty() {
            let mut transaction = self.inner.database.begin(actor).await?;
            let known = store::get(&mut transaction, &actor.to_string(), &id).await?;
            drop(transaction);
            is_expected(known.as_ref(), expected)?;
            self.inner.credentials.store_inputs(actor, server, parted.secret).await?;
        }
        let mut transaction = self.inner.database.begin(actor).await?;
        let mut new = Self::hold_or_make(&mut transaction, &actor.to_string(), &id).await?;
        is_expected(Some(&new), expected)?;
        for (name, value) in parted.plain {
            if value == Value::Null {
                new.values.remove(&name)
            } else {
                new.values.insert(name, value)
            };
        }
        drop_secrets(&mut new, &inputs);
        new.enabled = change.enabled.unwrap_or(new.enabled);
        new.limits = change.limits.unwrap_or(new.limits);
        new.restart = change.restart.unwrap_or(new.restart);
        new.lifecycle = change.lifecycle.unwrap_or(new.lifecycle);
        new.sharing = change.sharing.unwrap_or(new.sharing);
        new.status = Standing::Active;
        self.write_in(&mut transaction, actor, "configuration.put", &mut new).await?;
        transaction.commit().await?;
        self.show(actor, new, &inputs).await
    }

    /// The same, as a part of something larger; gives the row.
    pub async fn apply(
        &self,
        actor: &Actor,
        server: &ServerRef,
        change: Change,
        expected: Option<i64>,
    ) -> Result<Configuration, ConfigurationsError> {
        let id = self.put(actor, server, change, expected).await?.configuration.server_id;
        self.of(&actor.to_string(), &id).await?.ok_or(ConfigurationsError::NotFound)
    }

    /// Makes the actor's own for a server what it was, with `expected` only over that revision, whatever became of the server.
    /// What is a secret by now is in the vault, and stays there as it is.
    pub async fn set_back(
        &self,
        actor: &Actor,
        server: &ServerRef,
        to: Change,
        status: Standing,
        expected: Option<i64>,
    ) -> Result<(), ConfigurationsError> {
        actor.require(Action::ConfigurationsWrite)?;
        let id = self.inner.servers.id_of(server).await?;
        actor.require_server(Action::ConfigurationsWrite, &id)?;
        let inputs = match self.inner.servers.inputs(&Viewer::All, server).await {
            Err(servers::ServersError::NotFound) => Vec::new(),
            inputs => inputs?.1,
        };
        let mut transaction = self.inner.database.begin(actor).await?;
        let held = store::hold(&mut transaction, &actor.to_string(), &id).await?;
        let mut new = held.ok_or(ConfigurationsError::NotFound)?;
        is_expected(Some(&new), expected)?;
        let Change { enabled, values, limits, restart, lifecycle, sharing } = to;
        new.values = values;
        new.values.retain(|name, value| *value != SECRET && !inputs.iter().any(|input| input.secret && input.env_var == *name));
        new.enabled = enabled.unwrap_or(false) && status == Standing::Active;
        new.limits = limits.unwrap_or(new.limits);
        new.restart = restart.unwrap_or(new.restart);
        new.lifecycle = lifecycle.unwrap_or(new.lifecycle);
        new.sharing = sharing.unwrap_or(new.sharing);
        new.status = status;
        self.write_in(&mut transaction, actor, "configuration.put", &mut new).await?;
        Ok(transaction.commit().await?)
    }

    /// Says whether the actor wants a server to run; gives the row, without what is shown in the place of secrets.
    pub async fn enable(&self, actor: &Actor, server: &ServerRef, enabled: bool) -> Result<Configuration, ConfigurationsError> {
        actor.require(Action::ConfigurationsWrite)?;
        if !enabled && let Some(off) = self.switch_off(actor, server).await? {
            return Ok(off);
        }
        let (id, inputs) = self.server(actor, Action::ConfigurationsWrite, server).await?;
        self.switch(actor, &id, enabled, &inputs).await
    }

    /// Switches off what the actor wanted, whatever became of the server; nothing where there is no configuration.
    async fn switch_off(&self, actor: &Actor, server: &ServerRef) -> Result<Option<Configuration>, ConfigurationsError> {
        let id = self.inner.servers.id_of(server).await?;
        actor.require_server(Action::ConfigurationsWrite, &id)?;
        let mut transaction = self.inner.database.begin(actor).await?;
        let held = store::hold(&mut transaction, &actor.to_string(), &id).await?;
        let Some(mut new) = held.filter(|held| !held.is_archived()) else { return Ok(None) };
        new.enabled = false;
        self.write_in(&mut transaction, actor, "configuration.put", &mut new).await?;
        transaction.commit().await?;
        Ok(Some(new))
    }

    /// Switches on a server that the actor may use, as they want it already.
    pub async fn enable_known(&self, actor: &Actor, server_id: &str) -> Result<Configuration, ConfigurationsError> {
        actor.require(Action::ConfigurationsWrite)?;
        actor.require_server(Action::ConfigurationsWrite, server_id)?;
        self.switch(actor, server_id, true, &[]).await
    }

    /// Switches a server on or off; `inputs` are those whose values may have become secret.
    async fn switch(
        &self,
        actor: &Actor,
        server_id: &str,
        enabled: bool,
        inputs: &[DeclaredInput],
    ) -> Result<Configuration, ConfigurationsError> {
        let mut transaction = self.inner.database.begin(actor).await?;
        let mut new = Self::hold_or_make(&mut transaction, &actor.to_string(), server_id).await?;
        drop_secrets(&mut new, inputs);
        new.enabled = enabled;
        new.status = Standing::Active;
        self.write_in(&mut transaction, actor, "configuration.put", &mut new).await?;
        transaction.commit().await?;
        Ok(new)
    }

    /// Switches off what cannot run, in its owner's place; the reason goes into the trail. Nothing happens where
    /// it has changed since.
    pub async fn give_up(&self, actor: &Actor, wanted: &Configuration, reason: &str) -> Result<(), ConfigurationsError> {
        let mut transaction = self.inner.database.begin_for_all().await?;
        self.give_up_in(&mut transaction, actor, wanted, reason).await?;
        Ok(transaction.commit().await?)
    }

    /// The same, when the transaction commits, which is for all owners.
    pub async fn give_up_in(
        &self,
        transaction: &mut PgConnection,
        actor: &Actor,
        wanted: &Configuration,
        reason: &str,
    ) -> Result<(), ConfigurationsError> {
        let held = store::hold(transaction, &wanted.owner, &wanted.server_id).await?;
        let Some(mut new) = held.filter(|held| held.enabled && held.revision == wanted.revision) else { return Ok(()) };
        new.enabled = false;
        tracing::info!(wanted.owner, wanted.server_id, reason, "a server is switched off");
        self.write_in(transaction, actor, "configuration.give_up", &mut new).await
    }

    /// Those of a server that are enabled, whosever they are.
    pub async fn enabled_for(&self, server_id: &str) -> Result<Vec<Configuration>, ConfigurationsError> {
        let mut connection = self.inner.database.for_all().await?;
        Ok(store::enabled_for(&mut connection, server_id).await?)
    }

    /// Everything that is to run, or that of some servers, whosever it is.
    pub async fn enabled(&self, servers: Option<&[String]>) -> Result<Vec<Configuration>, ConfigurationsError> {
        let mut connection = self.inner.database.for_all().await?;
        Ok(store::enabled(&mut connection, servers, None).await?)
    }

    /// What of it an owner may use: their own, and what is shared with everybody.
    pub async fn usable(&self, owner: &str) -> Result<Vec<Configuration>, ConfigurationsError> {
        let mut connection = self.inner.database.for_all().await?;
        Ok(store::enabled(&mut connection, None, Some(owner)).await?)
    }

    /// The configuration of an owner for a server, whoever asks.
    pub async fn of(&self, owner: &str, server_id: &str) -> Result<Option<Configuration>, ConfigurationsError> {
        let mut connection = self.inner.database.for_all().await?;
        Ok(store::get(&mut connection, owner, server_id).await?)
    }

    /// Which of these servers the actor wants to run.
    pub async fn enabled_of(&self, actor: &Actor, servers: &[String]) -> Result<BTreeSet<String>, ConfigurationsError> {
        let mut transaction = self.inner.database.begin(actor).await?;
        Ok(store::enabled_of(&mut transaction, &actor.to_string(), servers).await?.into_iter().collect())
    }

    /// Removes the actor's own for a server, so that it can be restored. The server may be gone from the catalogue.
    pub async fn archive(&self, actor: &Actor, server: &ServerRef, expected: Option<i64>) -> Result<(), ConfigurationsError> {
        actor.require(Action::ConfigurationsWrite)?;
        let id = self.inner.servers.id_of(server).await?;
        actor.require_server(Action::ConfigurationsWrite, &id)?;
        self.turn(actor, &id, expected, Standing::Archived, "configuration.archive").await.map(drop)
    }

    /// Brings back the actor's own for a server; it is not enabled.
    pub async fn restore(&self, actor: &Actor, server: &ServerRef, expected: Option<i64>) -> Result<Shown, ConfigurationsError> {
        let (id, inputs) = self.server(actor, Action::ConfigurationsWrite, server).await?;
        let restored = self.turn(actor, &id, expected, Standing::Active, "configuration.restore").await?;
        self.show(actor, restored, &inputs).await
    }

    async fn turn(
        &self,
        actor: &Actor,
        server_id: &str,
        expected: Option<i64>,
        to: Standing,
        action: &'static str,
    ) -> Result<Configuration, ConfigurationsError> {
        let mut transaction = self.inner.database.begin(actor).await?;
        let held = store::hold(&mut transaction, &actor.to_string(), server_id).await?;
        let mut new = held.filter(|held| held.status != to).ok_or(ConfigurationsError::NotFound)?;
        is_expected(Some(&new), expected)?;
        new.enabled = false;
        new.status = to;
        self.write_in(&mut transaction, actor, action, &mut new).await?;
        transaction.commit().await?;
        Ok(new)
    }

    /// The row of an owner for a server, held until the transaction ends.
    async fn hold_or_make(transaction: &mut PgConnection, owner: &str, server_id: &str) -> Result<Configuration, ConfigurationsError> {
        if let Some(held) = store::hold(transaction, owner, server_id).await? {
            return Ok(held);
        }
        if let Some(made) = store::ensure(transaction, ids::fresh(), owner, server_id, clock::now()).await? {
            return Ok(made);
        }
        // Somebody else made it meanwhile, unless there is no such server.
        let held = store::hold(transaction, owner, server_id).await?;
        held.ok_or(ConfigurationsError::Servers(servers::ServersError::NotFound))
    }

    /// Writes the next revision, with its entry in the trail and its event.
    async fn write_in(
        &self,
        transaction: &mut PgConnection,
        actor: &Actor,
        action: &'static str,
        new: &mut Configuration,
    ) -> Result<(), ConfigurationsError> {
        new.revision += 1;
        new.updated_at = clock::now();
        let told = NewEvent::change(action).on("configuration", new.id).server(&new.server_id);
        let told = told.with("enabled", new.enabled).with("revision", new.revision).of(&new.owner);
        self.inner.audit.record_in(transaction, actor, told).await?;
        let payload = json!({
            "serverId": uuid_of(&new.server_id), "configurationId": new.id, "enabled": new.enabled, "status": new.status,
            "revision": new.revision,
        });
        let event = events::NewEvent::of(&new.owner, &CONFIGURATION_CHANGED, payload).about(&new.server_id);
        Ok(store::write(transaction, new, &event.prepare()).await?)
    }
}

/// Values of inputs that are secret by now do not stay in a row.
fn drop_secrets(configuration: &mut Configuration, inputs: &[DeclaredInput]) {
    configuration.values.retain(|name, _| !inputs.iter().any(|input| input.secret && input.env_var == *name));
}

/// Whether a row has the revision that the caller knows; 0 for none.
fn is_expected(row: Option<&Configuration>, expected: Option<i64>) -> Result<(), ConfigurationsError> {
    let revision = row.map_or(0, |row| row.revision);
    if expected.is_none_or(|expected| expected == revision) { Ok(()) } else { Err(ConfigurationsError::Stale(revision)) }
}

impl Belongings for Configurations {
    fn erase<'a>(&'a self, transaction: &'a mut PgConnection, user: UserId) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let owner = format!("user:{user}");
            templates::erase(transaction, &owner).await.map_err(|error| error.to_string())?;
            for server in store::erase(transaction, &owner).await.map_err(|error| error.to_string())? {
                let event = NewEvent::change("configuration.erase").server(server).of(owner.clone());
                let recorded = self.inner.audit.record_in(transaction, &Actor::system("erase"), event).await;
                recorded.map_err(|error| error.to_string())?;
            }
            Ok(())
        }
        .boxed()
    }
}
