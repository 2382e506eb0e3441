//! What packages hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    packages::fuzz::entry_points(data);
    packages::fuzz::manifest(data);
    if let Ok(folder) = tempfile::tempdir() {
        packages::fuzz::archive(data, folder.path());
    }
});
