//! Allocators of which only one side goes through functions that have names.

use std::{process::Command, thread, time::Duration};

use serde_json::{Value, json};

use crate::support::{FRAME_POINTERS, Target, Tracing, compile, process};

/// For how long a process is traced until frees alone are told.
const LONG: Duration = Duration::from_secs(12);

fn started(mode: &str) -> Target {
    let mut target = Target::start(Command::new(compile("one_sided.c", &FRAME_POINTERS)).arg(mode));
    assert_eq!(target.line(), "ready");
    target
}

fn traced(targets: &[Target], tier: &[&str]) -> Tracing {
    let pids: Vec<String> = targets.iter().flat_map(|target| ["--pid".to_owned(), target.pid().to_string()]).collect();
    let pids: Vec<&str> = pids.iter().map(String::as_str).collect();
    Tracing::start(&[tier, &pids, &["--format", "json"]].concat())
}

/// The finding about a target: the allocator, the side that is seen, and how many events.
fn one_sided<'a>(report: &'a Value, target: &Target) -> Vec<(&'a str, &'a str, u64)> {
    let processes = report["processes"].as_array().unwrap();
    let process = processes.iter().find(|process| process["pid"] == target.pid()).unwrap();
    let found = process["one_sided"].as_array().unwrap().iter().map(|found| {
        assert!(found["image"].as_str().unwrap().contains("one_sided"), "{found}");
        let text = |key: &str| found[key].as_str().unwrap();
        (text("allocator"), text("seen"), found["events"].as_u64().unwrap())
    });
    found.collect()
}

#[test]
fn frees_alone_and_allocations_alone_are_told_and_both_are_not() {
    let targets = ["frees", "both", "allocations"].map(started);
    let exact = ["--tier", "exact"];
    let sampled = ["--tier", "sampled", "--sample-bytes", "64KiB"];
    let runs = [&exact[..], &sampled[..], &["--tier", "auto"]].map(|tier| (traced(&targets, tier), tier));
    thread::sleep(LONG);
    for (tracing, tier) in runs {
        let report = tracing.stop();
        let is_told = |target: &Target, side: &str| {
            let found = one_sided(&report, target);
            let [(allocator, seen, events)] = found[..] else { panic!("{tier:?}: {found:?}") };
            assert_eq!((allocator, seen), ("mimalloc", side), "{tier:?}");
            // Ten thousand a second.
            assert!((1000..2_000_000).contains(&events), "{tier:?}: {events}");
        };
        is_told(&targets[0], "frees");
        assert_eq!(one_sided(&report, &targets[1]), [], "{tier:?}");
        // Elsewhere not every block is known that is handed out again.
        if tier == exact {
            is_told(&targets[2], "allocations");
        }
    }
}

#[test]
fn a_program_that_frees_for_a_moment_what_it_had_is_not_told() {
    let targets = [started("frees")];
    let tracing = traced(&targets, &["--tier", "exact"]);
    thread::sleep(Duration::from_secs(1));
    let report = tracing.stop();
    assert!(process(&report)["health"]["unmatched_frees"].as_u64().unwrap() > 1000);
    assert_eq!(process(&report)["one_sided"], json!([]));
}
