//! What servers elsewhere send as events.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| runtime::fuzz::events(data));
