//! `cargo xtask test`: every test, those with real BPF included.

use std::process::Command;

use anyhow::Result;

use crate::{
    build, lint, setup,
    shell::{Progress, cargo, root, run, say, target},
};

/// What the tests trace and compare with, as Debian packages.
const PACKAGES: [&str; 26] = [
    "gcc",
    "gcc-i686-linux-gnu",
    "libc6-dev",
    "libc6-dev-i386-cross",
    "libc6-i386",
    "python3",
    "python3-dev",
    "python3-pip",
    "sqlite3",
    "nginx-light",
    "perl",
    "postgresql-15",
    "redis-server",
    "bpftool",
    "bpftrace",
    "g++",
    "libjemalloc2",
    "libjemalloc-dev",
    "libtcmalloc-minimal4",
    "libgoogle-perftools4",
    "libgoogle-perftools-dev",
    "libmimalloc2.0",
    "libmimalloc-dev",
    "musl-tools",
    "redis-tools",
    "procps",
];

/// The files of tests that `filter` names, separated by commas; none where it is a part of tests' names.
pub(crate) fn files(filter: &str) -> Vec<&str> {
    let tests = root().join("memtrace/tests");
    let is_file = |name: &&str| tests.join(name).with_extension("rs").is_file();
    let names: Vec<&str> = filter.split(',').collect();
    if names.iter().all(is_file) { names } else { Vec::new() }
}

/// Builds everything, then runs the tests; those that `filter` names, if it is given.
pub(crate) fn test(filter: Option<&str>) -> Result<()> {
    if filter.is_none() {
        lint::lint()?;
    }
    let mut command = prepare()?;
    command.arg("--no-fail-fast");
    if let Some(filter) = filter {
        match files(filter)[..] {
            [] => _ = command.arg(filter),
            ref files => _ = command.args(files.iter().flat_map(|file| ["--test", file])),
        }
    }
    say("running the tests");
    // Tests that load the machine would disturb one another.
    run(command.args(["--", "--test-threads=1"]))
}

/// Installs and builds what the tests need. Returns cargo's command for them.
pub(crate) fn prepare() -> Result<Command> {
    setup::apt_install(&PACKAGES)?;
    let object = build::bpf_object()?;
    let memtrace = build::build(true)?;
    build_rust_program("jemalloc", &["--features", "jemalloc"])?;
    build_rust_program("system", &[])?;
    let mut command = cargo();
    command
        .args(["test", "--workspace", "--exclude", "memtrace-ebpf"])
        .env("MEMTRACE_BPF_OBJECT", object)
        // The tests run the very binary that users do.
        .env("MEMTRACE", memtrace);
    Ok(command)
}

/// Builds the Rust program that tests trace, with one allocator, to where they look for it. (It is not of our
/// workspace, whose machine for tests on another kernel has no cargo.)
fn build_rust_program(allocator: &str, features: &[&str]) -> Result<()> {
    let _progress = Progress::of("building a program that tests trace");
    let mut build = cargo();
    build.args(["build", "--quiet", "--release", "--locked", "--manifest-path"]);
    build.arg(root().join("memtrace/tests/programs/rust/Cargo.toml"));
    build.arg("--target-dir").arg(target().join("tmp").join(format!("rust-{allocator}")));
    run(build.args(features))
}
