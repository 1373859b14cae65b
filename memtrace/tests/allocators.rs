//! Allocators of every kind: the exactness program under each, by preload, by linking and statically.
//!
//! Where a program calls an allocator's own functions, every function that memtrace hooks in it must be
//! among those that were called: no hook goes without a test.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod support;

use std::{collections::HashSet, path::Path, process::Command};

use serde_json::Value;
use support::{FRAME_POINTERS, Target, Tracing, assert_truth, compile, compile_by, process};

const OPERATIONS: &str = "500000";

const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";
const JEMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2";
const TCMALLOC_MINIMAL: &str = "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4";
const TCMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libtcmalloc.so.4";
const MIMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libmimalloc.so.2.0";

/// Traces a program that waits for a word, to its truth, and asserts that it is told exactly.
fn traced(command: &mut Command) -> (Value, Value) {
    let mut target = Target::start(command);
    assert_eq!(target.line(), "ready");
    let tracing = Tracing::start(&["--pid", &target.pid().to_string(), "--format", "json"]);
    target.say("go");
    let truth: Value = serde_json::from_str(&target.line()).unwrap();
    let report = tracing.stop();
    assert_truth(&report, &truth, true);
    assert_eq!(process(&report)["health"]["unmatched_frees"], 0);
    assert!(target.is_alive());
    (report, truth)
}

fn truth_of(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.args([OPERATIONS, "wait"]);
    command
}

/// What is hooked in the images whose path contains `image`: the family's name and the functions.
fn hooked(report: &Value, image: &str) -> (Vec<String>, HashSet<String>) {
    let allocators = process(report)["allocators"].as_array().unwrap().iter();
    let of_image: Vec<&Value> =
        allocators.filter(|allocator| allocator["image"].as_str().unwrap().contains(image)).collect();
    let names = of_image.iter().map(|allocator| allocator["name"].as_str().unwrap().to_owned()).collect();
    let functions = of_image.iter().flat_map(|allocator| allocator["functions"].as_array().unwrap());
    (names, functions.map(|function| function.as_str().unwrap().to_owned()).collect())
}

fn called(truth: &Value) -> HashSet<String> {
    truth["called"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// The plain program with an allocator preloaded.
fn exact_when_preloaded(library: &str, family: &str, flags: &[&str]) {
    let program = compile("truth.c", &[&FRAME_POINTERS[..], flags].concat());
    let (report, _) = traced(truth_of(&program).env("LD_PRELOAD", library));
    let (names, _) = hooked(&report, library.trim_end_matches(|c: char| !c.is_alphabetic()));
    assert_eq!(names, [family]);
}

/// The program that calls an allocator's own functions as well, linked with it.
fn exact_when_linked(link: &[&str], image: &str, family: &str, flags: &[&str]) {
    let program =
        compile("truth.c", &[&FRAME_POINTERS[..], flags, &["-Wl,--no-as-needed"], link, &["-lstdc++", "-lm"]].concat());
    let (report, truth) = traced(&mut truth_of(&program));
    let (names, functions) = hooked(&report, image);
    assert_eq!(names[0], family, "{names:?}");
    let uncalled: Vec<_> = functions.difference(&called(&truth)).cloned().collect();
    assert!(uncalled.is_empty(), "hooked, but never called: {uncalled:?}");
}

const WITHOUT_PVALLOC: [&str; 2] = ["-DNO_PVALLOC", "-DNO_CFREE"];
const EXTRA_JEMALLOC: [&str; 3] = ["-DNO_PVALLOC", "-DNO_CFREE", "-DEXTRA=\"extra_jemalloc.h\""];

#[test]
fn jemalloc_preloaded() {
    exact_when_preloaded(JEMALLOC, "jemalloc", &WITHOUT_PVALLOC);
}

#[test]
fn jemalloc_linked_with_its_own_functions() {
    exact_when_linked(&[JEMALLOC], "libjemalloc", "jemalloc", &EXTRA_JEMALLOC);
}

#[test]
fn jemalloc_in_the_program_itself() {
    let library = format!("{LIBRARIES}/libjemalloc.a");
    exact_when_linked(&[&library], "truth_c", "jemalloc", &EXTRA_JEMALLOC);
}

#[test]
fn tcmalloc_preloaded() {
    exact_when_preloaded(TCMALLOC_MINIMAL, "tcmalloc", &[]);
    exact_when_preloaded(TCMALLOC, "tcmalloc", &[]);
}

#[test]
fn tcmalloc_linked_with_its_own_functions() {
    for library in [TCMALLOC_MINIMAL, TCMALLOC] {
        exact_when_linked(&[library], "libtcmalloc", "tcmalloc", &["-DEXTRA=\"extra_tcmalloc.h\""]);
    }
}

#[test]
fn tcmalloc_in_the_program_itself() {
    let library = format!("{LIBRARIES}/libtcmalloc_minimal.a");
    exact_when_linked(&[&library], "truth_c", "tcmalloc", &["-DNO_CFREE", "-DEXTRA=\"extra_tcmalloc.h\""]);
}

#[test]
fn mimalloc_preloaded() {
    exact_when_preloaded(MIMALLOC, "mimalloc", &[]);
}

#[test]
fn mimalloc_linked_with_its_own_functions() {
    exact_when_linked(&[MIMALLOC], "libmimalloc", "mimalloc", &["-DEXTRA=\"extra_mimalloc.h\""]);
}

#[test]
fn musl_allocates_exactly_shared_and_static() {
    for flags in [&["-DNO_PVALLOC"][..], &["-DNO_PVALLOC", "-static"]] {
        let program = compile_by("musl-gcc", "truth.c", &[&FRAME_POINTERS[..], flags].concat());
        let (report, _) = traced(&mut truth_of(&program));
        assert_eq!(hooked(&report, "").0, ["musl"]);
    }
}
