use std::collections::{BTreeMap, BTreeSet};

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use platform::{
    Action, Actor, Coded as _, Problem,
    http::{Json, Path},
    page::{self, PageRequest},
    public_message,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Packages,
    error::PackagesError,
    model::{Installation, Order, Stage},
};

/// `/api/mcp/packages`.
pub fn router(packages: Packages) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(install))
        .routes(routes!(list))
        .routes(routes!(by_name))
        .routes(routes!(by_id))
        .routes(routes!(updates))
        .routes(routes!(upgrade_all))
        .routes(routes!(uninstall))
        .routes(routes!(enable))
        .routes(routes!(disable))
        .routes(routes!(upgrade))
        .with_state(packages)
}

/// What is to be installed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct InstallIn {
    /// A package, or the id of a server of the catalogue.
    #[schema(example = "@modelcontextprotocol/server-everything")]
    name: String,
    /// A version or a tag (default: what the catalogue names, else the newest).
    version: Option<String>,
    /// The id of the server to be (default: the catalogue's, else the package's name).
    #[serde(alias = "serverName")]
    server_name: Option<String>,
    /// `npm`, `pypi`, `oci` or `mcpb` (default: as the catalogue knows the package, else `npm`).
    #[serde(alias = "registryType")]
    registry_type: Option<String>,
    /// Instead of what the package says; for administrators.
    command: Option<String>,
    /// Instead of what the catalogue says.
    args: Option<Vec<String>>,
    /// Variables of its environment; those whose names say so go into the vault.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Whether it is to run (default: yes).
    enabled: Option<bool>,
}

impl From<InstallIn> for Order {
    fn from(body: InstallIn) -> Self {
        let InstallIn { name, version, server_name, registry_type, command, args, env, enabled } = body;
        Self { name, version, server_name, registry_type, command, args, env, enabled: enabled.unwrap_or(true) }
    }
}

#[derive(Serialize, ToSchema)]
struct PackageOut {
    /// The id of the server.
    server_id: String,
    /// The server of the catalogue whose package it is, where that has another id.
    based_on: Option<String>,
    registry_type: String,
    name: String,
    /// As it was asked for; without one, the newest.
    version: Option<String>,
    /// What can be started.
    resolved_version: Option<String>,
    /// Below the data folder.
    install_path: String,
    status: Stage,
    /// The constraint on what it needs that makes it start, where a known cure was applied.
    cure: Option<String>,
    error: Option<ErrorOut>,
    /// Instead of what the package says.
    command: Option<String>,
    /// Instead of what the catalogue says; only for whoever installed it, and administrators.
    args: Option<Vec<String>>,
    /// `[secret]` for what the vault has; only for whoever installed it, and administrators.
    env: Option<BTreeMap<String, String>>,
    /// Whether you want it to run.
    enabled: bool,
    /// The job that works on it, or did last.
    job_id: Option<uuid::Uuid>,
    installed_by: String,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

#[derive(Serialize, ToSchema)]
struct ErrorOut {
    code: String,
    message: String,
}

impl Installation {
    /// Below the data folder, as people are shown it.
    pub fn install_path(&self) -> String {
        format!("packages/{}", self.folder)
    }

    /// Its arguments, which may hold anything; `None` where they are not this actor's business.
    pub fn shown_args(&self, actor: &Actor) -> Option<&[String]> {
        self.args.as_deref().filter(|_| self.is_known_to(actor))
    }

    fn is_known_to(&self, actor: &Actor) -> bool {
        self.installed_by == actor.to_string() || actor.may(Action::PackagesManage)
    }

    /// Its variables, with `[secret]` for what the vault has; `None` where they are not this actor's business.
    pub fn shown_env(&self, actor: &Actor) -> Option<BTreeMap<String, String>> {
        let secret = self.secret_env.iter().map(|name| (name.clone(), "[secret]".to_owned()));
        self.is_known_to(actor).then(|| self.env.clone().into_iter().chain(secret).collect())
    }
}

fn shown(actor: &Actor, found: Installation, enabled: &BTreeSet<String>) -> PackageOut {
    PackageOut {
        install_path: found.install_path(),
        env: found.shown_env(actor),
        args: found.shown_args(actor).map(<[String]>::to_vec),
        enabled: enabled.contains(&found.server_id),
        server_id: found.server_id,
        based_on: found.based_on,
        registry_type: found.package.registry_type,
        name: found.package.identifier,
        version: found.package.version,
        resolved_version: found.runnable.map(|runnable| runnable.version),
        status: found.stage,
        cure: found.cure,
        error: found.error.map(|(code, message)| ErrorOut { code, message }),
        command: found.command,
        job_id: found.job,
        installed_by: found.installed_by,
        created_at: found.created_at,
        updated_at: found.updated_at,
    }
}

async fn one(packages: &Packages, actor: &Actor, found: Installation) -> Result<Json<PackageOut>, PackagesError> {
    let enabled = packages.enabled_among(actor, std::slice::from_ref(&found)).await?;
    Ok(Json(shown(actor, found, &enabled)))
}

#[derive(Serialize, ToSchema)]
struct BegunOut {
    /// Follow it at `/api/mcp/jobs/{job_id}`.
    job_id: jobs::JobId,
    package: PackageOut,
}

async fn begun(packages: &Packages, actor: &Actor, (found, job): (Installation, jobs::JobId)) -> Result<Response, PackagesError> {
    let Json(package) = one(packages, actor, found).await?;
    let location = HeaderValue::try_from(format!("/api/mcp/jobs/{job}")).unwrap_or(HeaderValue::from_static("/api/mcp/jobs"));
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(BegunOut { job_id: job, package })).into_response())
}

/// Install a package under the id of a server; what is installed already is brought to the version that is asked for.
#[utoipa::path(post, path = "/api/mcp/packages/install", tag = "packages", request_body = InstallIn, security(("token" = [])),
    responses((status = 202, description = "A job works on it", body = BegunOut), (status = 400, description = "A field cannot be used"),
    (status = 403, description = "No server of the catalogue names it, and you are no administrator"),
    (status = 409, description = "The server's name or the folder is taken"), (status = 422, description = "It cannot be made runnable")))]
async fn install(State(packages): State<Packages>, actor: Actor, Json(body): Json<InstallIn>) -> Result<Response, Problem> {
    let started = packages.install(&actor, body.into()).await?;
    Ok(begun(&packages, &actor, started).await?)
}

#[derive(Serialize, ToSchema)]
struct PackagesOut {
    packages: Vec<PackageOut>,
    next_cursor: Option<String>,
}

/// List what is installed, by server.
#[utoipa::path(get, path = "/api/mcp/packages", tag = "packages", security(("token" = [])), params(page::PageParams),
    responses((status = 200, body = PackagesOut)))]
async fn list(State(packages): State<Packages>, actor: Actor, page: PageRequest<String>) -> Result<Json<PackagesOut>, Problem> {
    let found = packages.list(&actor, &page.after.unwrap_or_default(), page.limit + 1).await?;
    let (found, next_cursor) = page::cut(found, page.limit, |last| last.server_id.clone());
    let enabled = packages.enabled_among(&actor, &found).await?;
    Ok(Json(PackagesOut { packages: found.into_iter().map(|found| shown(&actor, found, &enabled)).collect(), next_cursor }))
}

/// Show an installation by its server's name, or by its package's where one server alone has it.
#[utoipa::path(get, path = "/api/mcp/packages/by-name/{name}", tag = "packages", security(("token" = [])),
    params(("name" = String, Path, description = "The server's id or the package's name, percent-encoded")),
    responses((status = 200, body = PackageOut), (status = 404, description = "Nothing is installed under it"),
    (status = 409, description = "Several servers have this package")))]
async fn by_name(State(packages): State<Packages>, actor: Actor, Path(name): Path<String>) -> Result<Json<PackageOut>, Problem> {
    let found = packages.named(&actor, &name).await?;
    Ok(one(&packages, &actor, found).await?)
}

/// Show the installation of a server.
#[utoipa::path(get, path = "/api/mcp/packages/by-id/{server_name}", tag = "packages", security(("token" = [])),
    params(("server_name" = String, Path, description = "The server's id, percent-encoded, or its UUID")),
    responses((status = 200, body = PackageOut), (status = 404, description = "Nothing is installed under it")))]
async fn by_id(State(packages): State<Packages>, actor: Actor, Path(server): Path<String>) -> Result<Json<PackageOut>, Problem> {
    let server = server.parse().map_err(|_| PackagesError::NotFound)?;
    let found = packages.of_server(&actor, &server).await?;
    Ok(one(&packages, &actor, found).await?)
}

/// Uninstall: the server stops, and one that installing made is gone from the catalogue.
#[utoipa::path(delete, path = "/api/mcp/packages/{name}", tag = "packages", security(("token" = [])),
    params(("name" = String, Path, description = "The server's id or the package's name, percent-encoded")),
    responses((status = 204, description = "Uninstalled"), (status = 403, description = "Somebody else installed it"),
    (status = 404, description = "Nothing is installed under it"), (status = 409, description = "Several servers have this package")))]
async fn uninstall(State(packages): State<Packages>, actor: Actor, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    packages.uninstall(&actor, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Say that you want it to run.
#[utoipa::path(put, path = "/api/mcp/packages/{name}/enable", tag = "packages", security(("token" = [])),
    params(("name" = String, Path, description = "The server's id or the package's name, percent-encoded")),
    responses((status = 200, body = PackageOut), (status = 404, description = "Nothing is installed under it")))]
async fn enable(State(packages): State<Packages>, actor: Actor, Path(name): Path<String>) -> Result<Json<PackageOut>, Problem> {
    let found = packages.enable(&actor, &name, true).await?;
    Ok(one(&packages, &actor, found).await?)
}

/// Say that you do not want it to run.
#[utoipa::path(put, path = "/api/mcp/packages/{name}/disable", tag = "packages", security(("token" = [])),
    params(("name" = String, Path, description = "The server's id or the package's name, percent-encoded")),
    responses((status = 200, body = PackageOut), (status = 404, description = "Nothing is installed under it")))]
async fn disable(State(packages): State<Packages>, actor: Actor, Path(name): Path<String>) -> Result<Json<PackageOut>, Problem> {
    let found = packages.enable(&actor, &name, false).await?;
    Ok(one(&packages, &actor, found).await?)
}

/// Which version; without one, the newest.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UpgradeIn {
    version: Option<String>,
}

/// Bring an installation to another version; what runs is started again with it.
#[utoipa::path(post, path = "/api/mcp/packages/{name}/upgrade", tag = "packages", request_body = UpgradeIn, security(("token" = [])),
    params(("name" = String, Path, description = "The server's id or the package's name, percent-encoded")),
    responses((status = 202, description = "A job works on it", body = BegunOut), (status = 404, description = "Nothing is installed under it")))]
async fn upgrade(
    State(packages): State<Packages>,
    actor: Actor,
    Path(name): Path<String>,
    Json(UpgradeIn { version }): Json<UpgradeIn>,
) -> Result<Response, Problem> {
    let started = packages.upgrade(&actor, &name, version).await?;
    Ok(begun(&packages, &actor, started).await?)
}

#[derive(Serialize, ToSchema)]
struct UpdateOut {
    server_id: String,
    name: String,
    registry_type: String,
    installed: Option<String>,
    newest: String,
}

#[derive(Serialize, ToSchema)]
struct UpdatesOut {
    updates: Vec<UpdateOut>,
    /// Installations whose registry could not be asked.
    unknown: Vec<UnknownOut>,
}

#[derive(Serialize, ToSchema)]
struct UnknownOut {
    server_id: String,
    error: ErrorOut,
}

/// List installations of which there is a newer version.
#[utoipa::path(get, path = "/api/mcp/packages/updates", tag = "packages", security(("token" = [])),
    responses((status = 200, body = UpdatesOut)))]
async fn updates(State(packages): State<Packages>, actor: Actor) -> Result<Json<UpdatesOut>, Problem> {
    let out = |(found, newest): (Installation, String)| UpdateOut {
        server_id: found.server_id,
        name: found.package.identifier,
        registry_type: found.package.registry_type,
        installed: found.runnable.map(|runnable| runnable.version),
        newest,
    };
    let unknown = |(found, error): (Installation, PackagesError)| {
        tracing::warn!(server_id = found.server_id, code = error.code(), %error, "whether there is a newer version could not be asked");
        UnknownOut { server_id: found.server_id, error: ErrorOut { code: error.code().into(), message: public_message(&error) } }
    };
    let found = packages.updates(&actor).await?;
    Ok(Json(UpdatesOut { updates: found.newer.into_iter().map(out).collect(), unknown: found.unknown.into_iter().map(unknown).collect() }))
}

#[derive(Serialize, ToSchema)]
struct UpgradesOut {
    packages: Vec<BegunOut>,
}

/// Bring everything that you may upgrade to its newest version.
#[utoipa::path(post, path = "/api/mcp/packages/upgrade", tag = "packages", security(("token" = [])),
    responses((status = 202, description = "A job works on each", body = UpgradesOut)))]
async fn upgrade_all(State(packages): State<Packages>, actor: Actor) -> Result<(StatusCode, Json<UpgradesOut>), Problem> {
    let mut out = Vec::new();
    for (found, job_id) in packages.upgrade_all(&actor).await? {
        let Json(package) = one(&packages, &actor, found).await?;
        out.push(BegunOut { job_id, package });
    }
    Ok((StatusCode::ACCEPTED, Json(UpgradesOut { packages: out })))
}
