//! The secrets among the inputs of a server, for the configurations that leave them to the vault.

use std::collections::{BTreeMap, BTreeSet};

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

/// The name of the credential that an input is kept as which is no variable: `_` stands for what a variable's name cannot
/// hold.
pub fn input_credential(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

impl Credentials {
    /// Plaintext for one launch by the program's own runtime: everything that an owner, as actors are written, has for a
    /// server and that still counts. It is in the trail as every reveal is.
    pub async fn for_launch(&self, owner: &str, server_id: &str) -> Result<BTreeMap<String, SecretString>, CredentialsError> {
        let user =
            UserRef::parse(owner.strip_prefix("user:").unwrap_or(owner)).map_err(|unfit| CredentialsError::field("user", unfit.0))?;
        Ok(self.open_all(&Actor::system("runtime"), user, server_id.to_owned(), None).await?.env)
    }

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
