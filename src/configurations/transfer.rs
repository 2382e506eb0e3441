//! Many configurations at once: given, exported, imported.

use std::collections::{BTreeMap, BTreeSet};

use audit::{EventType, NewEvent};
use platform::{Action, Actor, FieldError, secrets::SECRET};
use serde::Serialize;
use serde_json::Value;
use servers::{DeclaredInput, ServerRef, ServersError, Viewer};
use utoipa::ToSchema;

use crate::{
    Configurations,
    error::ConfigurationsError,
    inputs,
    model::{Change, Configuration, Lifecycle, Limits, Restart, Sharing, Standing, plain},
    service::Shown,
    transfer_routes,
};

/// How many configurations one call may be about.
pub(crate) const MOST: usize = 1000;

platform::words! {
    /// What becomes of what is there already.
    pub enum Strategy {
        /// What is given counts and nothing else: other configurations are archived, other values go.
        Replace = "replace",
        /// What is given lies over what is there.
        Overlay = "overlay",
        /// What is there stays as it is; only new ones are made.
        Append = "append",
    }
}

/// What came, or would come, of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// There was none.
    Created,
    /// It was another one.
    Changed,
    /// It was so before.
    Unchanged,
    /// It stays as it is, whatever is given.
    Kept,
    /// It was not given, and is archived.
    Archived,
}

/// What is wanted of a server, as somebody named it there.
pub(crate) struct Given {
    /// Where it stands in what was sent: `body.servers[3]`.
    pub(crate) place: String,
    pub(crate) server: String,
    pub(crate) change: Change,
    /// What could not be taken over, in sentences.
    pub(crate) notes: Vec<String>,
}

/// What is to become of one server.
pub(crate) struct Planned {
    pub(crate) server_id: String,
    pub(crate) outcome: Outcome,
    /// What is another one: `enabled`, `values.REGION`.
    pub(crate) fields: Vec<String>,
    pub(crate) notes: Vec<String>,
    change: Change,
}

impl Configurations {
    /// All of the actor's own, without secrets: `[secret]` stands for what the vault has.
    pub(crate) async fn export(&self, actor: &Actor) -> Result<Vec<Configuration>, ConfigurationsError> {
        let mut all = Vec::new();
        for own in self.all_of(actor, u16::MAX.into()).await? {
            match self.get(actor, &server(&own.server_id)?).await {
                Ok(Shown { configuration, .. }) => all.push(configuration),
                // It went from the catalogue meanwhile.
                Err(ConfigurationsError::NotFound | ConfigurationsError::Servers(ServersError::NotFound)) => {}
                Err(error) => return Err(error),
            }
        }
        let told = NewEvent::new(EventType::DataAccess, "configuration.export").with("servers", all.len());
        self.record(actor, told).await?;
        Ok(all)
    }

    /// One of the actor's own, as an export has it.
    pub async fn exported(&self, actor: &Actor, server: &ServerRef) -> Result<Value, ConfigurationsError> {
        let Shown { configuration, .. } = self.get(actor, server).await?;
        self.record(actor, NewEvent::new(EventType::DataAccess, "configuration.export").server(&configuration.server_id)).await?;
        Ok(transfer_routes::exported(configuration))
    }

    /// Takes many at once. All that cannot be used are told together, and then nothing is changed; `dry_run` only says what
    /// would be.
    pub(crate) async fn import(
        &self,
        actor: &Actor,
        given: Vec<Given>,
        strategy: Strategy,
        dry_run: bool,
    ) -> Result<Vec<Planned>, ConfigurationsError> {
        actor.require(Action::ConfigurationsWrite)?;
        let mut planned = self.plan(actor, given, strategy).await?;
        if dry_run {
            return Ok(planned);
        }
        let told = NewEvent::new(EventType::BulkOperation, "configuration.import").with("servers", planned.len());
        self.record(actor, told.with("strategy", strategy.as_str())).await?;
        for one in &mut planned {
            let server = server(&one.server_id)?;
            match one.outcome {
                Outcome::Created | Outcome::Changed => {
                    self.put(actor, &server, std::mem::take(&mut one.change), None).await?;
                }
                Outcome::Archived => self.archive(actor, &server, None).await?,
                Outcome::Unchanged | Outcome::Kept => {}
            }
        }
        Ok(planned)
    }

    /// Looks whether one change fits all of these servers; what does not is told by the place and the id of each.
    pub async fn fit_all(&self, actor: &Actor, servers: &[String], place: &str, change: &Change) -> Result<(), ConfigurationsError> {
        let mut wrong = Vec::new();
        for server in servers {
            match self.fit(actor, place, server, change).await {
                Ok((_, inputs)) => wrong.extend(secrets_in(change, &inputs).map(|name| {
                    let message = format!("{server}: is a secret, which waits for nobody outside the vault; give it as a credential");
                    FieldError::new(format!("{place}.values.{name}"), message)
                })),
                Err(ConfigurationsError::Fields(fields)) => {
                    wrong.extend(fields.into_iter().map(|field| FieldError::new(field.location, format!("{server}: {}", field.message))));
                }
                Err(error) => return Err(error),
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(ConfigurationsError::Fields(wrong)) }
    }

    /// What a file would change, server by server: a change, or nothing of what is to be archived. Secrets are not kept until
    /// somebody gets to them, so a file that has some is refused.
    pub async fn changes_of(
        &self,
        actor: &Actor,
        file: serde_json::Map<String, Value>,
        place: &str,
        strategy: Strategy,
    ) -> Result<Vec<(String, Option<Change>)>, ConfigurationsError> {
        actor.require(Action::ConfigurationsWrite)?;
        let given = transfer_routes::read(self, file, place).await?;
        let planned = self.plan(actor, given, strategy).await?;
        let (mut changes, mut wrong) = (Vec::new(), Vec::new());
        for one in planned {
            let inputs = match one.outcome {
                Outcome::Archived => Vec::new(),
                _ => self.inner.servers.inputs(&Viewer::of(actor), &server(&one.server_id)?).await?.1,
            };
            for name in secrets_in(&one.change, &inputs) {
                let message =
                    format!("{}: is a secret; it is taken by POST /api/mcp/users/me/servers/import, or as a credential", one.server_id);
                wrong.push(FieldError::new(format!("{place}.{name}"), message));
            }
            match one.outcome {
                Outcome::Archived => changes.push((one.server_id, None)),
                Outcome::Created | Outcome::Changed | Outcome::Unchanged => changes.push((one.server_id, Some(one.change))),
                Outcome::Kept => {}
            }
        }
        if wrong.is_empty() { Ok(changes) } else { Err(ConfigurationsError::Fields(wrong)) }
    }

    async fn plan(&self, actor: &Actor, given: Vec<Given>, strategy: Strategy) -> Result<Vec<Planned>, ConfigurationsError> {
        if given.len() > MOST {
            return Err(ConfigurationsError::Fields(vec![FieldError::new("body.servers", format!("may be {MOST} at most"))]));
        }
        let own = self.all_of(actor, u16::MAX.into()).await?;
        let own: BTreeMap<&str, &Configuration> = own.iter().map(|own| (own.server_id.as_str(), own)).collect();
        let (mut planned, mut wrong, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        for one in given {
            let place = one.place.clone();
            match self.plan_one(actor, one, strategy, &own).await {
                Ok(one) if !seen.insert(one.server_id.clone()) => {
                    wrong.push(FieldError::new(place, format!("is about `{}` a second time", one.server_id)));
                }
                Ok(one) => planned.push(one),
                Err(ConfigurationsError::Fields(fields)) => wrong.extend(fields),
                Err(error) => return Err(error),
            }
        }
        if !wrong.is_empty() {
            return Err(ConfigurationsError::Fields(wrong));
        }
        if strategy == Strategy::Replace {
            let left = own.keys().filter(|id| !seen.contains(**id));
            planned.extend(left.map(|id| Planned {
                server_id: (*id).to_owned(),
                outcome: Outcome::Archived,
                fields: Vec::new(),
                notes: Vec::new(),
                change: Change::default(),
            }));
        }
        Ok(planned)
    }

    async fn plan_one(
        &self,
        actor: &Actor,
        given: Given,
        strategy: Strategy,
        own: &BTreeMap<&str, &Configuration>,
    ) -> Result<Planned, ConfigurationsError> {
        let Given { place, server, mut change, notes } = given;
        let (server_id, inputs) = self.fit(actor, &place, &server, &change).await?;
        let Some(known) = own.get(server_id.as_str()) else {
            return Ok(Planned { server_id, outcome: Outcome::Created, fields: Vec::new(), notes, change });
        };
        if strategy == Strategy::Append {
            return Ok(Planned { server_id, outcome: Outcome::Kept, fields: Vec::new(), notes, change });
        }
        if strategy == Strategy::Replace {
            complete(&mut change, known);
        }
        let fields = difference(&change, known, &inputs);
        let outcome = if fields.is_empty() { Outcome::Unchanged } else { Outcome::Changed };
        Ok(Planned { server_id, outcome, fields, notes, change })
    }

    /// Looks whether a change fits the server that is named; what does not is told by its place.
    pub(crate) async fn fit(
        &self,
        actor: &Actor,
        place: &str,
        server: &str,
        change: &Change,
    ) -> Result<(String, Vec<DeclaredInput>), ConfigurationsError> {
        let unfit = |below: &str, message: String| ConfigurationsError::Fields(vec![FieldError::new(format!("{place}{below}"), message)]);
        let found = match server.parse::<ServerRef>() {
            Ok(server) => self.server(actor, Action::ConfigurationsWrite, &server).await,
            Err(error) => Err(ServersError::from(error).into()),
        };
        let (server_id, inputs) = found.map_err(|error| match error {
            ConfigurationsError::Servers(ServersError::NotFound | ServersError::InvalidId(_)) => {
                unfit(".server_id", "is no server of the catalogue".into())
            }
            ConfigurationsError::Servers(ServersError::Denied) => {
                unfit(".server_id", "is a server that administrators do not allow".into())
            }
            ConfigurationsError::Forbidden(_) => unfit(".server_id", "is a server that your token is not for".into()),
            error => error,
        })?;
        if change.sharing == Some(Sharing::Shared) && !actor.may(Action::ConfigurationsShare) {
            return Err(unfit(".sharing", "`shared` is for administrators".into()));
        }
        if let Some((limit, message)) = change.limits.as_ref().and_then(Limits::unfit) {
            return Err(unfit(&format!(".limits.{limit}"), message.into()));
        }
        inputs::part(&inputs, change.values.clone()).map_err(|error| match error {
            ConfigurationsError::Field(location, message) => unfit(location.trim_start_matches("body"), message.into()),
            error => error,
        })?;
        Ok((server_id, inputs))
    }
}

/// The secrets that a change gives.
fn secrets_in<'a>(change: &'a Change, inputs: &'a [DeclaredInput]) -> impl Iterator<Item = &'a String> {
    let is_secret = |name: &String| inputs.iter().any(|input| input.secret && input.env_var == *name);
    change.values.iter().filter(move |(name, value)| !value.is_null() && **value != SECRET && is_secret(name)).map(|(name, _)| name)
}

/// What is not given is as in a new configuration.
fn complete(change: &mut Change, known: &Configuration) {
    for name in known.values.keys() {
        change.values.entry(name.clone()).or_insert(Value::Null);
    }
    change.enabled.get_or_insert(false);
    change.limits.get_or_insert(Limits::default());
    change.restart.get_or_insert(Restart::OnFailure);
    change.lifecycle.get_or_insert(Lifecycle::Persistent);
    change.sharing.get_or_insert(Sharing::PerUser);
}

/// What would be another one. Of a secret that is given, nobody can tell.
fn difference(change: &Change, known: &Configuration, inputs: &[DeclaredInput]) -> Vec<String> {
    let mut fields = Vec::new();
    let mut note = |name: &str, differs: bool| fields.extend(differs.then(|| name.to_owned()));
    note("enabled", change.enabled.is_some_and(|wanted| wanted != known.enabled));
    note("limits", change.limits.is_some_and(|wanted| wanted != known.limits));
    note("restart", change.restart.is_some_and(|wanted| wanted != known.restart));
    note("lifecycle", change.lifecycle.is_some_and(|wanted| wanted != known.lifecycle));
    note("sharing", change.sharing.is_some_and(|wanted| wanted != known.sharing));
    note("status", known.status == Standing::Archived);
    for (name, value) in &change.values {
        let is_secret = inputs.iter().any(|input| input.secret && input.env_var == *name);
        let differs = match (value, known.values.get(name)) {
            (Value::Null, now) => now.is_some(),
            (Value::String(text), _) if is_secret => text != SECRET,
            (value, now) => now.is_none_or(|now| plain(now) != plain(value)),
        };
        note(&format!("values.{name}"), differs);
    }
    fields
}

fn server(id: &str) -> Result<ServerRef, ConfigurationsError> {
    Ok(id.parse::<ServerRef>().map_err(ServersError::from)?)
}
