//! Names of the package world, parsed once: what does not parse reaches no path, no URL and no row.
//!
//! Nothing is repaired. A name that a registry would take but that could climb out of a folder, look like
//! an option, or mean a device is refused.

use std::{borrow::Cow, fmt, path::PathBuf, str::FromStr as _};

use pep440_rs::Version as Pep440;
use serde::{Deserialize, Serialize};

use crate::{
    file_names::tarball_name,
    reference::{BundleName, OciName, Pinned},
};

platform::words! {
    /// Where a package comes from.
    pub enum RegistryType {
        /// An npm registry.
        Npm = "npm",
        /// A Python package index.
        Pypi = "pypi",
        /// A registry of container images.
        Oci = "oci",
        /// A file of a release.
        Mcpb = "mcpb",
    }
}

impl RegistryType {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Npm, Self::Pypi, Self::Oci, Self::Mcpb];

    /// Whether its packages need others.
    pub(crate) fn has_closure(self) -> bool {
        matches!(self, Self::Npm | Self::Pypi)
    }
}

/// Not a name or version that can be cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Not an npm package name.
    #[error("is not the name of an npm package")]
    NpmName,
    /// Not a version of an npm package.
    #[error("is not an exact version, such as 1.2.3")]
    NpmVersion,
    /// Not a Python project name.
    #[error("is not the name of a Python project")]
    PypiName,
    /// Not a version of a Python project.
    #[error("is not an exact version by PEP 440, such as 1.2.3")]
    PypiVersion,
    /// Not the name of a file of that package.
    #[error("is not the name of a file of this package")]
    FileName,
    /// Not the name of an image.
    #[error("is not the name of a container image, such as ghcr.io/owner/image")]
    OciName,
    /// Not a tag.
    #[error("has a tag that no image can have")]
    OciTag,
    /// Not a digest that is in use.
    #[error("has a digest that is not sha256: and 64 lowercase hexadecimal digits")]
    Digest,
    /// Not the plain address of a file.
    #[error("is not the plain address of a bundle, such as https://host/owner/name/releases/download/v1.0.0/name.mcpb")]
    Bundle,
}

const MAX_NPM_NAME: usize = 214;
const MAX_NPM_VERSION: usize = 256;
const MAX_PYPI_NAME: usize = 100;
const MAX_PYPI_VERSION: usize = 128;
/// Names that npm itself refuses, and names of devices on other systems.
const RESERVED: &[&str] = &["node_modules", "favicon.ico", "con", "prn", "aux", "nul"];

/// The name of an npm package: `name` or `@scope/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NpmName(String);

impl NpmName {
    /// Capitals only stand in names from before they were forbidden; a scope never has any.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidName> {
        let is_part = |part: &str, capitals: bool| {
            part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '~' || (capitals && c.is_ascii_uppercase()))
                && part.bytes().all(|b| {
                    b.is_ascii_lowercase()
                        || b.is_ascii_digit()
                        || matches!(b, b'.' | b'_' | b'~' | b'-')
                        || (capitals && b.is_ascii_uppercase())
                })
                && !is_reserved(part)
        };
        let ok = text.len() <= MAX_NPM_NAME
            && match text.strip_prefix('@') {
                Some(rest) => rest.split_once('/').is_some_and(|(scope, base)| is_part(scope, false) && is_part(base, true)),
                None => is_part(text, true),
            };
        if ok { Ok(Self(text.to_owned())) } else { Err(InvalidName::NpmName) }
    }

    /// The whole name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The scope with its `@`.
    pub(crate) fn scope(&self) -> Option<&str> {
        self.0.starts_with('@').then(|| self.0.split('/').next()).flatten()
    }

    /// The name without its scope: what names of tarballs begin with.
    pub(crate) fn base(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

/// An exact version of an npm package (semver 2.0).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NpmVersion(String);

impl NpmVersion {
    /// No range, no tag, no leading `v`.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidName> {
        let is_exact = text.len() <= MAX_NPM_VERSION && semver::Version::parse(text).is_ok();
        if is_exact { Ok(Self(text.to_owned())) } else { Err(InvalidName::NpmVersion) }
    }

    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The normalised name of a Python project (PEP 503).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PypiName(String);

impl PypiName {
    /// Takes any spelling.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidName> {
        let is_edge = |c: char| c.is_ascii_alphanumeric();
        let ok = text.len() <= MAX_PYPI_NAME
            && text.starts_with(is_edge)
            && text.ends_with(is_edge)
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if !ok {
            return Err(InvalidName::PypiName);
        }
        let words = text.split(['-', '_', '.']).filter(|word| !word.is_empty()).map(str::to_ascii_lowercase);
        let name = words.collect::<Vec<_>>().join("-");
        if is_reserved(&name) { Err(InvalidName::PypiName) } else { Ok(Self(name)) }
    }

    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// An exact version of a Python project in its canonical spelling (PEP 440).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct PypiVersion(String);

impl PypiVersion {
    /// Takes any spelling of one version.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidName> {
        if text.len() > MAX_PYPI_VERSION || !text.is_ascii() {
            return Err(InvalidName::PypiVersion);
        }
        Pep440::from_str(text).map(|version| Self(version.to_string())).map_err(|_| InvalidName::PypiVersion)
    }

    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a pre-release or a development release.
    pub(crate) fn is_unstable(&self) -> bool {
        self.key().is_some_and(|version| version.any_prerelease())
    }

    /// What versions are compared by: the same for any spelling.
    pub(crate) fn key(&self) -> Option<Pep440> {
        Pep440::from_str(&self.0).ok()
    }
}

pub(crate) fn is_reserved(part: &str) -> bool {
    let stem = part.split('.').next().unwrap_or_default();
    let begins = |word: &str| stem.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(word));
    let is_port = stem.len() == 4 && stem.ends_with(|c: char| c.is_ascii_digit()) && (begins("com") || begins("lpt"));
    let is_word = |text: &str| RESERVED.iter().any(|word| word.eq_ignore_ascii_case(text));
    is_port || is_word(stem) || is_word(part) || part.ends_with('.')
}

/// One exact version of a package.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Package {
    /// Of an npm registry.
    Npm(NpmName, NpmVersion),
    /// Of a Python package index.
    Pypi(PypiName, PypiVersion),
    /// An image for one platform: the digest of its manifest.
    Oci(OciName, Pinned),
    /// A bundle: the digest of its file.
    Mcpb(BundleName, Pinned),
}

impl Package {
    /// From the words of a row.
    pub(crate) fn parse(registry: RegistryType, name: &str, version: &str) -> Result<Self, InvalidName> {
        Ok(match registry {
            RegistryType::Npm => Self::Npm(NpmName::parse(name)?, NpmVersion::parse(version)?),
            RegistryType::Pypi => Self::Pypi(PypiName::parse(name)?, PypiVersion::parse(version)?),
            RegistryType::Oci => Self::Oci(OciName::parse(name)?, Pinned::parse(version)?),
            RegistryType::Mcpb => Self::Mcpb(BundleName::parse(name)?, Pinned::parse(version)?),
        })
    }

    /// Where it comes from.
    pub(crate) fn registry(&self) -> RegistryType {
        match self {
            Self::Npm(..) => RegistryType::Npm,
            Self::Pypi(..) => RegistryType::Pypi,
            Self::Oci(..) => RegistryType::Oci,
            Self::Mcpb(..) => RegistryType::Mcpb,
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Npm(name, _) => name.as_str(),
            Self::Pypi(name, _) => name.as_str(),
            Self::Oci(name, _) => name.as_str(),
            Self::Mcpb(name, _) => name.as_str(),
        }
    }

    /// Its version: for images and bundles `sha256:<hex>`.
    pub(crate) fn version(&self) -> &str {
        match self {
            Self::Npm(_, version) => version.as_str(),
            Self::Pypi(_, version) => version.as_str(),
            Self::Oci(_, pinned) | Self::Mcpb(_, pinned) => pinned.as_str(),
        }
    }

    /// Its folder below the cache root: `npm/@scope/name/1.0.0`, `oci/host_5000/name/sha256-<hex>`.
    pub(crate) fn folder(&self) -> PathBuf {
        let (name, version) = match self {
            Self::Npm(..) | Self::Pypi(..) => (self.name().to_owned(), self.version().to_owned()),
            Self::Oci(..) | Self::Mcpb(..) => (self.name().replace(':', "_"), self.version().replace(':', "-")),
        };
        [self.registry().as_str(), &name, &version].iter().collect()
    }

    /// The one file that stands for all of it, where there is such a one.
    pub(crate) fn main_file(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Npm(name, version) => Some(tarball_name(name, version).into()),
            Self::Pypi(..) => None,
            Self::Oci(_, pinned) => Some(pinned.as_str().into()),
            Self::Mcpb(name, _) => Some(name.file().into()),
        }
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.registry(), self.name(), self.version())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::file_names::{FileName, distribution};

    #[test]
    fn npm_names_that_could_lead_elsewhere_are_refused() {
        for good in ["a", "@a/b", "JSONStream", "@modelcontextprotocol/server-everything", "~x", "a.b_c-d", "7zip"] {
            assert_eq!(NpmName::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "@",
            "@/",
            "@a",
            "@a/",
            "@/b",
            "@../x",
            "@./x",
            "@-x/y",
            "@A/b",
            "../x",
            ".x",
            "_x",
            "-rf",
            "a/b",
            "@a/b/c",
            "a b",
            "a%2fb",
            "a\\b",
            "a:b",
            "a\0b",
            "con",
            "CON",
            "aux.js",
            "com1",
            "@con/x",
            "node_modules",
            "favicon.ico",
            "ä",
            "a\u{200b}",
            "a\n",
            "a.",
            "@a/../../etc",
        ] {
            assert!(NpmName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(NpmName::parse(&"a".repeat(215)).is_err());
    }

    #[test]
    fn versions_are_exact() {
        for good in ["1.0.0", "0.0.0-beta.1", "1.2.3+build.5"] {
            assert!(NpmVersion::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "1", "v1.0.0", "^1.0.0", "latest", "1.0.0 ", "../1.0.0", "1.0.0/..", "01.0.0"] {
            assert!(NpmVersion::parse(bad).is_err(), "{bad}");
        }
        for (spelt, canonical) in [("1.0", "1.0"), ("v1.0-RC1", "1.0rc1"), ("1!2.0+Ubuntu.1", "1!2.0+ubuntu.1")] {
            assert_eq!(PypiVersion::parse(spelt).unwrap().as_str(), canonical);
        }
        for bad in ["", "1.0/..", "1.0.*", ">=1", "one", "1.0\n2"] {
            assert!(PypiVersion::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn python_names_are_normalised() {
        for (spelt, name) in [("Mcp_Server.Time", "mcp-server-time"), ("a--b", "a-b"), ("A", "a")] {
            assert_eq!(PypiName::parse(spelt).unwrap().as_str(), name);
        }
        for bad in ["", "-a", "a-", "a/b", "a b", "../a", "ä", "a\n", "con"] {
            assert!(PypiName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn files_belong_to_their_package() {
        let npm = Package::parse(RegistryType::Npm, "@a/b", "1.0.0").unwrap();
        assert!(FileName::parse(&npm, "b-1.0.0.tgz").is_ok());
        for bad in ["b-1.0.1.tgz", "a-1.0.0.tgz", "../b-1.0.0.tgz", "b-1.0.0.tgz/x"] {
            assert!(FileName::parse(&npm, bad).is_err(), "{bad}");
        }
        let pypi = Package::parse(RegistryType::Pypi, "mcp-server-time", "2026.1.0").unwrap();
        for good in [
            "mcp_server_time-2026.1.0-py3-none-any.whl",
            "mcp_server_time-2026.1-1-cp311-cp311-manylinux_2_17_x86_64.whl",
            "mcp-server-time-2026.1.0.tar.gz",
            "mcp_server_time-2026.1.0.tar.gz",
        ] {
            let found = distribution(good).unwrap();
            assert_eq!(found.name.as_str(), "mcp-server-time", "{good}");
        }
        for good in ["mcp_server_time-2026.1.0-py3-none-any.whl", "mcp_server_time-2026.1-py3-none-any.whl.metadata"] {
            assert!(FileName::parse(&pypi, good).is_ok(), "{good}");
        }
        for bad in [
            "mcp_server_time-2026.1.1-py3-none-any.whl",
            "other-2026.1.0.tar.gz",
            "x.whl",
            "a-1.exe",
            "..-1.0.tar.gz",
            "mcp_server_time-2026.1.0.tar.gz.metadata",
        ] {
            assert!(FileName::parse(&pypi, bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_stays_below_its_folder(name in "\\PC{0,40}", version in "\\PC{0,20}") {
            for registry in [RegistryType::Npm, RegistryType::Pypi] {
                if let Ok(package) = Package::parse(registry, &name, &version) {
                    let folder = package.folder();
                    prop_assert!(folder.is_relative());
                    prop_assert!(folder.components().all(|part| matches!(part, std::path::Component::Normal(_))), "{folder:?}");
                    prop_assert!(folder.to_str().is_some_and(str::is_ascii));
                }
            }
        }
    }
}
