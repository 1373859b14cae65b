//! `cargo xtask test --vm` and `soak --vm`: on another kernel, Debian's 6.1, which preempts; and on a machine of their own.
//!
//! The kernel runs in a virtual machine of qemu's. Its root is this machine's own, read-only, with an overlay in memory for
//! what is written: the tests, memtrace and the programs that are traced are the very files that are used here.

mod accelerator;
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

use self::accelerator::Accelerator;
use crate::{
    build, setup,
    shell::{read, root, say, target},
    soak,
    test::{self, Selection},
};

/// The programs that the emulator and the start of the machine take, as Debian packages.
const PACKAGES: [&str; 2] = ["qemu-system-x86", "cpio"];

/// Modules of tests that are not run there: those without BPF, for which one kernel is like another, the one that
/// fetches packages, because the machine has no network, and the corpus, which is too much for an emulator.
const LEFT_OUT: [&str; 4] = ["agreement", "placement", "real_leaks", "verdicts"];

/// How long the tests may take, in seconds, before that counts as a hang.
const TESTS_LIMIT_S: u32 = 5400;
/// The same of a soak, beside the time that was asked for.
const SOAK_LIMIT_S: u32 = 1200;

/// Runs the tests with real BPF on the other kernel; those that `names` selects, if it is given.
pub(crate) fn test(names: Option<&str>, long: bool) -> Result<()> {
    check_root()?;
    let selection = Selection::of(names.unwrap_or_default())?;
    if let Some(module) = LEFT_OUT.iter().find(|module| selection.names(module)) {
        bail!("the tests of `{module}` are not run on the other kernel");
    }
    setup::apt_install(&PACKAGES)?;
    let accelerator = Accelerator::of_this_machine();
    let program = test_program(&mut test::prepare()?.cargo_test())?;
    run(accelerator, &target().join("vm"), &job(&program, &selection, long, accelerator.scale())?, TESTS_LIMIT_S)
}

/// Traces everything that runs on a machine on which nothing else does.
pub(crate) fn soak(minutes: u32) -> Result<()> {
    check_root()?;
    setup::apt_install(&PACKAGES)?;
    soak::prepare()?;
    let memtrace = build::build(true)?;
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let job = format!(
        "cd {} || exit 1\nexport MEMTRACE={}\nexec {} soak --minutes {minutes}\n",
        quoted(root())?,
        quoted(&memtrace)?,
        quoted(&own)?
    );
    run(Accelerator::of_this_machine(), &target().join("vm/soak"), &job, minutes * 60 + SOAK_LIMIT_S)
}

/// Runs a script on the other kernel, within so many seconds.
fn run(accelerator: Accelerator, folder: &Path, job: &str, limit_s: u32) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let kernel = packages::kernel(&target().join("vm"))?;
    let initramfs = initramfs::build(folder, &kernel, job)?;
    say(&format!("starting {kernel}, by {}", accelerator.name()));
    machine::run(accelerator, folder, &kernel.image, &initramfs, limit_s)
}

fn check_root() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the other kernel sees this machine's files as root does: run it as root");
    }
    Ok(())
}

/// The program of the tests with real BPF, built but not run.
fn test_program(cargo_test: &mut Command) -> Result<PathBuf> {
    let build = ["--test", test::PROGRAM, "--no-run", "--quiet", "--message-format=json-render-diagnostics"];
    let messages = read(cargo_test.args(build))?;
    messages.lines().find_map(executable).context("cargo has built no tests")
}

/// The program that one of cargo's messages is about, if it is that of the tests.
fn executable(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let target = &message["target"];
    let is_test = target["kind"].as_array()?.iter().any(|kind| kind == "test");
    (is_test && target["name"] == test::PROGRAM).then(|| Some(message["executable"].as_str()?.into()))?
}

/// The script that runs the tests, whose status is the verdict. It runs a module at a time: what has failed in one is told before the
/// next begins, should the machine not come to its end.
fn job(program: &Path, selection: &Selection, long: bool, scale: Option<u32>) -> Result<String> {
    let memtrace = target().join("release/memtrace");
    let left_out = LEFT_OUT.iter().flat_map(|module| test::skip(module));
    let mut selected = String::new();
    for argument in selection.arguments(long).into_iter().chain(left_out) {
        write!(selected, " {}", quoted(Path::new(&argument))?)?;
    }
    let scale = scale.map_or_else(String::new, |scale| format!(" MEMTRACE_TEST_SCALE={scale}"));
    let ignored = if long { " --include-ignored" } else { "" };
    let [folder, memtrace, program] = [root().join("memtrace").as_path(), &memtrace, program].map(quoted);
    let (folder, memtrace, program) = (folder?, memtrace?, program?);
    Ok(format!(
        r#"cd {folder} || exit 1
export MEMTRACE={memtrace}{scale}
tests=$({program} --list{selected} | sed -n 's/: test$//p')
[ -n "$tests" ]
status=$?
for module in $(echo "$tests" | sed 's/::.*//' | uniq); do
    {program} --color=never --test-threads=1{ignored} --exact $(echo "$tests" | grep "^$module::") || status=1
done
exit $status
"#
    ))
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
    fn the_program_of_tests_is_found_among_cargos_messages() {
        let message = |name: &str, kind: &str, executable: &str| {
            format!(r#"{{"target":{{"name":"{name}","kind":["{kind}"]}},"executable":{executable}}}"#)
        };
        assert_eq!(executable(&message("it", "test", r#""/target/it-1""#)), Some("/target/it-1".into()));
        assert_eq!(executable(&message("other", "test", r#""/target/other-1""#)), None);
        assert_eq!(executable(&message("memtrace", "lib", r#""/target/memtrace-1""#)), None);
        assert_eq!(executable(&message("it", "test", "null")), None);
        assert_eq!(executable("{}"), None);
    }

    #[test]
    fn the_job_runs_what_was_selected_but_for_what_is_left_out() {
        let script = job(Path::new("/it"), &Selection::of("gate").unwrap(), true, Some(25)).unwrap();
        assert!(script.contains(" MEMTRACE_TEST_SCALE=25\n"), "{script}");
        let listed = script.lines().find(|line| line.starts_with("tests=")).unwrap();
        assert!(listed.starts_with("tests=$('/it' --list '--test-threads=1' '--include-ignored' 'gate::'"), "{listed}");
        assert!(listed.contains("'--skip' 'verdicts::' | sed "), "{listed}");
    }

    #[test]
    fn each_module_is_run_by_itself_and_one_that_fails_fails_all() {
        let folder = std::env::temp_dir().join(format!("memtrace-job-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let program = folder.join("it");
        let ran = |failing: &str, list: &str| {
            let script = format!(
                "#!/bin/sh\n[ $1 = --list ] && {{ printf '{list}'; exit; }}\necho \"$@\"\ncase \"$*\" in *{failing}*) exit 101; esac\n"
            );
            // Not by this process: another thread's child might have the file open for writing still.
            let write = r#"printf %s "$1" > "$2" && chmod +x "$2""#;
            let written = Command::new("/bin/sh").args(["-c", write, "sh", &script]).arg(&program).status().unwrap();
            assert!(written.success());
            let job = job(&program, &Selection::default(), false, None).unwrap();
            let output = Command::new("/bin/sh").args(["-c", &job]).output().unwrap();
            (output.status.code(), String::from_utf8(output.stdout).unwrap())
        };
        let list = r"a::x: test\na::y: test\nbc::z: test\n\n3 tests, 0 benchmarks\n";
        let lines = "--color=never --test-threads=1 --exact a::x a::y\n--color=never --test-threads=1 --exact bc::z\n";
        assert_eq!(ran("none", list), (Some(0), lines.to_owned()));
        assert_eq!(ran("a::y", list), (Some(1), lines.to_owned()));
        assert_eq!(ran("none", ""), (Some(1), String::new()), "no test has such a name");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn all_operations_are_run_where_nothing_is_emulated() {
        let script = job(Path::new("/it"), &Selection::of("").unwrap(), false, None).unwrap();
        assert!(!script.contains("SCALE"), "{script}");
    }

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(quoted(Path::new("it's")).unwrap(), r"'it'\''s'");
    }
}
