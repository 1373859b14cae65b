//! `cargo xtask test --vm` and `soak --vm`: on another kernel, Debian's 6.1, which preempts; and on a machine of their own.
//!
//! The kernel runs in an emulator. Its root is this machine's own, read-only, with an overlay in memory for
//! what is written: the tests, memtrace and the programs that are traced are the very files that are used here.

mod initramfs;
mod machine;
mod packages;

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    build, setup,
    shell::{read, root, say, target},
    soak, test,
};

/// What the emulator and the start of the machine take, as Debian packages.
const PACKAGES: [&str; 2] = ["qemu-system-x86", "cpio"];

/// What the long tests' operations are divided by: the emulator runs a probe some twenty times slower.
const SCALE: u32 = 25;

/// Test programs that are not run there: those without BPF, for which one kernel is like another, the one that
/// fetches packages, because the machine has no network, and the corpus, which is too much for an emulator.
const LEFT_OUT: [&str; 4] = ["agreement", "placement", "real_leaks", "verdicts"];

/// How long the tests may take, in seconds, before that counts as a hang.
const TESTS_LIMIT_S: u32 = 5400;
/// The same of a soak, beside the time that was asked for.
const SOAK_LIMIT_S: u32 = 1200;

/// Runs the tests with real BPF on the other kernel; those that `filter` names, if it is given.
pub(crate) fn test(filter: Option<&str>) -> Result<()> {
    check_root()?;
    let mut programs = test_programs(&mut test::prepare()?)?;
    let files = filter.map(test::files).unwrap_or_default();
    let filter = if files.is_empty() { filter } else { None };
    programs.retain(|(name, _)| files.is_empty() || files.contains(&name.as_str()));
    run(&target().join("vm"), &job(&programs, filter)?, TESTS_LIMIT_S)
}

/// Traces everything that runs on a machine on which nothing else does.
pub(crate) fn soak(minutes: u32) -> Result<()> {
    check_root()?;
    soak::prepare()?;
    let memtrace = build::build(true)?;
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let job = format!(
        "cd {} || exit 1\nexport MEMTRACE={}\nexec {} soak --minutes {minutes}\n",
        quoted(root())?,
        quoted(&memtrace)?,
        quoted(&own)?
    );
    run(&target().join("vm/soak"), &job, minutes * 60 + SOAK_LIMIT_S)
}

/// Runs a script on the other kernel, within so many seconds.
fn run(folder: &Path, job: &str, limit_s: u32) -> Result<()> {
    setup::apt_install(&PACKAGES)?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let kernel = packages::kernel(&target().join("vm"))?;
    let initramfs = initramfs::build(folder, &kernel, job)?;
    say(&format!("starting {kernel}"));
    machine::run(folder, &kernel.image, &initramfs, limit_s)
}

fn check_root() -> Result<()> {
    // SAFETY: a system call without arguments that cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        bail!("the other kernel sees this machine's files as root does: run it as root");
    }
    Ok(())
}

/// The test programs of memtrace, with their names, built but not run.
fn test_programs(cargo_test: &mut Command) -> Result<Vec<(String, PathBuf)>> {
    let messages = read(cargo_test.args(["--no-run", "--quiet", "--message-format=json-render-diagnostics"]))?;
    let mut programs: Vec<_> = messages.lines().filter_map(test_program).collect();
    // Cargo names them in the order in which they were built.
    programs.sort();
    if programs.is_empty() {
        bail!("cargo has built no test programs");
    }
    Ok(programs)
}

/// The test program that one of cargo's messages is about, if it is one to run there.
fn test_program(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let target = &message["target"];
    let name = target["name"].as_str()?;
    let is_test = target["kind"].as_array()?.iter().any(|kind| kind == "test");
    let program = message["executable"].as_str()?;
    (is_test && !LEFT_OUT.contains(&name)).then(|| (name.to_owned(), program.into()))
}

/// The script that runs the tests, whose status is the verdict.
fn job(programs: &[(String, PathBuf)], filter: Option<&str>) -> Result<String> {
    let memtrace = target().join("release/memtrace");
    let mut script = format!(
        "cd {} || exit 1\nexport MEMTRACE={} MEMTRACE_TEST_SCALE={SCALE}\nstatus=0\n",
        quoted(&root().join("memtrace"))?,
        quoted(&memtrace)?
    );
    for (name, program) in programs {
        let filter = filter.map(|filter| quoted(Path::new(filter))).transpose()?.unwrap_or_default();
        writeln!(script, "echo 'Running {name}'")?;
        writeln!(script, "{} --test-threads=1 --color=never {filter} || status=1", quoted(program)?)?;
    }
    script.push_str("exit $status\n");
    Ok(script)
}

/// A word as the shell reads it.
fn quoted(word: &Path) -> Result<String> {
    let word = word.to_str().context("a path that is not UTF-8")?;
    Ok(format!("'{}'", word.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_among_cargos_messages() {
        let message = |name: &str, kind: &str, executable: &str| {
            format!(r#"{{"target":{{"name":"{name}","kind":["{kind}"]}},"executable":{executable}}}"#)
        };
        assert_eq!(
            test_program(&message("exact", "test", r#""/target/exact-1""#)),
            Some(("exact".into(), "/target/exact-1".into()))
        );
        assert_eq!(test_program(&message("placement", "test", r#""/target/placement-1""#)), None);
        assert_eq!(test_program(&message("memtrace", "lib", r#""/target/memtrace-1""#)), None);
        assert_eq!(test_program(&message("exact", "test", "null")), None);
        assert_eq!(test_program("{}"), None);
    }

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(quoted(Path::new("it's")).unwrap(), r"'it'\''s'");
    }
}
