//! The configuration of an npm client.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cache::fuzz::npmrc(data));
