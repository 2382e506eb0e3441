//! Where a cluster's files and its socket lie, and as whom it runs.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::ManagedError;
use crate::files::{self, IoContext as _};

/// The longest path of a Unix socket, by the size of `sun_path`.
pub(super) const SOCKET_PATH_LIMIT: usize = 107;
pub(super) const SOCKET_FILE: &str = ".s.PGSQL.5432";
/// A user of the system that PostgreSQL runs as in our place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

pub(super) fn give(path: &Path, user: Option<Account>) -> Result<(), files::FileError> {
    match user {
        Some(account) => std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid)).about("hand over", path),
        None => Ok(()),
    }
}

/// The user to run PostgreSQL as: ourselves, unless we are root.
pub(super) fn account() -> Result<Option<Account>, ManagedError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let find = |wanted: &str| {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == wanted).then_some(())?;
            Some(Account { uid: fields.nth(1)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
        })
    };
    find("postgres").or_else(|| find("nobody")).map(Some).ok_or(ManagedError::NoUser)
}

/// The folder of the cluster's files: below the data folder, or below `/var/lib/mcp-fabric` when the
/// database's user cannot reach that.
pub(super) fn cluster_folder(data: &Path, user: Option<Account>) -> Result<PathBuf, files::FileError> {
    let base = cluster_place(data, user);
    if !base.is_dir() {
        fs::create_dir_all(&base).about("create", &base)?;
        fs::set_permissions(&base, fs::Permissions::from_mode(0o700)).about("set the permissions of", &base)?;
        give(&base, user)?;
        open_the_way(&base, data)?;
    }
    Ok(base.join("cluster"))
}

pub(super) fn cluster_place(data: &Path, user: Option<Account>) -> PathBuf {
    match user {
        Some(account) if !reachable(data, account) => Path::new("/var/lib/mcp-fabric").join(files::short_hash(data)),
        _ => data.join("postgres"),
    }
}

/// The data folder is private; the database's user may pass through it, not look into it.
fn open_the_way(base: &Path, data: &Path) -> Result<(), files::FileError> {
    if rustix::process::geteuid().is_root() && base.starts_with(data) {
        fs::set_permissions(data, fs::Permissions::from_mode(0o711)).about("set the permissions of", data)?;
    }
    Ok(())
}

/// Whether `account` may pass through every folder above `data`.
fn reachable(data: &Path, account: Account) -> bool {
    data.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()).all(|folder| {
        fs::metadata(folder).is_ok_and(|meta| {
            let mode = meta.mode();
            let bit = if meta.uid() == account.uid {
                0o100
            } else if meta.gid() == account.gid {
                0o010
            } else {
                0o001
            };
            mode & bit != 0
        })
    })
}

/// A folder for the socket whose path is short enough and that nobody else owns.
pub(super) fn socket_folder(folder: &Path, user: Option<Account>) -> Result<PathBuf, ManagedError> {
    let name = format!("mcp-fabric-{}", files::short_hash(folder));
    let candidates = [folder.with_file_name("socket"), Path::new("/run").join(&name), Path::new("/tmp").join(&name)];
    let owner = user.map_or_else(|| rustix::process::geteuid().as_raw(), |account| account.uid);
    candidates
        .into_iter()
        .filter(|candidate| candidate.as_os_str().len() + 1 + SOCKET_FILE.len() <= SOCKET_PATH_LIMIT)
        .find(|candidate| claim_folder(candidate, owner, user).unwrap_or(false))
        .ok_or(ManagedError::NoSocketFolder)
}

/// Makes the folder, or accepts one that is already `owner`'s and nobody else's to enter.
fn claim_folder(path: &Path, owner: u32, user: Option<Account>) -> io::Result<bool> {
    match fs::create_dir(path) {
        Ok(()) => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
            if let Some(account) = user {
                std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid))?;
            }
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let meta = fs::symlink_metadata(path)?;
            Ok(meta.is_dir() && meta.uid() == owner && meta.mode() & 0o777 == 0o700)
        }
        Err(error) => Err(error),
    }
}
