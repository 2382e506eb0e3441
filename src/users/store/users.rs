use chrono::{DateTime, Utc};
use platform::{
    Role,
    database::{DbError, on_constraint},
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    email::Email,
    error::UsersError,
    model::{User, UserId},
};

struct Row {
    id: Uuid,
    email: String,
    role: String,
    disabled_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<Row> for User {
    type Error = DbError;

    fn try_from(row: Row) -> Result<Self, DbError> {
        Ok(Self {
            id: UserId(row.id),
            role: role(&row.role, row.id)?,
            email: row.email,
            disabled_at: row.disabled_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

pub(crate) fn role(text: &str, id: Uuid) -> Result<Role, DbError> {
    text.parse().map_err(|_| DbError::Inconsistent { table: "users", column: "role", row: id.to_string() })
}

/// Registers a new user.
pub(crate) async fn create_user(
    connection: &mut PgConnection,
    id: UserId,
    email: &Email,
    hashed_password: &str,
    role: Role,
) -> Result<User, UsersError> {
    let row = sqlx::query_as!(
        Row,
        "INSERT INTO identity.users (id, email, hashed_password, role) VALUES ($1, $2, $3, $4)
         RETURNING id, email, role, disabled_at, created_at, updated_at",
        id.0,
        email.as_str(),
        hashed_password,
        role.as_str()
    )
    .fetch_one(connection)
    .await
    .map_err(|error| on_constraint(error, "users_email", || UsersError::EmailTaken))?;
    Ok(row.try_into()?)
}

pub(crate) async fn get_user_by_id(connection: &mut PgConnection, id: UserId) -> Result<Option<User>, DbError> {
    let row = sqlx::query_as!(Row, "SELECT id, email, role, disabled_at, created_at, updated_at FROM identity.users WHERE id = $1", id.0);
    row.fetch_optional(connection).await?.map(TryInto::try_into).transpose()
}

/// The account with this address, and what is kept of its password.
pub(crate) async fn get_user_by_email(connection: &mut PgConnection, email: &Email) -> Result<Option<(User, String)>, DbError> {
    let row = sqlx::query!(
        "SELECT id, email, hashed_password, role, disabled_at, created_at, updated_at FROM identity.users WHERE email = $1",
        email.as_str()
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        let (id, email, role) = (row.id, row.email, row.role);
        let (disabled_at, created_at, updated_at) = (row.disabled_at, row.created_at, row.updated_at);
        Ok((Row { id, email, role, disabled_at, created_at, updated_at }.try_into()?, row.hashed_password))
    })
    .transpose()
}

pub(crate) async fn hashed_password(connection: &mut PgConnection, id: UserId) -> Result<Option<String>, DbError> {
    Ok(sqlx::query_scalar!("SELECT hashed_password FROM identity.users WHERE id = $1", id.0).fetch_optional(connection).await?)
}

/// Locks an open account that still has this hash; `false` when it has changed.
pub(crate) async fn lock_verified(connection: &mut PgConnection, id: UserId, hashed_password: &str) -> Result<bool, DbError> {
    let found = sqlx::query_scalar!(
        "SELECT id FROM identity.users WHERE id = $1 AND hashed_password = $2 AND disabled_at IS NULL FOR UPDATE",
        id.0,
        hashed_password
    );
    Ok(found.fetch_optional(connection).await?.is_some())
}

pub(crate) async fn update_user_password(connection: &mut PgConnection, id: UserId, hashed_password: &str) -> Result<bool, DbError> {
    let done =
        sqlx::query!("UPDATE identity.users SET hashed_password = $2 WHERE id = $1", id.0, hashed_password).execute(connection).await?;
    Ok(done.rows_affected() == 1)
}

/// Changes what is given; `disabled` sets or clears the moment.
pub(crate) async fn change(
    connection: &mut PgConnection,
    id: UserId,
    role: Option<Role>,
    disabled: Option<bool>,
) -> Result<Option<User>, DbError> {
    let row = sqlx::query_as!(
        Row,
        "UPDATE identity.users SET role = coalesce($2, role),
                disabled_at = CASE WHEN $3::bool IS NULL THEN disabled_at WHEN $3 THEN coalesce(disabled_at, now()) END
         WHERE id = $1 RETURNING id, email, role, disabled_at, created_at, updated_at",
        id.0,
        role.map(Role::as_str),
        disabled
    );
    row.fetch_optional(connection).await?.map(TryInto::try_into).transpose()
}

/// Removes the account with its sessions and tokens.
pub(crate) async fn delete_user(connection: &mut PgConnection, id: UserId) -> Result<bool, DbError> {
    Ok(sqlx::query!("DELETE FROM identity.users WHERE id = $1", id.0).execute(connection).await?.rows_affected() == 1)
}

/// By address, or all in the order of their making.
pub(crate) async fn list(
    connection: &mut PgConnection,
    email: Option<&Email>,
    after: Option<UserId>,
    limit: i64,
) -> Result<Vec<User>, DbError> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT id, email, role, disabled_at, created_at, updated_at FROM identity.users
         WHERE ($1::text IS NULL OR email = $1) AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3",
        email.map(Email::as_str),
        after.map(|id| id.0),
        limit
    );
    rows.fetch_all(connection).await?.into_iter().map(TryInto::try_into).collect()
}

/// Admins that can log in, locked against each other's changes.
pub(crate) async fn admins(connection: &mut PgConnection) -> Result<Vec<UserId>, DbError> {
    let rows = sqlx::query_scalar!("SELECT id FROM identity.users WHERE role = 'admin' AND disabled_at IS NULL ORDER BY id FOR UPDATE");
    Ok(rows.fetch_all(connection).await?.into_iter().map(UserId).collect())
}

/// Makes registrations take turns until the transaction ends, so that exactly one is the first.
pub(crate) async fn lock_registration(connection: &mut PgConnection) -> Result<(), DbError> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('identity.register'))").execute(connection).await?;
    Ok(())
}
