//! The sampled tier: estimates around the truth, with intervals that hold it as often as they say.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod support;

use serde_json::Value;
use support::{FIGURES, FRAME_POINTERS, Tally, compile, process, scaled, scratch};

/// Runs the exactness program under the sampled tier. Returns the report on it, and its truth.
fn run(operations: u64, folder: &std::path::Path) -> (Value, Value) {
    let program = compile("truth.c", &FRAME_POINTERS);
    let file = folder.join("report.json");
    let operations = operations.to_string();
    let (status, output, messages) = support::run(&[
        "--tier",
        "sampled",
        "--sample-bytes",
        "16KiB",
        "--format",
        "json",
        "-o",
        file.to_str().unwrap(),
        "--",
        program.to_str().unwrap(),
        &operations,
        "run",
    ]);
    assert_eq!(status, 0, "{messages}");
    (support::report(&file), serde_json::from_str(output.trim()).unwrap())
}

#[test]
fn estimates_are_unbiased_and_their_intervals_hold_the_truth_as_often_as_they_say() {
    // MEMTRACE_COVERAGE_RUNS=300 is what docs/PERFORMANCE.md has.
    let runs: u32 = std::env::var("MEMTRACE_COVERAGE_RUNS").map_or(16, |runs| runs.parse().unwrap());
    let folder = scratch();
    let mut tallies: [(&str, Tally); 6] = FIGURES.map(|figure| (figure, Tally::default()));
    let mut of_process = Tally::default();
    for _ in 0..runs {
        let (report, truth) = run(scaled(100_000), folder.path());
        assert_eq!(report["tier"], "sampled");
        assert_eq!(report["sample_bytes"], 16 << 10);
        let process = process(&report);
        assert_eq!(support::losses(process), []);
        let total = &truth["total"];
        of_process.add(
            process["live_bytes"].as_u64().unwrap(),
            &process["interval_95"]["live_bytes"],
            total["live_bytes"].as_u64().unwrap(),
        );
        // Counted, but for calls that fail, and libc's own for the program's threads.
        let (counted, allocated) = (process["alloc_bytes"].as_u64().unwrap(), total["alloc_bytes"].as_u64().unwrap());
        assert!((counted as f64 / allocated as f64 - 1.0).abs() < 0.01, "{counted} for {allocated}");
        for (name, counts) in truth.as_object().unwrap().iter().filter(|(name, _)| *name != "total") {
            let mut sites =
                process["sites"].as_array().unwrap().iter().filter(|site| site["frames"][0]["function"] == *name);
            let (Some(site), None) = (sites.next(), sites.next()) else { continue };
            for (figure, tally) in &mut tallies {
                let (estimate, truth) = (site[*figure].as_u64().unwrap(), counts[*figure].as_u64().unwrap());
                tally.add(estimate, &site["interval_95"][*figure], truth);
            }
        }
    }
    println!("live bytes of the process: {:.3} of {} intervals hold the truth", of_process.coverage(), of_process.of);
    let mut all = of_process.coverage();
    for (figure, tally) in &tallies {
        let ratio = tally.estimates / tally.truths;
        println!("{figure} by site: {:.3} of {}; sum of estimates {ratio:.4} of the truth", tally.coverage(), tally.of);
        assert!(tally.of > runs * 3, "{figure}: too few sites");
        // A few runs may all be covered; many must not.
        let most = if tally.of > 1000 { 0.98 } else { 1.0 };
        assert!((0.88..=most).contains(&tally.coverage()), "{figure}: {}", tally.coverage());
        assert!((ratio - 1.0).abs() < 0.15, "{figure}: {ratio}");
        all = all.min(tally.coverage());
    }
    assert!(all > 0.8);
}

#[test]
fn what_stands_in_a_table_is_said_to_be_an_estimate() {
    let program = compile("truth.c", &FRAME_POINTERS);
    let program = program.to_str().unwrap();
    let arguments = ["--tier", "sampled", "--sample-bytes", "1KiB", "--", program, "2000", "run"];
    let (status, output, messages) = support::run(&arguments);
    assert_eq!(status, 0, "{messages}");
    assert!(output.contains("tier sampled"), "{output}");
    assert!(output.contains("estimate   live is "), "{output}");
    assert!(output.contains("(95 %), from one in 1.00 KiB"), "{output}");
}
