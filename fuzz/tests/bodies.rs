//! Every target, fed by the tests: random bytes, seeds that were changed a little, and inputs that once failed. It needs no
//! libFuzzer, so it runs wherever the tests do.

use std::{fs, path::Path};

use memtrace_fuzz::{Target, targets};
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};

/// All that a target may take, in bytes.
const MAX_MEMORY_BYTES: u64 = 2 << 30;

/// Inputs of a target: of random bytes, or a seed with some bytes replaced, repeated or cut off.
fn inputs(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let random = prop::collection::vec(any::<u8>(), 0..512);
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..16);
    let seed = (prop::sample::select(seeds), changes, any::<prop::sample::Index>(), any::<bool>());
    let changed = seed.prop_map(|(mut bytes, changes, cut, is_cut)| {
        for (at, byte) in changes {
            let length = bytes.len();
            if let Some(changed) = bytes.get_mut(at.index(length.max(1))) {
                *changed = byte;
            }
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        bytes
    });
    prop_oneof![1 => random, 3 => changed]
}

fn feed(target: &Target) {
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty(), "{} has nothing to start from", target.name);
    seeds.iter().for_each(|seed| (target.run)(seed));
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&inputs(seeds), |input| {
        (target.run)(&input);
        Ok::<(), TestCaseError>(())
    });
    outcome.unwrap_or_else(|error| panic!("{}: {error}", target.name));
}

#[test]
fn every_target_takes_random_and_changed_input_in_bounded_memory() {
    // That more is asked for ends the test.
    rlimit::setrlimit(rlimit::Resource::DATA, MAX_MEMORY_BYTES, MAX_MEMORY_BYTES).unwrap();
    targets::ALL.iter().for_each(feed);
}

#[test]
fn inputs_that_once_failed_pass() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_dir()) {
        let name = entry.file_name().into_string().unwrap();
        let target = memtrace_fuzz::target(&name).unwrap_or_else(|| panic!("no target `{name}` has regressions"));
        for file in fs::read_dir(entry.path()).unwrap().map(Result::unwrap) {
            println!("{}", file.path().display());
            (target.run)(&fs::read(file.path()).unwrap());
        }
    }
}

#[test]
fn every_target_has_a_file_of_its_name_and_a_row_in_the_list_of_what_is_fuzzed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = fs::read_dir(folder.join("src/targets")).unwrap();
    let mut files: Vec<String> =
        files.map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
    files.retain(|name| name != "mod");
    files.sort_unstable();
    let names: Vec<&str> = targets::ALL.iter().map(|target| target.name).collect();
    assert_eq!(names, files);
    let security = fs::read_to_string(folder.join("../docs/SECURITY.md")).unwrap();
    for name in names {
        assert!(security.contains(&format!("| `{name}` |")), "docs/SECURITY.md does not list `{name}`");
    }
}
