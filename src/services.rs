//! Builds every service once, in dependency order.

use std::{path::PathBuf, sync::Arc};

use audit::{Audit, AuditKeys};
use bulk::Bulk;
use cache::Cache;
use catalog::Catalog;
use configurations::Configurations;
use credentials::{Credentials, Ring};
use events::Events;
use factory::Factory;
use gateway::Gateway;
use jobs::{Handlers, Jobs};
use oauth::Oauth;
use packages::{Packages, PackagesError};
use platform::{
    Config, Database, Shutdown,
    database::{self, OpenError, managed::Cluster},
    files,
    keys::SecretKey,
    redis::Redis,
    telemetry::Metrics,
};
use runtime::Runtime;
use sandbox::Machine;
use servers::Servers;
use sources::Sources;
use sync::{Sync, Upstream};
use users::{Belongings, Users};
use virtual_servers::VirtualServers;

use crate::{app::StartError, health::Health, kinds::KINDS, router::Services};

/// The Redis that is named; all fabrics on one database call their part of it the same, and others cannot guess it.
fn redis_of(config: &Config, secret: &SecretKey) -> Result<Option<Redis>, StartError> {
    let mark = platform::random::hex(&secret.derive(b"mcp-fabric", "redis").expose()[..16]);
    config.redis_url.as_ref().map(|url| Redis::at(url, &mark)).transpose().map_err(StartError::Redis)
}

/// The services, and what does their jobs.
pub(crate) struct Built {
    pub(crate) services: Services,
    pub(crate) handlers: Handlers,
}

/// Builds them; what works in the background by itself has begun.
pub(crate) async fn build(
    config: &Config,
    database: &Database,
    node: &str,
    metrics: &Metrics,
    shutdown: &Shutdown,
) -> Result<Built, StartError> {
    let ring = Ring::open(config, database).await?;
    let jwt_key = credentials::jwt_key(config, &ring)?;
    let secret = credentials::instance_secret(&ring, database).await?;
    let (keys, redis) = (AuditKeys::derive(&secret), redis_of(config, &secret)?);
    let events = Events::start(config, database.clone(), redis.clone(), KINDS, metrics, shutdown).await.map_err(OpenError::from)?;
    let audit = Audit::start(config, database.clone(), events.clone(), keys, metrics, shutdown)?;
    let users = Users::start(config, database.clone(), audit.clone(), jwt_key, shutdown).await?;
    let jobs = Jobs::new(database.clone(), events.clone(), audit.clone());
    let servers = Servers::start(config, database.clone(), events.clone(), shutdown).await?;
    let sync = mirror(config, database, (&audit, &events, &jobs, &servers), metrics)?;
    let health = Health::new(database.clone(), sync.clone(), disks(config));

    let neighbours = cache::Neighbours { database: database.clone(), audit: audit.clone(), jobs: jobs.clone(), servers: servers.clone() };
    let cache = Cache::start(config, node.to_owned(), neighbours, metrics, shutdown).await?;
    let credentials = Credentials::start(config, ring, database.clone(), audit.clone(), jobs.clone(), servers.clone(), shutdown);
    let configurations = Configurations::new(database.clone(), audit.clone(), servers.clone(), credentials.clone());
    let below = Below {
        database: database.clone(),
        audit: audit.clone(),
        events: events.clone(),
        jobs: jobs.clone(),
        servers: servers.clone(),
        cache: cache.clone(),
        credentials: credentials.clone(),
        configurations: configurations.clone(),
        redis,
    };
    let place = files::servers_place(&config.data_dir).map_err(PackagesError::from)?;
    let machine = Machine::look(&config.runtime, node, &place).map(Arc::new).map_err(StartError::Sandbox)?;
    let (packages, oauth, runtime) = running(config, node, below, Arc::clone(&machine), metrics, shutdown)?;
    let sources = Sources::new(database.clone(), audit.clone(), events.clone(), credentials.clone());
    let neighbours = (audit.clone(), servers.clone(), events.clone(), runtime.clone(), sources.clone());
    let (virtual_servers, gateway) = endpoints(config, database, neighbours, metrics, shutdown).await?;
    let neighbours = bulk::Neighbours {
        database: database.clone(),
        audit: audit.clone(),
        events: events.clone(),
        jobs: jobs.clone(),
        users: users.clone(),
        servers: servers.clone(),
        cache: cache.clone(),
        configurations: configurations.clone(),
        packages: packages.clone(),
        runtime: runtime.clone(),
    };
    let bulk = Bulk::new(config, neighbours);
    let catalog = editor(database, &audit, &servers, &configurations, &packages);
    let neighbours = (database.clone(), jobs.clone(), users.clone(), servers.clone(), cache.clone());
    let factory = factory_of(config, neighbours, &catalog, machine)?;
    users.set_belongings(belongings(
        (&bulk, &credentials, &configurations, &oauth, &runtime, &virtual_servers, &sources),
        (&catalog, &factory),
    ));

    let handlers =
        factory.handlers(bulk.handlers(packages.handlers(credentials.handlers(cache.handlers(sync.handlers(Handlers::default()))))));
    let services = Services {
        audit,
        users,
        servers,
        sync,
        cache,
        credentials,
        configurations,
        packages,
        oauth,
        runtime,
        sources,
        virtual_servers,
        gateway,
        bulk,
        catalog,
        factory,
        jobs,
        events,
        health,
    };
    Ok(Built { services, handlers })
}

/// What running servers are built on.
struct Below {
    database: Database,
    audit: Audit,
    events: Events,
    jobs: Jobs,
    servers: Servers,
    cache: Cache,
    credentials: Credentials,
    configurations: Configurations,
    redis: Option<Redis>,
}

/// What installs and runs servers.
fn running(
    config: &Config,
    node: &str,
    below: Below,
    machine: Arc<Machine>,
    metrics: &Metrics,
    shutdown: &Shutdown,
) -> Result<(Packages, Oauth, Runtime), StartError> {
    let Below { database, audit, events, jobs, servers, cache, credentials, configurations, redis } = below;
    let neighbours = packages::Neighbours {
        database: database.clone(),
        audit: audit.clone(),
        events: events.clone(),
        jobs,
        servers: servers.clone(),
        cache,
        credentials: credentials.clone(),
        configurations: configurations.clone(),
        machine: Arc::clone(&machine),
    };
    let packages = Packages::open(config, neighbours)?;
    let neighbours =
        oauth::Neighbours { database: database.clone(), audit: audit.clone(), servers: servers.clone(), credentials: credentials.clone() };
    let oauth = Oauth::new(config, neighbours)?;
    let (ours, theirs) = (packages.clone(), oauth.clone());
    let neighbours = runtime::Neighbours {
        database,
        audit,
        events,
        servers,
        credentials,
        configurations,
        packages: ours,
        oauth: theirs,
        machine,
        redis,
    };
    let runtime = Runtime::new(config, node, neighbours, metrics, shutdown)?;
    Ok((packages, oauth, runtime))
}

/// The catalogue, as people change it.
fn editor(database: &Database, audit: &Audit, servers: &Servers, configurations: &Configurations, packages: &Packages) -> Catalog {
    Catalog::new(catalog::Neighbours {
        database: database.clone(),
        audit: audit.clone(),
        servers: servers.clone(),
        configurations: configurations.clone(),
        packages: packages.clone(),
    })
}

type OfPeople<'a> = (&'a Bulk, &'a Credentials, &'a Configurations, &'a Oauth, &'a Runtime, &'a VirtualServers, &'a Sources);

/// What keeps things of people, in the order in which they go with them.
fn belongings(
    (bulk, credentials, configurations, oauth, runtime, virtual_servers, sources): OfPeople<'_>,
    (catalog, factory): (&Catalog, &Factory),
) -> Vec<Arc<dyn Belongings>> {
    vec![
        Arc::new(bulk.clone()),
        Arc::new(credentials.clone()),
        Arc::new(configurations.clone()),
        Arc::new(oauth.clone()),
        Arc::new(runtime.clone()),
        Arc::new(virtual_servers.clone()),
        Arc::new(sources.clone()),
        Arc::new(factory.clone()),
        // It holds up whoever writes the catalogue: last.
        Arc::new(catalog.clone()),
    ]
}

/// What makes servers.
fn factory_of(
    config: &Config,
    (database, jobs, users, servers, cache): (Database, Jobs, Users, Servers, Cache),
    catalog: &Catalog,
    machine: Arc<Machine>,
) -> Result<Factory, StartError> {
    let neighbours = factory::Neighbours { database, jobs, users, servers, catalog: catalog.clone(), cache, machine };
    Ok(Factory::new(config, neighbours)?)
}

/// What follows the upstream registry.
fn mirror(
    config: &Config,
    database: &Database,
    (audit, events, jobs, servers): (&Audit, &Events, &Jobs, &Servers),
    metrics: &Metrics,
) -> Result<Sync, StartError> {
    let upstream = Upstream::new(config, metrics)?;
    let neighbours = sync::Neighbours {
        database: database.clone(),
        audit: audit.clone(),
        events: events.clone(),
        jobs: jobs.clone(),
        servers: servers.clone(),
    };
    Ok(Sync::new(config, neighbours, upstream, metrics))
}

/// The endpoints of MCP clients, and what people put together there.
async fn endpoints(
    config: &Config,
    database: &Database,
    (audit, servers, events, runtime, sources): (Audit, Servers, Events, Runtime, Sources),
    metrics: &Metrics,
    shutdown: &Shutdown,
) -> Result<(VirtualServers, Gateway), StartError> {
    let virtual_servers = VirtualServers::new(config, database.clone(), audit.clone(), events.clone(), servers.clone(), sources);
    let kept_domains = virtual_servers.check_pool().await?;
    let neighbours = gateway::Neighbours { runtime, audit, servers, virtual_servers: virtual_servers.clone(), kept_domains, events };
    let gateway = Gateway::start(config, neighbours, metrics, shutdown)?;
    virtual_servers.set_offers(Arc::new(gateway.clone()));
    Ok((virtual_servers, gateway))
}

/// The folders whose disks must not fill up.
fn disks(config: &Config) -> Vec<PathBuf> {
    let cluster = config.database.url.is_none().then(|| Cluster::place(&database::managed::Options::of(config)).ok()).flatten();
    [config.data_dir.clone(), config.cache.dir.clone()].into_iter().chain(cluster).collect()
}
