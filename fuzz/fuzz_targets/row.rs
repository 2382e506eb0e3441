//! A row of the vault.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| credentials::fuzz::row(data));
