use chrono::{DateTime, Utc};
use platform::database::DbError;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{envelope::Sealed, model::UserRef};

/// A row as it is opened.
pub(crate) struct Row {
    pub(crate) id: Uuid,
    pub(crate) env_var: String,
    pub(crate) alg: i16,
    pub(crate) rev: i64,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) sealed: Sealed,
}

/// What a reveal is about.
pub(crate) struct Wanted<'a> {
    pub(crate) user: &'a UserRef,
    pub(crate) server: &'a str,
    /// `None` for all.
    pub(crate) env_vars: Option<&'a [String]>,
    pub(crate) by: &'a str,
    pub(crate) event: audit::Prepared,
}

/// Records the reveal and reads the rows, in one transaction that is on disk when this returns.
pub(crate) async fn reveal(pool: &PgPool, wanted: &Wanted<'_>) -> Result<Vec<Row>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT id AS "id!", env_var AS "env_var!", encrypted_value AS "encrypted_value!", iv AS "iv!", alg AS "alg!", kek_version,
                  wrapped_dek, key_commit, rev AS "rev!", expires_at
           FROM credentials.reveal($1, $2, $3, $4, $5, $6, $7)"#,
        wanted.user.as_str(),
        wanted.server,
        wanted.env_vars,
        wanted.by,
        wanted.event.event,
        wanted.event.pii,
        wanted.event.mac.as_slice()
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Row {
            id: row.id,
            env_var: row.env_var,
            alg: row.alg,
            rev: row.rev,
            expires_at: row.expires_at,
            sealed: Sealed::from_columns((row.encrypted_value, row.iv), row.kek_version, row.wrapped_dek, row.key_commit),
        })
        .collect())
}

/// A one-time hand-off.
pub(crate) struct Wrap {
    pub(crate) user: String,
    pub(crate) server: String,
    pub(crate) env_vars: Option<Vec<String>>,
}

pub(crate) async fn add_wrap(
    connection: &mut PgConnection,
    hash: &[u8; 32],
    wrap: &Wrap,
    created_by: &str,
    expires_at: DateTime<Utc>,
) -> Result<(), DbError> {
    sqlx::query!(
        "INSERT INTO credentials.wrap_tokens (hash, user_id, server_id, env_vars, created_by, expires_at) VALUES ($1, $2, $3, $4, $5, $6)",
        hash,
        wrap.user,
        wrap.server,
        wrap.env_vars.as_deref(),
        created_by,
        expires_at
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Uses a hand-off up: exactly one of many that try gets it.
pub(crate) async fn take_wrap(connection: &mut PgConnection, hash: &[u8; 32], now: DateTime<Utc>) -> Result<Option<Wrap>, DbError> {
    let row = sqlx::query_as!(
        Wrap,
        r#"UPDATE credentials.wrap_tokens SET used_at = $2 WHERE hash = $1 AND used_at IS NULL AND expires_at > $2
           RETURNING user_id AS "user", server_id AS "server", env_vars"#,
        hash,
        now
    );
    Ok(row.fetch_optional(connection).await?)
}

/// Whose hand-off that was, if it was used before; forgets those of last week.
pub(crate) async fn used_wrap(connection: &mut PgConnection, hash: &[u8; 32]) -> Result<Option<(String, String)>, DbError> {
    sqlx::query!("DELETE FROM credentials.wrap_tokens WHERE expires_at < now() - interval '7 days'").execute(&mut *connection).await?;
    let row = sqlx::query!("SELECT user_id, server_id FROM credentials.wrap_tokens WHERE hash = $1 AND used_at IS NOT NULL", hash);
    Ok(row.fetch_optional(connection).await?.map(|row| (row.user_id, row.server_id)))
}
