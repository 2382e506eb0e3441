//! The registries that clients install from: read-only, from the cache, filled on a miss for those who may.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse as _, Redirect, Response},
    routing::get,
};
use moka::future::Cache as Memory;
use platform::{Class, Problem, http::Answer};
use tokio::sync::Semaphore;

use crate::{
    artifacts::{Held, Key},
    documents::Said,
    error::CacheError,
    file_names::FileName,
    give::{Caller, decoded, give},
    names::{Package, PypiName, RegistryType},
    npm::{ABBREVIATED, Asked, Packument},
    pypi,
    service::Cache,
    v2,
};

/// How long a client is let wait for a file; requests end a little later.
const PATIENCE: Duration = Duration::from_secs(50);

/// What is rendered is kept by what it was rendered from.
type Rendered = Memory<String, Arc<Answer>>;

#[derive(Clone)]
pub(crate) struct Registries {
    pub(crate) cache: Cache,
    rendered: Rendered,
    turn: Arc<Semaphore>,
}

/// `/npm`, `/pypi` and `/v2`.
pub fn registries(cache: Cache) -> Router {
    let weigh = |key: &String, answer: &Arc<Answer>| u32::try_from(answer.weight() + key.len()).unwrap_or(u32::MAX);
    let rendered = Memory::builder().max_capacity(cache.config().memory_bytes).weigher(weigh).build();
    Router::new()
        .route("/npm/{*path}", get(npm))
        .route("/pypi/simple/", get(pypi_index))
        .route("/pypi/simple/{name}/", get(pypi_project))
        .route("/pypi/simple/{name}", get(pypi_without_slash))
        .route("/pypi/files/{name}/{version}/{file}", get(pypi_file))
        .merge(v2::router())
        .with_state(Registries { cache, rendered, turn: Arc::new(Semaphore::new(1)) })
}

impl Registries {
    pub(crate) async fn file(&self, key: Key, caller: &Caller) -> Result<Held, Problem> {
        patiently(self.cache.file(&key, caller.may_fetch)).await
    }

    /// What was rendered of a document, or is now: beside the threads that serve, and one at a time, because
    /// large documents take a while and each name by which we are reached takes its own.
    async fn answer<F>(&self, caller: &Caller, key: String, said: &Said, content_type: &'static str, render: F) -> Result<Response, Problem>
    where
        F: FnOnce(&Said) -> Result<String, CacheError> + Send + 'static,
    {
        let (document, headers) = (said.clone(), caller.headers.clone());
        let rendered = self.rendered.try_get_with(key, async {
            // Nobody closes it.
            let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(|_| CacheError::Stopping)?;
            let rendering = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                Ok::<_, CacheError>(Arc::new(Answer::new(content_type, render(&document)?).prepared_for(&headers)))
            });
            rendering.await.map_err(|_| CacheError::Stopping).flatten()
        });
        let answer = rendered.await.map_err(|error: Arc<CacheError>| Problem::of(&*error))?;
        let mut response = answer.respond(&caller.headers);
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept, accept-encoding, host"));
        if said.is_stale {
            response.headers_mut().insert(header::WARNING, HeaderValue::from_static("110 - \"Response is Stale\""));
        }
        Ok(response)
    }
}

/// For as long as clients wait: what takes longer goes on, and is there when they ask again.
pub(crate) async fn patiently<T>(coming: impl Future<Output = Result<T, CacheError>>) -> Result<T, Problem> {
    let Ok(came) = tokio::time::timeout(PATIENCE, coming).await else {
        let mut problem = Problem::new(Class::Unavailable, "still_coming", "the file is still coming in; ask again");
        problem.retry_after = Some(Duration::from_secs(5));
        return Err(problem);
    };
    Ok(came?)
}

fn not_found(registry: RegistryType) -> Problem {
    Problem::new(Class::NotFound, "route_not_found", format!("there is nothing at this path of the {registry} registry"))
}

async fn npm(State(registries): State<Registries>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let path = decoded(parts.uri.path().strip_prefix("/npm/").unwrap_or_default());
    let asked = path.as_deref().and_then(Asked::parse).ok_or_else(|| not_found(RegistryType::Npm))?;
    let caller = Caller::of(&registries.cache, parts).await?;
    let base = format!("{}/npm", caller.base);
    match asked {
        Asked::Tarball(name, version) => {
            let file = FileName::tarball(&name, &version);
            let held = registries.file((Package::Npm(name, version), file), &caller).await?;
            give(&registries.cache, &held, "application/octet-stream", &caller).await
        }
        Asked::Package(name) => {
            let said = registries.cache.packument(&name, caller.ask()).await?;
            let accept = caller.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
            let is_abbreviated = accept.contains(ABBREVIATED);
            let content_type = if is_abbreviated { ABBREVIATED } else { "application/json" };
            let cutoff = registries.cache.rules().cutoff(RegistryType::Npm, name.as_str());
            let key = format!("npm\n{}\n{is_abbreviated}\n{}\n{cutoff:?}\n{base}", said.row.blob.hex(), caller.is_resolver);
            let is_resolver = caller.is_resolver;
            let render = move |said: &Said| {
                Ok(Packument::parse(&name, &said.text)?.published_before(cutoff)?.render(&base, is_abbreviated, is_resolver)?)
            };
            registries.answer(&caller, key, &said, content_type, render).await
        }
        Asked::Version(name, wanted) => {
            let said = registries.cache.packument(&name, caller.ask()).await?;
            let cutoff = registries.cache.rules().cutoff(RegistryType::Npm, name.as_str());
            let key = format!("npm version\n{}\n{wanted}\n{cutoff:?}\n{base}", said.row.blob.hex());
            let render = move |said: &Said| {
                let packument = Packument::parse(&name, &said.text)?.published_before(cutoff)?;
                Ok(packument.render_version(&packument.resolve(&wanted)?, &base)?)
            };
            registries.answer(&caller, key, &said, "application/json", render).await
        }
    }
}

/// Whether HTML or JSON is wanted: what is named first counts, weights do not (PEP 691 clients name JSON first).
fn wants_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let place = |kind: &str| accept.find(kind).unwrap_or(usize::MAX);
    place(pypi::JSON) > place("text/html").min(place(pypi::HTML)) || !accept.contains(pypi::JSON)
}

async fn pypi_index(State(registries): State<Registries>, headers: HeaderMap) -> Result<Response, Problem> {
    let names = registries.cache.projects().await?;
    let (content_type, page) = if wants_html(&headers) {
        let links: Vec<String> = names.iter().map(|name| format!("<a href=\"{0}/\">{0}</a><br>", pypi::escape(name))).collect();
        let links = links.join("\n");
        let page = format!("<!DOCTYPE html>\n<html><head><title>Projects</title></head>\n<body>\n{links}\n</body></html>\n");
        ("text/html; charset=utf-8", page)
    } else {
        let projects: Vec<_> = names.iter().map(|name| serde_json::json!({ "name": name })).collect();
        (pypi::JSON, serde_json::json!({ "meta": { "api-version": "1.0" }, "projects": projects }).to_string())
    };
    Ok(([(header::CONTENT_TYPE, content_type), (header::VARY, "accept")], page).into_response())
}

async fn pypi_without_slash(request: Request) -> Redirect {
    Redirect::permanent(&format!("{}/", request.uri().path()))
}

async fn pypi_project(State(registries): State<Registries>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let asked = decoded(parts.uri.path().strip_prefix("/pypi/simple/").unwrap_or_default().trim_end_matches('/')).unwrap_or_default();
    let name = PypiName::parse(&asked).map_err(|_| not_found(RegistryType::Pypi))?;
    if name.as_str() != asked {
        return Ok(Redirect::permanent(&format!("/pypi/simple/{}/", name.as_str())).into_response());
    }
    let caller = Caller::of(&registries.cache, parts).await?;
    let said = registries.cache.project(&name, caller.ask()).await?;
    let is_html = wants_html(&caller.headers);
    let cutoff = registries.cache.rules().cutoff(RegistryType::Pypi, name.as_str());
    let key = format!("pypi\n{}\n{is_html}\n{cutoff:?}", said.row.blob.hex());
    let (content_type, page): (_, fn(&pypi::Project, &PypiName) -> String) =
        if is_html { ("text/html; charset=utf-8", pypi::Project::render_html) } else { (pypi::JSON, pypi::Project::render_json) };
    registries.answer(&caller, key, &said, content_type, move |said| Ok(page(&said.project()?.published_before(cutoff), &name))).await
}

async fn pypi_file(State(registries): State<Registries>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let path = decoded(parts.uri.path().strip_prefix("/pypi/files/").unwrap_or_default()).unwrap_or_default();
    let [name, version, file] = path.split('/').collect::<Vec<_>>()[..] else { return Err(not_found(RegistryType::Pypi)) };
    let package = Package::parse(RegistryType::Pypi, name, version).map_err(|_| not_found(RegistryType::Pypi))?;
    let file = FileName::parse(&package, file).map_err(|_| not_found(RegistryType::Pypi))?;
    // One address for each file: the version as its own name spells it.
    if file.version().is_some_and(|own| own.as_str() != package.version()) {
        return Err(not_found(RegistryType::Pypi));
    }
    let caller = Caller::of(&registries.cache, parts).await?;
    let held = registries.file((package.clone(), file.clone()), &caller).await?;
    if let (true, Some(wheel)) = (caller.is_resolver, file.wheel()) {
        // What a resolver reads the metadata of it usually chooses: the wheel comes in meanwhile.
        registries.cache.expect((package.clone(), FileName::parse(&package, wheel).map_err(|_| not_found(RegistryType::Pypi))?));
    }
    // A resolver would fetch by itself what a project wants from elsewhere.
    if caller.is_resolver && file.wheel().is_some() && held.bytes.as_ref().is_some_and(|bytes| needs_elsewhere(bytes)) {
        return Err(Problem::new(Class::Forbidden, "exotic_dependency", "this version needs something that does not come from a registry"));
    }
    give(&registries.cache, &held, "application/octet-stream", &caller).await
}

/// Whether a wheel's metadata names a requirement by its address (PEP 508).
fn needs_elsewhere(metadata: &[u8]) -> bool {
    String::from_utf8_lossy(metadata).lines().any(|line| line.starts_with("Requires-Dist:") && line.contains('@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_the_form_that_they_name_first() {
        let accept = |text: &'static str| HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(text))]);
        assert!(!wants_html(&accept("application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01")));
        assert!(wants_html(&accept("text/html")));
        assert!(wants_html(&accept("*/*")));
        assert!(wants_html(&HeaderMap::new()));
    }
}
