//! What packages hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    packages::fuzz::entry_points(data);
    if let Ok(folder) = tempfile::tempdir() {
        packages::fuzz::tarball(data, folder.path());
    }
});
