//! An exported audit trail.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    audit::verify_export(&String::from_utf8_lossy(data), None);
});
