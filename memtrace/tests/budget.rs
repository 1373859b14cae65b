//! Keeping to --max-overhead: the tiers that memtrace chooses, and what windows tell.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod support;

use std::{collections::BTreeMap, process::Command, thread, time::Duration};

use serde_json::Value;
use support::{FIGURES, FRAME_POINTERS, Tally, Target, Tracing, assert_truth, compile, process, scaled};

/// The tiers that a report names, in their order.
fn tiers(report: &Value) -> Vec<&str> {
    let tiers = report["auto"]["tiers"].as_array().unwrap();
    tiers.iter().map(|change| change["tier"].as_str().unwrap()).collect()
}

#[test]
fn a_budget_that_is_never_reached_leaves_every_figure_exact() {
    let program = compile("truth.c", &FRAME_POINTERS);
    let operations = scaled(300_000).to_string();
    let arguments = ["--tier", "auto", "--max-overhead", "100%", "--format", "json", "-o"];
    let folder = support::scratch();
    let file = folder.path().join("report.json");
    let command = [file.to_str().unwrap(), "--", program.to_str().unwrap(), &operations, "run"];
    let (status, output, messages) = support::run(&[&arguments[..], &command].concat());
    assert_eq!(status, 0, "{messages}");
    let report = support::report(&file);
    assert_eq!(tiers(&report), ["exact"]);
    assert_eq!(report["tier"], "exact");
    assert_eq!(process(&report)["interval_95"], Value::Null);
    assert_truth(&report, &serde_json::from_str(output.trim()).unwrap(), false);
}

/// The longest time for which tracing took more than the part `budget` of a target's CPU time, in seconds. A target that
/// hardly runs counts as if it used a tenth of a CPU.
fn longest_over(budget: f64, reports: &[Value]) -> f64 {
    let reading = |report: &Value| {
        let overhead = &process(report)["overhead"];
        let figure = |of: &Value, name: &str| of[name].as_f64().unwrap() / 1e9;
        (figure(report, "duration_ns"), figure(overhead, "cost_ns"), figure(overhead, "cpu_ns"))
    };
    let readings: Vec<_> = reports.iter().map(reading).collect();
    let (mut longest, mut over) = (0.0f64, 0.0);
    for pair in readings.windows(2) {
        let [(then, cost_then, cpu_then), (now, cost, cpu)] = [pair[0], pair[1]];
        let elapsed = now - then;
        let allowed = budget * (cpu - cpu_then).max(0.1 * elapsed);
        over = if cost - cost_then > allowed { over + elapsed } else { 0.0 };
        longest = longest.max(over);
    }
    longest
}

#[test]
fn a_burst_is_let_go_within_a_second_and_looked_at_closely_again_when_it_is_over() {
    let program = compile("burst.c", &FRAME_POINTERS);
    let mut target = Target::start(Command::new(program).args(["3", "1000", "6000", "500"]));
    assert_eq!(target.line(), "ready");
    let (folder, pid) = (support::scratch(), target.pid().to_string());
    let file = folder.path().join("reports.json");
    let arguments = ["--pid", &pid, "--tier", "auto", "--interval", "100ms", "--format", "json", "-o"];
    let mut tracing = Tracing::start(&[&arguments[..], &[file.to_str().unwrap()]].concat());
    target.say("go");
    tracing.wait_for("tier windowed from now on: tier exact takes ");
    thread::sleep(Duration::from_secs(4));
    target.signal("-STOP");
    // It does nothing any more.
    tracing.wait_for("tier exact from now on: it would take ");
    target.signal("-CONT");
    tracing.signal("-INT");
    let (status, _, messages) = tracing.finish();
    assert_eq!(status, 0, "{messages}");
    let output = std::fs::read_to_string(&file).unwrap();
    let reports: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = reports.last().unwrap();
    assert_eq!(tiers(last)[..2], ["exact", "windowed"]);
    assert_eq!(last["tier"], "windowed", "figures rest on windows");
    assert!(last["auto"]["windows"].as_u64() > Some(0), "{}", last["auto"]);
    let longest = longest_over(0.1, &reports);
    println!("{} reports, over the budget for {longest:.2} s at most", reports.len());
    // Perf events take the kernel a tenth of a second a probe to take out; there is nothing better before Linux 6.6.
    let allowed = if support::kernel_version() >= (6, 6) { 1.0 } else { 5.0 };
    assert!(longest < allowed, "over the budget for {longest} s");
    assert!(target.is_alive());
}

#[test]
fn windows_tell_what_a_busy_target_allocates_and_keeps() {
    // MEMTRACE_COVERAGE_RUNS, some hundred together, is what docs/PERFORMANCE.md has.
    let runs: u32 = std::env::var("MEMTRACE_COVERAGE_RUNS").map_or(3, |runs| runs.parse().unwrap());
    // How much work there is between allocations: how much a probe costs against that is what is not known for sure, so that the
    // intervals are for programs of all kinds. But all figures of a run are off together, and a few runs tell only of one kind.
    let loads: &[&str] = if runs < 50 { &["8000"] } else { &["3000", "8000", "30000"] };
    let program = compile("load.c", &FRAME_POINTERS);
    let mut tallies: BTreeMap<(&str, String), Tally> = BTreeMap::new();
    // In an emulator a run has but one window, with which all its figures stand or fall: of three runs one may miss.
    let bound = if support::is_emulated() { 0.5 } else { 0.85 };
    let sums = |tallies: &BTreeMap<(&str, String), Tally>| {
        tallies.values().fold((0, 0), |(covered, of), tally| (covered + tally.covered, of + tally.of))
    };
    let mut done = 0;
    for work in loads.iter().cycle() {
        let (covered, of) = sums(&tallies);
        // On a noisy machine three runs may be off together by chance; more tell that from a mistake.
        if done >= runs && (f64::from(covered) > bound * f64::from(of) || done >= runs.min(3) * 4) {
            break;
        }
        done += 1;
        let mut target = Target::start(Command::new(&program).arg(work));
        assert_eq!(target.line(), "ready");
        let pid = target.pid().to_string();
        let tracing = Tracing::start(&["--pid", &pid, "--tier", "windowed", "--format", "json"]);
        target.say("go");
        thread::sleep(Duration::from_secs(5));
        target.say("stop");
        let truth: Value = serde_json::from_str(&target.line()).unwrap();
        let report = tracing.stop();
        assert_eq!(report["tier"], "windowed");
        let process = process(&report);
        assert_eq!(support::losses(process), []);
        assert!(process["overhead"]["share"].as_f64() < Some(0.1), "{}", process["overhead"]);
        for (name, counts) in truth.as_object().unwrap() {
            let mut sites = process["sites"].as_array().unwrap().iter();
            let Some(site) = sites.find(|site| site["frames"][0]["function"] == **name) else { continue };
            for figure in FIGURES {
                let (estimate, truth) = (site[figure].as_u64().unwrap(), counts[figure].as_u64().unwrap());
                tallies.entry((figure, name.clone())).or_default().add(estimate, &site["interval_95"][figure], truth);
            }
        }
    }
    for ((figure, name), tally) in &tallies {
        let coverage = tally.coverage();
        let ratio = tally.estimates / tally.truths.max(1.0);
        println!("{figure:>13} of {name:<12} {coverage:.3} of {} intervals hold the truth; ratio {ratio:.3}", tally.of);
    }
    let (covered, of) = sums(&tallies);
    let coverage = f64::from(covered) / f64::from(of);
    println!("{coverage:.3} of all {of}");
    // Some windows see no burst.
    assert!(of >= if support::is_emulated() { 12 } else { 30 } * done, "too few sites: {of}");
    assert!(coverage > bound, "{coverage}");
    // In an emulator a probe costs what it likes, and estimates are as far off as their intervals say.
    if support::is_emulated() {
        return;
    }
    for name in ["site_churn", "site_kept", "site_session"] {
        let tally = &tallies[&("alloc_objects", name.to_owned())];
        let ratio = tally.estimates / tally.truths;
        assert!((0.6..1.6).contains(&ratio), "{name}: {ratio}");
    }
    let kept = &tallies[&("live_objects", "site_kept".to_owned())];
    assert!((0.6..1.6).contains(&(kept.estimates / kept.truths)), "what is kept: {}", kept.estimates / kept.truths);
}
