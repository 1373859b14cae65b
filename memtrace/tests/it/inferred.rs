//! Whole stacks through code that has neither unwind tables nor frame pointers: musl's C library, and programs built without.

use std::{path::Path, process::Command};

use serde_json::Value;

use crate::support::{Signal, Target, Tracing, compile_by, losses, process};

const WITHOUT_TABLES: [&str; 4] =
    ["-O2", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fno-optimize-sibling-calls"];

/// Traces a program for three lines of its stdin.
fn traced(program: &Path) -> Value {
    let mut target = Target::start(&mut Command::new(program));
    assert_eq!(target.line(), "ready");
    let pid = target.pid().to_string();
    let tracing = Tracing::start(&["--tier", "exact", "--format", "json", "--pid", &pid]);
    for _ in 0..3 {
        target.say("go");
        assert_eq!(target.line(), "done");
    }
    tracing.signal(Signal::INT);
    let (status, output, messages) = tracing.finish();
    assert_eq!(status, 0, "{messages}");
    serde_json::from_str(&output).unwrap()
}

/// The stack of the only site with a function, from the program's own function to the outermost.
fn stack<'a>(report: &'a Value, function: &str) -> Vec<&'a str> {
    let process = process(report);
    let has = |site: &&Value| site["frames"].as_array().unwrap().iter().any(|frame| frame["function"] == function);
    let sites: Vec<&Value> = process["sites"].as_array().unwrap().iter().filter(has).collect();
    assert_eq!(sites.len(), 1, "{function}: {process:#}");
    assert_eq!(sites[0]["truncated"], false, "{:#}", sites[0]);
    let frames = sites[0]["frames"].as_array().unwrap();
    frames.iter().map(|frame| frame["function"].as_str().unwrap_or("?")).collect()
}

/// Whether the only site with a function says that its stack rests on inference.
fn is_inferred(report: &Value, function: &str) -> bool {
    let has = |site: &&Value| site["frames"].as_array().unwrap().iter().any(|frame| frame["function"] == function);
    let site = process(report)["sites"].as_array().unwrap().iter().find(has).unwrap();
    site["inferred"].as_bool().unwrap()
}

/// Asserts that the whole stacks of both threads are there.
fn assert_whole(report: &Value) {
    assert_eq!(losses(process(report)), []);
    let sorting = stack(report, "compare");
    let at =
        |function: &str| sorting.iter().position(|name| *name == function).unwrap_or_else(|| panic!("{sorting:?}"));
    assert!(at("keep") < at("compare") && at("compare") < at("sort") && at("sort") < at("main"), "{sorting:?}");
    assert_eq!(sorting.last(), Some(&"_start"), "{sorting:?}");
    let working = stack(report, "work");
    assert_eq!(&working[1..3], ["keep", "work"], "{working:?}");
    assert!(working.len() > 3, "the thread's own first frames: {working:?}");
    let truth = 3 * ("compared\0".len() + "in another thread\0".len());
    assert_eq!(process(report)["live_bytes"], truth, "{:#}", process(report));
}

#[test]
fn stacks_through_musls_library_are_whole() {
    let report = traced(&compile_by("musl-gcc", "untabled.c", &["-O2"]));
    assert_whole(&report);
    assert!(is_inferred(&report, "compare"));
}

#[test]
fn stacks_of_a_program_without_tables_are_whole() {
    assert_whole(&traced(&compile_by("musl-gcc", "untabled.c", &[&WITHOUT_TABLES[..], &["-static"]].concat())));
    let report = traced(&compile_by("cc", "untabled.c", &WITHOUT_TABLES));
    let working = stack(&report, "work");
    assert!(working.contains(&"keep"), "{working:?}");
    assert!(stack(&report, "compare").contains(&"main"));
    assert!(is_inferred(&report, "work") && is_inferred(&report, "compare"));
}

#[test]
fn stacks_are_inferred_only_without_tables() {
    let report = traced(&compile_by("cc", "untabled.c", &["-O2"]));
    assert!(!is_inferred(&report, "work") && !is_inferred(&report, "compare"), "{:#}", process(&report));
}

#[test]
fn without_symbols_the_same_callers_are_told() {
    let whole = traced(&compile_by("musl-gcc", "untabled.c", &WITHOUT_TABLES));
    let stripped = traced(&compile_by("musl-gcc", "untabled.c", &[&WITHOUT_TABLES[..], &["-s"]].concat()));
    let depths = |report: &Value| {
        let sites = process(report)["sites"].as_array().unwrap();
        let mut depths: Vec<(u64, usize, bool)> = sites
            .iter()
            .map(|site| {
                let frames = site["frames"].as_array().unwrap();
                (site["live_bytes"].as_u64().unwrap(), frames.len(), site["truncated"].as_bool().unwrap())
            })
            .collect();
        depths.sort_unstable();
        depths
    };
    assert_eq!(depths(&stripped), depths(&whole));
}
