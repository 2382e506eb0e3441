use std::{path::PathBuf, time::Duration};

use audit::AuditError;
use cache::CacheError;
use configurations::ConfigurationsError;
use credentials::CredentialsError;
use jobs::{JobId, JobsError};
use platform::{Class, Coded, Denial, FieldError, actor::Forbidden, database::DbError, files::FileError};
use serde_json::{Map, Value};
use servers::ServersError;

use crate::toolchains::NoToolchain;

/// What can go wrong with installations.
#[derive(Debug, thiserror::Error)]
pub enum PackagesError {
    /// None of this name.
    #[error("nothing is installed under this name")]
    NotFound,
    /// A field cannot be used: which, and why.
    #[error("{0}: {1}")]
    Field(&'static str, &'static str),
    /// Several installations are of the package that is named.
    #[error("this package is installed more than once; name one of the servers: {0}")]
    Ambiguous(String),
    /// Another package has the folder.
    #[error("the folder packages/{0} is taken by another package; remove that one first")]
    FolderTaken(String),
    /// Another package, or a server of the catalogue that is not of this package, has the name.
    #[error("a server of the name `{0}` is there already, and is not of this package; give another serverName")]
    NameTaken(String),
    /// Somebody changed the server while it was looked at.
    #[error("the server was changed meanwhile; look at it, and try again")]
    ServerChanged,
    /// Arguments or values are given for a server of the catalogue itself.
    #[error("`{0}` is a server of the catalogue: to give it a command, arguments or values of its own, give a serverName")]
    NeedsOwnName(String),
    /// A job is at it: this one, when the actor may see it.
    #[error("a job is installing it already")]
    Busy(Option<JobId>),
    /// The server has no package that can be installed.
    #[error("this server names no package of npm, PyPI, an image registry or a bundle")]
    NothingToInstall,
    /// What the cache gave is not a package that can be unpacked.
    #[error("{0} cannot be unpacked: {1}")]
    Unpack(String, &'static str),
    /// The package has nothing that can be started.
    #[error("{0} has nothing to start: {1}")]
    NoEntry(String, &'static str),
    /// Bundles cannot be run yet by this version of the program.
    #[error("packages of type `{0}` cannot be made runnable")]
    Unsupported(&'static str),
    /// A script of a package failed: which package, which script, and why.
    #[error("the {1} script of {0} failed: {2}")]
    Script(String, &'static str, String),
    /// Scripts of a package may run, but nothing here can keep them from the rest.
    #[error(
        "the install scripts of {0} may run (FABRIC_INSTALL_SCRIPTS), but only where they can be kept from the rest of the machine: a kernel with Landlock, or bubblewrap, and FABRIC_SANDBOX other than `off`"
    )]
    ScriptsUnkept(String),
    /// A program that makes environments failed.
    #[error("{0} failed: {1}")]
    Tool(&'static str, String),
    /// A program is not there.
    #[error(transparent)]
    Toolchain(#[from] NoToolchain),
    /// A file operation failed.
    #[error("could not work in {}: {source}", .path.display())]
    Folder {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of the data folder cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The cache failed, or has not what is needed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The catalogue failed, or has no such server.
    #[error(transparent)]
    Servers(#[from] ServersError),
    /// The vault failed.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A configuration failed.
    #[error(transparent)]
    Configurations(#[from] ConfigurationsError),
    /// Jobs failed.
    #[error(transparent)]
    Jobs(#[from] JobsError),
    /// The actor may not.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The trail cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DbError),
}

impl From<sqlx::Error> for PackagesError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// An [`std::io::Error`] with the folder that it was about.
pub(crate) fn at(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> PackagesError {
    let path = path.into();
    move |source| PackagesError::Folder { path, source }
}

impl PackagesError {
    /// The error of another part that this one passes on.
    fn inner(&self) -> Option<&dyn Coded> {
        match self {
            Self::Cache(error) => Some(error),
            Self::Servers(error) => Some(error),
            Self::Credentials(error) => Some(error),
            Self::Configurations(error) => Some(error),
            Self::Jobs(error) => Some(error),
            Self::Forbidden(error) => Some(error),
            Self::Audit(error) => Some(error),
            Self::Database(error) => Some(error),
            _ => None,
        }
    }
}

impl Coded for PackagesError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "not_installed",
            Self::Field(..) => "invalid_field",
            Self::Ambiguous(_) => "package_ambiguous",
            Self::FolderTaken(_) => "folder_taken",
            Self::NameTaken(_) => "server_name_taken",
            Self::ServerChanged => "server_changed",
            Self::NeedsOwnName(_) => "server_name_needed",
            Self::Busy(_) => "installing",
            Self::NothingToInstall => "no_packages",
            Self::Unpack(..) => "package_malformed",
            Self::NoEntry(..) => "no_entry_point",
            Self::Unsupported(_) => "unsupported_registry_type",
            Self::Tool(..) => "install_failed",
            Self::Script(..) => "script_failed",
            Self::ScriptsUnkept(_) => "sandbox_missing",
            Self::Toolchain(_) => "toolchain_missing",
            Self::Folder { source, .. } if is_full(source) => "disk_full",
            Self::Folder { .. } | Self::File(_) => "data_folder_unusable",
            other => other.inner().map_or("internal", Coded::code),
        }
    }
    fn class(&self) -> Class {
        match self {
            Self::NotFound => Class::NotFound,
            Self::Field(..) => Class::BadRequest,
            Self::Ambiguous(_)
            | Self::FolderTaken(_)
            | Self::NameTaken(_)
            | Self::ServerChanged
            | Self::NeedsOwnName(_)
            | Self::Busy(_) => Class::Conflict,
            Self::NothingToInstall
            | Self::Unpack(..)
            | Self::NoEntry(..)
            | Self::Unsupported(_)
            | Self::Tool(..)
            | Self::Toolchain(_)
            | Self::Script(..)
            | Self::ScriptsUnkept(_) => Class::Unprocessable,
            Self::Folder { .. } => Class::Unavailable,
            other => other.inner().map_or(Class::Internal, Coded::class),
        }
    }
    fn fields(&self) -> Vec<FieldError> {
        match self {
            Self::Field(location, message) => vec![FieldError::new(*location, *message)],
            other => other.inner().map(Coded::fields).unwrap_or_default(),
        }
    }
    fn retry_after(&self) -> Option<Duration> {
        self.inner().and_then(Coded::retry_after)
    }
    fn denial(&self) -> Option<Denial> {
        self.inner().and_then(Coded::denial)
    }
    fn extra(&self) -> Map<String, Value> {
        match self {
            Self::Busy(Some(job)) => Map::from_iter([("job_id".to_owned(), job.to_string().into())]),
            other => other.inner().map(Coded::extra).unwrap_or_default(),
        }
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}
