use chrono::{DateTime, Utc};
use platform::{Role, Scope, actor::ToolPattern, database::DbError};
use sqlx::PgConnection;
use uuid::Uuid;

use super::users;
use crate::{
    model::{NewToken, TokenId, TokenInfo, TokenKind, UserId},
    token::Token,
};

/// A row as it is looked up for a request.
pub(crate) struct Stored {
    pub(crate) id: TokenId,
    pub(crate) kind: TokenKind,
    pub(crate) hash: Vec<u8>,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) servers: Option<Vec<String>>,
    pub(crate) tools: Option<Vec<ToolPattern>>,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) revoked: bool,
    /// Whose it is, with the role, unless the account is disabled.
    pub(crate) user: Option<(UserId, Role)>,
}

fn scopes(texts: &[String], id: Uuid) -> Result<Vec<Scope>, DbError> {
    let bad = |_| DbError::Inconsistent { table: "tokens", column: "scopes", row: id.to_string() };
    texts.iter().map(|text| text.parse().map_err(bad)).collect()
}

fn tools(texts: &[String], id: Uuid) -> Result<Vec<ToolPattern>, DbError> {
    let bad = |()| DbError::Inconsistent { table: "tokens", column: "tools", row: id.to_string() };
    texts.iter().map(|text| text.parse().map_err(bad)).collect()
}

fn kind(text: &str, id: Uuid) -> Result<TokenKind, DbError> {
    text.parse().map_err(|_| DbError::Inconsistent { table: "tokens", column: "kind", row: id.to_string() })
}

struct Row {
    id: Uuid,
    kind: String,
    hash: Vec<u8>,
    scopes: Vec<String>,
    servers: Option<Vec<String>>,
    tools: Option<Vec<String>>,
    expires_at: Option<DateTime<Utc>>,
    revoked: bool,
    user_id: Option<Uuid>,
    role: Option<String>,
}

impl TryFrom<Row> for Stored {
    type Error = DbError;

    fn try_from(row: Row) -> Result<Self, DbError> {
        let user = match (row.user_id, row.role) {
            (Some(id), Some(role)) => Some((UserId(id), users::role(&role, id)?)),
            _ => None,
        };
        Ok(Self {
            id: TokenId(row.id),
            kind: kind(&row.kind, row.id)?,
            hash: row.hash,
            scopes: scopes(&row.scopes, row.id)?,
            servers: row.servers,
            tools: row.tools.map(|texts| tools(&texts, row.id)).transpose()?,
            expires_at: row.expires_at,
            revoked: row.revoked,
            user,
        })
    }
}

/// The row with this handle; notes that it was used, at most once a minute.
pub(crate) async fn look_up(connection: &mut PgConnection, handle: &str) -> Result<Option<Stored>, DbError> {
    let row = sqlx::query_as!(
        Row,
        r#"WITH used AS (UPDATE identity.tokens SET last_used_at = now()
                         WHERE handle = $1 AND revoked_at IS NULL AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute'))
           SELECT t.id, t.kind, t.hash, t.scopes, t.servers, t.tools, t.expires_at, t.revoked_at IS NOT NULL AS "revoked!",
                  u.id AS "user_id?", u.role AS "role?"
           FROM identity.tokens t LEFT JOIN identity.users u ON u.id = t.user_id AND u.disabled_at IS NULL
           WHERE t.handle = $1"#,
        handle
    );
    row.fetch_optional(connection).await?.map(TryInto::try_into).transpose()
}

/// The row itself, which is not used by that.
pub(crate) async fn by_id(connection: &mut PgConnection, id: Uuid) -> Result<Option<Stored>, DbError> {
    let row = sqlx::query_as!(
        Row,
        r#"SELECT t.id, t.kind, t.hash, t.scopes, t.servers, t.tools, t.expires_at, t.revoked_at IS NOT NULL AS "revoked!",
                  u.id AS "user_id?", u.role AS "role?"
           FROM identity.tokens t LEFT JOIN identity.users u ON u.id = t.user_id AND u.disabled_at IS NULL
           WHERE t.id = $1"#,
        id
    );
    row.fetch_optional(connection).await?.map(TryInto::try_into).transpose()
}

pub(crate) async fn create(
    connection: &mut PgConnection,
    id: TokenId,
    token: &Token,
    new: &NewToken,
    created_by: &str,
) -> Result<(), DbError> {
    let scopes: Vec<String> = new.scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
    sqlx::query!(
        "INSERT INTO identity.tokens (id, handle, kind, user_id, name, hash, scopes, servers, tools, created_by, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        id.0,
        token.handle,
        new.kind.as_str(),
        new.user.map(|user| user.0),
        new.name,
        token.hash(),
        &scopes,
        new.servers.as_deref(),
        new.tools.as_deref(),
        created_by,
        new.expires_at
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The tokens of a user; without one, those that belong to nobody.
pub(crate) async fn list(
    connection: &mut PgConnection,
    user: Option<UserId>,
    after: Option<TokenId>,
    limit: i64,
) -> Result<Vec<TokenInfo>, DbError> {
    let rows = sqlx::query!(
        "SELECT id, handle, kind, name, scopes, servers, tools, created_by, created_at, expires_at, last_used_at, revoked_at FROM identity.tokens
         WHERE user_id IS NOT DISTINCT FROM $1 AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3",
        user.map(|user| user.0),
        after.map(|id| id.0),
        limit
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let kind = kind(&row.kind, row.id)?;
            Ok(TokenInfo {
                id: TokenId(row.id),
                kind,
                name: row.name,
                prefix: Token::beginning(kind, &row.handle),
                scopes: scopes(&row.scopes, row.id)?,
                servers: row.servers,
                tools: row.tools,
                created_by: row.created_by,
                created_at: row.created_at,
                expires_at: row.expires_at,
                last_used_at: row.last_used_at,
                revoked_at: row.revoked_at,
            })
        })
        .collect()
}

/// Ends every token of a user.
pub(crate) async fn revoke_all(connection: &mut PgConnection, user: UserId) -> Result<u64, DbError> {
    let done = sqlx::query!("UPDATE identity.tokens SET revoked_at = now() WHERE user_id = $1 AND revoked_at IS NULL", user.0);
    Ok(done.execute(connection).await?.rows_affected())
}

/// Ends a token of this user; without one, a token that belongs to nobody. Gives its kind and name.
pub(crate) async fn revoke(
    connection: &mut PgConnection,
    id: TokenId,
    user: Option<UserId>,
) -> Result<Option<(TokenKind, String)>, DbError> {
    let row = sqlx::query!(
        "UPDATE identity.tokens SET revoked_at = now() WHERE id = $1 AND user_id IS NOT DISTINCT FROM $2 AND revoked_at IS NULL RETURNING kind, name",
        id.0,
        user.map(|user| user.0)
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| Ok((kind(&row.kind, id.0)?, row.name))).transpose()
}
