use chrono::{DateTime, Utc};
use platform::{Role, Scope};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

platform::id! {
    /// An account.
    pub struct UserId;
}

platform::id! {
    /// A login.
    pub struct SessionId;
}

platform::id! {
    /// A token of ours.
    pub struct TokenId;
}

/// An account as people see it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// In its canonical form.
    pub email: String,
    /// What it may do.
    pub role: Role,
    /// Since when it cannot log in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled_at: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

impl User {
    /// As rows name whose they are.
    pub(crate) fn owner(&self) -> String {
        owner(self.id)
    }
}

/// As rows name whose they are: `user:<id>`.
pub(crate) fn owner(id: UserId) -> String {
    format!("user:{id}")
}

platform::words! {
    /// What a token is for.
    pub enum TokenKind {
        /// MCP clients and scripts of one person.
        Personal = "personal",
        /// Other programs.
        Service = "service",
        /// Whoever holds the data folder.
        Operator = "operator",
    }
}

/// A token as people see it: everything but the token.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct TokenInfo {
    pub(crate) id: TokenId,
    pub(crate) kind: TokenKind,
    pub(crate) name: String,
    /// How the token begins.
    pub(crate) prefix: String,
    pub(crate) scopes: Vec<Scope>,
    /// The only servers that it is for; null for all.
    pub(crate) servers: Option<Vec<String>>,
    /// The only tools that it is for; null for all.
    pub(crate) tools: Option<Vec<String>>,
    pub(crate) created_by: String,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) last_used_at: Option<DateTime<Utc>>,
    pub(crate) revoked_at: Option<DateTime<Utc>>,
}

/// A token that is about to be made.
pub(crate) struct NewToken {
    pub(crate) kind: TokenKind,
    pub(crate) user: Option<UserId>,
    pub(crate) name: String,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) servers: Option<Vec<String>>,
    pub(crate) tools: Option<Vec<String>>,
    pub(crate) expires_at: Option<DateTime<Utc>>,
}

/// An invitation as people see it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Invite {
    pub(crate) id: Uuid,
    /// The only address that may use it; null for any.
    pub(crate) email: Option<String>,
    pub(crate) role: Role,
    pub(crate) created_by: String,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) expires_at: DateTime<Utc>,
    pub(crate) used_at: Option<DateTime<Utc>>,
}
