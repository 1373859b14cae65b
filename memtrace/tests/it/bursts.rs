//! The estimates of windows for programs that work in bursts, at different loads and periods.

use std::{process::Command, thread, time::Duration};

use serde_json::Value;

use crate::support::{self, FRAME_POINTERS, Tally, Target, Tracing, compile, process};

/// Traces batches of so many blocks, one each period, for so long; adds what is told of allocated and of live blocks. A site that no
/// window has met is not in the report, and its process has no upper end.
fn add(period_ms: u32, blocks: u32, seconds: u64, tallies: &mut [Tally; 2]) {
    let arguments = [period_ms, blocks].map(|argument| argument.to_string());
    let mut target = Target::start(Command::new(compile("batches.c", &FRAME_POINTERS)).args(arguments));
    assert_eq!(target.line(), "ready");
    let pid = target.pid().to_string();
    let tracing = Tracing::start(&["--pid", &pid, "--tier", "windowed", "--format", "json"]);
    target.say("go");
    thread::sleep(Duration::from_secs(seconds));
    target.say("stop");
    let truth = &serde_json::from_str::<Value>(&target.line()).unwrap()["import_row"];
    let report = tracing.stop();
    let process = process(&report);
    assert_eq!(support::losses(process), []);
    let mut sites = process["sites"].as_array().unwrap().iter();
    let told = sites.find(|site| site["frames"][0]["function"] == "import_row").unwrap_or(process);
    for (tally, figure) in tallies.iter_mut().zip(["alloc_objects", "live_objects"]) {
        let (estimate, truth) = (told[figure].as_u64().unwrap(), truth[figure].as_u64().unwrap());
        println!("{blocks} each {period_ms} ms: {figure} {truth}, told {estimate} in {}", told["interval_95"][figure]);
        tally.add(estimate, &told["interval_95"][figure], truth);
    }
}

#[test]
#[ignore = "long: the statistics of many runs of half a minute"]
fn intervals_of_programs_that_work_in_bursts_hold_the_truth() {
    let mut tallies = <[Tally; 2]>::default();
    for (period_ms, blocks) in
        [(50, 200), (50, 2000), (500, 500), (500, 5000), (2000, 5000), (2000, 20_000), (10_000, 20_000)]
    {
        for _ in 0..5 {
            add(period_ms, blocks, 30, &mut tallies);
        }
    }
    let [alloc, live] = tallies.map(|tally| tally.coverage());
    println!("{alloc:.3} of the intervals of allocations hold the truth, {live:.3} of those of live blocks");
    // Of 35 runs two may miss by chance, and one more.
    assert!(alloc > 0.9 && live > 0.9, "{alloc}, {live}");
}

#[test]
fn batches_are_not_told_many_times_too_high() {
    let mut tallies = <[Tally; 2]>::default();
    add(30, 5000, 12, &mut tallies);
    let [alloc, _] = &tallies;
    let ratio = alloc.estimates / alloc.truths;
    assert!(alloc.covered == 1 && ratio < 3.0, "{ratio}");
}
