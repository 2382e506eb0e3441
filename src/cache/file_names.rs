//! Names of the files of packages: what does not name a file of its own package reaches no path and no row.

use std::path::PathBuf;

use crate::{
    names::{InvalidName, NpmName, NpmVersion, Package, PypiName, PypiVersion},
    reference::Pinned,
};

const MAX_FILE_NAME: usize = 255;

/// What follows the name of a wheel in the name of the file that holds its metadata (PEP 658).
pub(crate) const METADATA: &str = ".metadata";

/// The name of one file of a package, as the cache stores and serves it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileName(String);

impl FileName {
    /// A file of `package`: the tarball of an npm package; a wheel (PEP 427) or a source distribution
    /// (PEP 625) of a Python project, whose own name and version have to be the package's; the digest of a
    /// part of an image; the file of a bundle.
    pub(crate) fn parse(package: &Package, text: &str) -> Result<Self, InvalidName> {
        if let Package::Oci(..) = package {
            return Pinned::parse(text).map(|part| Self::part(&part));
        }
        let is_plain = text.len() <= MAX_FILE_NAME
            && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '~')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'+' | b'!' | b'-' | b'~'));
        let is_its_own = is_plain
            && match package {
                Package::Npm(name, version) => text == tarball_name(name, version),
                Package::Oci(..) => false,
                Package::Mcpb(name, _) => text == name.file(),
                Package::Pypi(name, version) => {
                    let stem = text.strip_suffix(METADATA).filter(|stem| stem.strip_suffix(".whl").is_some()).unwrap_or(text);
                    distribution(stem).is_some_and(|found| found.name == *name && found.version.key() == version.key())
                }
            };
        if is_its_own { Ok(Self(text.to_owned())) } else { Err(InvalidName::FileName) }
    }

    /// The version of a Python file, as its name spells it.
    pub(crate) fn version(&self) -> Option<PypiVersion> {
        distribution(self.wheel().unwrap_or(&self.0)).map(|found| found.version)
    }

    /// The wheel whose metadata this file holds.
    pub(crate) fn wheel(&self) -> Option<&str> {
        self.0.strip_suffix(METADATA)
    }

    /// The tarball of an npm package, under the name that registries usually give it.
    pub(crate) fn tarball(name: &NpmName, version: &NpmVersion) -> Self {
        Self(tarball_name(name, version))
    }

    /// A manifest, configuration or layer of an image.
    pub(crate) fn part(part: &Pinned) -> Self {
        Self(part.as_str().to_owned())
    }

    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Where it lies in the folder of its package: parts of images as the OCI image layout has them.
    pub(crate) fn place(&self) -> PathBuf {
        match self.0.strip_prefix("sha256:") {
            Some(hex) => ["blobs", "sha256", hex].iter().collect(),
            None => PathBuf::from(&self.0),
        }
    }
}

pub(crate) fn tarball_name(name: &NpmName, version: &NpmVersion) -> String {
    format!("{}-{}.tgz", name.base(), version.as_str())
}

/// What the name of a Python file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Distribution {
    /// Of which project.
    pub name: PypiName,
    /// Of which version.
    pub version: PypiVersion,
    /// Python, ABI and platform tags; `None` for a source distribution.
    pub tags: Option<[String; 3]>,
}

/// Reads the name of a wheel (`name-version[-build]-python-abi-platform.whl`) or of a source
/// distribution (`name-version.tar.gz`).
pub(crate) fn distribution(file: &str) -> Option<Distribution> {
    if let Some(stem) = file.strip_suffix(".whl") {
        let parts: Vec<&str> = stem.split('-').collect();
        let (name, version, tags) = match parts[..] {
            [name, version, python, abi, platform] => (name, version, [python, abi, platform]),
            [name, version, build, python, abi, platform] if build.starts_with(|c: char| c.is_ascii_digit()) => {
                (name, version, [python, abi, platform])
            }
            _ => return None,
        };
        return Some(Distribution {
            name: PypiName::parse(name).ok()?,
            version: PypiVersion::parse(&version.replace('_', "-")).ok()?,
            tags: Some(tags.map(str::to_owned)),
        });
    }
    let stem = file.strip_suffix(".tar.gz").or_else(|| file.strip_suffix(".zip"))?;
    // A name of old may hold hyphens itself; a version never does after its first digit.
    let (name, version) = stem.rsplit_once('-')?;
    Some(Distribution { name: PypiName::parse(name).ok()?, version: PypiVersion::parse(version).ok()?, tags: None })
}
