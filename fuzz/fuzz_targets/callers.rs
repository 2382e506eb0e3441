//! Tokens and addresses.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| users::fuzz::callers(data));
