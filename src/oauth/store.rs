use chrono::{DateTime, Utc};
use platform::database::DbError;
use sqlx::PgConnection;

/// What a user has been authorised for at a server.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    /// As actors are written.
    pub(crate) owner: String,
    pub(crate) server_id: String,
    pub(crate) issuer: String,
    pub(crate) resource: String,
    pub(crate) token_endpoint: String,
    pub(crate) revocation_endpoint: Option<String>,
    pub(crate) client_id: String,
    pub(crate) scope: Option<String>,
    /// Of the access token, where it was stated.
    pub(crate) expires_at: Option<DateTime<Utc>>,
    /// The refresh token counts no more.
    pub(crate) is_over: bool,
    pub(crate) updated_at: DateTime<Utc>,
}

/// A login that was begun.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) owner: String,
    pub(crate) server_id: String,
    pub(crate) issuer: String,
    pub(crate) names_issuer: bool,
    pub(crate) resource: String,
    pub(crate) token_endpoint: String,
    pub(crate) revocation_endpoint: Option<String>,
    pub(crate) client_id: String,
    pub(crate) redirect_uri: String,
    pub(crate) expires_at: DateTime<Utc>,
}

pub(crate) async fn begin(connection: &mut PgConnection, state_hash: &[u8], login: &Login) -> Result<(), DbError> {
    sqlx::query!(
        "INSERT INTO mcp_fabric.oauth_logins
             (state_hash, owner, server_id, issuer, names_issuer, resource, token_endpoint, revocation_endpoint, client_id, redirect_uri, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        state_hash,
        login.owner,
        login.server_id,
        login.issuer,
        login.names_issuer,
        login.resource,
        login.token_endpoint,
        login.revocation_endpoint,
        login.client_id,
        login.redirect_uri,
        login.expires_at
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A login that still counts.
pub(crate) async fn login(connection: &mut PgConnection, state_hash: &[u8], now: DateTime<Utc>) -> Result<Option<Login>, DbError> {
    let row = sqlx::query_as!(
        Login,
        "SELECT owner, server_id, issuer, names_issuer, resource, token_endpoint, revocation_endpoint, client_id, redirect_uri, expires_at
         FROM mcp_fabric.oauth_logins WHERE state_hash = $1 AND expires_at > $2",
        state_hash,
        now
    );
    Ok(row.fetch_optional(connection).await?)
}

/// Takes a login off the list; gives whether it was on it.
pub(crate) async fn take(connection: &mut PgConnection, state_hash: &[u8]) -> Result<bool, DbError> {
    let gone = sqlx::query!("DELETE FROM mcp_fabric.oauth_logins WHERE state_hash = $1", state_hash);
    Ok(gone.execute(connection).await?.rows_affected() == 1)
}

/// Removes logins that nobody finished.
pub(crate) async fn expire(connection: &mut PgConnection, now: DateTime<Utc>) -> Result<(), DbError> {
    sqlx::query!("DELETE FROM mcp_fabric.oauth_logins WHERE expires_at <= $1", now).execute(connection).await?;
    Ok(())
}

/// Writes a grant in the place of an earlier one.
pub(crate) async fn put(connection: &mut PgConnection, grant: &Grant) -> Result<(), DbError> {
    sqlx::query!(
        "INSERT INTO mcp_fabric.oauth_grants
             (owner, server_id, issuer, resource, token_endpoint, revocation_endpoint, client_id, scope, expires_at, is_over, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)
         ON CONFLICT (owner, server_id) DO UPDATE
            SET issuer = excluded.issuer, resource = excluded.resource, token_endpoint = excluded.token_endpoint,
                revocation_endpoint = excluded.revocation_endpoint, client_id = excluded.client_id, scope = excluded.scope,
                expires_at = excluded.expires_at, is_over = excluded.is_over, updated_at = excluded.updated_at",
        grant.owner,
        grant.server_id,
        grant.issuer,
        grant.resource,
        grant.token_endpoint,
        grant.revocation_endpoint,
        grant.client_id,
        grant.scope,
        grant.expires_at,
        grant.is_over,
        grant.updated_at
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn grant(connection: &mut PgConnection, owner: &str, server_id: &str) -> Result<Option<Grant>, DbError> {
    let row = sqlx::query_as!(
        Grant,
        "SELECT owner, server_id, issuer, resource, token_endpoint, revocation_endpoint, client_id, scope, expires_at, is_over, updated_at
         FROM mcp_fabric.oauth_grants WHERE owner = $1 AND server_id = $2",
        owner,
        server_id
    );
    Ok(row.fetch_optional(connection).await?)
}

/// The same, held until the transaction ends: one at a time refreshes its tokens.
pub(crate) async fn hold(connection: &mut PgConnection, owner: &str, server_id: &str) -> Result<Option<Grant>, DbError> {
    let row = sqlx::query_as!(
        Grant,
        "SELECT owner, server_id, issuer, resource, token_endpoint, revocation_endpoint, client_id, scope, expires_at, is_over, updated_at
         FROM mcp_fabric.oauth_grants WHERE owner = $1 AND server_id = $2 FOR UPDATE",
        owner,
        server_id
    );
    Ok(row.fetch_optional(connection).await?)
}

pub(crate) async fn remove(connection: &mut PgConnection, owner: &str, server_id: &str) -> Result<bool, DbError> {
    let gone = sqlx::query!("DELETE FROM mcp_fabric.oauth_grants WHERE owner = $1 AND server_id = $2", owner, server_id);
    Ok(gone.execute(connection).await?.rows_affected() == 1)
}

/// Removes everything of an owner; gives the servers that it was for.
pub(crate) async fn erase(connection: &mut PgConnection, owner: &str) -> Result<Vec<String>, DbError> {
    sqlx::query!("DELETE FROM mcp_fabric.oauth_logins WHERE owner = $1", owner).execute(&mut *connection).await?;
    let gone = sqlx::query_scalar!("DELETE FROM mcp_fabric.oauth_grants WHERE owner = $1 RETURNING server_id", owner);
    Ok(gone.fetch_all(connection).await?)
}

/// What an authorization server calls this fabric.
pub(crate) async fn client(connection: &mut PgConnection, issuer: &str, redirect_uri: &str) -> Result<Option<String>, DbError> {
    let known =
        sqlx::query_scalar!("SELECT client_id FROM mcp_fabric.oauth_clients WHERE issuer = $1 AND redirect_uri = $2", issuer, redirect_uri);
    Ok(known.fetch_optional(connection).await?)
}

pub(crate) async fn put_client(
    connection: &mut PgConnection,
    issuer: &str,
    redirect_uri: &str,
    client_id: &str,
    now: DateTime<Utc>,
) -> Result<(), DbError> {
    sqlx::query!(
        "INSERT INTO mcp_fabric.oauth_clients (issuer, redirect_uri, client_id, registered_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (issuer, redirect_uri) DO UPDATE SET client_id = excluded.client_id, registered_at = excluded.registered_at",
        issuer,
        redirect_uri,
        client_id,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets a registration that the authorization server does not know any more.
pub(crate) async fn forget_client(connection: &mut PgConnection, issuer: &str, client_id: &str) -> Result<(), DbError> {
    sqlx::query!("DELETE FROM mcp_fabric.oauth_clients WHERE issuer = $1 AND client_id = $2", issuer, client_id)
        .execute(connection)
        .await?;
    Ok(())
}
