//! Names and files of credentials.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| credentials::fuzz::names(data));
