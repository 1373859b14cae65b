//! Keeping to --max-overhead where several processes have probes of their own: each has a tier of its own.

use std::{path::Path, process::Command};

use serde_json::Value;

use crate::support::{
    self, FRAME_POINTERS, Signal, Target, Tracing, assert_truth_of, compile, eventually, reports_so_far,
};

/// So much work between allocations that tracing hardly matters, and so little that it costs most of the time.
const QUIET: &str = "3000000";
const BUSY: &str = "300";

/// The program under load, which has not begun.
fn load(work: &str) -> Target {
    let mut target = Target::start(Command::new(compile("load.c", &FRAME_POINTERS)).arg(work));
    assert_eq!(target.line(), "ready");
    target
}

/// The process of this pid in a report.
fn of_pid(report: &Value, pid: u32) -> &Value {
    let processes = report["processes"].as_array().unwrap();
    processes.iter().find(|process| process["pid"] == pid).unwrap_or_else(|| panic!("{pid}: {report:#}"))
}

/// memtrace on these, with a report every fifth of a second.
fn trace(targets: &[&Target], file: &Path) -> Tracing {
    let pids: Vec<String> = targets.iter().map(|target| target.pid().to_string()).collect();
    let arguments = ["--tier", "auto", "--interval", "200ms", "--format", "json", "-o", file.to_str().unwrap()];
    Tracing::start(&arguments.into_iter().chain(pids.iter().flat_map(|pid| ["--pid", pid])).collect::<Vec<_>>())
}

fn wait_for_windows(tracing: &Tracing, file: &Path) {
    eventually("windows are seen", || {
        let reports = reports_so_far(file, tracing.pid());
        // The last may not be whole yet.
        let whole = reports.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
        whole.is_some_and(|report| report["auto"]["windows"].as_u64() > Some(3))
    });
}

/// The last report.
fn last_report(tracing: Tracing, file: &Path) -> Value {
    tracing.signal(Signal::INT);
    let (status, _, messages) = tracing.finish();
    assert_eq!(status, 0, "{messages}");
    let output = std::fs::read_to_string(file).unwrap();
    serde_json::from_str(output.lines().last().unwrap()).unwrap()
}

fn stop(target: &mut Target) -> Value {
    target.say("stop");
    serde_json::from_str(&target.line()).unwrap()
}

/// A run over a busy process and a quiet one, with `idle` ones before them.
struct Together {
    report: Value,
    busy: u32,
    quiet: u32,
    truth_of_quiet: Value,
}

fn traced_together(idle: &[Target]) -> Together {
    let (mut busy, mut quiet) = (load(BUSY), load(QUIET));
    let folder = support::scratch();
    let file = folder.path().join("reports.json");
    let targets: Vec<&Target> = idle.iter().chain([&quiet, &busy]).collect();
    let mut tracing = trace(&targets, &file);
    quiet.say("go");
    busy.say("go");
    tracing.wait_for(&format!("(pid {}), --max-overhead is 10.0 %", busy.pid()));
    wait_for_windows(&tracing, &file);
    let truth_of_quiet = stop(&mut quiet);
    stop(&mut busy);
    Together { report: last_report(tracing, &file), busy: busy.pid(), quiet: quiet.pid(), truth_of_quiet }
}

#[test]
fn a_busy_process_goes_to_windows_while_a_quiet_one_beside_it_stays_exact_to_the_byte() {
    let Together { report, busy, quiet, truth_of_quiet: truth } = traced_together(&[]);
    assert_eq!(report["tier"], "windowed", "the least exact of all");
    let process = of_pid(&report, quiet);
    assert_eq!((&process["tier"], &process["auto"]), (&"exact".into(), &true.into()));
    assert_eq!((&process["interval_95"], &process["health"]["unmatched_frees"]), (&Value::Null, &0.into()));
    assert!(truth["site_churn"]["alloc_objects"].as_u64() > Some(100), "{truth}");
    assert_truth_of(process, &truth, false);
    let process = of_pid(&report, busy);
    assert_eq!((&process["tier"], &process["auto"]), (&"windowed".into(), &true.into()));
    assert!(process["interval_95"].is_object(), "{process:#}");
    // How good estimates are is tested elsewhere.
    assert!(support::sum_at(process, "site_churn", "alloc_objects") > 0, "{process:#}");
}

#[test]
fn a_quiet_process_stays_exact_beside_a_busy_one_that_has_no_tier_to_itself() {
    // With the quiet one, as many as can have a tier to themselves.
    let idle: Vec<Target> = (0..15).map(|_| load(QUIET)).collect();
    let Together { report, busy, quiet, truth_of_quiet: truth } = traced_together(&idle);
    assert_eq!(of_pid(&report, busy)["tier"], "windowed");
    let process = of_pid(&report, quiet);
    assert_eq!((&process["tier"], &process["health"]["unmatched_frees"]), (&"exact".into(), &0.into()));
    assert_truth_of(process, &truth, false);
}

#[test]
fn a_process_that_becomes_another_program_keeps_the_tier_of_its_probes() {
    let program = compile("load.c", &FRAME_POINTERS);
    let script = format!("echo shell; read line; exec {} {BUSY}", program.display());
    let mut busy = Target::start(Command::new("/bin/sh").args(["-c", &script]));
    assert_eq!(busy.line(), "shell");
    let mut quiet = load(QUIET);
    let folder = support::scratch();
    let file = folder.path().join("reports.json");
    let mut tracing = trace(&[&busy, &quiet], &file);
    quiet.say("go");
    busy.say("now");
    assert_eq!(busy.line(), "ready");
    tracing.wait_for(&format!("process {} now runs", busy.pid()));
    busy.say("go");
    tracing.wait_for(&format!("(pid {}), --max-overhead is 10.0 %", busy.pid()));
    wait_for_windows(&tracing, &file);
    let truth = stop(&mut quiet);
    stop(&mut busy);
    let report = last_report(tracing, &file);
    let process = of_pid(&report, busy.pid());
    assert_eq!(process["tier"], "windowed");
    assert!(support::sum_at(process, "site_churn", "alloc_objects") > 0, "{process:#}");
    let process = of_pid(&report, quiet.pid());
    assert_eq!(process["tier"], "exact");
    assert_truth_of(process, &truth, false);
}

#[test]
fn processes_whose_probes_come_to_be_in_every_process_share_a_tier() {
    let mut busy = load(BUSY);
    let arguments = ["leave", "wait", "work", "wait"];
    let mut quiet = Target::start(Command::new(compile("threads.c", &FRAME_POINTERS)).args(arguments));
    assert_eq!(quiet.line(), "ready");
    let folder = support::scratch();
    let file = folder.path().join("reports.json");
    let mut tracing = trace(&[&busy, &quiet], &file);
    busy.say("go");
    tracing.wait_for(&format!("(pid {}), --max-overhead is 10.0 %", busy.pid()));
    wait_for_windows(&tracing, &file);
    stop(&mut busy);
    let report = last_report(tracing, &file);
    for pid in [busy.pid(), quiet.pid()] {
        assert_eq!(of_pid(&report, pid)["tier"], "windowed", "{report:#}");
    }
    assert!(quiet.is_alive());
}
