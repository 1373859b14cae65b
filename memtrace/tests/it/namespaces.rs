//! memtrace in namespaces of its own, as in a container, and targets in others below.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::support::{
    self, FRAME_POINTERS, InTime, Target, Tracing,
    cgroup::Cgroup,
    compile, eventually, kernel_version,
    namespace::{Namespace, UNSHARE, path_of_memtrace, stop, unshare},
    process, scratch,
};

/// The program that knows its truth, under a name of its own.
fn truth(folder: &Path) -> PathBuf {
    let program = folder.join("truth-inside");
    fs::copy(compile("truth.c", &FRAME_POINTERS), &program).unwrap();
    program
}

fn pids(report: &Value) -> Vec<u64> {
    report["processes"].as_array().unwrap().iter().map(|process| process["pid"].as_u64().unwrap()).collect()
}

fn of_pid(report: &Value, pid: u32) -> &Value {
    let processes = report["processes"].as_array().unwrap();
    processes.iter().find(|process| process["pid"] == pid).unwrap_or_else(|| panic!("{pid}: {report:#}"))
}

#[test]
fn processes_of_the_namespace_and_below_are_exact_however_they_are_selected_and_no_others() {
    let folder = scratch();
    let program = truth(folder.path());
    let command = [program.to_str().unwrap(), "20000", "wait"];
    let mut elsewhere = Target::start(Command::new(command[0]).args(&command[1..]));
    assert_eq!(elsewhere.line(), "ready");
    let namespace = Namespace::new();
    for below in [false, true] {
        for selection in ["--pid", "--comm", "--all"] {
            let mut inside = if below { namespace.start_below(&command) } else { namespace.start(&command) };
            let pid = inside.pid.to_string();
            let selected = match selection {
                "--pid" => vec!["--pid", &pid],
                "--comm" => vec!["--comm", "truth-inside"],
                _ => vec!["--all"],
            };
            let tracing = namespace.trace(&selected);
            let told = inside.go();
            let report = stop(tracing);
            support::assert_truth_of(of_pid(&report, inside.pid), &told, false);
            if selection == "--all" {
                let processes = report["processes"].as_array().unwrap();
                assert_eq!(
                    processes.iter().filter(|process| process["comm"] == "truth-inside").count(),
                    1,
                    "{report:#}"
                );
                let seen = String::from_utf8(namespace.run(&["ls", "/proc"]).stdout).unwrap();
                for process in processes.iter().filter(|process| process["ended"] == false) {
                    let pid = process["pid"].to_string();
                    assert!(seen.lines().any(|line| line == pid), "{process:#}: {seen}");
                }
            } else {
                assert_eq!(pids(&report), [u64::from(inside.pid)], "{report:#}");
            }
        }
    }
    assert!(elsewhere.is_alive());
}

#[test]
fn programs_that_begin_later_are_exact_in_the_namespace_and_not_followed_outside() {
    let folder = scratch();
    let program = truth(folder.path());
    let command = [program.to_str().unwrap(), "20000", "wait"];
    let namespace = Namespace::new();
    let tracing = namespace.trace(&["--comm", "truth-inside"]);
    let mut elsewhere = Target::start(Command::new(command[0]).args(&command[1..]));
    assert_eq!(elsewhere.line(), "ready");
    let mut inside = [namespace.start(&command), namespace.start_below(&command)];
    elsewhere.say("go");
    elsewhere.line();
    let told: Vec<(u32, Value)> = inside.iter_mut().map(|inside| (inside.pid, inside.go())).collect();
    let report = stop(tracing);
    assert_eq!(pids(&report).len(), 2, "{report:#}");
    for (pid, told) in &told {
        support::assert_truth_of(of_pid(&report, *pid), told, false);
    }
}

#[test]
fn processes_of_a_cgroup_are_followed_as_far_as_the_namespace_shows_them() {
    let folder = scratch();
    let program = truth(folder.path());
    let group = Cgroup::make();
    let path = group.folder.to_str().unwrap();
    let script = format!("echo $$ > {path}/cgroup.procs; exec {} 20000 wait", program.display());
    let command = ["/bin/sh", "-c", &script];
    let namespace = Namespace::new();
    let tracing = namespace.trace(&["--cgroup", path]);
    let mut elsewhere = Target::start(Command::new(command[0]).args(&command[1..]));
    assert_eq!(elsewhere.line(), "ready");
    let mut inside = namespace.start(&command);
    let told = inside.go();
    let report = stop(tracing);
    assert_eq!(pids(&report), [u64::from(inside.pid)], "{report:#}");
    support::assert_truth_of(of_pid(&report, inside.pid), &told, false);
    elsewhere.kill();
    drop(inside);
    eventually("the group is empty", || fs::read_to_string(group.folder.join("cgroup.procs")).unwrap().is_empty());
}

/// Runs memtrace in a namespace of its own, of which it is the first process.
fn contained(arguments: &[&str]) -> (i32, String, String) {
    support::told(&unshare(&[&[path_of_memtrace().as_str()], arguments].concat()).output_in_time())
}

#[test]
fn a_command_is_exact_and_its_children_in_namespaces_of_their_own_are_as_well() {
    let program = compile("truth.c", &FRAME_POINTERS);
    let folder = scratch();
    let file = folder.path().join("report.json");
    let options = ["--tier", "exact", "--format", "json", "-o", file.to_str().unwrap()];
    let command = [program.to_str().unwrap(), "20000", "run"];
    let (status, output, messages) = contained(&[&options, &["--"][..], &command].concat());
    assert_eq!(status, 0, "{messages}");
    let report = support::report(&file);
    support::assert_truth(&report, &serde_json::from_str(&output).unwrap(), false);
    assert!(pids(&report)[0] < 100, "{report:#}");
    let (status, output, messages) = contained(&[&options, &["--follow", "--"][..], &UNSHARE, &command].concat());
    assert_eq!(status, 0, "{messages}");
    let (report, told): (_, Value) = (support::report(&file), serde_json::from_str(&output).unwrap());
    let comm = program.file_name().unwrap().to_str().unwrap();
    let processes = report["processes"].as_array().unwrap().iter();
    let own: Vec<&Value> = processes.filter(|process| comm.starts_with(process["comm"].as_str().unwrap())).collect();
    assert_eq!(own.len(), 1, "{report:#}");
    support::assert_truth_of(own[0], &told, false);
}

#[test]
fn the_gate_looks_at_the_end_also_in_a_namespace_below() {
    let program = compile("gate.c", &["-O2", "-fomit-frame-pointer"]);
    let command = [program.to_str().unwrap(), "leak", "12"];
    let options = ["--fail-on-leak", "-o", "/dev/null"];
    for before in [&["--"][..], &["--follow", "--", "unshare", "-p", "-f", "--mount-proc", "--kill-child"]] {
        let (status, _, messages) = contained(&[&options, before, &command].concat());
        assert_eq!(status, 3, "{before:?}: {messages}");
        assert!(messages.contains("12 of 12 live blocks are unreachable at exit"), "{messages}");
    }
}

#[test]
fn what_programs_map_is_exact() {
    let program = compile("mappings.c", &FRAME_POINTERS);
    let namespace = Namespace::new();
    let mut inside = namespace.start(&[program.to_str().unwrap(), "40000", "wait"]);
    let tracing = namespace.trace(&["--category", "mmap", "--pid", &inside.pid.to_string()]);
    let told = inside.go();
    let report = stop(tracing);
    let process = process(&report);
    assert_eq!(support::losses(process), []);
    let live = |site: &Value| site["live_bytes"].as_u64().unwrap();
    let below = |name: &str| -> u64 {
        let has = |site: &&Value| site["frames"].as_array().unwrap().iter().any(|frame| frame["function"] == name);
        process["sites"].as_array().unwrap().iter().filter(has).map(live).sum()
    };
    for (site, counts) in
        told.as_object().unwrap().iter().filter(|(name, counts)| *name != "total" && counts.is_object())
    {
        assert_eq!(below(site), live(counts), "{site}: {process:#}");
    }
}

#[test]
fn pages_are_charged_to_the_stacks_that_touch_them() {
    let program = compile("threads.c", &FRAME_POINTERS);
    let namespace = Namespace::new();
    let mut inside = namespace.start(&[program.to_str().unwrap(), "wait", "touch", "wait"]);
    let tracing = namespace.trace(&["--tier", "growth", "--pid", &inside.pid.to_string()]);
    inside.target.say("touch");
    assert_eq!((inside.target.line().as_str(), inside.target.line().as_str()), ("touched", "ready"));
    let report = stop(tracing);
    let process = process(&report);
    let sites = process["sites"].as_array().unwrap().iter();
    let touched =
        sites.filter(|site| site["frames"].as_array().unwrap().iter().any(|frame| frame["function"] == "touch"));
    let bytes: u64 = touched.map(|site| site["alloc_bytes"].as_u64().unwrap()).sum();
    // Counting begins at the first change after attaching, which may be a huge page; a thread tells of some pages late.
    assert!((13 << 20..18 << 20).contains(&bytes), "{bytes}: {process:#}");
}

#[test]
fn a_threshold_leads_to_a_closer_look() {
    let program = compile("truth.c", &FRAME_POINTERS);
    let namespace = Namespace::new();
    let inside = namespace.start(&[program.to_str().unwrap(), "20000", "wait"]);
    let pid = inside.pid.to_string();
    let arguments = ["watch", "--pid", &pid, "--threshold", "1KiB", "--capture", "1s", "--once", "--format", "json"];
    let output = namespace.run(&[&[path_of_memtrace().as_str()], &arguments[..]].concat());
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{messages}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(pids(&report), [u64::from(inside.pid)], "{messages}");
    assert!(messages.contains(&format!("(pid {pid}): 9 functions of glibc")), "{messages}");
}

#[test]
fn the_kernels_memory_is_charged_to_the_process_that_was_named() {
    if kernel_version() < (6, 1) {
        return println!("skipped: --category kernel needs Linux 6.1 or later");
    }
    let program = compile("hold.c", &[]);
    let namespace = Namespace::new();
    let mut inside = namespace.start(&[program.to_str().unwrap()]);
    let pid = inside.pid.to_string();
    let arguments = [&path_of_memtrace(), "--category", "kernel", "--format", "json", "--pid", &pid];
    let mut tracing = Tracing::run(&mut namespace.command(&arguments));
    tracing.wait_for("memtrace: tracing ");
    inside.target.say("pipes 500");
    assert_eq!(inside.target.line(), "ok");
    let report = stop(tracing);
    let live = process(&report)["live_objects"].as_u64().unwrap();
    assert!(live >= 500, "{live}: {report:#}");
}

#[test]
fn what_memtrace_cannot_do_in_a_namespace_it_says() {
    let told = |command: &[&str], expected: &[&str]| {
        let mut unshare = Command::new("unshare");
        let arguments = [&path_of_memtrace(), "--pid", "1", "--duration", "1s"];
        let output = unshare.args(command).args(arguments).stdin(Stdio::null()).output_in_time();
        let messages = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{messages}");
        for text in expected {
            assert!(messages.contains(text), "{text:?}: {messages}");
        }
    };
    told(&["-p", "-f"], &["/proc shows another pid namespace", "hint: `mount -t proc proc /proc`"]);
    told(
        &["-U", "-r"],
        &["user namespace", "may not load BPF programs", "hint: run memtrace as the machine's own root"],
    );
}

#[test]
fn the_doctor_tells_the_namespaces() {
    let (status, output, messages) = contained(&["doctor"]);
    assert_eq!(status, 0, "{output}{messages}");
    assert!(output.contains("ok       pid namespace: pid:["), "{output}");
    assert!(output.contains("ok       user namespace: the machine's first"), "{output}");
    let output = support::memtrace().arg("doctor").output_in_time();
    let output = String::from_utf8_lossy(&output.stdout);
    assert!(output.contains("ok       pid namespace: the machine's first"), "{output}");
}
