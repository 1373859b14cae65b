//! The memory that programs map by themselves: exact by stack, and apart from what their allocators map.

use std::{process::Command, thread, time::Duration};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{self, FIGURES, FRAME_POINTERS, Target, Tracing, compile, eventually, losses, process};

/// The sums of a figure over the sites of a category with a function anywhere in their stacks.
fn sum_below(process: &Value, category: &str, function: &str, figure: &str) -> u64 {
    let contains = |site: &&Value| {
        site["category"] == category
            && site["frames"].as_array().unwrap().iter().any(|frame| frame["function"] == function)
    };
    process["sites"].as_array().unwrap().iter().filter(contains).map(|site| site[figure].as_u64().unwrap()).sum()
}

/// Asserts that a report says what the program says of its mappings.
pub(crate) fn assert_mapped(process: &Value, truth: &Value) {
    for (site, counts) in truth.as_object().unwrap() {
        for figure in FIGURES {
            assert_eq!(
                sum_below(process, "mmap", site, figure),
                counts[figure].as_u64().unwrap(),
                "{figure} of {site}"
            );
        }
        assert!(counts["freed_objects"].as_u64().unwrap() > 0, "{site} frees nothing");
    }
}

fn traced(categories: &str) -> (Value, Value) {
    traced_program("mappings.c", categories)
}

fn traced_program(source: &str, categories: &str) -> (Value, Value) {
    let program = compile(source, &FRAME_POINTERS);
    let mut target = Target::start(Command::new(program).args(["40000", "wait"]));
    assert_eq!(target.line(), "ready");
    let pid = target.pid().to_string();
    let tracing = Tracing::start(&["--pid", &pid, "--category", categories, "--format", "json"]);
    target.say("go");
    let truth: Value = serde_json::from_str(&target.line()).unwrap();
    let report = tracing.stop();
    assert!(target.is_alive());
    (report, truth)
}

#[test]
fn partial_unmaps_remaps_fixed_maps_and_failures_of_four_threads_are_exact_by_stack() {
    for _ in 0..3 {
        let (report, truth) = traced("mmap");
        let process = process(&report);
        assert_eq!(losses(process), []);
        support::assert_sums(process);
        assert_mapped(process, &truth);
        // Nothing else: neither blocks of the heap nor what the allocator maps for them.
        assert!(process["sites"].as_array().unwrap().iter().all(|site| site["category"] == "mmap"));
        assert_eq!(
            sum_below(process, "mmap", "main", "alloc_objects"),
            truth["site_break"]["alloc_objects"].as_u64().unwrap()
        );
    }
}

#[test]
fn files_and_segments_of_eight_threads_are_exact_by_stack_whatever_is_left_of_them() {
    let (report, truth) = traced_program("segments.c", "mmap");
    let process = process(&report);
    assert_eq!(losses(process), []);
    support::assert_sums(process);
    assert_mapped(process, &truth);
    assert!(process["sites"].as_array().unwrap().iter().all(|site| site["category"] == "mmap"));
    assert_eq!(report["not_seen"].as_array().unwrap().len(), 0);
}

/// memtrace attaches while the data segment grows: the first growth that it is told of is that alone.
#[test]
fn a_data_segment_that_grows_meanwhile_counts_from_the_first_growth_that_is_told() {
    let program = compile("grows.c", &FRAME_POINTERS);
    let mut target = Target::start(Command::new(program).arg("brk"));
    let step = 256 << 10;
    assert_eq!(target.line(), "ready");
    let pid = target.pid().to_string();
    let tracing = Tracing::start(&["--pid", &pid, "--category", "mmap", "--format", "json"]);
    // It grows each few milliseconds.
    thread::sleep(Duration::from_secs(1));
    let report = tracing.stop();
    let process = process(&report);
    assert_eq!(losses(process), []);
    let [bytes, objects] = ["alloc_bytes", "alloc_objects"].map(|figure| sum_below(process, "mmap", "grow", figure));
    assert!(objects > 0, "{process}");
    assert_eq!(bytes, objects * step);
}

#[test]
fn growth_of_shared_memory_and_of_mapped_files_is_told_with_the_option_that_shows_it() {
    for (kind, words) in [("shared", "shared memory"), ("file", "pages of files")] {
        let program = compile("grows.c", &FRAME_POINTERS);
        let mut target = Target::start(Command::new(program).args([kind, env!("CARGO_TARGET_TMPDIR")]));
        assert_eq!(target.line(), "ready");
        let pid = target.pid().to_string();
        let folder = support::scratch();
        let file = folder.path().join("reports");
        let tracing = Tracing::start(&["--pid", &pid, "--interval", "1s", "-o", file.to_str().unwrap()]);
        // Growth is what comes after the first reading.
        eventually("a first report", || support::reports_so_far(&file, tracing.pid()).contains("RSS"));
        target.say("go");
        assert_eq!(target.line(), "done");
        tracing.signal(Signal::INT);
        let (status, _, messages) = tracing.finish();
        assert_eq!(status, 0, "{messages}");
        let told = std::fs::read_to_string(file).unwrap();
        let note = told.lines().find(|line| line.contains("are in no live block")).unwrap_or_else(|| panic!("{told}"));
        assert!(note.contains(words) && note.contains("--category mmap"), "{note}");
    }
}

#[test]
fn large_blocks_count_once_as_heap_though_the_allocator_maps_each() {
    let (report, truth) = traced("heap,mmap");
    let process = process(&report);
    assert_eq!(losses(process), []);
    support::assert_sums(process);
    assert_eq!(sum_below(process, "heap", "main", "alloc_bytes"), 8 << 20);
    assert_eq!(sum_below(process, "heap", "main", "live_bytes"), 0);
    for site in ["site_map", "site_break"] {
        let expected = truth[site]["live_bytes"].as_u64().unwrap();
        assert_eq!(sum_below(process, "mmap", site, "live_bytes"), expected, "{site}");
    }
}

#[test]
fn what_a_child_maps_is_its_own() {
    let script = "
import mmap, os, sys
sys.stdin.readline()
kept = mmap.mmap(-1, 3 << 20)
pid = os.fork()
if pid == 0:
    own = mmap.mmap(-1, 5 << 20)
    kept.close()
    os._exit(0)
os.waitpid(pid, 0)
print(pid, flush=True)
sys.stdin.readline()
";
    let mut parent = Target::start(Command::new("/usr/bin/python3").args(["-c", script]));
    let pid = parent.pid().to_string();
    let tracing = Tracing::start(&["--pid", &pid, "--follow", "--category", "mmap", "--format", "json"]);
    parent.say("go");
    let child: u64 = parent.line().parse().unwrap();
    let report = tracing.stop();
    let figure = |pid: u64, figure: &str| {
        let process = report["processes"].as_array().unwrap().iter().find(|process| process["pid"] == pid).unwrap();
        assert_eq!(losses(process), []);
        let large =
            process["sites"].as_array().unwrap().iter().filter(|site| site["alloc_bytes"].as_u64().unwrap() > 2 << 20);
        large.map(|site| site[figure].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(figure(parent.pid().into(), "live_bytes"), 3 << 20);
    assert_eq!(figure(child, "alloc_bytes"), 5 << 20);
    assert_eq!(figure(child, "freed_bytes"), 0);
}
