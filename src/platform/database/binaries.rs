//! Where PostgreSQL's programs lie: a folder that is set, `PATH`, the usual folders of distributions,
//! or a build that is fetched into the data folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::fetch;

/// A PostgreSQL that can be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    /// The folder with `initdb`, `pg_ctl` and `postgres`.
    pub folder: PathBuf,
    /// 15, 16, …
    pub major: u32,
}

/// No PostgreSQL to run.
#[derive(Debug, thiserror::Error)]
pub enum BinariesError {
    /// The folder that is set does not have the programs.
    #[error("FABRIC_PG_BIN_DIR is {path}, which does not hold initdb, pg_ctl and postgres of PostgreSQL 15 or newer", path = .0.display())]
    NotThere(PathBuf),
    /// Nothing is installed, and nothing could be fetched.
    #[error(
        "no PostgreSQL 15 or newer is installed, and none could be fetched ({0}); install it (on Debian: apt-get install postgresql), or set DATABASE_URL or FABRIC_PG_BIN_DIR"
    )]
    NotFetched(#[from] fetch::FetchError),
    /// The cluster was made by another major version.
    #[error(
        "the cluster in the data folder was made by PostgreSQL {0}, which is not installed; install it, or move the cluster with `mcp-fabric db upgrade`"
    )]
    WrongMajor(u32),
}

impl Binaries {
    /// The path of one program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The libraries of a fetched build.
    pub(super) fn libraries(&self) -> Option<PathBuf> {
        let beside = self.folder.parent()?.join("lib");
        self.folder.to_string_lossy().contains("mcp-fabric-postgres").then_some(beside)
    }

    fn at(folder: &Path) -> Option<Self> {
        // A link in PATH leads to the folder with the other programs and its share folder.
        let folder = fs::canonicalize(folder.join("postgres")).ok()?.parent()?.to_owned();
        let complete = ["initdb", "pg_ctl", "postgres"].iter().all(|name| folder.join(name).is_file());
        let major = version_of(&folder.join("postgres"))?;
        (complete && major >= 15).then_some(Self { folder, major })
    }
}

#[expect(clippy::disallowed_methods, reason = "asks a PostgreSQL program for its version")]
fn version_of(postgres: &Path) -> Option<u32> {
    let output = std::process::Command::new(postgres).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().find_map(|word| word.split(['.', 'b', 'r', 'd']).next()?.parse().ok())
}

/// Every PostgreSQL that is installed, in the order of preference.
pub fn installed() -> Vec<Binaries> {
    let path = crate::config::sources::environment("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut usual: Vec<PathBuf> = ["/usr/lib/postgresql", "/usr/local/pgsql", "/opt/homebrew/opt", "/usr/local/opt", "/usr"]
        .iter()
        .filter_map(|parent| fs::read_dir(parent).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path().join("bin")))
        .chain(["/usr/local/pgsql/bin".into()])
        .filter(|folder| folder.join("postgres").is_file())
        .collect();
    usual.sort();
    folders.extend(usual.into_iter().rev());
    let mut found: Vec<Binaries> = Vec::new();
    for folder in folders {
        if folder.join("postgres").is_file()
            && let Some(binaries) = Binaries::at(&folder)
            && !found.contains(&binaries)
        {
            found.push(binaries);
        }
    }
    found
}

/// The PostgreSQL to use; `wanted` is the major version of an existing cluster.
pub(super) async fn find(
    set: Option<&Path>,
    wanted: Option<u32>,
    data: &Path,
    sources: &fetch::Sources,
) -> Result<Binaries, BinariesError> {
    let fits = |binaries: &Binaries| wanted.is_none_or(|major| binaries.major == major);
    if let Some(folder) = set {
        let binaries = Binaries::at(folder).ok_or_else(|| BinariesError::NotThere(folder.to_owned()))?;
        return if fits(&binaries) { Ok(binaries) } else { Err(BinariesError::WrongMajor(wanted.unwrap_or_default())) };
    }
    if let Some(binaries) = installed().into_iter().find(fits) {
        return Ok(binaries);
    }
    let folder = fetch::bin_folder(data);
    if let Some(binaries) = Binaries::at(&folder).filter(fits) {
        return Ok(binaries);
    }
    if let Some(major) = wanted.filter(|major| *major != fetch::MAJOR) {
        return Err(BinariesError::WrongMajor(major));
    }
    let folder = fetch::fetch(data, sources).await?;
    Binaries::at(&folder).filter(fits).ok_or(BinariesError::NotThere(folder))
}

/// The newest PostgreSQL there is that is newer than `major`.
pub(super) async fn newer(major: u32, data: &Path, sources: &fetch::Sources) -> Result<Option<Binaries>, BinariesError> {
    let fetched = Binaries::at(&fetch::bin_folder(data));
    let known = installed().into_iter().chain(fetched).filter(|binaries| binaries.major > major).max_by_key(|binaries| binaries.major);
    if known.is_some() || fetch::MAJOR <= major {
        return Ok(known);
    }
    let folder = fetch::fetch(data, sources).await?;
    Ok(Binaries::at(&folder))
}
