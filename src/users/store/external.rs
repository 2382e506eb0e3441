use platform::{Role, database::DbError};
use sqlx::PgConnection;

use super::users;
use crate::model::UserId;

/// The open account that a subject of an issuer stands for.
pub(crate) enum Linked {
    /// There is one.
    Open(UserId, Role),
    /// It is disabled.
    Disabled,
    /// There is none.
    No,
}

pub(crate) async fn linked(connection: &mut PgConnection, issuer: &str, subject: &str) -> Result<Linked, DbError> {
    let row = sqlx::query!(
        "SELECT u.id, u.role, u.disabled_at FROM identity.external_identities e JOIN identity.users u ON u.id = e.user_id
         WHERE e.issuer = $1 AND e.subject = $2",
        issuer,
        subject
    )
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(Linked::No) };
    if row.disabled_at.is_some() {
        return Ok(Linked::Disabled);
    }
    Ok(Linked::Open(UserId(row.id), users::role(&row.role, row.id)?))
}

/// Makes a subject stand for an account.
pub(crate) async fn link(connection: &mut PgConnection, issuer: &str, subject: &str, user: UserId) -> Result<(), DbError> {
    sqlx::query!("INSERT INTO identity.external_identities (issuer, subject, user_id) VALUES ($1, $2, $3)", issuer, subject, user.0)
        .execute(connection)
        .await?;
    Ok(())
}
