//! Whole stacks from binaries that were built without frame pointers.

use serde_json::Value;

use crate::support::{
    load::{self, Busy},
    losses, process, run,
};

/// The share of a program's allocations that has a stack that reaches the thread's first frame: by bytes and by
/// count, of how many.
struct Whole {
    by_bytes: f64,
    by_count: f64,
    allocations: u64,
    sites: usize,
    mean_frames: f64,
}

fn whole(mut busy: Busy) -> Whole {
    let pid = busy.target.pid().to_string();
    let (status, output, messages) = run(&["--pid", &pid, "--duration", "3s", "--format", "json"]);
    assert_eq!(status, 0, "{messages}");
    let report: Value = serde_json::from_str(&output).unwrap();
    let process = process(&report);
    assert_eq!(losses(process), []);
    assert!(busy.target.is_alive());
    let sites = process["sites"].as_array().unwrap();
    let sum = |figure: &str, only_whole: bool| -> f64 {
        let counted = sites.iter().filter(|site| !only_whole || site["truncated"] == false);
        counted.map(|site| site[figure].as_u64().unwrap() as f64).sum()
    };
    for site in sites.iter().filter(|site| site["truncated"] == false) {
        let outermost = site["frames"].as_array().unwrap().last().unwrap();
        let name = outermost["function"].as_str();
        // `_start` has no name where the program is stripped.
        let is_start =
            name.map_or(outermost["image"] == process["exe"], |name| name == "_start" || name.contains("clone"));
        assert!(is_start, "a whole stack begins at {outermost}");
    }
    // A cut stack has a counter that says why.
    let cut: u64 = process["health"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| name.starts_with("unwind_"))
        .map(|(_, count)| count.as_u64().unwrap())
        .sum();
    let truncated = sum("alloc_objects", false) - sum("alloc_objects", true);
    assert!(truncated <= cut as f64 + 0.5, "{truncated} cut stacks, {cut} counted");
    let frames: f64 = sites
        .iter()
        .map(|site| site["frames"].as_array().unwrap().len() as f64 * site["alloc_objects"].as_f64().unwrap())
        .sum();
    Whole {
        by_bytes: sum("alloc_bytes", true) / sum("alloc_bytes", false),
        by_count: sum("alloc_objects", true) / sum("alloc_objects", false),
        allocations: process["alloc_objects"].as_u64().unwrap(),
        sites: sites.len(),
        mean_frames: frames / sum("alloc_objects", false),
    }
}

fn assert_whole(name: &str, busy: Busy) {
    let Whole { by_bytes, by_count, allocations, sites, mean_frames } = whole(busy);
    println!(
        "| {name} | {allocations} | {sites} | {mean_frames:.1} | {:.2}% | {:.2}% |",
        by_count * 100.0,
        by_bytes * 100.0
    );
    assert!(allocations > 50, "{name}: only {allocations} allocations");
    assert!(by_bytes >= 0.99 && by_count >= 0.99, "{name}: {by_bytes} by bytes, {by_count} by count");
}

#[test]
fn redis() {
    assert_whole("redis-server", load::redis());
}

#[test]
fn python() {
    assert_whole("python3.11", load::python());
}

#[test]
fn nginx() {
    assert_whole("nginx", load::nginx());
}

#[test]
fn sqlite() {
    assert_whole("sqlite3", load::sqlite());
}

#[test]
fn postgres() {
    assert_whole("postgres", load::postgres());
}

#[test]
fn perl() {
    assert_whole("perl", load::perl());
}
