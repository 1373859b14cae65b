//! The whole host for nearly nothing: among 200 processes, those that leak are told from those that only look like it at times.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod support;

use std::{collections::BTreeMap, path::Path, process::Command};

use serde_json::Value;
use support::{FRAME_POINTERS, Target, compile};

/// What a process does, with the resident memory that it has before, in MiB, and how fast it leaks, in KiB a second.
struct Kind {
    mode: &'static str,
    base_mib: u32,
    argument: u32,
}

impl Kind {
    fn leak_kib_per_s(&self) -> Option<u32> {
        (self.mode == "leak").then_some(self.argument)
    }

    fn start(&self, program: &Path) -> Target {
        let arguments = [self.mode, &self.base_mib.to_string(), &self.argument.to_string()];
        let mut target = Target::start(Command::new(program).args(arguments));
        assert_eq!(target.line(), "ready");
        target
    }
}

/// Three that leak, seven that are hard to tell from them, and idle ones and some with jitter up to 200.
fn kinds() -> Vec<Kind> {
    let kind = |mode, base_mib, argument| Kind { mode, base_mib, argument };
    let mut kinds = vec![
        kind("leak", 100, 10),
        kind("leak", 2, 100),
        kind("leak", 20, 1000),
        kind("cache", 2, 20),
        kind("cache", 5, 30),
        kind("slow", 5, 25),
        kind("batch", 2, 7),
        kind("batch", 4, 20),
        kind("step", 2, 35),
        kind("warm", 2, 15),
    ];
    kinds.extend((0..60).map(|index| kind("jitter", 1, 1 + index * 5)));
    kinds.extend((kinds.len()..200).map(|_| kind("idle", 1, 0)));
    kinds
}

/// What a process has made resident within a function, in bytes.
fn resident_at(process: &Value, function: &str) -> u64 {
    let is_within =
        |site: &&Value| site["frames"].as_array().unwrap().iter().any(|frame| frame["function"] == function);
    let sites = process["sites"].as_array().unwrap().iter().filter(is_within);
    sites.map(|site| site["alloc_bytes"].as_u64().unwrap()).sum()
}

#[test]
fn stacks_are_told_where_tracefs_is_not_mounted() {
    let program = compile("host.c", &[&FRAME_POINTERS[..], &["-lm"]].concat());
    let kind = Kind { mode: "leak", base_mib: 2, argument: 1000 };
    let target = kind.start(&program);
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", target.pid())).unwrap();
    // It becomes a target once it has grown, when memtrace has given up its privileges.
    let script = "umount -a -t tracefs,debugfs; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(support::memtrace().get_program());
    command.args(["--comm", comm.trim(), "--tier", "growth", "--duration", "6s", "--format", "json"]);
    let output = command.output().unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{messages}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut processes = report["processes"].as_array().unwrap().iter();
    let process = processes.find(|process| process["pid"] == target.pid()).unwrap();
    assert!(resident_at(process, "leak_here") > 1 << 20, "{messages}{process:#}");
}

#[test]
fn those_that_leak_are_told_from_all_others_within_a_minute() {
    let program = compile("host.c", &[&FRAME_POINTERS[..], &["-lm"]].concat());
    let processes: BTreeMap<u32, (Kind, Target)> = kinds()
        .into_iter()
        .map(|kind| {
            let target = kind.start(&program);
            (target.pid(), (kind, target))
        })
        .collect();
    let (status, output, messages) =
        support::run(&["--all", "--tier", "growth", "--duration", "60s", "--format", "json"]);
    assert_eq!(status, 0, "{messages}");
    let report: Value = serde_json::from_str(&output).unwrap();
    let (mut seen, mut found, mut false_alarms) = (0, 0, Vec::new());
    for process in report["processes"].as_array().unwrap() {
        let pid = u32::try_from(process["pid"].as_u64().unwrap()).unwrap();
        let Some((kind, _)) = processes.get(&pid) else { continue };
        seen += 1;
        let is_increasing = process["trend"] == "increasing";
        let told = format!(
            "{} {}: {} with {}, {:.1} KiB/s",
            kind.mode,
            kind.argument,
            process["trend"],
            process["trend_confidence"],
            process["rss_growth_bytes_per_s"].as_f64().unwrap() / 1024.0
        );
        match kind.leak_kib_per_s() {
            // Before Linux 6.2 a thread keeps up to 64 pages for itself before it counts: a step each 25 seconds.
            Some(rate) if rate < 64 && support::kernel_version() < (6, 2) => {
                println!("{told}");
                found += 1;
            }
            Some(rate) => {
                println!("{told}");
                assert!(is_increasing, "{told}: {}", process["memory"]);
                assert!(process["trend_confidence"].as_f64() > Some(0.95), "{told}");
                let slope = process["rss_growth_bytes_per_s"].as_f64().unwrap() / 1024.0;
                assert!((slope / f64::from(rate) - 1.0).abs() < 0.25, "{told}");
                // Since it was found to grow, which takes the slowest a quarter of a minute.
                let kib = resident_at(process, "leak_here") / 1024;
                assert!(kib > u64::from(rate) * 20, "{told}: {kib} KiB at its stack: {}", process["sites"]);
                found += 1;
            }
            None if is_increasing => false_alarms.push(format!("{told}: {}", process["memory"])),
            None if kind.mode == "idle" || kind.mode == "jitter" => {}
            None => println!("{told}"),
        }
    }
    assert_eq!((seen, found), (200, 3));
    assert!(false_alarms.is_empty(), "{false_alarms:#?}");
}
