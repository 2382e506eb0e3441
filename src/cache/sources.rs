//! Which registries packages come from, and how they know us.
//!
//! Addresses are configuration. In order: the fabric's own setting, the environment and configuration of
//! the installed client (which the client itself is asked for, so that all of its files count).

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use platform::config::{CacheConfig, sources::environment};
use secrecy::SecretString;
use tokio::sync::OnceCell;
use url::Url;

use crate::{
    download::Auth,
    names::{NpmName, RegistryType},
};

/// What pip is configured to use, else what it uses without a configuration: in one start of Python.
const ASK_PIP: &str = "
from pip._internal.configuration import Configuration
from pip._internal.models.index import PyPI
configuration = Configuration(isolated=False)
configuration.load()
print(dict(configuration.items()).get('global.index-url') or PyPI.simple_url)
";
const ASK_LIMIT: Duration = Duration::from_secs(20);

/// A registry that can be asked.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    /// Without user and password, and with a slash at its end.
    pub(crate) url: Url,
    pub(crate) auth: Option<Auth>,
}

/// The registries in force.
#[derive(Debug)]
pub(crate) struct Sources {
    npm_setting: Option<Url>,
    pypi_setting: Option<Url>,
    found: OnceCell<Found>,
}

#[derive(Debug)]
struct Found {
    npm: Option<Registry>,
    npm_scopes: BTreeMap<String, Registry>,
    pypi: Option<Registry>,
}

/// No registry is known for packages of this type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no {0} registry is known: set {setting}, or install and configure its client", setting = match .0 {
    RegistryType::Npm => "FABRIC_NPM_REGISTRY",
    RegistryType::Pypi => "FABRIC_PYPI_INDEX",
    RegistryType::Oci => "FABRIC_DOCKER_HUB",
    RegistryType::Mcpb => "FABRIC_MCPB_HOSTS",
})]
pub struct NoRegistry(pub RegistryType);

impl Sources {
    pub(crate) fn new(config: &CacheConfig, npm_setting: Option<Url>) -> Self {
        Self { npm_setting, pypi_setting: config.pypi_index.clone(), found: OnceCell::new() }
    }

    async fn found(&self) -> &Found {
        self.found
            .get_or_init(|| async {
                let npmrc = Npmrc::of_user().await;
                let npm = async {
                    match &self.npm_setting {
                        Some(url) => Some(url.clone()),
                        None => npm_answer().await,
                    }
                };
                let pypi = async {
                    match &self.pypi_setting {
                        Some(url) => Some(url.clone()),
                        None => pip_answer().await,
                    }
                };
                let (npm, pypi) = tokio::join!(npm, pypi);
                let with_auth = |url: Url| {
                    let auth = npmrc.auth(&url);
                    registry(url, auth)
                };
                Found {
                    npm: npm.map(with_auth),
                    npm_scopes: npmrc.scopes().map(|(scope, url)| (scope, with_auth(url))).collect(),
                    pypi: pypi.map(|url| registry(url, None)),
                }
            })
            .await
    }

    /// Where an npm package comes from: a scope may have a registry of its own.
    pub(crate) async fn npm(&self, name: &NpmName) -> Result<&Registry, NoRegistry> {
        let found = self.found().await;
        let own = name.scope().and_then(|scope| found.npm_scopes.get(scope));
        own.or(found.npm.as_ref()).ok_or(NoRegistry(RegistryType::Npm))
    }

    /// Where Python projects come from: the base of the Simple API.
    pub(crate) async fn pypi(&self) -> Result<&Registry, NoRegistry> {
        self.found().await.pypi.as_ref().ok_or(NoRegistry(RegistryType::Pypi))
    }

    /// Every registry there is, for the client that may reach them.
    pub(crate) async fn urls(&self) -> Vec<Url> {
        let found = self.found().await;
        found.npm.iter().chain(found.npm_scopes.values()).chain(&found.pypi).map(|registry| registry.url.clone()).collect()
    }
}

/// Takes user and password out of the address.
fn registry(mut url: Url, auth: Option<Auth>) -> Registry {
    let own =
        (!url.username().is_empty()).then(|| Auth::Basic(decoded(url.username()), decoded(url.password().unwrap_or_default()).into()));
    // Neither can fail for an http URL.
    let _ = (url.set_username(""), url.set_password(None));
    url.set_query(None);
    url.set_fragment(None);
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Registry { url, auth: own.or(auth) }
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

async fn npm_answer() -> Option<Url> {
    let own = environment("NPM_CONFIG_REGISTRY").or_else(|| environment("npm_config_registry"));
    match own {
        Some(text) => text.parse().ok(),
        None => answer("npm", &["config", "get", "registry"]).await?.parse().ok(),
    }
}

async fn pip_answer() -> Option<Url> {
    let own = ["PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"].into_iter().find_map(environment);
    let text = match own {
        Some(text) => text,
        None => match answer("python3", &["-c", ASK_PIP]).await {
            Some(text) => text,
            // Not every Python has pip as its own module.
            None => answer("pip", &["config", "get", "global.index-url"]).await?,
        },
    };
    text.parse().ok()
}

#[expect(clippy::disallowed_methods, reason = "asks the installed package clients what they are configured to use")]
async fn answer(program: &str, arguments: &[&str]) -> Option<String> {
    let asking = tokio::process::Command::new(program).args(arguments).stdin(std::process::Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(ASK_LIMIT, asking).await.ok()?.ok()?;
    let said = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !said.is_empty()).then_some(said)
}

/// What an `.npmrc` says of registries and of who we are to them.
#[derive(Debug, Default)]
pub(crate) struct Npmrc {
    lines: BTreeMap<String, String>,
}

impl Npmrc {
    async fn of_user() -> Self {
        let place = environment("NPM_CONFIG_USERCONFIG").or_else(|| environment("HOME").map(|home| format!("{home}/.npmrc")));
        let text = match place {
            Some(place) => tokio::fs::read_to_string(place).await.unwrap_or_default(),
            None => String::new(),
        };
        Self::parse(&text, environment)
    }

    /// Reads `key = value` lines; `${NAME}` stands for a variable of the environment.
    pub(crate) fn parse(text: &str, variable: impl Fn(&str) -> Option<String>) -> Self {
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
        let pairs = lines.filter_map(|line| line.split_once('='));
        let unquoted = |text: &str| text.trim().trim_matches(['"', '\'']).to_owned();
        Self { lines: pairs.map(|(key, value)| (unquoted(key), expanded(&unquoted(value), &variable))).collect() }
    }

    fn scopes(&self) -> impl Iterator<Item = (String, Url)> + '_ {
        self.lines.iter().filter_map(|(key, value)| {
            let scope = key.strip_suffix(":registry").filter(|scope| scope.starts_with('@'))?;
            Some((scope.to_owned(), value.parse().ok()?))
        })
    }

    /// What the lines for this registry's host and path say: `//host/path/:_authToken=…`. The longest
    /// path that contains the registry's own counts.
    pub(crate) fn auth(&self, url: &Url) -> Option<Auth> {
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let mut path = url.path().trim_end_matches('/').to_owned();
        loop {
            let prefix = format!("//{}{port}{path}/", url.host_str()?);
            let get = |key: &str| self.lines.get(&format!("{prefix}:{key}")).filter(|value| !value.is_empty());
            if let Some(token) = get("_authToken") {
                return Some(Auth::Bearer(token.as_str().into()));
            }
            if let Some((user, password)) = get("_auth").and_then(|text| basic(text)) {
                return Some(Auth::Basic(user, password));
            }
            if let (Some(user), Some(password)) = (get("username"), get("_password").and_then(|text| STANDARD.decode(text).ok())) {
                return Some(Auth::Basic(user.clone(), String::from_utf8(password).ok()?.into()));
            }
            path.truncate(path.rfind('/')?);
        }
    }
}

/// User and password as HTTP sends them (RFC 7617).
pub(crate) fn basic(encoded: &str) -> Option<(String, SecretString)> {
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.into()))
}

fn expanded(text: &str, variable: &impl Fn(&str) -> Option<String>) -> String {
    let Some((before, rest)) = text.split_once("${") else { return text.to_owned() };
    let Some((name, after)) = rest.split_once('}') else { return text.to_owned() };
    format!("{before}{}{}", variable(name).unwrap_or_default(), expanded(after, variable))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn an_npmrc_names_registries_and_credentials_for_their_own_host_only() {
        let text = "# comment\nregistry=https://one.example/\n@acme:registry = \"https://two.example:8443/npm\"\n\
            //two.example:8443/npm/:_authToken=${TOKEN}\n//three.example/:_auth=dTpw\n//four.example/:username=u\n//four.example/:_password=cA==\n";
        let npmrc = Npmrc::parse(text, |name| (name == "TOKEN").then(|| "secret".to_owned()));
        let scopes: Vec<(String, Url)> = npmrc.scopes().collect();
        assert_eq!(scopes, [("@acme".to_owned(), "https://two.example:8443/npm".parse().unwrap())]);
        let auth = |url: &str| npmrc.auth(&url.parse().unwrap());
        let Some(Auth::Bearer(token)) = auth("https://two.example:8443/npm/") else { panic!("no token") };
        assert_eq!(token.expose_secret(), "secret");
        for url in ["https://three.example/deep/path/", "https://four.example/"] {
            let Some(Auth::Basic(user, password)) = auth(url) else { panic!("no password for {url}") };
            assert_eq!((user.as_str(), password.expose_secret()), ("u", "p"));
        }
        for other in
            ["https://two.example/npm/", "https://one.example/", "https://two.example.evil/npm/", "https://two.example:8443/other/"]
        {
            assert!(auth(other).is_none(), "{other}");
        }
        assert!(!format!("{:?}", registry("https://u:p%40ss@x.example/simple".parse().unwrap(), None)).contains("p@ss"));
        let own = registry("https://u:p%40ss@x.example/simple".parse().unwrap(), None);
        assert_eq!(own.url.as_str(), "https://x.example/simple/");
        let Some(Auth::Basic(_, password)) = own.auth else { panic!("no password") };
        assert_eq!(password.expose_secret(), "p@ss");
    }

    proptest! {
        #[test]
        fn any_npmrc_is_read_without_harm(text in "(//h/:_auth=|\\$\\{|\\}|\\PC|\n){0,80}") {
            Npmrc::parse(&text, |_| None).auth(&"https://h/".parse().unwrap());
        }
    }
}
