//! Logins, their refresh tokens, and their ends.

use std::sync::Arc;

use audit::{EventType, NewEvent, Outcome};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::TimeDelta;
use platform::{Action, Actor, Origin, actor::Entry, clock};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{Postgres, Transaction};

use crate::{
    Users,
    email::Email,
    error::UsersError,
    failures::Keys,
    model::{SessionId, User},
    password::{LONGEST, Verdict},
    service::{nobody, person},
    store::{self, sessions::Used},
    token::{opaque, opaque_hash},
};

/// How long a refresh token that was just used gives its successor once more: to a client that sent it twice at
/// once, or lost the answer.
const GRACE: TimeDelta = TimeDelta::seconds(10);

/// What a login and a refresh give.
pub(crate) struct Tickets {
    pub(crate) access: SecretString,
    pub(crate) expires_in: TimeDelta,
    pub(crate) refresh: SecretString,
    pub(crate) user: User,
}

impl Users {
    /// Logs in. Whatever is wrong, the answer and the work are the same.
    pub(crate) async fn log_in(&self, origin: Origin, email: &str, password: SecretString) -> Result<Tickets, UsersError> {
        let origin = Arc::new(origin);
        let email = Email::parse(email).ok().filter(|_| password.expose_secret().len() <= LONGEST);
        let Some(email) = email else {
            self.inner.passwords.verify(String::new().into(), None).await?;
            self.refuse(origin, NewEvent::new(EventType::Authentication, "session.login").with("malformed", true));
            return Err(UsersError::Credentials);
        };
        let keys = Keys::of(&self.inner.secret, &email, origin.address);
        let mut transaction = self.inner.database.begin_for_all().await?;
        let locked = keys.are_locked(&mut transaction, clock::now()).await?;
        let account = store::users::get_user_by_email(&mut transaction, &email).await?;
        drop(transaction);
        let open = account.as_ref().filter(|(user, _)| !locked && user.disabled_at.is_none());
        let verdict = self.inner.passwords.verify(password.clone(), open.map(|(_, hash)| hash.clone())).await?;
        match (open, verdict) {
            (Some(verified), Verdict::Right) => self.open_session(verified, &keys, &origin, None).await,
            (Some(verified), Verdict::Outdated) => self.open_session(verified, &keys, &origin, Some(password)).await,
            _ => self.fail(&email, account.map(|(user, _)| user), &keys, locked, &origin).await,
        }
    }

    async fn open_session(
        &self,
        (user, verified): &(User, String),
        keys: &Keys,
        origin: &Arc<Origin>,
        rehash: Option<SecretString>,
    ) -> Result<Tickets, UsersError> {
        let rehashed = match rehash {
            Some(password) => Some(self.inner.passwords.hash(password).await?),
            None => None,
        };
        let (session, refresh, now) = (SessionId::fresh(), opaque(), clock::now());
        let actor = person(user.id, user.role, session, origin);
        let mut transaction = self.inner.database.begin_for_all().await?;
        // Verifying took a while: the password may be another one by now, the account shut, or locked by guesses.
        let still = store::users::lock_verified(&mut transaction, user.id, verified).await?;
        if !still || keys.are_locked(&mut transaction, now).await? {
            drop(transaction);
            let email = Email::parse(&user.email).map_err(|_| UsersError::Credentials)?;
            return self.fail(&email, Some(user.clone()), keys, true, origin).await;
        }
        keys.clear(&mut transaction).await?;
        if let Some(hash) = &rehashed {
            store::users::update_user_password(&mut transaction, user.id, hash).await?;
        }
        store::sessions::create(&mut transaction, session, user.id, &opaque_hash(&refresh), now + self.inner.session_ttl).await?;
        let event = NewEvent::new(EventType::Authentication, "session.login").on("session", session).with("rehashed", rehashed.is_some());
        self.note_in(&mut transaction, &actor, event).await?;
        transaction.commit().await?;
        Ok(self.tickets(user.clone(), session, refresh))
    }

    fn tickets(&self, user: User, session: SessionId, refresh: SecretString) -> Tickets {
        let access = self.inner.jwt.issue(user.id.0, session.0, clock::now(), self.inner.access_ttl);
        Tickets { access: access.into(), expires_in: self.inner.access_ttl, refresh, user }
    }

    async fn fail(
        &self,
        email: &Email,
        user: Option<User>,
        keys: &Keys,
        was_locked: bool,
        origin: &Arc<Origin>,
    ) -> Result<Tickets, UsersError> {
        let mut transaction = self.inner.database.begin_for_all().await?;
        // What fails while it is locked does not prolong the lock.
        let locks = !was_locked && keys.count(&mut transaction, clock::now()).await?;
        let mut event = NewEvent::new(EventType::Authentication, "session.login")
            .outcome(Outcome::Denied)
            .personal("email", email.as_str())
            .with("locked", was_locked)
            .with("locks", locks);
        if let Some(user) = user {
            event = event.of(user.owner());
        }
        self.note_in(&mut transaction, &nobody(Arc::clone(origin)), event).await?;
        transaction.commit().await?;
        Err(UsersError::Credentials)
    }

    /// Exchanges a refresh token. One that was used before ends its login, except within the grace.
    pub(crate) async fn refresh(&self, origin: Origin, token: SecretString) -> Result<Tickets, UsersError> {
        let (origin, now) = (Arc::new(origin), clock::now());
        let successor = self.successor(&token);
        let (hash, next) = (opaque_hash(&token), opaque_hash(&successor));
        let mut transaction = self.inner.database.begin_for_all().await?;
        let fresh = store::sessions::use_refresh(&mut transaction, &hash, now).await?;
        let session = if let Some(session) = fresh {
            session
        } else {
            let Some(used) = store::sessions::used_refresh(&mut transaction, &hash, &next).await? else {
                return self.refuse_refresh(origin);
            };
            if now - used.at > GRACE || used.with_successor {
                return self.end_stolen(transaction, &used, &origin).await;
            }
            used.session
        };
        let Some(open) = store::sessions::open(&mut transaction, session, now).await? else { return self.refuse_refresh(origin) };
        let Some(user) = store::users::get_user_by_id(&mut transaction, open.user).await? else { return self.refuse_refresh(origin) };
        store::sessions::add_refresh(&mut transaction, open.session, &next).await?;
        store::sessions::prolong(&mut transaction, session, now + self.inner.session_ttl).await?;
        let event = NewEvent::new(EventType::Authentication, "session.refresh").on("session", session).with("repeated", fresh.is_none());
        self.note_in(&mut transaction, &person(open.user, open.role, session, &origin), event).await?;
        transaction.commit().await?;
        Ok(self.tickets(user, session, successor))
    }

    /// A token of no login, or of one that has ended.
    fn refuse_refresh(&self, origin: Arc<Origin>) -> Result<Tickets, UsersError> {
        self.refuse(origin, NewEvent::new(EventType::Authentication, "session.refresh"));
        Err(UsersError::Refresh)
    }

    /// A token that comes again is in two hands: nobody keeps the login.
    async fn end_stolen(
        &self,
        mut transaction: Transaction<'_, Postgres>,
        used: &Used,
        origin: &Arc<Origin>,
    ) -> Result<Tickets, UsersError> {
        store::sessions::revoke(&mut transaction, used.session).await?;
        let event = NewEvent::new(EventType::Warning, "session.reuse")
            .outcome(Outcome::Denied)
            .of(crate::model::owner(used.user))
            .on("session", used.session);
        self.note_in(&mut transaction, &nobody(Arc::clone(origin)), event).await?;
        transaction.commit().await?;
        self.inner.known.forget();
        Err(UsersError::Refresh)
    }

    /// The one token that this one is exchanged for, so that twenty exchanges at once give one successor.
    fn successor(&self, token: &SecretString) -> SecretString {
        URL_SAFE_NO_PAD.encode(self.inner.secret.mac(&[b"refresh", &[0], token.expose_secret().as_bytes()])).into()
    }

    /// Ends the login that the request came with.
    pub(crate) async fn log_out(&self, actor: &Actor) -> Result<(), UsersError> {
        actor.require(Action::AccountManage)?;
        let platform::Identity::User { entry: Entry::Session(session), .. } = actor.identity else { return Err(UsersError::NoAccount) };
        let mut transaction = self.inner.database.begin(actor).await?;
        store::sessions::revoke(&mut transaction, SessionId(session)).await?;
        self.note_in(&mut transaction, actor, NewEvent::new(EventType::Authentication, "session.logout").on("session", session)).await?;
        transaction.commit().await?;
        self.inner.known.forget();
        Ok(())
    }
}
