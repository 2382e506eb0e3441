//! The list of settings, and the text of each from flag, environment, `.env`, `local.toml` or the defaults.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
};

use super::{ConfigError, parse::FromSetting};
use crate::files::read_if_present;

/// One thing that can be set.
#[derive(Debug)]
pub struct Setting {
    /// The name in the environment and in `.env`.
    pub key: &'static str,
    /// Never printed.
    pub secret: bool,
}

const fn plain(key: &'static str) -> Setting {
    Setting { key, secret: false }
}
const fn secret(key: &'static str) -> Setting {
    Setting { key, secret: true }
}

/// Everything that can be set, in the order in which `doctor` prints it.
pub const SETTINGS: &[Setting] = &[
    plain("FABRIC_LISTEN"),
    plain("FABRIC_PUBLIC_URL"),
    plain("FABRIC_DATA_DIR"),
    plain("FABRIC_CONFIG_DIR"),
    secret("DATABASE_URL"),
    secret("REDIS_URL"),
    plain("FABRIC_DATABASE_POOL"),
    plain("FABRIC_ROLE_PREFIX"),
    plain("FABRIC_REQUIRE_ROLE_SEPARATION"),
    plain("FABRIC_PG_BIN_DIR"),
    plain("FABRIC_UPSTREAM_URL"),
    plain("FABRIC_UPSTREAM_RPS"),
    plain("FABRIC_UPSTREAM_TIMEOUT_SECONDS"),
    plain("FABRIC_UPSTREAM_BACKOFF_MS"),
    plain("FABRIC_SYNC_CRON"),
    plain("FABRIC_SYNC_ON_START"),
    plain("FABRIC_SYNC_RECONCILE_DAYS"),
    plain("FABRIC_SYNC_MAX_DROP_PERCENT"),
    plain("FABRIC_OFFLINE"),
    plain("FABRIC_ALLOWED_HOSTS"),
    secret("FABRIC_NPM_REGISTRY"),
    secret("FABRIC_PYPI_INDEX"),
    plain("INSTALL_ON_START"),
    plain("FABRIC_INSTALL_SCRIPTS"),
    plain("FABRIC_SANDBOX"),
    plain("FABRIC_CONTAINER_ENGINE"),
    plain("FABRIC_SERVER_NETWORK"),
    plain("FABRIC_SERVER_PATHS"),
    plain("FABRIC_SERVER_MEMORY_MB"),
    plain("FABRIC_SERVER_CPU_MILLIS"),
    plain("FABRIC_SERVER_PROCESSES"),
    plain("FABRIC_SERVER_OPEN_FILES"),
    plain("FABRIC_SERVER_FILE_MB"),
    plain("FABRIC_SERVER_DISK_MB"),
    plain("FABRIC_MAX_INSTANCES"),
    plain("FABRIC_MAX_INSTANCES_PER_USER"),
    plain("FABRIC_MAX_SERVERS_MEMORY_MB"),
    plain("FABRIC_MAX_SERVERS_CPU_MILLIS"),
    plain("FABRIC_START_SECONDS"),
    plain("FABRIC_CALL_SECONDS"),
    plain("FABRIC_PROBE_SECONDS"),
    plain("FABRIC_IDLE_SECONDS"),
    plain("MCP_GATEWAY_URL_POOLS"),
    plain("FABRIC_MCP_SESSION_SECONDS"),
    plain("FABRIC_MCP_MAX_SESSIONS"),
    plain("FABRIC_MCP_MAX_SESSIONS_PER_USER"),
    plain("FABRIC_MCP_LIST_SECONDS"),
    plain("FABRIC_MCP_RESULT_MB"),
    plain("FABRIC_CACHE_DIR"),
    plain("FABRIC_CACHE_MAX_FILE_MB"),
    plain("FABRIC_CACHE_PATIENCE_SECONDS"),
    plain("FABRIC_CACHE_MEMORY_MB"),
    plain("FABRIC_CACHE_METADATA_SECONDS"),
    plain("FABRIC_CACHE_PYTHON"),
    plain("FABRIC_CACHE_ALLOW_SHA1"),
    plain("FABRIC_CACHE_TARGETS"),
    plain("FABRIC_DOCKER_HUB"),
    plain("FABRIC_OCI_PLAIN_HTTP"),
    plain("FABRIC_MCPB_HOSTS"),
    plain("FABRIC_CACHE_ALLOW"),
    plain("FABRIC_CACHE_DENY"),
    plain("FABRIC_CACHE_MIN_AGE_HOURS"),
    plain("FABRIC_CACHE_REQUIRE"),
    plain("FABRIC_CACHE_EXCEPTIONS"),
    plain("FABRIC_CACHE_MAX_CLOSURE_MB"),
    plain("FABRIC_CACHE_QUOTA_MB"),
    plain("FABRIC_CACHE_LOW_WATER_PERCENT"),
    plain("FABRIC_CACHE_RESERVE_MB"),
    plain("FABRIC_CACHE_PER_HOST"),
    plain("FABRIC_CACHE_TRUSTED_KEYS"),
    plain("FABRIC_ANONYMOUS_FILL"),
    secret("CREDENTIAL_ENCRYPTION_KEY"),
    plain("CREDENTIAL_ENCRYPTION_KEY_FILE"),
    secret("CREDENTIAL_ENCRYPTION_KEY_PREVIOUS"),
    secret("CREDENTIAL_ENCRYPTION_KEYS"),
    secret("JWT_SECRET_KEY"),
    plain("JWT_SECRET_KEY_FILE"),
    plain("FABRIC_JWT_TTL"),
    plain("FABRIC_SESSION_DAYS"),
    plain("FABRIC_REGISTRATION"),
    plain("FABRIC_OIDC_ISSUER"),
    plain("FABRIC_OIDC_SCOPE"),
    plain("FABRIC_INTERNAL_LISTEN"),
    plain("FABRIC_INTERNAL_TLS_CERT"),
    plain("FABRIC_INTERNAL_TLS_KEY"),
    plain("FABRIC_INTERNAL_TLS_CLIENT_CA"),
    plain("FABRIC_REVEAL_RATE"),
    plain("FABRIC_AUDIT_RETENTION_DAYS"),
    plain("FABRIC_AUDIT_MAX_MB"),
    plain("FABRIC_AUDIT_COPY_FILE"),
    secret("FABRIC_AUDIT_COPY_URL"),
    plain("FABRIC_AUDIT_ARGUMENTS"),
    plain("FABRIC_OTLP_ENDPOINT"),
    secret("FABRIC_OTLP_HEADERS"),
    plain("FABRIC_CORS_ORIGINS"),
    plain("FABRIC_TRUST_LOOPBACK"),
    plain("FABRIC_TRUSTED_PROXIES"),
    plain("FABRIC_RATE_LIMIT"),
    plain("FABRIC_TLS_CERT"),
    plain("FABRIC_TLS_KEY"),
    plain("FABRIC_ACCESS_LOG"),
    plain("FABRIC_MAX_CONNECTIONS"),
    plain("FABRIC_WRITE_TIMEOUT_SECONDS"),
    plain("FABRIC_MEMORY_MB"),
    plain("FABRIC_JOB_WORKERS"),
    plain("FABRIC_JOB_LEASE_SECONDS"),
    plain("FABRIC_JOB_RETENTION_DAYS"),
    plain("FABRIC_EVENT_RETENTION"),
    plain("FABRIC_EVENT_HEARTBEAT_SECONDS"),
    secret("ANTHROPIC_API_KEY"),
    plain("ANTHROPIC_BASE_URL"),
    secret("FACTORY_LLM_KEY"),
    plain("FACTORY_LLM_URL"),
    plain("FACTORY_LLM_MODEL"),
    plain("MCP_FACTORY_PORT"),
    plain("FABRIC_BULK_UNFINISHED"),
    plain("FABRIC_BULK_AT_ONCE"),
    plain("FABRIC_BULK_PER_SECOND"),
    plain("FABRIC_LOG"),
    plain("FABRIC_LOG_FORMAT"),
];

/// The defaults, with a comment for each; `local.toml` beside it has the same keys.
const DEFAULTS: &str = include_str!("../../../config/default.toml");

/// Where the value of a setting came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// `config/default.toml`, built in.
    Default,
    /// `config/local.toml`.
    LocalFile,
    /// `.env` in the working folder.
    DotEnv,
    /// The process environment.
    Environment,
    /// The command line.
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::LocalFile => "config/local.toml",
            Self::DotEnv => ".env",
            Self::Environment => "environment",
            Self::Flag => "command line",
        })
    }
}

/// The text of one setting.
#[derive(Clone, Debug)]
pub struct Resolved {
    value: String,
    /// Where it came from.
    pub source: Source,
}

impl Setting {
    /// The name in TOML files: `FABRIC_LISTEN` is `listen`, `DATABASE_URL` is `database_url`.
    pub fn toml_key(&self) -> String {
        self.key.strip_prefix("FABRIC_").unwrap_or(self.key).to_ascii_lowercase()
    }
}

/// The text of every setting that has one.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    values: BTreeMap<&'static str, Resolved>,
    /// Names that look like settings of ours and are none.
    pub misspelt: BTreeSet<String>,
}

/// Names in the environment that are ours without being settings.
const OTHER_NAMES: &[&str] = &["FABRIC_URL", "FABRIC_TOKEN"];

fn is_misspelt(name: &str) -> bool {
    name.starts_with("FABRIC_") && !OTHER_NAMES.contains(&name) && SETTINGS.iter().all(|setting| setting.key != name)
}

impl Layers {
    /// Defaults only: what tests start from.
    pub fn defaults() -> Result<Self, ConfigError> {
        let mut layers = Self::default();
        layers.add_toml(Path::new("config/default.toml"), DEFAULTS, Source::Default)?;
        Ok(layers)
    }

    /// Defaults, `local.toml`, `.env`, the environment, and `flags` on top.
    pub fn load(flags: &[(&'static str, String)]) -> Result<Self, ConfigError> {
        let mut upper = Self::default();
        upper.add_dot_env()?;
        upper.add_environment();
        for (key, value) in flags {
            upper.set(key, value.clone(), Source::Flag);
        }
        let mut layers = Self::defaults()?;
        let folder = upper.text("FABRIC_CONFIG_DIR").or_else(|| layers.text("FABRIC_CONFIG_DIR")).unwrap_or("config").to_owned();
        let local = Path::new(&folder).join("local.toml");
        let text = read_if_present(&local).map_err(|error| ConfigError::File { path: local.clone(), reason: error.to_string() })?;
        if let Some(text) = text {
            layers.add_toml(&local, &text, Source::LocalFile)?;
        }
        layers.values.extend(upper.values);
        layers.misspelt = upper.misspelt;
        Ok(layers)
    }

    /// Sets one value; later calls win.
    pub fn set(&mut self, key: &str, value: impl Into<String>, source: Source) {
        if let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) {
            self.values.insert(setting.key, Resolved { value: value.into(), source });
        }
    }

    fn add_toml(&mut self, path: &Path, text: &str, source: Source) -> Result<(), ConfigError> {
        let table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| ConfigError::File { path: path.to_owned(), reason: error.message().to_owned() })?;
        for (key, value) in table {
            let setting = SETTINGS
                .iter()
                .find(|setting| setting.toml_key() == key)
                .ok_or_else(|| ConfigError::Unknown { path: path.to_owned(), key: key.clone() })?;
            let value = match value {
                toml::Value::String(text) => text,
                toml::Value::Array(items) => items.iter().map(|item| item.as_str().unwrap_or_default()).collect::<Vec<_>>().join(","),
                other => other.to_string(),
            };
            self.set(setting.key, value, source);
        }
        Ok(())
    }

    fn add_dot_env(&mut self) -> Result<(), ConfigError> {
        let path = Path::new(".env");
        if !path.exists() {
            return Ok(());
        }
        // The library's own message would quote the line, which may hold a secret.
        let broken = |_| ConfigError::File { path: path.to_owned(), reason: "a line is not of the form NAME=value".into() };
        for pair in dotenvy::from_path_iter(path).map_err(broken)? {
            let (key, value) = pair.map_err(broken)?;
            self.set(&key, value, Source::DotEnv);
            self.misspelt.extend(Some(key).filter(|key| is_misspelt(key)));
        }
        Ok(())
    }

    #[expect(clippy::disallowed_methods, reason = "this is the door to the environment")]
    fn add_environment(&mut self) {
        for setting in SETTINGS {
            if let Ok(value) = std::env::var(setting.key) {
                self.set(setting.key, value, Source::Environment);
            }
        }
        self.misspelt.extend(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(|name| is_misspelt(name)));
    }

    pub(super) fn source(&self, key: &str) -> Option<Source> {
        self.values.get(key).map(|resolved| resolved.source)
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|resolved| resolved.value.trim()).filter(|value| !value.is_empty())
    }

    /// The source of a setting, and its value unless that is secret.
    pub fn describe(&self, setting: &Setting) -> (Option<Source>, String) {
        let source = self.source(setting.key);
        let shown = match (self.text(setting.key), setting.secret) {
            (None, _) => "absent".into(),
            (Some(_), true) => "present".into(),
            (Some(value), false) => value.to_owned(),
        };
        (source, shown)
    }

    /// An error about one setting.
    pub fn invalid(&self, key: &'static str, reason: impl Into<String>) -> ConfigError {
        let source_name = self.values.get(key).map_or_else(|| "nowhere".into(), |resolved| resolved.source.to_string());
        ConfigError::Invalid { key, source_name, reason: reason.into() }
    }

    pub(super) fn get<T: FromSetting>(&self, key: &'static str) -> Result<T, ConfigError> {
        self.optional(key)?.ok_or_else(|| self.invalid(key, "is empty"))
    }

    pub(super) fn optional<T: FromSetting>(&self, key: &'static str) -> Result<Option<T>, ConfigError> {
        self.text(key).map(|text| T::from_setting(text).map_err(|reason| self.invalid(key, reason))).transpose()
    }

    pub(super) fn list<T: FromSetting>(&self, key: &'static str) -> Result<Vec<T>, ConfigError> {
        self.text(key)
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| T::from_setting(item).map_err(|reason| self.invalid(key, reason)))
            .collect()
    }
}

/// The environment as child processes and client libraries of ours may need it: one named variable.
#[expect(clippy::disallowed_methods, reason = "this is the door to the environment")]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_cover_every_setting_and_parse() {
        let layers = Layers::defaults().unwrap();
        let table: toml::Table = DEFAULTS.parse().unwrap();
        for setting in SETTINGS {
            assert!(table.contains_key(&setting.toml_key()), "config/default.toml lacks {}", setting.toml_key());
        }
        crate::Config::from_layers(&layers).unwrap();
    }

    #[test]
    fn the_example_environment_names_every_setting() {
        let example = include_str!("../../../.env.example");
        for setting in SETTINGS {
            assert!(
                example.lines().any(|line| line.trim_start_matches(['#', ' ']).starts_with(&format!("{}=", setting.key))),
                ".env.example lacks {}",
                setting.key
            );
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for (key, value) in [
            ("FABRIC_LOG", "nonsense"),
            ("FABRIC_LOG", "info,loud"),
            ("FABRIC_CORS_ORIGINS", "*"),
            ("FABRIC_CORS_ORIGINS", "null"),
            ("FABRIC_CORS_ORIGINS", "https://a.example/path"),
            ("FABRIC_CORS_ORIGINS", "https://a.example:443"),
            ("FABRIC_CORS_ORIGINS", "a.example"),
            ("FABRIC_CONFIG_DIR", "/nowhere/at/all"),
        ] {
            let mut layers = Layers::defaults().unwrap();
            layers.set(key, value, Source::Environment);
            assert!(crate::Config::from_layers(&layers).is_err(), "{key}={value}");
        }
        for (key, value) in [("FABRIC_LOG", "warn,sync=debug,[request]=trace"), ("FABRIC_CORS_ORIGINS", "https://a.example,http://[::1]:*")]
        {
            let mut layers = Layers::defaults().unwrap();
            layers.set(key, value, Source::Environment);
            crate::Config::from_layers(&layers).unwrap();
        }
    }

    #[test]
    fn a_bad_value_names_its_setting_and_its_source() {
        let mut layers = Layers::defaults().unwrap();
        layers.set("FABRIC_LISTEN", "nowhere", Source::Environment);
        let error = crate::Config::from_layers(&layers).unwrap_err().to_string();
        assert!(error.starts_with("FABRIC_LISTEN (from environment): "), "{error}");
    }
}
