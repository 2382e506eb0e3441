//! What an npm registry answers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cache::fuzz::npm(data));
