//! Who acts, and what they may do. Every service method that changes something or reads private data
//! takes an [`Actor`] first.

use std::{fmt, net::IpAddr, sync::Arc};

use uuid::Uuid;

use crate::{
    problem::{Class, Coded, Denial},
    words,
};

words! {
    /// What kind of account a user has.
    pub enum Role {
        /// Everything.
        Admin = "admin",
        /// Their own things, and the catalogue.
        Member = "member",
        /// Reads the whole audit trail, and the catalogue.
        Auditor = "auditor",
    }
}

words! {
    /// What a token was made for.
    pub enum Scope {
        /// Read the catalogue, jobs and events.
        CatalogueRead = "catalogue:read",
        /// Have packages cached.
        CacheWrite = "cache:write",
        /// Store and delete credentials.
        CredentialsWrite = "credentials:write",
        /// Read the plaintext of credentials, on the internal listener.
        CredentialsReveal = "credentials:reveal",
        /// Change configurations.
        ConfigurationsWrite = "configurations:write",
        /// Start and stop servers, steer jobs.
        RuntimeWrite = "runtime:write",
        /// Call MCP servers through the gateway.
        McpCall = "mcp:call",
        /// Generate servers.
        FactoryWrite = "factory:write",
        /// Read the audit trail.
        AuditRead = "audit:read",
        /// Everything else, and everything above but `credentials:reveal`.
        Admin = "admin",
    }
}

impl Scope {
    /// Every scope, as documents list them.
    pub const ALL: [Self; 10] = [
        Self::CatalogueRead,
        Self::CacheWrite,
        Self::CredentialsWrite,
        Self::CredentialsReveal,
        Self::ConfigurationsWrite,
        Self::RuntimeWrite,
        Self::McpCall,
        Self::FactoryWrite,
        Self::AuditRead,
        Self::Admin,
    ];
}

words! {
    /// What an actor wants to do; [`Actor::require`] decides. docs/security.md shows the same as a table.
    pub enum Action {
        /// See jobs, their logs and their results.
        JobsRead = "jobs.read",
        /// Cancel and retry jobs.
        JobsManage = "jobs.manage",
        /// See and steer everybody's jobs.
        JobsAll = "jobs.all",
        /// Follow the event stream.
        EventsRead = "events.read",
        /// See the state and the history of the mirror.
        SyncRead = "sync.read",
        /// Start a sync or import documents.
        SyncManage = "sync.manage",
        /// Read the metrics.
        MetricsRead = "metrics.read",
        /// See what is in the package cache.
        CacheRead = "cache.read",
        /// Have packages cached.
        CacheFill = "cache.fill",
        /// Remove, verify, export and import packages.
        CacheManage = "cache.manage",
        /// See one's own account and tokens.
        AccountRead = "account.read",
        /// Change one's own password and tokens, or leave.
        AccountManage = "account.manage",
        /// See and change accounts of others, invitations and service tokens.
        UsersManage = "users.manage",
        /// See which credentials there are.
        CredentialsRead = "credentials.read",
        /// Store and delete credentials.
        CredentialsWrite = "credentials.write",
        /// Get their plaintext.
        CredentialsReveal = "credentials.reveal",
        /// Write all of a user's into an encrypted file.
        CredentialsExport = "credentials.export",
        /// Rotate keys, verify and migrate all credentials.
        CredentialsManage = "credentials.manage",
        /// See what one wants of servers.
        ConfigurationsRead = "configurations.read",
        /// Say what one wants of servers.
        ConfigurationsWrite = "configurations.write",
        /// Want an instance that everybody uses.
        ConfigurationsShare = "configurations.share",
        /// See which packages are installed.
        PackagesRead = "packages.read",
        /// Install packages that a server of the catalogue names, and remove one's own.
        PackagesInstall = "packages.install",
        /// Install any package, say with which command, and remove those of others.
        PackagesManage = "packages.manage",
        /// See one's own instances, their logs and their tools.
        InstancesRead = "instances.read",
        /// Start and stop them.
        InstancesManage = "instances.manage",
        /// See and stop everybody's.
        InstancesAll = "instances.all",
        /// Call their tools.
        ToolsCall = "tools.call",
        /// See one's own data sources.
        SourcesRead = "sources.read",
        /// Make and change them.
        SourcesWrite = "sources.write",
        /// See one's own virtual servers.
        VirtualServersRead = "virtual_servers.read",
        /// Make and change them.
        VirtualServersWrite = "virtual_servers.write",
        /// Remove anybody's for ever.
        VirtualServersErase = "virtual_servers.erase",
        /// Make servers of one's own in the catalogue, and change them.
        CatalogWrite = "catalog.write",
        /// Say of all servers who may see and use them, and make ones that everybody sees.
        CatalogManage = "catalog.manage",
        /// Make servers from descriptions and API documents, and have servers looked at.
        FactoryGenerate = "factory.generate",
        /// Read the audit trail: one's own part of it, or all for those who may.
        AuditRead = "audit.read",
        /// Read everybody's part of it, and verify it.
        AuditReadAll = "audit.read_all",
    }
}

/// What an action asks of an actor.
struct Rule {
    /// What a token has to carry; without one, only a login will do.
    scope: Option<Scope>,
    /// Which accounts may.
    roles: &'static [Role],
}

impl Action {
    fn rule(self) -> Rule {
        use Role::{Admin, Auditor, Member};
        const ALL: &[Role] = &[Admin, Member, Auditor];
        let (scope, roles): (Option<Scope>, &[Role]) = match self {
            Self::JobsRead | Self::EventsRead | Self::SyncRead | Self::CacheRead | Self::AccountRead | Self::PackagesRead => {
                (Some(Scope::CatalogueRead), ALL)
            }
            Self::JobsManage | Self::PackagesInstall | Self::InstancesRead | Self::InstancesManage => {
                (Some(Scope::RuntimeWrite), &[Admin, Member])
            }
            Self::FactoryGenerate => (Some(Scope::FactoryWrite), &[Admin, Member]),
            Self::PackagesManage => (Some(Scope::RuntimeWrite), &[Admin]),
            Self::ToolsCall => (Some(Scope::McpCall), &[Admin, Member]),
            Self::JobsAll
            | Self::SyncManage
            | Self::CacheManage
            | Self::UsersManage
            | Self::CredentialsManage
            | Self::InstancesAll
            | Self::CatalogManage => (Some(Scope::Admin), &[Admin]),
            Self::MetricsRead => (Some(Scope::CatalogueRead), &[Admin, Auditor]),
            Self::CacheFill => (Some(Scope::CacheWrite), &[Admin, Member]),
            Self::AccountManage => (None, ALL),
            Self::CredentialsRead | Self::CredentialsWrite => (Some(Scope::CredentialsWrite), &[Admin, Member]),
            Self::ConfigurationsRead
            | Self::ConfigurationsWrite
            | Self::SourcesRead
            | Self::SourcesWrite
            | Self::VirtualServersRead
            | Self::VirtualServersWrite
            | Self::CatalogWrite => (Some(Scope::ConfigurationsWrite), &[Admin, Member]),
            Self::ConfigurationsShare | Self::VirtualServersErase => (Some(Scope::ConfigurationsWrite), &[Admin]),
            // Plaintext is for programs that start servers: no account has it.
            Self::CredentialsReveal | Self::CredentialsExport => (Some(Scope::CredentialsReveal), &[]),
            Self::AuditRead => (Some(Scope::AuditRead), ALL),
            Self::AuditReadAll => (Some(Scope::AuditRead), &[Admin, Auditor]),
        };
        Rule { scope, roles }
    }
}

/// The scopes and servers that a token is limited to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The token's row.
    pub token: Uuid,
    /// What it may be used for.
    pub scopes: Arc<[Scope]>,
    /// The only servers that it may be used for; `None` for all.
    pub servers: Option<Arc<[String]>>,
    /// The only tools that it may be used for, and then for nothing else of servers; `None` for all.
    pub tools: Option<Arc<[ToolPattern]>>,
}

/// Tools of MCP servers: `search`, `get_*`, `io.example/weather#forecast`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolPattern {
    server: Option<String>,
    name: String,
    /// Everything that begins with the name.
    is_prefix: bool,
}

impl ToolPattern {
    const LONGEST: usize = 400;

    /// Whether a server's tool is meant.
    pub fn admits(&self, server: &str, tool: &str) -> bool {
        self.server.as_ref().is_none_or(|own| own == server)
            && if self.is_prefix { tool.starts_with(&self.name) } else { tool == self.name }
    }
}

impl std::str::FromStr for ToolPattern {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (server, tool) = text.split_once('#').map_or((None, text), |(server, tool)| (Some(server), tool));
        let (name, is_prefix) = tool.strip_suffix('*').map_or((tool, false), |name| (name, true));
        let is_whole = !tool.is_empty() && !name.contains('*') && server != Some("") && text.len() <= Self::LONGEST;
        if !is_whole || text.chars().any(char::is_control) {
            return Err(());
        }
        Ok(Self { server: server.map(str::to_owned), name: name.to_owned(), is_prefix })
    }
}

impl Grant {
    fn covers(&self, scope: Option<Scope>) -> bool {
        let holds = |held: &Scope, scope| *held == scope || (*held == Scope::Admin && scope != Scope::CredentialsReveal);
        scope.is_some_and(|scope| self.scopes.iter().any(|held| holds(held, scope)))
    }
}

/// How a user came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// By a login, with all that the role allows.
    Session(Uuid),
    /// By a personal access token.
    Token(Grant),
}

/// Who acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Nobody who is known.
    Nobody,
    /// The local administrator: holds the operator token, or is a trusted loopback caller.
    Operator,
    /// The program itself, for a named kind of job.
    System(&'static str),
    /// A person with an account.
    User {
        /// The account.
        id: Uuid,
        /// Its kind.
        role: Role,
        /// By a login or a token.
        entry: Entry,
    },
    /// Another program, by a service token.
    Service(Grant),
}

words! {
    /// Through which door a request came.
    pub enum Door {
        /// `FABRIC_LISTEN`.
        Public = "public",
        /// `FABRIC_INTERNAL_LISTEN`.
        Internal = "internal",
        /// None: the program itself.
        Inside = "inside",
    }
}

/// Where a request came from; for the audit trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Through which door.
    pub door: Door,
    /// As the answer's `X-Request-Id` says.
    pub request_id: Option<String>,
    /// The caller, behind trusted proxies.
    pub address: Option<IpAddr>,
    /// What the caller calls itself, cut to a sensible length.
    pub user_agent: Option<String>,
}

impl Origin {
    /// The program itself.
    pub fn inside() -> Self {
        Self { door: Door::Inside, request_id: None, address: None, user_agent: None }
    }
}

/// Who acts, and from where; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Who.
    pub identity: Identity,
    /// From where.
    pub origin: Arc<Origin>,
}

/// The actor is known, but may not do this.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Forbidden {
    reason: String,
    denial: Denial,
}

impl Coded for Forbidden {
    fn code(&self) -> &'static str {
        "forbidden"
    }
    fn class(&self) -> Class {
        Class::Forbidden
    }
    fn denial(&self) -> Option<Denial> {
        Some(self.denial.clone())
    }
}

impl Actor {
    /// Somebody who sent a request.
    pub fn new(identity: Identity, origin: Arc<Origin>) -> Self {
        Self { identity, origin }
    }

    /// The program itself, for a named kind of job.
    pub fn system(job: &'static str) -> Self {
        Self { identity: Identity::System(job), origin: Arc::new(Origin::inside()) }
    }

    /// The account, when a person acts.
    pub fn user(&self) -> Option<Uuid> {
        match self.identity {
            Identity::User { id, .. } => Some(id),
            Identity::Nobody | Identity::Operator | Identity::System(_) | Identity::Service(_) => None,
        }
    }

    /// The only servers that the actor's token is for; `None` for all.
    pub fn servers(&self) -> Option<&[String]> {
        match &self.identity {
            Identity::User { entry: Entry::Token(grant), .. } | Identity::Service(grant) => grant.servers.as_deref(),
            Identity::Nobody | Identity::Operator | Identity::System(_) | Identity::User { .. } => None,
        }
    }

    /// The only tools that the actor's token is for; `None` for all, and for everything else that servers have.
    pub fn tools(&self) -> Option<&[ToolPattern]> {
        match &self.identity {
            Identity::User { entry: Entry::Token(grant), .. } | Identity::Service(grant) => grant.tools.as_deref(),
            Identity::Nobody | Identity::Operator | Identity::System(_) | Identity::User { .. } => None,
        }
    }

    /// Whether the actor's token may be used for a server's tool.
    pub fn may_use_tool(&self, server: &str, tool: &str) -> bool {
        self.tools().is_none_or(|tools| tools.iter().any(|pattern| pattern.admits(server, tool)))
    }

    /// Whether this actor may do `action`.
    pub fn may(&self, action: Action) -> bool {
        self.refusal(action).is_none()
    }

    /// Fails unless this actor may do `action`.
    pub fn require(&self, action: Action) -> Result<(), Forbidden> {
        self.refusal(action).map_or(Ok(()), |reason| Err(self.denied(action, reason)))
    }

    /// Fails unless the actor's token may be used for `server`.
    pub fn require_server(&self, action: Action, server: &str) -> Result<(), Forbidden> {
        match self.servers() {
            Some(servers) if !servers.iter().any(|granted| granted == server) => {
                Err(self.denied(action, "this token is not for that server".into()))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// A refusal of `action` that this actor meets.
    pub fn denied(&self, action: Action, reason: String) -> Forbidden {
        Forbidden { reason, denial: Denial { actor: self.to_string(), action: action.as_str() } }
    }

    fn refusal(&self, action: Action) -> Option<String> {
        let rule = action.rule();
        let token = |grant: &Grant| {
            let needed =
                || rule.scope.map_or_else(|| "a login instead of a token".to_owned(), |scope| format!("a token with the scope `{scope}`"));
            (!grant.covers(rule.scope)).then(|| format!("this needs {}", needed()))
        };
        match &self.identity {
            Identity::Nobody => Some("this needs a token".into()),
            // The operator could open everything, but servers are started by programs whose tokens say for which.
            Identity::Operator if action == Action::CredentialsReveal => Some("this needs a service token".into()),
            Identity::Operator | Identity::System(_) => None,
            Identity::Service(grant) if action == Action::CredentialsReveal && grant.servers.is_none() => {
                Some("this needs a service token that names its servers".into())
            }
            Identity::Service(grant) => token(grant),
            Identity::User { role, entry, .. } => {
                if !rule.roles.contains(role) {
                    let roles = rule.roles.iter().map(|role| format!("`{role}`")).collect::<Vec<_>>().join(" or ");
                    let needed = if roles.is_empty() { "a service token".into() } else { format!("the role {roles}") };
                    return Some(format!("this needs {needed}"));
                }
                match entry {
                    Entry::Session(_) => None,
                    Entry::Token(grant) => token(grant),
                }
            }
        }
    }
}

/// The name under which rows remember who made them and row-level security compares:
/// `nobody`, `operator`, `system:<job kind>`, `user:<uuid>` or `service:<uuid>`.
impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.identity {
            Identity::Nobody => f.write_str("nobody"),
            Identity::Operator => f.write_str("operator"),
            Identity::System(job) => write!(f, "system:{job}"),
            Identity::User { id, .. } => write!(f, "user:{id}"),
            Identity::Service(grant) => write!(f, "service:{}", grant.token),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(role: Role, entry: Entry) -> Actor {
        Actor::new(Identity::User { id: Uuid::nil(), role, entry }, Arc::new(Origin::inside()))
    }

    fn grant(scopes: &[Scope], servers: Option<&[&str]>) -> Grant {
        let servers = servers.map(|servers| servers.iter().map(|server| (*server).to_owned()).collect());
        Grant { token: Uuid::nil(), scopes: scopes.into(), servers, tools: None }
    }

    #[test]
    fn tokens_never_exceed_the_role_nor_their_scopes() {
        let all = Entry::Token(grant(&[Scope::Admin], None));
        assert!(user(Role::Admin, all.clone()).may(Action::UsersManage));
        assert!(!user(Role::Member, all.clone()).may(Action::UsersManage));
        assert!(!user(Role::Admin, all).may(Action::AccountManage), "a token makes no tokens");
        let narrow = Entry::Token(grant(&[Scope::CatalogueRead], None));
        assert!(user(Role::Admin, narrow.clone()).may(Action::JobsRead));
        assert!(!user(Role::Admin, narrow).may(Action::CredentialsWrite));
    }

    #[test]
    fn tools_are_named_whole_by_their_beginning_or_with_their_server() {
        let admits = |text: &str, server: &str, tool: &str| text.parse::<ToolPattern>().unwrap().admits(server, tool);
        assert!(admits("search", "a/b", "search") && !admits("search", "a/b", "search_all"));
        assert!(admits("get_*", "a/b", "get_one") && admits("*", "a/b", "anything") && !admits("get_*", "a/b", "forget_one"));
        assert!(admits("a/b#get_*", "a/b", "get_one") && !admits("a/b#get_*", "a/c", "get_one") && !admits("a#x", "a/b", "x"));
        for text in ["", "#x", "a#", "a*b", "**", "x\n", &"x".repeat(401)] {
            assert!(text.parse::<ToolPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn plaintext_is_for_no_account() {
        for role in [Role::Admin, Role::Member, Role::Auditor] {
            assert!(!user(role, Entry::Session(Uuid::nil())).may(Action::CredentialsReveal));
        }
        let service = Actor::new(Identity::Service(grant(&[Scope::CredentialsReveal], Some(&["a"]))), Arc::new(Origin::inside()));
        assert!(service.may(Action::CredentialsReveal));
        assert!(service.require_server(Action::CredentialsReveal, "a").is_ok());
        assert!(service.require_server(Action::CredentialsReveal, "b").is_err());
        assert!(!service.may(Action::CredentialsWrite));
    }
}
