//! The parsers of what packages hold, for the fuzzer: whatever they are given, they end, and what they give back
//! keeps their promises.

use std::{
    fs,
    io::{self, Write as _},
    path::{Component, Path},
};

use flate2::{Compression, write::GzEncoder};

use crate::{
    bundle, detect,
    model::BundleProgram,
    unpack::{self, Caps},
    unzip,
};

/// What a tarball or a bundle holds, unpacked below an empty folder.
///
/// # Panics
/// When something is written beside it, or more than is allowed.
pub fn archive(data: &[u8], folder: &Path) {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::none());
    let Ok(gzipped) = gzip.write_all(data).and_then(|()| gzip.finish()) else { return };
    let caps = Caps { bytes: 1 << 20, files: 16 };
    if let Ok(done) = unpack::tarball(&gzipped[..], &folder.join("package"), caps) {
        assert!(done.bytes <= caps.bytes && done.files <= caps.files);
    }
    if let Ok(done) = unzip::bundle(io::Cursor::new(data), &folder.join("package"), caps) {
        assert!(done.bytes <= caps.bytes && done.files <= caps.files);
    }
    let beside = fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| entry.file_name() != "package");
    assert_eq!(beside.count(), 0);
}

/// The `manifest.json` of a bundle.
///
/// # Panics
/// When its own program would lie outside of it.
pub fn manifest(data: &[u8]) {
    let Ok(bundle) = bundle::understand(&String::from_utf8_lossy(data)) else { return };
    if let BundleProgram::Own(path) = &bundle.program {
        assert!(Path::new(path).components().all(|part| matches!(part, Component::Normal(_))));
    }
    bundle.entry(Path::new("/tree"), &[]);
}

/// The `entry_points.txt` of a Python project.
///
/// # Panics
/// When a name leads out of its folder.
pub fn entry_points(data: &[u8]) {
    for script in detect::scripts_in(&String::from_utf8_lossy(data)) {
        assert!(!script.contains('/') && !script.starts_with('.') && !script.is_empty());
    }
}
