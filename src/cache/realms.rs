//! How registries of images know us: the tokens of the distribution spec, and the accounts of the user's own
//! `config.json`.
//!
//! A registry names the place that gives tokens (its realm). Only the registry's own host is believed, the
//! one of Docker Hub, and hosts that the configuration names: credentials are sent nowhere else, whatever
//! a registry asks for.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use platform::{
    client::Client,
    clock,
    config::{CacheConfig, sources::environment},
};
use reqwest::{Response, StatusCode, header};
use serde::Deserialize;
use tokio::time::timeout;
use url::Url;

use crate::{
    download::{Auth, DownloadError},
    error::CacheError,
    reference::OciName,
    sources::basic,
};

/// Where Docker Hub has its images.
const HUB_API: &str = "registry-1.docker.io";
/// Where Docker Hub gives tokens, and under what name `config.json` has its account.
const HUB_REALM: &str = "auth.docker.io";
const HUB_ACCOUNT: &str = "https://index.docker.io/v1/";
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long a token lasts for which nothing is stated, by the specification.
const USUAL_SECONDS: i64 = 60;
/// A token that ends sooner is not used any more.
const MARGIN: TimeDelta = TimeDelta::seconds(10);

/// What a registry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Challenge {
    Nothing,
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

/// Registries of images, and how they know us.
#[derive(Debug)]
pub(crate) struct Realms {
    hub: Url,
    plain_http: Vec<String>,
    trusted: Vec<String>,
    accounts: tokio::sync::OnceCell<Accounts>,
    challenges: Mutex<HashMap<String, Challenge>>,
    tokens: Mutex<HashMap<OciName, (Auth, DateTime<Utc>)>>,
}

impl Realms {
    pub(crate) fn new(config: &CacheConfig, allowed_hosts: &[String]) -> Self {
        Self {
            hub: config.docker_hub.clone(),
            plain_http: config.plain_http.clone(),
            trusted: allowed_hosts.to_vec(),
            accounts: tokio::sync::OnceCell::new(),
            challenges: Mutex::default(),
            tokens: Mutex::default(),
        }
    }

    /// The root of a registry's API.
    fn root(&self, name: &OciName) -> Result<Url, CacheError> {
        if name.is_on_hub() {
            return Ok(self.hub.clone());
        }
        let scheme = if self.speaks_plain_http(name.host()) { "http" } else { "https" };
        format!("{scheme}://{}/", name.host()).parse().map_err(|_| CacheError::Document("no such host".into()))
    }

    /// Whether a host speaks HTTP: those on this machine, and those that the configuration names.
    pub(crate) fn speaks_plain_http(&self, host: &str) -> bool {
        let name = host.split(':').next().unwrap_or_default();
        let is_here = name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        is_here || self.plain_http.iter().any(|known| known == host || known == name)
    }

    /// Where a manifest or blob is: `kind` is `manifests` or `blobs`.
    pub(crate) fn address(&self, name: &OciName, kind: &str, at: &str) -> Result<Url, CacheError> {
        let mut url = self.root(name)?;
        url.set_path(&format!("/v2/{}/{kind}/{at}", name.repository()));
        Ok(url)
    }

    /// What to send to the registry of `name`; asked for where there is nothing that still holds.
    pub(crate) async fn auth(&self, client: &Client, name: &OciName) -> Result<Option<Auth>, CacheError> {
        let known = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some((auth, until)) = known
            && clock::now() + MARGIN < until
        {
            return Ok(Some(auth));
        }
        let challenge = self.challenge(client, name).await?;
        let account = self.account(name).await;
        let (realm, service) = match challenge {
            Challenge::Nothing => return Ok(None),
            Challenge::Basic => return Ok(account),
            Challenge::Bearer { realm, service } => (realm, service),
        };
        let (auth, until) = self.token(client, name, realm, service, account).await?;
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), (auth.clone(), until));
        Ok(Some(auth))
    }

    /// The registry did not take what it was sent: it is asked anew what it wants.
    pub(crate) fn forget(&self, name: &OciName) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.challenges.lock().unwrap_or_else(PoisonError::into_inner).remove(name.host());
    }

    async fn challenge(&self, client: &Client, name: &OciName) -> Result<Challenge, CacheError> {
        let known = self.challenges.lock().unwrap_or_else(PoisonError::into_inner).get(name.host()).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let mut url = self.root(name)?;
        url.set_path("/v2/");
        let response = answer(client.get(url)?).await?;
        let challenge = match response.status() {
            StatusCode::UNAUTHORIZED => {
                let all = response.headers().get_all(header::WWW_AUTHENTICATE);
                let read = all.iter().filter_map(|value| challenge(value.to_str().ok()?)).next_back();
                read.ok_or(DownloadError::Status(StatusCode::UNAUTHORIZED))?
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(DownloadError::Status(status).into());
            }
            _ => Challenge::Nothing,
        };
        self.challenges.lock().unwrap_or_else(PoisonError::into_inner).insert(name.host().to_owned(), challenge.clone());
        Ok(challenge)
    }

    async fn token(
        &self,
        client: &Client,
        name: &OciName,
        realm: Url,
        service: Option<String>,
        account: Option<Auth>,
    ) -> Result<(Auth, DateTime<Utc>), CacheError> {
        let root = self.root(name)?;
        if !self.is_believed(&root, &realm, name.is_on_hub()) {
            return Err(CacheError::ForeignRealm(realm.host_str().unwrap_or_default().to_owned()));
        }
        let mut url = realm;
        url.query_pairs_mut().extend_pairs(service.map(|service| ("service", service)));
        url.query_pairs_mut().append_pair("scope", &format!("repository:{}:pull", name.repository()));
        let mut request = client.get(url)?;
        if let Some(account) = account {
            request = account.on(request);
        }
        let response = answer(request).await?;
        if response.status() != StatusCode::OK {
            return Err(DownloadError::Status(response.status()).into());
        }
        let asked_at = clock::now();
        let body = crate::documents::bounded(response, MAX_TOKEN).await?;
        let given: Given = serde_json::from_slice(&body).map_err(|_| CacheError::Document("the registry gave no token".into()))?;
        let token = given.token.or(given.access_token).ok_or_else(|| CacheError::Document("the registry gave no token".into()))?;
        let lasts = TimeDelta::seconds(given.expires_in.unwrap_or(USUAL_SECONDS).clamp(1, 86_400));
        Ok((Auth::Bearer(token.into()), asked_at + lasts))
    }

    fn is_believed(&self, root: &Url, realm: &Url, is_hub: bool) -> bool {
        let host = realm.host_str().unwrap_or_default();
        let with_port = realm.port_or_known_default().map(|port| format!("{host}:{port}")).unwrap_or_default();
        let is_hubs_own = realm.scheme() == "https" && is_hub && self.is_real_hub() && host == HUB_REALM;
        realm.origin() == root.origin() || is_hubs_own || self.trusted.iter().any(|known| known == host || *known == with_port)
    }

    /// The account for the registry that is really asked: a mirror of Docker Hub has one of its own, or none.
    async fn account(&self, name: &OciName) -> Option<Auth> {
        let host = if name.is_on_hub() && !self.is_real_hub() { host_of(&self.hub) } else { name.host().to_owned() };
        self.accounts.get_or_init(Accounts::of_user).await.get(&host)
    }

    fn is_real_hub(&self) -> bool {
        self.hub.scheme() == "https" && self.hub.host_str() == Some(HUB_API)
    }
}

/// With a port where the URL names one.
fn host_of(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}{port}", url.host_str().unwrap_or_default())
}

const MAX_TOKEN: usize = 256 << 10;

#[derive(Deserialize)]
struct Given {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<i64>,
}

async fn answer(request: reqwest::RequestBuilder) -> Result<Response, CacheError> {
    let response = timeout(ANSWER_LIMIT, request.send()).await.map_err(|_| DownloadError::TooSlow)?;
    Ok(response.map_err(DownloadError::from)?)
}

/// Reads a `WWW-Authenticate` header: `Bearer realm="…",service="…"`, or `Basic`.
fn challenge(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    let mut parameters = BTreeMap::new();
    let mut rest = rest.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        parameters.insert(key.trim().to_ascii_lowercase(), value.to_owned());
        rest = after.trim_start_matches([',', ' ']);
    }
    let realm = parameters.get("realm")?.parse().ok().filter(|url: &Url| matches!(url.scheme(), "http" | "https"))?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Challenge::Bearer { realm, service: parameters.remove("service") })
}

/// The accounts of a Docker `config.json`. Programs that keep passwords elsewhere (`credsStore`) are not asked.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    by_host: HashMap<String, String>,
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: HashMap<String, DockerAuth>,
}

#[derive(Deserialize)]
struct DockerAuth {
    #[serde(default)]
    auth: String,
}

impl Accounts {
    async fn of_user() -> Self {
        let folder = environment("DOCKER_CONFIG").or_else(|| environment("HOME").map(|home| format!("{home}/.docker")));
        let text = match folder {
            Some(folder) => tokio::fs::read(format!("{folder}/config.json")).await.unwrap_or_default(),
            None => Vec::new(),
        };
        Self::parse(&text)
    }

    /// Keys are hosts, or addresses of them.
    pub(crate) fn parse(text: &[u8]) -> Self {
        let Ok(config) = serde_json::from_slice::<DockerConfig>(text) else { return Self::default() };
        let plain = |key: String| {
            if key == HUB_ACCOUNT {
                return "docker.io".to_owned();
            }
            let rest = key.split_once("://").map_or(key.as_str(), |(_, rest)| rest);
            rest.split('/').next().unwrap_or_default().to_ascii_lowercase()
        };
        Self { by_host: config.auths.into_iter().map(|(key, account)| (plain(key), account.auth)).collect() }
    }

    fn get(&self, host: &str) -> Option<Auth> {
        let (user, password) = basic(self.by_host.get(host)?)?;
        Some(Auth::Basic(user, password))
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn challenges_are_read_in_their_usual_spellings() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.parse().unwrap(), service: service.map(str::to_owned) })
        };
        for (text, read) in [
            (
                "Bearer realm=\"https://a.example/token\",service=\"a.example\",scope=\"x:y,z\"",
                bearer("https://a.example/token", Some("a.example")),
            ),
            ("bearer service=a, realm=\"https://a.example/t\"", bearer("https://a.example/t", Some("a"))),
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("BASIC", Some(Challenge::Basic)),
            ("Bearer", None),
            ("Bearer realm=\"file:///etc/passwd\"", None),
            ("Bearer realm=\"https://a", None),
            ("Digest realm=\"https://a.example/\"", None),
        ] {
            assert_eq!(challenge(text), read, "{text}");
        }
    }

    #[test]
    fn accounts_are_for_their_own_registry_only() {
        let text = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"ghcr.io":{"auth":"djpx"},"https://r.example:5000/v2/":{"auth":"dTpw"},"odd":{"auth":"-"},"empty":{}}}"#;
        let accounts = Accounts::parse(text.as_bytes());
        let get = |name: &str| accounts.get(OciName::parse(name).unwrap().host());
        let Some(Auth::Basic(user, password)) = get("alpine") else { panic!("no account") };
        assert_eq!((user.as_str(), password.expose_secret()), ("u", "p"));
        assert!(get("ghcr.io/a/b").is_some() && get("r.example:5000/a").is_some());
        assert!(get("r.example/a").is_none() && get("evil.ghcr.io/a").is_none());
        assert!(Accounts::parse(b"{").by_host.is_empty());
    }
}
