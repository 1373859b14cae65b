//! The harness: programs that are compiled, targets and memtraces that end with their test, limits to every wait, and figures.

pub(crate) mod bpf;
pub(crate) mod cgroup;
mod compile;
pub(crate) mod corpus;
mod figures;
pub(crate) mod gate;
pub(crate) mod load;
pub(crate) mod namespace;
pub(crate) mod normaliser;
mod running;
mod tracing;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

pub(crate) use rustix::process::Signal;

pub(crate) use self::{
    bpf::{assert_nothing_stays_in_the_kernel, programs_held_by},
    compile::{FRAME_POINTERS, changed, compile, compile_by, programs},
    figures::{FIGURES, Tally, assert_sums, assert_truth, assert_truth_of, losses, process, sites_at, sum_at},
    running::{InTime, Running, Stream, eventually, patience, signal, state},
    tracing::{EXACT_TIERS, Target, Tracing, run, told},
};

/// The first two numbers of the running kernel's release.
pub(crate) fn kernel_version() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// A number of operations, or the part of it that `MEMTRACE_TEST_SCALE` asks for on a slow machine.
pub(crate) fn scaled(operations: u64) -> u64 {
    let divisor = std::env::var("MEMTRACE_TEST_SCALE").map_or(1, |scale| scale.parse().unwrap());
    operations / divisor
}

/// Whether the machine is an emulator's: what depends on how long things take is another there.
pub(crate) fn is_emulated() -> bool {
    std::env::var_os("MEMTRACE_TEST_SCALE").is_some()
}

/// The binary that users run, built by `cargo xtask test`.
pub(crate) fn memtrace() -> Command {
    let path = std::env::var_os("MEMTRACE").expect("run the tests with `cargo xtask test`");
    let mut command = Command::new(path);
    command.stdin(Stdio::null());
    command
}

/// A file in a folder that goes with the test.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// The reports that a memtrace has written by now for a file, which gets its name at the end.
pub(crate) fn reports_so_far(file: &Path, memtrace: u32) -> String {
    let name = file.file_name().unwrap().to_str().unwrap();
    fs::read_to_string(file.with_file_name(format!(".{name}.{memtrace}.part"))).unwrap_or_default()
}

/// Reads a report from a file.
pub(crate) fn report(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}
