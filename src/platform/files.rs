//! Files of our own in the data folder.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::random::hex;

/// Whether what is there has not changed for longer than this; false where nobody knows.
pub fn is_older_than(entry: &std::fs::DirEntry, age: std::time::Duration) -> bool {
    let changed = entry.metadata().and_then(|found| found.modified()).ok();
    changed.and_then(|changed| changed.elapsed().ok()).is_some_and(|since| since >= age)
}

/// Bytes that lie below a folder, as far as it can be read.
pub fn disk_usage(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => disk_usage(&entry.path()),
        Ok(found) => std::os::unix::fs::MetadataExt::blocks(&found) * 512,
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// A file operation that failed, with the path that it was about.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} {path}: {source}", path = path.display())]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    /// Whether the place itself is the trouble, which starting again will not mend.
    pub fn is_configuration(&self) -> bool {
        use io::ErrorKind::{AlreadyExists, InvalidFilename, NotADirectory, PermissionDenied, ReadOnlyFilesystem};
        matches!(self.source.kind(), AlreadyExists | InvalidFilename | NotADirectory | PermissionDenied | ReadOnlyFilesystem)
    }
}

/// Adds what was tried and where to an [`io::Error`].
pub trait IoContext<T> {
    /// `could not <action> <path>: …`
    fn about(self, action: &'static str, path: &Path) -> Result<T, FileError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn about(self, action: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|source| FileError { action, path: path.to_owned(), source })
    }
}

/// Makes the folder and its parents; only its owner may enter a folder that this makes.
pub fn private_folder(path: &Path) -> Result<(), FileError> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).about("create", path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).about("set the permissions of", path)
}

/// Whether everybody on this machine may pass through every folder above `path`.
pub fn is_open_to_all(path: &Path) -> bool {
    let above = path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
    above.into_iter().all(|folder| fs::metadata(folder).is_ok_and(|found| found.permissions().mode() & 0o001 != 0))
}

/// Where files lie that servers use. Started by root, servers run under user ids of their own, which pass through
/// the data folder but cannot look into it; where they cannot even reach it, the place is below `/var/lib/mcp-fabric`.
pub fn servers_place(data: &Path) -> Result<PathBuf, FileError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(data.to_owned());
    }
    let open = |place: &Path| {
        fs::create_dir_all(place).about("create", place)?;
        fs::set_permissions(place, fs::Permissions::from_mode(0o711)).about("set the permissions of", place)
    };
    if is_open_to_all(data) {
        open(data)?;
        return Ok(data.to_owned());
    }
    let place = Path::new("/var/lib/mcp-fabric").join(short_hash(data)).join("servers");
    open(place.parent().unwrap_or(&place))?;
    open(&place)?;
    Ok(place)
}

/// Whether servers whose files lie in `place` run under user ids of their own.
pub fn runs_for_others(place: &Path) -> bool {
    rustix::process::geteuid().is_root() && is_open_to_all(place)
}

/// A short name for a path that is too long, or elsewhere.
pub fn short_hash(path: &Path) -> String {
    hex(&Sha256::digest(path.as_os_str().as_encoded_bytes())[..6])
}

/// Replaces the file in one step; only its owner can read it.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), FileError> {
    write(path, content, 0o600)
}

/// Replaces the file in one step; who can read it stays as it is.
pub fn replace(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let mode = fs::metadata(path).map_or(0o644, |there| there.permissions().mode() & 0o777);
    write(path, content, mode)
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&draft)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        // The name has to survive a power cut, too.
        path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
    };
    write().about("write", path)
}

/// The text of the file, or `None` where there is none.
pub fn read_if_present(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).about("read", path),
    }
}

/// Where a running `serve` tells the commands of the same data folder how to reach it.
pub fn address_file(data: &Path) -> PathBuf {
    data.join("serve.json")
}

/// Where the operator's token lies.
pub fn operator_token_file(data: &Path) -> PathBuf {
    data.join("operator.token")
}
