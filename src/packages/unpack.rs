//! The tarballs of npm, unpacked beneath a folder and nowhere else.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read},
    os::unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    path::{Component, Path, PathBuf},
};

use flate2::read::GzDecoder;
use tar::EntryType;

/// The largest extended header.
const LONGEST_EXTENSION: u64 = 64 << 10;

/// What one install may unpack: bytes and files of all of its packages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caps {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
}

impl Default for Caps {
    fn default() -> Self {
        Self { bytes: 4 << 30, files: 400_000 }
    }
}

/// Why a tarball is not unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("it is not a gzipped tarball")]
    Malformed,
    #[error("a path in it leads out of its folder")]
    Outside,
    #[error("it holds more than an install may unpack")]
    TooMuch,
    #[error("could not write")]
    Write(#[source] io::Error),
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unpacked {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// Unpacks a package's tarball into `folder`, which is made. As npm does it: the first folder of each path is left
/// out, and links are passed over. Nobody can write to what it makes, and a program stays one.
pub(crate) fn tarball(gzipped: impl Read, folder: &Path, caps: Caps) -> Result<Unpacked, Unfit> {
    fs::create_dir_all(folder).map_err(Unfit::Write)?;
    let mut archive = tar::Archive::new(GzDecoder::new(gzipped).take(caps.bytes.saturating_mul(2)));
    let (mut done, mut made, mut buffer) = (Unpacked::default(), PathBuf::new(), buffer());
    let mut extension = Extension::default();
    // Raw: names of any length would be read whole.
    for entry in archive.entries().map_err(|_| Unfit::Malformed)?.raw(true) {
        let mut entry = entry.map_err(|_| Unfit::Malformed)?;
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {}
            EntryType::GNULongName => {
                extension.path = Some(long_name(&small(&mut entry)?));
                continue;
            }
            EntryType::XHeader => {
                extension.read(&small(&mut entry)?)?;
                continue;
            }
            EntryType::GNULongLink | EntryType::XGlobalHeader => continue,
            _ => {
                extension = Extension::default();
                continue;
            }
        }
        let Extension { path, size } = std::mem::take(&mut extension);
        if size.is_some_and(|stated| stated != entry.size()) {
            return Err(Unfit::Malformed);
        }
        let path = match path {
            Some(path) => beneath(&path)?,
            None => beneath(&entry.path().map_err(|_| Unfit::Outside)?)?,
        };
        let Some(path) = path else { continue };
        done.files += 1;
        if done.files > caps.files {
            return Err(Unfit::TooMuch);
        }
        let place = folder.join(&path);
        let parent = place.parent().unwrap_or(folder);
        if parent != made {
            fs::create_dir_all(parent).map_err(Unfit::Write)?;
            parent.clone_into(&mut made);
        }
        let is_program = entry.header().mode().is_ok_and(|mode| mode & 0o111 != 0);
        done.bytes += write(&mut entry, &place, if is_program { 0o555 } else { 0o444 }, caps.bytes - done.bytes, &mut buffer)?;
    }
    Ok(done)
}

/// What stands before a file for what its header has no room for.
#[derive(Default)]
struct Extension {
    path: Option<PathBuf>,
    size: Option<u64>,
}

impl Extension {
    /// The records of a POSIX extended header.
    fn read(&mut self, records: &[u8]) -> Result<(), Unfit> {
        for record in tar::PaxExtensions::new(records) {
            let record = record.map_err(|_| Unfit::Malformed)?;
            match record.key_bytes() {
                b"path" => self.path = Some(OsStr::from_bytes(record.value_bytes()).into()),
                b"size" => self.size = Some(record.value().ok().and_then(|size| size.parse().ok()).ok_or(Unfit::Malformed)?),
                _ => {}
            }
        }
        Ok(())
    }
}

fn long_name(name: &[u8]) -> PathBuf {
    OsStr::from_bytes(name.split(|byte| *byte == 0).next().unwrap_or_default()).into()
}

/// The bytes of an extension, which no honest one has many of.
fn small(entry: &mut tar::Entry<'_, impl Read>) -> Result<Vec<u8>, Unfit> {
    if entry.size() > LONGEST_EXTENSION {
        return Err(Unfit::TooMuch);
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(|_| Unfit::Malformed)?;
    Ok(bytes)
}

/// The path without its first folder; `None` where nothing is left.
fn beneath(path: &Path) -> Result<Option<PathBuf>, Unfit> {
    let mut parts = path.components().filter(|part| *part != Component::CurDir);
    if !matches!(parts.next(), Some(Component::Normal(_))) {
        return Err(Unfit::Outside);
    }
    let rest: PathBuf =
        parts.map(|part| if let Component::Normal(name) = part { Ok(name) } else { Err(Unfit::Outside) }).collect::<Result<_, _>>()?;
    Ok(Some(rest).filter(|rest| !rest.as_os_str().is_empty()))
}

/// What files are copied through; one for all of an archive.
pub(crate) fn buffer() -> Vec<u8> {
    vec![0; 64 << 10]
}

/// A path that comes twice counts the last time, as with npm.
pub(crate) fn write(from: &mut impl Read, place: &Path, mode: u32, room: u64, buffer: &mut [u8]) -> Result<u64, Unfit> {
    let create = || fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(place);
    let mut file = match create() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(place).map_err(Unfit::Write)?;
            create()
        }
        created => created,
    }
    .map_err(Unfit::Write)?;
    copy(from, &mut file, room, buffer)
}

/// Reading and writing fail for different reasons: a broken tarball, a full disk.
fn copy(from: &mut impl Read, to: &mut fs::File, room: u64, buffer: &mut [u8]) -> Result<u64, Unfit> {
    let mut total = 0;
    loop {
        let count = from.read(buffer).map_err(|_| Unfit::Malformed)?;
        if count == 0 {
            return Ok(total);
        }
        total += count as u64;
        if total > room {
            return Err(Unfit::TooMuch);
        }
        io::Write::write_all(to, &buffer[..count]).map_err(Unfit::Write)?;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn tarball_of(entries: &[(&str, EntryType, u32, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (path, kind, mode, bytes) in entries {
            let mut header = tar::Header::new_gnu();
            // What no builder would write, too.
            let name = &mut header.as_old_mut().name;
            name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(bytes.len() as u64);
            header.set_mode(*mode);
            if *kind == EntryType::Symlink {
                header.set_link_name("/etc/passwd").unwrap();
            }
            header.set_cksum();
            builder.append(&header, *bytes).unwrap();
        }
        builder.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn a_package_is_unpacked_as_npm_does_it() {
        let folder = tempfile::tempdir().unwrap();
        let gzipped = tarball_of(&[
            ("package/package.json", EntryType::Regular, 0o644, b"{}"),
            ("package/bin/run", EntryType::Regular, 0o755, b"#!/usr/bin/env node\n"),
            ("package/link", EntryType::Symlink, 0o777, b""),
            ("other/top", EntryType::Regular, 0o600, b"old"),
            ("other/top", EntryType::Regular, 0o600, b"new"),
        ]);
        let place = folder.path().join("a");
        let done = tarball(&gzipped[..], &place, Caps::default()).unwrap();
        assert_eq!(done.files, 4);
        let mode = |name: &str| fs::metadata(place.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("package.json"), mode("bin/run")), (0o444, 0o555));
        assert_eq!(fs::read_to_string(place.join("top")).unwrap(), "new");
        assert!(!place.join("link").exists(), "links are passed over");
    }

    #[test]
    fn nothing_is_written_outside() {
        for path in ["package/../../x", "/etc/x", "../x", "package/a/../../../x"] {
            let folder = tempfile::tempdir().unwrap();
            let gzipped = tarball_of(&[(path, EntryType::Regular, 0o644, b"x")]);
            let refused = tarball(&gzipped[..], &folder.path().join("a"), Caps::default());
            assert!(matches!(refused, Err(Unfit::Outside)), "{path}: {refused:?}");
            assert!(!folder.path().join("x").exists());
        }
    }

    #[test]
    fn long_names_of_both_kinds_are_read_and_longer_ones_refused() {
        let long = format!("package/{}/file.js", "folder-".repeat(20));
        let pax = |key: &str, value: &str| {
            let body = format!(" {key}={value}\n");
            let length = (1..5).find(|digits| (digits + body.len()).to_string().len() == *digits).unwrap() + body.len();
            format!("{length}{body}").into_bytes()
        };
        let gnu = format!("{long}\0").into_bytes();
        let records = [pax("path", &long), pax("size", "1"), pax("mtime", "1.5")].concat();
        for (kind, bytes) in [(EntryType::GNULongName, &gnu), (EntryType::XHeader, &records)] {
            let folder = tempfile::tempdir().unwrap();
            let gzipped = tarball_of(&[
                ("ext", kind, 0o644, bytes),
                ("package/short", EntryType::Regular, 0o644, b"x"),
                ("package/other", EntryType::Regular, 0o644, b"y"),
            ]);
            tarball(&gzipped[..], folder.path(), Caps::default()).unwrap();
            assert_eq!(fs::read_to_string(folder.path().join(long.strip_prefix("package/").unwrap())).unwrap(), "x");
            assert!(folder.path().join("other").exists() && !folder.path().join("short").exists());
        }
        let refused = |kind, bytes: &[u8]| {
            let gzipped = tarball_of(&[("ext", kind, 0o644, bytes), ("package/a", EntryType::Regular, 0o644, b"x")]);
            tarball(&gzipped[..], &tempfile::tempdir().unwrap().path().join("a"), Caps::default())
        };
        let endless = vec![b'a'; 1 << 20];
        assert!(matches!(refused(EntryType::GNULongName, &endless), Err(Unfit::TooMuch)));
        assert!(matches!(refused(EntryType::XHeader, &endless), Err(Unfit::TooMuch)));
        assert!(matches!(refused(EntryType::XHeader, &pax("path", "package/../../x")), Err(Unfit::Outside)));
        assert!(matches!(refused(EntryType::XHeader, &pax("size", "9")), Err(Unfit::Malformed)));
    }

    #[test]
    fn what_is_too_much_or_broken_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let gzipped = tarball_of(&[("p/a", EntryType::Regular, 0o644, &[0; 4096]), ("p/b", EntryType::Regular, 0o644, b"x")]);
        let unpack = |bytes: &[u8], caps| tarball(bytes, &folder.path().join("a"), caps);
        assert!(matches!(unpack(&gzipped, Caps { bytes: 4000, files: 10 }), Err(Unfit::TooMuch)));
        assert!(matches!(unpack(&gzipped, Caps { bytes: 1 << 20, files: 1 }), Err(Unfit::TooMuch)));
        assert!(matches!(unpack(&gzipped[..gzipped.len() / 2], Caps::default()), Err(Unfit::Malformed)));
        assert!(matches!(unpack(b"no tarball", Caps::default()), Err(Unfit::Malformed)));
    }
}
