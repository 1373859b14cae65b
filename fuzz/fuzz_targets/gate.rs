//! Files that a gate is told to read, of whatever content: read or refused, and any pattern matches any name or does not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use memtrace::{
    model::suppressions::{Pattern, Suppressions},
    report::baseline,
};

fuzz_target!(|input: (&str, &str, &[u8])| {
    let (text, name, report) = input;
    if let Ok(suppressions) = Suppressions::parse(text) {
        for pattern in &suppressions.patterns {
            _ = pattern.matches(name);
            assert_eq!(Pattern::new(&pattern.to_string()["leak:".len()..]), *pattern);
        }
    }
    _ = baseline::parse(report);
});
