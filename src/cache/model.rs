use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use servers::ServerPackage;
use utoipa::ToSchema;

use crate::{digest::BlobId, file_names::METADATA, names::Package};

platform::words! {
    /// Where a package stands in the cache.
    pub enum Status {
        /// It is not here.
        NotCached = "not_cached",
        /// It is coming in.
        Downloading = "downloading",
        /// It is here, and verified.
        Cached = "cached",
        /// It was tried; `error` says why it is not here.
        Failed = "failed",
    }
}

platform::words! {
    /// What a signature or a statement of origin that a file comes with is worth.
    pub enum Claimed {
        /// There is none.
        None = "none",
        /// There is one that was not checked, or that nobody here can check.
        Stated = "stated",
        /// It was checked and is right.
        Verified = "verified",
        /// It was checked and is wrong.
        Invalid = "invalid",
    }
}

/// What is known of a version besides its bytes, which rules look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// When it was published, where the registry says so.
    pub(crate) published_at: Option<DateTime<Utc>>,
    pub(crate) signature: Claimed,
    pub(crate) provenance: Claimed,
}

impl Facts {
    /// Nobody says anything.
    pub(crate) const NONE: Self = Self { published_at: None, signature: Claimed::None, provenance: Claimed::None };
}

/// One file of a package, as the cache knows it.
#[derive(Clone, Debug)]
pub(crate) struct Artifact {
    pub(crate) file_name: String,
    pub(crate) status: Status,
    pub(crate) blob: Option<BlobId>,
    pub(crate) size_bytes: Option<i64>,
    pub(crate) bytes_done: i64,
    pub(crate) bytes_total: Option<i64>,
    /// `sha512:<hex>`, as the registry stated it.
    pub(crate) upstream_digest: Option<String>,
    /// The registry's address for it, without a query.
    pub(crate) source: Option<String>,
    /// It belongs to what its package is to consist of here.
    pub(crate) is_planned: bool,
    pub(crate) published_at: Option<DateTime<Utc>>,
    pub(crate) signature: Claimed,
    pub(crate) provenance: Claimed,
    pub(crate) attempts: i32,
    pub(crate) error_code: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) fetched_at: Option<DateTime<Utc>>,
}

impl Artifact {
    /// Whether it is part of the package itself, and not the metadata beside a wheel.
    pub(crate) fn is_installed(&self) -> bool {
        !self.file_name.ends_with(METADATA)
    }
}

/// What the files of a package are together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole {
    /// Since when the last of them is here.
    pub(crate) fetched_at: DateTime<Utc>,
    pub(crate) size_bytes: i64,
    /// The file that most installs take: a wheel for every platform, else any wheel, else the first by name.
    pub(crate) main: BlobId,
}

impl Whole {
    /// None unless everything is here that the package is to consist of, where that is known, else any file.
    pub(crate) fn of(package: &Package, files: &[Artifact]) -> Option<Self> {
        if standing(package, files) != Status::Cached {
            return None;
        }
        let here = || files.iter().filter(|file| file.status == Status::Cached && file.is_installed());
        let has_ending = |file: &Artifact, ending: &str| file.file_name.ends_with(ending);
        let main_file = package.main_file();
        let main = here().min_by_key(|file| {
            let is_main = main_file.as_deref() == Some(&file.file_name);
            (!is_main, !has_ending(file, "-none-any.whl"), !has_ending(file, ".whl"), &file.file_name)
        })?;
        Some(Self {
            fetched_at: here().filter_map(|file| file.fetched_at).max()?,
            size_bytes: here().filter_map(|file| file.size_bytes).sum(),
            main: main.blob?,
        })
    }
}

/// Where a package stands, by its files. Those that clients took beyond what it is to consist of do not count
/// against it. Of a package that nobody planned any file is enough, but for an image, of which a part is nothing.
pub(crate) fn standing(package: &Package, files: &[Artifact]) -> Status {
    let installed = || files.iter().filter(|file| file.is_installed());
    let is_planned = installed().any(|file| file.is_planned);
    let counted = || installed().filter(|file| file.is_planned || !is_planned);
    let has = |status: Status| counted().any(|file| file.status == status);
    let is_all_here = counted().all(|file| file.status == Status::Cached);
    let is_enough = if is_planned { is_all_here } else { !matches!(package, Package::Oci(..)) };
    match () {
        () if has(Status::Downloading) => Status::Downloading,
        () if has(Status::Cached) && is_enough => Status::Cached,
        () if has(Status::Failed) => Status::Failed,
        () => Status::NotCached,
    }
}

/// A package of the cache, for lists.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) registry_type: String,
    pub(crate) name: String,
    pub(crate) version: String,
    /// That are here.
    pub(crate) files: i64,
    pub(crate) size_bytes: i64,
    /// Somebody asked for it on purpose.
    pub(crate) is_pinned: bool,
    pub(crate) fetched_at: Option<DateTime<Utc>>,
    pub(crate) last_used_at: Option<DateTime<Utc>>,
    /// A server, or somebody, names it.
    pub(crate) is_named: bool,
    /// Another package needs it.
    pub(crate) is_needed: bool,
}

impl Listed {
    pub(crate) fn package(&self) -> Option<Package> {
        Package::parse(self.registry_type.parse().ok()?, &self.name, &self.version).ok()
    }
}

impl std::fmt::Display for Listed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.registry_type, self.name, self.version)
    }
}

/// What a registry said of a package, and when it was last asked.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) blob: BlobId,
    pub(crate) source: String,
    pub(crate) etag: Option<String>,
    pub(crate) checked_at: DateTime<Utc>,
}

/// A package as a server's document names it.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Wanted {
    /// `npm`, `pypi`, `oci`, `mcpb`.
    pub registry_type: String,
    /// Its name there.
    pub identifier: String,
    /// None: the newest.
    pub version: Option<String>,
    /// Of the file of a bundle, hexadecimal.
    #[serde(default)]
    pub sha256: Option<String>,
}

impl From<ServerPackage> for Wanted {
    fn from(package: ServerPackage) -> Self {
        Self { registry_type: package.registry_type, identifier: package.identifier, version: package.version, sha256: package.file_sha256 }
    }
}

/// What an install of a package needs, as it was resolved once.
#[derive(Clone, Debug)]
pub(crate) struct Lock {
    pub(crate) packages: Vec<Locked>,
    /// Which program chose them.
    pub(crate) resolver: String,
    pub(crate) created_at: DateTime<Utc>,
}

/// One package of a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Locked {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) files: Vec<LockedFile>,
    /// The folders into which an install of npm puts it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) places: Vec<String>,
}

/// One file of it, by its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct LockedFile {
    pub(crate) name: String,
    pub(crate) sha256: String,
    pub(crate) size: u64,
}

/// What is in the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Total {
    /// Names of packages.
    pub packages: i64,
    /// Versions of them.
    pub versions: i64,
    /// Files of these.
    pub files: i64,
    /// Bytes of these, each file counted.
    pub bytes: i64,
    /// Bytes that are not stored a second time, because files are the same.
    pub bytes_shared: i64,
}

impl std::ops::Add for Total {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            packages: self.packages + other.packages,
            versions: self.versions + other.versions,
            files: self.files + other.files,
            bytes: self.bytes + other.bytes,
            bytes_shared: self.bytes_shared + other.bytes_shared,
        }
    }
}
