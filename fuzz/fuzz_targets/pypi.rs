//! What a Python index answers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cache::fuzz::pypi(data));
