//! Accounts: how they come, change and go.

use std::sync::Arc;

use audit::{EventType, NewEvent, Outcome};
use chrono::TimeDelta;
use platform::{Action, Actor, Identity, Origin, Role, clock, config::Registration, database::DbError};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    Users,
    email::Email,
    error::UsersError,
    failures::Keys,
    model::{Invite, User, UserId},
    password::{self, Verdict},
    store,
    token::{opaque, opaque_hash},
};

/// How long an invitation is good.
const INVITE_TTL: TimeDelta = TimeDelta::days(7);

fn parse_email(text: &str) -> Result<Email, UsersError> {
    Email::parse(text).map_err(|_| UsersError::field("body.email", "is not an email address of plain letters, such as ada@example.com"))
}

fn check_password(location: &'static str, password: &SecretString, email: &str) -> Result<(), UsersError> {
    let (local, domain) = email.split_once('@').unwrap_or((email, ""));
    password::refusal(password, &[email, local, domain]).map_or(Ok(()), |reason| Err(UsersError::field(location, reason)))
}

impl Users {
    /// Makes an account. The first is an admin, and needs the operator.
    pub(crate) async fn register(
        &self,
        actor: Option<Actor>,
        origin: Origin,
        email: &str,
        password: SecretString,
        invite: Option<SecretString>,
    ) -> Result<User, UsersError> {
        let email = parse_email(email)?;
        check_password("body.password", &password, email.as_str())?;
        let hash = self.inner.passwords.hash(password).await?;
        let actor = actor.unwrap_or_else(|| Actor::new(Identity::Nobody, Arc::new(origin)));
        let mut transaction = self.inner.database.begin_for_all().await?;
        store::users::lock_registration(&mut transaction).await?;
        let role = self.role_of_new(&mut transaction, &actor, &email, invite).await?;
        let user = store::users::create_user(&mut transaction, UserId::fresh(), &email, &hash, role).await?;
        let event = NewEvent::change("user.register").of(user.owner()).on("user", user.id).with("role", role.as_str());
        self.note_in(&mut transaction, &actor, event.personal("email", email.as_str())).await?;
        transaction.commit().await?;
        Ok(user)
    }

    async fn role_of_new(
        &self,
        connection: &mut PgConnection,
        actor: &Actor,
        email: &Email,
        invite: Option<SecretString>,
    ) -> Result<Role, UsersError> {
        if store::users::admins(connection).await?.is_empty() {
            return if actor.may(Action::UsersManage) {
                Ok(Role::Admin)
            } else {
                Err(UsersError::Registration(
                    "there is no admin yet, and the first account needs the operator's token (`mcp-fabric doctor` shows where it lies)",
                ))
            };
        }
        if let Some(invite) = invite {
            let role = store::invites::take(connection, &opaque_hash(&invite), email, clock::now()).await?;
            return role.ok_or(UsersError::Registration("the invitation is not valid (any more) for this email"));
        }
        match self.inner.registration {
            _ if actor.may(Action::UsersManage) => Ok(Role::Member),
            Registration::Open => Ok(Role::Member),
            Registration::Invite => Err(UsersError::Registration("registration needs an invitation; ask an admin for one")),
            Registration::Closed => Err(UsersError::Registration("registration is closed; ask an admin for an account")),
        }
    }

    /// The account of whoever asks.
    pub(crate) async fn me(&self, actor: &Actor) -> Result<User, UsersError> {
        actor.require(Action::AccountRead)?;
        let id = Self::own(actor)?;
        let mut transaction = self.inner.database.begin(actor).await?;
        store::users::get_user_by_id(&mut transaction, id).await?.ok_or(UsersError::NotFound("user"))
    }

    /// Compares the password of whoever asks; failures count like those of logins.
    async fn confirm(&self, actor: &Actor, user: &User, password: SecretString) -> Result<(), UsersError> {
        let email = parse_email(&user.email)?;
        let keys = Keys::of(&self.inner.secret, &email, None);
        let mut transaction = self.inner.database.begin_for_all().await?;
        let locked = keys.are_locked(&mut transaction, clock::now()).await?;
        let hash = store::users::hashed_password(&mut transaction, user.id).await?.filter(|_| !locked);
        drop(transaction);
        if self.inner.passwords.verify(password, hash).await? != Verdict::Wrong {
            return Ok(());
        }
        let mut transaction = self.inner.database.begin_for_all().await?;
        if !locked {
            keys.count(&mut transaction, clock::now()).await?;
        }
        self.note_in(&mut transaction, actor, NewEvent::new(EventType::Authentication, "user.confirm").outcome(Outcome::Denied)).await?;
        transaction.commit().await?;
        Err(UsersError::Credentials)
    }

    /// Changes the password of whoever asks, and ends all their logins.
    pub(crate) async fn change_password(&self, actor: &Actor, current: SecretString, new: SecretString) -> Result<(), UsersError> {
        actor.require(Action::AccountManage)?;
        let user = self.me(actor).await?;
        check_password("body.new_password", &new, &user.email)?;
        if current.expose_secret() == new.expose_secret() {
            return Err(UsersError::field("body.new_password", "is the present one"));
        }
        self.confirm(actor, &user, current).await?;
        let hash = self.inner.passwords.hash(new).await?;
        let mut transaction = self.inner.database.begin(actor).await?;
        store::users::update_user_password(&mut transaction, user.id, &hash).await?;
        let ended = store::sessions::revoke_all(&mut transaction, user.id).await?;
        self.note_in(&mut transaction, actor, NewEvent::change("user.password").on("user", user.id).with("sessions_ended", ended)).await?;
        transaction.commit().await?;
        self.inner.known.forget();
        Ok(())
    }

    /// Erases the account of whoever asks, with all that is theirs.
    pub(crate) async fn leave(&self, actor: &Actor, password: SecretString) -> Result<(), UsersError> {
        actor.require(Action::AccountManage)?;
        let user = self.me(actor).await?;
        self.confirm(actor, &user, password).await?;
        self.erase(actor, user.id).await
    }

    /// Erases an account. Who it was goes from the trail, too; what was done stays there.
    pub(crate) async fn erase(&self, actor: &Actor, id: UserId) -> Result<(), UsersError> {
        if Self::own(actor).ok() != Some(id) {
            actor.require(Action::UsersManage)?;
        }
        let mut transaction = self.inner.database.begin_for_all().await?;
        let user = store::users::get_user_by_id(&mut transaction, id).await?.ok_or(UsersError::NotFound("user"))?;
        Self::keep_an_admin(&mut transaction, &user, user.role, true).await?;
        self.erase_belongings(&mut transaction, id).await?;
        store::invites::erase(&mut transaction, &user.email).await?;
        store::users::delete_user(&mut transaction, id).await?;
        // The event is the system's own, so that nothing personal is written once more.
        let event = NewEvent::change("user.erase").on("user", id).of(user.owner()).acted_by(actor.to_string());
        self.note_in(&mut transaction, &Actor::system("erase"), event).await?;
        // Before the account goes, so that nothing is left that nobody could erase any more; and after it, for what was
        // written meanwhile.
        self.inner.audit.erase(id.0).await?;
        transaction.commit().await?;
        self.inner.known.forget();
        if let Err(error) = self.inner.audit.erase(id.0).await {
            tracing::warn!(%error, "what was written of an account in its last moment stays until its day goes");
        }
        Ok(())
    }

    /// Refuses to leave a fabric that had an admin without one.
    async fn keep_an_admin(connection: &mut PgConnection, user: &User, role: Role, goes: bool) -> Result<(), UsersError> {
        let admins = store::users::admins(connection).await?;
        let stays = role == Role::Admin && !goes;
        if admins == [user.id] && !stays { Err(UsersError::LastAdmin) } else { Ok(()) }
    }

    /// Accounts, in the order of their making.
    pub(crate) async fn list(
        &self,
        actor: &Actor,
        email: Option<&str>,
        after: Option<UserId>,
        limit: u32,
    ) -> Result<Vec<User>, UsersError> {
        actor.require(Action::UsersManage)?;
        // What is no address belongs to no account.
        let Ok(email) = email.map(Email::parse).transpose() else { return Ok(Vec::new()) };
        let mut connection = self.inner.database.for_all().await?;
        Ok(store::users::list(&mut connection, email.as_ref(), after, limit.into()).await?)
    }

    /// One account.
    pub(crate) async fn get(&self, actor: &Actor, id: UserId) -> Result<User, UsersError> {
        actor.require(Action::UsersManage)?;
        let mut connection = self.inner.database.for_all().await?;
        store::users::get_user_by_id(&mut connection, id).await?.ok_or(UsersError::NotFound("user"))
    }

    /// Gives an account another role, or shuts it.
    pub(crate) async fn change(&self, actor: &Actor, id: UserId, role: Option<Role>, disabled: Option<bool>) -> Result<User, UsersError> {
        actor.require(Action::UsersManage)?;
        let mut transaction = self.inner.database.begin_for_all().await?;
        let user = store::users::get_user_by_id(&mut transaction, id).await?.ok_or(UsersError::NotFound("user"))?;
        Self::keep_an_admin(&mut transaction, &user, role.unwrap_or(user.role), disabled == Some(true)).await?;
        let changed = store::users::change(&mut transaction, id, role, disabled).await?.ok_or(UsersError::NotFound("user"))?;
        if changed.role != user.role || changed.disabled_at.is_some() {
            store::sessions::revoke_all(&mut transaction, id).await?;
        }
        let event = NewEvent::change("user.change").of(user.owner()).on("user", id).with("role", changed.role.as_str());
        self.note_in(&mut transaction, actor, event.with("disabled", changed.disabled_at.is_some())).await?;
        transaction.commit().await?;
        self.inner.known.forget();
        Ok(changed)
    }

    /// Gives an account a password that nobody chose, and ends its logins and its lock.
    pub(crate) async fn reset_password(&self, actor: &Actor, id: UserId) -> Result<SecretString, UsersError> {
        actor.require(Action::UsersManage)?;
        let password = opaque();
        let hash = self.inner.passwords.hash(password.clone()).await?;
        let mut transaction = self.inner.database.begin_for_all().await?;
        let user = store::users::get_user_by_id(&mut transaction, id).await?.ok_or(UsersError::NotFound("user"))?;
        store::users::update_user_password(&mut transaction, id, &hash).await?;
        store::sessions::revoke_all(&mut transaction, id).await?;
        // Whoever had the password may have made tokens with it.
        store::tokens::revoke_all(&mut transaction, id).await?;
        Keys::of(&self.inner.secret, &parse_email(&user.email)?, None).clear(&mut transaction).await?;
        self.note_in(&mut transaction, actor, NewEvent::change("user.reset_password").of(user.owner()).on("user", id)).await?;
        transaction.commit().await?;
        self.inner.known.forget();
        Ok(password)
    }

    /// Invites somebody; gives what they register with.
    pub(crate) async fn invite(&self, actor: &Actor, email: Option<&str>, role: Role) -> Result<(Invite, SecretString), UsersError> {
        actor.require(Action::UsersManage)?;
        let email = email.map(parse_email).transpose()?;
        let secret = opaque();
        let mut transaction = self.inner.database.begin_for_all().await?;
        let expires_at = clock::now() + INVITE_TTL;
        let invite =
            store::invites::create(&mut transaction, &opaque_hash(&secret), email.as_ref(), role, &actor.to_string(), expires_at).await?;
        self.note_in(&mut transaction, actor, NewEvent::change("invite.create").on("invite", invite.id).with("role", role.as_str()))
            .await?;
        transaction.commit().await?;
        Ok((invite, secret))
    }

    /// Invitations, in the order of their making.
    pub(crate) async fn invites(&self, actor: &Actor, after: Option<Uuid>, limit: u32) -> Result<Vec<Invite>, UsersError> {
        actor.require(Action::UsersManage)?;
        let mut connection = self.inner.database.for_all().await?;
        Ok(store::invites::list(&mut connection, after, limit.into()).await?)
    }

    /// Takes an invitation back.
    pub(crate) async fn uninvite(&self, actor: &Actor, id: Uuid) -> Result<(), UsersError> {
        actor.require(Action::UsersManage)?;
        let mut transaction = self.inner.database.begin_for_all().await?;
        if !store::invites::delete(&mut transaction, id).await? {
            return Err(UsersError::NotFound("invitation"));
        }
        self.note_in(&mut transaction, actor, NewEvent::change("invite.delete").on("invite", id)).await?;
        Ok(transaction.commit().await.map_err(DbError::from)?)
    }
}
