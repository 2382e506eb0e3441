//! Whatever is posted to the validator gets a report.
#![no_main]

libfuzzer_sys::fuzz_target!(|document: &[u8]| {
    let report = servers::validate::validate(document);
    assert_eq!(report.valid, report.issues.iter().all(|issue| !matches!(issue.severity, servers::validate::Severity::Error)));
});
