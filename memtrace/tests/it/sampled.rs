//! The sampled tier: estimates around the truth, with intervals that hold it as often as they say.

use serde_json::Value;

use crate::support::{self, FIGURES, FRAME_POINTERS, Tally, compile, gate::assert_schema, process, scaled, scratch};

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

/// How often estimates of several runs were right, of each figure by site and of the process's live bytes.
struct Tallies {
    by_site: [(&'static str, Tally); 6],
    of_process: Tally,
}

/// Runs the program so often, and holds each report against its truth.
fn tallies(runs: u32) -> Tallies {
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
    Tallies { by_site: tallies, of_process }
}

#[test]
fn estimates_lie_in_their_intervals_and_what_is_counted_is_the_truth() {
    const RUNS: u32 = 2;
    let Tallies { by_site, of_process } = tallies(RUNS);
    println!("{} of {} intervals of live bytes hold the truth", of_process.covered, of_process.of);
    for (figure, tally) in &by_site {
        assert!(tally.of > RUNS * 3, "{figure}: too few sites");
    }
}

#[test]
#[ignore = "long: the statistics of many runs"]
fn estimates_are_unbiased_and_their_intervals_hold_the_truth_as_often_as_they_say() {
    // MEMTRACE_COVERAGE_RUNS=300 is what docs/PERFORMANCE.md has.
    let runs: u32 = std::env::var("MEMTRACE_COVERAGE_RUNS").map_or(16, |runs| runs.parse().unwrap());
    let Tallies { by_site, of_process } = tallies(runs);
    println!("live bytes of the process: {:.3} of {} intervals hold the truth", of_process.coverage(), of_process.of);
    let mut all = of_process.coverage();
    for (figure, tally) in &by_site {
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

/// Runs the program that keeps to a pace in these phases. Returns the report, and the program's truth.
fn run_paced(options: &[&str], phases: &str) -> (Value, Value) {
    let (program, folder) = (compile("paced.c", &FRAME_POINTERS), scratch());
    let file = folder.path().join("report.json");
    let output = ["--tier", "sampled", "--format", "json", "-o", file.to_str().unwrap()];
    let command: Vec<&str> = ["--", program.to_str().unwrap()].into_iter().chain(phases.split(' ')).collect();
    let (status, truth, messages) = support::run(&[&output[..], options, &command].concat());
    assert_eq!(status, 0, "{messages}");
    let report = support::report(&file);
    assert_schema(&report);
    assert_eq!(support::losses(process(&report)), []);
    (report, serde_json::from_str(truth.trim()).unwrap())
}

/// Half the width of the interval of live bytes, where the truth lies within twice that of the estimate: four standard errors.
fn error_bar(report: &Value, truth: &Value) -> f64 {
    let process = process(report);
    let [low, high] = [0, 1].map(|end| process["interval_95"]["live_bytes"][end].as_f64().unwrap());
    let [estimate, truth] = [process, truth].map(|of| of["live_bytes"].as_f64().unwrap());
    assert!(
        2.0 * low - estimate <= truth && truth <= 2.0 * high - estimate,
        "{estimate} in {low} to {high} for {truth}"
    );
    (high - low) / 2.0
}

/// The bytes between samples, from the first on.
fn gaps(report: &Value) -> Vec<u64> {
    let tiers = report["auto"]["tiers"].as_array().unwrap();
    tiers.iter().map(|tier| tier["sample_bytes"].as_u64().unwrap()).collect()
}

#[test]
fn a_light_load_is_sampled_under_a_fine_gap_and_told_several_times_more_closely() {
    // A thousand blocks of some 4 KiB in a second.
    let phases = "2 2000 4096 10000";
    let (fixed, truth_of_fixed) = run_paced(&["--sample-bytes", "512KiB"], phases);
    let (chosen, truth) = run_paced(&[], phases);
    assert_eq!((&fixed["sample_bytes"], &fixed["auto"]), (&(512 << 10).into(), &Value::Null));
    let gap = chosen["sample_bytes"].as_u64().unwrap();
    assert!(gap <= 16 << 10, "{}", chosen["auto"]);
    assert_eq!(gaps(&chosen).last(), Some(&gap));
    let (coarse, fine) = (error_bar(&fixed, &truth_of_fixed), error_bar(&chosen, &truth));
    println!("live bytes: {truth}, to {coarse} with 512 KiB, to {fine} with {gap} bytes");
    assert!(fine * 4.0 < coarse, "{fine} for {coarse}");
    // Every request is counted, whatever is sampled, but for libc's own.
    let allocated = [process(&chosen), &truth].map(|of| of["alloc_bytes"].as_f64().unwrap());
    assert!((allocated[0] / allocated[1] - 1.0).abs() < 0.01, "{allocated:?}");
}

#[test]
fn estimates_hold_across_changes_of_the_gap() {
    let (report, truth) = run_paced(&[], "20 1000 4096 10000 400000 20000 0 500 4096 10000");
    let gaps = gaps(&report);
    println!("{gaps:?}: {truth}");
    assert!(gaps.iter().max().unwrap() > &gaps[0], "the busy time is too dear to sample so finely: {}", report["auto"]);
    let error = error_bar(&report, &truth);
    assert!(error < truth["live_bytes"].as_f64().unwrap() / 4.0, "{error} for {truth}");
}
