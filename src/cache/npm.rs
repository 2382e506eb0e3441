//! The documents of npm registries: what they state of each version, and how we render them anew.
//!
//! A packument is read in borrowed pieces: the ones of popular packages have thousands of versions, and
//! only `dist` of each is looked into. Tarballs are named by us; where they come from is what upstream
//! says verbatim.

use std::{borrow::Cow, collections::BTreeMap};

use chrono::{DateTime, Utc};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};
use url::Url;

use crate::{
    digest::{Algorithm, Digest},
    file_names::FileName,
    model::Claimed,
    names::{NpmName, NpmVersion},
    signatures::Signature,
};

/// What `Accept` asks for when the short form is wanted.
pub(crate) const ABBREVIATED: &str = "application/vnd.npm.install-v1+json";
/// What the short form keeps of each version.
const ABBREVIATED_FIELDS: &[&str] = &[
    "name",
    "version",
    "deprecated",
    "dependencies",
    "optionalDependencies",
    "devDependencies",
    "bundleDependencies",
    "bundledDependencies",
    "peerDependencies",
    "peerDependenciesMeta",
    "acceptDependencies",
    "bin",
    "directories",
    "dist",
    "engines",
    "cpu",
    "os",
    "libc",
    "funding",
    "hasInstallScript",
    "_hasShrinkwrap",
];

/// A document that is not what an npm registry sends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NpmError {
    /// Not JSON, or of another shape.
    #[error("the registry's document cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It is about another package.
    #[error("the registry answered with the document of another package")]
    OtherPackage,
    /// No such version, or no such tag.
    #[error("the registry has no version {0} of this package")]
    NoVersion(String),
    /// Nothing that the bytes could be compared with.
    #[error("the registry states no digest for this version that can be relied on")]
    NoDigest,
    /// Only a SHA-1 is stated.
    #[error("the registry states only a SHA-1 for this version, which a forger can meet; FABRIC_CACHE_ALLOW_SHA1 accepts it")]
    WeakDigest,
    /// The tarball's address is none.
    #[error("the registry states no usable address for this version")]
    NoAddress,
}

type Fields<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

/// A package with all its versions.
#[derive(Debug)]
pub(crate) struct Packument<'a> {
    name: NpmName,
    fields: Fields<'a>,
    versions: Fields<'a>,
    /// Other ones than the document's.
    tags: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Dist {
    tarball: Option<String>,
    integrity: Option<String>,
    shasum: Option<String>,
    #[serde(default)]
    signatures: Vec<Signature>,
    attestations: Option<IgnoredAny>,
}

/// Where the bytes of a version are, and what they have to be.
#[derive(Clone, Debug)]
pub(crate) struct Tarball {
    pub(crate) url: Url,
    pub(crate) digest: Digest,
    /// As the registry spells it, which is what it signs.
    pub(crate) integrity: Option<String>,
    pub(crate) signatures: Vec<Signature>,
    pub(crate) provenance: Claimed,
    pub(crate) published_at: Option<DateTime<Utc>>,
}

impl<'a> Packument<'a> {
    /// Reads the document of `name`.
    pub(crate) fn parse(name: &NpmName, document: &'a [u8]) -> Result<Self, NpmError> {
        let fields: Fields<'a> = serde_json::from_slice(document)?;
        let stated = fields.get("name").and_then(|raw| serde_json::from_str::<Cow<'_, str>>(raw.get()).ok());
        if stated.as_deref() != Some(name.as_str()) {
            return Err(NpmError::OtherPackage);
        }
        let versions = match fields.get("versions") {
            Some(raw) => serde_json::from_str(raw.get())?,
            None => Fields::new(),
        };
        Ok(Self { name: name.clone(), fields, versions, tags: None })
    }

    /// Leaves out versions that were published after a moment, or of which nobody says when. A tag of such a
    /// version goes; `latest` becomes the newest stable version that is left.
    pub(crate) fn published_before(mut self, moment: Option<DateTime<Utc>>) -> Result<Self, NpmError> {
        let Some(moment) = moment else { return Ok(self) };
        let times: BTreeMap<Cow<'_, str>, Value> = match self.fields.get("time") {
            Some(raw) => serde_json::from_str(raw.get())?,
            None => BTreeMap::new(),
        };
        let is_old = |version: &str| {
            let time = times.get(version).and_then(Value::as_str).and_then(|time| time.parse::<DateTime<Utc>>().ok());
            time.is_some_and(|time| time <= moment)
        };
        let before = self.versions.len();
        self.versions.retain(|version, _| is_old(version));
        if self.versions.len() < before {
            let kept = self.tags()?.into_iter().filter(|(_, version)| self.versions.contains_key(version.as_str()));
            let mut tags: BTreeMap<String, String> = kept.collect();
            if !tags.contains_key("latest")
                && let Some(newest) = self.newest_stable()
            {
                tags.insert("latest".into(), newest);
            }
            self.tags = Some(tags);
        }
        Ok(self)
    }

    fn newest_stable(&self) -> Option<String> {
        let versions = self.versions.keys().filter_map(|text| semver::Version::parse(text).ok());
        versions.max_by_key(|version| (version.pre.is_empty(), version.clone())).map(|version| version.to_string())
    }

    fn tags(&self) -> Result<BTreeMap<String, String>, NpmError> {
        match (&self.tags, self.fields.get("dist-tags")) {
            (Some(tags), _) => Ok(tags.clone()),
            (None, Some(raw)) => Ok(serde_json::from_str(raw.get())?),
            (None, None) => Ok(BTreeMap::new()),
        }
    }

    /// The version that a tag (`latest`) stands for, or the exact version itself.
    pub(crate) fn resolve(&self, wanted: &str) -> Result<NpmVersion, NpmError> {
        let missing = || NpmError::NoVersion(wanted.chars().take(80).collect());
        let version = if let Ok(version) = NpmVersion::parse(wanted) {
            version
        } else {
            let tags = self.tags()?;
            tags.get(wanted).and_then(|version| NpmVersion::parse(version).ok()).ok_or_else(missing)?
        };
        if self.versions.contains_key(version.as_str()) { Ok(version) } else { Err(missing()) }
    }

    /// What the registry states of the bytes of a version. A SHA-1 alone only counts where it may.
    pub(crate) fn tarball(&self, version: &NpmVersion, allow_sha1: bool) -> Result<Tarball, NpmError> {
        let raw = self.versions.get(version.as_str()).ok_or_else(|| NpmError::NoVersion(version.as_str().to_owned()))?;
        let fields: Fields<'_> = serde_json::from_str(raw.get())?;
        let dist: Dist = serde_json::from_str(fields.get("dist").ok_or(NpmError::NoDigest)?.get())?;
        let stated = dist.integrity.as_deref().and_then(Digest::from_integrity);
        let digest = stated.or_else(|| Digest::from_hex(Algorithm::Sha1, dist.shasum.as_deref()?)).ok_or(NpmError::NoDigest)?;
        if digest.algorithm() == Algorithm::Sha1 && !allow_sha1 {
            return Err(NpmError::WeakDigest);
        }
        let url = dist.tarball.and_then(|url| Url::parse(&url).ok()).filter(|url| matches!(url.scheme(), "http" | "https"));
        Ok(Tarball {
            url: url.ok_or(NpmError::NoAddress)?,
            digest,
            integrity: dist.integrity,
            signatures: dist.signatures,
            provenance: if dist.attestations.is_some() { Claimed::Stated } else { Claimed::None },
            published_at: self.published_at(version),
        })
    }

    fn published_at(&self, version: &NpmVersion) -> Option<DateTime<Utc>> {
        let times: Fields<'_> = serde_json::from_str(self.fields.get("time")?.get()).ok()?;
        serde_json::from_str(times.get(version.as_str())?.get()).ok()
    }

    /// One version, with its tarball at `base`.
    pub(crate) fn render_version(&self, version: &NpmVersion, base: &str) -> Result<String, NpmError> {
        let raw = self.versions.get(version.as_str()).ok_or_else(|| NpmError::NoVersion(version.as_str().to_owned()))?;
        Ok(serde_json::to_string(&self.version_at(version, raw, base, None)?)?)
    }

    /// What a version needs that no registry has.
    pub(crate) fn exotic_dependency(&self, version: &NpmVersion) -> Option<String> {
        exotic_dependency(self.versions.get(version.as_str())?)
    }

    /// The whole document with its tarballs at `base`, whole or in the short form. For a resolver, which would
    /// fetch by itself what no registry has, versions that need such things are left out.
    pub(crate) fn render(&self, base: &str, is_abbreviated: bool, for_resolver: bool) -> Result<String, NpmError> {
        let mut versions: BTreeMap<&str, Box<RawValue>> = BTreeMap::new();
        for (text, raw) in &self.versions {
            let Ok(version) = NpmVersion::parse(text) else { continue };
            if for_resolver && exotic_dependency(raw).is_some() {
                continue;
            }
            let kept = is_abbreviated.then_some(ABBREVIATED_FIELDS);
            if let Ok(rendered) = self.version_at(&version, raw, base, kept) {
                versions.insert(text, rendered);
            }
        }
        let versions = to_raw_value(&versions)?;
        let mut whole: BTreeMap<&str, &RawValue> = BTreeMap::from([("versions", &*versions)]);
        let modified = self.fields.get("time").and_then(|raw| {
            let times: Fields<'_> = serde_json::from_str(raw.get()).ok()?;
            times.get("modified").copied()
        });
        let tags = self.tags.as_ref().map(to_raw_value).transpose()?;
        if is_abbreviated {
            whole.extend(["name", "dist-tags"].iter().filter_map(|field| Some((*field, *self.fields.get(*field)?))));
            whole.extend(modified.map(|modified| ("modified", modified)));
        } else {
            whole.extend(self.fields.iter().filter(|(field, _)| *field != "versions").map(|(field, raw)| (&**field, *raw)));
        }
        whole.extend(tags.as_deref().map(|tags| ("dist-tags", tags)));
        Ok(serde_json::to_string(&whole)?)
    }

    fn version_at(&self, version: &NpmVersion, raw: &RawValue, base: &str, kept: Option<&[&str]>) -> Result<Box<RawValue>, NpmError> {
        let mut fields: Fields<'_> = serde_json::from_str(raw.get())?;
        let mut dist: Fields<'_> = serde_json::from_str(fields.get("dist").ok_or(NpmError::NoDigest)?.get())?;
        let file = FileName::tarball(&self.name, version);
        let tarball = to_raw_value(&format!("{base}/{}/-/{}", self.name.as_str(), file.as_str()))?;
        dist.insert("tarball".into(), &tarball);
        let dist = to_raw_value(&dist)?;
        fields.insert("dist".into(), &dist);
        let yes = to_raw_value(&true)?;
        if let Some(kept) = kept {
            // The short form has no scripts; clients run those of an install only where this says that there are any.
            if has_install_script(&fields) {
                fields.insert("hasInstallScript".into(), &yes);
            }
            fields.retain(|field, _| kept.contains(&&**field));
        }
        Ok(to_raw_value(&fields)?)
    }
}

fn has_install_script(fields: &Fields<'_>) -> bool {
    let scripts = fields.get("scripts").and_then(|raw| serde_json::from_str::<Fields<'_>>(raw.get()).ok()).unwrap_or_default();
    ["preinstall", "install", "postinstall"].iter().any(|script| scripts.contains_key(*script))
}

/// The first dependency of a version that does not come from a registry: a repository, an address, a folder.
fn exotic_dependency(raw: &RawValue) -> Option<String> {
    let fields: Fields<'_> = serde_json::from_str(raw.get()).ok()?;
    ["dependencies", "optionalDependencies", "peerDependencies"].iter().find_map(|field| {
        let specs: BTreeMap<Cow<'_, str>, Cow<'_, str>> = serde_json::from_str(fields.get(*field)?.get()).ok()?;
        let exotic = specs.iter().find(|(_, spec)| !spec.starts_with("npm:") && spec.contains(['/', ':', '#', '\\']));
        exotic.map(|(name, _)| name.to_string())
    })
}

/// What a path below `/npm/` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A package with all its versions.
    Package(NpmName),
    /// One version or tag.
    Version(NpmName, String),
    /// The tarball of a version.
    Tarball(NpmName, NpmVersion),
}

impl Asked {
    /// Reads a decoded path: `name`, `@scope/name`, `…/version`, `…/-/file.tgz`.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
        let (name, rest) = if path.starts_with('@') { parts.split_at_checked(2)? } else { parts.split_at_checked(1)? };
        let name = NpmName::parse(&name.join("/")).ok()?;
        match rest {
            [] => Some(Self::Package(name)),
            [version] if *version != "-" => Some(Self::Version(name, (*version).to_owned())),
            ["-", file] => {
                let version = file.strip_prefix(name.base())?.strip_prefix('-')?.strip_suffix(".tgz")?;
                let version = NpmVersion::parse(version).ok()?;
                Some(Self::Tarball(name, version))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn document() -> Vec<u8> {
        let integrity = format!("sha512-{}", base64::Engine::encode(&base64::engine::general_purpose::STANDARD, [7; 64]));
        json!({
            "name": "@a/b", "readme": "long", "dist-tags": { "latest": "1.1.0", "bad": "../x" },
            "time": { "modified": "2026-01-01T00:00:00Z", "1.0.0": "2025-01-01T00:00:00Z" },
            "versions": {
                "1.0.0": { "name": "@a/b", "version": "1.0.0", "scripts": { "x": "y" }, "dist": { "tarball": "https://up.example/odd-name.tgz", "integrity": integrity } },
                "1.1.0": { "name": "@a/b", "version": "1.1.0", "dependencies": { "c": "^1", "alias": "npm:@x/y@1" }, "scripts": { "postinstall": "x" }, "dist": { "tarball": "file:///etc/passwd", "shasum": "00".repeat(20) } },
                "1.2.0": { "name": "@a/b", "version": "1.2.0", "dependencies": { "d": "git+ssh://inside/x" }, "dist": {} },
                "../2": { "dist": {} },
            },
        })
        .to_string()
        .into_bytes()
    }

    #[test]
    fn a_packument_is_read_and_rendered_with_our_tarballs() {
        let (name, bytes) = (NpmName::parse("@a/b").unwrap(), document());
        let packument = Packument::parse(&name, &bytes).unwrap();
        assert_eq!(packument.resolve("latest").unwrap().as_str(), "1.1.0");
        for missing in ["2.0.0", "bad", "next"] {
            assert!(matches!(packument.resolve(missing), Err(NpmError::NoVersion(_))), "{missing}");
        }
        let first = NpmVersion::parse("1.0.0").unwrap();
        let tarball = packument.tarball(&first, false).unwrap();
        assert_eq!((tarball.url.as_str(), tarball.digest.algorithm()), ("https://up.example/odd-name.tgz", Algorithm::Sha512));
        let second = NpmVersion::parse("1.1.0").unwrap();
        assert!(matches!(packument.tarball(&second, false), Err(NpmError::WeakDigest)));
        assert!(matches!(packument.tarball(&second, true), Err(NpmError::NoAddress)));

        let full: Value = serde_json::from_str(&packument.render("http://h/npm", false, false).unwrap()).unwrap();
        assert_eq!(full["versions"]["1.0.0"]["dist"]["tarball"], "http://h/npm/@a/b/-/b-1.0.0.tgz");
        assert_eq!((&full["readme"], &full["versions"]["1.0.0"]["scripts"]["x"]), (&json!("long"), &json!("y")));
        assert!(full["versions"]["../2"].is_null());
        let short: Value = serde_json::from_str(&packument.render("http://h/npm", true, false).unwrap()).unwrap();
        assert_eq!((&short["readme"], &short["versions"]["1.0.0"]["scripts"]), (&Value::Null, &Value::Null));
        assert_eq!((&short["modified"], &short["versions"]["1.1.0"]["dependencies"]["c"]), (&json!("2026-01-01T00:00:00Z"), &json!("^1")));
        assert_eq!(
            (&short["versions"]["1.1.0"]["hasInstallScript"], &short["versions"]["1.0.0"]["hasInstallScript"]),
            (&json!(true), &Value::Null)
        );
        let resolvers: Value = serde_json::from_str(&packument.render("http://h/npm", true, true).unwrap()).unwrap();
        assert_eq!((resolvers["versions"].as_object().unwrap().len(), short["versions"].as_object().unwrap().len()), (2, 3));
        assert_eq!(packument.exotic_dependency(&NpmVersion::parse("1.2.0").unwrap()).as_deref(), Some("d"));
        let one: Value = serde_json::from_str(&packument.render_version(&first, "http://h/npm").unwrap()).unwrap();
        assert_eq!(one["dist"]["tarball"], "http://h/npm/@a/b/-/b-1.0.0.tgz");
    }

    #[test]
    fn other_documents_are_refused() {
        let name = NpmName::parse("@a/c").unwrap();
        assert!(matches!(Packument::parse(&name, &document()), Err(NpmError::OtherPackage)));
        for bad in [&b"<html>"[..], b"[]", b"{}", br#"{"name":"@a/c","versions":[]}"#, b"\xff"] {
            assert!(Packument::parse(&name, bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn paths_of_clients_are_read() {
        let name = |text| NpmName::parse(text).unwrap();
        assert_eq!(Asked::parse("zod"), Some(Asked::Package(name("zod"))));
        assert_eq!(Asked::parse("@a/b/"), Some(Asked::Package(name("@a/b"))));
        assert_eq!(Asked::parse("@a/b/latest"), Some(Asked::Version(name("@a/b"), "latest".into())));
        assert_eq!(Asked::parse("@a/b/-/b-1.0.0-x.1.tgz"), Some(Asked::Tarball(name("@a/b"), NpmVersion::parse("1.0.0-x.1").unwrap())));
        for bad in ["", "@a", "-/ping", "a/-/b-1.0.0.tgz", "a/-/a-1.0.0.zip", "a/-/a-../x.tgz", "a/b/c", "../a", "@../a/b", "a/-/"] {
            assert_eq!(Asked::parse(bad), None, "{bad}");
        }
    }
}
