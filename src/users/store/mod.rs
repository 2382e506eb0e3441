//! All the SQL of accounts, sessions and tokens.

pub(crate) mod external;
pub(crate) mod failures;
pub(crate) mod invites;
pub(crate) mod sessions;
pub(crate) mod tokens;
pub(crate) mod users;
