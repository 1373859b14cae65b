//! A process's memory beside what it allocates: which way it goes, and when its cgroup's limit is reached.

use std::process::Command;

use serde_json::Value;

use crate::support::{FRAME_POINTERS, Target, cgroup::Cgroup, compile, process, run};

const LIMIT: u64 = 256 << 20;

/// A process that leaks a MiB a second, in a group with a limit.
fn leak_in_a_group() -> (Cgroup, Target) {
    let group = Cgroup::limited(LIMIT);
    let program = compile("host.c", &[&FRAME_POINTERS[..], &["-lm"]].concat());
    // It joins before it has any memory: what was there before is accounted for elsewhere.
    let script = "read line; exec \"$0\" leak 20 1024";
    let mut target = Target::start(Command::new("/bin/sh").args(["-c", script]).arg(program));
    group.add(target.pid());
    target.say("go");
    assert_eq!(target.line(), "ready");
    (group, target)
}

#[test]
fn a_leak_is_increasing_and_will_reach_its_limit() {
    let (_group, target) = leak_in_a_group();
    let pid = target.pid().to_string();
    let (status, output, messages) = run(&["--pid", &pid, "--duration", "20s", "--format", "json"]);
    assert_eq!(status, 0, "{messages}");
    let report: Value = serde_json::from_str(&output).unwrap();
    let process = process(&report);
    let memory = &process["memory"];
    assert_eq!(process["trend"], "increasing", "{process}");
    let figure = |name: &str| memory[name].as_f64().unwrap_or_else(|| panic!("{name}: {memory}"));
    assert!((figure("limit_bytes") - LIMIT as f64).abs() < 1.0);
    let (slope, used) = (process["rss_growth_bytes_per_s"].as_f64().unwrap(), figure("limit_used_bytes"));
    assert!((slope / 1048576.0 - 1.0).abs() < 0.2, "{slope}");
    assert!(used > (20 << 20) as f64 && used < LIMIT as f64 / 2.0, "{used}");
    let seconds = figure("seconds_to_limit");
    assert!((seconds - (LIMIT as f64 - used) / slope).abs() < 1.0, "{seconds} for {used} at {slope}");
    let series = memory["series"].as_array().unwrap();
    assert!(series.len() > 10 && series.windows(2).all(|pair| pair[0]["at_ns"].as_u64() < pair[1]["at_ns"].as_u64()));
    let rss = |point: &Value| point["rss_bytes"].as_f64().unwrap();
    assert!(rss(&series[series.len() - 1]) - rss(&series[0]) > 10e6, "{series:?}");
    let (_, table, _) = run(&["--pid", &pid, "--duration", "10s"]);
    assert!(table.contains("limit      reaches its memory.max (256.0 MiB) in "), "{table}");
}

#[test]
fn a_share_of_the_limit_is_a_threshold() {
    let (_group, target) = leak_in_a_group();
    let pid = target.pid().to_string();
    let (status, _, messages) =
        run(&["watch", "--pid", &pid, "--threshold", "11%", "--on-threshold", "exec:true", "--once"]);
    assert_eq!(status, 0, "{messages}");
    assert!(messages.contains("has reached 11% of its cgroup's 256.0 MiB: RSS 2"), "{messages}");
}
