//! Children that live for milliseconds: their figures, what tracing costs them, and that it counts in the budget.

use std::process::Command;

use serde_json::Value;

use crate::support::{self, EXACT_TIERS, FIGURES, FRAME_POINTERS, Target, Tracing, compile, losses, sum_at};

/// A process that forks children, with so many blocks that each of them frees.
fn brood(inherited: u64, children: &[&str]) -> Target {
    let program = compile("brood.c", &FRAME_POINTERS);
    let mut target = Target::start(Command::new(program).args([&inherited.to_string(), "300"]).args(children));
    assert_eq!(target.line(), "ready");
    target
}

#[test]
fn children_that_live_for_milliseconds_are_exact_and_say_what_tracing_costs_them() {
    for tier in EXACT_TIERS {
        let mut target = brood(2000, &["40"]);
        let pid = target.pid().to_string();
        let tracing = Tracing::start(&[tier, &["--pid", &pid, "--follow", "--format", "json"]].concat());
        target.say("go");
        let truths: Vec<Value> = (0..40).map(|_| serde_json::from_str(&target.line()).unwrap()).collect();
        assert_eq!(target.line(), "done");
        let report = tracing.stop();
        let processes = report["processes"].as_array().unwrap();
        assert_eq!(processes.len(), 41);
        for truth in &truths {
            let process = processes.iter().find(|process| process["pid"] == truth["pid"]).unwrap();
            // A busy machine makes tracing look dearer than all that such a child does, and no budget allows for that.
            if tier == EXACT_TIERS[0] || process["tier"] == "exact" {
                assert_eq!(losses(process), []);
                for figure in FIGURES {
                    assert_eq!(
                        sum_at(process, "work", figure),
                        truth["work"][figure].as_u64().unwrap(),
                        "{figure}: {process:#}"
                    );
                }
                let unmatched = process["health"]["unmatched_frees"].as_u64().unwrap();
                assert!(unmatched >= truth["inherited"].as_u64().unwrap(), "{unmatched}");
            }
            let overhead = &process["overhead"];
            let figure = |name: &str| overhead[name].as_u64().unwrap_or_else(|| panic!("{name} of {process:#}"));
            assert!(figure("cpu_ns") > 0 && figure("cost_ns") > 0, "{overhead}");
            // No process has run for longer than the whole run took.
            assert!(figure("cpu_ns") < report["duration_ns"].as_u64().unwrap(), "{overhead}");
            assert!(process["tier"] != "exact" || figure("entries") + figure("calls") >= 2300, "{overhead}");
        }
    }
}

#[test]
fn a_command_that_ends_at_once_says_what_tracing_costs_it() {
    let folder = support::scratch();
    let file = folder.path().join("report.json");
    let arguments = ["--follow", "--format", "json", "-o", file.to_str().unwrap()];
    let (status, _, messages) =
        support::run(&[&arguments[..], &["--", "/bin/sh", "-c", "/bin/true; /bin/true"]].concat());
    assert_eq!(status, 0, "{messages}");
    let report = support::report(&file);
    let processes = report["processes"].as_array().unwrap();
    assert!(processes.len() >= 2, "{processes:#?}");
    assert!(processes.iter().all(|process| process["overhead"].is_object()), "{processes:#?}");
}

#[test]
fn children_that_live_for_milliseconds_count_in_the_budget_until_nobody_forks_any_more() {
    let mut target = brood(2000, &[]);
    let pid = target.pid().to_string();
    let mut tracing = Tracing::start(&["--pid", &pid, "--follow", "--tier", "auto", "--format", "json"]);
    target.say("go");
    // The parent itself hardly allocates, and no child lives long enough to be looked at twice.
    tracing.wait_for("% of the CPU time of processes that come and go, --max-overhead is 10.0 %");
    target.say("stop");
    assert_eq!(target.line(), "done");
    tracing.wait_for("memtrace: tier exact from now on: it would take ");
    let report = tracing.stop();
    let tiers = report["auto"]["tiers"].as_array().unwrap();
    assert_eq!(tiers[0]["tier"], "exact");
    assert_ne!(tiers[1]["tier"], "exact", "{tiers:?}");
    let ended: Vec<&Value> =
        report["processes"].as_array().unwrap().iter().filter(|process| process["ended"] == true).collect();
    assert!(!ended.is_empty() && ended.iter().all(|process| process["overhead"].is_object()), "{ended:#?}");
}

#[test]
fn of_children_that_live_for_less_than_a_window_each_that_was_met_is_told_as_it_was_and_the_others_as_not_seen() {
    let mut target = brood(200, &["6000"]);
    let pid = target.pid().to_string();
    let tracing = Tracing::start(&["--pid", &pid, "--follow", "--tier", "windowed", "--format", "json"]);
    target.say("go");
    let truths: Vec<Value> = (0..6000).map(|_| serde_json::from_str(&target.line()).unwrap()).collect();
    assert_eq!(target.line(), "done");
    let report = tracing.stop();
    let (mut whole, mut met) = (0, 0);
    for process in report["processes"].as_array().unwrap() {
        let Some(truth) = truths.iter().find(|truth| truth["pid"] == process["pid"]) else { continue };
        let interval = &process["interval_95"]["alloc_bytes"];
        let (told, truth) = (sum_at(process, "work", "alloc_bytes"), truth["work"]["alloc_bytes"].as_u64().unwrap());
        if told == 0 {
            // Nothing is known of it.
            assert!(interval[0] == 0 && interval[1].is_null(), "{process:#}");
            continue;
        }
        met += 1;
        if interval.is_null() {
            assert_eq!(told, truth, "{process:#}");
            whole += 1;
        } else {
            // It was there for a part of the window.
            assert!(interval[0].as_u64() <= Some(truth), "{told} of {truth}: {interval}");
        }
    }
    println!("{met} children were met, {whole} of them from beginning to end");
    assert!(whole > 0, "{:#}", report["auto"]);
    let not_seen = report["not_seen"].as_array().unwrap();
    assert!(
        not_seen.iter().any(|told| told.as_str().unwrap().ends_with("programs that began and ended between windows")),
        "{not_seen:?}"
    );
}

#[test]
fn children_that_are_not_followed_are_told_of() {
    let script = "sleep 1000 & echo ready; read line; kill $!; echo killed; read line";
    let mut target = Target::start(Command::new("/bin/sh").args(["-c", script]));
    assert_eq!(target.line(), "ready");
    let pid = target.pid().to_string();
    let not_seen = |options: &[&str]| {
        let tracing = Tracing::start(&[&["--pid", &pid, "--tier", "exact", "--format", "json"], options].concat());
        tracing.stop()["not_seen"].clone()
    };
    let told = not_seen(&[]);
    let told = told[0].as_str().unwrap();
    assert!(told.starts_with("a process that a target has started (") && told.contains("--follow"), "{told}");
    assert!(!told.contains("(0 B"), "{told}");
    assert_eq!(not_seen(&["--follow"]), Value::Array(Vec::new()));
    target.say("end");
    assert_eq!(target.line(), "killed");
}
