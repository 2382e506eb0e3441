//! The roles that the service works as: none of them owns a table.
//!
//! `<prefix>_app` serves requests, `<prefix>_worker` runs jobs, `<prefix>_reveal` alone reads
//! ciphertext, `<prefix>_audit` writes the audit trail. Their passwords lie in
//! `<data>/database-roles.json` (0600); the database gets only SCRAM verifiers.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, postgres::PgConnectOptions};

use super::scram;
use crate::{files, random};

/// One of the roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Serves requests.
    App,
    /// Runs jobs.
    Worker,
    /// Reads ciphertext.
    Reveal,
    /// Writes the audit trail.
    Audit,
}

const ALL: [Role; 4] = [Role::App, Role::Worker, Role::Reveal, Role::Audit];

impl Role {
    fn suffix(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Worker => "worker",
            Self::Reveal => "reveal",
            Self::Audit => "audit",
        }
    }
}

/// As whom requests are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Separation {
    /// As roles that own nothing.
    Roles,
    /// As the owner of the database, under forced row-level security.
    Owner {
        /// Why, and what to do.
        reason: String,
    },
}

/// The roles are not as they have to be.
#[derive(Debug, thiserror::Error)]
pub enum RolesError {
    /// `FABRIC_REQUIRE_ROLE_SEPARATION` is set.
    #[error("FABRIC_REQUIRE_ROLE_SEPARATION is set, and {0}")]
    Required(String),
    /// Superusers and BYPASSRLS roles ignore row-level security.
    #[error(
        "the role `{0}` is a superuser or has BYPASSRLS, and would see every user's rows; take that from it (ALTER ROLE … NOSUPERUSER NOBYPASSRLS)"
    )]
    TooPowerful(String),
    /// The password in the data folder does not open the role.
    #[error("the role `{role}` exists, but the password in {path} does not open it; copy that file from the data folder of the fabric that made the roles, or run `mcp-fabric db setup`", path = path.display())]
    WrongPassword {
        /// The role.
        role: String,
        /// Our secrets.
        path: PathBuf,
    },
    /// The file with the passwords is damaged.
    #[error("{path} is not the file of role passwords that this program writes", path = .0.display())]
    Damaged(PathBuf),
    /// A table has rules about its rows that are switched off.
    #[error("row-level security of {0} is switched off; ALTER TABLE {0} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY puts it back")]
    Unprotected(String),
    /// Rows of users are seen by a connection that acts for nobody.
    #[error("the rows of {0} are seen by a connection that acts for nobody; its policies are not those of the migrations")]
    NotIsolated(String),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// The database refused.
    #[error("could not set up the database roles: {0}")]
    Database(#[from] sqlx::Error),
}

impl RolesError {
    /// Whether the database's owner lacks the right (`insufficient_privilege`).
    pub fn is_not_allowed(&self) -> bool {
        matches!(self, Self::Database(error) if error.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref() == Some("42501"))
    }
}

/// The roles of one fabric with their passwords.
pub struct Roles {
    prefix: String,
    path: PathBuf,
    passwords: BTreeMap<String, SecretString>,
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roles").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Roles {
    /// Reads the passwords, or makes them on the first start.
    pub fn load(data: &Path, prefix: &str) -> Result<Self, RolesError> {
        let path = data.join("database-roles.json");
        let mut passwords: BTreeMap<String, String> = match files::read_if_present(&path)? {
            Some(text) => serde_json::from_str(&text).map_err(|_| RolesError::Damaged(path.clone()))?,
            None => BTreeMap::new(),
        };
        let known = passwords.len();
        for role in ALL {
            passwords.entry(format!("{prefix}_{}", role.suffix())).or_insert_with(random::token);
        }
        if passwords.len() > known {
            files::private_folder(data)?;
            files::write_private(&path, serde_json::to_string_pretty(&passwords).unwrap_or_default().as_bytes())?;
        }
        let passwords = passwords.into_iter().map(|(role, password)| (role, password.into())).collect();
        Ok(Self { prefix: prefix.to_owned(), path, passwords })
    }

    /// The name of a role in the database.
    pub fn name(&self, role: Role) -> String {
        format!("{}_{}", self.prefix, role.suffix())
    }

    fn password(&self, role: Role) -> &str {
        self.passwords.get(&self.name(role)).map_or("", |password| password.expose_secret())
    }

    /// Connect options of the owner, changed to log in as `role`.
    pub(super) fn log_in(&self, owner: &PgConnectOptions, role: Role) -> PgConnectOptions {
        owner.clone().username(&self.name(role)).password(self.password(role))
    }

    /// Makes the roles where this connection may, and gives them their rights.
    pub(super) async fn establish(&self, connection: &mut PgConnection, required: bool) -> Result<Separation, RolesError> {
        self.check_tables(connection).await?;
        // Held until this connection closes: replicas that start together take turns.
        sqlx::query("SELECT pg_advisory_lock(hashtext('mcp_fabric.roles'))").execute(&mut *connection).await?;
        let missing = self.missing(connection).await?;
        if missing.is_empty() {
            self.grant(connection).await?;
            return Ok(Separation::Roles);
        }
        let (user, powerful, may_create): (String, bool, bool) = sqlx::query_as(
            "SELECT rolname::text, rolsuper OR rolbypassrls, rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user",
        )
        .fetch_one(&mut *connection)
        .await?;
        if may_create {
            self.create(connection, &missing).await?;
            self.grant(connection).await?;
            return Ok(Separation::Roles);
        }
        let reason = format!(
            "the database role `{user}` may not make the roles that the service works as; `mcp-fabric db setup` prints what an administrator has to run"
        );
        if required {
            Err(RolesError::Required(reason))
        } else if powerful {
            Err(RolesError::TooPowerful(user))
        } else {
            Ok(Separation::Owner { reason })
        }
    }

    /// A policy on a table whose row-level security is off would protect nothing.
    async fn check_tables(&self, connection: &mut PgConnection) -> Result<(), RolesError> {
        let unprotected: Option<String> = sqlx::query_scalar(
            "SELECT c.oid::regclass::text FROM pg_class c
             WHERE EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid) AND NOT (c.relrowsecurity AND c.relforcerowsecurity) LIMIT 1",
        )
        .fetch_optional(connection)
        .await?;
        unprotected.map_or(Ok(()), |table| Err(RolesError::Unprotected(table)))
    }

    async fn missing(&self, connection: &mut PgConnection) -> Result<Vec<Role>, sqlx::Error> {
        let names: Vec<String> = ALL.map(|role| self.name(role)).into();
        let present: Vec<String> =
            sqlx::query_scalar("SELECT rolname::text FROM pg_roles WHERE rolname = ANY($1)").bind(names).fetch_all(connection).await?;
        Ok(ALL.into_iter().filter(|role| !present.contains(&self.name(*role))).collect())
    }

    async fn create(&self, connection: &mut PgConnection, roles: &[Role]) -> Result<(), sqlx::Error> {
        let mut transaction = connection.begin().await?;
        for role in roles {
            execute(&mut transaction, self.create_statement(*role)).await?;
        }
        transaction.commit().await
    }

    /// The name is an identifier by `FABRIC_ROLE_PREFIX`'s rule and the verifier is base64 and digits,
    /// so neither needs quoting beyond what stands here.
    fn create_statement(&self, role: Role) -> String {
        let verifier = scram::verifier(self.password(role), random::bytes());
        format!("CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD '{verifier}'", self.name(role))
    }

    fn alter_statement(&self, role: Role) -> String {
        format!("ALTER ROLE {} PASSWORD '{}'", self.name(role), scram::verifier(self.password(role), random::bytes()))
    }

    async fn grant(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let mut transaction = connection.begin().await?;
        for role in [Role::App, Role::Worker] {
            let name = self.name(role);
            for statement in [
                format!("GRANT USAGE ON SCHEMA mcp_fabric TO {name}"),
                format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA mcp_fabric TO {name}"),
                format!("GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA mcp_fabric TO {name}"),
            ] {
                execute(&mut transaction, statement).await?;
            }
        }
        // The other schemas say themselves what each role may.
        let schemas: Vec<String> = sqlx::query_scalar(
            "SELECT quote_ident(n.nspname) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.proname = 'grant_roles' ORDER BY 1",
        )
        .fetch_all(&mut *transaction)
        .await?;
        for schema in schemas {
            sqlx::query(AssertSqlSafe(format!("SELECT {schema}.grant_roles($1)"))).bind(&self.prefix).execute(&mut *transaction).await?;
        }
        transaction.commit().await
    }

    /// The SQL that an administrator runs where the owner may not make roles.
    pub async fn setup_sql(&self, connection: &mut PgConnection) -> Result<String, RolesError> {
        let missing = self.missing(connection).await?;
        let statement = |role: Role| if missing.contains(&role) { self.create_statement(role) } else { self.alter_statement(role) };
        Ok(ALL.into_iter().map(|role| statement(role) + ";\n").collect())
    }

    /// Sets the passwords of roles that exist to those in the data folder, and makes missing ones.
    pub async fn reset(&self, connection: &mut PgConnection) -> Result<(), RolesError> {
        let missing = self.missing(connection).await?;
        self.create(connection, &missing).await?;
        for role in ALL.into_iter().filter(|role| !missing.contains(role)) {
            execute(connection, self.alter_statement(role)).await?;
        }
        Ok(self.grant(connection).await?)
    }

    /// Refuses to serve as a role that ignores row-level security.
    pub(super) async fn check_serving(&self, pool: &PgPool) -> Result<(), RolesError> {
        let row: Result<(String, bool), sqlx::Error> =
            sqlx::query_as("SELECT rolname::text, rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")
                .fetch_one(pool)
                .await;
        match row {
            Ok((_, false)) => Ok(()),
            Ok((user, true)) => Err(RolesError::TooPowerful(user)),
            Err(error) if error.as_database_error().and_then(|e| e.code().map(|code| code.starts_with("28"))) == Some(true) => {
                let role = pool.connect_options().get_username().to_owned();
                Err(RolesError::WrongPassword { role, path: self.path.clone() })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Tries what row-level security is for: a connection that acts for nobody sees no row of a table whose
/// rows are private, which are those with a policy `<table>_own`.
pub(super) async fn check_isolation(pool: &PgPool) -> Result<(), RolesError> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT c.oid::regclass::text FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
         WHERE p.polname LIKE '%\\_own' AND has_any_column_privilege(c.oid, 'SELECT') AND has_schema_privilege(c.relnamespace, 'USAGE')",
    )
    .fetch_all(pool)
    .await?;
    for table in tables {
        let seen: bool = sqlx::query_scalar(AssertSqlSafe(format!("SELECT EXISTS (SELECT FROM {table})"))).fetch_one(pool).await?;
        if seen {
            return Err(RolesError::NotIsolated(table));
        }
    }
    Ok(())
}

async fn execute(connection: &mut PgConnection, statement: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await?;
    Ok(())
}
