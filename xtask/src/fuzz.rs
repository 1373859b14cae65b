//! `cargo xtask fuzz`: hostile input for what memtrace reads of untrusted data, grown by libFuzzer from real files.
//!
//! It takes rustup's stable compiler and a C++ compiler for libFuzzer, and no network but crates.io. Where that cannot be built,
//! the same targets run under proptest, as they do among the tests.

use std::{
    collections::VecDeque,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result, bail};

use crate::{
    build, setup,
    shell::{Progress, cargo, root, run, say, target, which},
};

/// The longest input, in bytes (`MAX_INPUT_BYTES` of the crate).
const MAX_INPUT_BYTES: usize = 64 << 10;
/// An input that takes longer is a failure.
const MAX_SECONDS: u32 = 10;
/// An input that takes more memory is a failure.
const MAX_MEMORY_MIB: u32 = 2048;
/// How many inputs of a target the tests make.
const INPUTS_AMONG_THE_TESTS: u32 = 20_000;
/// The longest that the tests fuzz a target, in seconds.
const MAX_SECONDS_AMONG_THE_TESTS: u32 = 20;
/// How many inputs of a target proptest makes where libFuzzer is missing.
const CASES_WITHOUT_LIBFUZZER: &str = "5000";

/// How a target is fuzzed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Effort {
    /// Inputs that are new each time, for so many seconds, from all that earlier times found.
    Search(u32),
    /// The same inputs each time, from the seeds alone: a change that is sound today passes tomorrow as well.
    Repeat,
}

impl Effort {
    /// In words.
    fn words(self) -> String {
        match self {
            Self::Search(seconds) => format!("for {seconds} s each"),
            Self::Repeat => format!("with {INPUTS_AMONG_THE_TESTS} inputs each"),
        }
    }

    /// libFuzzer's options.
    fn options(self) -> Vec<String> {
        match self {
            Self::Search(seconds) => vec![format!("-max_total_time={seconds}")],
            Self::Repeat => vec![
                "-seed=1".to_owned(),
                format!("-runs={INPUTS_AMONG_THE_TESTS}"),
                format!("-max_total_time={MAX_SECONDS_AMONG_THE_TESTS}"),
            ],
        }
    }
}

/// Fuzzes each target, or those of these names. A crash, a hang or too much memory is a failure.
pub(crate) fn fuzz(effort: Effort, names: &[String]) -> Result<()> {
    let all = targets()?;
    if let Some(unknown) = names.iter().find(|name| !all.contains(name)) {
        bail!("there is no target `{unknown}`; there are {}", all.join(", "));
    }
    let chosen = if names.is_empty() { all } else { names.to_vec() };
    let program = match build() {
        Ok(program) => program,
        Err(error) => {
            say(&format!("libFuzzer cannot be built here ({error:#}): the targets run under proptest instead"));
            return under_proptest();
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from).min(chosen.len());
    say(&format!("fuzzing {} {}, {workers} at a time", chosen.join(", "), effort.words()));
    let _progress = Progress::of("fuzzing");
    let (open, failed) = (Mutex::new(VecDeque::from(chosen)), Mutex::new(Vec::new()));
    let next = || open.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(name) = next() {
                    if let Err(error) = fuzz_one(&program, &name, effort) {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{name}: {error:#}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("\n")) }
}

/// The names of the targets: those of their files.
fn targets() -> Result<Vec<String>> {
    let folder = root().join("fuzz/src/targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>()?;
    let stems = paths.iter().filter_map(|path| path.file_stem()?.to_str());
    let mut names: Vec<String> = stems.filter(|name| *name != "mod").map(str::to_owned).collect();
    names.sort_unstable();
    Ok(names)
}

/// Builds the program with libFuzzer. Dependencies are those that the tests have; `fuzz/rustc` says why.
fn build() -> Result<PathBuf> {
    if which("c++").is_none() {
        setup::apt_install(&["g++"])?;
    }
    let object = build::bpf_object()?;
    say("building the program that fuzzes");
    let _progress = Progress::of("building the program that fuzzes");
    let mut command = cargo();
    command
        .args(["build", "--quiet", "--package", "memtrace-fuzz", "--features", "libfuzzer", "--bin", "fuzz"])
        .env("RUSTC_WORKSPACE_WRAPPER", root().join("fuzz/rustc"))
        .env("CARGO_INCREMENTAL", "0")
        .env("MEMTRACE_BPF_OBJECT", object);
    run(&mut command)?;
    Ok(target().join("debug/fuzz"))
}

/// Fuzzes one target. Inputs that a search found to reach something new are kept for the next one.
fn fuzz_one(program: &Path, name: &str, effort: Effort) -> Result<()> {
    let folder = target().join("fuzz").join(name);
    let kept = if matches!(effort, Effort::Search(_)) { "grown" } else { "repeated" };
    let [grown, seeds, failed] = [kept, "seeds", "failed"].map(|kind| folder.join(kind));
    if matches!(effort, Effort::Repeat) && grown.exists() {
        fs::remove_dir_all(&grown).with_context(|| format!("cannot remove {}", grown.display()))?;
    }
    for folder in [&grown, &seeds, &failed] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let log = folder.join("log");
    let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(program);
    command
        .args([&grown, &seeds])
        .args([root().join("fuzz/regressions").join(name)].iter().filter(|folder| folder.is_dir()))
        .args(effort.options())
        .arg(format!("-max_len={MAX_INPUT_BYTES}"))
        .arg(format!("-timeout={MAX_SECONDS}"))
        .arg(format!("-rss_limit_mb={MAX_MEMORY_MIB}"))
        .arg(format!("-artifact_prefix={}/", failed.display()))
        .env("FUZZ_TARGET", name)
        .env("FUZZ_SEEDS", &seeds)
        // Memory that is kept to the end of the process is no failure, and its search would stop at ptrace.
        .env("ASAN_OPTIONS", "detect_leaks=0")
        .stdout(output.try_clone()?)
        .stderr(output);
    let status = command.status().with_context(|| format!("cannot run {}", program.display()))?;
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    if !status.success() {
        let last: Vec<&str> = text.lines().rev().take(60).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        bail!("failed ({status}); the input is in {}\n{}", failed.display(), last.join("\n"));
    }
    if let Some(done) = text.lines().rev().find(|line| line.starts_with("Done ")) {
        say(&format!("{name}: {done}"));
    }
    Ok(())
}

/// The targets without libFuzzer, with more inputs than among the tests.
fn under_proptest() -> Result<()> {
    let mut command = cargo();
    command.args(["test", "--quiet", "--package", "memtrace-fuzz"]).env("PROPTEST_CASES", CASES_WITHOUT_LIBFUZZER);
    run(command.env("MEMTRACE_BPF_OBJECT", build::bpf_object()?))
}
