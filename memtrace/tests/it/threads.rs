//! Processes whose first thread has ended before others, or another thread of which runs another program.

use std::{fs, path::PathBuf, process::Command};

use serde_json::Value;

use crate::support::{
    self, EXACT_TIERS, FIGURES, FRAME_POINTERS, InTime, Target, Tracing, compile,
    gate::gate,
    kernel_version, losses,
    namespace::{Namespace, stop},
    process, run, scratch, sum_at,
};

const MIMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libmimalloc.so.2.0";

/// Before Linux 6.6, probes are perf events: they fire no more once the first thread has ended, for up to a second.
fn are_perf_events() -> bool {
    kernel_version() < (6, 6)
}

fn program() -> PathBuf {
    compile("threads.c", &FRAME_POINTERS)
}

/// The program, once its threads are as its arguments say.
fn start(arguments: &[&str]) -> Target {
    let mut target = Target::start(Command::new(program()).args(arguments).env("LIBRARY", MIMALLOC));
    assert_eq!(target.line(), "ready");
    target
}

/// Lets the program go on. Returns what it says then.
fn go_on(target: &mut Target) -> Value {
    target.say("go");
    serde_json::from_str(&target.line()).unwrap()
}

fn assert_agrees(process: &Value, truth: &Value) {
    assert_eq!(losses(process), []);
    for (site, counts) in truth.as_object().unwrap() {
        for figure in FIGURES {
            assert_eq!(
                sum_at(process, site, figure),
                counts[figure].as_u64().unwrap(),
                "{figure} of {site}: {process:#}"
            );
        }
    }
    support::assert_sums(process);
}

/// The process of that pid in a report.
fn of_pid(report: &Value, pid: u32) -> &Value {
    let processes = report["processes"].as_array().unwrap();
    processes.iter().find(|process| process["pid"] == pid).unwrap_or_else(|| panic!("{pid}: {report:#}"))
}

#[test]
fn a_process_whose_main_thread_has_ended_is_exact_and_that_it_costs_others_is_told() {
    for tier in EXACT_TIERS {
        let mut target = start(&["leave", "wait", "work", "wait", "work", "wait"]);
        let pid = target.pid().to_string();
        let arguments = [tier, &["--format", "json", "--pid", &pid]].concat();
        let tracing = Tracing::start(&arguments);
        go_on(&mut target);
        assert_eq!(target.line(), "ready");
        let truth = go_on(&mut target);
        assert_eq!(target.line(), "ready");
        tracing.assert_heard(&format!("the main thread of process {pid} has ended"));
        tracing.assert_heard("hint: --tier growth");
        let report = tracing.stop();
        let process = process(&report);
        assert_agrees(process, &truth);
        assert_eq!(process["ended"], false);
        assert!(process["rss_bytes"].as_u64().unwrap() > 0, "{process:#}");
        assert!(target.is_alive());
    }
}

#[test]
fn a_main_thread_that_ends_while_it_is_traced_takes_nothing_with_it() {
    let mut target = start(&["wait", "work", "wait", "leave", "wait", "touch", "wait", "work", "load", "wait"]);
    let pid = target.pid().to_string();
    let mut tracing = Tracing::start(&["-v", "--format", "json", "--pid", &pid]);
    go_on(&mut target);
    assert_eq!(target.line(), "ready");
    target.say("leave");
    assert_eq!(target.line(), "ready");
    if are_perf_events() {
        tracing.wait_for("its probes are in place again");
    }
    target.say("touch");
    assert_eq!((target.line().as_str(), target.line().as_str()), ("touched", "ready"));
    let truth = go_on(&mut target);
    assert_eq!(target.line(), "loaded");
    tracing.wait_for("hooked mimalloc");
    let truth_of_loaded = go_on(&mut target);
    assert_eq!(target.line(), "ready");
    let report = tracing.stop();
    let process = process(&report);
    assert!(process["rss_bytes"].as_u64().unwrap() > 16 << 20, "{process:#}");
    if are_perf_events() {
        println!("skipped: the figures, since before Linux 6.6 probes are away for up to a second");
        assert_eq!(process["health"]["probes_gone"], 1, "{process:#}");
        return;
    }
    assert_agrees(process, &truth);
    assert_agrees(process, &truth_of_loaded);
}

#[test]
fn perf_events_that_have_gone_with_the_main_thread_are_counted_as_a_loss_and_put_back() {
    let mut target = start(&["wait", "leave", "wait", "work", "wait"]);
    let pid = target.pid().to_string();
    let mut tracing = Tracing::start(&["-v", "--links", "perf-event", "--format", "json", "--pid", &pid]);
    target.say("leave");
    assert_eq!(target.line(), "ready");
    tracing.wait_for("its probes are in place again");
    let truth = go_on(&mut target);
    assert_eq!(target.line(), "ready");
    let report = tracing.stop();
    let process = process(&report);
    assert_eq!(losses(process), [("probes_gone".to_owned(), 1)]);
    for figure in FIGURES {
        assert_eq!(sum_at(process, "work", figure), truth["work"][figure].as_u64().unwrap(), "{figure}: {process:#}");
    }
}

#[test]
fn what_is_asked_for_beside_one_without_a_main_thread_is_counted_once() {
    let mut with = start(&["wait", "work", "wait"]);
    let mut without = start(&["leave", "wait", "work", "wait"]);
    let (one, other) = (with.pid(), without.pid());
    for pids in [[one, other], [other, one]] {
        let pids = pids.map(|pid| pid.to_string());
        let arguments = ["--format", "json", "--duration", "1s", "--pid", &pids[0], "--pid", &pids[1]];
        let (status, _, messages) = run(&arguments);
        assert_eq!(status, 0, "{messages}");
    }
    let tracing = Tracing::start(&["--format", "json", "--pid", &one.to_string(), "--pid", &other.to_string()]);
    let truths = [(one, go_on(&mut with)), (other, go_on(&mut without))];
    let report = tracing.stop();
    for (pid, truth) in &truths {
        let process = of_pid(&report, *pid);
        assert_agrees(process, truth);
        assert_eq!(process["health"]["unmatched_frees"], 0, "{process:#}");
    }
}

#[test]
fn what_glibc_frees_as_threads_end_is_no_free_of_an_older_block() {
    let mut target = start(&["wait", "churn", "work", "wait"]);
    let tracing = Tracing::start(&["--format", "json", "--tier", "exact", "--pid", &target.pid().to_string()]);
    let truth = go_on(&mut target);
    let report = tracing.stop();
    let process = process(&report);
    assert_agrees(process, &truth);
    let unmatched = process["health"]["unmatched_frees"].as_u64().unwrap();
    // 200 threads have some 70 blocks each in their caches.
    assert!(unmatched < 10, "{unmatched}");
}

#[test]
fn processes_without_a_main_thread_are_found_by_name_and_among_all() {
    let folder = scratch();
    let named = folder.path().join("headless");
    fs::copy(program(), &named).unwrap();
    let command = [named.to_str().unwrap(), "leave", "wait", "work", "wait"];
    // All of a namespace: what else the host runs is nobody's concern.
    let namespace = Namespace::new();
    for selection in [&["--comm", "headless"][..], &["--all"]] {
        let mut inside = namespace.start(&command);
        let tracing = namespace.trace(selection);
        let truth = inside.go();
        assert_eq!(inside.target.line(), "ready");
        let report = stop(tracing);
        assert_agrees(of_pid(&report, inside.pid), &truth);
    }
}

#[test]
fn the_memory_of_a_process_without_a_main_thread_is_told_in_the_growth_tier() {
    let program = program();
    let command = [program.to_str().unwrap(), "wait", "leave", "wait", "touch", "wait"];
    let namespace = Namespace::new();
    for is_named in [true, false] {
        let mut inside = namespace.start(&command);
        let pid = inside.pid.to_string();
        let selection = if is_named { vec!["--pid", &pid] } else { vec!["--all"] };
        let tracing = namespace.trace(&[&selection[..], &["--tier", "growth"]].concat());
        inside.target.say("leave");
        assert_eq!(inside.target.line(), "ready");
        inside.target.say("touch");
        assert_eq!((inside.target.line().as_str(), inside.target.line().as_str()), ("touched", "ready"));
        let report = stop(tracing);
        let process = of_pid(&report, inside.pid);
        assert_eq!(process["ended"], false);
        assert!(process["rss_bytes"].as_u64().unwrap() > 16 << 20, "{process:#}");
    }
}

#[test]
fn a_process_that_another_thread_ends_after_the_main_one_is_looked_at() {
    let (status, report, messages) = gate(&["--fail-on-leak"], &[program().to_str().unwrap(), "leave", "lose"]);
    if are_perf_events() {
        println!("skipped: the verdict, since before Linux 6.6 probes are away for up to a second");
        assert!(messages.contains("not checked for reachability"), "{messages}");
        return;
    }
    assert_eq!(status, 3, "{messages}");
    assert!(messages.contains("20 of 20 live blocks are unreachable at exit"), "{messages}");
    assert_eq!(process(&report)["at_exit"]["unreachable_bytes"], 20 * 123);
}

#[test]
fn a_program_that_a_thread_runs_in_its_process_is_exact_from_its_first_instruction() {
    let (threads, truth) = (program(), compile("truth.c", &FRAME_POINTERS));
    let (threads, truth) = (threads.to_str().unwrap(), truth.to_str().unwrap());
    let folder = scratch();
    let file = folder.path().join("report.json");
    for before in [&["work", "exec"][..], &["leave", "work", "exec"]] {
        let command = [&[threads], before, &[truth, "20000", "run"]].concat();
        let options = ["--tier", "exact", "--format", "json", "-o", file.to_str().unwrap(), "--"];
        let output = support::memtrace().args(options).args(command).output_in_time();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        let told: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        support::assert_truth(&support::report(&file), &told, false);
    }
}

#[test]
fn a_program_that_a_thread_runs_is_looked_at_when_it_ends_also_through_a_shell() {
    let (threads, lost) = (program(), compile("gate.c", &["-O2", "-fomit-frame-pointer"]));
    let (threads, lost) = (threads.to_str().unwrap(), lost.to_str().unwrap());
    let shell = format!("exec {threads} exec {lost} leak 12");
    for command in [&[threads, "exec", lost, "leak", "12"][..], &["/bin/sh", "-c", &shell]] {
        let (status, report, messages) = gate(&["--fail-on-leak"], command);
        assert_eq!(status, 3, "{command:?}: {messages}");
        assert!(messages.contains("12 of 12 live blocks are unreachable at exit"), "{messages}");
        assert_eq!(process(&report)["at_exit"]["unreachable_bytes"], 12 * 273);
    }
}

#[test]
fn a_running_process_in_which_a_thread_runs_another_program_is_hooked_anew() {
    let truth = compile("truth.c", &FRAME_POINTERS);
    let mut target = start(&["wait", "exec", truth.to_str().unwrap(), "20000", "wait"]);
    let pid = target.pid().to_string();
    let mut tracing = Tracing::start(&["-v", "--format", "json", "--pid", &pid]);
    target.say("exec");
    assert_eq!(target.line(), "ready");
    tracing.wait_for("now runs");
    tracing.wait_for("hooked glibc");
    let told = go_on(&mut target);
    let report = tracing.stop();
    support::assert_truth(&report, &told, false);
}

#[test]
fn a_thread_is_no_process_and_the_error_names_the_process() {
    let target = start(&["wait"]);
    let pid = target.pid();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let tids = threads.map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned());
    let tid = tids.into_iter().find(|tid| *tid != pid.to_string()).unwrap();
    let kernel: &[&str] = if kernel_version() < (6, 1) { &[] } else { &["--category", "kernel"] };
    for options in [&[][..], kernel] {
        let (status, _, messages) = run(&[options, &["--pid", &tid, "--duration", "1s"]].concat());
        assert_eq!(status, 1, "{messages}");
        assert!(
            messages.contains(&format!("cannot trace process {tid}: it is a thread of process {pid}")),
            "{messages}"
        );
        assert!(messages.contains(&format!("hint: --pid {pid}")), "{messages}");
    }
}

#[test]
fn a_32_bit_program_is_told_from_a_stripped_one() {
    let program = compile("static.c", &["-m32", "-nostdlib", "-static", "-no-pie", "-DNO_LIBC"]);
    let target = Target::start(&mut Command::new(program));
    let (status, _, messages) = run(&["--pid", &target.pid().to_string()]);
    assert_eq!(status, 1, "{messages}");
    assert!(messages.contains("it is a 32-bit program") && messages.contains("hint: --tier growth"), "{messages}");
    assert!(!messages.contains("stripped"), "{messages}");
}
