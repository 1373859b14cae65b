//! `cargo xtask test`: every test, those with real BPF included.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{
    build,
    fuzz::{self, Effort},
    lint, setup,
    shell::{Progress, cargo, read, root, run, say, target},
};

/// The programs that the tests trace and compare with, as Debian packages.
const PACKAGES: [&str; 28] = [
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
    "binutils",
    "xz-utils",
    "nodejs",
];

/// The program of the tests with real BPF: a module of memtrace/tests/it for each topic.
pub(crate) const PROGRAM: &str = "it";

/// How many tests run at a time. They wait for programs at work more than they work, and must hold beside another memtrace.
const AT_A_TIME: &str = "2";

/// Modules whose tests run one at a time, after all others: they look at all of the machine, and at memory that grows with its
/// number of processes.
const ALONE: [&str; 2] = ["host", "targets"];

/// Builds everything, then runs the tests; those that `names` selects, if it is given; with `long` also those that take
/// minutes.
pub(crate) fn test(names: Option<&str>, long: bool) -> Result<()> {
    if names.is_none() {
        lint::lint()?;
    }
    let selection = Selection::of(names.unwrap_or_default())?;
    let built = prepare()?;
    let left_out = if long { 0 } else { long_tests(&built, &selection)? };
    if names.is_none() {
        fuzz::fuzz(Effort::Repeat, &[])?;
    }
    say("running the tests");
    let outcome = if names.is_none() {
        let alone = names_in(&built, &ALONE)?;
        let together = run_tests(&built, false, &together(long, &alone));
        // Both are to be known, whichever fails.
        together.and(run_tests(&built, true, &Selection::of(&ALONE.join(","))?.arguments(long)))
    } else {
        run_tests(&built, selection.is_of_modules, &selection.arguments(long))
    };
    if left_out > 0 {
        let names = names.map(|names| format!(" {names}")).unwrap_or_default();
        say(&format!("left out {left_out} long tests: `cargo xtask test --long{names}` runs them as well"));
    }
    outcome
}

/// Runs tests: those of the program with real BPF, or all.
fn run_tests(built: &Built, is_of_program: bool, arguments: &[String]) -> Result<()> {
    let mut command = built.cargo_test();
    command.arg("--no-fail-fast");
    if is_of_program {
        command.args(["--test", PROGRAM]);
    }
    run(command.arg("--").args(arguments))
}

/// The arguments for all tests but those of these names.
fn together(long: bool, alone: &[String]) -> Vec<String> {
    let long = long.then(|| "--include-ignored".to_owned());
    // Whole names, as a module's name fits modules of other programs.
    let left_out = alone.iter().flat_map(|name| ["--skip".to_owned(), name.clone()]);
    [format!("--test-threads={AT_A_TIME}")].into_iter().chain(long).chain(left_out).collect()
}

/// The names of the tests of some modules of the program, those included that are run only where long ones are asked for.
fn names_in(built: &Built, modules: &[&str]) -> Result<Vec<String>> {
    let mut list = built.cargo_test();
    let listed = read(list.args(["--quiet", "--test", PROGRAM, "--", "--list", "--format=terse"]))?;
    let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
    let is_in = |name: &&str| name.split_once("::").is_some_and(|(module, _)| modules.contains(&module));
    Ok(names.filter(is_in).map(str::to_owned).collect())
}

/// How many of the selected tests are run only where long ones are asked for.
fn long_tests(built: &Built, selection: &Selection) -> Result<usize> {
    let mut list = built.cargo_test();
    list.args(["--quiet", "--test", PROGRAM, "--", "--list", "--ignored", "--format=terse"]).args(&selection.filters);
    Ok(read(&mut list)?.lines().filter(|line| line.ends_with(": test")).count())
}

/// The tests that are asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// Parts of tests' names, and `--skip` with those that are not meant.
    filters: Vec<String>,
    /// Whether only modules of the program are asked for.
    is_of_modules: bool,
}

impl Selection {
    /// Of names separated by commas: each is a module's, or a part of a test's. All tests where there is none.
    pub(crate) fn of(names: &str) -> Result<Self> {
        Ok(Self::among(&modules()?, names))
    }

    fn among(modules: &[String], names: &str) -> Self {
        let names: Vec<&str> = names.split(',').filter(|name| !name.is_empty()).collect();
        let is_module = |name: &str| modules.iter().any(|module| module == name);
        let mut filters: Vec<String> =
            names.iter().map(|name| if is_module(name) { format!("{name}::") } else { (*name).to_owned() }).collect();
        let is_of_modules = !names.is_empty() && names.iter().all(|name| is_module(name));
        if is_of_modules {
            // A filter fits the end of a longer module's name as well.
            let is_longer =
                |module: &&String| !names.contains(&module.as_str()) && names.iter().any(|name| module.ends_with(name));
            filters.extend(modules.iter().filter(is_longer).flat_map(|module| skip(module)));
        }
        Self { filters, is_of_modules }
    }

    /// Whether a module is asked for by its name.
    pub(crate) fn names(&self, module: &str) -> bool {
        self.filters.contains(&format!("{module}::"))
    }

    /// The arguments of the program of tests. Tests that load the machine would disturb one another.
    pub(crate) fn arguments(&self, long: bool) -> Vec<String> {
        let long = long.then(|| "--include-ignored".to_owned());
        ["--test-threads=1".to_owned()].into_iter().chain(long).chain(self.filters.iter().cloned()).collect()
    }
}

/// Arguments that leave out the tests of a module.
pub(crate) fn skip(module: &str) -> [String; 2] {
    ["--skip".to_owned(), format!("{module}::")]
}

/// The modules of the program that have tests.
fn modules() -> Result<Vec<String>> {
    let folder = root().join("memtrace/tests").join(PROGRAM);
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut modules = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str());
        modules.extend(name.filter(|name| !["main", "support"].contains(name)).map(str::to_owned));
    }
    modules.sort();
    Ok(modules)
}

/// The files that tests take.
pub(crate) struct Built {
    object: PathBuf,
    memtrace: PathBuf,
}

impl Built {
    /// `cargo test` of everything that can be tested.
    pub(crate) fn cargo_test(&self) -> Command {
        let mut command = cargo();
        command
            .args(["test", "--workspace", "--exclude", "memtrace-ebpf"])
            .env("MEMTRACE_BPF_OBJECT", &self.object)
            // The tests run the very binary that users do.
            .env("MEMTRACE", &self.memtrace);
        command
    }
}

/// Installs and builds what the tests need.
pub(crate) fn prepare() -> Result<Built> {
    setup::apt_install(&PACKAGES)?;
    let built = Built { object: build::bpf_object()?, memtrace: build::build(true)? };
    build_rust_program("jemalloc", &["--features", "jemalloc"])?;
    build_rust_program("system", &[])?;
    Ok(built)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(names: &str) -> (Vec<String>, bool) {
        let modules = ["children", "exact", "gate", "gate_children"].map(str::to_owned);
        let Selection { filters, is_of_modules } = Selection::among(&modules, names);
        (filters, is_of_modules)
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn modules_whose_tests_run_alone_are_there() {
        let modules = modules().unwrap();
        assert!(ALONE.iter().all(|name| modules.iter().any(|module| module == name)));
    }

    #[test]
    fn a_name_is_a_modules_or_a_part_of_a_tests() {
        assert_eq!(selected("gate,exact"), (words("gate:: exact::"), true));
        assert_eq!(selected("gate,five_million"), (words("gate:: five_million"), false));
        assert_eq!(selected(""), (Vec::new(), false));
    }

    #[test]
    fn a_module_is_not_taken_for_a_longer_one() {
        assert_eq!(selected("children"), (words("children:: --skip gate_children::"), true));
        assert_eq!(selected("children,gate_children"), (words("children:: gate_children::"), true));
    }

    #[test]
    fn modules_are_the_files_of_the_program() {
        let modules = modules().unwrap();
        assert!(["agreement", "exact", "gate_children"].iter().all(|name| modules.iter().any(|module| module == name)));
    }
}
