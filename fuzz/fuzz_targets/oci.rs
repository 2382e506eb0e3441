//! Names and manifests of container images.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cache::fuzz::oci(data));
