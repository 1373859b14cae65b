//! Files that a gate is told to read, of whatever content: read or refused, and any pattern matches any name or does not.

use memtrace::{
    analysis::gate::suppressions::{Pattern, Suppressions},
    report::baseline,
};

use crate::{
    Target,
    input::{Input, part},
};

/// Suppressions, a function's name, and a baseline.
pub const TARGET: Target = Target { name: "gate", run, seeds };

fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let (text, name) = (String::from_utf8_lossy(input.part()), String::from_utf8_lossy(input.part()));
    if let Ok(suppressions) = Suppressions::parse(&text) {
        for pattern in &suppressions.patterns {
            _ = pattern.matches(&name);
            assert_eq!(Pattern::new(&pattern.to_string()["leak:".len()..]), *pattern);
        }
    }
    _ = baseline::parse(input.rest());
}

fn seeds() -> Vec<Vec<u8>> {
    let suppressions = b"# a comment\nleak:libfoo\nleak:^handle_*_request$\n\nleak:*a*b*c*\n";
    let baseline = br#"{"schema":"memtrace/1","processes":[{"sites":[{"id":"00000000000feed","verdict":"leak-suspect","frames":[{"function":"keep","image":"/bin/a","offset":4096}]}]}]}"#;
    vec![[&part(suppressions)[..], &part(b"handle_my_request"), baseline].concat()]
}
