use std::sync::Arc;

use platform::{Class, Coded, actor::Forbidden, client::ClientError, database::DbError};
use servers::ServersError;

use crate::{
    archive::ArchiveError,
    blobs::BlobsError,
    download::DownloadError,
    names::{InvalidName, RegistryType},
    npm::NpmError,
    oci::OciError,
    policy::Refusal,
    pypi::PypiError,
    sources::NoRegistry,
};

/// What can be wrong with caching, or with a request about it.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Not a name, version or file that can be cached.
    #[error("the package {0}")]
    InvalidName(#[from] InvalidName),
    /// Another kind of registry.
    #[error("packages of type `{0}` cannot be cached; npm, pypi, oci and mcpb can")]
    UnsupportedType(String),
    /// Nothing of the server can be cached.
    #[error("this version of the server has no package; it is reached over the network")]
    NoPackages,
    /// No such version of the server.
    #[error("the server has no version {0}")]
    NoServerVersion(String),
    /// No type was given, and no server names it.
    #[error("no server of the catalogue names a package of this name; say where it comes from, as in npm:name")]
    Unnamed,
    /// Several registries have one of that name.
    #[error("servers take packages of this name from several registries; say which: {0}")]
    Ambiguous(String),
    /// No registry is configured.
    #[error(transparent)]
    NoRegistry(#[from] NoRegistry),
    /// The registry has no such package.
    #[error("the registry has no such package")]
    NotFound,
    /// The registry has no such version or file of the package.
    #[error("the registry has no such version or file of this package")]
    NoVersion,
    /// It is not here, and this caller may not have it fetched.
    #[error("this is not cached, and only callers with a token may have it fetched (FABRIC_ANONYMOUS_FILL)")]
    NotCached,
    /// Somebody removed the package while a file of it came in.
    #[error("the package was removed while this file came in")]
    Removed,
    /// There is nothing to remove.
    #[error("nothing of this package is cached")]
    NotHere,
    /// It is not here, and nothing may be fetched.
    #[error("this is not cached, and FABRIC_OFFLINE is set")]
    Offline,
    /// The registry answered with something else than a document.
    #[error("the registry's document cannot be used: {0}")]
    Document(String),
    /// The program that resolves dependencies is not installed.
    #[error("{0} is not installed, which resolves what the package needs; install it, or ask for the package alone (closure: false)")]
    NoResolver(&'static str),
    /// It failed.
    #[error("{0} could not resolve what the package needs: {1}")]
    Resolver(&'static str, String),
    /// Something that no registry has.
    #[error("the package needs {0}, which does not come from a registry")]
    ExoticDependency(String),
    /// Nothing that the bytes could be verified by.
    #[error("{0}")]
    Unverifiable(String),
    /// The registry names a place where no file is taken from.
    #[error("the registry says that the file is at another host, {0}, which FABRIC_ALLOWED_HOSTS does not name")]
    ForeignHost(String),
    /// A registry wants its callers to show themselves elsewhere.
    #[error("the registry wants credentials to be sent to another host, {0}, which FABRIC_ALLOWED_HOSTS does not name")]
    ForeignRealm(String),
    /// An archive cannot be made, or taken in.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A rule does not let it in.
    #[error("this package may not be cached: {0}")]
    Refused(#[from] Refusal),
    /// Bundles are not taken from everywhere.
    #[error("bundles are not taken from {0}, which FABRIC_MCPB_HOSTS does not name")]
    BundleHost(String),
    /// An image for other platforms.
    #[error("there is no image for {0}; there are some for {1}")]
    NoPlatform(String, String),
    /// The bytes were not had, or were not the right ones.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// The cache folder cannot be used.
    #[error("the cache folder cannot be used: {0}")]
    Folder(#[from] std::io::Error),
    /// A registry gives other bytes than when the lock was made.
    #[error("{0} is not what it was when its lock was made; remove the package from the cache to resolve it anew")]
    LockBroken(String),
    /// A file of ours cannot be written.
    #[error(transparent)]
    File(#[from] platform::files::FileError),
    /// The cache folder cannot be opened.
    #[error(transparent)]
    Blobs(#[from] BlobsError),
    /// The program stops.
    #[error("the program is stopping")]
    Stopping,
    /// The catalogue refused.
    #[error(transparent)]
    Servers(#[from] ServersError),
    /// The job queue refused.
    #[error(transparent)]
    Jobs(#[from] jobs::JobsError),
    /// Not allowed.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The audit trail cannot be written.
    #[error(transparent)]
    Audit(#[from] audit::AuditError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DbError),
    /// How a fetch ended that others waited for, too.
    #[error("{0}")]
    Shared(Arc<CacheError>),
}

impl From<sqlx::Error> for CacheError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl From<ClientError> for CacheError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Offline => Self::Offline,
            error => Self::Download(DownloadError::Refused(error)),
        }
    }
}

impl From<NpmError> for CacheError {
    fn from(error: NpmError) -> Self {
        match error {
            NpmError::NoVersion(_) => Self::NoVersion,
            NpmError::NoDigest | NpmError::WeakDigest => Self::Unverifiable(error.to_string()),
            NpmError::Malformed(_) | NpmError::OtherPackage | NpmError::NoAddress => Self::Document(error.to_string()),
        }
    }
}

impl From<OciError> for CacheError {
    fn from(error: OciError) -> Self {
        Self::Document(error.to_string())
    }
}

impl From<PypiError> for CacheError {
    fn from(error: PypiError) -> Self {
        Self::Document(error.to_string())
    }
}

impl CacheError {
    /// Whether what came was not what the registry stated.
    pub(crate) fn is_mismatch(&self) -> bool {
        match self {
            Self::Download(DownloadError::Mismatch { .. }) => true,
            Self::Shared(error) => error.is_mismatch(),
            _ => false,
        }
    }

    /// Whether the cache folder itself is the trouble, which starting again will not mend.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Blobs(BlobsError::Layout(_)) => true,
            Self::Blobs(BlobsError::File(error)) => error.is_configuration(),
            _ => false,
        }
    }

    /// Whether the registry failed, so that an older answer of its may be given.
    pub(crate) fn is_upstream(&self) -> bool {
        matches!(self.class(), Class::BadGateway | Class::Timeout)
    }
}

impl Coded for CacheError {
    fn denial(&self) -> Option<platform::Denial> {
        match self {
            Self::Forbidden(error) => error.denial(),
            Self::Servers(error) => error.denial(),
            Self::Jobs(error) => error.denial(),
            Self::Shared(error) => error.denial(),
            _ => None,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::InvalidName(_) => "invalid_package",
            Self::UnsupportedType(_) => "unsupported_registry_type",
            Self::NoPackages => "no_packages",
            Self::NoServerVersion(_) | Self::NoVersion => "version_not_found",
            Self::Unnamed => "package_unknown",
            Self::Ambiguous(_) => "registry_type_ambiguous",
            Self::NoRegistry(_) => "registry_not_configured",
            Self::NotFound => "package_not_found",
            Self::NotCached | Self::NotHere => "not_cached",
            Self::Removed => "removed",
            Self::Offline => "offline",
            Self::Document(_) => "upstream_document_invalid",
            Self::NoResolver(_) => "resolver_missing",
            Self::Resolver(..) => "resolver_failed",
            Self::ExoticDependency(_) => "exotic_dependency",
            Self::LockBroken(_) => "lock_mismatch",
            Self::Unverifiable(_) => "digest_missing",
            Self::ForeignHost(_) => "upstream_host_refused",
            Self::ForeignRealm(_) => "upstream_realm_refused",
            Self::BundleHost(_) => "bundle_host_refused",
            Self::Archive(error) => match error {
                ArchiveError::Malformed(_) | ArchiveError::OtherFormat(_) => "archive_invalid",
                ArchiveError::Untrusted(_) => "archive_untrusted",
                ArchiveError::Forged | ArchiveError::Mismatch(_) | ArchiveError::Incomplete(_) => "archive_mismatch",
                ArchiveError::NotCached(_) => "not_cached",
            },
            Self::Refused(refusal) => match refusal {
                Refusal::Denied | Refusal::NotAllowed => "policy_name",
                Refusal::TooYoung(..) | Refusal::AgeUnknown(_) => "policy_age",
                Refusal::Unproved(_) => "policy_proof",
                Refusal::Forged => "signature_invalid",
                Refusal::TooLarge(_) => "policy_size",
                Refusal::Quota => "cache_quota",
                Refusal::Reserve => "cache_full",
            },
            Self::NoPlatform(..) => "platform_not_found",
            Self::Download(error) => match error {
                DownloadError::Status(_) => "upstream_error",
                DownloadError::Unreachable(_) => "upstream_unreachable",
                DownloadError::Redirects => "upstream_redirects",
                DownloadError::Rests(_) => "upstream_resting",
                DownloadError::TooSlow => "upstream_too_slow",
                DownloadError::TooLarge(_) => "file_too_large",
                DownloadError::Mismatch { .. } => "integrity_mismatch",
                DownloadError::Refused(_) => "upstream_host_refused",
                DownloadError::Io(error) => folder_code(error),
            },
            Self::Folder(error) => folder_code(error),
            Self::Blobs(_) | Self::File(_) => "cache_unusable",
            Self::Stopping => "stopping",
            Self::Servers(error) => error.code(),
            Self::Jobs(error) => error.code(),
            Self::Forbidden(error) => error.code(),
            Self::Audit(error) => error.code(),
            Self::Database(error) => error.code(),
            Self::Shared(error) => error.code(),
        }
    }

    fn class(&self) -> Class {
        match self {
            Self::InvalidName(_) => Class::BadRequest,
            Self::NoResolver(_)
            | Self::Resolver(..)
            | Self::ExoticDependency(_)
            | Self::LockBroken(_)
            | Self::UnsupportedType(_)
            | Self::NoPackages
            | Self::Ambiguous(_)
            | Self::NoRegistry(_)
            | Self::NoPlatform(..)
            | Self::BundleHost(_)
            | Self::Archive(_)
            | Self::Unverifiable(_) => Class::Unprocessable,
            Self::NoServerVersion(_)
            | Self::NoVersion
            | Self::NotFound
            | Self::Unnamed
            | Self::NotCached
            | Self::NotHere
            | Self::Offline => Class::NotFound,
            Self::Refused(refusal) => match refusal {
                Refusal::Quota | Refusal::Reserve => Class::Unavailable,
                Refusal::Forged => Class::BadGateway,
                _ => Class::Forbidden,
            },
            Self::Document(_) | Self::ForeignHost(_) | Self::ForeignRealm(_) => Class::BadGateway,
            Self::Download(error) => match error {
                DownloadError::TooLarge(_) => Class::Unprocessable,
                DownloadError::TooSlow => Class::Timeout,
                DownloadError::Io(_) => Class::Unavailable,
                _ => Class::BadGateway,
            },
            Self::Folder(_) | Self::Stopping | Self::Removed => Class::Unavailable,
            Self::Blobs(_) | Self::File(_) => Class::Internal,
            Self::Servers(error) => error.class(),
            Self::Jobs(error) => error.class(),
            Self::Forbidden(error) => error.class(),
            Self::Audit(error) => error.class(),
            Self::Database(error) => error.class(),
            Self::Shared(error) => error.class(),
        }
    }
}

fn folder_code(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => "cache_full",
        std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied => "cache_read_only",
        _ => "cache_unusable",
    }
}

/// Whether a registry is not in order, whoever asks it for whatever.
pub(crate) fn is_down(error: &CacheError) -> bool {
    match error {
        CacheError::Download(DownloadError::Unreachable(_) | DownloadError::TooSlow) => true,
        CacheError::Download(DownloadError::Status(status)) => matches!(status.as_u16(), 502..=504),
        CacheError::Shared(error) => is_down(error),
        _ => false,
    }
}

/// The type of a package's registry, where its packages can be cached; `docker` is another word for `oci`.
pub(crate) fn registry_type(word: &str) -> Result<RegistryType, CacheError> {
    if word == "docker" {
        return Ok(RegistryType::Oci);
    }
    word.parse().map_err(|_| CacheError::UnsupportedType(word.chars().filter(|c| !c.is_control()).take(40).collect()))
}
