//! Settings of identity, the vault and the audit trail.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::{
    ConfigError, Layers, absolute,
    parse::{self, FromSetting},
};
use crate::{files, keys::KeyInput, words};

words! {
    /// Who may register.
    pub enum Registration {
        /// Anybody.
        Open = "open",
        /// Whom an admin invited.
        Invite = "invite",
        /// Nobody.
        Closed = "closed",
    }
}

/// Accounts and sessions.
#[derive(Clone, Debug)]
pub struct IdentityConfig {
    /// What access tokens are signed with; `None` only where the data folder may keep one.
    pub jwt_key: Option<KeyInput>,
    /// How long an access token lasts.
    pub access_ttl: Duration,
    /// How long a login lasts without use.
    pub session_ttl: Duration,
    /// Who may register.
    pub registration: Registration,
    /// Whose access tokens count at the endpoints of MCP clients, besides ours.
    pub oidc: Option<OidcConfig>,
}

/// An external issuer of access tokens (`OpenID` Connect).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcConfig {
    /// Where it is.
    pub issuer: Url,
    /// As it calls itself, letter by letter.
    pub issuer_text: String,
    /// What its tokens have to carry, besides the endpoint as their audience.
    pub scope: Option<String>,
}

impl OidcConfig {
    fn from_layers(layers: &Layers, public_url: Option<&Url>) -> Result<Option<Self>, ConfigError> {
        let Some(issuer_text) = layers.optional::<String>("FABRIC_OIDC_ISSUER")? else { return Ok(None) };
        let invalid = |reason: &str| layers.invalid("FABRIC_OIDC_ISSUER", reason.to_owned());
        let issuer = Url::parse(&issuer_text).map_err(|_| invalid("is not an address"))?;
        if !matches!(issuer.scheme(), "https" | "http") || issuer.query().is_some() || issuer.fragment().is_some() {
            return Err(invalid("is not an http or https address without a query"));
        }
        if public_url.is_none() {
            return Err(invalid("needs FABRIC_PUBLIC_URL, by which its tokens name this fabric"));
        }
        Ok(Some(Self { issuer, issuer_text, scope: layers.optional("FABRIC_OIDC_SCOPE")? }))
    }
}

/// Where keys came from.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// Settings; they change with a restart.
    Settings(Vec<(Option<i32>, KeyInput)>),
    /// A file, one `version:key` or key a line, the active one first; it is read again when keys are rotated.
    File(PathBuf),
    /// Nothing was given: only a database of our own may have its key in the data folder.
    None,
}

/// The internal listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InternalListen {
    /// A Unix socket that only our own user can open.
    Socket(PathBuf),
    /// A port of this machine, or with certificates of clients, any.
    Address(SocketAddr, Option<MutualTls>),
    /// None.
    Off,
}

/// Certificates for both sides of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MutualTls {
    /// Our certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who signs the certificates of those who may connect.
    pub client_ca: PathBuf,
}

/// A collector of spans.
#[derive(Clone, Debug)]
pub struct TracesConfig {
    /// Where it is; `/v1/traces` is below.
    pub endpoint: Url,
    /// What each request to it carries.
    pub headers: Vec<(String, SecretString)>,
}

impl TracesConfig {
    pub(super) fn from_layers(layers: &Layers) -> Result<Option<Self>, ConfigError> {
        let Some(endpoint) = layers.optional::<Url>("FABRIC_OTLP_ENDPOINT")? else { return Ok(None) };
        let pairs: Vec<String> = layers.list("FABRIC_OTLP_HEADERS")?;
        let pair = |pair: &String| {
            let (name, value) = pair.split_once('=').filter(|(name, _)| !name.trim().is_empty())?;
            Some((name.trim().to_owned(), SecretString::from(value.trim().to_owned())))
        };
        let headers = pairs.iter().map(pair).collect::<Option<Vec<_>>>();
        let headers = headers.ok_or_else(|| layers.invalid("FABRIC_OTLP_HEADERS", "is not a list of `name=value`, parted by commas"))?;
        Ok(Some(Self { endpoint, headers }))
    }
}

/// The credential vault.
#[derive(Clone, Debug)]
pub struct VaultConfig {
    /// The master keys.
    pub keys: KeySource,
    /// Where plaintext is given out.
    pub internal: InternalListen,
    /// Reveals a second for each token.
    pub reveal_rate: u32,
}

/// The audit trail.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    /// How long events are kept, in whole days.
    pub retention: Duration,
    /// How large the trail may be, in bytes; 0 for no limit.
    pub max_bytes: u64,
    /// A file that gets a copy of each event.
    pub copy_file: Option<PathBuf>,
    /// A receiver that gets a copy of each event.
    pub copy_url: Option<Url>,
    /// Whether arguments of tools are in it, without what looks like a secret.
    pub arguments: bool,
}

impl IdentityConfig {
    pub(super) fn from_layers(layers: &Layers, public_url: Option<&Url>) -> Result<Self, ConfigError> {
        Ok(Self {
            jwt_key: one_key(layers, "JWT_SECRET_KEY", "JWT_SECRET_KEY_FILE")?,
            access_ttl: layers.get::<parse::Period>("FABRIC_JWT_TTL")?.0,
            session_ttl: layers.get::<parse::Days>("FABRIC_SESSION_DAYS")?.0,
            registration: layers.get("FABRIC_REGISTRATION")?,
            oidc: OidcConfig::from_layers(layers, public_url)?,
        })
    }
}

impl VaultConfig {
    pub(super) fn from_layers(layers: &Layers) -> Result<Self, ConfigError> {
        let config = Self {
            keys: key_source(layers)?,
            internal: internal(layers)?,
            reveal_rate: layers.get::<parse::Bounded>("FABRIC_REVEAL_RATE")?.0,
        };
        let jwt = one_key(layers, "JWT_SECRET_KEY", "JWT_SECRET_KEY_FILE")?;
        if let (KeySource::Settings(ring), Some(jwt)) = (&config.keys, &jwt)
            && ring.iter().any(|(_, key)| is_same(key, jwt))
        {
            return Err(
                layers.invalid("JWT_SECRET_KEY", "is also the credential key; each needs its own (`mcp-fabric credentials new-key`)")
            );
        }
        Ok(config)
    }
}

impl AuditConfig {
    pub(super) fn from_layers(layers: &Layers) -> Result<Self, ConfigError> {
        let retention = layers.get::<parse::Days>("FABRIC_AUDIT_RETENTION_DAYS")?.0;
        if retention.is_zero() {
            return Err(layers.invalid("FABRIC_AUDIT_RETENTION_DAYS", "is 0; the trail is kept for at least 1 day"));
        }
        Ok(Self {
            retention,
            max_bytes: u64::from(layers.get::<parse::Bounded>("FABRIC_AUDIT_MAX_MB")?.0) << 20,
            copy_file: layers.optional::<PathBuf>("FABRIC_AUDIT_COPY_FILE")?.map(|path| absolute(&path)),
            copy_url: layers.optional("FABRIC_AUDIT_COPY_URL")?,
            arguments: layers.get("FABRIC_AUDIT_ARGUMENTS")?,
        })
    }
}

fn is_same(a: &KeyInput, b: &KeyInput) -> bool {
    match (a, b) {
        (KeyInput::Raw(a), KeyInput::Raw(b)) => a == b,
        (KeyInput::Passphrase(a), KeyInput::Passphrase(b)) => a.expose_secret() == b.expose_secret(),
        (KeyInput::Raw(_), KeyInput::Passphrase(_)) | (KeyInput::Passphrase(_), KeyInput::Raw(_)) => false,
    }
}

/// `mcp-fabric credentials new-key` is what helps with every wrong key.
const NEW_KEY: &str = "`mcp-fabric credentials new-key` prints one that is right";

fn parse_key(layers: &Layers, setting: &'static str, text: &str) -> Result<KeyInput, ConfigError> {
    KeyInput::parse(text).map_err(|error| layers.invalid(setting, format!("{error}; {NEW_KEY}")))
}

fn one_key(layers: &Layers, setting: &'static str, file_setting: &'static str) -> Result<Option<KeyInput>, ConfigError> {
    match (layers.optional::<SecretString>(setting)?, layers.optional::<PathBuf>(file_setting)?) {
        (Some(_), Some(_)) => Err(layers.invalid(file_setting, format!("is set beside {setting}; one of the two says which key it is"))),
        (Some(text), None) => parse_key(layers, setting, text.expose_secret()).map(Some),
        (None, Some(path)) => {
            let text = read_key_file(&path).map_err(|reason| layers.invalid(file_setting, reason))?;
            parse_key(layers, file_setting, text.expose_secret()).map(Some)
        }
        (None, None) => Ok(None),
    }
}

fn key_source(layers: &Layers) -> Result<KeySource, ConfigError> {
    const ONE: &str = "CREDENTIAL_ENCRYPTION_KEY";
    const PREVIOUS: &str = "CREDENTIAL_ENCRYPTION_KEY_PREVIOUS";
    const RING: &str = "CREDENTIAL_ENCRYPTION_KEYS";
    const FILE: &str = "CREDENTIAL_ENCRYPTION_KEY_FILE";
    let (one, previous) = (layers.optional::<SecretString>(ONE)?, layers.optional::<SecretString>(PREVIOUS)?);
    let (ring, file) = (layers.optional::<SecretString>(RING)?, layers.optional::<PathBuf>(FILE)?);
    if [one.is_some(), ring.is_some(), file.is_some()].into_iter().filter(|given| *given).count() > 1 {
        return Err(layers.invalid(ONE, format!("{ONE}, {RING} and {FILE} are three ways to give the keys; use one")));
    }
    let keys = if let Some(path) = file {
        // Read now, so that a wrong file ends the start, and again when keys are rotated.
        parse_ring_file(&absolute(&path)).map_err(|reason| layers.invalid(FILE, reason))?;
        return Ok(KeySource::File(absolute(&path)));
    } else if let Some(ring) = ring {
        parse_ring(ring.expose_secret().split(',')).map_err(|reason| layers.invalid(RING, reason))?
    } else if let Some(one) = one {
        let mut keys = vec![(None, parse_key(layers, ONE, one.expose_secret())?)];
        if let Some(previous) = previous {
            keys.push((None, parse_key(layers, PREVIOUS, previous.expose_secret())?));
        }
        if keys.len() == 2 && is_same(&keys[0].1, &keys[1].1) {
            return Err(layers.invalid(PREVIOUS, format!("is the same as {ONE}")));
        }
        keys
    } else if previous.is_some() {
        return Err(layers.invalid(PREVIOUS, format!("is set without {ONE}")));
    } else {
        return Ok(KeySource::None);
    };
    Ok(KeySource::Settings(keys))
}

/// Keys of a ring, `version:key` or just the key, the active one first.
fn parse_ring<'a>(entries: impl Iterator<Item = &'a str>) -> Result<Vec<(Option<i32>, KeyInput)>, String> {
    let mut keys: Vec<(Option<i32>, KeyInput)> = Vec::new();
    for entry in entries.map(str::trim).filter(|entry| !entry.is_empty() && !entry.starts_with('#')) {
        let (version, text) = match entry.split_once(':') {
            Some((version, text)) if !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()) => {
                let version = version.parse().map_err(|_| "holds a version that is not a small whole number".to_owned())?;
                (Some(version), text)
            }
            _ => (None, entry),
        };
        let key = KeyInput::parse(text).map_err(|error| format!("holds a key that {error}; {NEW_KEY}"))?;
        if keys.iter().any(|(known, other)| is_same(other, &key) || (version.is_some() && *known == version)) {
            return Err("holds one key, or one version, twice".into());
        }
        keys.push((version, key));
    }
    if keys.is_empty() { Err(format!("holds no key; {NEW_KEY}")) } else { Ok(keys) }
}

/// The keys of a file.
pub fn parse_ring_file(path: &Path) -> Result<Vec<(Option<i32>, KeyInput)>, String> {
    parse_ring(read_key_file(path)?.expose_secret().lines())
}

/// A file with keys: nobody but its owner may read it.
fn read_key_file(path: &Path) -> Result<SecretString, String> {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = std::fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(format!("names {}, which others can read; chmod 600 it", path.display()));
    }
    let text = files::read_if_present(path).map_err(|error| error.to_string())?;
    Ok(text.unwrap_or_default().into())
}

fn internal(layers: &Layers) -> Result<InternalListen, ConfigError> {
    const KEY: &str = "FABRIC_INTERNAL_LISTEN";
    let Some(text) = layers.optional::<String>(KEY)? else {
        return Ok(InternalListen::Socket(absolute(&layers.get::<PathBuf>("FABRIC_DATA_DIR")?).join("internal.sock")));
    };
    if text == "off" {
        return Ok(InternalListen::Off);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        let tls = mutual_tls(layers)?;
        return if address.ip().is_loopback() || tls.is_some() {
            Ok(InternalListen::Address(address, tls))
        } else {
            Err(layers.invalid(KEY, "is an address that other machines reach; that takes FABRIC_INTERNAL_TLS_CERT, _KEY and _CLIENT_CA"))
        };
    }
    match text.strip_prefix("unix:").unwrap_or(&text) {
        path if path.contains('/') => Ok(InternalListen::Socket(absolute(Path::new(path)))),
        _ => Err(layers.invalid(KEY, "is neither a loopback address with a port, nor the path of a socket, nor `off`")),
    }
}

fn mutual_tls(layers: &Layers) -> Result<Option<MutualTls>, ConfigError> {
    const ALL: [&str; 3] = ["FABRIC_INTERNAL_TLS_CERT", "FABRIC_INTERNAL_TLS_KEY", "FABRIC_INTERNAL_TLS_CLIENT_CA"];
    match (layers.optional(ALL[0])?, layers.optional(ALL[1])?, layers.optional(ALL[2])?) {
        (Some(certificate), Some(key), Some(client_ca)) => Ok(Some(MutualTls { certificate, key, client_ca })),
        (None, None, None) => Ok(None),
        _ => Err(layers.invalid(ALL[0], "works only together with FABRIC_INTERNAL_TLS_KEY and FABRIC_INTERNAL_TLS_CLIENT_CA")),
    }
}

impl FromSetting for Registration {
    fn from_setting(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "is none of open, invite, closed".into())
    }
}
