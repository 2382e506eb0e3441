//! Personal and service tokens.

use audit::NewEvent;
use chrono::{DateTime, Utc};
use platform::{Action, Actor, Scope, actor::ToolPattern, clock};
use secrecy::SecretString;
use sqlx::PgConnection;

use crate::{
    Users,
    error::UsersError,
    model::{NewToken, TokenId, TokenInfo, TokenKind},
    store,
    token::Token,
};

const LONGEST_NAME: usize = 100;
const MOST_SERVERS: usize = 200;
const MOST_TOOLS: usize = 200;

/// What somebody asks for.
pub(crate) struct Wanted {
    pub(crate) kind: TokenKind,
    pub(crate) name: String,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) servers: Option<Vec<String>>,
    pub(crate) tools: Option<Vec<String>>,
    pub(crate) expires_at: Option<DateTime<Utc>>,
}

impl Wanted {
    fn check(&self) -> Result<(), UsersError> {
        let name = self.name.trim();
        if name.is_empty() || name.chars().count() > LONGEST_NAME || name.chars().any(char::is_control) {
            return Err(UsersError::field("body.name", "must be 1 to 100 characters on one line"));
        }
        if self.scopes.is_empty() {
            let words = Scope::ALL.map(Scope::as_str).join(", ");
            return Err(UsersError::field("body.scopes", format!("must name at least one of {words}")));
        }
        if self.expires_at.is_some_and(|at| at <= clock::now()) {
            return Err(UsersError::field("body.expires_at", "is not in the future"));
        }
        if let Some(tools) = &self.tools {
            let are_tools = tools.iter().all(|tool| tool.parse::<ToolPattern>().is_ok());
            if !are_tools || tools.is_empty() || tools.len() > MOST_TOOLS {
                let said =
                    "must be 1 to 200 names of tools, such as `search`, `get_*` or `io.example/weather#forecast`, or left out for all";
                return Err(UsersError::field("body.tools", said));
            }
        }
        match (&self.servers, self.kind) {
            (Some(servers), _)
                if servers.is_empty()
                    || servers.len() > MOST_SERVERS
                    || servers.iter().any(|server| server.is_empty() || server.len() > 300) =>
            {
                Err(UsersError::field("body.servers", "must be 1 to 200 ids of servers, or left out for all"))
            }
            (_, TokenKind::Operator) => Err(UsersError::field("body.kind", "must be personal or service")),
            (None, TokenKind::Service) if self.scopes.contains(&Scope::CredentialsReveal) => {
                Err(UsersError::field("body.servers", "must name the servers whose credentials the token may reveal"))
            }
            (Some(_) | None, TokenKind::Personal | TokenKind::Service) => Ok(()),
        }
    }
}

impl Users {
    /// Makes a token; its text is given once.
    pub(crate) async fn create_token(&self, actor: &Actor, wanted: Wanted) -> Result<(TokenId, SecretString), UsersError> {
        let user = match wanted.kind {
            TokenKind::Personal => {
                actor.require(Action::AccountManage)?;
                Some(Self::own(actor)?)
            }
            TokenKind::Service | TokenKind::Operator => {
                actor.require(Action::UsersManage)?;
                None
            }
        };
        wanted.check()?;
        let Wanted { kind, name, scopes, servers, tools, expires_at } = wanted;
        let new = NewToken { kind, user, name: name.trim().to_owned(), scopes, servers, tools, expires_at };
        let (token, text) = Token::generate(kind);
        let id = TokenId::fresh();
        let mut transaction = match user {
            Some(_) => self.inner.database.begin(actor).await?,
            None => self.inner.database.begin_for_all().await?,
        };
        self.put_token(&mut transaction, actor, id, &token, &new).await?;
        transaction.commit().await?;
        Ok((id, text))
    }

    pub(crate) async fn put_token(
        &self,
        connection: &mut PgConnection,
        actor: &Actor,
        id: TokenId,
        token: &Token,
        new: &NewToken,
    ) -> Result<(), UsersError> {
        store::tokens::create(connection, id, token, new, &actor.to_string()).await?;
        let scopes: Vec<&str> = new.scopes.iter().map(|scope| scope.as_str()).collect();
        let event = NewEvent::change("token.create").on("token", id).with("kind", new.kind.as_str()).with("scopes", scopes.join(" "));
        self.note_in(connection, actor, event).await
    }

    /// One's own tokens; with `all`, those that belong to no account.
    pub(crate) async fn tokens(&self, actor: &Actor, all: bool, after: Option<TokenId>, limit: u32) -> Result<Vec<TokenInfo>, UsersError> {
        let (mut transaction, user) = if all {
            actor.require(Action::UsersManage)?;
            (self.inner.database.begin_for_all().await?, None)
        } else {
            actor.require(Action::AccountRead)?;
            (self.inner.database.begin(actor).await?, Some(Self::own(actor)?))
        };
        Ok(store::tokens::list(&mut transaction, user, after, limit.into()).await?)
    }

    /// Ends a token: one's own, or one that belongs to no account.
    pub(crate) async fn revoke_token(&self, actor: &Actor, id: TokenId) -> Result<(), UsersError> {
        let own = Self::own(actor).ok().filter(|_| actor.may(Action::AccountManage));
        let manages = actor.may(Action::UsersManage);
        if own.is_none() && !manages {
            actor.require(Action::AccountManage)?;
        }
        let mut transaction = self.inner.database.begin_for_all().await?;
        let mut revoked = match own {
            Some(user) => store::tokens::revoke(&mut transaction, id, Some(user)).await?,
            None => None,
        };
        if revoked.is_none() && manages {
            revoked = store::tokens::revoke(&mut transaction, id, None).await?;
        }
        let (kind, _) = revoked.ok_or(UsersError::NotFound("token"))?;
        self.note_in(&mut transaction, actor, NewEvent::change("token.revoke").on("token", id).with("kind", kind.as_str())).await?;
        transaction.commit().await?;
        self.inner.known.forget();
        Ok(())
    }
}
