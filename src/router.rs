//! Every route on one page.

use std::sync::Arc;

use audit::Audit;
use axum::{
    Router,
    extract::State,
    http::header,
    middleware,
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use bulk::Bulk;
use cache::Cache;
use catalog::Catalog;
use configurations::Configurations;
use credentials::Credentials;
use events::Events;
use factory::Factory;
use gateway::Gateway;
use jobs::Jobs;
use oauth::Oauth;
use packages::Packages;
use platform::{
    Action, Actor, Config, Problem,
    http::{Front, Path, Peer, cors, front},
    telemetry::Metrics,
};
use runtime::Runtime;
use servers::Servers;
use sources::Sources;
use sync::Sync;
use tower::util::MapResponseLayer;
use users::Users;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use virtual_servers::VirtualServers;

use crate::{
    health::Health,
    openapi::{self, Document},
};

pub(crate) struct Services {
    pub(crate) audit: Audit,
    pub(crate) users: Users,
    pub(crate) servers: Servers,
    pub(crate) sync: Sync,
    pub(crate) cache: Cache,
    pub(crate) credentials: Credentials,
    pub(crate) configurations: Configurations,
    pub(crate) packages: Packages,
    pub(crate) oauth: Oauth,
    pub(crate) runtime: Runtime,
    pub(crate) sources: Sources,
    pub(crate) virtual_servers: VirtualServers,
    pub(crate) gateway: Gateway,
    pub(crate) bulk: Bulk,
    pub(crate) catalog: Catalog,
    pub(crate) factory: Factory,
    pub(crate) jobs: Jobs,
    pub(crate) events: Events,
    pub(crate) health: Health,
}

pub(crate) fn build(services: Services, config: &Config, front: Front, metrics: Metrics) -> Router {
    let older = runtime::older(services.packages.clone(), services.runtime.clone(), services.jobs.clone());
    let api = OpenApiRouter::new()
        .merge(older.into())
        .merge(catalog::older(services.catalog.clone()).into())
        .merge(catalog::router(services.catalog))
        .merge(factory::older(services.factory.clone(), services.jobs.clone()).into())
        .merge(factory::router(services.factory))
        .merge(servers::router(services.servers.clone()))
        .merge(sync::router(services.sync))
        .merge(cache::router(services.cache.clone()))
        .merge(users::router(services.users))
        .merge(credentials::router(services.credentials))
        .merge(configurations::router(services.configurations))
        .merge(packages::router(services.packages))
        .merge(oauth::router(services.oauth))
        .merge(runtime::router(services.runtime))
        .merge(sources::router(services.sources))
        .merge(virtual_servers::router(services.virtual_servers, config.cache.address.clone()))
        .merge(gateway::router(services.gateway.clone()))
        .merge(bulk::router(services.bulk))
        .merge(audit::router(services.audit))
        .merge(jobs::router(services.jobs))
        .merge(events::router(services.events));
    let registry = servers::registry_router(services.servers);
    let documented = OpenApiRouter::with_openapi(Document::openapi())
        .merge(around(api, |routes| {
            routes.method_not_allowed_fallback(front::method_not_allowed).layer(cors::for_api(&config.http.cors_origins))
        }))
        .merge(around(registry, |routes| {
            let address = config.cache.address.clone();
            routes
                .method_not_allowed_fallback(servers::other_method)
                .layer(middleware::from_fn_with_state(address, servers::rewritten))
                .layer(MapResponseLayer::new(servers::open_to_all))
        }))
        .merge(services.health.router());
    let (routes, mut document) = documented.split_for_parts();
    document.servers = config.public_url.as_ref().map(|url| vec![utoipa::openapi::Server::new(url.as_str().trim_end_matches('/'))]);
    routes
        .route("/metrics", get(serve_metrics).with_state(metrics))
        .merge(cache::registries(services.cache))
        .merge(gateway::endpoints(services.gateway, &config.http.cors_origins))
        .merge(documents(&document))
        .fallback(front::not_found)
        .method_not_allowed_fallback(front::method_not_allowed)
        .layer(middleware::from_fn_with_state(front, front::front))
}

/// What the factory's own listener has: its older paths.
pub(crate) fn factory(factory: Factory, jobs: Jobs, config: &Config, front: Front) -> Router {
    factory::older(factory, jobs)
        .method_not_allowed_fallback(front::method_not_allowed)
        .layer(cors::for_api(&config.http.cors_origins))
        .fallback(front::not_found)
        .layer(middleware::from_fn_with_state(front, front::front))
}

/// What the internal listener has: plaintext, and nothing else.
pub(crate) fn internal(credentials: Credentials, front: Front) -> Router {
    credentials::internal(credentials)
        .fallback(front::not_found)
        .method_not_allowed_fallback(front::method_not_allowed)
        .layer(middleware::from_fn_with_state(front, front::front))
}

/// Changes routes and leaves their documents as they are.
fn around(routes: OpenApiRouter, change: impl FnOnce(Router) -> Router) -> OpenApiRouter {
    let (routes, document) = routes.split_for_parts();
    OpenApiRouter::with_openapi(document).merge(change(routes).into())
}

/// For a token, or for a collector on this machine.
async fn serve_metrics(
    State(metrics): State<Metrics>,
    peer: Option<axum::Extension<Peer>>,
    actor: Result<Actor, Problem>,
) -> Result<Response, Problem> {
    if !peer.is_some_and(|peer| peer.is_local) {
        actor?.require(Action::MetricsRead)?;
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render()).into_response())
}

/// The documentation's pages run their own scripts only, and stand in no frame.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'";

/// `/openapi.json`, `/openapi.yaml` (the registry part, for clients that look for it) and `/docs`.
fn documents(document: &utoipa::openapi::OpenApi) -> Router {
    let json: Arc<str> = document.to_json().unwrap_or_default().into();
    let yaml: Arc<str> = openapi::registry_only(document).to_yaml().unwrap_or_default().into();
    let assets = Arc::new(utoipa_swagger_ui::Config::from("/openapi.json"));
    let page =
        async |Path(path): Path<String>, State(assets): State<Arc<utoipa_swagger_ui::Config<'static>>>| -> Result<Response, Problem> {
            match utoipa_swagger_ui::serve(&path, assets) {
                Ok(Some(file)) => {
                    let headers = [(header::CONTENT_TYPE, file.content_type.as_str()), (header::CONTENT_SECURITY_POLICY, DOCS_POLICY)];
                    Ok((headers, file.bytes.into_owned()).into_response())
                }
                Ok(None) | Err(_) => {
                    Err(Problem::new(platform::Class::NotFound, "route_not_found", "there is no such page in the documentation"))
                }
            }
        };
    Router::new()
        .route("/openapi.json", get(async move || text("application/json", &json)))
        .route("/openapi.yaml", get(async move || text("application/yaml", &yaml)))
        .route("/", get(|| async { Redirect::temporary("/docs/index.html") }))
        .route("/docs", get(|| async { Redirect::temporary("/docs/index.html") }))
        .route("/docs/{*path}", get(page))
        .with_state(assets)
}

fn text(content_type: &'static str, body: &str) -> Response {
    ([(header::CONTENT_TYPE, content_type)], body.to_owned()).into_response()
}
