//! Names and versions of packages, and of their files.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cache::fuzz::names(data));
