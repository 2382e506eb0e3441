//! Bundles (MCPB), unpacked beneath a folder and nowhere else.

use std::{
    fs,
    io::{Read, Seek},
    path::Path,
};

use zip::ZipArchive;

use crate::unpack::{Caps, Unfit, Unpacked, buffer, write};

/// Unpacks a ZIP archive into `folder`, which is made. Links are passed over; nobody can write to what it makes, and a
/// program stays one.
pub(crate) fn bundle(archive: impl Read + Seek, folder: &Path, caps: Caps) -> Result<Unpacked, Unfit> {
    fs::create_dir_all(folder).map_err(Unfit::Write)?;
    let mut archive = ZipArchive::new(archive).map_err(|_| Unfit::Malformed)?;
    if u64::try_from(archive.len()).unwrap_or(u64::MAX) > caps.files {
        return Err(Unfit::TooMuch);
    }
    let (mut done, mut buffer) = (Unpacked::default(), buffer());
    for place in 0..archive.len() {
        let mut entry = archive.by_index(place).map_err(|_| Unfit::Malformed)?;
        if !entry.is_file() {
            continue;
        }
        let path = entry.enclosed_name().ok_or(Unfit::Outside)?;
        if path.as_os_str().is_empty() {
            return Err(Unfit::Outside);
        }
        let target = folder.join(&path);
        fs::create_dir_all(target.parent().unwrap_or(folder)).map_err(Unfit::Write)?;
        let is_program = entry.unix_mode().is_some_and(|mode| mode & 0o111 != 0);
        done.bytes += write(&mut entry, &target, if is_program { 0o555 } else { 0o444 }, caps.bytes - done.bytes, &mut buffer)?;
        done.files += 1;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Cursor, Write as _},
        os::unix::fs::PermissionsExt as _,
    };

    use zip::{ZipWriter, write::SimpleFileOptions};

    use super::*;

    fn archive(entries: &[(&str, u32, &[u8])]) -> Cursor<Vec<u8>> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, mode, bytes) in entries {
            writer.start_file(*name, SimpleFileOptions::default().unix_permissions(*mode)).unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.add_symlink("link", "/etc/passwd", SimpleFileOptions::default()).unwrap();
        writer.finish().unwrap()
    }

    fn unpacked(archive: Cursor<Vec<u8>>, caps: Caps) -> (tempfile::TempDir, Result<Unpacked, Unfit>) {
        let folder = tempfile::tempdir().unwrap();
        let done = bundle(archive, &folder.path().join("a"), caps);
        (folder, done)
    }

    #[test]
    fn a_bundle_is_unpacked_without_its_links() {
        let (folder, done) = unpacked(archive(&[("manifest.json", 0o644, b"{}"), ("bin/run", 0o755, b"x")]), Caps::default());
        assert_eq!(done.unwrap(), Unpacked { files: 2, bytes: 3 });
        let mode = |name: &str| fs::metadata(folder.path().join("a").join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("manifest.json"), mode("bin/run")), (0o444, 0o555));
        assert!(fs::symlink_metadata(folder.path().join("a/link")).is_err());
    }

    #[test]
    fn what_leads_outside_is_too_much_or_broken_is_refused() {
        for name in ["../x", "a/../../x"] {
            let (folder, done) = unpacked(archive(&[(name, 0o644, b"x")]), Caps::default());
            assert!(matches!(done, Err(Unfit::Outside)), "{name}: {done:?}");
            assert!(!folder.path().join("x").exists());
        }
        let two = || archive(&[("a", 0o644, &[0; 5000]), ("b", 0o644, b"x")]);
        assert!(matches!(unpacked(two(), Caps { bytes: 4000, files: 10 }).1, Err(Unfit::TooMuch)));
        assert!(matches!(unpacked(two(), Caps { bytes: 9000, files: 1 }).1, Err(Unfit::TooMuch)));
        assert!(matches!(unpacked(Cursor::new(b"no archive".to_vec()), Caps::default()).1, Err(Unfit::Malformed)));
        let whole = archive(&[("a", 0o644, b"abcdefgh")]).into_inner();
        for place in 0..whole.len() {
            let mut broken = whole.clone();
            broken[place] ^= 0xff;
            // No byte makes it panic, and what is written is what its checksum says.
            let (folder, done) = unpacked(Cursor::new(broken), Caps::default());
            let written = fs::read(folder.path().join("a/a"));
            assert!(done.is_err() || written.is_err() || written.unwrap() == b"abcdefgh", "{place}");
        }
    }
}
