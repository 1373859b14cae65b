//! Rules that every source keeps, and that no compiler knows: its length, and that no test waits for ever.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "layers/rust_files.rs"]
mod rust_files;

use std::{
    fs,
    path::{Path, PathBuf},
};

use rust_files::collect;

/// The most lines of a source.
const MAX_LINES: usize = 500;

/// The folders that hold sources.
const FOLDERS: [&str; 5] = ["fuzz", "memtrace-common", "memtrace-ebpf", "memtrace", "xtask"];

/// Calls that wait for a process for as long as it takes, or start one that nobody ends.
const WITHOUT_LIMIT: [&str; 6] =
    [".output()", ".status()", ".wait_with_output()", ".spawn()", "libc::__WALL)", "child.wait()"];

/// The only tests that may call those: what others use in their place, and its own tests.
const HARNESS: [&str; 2] = ["support/running.rs", "harness.rs"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    collect(folder, &mut files);
    files
}

/// Which of the calls without a limit a test makes.
fn without_limit(text: &str) -> Vec<&'static str> {
    WITHOUT_LIMIT.into_iter().filter(|call| text.contains(call)).collect()
}

#[test]
fn no_source_is_longer_than_five_hundred_lines() {
    let built = root().join("fuzz/target");
    let files = FOLDERS.iter().flat_map(|folder| sources(&root().join(folder)));
    let lengths = files.map(|file| (fs::read_to_string(&file).unwrap().lines().count(), file));
    let too_long: Vec<_> = lengths.filter(|(lines, file)| *lines > MAX_LINES && !file.starts_with(&built)).collect();
    assert!(too_long.is_empty(), "longer than {MAX_LINES} lines: {too_long:?}");
}

#[test]
fn no_test_waits_for_a_process_in_a_way_without_a_limit() {
    let folder = root().join("memtrace/tests/it");
    let harness = HARNESS.map(|name| folder.join(name));
    for path in sources(&folder).into_iter().filter(|path| !harness.contains(path)) {
        let calls = without_limit(&fs::read_to_string(&path).unwrap());
        assert!(calls.is_empty(), "{calls:?} in {}: use support::Running or InTime", path.display());
    }
}

#[test]
fn a_wait_without_a_limit_is_noticed() {
    assert_eq!(without_limit("let mut child = Command::new(\"cat\").spawn().unwrap();"), [".spawn()"]);
    assert!(without_limit("Running::start(&mut Command::new(\"cat\")).finish()").is_empty());
}
