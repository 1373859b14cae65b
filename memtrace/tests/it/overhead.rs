//! The cost that memtrace tells, against what its target really pays.

use std::{fs, process::Command, time::Duration};

use crate::support::{self, Target, Tracing, is_emulated, process, scaled};

/// The time that the target has run on a CPU: fields 14 and 15 of proc_pid_stat(5), in hundredths of a second.
fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// Has python allocate and free a million blocks. Returns the CPU time that it took, and the report where it was traced.
fn work(options: Option<&[&str]>) -> (Duration, Option<serde_json::Value>) {
    let rounds = scaled(1000);
    let script = format!(
        "import sys\nprint('ready', flush=True)\nsys.stdin.readline()\n\
         for _ in range({rounds}): [bytes(700) for _ in range(1000)]\nprint('done', flush=True)\nsys.stdin.readline()"
    );
    let mut target = Target::start(Command::new("/usr/bin/python3").args(["-c", &script]));
    assert_eq!(target.line(), "ready");
    let pid = target.pid().to_string();
    let tracing = options.map(|options| Tracing::start(&[&["--pid", &pid, "--format", "json"], options].concat()));
    let before = cpu_time(target.pid());
    target.say("go");
    assert_eq!(target.line(), "done");
    let took = cpu_time(target.pid()) - before;
    (took, tracing.map(Tracing::stop))
}

#[test]
fn a_target_is_told_to_pay_for_each_call_that_was_seen() {
    let (_, report) = work(Some(&["--tier", "exact"]));
    let report = report.unwrap();
    let overhead = &process(&report)["overhead"];
    let figure = |name: &str| overhead[name].as_u64().unwrap();
    let blocks = scaled(1000) * 1000;
    // Where one probe sees both a call and its return, that is one of `calls`.
    assert!(figure("calls") + figure("entries") >= 2 * blocks, "{overhead}");
    assert!(figure("cpu_ns") > 0 && figure("cost_ns") >= blocks, "less than a nanosecond each: {overhead}");
}

#[test]
#[ignore = "long: compares CPU times, which takes a quiet machine"]
fn the_cost_that_is_told_is_about_what_the_target_pays() {
    // In an emulator the target also pays for what its CPU waits for the host's: the kernel there knows nothing of it, so
    // that CPU time goes on. The told cost is that of the quickest calls, which waited for nothing.
    let (least_ratio, least_share) = if is_emulated() { (0.04, 0.02) } else { (0.4, 0.2) };
    let (alone, _) = work(None);
    let at_instructions = ["--tier", "exact", "--returns", "instruction"];
    for options in [&["--tier", "exact"][..], &["--tier", "sampled"], &at_instructions] {
        let (traced, report) = work(Some(options));
        let report = report.unwrap();
        let overhead = &process(&report)["overhead"];
        let paid = (traced.as_secs_f64() - alone.as_secs_f64()) * 1e9;
        let told = overhead["cost_ns"].as_f64().unwrap();
        println!("{options:?}: told {told:.2e} ns, paid {paid:.2e} ns of {traced:?}");
        // Caches are colder than in a loop, and the machine is noisy; but it is no other order of magnitude.
        assert!((least_ratio..2.5).contains(&(told / paid)), "{options:?}: told {told}, paid {paid}");
        let share = overhead["share"].as_f64().unwrap();
        assert!((least_share..=1.0).contains(&share), "{options:?}: {share}");
    }
}

#[test]
fn a_target_that_does_nothing_pays_nothing() {
    let target = Target::start(&mut Command::new("cat"));
    let (status, output, messages) =
        support::run(&["--pid", &target.pid().to_string(), "--duration", "300ms", "--format", "json"]);
    assert_eq!(status, 0, "{messages}");
    let report: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert_eq!(process(&report)["overhead"]["cost_ns"], 0);
    assert_eq!(process(&report)["overhead"]["share"], 0.0);
}
