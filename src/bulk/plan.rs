//! Which servers are meant, and what would be done to each.

use std::collections::BTreeSet;

use platform::{Actor, FieldError};
use serde::{Deserialize, Serialize};
use servers::{Filter, Origin, ServerId, ServerRef, ServersError, Viewer};
use utoipa::ToSchema;

use crate::{
    Bulk,
    error::BulkError,
    model::{Before, Configured, Operation, Wanted},
};

/// How many servers an operation may be over.
pub(crate) const MOST_SERVERS: usize = 1000;

/// How long a search may be, in characters.
const MAX_SEARCH: usize = 200;

/// Servers by what they are.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Which {
    /// Words to find in name, title and description.
    pub(crate) search: Option<String>,
    pub(crate) category: Option<String>,
    /// With a package of this type.
    #[serde(alias = "registryType")]
    pub(crate) registry_type: Option<String>,
    pub(crate) origin: Option<Origin>,
    /// Of what you have configured: what is to run, or is not.
    pub(crate) enabled: Option<bool>,
}

/// A server that something is to be done to.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) server_id: String,
    /// What is wanted of it, where a template or a file says that.
    pub(crate) wanted: Option<Wanted>,
}

/// What would be done to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// It would be another one.
    Change,
    /// It is so already.
    Unchanged,
}

impl Bulk {
    /// The servers that are named, each once. All that cannot be used are told at once.
    pub(crate) async fn named(&self, actor: &Actor, operation: Operation, named: &[String]) -> Result<Vec<String>, BulkError> {
        if named.is_empty() || named.len() > MOST_SERVERS {
            return Err(BulkError::field("body.server_ids", format!("must be 1 to {MOST_SERVERS} servers")));
        }
        let (mut found, mut wrong, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        for (position, text) in named.iter().enumerate() {
            let id = match text.parse::<ServerRef>() {
                // What is wanted of a server outlives it, and can be given up whatever became of it.
                Ok(server) if matches!(operation, Operation::Delete | Operation::Disable | Operation::Stop) => {
                    self.inner.servers.id_of(&server).await
                }
                Ok(server) => self.inner.servers.inputs(&Viewer::of(actor), &server).await.map(|(id, _)| id),
                Err(error) => Err(error.into()),
            };
            match id {
                Ok(id) if actor.require_server(operation.action(), &id).is_ok() => {
                    if seen.insert(id.clone()) {
                        found.push(id);
                    }
                }
                Ok(_) => wrong.push(FieldError::new(format!("body.server_ids[{position}]"), "is a server that your token is not for")),
                Err(ServersError::NotFound | ServersError::InvalidId(_)) => {
                    wrong.push(FieldError::new(format!("body.server_ids[{position}]"), "is no server of the catalogue"));
                }
                Err(ServersError::Denied) => {
                    wrong.push(FieldError::new(format!("body.server_ids[{position}]"), "is a server that administrators do not allow"));
                }
                Err(error) => return Err(error.into()),
            }
        }
        if wrong.is_empty() { Ok(found) } else { Err(BulkError::Fields(wrong)) }
    }

    /// The servers that a filter finds: of the catalogue, or of what the actor has configured.
    pub(crate) async fn found(&self, actor: &Actor, operation: Operation, which: Which) -> Result<Vec<String>, BulkError> {
        let of_catalogue = operation.is_of_catalogue();
        if of_catalogue && which.enabled.is_some() {
            return Err(BulkError::field("body.filter.enabled", format!("is of configurations, and `{operation}` is of the catalogue")));
        }
        if which.search.as_ref().is_some_and(|text| text.chars().count() > MAX_SEARCH) {
            return Err(BulkError::field("body.filter.search", format!("is longer than {MAX_SEARCH} characters")));
        }
        let among = if of_catalogue {
            actor.servers().map(<[String]>::to_vec)
        } else {
            let own = self.inner.configurations.all_of(actor, u16::MAX.into()).await?;
            Some(
                own.into_iter().filter(|own| which.enabled.is_none_or(|enabled| own.enabled == enabled)).map(|own| own.server_id).collect(),
            )
        };
        let Which { search, category, registry_type, origin, enabled: _ } = which;
        let (viewer, origins) = (Viewer::of(actor), origin.into_iter().collect());
        let with_unlisted = !of_catalogue;
        let filter = Filter { viewer, with_unlisted, search, category, registry_type, origins, among, ..Filter::default() };
        let found = self.inner.servers.find(&filter, MOST_SERVERS + 1).await?;
        if found.len() > MOST_SERVERS {
            return Err(BulkError::field("body.filter", format!("finds more than {MOST_SERVERS} servers")));
        }
        Ok(found)
    }

    /// How a server stands for whoever asks.
    pub(crate) async fn look(&self, actor: &Actor, server_id: &str) -> Result<Before, BulkError> {
        let configuration = self.inner.configurations.of(&actor.to_string(), server_id).await?;
        let installed = self.inner.packages.of(server_id).await?.and_then(|found| found.runnable).map(|runnable| runnable.version);
        let instance = match &configuration {
            Some(configuration) => self.inner.runtime.main_instance(configuration).await?,
            None => None,
        };
        let is_enabled = configuration.as_ref().is_some_and(|own| own.enabled);
        Ok(Before {
            configuration: configuration.map(|found| Configured {
                enabled: found.enabled,
                archived: found.is_archived(),
                settings: found.settings(),
                revision: found.revision,
            }),
            installed,
            alive: instance.as_ref().is_some_and(|instance| !instance.state.is_over() || (is_enabled && instance.ended_with_fabric())),
            restarts: instance.filter(|instance| instance.state == runtime::State::Running).map(|instance| instance.restarts),
        })
    }

    /// What would be done to a server that stands so.
    pub(crate) fn outcome(operation: Operation, now: &Before, wanted: Option<&Wanted>) -> Outcome {
        let own = now.configuration.as_ref();
        let is_enabled = own.is_some_and(|own| own.enabled);
        let is_archived = own.is_none_or(|own| own.archived);
        let is_there = match operation {
            Operation::Enable => is_enabled,
            Operation::Disable => !is_enabled,
            Operation::Start => is_enabled && now.restarts.is_some(),
            Operation::Stop => !is_enabled && !now.alive,
            Operation::Install => now.installed.is_some(),
            Operation::Delete => is_archived,
            Operation::ApplyTemplate | Operation::Import => match wanted {
                Some(Wanted::Settings(wanted)) => !is_archived && own.is_some_and(|own| wanted.is_in(&own.settings)),
                Some(Wanted::Archive) | None => is_archived,
            },
            // Whether there is something newer, or something that is not cached, only the registries know.
            Operation::Restart | Operation::Upgrade | Operation::Cache | Operation::Export => false,
        };
        if is_there { Outcome::Unchanged } else { Outcome::Change }
    }
}

/// A server of the catalogue, by its id.
pub(crate) fn by_id(server_id: &str) -> Result<ServerRef, BulkError> {
    Ok(ServerRef::Id(ServerId::parse(server_id).map_err(ServersError::from)?))
}
