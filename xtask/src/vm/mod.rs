//! `cargo xtask test --vm`: the tests with real BPF on another kernel, Debian's 6.1, which preempts.
//!
//! The kernel runs in an emulator. Its root is this machine's own, read-only, with an overlay in memory for
//! what is written: the tests, memtrace and the programs that are traced are the very files that are used here.

mod initramfs;
mod machine;
mod packages;

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    setup,
    shell::{read, root, say, target},
    test,
};

/// What the emulator and the start of the machine take, as Debian packages.
const PACKAGES: [&str; 2] = ["qemu-system-x86", "cpio"];

/// What the long tests' operations are divided by: the emulator runs a probe some twenty times slower.
const SCALE: u32 = 25;

/// Test programs without BPF, for which one kernel is like another.
const WITHOUT_BPF: [&str; 2] = ["agreement", "placement"];

/// Runs the tests with real BPF on the other kernel; those whose name contains `filter`, if it is given.
pub(crate) fn test(filter: Option<&str>) -> Result<()> {
    // SAFETY: a system call without arguments that cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        bail!("the other kernel sees this machine's files as root does: run it as root");
    }
    setup::apt_install(&PACKAGES)?;
    let programs = test_programs(&mut test::prepare()?)?;
    let folder = target().join("vm");
    let kernel = packages::kernel(&folder)?;
    let initramfs = initramfs::build(&folder, &kernel, &job(&programs, filter)?)?;
    say(&format!("running the tests on {kernel}"));
    machine::run(&folder, &kernel.image, &initramfs)
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

/// The test program that one of cargo's messages is about, if it is one that uses BPF.
fn test_program(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let target = &message["target"];
    let name = target["name"].as_str()?;
    let is_test = target["kind"].as_array()?.iter().any(|kind| kind == "test");
    let program = message["executable"].as_str()?;
    (is_test && !WITHOUT_BPF.contains(&name)).then(|| (name.to_owned(), program.into()))
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
