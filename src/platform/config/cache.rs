//! Settings of the package cache.

use std::{path::PathBuf, time::Duration};

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use url::Url;

use super::{
    ConfigError, Layers, absolute,
    parse::{Bounded, Count, FromSetting, Seconds},
};
use crate::http::Address;

/// The package cache.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// Its folder. Absolute.
    pub dir: PathBuf,
    /// The fabric's own setting of the Python package index (the base of its Simple API), if any.
    pub pypi_index: Option<Url>,
    /// Wheels are cached for these versions of `CPython` 3: the second number of each.
    pub python_minors: Vec<u32>,
    /// Images and wheels are cached for these; the first is the usual one.
    pub targets: Vec<Target>,
    /// Where images without a host in their name come from.
    pub docker_hub: Url,
    /// Registries of images that speak plain HTTP: `host` or `host:port`.
    pub plain_http: Vec<String>,
    /// Where bundles may come from.
    pub bundle_hosts: Vec<String>,
    /// Take packages for which a registry states only a SHA-1.
    pub allow_sha1: bool,
    /// The most that one file may measure.
    pub max_file_bytes: u64,
    /// How long a registry may send nothing, or next to nothing.
    pub patience: Duration,
    /// Downloads at once from one host.
    pub per_host: u32,
    /// Memory for small files and documents.
    pub memory_bytes: u64,
    /// How long what a registry said is not asked again.
    pub metadata_ttl: Duration,
    /// Who may have a miss fetched without a token.
    pub anonymous_fill: AnonymousFill,
    /// How clients reach us.
    pub address: Address,
    /// What may come in at all.
    pub policy: CachePolicy,
    /// The most that all of it may measure.
    pub quota_bytes: Option<u64>,
    /// What is left of `quota_bytes` when it is reached, in hundredths.
    pub low_water_percent: u32,
    /// What has to stay free on the disk.
    pub reserve_bytes: u64,
    /// Whose archives are taken in: base64 of Ed25519 keys.
    pub trusted_keys: Vec<String>,
}

/// What may come into the cache.
#[derive(Clone, Debug, Default)]
pub struct CachePolicy {
    /// Only these, where any are named.
    pub allow: Vec<Pattern>,
    /// Not these.
    pub deny: Vec<Pattern>,
    /// How long ago a version must have been published.
    pub min_age: Duration,
    /// What packages of a type must come with.
    pub require: Vec<Requirement>,
    /// What none of it holds for.
    pub exceptions: Vec<Exception>,
    /// The most that a package may measure with what an install of it needs.
    pub max_closure_bytes: u64,
}

/// Who may have a miss of the package cache fetched without a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnonymousFill {
    /// Programs on this machine.
    Loopback,
    /// Everybody.
    Always,
    /// Nobody.
    Never,
}

/// A platform as container images name it: `linux/arm64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `linux`
    pub os: String,
    /// As Go spells it: `amd64`, `arm64`.
    pub architecture: String,
}

/// Packages by type and name: `npm:@acme/*`; a `*` stands for any text, also for any type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    registry_type: String,
    name: String,
}

/// What a package can come with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A signature of its registry.
    Signature,
    /// A statement of where it was built.
    Provenance,
}

/// A type of packages, and what they must come with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// `npm` or `pypi`.
    pub registry_type: String,
    /// What.
    pub claim: Claim,
}

/// Packages that the policy does not hold for, for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Which.
    pub pattern: Pattern,
    /// Until when.
    pub until: DateTime<Utc>,
}

impl CacheConfig {
    pub(super) fn from_layers(layers: &Layers) -> Result<Self, ConfigError> {
        let megabytes = |key| Ok::<u64, ConfigError>(u64::from(layers.get::<Bounded>(key)?.0) << 20);
        let targets = layers.list::<Target>("FABRIC_CACHE_TARGETS")?;
        Ok(Self {
            dir: absolute(&layers.get::<PathBuf>("FABRIC_CACHE_DIR")?),
            pypi_index: layers.optional("FABRIC_PYPI_INDEX")?,
            python_minors: layers.list::<PythonVersion>("FABRIC_CACHE_PYTHON")?.into_iter().map(|version| version.0).collect(),
            targets: if targets.is_empty() { vec![Target::here()] } else { targets },
            docker_hub: layers.get("FABRIC_DOCKER_HUB")?,
            plain_http: layers.list("FABRIC_OCI_PLAIN_HTTP")?,
            bundle_hosts: layers.list("FABRIC_MCPB_HOSTS")?,
            allow_sha1: layers.get("FABRIC_CACHE_ALLOW_SHA1")?,
            max_file_bytes: megabytes("FABRIC_CACHE_MAX_FILE_MB")?,
            patience: layers.get::<Seconds>("FABRIC_CACHE_PATIENCE_SECONDS")?.0,
            per_host: layers.get::<Count>("FABRIC_CACHE_PER_HOST")?.0,
            memory_bytes: megabytes("FABRIC_CACHE_MEMORY_MB")?,
            metadata_ttl: layers.get::<Seconds>("FABRIC_CACHE_METADATA_SECONDS")?.0,
            anonymous_fill: layers.get("FABRIC_ANONYMOUS_FILL")?,
            address: Address::new(layers.optional("FABRIC_PUBLIC_URL")?, layers.optional::<PathBuf>("FABRIC_TLS_CERT")?.is_some()),
            policy: CachePolicy {
                allow: layers.list("FABRIC_CACHE_ALLOW")?,
                deny: layers.list("FABRIC_CACHE_DENY")?,
                min_age: Duration::from_hours(layers.get::<Bounded>("FABRIC_CACHE_MIN_AGE_HOURS")?.0.into()),
                require: layers.list("FABRIC_CACHE_REQUIRE")?,
                exceptions: layers.list("FABRIC_CACHE_EXCEPTIONS")?,
                max_closure_bytes: megabytes("FABRIC_CACHE_MAX_CLOSURE_MB")?,
            },
            quota_bytes: Some(megabytes("FABRIC_CACHE_QUOTA_MB")?).filter(|quota| *quota > 0),
            low_water_percent: layers.get::<Percent>("FABRIC_CACHE_LOW_WATER_PERCENT")?.0,
            reserve_bytes: megabytes("FABRIC_CACHE_RESERVE_MB")?,
            trusted_keys: layers.list("FABRIC_CACHE_TRUSTED_KEYS")?,
        })
    }
}

impl FromSetting for AnonymousFill {
    fn from_setting(text: &str) -> Result<Self, String> {
        match text {
            "loopback" => Ok(Self::Loopback),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => Err("is none of loopback, always, never".into()),
        }
    }
}

/// `3.x`; keeps the `x`.
struct PythonVersion(u32);

impl FromSetting for PythonVersion {
    fn from_setting(text: &str) -> Result<Self, String> {
        let minor = text.strip_prefix("3.").and_then(|minor| minor.parse().ok());
        minor.map(Self).ok_or_else(|| "is not a list of versions such as 3.11,3.12".into())
    }
}

struct Percent(u32);

impl FromSetting for Percent {
    fn from_setting(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(share @ 1..=100) => Ok(Self(share)),
            _ => Err("is not a whole number from 1 to 100".into()),
        }
    }
}

impl Target {
    /// This machine, where images run on Linux whatever the system is.
    pub fn here() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { os: "linux".into(), architecture: architecture.into() }
    }

    /// From `linux/arm64`.
    pub fn parse(text: &str) -> Option<Self> {
        let is_word = |text: &str| (1..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let (os, architecture) = text.split_once('/').filter(|(os, architecture)| is_word(os) && is_word(architecture))?;
        Some(Self { os: os.into(), architecture: architecture.into() })
    }

    /// The processor as names of wheels spell it: `x86_64`, `aarch64`.
    pub fn machine(&self) -> &str {
        match self.architecture.as_str() {
            "amd64" => "x86_64",
            "arm64" => "aarch64",
            other => other,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

impl FromSetting for Target {
    fn from_setting(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(|| "is not a list of platforms such as linux/amd64,linux/arm64".into())
    }
}

impl Pattern {
    fn parse(text: &str) -> Option<Self> {
        let (registry_type, name) = text.split_once(':').filter(|(registry_type, name)| !name.is_empty() && !registry_type.is_empty())?;
        matches!(registry_type, "npm" | "pypi" | "oci" | "mcpb" | "*")
            .then(|| Self { registry_type: registry_type.into(), name: name.into() })
    }

    /// Whether it names this package.
    pub fn holds(&self, registry_type: &str, name: &str) -> bool {
        if self.registry_type != "*" && self.registry_type != registry_type {
            return false;
        }
        match registry_type {
            // PEP 503: any spelling of a name is that name.
            "pypi" => globs(&dashed(&self.name), &dashed(name)),
            "oci" => globs(&with_host(&self.name), name),
            "mcpb" => globs(&self.name.to_ascii_lowercase(), &name.to_ascii_lowercase()),
            _ => globs(&self.name, name),
        }
    }
}

/// A Python name in the spelling that all others are brought into.
fn dashed(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let words: Vec<&str> = lower.split(['-', '_', '.']).filter(|word| !word.is_empty()).collect();
    words.join("-")
}

/// An image's name as Docker completes it: `alpine` is `docker.io/library/alpine`. A pattern that begins with any
/// text names a host, too.
fn with_host(name: &str) -> String {
    let first = name.split('/').next().unwrap_or_default();
    match name.contains('/') {
        _ if first.contains('*') => name.to_owned(),
        true if first.contains(['.', ':']) || first == "localhost" => name.to_owned(),
        true => format!("docker.io/{name}"),
        false => format!("docker.io/library/{name}"),
    }
}

/// Whether `text` is what `pattern` says, in which each `*` stands for any text.
fn globs(pattern: &str, text: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut rest) = text.strip_prefix(before) else { return false };
    let mut pieces: Vec<&str> = after.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        let Some(found) = rest.find(piece) else { return false };
        rest = &rest[found + piece.len()..];
    }
    rest.ends_with(last)
}

impl FromSetting for Pattern {
    fn from_setting(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(|| "is not a list of patterns such as npm:@acme/*,*:left-pad".into())
    }
}

impl FromSetting for Requirement {
    fn from_setting(text: &str) -> Result<Self, String> {
        let (registry_type, claim) = match text {
            "npm:signature" => ("npm", Claim::Signature),
            "npm:provenance" => ("npm", Claim::Provenance),
            "pypi:provenance" => ("pypi", Claim::Provenance),
            _ => return Err("is not a list of npm:signature, npm:provenance and pypi:provenance".into()),
        };
        Ok(Self { registry_type: registry_type.into(), claim })
    }
}

impl FromSetting for Exception {
    fn from_setting(text: &str) -> Result<Self, String> {
        let parsed = || {
            let (pattern, day) = text.rsplit_once('=')?;
            let day: NaiveDate = day.parse().ok()?;
            Some(Self { pattern: Pattern::parse(pattern)?, until: day.succ_opt()?.and_time(NaiveTime::MIN).and_utc() })
        };
        parsed().ok_or_else(|| "is not a list of exceptions with their last days, such as npm:left-pad=2027-01-31".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_hold_for_types_and_names() {
        let holds = |pattern: &str, registry_type: &str, name: &str| Pattern::parse(pattern).unwrap().holds(registry_type, name);
        assert!(
            holds("npm:@acme/*", "npm", "@acme/tool") && holds("*:*", "oci", "x") && holds("oci:*/acme/*-mcp", "oci", "ghcr.io/acme/x-mcp")
        );
        assert!(holds("npm:a*b", "npm", "ab") && holds("npm:a", "npm", "a") && holds("npm:a**b", "npm", "a-b"));
        assert!(!holds("npm:@acme/*", "npm", "@acme2/tool") && !holds("npm:a", "pypi", "a") && !holds("npm:a", "npm", "ab"));
        assert!(!holds("npm:ab*ba", "npm", "aba"), "a letter is not counted twice");
        assert!(holds("pypi:Typing_Extensions", "pypi", "typing-extensions") && holds("*:typing.*", "pypi", "typing-extensions"));
        assert!(holds("oci:alpine", "oci", "docker.io/library/alpine") && holds("oci:acme/*", "oci", "docker.io/acme/tool"));
        assert!(holds("oci:*", "oci", "ghcr.io/a/b") && !holds("oci:acme/*", "oci", "ghcr.io/acme/tool"));
        assert!(holds("mcpb:github.com/Acme/*", "mcpb", "github.com/acme/tool/x.mcpb"));
        for bad in ["", "npm", "npm:", ":x", "gem:x"] {
            assert!(Pattern::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn an_exception_ends_with_its_last_day() {
        let exception = Exception::from_setting("npm:left-pad=2026-12-31").unwrap();
        assert_eq!(exception.until.to_rfc3339(), "2027-01-01T00:00:00+00:00");
        assert!(Exception::from_setting("npm:left-pad").is_err() && Exception::from_setting("left-pad=2026-12-31").is_err());
    }
}
