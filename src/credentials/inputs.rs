//! The secrets among the inputs of a server, for the configurations that leave them to the vault.

use std::collections::BTreeSet;

use platform::Actor;
use secrecy::SecretString;
use servers::ServerRef;

use crate::{
    Credentials, EnvVar,
    error::CredentialsError,
    model::{Kind, UserRef},
    service::Value,
};

/// Whose credentials an actor's own are: an account's by its id, the operator's and services' by their names.
fn holder(actor: &Actor) -> String {
    actor.user().map_or_else(|| actor.to_string(), |id| id.to_string())
}

impl Credentials {
    /// Stores secret inputs as the actor's own, all or none.
    pub async fn store_inputs(
        &self,
        actor: &Actor,
        server: &ServerRef,
        values: Vec<(EnvVar, SecretString)>,
    ) -> Result<(), CredentialsError> {
        let value = |(env_var, plaintext)| Value { env_var, plaintext, kind: Kind::Env, expires_at: None };
        self.store_all(actor, &holder(actor), server, values.into_iter().map(value).collect(), false).await
    }

    /// The names of the credentials that the actor has for a server.
    pub async fn held(&self, actor: &Actor, server_id: &str) -> Result<BTreeSet<String>, CredentialsError> {
        let user = UserRef::parse(&holder(actor)).map_err(|unfit| CredentialsError::field("user", unfit.0))?;
        self.names(actor, &user, server_id).await
    }
}
