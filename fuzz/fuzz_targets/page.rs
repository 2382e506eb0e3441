//! Whatever an upstream sends is a page, a refusal, or a page with skipped entries.
#![no_main]

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    if let Ok(page) = sync::page::parse(body) {
        for entry in page.entries {
            assert!(serde_json::from_str::<serde_json::Value>(&entry.document).is_ok());
        }
    }
});
