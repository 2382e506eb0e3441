//! What servers are made from.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    factory::fuzz::document(data);
    factory::fuzz::text(data);
});
