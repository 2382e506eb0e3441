//! Who asked for work that is done later: with the rights that they have by then.

use std::sync::Arc;

use platform::{Actor, Identity, Origin, actor::Entry, clock, database::DbError};
use uuid::Uuid;

use crate::{Users, authenticate::identity, model::UserId, store};

/// Whoever asked, as a row keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// As actors are written.
    pub owner: String,
    /// The token that was shown, if it was one.
    pub token: Option<Uuid>,
}

impl Asker {
    /// Who acts now.
    pub fn of(actor: &Actor) -> Self {
        let token = match &actor.identity {
            Identity::User { entry: Entry::Token(grant), .. } | Identity::Service(grant) => Some(grant.token),
            Identity::User { entry: Entry::Session(_), .. } | Identity::Operator | Identity::System(_) | Identity::Nobody => None,
        };
        Self { owner: actor.to_string(), token }
    }
}

impl Users {
    /// Who that is by now, in the role of today; nothing once the account or the token has ended. The end of a login is no
    /// matter of what was asked for before.
    pub async fn asker(&self, asker: &Asker) -> Result<Option<Actor>, DbError> {
        let found = if let Some(token) = asker.token {
            let mut connection = self.inner.database.for_all().await?;
            let stored = store::tokens::by_id(&mut connection, token).await?;
            let is_open = |stored: &store::tokens::Stored| !stored.revoked && stored.expires_at.is_none_or(|at| at > clock::now());
            stored.filter(is_open).and_then(|stored| identity(&stored))
        } else if let Some(id) = asker.owner.strip_prefix("user:").and_then(|id| id.parse().ok()) {
            let mut connection = self.inner.database.for_all().await?;
            let user = store::users::get_user_by_id(&mut connection, UserId(id)).await?;
            let user = user.filter(|user| user.disabled_at.is_none());
            user.map(|user| Identity::User { id, role: user.role, entry: Entry::Session(Uuid::nil()) })
        } else {
            Some(Identity::Operator)
        };
        let actor = found.map(|identity| Actor::new(identity, Arc::new(Origin::inside())));
        Ok(actor.filter(|actor| actor.to_string() == asker.owner))
    }
}
